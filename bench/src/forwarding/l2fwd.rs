//! `jvpn-bench l2fwd`: our worker against plain AF_XDP forwarding.

use super::lab::{Forwarder, Lab, Outcome, Setting};
use super::{Direction, Pace, median};
use crate::environment::Environment;
use crate::result::Ending;
use crate::run_dir::RunDir;
use crate::{page, timeline};
use anyhow::{Context as _, Result, ensure};
use clap::{Args, value_parser};
use jvpn_dataplane::tuning::Tuning;
use jvpn_rig::Interrupt;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// CPU seconds per second of a thread that does nothing but forward.
const SATURATED: f64 = 0.95;
/// Our packets per second ÷ those of plain forwarding that are aimed at.
const AIM: f64 = 0.90;

/// Compares rounds that follow each other: plain, ours, plain, ours …
///
/// A generator on one CPU makes packets as fast as it can: sealed DATA of one session for the WAN port, plain packets for
/// the LAN port. The kernel counts what comes out at the other side. Plain forwarding is given the same packets, moves
/// them from ring to ring with a new destination address, and has an XDP program of five instructions.
#[derive(Clone, Debug, Args)]
pub struct L2fwdArgs {
    /// Rounds of each measurement; the median counts.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = value_parser!(u32).range(5..=101))]
    rounds: u32,
    /// Milliseconds of each round.
    #[arg(long, default_value_t = 1_000, value_name = "MS", value_parser = value_parser!(u64).range(100..=60_000))]
    window_ms: u64,
    /// Octets of the inner packets.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 512, 1_400], value_name = "N,N,…",
        value_parser = value_parser!(u16).range(64..=1_400))]
    sizes: Vec<u16>,
    /// CPU of the worker, and of plain forwarding.
    #[arg(long, default_value_t = 1, value_name = "CPU")]
    worker_cpu: usize,
    /// CPU of the generator.
    #[arg(long, default_value_t = 0, value_name = "CPU")]
    generator_cpu: usize,
    /// Prints one JSON document with every round instead of a table.
    #[arg(long)]
    json: bool,
    /// Where result, report and summary go.
    #[arg(long, default_value = "target/l2fwd", value_name = "DIR")]
    out: PathBuf,
}

/// Title of its pages.
const TITLE: &str = "Jumping VPN: our worker against plain forwarding";

/// One comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Ratio {
    direction: Direction,
    size: u16,
    plain_pps: f64,
    ours_pps: f64,
    ratio: f64,
    /// Every round, in order.
    plain_rounds: Vec<f64>,
    /// Every round, in order.
    ours_rounds: Vec<f64>,
    /// CPU seconds of our worker's thread per second, median.
    ours_worker_cpu: f64,
    /// The same of the thread that forwards plainly.
    plain_worker_cpu: f64,
    /// CPU time per packet of plain forwarding ÷ that of ours: where the generator was the limit, rates say less than this.
    /// Both have smaller batches then, and idle turns of their loops, so it is no rate either.
    cpu_ratio: Option<f64>,
    /// Whether plain forwarding used its CPU up; else the generator was the limit, and `ratio` is not that of two limits.
    is_plain_at_its_limit: bool,
}

impl Ratio {
    /// In a word: a miss is one whatever the limit was; that the aim is met is not shown where plain could have done more.
    const fn verdict(&self) -> &'static str {
        if self.ratio < AIM {
            "MISS"
        } else if self.is_plain_at_its_limit {
            "met"
        } else {
            "generator's limit"
        }
    }
}

/// The result.
#[derive(Debug, Serialize)]
struct Report<'a> {
    scenario: &'static str,
    /// Always `null`: no gateway runs, so nothing is there to judge.
    valid: Option<bool>,
    #[serde(flatten)]
    ending: Ending,
    rounds: u32,
    too_few: Option<&'static str>,
    window_ms: u64,
    worker_cpu: usize,
    generator_cpu: usize,
    aim_ratio: f64,
    environment: Environment,
    ratios: &'a [Ratio],
}

impl<'a> Report<'a> {
    fn new(args: &L2fwdArgs, environment: Environment, ratios: &'a [Ratio], measured: &Result<()>) -> Self {
        let least = ratios.iter().map(|ratio| ratio.ours_rounds.len()).min().unwrap_or_default();
        Self {
            scenario: "l2fwd",
            valid: None,
            ending: Ending::of(measured),
            rounds: args.rounds,
            too_few: page::too_few_of(least),
            window_ms: args.window_ms,
            worker_cpu: args.worker_cpu,
            generator_cpu: args.generator_cpu,
            aim_ratio: AIM,
            environment,
            ratios,
        }
    }
}

/// Measures and prints.
///
/// # Errors
/// The network cannot be made, nothing comes out, or interrupted; what was measured is kept.
pub fn run(args: &L2fwdArgs, interrupt: Interrupt) -> Result<()> {
    let mut dir = RunDir::begin(&args.out)?;
    let lab = Lab::create(interrupt)?;
    let mut ratios = Vec::new();
    let mut pace = Pace::new(2 * args.sizes.len() * args.rounds as usize);
    let measured = (|| {
        for direction in [Direction::Decrypt, Direction::Encrypt] {
            for size in &args.sizes {
                compare(&lab, args, (direction, *size), &mut ratios, &mut pace)?;
            }
        }
        Ok(())
    })();
    let result = Report::new(args, lab.environment(), &ratios, &measured);
    dir.conclude(TITLE, &result, measured)?;
    if args.json {
        timeline::print(&serde_json::to_string_pretty(&result)?);
        return Ok(());
    }
    timeline::print(
        "| Direction | Octets | Plain, kpps | Ours, kpps | Ratio | Worker's CPU, plain / ours | CPU per packet, ratio | |",
    );
    timeline::print("|---|---|---|---|---|---|---|---|");
    for row in &ratios {
        timeline::print(&format!(
            "| {:?} | {} | {:.0} | {:.0} | {:.2} | {:.2} / {:.2} | {} | {} |",
            row.direction,
            row.size,
            row.plain_pps / 1e3,
            row.ours_pps / 1e3,
            row.ratio,
            row.plain_worker_cpu,
            row.ours_worker_cpu,
            row.cpu_ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}")),
            row.verdict()
        ));
    }
    Ok(())
}

/// One comparison; of one that is broken off its whole rounds are kept.
fn compare(
    lab: &Lab,
    args: &L2fwdArgs,
    (direction, size): (Direction, u16),
    ratios: &mut Vec<Ratio>,
    pace: &mut Pace,
) -> Result<()> {
    let setting = |forwarder| Setting {
        direction,
        size: usize::from(size),
        forwarder,
        worker_cpu: args.worker_cpu,
        generator_cpu: args.generator_cpu,
        window: Duration::from_millis(args.window_ms),
    };
    let (mut plain, mut ours) = (Vec::new(), Vec::new());
    let measured = (0..args.rounds).try_for_each(|round| {
        let theirs = lab.measure(&setting(Forwarder::Plain)).context("plain forwarding")?;
        let own = lab.measure(&setting(Forwarder::Ours(Tuning::default()))).context("our worker")?;
        ensure!(
            theirs.pps > 0.0 && own.pps > 0.0,
            "nothing came out in round {round} ({direction:?}, {size} octets)"
        );
        plain.push(theirs);
        ours.push(own);
        pace.next();
        Ok(())
    });
    ratios.extend(ratio((direction, size), &plain, &ours));
    measured
}

/// What the rounds of a comparison amount to; nothing without any.
fn ratio((direction, size): (Direction, u16), plain: &[Outcome], ours: &[Outcome]) -> Option<Ratio> {
    if plain.is_empty() || ours.is_empty() {
        return None;
    }
    let rates = |of: &[Outcome]| of.iter().map(|outcome| outcome.pps).collect::<Vec<f64>>();
    let times = |of: &[Outcome]| of.iter().map(|outcome| outcome.worker_cpu).collect::<Vec<f64>>();
    let (plain_rounds, ours_rounds) = (rates(plain), rates(ours));
    let (plain_pps, ours_pps) = (median(&plain_rounds), median(&ours_rounds));
    let (ours_worker_cpu, plain_worker_cpu) = (median(&times(ours)), median(&times(plain)));
    let of_ours = ours_worker_cpu / ours_pps;
    Some(Ratio {
        direction,
        size,
        plain_pps,
        ours_pps,
        ratio: ours_pps / plain_pps,
        plain_rounds,
        ours_rounds,
        ours_worker_cpu,
        plain_worker_cpu,
        cpu_ratio: (of_ours > 0.0).then(|| plain_worker_cpu / plain_pps / of_ours),
        is_plain_at_its_limit: plain_worker_cpu >= SATURATED,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schemas::tests::fits_tightly;
    use anyhow::anyhow;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: L2fwdArgs,
    }

    /// R8.4: a ratio of two rates that the generator set is not said to meet the aim.
    #[test]
    fn r8_4_a_ratio_is_judged_where_plain_forwarding_is_at_its_limit() {
        let of = |pps, worker_cpu| [Outcome { pps, worker_cpu }; 5];
        let judged = |plain: [Outcome; 5], ours: [Outcome; 5]| {
            let row = ratio((Direction::Decrypt, 64), &plain, &ours).unwrap();
            (row.verdict(), row.cpu_ratio)
        };
        assert_eq!(judged(of(8.0, 1.0), of(8.0, 1.0)), ("met", Some(1.0)));
        assert_eq!(judged(of(8.0, 0.5), of(8.0, 1.0)), ("generator's limit", Some(0.5)));
        assert_eq!(judged(of(8.0, 0.5), of(4.0, 1.0)).0, "MISS");
        assert_eq!(judged(of(8.0, 1.0), of(8.0, 0.0)).1, None);
    }

    /// R8.4: whole rounds of a comparison that was broken off count and are said to be too few; one without any is none.
    #[test]
    fn r8_4_a_comparison_that_is_broken_off_keeps_its_rounds() {
        let args = Cli::parse_from(["l2fwd"]).args;
        let outcomes = |rates: &[f64]| -> Vec<_> {
            rates.iter().map(|pps| Outcome { pps: *pps, worker_cpu: 1.0 }).collect()
        };
        let kind = (Direction::Decrypt, 64);
        assert_eq!(ratio(kind, &[], &[]), None);
        let whole = ratio(kind, &outcomes(&[8.0; 5]), &outcomes(&[6.0; 5])).unwrap();
        let part = ratio((Direction::Encrypt, 64), &outcomes(&[8.0, 4.0]), &outcomes(&[6.0, 3.0])).unwrap();
        assert_eq!((whole.ratio, part.ratio, part.ours_rounds.len()), (0.75, 0.75, 2));
        let all = [whole, part];
        let result = Report::new(&args, Environment::collect(), &all, &Err(anyhow!("interrupted")));
        assert_eq!(result.ending.broken_off.as_deref(), Some("interrupted"));
        assert!(!result.ending.complete && result.too_few.is_some());
        fits_tightly(&result);
        let result = Report::new(&args, Environment::collect(), &all[..1], &Ok(()));
        assert!(result.ending.complete && result.too_few.is_none());
        fits_tightly(&result);
    }
}
