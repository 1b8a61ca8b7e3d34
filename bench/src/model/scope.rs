//! Scopes: how far the model goes in which direction. Each is explored to its end.
//!
//! One space with every fault at once is too large for CI; a fault meets the others where they can matter to each other.

use jvpn_abi::BootTime;
use jvpn_session::Policy;
use std::time::Duration;

/// Handshakes that a client may still make, when nothing more goes wrong, to get back in.
const SPARE: u8 = 2;
/// Requests: under both generations that it holds, then takeover requests.
const SPARE_REQUESTS: u8 = 5;

/// What may happen, and how often.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Stable name.
    pub name: &'static str,
    /// The session is ATTACHED at the beginning; else there is none.
    pub(super) starts_attached: bool,
    pub(super) requests: u8,
    pub(super) handshakes: u8,
    pub(super) client_crashes: u8,
    pub(super) control_plane_crashes: u8,
    pub(super) data_plane_crashes: u8,
    pub(super) silences: u8,
    /// A restarted control plane finds JOURNAL.
    pub(super) keeps_sessions: bool,
    /// One that finds no JOURNAL finds no store either: it has no session.
    pub(super) loses_store: bool,
    /// What is stored takes its time to load.
    pub(super) slow_store: bool,
    /// The gateway is under load: it asks for cookies, except when it happens not to.
    pub(super) load: bool,
    /// The client has a cookie for each of its paths.
    pub(super) warm: bool,
    /// Worker 0 may stop in the middle of a frame.
    pub(super) slow_worker: bool,
    /// Packets come from the LAN at any time.
    pub(super) lan_packets: bool,
    /// Somebody forwards datagrams under his own address.
    pub(super) attacker: bool,
    /// The client may switch although its path works.
    pub(super) voluntary: bool,
    pub(super) policy: Policy,
    /// Seconds since the beginning.
    pub(super) moments: &'static [u64],
}

impl Scope {
    const fn calm(name: &'static str, policy: Policy) -> Self {
        Self {
            name,
            starts_attached: true,
            requests: 2,
            handshakes: 1,
            client_crashes: 0,
            control_plane_crashes: 0,
            data_plane_crashes: 0,
            silences: 0,
            keeps_sessions: true,
            loses_store: false,
            slow_store: false,
            load: false,
            warm: false,
            slow_worker: false,
            lan_packets: true,
            attacker: false,
            voluntary: false,
            policy,
            moments: &[0],
        }
    }

    /// The scopes of CI, or the larger ones.
    #[must_use]
    pub fn all(deep: bool) -> Vec<Self> {
        let more = u8::from(deep);
        let calm = |name| Self::calm(name, Policy::default());
        let mut all = vec![
            Self { requests: 3 + more, silences: 1, slow_worker: true, attacker: true, ..calm("network") },
            Self {
                starts_attached: false,
                requests: 1,
                handshakes: 2 + more,
                client_crashes: 1,
                attacker: true,
                ..calm("births")
            },
            Self { requests: 3, data_plane_crashes: 1 + more, slow_worker: true, ..calm("data-plane-crash") },
            Self {
                requests: 2,
                control_plane_crashes: 1 + more,
                data_plane_crashes: 1,
                slow_worker: true,
                ..calm("both-planes-crash")
            },
            Self {
                requests: 1 + more,
                handshakes: 2,
                control_plane_crashes: 1,
                client_crashes: 1,
                keeps_sessions: false,
                loses_store: true,
                slow_worker: deep,
                ..calm("restart-without-memory")
            },
            Self {
                requests: 3 + more,
                handshakes: 1,
                control_plane_crashes: 2,
                keeps_sessions: false,
                slow_store: true,
                attacker: true,
                ..calm("restart-from-store")
            },
            Self {
                requests: 2 + more,
                control_plane_crashes: 1,
                keeps_sessions: false,
                load: true,
                attacker: true,
                lan_packets: deep,
                ..calm("load")
            },
            Self {
                requests: 2 + more,
                handshakes: 0,
                silences: more,
                voluntary: true,
                lan_packets: false,
                moments: &[0, 4, 8, 70, 140, 400],
                ..Self::calm(
                    "budget-and-bounds",
                    Policy {
                        max_switches_per_min: 1 + u32::from(deep),
                        recovery_window: Duration::from_secs(8),
                        transport_loss_ttl: Duration::from_secs(200),
                        ..Policy::default()
                    },
                )
            },
        ];
        all.extend(Self::early(deep));
        all
    }

    /// Those of a way down before the first frame.
    fn early(deep: bool) -> [Self; 2] {
        let calm = |name| Self::calm(name, Policy::default());
        [
            Self {
                requests: 3,
                warm: true,
                slow_worker: true,
                attacker: true,
                control_plane_crashes: u8::from(deep),
                ..calm("early-downlink")
            },
            Self {
                requests: 2,
                warm: true,
                control_plane_crashes: 1,
                data_plane_crashes: 1,
                slow_worker: deep,
                ..calm("early-and-crashes")
            },
        ]
    }

    /// A moment of the scope.
    pub(super) fn moment(&self, number: u8) -> BootTime {
        let seconds = self.moments.get(usize::from(number)).or(self.moments.last()).copied().unwrap_or(0);
        BootTime::from_millis((1_000 + seconds) * 1_000)
    }

    pub(super) fn moments(&self) -> u8 {
        u8::try_from(self.moments.len()).unwrap_or(u8::MAX)
    }

    /// Requests and handshakes in all, those with which a client gets back in at the end included.
    pub(super) const fn with_spare(&self) -> (u8, u8) {
        (self.requests + SPARE_REQUESTS, self.handshakes + SPARE)
    }
}
