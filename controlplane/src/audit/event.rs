//! Audit events and their spelling in JSON. Names are stable; addresses only where the table in
//! `docs/PROTOCOL.md` allows them; never keys, payload or secrets.

use crate::store::Unreadable;
use jvpn_abi::{BootTime, Endpoint, Reason};
use jvpn_session::messages::SessionId;
use jvpn_session::{State, StateVersion};
use serde_json::{Map, Value, json};

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// When.
    pub at: BootTime,
    /// The session it belongs to, and its state_version; `None` for the node's own.
    pub session: Option<(SessionId, StateVersion)>,
    /// Why.
    pub reason: Option<Reason>,
    /// What.
    pub kind: AuditKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditKind {
    /// The control plane started. Sessions that it goes on with have their next version.
    NodeStarted,
    /// A session was born.
    SessionCreated {
        /// Name of the peer.
        peer: String,
        /// Policy preset.
        policy: String,
    },
    /// A transition.
    StateChange {
        /// State before; `None` at birth.
        previous: Option<State>,
        /// State after.
        new: State,
    },
    /// A switch was confirmed.
    TransportSwitch {
        /// Path before.
        previous: Option<Endpoint>,
        /// Path after.
        new: Endpoint,
        /// From the accepted request to the first frame.
        switch_latency_ms: u64,
        /// Epoch of the new binding.
        epoch: u64,
    },
    /// A recovery ended in a confirmed binding.
    RecoveryComplete {
        /// As the client reported it: from the last frame heard to the decision to leave.
        detect_ms: u64,
        /// From the first accepted request of the burst to the first frame.
        reattach_ms: u64,
        /// From the last frame heard on the old binding to the first on the new one.
        outage_ms: u64,
        /// Accepted requests in the burst.
        attempts: u32,
    },
    /// A reattach was refused.
    ReattachReject {
        /// Where the request came from.
        remote: Endpoint,
        /// When to ask again; 0 = no statement.
        retry_after_ms: u32,
    },
    /// Something that should not happen to honest peers.
    Security {
        /// Which kind.
        violation: Violation,
    },
    /// A limit refused something.
    RateLimit {
        /// Whose limit.
        scope: LimitScope,
    },
    /// Policy refused something.
    Policy {
        /// Field of the policy.
        name: &'static str,
        /// Its value.
        threshold: u64,
        /// What was asked for.
        observed: u64,
    },
    /// A session ended.
    Termination {
        /// From birth to end.
        total_lifetime_ms: u64,
        /// Confirmed switches.
        total_switches: u64,
        /// What the operator said who ended it; see [`note`].
        note: Option<Box<str>>,
    },
    /// This node became the owner of a session that it found in the store.
    OwnerAcquired {
        /// The first term of its ownership.
        term: u32,
    },
    /// Another node owns the session now.
    OwnerTransferred {
        /// The last term of this node's ownership.
        term: u32,
    },
    /// Records of the session store that this process cannot read, found at its start.
    StoreRecords {
        /// Why they cannot be read.
        problem: Unreadable,
        /// What is done with them.
        decision: Decision,
        /// Whose they are, at most [`STORE_RECORDS_MAX`]; more have lines of their own.
        sessions: Vec<SessionId>,
    },
    /// The sink lost lines.
    TelemetryDegraded {
        /// How many.
        dropped: u64,
    },
}

/// Sessions that one STORE_RECORDS names.
pub const STORE_RECORDS_MAX: usize = 64;

/// What becomes of a record that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decision {
    /// It stays as it is.
    Kept,
    /// It is removed from the store.
    Removed,
}

impl Decision {
    const fn name(self) -> &'static str {
        match self {
            Self::Kept => "KEPT",
            Self::Removed => "REMOVED",
        }
    }
}

const fn problem_name(problem: Unreadable) -> &'static str {
    match problem {
        Unreadable::NewerLayout => "NEWER_LAYOUT",
        Unreadable::OtherKey => "OTHER_NODE_KEY",
        Unreadable::Damaged => "DAMAGED",
    }
}

/// Kinds of SECURITY_EVENT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// A nonce, timestamp, handle or counter came again.
    ReplayDetected,
    /// A datagram did not authenticate.
    AuthFail,
    /// A datagram of a proven peer does not parse.
    Malformed,
    /// A peer-caused event that does not apply, or a request for another version.
    ProtocolViolation,
    /// Genuine DATA from another endpoint than the bound one.
    PathMismatch,
    /// Genuine DATA of the binding before, while there is a newer one: it was held back on its way and went nowhere.
    DualActiveAttempt,
    /// A static key that is not on the allow-list.
    UnknownPeer,
    /// A record of JOURNAL, or all of it, could not be read: sessions are loaded from the store.
    JournalDamaged,
}

/// Characters of an operator's own words that are kept.
pub const NOTE_MAX: usize = 256;

/// An operator's words as they may stand in a log: a bounded length, and nothing that a terminal would obey or that ends a
/// line. `None` if nothing is left.
#[must_use]
pub fn note(words: &str) -> Option<Box<str>> {
    let kept: String = words.trim().chars().filter(|c| !c.is_control()).take(NOTE_MAX).collect();
    (!kept.is_empty()).then(|| kept.into_boxed_str())
}

impl Violation {
    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReplayDetected => "REPLAY_DETECTED",
            Self::AuthFail => "AUTH_FAIL",
            Self::Malformed => "MALFORMED",
            Self::ProtocolViolation => "PROTOCOL_VIOLATION",
            Self::PathMismatch => "PATH_MISMATCH",
            Self::DualActiveAttempt => "DUAL_ACTIVE_ATTEMPT",
            Self::UnknownPeer => "UNKNOWN_PEER",
            Self::JournalDamaged => "JOURNAL_DAMAGED",
        }
    }
}

/// Whose limit a RATE_LIMIT_EVENT is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LimitScope {
    /// One session's.
    Session,
    /// The node's.
    Global,
    /// Those of the XDP program: nobody else saw what they refused.
    Edge,
}

impl LimitScope {
    const fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Global => "global",
            Self::Edge => "edge",
        }
    }
}

impl AuditKind {
    /// The stable name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NodeStarted => "NODE_STARTED",
            Self::SessionCreated { .. } => "SESSION_CREATED",
            Self::StateChange { .. } => "STATE_CHANGE",
            Self::TransportSwitch { .. } => "TRANSPORT_SWITCH",
            Self::RecoveryComplete { .. } => "RECOVERY_COMPLETE",
            Self::ReattachReject { .. } => "REATTACH_REJECT",
            Self::Security { .. } => "SECURITY_EVENT",
            Self::RateLimit { .. } => "RATE_LIMIT_EVENT",
            Self::Policy { .. } => "POLICY_EVENT",
            Self::Termination { .. } => "TERMINATION_EVENT",
            Self::StoreRecords { .. } => "STORE_RECORDS",
            Self::OwnerAcquired { .. } => "SESSION_OWNER_ACQUIRED",
            Self::OwnerTransferred { .. } => "SESSION_OWNER_TRANSFERRED",
            Self::TelemetryDegraded { .. } => "TELEMETRY_DEGRADED",
        }
    }

    /// The fields beyond the common ones, as `node` tells them.
    fn fields(&self, node: &str) -> Value {
        match self {
            Self::NodeStarted => json!({}),
            Self::SessionCreated { peer, policy } => json!({ "peer": peer, "policy": policy }),
            Self::StateChange { previous, new } => {
                json!({ "previous_state": previous.map(State::name), "new_state": new.name() })
            }
            Self::TransportSwitch { previous, new, switch_latency_ms, epoch } => json!({
                "previous_transport": previous.map(transport_name),
                "new_transport": transport_name(*new),
                "switch_latency_ms": switch_latency_ms,
                "epoch": epoch,
            }),
            Self::RecoveryComplete { detect_ms, reattach_ms, outage_ms, attempts } => json!({
                "detect_ms": detect_ms,
                "reattach_ms": reattach_ms,
                "outage_ms": outage_ms,
                "attempts": attempts,
            }),
            Self::ReattachReject { remote, retry_after_ms } => {
                json!({ "remote": remote.to_string(), "retry_after_ms": retry_after_ms })
            }
            Self::Security { violation } => json!({ "violation_type": violation.name() }),
            Self::RateLimit { scope } => json!({ "scope": scope.name() }),
            Self::Policy { name, threshold, observed } => {
                json!({ "policy_name": name, "threshold_value": threshold, "observed_value": observed })
            }
            Self::Termination { total_lifetime_ms, total_switches, note } => {
                let mut fields =
                    json!({ "total_lifetime_ms": total_lifetime_ms, "total_switches": total_switches });
                if let (Some(note), Some(fields)) = (note, fields.as_object_mut()) {
                    fields.insert("note".into(), json!(note));
                }
                fields
            }
            Self::StoreRecords { problem, decision, sessions } => json!({
                "problem": problem_name(*problem),
                "decision": decision.name(),
                "sessions": sessions.iter().map(ToString::to_string).collect::<Vec<_>>(),
            }),
            // A store names no node: from whom it was got, or who has it now, is not known here.
            Self::OwnerAcquired { term } => json!({ "term": term, "from": null, "to": node }),
            Self::OwnerTransferred { term } => json!({ "term": term, "from": node, "to": null }),
            Self::TelemetryDegraded { dropped } => json!({ "dropped": dropped }),
        }
    }
}

fn transport_name(remote: Endpoint) -> String {
    format!("udp:{remote}")
}

/// An event with the number of equal ones that were not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The event.
    pub event: AuditEvent,
    /// Equal ones since the last that was written; `None` for kinds that are never summarised.
    pub suppressed: Option<u64>,
}

impl From<AuditEvent> for Line {
    fn from(event: AuditEvent) -> Self {
        Self { event, suppressed: None }
    }
}

/// Turns events into lines.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// Name of this node in every line.
    pub node_id: String,
    /// Unix time less `CLOCK_BOOTTIME`, ms, as read at start.
    pub unix_offset_ms: i64,
}

impl Encoder {
    /// One JSON object without a newline.
    #[must_use]
    pub fn encode(&self, line: &Line) -> String {
        let event = &line.event;
        let at_ms = i64::try_from(event.at.as_millis()).unwrap_or(i64::MAX);
        let mut object = Map::new();
        object.insert("ts_ms".into(), json!(at_ms.saturating_add(self.unix_offset_ms)));
        object.insert("event_type".into(), json!(event.kind.name()));
        object.insert("session_id".into(), json!(event.session.map(|(id, _)| id.to_string())));
        object.insert("node_id".into(), json!(self.node_id));
        object.insert("state_version".into(), json!(event.session.map(|(_, version)| version.0)));
        object.insert("reason_code".into(), json!(event.reason.map(Reason::name)));
        if let Value::Object(fields) = event.kind.fields(&self.node_id) {
            object.extend(fields);
        }
        if let Some(suppressed) = line.suppressed {
            object.insert("suppressed".into(), json!(suppressed));
        }
        Value::Object(object).to_string()
    }
}
