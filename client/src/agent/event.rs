//! What the agent tells its shell: session life, recoveries, refusals. Values only; who writes them where is not known here.

use crate::paths::{LinkState, UplinkId};
use jvpn_abi::Reason;
use jvpn_session::State;
use jvpn_session::messages::{HandshakeGrant, SessionId, SwitchCause};

/// One event. Never holds a key or payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A new session was granted: addresses, routes and MTU apply from now on.
    SessionStarted {
        /// What the gateway granted.
        grant: Box<HandshakeGrant>,
    },
    /// The state of the session, as the client sees it, changed.
    StateChange {
        /// Which session.
        session: SessionId,
        /// Before; `None` = there was no session.
        from: Option<State>,
        /// Now.
        to: State,
        /// Why.
        reason: Reason,
        /// The uplink that is or was bound.
        uplink: UplinkId,
    },
    /// The bound path was left; a reattach begins.
    RecoveryStarted {
        /// Which session.
        session: SessionId,
        /// Why.
        cause: SwitchCause,
        /// The uplink that is left.
        from: UplinkId,
        /// From the last frame heard to this decision, ms.
        detect_ms: u64,
    },
    /// The session is delivered over a new binding.
    RecoveryComplete {
        /// Which session.
        session: SessionId,
        /// How it went.
        report: RecoveryReport,
    },
    /// Another size of inner packets is the largest that the bound path carries.
    MtuChanged {
        /// Which session.
        session: SessionId,
        /// Octets.
        mtu: u16,
        /// The bound uplink.
        uplink: UplinkId,
    },
    /// A voluntary switch did not take place: the session goes on where it was.
    SwitchCancelled {
        /// Which session.
        session: SessionId,
        /// The uplink that it would have gone to.
        to: UplinkId,
        /// Why not.
        reason: Reason,
    },
    /// The gateway refused a request, authenticated.
    Refused {
        /// The session, unless it was a handshake.
        session: Option<SessionId>,
        /// Why.
        reason: Reason,
        /// Not before this many ms.
        retry_after_ms: u32,
        /// Over which uplink.
        uplink: UplinkId,
    },
    /// The session is over. A new one, if any, is a new `SessionStarted`.
    SessionEnded {
        /// Which session.
        session: SessionId,
        /// Why.
        reason: Reason,
    },
    /// The host reported a link.
    Link {
        /// Which uplink.
        uplink: UplinkId,
        /// How it is now.
        state: LinkState,
    },
    /// Something inside failed; the agent tries again.
    Trouble {
        /// What, and what to do.
        message: String,
    },
}

/// One recovery, measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RecoveryReport {
    /// Why the old path was left.
    #[serde(serialize_with = "cause_name")]
    pub cause: SwitchCause,
    /// The uplink that was left.
    pub from: UplinkId,
    /// The uplink that carries the session now.
    pub to: UplinkId,
    /// From the last frame heard on the old path to the decision to leave it, ms.
    pub detect_ms: u64,
    /// From the decision to the first frame over the new binding, ms.
    pub reattach_ms: u64,
    /// From the last frame on the old path to the first one over the new binding, ms.
    pub outage_ms: u64,
    /// Requests made.
    pub attempts: u16,
}

fn cause_name<S: serde::Serializer>(cause: &SwitchCause, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(cause.name())
}
