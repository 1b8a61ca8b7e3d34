//! Everything that can happen to a session, once. Each event knows its name, its place in the order of
//! simultaneous events, and whether a peer causes it.

use crate::core::Anchor;
use jvpn_abi::BootTime;
use jvpn_crypto::Proven;

/// Which of the two generations that the gateway keeps a request came under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Generation {
    /// The one whose keys a frame has opened under (or that the client asked under).
    Confirmed,
    /// The one in the newest answer.
    Pending,
}

/// What a proven reattach claims beyond its proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReattachClaim {
    /// The generation that its handle names.
    pub under: Generation,
    /// The anchor_version in its prologue.
    pub anchor_version: u64,
    /// Whether the old path could go on.
    pub voluntary: bool,
}

/// An event. Timers and levels carry what is needed to judge whether they still apply: `transition` trusts no
/// timer.
#[derive(Debug)]
pub enum Event {
    /// A handshake was proven. It bears a session of its own ([`crate::birth`]) and never applies to an
    /// existing one.
    HandshakeProven(Proven),
    /// A reattach was proven.
    ReattachProven(Proven, ReattachClaim),
    /// A takeover exchange was proven: the client is there, with the session's own secret, and takes the generation that
    /// the answer to its request offered.
    TakeoverProven(Proven, Anchor),
    /// The peer ended the session.
    PeerTerminated,
    /// An operator ended the session.
    AdminTerminated,
    /// The peer's key was revoked.
    PeerRevoked,
    /// A newer session of the peer took its place.
    Superseded,
    /// Internal integrity is broken.
    SecurityViolated,
    /// The session TTL is over.
    SessionTtlExpired,
    /// Two records claim one term.
    OwnershipConflict,
    /// Ownership went to another node.
    OwnershipLost,
    /// This owner restarted without its memory.
    OwnerRestarted,
    /// This node took the session over.
    OwnerTookOver,
    /// The transport-loss TTL is over.
    TransportLossTtlExpired,
    /// The recovery window is over.
    RecoveryWindowOver,
    /// The data plane is gone and its memory too.
    DataPlaneLost,
    /// A hard key limit was reached.
    KeyLimitReached,
    /// The first frame opened under the binding of this epoch.
    BindingConfirmed {
        /// Epoch of the binding.
        epoch: u64,
    },
    /// New keys at the same endpoint are in use.
    Rekeyed,
    /// The handshake did not complete.
    HandshakeFailed,
    /// The data plane did not quiesce or install in time, or refused.
    InstallFailed {
        /// Epoch of the binding.
        epoch: u64,
    },
    /// No frame came over the binding in time.
    BindUnconfirmed {
        /// Epoch of the binding.
        epoch: u64,
    },
    /// The birth took too long.
    BirthTimeout,
    /// The bound path is silent.
    TransportDead,
    /// Quality has been bad since this moment.
    DegradedTooLong {
        /// Start of the bad quality.
        bad_since: BootTime,
    },
    /// VOLATILE has lasted for too long.
    VolatileTooLong,
    /// Quality is below a threshold.
    QualityBelow,
    /// Quality has been good since this moment.
    QualityGood {
        /// Start of the good quality.
        since: BootTime,
    },
}

/// Who causes an event: decides whether one that does not apply is ignored or rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Timers, table reports, levels, operators.
    Internal,
    /// A datagram of the peer.
    Peer,
}

/// Place in the order of events that are due together: smaller goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(pub u8);

impl Priority {
    /// The place of [`Event::ReattachProven`], for who must know it before there is a proof.
    pub const REATTACH: Self = Self(8);
    /// After every event.
    pub const LAST: Self = Self(u8::MAX);
}

impl Event {
    /// Who causes it.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        if matches!(
            self,
            Self::HandshakeProven(_)
                | Self::ReattachProven(..)
                | Self::TakeoverProven(..)
                | Self::PeerTerminated
        ) {
            Origin::Peer
        } else {
            Origin::Internal
        }
    }

    /// Its place among events that are due together (`docs/PROTOCOL.md`, "Due together").
    #[must_use]
    pub const fn priority(&self) -> Priority {
        Priority(match self {
            Self::PeerTerminated | Self::AdminTerminated | Self::PeerRevoked | Self::Superseded => 0,
            Self::SecurityViolated => 1,
            Self::SessionTtlExpired => 2,
            Self::OwnershipConflict | Self::OwnershipLost | Self::OwnerRestarted | Self::OwnerTookOver => 3,
            Self::TransportLossTtlExpired => 4,
            Self::RecoveryWindowOver => 5,
            Self::DataPlaneLost => 6,
            Self::KeyLimitReached => 7,
            Self::ReattachProven(..) | Self::TakeoverProven(..) | Self::HandshakeProven(_) => {
                Priority::REATTACH.0
            }
            Self::BindingConfirmed { .. } | Self::Rekeyed => 9,
            Self::InstallFailed { .. } | Self::HandshakeFailed => 10,
            Self::BindUnconfirmed { .. } => 11,
            Self::BirthTimeout => 12,
            Self::TransportDead => 13,
            Self::DegradedTooLong { .. } => 14,
            Self::VolatileTooLong => 15,
            Self::QualityBelow => 16,
            Self::QualityGood { .. } => 17,
        })
    }

    /// The stable name, as tables and counters spell it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::HandshakeProven(_) => "HandshakeProven",
            Self::ReattachProven(..) => "ReattachProven",
            Self::TakeoverProven(..) => "TakeoverProven",
            Self::PeerTerminated => "PeerTerminated",
            Self::AdminTerminated => "AdminTerminated",
            Self::PeerRevoked => "PeerRevoked",
            Self::Superseded => "Superseded",
            Self::SecurityViolated => "SecurityViolated",
            Self::SessionTtlExpired => "SessionTtlExpired",
            Self::OwnershipConflict => "OwnershipConflict",
            Self::OwnershipLost => "OwnershipLost",
            Self::OwnerRestarted => "OwnerRestarted",
            Self::OwnerTookOver => "OwnerTookOver",
            Self::TransportLossTtlExpired => "TransportLossTtlExpired",
            Self::RecoveryWindowOver => "RecoveryWindowOver",
            Self::DataPlaneLost => "DataPlaneLost",
            Self::KeyLimitReached => "KeyLimitReached",
            Self::BindingConfirmed { .. } => "BindingConfirmed",
            Self::Rekeyed => "Rekeyed",
            Self::HandshakeFailed => "HandshakeFailed",
            Self::InstallFailed { .. } => "InstallFailed",
            Self::BindUnconfirmed { .. } => "BindUnconfirmed",
            Self::BirthTimeout => "BirthTimeout",
            Self::TransportDead => "TransportDead",
            Self::DegradedTooLong { .. } => "DegradedTooLong",
            Self::VolatileTooLong => "VolatileTooLong",
            Self::QualityBelow => "QualityBelow",
            Self::QualityGood { .. } => "QualityGood",
        }
    }
}
