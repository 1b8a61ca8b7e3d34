//! `jvpn-bench scaling`: what another worker brings.

use super::generator::SESSIONS_MAX;
use super::lab::Lab;
use super::{Direction, median};
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
/// The network cannot be made, nothing comes out, or there are fewer CPUs than workers.
pub fn run(args: &ScalingArgs, interrupt: Interrupt) -> Result<()> {
    let cpus = facts(&["lo"])?.cpus.allowed;
    let most = args.workers.iter().copied().max().unwrap_or_default();
    if usize::from(most) > cpus.len() {
        bail!("{most} workers need a CPU each, and this process may use {}", cpus.len());
    }
    let lab = Lab::create(interrupt)?;
    let mut rows = Vec::new();
    for direction in [Direction::Decrypt, Direction::Encrypt] {
        for size in &args.sizes {
            for sessions in [Sessions::OneEach, Sessions::OneForAll] {
                rows.extend(measure(&lab, args, &cpus, (direction, *size, sessions))?);
            }
        }
    }
    let result = serde_json::json!({
        "scenario": "scaling", "valid": true, "rounds": args.rounds,
        "too_few": page::too_few(args.rounds), "window_ms": args.window_ms, "cpus": cpus,
        "environment": lab.environment(), "scaling": rows,
    });
    page::publish(&args.out, "Jumping VPN: what another worker brings", &result)?;
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

fn measure(
    lab: &Lab,
    args: &ScalingArgs,
    cpus: &[usize],
    (direction, size, sessions): (Direction, u16, Sessions),
) -> Result<Vec<Row>> {
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
    for _ in 0..args.rounds {
        for row in &mut rows {
            let count = match sessions {
                Sessions::OneEach => row.workers,
                Sessions::OneForAll => 1,
            };
            let pairs = (cpus.get(..usize::from(row.workers)).unwrap_or_default(), count);
            let window = Duration::from_millis(args.window_ms);
            row.rounds.push(lab.measure_pairs(direction, usize::from(size), pairs, window)?);
        }
    }
    for row in &mut rows {
        row.pps = median(&row.rounds);
    }
    let first = rows.first().map_or(0.0, |row| row.pps);
    for row in &mut rows {
        row.ratio = row.pps / first;
    }
    Ok(rows)
}
