//! From what was recorded to what it means. Pure.

use std::collections::BTreeSet;

use jvpn_abi::wire::data::DATA_OVERHEAD;

use crate::peers::probes::{Arrival, PROBE_LEN};
use crate::peers::streams::{LaneRecord, TCP_OCTETS_PER_S, TcpRecord};

/// Octets of the Ethernet frame that carries a probe up a tunnel: outer and inner headers, DATA around the inner packet.
/// Nothing else that a client sends has this length.
const PROBE_FRAME_LEN: usize = 14 + 28 + DATA_OVERHEAD + 28 + PROBE_LEN;

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

/// Judges one direction of a client that had not come back by `until_ns`: the silence that found no end counts as far as it was
/// seen, and no probe is on its way any more.
pub(super) fn unended_lane(record: &LaneRecord, incident_ns: u64, until_ns: u64) -> Lane {
    let seen = lane(record, incident_ns);
    let last = record.arrivals.iter().map(|arrival| arrival.arrived_ns).max().unwrap_or(incident_ns);
    let arrived = record.arrivals.iter().filter(|arrival| arrival.sequence >= record.first);
    let numbers: BTreeSet<_> = arrived.map(|arrival| arrival.sequence).collect();
    Lane {
        outage_ms: seen.outage_ms.max(ms(until_ns.saturating_sub(last))),
        lost: (record.sent_ns.len() as u64).saturating_sub(numbers.len() as u64),
        ..seen
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

/// Payload of so many probes, octets.
pub(super) const fn probe_octets(probes: u64) -> u64 {
    probes * PROBE_LEN as u64
}

/// What the TCP stream writes in so many ms, octets.
pub(super) fn tcp_octets(ms: f64) -> f64 {
    ms / 1e3 * TCP_OCTETS_PER_S
}

/// Longest time without an octet of the TCP stream that ended after the incident, ms.
pub(super) fn tcp_stall(record: &TcpRecord, incident_ns: u64) -> f64 {
    let gaps = record.arrived.windows(2).filter(|pair| pair[1].0 >= incident_ns);
    ms(gaps.map(|pair| pair[1].0.saturating_sub(pair[0].0)).max().unwrap_or(0))
}

/// The same of a client that had not come back by `until_ns`.
pub(super) fn unended_stall(record: &TcpRecord, incident_ns: u64, until_ns: u64) -> f64 {
    let last = record.arrived.last().map_or(incident_ns, |(at, _)| *at);
    tcp_stall(record, incident_ns).max(ms(until_ns.saturating_sub(last)))
}

/// Probes that the emulator took off the old path, held back, and released after the switch, and that came out at the LAN
/// all the same: there must be none.
///
/// Which they were follows from numbers, not from moments, however late a process of a busy machine was: a tunnel keeps
/// the order of its packets, so the probes held are the ones behind the last that had come through when the client left
/// the path. `held` are the lengths of the frames, `left_ns` the moment of that.
pub(super) fn stale<'a>(
    record: &'a LaneRecord,
    held: &[usize],
    left_ns: u64,
) -> impl Iterator<Item = Arrival> + use<'a> {
    let count = held.iter().filter(|len| **len == PROBE_FRAME_LEN).count() as u64;
    let through = record.arrivals.iter().filter(|arrival| arrival.arrived_ns <= left_ns);
    let first = through.map(|arrival| arrival.sequence + 1).max().unwrap_or(record.first);
    record.arrivals.iter().copied().filter(move |arrival| (first..first + count).contains(&arrival.sequence))
}

/// From one moment to a later one, ms. Nothing is known if the later one came first: what was under way before an incident
/// was no answer to it, and 0 ms would be praise.
pub(super) fn span_ms(from: Option<u64>, to: Option<u64>) -> Option<f64> {
    to?.checked_sub(from?).map(ms)
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

    /// R8.1: whoever does not come back has the longest outage of all, not that of the moment before.
    #[test]
    fn r8_1_a_silence_without_an_end_counts_as_far_as_it_was_seen() {
        let before = [(10, 0), (11, 1), (11, 2)].map(|(n, at)| arrival(n, at, at));
        let silent = record(before.into());
        assert_eq!((lane(&silent, 60 * MS).outage_ms, lane(&silent, 60 * MS).lost), (0.0, 0));
        let seen = unended_lane(&silent, 60 * MS, 20_060 * MS);
        assert_eq!((seen.outage_ms, seen.lost), (20_058.0, 8), "two of ten came, one of them twice");
        let seen = unended_lane(&record(Vec::new()), 60 * MS, 20_060 * MS);
        assert_eq!((seen.outage_ms, seen.lost), (20_000.0, 10));
        // The other direction goes on, after a gap of its own.
        let goes_on = [(10, 0), (11, 70), (12, 20_059)].map(|(n, at)| arrival(n, at, at));
        assert_eq!(unended_lane(&record(goes_on.into()), 60 * MS, 20_060 * MS).outage_ms, 19_989.0);
        let tcp = TcpRecord { written: 4, arrived: [(0, 1), (10 * MS, 2)].into(), broken: None };
        assert_eq!((tcp_stall(&tcp, 20 * MS), unended_stall(&tcp, 20 * MS, 3_010 * MS)), (0.0, 3_000.0));
    }

    #[test]
    fn a_pause_of_the_bench_itself_is_seen() {
        let sent_ns = [0, 1, 2, 42, 43].map(|at| at * MS).into();
        let record = LaneRecord { first: 0, sent_ns, arrivals: Vec::new() };
        assert_eq!(lane(&record, MS).pause_ms, 40.0);
    }

    /// R8.1: what was decided before the incident is no detection within 0 ms.
    #[test]
    fn r8_1_a_decision_before_the_incident_is_no_detection() {
        assert_eq!(span_ms(Some(3 * MS), Some(5 * MS)), Some(2.0));
        assert_eq!(span_ms(Some(5 * MS), Some(3 * MS)), None);
        assert_eq!((span_ms(None, Some(MS)), span_ms(Some(MS), None)), (None, None));
    }

    #[test]
    fn a_tcp_stall_is_the_longest_silence() {
        let arrived = [(0, 1), (10, 2), (310, 3), (320, 4)].map(|(at, total)| (at * MS, total)).into();
        let record = TcpRecord { written: 4, arrived, broken: None };
        assert_eq!(tcp_stall(&record, 20 * MS), 300.0);
    }

    /// I1, R1.1: a frame of an old binding that comes out after its unbind is found, and nothing else is: not what had
    /// come through before, nor what waited in the client for the new path.
    #[test]
    fn i1_a_forwarded_stale_frame_is_found() {
        let probe = PROBE_FRAME_LEN;
        // 10 and 11 came through; 12, 13 and 14 were held, a piece of TCP among them; 15 waited for the new path.
        let held = [probe, 1_400, probe, probe];
        let innocent = [(10, 1), (11, 2), (15, 50), (16, 51)].map(|(n, at)| arrival(n, at, at));
        let mut record = record(innocent.into());
        assert_eq!(stale(&record, &held, 40 * MS).count(), 0);
        record.arrivals.push(arrival(14, 60, 60));
        let found: Vec<_> = stale(&record, &held, 40 * MS).map(|arrival| arrival.sequence).collect();
        assert_eq!(found, [14]);
        assert_eq!(stale(&record, &held[..2], 40 * MS).count(), 0, "14 was not held then: it waited");
    }
}
