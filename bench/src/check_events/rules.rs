//! The rules themselves, written down from `docs/PROTOCOL.md` and `docs/OPERATING.md`. Tests compare them with
//! production's, so that nobody changes one side alone (`bench/tests/check_events/main.rs`).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use super::record::State;
use State::{Attached, Birth, Degraded, Recovering, Terminated, Volatile};

/// From these states to that one, for that reason.
type Row = (&'static [State], State, &'static str);

const BOUND: &[State] = &[Attached, Volatile, Degraded];
const BORN: &[State] = &[Attached, Volatile, Degraded, Recovering];
const LIVE: &[State] = &[Birth, Attached, Volatile, Degraded, Recovering];

/// Transitions between states. A birth has no state before it: (none) to BIRTH, HANDSHAKE_START.
const ROWS: &[Row] = &[
    (&[Birth], Attached, "HANDSHAKE_OK"),
    (&[Birth], Terminated, "HANDSHAKE_FAIL"),
    (&[Attached], Volatile, "VOLATILITY_SIGNAL"),
    (&[Volatile], Attached, "HEALTH_RECOVERED"),
    (&[Volatile], Degraded, "QUALITY_FLOOR_VIOLATION"),
    (&[Degraded], Attached, "EXIT_DEGRADED_MODE"),
    (&[Degraded], Terminated, "POLICY_TERMINATION"),
    (BOUND, Recovering, "TRANSPORT_DEAD"),
    (BOUND, Recovering, "RECOVERY_START"),
    (BOUND, Recovering, "KEY_EXHAUSTED"),
    (BOUND, Recovering, "DATA_PLANE_LOST"),
    (&[Recovering], Recovering, "RECOVERY_RETRY"),
    (&[Recovering], Recovering, "INSTALL_FAILED"),
    (&[Recovering], Recovering, "BIND_UNCONFIRMED"),
    (&[Recovering], Attached, "TRANSPORT_SWITCH_OK"),
    (&[Recovering], Degraded, "POLICY_FLAP_LIMIT"),
    (&[Recovering], Terminated, "RECOVERY_BOUNDS_EXCEEDED"),
    (&[Recovering], Terminated, "TTL_TRANSPORT_LOSS_EXPIRED"),
    (BORN, Recovering, "OWNER_RESTART"),
    (BORN, Recovering, "OWNER_TAKEOVER"),
    (LIVE, Terminated, "TTL_SESSION_EXPIRED"),
    (LIVE, Terminated, "OWNERSHIP_CONFLICT"),
    (LIVE, Terminated, "PEER_TERMINATE"),
    (LIVE, Terminated, "ADMIN_TERMINATE"),
    (LIVE, Terminated, "KEY_REVOKED"),
    (LIVE, Terminated, "SUPERSEDED"),
    (LIVE, Terminated, "SECURITY_VIOLATION"),
];

/// The reason of transitions that keep the state, whichever bound one it is.
const REKEY: &str = "REKEY_OK";

/// A birth that takes longer is over.
pub const BIRTH_MAX: Duration = Duration::from_secs(5);
/// A pause of this length ends a burst of attempts.
pub const BURST_PAUSE: Duration = Duration::from_secs(5);
/// The span of the switch budget.
pub const BUDGET_SPAN: Duration = Duration::from_secs(60);

/// Reasons by which an attempt to recover begins.
pub(super) const ATTEMPTS: [&str; 2] = ["RECOVERY_START", "RECOVERY_RETRY"];
/// Reasons of a confirmed switch.
pub(super) const SWITCHES: [&str; 2] = ["TRANSPORT_SWITCH_OK", "POLICY_FLAP_LIMIT"];
/// Reasons that begin a term.
pub(super) const NEW_TERM: [&str; 2] = ["OWNER_RESTART", "OWNER_TAKEOVER"];

/// Whether a line without a state before it is that of a stored session: loaded, or ended because it may not go on.
pub(super) fn is_load(to: State, reason: &str) -> bool {
    match to {
        Recovering => reason == "OWNER_RESTART",
        Terminated => ENDS_UNLOADED.contains(&reason),
        Birth | Attached | Volatile | Degraded => false,
    }
}

/// Why a stored session is not loaded.
const ENDS_UNLOADED: [&str; 5] =
    ["KEY_REVOKED", "ADMIN_TERMINATE", "TTL_SESSION_EXPIRED", "SUPERSEDED", "OWNER_RESTART"];

/// Every (from, to, reason) that a STATE_CHANGE may have; `None` is before birth.
#[must_use]
pub fn transitions() -> Vec<(Option<State>, State, &'static str)> {
    let rekeys = BOUND.iter().map(|state| (Some(*state), *state, REKEY));
    let rows = ROWS.iter().flat_map(|(from, to, why)| from.iter().map(move |from| (Some(*from), *to, *why)));
    std::iter::once((None, Birth, "HANDSHAKE_START")).chain(rows).chain(rekeys).collect()
}

/// Whether this is a transition.
pub(super) fn allows(from: Option<State>, to: State, reason: &str) -> bool {
    let Some(from) = from else { return to == Birth && reason == "HANDSHAKE_START" };
    if reason == REKEY {
        return from == to && BOUND.contains(&from);
    }
    ROWS.iter().any(|row| row.2 == reason && row.1 == to && row.0.contains(&from))
}

/// Where a reason leads from a state, in words.
pub(super) fn ways(from: Option<State>, reason: &str) -> String {
    let ways: Vec<_> = transitions().into_iter().filter(|(f, _, r)| *f == from && *r == reason).collect();
    let name = from.map_or("nothing", State::name);
    match ways.as_slice() {
        [] => format!("a reason that leads anywhere from {name}"),
        [(_, to, _), ..] => format!("{name} to {}", to.name()),
    }
}

/// The numbers of a policy by which a log is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Confirmed switches in any minute.
    pub max_switches_per_min: u32,
    /// Longest burst of attempts without a confirmed binding.
    pub recovery_window: Duration,
    /// Longest time without a confirmed binding.
    pub transport_loss_ttl: Duration,
}

const fn limits(max_switches_per_min: u32, recovery_window_s: u64, transport_loss_ttl_s: u64) -> Limits {
    Limits {
        max_switches_per_min,
        recovery_window: Duration::from_secs(recovery_window_s),
        transport_loss_ttl: Duration::from_secs(transport_loss_ttl_s),
    }
}

/// The presets, as `docs/OPERATING.md` has them.
pub const PRESETS: [(&str, Limits); 4] = [
    ("edge", limits(8, 30, 15 * 60)),
    ("mobile", limits(12, 60, 60 * 60)),
    ("fintech", limits(6, 10, 2 * 60)),
    ("satellite", limits(4, 120, 30 * 60)),
];

/// What is known of the policy beside the preset's name in SESSION_CREATED.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyNumbers {
    /// Stands above the name in the log.
    pub preset: Option<String>,
    /// Differs from the preset.
    pub max_switches_per_min: Option<u32>,
    /// Differs from the preset.
    pub recovery_window: Option<Duration>,
    /// Differs from the preset.
    pub transport_loss_ttl: Option<Duration>,
}

impl PolicyNumbers {
    /// Reads `[policy]` of a configuration file, or a file that is its content.
    ///
    /// # Errors
    /// The file cannot be read, or one of its values is of the wrong kind.
    pub fn load(path: &Path) -> Result<Self> {
        let what = || format!("policy {}", path.display());
        let text = std::fs::read_to_string(path).with_context(what)?;
        Self::parse(&text).with_context(what)
    }

    /// The same from text.
    ///
    /// # Errors
    /// One of its values is of the wrong kind.
    pub fn parse(text: &str) -> Result<Self> {
        let table: toml::Table = toml::from_str(text)?;
        let table = table.get("policy").and_then(toml::Value::as_table).unwrap_or(&table);
        let numbers = Self::of(table)?;
        if let Some(name) = &numbers.preset {
            numbers.limits(name)?;
        }
        Ok(numbers)
    }

    fn of(table: &toml::Table) -> Result<Self> {
        let duration = |field: &str| -> Result<Option<Duration>> {
            let Some(value) = table.get(field) else { return Ok(None) };
            let text = value.as_str().with_context(|| format!("{field} is no text, as \"30s\""))?;
            humantime::parse_duration(text).map(Some).with_context(|| format!("{field} = \"{text}\""))
        };
        let preset = table.get("preset").map(|value| value.as_str().context("preset is no text"));
        let most = table.get("max_switches_per_min").map(|value| {
            let number = value.as_integer().and_then(|number| u32::try_from(number).ok());
            number.context("max_switches_per_min is no number")
        });
        Ok(Self {
            preset: preset.transpose()?.map(str::to_owned),
            max_switches_per_min: most.transpose()?,
            recovery_window: duration("recovery_window")?,
            transport_loss_ttl: duration("transport_loss_ttl")?,
        })
    }

    /// What `other` says goes above what this says.
    #[must_use]
    pub fn overridden_by(self, other: Self) -> Self {
        Self {
            preset: other.preset.or(self.preset),
            max_switches_per_min: other.max_switches_per_min.or(self.max_switches_per_min),
            recovery_window: other.recovery_window.or(self.recovery_window),
            transport_loss_ttl: other.transport_loss_ttl.or(self.transport_loss_ttl),
        }
    }

    /// The numbers for a session whose log names this preset.
    ///
    /// # Errors
    /// There is no such preset.
    pub fn limits(&self, logged: &str) -> Result<Limits> {
        let name = self.preset.as_deref().unwrap_or(logged);
        let Some((_, preset)) = PRESETS.into_iter().find(|(preset, _)| *preset == name) else {
            let names = PRESETS.map(|(name, _)| name).join(", ");
            bail!("there is no preset \"{name}\"; there are {names}")
        };
        Ok(Limits {
            max_switches_per_min: self.max_switches_per_min.unwrap_or(preset.max_switches_per_min),
            recovery_window: self.recovery_window.unwrap_or(preset.recovery_window),
            transport_loss_ttl: self.transport_loss_ttl.unwrap_or(preset.transport_loss_ttl),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_file_stands_above_the_name_in_the_log_and_flags_above_both() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("controlplane.toml");
        std::fs::write(&path, "node_id = \"x\"\n[policy]\npreset = \"mobile\"\nrecovery_window = \"20s\"\n")
            .unwrap();
        let flags = PolicyNumbers { max_switches_per_min: Some(3), ..PolicyNumbers::default() };
        let numbers = PolicyNumbers::load(&path).unwrap().overridden_by(flags);
        assert_eq!(numbers.limits("edge").unwrap(), limits(3, 20, 3_600));
        std::fs::write(&path, "preset = \"bank\"").unwrap();
        assert!(format!("{:#}", PolicyNumbers::load(&path).unwrap_err()).contains("bank"));
        std::fs::write(&path, "recovery_window = 3").unwrap();
        assert!(format!("{:#}", PolicyNumbers::load(&path).unwrap_err()).contains("recovery_window"));
    }
}
