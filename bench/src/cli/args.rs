//! What each verb may be told.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, value_parser};

use crate::model::Mutant;
use crate::scenarios::recovery::RoundTrip;
use crate::scenarios::{flood, sessions};
use crate::simulate::Seeds;
use crate::simulation::churn::Profile;
use crate::swarm::network::MEMBERS_MAX;

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Repeats the recoveries so many times and shows median and maximum per cause.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = value_parser!(u32).range(1..=1000))]
    pub(super) repeat: u32,
    /// Leaves network and processes standing at the end and prints how to enter them.
    #[arg(long)]
    pub(super) keep: bool,
    /// Removes what `--keep` left, and does nothing else.
    #[arg(long, conflicts_with_all = ["keep", "repeat"])]
    pub(super) down: bool,
    /// Size of the download, MiB.
    #[arg(long, default_value_t = 512, value_name = "MIB", value_parser = value_parser!(u64).range(8..=65_536))]
    pub(super) download_mib: u64,
    /// Where report, events, logs and configuration go.
    #[arg(long, default_value = "target/demo", value_name = "DIR")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct TimingArgs {
    /// Timed calls of each comparison.
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = value_parser!(u32).range(1_000..=100_000_000))]
    pub(super) samples: u32,
    /// Seed of the order in which the two classes come.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    pub(super) seed: u64,
    /// Where result, report and summary go.
    #[arg(long, default_value = "target/timing", value_name = "DIR")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct CostArgs {
    /// Numbers of sessions to measure with, one after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 65_536], value_name = "N,N,…",
        value_parser = value_parser!(u32).range(100..=65_536))]
    pub(super) sessions: Vec<u32>,
    /// Rounds of each measurement; the median counts.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = value_parser!(u32).range(5..=101))]
    pub(super) rounds: u32,
    /// Births, reattaches and rekeys in one round.
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = value_parser!(u32).range(10..=10_000))]
    pub(super) per_round: u32,
    /// Sessions that lose their path at the same moment; 0 leaves the storm out.
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = value_parser!(u32).range(0..=65_536))]
    pub(super) storm: u32,
    /// Writes every round, the machine and the versions to this file, too.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Where result, report and summary go.
    #[arg(long, default_value = "target/cost", value_name = "DIR")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct ThroughputArgs {
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = value_parser!(u32).range(1..=101))]
    pub(super) rounds: u32,
    /// Milliseconds of each TCP measurement, and of four of UDP.
    #[arg(long, default_value_t = 2_000, value_name = "MS", value_parser = value_parser!(u64).range(200..=60_000))]
    pub(super) span_ms: u64,
    /// Writes every round, the machine and the versions to this file.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Where result, report, logs and configuration go.
    #[arg(long, default_value = "target/throughput", value_name = "DIR")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct PeersArgs {
    /// Only these, in this order: ours, plain, kernel-wireguard, wireguard-go, gotatun, boringtun, openvpn, or `all`.
    #[arg(long = "contender", value_delimiter = ',', default_value = "all", value_name = "C")]
    pub(super) contenders: Vec<String>,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = value_parser!(u32).range(1..=101))]
    pub(super) rounds: u32,
    /// Milliseconds of each measurement; each step of the search for a rate takes a quarter.
    #[arg(long, default_value_t = 2_000, value_name = "MS", value_parser = value_parser!(u64).range(200..=60_000))]
    pub(super) span_ms: u64,
    /// Seconds that a contender may take to come up; after that it hangs.
    #[arg(long, default_value_t = 20, value_name = "S", value_parser = value_parser!(u64).range(2..=600))]
    pub(super) patience_s: u64,
    /// Measures how tunnels come back instead of how much goes through them.
    #[arg(long, conflicts_with_all = ["rounds", "span_ms"])]
    pub(super) recovery: bool,
    /// With --recovery: only these causes, in this order, or `all`.
    #[arg(
        long = "cause",
        value_delimiter = ',',
        default_value = "all",
        value_name = "C",
        requires = "recovery"
    )]
    pub(super) causes: Vec<String>,
    /// With --recovery: trials per cause and contender.
    #[arg(long, default_value_t = 10, value_name = "N", requires = "recovery",
        value_parser = value_parser!(u32).range(1..=10_000))]
    pub(super) trials: u32,
    /// With --recovery: emulated round-trip time, ms.
    #[arg(long = "rtt", default_value_t = 50, value_name = "MS", requires = "recovery",
        value_parser = value_parser!(u64).range(0..=2000))]
    pub(super) rtt_ms: u64,
    /// With --recovery: seconds after which a trial counts as one that did not come back.
    #[arg(long, default_value_t = 90, value_name = "S", requires = "recovery",
        value_parser = value_parser!(u64).range(2..=3600))]
    pub(super) cap_s: u64,
    /// With --recovery: a script moves the route away from a silent path after so long; nothing tells of it otherwise.
    #[arg(long, value_name = "TIME", requires = "recovery", value_parser = humantime::parse_duration)]
    pub(super) script_after: Option<Duration>,
    /// With --recovery: clients of each contender at once.
    #[arg(long, default_value_t = 5, value_name = "N", requires = "recovery",
        value_parser = value_parser!(u8).range(1..=16))]
    pub(super) clients: u8,
    /// With --recovery: determines all chance of the bench.
    #[arg(long, default_value_t = 1, value_name = "SEED", requires = "recovery")]
    pub(super) seed: u64,
    /// With --recovery: puts the result beside that of a recovery run, of a suite or of a part of one; report.html there,
    /// and that of the suite, then has bars of it.
    #[arg(long, value_name = "DIR", requires = "recovery")]
    pub(super) beside: Option<PathBuf>,
    /// Where result, report, summary, raw rows, logs and configuration go.
    #[arg(long, default_value = "target/peers-run", value_name = "DIR")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct FloodArgs {
    /// Honest sessions.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = value_parser!(u16).range(1..=4000))]
    pub(super) sessions: u16,
    /// Only these attacks, in this order; all of them otherwise.
    #[arg(long = "attack", value_name = "ATTACK", value_enum)]
    pub(super) attacks: Vec<flood::Attack>,
    /// Seconds of the quiet run and of each attack.
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = value_parser!(u64).range(1..=3600))]
    pub(super) seconds: u64,
    /// Datagrams per second of an attacker; as many as one thread sends otherwise.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub(super) rate: Option<u32>,
    /// Milliseconds between two markers of a session: the resolution of outages.
    #[arg(long, default_value_t = 20, value_name = "MS", value_parser = value_parser!(u64).range(1..=1000))]
    pub(super) marker_ms: u64,
    /// Determines what the attackers send.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    pub(super) seed: u64,
    /// Prints result.json instead of a table.
    #[arg(long)]
    pub(super) json: bool,
    /// Where result, audit, histograms, logs and configuration go.
    #[arg(long, default_value = "target/flood", value_name = "DIR")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct SessionsArgs {
    /// Sessions; with `--search` the most that are tried, all that the tables hold unless given.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=MEMBERS_MAX as i64))]
    pub(super) sessions: Option<u32>,
    /// Looks for the highest number of sessions that this machine sustains.
    #[arg(long)]
    pub(super) search: bool,
    /// A [policy] for the gateway, or a configuration that has one; a policy without limits in a storm's way otherwise.
    #[arg(long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,
    /// Handshakes begun per second; the node's own limit is 500, and from 250 on it asks for cookies.
    #[arg(long, default_value_t = 450, value_name = "N", value_parser = value_parser!(u32).range(1..=10_000))]
    pub(super) births_per_second: u32,
    /// Milliseconds between two markers of a session; chosen so that there are at most 5,000 per second in all otherwise.
    #[arg(long, value_name = "MS", value_parser = value_parser!(u64).range(10..=600_000))]
    pub(super) marker_ms: Option<u64>,
    /// Seconds for which all sessions are held in peace.
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = value_parser!(u64).range(1..=86_400))]
    pub(super) steady: u64,
    /// Only these storms, in this order; all of them otherwise.
    #[arg(long = "storm", value_name = "STORM", value_enum, conflicts_with = "search")]
    pub(super) storms: Vec<sessions::Storm>,
    /// Longest time from the kill of the control plane until all are adopted, for up to 10,000 sessions; more in
    /// proportion.
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(super) adoption_bound: Duration,
    /// Determines the keys of the peers.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    pub(super) seed: u64,
    /// Prints result.json instead of a table.
    #[arg(long)]
    pub(super) json: bool,
    /// Where result, audit, histograms, logs and configuration go.
    #[arg(long, default_value = "target/sessions", value_name = "DIR")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct IdleArgs {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 30, value_name = "S", value_parser = value_parser!(u64).range(1..=3_600))]
    pub(super) seconds: u64,
    /// Silent sessions of the second measurement.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = value_parser!(u32).range(1..=10_000))]
    pub(super) sessions: u32,
    /// Prints result.json instead of a table.
    #[arg(long)]
    pub(super) json: bool,
    /// Where result, report, logs and configuration go.
    #[arg(long, default_value = "target/idle", value_name = "DIR")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct SoakArgs {
    /// Minutes of churn; parts of one are allowed.
    #[arg(long, default_value_t = 10.0, value_name = "M", value_parser = minutes)]
    pub(super) minutes: f64,
    /// Sessions at any moment.
    #[arg(long, default_value_t = 240, value_name = "N", value_parser = value_parser!(u32).range(12..=1_000))]
    pub(super) sessions: u32,
    /// Every session sends as much as goes while they churn.
    #[arg(long)]
    pub(super) load: bool,
    /// Determines the keys of the peers.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    pub(super) seed: u64,
    /// Prints result.json instead of a table.
    #[arg(long)]
    pub(super) json: bool,
    /// Where result, audit, logs and configuration go.
    #[arg(long, default_value = "target/soak", value_name = "DIR")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct ChurnArgs {
    /// Minutes of churn; parts of one are allowed.
    #[arg(long, default_value_t = 5.0, value_name = "M", value_parser = minutes)]
    pub(super) minutes: f64,
    /// Sessions at any moment.
    #[arg(long, default_value_t = 500, value_name = "N", value_parser = value_parser!(u32).range(12..=10_000))]
    pub(super) sessions: u32,
    /// Links lost and ports changed per second, all sessions together; each may move 40 times a minute.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = value_parser!(u32).range(1..=6_000))]
    pub(super) moves_per_second: u32,
    /// Sessions that end and are born again per second, with and without a goodbye by turns.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = value_parser!(u32).range(0..=200))]
    pub(super) births_per_second: u32,
    /// Milliseconds between two markers of a session.
    #[arg(long, default_value_t = 100, value_name = "MS", value_parser = value_parser!(u64).range(10..=60_000))]
    pub(super) marker_ms: u64,
    /// Determines the keys of the peers.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    pub(super) seed: u64,
    /// Prints result.json instead of a table.
    #[arg(long)]
    pub(super) json: bool,
    /// Where result, report, audit, histograms, logs and configuration go.
    #[arg(long, default_value = "target/churn", value_name = "DIR")]
    pub(super) out: PathBuf,
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|_| "no number".to_owned())?;
    if (0.2..=10_080.0).contains(&minutes) { Ok(minutes) } else { Err("0.2 to 10080 minutes".to_owned()) }
}

#[derive(Debug, Args)]
pub(super) struct EmulatorArgs {
    /// Measures everything that a path can be told against what was asked: both ways, on real interfaces.
    #[arg(long, required_unless_present = "profile")]
    pub(super) self_test: bool,
    /// Checks this profile (a built-in name or a file) and shows what it amounts to.
    #[arg(long, value_name = "P", conflicts_with = "self_test")]
    pub(super) profile: Option<String>,
    /// Determines all chance.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    pub(super) seed: u64,
    /// Where result, report and summary go.
    #[arg(long, default_value = "target/emulator", value_name = "DIR")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct RecoveryArgs {
    /// Only these causes, in this order, or `all`.
    #[arg(long = "cause", value_delimiter = ',', default_value = "all", value_name = "C")]
    pub(super) causes: Vec<String>,
    /// Emulated round-trip times, ms, half each way in place of the profile's delays; 0 adds no delay. Or `profile`: the
    /// profile's own delays, each way its own.
    #[arg(long = "rtt", value_delimiter = ',', default_value = "50", value_name = "MS|profile")]
    pub(super) rtts: Vec<RoundTrip>,
    /// Incidents per cause and round-trip time.
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = value_parser!(u32).range(1..=100_000))]
    pub(super) trials: u32,
    /// Determines all chance of the bench.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    pub(super) seed: u64,
    /// The content of the gateway's [policy]; the default policy otherwise.
    #[arg(long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,
    /// A preset as it is instead of a file: edge, mobile, fintech, satellite.
    #[arg(long, value_name = "NAME", conflicts_with = "policy")]
    pub(super) preset: Option<String>,
    /// What the paths are like (their delay: see --rtt): plain, office, mobile, train, satellite, cross-border, or a file.
    /// The second path of a client follows a script that repeats a third of a round ahead of the first.
    #[arg(long, default_value = "plain", value_name = "P")]
    pub(super) profile: String,
    /// Clients at once.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = value_parser!(u8).range(1..=16))]
    pub(super) clients: u8,
    /// Goes on with the run that is in the directory.
    #[arg(long)]
    pub(super) resume: bool,
    /// Runs nothing: judges the raw files of this directory once more, and writes result.json, report.html, summary.md,
    /// events.jsonl and the histograms there anew.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["resume", "policy", "causes"])]
    pub(super) judge: Option<PathBuf>,
    /// Where result, report, events, histograms, logs and configuration go.
    #[arg(long, default_value = "target/recovery", value_name = "DIR")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct SuiteArgs {
    /// Every part with few trials: a look in some minutes. p99 of so few is the longest value seen.
    #[arg(long)]
    pub(super) quick: bool,
    /// Whether it works here, in less than a minute: one or two trials of parts of each kind. Its figures say nothing.
    #[arg(long, conflicts_with = "quick")]
    pub(super) smoke: bool,
    /// Determines all chance of the bench.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    pub(super) seed: u64,
    /// Clients at once.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = value_parser!(u8).range(1..=16))]
    pub(super) clients: u8,
    /// Last of all, how the peers that are here come back from the same causes (`peers --recovery`), as bars in the report;
    /// half an hour and more with all of them. `cargo xtask setup --peers` gets them.
    #[arg(long)]
    pub(super) peers: bool,
    /// Goes on with the suite that is in the directory.
    #[arg(long)]
    pub(super) resume: bool,
    /// Where everything goes, each part in a directory of its own.
    #[arg(long, default_value = "target/bench", value_name = "DIR")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// The result that is there: `result.json`, or its directory.
    #[arg(value_name = "A")]
    pub(super) before: PathBuf,
    /// The result that is new.
    #[arg(value_name = "B")]
    pub(super) after: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct ModelArgs {
    /// Explores larger bounds: minutes instead of seconds, in a release build.
    #[arg(long)]
    pub(super) deep: bool,
    /// Prints, step by step, how this seeded bug is found, and does nothing else.
    #[arg(long, value_name = "MUTANT", conflicts_with = "deep", value_parser = mutant)]
    pub(super) trace: Option<Mutant>,
}

#[derive(Debug, Args)]
pub(super) struct SimulateArgs {
    /// Hosts of each world, one session each.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = value_parser!(u64).range(1..=60_000))]
    pub(super) sessions: u64,
    /// Virtual minutes of churn.
    #[arg(long, default_value_t = 10, value_name = "M", value_parser = value_parser!(u64).range(1..=10_080))]
    pub(super) minutes: u64,
    /// Worlds, from the first to the last.
    #[arg(long, default_value = "0..199", value_name = "FIRST..LAST")]
    pub(super) seeds: Seeds,
    /// How the hosts live.
    #[arg(long, default_value = "mobile", value_name = "NAME", value_parser = profile)]
    pub(super) profile: Profile,
    /// Worlds at once; as many as there are cores unless given.
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=1_024))]
    pub(super) threads: Option<u16>,
    /// Takes X25519 instead of the cheap Diffie-Hellman of simulations.
    #[arg(long)]
    pub(super) real_keys: bool,
    /// Writes the audit log there, as JSON lines, and the policy beside it; of several worlds each its own, the seed in
    /// the name of the file.
    #[arg(long, value_name = "FILE")]
    pub(super) events: Option<PathBuf>,
    /// Writes the figures there, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Prints the timeline of every step on standard error: for one seed.
    #[arg(long)]
    pub(super) trace: bool,
}

fn profile(name: &str) -> Result<Profile, String> {
    let names = || Profile::ALL.map(|profile| format!("{} ({})", profile.name, profile.about)).join(", ");
    Profile::named(name).ok_or_else(|| format!("there are: {}", names()))
}

fn mutant(name: &str) -> Result<Mutant, String> {
    let names = || Mutant::ALL.map(Mutant::name).join(", ");
    Mutant::named(name).ok_or_else(|| format!("there are: {}", names()))
}
