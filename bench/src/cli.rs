//! The command line of `jvpn-bench`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, value_parser};
use jvpn_rig::{Interrupt, registry, requirements};

use crate::check_events::command::{self as check_events, CheckEventsArgs};
use crate::model::{self, Mutant, Scope};
use crate::scenarios::demo;
use crate::timeline;

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
    /// Explores the model of client, gateway, network and attacker, and hunts the seeded bugs in it.
    Model(ModelArgs),
    /// Judges audit logs of a gateway by the schema, the table of transitions and the invariants, and by nothing else.
    CheckEvents(CheckEventsArgs),
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
struct ModelArgs {
    /// Explores larger bounds: minutes instead of seconds, in a release build.
    #[arg(long)]
    deep: bool,
    /// Prints, step by step, how this seeded bug is found, and does nothing else.
    #[arg(long, value_name = "MUTANT", conflicts_with = "deep", value_parser = mutant)]
    trace: Option<Mutant>,
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
        Verb::Sweep => sweep(),
        Verb::Model(ModelArgs { trace: Some(mutant), .. }) => trace_mutant(mutant),
        Verb::Model(args) => run_model(args.deep),
        Verb::Demo(args) if args.down => take_down(),
        Verb::Demo(args) => run_demo(args),
    }?;
    Ok(ExitCode::SUCCESS)
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
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let out_dir = args.out.canonicalize().with_context(|| format!("cannot find {}", args.out.display()))?;
    let options = demo::Options {
        rounds: args.repeat,
        end: if args.keep { demo::End::Keep } else { demo::End::Remove },
        download_octets: args.download_mib << 20,
        out_dir,
    };
    demo::run(&options, &interrupt)
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
        assert!(Cli::try_parse_from(["jvpn-bench", "model", "--trace", "no-quiescence"]).is_ok());
        assert!(Cli::try_parse_from(["jvpn-bench", "model", "--trace", "no-such-bug"]).is_err());
        assert!(Cli::try_parse_from(["jvpn-bench", "check-events", "-", "--lateness", "2s"]).is_ok());
        assert!(Cli::try_parse_from(["jvpn-bench", "check-events"]).is_err());
    }
}
