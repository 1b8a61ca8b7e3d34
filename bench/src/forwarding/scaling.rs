//! `jvpn-bench scaling`: what another worker brings.

use super::generator::SESSIONS_MAX;
use super::lab::Lab;
use super::{Direction, Pace, median};
use crate::environment::Environment;
use crate::result::Ending;
use crate::run_dir::RunDir;
use crate::{page, timeline};
use anyhow::{Result, bail};
use clap::{Args, value_parser};
use jvpn_dataplane::plan::facts;
use jvpn_rig::Interrupt;
use jvpn_rig::topology::QUEUES;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// Runs so many pairs of a generator and a worker, each pair on a CPU of its own, with a queue of its own, in turns.
///
/// A pair shares its CPU, so that one pair and two are alike but for their number: what two workers bring is what the
/// machine's second core brings, generator, soft interrupts and worker included, and twice as much is the most. It is
/// measured with a session for each worker and with one session that all serve, whose counter and window they share.
#[derive(Clone, Debug, Args)]
pub struct ScalingArgs {
    /// Numbers of workers; the first is what the others are compared with.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2], value_name = "N,N,…",
        value_parser = value_parser!(u8).range(1..=i64::from(QUEUES)))]
    workers: Vec<u8>,
    /// Rounds of each measurement; the median counts.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = value_parser!(u32).range(3..=101))]
    rounds: u32,
    /// Milliseconds of each round.
    #[arg(long, default_value_t = 1_000, value_name = "MS", value_parser = value_parser!(u64).range(100..=60_000))]
    window_ms: u64,
    /// Octets of the inner packets.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 1_400], value_name = "N,N,…",
        value_parser = value_parser!(u16).range(64..=1_400))]
    sizes: Vec<u16>,
    /// Prints one JSON document with every round instead of a table.
    #[arg(long)]
    json: bool,
    /// Where result, report and summary go.
    #[arg(long, default_value = "target/scaling", value_name = "DIR")]
    out: PathBuf,
}

/// Title of its pages.
const TITLE: &str = "Jumping VPN: what another worker brings";

/// Whose packets the workers handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Sessions {
    /// A session for each worker.
    OneEach,
    /// One session for all.
    OneForAll,
}

/// One number of workers.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    direction: Direction,
    size: u16,
    sessions: Sessions,
    workers: u8,
    pps: f64,
    /// By those of the first number of workers.
    ratio: f64,
    /// Every round, in order.
    rounds: Vec<f64>,
}

const _: () = assert!(SESSIONS_MAX >= QUEUES as usize);

/// Measures and prints.
///
/// # Errors
/// The network cannot be made, nothing comes out, there are fewer CPUs than workers, or interrupted; what was measured is
/// kept.
pub fn run(args: &ScalingArgs, interrupt: Interrupt) -> Result<()> {
    let cpus = facts(&["lo"])?.cpus.allowed;
    let most = args.workers.iter().copied().max().unwrap_or_default();
    if usize::from(most) > cpus.len() {
        bail!("{most} workers need a CPU each, and this process may use {}", cpus.len());
    }
    let mut dir = RunDir::begin(&args.out)?;
    let lab = Lab::create(interrupt)?;
    let mut rows = Vec::new();
    let measured = measure_all(&lab, args, &cpus, &mut rows);
    let result = document(args, &cpus, &rows, &lab.environment(), &measured);
    dir.conclude(TITLE, &result, measured)?;
    if args.json {
        timeline::print(&serde_json::to_string_pretty(&result)?);
        return Ok(());
    }
    page::too_few(args.rounds).into_iter().for_each(timeline::print);
    timeline::print("| Direction | Octets | Sessions | Workers | kpps | Ratio |");
    timeline::print("|---|---|---|---|---|---|");
    for Row { direction, size, sessions, workers, pps, ratio, .. } in &rows {
        let kpps = pps / 1e3;
        timeline::print(&format!(
            "| {direction:?} | {size} | {sessions:?} | {workers} | {kpps:.0} | {ratio:.2} |"
        ));
    }
    Ok(())
}

fn document(
    args: &ScalingArgs,
    cpus: &[usize],
    rows: &[Row],
    environment: &Environment,
    measured: &Result<()>,
) -> serde_json::Value {
    let Ending { complete, broken_off } = Ending::of(measured);
    let least = rows.iter().map(|row| row.rounds.len()).min().unwrap_or_default();
    serde_json::json!({
        "scenario": "scaling", "valid": null, "complete": complete, "broken_off": broken_off, "rounds": args.rounds,
        "too_few": page::too_few_of(least), "window_ms": args.window_ms, "cpus": cpus,
        "environment": environment, "scaling": rows,
    })
}

fn measure_all(lab: &Lab, args: &ScalingArgs, cpus: &[usize], rows: &mut Vec<Row>) -> Result<()> {
    let each = args.workers.len() * args.rounds as usize;
    let mut pace = Pace::new(2 * args.sizes.len() * 2 * each);
    for direction in [Direction::Decrypt, Direction::Encrypt] {
        for size in &args.sizes {
            for sessions in [Sessions::OneEach, Sessions::OneForAll] {
                measure(lab, args, cpus, (direction, *size, sessions), (&mut *rows, &mut pace))?;
            }
        }
    }
    Ok(())
}

/// One comparison; of one that is broken off what was measured is kept.
fn measure(
    lab: &Lab,
    args: &ScalingArgs,
    cpus: &[usize],
    (direction, size, sessions): (Direction, u16, Sessions),
    (all, pace): (&mut Vec<Row>, &mut Pace),
) -> Result<()> {
    let row = |workers: &u8| Row {
        direction,
        size,
        sessions,
        workers: *workers,
        pps: 0.0,
        ratio: 0.0,
        rounds: Vec::new(),
    };
    let mut rows: Vec<_> = args.workers.iter().map(row).collect();
    let measured = (0..args.rounds).try_for_each(|_| {
        for row in &mut rows {
            let count = match sessions {
                Sessions::OneEach => row.workers,
                Sessions::OneForAll => 1,
            };
            let pairs = (cpus.get(..usize::from(row.workers)).unwrap_or_default(), count);
            let window = Duration::from_millis(args.window_ms);
            row.rounds.push(lab.measure_pairs(direction, usize::from(size), pairs, window)?);
            pace.next();
        }
        Ok(())
    });
    all.extend(compared(rows));
    measured
}

/// Those that have a round, with their medians beside that of the first.
fn compared(mut rows: Vec<Row>) -> Vec<Row> {
    rows.retain(|row| !row.rounds.is_empty());
    for row in &mut rows {
        row.pps = median(&row.rounds);
    }
    let first = rows.first().map_or(0.0, |row| row.pps);
    for row in &mut rows {
        row.ratio = row.pps / first;
    }
    rows
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
        args: ScalingArgs,
    }

    /// R8.4: a run that is broken off keeps every round that was whole.
    #[test]
    fn r8_4_a_part_has_the_rounds_that_were_measured() {
        let args = Cli::parse_from(["scaling"]).args;
        let row = |workers, rounds: &[f64]| Row {
            direction: Direction::Decrypt,
            size: 64,
            sessions: Sessions::OneForAll,
            workers,
            pps: 0.0,
            ratio: 0.0,
            rounds: rounds.to_vec(),
        };
        assert_eq!(compared(vec![row(1, &[]), row(2, &[])]), []);
        let part = compared(vec![row(1, &[4.0, 4.0, 4.0]), row(2, &[6.0, 6.0]), row(3, &[])]);
        let found: Vec<_> = part.iter().map(|row| (row.workers, row.ratio)).collect();
        assert_eq!(found, [(1, 1.0), (2, 1.5)]);
        let result = document(&args, &[0, 1], &part, &Environment::collect(), &Err(anyhow!("interrupted")));
        assert_eq!((&result["complete"], &result["broken_off"]), (&false.into(), &"interrupted".into()));
        assert!(result["too_few"].is_string());
        fits_tightly(&result);
        fits_tightly(&document(&args, &[0], &[], &Environment::collect(), &Ok(())));
    }
}
