//! What the emulated paths of a run did to frames: that a profile's words came true.

use jvpn_rig::Uplink;
use jvpn_rig::emulator::{LaneCounters, NatCounters, PathCounters};
use serde::{Deserialize, Serialize};

/// One path of one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathSeen {
    /// Which client.
    pub client: u8,
    /// `A` or `B`.
    pub uplink: String,
    /// What became of its frames; what incidents took is among it.
    #[serde(flatten)]
    pub counters: PathCounters,
}

impl PathSeen {
    /// What a path counted.
    pub(super) fn new(client: u8, uplink: Uplink, counters: PathCounters) -> Self {
        Self { client, uplink: format!("{uplink:?}"), counters }
    }
}

/// A counter with its name.
type Named<C> = (&'static str, fn(&C) -> u64);

/// What of a lane is named, in the order of the tables.
const LANE: [Named<LaneCounters>; 9] = [
    ("offered", |lane| lane.offered),
    ("delivered", |lane| lane.delivered),
    ("lost", |lane| lane.lost),
    ("lost in bursts", |lane| lane.lost_in_burst),
    ("beyond the queue", |lane| lane.queue_full),
    ("blackholed", |lane| lane.blackholed),
    ("too big", |lane| lane.too_big),
    ("reordered", |lane| lane.reordered),
    ("duplicated", |lane| lane.duplicated),
];
const NAT: [Named<NatCounters>; 4] = [
    ("mapped", |nat| nat.mapped),
    ("expired", |nat| nat.expired),
    ("forgotten", |nat| nat.forgotten),
    ("without a mapping", |nat| nat.unmapped),
];

/// Sums over all paths of a life: up, down, NATs; what is zero is left out.
pub(super) fn sums(paths: &[PathSeen]) -> Vec<(&'static str, String)> {
    let lane =
        |of: fn(&PathCounters) -> &LaneCounters| {
            said(LANE.iter().map(|(name, field)| {
                (*name, paths.iter().map(|path| field(of(&path.counters))).sum::<u64>())
            }))
        };
    let nats = || paths.iter().filter_map(|path| path.counters.nat.as_ref());
    let nat = said(NAT.iter().map(|(name, field)| (*name, nats().map(field).sum::<u64>())));
    let all = [("up", lane(|path| &path.up)), ("down", lane(|path| &path.down)), ("NATs", nat)];
    all.into_iter().filter(|(_, text)| !text.is_empty()).collect()
}

fn said(counts: impl Iterator<Item = (&'static str, u64)>) -> String {
    let some = counts.filter(|(_, count)| *count > 0);
    some.map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_name_what_there_was() {
        assert_eq!(sums(&[]), []);
        let lane = LaneCounters { offered: 10, delivered: 9, lost: 1, ..LaneCounters::default() };
        let counters = PathCounters {
            up: lane,
            nat: Some(NatCounters { mapped: 2, ..NatCounters::default() }),
            ..PathCounters::default()
        };
        let paths = Uplink::ALL.map(|uplink| PathSeen::new(3, uplink, counters));
        assert_eq!(
            sums(&paths),
            [("up", "20 offered, 18 delivered, 2 lost".into()), ("NATs", "4 mapped".into())]
        );
        let json = serde_json::to_string(&paths).unwrap();
        assert_eq!(serde_json::from_str::<[PathSeen; 2]>(&json).unwrap(), paths, "{json}");
    }
}
