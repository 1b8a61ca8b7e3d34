//! The six states of a session and the four phases of its binding. One definition, used by gateway, client
//! and bench.

/// State of a session. Numbers are stable: CONTROL and the shared journal carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Handshake under way, at most [`crate::policy::BIRTH_TIMEOUT`].
    Birth = 0,
    /// Exactly one confirmed binding; healthy.
    Attached = 1,
    /// Exactly one confirmed binding; delivering, but below a quality threshold.
    Volatile = 2,
    /// Exactly one confirmed binding; quality below the floor for too long, or the switch budget is used up.
    /// Restricted = no voluntary switches, nothing else.
    Degraded = 3,
    /// No confirmed binding: the transport is lost or being switched. Bounded in time.
    Recovering = 4,
    /// Final.
    Terminated = 5,
}

impl State {
    /// All states, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Birth, Self::Attached, Self::Volatile, Self::Degraded, Self::Recovering, Self::Terminated];

    /// The stable name.
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

    /// The state with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Birth,
            1 => Self::Attached,
            2 => Self::Volatile,
            3 => Self::Degraded,
            4 => Self::Recovering,
            5 => Self::Terminated,
            _ => return None,
        })
    }

    /// The stable number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Not TERMINATED.
    #[must_use]
    pub const fn is_live(self) -> bool {
        !matches!(self, Self::Terminated)
    }

    /// Whether the state has exactly one confirmed binding (ATTACHED, VOLATILE, DEGRADED); the others have
    /// none.
    #[must_use]
    pub const fn is_bound(self) -> bool {
        matches!(self, Self::Attached | Self::Volatile | Self::Degraded)
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// How far the newest binding of a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BindingPhase {
    /// There is none, or it was unbound.
    None,
    /// Waiting for quiescence or for the installer; accepts nothing.
    Installing,
    /// Bound: receives, sends no DATA.
    Unconfirmed,
    /// A frame opened under its keys from the bound endpoint.
    Confirmed,
}
