//! From what was recorded to what it means. Pure.

use crate::peers::probes::Arrival;
use crate::peers::streams::{LaneRecord, TcpRecord};

/// A probe sent so long before the client left a path went over that path, however late the client's process was.
const CERTAINLY_BEFORE_NS: u64 = 100_000_000;
/// A frame that a TX ring held when the binding went counts as sent (docs/ARCHITECTURE.md, the quiescence claim); and
/// moments in logs have a millisecond.
const CERTAINLY_AFTER_NS: u64 = 12_000_000;

/// One direction, judged.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Lane {
    /// Longest time without an arrival that ended after the incident, ms.
    pub(super) outage_ms: f64,
    /// Probes sent and never arrived.
    pub(super) lost: u64,
    /// Longest time in which the bench itself sent nothing, ms.
    pub(super) pause_ms: f64,
}

/// Judges one direction from the moment of the incident on.
pub(super) fn lane(record: &LaneRecord, incident_ns: u64) -> Lane {
    let mut arrived: Vec<_> = record.arrivals.iter().map(|arrival| arrival.arrived_ns).collect();
    arrived.sort_unstable();
    let gaps = arrived.windows(2).filter(|pair| pair[1] >= incident_ns).map(|pair| pair[1] - pair[0]);
    let pauses = record
        .sent_ns
        .windows(2)
        .filter(|pair| pair[1] >= incident_ns)
        .map(|pair| pair[1].saturating_sub(pair[0]));
    Lane {
        outage_ms: ms(gaps.max().unwrap_or(0)),
        lost: lost(record),
        pause_ms: ms(pauses.max().unwrap_or(0)),
    }
}

/// Probes of the record that never arrived though a later one did: what is still on its way is not lost.
fn lost(record: &LaneRecord) -> u64 {
    let Some(last) = record.arrivals.iter().map(|arrival| arrival.sequence).max() else {
        return record.sent_ns.len() as u64;
    };
    let mut seen: Vec<_> = record
        .arrivals
        .iter()
        .map(|arrival| arrival.sequence)
        .filter(|sequence| *sequence >= record.first)
        .collect();
    seen.sort_unstable();
    seen.dedup();
    (last + 1).saturating_sub(record.first).saturating_sub(seen.len() as u64)
}

/// Longest time without an octet of the TCP stream that ended after the incident, ms.
pub(super) fn tcp_stall(record: &TcpRecord, incident_ns: u64) -> f64 {
    let gaps = record.arrived.windows(2).filter(|pair| pair[1].0 >= incident_ns);
    ms(gaps.map(|pair| pair[1].0.saturating_sub(pair[0].0)).max().unwrap_or(0))
}

/// A binding that was left: when its client decided to, and when the gateway had unbound it. Unix ms, as logs have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) decided_ms: u64,
    pub(super) unbound_ms: u64,
}

/// Probes that certainly went out over a binding that was left and came out at the LAN certainly after it was unbound:
/// there must be none.
pub(super) fn stale<'a>(arrivals: &'a [Arrival], left: &'a [Left]) -> impl Iterator<Item = Arrival> + 'a {
    let is_stale = |arrival: &Arrival| {
        left.iter().any(|left| {
            let before = arrival.sent_ns + CERTAINLY_BEFORE_NS < left.decided_ms * 1_000_000;
            let after = arrival.arrived_ns > left.unbound_ms * 1_000_000 + CERTAINLY_AFTER_NS;
            before && after
        })
    };
    arrivals.iter().copied().filter(is_stale)
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn arrival(sequence: u64, sent_ms: u64, arrived_ms: u64) -> Arrival {
        Arrival { sequence, sent_ns: sent_ms * MS, arrived_ns: arrived_ms * MS }
    }

    fn record(arrivals: Vec<Arrival>) -> LaneRecord {
        LaneRecord { first: 10, sent_ns: (0..10).map(|n| n * MS).collect(), arrivals }
    }

    #[test]
    fn the_outage_is_the_longest_gap_that_ended_after_the_incident() {
        // A gap of 50 ms before the incident, one of 30 that it lies in, one of 7 behind.
        let all = [(10, 0), (11, 50), (12, 52), (15, 82), (16, 89)].map(|(n, at)| arrival(n, at, at));
        let seen = lane(&record(all.into()), 60 * MS);
        assert_eq!((seen.outage_ms, seen.lost), (30.0, 2), "13 and 14 never came");
        assert_eq!(lane(&record(Vec::new()), 0).lost, 10);
        let twice = [arrival(9, 0, 1), arrival(10, 0, 1), arrival(10, 0, 2)];
        assert_eq!(
            lane(&record(twice.into()), 0).lost,
            0,
            "a copy replaces nobody; 9 is older than the record"
        );
    }

    #[test]
    fn a_pause_of_the_bench_itself_is_seen() {
        let sent_ns = [0, 1, 2, 42, 43].map(|at| at * MS).into();
        let record = LaneRecord { first: 0, sent_ns, arrivals: Vec::new() };
        assert_eq!(lane(&record, MS).pause_ms, 40.0);
    }

    #[test]
    fn a_tcp_stall_is_the_longest_silence() {
        let arrived = [(0, 1), (10, 2), (310, 3), (320, 4)].map(|(at, total)| (at * MS, total)).into();
        let record = TcpRecord { written: 4, arrived, broken: None };
        assert_eq!(tcp_stall(&record, 20 * MS), 300.0);
    }

    /// I1, R1.1: a frame of an old binding that comes out after its unbind is found, and nothing else is.
    #[test]
    fn i1_a_forwarded_stale_frame_is_found() {
        let left = [Left { decided_ms: 1_000, unbound_ms: 1_030 }];
        let innocent = [
            arrival(1, 500, 525),   // sent before, came out before
            arrival(2, 890, 1_031), // within the slack of the ring and the log
            arrival(3, 950, 1_500), // may have waited in the client for the new path
            arrival(4, 1_010, 1_200),
        ];
        assert_eq!(stale(&innocent, &left).count(), 0);
        let late = arrival(5, 800, 1_043);
        let found: Vec<_> = stale(&[innocent[0], late], &left).collect();
        assert_eq!(found, [late]);
        assert_eq!(stale(&[late], &[]).count(), 0);
    }
}
