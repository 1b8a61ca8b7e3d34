//! The demo: one session, seven things that happen to it, and a judgement from outside.

mod attacks;
mod lab;
mod recoveries;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jvpn_rig::{Interrupt, Rig};

use crate::account::{self, EVENTS};
use crate::check_events::check_files;
use crate::deployment::{self, Deployment, Places, Settings};
use crate::environment::Environment;
use crate::report::{Recovery, summarise};
use crate::result::Histograms;
use crate::run_dir::RunDir;
use crate::timeline::{self, Timeline};
use lab::Lab;

/// Switches per minute while measuring: the most that policy allows.
const SWITCHES_PER_MINUTE_MEASURING: u32 = 60;
/// The default of policy, which one round keeps.
const SWITCHES_PER_MINUTE_DEFAULT: u32 = 8;

/// What is done with the network at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is removed.
    Remove,
    /// It stands on, with all processes.
    Keep,
}

/// What a run differs in.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often the recoveries are done.
    pub rounds: u32,
    /// What is done with the network at the end.
    pub end: End,
    /// Size of the download.
    pub download_octets: u64,
    /// Where report, events, logs and configuration go. Absolute.
    pub out_dir: PathBuf,
}

/// Runs the demo.
///
/// # Errors
/// A part could not be set up, a step did not come out as expected, or something did not hold.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<()> {
    let timeline = Timeline::start();
    let measuring = options.rounds > 1;
    let settings = Settings {
        bin_dir: deployment::find_programs()?,
        out_dir: options.out_dir.clone(),
        max_switches_per_min: measuring.then_some(SWITCHES_PER_MINUTE_MEASURING),
    };
    timeline.step("Setting up: client with uplinks A (NAT) and B, router, gateway, LAN server, attacker");
    let rig = Rig::create()?;
    timeline.say(&format!("network namespaces jvpn-{}-*", rig.id()));
    let places = deployment::prepare(&rig, &settings)?;
    timeline.say(&format!("keys and configuration in {}", places.config_dir.display()));

    let switches_per_minute =
        if measuring { SWITCHES_PER_MINUTE_MEASURING } else { SWITCHES_PER_MINUTE_DEFAULT };
    let mut dir = RunDir::begin(&options.out_dir)?;
    let mut rig = Some(rig);
    let mut deployment = None;
    let result = (|| {
        let rig = rig.as_ref().context("the rig is there")?;
        // Before the processes start, so that nothing of theirs is missed.
        let observers = lab::Observers::start(rig)?;
        let log = lab::follow(&places, timeline)?;
        let deployment = deployment.insert(Deployment::start(rig, &settings, &places, interrupt)?);
        timeline.say("jvpn-dataplane, jvpn-controlplane and jvpn up are running");
        let mut lab = Lab::new(rig, deployment, log, observers, timeline, interrupt, switches_per_minute);
        let result = run_steps(&mut lab, options);
        // Written also when a step failed: that is when it is needed.
        lab.log.write_to(&options.out_dir.join(EVENTS))?;
        write_histograms(&lab.report.recoveries, &options.out_dir)?;
        if let Err(error) = result {
            return Err(
                error.context(format!("last words of the processes:\n{}", lab.deployment.last_words()))
            );
        }
        judge_audit(&mut lab, &places)?;
        conclude(lab, options, &places, &mut dir)
    })();
    let ended = end(options, rig.take(), deployment);
    result.and(ended)
}

fn run_steps(lab: &mut Lab<'_>, options: &Options) -> Result<()> {
    lab.timeline.step("1  The tunnel comes up");
    lab.come_up()?;
    for round in 1..=options.rounds {
        let of = if options.rounds > 1 {
            format!("  (round {round} of {})", options.rounds)
        } else {
            String::new()
        };
        let download = (round == 1).then_some(options.download_octets);
        let middle = if download.is_some() { ", in the middle of a download" } else { "" };
        lab.timeline.step(&format!("2  Uplink A is cut silently{middle}{of}"));
        lab.silent_cut(download)?;
        lab.timeline.step(&format!("3  The link of uplink B goes down{of}"));
        lab.link_down()?;
        lab.timeline.step(&format!("4  The NAT in front of uplink A takes other ports{of}"));
        lab.nat_rebinding()?;
        lab.timeline
            .step(&format!("5  The answer to a reattach is lost, and the client comes back elsewhere{of}"));
        lab.lost_answer()?;
    }
    lab.timeline.step("6  An attacker replays what he recorded, from another address");
    lab.replays()?;
    lab.timeline.step("7  The router holds back genuine DATA and releases it after the switch");
    lab.held_back()
}

/// The gateway's own account against the rules, by a judge that shares no code with it.
fn judge_audit(lab: &mut Lab<'_>, places: &Places) -> Result<()> {
    let findings = check_files(&[places.audit_file()], &account::expectations(places)?)?;
    lab.report.audit_events = findings.events;
    lab.report.audit_violations = findings.violations.iter().map(ToString::to_string).collect();
    Ok(())
}

/// How long each recovery took an application, by cause.
fn write_histograms(recoveries: &[Recovery], dir: &Path) -> Result<()> {
    let mut outages = Histograms::new(dir);
    for Recovery { cause, outage_ms, .. } in recoveries {
        outages.add(&format!("outage-{cause}"), Duration::from_millis(*outage_ms))?;
    }
    outages.write()
}

fn conclude(lab: Lab<'_>, options: &Options, places: &Places, dir: &mut RunDir) -> Result<()> {
    let environment = Environment::collect().with_gateway(lab.rig, lab.deployment, places);
    let report = lab.report()?;
    report.write_to(&options.out_dir.join("report.json"))?;
    let failures = report.failures();
    let result = serde_json::json!({
        "scenario": "demo", "valid": failures.is_empty(), "complete": true, "broken_off": null,
        "rounds": options.rounds, "failures": failures,
        "preset": "edge", "policy": account::policy(places)?, "environment": environment, "report": report, "recoveries": report.recoveries,
    });
    dir.publish("Jumping VPN: the demo", &result)?;
    timeline::closing_table(&report, &summarise(&report.recoveries), &failures);
    timeline::print(&format!(
        "  report: {0}/report.json, events: {0}/events.jsonl",
        options.out_dir.display()
    ));
    if !failures.is_empty() {
        bail!("{} of the claims did not hold", failures.len());
    }
    Ok(())
}

fn end(options: &Options, rig: Option<Rig>, deployment: Option<Deployment>) -> Result<()> {
    let Some(mut rig) = rig else { return Ok(()) };
    match (options.end, deployment) {
        (End::Keep, Some(deployment)) => {
            rig.keep()?;
            timeline::print(&deployment.release(&rig));
            Ok(())
        }
        (_, deployment) => {
            deployment.map_or(Ok(()), Deployment::stop)?;
            rig.remove()
        }
    }
}
