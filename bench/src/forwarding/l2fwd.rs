//! `jvpn-bench l2fwd`: our worker against plain AF_XDP forwarding.

use super::lab::{Forwarder, Lab, Setting};
use super::{Direction, median};
use crate::{page, timeline};
use anyhow::{Context as _, Result, ensure};
use clap::{Args, value_parser};
use jvpn_dataplane::tuning::Tuning;
use jvpn_rig::Interrupt;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

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
}

/// Measures and prints.
///
/// # Errors
/// The network cannot be made, or nothing comes out.
pub fn run(args: &L2fwdArgs, interrupt: Interrupt) -> Result<()> {
    let lab = Lab::create(interrupt)?;
    let mut ratios = Vec::new();
    for direction in [Direction::Decrypt, Direction::Encrypt] {
        for size in &args.sizes {
            ratios.push(compare(&lab, args, direction, *size)?);
        }
    }
    let result = serde_json::json!({
        "scenario": "l2fwd", "valid": true, "rounds": args.rounds,
        "too_few": page::too_few(args.rounds), "window_ms": args.window_ms,
        "worker_cpu": args.worker_cpu, "generator_cpu": args.generator_cpu, "aim_ratio": AIM,
        "environment": lab.environment(), "ratios": ratios,
    });
    page::publish(&args.out, "Jumping VPN: our worker against plain forwarding", &result)?;
    if args.json {
        timeline::print(&serde_json::to_string_pretty(&result)?);
        return Ok(());
    }
    timeline::print("| Direction | Octets | Plain, kpps | Ours, kpps | Ratio | Worker's CPU, plain / ours |");
    timeline::print("|---|---|---|---|---|---|");
    for row in &ratios {
        let verdict = if row.ratio >= AIM { "" } else { " MISS" };
        timeline::print(&format!(
            "| {:?} | {} | {:.0} | {:.0} | {:.2}{verdict} | {:.2} / {:.2} |",
            row.direction,
            row.size,
            row.plain_pps / 1e3,
            row.ours_pps / 1e3,
            row.ratio,
            row.plain_worker_cpu,
            row.ours_worker_cpu
        ));
    }
    Ok(())
}

fn compare(lab: &Lab, args: &L2fwdArgs, direction: Direction, size: u16) -> Result<Ratio> {
    let setting = |forwarder| Setting {
        direction,
        size: usize::from(size),
        forwarder,
        worker_cpu: args.worker_cpu,
        generator_cpu: args.generator_cpu,
        window: Duration::from_millis(args.window_ms),
    };
    let (mut plain, mut ours) = (Vec::new(), Vec::new());
    for round in 0..args.rounds {
        plain.push(lab.measure(&setting(Forwarder::Plain)).context("plain forwarding")?);
        ours.push(lab.measure(&setting(Forwarder::Ours(Tuning::default()))).context("our worker")?);
        ensure!(
            plain.iter().chain(&ours).all(|outcome| outcome.pps > 0.0),
            "nothing came out in round {round} ({direction:?}, {size} octets)"
        );
    }
    let rates = |of: &[super::lab::Outcome]| of.iter().map(|outcome| outcome.pps).collect::<Vec<f64>>();
    let times =
        |of: &[super::lab::Outcome]| of.iter().map(|outcome| outcome.worker_cpu).collect::<Vec<f64>>();
    let (plain_rounds, ours_rounds) = (rates(&plain), rates(&ours));
    let (plain_pps, ours_pps) = (median(&plain_rounds), median(&ours_rounds));
    Ok(Ratio {
        direction,
        size,
        plain_pps,
        ours_pps,
        ratio: ours_pps / plain_pps,
        plain_rounds,
        ours_rounds,
        ours_worker_cpu: median(&times(&ours)),
        plain_worker_cpu: median(&times(&plain)),
    })
}
