//! The command line of `jvpn-bench`.

mod args;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use args::{
    ChurnArgs, CompareArgs, CostArgs, DemoArgs, EmulatorArgs, FloodArgs, IdleArgs, ModelArgs, PeersArgs,
    RecoveryArgs, SessionsArgs, SimulateArgs, SoakArgs, SuiteArgs, ThroughputArgs, TimingArgs,
};
use clap::{Parser, Subcommand};
use jvpn_rig::{Interrupt, registry, requirements};

use crate::check_events::command::{self as check_events, CheckEventsArgs};
use crate::compare;
use crate::forwarding::l2fwd::{self, L2fwdArgs};
use crate::forwarding::memory::{self, MemoryArgs};
use crate::forwarding::pinning::{self, PinningArgs};
use crate::forwarding::scaling::{self, ScalingArgs};
use crate::lock::RunLock;
use crate::model::{self, Mutant, Scope};
use crate::scenarios::{
    churn, contenders, cost, demo, emulator, flood, idle, recovery, sessions, soak, suite, throughput,
};
use crate::simulate;
use crate::simulation::KeyKind;
use crate::swarm::network::MEMBERS_MAX;
use crate::{timeline, timing};

/// Sessions in bulk, unless a number is given.
const SESSIONS: usize = 10_000;

/// Benches and demonstrates Jumping VPN on one machine, in network namespaces of its own.
///
/// One verb that measures runs at a time: a second one names the first and ends.
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
        jvpn-bench recovery --cause silent_blackhole --rtt 50 --trials 200 --preset fintech --out target/fintech\n  \
        jvpn-bench recovery --profile satellite --rtt profile --cause link_down --trials 10 --preset satellite\n  \
        jvpn-bench recovery --judge target/fintech        judges its raw files once more, writes result and report anew")]
    Recovery(RecoveryArgs),
    /// What is aimed at in recovery, by one command and in one report: recovery at four round-trip times and with two
    /// policies, what a reattach costs, a storm. What is aimed at in forwarding is measured by `l2fwd`, `scaling`,
    /// `pinning`, `memory`, `idle` and `peers`.
    ///
    /// 200 trials per cause at 50 ms, 30 at the others. A killed process strikes all clients at once: that is one incident
    /// and as many trials as there are clients. There are 50 (10) incidents of each kill, and confidence intervals count
    /// incidents; fewer than 4 clients (3) make less than 200 (30) trials of them.
    ///
    /// Tells before it begins how long it takes. Missed aims are marked MISSED and do not fail the run; a broken rule makes
    /// it INVALID, and the exit code is 1. An interrupted suite keeps what it has; `--resume` goes on, and with `--peers` also
    /// with a whole one that has no bars beside peers yet.
    Suite(SuiteArgs),
    /// Says of two results of one verb which is better, figure by figure, or that they differ by no more than noise; and what
    /// of them cannot be compared.
    ///
    /// Results of `recovery` and `suite` are compared cause by cause, incident by incident; those of other verbs by the
    /// rounds of each figure. Where each run has one figure nothing tells the noise. Two that were asked for different
    /// things (policy, paths, clients, sessions, spans) are refused; another machine, kernel or build is said above the
    /// verdicts.
    #[command(after_help = "Examples:\n  \
        jvpn-bench compare target/bench-before target/bench            two suites, part by part\n  \
        jvpn-bench compare target/bench/default-50 target/recovery\n  \
        jvpn-bench compare target/l2fwd-before target/l2fwd            round by round")]
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
    /// Sessions that are born, end and move between uplinks all the time for minutes, under traffic.
    ///
    /// Links are lost and NATs rebind at one pace, sessions end (with and without a goodbye) and are born again at
    /// another. The run fails if a session is lost, a marker comes twice, the audit log breaks a rule, somebody hears
    /// nothing for ten seconds, or memory or descriptors of the gateway grow.
    #[command(after_help = "Examples:\n  \
        jvpn-bench churn\n  \
        jvpn-bench churn --minutes 60 --sessions 2000 --moves-per-second 500")]
    Churn(ChurnArgs),
    /// How much goes through one tunnel and what it costs, with the client's offloads on and off, turn by turn.
    ///
    /// TCP with 1 and 4 streams and UDP with 1,400 and 64 octets, both ways; UDP at the highest rate that loses less than
    /// 1 %. Processor seconds per GB of the gateway's data plane, of the client, and of the whole machine, to which alone
    /// work in soft interrupts is charged. Figures are medians of the rounds; every round is in the JSON. Use a release
    /// build on a quiet machine, and compare figures of one run only.
    #[command(after_help = "Example:\n  jvpn-bench throughput --json throughput.json")]
    Throughput(ThroughputArgs),
    /// Ours beside what a user would pick instead, in the same namespaces and the same run.
    ///
    /// WireGuard of the kernel, wireguard-go, gotatun, boringtun and OpenVPN, those of them that are here
    /// (`cargo xtask setup --peers` gets them), each configured as its user would, and plain routing as reference. TCP with
    /// 1 and 4 streams and UDP with 1,400 and 64 octets, both ways; round trips, idle and under load; processor time of the
    /// gateway's processes and of the whole machine. Contenders take turns in each round; the median counts. With
    /// --recovery: silent blackhole, link down, NAT rebinding, address change, loss spike, flapping and one dead direction
    /// over emulated paths, each trial capped.
    ///
    /// A contender that hangs or dies is marked, and the others go on. Use a release build on a quiet machine, and compare
    /// figures of one run only. Aims that are missed are marked and do not fail the run.
    #[command(after_help = "Examples:\n  \
        jvpn-bench peers\n  \
        jvpn-bench peers --contender ours,wireguard-go --rounds 3\n  \
        jvpn-bench peers --recovery --trials 10 --out target/peers-recovery\n  \
        jvpn-bench peers --recovery --script-after 3s --cause silent_blackhole")]
    Peers(Box<PeersArgs>),
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
    /// Packets per second of two workers against one, each with its generator on a CPU of its own.
    Scaling(ScalingArgs),
    /// Octets that a session takes in the data plane. Needs no root.
    Memory(MemoryArgs),
    /// Processor time of the gateway when there is nothing to do, and with silent sessions.
    Idle(IdleArgs),
    /// Removes what killed runs left: network namespaces, processes, files.
    Sweep,
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
        Verb::L2fwd(args) => measured("l2fwd", |interrupt| l2fwd::run(&args, interrupt)),
        Verb::Pinning(args) => measured("pinning", |interrupt| pinning::run(&args, interrupt)),
        Verb::Scaling(args) => measured("scaling", |interrupt| scaling::run(&args, interrupt)),
        Verb::Memory(args) => run_memory(&args),
        Verb::Idle(args) => run_idle(&args),
        Verb::Sweep => sweep(),
        Verb::Model(ModelArgs { trace: Some(mutant), .. }) => trace_mutant(mutant),
        Verb::Model(args) => run_model(args.deep),
        Verb::Cost(args) => run_cost(args),
        Verb::Timing(args) => run_timing(&args),
        Verb::Simulate(args) => run_simulate(*args),
        Verb::Demo(args) if args.down => take_down(),
        Verb::Demo(args) => run_demo(args),
        Verb::Flood(args) => run_flood(args),
        Verb::Sessions(args) => run_sessions(args),
        Verb::Soak(args) => run_soak(&args),
        Verb::Churn(args) => run_churn(&args),
        Verb::Emulator(args) => run_emulator(&args),
        Verb::Recovery(RecoveryArgs { judge: Some(dir), .. }) => recovery::judge_and_fail(&dir),
        Verb::Recovery(args) => run_recovery(&args),
        Verb::Suite(args) => run_suite(&args),
        Verb::Compare(args) => compare::run(&args.before, &args.after),
        Verb::Throughput(args) => run_throughput(args),
        Verb::Peers(args) => run_peers(*args),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Keeps other runs away until it is dropped; needs no root.
fn alone(verb: &str) -> Result<RunLock> {
    RunLock::take(Path::new(registry::REGISTRY_DIR), verb)
}

/// What a verb that measures in namespaces begins with.
fn begin(verb: &str) -> Result<(RunLock, Interrupt)> {
    requirements::check()?;
    Ok((alone(verb)?, Interrupt::install()?))
}

fn run_timing(args: &TimingArgs) -> Result<()> {
    let _lock = alone("timing")?;
    let interrupt = Interrupt::install()?;
    let options = timing::Options { samples: args.samples, seed: args.seed, out_dir: made(&args.out)? };
    timing::run(&options, &interrupt)
}

fn run_memory(args: &MemoryArgs) -> Result<()> {
    let _lock = alone("memory")?;
    memory::run(args, &Interrupt::install()?)
}

fn run_cost(args: CostArgs) -> Result<()> {
    let _lock = alone("cost")?;
    let interrupt = Interrupt::install()?;
    let CostArgs { sessions, rounds, per_round, storm, json, out } = args;
    let out_dir = made(&out)?;
    cost::run(&cost::Options { sessions, rounds, per_round, storm, json, out_dir }, &interrupt)
}

/// Measurements in namespaces of their own.
fn measured(verb: &str, run: impl FnOnce(Interrupt) -> Result<()>) -> Result<()> {
    let (_lock, interrupt) = begin(verb)?;
    run(interrupt)
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
    // One round shows; many measure.
    let _lock = (args.repeat > 1).then(|| alone("demo")).transpose()?;
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
    let (_lock, interrupt) = begin("flood")?;
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
    let (_lock, interrupt) = begin("sessions")?;
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

fn run_idle(args: &IdleArgs) -> Result<()> {
    let (_lock, interrupt) = begin("idle")?;
    let options = idle::Options {
        sessions: usize::try_from(args.sessions)?,
        time: Duration::from_secs(args.seconds),
        out_dir: made(&args.out)?,
    };
    idle::run_and_print(&options, args.json, &interrupt)
}

fn run_soak(args: &SoakArgs) -> Result<()> {
    let (_lock, interrupt) = begin("soak")?;
    let options = soak::Options {
        sessions: usize::try_from(args.sessions)?,
        time: Duration::from_secs_f64(args.minutes * 60.0),
        traffic: if args.load { soak::Traffic::Full } else { soak::Traffic::Markers },
        seed: args.seed,
        out_dir: made(&args.out)?,
    };
    soak::run_and_print(&options, args.json, &interrupt)
}

fn run_churn(args: &ChurnArgs) -> Result<()> {
    let (_lock, interrupt) = begin("churn")?;
    let options = churn::Options {
        sessions: usize::try_from(args.sessions)?,
        time: Duration::from_secs_f64(args.minutes * 60.0),
        moves_per_second: args.moves_per_second,
        births_per_second: args.births_per_second,
        marker_interval: Duration::from_millis(args.marker_ms),
        seed: args.seed,
        out_dir: made(&args.out)?,
    };
    churn::run_and_print(&options, args.json, &interrupt)
}

fn run_recovery(args: &RecoveryArgs) -> Result<()> {
    let causes = named("--cause", &args.causes, &recovery::Cause::ALL)?;
    let (policy, policy_numbers) =
        recovery::Options::load_policy(args.policy.as_deref(), args.preset.as_deref())?;
    let profile = jvpn_rig::emulator::Profile::load(&args.profile)?;
    let (rtts_ms, delays) = recovery::RoundTrip::resolve(&args.rtts, &profile)?;
    let options = recovery::Options {
        causes,
        rtts_ms,
        trials: args.trials,
        seed: args.seed,
        policy,
        policy_numbers,
        profile,
        delays,
        clients: args.clients,
        resume: args.resume,
        out_dir: made(&args.out)?,
    };
    let (_lock, interrupt) = begin("recovery")?;
    recovery::run_and_fail(&options, &interrupt)
}

fn run_suite(args: &SuiteArgs) -> Result<()> {
    let (_lock, interrupt) = begin("suite")?;
    let options = suite::Options {
        size: match (args.quick, args.smoke) {
            (_, true) => suite::Size::Smoke,
            (true, false) => suite::Size::Quick,
            (false, false) => suite::Size::Full,
        },
        seed: args.seed,
        clients: args.clients,
        peers: args.peers,
        resume: args.resume,
        out_dir: made(&args.out)?,
    };
    suite::run(&options, &interrupt)
}

fn run_emulator(args: &EmulatorArgs) -> Result<()> {
    if let Some(name) = &args.profile {
        let profile = jvpn_rig::emulator::Profile::load(name)?;
        timeline::print(&format!("{:#?}", jvpn_rig::emulator::Profile { text: String::new(), ..profile }));
        return Ok(());
    }
    let (_lock, interrupt) = begin("emulator")?;
    let options = emulator::Options { seed: args.seed, out_dir: made(&args.out)? };
    emulator::run(&options, &interrupt)
}

fn run_throughput(args: ThroughputArgs) -> Result<()> {
    let (_lock, interrupt) = begin("throughput")?;
    let (rounds, span) = (args.rounds, Duration::from_millis(args.span_ms));
    let options = throughput::Options { rounds, span, out_dir: made(&args.out)?, json: args.json };
    throughput::run(&options, &interrupt)
}

/// `all`, or what is named, each once, in that order.
fn named<T: Copy + PartialEq + std::str::FromStr<Err = String>>(
    flag: &str,
    names: &[String],
    all: &[T],
) -> Result<Vec<T>> {
    let mut found: Vec<T> = Vec::new();
    for name in names {
        let these = if name == "all" {
            all.to_vec()
        } else {
            vec![name.parse().map_err(|error| anyhow::anyhow!("{flag} {name}: {error}"))?]
        };
        for one in these {
            if !found.contains(&one) {
                found.push(one);
            }
        }
    }
    Ok(found)
}

fn run_peers(args: PeersArgs) -> Result<()> {
    let contenders = named("--contender", &args.contenders, &contenders::Kind::ALL)?;
    let beside = &recovery::beside::CAUSES;
    let causes = named("--cause", &args.causes, beside)?;
    if let Some(cause) = causes.iter().find(|cause| !beside.contains(cause)) {
        let names = beside.map(recovery::Cause::name).join(", ");
        bail!("--cause {cause}: beside the peers there are: all, {names}");
    }
    let (_lock, interrupt) = begin("peers")?;
    if args.recovery {
        let options = recovery::beside::Options {
            contenders,
            causes,
            trials: args.trials,
            rtt: Duration::from_millis(args.rtt_ms),
            cap: Duration::from_secs(args.cap_s),
            patience: Duration::from_secs(args.patience_s),
            script_after: args.script_after,
            clients: args.clients,
            seed: args.seed,
            beside: args.beside,
            out_dir: made(&args.out)?,
        };
        return recovery::beside::run_and_fail(&options, &interrupt);
    }
    let span = Duration::from_millis(args.span_ms);
    let options = contenders::Options {
        contenders,
        rounds: args.rounds,
        span,
        patience: Duration::from_secs(args.patience_s),
        out_dir: made(&args.out)?,
    };
    contenders::run(&options, &interrupt)
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
        assert!(Cli::try_parse_from(["jvpn-bench", "churn", "--minutes", "0.5", "--json"]).is_ok());
        assert!(Cli::try_parse_from(["jvpn-bench", "churn", "--moves-per-second", "0"]).is_err());
        assert!(Cli::try_parse_from(["jvpn-bench", "suite", "--quick", "--resume", "--peers"]).is_ok());
        assert!(Cli::try_parse_from(["jvpn-bench", "suite", "--quick", "--smoke"]).is_err(), "which?");
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
        assert!(recovery(&["--preset", "fintech"]).is_ok());
        assert!(recovery(&["--preset", "fintech", "--policy", "x"]).is_err());
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
