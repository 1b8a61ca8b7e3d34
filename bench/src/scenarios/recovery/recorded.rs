//! One recovery, packet by packet.

use serde::{Deserialize, Serialize};

use super::cause::Cause;
use super::record::Trial;
use crate::peers::streams::{LaneRecord, Record};

/// What is kept before the incident and behind the end of the outage, ms.
const BEFORE_MS: f64 = 60.0;
const AFTER_MS: f64 = 120.0;
/// Longest that is kept: a plot of more shows nothing.
const KEPT_MS: f64 = 6_000.0;

/// The probes of one trial around its outage. Moments are ms from the incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Recorded {
    /// What happened.
    pub(super) cause: Cause,
    /// Emulated round-trip time, ms.
    pub(super) rtt_ms: u64,
    /// Which trial.
    pub(super) incident: u32,
    /// Which client.
    pub(super) client: u8,
    /// Its outage, ms.
    pub(super) outage_ms: f64,
    /// From the incident to the decision, ms.
    pub(super) detect_ms: Option<f64>,
    /// From the decision to the new binding, ms.
    pub(super) reattach_ms: Option<f64>,
    /// From client to LAN: when each probe was sent, and when it arrived.
    pub(super) up: Vec<(f64, Option<f64>)>,
    /// From LAN to client.
    pub(super) down: Vec<(f64, Option<f64>)>,
}

impl Recorded {
    pub(super) fn new(trial: &Trial, record: &Record, at_ns: u64) -> Self {
        let end = (trial.outage_ms + trial.detect_ms.unwrap_or_default() + AFTER_MS).min(KEPT_MS);
        Self {
            cause: trial.cause,
            rtt_ms: trial.rtt_ms,
            incident: trial.incident,
            client: trial.client,
            outage_ms: trial.outage_ms,
            detect_ms: trial.detect_ms,
            reattach_ms: trial.reattach_ms,
            up: probes(&record.up, at_ns, end),
            down: probes(&record.down, at_ns, end),
        }
    }
}

fn probes(record: &LaneRecord, at_ns: u64, end_ms: f64) -> Vec<(f64, Option<f64>)> {
    // A µs is enough for a plot, and keeps the file small.
    let relative = |ns: u64| ((ns as f64 - at_ns as f64) / 1e3).round() / 1e3;
    let mut probes: Vec<_> = record.sent_ns.iter().map(|sent| (relative(*sent), None)).collect();
    for arrival in &record.arrivals {
        let index = arrival.sequence.checked_sub(record.first).and_then(|index| usize::try_from(index).ok());
        if let Some((_, place)) = index.and_then(|index| probes.get_mut(index)) {
            place.get_or_insert(relative(arrival.arrived_ns));
        }
    }
    // What was sent last may still have been on its way.
    let arrived = probes.iter().rposition(|(_, arrived)| arrived.is_some()).map_or(0, |last| last + 1);
    probes.truncate(arrived);
    probes.retain(|(sent, _)| (-BEFORE_MS..=end_ms).contains(sent));
    probes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::probes::Arrival;

    #[test]
    fn probes_are_paired_with_their_arrivals() {
        let ms = |ms: u64| ms * 1_000_000;
        let arrival = |sequence, at| Arrival { sequence, sent_ns: 0, arrived_ns: ms(at) };
        let record = LaneRecord {
            first: 5,
            sent_ns: vec![ms(100), ms(200), ms(201), ms(202), ms(900)],
            arrivals: vec![arrival(4, 190), arrival(6, 225), arrival(8, 227), arrival(8, 230)],
        };
        let wanted = vec![(0.0, Some(25.0)), (1.0, None), (2.0, Some(27.0))];
        assert_eq!(probes(&record, ms(200), 100.0), wanted);
    }
}
