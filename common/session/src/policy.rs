//! Policy: numbers only. Every value is checked when it is loaded; a bad policy never starts.
//!
//! Durations are text with a unit (`"30s"`, `"15min"`, `"24h"`, `"200ms"`). A preset changes numbers, never
//! rules.

use crate::messages::ClientPolicy;
use jvpn_crypto::limits;
use serde::Deserialize;
use std::time::Duration;

/// A birth that takes longer is over.
pub const BIRTH_TIMEOUT: Duration = Duration::from_secs(5);
/// A client that asks for nothing for this long, beyond any wait that it was told, has ended its burst of attempts.
pub const BURST_PAUSE: Duration = Duration::from_secs(5);
/// Packets of the replay window: fixed by the layout of CONTEXT.
pub const REPLAY_WINDOW_PACKETS: u32 = (jvpn_abi::tables::WINDOW_WORDS * 64) as u32;

/// Largest soft and hard limits of packets under one key.
const SOFT_PACKETS: u32 = limits::REKEY_SOFT_PACKETS as u32;
const HARD_PACKETS: u32 = limits::HARD_PACKETS as u32;
const _: () = assert!(limits::REKEY_SOFT_PACKETS < limits::HARD_PACKETS && limits::HARD_PACKETS < 1 << 32);

const fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}
const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The numbers that a session lives by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Longest life of a session.
    pub session_ttl: Duration,
    /// Longest time without a confirmed binding.
    pub transport_loss_ttl: Duration,
    /// Longest burst of attempts that leads to no confirmed binding.
    pub recovery_window: Duration,
    /// Client's probe interval while traffic flows (it takes the larger of this and 2 RTT).
    pub probe_traffic: Duration,
    /// Client's probe interval when idle.
    pub probe_idle: Duration,
    /// Shortest probe interval of a client that suspects its path.
    pub suspicion: Duration,
    /// Probes that a client misses until its path is dead.
    pub dead_after_missed: u32,
    /// Announced intervals of silence until the gateway takes a path for dead.
    pub dead_after_intervals: u32,
    /// The gateway never takes a path for dead sooner than this.
    pub dead_after_min: Duration,
    /// Budget: confirmed switches in any 60 s.
    pub max_switches_per_min: u32,
    /// After a switch, voluntary ones are refused for this long.
    pub cooldown_after_switch: Duration,
    /// Loss in percent above which quality is bad.
    pub volatile_loss_percent: u32,
    /// Round-trip time above which quality is bad.
    pub volatile_rtt: Duration,
    /// Jitter above which quality is bad.
    pub volatile_jitter: Duration,
    /// Span that quality is measured over.
    pub quality_span: Duration,
    /// How long quality must be good before it counts as good.
    pub stability_window: Duration,
    /// Longest VOLATILE.
    pub volatile_max: Duration,
    /// Longest DEGRADED with bad quality.
    pub degraded_max: Duration,
    /// Proven-looking reattach requests per second of one session.
    pub reattach_per_second: u32,
    /// Burst of them.
    pub reattach_burst: u32,
    /// Reattach requests per second of the whole node: protects the Diffie-Hellman.
    pub reattach_global_per_second: u32,
    /// Packets of the data replay window.
    pub replay_window_packets: u32,
    /// Keys are renewed after this long.
    pub rekey_soft: Duration,
    /// Keys are erased after this long.
    pub rekey_hard: Duration,
    /// Keys are renewed after this many packets in one direction.
    pub rekey_soft_packets: u32,
    /// Keys are erased after this many packets in one direction (fewer where the suite allows fewer).
    pub rekey_hard_packets: u32,
    /// Paths that a client keeps validated.
    pub candidates_max: u32,
    /// Live sessions of this node, those in BIRTH included; a birth that replaces a session of its peer comes on top. The
    /// data plane should have twice as many slots.
    pub max_sessions: u32,
}

/// A value that policy does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// No such preset.
    #[error("policy.preset = \"{0}\" is not known; use one of mobile, fintech, edge, satellite")]
    UnknownPreset(String),
    /// Not a duration.
    #[error(
        "policy.{field} = \"{value}\" is not a duration; write a number and a unit, as \"30s\" or \"15min\""
    )]
    NotADuration {
        /// Field.
        field: &'static str,
        /// What was given.
        value: String,
    },
    /// Outside the bounds of the field.
    #[error("policy.{field} = {value} is out of bounds; it must be {bounds}")]
    OutOfBounds {
        /// Field.
        field: &'static str,
        /// What was given.
        value: String,
        /// What is allowed, in words.
        bounds: String,
    },
    /// Not TOML of the right shape.
    #[error("policy: {0}")]
    Syntax(String),
}

/// The `[policy]` table as it stands in a file: a preset and what differs from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of Policy")]
pub struct PolicyFile {
    pub preset: Option<String>,
    pub session_ttl: Option<String>,
    pub transport_loss_ttl: Option<String>,
    pub recovery_window: Option<String>,
    pub probe_traffic: Option<String>,
    pub probe_idle: Option<String>,
    pub suspicion: Option<String>,
    pub dead_after_missed: Option<u32>,
    pub dead_after_intervals: Option<u32>,
    pub dead_after_min: Option<String>,
    pub max_switches_per_min: Option<u32>,
    pub cooldown_after_switch: Option<String>,
    pub volatile_loss_percent: Option<u32>,
    pub volatile_rtt: Option<String>,
    pub volatile_jitter: Option<String>,
    pub quality_span: Option<String>,
    pub stability_window: Option<String>,
    pub volatile_max: Option<String>,
    pub degraded_max: Option<String>,
    pub reattach_per_second: Option<u32>,
    pub reattach_burst: Option<u32>,
    pub reattach_global_per_second: Option<u32>,
    pub replay_window_packets: Option<u32>,
    pub rekey_soft: Option<String>,
    pub rekey_hard: Option<String>,
    pub rekey_soft_packets: Option<u32>,
    pub rekey_hard_packets: Option<u32>,
    pub candidates_max: Option<u32>,
    pub max_sessions: Option<u32>,
}

/// The preset that is taken when none is named.
pub const DEFAULT_PRESET: &str = "edge";

impl Default for Policy {
    fn default() -> Self {
        Self {
            session_ttl: seconds(DAY),
            transport_loss_ttl: seconds(15 * MINUTE),
            recovery_window: seconds(30),
            probe_traffic: millis(200),
            probe_idle: seconds(25),
            suspicion: millis(25),
            dead_after_missed: 3,
            dead_after_intervals: 3,
            dead_after_min: seconds(3),
            max_switches_per_min: 8,
            cooldown_after_switch: seconds(2),
            volatile_loss_percent: 5,
            volatile_rtt: millis(400),
            volatile_jitter: millis(100),
            quality_span: seconds(2),
            stability_window: seconds(3),
            volatile_max: seconds(30),
            degraded_max: seconds(10 * MINUTE),
            reattach_per_second: 5,
            reattach_burst: 5,
            reattach_global_per_second: 5_000,
            replay_window_packets: REPLAY_WINDOW_PACKETS,
            rekey_soft: seconds(120),
            rekey_hard: seconds(180),
            rekey_soft_packets: SOFT_PACKETS,
            rekey_hard_packets: HARD_PACKETS,
            candidates_max: 4,
            max_sessions: 65_536,
        }
    }
}

impl Policy {
    /// A preset by name.
    ///
    /// # Errors
    /// [`PolicyError::UnknownPreset`].
    pub fn preset(name: &str) -> Result<Self, PolicyError> {
        let base = Self::default();
        Ok(match name {
            "edge" => base,
            // Radio links pause and roam: longer patience, more switches, less probing on battery.
            "mobile" => Self {
                transport_loss_ttl: seconds(HOUR),
                recovery_window: seconds(60),
                max_switches_per_min: 12,
                cooldown_after_switch: seconds(3),
                volatile_rtt: millis(800),
                volatile_jitter: millis(250),
                stability_window: seconds(5),
                ..base
            },
            // Fast detection, short lives, few switches.
            "fintech" => Self {
                session_ttl: seconds(8 * HOUR),
                transport_loss_ttl: seconds(2 * MINUTE),
                recovery_window: seconds(10),
                probe_traffic: millis(50),
                probe_idle: seconds(5),
                suspicion: millis(10),
                max_switches_per_min: 6,
                volatile_loss_percent: 1,
                volatile_rtt: millis(100),
                volatile_jitter: millis(20),
                volatile_max: seconds(10),
                degraded_max: seconds(2 * MINUTE),
                ..base
            },
            // Long round trips: everything that is measured in them is stretched.
            "satellite" => Self {
                transport_loss_ttl: seconds(30 * MINUTE),
                recovery_window: seconds(120),
                probe_traffic: seconds(2),
                suspicion: millis(300),
                dead_after_min: seconds(6),
                max_switches_per_min: 4,
                cooldown_after_switch: seconds(5),
                volatile_rtt: millis(1_500),
                volatile_jitter: millis(400),
                quality_span: seconds(10),
                stability_window: seconds(15),
                volatile_max: seconds(120),
                ..base
            },
            other => return Err(PolicyError::UnknownPreset(other.to_owned())),
        })
    }

    /// Reads a `[policy]` table given as TOML text.
    ///
    /// # Errors
    /// [`PolicyError`] naming the field, its value and what is allowed.
    pub fn from_toml(text: &str) -> Result<Self, PolicyError> {
        let file = toml::from_str(text).map_err(|error| PolicyError::Syntax(error.to_string()))?;
        Self::from_file(&file)
    }

    /// A preset with what the file changes, checked.
    ///
    /// # Errors
    /// [`PolicyError`] naming the field, its value and what is allowed.
    pub fn from_file(file: &PolicyFile) -> Result<Self, PolicyError> {
        let mut policy = Self::preset(file.preset.as_deref().unwrap_or(DEFAULT_PRESET))?;
        policy.override_durations(file)?;
        policy.override_numbers(file);
        policy.check()?;
        Ok(policy)
    }

    fn override_durations(&mut self, file: &PolicyFile) -> Result<(), PolicyError> {
        let fields = [
            ("session_ttl", &mut self.session_ttl, &file.session_ttl),
            ("transport_loss_ttl", &mut self.transport_loss_ttl, &file.transport_loss_ttl),
            ("recovery_window", &mut self.recovery_window, &file.recovery_window),
            ("probe_traffic", &mut self.probe_traffic, &file.probe_traffic),
            ("probe_idle", &mut self.probe_idle, &file.probe_idle),
            ("suspicion", &mut self.suspicion, &file.suspicion),
            ("dead_after_min", &mut self.dead_after_min, &file.dead_after_min),
            ("cooldown_after_switch", &mut self.cooldown_after_switch, &file.cooldown_after_switch),
            ("volatile_rtt", &mut self.volatile_rtt, &file.volatile_rtt),
            ("volatile_jitter", &mut self.volatile_jitter, &file.volatile_jitter),
            ("quality_span", &mut self.quality_span, &file.quality_span),
            ("stability_window", &mut self.stability_window, &file.stability_window),
            ("volatile_max", &mut self.volatile_max, &file.volatile_max),
            ("degraded_max", &mut self.degraded_max, &file.degraded_max),
            ("rekey_soft", &mut self.rekey_soft, &file.rekey_soft),
            ("rekey_hard", &mut self.rekey_hard, &file.rekey_hard),
        ];
        for (field, target, given) in fields {
            let Some(value) = given else { continue };
            *target = humantime::parse_duration(value)
                .map_err(|_| PolicyError::NotADuration { field, value: value.clone() })?;
        }
        Ok(())
    }

    fn override_numbers(&mut self, file: &PolicyFile) {
        let fields = [
            (&mut self.dead_after_missed, file.dead_after_missed),
            (&mut self.dead_after_intervals, file.dead_after_intervals),
            (&mut self.max_switches_per_min, file.max_switches_per_min),
            (&mut self.volatile_loss_percent, file.volatile_loss_percent),
            (&mut self.reattach_per_second, file.reattach_per_second),
            (&mut self.reattach_burst, file.reattach_burst),
            (&mut self.reattach_global_per_second, file.reattach_global_per_second),
            (&mut self.replay_window_packets, file.replay_window_packets),
            (&mut self.rekey_soft_packets, file.rekey_soft_packets),
            (&mut self.rekey_hard_packets, file.rekey_hard_packets),
            (&mut self.candidates_max, file.candidates_max),
            (&mut self.max_sessions, file.max_sessions),
        ];
        for (target, given) in fields {
            *target = given.unwrap_or(*target);
        }
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// [`PolicyError::OutOfBounds`] for the first field that breaks one.
    pub fn check(&self) -> Result<(), PolicyError> {
        self.check_durations()?;
        self.check_numbers()?;
        let order = |field, value: Duration, least: Duration, other: &str| {
            if value >= least {
                return Ok(());
            }
            let bounds = format!("at least {other}, which is {}", humantime::format_duration(least));
            Err(PolicyError::OutOfBounds {
                field,
                value: humantime::format_duration(value).to_string(),
                bounds,
            })
        };
        order("transport_loss_ttl", self.transport_loss_ttl, self.recovery_window, "recovery_window")?;
        order("probe_idle", self.probe_idle, self.probe_traffic, "probe_traffic")?;
        order("probe_traffic", self.probe_traffic, self.suspicion, "suspicion")?;
        order("rekey_hard", self.rekey_hard, self.rekey_soft + seconds(10), "10s more than rekey_soft")?;
        let least = self.rekey_soft_packets.saturating_mul(2);
        if self.rekey_hard_packets < least {
            return Err(PolicyError::OutOfBounds {
                field: "rekey_hard_packets",
                value: self.rekey_hard_packets.to_string(),
                bounds: format!("at least twice rekey_soft_packets, which is {least}"),
            });
        }
        Ok(())
    }

    fn check_durations(&self) -> Result<(), PolicyError> {
        let bounds = [
            ("session_ttl", self.session_ttl, seconds(MINUTE), seconds(30 * DAY)),
            ("transport_loss_ttl", self.transport_loss_ttl, seconds(1), seconds(30 * DAY)),
            ("recovery_window", self.recovery_window, seconds(1), seconds(300)),
            ("probe_traffic", self.probe_traffic, millis(10), seconds(60)),
            ("probe_idle", self.probe_idle, millis(10), seconds(300)),
            ("suspicion", self.suspicion, millis(5), seconds(10)),
            ("dead_after_min", self.dead_after_min, seconds(3), seconds(300)),
            ("cooldown_after_switch", self.cooldown_after_switch, seconds(1), seconds(60)),
            ("volatile_rtt", self.volatile_rtt, millis(1), seconds(60)),
            ("volatile_jitter", self.volatile_jitter, millis(1), seconds(60)),
            ("quality_span", self.quality_span, millis(100), seconds(60)),
            ("stability_window", self.stability_window, millis(100), seconds(300)),
            ("volatile_max", self.volatile_max, seconds(1), seconds(HOUR)),
            ("degraded_max", self.degraded_max, seconds(1), seconds(DAY)),
            // Two keys overlap for a second: a key lives longer than that.
            ("rekey_soft", self.rekey_soft, seconds(2), limits::REKEY_SOFT_TIME),
            ("rekey_hard", self.rekey_hard, seconds(12), limits::HARD_TIME),
        ];
        for (field, value, least, most) in bounds {
            if value < least || value > most {
                let text = |d| humantime::format_duration(d).to_string();
                let bounds = format!("between {} and {}", text(least), text(most));
                return Err(PolicyError::OutOfBounds { field, value: text(value), bounds });
            }
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), PolicyError> {
        let bounds = [
            ("dead_after_missed", self.dead_after_missed, 1, 10),
            ("dead_after_intervals", self.dead_after_intervals, 1, 10),
            ("max_switches_per_min", self.max_switches_per_min, 1, 60),
            ("volatile_loss_percent", self.volatile_loss_percent, 1, 100),
            ("reattach_per_second", self.reattach_per_second, 1, 1_000),
            ("reattach_burst", self.reattach_burst, 1, 1_000),
            ("reattach_global_per_second", self.reattach_global_per_second, 1, 1_000_000),
            // A power of two, and the tables hold exactly this one (8,192).
            (
                "replay_window_packets",
                self.replay_window_packets,
                REPLAY_WINDOW_PACKETS,
                REPLAY_WINDOW_PACKETS,
            ),
            ("rekey_soft_packets", self.rekey_soft_packets, 1_000, SOFT_PACKETS),
            ("rekey_hard_packets", self.rekey_hard_packets, 4_000, HARD_PACKETS),
            ("candidates_max", self.candidates_max, 1, 16),
            ("max_sessions", self.max_sessions, 1, 65_536),
        ];
        for (field, value, least, most) in bounds {
            if value < least || value > most {
                let bounds = if least == most {
                    format!("{least} in this version")
                } else {
                    format!("between {least} and {most}")
                };
                return Err(PolicyError::OutOfBounds { field, value: value.to_string(), bounds });
            }
        }
        Ok(())
    }

    /// The part that a client lives by.
    #[must_use]
    pub fn client_policy(&self) -> ClientPolicy {
        // The bounds checked above keep every value below 2^32 ms (49 days).
        let ms = |d: Duration| u32::try_from(d.as_millis()).unwrap_or(u32::MAX);
        ClientPolicy {
            probe_traffic_ms: ms(self.probe_traffic),
            probe_idle_ms: ms(self.probe_idle),
            suspicion_ms: ms(self.suspicion),
            dead_after_missed: u8::try_from(self.dead_after_missed).unwrap_or(u8::MAX),
            cooldown_ms: ms(self.cooldown_after_switch),
            recovery_window_ms: ms(self.recovery_window),
            transport_loss_ttl_ms: ms(self.transport_loss_ttl),
            candidates_max: u8::try_from(self.candidates_max).unwrap_or(u8::MAX),
            rekey_soft_ms: ms(self.rekey_soft),
            rekey_hard_ms: ms(self.rekey_hard),
            rekey_soft_packets: self.rekey_soft_packets,
            rekey_hard_packets: self.rekey_hard_packets,
            volatile_loss_percent: u8::try_from(self.volatile_loss_percent).unwrap_or(u8::MAX),
            volatile_rtt_ms: ms(self.volatile_rtt),
            volatile_jitter_ms: ms(self.volatile_jitter),
            quality_span_ms: ms(self.quality_span),
            stability_window_ms: ms(self.stability_window),
        }
    }

    /// Silence after which the gateway takes a path for dead, by the interval that the peer announced.
    ///
    /// A peer cannot announce more patience than policy's idle interval.
    #[must_use]
    pub fn dead_after(&self, announced: Option<Duration>) -> Duration {
        let interval = announced.map_or(self.probe_idle, |interval| interval.min(self.probe_idle));
        (interval * self.dead_after_intervals).max(self.dead_after_min)
    }
}
