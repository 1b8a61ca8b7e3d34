//! A script: what changes at its moments, for as long as it says, each way by itself, and again when it repeats.

use std::time::Duration;

use anyhow::{Result, ensure};
use jvpn_rig::Uplink;

use super::ends::Ends;
use super::{CLOCK_MS, Check, Lab, Seen, Volley};

/// The path. Its parts are read off again by what probes see.
pub(super) const PROFILE: &str = r#"
name = "self-test"
about = "a path that changes, for the emulator's self-test"
repeat = "800ms"

[[change]]
after = "300ms"
lasts = "150ms"
up = { blackhole = true }

[[change]]
after = "500ms"
lasts = "200ms"
down = { delay = "20ms" }
"#;

/// From one probe to the next.
const EVERY: Duration = Duration::from_millis(1);
/// Three rounds and more, wherever in one it begins.
const PROBES: u64 = 3_300;
/// A way of so many ms is one with the delay. Frames keep their order, so those behind the last one wait for it.
const DELAYED_MS: f64 = 19.5;
const DENSE: &str = "a probe's distance at either edge, and the clock";

/// From when to when, ms.
type Span = (f64, f64);

pub(super) fn measure(lab: &Lab<'_>) -> Result<Vec<Check>> {
    let ends = Ends::open(lab.rig, &lab.other, Uplink::B)?;
    // Neighbours must know each other, whatever the script does at the moment.
    ends.fire([Some(Volley::new(20, Duration::from_millis(5))); 2])?;
    let [up, down] = ends.fire([Some(Volley::new(PROBES, EVERY)); 2])?;
    lab.other.path(Uplink::B).check()?;
    let (gaps, slow) = (gaps(&up), slow(&down));
    ensure!(gaps.len() >= 2 && slow.len() >= 2, "the script did not repeat: {gaps:?}, {slow:?}");
    let tolerance = 2.0 * EVERY.as_secs_f64() * 1e3 + CLOCK_MS;
    let check = |name: &str, asked: f64, measured: Vec<f64>| {
        let (count, name) = (measured.len(), format!("script, {name}"));
        let note = format!("{measured:.1?}");
        Check::near(name, "ms", (asked, median(measured)), (tolerance, DENSE), count).noting(note)
    };
    let lengths = |spans: &[Span]| spans.iter().map(|(from, to)| to - from).collect::<Vec<_>>();
    let rounds = |spans: &[Span]| spans.iter().zip(spans.iter().skip(1)).map(|(a, b)| b.0 - a.0).collect();
    let between = gaps.iter().filter_map(|gap| {
        let next = slow.iter().find(|one| one.0 > gap.0 && one.0 < gap.0 + 700.0)?;
        Some(next.0 - gap.0)
    });
    Ok(vec![
        check("blackhole up lasts", 150.0, lengths(&gaps)),
        check("blackhole up repeats after", 800.0, rounds(&gaps)),
        check("delay down lasts", 200.0, lengths(&slow)),
        check("delay down repeats after", 800.0, rounds(&slow)),
        check("from the one to the other", 200.0, between.collect()),
    ])
}

/// When probes were sent that did not arrive, longer than for a moment: whole ones, in the middle between the probes.
fn gaps(seen: &Seen) -> Vec<Span> {
    let mut sent: Vec<_> = seen.arrivals.iter().map(|arrival| arrival.sent_ns as f64 / 1e6).collect();
    sent.sort_by(f64::total_cmp);
    let pairs = sent.iter().zip(sent.iter().skip(1)).filter(|(before, after)| *after - *before > 50.0);
    let half = EVERY.as_secs_f64() * 1e3 / 2.0;
    pairs.map(|(before, after)| (before + half, after - half)).collect()
}

/// When probes were sent that took longer: those spans of which both ends were seen.
fn slow(seen: &Seen) -> Vec<Span> {
    let mut probes: Vec<_> = seen
        .arrivals
        .iter()
        .map(|arrival| {
            let way = (arrival.arrived_ns as f64 - arrival.sent_ns as f64) / 1e6;
            (arrival.sent_ns as f64 / 1e6, way > DELAYED_MS)
        })
        .collect();
    probes.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half = EVERY.as_secs_f64() * 1e3 / 2.0;
    let (mut spans, mut begun) = (Vec::new(), None);
    for ((before, was), (after, is)) in probes.iter().zip(probes.iter().skip(1)) {
        match (was, is) {
            (false, true) => begun = Some(after - half),
            (true, false) => spans.extend(begun.take().map(|from: f64| (from, before + half))),
            (true, true) | (false, false) => {}
        }
    }
    // A machine that stalls for a moment makes others slow, too.
    spans.retain(|(from, to)| to - from > 50.0);
    spans
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::probes::Arrival;
    use jvpn_rig::emulator::Profile;

    /// A second of probes of which those that `way` gives none are lost; ms.
    fn seen(way: impl Fn(u64) -> Option<u64>) -> Seen {
        let arrival = |ms: u64| {
            let sent_ns = ms * 1_000_000;
            Some(Arrival { sequence: ms, sent_ns, arrived_ns: sent_ns + way(ms)? * 1_000_000 })
        };
        Seen { arrivals: (0..1_000).filter_map(arrival).collect(), ..Seen::default() }
    }

    /// R8.4: spans are read off between the probes; one that was under way at the beginning does not count.
    #[test]
    fn r8_4_spans_are_read_off() {
        Profile::parse(PROFILE).unwrap();
        assert_eq!(gaps(&seen(|ms| (!(100..250).contains(&ms) && ms != 700).then_some(0))), [(99.5, 249.5)]);
        let slow = slow(&seen(|ms| Some(if ms < 80 || (100..300).contains(&ms) { 20 } else { 0 })));
        assert_eq!(slow, [(99.5, 299.5)]);
        assert_eq!((median(vec![3.0, 1.0, 2.0]), median(vec![]).is_nan()), (2.0, true));
    }
}
