//! What is asked of the emulator, and how far chance may lead away from it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use jvpn_rig::Uplink;
use jvpn_rig::emulator::{Burst, LanePatch, Share};

use super::super::progress::Progress;
use super::{Check, Lab, Seen, Volley};

/// Error of clocks, timers and two extra hops, ms.
const CLOCK_MS: f64 = 0.3;
/// Standard deviations that chance is granted.
const SIGMAS: f64 = 4.0;
/// Frames per second that one path must carry: twenty times what a client of the recovery bench sends.
const CAPACITY_PPS: f64 = 50_000.0;
/// The same in a build with every check in it.
const CAPACITY_DEBUG_PPS: f64 = 15_000.0;

type Question = fn(&Lab<'_>) -> Result<Vec<Check>>;

/// All of them, one after the other.
const QUESTIONS: [Question; 11] = [
    |lab| Ok(vec![delay(lab, 0)?]),
    |lab| Ok(vec![delay(lab, 5)?]),
    |lab| Ok(vec![delay(lab, 25)?]),
    |lab| Ok(vec![delay(lab, 75)?]),
    |lab| Ok(jitter(lab)?.into()),
    |lab| Ok(vec![loss(lab)?]),
    |lab| Ok(bursts(lab)?.into()),
    |lab| Ok(shuffling(lab)?.into()),
    |lab| Ok(vec![rate(lab)?]),
    |lab| Ok(vec![blackhole(lab)?]),
    |lab| Ok(vec![capacity(lab)?]),
];

pub(super) fn all(lab: &Lab<'_>, progress: &mut Progress) -> Result<Vec<Check>> {
    let (mut checks, began) = (Vec::new(), Instant::now());
    for (number, question) in QUESTIONS.into_iter().enumerate() {
        checks.extend(question(lab)?);
        progress.step("checks", number + 1, QUESTIONS.len(), began);
    }
    Ok(checks)
}

fn share(percent: f64) -> Share {
    Share::from_percent(percent).unwrap_or_default()
}

/// Ways of the probes, ms, shortest first.
fn ways(seen: &Seen) -> Vec<f64> {
    let way =
        |arrival: &crate::peers::probes::Arrival| (arrival.arrived_ns as f64 - arrival.sent_ns as f64) / 1e6;
    let mut ways: Vec<_> = seen.arrivals.iter().map(way).collect();
    ways.sort_by(f64::total_cmp);
    ways
}

fn at(sorted: &[f64], quantile: f64) -> f64 {
    let index = (sorted.len().saturating_sub(1) as f64 * quantile).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

fn near(
    name: impl Into<String>,
    unit: &'static str,
    (asked, measured, tolerance): (f64, f64, f64),
    samples: usize,
    note: String,
) -> Check {
    let holds = (measured - asked).abs() <= tolerance;
    Check { name: name.into(), asked, measured, tolerance, unit, samples, holds, note }
}

fn delay(lab: &Lab<'_>, ms: u64) -> Result<Check> {
    let patch = LanePatch { delay: Some(Duration::from_millis(ms)), ..LanePatch::default() };
    let seen = lab.fire(patch, Volley::new(1_500, Duration::from_millis(1)))?;
    let ways = ways(&seen);
    ensure!(!ways.is_empty(), "no probe came over a path with a delay of {ms} ms");
    let note = format!(
        "p99 {:.3} ms, max {:.3} ms, spread p1–p99 {:.3} ms",
        at(&ways, 0.99),
        at(&ways, 1.0),
        at(&ways, 0.99) - at(&ways, 0.01)
    );
    Ok(near(format!("delay {ms} ms, median"), "ms", (ms as f64, at(&ways, 0.5), CLOCK_MS), ways.len(), note))
}

/// Evenly spread jitter: its mean is half of it, its standard deviation its length by the root of twelve.
fn jitter(lab: &Lab<'_>) -> Result<[Check; 2]> {
    let ms = Duration::from_millis;
    let patch = LanePatch { delay: Some(ms(20)), jitter: Some(ms(10)), ..LanePatch::default() };
    // Further apart than the jitter is long, so that no probe waits for the one before it.
    let seen = lab.fire(patch, Volley::new(500, ms(11)))?;
    let ways = ways(&seen);
    let count = ways.len().max(2) as f64;
    let mean = ways.iter().sum::<f64>() / count;
    let deviation = (ways.iter().map(|way| (way - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt();
    let wanted = 10.0 / 12_f64.sqrt();
    let note = format!("from {:.3} to {:.3} ms", at(&ways, 0.0), at(&ways, 1.0));
    Ok([
        near(
            "jitter 10 ms, mean way",
            "ms",
            (25.0, mean, SIGMAS * wanted / count.sqrt() + CLOCK_MS),
            ways.len(),
            note,
        ),
        // The standard deviation of a uniform sample's deviation is about 0.45 of it by the root of the count.
        near(
            "jitter 10 ms, deviation",
            "ms",
            (wanted, deviation, SIGMAS * 0.45 * wanted / count.sqrt() + CLOCK_MS),
            ways.len(),
            String::new(),
        ),
    ])
}

fn percent_lost(seen: &Seen) -> f64 {
    (1.0 - seen.arrivals.len() as f64 / seen.sent.max(1) as f64) * 100.0
}

fn loss(lab: &Lab<'_>) -> Result<Check> {
    let seen = lab.fire(LanePatch::loss(share(10.0)), Volley::new(20_000, Duration::from_micros(150)))?;
    let sigma = (0.1 * 0.9 / seen.sent.max(1) as f64).sqrt() * 100.0;
    let samples = usize::try_from(seen.sent)?;
    Ok(near("loss 10 %", "%", (10.0, percent_lost(&seen), SIGMAS * sigma), samples, String::new()))
}

fn bursts(lab: &Lab<'_>) -> Result<[Check; 2]> {
    let burst = Burst { enter: share(2.0), leave: share(20.0), loss: Share::ALL };
    let patch = LanePatch { burst: Some(burst), ..LanePatch::default() };
    let seen = lab.fire(patch, Volley::new(20_000, Duration::from_micros(150)))?;
    let mut numbers: Vec<_> = seen.arrivals.iter().map(|arrival| arrival.sequence).collect();
    numbers.sort_unstable();
    let gaps: Vec<_> = numbers.windows(2).map(|pair| pair[1] - pair[0] - 1).filter(|gap| *gap > 0).collect();
    let count = gaps.len().max(1) as f64;
    let mean = gaps.iter().sum::<u64>() as f64 / count;
    let wanted = burst.mean_loss() * 100.0;
    let samples = usize::try_from(seen.sent)?;
    // Lengths of bursts are geometric: their deviation is nearly their mean, and they are what the loss is made of.
    let relative = SIGMAS * (2.0 / count).sqrt();
    Ok([
        near(
            "bursts, mean loss",
            "%",
            (wanted, percent_lost(&seen), wanted * relative),
            samples,
            String::new(),
        ),
        near(
            "bursts, mean length",
            "frames",
            (5.0, mean, 5.0 * SIGMAS / count.sqrt()),
            gaps.len(),
            String::new(),
        ),
    ])
}

fn shuffling(lab: &Lab<'_>) -> Result<[Check; 2]> {
    let ms = Duration::from_millis;
    let reorder = LanePatch { reorder: Some(share(5.0)), reorder_by: Some(ms(4)), ..LanePatch::default() };
    let seen = lab.fire(reorder, Volley::new(5_000, Duration::from_millis(1)))?;
    let mut highest = 0;
    let late = seen.arrivals.iter().filter(|arrival| {
        let is_late = arrival.sequence < highest;
        highest = highest.max(arrival.sequence);
        is_late
    });
    let count = seen.arrivals.len();
    let sigma = (0.05 * 0.95 / count.max(1) as f64).sqrt() * 100.0;
    let reordered = late.count() as f64 / count.max(1) as f64 * 100.0;
    let duplicate = LanePatch { duplicate: Some(share(5.0)), ..LanePatch::default() };
    let twice = lab.fire(duplicate, Volley::new(5_000, Duration::from_micros(200)))?;
    let more = twice.arrivals.len() as f64 / twice.sent.max(1) as f64 * 100.0 - 100.0;
    Ok([
        // A probe that is held up with its neighbours is not overtaken by them: one in twenty of those that are.
        near("reordering 5 %", "%", (5.0, reordered, SIGMAS * sigma + 0.5), count, String::new()),
        near(
            "duplication 5 %",
            "%",
            (5.0, more, SIGMAS * sigma),
            usize::try_from(twice.sent)?,
            String::new(),
        ),
    ])
}

fn rate(lab: &Lab<'_>) -> Result<Check> {
    let patch = LanePatch {
        rate_bit_s: Some(10_000_000),
        queue: Some(Duration::from_millis(50)),
        ..LanePatch::default()
    };
    let volley = Volley { count: 5_000, interval: Duration::from_micros(400), len: 1_200 };
    let seen = lab.fire(patch, volley)?;
    let times = seen.arrivals.iter().map(|arrival| arrival.arrived_ns);
    let (first, last) = (times.clone().min().unwrap_or(0), times.max().unwrap_or(1));
    // Ethernet, IPv4 and UDP headers are on the line too.
    let bits = seen.arrivals.len().saturating_sub(1) as f64 * (1_200.0 + 42.0) * 8.0;
    let mbit_s = bits / (last - first).max(1) as f64 * 1e3;
    let note = format!("{} offered", seen.sent);
    Ok(near("rate 10 Mbit/s of 25 offered", "Mbit/s", (10.0, mbit_s, 0.2), seen.arrivals.len(), note))
}

fn blackhole(lab: &Lab<'_>) -> Result<Check> {
    let seen = lab.fire(LanePatch::blackhole(), Volley::new(500, Duration::from_micros(200)))?;
    let samples = usize::try_from(seen.sent)?;
    Ok(near("blackhole, arrivals", "frames", (0.0, seen.arrivals.len() as f64, 0.0), samples, String::new()))
}

fn capacity(lab: &Lab<'_>) -> Result<Check> {
    let before = lab.site.path(Uplink::A).lateness();
    let seen = lab.fire(LanePatch::default(), Volley::new(300_000, Duration::ZERO))?;
    let times = seen.arrivals.iter().map(|arrival| arrival.arrived_ns);
    let (first, last) = (times.clone().min().unwrap_or(0), times.max().unwrap_or(1));
    let pps = seen.arrivals.len() as f64 / (last - first).max(1) as f64 * 1e9;
    let asked = if cfg!(debug_assertions) { CAPACITY_DEBUG_PPS } else { CAPACITY_PPS };
    let after = lab.site.path(Uplink::A).lateness();
    let (lost, dropped) = (percent_lost(&seen), after.dropped - before.dropped);
    let note = format!("{lost:.2} % lost, {dropped} dropped by the emulator; at least is asked");
    let (samples, holds) = (seen.arrivals.len(), pps >= asked);
    Ok(Check {
        name: "capacity of a path".to_owned(),
        asked,
        measured: pps,
        tolerance: 0.0,
        unit: "frames/s",
        samples,
        holds,
        note,
    })
}
