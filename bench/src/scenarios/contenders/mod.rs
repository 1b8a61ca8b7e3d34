//! Ours beside what a user would pick instead: in the same namespaces, over the same links, in the same run.
//!
//! | Module | What for |
//! |---|---|
//! | `kind`, `programs` | who takes part; where the programs are, which versions, what is missing and why |
//! | `tunnel` | a contender that runs: what all have in common |
//! | `ledger` | what ours ran on, and the judge's verdict on each of its gateways |
//! | `ours`, `plain`, `kernel`, `wireguard`, `openvpn` | each of them, configured as its user would |
//! | `rows`, `report`, `page` | what is measured; medians, ratios, aims, tables; bars |
//!
//! Recovery beside the peers is in `scenarios/recovery/beside`. The reasons are in
//! `docs/decisions/0043-beside-the-peers.md`.

mod kernel;
mod kind;
pub(super) mod ledger;
mod openvpn;
mod ours;
mod page;
mod plain;
mod programs;
mod report;
mod rows;
pub(super) mod tunnel;
mod wireguard;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jvpn_rig::tool::ETHTOOL;
use jvpn_rig::{Interrupt, Rig, Uplink};
use serde::Serialize;

use super::progress::Progress;
use crate::account::{self, Verdict};
use crate::page::{put, too_few};
use crate::reserve::is_disk_full;
use crate::result::{Ending, Environment, Histograms};
use crate::run_dir::RunDir;
use crate::swarm::network::inner_address;
use crate::timeline;
pub use kind::Kind;
use ledger::Ledger;
pub use programs::{Found, Missing};
pub(super) use report::aligned;
pub use report::{Median, Report};
use rows::Turn;
pub use rows::{Metric, Row, Way, What};
use tunnel::{Client, Ground};

/// What a run differs in.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who is to take part, in this order.
    pub contenders: Vec<Kind>,
    /// Rounds; the median counts.
    pub rounds: u32,
    /// Span of one measurement; a step of the search for a rate takes a quarter.
    pub span: Duration,
    /// How long a contender may take to come up.
    pub patience: Duration,
    /// Where everything goes. Absolute.
    pub out_dir: PathBuf,
}

/// A contender that hung, died or let nothing through. Its rounds before that count; it gets no further ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// Which.
    pub contender: Kind,
    /// In which round.
    pub round: u32,
    /// Why.
    pub why: String,
}

impl Failed {
    fn line(&self) -> String {
        let first = self.why.lines().next().unwrap_or_default();
        format!("{}: FAILED in round {}: {first}", self.contender, self.round)
    }
}

/// Those who can run here, and those who cannot.
pub(super) fn muster(wanted: &[Kind], rig: &Rig, progress: &Progress) -> (Vec<Found>, Vec<Missing>) {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for kind in wanted {
        let looked = programs::look(*kind).and_then(|one| match kernel_problem(*kind, rig) {
            Some(why) => Err(Missing { contender: *kind, why }),
            None => Ok(one),
        });
        match looked {
            Ok(one) => {
                progress.say(&format!("{kind}: {}", one.version));
                found.push(one);
            }
            Err(one) => {
                progress.say(&format!("{kind}: left out, {}", one.why));
                missing.push(one);
            }
        }
    }
    (found, missing)
}

/// Peers whose programs are here. Whether the kernel has a WireGuard of its own only a rig tells.
pub(super) fn peers_here() -> Vec<Kind> {
    let is_here = |kind: &Kind| kind.is_peer() && programs::look(*kind).is_ok();
    Kind::ALL.into_iter().filter(is_here).collect()
}

/// Why the kernel's WireGuard cannot run here; nothing about the others.
fn kernel_problem(kind: Kind, rig: &Rig) -> Option<String> {
    let error = (kind == Kind::KernelWireguard).then(|| kernel::probe(rig).err()).flatten()?.to_string();
    let said = error.rsplit(": ").next().unwrap_or_default();
    Some(format!("this kernel makes no WireGuard interface: its module is needed ({said})"))
}

/// Measures and prints.
///
/// # Errors
/// The network cannot be set up, ours failed, or interrupted; what was measured is kept.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<()> {
    let mut dir = RunDir::begin(&options.out_dir)?;
    let mut progress = Progress::start();
    account::begin(&options.out_dir)?;
    let rig = Rig::create()?;
    offloading_uplink(&rig)?;
    let (contenders, missing) = muster(&options.contenders, &rig, &progress);
    let mut report = Report {
        scenario: "peers",
        form: 1,
        verdict: Verdict::default(),
        ending: Ending::default(),
        policy: None,
        environment: Environment::collect(),
        conditions: conditions(),
        rounds: options.rounds,
        too_few: None,
        span_ms: u64::try_from(options.span.as_millis()).unwrap_or(u64::MAX),
        contenders,
        missing,
        failed: Vec::new(),
        medians: Vec::new(),
        rows: Vec::new(),
    };
    let ledger = Ledger::default();
    let result = measure(&rig, options, (&mut report, &mut dir), &mut progress, (&ledger, interrupt));
    let result = result.and(rig.remove());
    report.verdict = ledger.verdict();
    report.policy = ledger.complete(&mut report.environment);
    report.ending = Ending::of(&result);
    report.ending.complete &= report.failed.is_empty();
    report.medians = report::medians(&report.rows);
    report.too_few = too_few(rounds_done(&report));
    let written = write(&mut dir, &report);
    report.lines().iter().for_each(|line| timeline::print(line));
    dir.after(result, written)?;
    report.verdict.or_fail()?;
    match report.failed.iter().find(|failed| failed.contender == Kind::Ours) {
        Some(failed) => bail!("{}", failed.line()),
        None => Ok(()),
    }
}

fn write(dir: &mut RunDir, report: &Report) -> Result<()> {
    dir.write(report)?;
    put(&dir.path().join("report.html"), &report.html())?;
    put(&dir.path().join("summary.md"), &report.markdown())
}

/// Whole rounds.
fn rounds_done(report: &Report) -> u32 {
    let whole = report.rows.iter().map(|row| row.round).max().unwrap_or_default();
    // Of the round that was broken off, rows may be missing.
    if report.ending.broken_off.is_some() { whole.saturating_sub(1) } else { whole }
}

fn conditions() -> Vec<String> {
    [
        "one rig for all: client, router with NAT, gateway, LAN; the same links, whose offloads (checksums, TSO, GSO) are off \
         as AF_XDP needs it of its veth peers, but for the client's uplink, which has those of a network card",
        "rounds in turns, every other one backwards; UDP at the highest rate that loses less than 1 %, by bisection",
        "generators, both ends and the router share the machine: only figures of one run compare",
    ]
    .map(str::to_owned)
    .into()
}

/// The client's uplink as a network card: it takes large packets and unfinished checksums, and joins what comes. The
/// router's links finish them before they reach the gateway.
fn offloading_uplink(rig: &Rig) -> Result<()> {
    let features =
        ["rx", "on", "tx", "on", "sg", "on", "gso", "on", "tx-udp-segmentation", "on", "gro", "on"];
    let args: Vec<&str> = ["-K", "upA"].into_iter().chain(features).collect();
    ETHTOOL.run(Some(rig.client()), &args).map(drop)
}

fn measure(
    rig: &Rig,
    options: &Options,
    (report, dir): (&mut Report, &mut RunDir),
    progress: &mut Progress,
    (ledger, interrupt): (&Ledger, &Interrupt),
) -> Result<()> {
    let hops = Uplink::ALL.map(|uplink| (uplink, uplink.router_address())).into();
    let client = Client { namespace: rig.client().clone(), inner: inner_address(0), hops };
    let ground = Ground {
        rig,
        clients: vec![client],
        out_dir: options.out_dir.clone(),
        interrupt,
        patience: options.patience,
        is_recovery: false,
        ledger,
    };
    let path = options.out_dir.join("rows.jsonl");
    let mut raw = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut histograms = Histograms::new(&options.out_dir);
    let began = Instant::now();
    let total = report.contenders.len() * options.rounds as usize;
    for round in 1..=options.rounds {
        let mut order = report.contenders.clone();
        if round % 2 == 0 {
            order.reverse();
        }
        for (place, found) in order.iter().enumerate() {
            let kind = found.contender;
            if report.failed.iter().any(|failed| failed.contender == kind) {
                continue;
            }
            let done = report.contenders.len() * (round as usize - 1) + place;
            let left = began.elapsed().as_secs_f64() / done.max(1) as f64 * (total - done) as f64;
            let left = if done == 0 { String::new() } else { format!(", about {left:.0} s left") };
            progress.say(&format!("round {round} of {}: {kind}{left}", options.rounds));
            let span = (round, options.span);
            dir.keep_room()?;
            let result = turn(&ground, found, span, (&mut histograms, &mut *dir), |row| {
                let line = serde_json::to_string(&row).context("a row is no JSON")?;
                writeln!(raw, "{line}").with_context(|| format!("cannot write {}", path.display()))?;
                report.rows.push(row);
                Ok(())
            });
            histograms.write()?;
            interrupt.check()?;
            if let Some(error) = own_failure(result)? {
                let failed = Failed { contender: kind, round, why: format!("{error:#}") };
                progress.say(&format!("{}\n{}", failed.line(), failed.why));
                report.failed.push(failed);
            }
        }
    }
    Ok(())
}

/// One contender in one round, from its start to its end.
fn turn(
    ground: &Ground<'_>,
    found: &Found,
    (round, span): (u32, Duration),
    (histograms, dir): (&mut Histograms, &mut RunDir),
    take: impl FnMut(Row) -> Result<()>,
) -> Result<()> {
    let mut tunnel = tunnel::start(found, ground)?;
    let turn = Turn {
        rig: ground.rig,
        tunnel: &mut *tunnel,
        client: ground.client(0)?,
        span,
        round,
        contender: found.contender,
        interrupt: ground.interrupt,
        histograms,
    };
    let result = turn.run(take);
    let words = tunnel.last_words();
    if found.contender == Kind::Ours {
        // The log that is kept and judged is written in the room that was kept.
        dir.release();
    }
    let stopped = tunnel.stop();
    with_last_words(result, &words)?;
    stopped
}

/// Adds what the processes of a contender said last to what went wrong. A full disk explains itself.
pub(super) fn with_last_words<T>(result: Result<T>, words: &str) -> Result<T> {
    match result {
        Err(error) if !is_disk_full(&error) => Err(error.context(format!("last words:\n{words}"))),
        told => told,
    }
}

/// Why a contender failed, if it did.
///
/// # Errors
/// The disk is full, which is nobody's failure and would be everybody's next one: the run ends.
pub(super) fn own_failure(result: Result<()>) -> Result<Option<anyhow::Error>> {
    match result {
        Ok(()) => Ok(None),
        Err(error) if is_disk_full(&error) => Err(error),
        Err(error) => Ok(Some(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use anyhow::anyhow;

    use super::*;

    /// R8.4: whoever hangs or dies has failed, with its last words; a full disk is no contender's failure and ends the
    /// run.
    #[test]
    fn r8_4_a_full_disk_is_no_contenders_failure() {
        let full = fs::write("/dev/full", "x").context("cannot write rows.jsonl");
        let error = own_failure(with_last_words(full, "a word")).unwrap_err();
        let said = format!("{error:#}");
        assert!(said.starts_with("cannot write rows.jsonl: ") && is_disk_full(&error), "{said}");
        let died = with_last_words(Err(anyhow!("it has ended")), "a word");
        let failure = own_failure(died).unwrap().unwrap();
        assert_eq!(format!("{failure:#}"), "last words:\na word: it has ended");
        assert!(own_failure(Ok(())).unwrap().is_none());
    }
}
