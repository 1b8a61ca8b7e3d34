//! What the suite consists of.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use jvpn_rig::Interrupt;
use serde::{Deserialize, Serialize};

use super::{BESIDE_PEERS, Options};
use crate::scenarios::contenders::Kind;
use crate::scenarios::recovery::{Cause, DEFAULT_PRESET, beside};
use crate::scenarios::{cost, sessions};

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Size {
    /// As the aims ask for it.
    Full,
    /// A look: every part, few trials. Its p99 is the longest value seen.
    Quick,
    /// Whether it works, in less than a minute: parts of each kind, one or two trials. Its figures say nothing.
    Smoke,
}

/// One part.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    /// Name of its directory.
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) work: Work,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Work {
    Recovery { preset: &'static str, causes: Vec<Cause>, rtts_ms: Vec<u64>, trials: u32 },
    Cost { sessions: u32, estimate: Duration },
    Storm { sessions: usize, estimate: Duration },
    Peers { causes: Vec<Cause>, trials: u32, cap: Duration },
}

/// The parts, in their order: first what a reader asks for first.
pub(super) fn parts(size: Size) -> Vec<Part> {
    let recovery = |name, what, preset, causes: &[Cause], rtts_ms: &[u64], trials| {
        let (causes, rtts_ms) = (causes.to_vec(), rtts_ms.to_vec());
        Part { name, what, work: Work::Recovery { preset, causes, rtts_ms, trials } }
    };
    let blackhole = [Cause::SilentBlackhole];
    let all: &[Cause] = match size {
        Size::Full | Size::Quick => &Cause::ALL,
        Size::Smoke => &[Cause::SilentBlackhole, Cause::LinkDown, Cause::DataPlaneKill],
    };
    let (kills, single): (Vec<_>, Vec<_>) = all.iter().copied().partition(|cause| cause.is_common());
    // A kill strikes every client: each incident has as many trials as there are clients.
    let [many, some, many_kills, some_kills] = match size {
        Size::Full => [200, 30, 50, 10],
        Size::Quick => [5, 3, 3, 3],
        Size::Smoke => [2, 1, 1, 1],
    };
    let others: &[u64] = match size {
        Size::Full => &[0, 5, 150],
        Size::Quick | Size::Smoke => &[0],
    };
    let near: &[u64] = match size {
        Size::Full => &[0, 5],
        Size::Quick | Size::Smoke => &[0],
    };
    let (sessions, storm_estimate) = match size {
        Size::Full => (10_000, Duration::from_secs(90)),
        Size::Quick => (1_000, Duration::from_secs(30)),
        Size::Smoke => (100, Duration::from_secs(10)),
    };
    let cost_sessions = u32::try_from(sessions).unwrap_or(1_000);
    let cost_estimate = Duration::from_secs(if size == Size::Smoke { 5 } else { 30 });
    let mut parts = vec![
        recovery("default-50", "default policy, 50 ms", DEFAULT_PRESET, &single, &[50], many),
        recovery("fintech-50", "preset fintech, 50 ms", "fintech", &blackhole, &[50], many),
        recovery("kills-50", "the gateway's processes die, 50 ms", DEFAULT_PRESET, &kills, &[50], many_kills),
        recovery("default-others", "default policy, other paths", DEFAULT_PRESET, &single, others, some),
        recovery(
            "kills-others",
            "the gateway's processes die, other paths",
            DEFAULT_PRESET,
            &kills,
            others,
            some_kills,
        ),
        recovery("fintech-others", "preset fintech, nearer paths", "fintech", &blackhole, near, some),
        Part {
            name: "cost",
            what: "what a reattach costs the gateway",
            work: Work::Cost { sessions: cost_sessions, estimate: cost_estimate },
        },
        Part {
            name: "storm",
            what: "all sessions lose their path at once",
            work: Work::Storm { sessions, estimate: storm_estimate },
        },
    ];
    if size == Size::Smoke {
        // The same work once more.
        parts.retain(|part| !part.name.ends_with("-others"));
    }
    parts
}

/// How others come back from the causes of [`BESIDE_PEERS`]: last, for it takes longest and says least of ours.
pub(super) fn peers(size: Size) -> Part {
    let (causes, trials, cap_s) = match size {
        Size::Full => (beside::CAUSES.to_vec(), 10, 90),
        Size::Quick => (beside::CAUSES.to_vec(), 3, 15),
        Size::Smoke => (vec![Cause::LinkDown, Cause::DataPlaneKill], 1, 5),
    };
    let work = Work::Peers { causes, trials, cap: Duration::from_secs(cap_s) };
    Part { name: "peers", what: "how the peers come back from the same causes, 50 ms", work }
}

/// What `peers --recovery` is asked for as a part of a suite; its result goes beside [`BESIDE_PEERS`], too.
pub(super) fn beside_options(
    (causes, trials, cap): (&[Cause], u32, Duration),
    options: &Options,
    dir: &Path,
) -> beside::Options {
    beside::Options {
        contenders: Kind::ALL.to_vec(),
        causes: causes.to_vec(),
        trials,
        rtt: Duration::from_millis(50),
        cap,
        patience: Duration::from_secs(20),
        script_after: None,
        clients: options.clients,
        seed: options.seed,
        beside: Some(options.out_dir.join(BESIDE_PEERS)),
        out_dir: dir.to_owned(),
    }
}

/// Measures what a reattach costs, beside the Diffie-Hellman bound.
pub(super) fn cost(sessions: u32, size: Size, dir: &Path, interrupt: &Interrupt) -> Result<()> {
    let options = cost::Options {
        sessions: vec![sessions],
        rounds: 5,
        per_round: if size == Size::Smoke { 20 } else { 200 },
        storm: 0,
        json: None,
        out_dir: dir.to_owned(),
    };
    cost::run(&options, interrupt)
}

/// Has all sessions lose their links at once.
pub(super) fn storm(sessions: usize, options: &Options, dir: &Path, interrupt: &Interrupt) -> Result<()> {
    let options = sessions::Options {
        sessions,
        policy: None,
        births_per_second: 450,
        marker_interval: None,
        steady: Duration::from_secs(if options.size == Size::Smoke { 1 } else { 5 }),
        storms: vec![sessions::Storm::LinkDown],
        adoption_bound: Duration::from_secs(2),
        seed: options.seed,
        out_dir: dir.to_owned(),
    };
    sessions::run(&options, interrupt).map(drop)
}
