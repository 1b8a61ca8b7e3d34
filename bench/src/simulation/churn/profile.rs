//! What the hosts of a world go through: how long they stay where, how much they talk, what befalls the gateway.

use super::walk::Place;
use std::fmt;
use std::time::Duration;

const fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

const fn secs(value: u64) -> Duration {
    Duration::from_secs(value)
}

/// From the least to the most.
pub(super) type Range<T> = (T, T);

/// A way of life.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// What it is called.
    pub name: &'static str,
    /// In one line.
    pub about: &'static str,
    /// The gateway's policy preset.
    pub preset: &'static str,
    /// Where hosts go, and how often they choose it.
    pub(super) places: &'static [(Place, u32)],
    /// How long they stay.
    pub(super) stay: Range<Duration>,
    /// Packets of a conversation, the time between two of them, and the silence afterwards.
    pub(super) packets: Range<u32>,
    pub(super) spacing: Range<Duration>,
    pub(super) silence: Range<Duration>,
    /// Time between two misfortunes of the gateway or of a region.
    pub(super) misfortunes: Option<Range<Duration>>,
    /// A process of a host is killed at one place in so many.
    pub(super) restart_in: u32,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// People with telephones.
const MOBILE: Profile = Profile {
    name: "mobile",
    about: "people on the move: Wi-Fi, street, trains, dead spots, pockets; the gateway has its troubles",
    preset: "mobile",
    places: &[
        (Place::Home, 30),
        (Place::Street, 25),
        (Place::Fringe, 12),
        (Place::NextDoor, 6),
        (Place::Train, 10),
        (Place::DeadSpot, 8),
        (Place::OneWay, 3),
        (Place::Pocket, 6),
    ],
    stay: (secs(15), secs(120)),
    packets: (3, 10),
    spacing: (ms(60), ms(600)),
    silence: (secs(20), secs(120)),
    misfortunes: Some((secs(20), secs(90))),
    restart_in: 150,
};

/// At the edge of reception: switches as often as policy allows, and more.
const FLAPPING: Profile = Profile {
    name: "flapping",
    about: "everybody at the edge of reception: links come and go every few seconds",
    preset: "edge",
    places: &[
        (Place::Home, 20),
        (Place::Street, 30),
        (Place::Fringe, 25),
        (Place::NextDoor, 15),
        (Place::OneWay, 10),
    ],
    stay: (ms(700), secs(8)),
    packets: (2, 6),
    spacing: (ms(40), ms(300)),
    silence: (secs(5), secs(40)),
    misfortunes: Some((secs(120), secs(400))),
    restart_in: 400,
};

/// Hosts sit still; everything around them breaks.
const STORM: Profile = Profile {
    name: "storm",
    about: "regions are cut off and come back at once, gateway processes die: everybody reattaches together",
    preset: "fintech",
    places: &[(Place::Home, 60), (Place::Street, 30), (Place::Train, 10)],
    stay: (secs(60), secs(300)),
    packets: (2, 8),
    spacing: (ms(50), ms(400)),
    silence: (secs(8), secs(60)),
    misfortunes: Some((secs(6), secs(30))),
    restart_in: 100,
};

/// Long stays, short talks, no trouble at the gateway: what sessions cost that only live.
const QUIET: Profile = Profile {
    name: "quiet",
    about: "long stays, short talks, a gateway without trouble",
    preset: "mobile",
    places: &[(Place::Home, 70), (Place::Street, 20), (Place::Pocket, 10)],
    stay: (secs(300), secs(1_200)),
    packets: (1, 4),
    spacing: (ms(100), ms(900)),
    silence: (secs(60), secs(300)),
    misfortunes: None,
    restart_in: 1_000,
};

impl Profile {
    /// All of them.
    pub const ALL: [Self; 4] = [MOBILE, FLAPPING, STORM, QUIET];

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name == name)
    }
}
