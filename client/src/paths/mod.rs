//! Path logic: which uplinks can carry the session, when the bound one is dead, which is tried next and when.
//!
//! Pure: moments, link states and random jitter are handed in, decisions come out. It knows no keys, no sockets and no
//! session states, and it never decides that two paths carry data: it names one uplink at a time.

pub mod campaign;
pub mod monitor;
pub mod rtt;

use jvpn_abi::BootTime;
use serde::Serialize;
use std::net::IpAddr;
use std::time::Duration;

/// How long a failed path is remembered when the next one is chosen. Longer than any burst of attempts over a handful
/// of uplinks, short enough that yesterday's failure does not outrank the configured priority.
const FAILURE_MEMORY: Duration = Duration::from_secs(60);

/// An uplink, by its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct UplinkId(pub u8);

impl UplinkId {
    /// Position in the list of uplinks.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// An uplink as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkSpec {
    /// Network device.
    pub device: String,
    /// Smaller is preferred.
    pub priority: u32,
}

/// What the host says about an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "link", rename_all = "snake_case")]
pub enum LinkState {
    /// The device does not exist.
    Missing,
    /// The device is administratively down.
    Down,
    /// The device has no carrier.
    NoCarrier,
    /// The device has no address of the gateway's family.
    NoAddress,
    /// No way to the gateway over this device is known.
    NoRoute,
    /// Datagrams can leave.
    Usable {
        /// The address that they leave from.
        source: IpAddr,
    },
}

impl LinkState {
    /// Whether datagrams can leave.
    #[must_use]
    pub const fn is_usable(self) -> bool {
        matches!(self, Self::Usable { .. })
    }

    /// The name that logs and status use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Down => "down",
            Self::NoCarrier => "no_carrier",
            Self::NoAddress => "no_address",
            Self::NoRoute => "no_route",
            Self::Usable { .. } => "usable",
        }
    }
}

/// What a link event means for whoever uses the uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// Nothing that matters.
    Same,
    /// It can carry datagrams now.
    Gained,
    /// It cannot any more.
    Lost,
    /// It can, from another address than before.
    Readdressed,
}

/// One uplink and what is known about it.
#[derive(Clone, Debug)]
pub struct Uplink {
    /// As configured.
    pub spec: UplinkSpec,
    /// As the host last said.
    pub link: LinkState,
    /// Last smoothed round-trip time over it.
    pub srtt: Option<Duration>,
    failed_at: Option<BootTime>,
}

/// The uplinks, and the choice among them.
#[derive(Clone, Debug)]
pub struct Paths {
    uplinks: Vec<Uplink>,
}

impl Paths {
    /// All uplinks start as missing until the host says otherwise.
    #[must_use]
    pub fn new(specs: Vec<UplinkSpec>) -> Self {
        let fresh = |spec| Uplink { spec, link: LinkState::Missing, srtt: None, failed_at: None };
        Self { uplinks: specs.into_iter().take(usize::from(u8::MAX)).map(fresh).collect() }
    }

    /// All uplinks in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = (UplinkId, &Uplink)> {
        (0u8..).map(UplinkId).zip(&self.uplinks)
    }

    /// One uplink.
    #[must_use]
    pub fn uplink(&self, id: UplinkId) -> Option<&Uplink> {
        self.uplinks.get(id.index())
    }

    /// The device name, for logs; `?` for an uplink that does not exist.
    #[must_use]
    pub fn device(&self, id: UplinkId) -> &str {
        self.uplink(id).map_or("?", |uplink| uplink.spec.device.as_str())
    }

    /// Takes over what the host says. A link that comes back is a fresh chance: its failure is forgotten.
    pub fn set_link(&mut self, id: UplinkId, link: LinkState) -> LinkChange {
        let Some(uplink) = self.uplinks.get_mut(id.index()) else { return LinkChange::Same };
        let before = std::mem::replace(&mut uplink.link, link);
        match (before, link) {
            (LinkState::Usable { source: old }, LinkState::Usable { source: new }) if old == new => {
                LinkChange::Same
            }
            (LinkState::Usable { .. }, LinkState::Usable { .. }) => {
                uplink.failed_at = None;
                LinkChange::Readdressed
            }
            (LinkState::Usable { .. }, _) => LinkChange::Lost,
            (_, LinkState::Usable { .. }) => {
                uplink.failed_at = None;
                LinkChange::Gained
            }
            _ => LinkChange::Same,
        }
    }

    /// Whether datagrams can leave over `id`.
    #[must_use]
    pub fn is_usable(&self, id: UplinkId) -> bool {
        self.uplink(id).is_some_and(|uplink| uplink.link.is_usable())
    }

    /// How many uplinks are usable.
    #[must_use]
    pub fn usable(&self) -> usize {
        self.uplinks.iter().filter(|uplink| uplink.link.is_usable()).count()
    }

    /// Remembers that an attempt over `id` failed or its path died.
    pub fn mark_failed(&mut self, id: UplinkId, now: BootTime) {
        if let Some(uplink) = self.uplinks.get_mut(id.index()) {
            uplink.failed_at = Some(now);
        }
    }

    /// Remembers that `id` carries the session, with the round-trip time measured over it.
    pub fn mark_good(&mut self, id: UplinkId, srtt: Option<Duration>) {
        if let Some(uplink) = self.uplinks.get_mut(id.index()) {
            uplink.failed_at = None;
            uplink.srtt = srtt.or(uplink.srtt);
        }
    }

    /// The uplink to try now: among the usable ones those without a recent failure by priority, then the one whose
    /// failure is longest ago. `None` if none is usable.
    #[must_use]
    pub fn pick(&self, now: BootTime) -> Option<UplinkId> {
        let recent = |uplink: &Uplink| uplink.failed_at.filter(|at| now.since(*at) < FAILURE_MEMORY);
        self.iter()
            .filter(|(_, uplink)| uplink.link.is_usable())
            .min_by_key(|(id, uplink)| (recent(uplink), uplink.spec.priority, *id))
            .map(|(id, _)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: UplinkId = UplinkId(0);
    const B: UplinkId = UplinkId(1);
    const C: UplinkId = UplinkId(2);

    fn usable(last: u8) -> LinkState {
        LinkState::Usable { source: IpAddr::from([10, 0, 0, last]) }
    }

    fn three() -> Paths {
        let spec = |device: &str, priority| UplinkSpec { device: device.to_owned(), priority };
        Paths::new(vec![spec("a", 2), spec("b", 1), spec("c", 3)])
    }

    fn at(seconds: u64) -> BootTime {
        BootTime::from_millis(seconds * 1_000)
    }

    #[test]
    fn priority_decides_among_usable_uplinks() {
        let mut paths = three();
        assert_eq!(paths.pick(at(1)), None);
        assert_eq!(paths.set_link(A, usable(1)), LinkChange::Gained);
        assert_eq!(paths.set_link(C, usable(3)), LinkChange::Gained);
        assert_eq!(paths.pick(at(1)), Some(A));
        paths.set_link(B, usable(2));
        assert_eq!(paths.pick(at(1)), Some(B), "smaller number = preferred");
        assert_eq!(paths.set_link(B, LinkState::NoCarrier), LinkChange::Lost);
        assert_eq!(paths.pick(at(1)), Some(A));
    }

    /// R7.1: a path that just failed comes last, and failures are tried in turn, oldest first.
    #[test]
    fn a_failed_path_comes_last_and_all_get_their_turn() {
        let mut paths = three();
        for (id, last) in [(A, 1), (B, 2), (C, 3)] {
            paths.set_link(id, usable(last));
        }
        let mut tried = Vec::new();
        for second in 1..=6 {
            let id = paths.pick(at(second)).unwrap();
            paths.mark_failed(id, at(second));
            tried.push(id);
        }
        assert_eq!(tried, [B, A, C, B, A, C]);
        assert_eq!(paths.pick(at(6 + 61)), Some(B), "old failures are forgotten");
        paths.mark_good(C, Some(Duration::from_millis(20)));
        assert_eq!(paths.pick(at(7)), Some(C));
    }

    #[test]
    fn a_link_that_comes_back_or_moves_is_a_fresh_chance() {
        let mut paths = three();
        paths.set_link(A, usable(1));
        paths.set_link(B, usable(2));
        paths.mark_failed(B, at(1));
        assert_eq!(paths.pick(at(2)), Some(A));
        assert_eq!(paths.set_link(B, usable(9)), LinkChange::Readdressed);
        assert_eq!(paths.set_link(B, usable(9)), LinkChange::Same);
        assert_eq!(paths.pick(at(2)), Some(B));
        assert_eq!(paths.set_link(UplinkId(77), usable(1)), LinkChange::Same);
        assert_eq!(paths.device(UplinkId(77)), "?");
    }
}
