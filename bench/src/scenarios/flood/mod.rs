//! The flood: honest sessions lose their paths and come back, in peace and beside each attack; what the attacks cost
//! them, and whether the gateway's bounds hold.

mod attack;
mod audit;
mod gun;
mod lab;
mod report;
mod rogue;

pub use attack::Attack;
pub use report::Report;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use jvpn_rig::{Interrupt, Rig};

use crate::account;
use crate::deployment::{self, Deployment, Role, Settings};
use crate::result::Environment;
use crate::run_dir::RunDir;
use crate::scenarios::progress::Progress;
use crate::scenarios::stage::whole_or_none;
use crate::swarm::{gateway, network};
use crate::timeline;
use attack::Assault;
use audit::Audit;
use lab::{Cast, Lab};
use report::Phase;

/// The policy of the run: the most switches that policy allows, and short memories, so that one can wait for their end.
const POLICY: &str = "preset = \"edge\"\nmax_switches_per_min = 60\nrecovery_window = \"10s\"\n\
                      transport_loss_ttl = \"10s\"\n";
/// Switches per minute of [`POLICY`].
const SWITCHES_PER_MINUTE: u64 = 60;
/// What attackers had is gone after the gateway has missed them (3 s) and [`POLICY`]'s TTL, and a little more.
const EXPIRY_PATIENCE: Duration = Duration::from_secs(40);
/// Memory is bounded: an attack may add so much at most; what was seen of all of them is 0.3 MiB …
const MEMORY_PEAK_KIB: u64 = 4 << 10;
/// … and of it this may stay: allocators do not give everything back.
const MEMORY_STAYS_KIB: u64 = 2 << 10;
/// What a phase takes beside its rounds: set-up, coming back.
const PHASE_EXTRA: Duration = Duration::from_secs(2);

/// How the result is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// A table.
    Table,
    /// `result.json`, to standard output.
    Json,
}

/// What a run differs in.
#[derive(Clone, Debug)]
pub struct Options {
    /// Honest sessions.
    pub sessions: usize,
    /// Attacks, in this order.
    pub attacks: Vec<Attack>,
    /// Length of the quiet run and of each attack.
    pub phase: Duration,
    /// Datagrams per second of an attacker; `None`: as many as one thread sends.
    pub rate: Option<u32>,
    /// A marker per session and this time.
    pub marker_interval: Duration,
    /// Determines what the attackers send.
    pub seed: u64,
    /// Where result, audit, histograms, logs and configuration go. Absolute.
    pub out_dir: PathBuf,
}

/// Runs the flood and writes its result; bounds that do not hold are in the report.
///
/// # Errors
/// A part could not be set up or ended by itself; interrupted; what was measured is kept.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<Report> {
    let mut dir = RunDir::begin(&options.out_dir)?;
    let progress = Progress::start();
    progress.say(&format!("setting up: a gateway, {} honest sessions, attackers", options.sessions));
    let settings = Settings {
        bin_dir: deployment::find_programs()?,
        out_dir: options.out_dir.clone(),
        max_switches_per_min: None,
    };
    account::begin(&options.out_dir)?;
    let rig = Rig::create()?;
    progress.say(&format!("network namespaces jvpn-{}-*", rig.id()));
    network::set_up(&rig)?;
    let places = deployment::prepare(&rig, &settings)?;
    let cast = Cast::new(options.sessions)?;
    gateway::configure(&places, POLICY, &cast.peers())?;
    let mut deployment = Deployment::new(&settings, &places);
    let mut report = Report::default();
    let measured = (|| {
        for role in [Role::DataPlane, Role::ControlPlane] {
            deployment.launch(&rig, role, interrupt)?;
        }
        let key = gateway::public_key(&places)?;
        let lab = Lab::start(&rig, &mut deployment, &places, cast, key, options, interrupt)?;
        report = begun(&lab, options)?;
        measure(lab, options, &mut report, &progress)
    })();
    let measured = deployment.explain(measured, interrupt);
    // The processes' last words and the audit log come before the result, on the same disk.
    dir.release();
    let stopped = deployment.stop();
    // Kept also when something failed: that is when it is needed.
    let judged = whole_or_none(account::keep_and_judge(&places, &options.out_dir), &options.out_dir);
    let measured = measured.and(stopped.and_then(|()| rig.remove()));
    let measured = measured.and_then(|()| report.judge(&judged));
    if report.scenario.is_empty() {
        // Nothing was set up that could be measured.
        return measured.map(|()| report);
    }
    report.close(&measured);
    dir.conclude("Jumping VPN: floods", &report, measured)?;
    Ok(report)
}

/// A report in which nothing is measured yet.
fn begun(lab: &Lab<'_>, options: &Options) -> Result<Report> {
    Ok(Report {
        scenario: "flood",
        valid: true,
        seed: options.seed,
        sessions: options.sessions,
        marker_interval_ms: u64::try_from(options.marker_interval.as_millis())?,
        seconds: options.phase.as_secs(),
        rate: options.rate,
        policy: POLICY.to_owned(),
        switches_limit: SWITCHES_PER_MINUTE,
        environment: Environment::collect().with_gateway(lab.rig, lab.deployment, lab.places),
        ..Report::default()
    })
}

fn measure(mut lab: Lab<'_>, options: &Options, report: &mut Report, progress: &Progress) -> Result<()> {
    let all = lab.honest()?;
    progress.say(&format!("{} sessions are ATTACHED", all.len()));
    let assaults = Assault::phases(&options.attacks);
    let phases: Vec<_> = std::iter::once(None).chain(assaults.into_iter().map(Some)).collect();
    for (number, assault) in phases.iter().copied().enumerate() {
        let left =
            (options.phase + PHASE_EXTRA) * u32::try_from(phases.len() - number)? + EXPIRY_PATIENCE / 2;
        progress.say(&format!(
            "{}  ({} of {}, about {} s left)",
            assault.map_or_else(|| "quiet".to_owned(), Assault::name),
            number + 1,
            phases.len(),
            left.as_secs()
        ));
        let phase = lab.phase(assault)?;
        tell(&phase, progress);
        fs::write(options.out_dir.join(format!("outage-{}.hgrm", phase.name)), &phase.hgrm)?;
        if assault.is_none() {
            // Everything has been in use by now: from here on memory must not grow.
            report.memory_before = lab.memory()?;
            report.tables_before = lab.tables()?;
        }
        report.phases.push(phase);
    }
    progress.say("waiting until everything that may expire has expired");
    report.tables_after = lab.expire(report.tables_before, EXPIRY_PATIENCE)?;
    report.memory_after = lab.memory()?;
    let now = lab.honest()?;
    report.sessions_lost = lab::lost(&all, &now)?;
    report.markers_wrong = now.iter().map(|view| view.doubled + view.damaged).sum();
    let audit_file = lab.places.audit_file();
    lab.swarm.stop()?;
    conclude(report, &Audit::read(&audit_file)?);
    Ok(())
}

fn tell(phase: &Phase, progress: &Progress) {
    if let Some(sent) = phase.attack {
        progress.say(&format!(
            "sent {} datagrams, {:.0} per second, from {} addresses; {} octets went to unproven ones",
            sent.datagrams, sent.per_second, sent.sources, sent.octets_to_unproven
        ));
    }
    let (honest, births) = (&phase.honest, &phase.births);
    progress.say(&format!(
        "recovered {}, not in time {}; outage p50 {:.0} ms, p99 {:.0} ms; {} of {} newcomers came in",
        honest.recovered,
        honest.unrecovered,
        honest.outage.p50_ms,
        honest.outage.p99_ms,
        births.born,
        births.asked
    ));
}

/// What must hold, whatever an attacker does.
fn conclude(report: &mut Report, audit: &Audit) {
    let verdict = audit.judge(report.switches_limit);
    report.switches_max = verdict.switches_max;
    report.flood_lines_max = verdict.flood_lines_max;
    for phase in &mut report.phases {
        let [from, to] = [phase.from_ms, phase.to_ms].map(|ms| u64::try_from(ms).unwrap_or_default());
        (phase.audit.lines, phase.audit.flood_lines) = audit.count(from, to);
        let seconds = to.saturating_sub(from) as f64 / 1_000.0;
        phase.audit.flood_lines_per_s = phase.audit.flood_lines as f64 / seconds.max(1e-3);
        let peak = &mut report.memory_peak;
        peak.control_plane = peak.control_plane.max(phase.memory_peak.control_plane);
        peak.data_plane = peak.data_plane.max(phase.memory_peak.data_plane);
    }
    report.failures = verdict.problems;
    report.valid = report.phases.iter().all(|phase| phase.missed.is_none());
    let mut must = |holds: bool, failure: String| {
        if !holds {
            report.failures.push(failure);
        }
    };
    must(
        report.valid,
        "INVALID: an observer has not seen everything, so amplification is not known".to_owned(),
    );
    must(report.sessions_lost == 0, format!("{} honest sessions were lost", report.sessions_lost));
    must(report.markers_wrong == 0, format!("{} markers were doubled or changed", report.markers_wrong));
    for phase in &report.phases {
        let amplification = phase.attack.map_or(0.0, |sent| sent.amplification_max);
        must(
            amplification <= 1.0,
            format!("{}: an unproven address got {amplification:.2} times what it sent", phase.name),
        );
    }
    let (before, after) = (report.tables_before, report.tables_after);
    must(
        after.live_sessions <= before.live_sessions && after.slots_in_use <= before.slots_in_use,
        format!("tables are not as they were: {before:?}, then {after:?}"),
    );
    let memory = [
        (
            "jvpn-controlplane",
            report.memory_before.control_plane,
            report.memory_peak.control_plane,
            report.memory_after.control_plane,
        ),
        (
            "jvpn-dataplane",
            report.memory_before.data_plane,
            report.memory_peak.data_plane,
            report.memory_after.data_plane,
        ),
    ];
    for (name, before, peak, after) in memory {
        let (before, peak, after) = (before.rss_kib, peak.rss_kib, after.rss_kib);
        must(peak <= before + MEMORY_PEAK_KIB, format!("{name} grew from {before} to {peak} KiB"));
        must(after <= before + MEMORY_STAYS_KIB, format!("{name} stays at {after} KiB; it was {before}"));
    }
}

/// Runs the flood for the command line: prints, and fails if a bound is broken.
///
/// # Errors
/// As [`run`], or a bound did not hold.
pub fn run_and_print(options: &Options, show: Show, interrupt: &Interrupt) -> Result<()> {
    let report = run(options, interrupt)?;
    match show {
        Show::Json => timeline::print(&serde_json::to_string_pretty(&report)?),
        Show::Table => {
            report.print();
            let dir = options.out_dir.display();
            timeline::print(&format!("\n  result: {dir}/result.json, events: {dir}/{}", account::EVENTS));
        }
    }
    if !report.failures.is_empty() {
        let word = if report.valid { "" } else { "INVALID: " };
        bail!("{word}{} bounds did not hold: {}", report.failures.len(), report.failures.join("; "));
    }
    Ok(())
}
