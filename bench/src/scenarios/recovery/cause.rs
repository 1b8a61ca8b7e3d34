//! What happens to a path, and how long it may take to be over.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is done to a client's network or to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The bound path loses everything; link and route stay. A second path works.
    SilentBlackhole,
    /// The bound path's link loses its carrier. A second path works.
    LinkDown,
    /// The NAT in front of the bound path forgets and takes another port.
    NatRebinding,
    /// The only uplink gets another address.
    AddressChange,
    /// 30 % of all packets of the bound path are lost for 3 s.
    LossSpike,
    /// The bound path's link goes down and up five times, 300 ms each.
    Flapping,
    /// `jvpn-controlplane` is killed and started again.
    ControlPlaneKill,
    /// `jvpn-dataplane` is killed and started again.
    DataPlaneKill,
    /// The bound path loses everything in one direction, by turns up and down. A second path works.
    OneDirectionDead,
}

impl Cause {
    /// All of them, in the order of a run.
    pub const ALL: [Self; 9] = [
        Self::SilentBlackhole,
        Self::LinkDown,
        Self::NatRebinding,
        Self::AddressChange,
        Self::LossSpike,
        Self::Flapping,
        Self::OneDirectionDead,
        Self::ControlPlaneKill,
        Self::DataPlaneKill,
    ];

    /// Name in files and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SilentBlackhole => "silent_blackhole",
            Self::LinkDown => "link_down",
            Self::NatRebinding => "nat_rebinding",
            Self::AddressChange => "address_change",
            Self::LossSpike => "loss_spike",
            Self::Flapping => "flapping",
            Self::ControlPlaneKill => "control_plane_kill",
            Self::DataPlaneKill => "data_plane_kill",
            Self::OneDirectionDead => "one_direction_dead",
        }
    }

    /// Whether it strikes all clients at the same moment.
    #[must_use]
    pub const fn is_common(self) -> bool {
        matches!(self, Self::ControlPlaneKill | Self::DataPlaneKill)
    }

    /// Whether the client has one uplink only.
    #[must_use]
    pub const fn has_one_uplink(self) -> bool {
        matches!(self, Self::AddressChange)
    }

    /// Whether a client must bind anew because of it.
    #[must_use]
    pub const fn must_switch(self) -> bool {
        match self {
            Self::SilentBlackhole
            | Self::LinkDown
            | Self::NatRebinding
            | Self::AddressChange
            | Self::OneDirectionDead => true,
            Self::LossSpike | Self::Flapping | Self::ControlPlaneKill | Self::DataPlaneKill => false,
        }
    }

    /// Confirmed switches that it may take, at most: what is left of policy's budget must suffice.
    #[must_use]
    pub const fn switches_max(self) -> u32 {
        match self {
            Self::Flapping => 5,
            Self::ControlPlaneKill => 0,
            Self::SilentBlackhole
            | Self::LinkDown
            | Self::NatRebinding
            | Self::AddressChange
            | Self::LossSpike
            | Self::DataPlaneKill
            | Self::OneDirectionDead => 1,
        }
    }

    /// Whether its trials are to stay below what policy lets the gateway send before the client has confirmed: so many
    /// times a minute and peer as switches, and several sessions of a client are one peer.
    #[must_use]
    pub const fn is_paced(self) -> bool {
        match self {
            Self::SilentBlackhole | Self::LinkDown | Self::NatRebinding | Self::OneDirectionDead => true,
            // A path that nobody knew has no cookie; few of the others switch, and a link that flaps is meant to reach
            // policy's limits.
            Self::AddressChange
            | Self::LossSpike
            | Self::Flapping
            | Self::ControlPlaneKill
            | Self::DataPlaneKill => false,
        }
    }

    /// What is aimed at, at this round-trip time.
    #[must_use]
    pub fn aim(self, rtt_ms: u64, preset: &str) -> Option<Aim> {
        let rtt = rtt_ms as f64;
        let short = rtt_ms == 0;
        let p50_ms = short.then_some(5.0);
        let (p50_ms, p99_ms) = match self {
            Self::LinkDown => (p50_ms, 1.5 * rtt + 30.0),
            Self::NatRebinding if short => (p50_ms, 30.0),
            Self::NatRebinding => (None, 2.0 * rtt + 50.0),
            Self::AddressChange if short => (p50_ms, 30.0),
            Self::AddressChange => (None, 1.5 * rtt + 50.0),
            Self::SilentBlackhole if preset == "fintech" && rtt_ms <= 50 => (None, 300.0),
            // Others ask their paths more seldom, by choice.
            Self::SilentBlackhole if preset != "edge" => return None,
            Self::SilentBlackhole if short => (None, 400.0),
            Self::SilentBlackhole if rtt_ms <= 50 => (None, 600.0),
            Self::DataPlaneKill => (None, 1_000.0),
            Self::ControlPlaneKill => {
                return Some(Aim { p50_ms: None, p99_ms: None, lost_max: Some(0) });
            }
            Self::SilentBlackhole | Self::LossSpike | Self::Flapping | Self::OneDirectionDead => return None,
        };
        Some(Aim { p50_ms, p99_ms: Some(p99_ms), lost_max: None })
    }
}

/// What is aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Aim {
    /// Half of the outages are not longer.
    pub p50_ms: Option<f64>,
    /// 99 of 100 are not longer.
    pub p99_ms: Option<f64>,
    /// No trial loses more probes.
    pub lost_max: Option<u64>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Cause {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|cause| cause.name() == name);
        found.ok_or_else(|| format!("there are: all, {}", names()))
    }
}
