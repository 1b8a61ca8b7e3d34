//! `jvpn-bench pinning`: which settings of the worker this machine likes.

use super::lab::{Forwarder, Lab, Setting};
use super::{Direction, Pace, median};
use crate::environment::Environment;
use crate::result::Ending;
use crate::run_dir::RunDir;
use crate::{page, timeline};
use anyhow::{Context as _, Result, bail};
use clap::{Args, value_parser};
use jvpn_dataplane::plan::{choose_cpus, facts};
use jvpn_dataplane::tuning::Tuning;
use jvpn_rig::Interrupt;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// Batches that are tried.
const BATCHES: [usize; 4] = [16, 64, 128, 256];
/// Busy polls that are tried, µs.
const BUSY_POLLS: [u32; 2] = [0, 100];
/// A setting must be so much faster than the default to be recommended: less is noise.
const WORTH: f64 = 1.03;
/// CPUs that are tried for the worker, at most.
const CPUS_MAX: usize = 8;

/// Opens sealed DATA with one worker at full load, for each CPU, batch and busy poll, in turns; medians count.
///
/// What a virtual Ethernet pair shows is the machine's processors, caches and scheduler; a NIC's interrupts are not in
/// it. `jvpn-dataplane plan` says what to do about those.
#[derive(Clone, Debug, Args)]
pub struct PinningArgs {
    /// Rounds; the median of each setting counts.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = value_parser!(u32).range(3..=101))]
    rounds: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 1, value_name = "S", value_parser = value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Octets of the inner packets.
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = value_parser!(u16).range(64..=1_400))]
    size: u16,
    /// Prints one JSON document with every round instead of a table.
    #[arg(long)]
    json: bool,
    /// Where result, report and summary go.
    #[arg(long, default_value = "target/pinning", value_name = "DIR")]
    out: PathBuf,
}

/// Title of its pages.
const TITLE: &str = "Jumping VPN: settings of the worker";

/// One setting and what it gave.
#[derive(Clone, Debug, Serialize)]
struct Row {
    worker_cpu: usize,
    generator_cpu: usize,
    batch: usize,
    busy_poll: u32,
    pps: f64,
    worker_cpu_seconds: f64,
    rounds: Vec<f64>,
    #[serde(skip)]
    times: Vec<f64>,
}

/// Measures and prints.
///
/// # Errors
/// The network cannot be made, nothing comes out, or interrupted; what was measured is kept.
pub fn run(args: &PinningArgs, interrupt: Interrupt) -> Result<()> {
    let mut dir = RunDir::begin(&args.out)?;
    let machine = facts(&["lo"]).context("cannot look at this machine")?;
    let chosen = choose_cpus(&machine.cpus, None, 1);
    let Some(&default_cpu) = chosen.first() else { bail!("this machine names no CPU") };
    let lab = Lab::create(interrupt)?;
    let mut rows = settings(&machine.cpus.allowed, default_cpu);
    let measured = measure(&lab, args, &mut rows);
    rows.retain(|row| !row.rounds.is_empty());
    for row in &mut rows {
        row.pps = median(&row.rounds);
        row.worker_cpu_seconds = median(&row.times);
    }
    // Of settings of which some have a round more than others nothing is recommended.
    let best = recommend(&rows).filter(|_| measured.is_ok());
    let document = document(args, &rows, best, &lab.environment(), &measured);
    dir.conclude(TITLE, &document, measured)?;
    let Some(best) = best else { bail!("nothing was measured") };
    if args.json {
        timeline::print(&serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    page::too_few(args.rounds).into_iter().for_each(timeline::print);
    timeline::print("| Worker's CPU | Generator's CPU | batch | busy_poll, µs | kpps | Worker's CPU s/s |");
    timeline::print("|---|---|---|---|---|---|");
    for row in &rows {
        let mark = if std::ptr::eq(row, best) { " *" } else { "" };
        timeline::print(&format!(
            "| {} | {} | {} | {} | {:.0}{mark} | {:.2} |",
            row.worker_cpu,
            row.generator_cpu,
            row.batch,
            row.busy_poll,
            row.pps / 1e3,
            row.worker_cpu_seconds
        ));
    }
    timeline::print(&format!(
        "\n# recommended for one worker on this machine\nworkers = 1\ncores = [{}]\n\n[tuning]\nbusy_poll = {}\nbatch = {}",
        best.worker_cpu, best.busy_poll, best.batch
    ));
    Ok(())
}

fn measure(lab: &Lab, args: &PinningArgs, rows: &mut [Row]) -> Result<()> {
    let mut pace = Pace::new(rows.len() * args.rounds as usize);
    for _ in 0..args.rounds {
        for row in &mut *rows {
            let setting = Setting {
                direction: Direction::Decrypt,
                size: usize::from(args.size),
                forwarder: Forwarder::Ours(tuning(row)),
                worker_cpu: row.worker_cpu,
                generator_cpu: row.generator_cpu,
                window: Duration::from_secs(args.seconds),
            };
            let outcome = lab.measure(&setting)?;
            row.rounds.push(outcome.pps);
            row.times.push(outcome.worker_cpu);
            pace.next();
        }
    }
    Ok(())
}

/// The result: every setting with what it gave, the recommended one, the conditions.
fn document(
    args: &PinningArgs,
    rows: &[Row],
    best: Option<&Row>,
    environment: &Environment,
    measured: &Result<()>,
) -> serde_json::Value {
    let Ending { complete, broken_off } = Ending::of(measured);
    let least = rows.iter().map(|row| row.rounds.len()).min().unwrap_or_default();
    serde_json::json!({
        "scenario": "pinning", "valid": null, "complete": complete, "broken_off": broken_off, "rounds": args.rounds,
        "too_few": page::too_few_of(least), "seconds": args.seconds, "size": args.size,
        "environment": environment, "settings": rows, "recommended": best,
    })
}

fn tuning(row: &Row) -> Tuning {
    Tuning { batch: row.batch, busy_poll: row.busy_poll, ..Tuning::default() }
}

/// The default first; then every CPU, every batch and every busy poll around it, one changed at a time.
fn settings(cpus: &[usize], default_cpu: usize) -> Vec<Row> {
    let default = Tuning::default();
    let beside = |cpu: usize| cpus.iter().copied().find(|&other| other != cpu).unwrap_or(cpu);
    let row = |worker_cpu, generator_cpu, batch, busy_poll| Row {
        worker_cpu,
        generator_cpu,
        batch,
        busy_poll,
        pps: 0.0,
        worker_cpu_seconds: 0.0,
        rounds: Vec::new(),
        times: Vec::new(),
    };
    let near = beside(default_cpu);
    let mut rows = vec![row(default_cpu, near, default.batch, default.busy_poll)];
    let others = cpus.iter().copied().filter(|&cpu| cpu != default_cpu).take(CPUS_MAX);
    rows.extend(others.map(|cpu| row(cpu, beside(cpu), default.batch, default.busy_poll)));
    // Where the interrupts are: the packets' way in and the worker share a CPU.
    if near != default_cpu {
        rows.push(row(default_cpu, default_cpu, default.batch, default.busy_poll));
    }
    let batches = BATCHES.into_iter().filter(|&batch| batch != default.batch);
    rows.extend(batches.map(|batch| row(default_cpu, near, batch, default.busy_poll)));
    let polls = BUSY_POLLS.into_iter().filter(|&poll| poll != default.busy_poll);
    rows.extend(polls.map(|poll| row(default_cpu, near, default.batch, poll)));
    rows
}

/// The fastest, unless the default is as good. The CPU of the generator is nobody's choice.
fn recommend(rows: &[Row]) -> Option<&Row> {
    let default = rows.first()?;
    let fastest = rows.iter().max_by(|a, b| a.pps.total_cmp(&b.pps))?;
    Some(if fastest.pps > default.pps * WORTH { fastest } else { default })
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
        args: PinningArgs,
    }

    /// R8.4: a run that is broken off keeps every round and recommends nothing.
    #[test]
    fn r8_4_a_part_has_rounds_and_no_recommendation() {
        let args = Cli::parse_from(["pinning"]).args;
        let mut rows = settings(&[0, 1], 1);
        rows.truncate(2);
        rows.iter_mut().for_each(|row| row.rounds = vec![5.0, 6.0, 7.0, 8.0, 9.0]);
        let environment = Environment::collect();
        let whole = document(&args, &rows, recommend(&rows), &environment, &Ok(()));
        assert_eq!((&whole["complete"], &whole["too_few"]), (&true.into(), &serde_json::Value::Null));
        assert_eq!(whole["recommended"]["batch"], 64);
        fits_tightly(&whole);
        rows[1].rounds.pop();
        let part = document(&args, &rows, None, &environment, &Err(anyhow!("interrupted")));
        assert_eq!((&part["complete"], &part["broken_off"]), (&false.into(), &"interrupted".into()));
        assert!(part["too_few"].is_string() && part["recommended"].is_null());
        assert_eq!(part["settings"][0]["rounds"].as_array().unwrap().len(), 5);
        fits_tightly(&part);
    }

    /// Every alternative once, the default first; a difference that is noise recommends the default.
    #[test]
    fn r0_5_settings_and_recommendation() {
        let mut rows = settings(&[0, 1], 1);
        let shown: Vec<_> =
            rows.iter().map(|row| (row.worker_cpu, row.generator_cpu, row.batch, row.busy_poll)).collect();
        assert_eq!(shown[0], (1, 0, 64, 0));
        let mut distinct = shown.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), shown.len());
        assert!(
            shown.contains(&(0, 1, 64, 0))
                && shown.contains(&(1, 0, 256, 0))
                && shown.contains(&(1, 0, 64, 100))
        );
        rows.iter_mut().for_each(|row| row.pps = 100.0);
        rows[3].pps = 102.0;
        assert!(std::ptr::eq(recommend(&rows).unwrap(), &rows[0]));
        rows[3].pps = 110.0;
        assert!(std::ptr::eq(recommend(&rows).unwrap(), &rows[3]));
        assert!(recommend(&[]).is_none());
        assert_eq!(settings(&[0], 0).len(), 1 + 3 + 1, "one CPU");
    }
}
