//! The command line of `jvpn-bench`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, value_parser};
use jvpn_rig::{Interrupt, registry, requirements};

use crate::check_events::command::{self as check_events, CheckEventsArgs};
use crate::forwarding::l2fwd::{self, L2fwdArgs};
use crate::forwarding::pinning::{self, PinningArgs};
use crate::model::{self, Mutant, Scope};
use crate::scenarios::{cost, demo, emulator, flood, recovery, sessions, soak, throughput};
use crate::simulate::{self, Seeds};
use crate::simulation::KeyKind;
use crate::simulation::churn::Profile;
use crate::swarm::network::MEMBERS_MAX;
use crate::{timeline, timing};

/// Sessions in bulk, unless a number is given.
const SESSIONS: usize = 10_000;

/// Benches and demonstrates Jumping VPN on one machine, in network namespaces of its own.
#[derive(Debug, Parser)]
#[command(name = "jvpn-bench", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// A tunnel, two uplinks, and everything that can go wrong with them; judged from outside.
    Demo(DemoArgs),
    /// Honest sessions that lose their paths and come back, in peace and beside each attack.
    ///
    /// Every attack goes on for a while, with all that its maker may have: datagrams captured on the wire, any source
    /// address, keys of peers of his own. Outages of the honest sessions stand beside those of the quiet run, and the
    /// run fails if a bound breaks: a session lost, two bindings of one, more switches than policy allows, memory that
    /// grows or stays, an unproven address that gets more octets than it sent, an audit log that floods.
    Flood(FloodArgs),
    /// How fast sessions come back, whatever happens to their path: many trials per cause, over emulated paths.
    ///
    /// Real gateway, real clients, real namespaces; several clients at once, with young sessions, so that policy's limits
    /// stretch nothing. Probes at 1 kHz go both ways inside every tunnel, beside a TCP stream; an outage is the longest
    /// silence. A broken rule in the gateway's audit log, a frame of an old binding behind its unbind, or a client that
    /// does not come back make the run INVALID: then the exit code is 1.
    ///
    /// An interrupted run keeps its trials and says that it is a part; `--resume` goes on with it.
    #[command(after_help = "Examples:\n  \
        jvpn-bench recovery --rtt 0,50 --trials 30\n  \
        jvpn-bench recovery --cause silent_blackhole --rtt 50 --trials 200 --policy fintech.toml --out target/fintech\n  \
        jvpn-bench recovery --judge target/fintech        judges its raw files once more")]
    Recovery(RecoveryArgs),
    /// Says of two recovery results which is better, cause by cause, or that they differ by no more than noise.
    Compare(CompareArgs),
    /// Explores the model of client, gateway, network and attacker, and hunts the seeded bugs in it.
    Model(ModelArgs),
    /// What sessions cost the control plane: time per event, octets per session, a reattach storm. Needs no root.
    ///
    /// Runs the production engine with real cryptography on one core and virtual time, without sockets and files, and
    /// times the gateway's side alone. Figures are medians of the rounds; every round is in the JSON. What does not
    /// depend on the number of sessions shows by columns that are alike. The bound is what the X25519 operations of a
    /// reattach alone cost, measured in the same run.
    ///
    /// Use a release build on a quiet machine. With the default sizes it takes some minutes, most of it the clients'
    /// side of 65,536 handshakes. A missed aim is marked MISS; the exit code is about correctness: nothing lost, nothing
    /// doubled, versions as expected.
    #[command(after_help = "Examples:\n  \
        jvpn-bench cost --json cost.json\n  \
        jvpn-bench cost --sessions 1000 --storm 0         a look in a few seconds\n  \
        jvpn-bench cost --sessions 10000 --rounds 11      steadier medians")]
    Cost(CostArgs),
    /// Sessions in bulk on a real gateway: births, memory and processor time, storms, and the death of the control plane.
    ///
    /// Every session is a production agent's; all agents are in one process. All lose their path at once and come back;
    /// then the control plane is killed and started again under them. The run fails if a session or a marker is lost or
    /// doubled, if adoption takes too long, or if the audit log breaks a rule. Aims of the reference machine that are
    /// missed are marked MISS and do not fail the run.
    #[command(after_help = "Examples:\n  \
        jvpn-bench sessions --sessions 10000\n  \
        jvpn-bench sessions --sessions 65533 --births-per-second 240\n  \
        jvpn-bench sessions --search                      the most that this machine sustains")]
    Sessions(SessionsArgs),
    /// Births, moves, rekeys and ends for minutes: memory and descriptors of the gateway must stay where they are.
    Soak(SoakArgs),
    /// How much goes through one tunnel and what it costs, with the client's offloads on and off, turn by turn.
    ///
    /// TCP with 1 and 4 streams and UDP with 1,400 and 64 octets, both ways; UDP at the highest rate that loses less than
    /// 1 %. Processor seconds per GB of the gateway's data plane, of the client, and of the whole machine, to which alone
    /// work in soft interrupts is charged. Figures are medians of the rounds; every round is in the JSON. Use a release
    /// build on a quiet machine, and compare figures of one run only.
    #[command(after_help = "Example:\n  jvpn-bench throughput --json throughput.json")]
    Throughput(ThroughputArgs),
    /// Lives through worlds of many mobile hosts on virtual time, one per seed, and judges every step.
    Simulate(Box<SimulateArgs>),
    /// The path emulator of the recovery bench: its profiles, and a test of itself.
    Emulator(EmulatorArgs),
    /// Judges audit logs of a gateway by the schema, the table of transitions and the invariants, and by nothing else.
    CheckEvents(CheckEventsArgs),
    /// Whether a comparison of secrets tells by its time where two values differ. Needs no root.
    ///
    /// Times each check of the product with values that are wrong in their first and in their last octet, in random order,
    /// and shows Welch's t over both. Beyond 4.5 they differ. Two comparisons that stop early are measured beside ours and
    /// must be found. Use a release build on a quiet machine.
    Timing(TimingArgs),
    /// Packets per second of our worker against plain AF_XDP forwarding between the same two ports.
    L2fwd(L2fwdArgs),
    /// Tries settings of the worker on this machine, and recommends a configuration.
    Pinning(PinningArgs),
    /// Removes what killed runs left: network namespaces, processes, files.
    Sweep,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Repeats the recoveries so many times and shows median and maximum per cause.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Leaves network and processes standing at the end and prints how to enter them.
    #[arg(long)]
    keep: bool,
    /// Removes what `--keep` left, and does nothing else.
    #[arg(long, conflicts_with_all = ["keep", "repeat"])]
    down: bool,
    /// Size of the download, MiB.
    #[arg(long, default_value_t = 512, value_name = "MIB", value_parser = value_parser!(u64).range(8..=65_536))]
    download_mib: u64,
    /// Where report, events, logs and configuration go.
    #[arg(long, default_value = "target/demo", value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct TimingArgs {
    /// Timed calls of each comparison.
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = value_parser!(u32).range(1_000..=100_000_000))]
    samples: u32,
    /// Seed of the order in which the two classes come.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    seed: u64,
}

#[derive(Debug, Args)]
struct CostArgs {
    /// Numbers of sessions to measure with, one after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 65_536], value_name = "N,N,…",
        value_parser = value_parser!(u32).range(100..=65_536))]
    sessions: Vec<u32>,
    /// Rounds of each measurement; the median counts.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = value_parser!(u32).range(5..=101))]
    rounds: u32,
    /// Births, reattaches and rekeys in one round.
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = value_parser!(u32).range(10..=10_000))]
    per_round: u32,
    /// Sessions that lose their path at the same moment; 0 leaves the storm out.
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = value_parser!(u32).range(0..=65_536))]
    storm: u32,
    /// Writes every round, the machine and the versions to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ThroughputArgs {
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = value_parser!(u32).range(1..=101))]
    rounds: u32,
    /// Milliseconds of each TCP measurement, and of four of UDP.
    #[arg(long, default_value_t = 2_000, value_name = "MS", value_parser = value_parser!(u64).range(200..=60_000))]
    span_ms: u64,
    /// Writes every round, the machine and the versions to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where logs and configuration go.
    #[arg(long, default_value = "target/throughput", value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct FloodArgs {
    /// Honest sessions.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = value_parser!(u16).range(1..=4000))]
    sessions: u16,
    /// Only these attacks, in this order; all of them otherwise.
    #[arg(long = "attack", value_name = "ATTACK", value_enum)]
    attacks: Vec<flood::Attack>,
    /// Seconds of the quiet run and of each attack.
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Datagrams per second of an attacker; as many as one thread sends otherwise.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Milliseconds between two markers of a session: the resolution of outages.
    #[arg(long, default_value_t = 20, value_name = "MS", value_parser = value_parser!(u64).range(1..=1000))]
    marker_ms: u64,
    /// Determines what the attackers send.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    seed: u64,
    /// Prints result.json instead of a table.
    #[arg(long)]
    json: bool,
    /// Where result, audit, histograms, logs and configuration go.
    #[arg(long, default_value = "target/flood", value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct SessionsArgs {
    /// Sessions; with `--search` the most that are tried, all that the tables hold unless given.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=MEMBERS_MAX as i64))]
    sessions: Option<u32>,
    /// Looks for the highest number of sessions that this machine sustains.
    #[arg(long)]
    search: bool,
    /// A [policy] for the gateway, or a configuration that has one; a policy without limits in a storm's way otherwise.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Handshakes begun per second; the node's own limit is 500, and from 250 on it asks for cookies.
    #[arg(long, default_value_t = 450, value_name = "N", value_parser = value_parser!(u32).range(1..=10_000))]
    births_per_second: u32,
    /// Milliseconds between two markers of a session; chosen so that there are at most 5,000 per second in all otherwise.
    #[arg(long, value_name = "MS", value_parser = value_parser!(u64).range(10..=600_000))]
    marker_ms: Option<u64>,
    /// Seconds for which all sessions are held in peace.
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = value_parser!(u64).range(1..=86_400))]
    steady: u64,
    /// Only these storms, in this order; all of them otherwise.
    #[arg(long = "storm", value_name = "STORM", value_enum, conflicts_with = "search")]
    storms: Vec<sessions::Storm>,
    /// Longest time from the kill of the control plane until all are adopted, for up to 10,000 sessions; more in
    /// proportion.
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = humantime::parse_duration)]
    adoption_bound: Duration,
    /// Determines the keys of the peers.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    seed: u64,
    /// Prints result.json instead of a table.
    #[arg(long)]
    json: bool,
    /// Where result, audit, histograms, logs and configuration go.
    #[arg(long, default_value = "target/sessions", value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct SoakArgs {
    /// Minutes of churn; parts of one are allowed.
    #[arg(long, default_value_t = 10.0, value_name = "M", value_parser = minutes)]
    minutes: f64,
    /// Sessions at any moment.
    #[arg(long, default_value_t = 240, value_name = "N", value_parser = value_parser!(u32).range(12..=1_000))]
    sessions: u32,
    /// Determines the keys of the peers.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    seed: u64,
    /// Prints result.json instead of a table.
    #[arg(long)]
    json: bool,
    /// Where result, audit, logs and configuration go.
    #[arg(long, default_value = "target/soak", value_name = "DIR")]
    out: PathBuf,
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|_| "no number".to_owned())?;
    if (0.2..=10_080.0).contains(&minutes) { Ok(minutes) } else { Err("0.2 to 10080 minutes".to_owned()) }
}

#[derive(Debug, Args)]
struct EmulatorArgs {
    /// Measures delay, jitter, loss, bursts, reordering, duplication, rate and capacity against what was asked.
    #[arg(long, required_unless_present = "profile")]
    self_test: bool,
    /// Checks this profile (a built-in name or a file) and shows what it amounts to.
    #[arg(long, value_name = "P", conflicts_with = "self_test")]
    profile: Option<String>,
    /// Determines all chance.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    seed: u64,
    /// Writes the self-test to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct RecoveryArgs {
    /// Only these causes, in this order, or `all`.
    #[arg(long = "cause", value_delimiter = ',', default_value = "all", value_name = "C")]
    causes: Vec<String>,
    /// Emulated round-trip times, ms; 0 adds no delay.
    #[arg(long = "rtt", value_delimiter = ',', default_value = "50", value_name = "MS",
        value_parser = value_parser!(u64).range(0..=2000))]
    rtts: Vec<u64>,
    /// Incidents per cause and round-trip time.
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = value_parser!(u32).range(1..=100_000))]
    trials: u32,
    /// Determines all chance of the bench.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    seed: u64,
    /// The content of the gateway's [policy]; the default policy otherwise.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// What the paths are like, apart from the delay: a built-in profile or a file.
    #[arg(long, default_value = "plain", value_name = "P")]
    profile: String,
    /// Clients at once.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = value_parser!(u8).range(1..=16))]
    clients: u8,
    /// Goes on with the run that is in the directory.
    #[arg(long)]
    resume: bool,
    /// Judges the raw files of this directory once more, and does nothing else.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["resume", "policy", "causes"])]
    judge: Option<PathBuf>,
    /// Where result, report, events, histograms, logs and configuration go.
    #[arg(long, default_value = "target/recovery", value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct CompareArgs {
    /// The result that is there: `result.json`, or its directory.
    #[arg(value_name = "A")]
    before: PathBuf,
    /// The result that is new.
    #[arg(value_name = "B")]
    after: PathBuf,
}

#[derive(Debug, Args)]
struct ModelArgs {
    /// Explores larger bounds: minutes instead of seconds, in a release build.
    #[arg(long)]
    deep: bool,
    /// Prints, step by step, how this seeded bug is found, and does nothing else.
    #[arg(long, value_name = "MUTANT", conflicts_with = "deep", value_parser = mutant)]
    trace: Option<Mutant>,
}

#[derive(Debug, Args)]
struct SimulateArgs {
    /// Hosts of each world, one session each.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = value_parser!(u64).range(1..=60_000))]
    sessions: u64,
    /// Virtual minutes of churn.
    #[arg(long, default_value_t = 10, value_name = "M", value_parser = value_parser!(u64).range(1..=10_080))]
    minutes: u64,
    /// Worlds, from the first to the last.
    #[arg(long, default_value = "0..199", value_name = "FIRST..LAST")]
    seeds: Seeds,
    /// How the hosts live.
    #[arg(long, default_value = "mobile", value_name = "NAME", value_parser = profile)]
    profile: Profile,
    /// Worlds at once; as many as there are cores unless given.
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=1_024))]
    threads: Option<u16>,
    /// Takes X25519 instead of the cheap Diffie-Hellman of simulations.
    #[arg(long)]
    real_keys: bool,
    /// Writes the audit log there, as JSON lines, and the policy beside it; of several worlds each its own, the seed in
    /// the name of the file.
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// Writes the figures there, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Prints the timeline of every step on standard error: for one seed.
    #[arg(long)]
    trace: bool,
}

fn profile(name: &str) -> Result<Profile, String> {
    let names = || Profile::ALL.map(|profile| format!("{} ({})", profile.name, profile.about)).join(", ");
    Profile::named(name).ok_or_else(|| format!("there are: {}", names()))
}

fn mutant(name: &str) -> Result<Mutant, String> {
    let names = || Mutant::ALL.map(Mutant::name).join(", ");
    Mutant::named(name).ok_or_else(|| format!("there are: {}", names()))
}

/// Runs the command; the exit code is 0 only if everything held. `check-events` tells a broken rule (1) from a log that it
/// could not judge (2).
#[must_use]
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            timeline::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.verb {
        Verb::CheckEvents(args) => return Ok(check_events::run(&args)),
        Verb::L2fwd(args) => measured(|interrupt| l2fwd::run(&args, interrupt)),
        Verb::Pinning(args) => measured(|interrupt| pinning::run(&args, interrupt)),
        Verb::Sweep => sweep(),
        Verb::Model(ModelArgs { trace: Some(mutant), .. }) => trace_mutant(mutant),
        Verb::Model(args) => run_model(args.deep),
        Verb::Cost(args) => run_cost(args),
        Verb::Timing(TimingArgs { samples, seed }) => timing::run(timing::Options { samples, seed }),
        Verb::Simulate(args) => run_simulate(*args),
        Verb::Demo(args) if args.down => take_down(),
        Verb::Demo(args) => run_demo(args),
        Verb::Flood(args) => run_flood(args),
        Verb::Sessions(args) => run_sessions(args),
        Verb::Soak(args) => run_soak(&args),
        Verb::Emulator(args) => run_emulator(&args),
        Verb::Recovery(RecoveryArgs { judge: Some(dir), .. }) => recovery::judge_and_fail(&dir),
        Verb::Recovery(args) => run_recovery(&args),
        Verb::Compare(args) => recovery::compare::run(&args.before, &args.after),
        Verb::Throughput(args) => run_throughput(args),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn run_cost(args: CostArgs) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let CostArgs { sessions, rounds, per_round, storm, json } = args;
    cost::run(&cost::Options { sessions, rounds, per_round, storm, json }, &interrupt)
}

/// Measurements in namespaces of their own.
fn measured(run: impl FnOnce(Interrupt) -> Result<()>) -> Result<()> {
    requirements::check()?;
    run(Interrupt::install()?)
}

fn sweep() -> Result<()> {
    require_root()?;
    let swept = registry::sweep()?;
    let listed = |ids: &[String]| if ids.is_empty() { "nothing".to_owned() } else { ids.join(" ") };
    timeline::print(&format!("swept: {}; kept: {}", listed(&swept.removed), listed(&swept.kept)));
    Ok(())
}

fn run_model(deep: bool) -> Result<()> {
    let verdict = model::run(deep)?;
    for line in verdict.lines() {
        timeline::print(&line);
    }
    for counterexample in verdict.unmutated.iter().filter_map(|outcome| outcome.counterexample.as_ref()) {
        print_way(counterexample);
    }
    if !verdict.is_good() {
        bail!("the model breaks an invariant, or a seeded bug was missed; see above");
    }
    Ok(())
}

fn run_simulate(args: SimulateArgs) -> Result<()> {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let options = simulate::Options {
        sessions: usize::try_from(args.sessions).context("--sessions")?,
        minutes: args.minutes,
        seeds: args.seeds,
        profile: args.profile,
        keys: if args.real_keys { KeyKind::Real } else { KeyKind::Cheap },
        threads: args.threads.map_or_else(cores, usize::from),
        events: args.events,
        back_within: simulate::BACK_WITHIN,
        traced: args.trace,
        talkative: true,
    };
    simulate::main(&options, args.json.as_ref())
}

fn trace_mutant(mutant: Mutant) -> Result<()> {
    let found = model::hunt(&Scope::all(false), mutant)?.and_then(|outcome| outcome.counterexample);
    let Some(counterexample) = found else { bail!("{mutant} was missed: no scope breaks an invariant") };
    print_way(&counterexample);
    Ok(())
}

fn print_way(counterexample: &model::Counterexample) {
    timeline::print(&format!("BROKEN {}", counterexample.invariant));
    for (number, (action, world)) in counterexample.way.iter().enumerate() {
        timeline::print(&format!("{:>4}  {action}\n        {world}", number + 1));
    }
}

fn take_down() -> Result<()> {
    require_root()?;
    let removed = registry::remove_kept()?;
    timeline::print(&match removed.as_slice() {
        [] => "nothing was left standing".to_owned(),
        ids => format!("removed: {}", ids.join(" ")),
    });
    Ok(())
}

fn require_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("not root: network namespaces belong to root; run it as root (sudo)");
    }
    Ok(())
}

fn run_demo(args: DemoArgs) -> Result<()> {
    requirements::check()?;
    let interrupt = Interrupt::install()?;
    let out_dir = made(&args.out)?;
    let options = demo::Options {
        rounds: args.repeat,
        end: if args.keep { demo::End::Keep } else { demo::End::Remove },
        download_octets: args.download_mib << 20,
        out_dir,
    };
    demo::run(&options, &interrupt)
}

fn run_flood(args: FloodArgs) -> Result<()> {
    requirements::check()?;
    let interrupt = Interrupt::install()?;
    let options = flood::Options {
        sessions: usize::from(args.sessions),
        attacks: if args.attacks.is_empty() { flood::Attack::ALL.into() } else { args.attacks },
        phase: Duration::from_secs(args.seconds),
        rate: args.rate,
        marker_interval: Duration::from_millis(args.marker_ms),
        seed: args.seed,
        out_dir: made(&args.out)?,
    };
    let show = if args.json { flood::Show::Json } else { flood::Show::Table };
    flood::run_and_print(&options, show, &interrupt)
}

fn run_sessions(args: SessionsArgs) -> Result<()> {
    requirements::check()?;
    let interrupt = Interrupt::install()?;
    let many = if args.search { MEMBERS_MAX } else { SESSIONS };
    let options = sessions::Options {
        sessions: args.sessions.map_or(Ok(many), usize::try_from)?,
        policy: args.policy,
        births_per_second: args.births_per_second,
        marker_interval: args.marker_ms.map(Duration::from_millis),
        steady: Duration::from_secs(args.steady),
        storms: if args.storms.is_empty() { sessions::Storm::ALL.into() } else { args.storms },
        adoption_bound: args.adoption_bound,
        seed: args.seed,
        out_dir: made(&args.out)?,
    };
    if args.search {
        sessions::search_and_print(&options, args.json, &interrupt)
    } else {
        sessions::run_and_print(&options, args.json, &interrupt)
    }
}

fn run_soak(args: &SoakArgs) -> Result<()> {
    requirements::check()?;
    let interrupt = Interrupt::install()?;
    let options = soak::Options {
        sessions: usize::try_from(args.sessions)?,
        time: Duration::from_secs_f64(args.minutes * 60.0),
        seed: args.seed,
        out_dir: made(&args.out)?,
    };
    soak::run_and_print(&options, args.json, &interrupt)
}

fn run_recovery(args: &RecoveryArgs) -> Result<()> {
    let mut causes = Vec::new();
    for name in &args.causes {
        let named = if name == "all" {
            recovery::Cause::ALL.to_vec()
        } else {
            vec![name.parse().map_err(|error| anyhow::anyhow!("--cause {name}: {error}"))?]
        };
        causes.extend(named.into_iter().filter(|cause| !causes.contains(cause)).collect::<Vec<_>>());
    }
    let (policy, policy_numbers) = recovery::Options::load_policy(args.policy.as_deref())?;
    let options = recovery::Options {
        causes,
        rtts_ms: args.rtts.clone(),
        trials: args.trials,
        seed: args.seed,
        policy,
        policy_numbers,
        profile: jvpn_rig::emulator::Profile::load(&args.profile)?,
        clients: args.clients,
        resume: args.resume,
        out_dir: made(&args.out)?,
    };
    requirements::check()?;
    recovery::run_and_fail(&options, &Interrupt::install()?)
}

fn run_emulator(args: &EmulatorArgs) -> Result<()> {
    if let Some(name) = &args.profile {
        timeline::print(&format!("{:#?}", jvpn_rig::emulator::Profile::load(name)?));
        return Ok(());
    }
    requirements::check()?;
    emulator::run(args.seed, args.json.as_ref(), &Interrupt::install()?)
}

fn run_throughput(args: ThroughputArgs) -> Result<()> {
    requirements::check()?;
    let interrupt = Interrupt::install()?;
    let (rounds, span) = (args.rounds, Duration::from_millis(args.span_ms));
    let options = throughput::Options { rounds, span, out_dir: made(&args.out)?, json: args.json };
    throughput::run(&options, &interrupt)
}

/// The directory, made if it is not there, by its whole name.
fn made(dir: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["jvpn-bench", "demo", "--repeat", "20", "--keep"]).is_ok());
        assert!(Cli::try_parse_from(["jvpn-bench", "demo", "--repeat", "0"]).is_err());
        assert!(Cli::try_parse_from(["jvpn-bench", "demo", "--down", "--keep"]).is_err());
        assert!(
            Cli::try_parse_from(["jvpn-bench", "cost", "--sessions", "1000,65536", "--storm", "0"]).is_ok()
        );
        assert!(Cli::try_parse_from(["jvpn-bench", "cost", "--rounds", "4"]).is_err(), "no median of so few");
        assert!(Cli::try_parse_from(["jvpn-bench", "timing", "--samples", "5000"]).is_ok());
        assert!(
            Cli::try_parse_from(["jvpn-bench", "flood", "--attack", "flapping", "--seconds", "2"]).is_ok()
        );
        assert!(Cli::try_parse_from(["jvpn-bench", "flood", "--attack", "kindness"]).is_err());
        assert!(Cli::try_parse_from(["jvpn-bench", "flood", "--sessions", "0"]).is_err());
        let sessions = |args: &[&str]| Cli::try_parse_from([&["jvpn-bench", "sessions"], args].concat());
        assert!(sessions(&["--search"]).is_ok() && sessions(&["--search", "--storm", "link-down"]).is_err());
        assert!(sessions(&["--sessions", "65533"]).is_ok() && sessions(&["--sessions", "65534"]).is_err());
        assert!(Cli::try_parse_from(["jvpn-bench", "soak", "--minutes", "0.5"]).is_ok());
        assert!(Cli::try_parse_from(["jvpn-bench", "soak", "--minutes", "0.1"]).is_err());
        assert!(Cli::try_parse_from(["jvpn-bench", "model", "--trace", "no-quiescence"]).is_ok());
        assert!(Cli::try_parse_from(["jvpn-bench", "model", "--trace", "no-such-bug"]).is_err());
        let simulate = |arg, value| Cli::try_parse_from(["jvpn-bench", "simulate", arg, value]);
        assert!(simulate("--seeds", "3..9").is_ok() && simulate("--seeds", "9..3").is_err());
        assert!(simulate("--profile", "storm").is_ok() && simulate("--profile", "no-such-life").is_err());
        assert!(simulate("--sessions", "0").is_err());
        assert!(Cli::try_parse_from(["jvpn-bench", "check-events", "-", "--lateness", "2s"]).is_ok());
        assert!(Cli::try_parse_from(["jvpn-bench", "check-events"]).is_err());
        let recovery = |args: &[&str]| Cli::try_parse_from([&["jvpn-bench", "recovery"], args].concat());
        assert!(recovery(&["--cause", "all", "--rtt", "0,50", "--trials", "200", "--resume"]).is_ok());
        assert!(recovery(&["--clients", "17"]).is_err() && recovery(&["--rtt", "2001"]).is_err());
        assert!(recovery(&["--judge", "x", "--resume"]).is_err());
        assert!(Cli::try_parse_from(["jvpn-bench", "emulator"]).is_err(), "to do what?");
        assert!(Cli::try_parse_from(["jvpn-bench", "compare", "a"]).is_err());
        assert!(Cli::try_parse_from(["jvpn-bench", "l2fwd", "--rounds", "5", "--json"]).is_ok());
        assert!(
            Cli::try_parse_from(["jvpn-bench", "l2fwd", "--rounds", "4"]).is_err(),
            "no median of so few"
        );
        assert!(Cli::try_parse_from(["jvpn-bench", "pinning", "--seconds", "1"]).is_ok());
    }
}
