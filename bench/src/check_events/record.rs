//! What the rules need of a line.

use std::fmt;

use serde_json::Value;

/// The states of a session, as `docs/PROTOCOL.md` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// The handshake is under way.
    Birth,
    /// Bound, healthy.
    Attached,
    /// Bound, below a threshold of quality.
    Volatile,
    /// Bound, restricted.
    Degraded,
    /// Without a confirmed binding.
    Recovering,
    /// Final.
    Terminated,
}

impl State {
    const ALL: [Self; 6] =
        [Self::Birth, Self::Attached, Self::Volatile, Self::Degraded, Self::Recovering, Self::Terminated];

    /// As the log spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Birth => "BIRTH",
            Self::Attached => "ATTACHED",
            Self::Volatile => "VOLATILE",
            Self::Degraded => "DEGRADED",
            Self::Recovering => "RECOVERING",
            Self::Terminated => "TERMINATED",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// `term << 40 | sequence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u64);

impl Version {
    const SEQUENCE_BITS: u32 = 40;

    pub(super) const fn term(self) -> u64 {
        self.0 >> Self::SEQUENCE_BITS
    }

    pub(super) const fn sequence(self) -> u64 {
        self.0 & ((1 << Self::SEQUENCE_BITS) - 1)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term(), self.sequence())
    }
}

/// The correlation ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SessionKey(u128);

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) at_ms: i64,
    /// Session and version; `None` for the node's own events.
    pub(super) session: Option<(SessionKey, Version)>,
    /// Empty if there is none.
    pub(super) reason: String,
    pub(super) kind: Kind,
}

/// What it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    NodeStarted,
    TelemetryDegraded {
        dropped: u64,
    },
    SessionCreated {
        policy: String,
    },
    StateChange {
        previous: Option<State>,
        new: State,
    },
    TransportSwitch {
        epoch: u64,
    },
    RecoveryComplete,
    Termination {
        lifetime_ms: u64,
        switches: u64,
    },
    /// The node became the session's owner.
    Owner {
        term: u64,
    },
    /// Another did.
    Transferred {
        term: u64,
    },
    /// Written at once or later, as a summary of many.
    Summarised,
    /// Nothing of the rules is about it.
    Other,
}

impl Record {
    /// Reads a line that fits the schema. What does not fit may be unreadable here.
    pub(super) fn read(line: &Value) -> Result<Self, String> {
        let text = |field: &str| line.get(field).and_then(Value::as_str);
        let number = |field: &str| {
            line.get(field).and_then(Value::as_u64).ok_or_else(|| format!("{field} is no number"))
        };
        let at_ms = line.get("ts_ms").and_then(Value::as_i64).ok_or("ts_ms is no number of milliseconds")?;
        let session = text("session_id").map(|id| -> Result<_, String> {
            let is_hex = id.len() == 32 && id.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
            let key = u128::from_str_radix(id, 16).ok().filter(|_| is_hex);
            let key = key.ok_or_else(|| format!("session_id \"{id}\" is not 32 lower-case hex digits"))?;
            Ok((SessionKey(key), Version(number("state_version")?)))
        });
        let state = |field: &str| {
            let name = text(field);
            name.map(|name| State::named(name).ok_or_else(|| format!("{field} \"{name}\" is no state")))
        };
        let kind = match text("event_type").unwrap_or_default() {
            "NODE_STARTED" => Kind::NodeStarted,
            "TELEMETRY_DEGRADED" => Kind::TelemetryDegraded { dropped: number("dropped")? },
            "SESSION_CREATED" => {
                Kind::SessionCreated { policy: text("policy").unwrap_or_default().to_owned() }
            }
            "STATE_CHANGE" => Kind::StateChange {
                previous: state("previous_state").transpose()?,
                new: state("new_state").ok_or("there is no new_state")??,
            },
            "TRANSPORT_SWITCH" => Kind::TransportSwitch { epoch: number("epoch")? },
            "RECOVERY_COMPLETE" => Kind::RecoveryComplete,
            "TERMINATION_EVENT" => Kind::Termination {
                lifetime_ms: number("total_lifetime_ms")?,
                switches: number("total_switches")?,
            },
            "SESSION_OWNER_ACQUIRED" => Kind::Owner { term: number("term")? },
            "SESSION_OWNER_TRANSFERRED" => Kind::Transferred { term: number("term")? },
            "REATTACH_REJECT" | "SECURITY_EVENT" | "RATE_LIMIT_EVENT" | "POLICY_EVENT" => Kind::Summarised,
            _ => Kind::Other,
        };
        let reason = text("reason_code").unwrap_or_default().to_owned();
        Ok(Self { at_ms, session: session.transpose()?, reason, kind })
    }
}
