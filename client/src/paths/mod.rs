//! Path logic: which uplinks can carry the session, when the bound one is dead, which is tried next and when, and when
//! the client goes back to a better one.
//!
//! Pure: moments, link states and random jitter are handed in, decisions come out. It knows no keys, no sockets and no
//! session states, and it never decides that two paths carry data: it names one uplink at a time.

pub mod campaign;
pub mod candidates;
pub mod monitor;
pub mod mtu;
pub mod quality;
pub mod rtt;

use candidates::{CandidateSettings, Evidence, Watch};
use jvpn_abi::BootTime;
use jvpn_abi::limit::{Bucket, Rate};
use jvpn_session::quality::Measure;
use monitor::Elsewhere;
use quality::{PathQuality, Poor};
use serde::Serialize;
use std::net::IpAddr;
use std::time::Duration;

/// How long a failed path is remembered when the next one is chosen. Longer than any burst of attempts over a handful
/// of uplinks, short enough that yesterday's failure does not outrank the configured priority.
const FAILURE_MEMORY: Duration = Duration::from_secs(60);
/// A candidate that is compared with the bound path has answered so many probes in a row.
const COMPARED: u32 = 10;
/// Requests and handshakes of this client, whatever its links do: what a gateway allows one session by default.
const ASKS: Rate = Rate { per_second: 5, burst: 5 };

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
    /// Costs by volume: not taken while an unmetered one works, and probed less often.
    pub metered: bool,
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

    /// The address that datagrams leave with, if they can leave.
    #[must_use]
    pub const fn source(self) -> Option<IpAddr> {
        match self {
            Self::Usable { source } => Some(source),
            Self::Missing | Self::Down | Self::NoCarrier | Self::NoAddress | Self::NoRoute => None,
        }
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
    /// It can, from another address than before, of whatever family; there may have been none in between.
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
    /// What datagrams left from when they last could.
    source: Option<IpAddr>,
    watch: Watch,
    /// It was left for its quality.
    poor: Option<Poor>,
}

impl Uplink {
    /// The order of preference; smaller is better.
    const fn rank(&self) -> (bool, u32) {
        (self.spec.metered, self.spec.priority)
    }

    /// Whether it may be chosen, and not only taken in need.
    pub(super) fn is_eligible(&self, now: BootTime) -> bool {
        self.poor.is_none_or(|poor| poor.is_over(now))
    }

    fn recent_failure(&self, now: BootTime) -> Option<BootTime> {
        self.failed_at.filter(|at| now.since(*at) < FAILURE_MEMORY)
    }
}

/// What probes have said about an uplink, for people.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CandidateView {
    /// In one word.
    pub evidence: Evidence,
    /// Since the last answer.
    pub answered_ago: Option<Duration>,
    /// Without loss for so long.
    pub stable_for: Option<Duration>,
    /// Lost among the last 32 probes, percent.
    pub loss_percent: Option<f64>,
    /// Smoothed deviation of its round trips.
    pub variation: Option<Duration>,
}

/// The uplinks, and the choice among them.
#[derive(Clone, Debug)]
pub struct Paths {
    uplinks: Vec<Uplink>,
    settings: CandidateSettings,
    /// Whether candidates were probed under suspicion last.
    urgent: bool,
    asks: Bucket,
}

impl Paths {
    /// All uplinks start as missing until the host says otherwise.
    #[must_use]
    pub fn new(specs: Vec<UplinkSpec>, settings: CandidateSettings) -> Self {
        let fresh = |spec| Uplink {
            spec,
            link: LinkState::Missing,
            srtt: None,
            failed_at: None,
            source: None,
            watch: Watch::default(),
            poor: None,
        };
        let uplinks = specs.into_iter().take(usize::from(u8::MAX)).map(fresh).collect();
        Self { uplinks, settings, urgent: false, asks: Bucket::default() }
    }

    /// Whether a request may leave now: a client limits itself before a gateway has to.
    ///
    /// # Errors
    /// When it may be asked again.
    pub fn admit(&mut self, now: BootTime) -> Result<(), BootTime> {
        if self.asks.take(now, ASKS) {
            return Ok(());
        }
        Err(now.after(Duration::from_millis(u64::from(self.asks.retry_after_ms(ASKS).max(1)))))
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

    /// Takes over what the host says. A link that comes back or moves is a fresh chance: what was known is forgotten.
    pub fn set_link(&mut self, id: UplinkId, link: LinkState) -> LinkChange {
        let Some(uplink) = self.uplinks.get_mut(id.index()) else { return LinkChange::Same };
        let before = std::mem::replace(&mut uplink.link, link);
        let LinkState::Usable { source } = link else {
            return if before.is_usable() { LinkChange::Lost } else { LinkChange::Same };
        };
        if before == link {
            return LinkChange::Same;
        }
        let moved = uplink.source.replace(source).is_some_and(|old| old != source);
        uplink.failed_at = None;
        uplink.poor = None;
        uplink.watch.reset();
        if moved { LinkChange::Readdressed } else { LinkChange::Gained }
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
            uplink.watch.stable_since = None;
        }
    }

    /// Remembers that `id` carries the session, with the round-trip time measured over it.
    pub fn mark_good(&mut self, id: UplinkId, srtt: Option<Duration>) {
        if let Some(uplink) = self.uplinks.get_mut(id.index()) {
            uplink.failed_at = None;
            uplink.srtt = srtt.or(uplink.srtt);
            // From here on its data is watched; when it is left, it starts anew as a candidate.
            uplink.watch.reset();
        }
    }

    /// The uplink to try now, of the usable ones. Evidence first: what answers, then what is not known, then what is
    /// silent or failed, longest ago first. Among equals unmetered before metered, then priority, then how recently it
    /// answered, then round-trip time. `None` if none is usable.
    #[must_use]
    pub fn pick(&self, now: BootTime) -> Option<UplinkId> {
        let key = |id: UplinkId, uplink: &Uplink| {
            let evidence = self.evidence(uplink, now);
            let trouble = match evidence {
                Evidence::Silent => uplink.recent_failure(now).max(uplink.watch.silent_since),
                Evidence::Answering | Evidence::Unknown => None,
            };
            let answered_s = uplink.watch.last_answer.map_or(u64::MAX, |at| now.since(at).as_secs());
            (evidence, trouble, uplink.rank(), answered_s, uplink.srtt.unwrap_or(Duration::MAX), id)
        };
        self.iter()
            .filter(|(_, uplink)| uplink.link.is_usable())
            .min_by_key(|(id, uplink)| key(*id, uplink))
            .map(|(id, _)| id)
    }

    /// Remembers that `id` was left because another one is better. It is not chosen for a while, unless it has to be.
    pub fn leave_for_quality(&mut self, id: UplinkId, now: BootTime) {
        if let Some(uplink) = self.uplinks.get_mut(id.index()) {
            uplink.poor = Some(Poor::again(uplink.poor, now));
        }
    }

    /// The candidate to take instead of a bound path whose quality is bad: the best-ranked one that has answered many
    /// probes in a row and is better in what the bound one is bad at. Costs by volume are no better quality.
    #[must_use]
    pub fn better_by_quality(
        &self,
        now: BootTime,
        active: UplinkId,
        bound: &PathQuality,
    ) -> Option<UplinkId> {
        let metered = self.uplink(active)?.spec.metered;
        let measured = bound.measured(now);
        let breach = bound.level().breach()?.measure;
        let better = |uplink: &Uplink| {
            let (Some(rtt), variation) = uplink.watch.times() else { return false };
            match breach {
                Measure::Loss => rtt <= bound.thresholds().rtt.max(measured.rtt.unwrap_or_default()),
                Measure::Rtt => measured.rtt.is_some_and(|bound| rtt * 4 <= bound * 3),
                Measure::Jitter => measured.jitter.is_some_and(|bound| variation * 2 <= bound),
            }
        };
        self.iter()
            .filter(|(id, uplink)| *id != active && uplink.link.is_usable())
            .filter(|(_, uplink)| self.settings.for_quality && (metered || !uplink.spec.metered))
            .filter(|(_, uplink)| uplink.is_eligible(now) && uplink.watch.answered_in_a_row() >= COMPARED)
            .filter(|(_, uplink)| self.evidence(uplink, now) == Evidence::Answering && better(uplink))
            .min_by_key(|(id, uplink)| (uplink.rank(), *id))
            .map(|(id, _)| id)
    }

    /// Whether another uplink than `active` answers, and when one did last.
    #[must_use]
    pub fn elsewhere(&self, now: BootTime, active: UplinkId) -> Elsewhere {
        let others = self.iter().filter(|(id, uplink)| *id != active && uplink.link.is_usable());
        let answering = others.filter(|(_, uplink)| self.evidence(uplink, now) == Evidence::Answering);
        let last = answering.filter_map(|(_, uplink)| uplink.watch.last_answer).max();
        last.map_or(Elsewhere::Nowhere, Elsewhere::Answered)
    }

    /// What probes have said about an uplink.
    #[must_use]
    pub fn candidate(&self, id: UplinkId, now: BootTime) -> Option<CandidateView> {
        let uplink = self.uplink(id)?;
        Some(CandidateView {
            evidence: self.evidence(uplink, now),
            answered_ago: uplink.watch.last_answer.map(|at| now.since(at)),
            stable_for: uplink.watch.stable_since.map(|at| now.since(at)),
            loss_percent: uplink.watch.loss_percent(),
            variation: uplink.watch.times().0.map(|_| uplink.watch.times().1),
        })
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
        let spec =
            |device: &str, priority| UplinkSpec { device: device.to_owned(), priority, metered: false };
        Paths::new(vec![spec("a", 2), spec("b", 1), spec("c", 3)], CandidateSettings::default())
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
