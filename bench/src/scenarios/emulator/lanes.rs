//! What a lane does to frames, both ways at once: delay, jitter, loss, bursts, reordering, duplication, rate and queue,
//! blackhole, capacity; and that each way has its own.

use std::time::Duration;

use anyhow::{Result, ensure};
use jvpn_rig::emulator::{Burst, Direction, LaneCounters, LanePatch, Share};

use super::ends::word;
use super::{CLOCK_MS, Check, Lab, Seen, Volley};

/// Standard deviations that chance is granted.
const SIGMAS: f64 = 4.0;
const CHANCE: &str = "four standard deviations of chance";
const CHANCE_AND_CLOCK: &str = "four standard deviations of chance, and the clock";
const CLOCK: &str = "clock, timers and two extra hops";
/// Frames per second that one path must carry: twenty times what a client of the recovery bench sends.
const CAPACITY_PPS: f64 = 50_000.0;
/// The same in a build with every check in it.
const CAPACITY_DEBUG_PPS: f64 = 15_000.0;
/// Octets of Ethernet, IPv4 and UDP headers: they are on the line too.
const HEADERS: usize = 42;

pub(super) fn measure(lab: &Lab<'_>, checks: &mut Vec<Check>) -> Result<()> {
    for ms in [0, 5, 25, 75] {
        checks.extend(delay(lab, ms)?);
    }
    for part in [jitter, loss, bursts, reordering, duplication, asymmetry, rate, blackhole] {
        checks.extend(part(lab)?);
    }
    for way in Direction::BOTH {
        checks.push(capacity(lab, way)?);
    }
    Ok(())
}

fn share(percent: f64) -> Share {
    Share::from_percent(percent).unwrap_or_default()
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
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

fn delay(lab: &Lab<'_>, asked: u64) -> Result<Vec<Check>> {
    let patch = LanePatch { delay: Some(ms(asked)), ..LanePatch::default() };
    let mut checks = Vec::new();
    for (way, seen) in lab.fire_same(&patch, Volley::new(800, ms(1)))? {
        let ways = ways(&seen);
        ensure!(!ways.is_empty(), "no probe came over a path with a delay of {asked} ms");
        let note = format!(
            "p99 {:.3} ms, max {:.3} ms, spread p1–p99 {:.3} ms",
            at(&ways, 0.99),
            at(&ways, 1.0),
            at(&ways, 0.99) - at(&ways, 0.01)
        );
        let (name, found) = (format!("delay {asked} ms {}, median", word(way)), at(&ways, 0.5));
        let check = Check::near(name, "ms", (asked as f64, found), (CLOCK_MS, CLOCK), ways.len());
        checks.push(check.noting(note));
    }
    Ok(checks)
}

/// Evenly spread jitter: its mean is half of it, its standard deviation its length by the root of twelve.
fn jitter(lab: &Lab<'_>) -> Result<Vec<Check>> {
    let patch = LanePatch { delay: Some(ms(20)), jitter: Some(ms(10)), ..LanePatch::default() };
    let mut checks = Vec::new();
    // Further apart than the jitter is long, so that no probe waits for the one before it.
    for (way, seen) in lab.fire_same(&patch, Volley::new(240, ms(11)))? {
        let ways = ways(&seen);
        let count = ways.len().max(2) as f64;
        let mean = ways.iter().sum::<f64>() / count;
        let deviation = (ways.iter().map(|way| (way - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt();
        let wanted = 10.0 / 12_f64.sqrt();
        let note = format!("from {:.3} to {:.3} ms", at(&ways, 0.0), at(&ways, 1.0));
        let tolerance = SIGMAS * wanted / count.sqrt() + CLOCK_MS;
        let name = format!("jitter 10 ms {}, mean way", word(way));
        let check = Check::near(name, "ms", (25.0, mean), (tolerance, CHANCE_AND_CLOCK), ways.len());
        checks.push(check.noting(note));
        // The standard deviation of a uniform sample's deviation is about 0.45 of it by the root of the count.
        let tolerance = SIGMAS * 0.45 * wanted / count.sqrt() + CLOCK_MS;
        let name = format!("jitter 10 ms {}, deviation", word(way));
        checks.push(Check::near(name, "ms", (wanted, deviation), (tolerance, CHANCE_AND_CLOCK), ways.len()));
    }
    Ok(checks)
}

fn percent_lost(seen: &Seen) -> f64 {
    (1.0 - seen.arrived() / seen.sent.max(1) as f64) * 100.0
}

/// A share of the probes, in percent.
fn share_check(name: String, (asked, measured): (f64, f64), sent: u64) -> Check {
    let part = asked / 100.0;
    let sigma = (part * (1.0 - part) / sent.max(1) as f64).sqrt() * 100.0;
    Check::near(name, "%", (asked, measured), (SIGMAS * sigma, CHANCE), usize::try_from(sent).unwrap_or(0))
}

fn loss(lab: &Lab<'_>) -> Result<Vec<Check>> {
    let seen =
        lab.fire_same(&LanePatch::loss(share(10.0)), Volley::new(10_000, Duration::from_micros(180)))?;
    let check =
        |(way, seen)| share_check(format!("loss 10 % {}", word(way)), (10.0, percent_lost(&seen)), seen.sent);
    Ok(seen.into_iter().map(check).collect())
}

fn bursts(lab: &Lab<'_>) -> Result<Vec<Check>> {
    let burst = Burst { enter: share(2.0), leave: share(20.0), loss: Share::ALL };
    let patch = LanePatch { burst: Some(burst), ..LanePatch::default() };
    let mut checks = Vec::new();
    for (way, seen) in lab.fire_same(&patch, Volley::new(10_000, Duration::from_micros(180)))? {
        let mut numbers: Vec<_> = seen.arrivals.iter().map(|arrival| arrival.sequence).collect();
        numbers.sort_unstable();
        let gaps = numbers.windows(2).filter_map(|pair| match pair {
            [before, after] => after.checked_sub(before + 1).filter(|gap| *gap > 0),
            _ => None,
        });
        let gaps: Vec<_> = gaps.collect();
        let count = gaps.len().max(1) as f64;
        let mean = gaps.iter().sum::<u64>() as f64 / count;
        let wanted = burst.mean_loss() * 100.0;
        let samples = usize::try_from(seen.sent)?;
        // Lengths of bursts are geometric: their deviation is nearly their mean, and they are what the loss is made of.
        let tolerance = (wanted * SIGMAS * (2.0 / count).sqrt(), CHANCE);
        let name = format!("bursts {}, mean loss", word(way));
        checks.push(Check::near(name, "%", (wanted, percent_lost(&seen)), tolerance, samples));
        let tolerance = (5.0 * SIGMAS / count.sqrt(), CHANCE);
        let name = format!("bursts {}, mean length", word(way));
        checks.push(Check::near(name, "frames", (5.0, mean), tolerance, gaps.len()));
    }
    Ok(checks)
}

fn reordering(lab: &Lab<'_>) -> Result<Vec<Check>> {
    let patch = LanePatch { reorder: Some(share(5.0)), reorder_by: Some(ms(4)), ..LanePatch::default() };
    let mut checks = Vec::new();
    for (way, seen) in lab.fire_same(&patch, Volley::new(2_000, ms(1)))? {
        let mut highest = 0;
        let late = seen.arrivals.iter().filter(|arrival| {
            let is_late = arrival.sequence < highest;
            highest = highest.max(arrival.sequence);
            is_late
        });
        let late = Seen { arrivals: late.copied().collect(), ..Seen::default() };
        let count = seen.arrivals.len();
        let sigma = (0.05 * 0.95 / count.max(1) as f64).sqrt() * 100.0;
        let reordered = late.arrived() / count.max(1) as f64 * 100.0;
        // A probe that is held up with its neighbours is not overtaken by them: one in twenty of those that are.
        let tolerance = (SIGMAS * sigma + 0.5, "chance, and half a percent held up with their neighbours");
        checks.push(Check::near(
            format!("reordering 5 % {}", word(way)),
            "%",
            (5.0, reordered),
            tolerance,
            count,
        ));
        let (name, held_up) = (format!("reordering by 4 ms {}, median", word(way)), at(&ways(&late), 0.5));
        checks.push(Check::near(name, "ms", (4.0, held_up), (CLOCK_MS, CLOCK), late.arrivals.len()));
    }
    Ok(checks)
}

fn duplication(lab: &Lab<'_>) -> Result<Vec<Check>> {
    let patch = LanePatch { duplicate: Some(share(5.0)), ..LanePatch::default() };
    let seen = lab.fire_same(&patch, Volley::new(5_000, Duration::from_micros(200)))?;
    let check = |(way, seen): (Direction, Seen)| {
        let more = seen.arrived() / seen.sent.max(1) as f64 * 100.0 - 100.0;
        share_check(format!("duplication 5 % {}", word(way)), (5.0, more), seen.sent)
    };
    Ok(seen.into_iter().map(check).collect())
}

/// Another delay and another loss each way, at the same time.
fn asymmetry(lab: &Lab<'_>) -> Result<Vec<Check>> {
    let asked = [(10, 5.0), (40, 20.0)];
    let patches = asked.map(|(delay, loss)| LanePatch {
        delay: Some(ms(delay)),
        loss: Some(share(loss)),
        ..LanePatch::default()
    });
    let volley = Some(Volley::new(5_000, Duration::from_micros(200)));
    let seen = lab.fire(patches, [volley, volley])?;
    let mut checks = Vec::new();
    for ((way, seen), (delay, loss)) in Direction::BOTH.into_iter().zip(seen).zip(asked) {
        let (ways, word) = (ways(&seen), word(way));
        let name = format!("asymmetry, {delay} ms {word}, median");
        checks.push(Check::near(name, "ms", (delay as f64, at(&ways, 0.5)), (CLOCK_MS, CLOCK), ways.len()));
        let name = format!("asymmetry, {loss} % lost {word}");
        checks.push(share_check(name, (loss, percent_lost(&seen)), seen.sent));
    }
    Ok(checks)
}

/// A line of 10 Mbit/s that is offered 25: what comes out, how long its queue gets, and what that drops.
fn rate(lab: &Lab<'_>) -> Result<Vec<Check>> {
    const MBIT_S: f64 = 10.0;
    const QUEUE_MS: f64 = 50.0;
    let patch = LanePatch { rate_bit_s: Some(10_000_000), queue: Some(ms(50)), ..LanePatch::default() };
    let volley = Volley { len: 1_200, ..Volley::new(4_000, Duration::from_micros(400)) };
    let of = |way: Direction| -> LaneCounters {
        let counters = lab.relay().counters();
        if way == Direction::Up { counters.up } else { counters.down }
    };
    let before = Direction::BOTH.map(of);
    let mut checks = Vec::new();
    for ((way, seen), before) in lab.fire_same(&patch, volley)?.into_iter().zip(before) {
        let (word, samples) = (word(way), seen.arrivals.len());
        let times = seen.arrivals.iter().map(|arrival| arrival.arrived_ns);
        let (first, last) = (times.clone().min().unwrap_or(0), times.max().unwrap_or(1));
        let bits = ((volley.len + HEADERS) * 8) as f64;
        let found = (seen.arrived() - 1.0) * bits / last.saturating_sub(first).max(1) as f64 * 1e3;
        let tolerance = (MBIT_S * 0.02, "2 %: the clock over the span of the volley");
        let check = Check::near(
            format!("rate 10 Mbit/s of 25 {word}"),
            "Mbit/s",
            (MBIT_S, found),
            tolerance,
            samples,
        );
        checks.push(check.noting(format!("{} offered", seen.sent)));
        // A frame is taken while less than the queue is before it, and is on the line itself for a while.
        let frame_ms = bits / MBIT_S / 1e3;
        let ways = ways(&seen);
        let tolerance = (frame_ms + CLOCK_MS, "one frame's time on the line, and the clock");
        let name = format!("queue 50 ms {word}, longest wait");
        let check = Check::near(name, "ms", (QUEUE_MS + frame_ms, at(&ways, 0.95)), tolerance, samples);
        checks.push(check.noting(format!("95th percentile; max {:.3} ms", at(&ways, 1.0))));
        // What the line sends while it is fed, and what the queue still holds then, gets through.
        let through = (seen.span.as_secs_f64() * 1e3 + QUEUE_MS) / frame_ms + 1.0;
        let dropped = (of(way).queue_full - before.queue_full) as f64;
        let asked = seen.sent as f64 - through;
        let tolerance = (through * 0.01 + 2.0, "1 % of what gets through, and a frame at either end");
        checks.push(Check::near(
            format!("queue 50 ms {word}, dropped"),
            "frames",
            (asked, dropped),
            tolerance,
            samples,
        ));
        let missing = seen.sent as f64 - seen.arrived();
        checks.push(Check::same(
            format!("queue 50 ms {word}, drops counted"),
            "frames",
            (missing, dropped),
            samples,
        ));
    }
    Ok(checks)
}

fn blackhole(lab: &Lab<'_>) -> Result<Vec<Check>> {
    let seen = lab.fire_same(&LanePatch::blackhole(), Volley::new(500, Duration::from_micros(200)))?;
    let check = |(way, seen): (Direction, Seen)| {
        let name = format!("blackhole {}, arrivals", word(way));
        Check::same(name, "frames", (0.0, seen.arrived()), usize::try_from(seen.sent).unwrap_or(0))
    };
    Ok(seen.into_iter().map(check).collect())
}

fn capacity(lab: &Lab<'_>, way: Direction) -> Result<Check> {
    let before = lab.relay().lateness();
    let volley = Volley { wait: ms(400), ..Volley::new(120_000, Duration::ZERO) };
    let volleys = Direction::BOTH.map(|one| (one == way).then_some(volley));
    let [up, down] = lab.fire([LanePatch::default(), LanePatch::default()], volleys)?;
    let seen = if way == Direction::Up { up } else { down };
    let times = seen.arrivals.iter().map(|arrival| arrival.arrived_ns);
    let (first, last) = (times.clone().min().unwrap_or(0), times.max().unwrap_or(1));
    let measured = seen.arrived() / last.saturating_sub(first).max(1) as f64 * 1e9;
    let asked = if cfg!(debug_assertions) { CAPACITY_DEBUG_PPS } else { CAPACITY_PPS };
    let (lost, dropped) = (percent_lost(&seen), lab.relay().lateness().dropped - before.dropped);
    Ok(Check {
        name: format!("capacity of a path {}", word(way)),
        asked,
        measured,
        tolerance: 0.0,
        unit: "frames/s",
        samples: seen.arrivals.len(),
        holds: measured >= asked,
        because: "at least is asked",
        note: format!("{lost:.2} % lost, {dropped} dropped by the emulator; at least is asked"),
    })
}
