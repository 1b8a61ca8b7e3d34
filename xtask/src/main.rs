//! What a developer types: `cargo xtask <verb>`, one verb per need.
//!
//! Depends on nothing of ours and on no C library: it must compile in seconds on a bare machine, for it is what
//! prepares that machine. It calls the other crates' binaries, never their code.
#![allow(clippy::print_stdout, reason = "a command-line tool: standard output is its interface")]

mod binaries;
mod ci;
mod dist;
mod ebpf;
mod fuzz;
mod run;
mod setup;
mod test;
mod tidy;
mod tree;

use std::process::ExitCode;

use anyhow::Result;

use run::{Interrupted, Runner};
use tree::Tree;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let verb = match Verb::parse(&args) {
        Ok(Parsed::Do(verb)) => verb,
        Ok(Parsed::Help(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::from(2);
        }
    };
    let Err(error) = verb.run() else { return ExitCode::SUCCESS };
    eprintln!("error: {error:#}");
    // 128 plus the signal, as a shell would say it.
    let code =
        error.downcast_ref::<Interrupted>().map_or(1, |signal| 128 + u8::try_from(signal.0).unwrap_or(0));
    ExitCode::from(code)
}

#[derive(Debug, PartialEq, Eq)]
enum Verb {
    Setup(setup::Asked),
    Build { release: bool },
    Demo { args: Vec<String> },
    Bench { args: Vec<String> },
    Dist(dist::Asked),
    Test { filter: Option<String> },
    Model { args: Vec<String> },
    Simulate { args: Vec<String> },
    Fuzz(fuzz::Asked),
    Ci,
    Tidy,
    CleanRigs,
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Do(Verb),
    Help(&'static str),
}

impl Verb {
    fn run(self) -> Result<()> {
        let tree = Tree::locate()?;
        let runner = Runner::new(tree.log_dir())?;
        run::watch_signals()?;
        match self {
            Self::Setup(setup::Asked::Look) => setup::check(&tree),
            Self::Setup(setup::Asked::Needs) => setup::install(&tree, &runner),
            Self::Setup(setup::Asked::Browser) => setup::install_with_browser(&tree, &runner),
            Self::Setup(setup::Asked::Peers) => setup::peers::install(&tree, &runner),
            Self::Build { release } => binaries::build(&tree, &runner, release),
            Self::Demo { args } => binaries::demo(&tree, &runner, &args),
            Self::Bench { args } => binaries::bench(&tree, &runner, &args),
            Self::Dist(asked) => dist::dist(&tree, &runner, &asked),
            Self::Test { filter } => test::test(&tree, &runner, filter.as_deref()).map(|_| ()),
            Self::Model { args } => binaries::model(&tree, &runner, &args),
            Self::Simulate { args } => binaries::simulate(&tree, &runner, &args),
            Self::Fuzz(asked) => fuzz::fuzz(&tree, &runner, &asked),
            Self::Ci => ci::ci(&tree, &runner),
            Self::Tidy => tidy::tidy(&tree),
            Self::CleanRigs => binaries::clean_rigs(&tree),
        }
    }

    /// Reads the arguments after `cargo xtask`.
    fn parse(args: &[String]) -> Result<Parsed, String> {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (verb, rest) = match args.as_slice() {
            [] | ["help" | "--help" | "-h"] => return Ok(Parsed::Help(HELP)),
            ["help", verb, ..] => (*verb, &["--help"][..]),
            [verb, rest @ ..] => (*verb, rest),
        };
        let Some((_, help)) = VERB_HELP.iter().find(|(name, _)| *name == verb) else {
            let known: Vec<_> = VERB_HELP.iter().map(|(name, _)| *name).collect();
            return Err(format!("there is no verb `{verb}`; there are: {}", known.join(", ")));
        };
        // The demo has help of its own, but it may not be built yet.
        if rest.iter().any(|arg| *arg == "--help" || *arg == "-h") {
            return Ok(Parsed::Help(help));
        }
        let verb = match (verb, rest) {
            ("setup", []) => Self::Setup(setup::Asked::Needs),
            ("setup", ["--check"]) => Self::Setup(setup::Asked::Look),
            ("setup", ["--browser"]) => Self::Setup(setup::Asked::Browser),
            ("setup", ["--peers"]) => Self::Setup(setup::Asked::Peers),
            ("dist", args) => match dist::Asked::parse(args) {
                Some(asked) => Self::Dist(asked),
                None => return Err("`dist` takes [--report DIR | --quick-report]".to_owned()),
            },
            ("build", []) => Self::Build { release: false },
            ("build", ["--release"]) => Self::Build { release: true },
            ("demo", args) => Self::Demo { args: args.iter().map(|arg| (*arg).to_owned()).collect() },
            ("bench", args) => Self::Bench { args: args.iter().map(|arg| (*arg).to_owned()).collect() },
            ("test", []) => Self::Test { filter: None },
            ("test", [filter]) if !filter.starts_with('-') => {
                Self::Test { filter: Some((*filter).to_owned()) }
            }
            ("model", args) => Self::Model { args: args.iter().map(|arg| (*arg).to_owned()).collect() },
            ("simulate", args) => Self::Simulate { args: args.iter().map(|arg| (*arg).to_owned()).collect() },
            ("fuzz", args) => match fuzz::Asked::parse(args) {
                Some(asked) => Self::Fuzz(asked),
                None => return Err("`fuzz` takes [TARGET] [--minutes N], N from 1".to_owned()),
            },
            ("ci", []) => Self::Ci,
            ("tidy", []) => Self::Tidy,
            ("clean-rigs", []) => Self::CleanRigs,
            (verb, rest) => {
                return Err(format!(
                    "`{verb}` does not take `{}`; `cargo xtask {verb} --help`",
                    rest.join(" ")
                ));
            }
        };
        Ok(Parsed::Do(verb))
    }
}

const HELP: &str = "\
cargo xtask <verb>: everything that a developer types. `cargo xtask <verb> --help` tells more.

  demo [args]      main job: two networks, a tunnel, a path dies, the session lives (root)
  bench [args]     everything that is aimed at, measured and judged, with a report (root)
  test [filter]    all tests; those that need root only as root
  setup [--check]  install, or only look at, what build and demo need
  build            all binaries, the XDP object inside the data plane's
  dist [args]      the release: binaries, documents and the bench's report in one archive
  model [args]     explore the model of the protocol; every seeded bug must be found
  simulate [args]  worlds of thousands of mobile hosts on virtual time, each step judged
  fuzz [args]      libFuzzer on every parser and on sequences of events; keeps what it learns
  ci               what CI runs: fmt, tidy, clippy, deny, test
  tidy             the house rules: lengths, imports, dead files, unsafe islands, leaked paths
  clean-rigs       remove network namespaces that killed runs left (root)

demo, bench, build, test and ci do the set-up themselves.
";

const VERB_HELP: [(&str, &str); 12] = [
    ("setup", SETUP_HELP),
    ("build", BUILD_HELP),
    ("demo", DEMO_HELP),
    ("bench", BENCH_HELP),
    ("dist", DIST_HELP),
    ("test", TEST_HELP),
    ("model", MODEL_HELP),
    ("simulate", SIMULATE_HELP),
    ("fuzz", FUZZ_HELP),
    ("ci", CI_HELP),
    ("tidy", TIDY_HELP),
    ("clean-rigs", CLEAN_HELP),
];

const SETUP_HELP: &str = "\
cargo xtask setup [--check | --browser | --peers]

Installs what is missing, and nothing else:
  packages      Debian packages, by apt, as root (libxdp and aws-lc are compiled from C; demo and tests call ip, nft, …)
  XDP compiler  a Rust compiler with core for BPF: Debian's rustc-web with libstd-rust-web-dev-bpf where apt has it,
                else rustup's nightly with rust-src
  bpf-linker    built once, kept in $XDG_CACHE_HOME/jvpn (or ~/.cache/jvpn) for all clones; JVPN_BPF_LINKER=<path> names
                another one
Also mounts /sys/fs/bpf where it is missing. A second run downloads nothing.

  --browser  also a headless Chromium (Debian's), with which tests open the bench's reports; they are left out without it
  --check    change nothing; print each need, what is there or what to do; exit 1 if anything is missing
  --peers    instead, what `jvpn-bench peers` measures beside ours and nothing else needs: openvpn, openssl and
             wireguard-tools by apt, wireguard-go (a pinned package), gotatun and boringtun (pinned crates, some
             minutes), in target/peers; says what cannot be had
";

const BUILD_HELP: &str = "\
cargo xtask build [--release]

Set-up, then all binaries. The data plane's build script compiles xdp-ebpf/ and embeds the object; plain `cargo build`
works as well once set-up has run. Cargo's output goes to target/xtask/, and here if it fails.
";

const DEMO_HELP: &str = "\
cargo xtask demo [args]

Set-up, release build, then `jvpn-bench demo <args>` in place of this process. Needs root. After the build,
`target/release/jvpn-bench demo --help` lists the arguments; the usual ones:
  --repeat N  N rounds; p50 and max per cause
  --keep      leave the network standing and print how to enter it
  --down      remove what --keep left
";

const BENCH_HELP: &str = "\
cargo xtask bench [args]

Set-up, release build, the emulator's self-test, then in place of this process `jvpn-bench suite <args>`: what is aimed at
in recovery, what a reattach costs and a storm, in target/bench. Says before it begins how long it takes (about 50 minutes).
Needs root. What is aimed at in forwarding has verbs of its own: `cargo xtask bench l2fwd`, peers, memory, idle.
  --quick         every part with few trials: some minutes
  --smoke         whether it works here: less than a minute, no figures
  --resume        go on with an interrupted suite
  --peers         last of all the peers that are here (`cargo xtask setup --peers`), as bars in the report: half an hour and
                  more; with --resume it completes a suite that is done
  --out DIR       result.json, report.html, summary.md, and a directory for each part (target/bench); the self-test's
                  are in DIR-emulator

With an argument of `jvpn-bench recovery` it becomes that instead; `target/release/jvpn-bench recovery --help` lists them:
  --rtt MS,…      emulated round-trip times (50)
  --trials N      incidents per cause and round-trip time (30)
  --cause C,…     only these causes
  --policy FILE   the gateway's [policy]; --preset NAME for one as it is
Any other verb of jvpn-bench comes first: `cargo xtask bench churn --minutes 5`.
";

const DIST_HELP: &str = "\
cargo xtask dist [--report DIR | --quick-report]

Set-up, release build, then target/dist/jumping-vpn-VERSION-ARCH.tar.gz and SHA256SUMS beside it: the four binaries, the
documents, and in bench/ the report of the bench with its result. The report is that of `cargo xtask bench` (target/bench)
or of DIR; it must be valid, whole, and of this commit without changes. Whether it has bars beside peers (`cargo xtask
bench --peers`) is said; bars of another commit are refused.
  --report DIR    take the report there
  --quick-report  make one now with `jvpn-bench suite --quick --peers` (root, some minutes); its figures say little
";

const TEST_HELP: &str = "\
cargo xtask test [filter]

Set-up, then `cargo test --workspace`, then, as root, the tests marked #[ignore = \"needs root…\"]: one at a time, and at
last, two programs at a time, those that mostly wait. Not root: says how many those are. What tests leave out for want of
something is counted and named at the end; as root it fails the run, unless it is a browser, wireguard-go, IPv6 or memory
that may be locked. [filter] is cargo test's: only tests whose names contain it, then one at a time all of them. Tests that
start processes take them from JVPN_BIN_DIR, which is set here.
";

const MODEL_HELP: &str = "\
cargo xtask model [args]

Set-up, build, then `jvpn-bench model <args>` in place of this process: one line for the model as it is (states explored,
invariants), one per seeded bug (FOUND, or MISSED). Exit code 0 only if everything holds and every bug is found. Needs no
root.
  --deep          larger bounds; a release build, and minutes
  --trace MUTANT  print how a seeded bug is found
";

const SIMULATE_HELP: &str = "\
cargo xtask simulate [args]

Set-up, debug build (optimised, with every assertion on), then `jvpn-bench simulate <args>` in place of this process: production
engine, agents and pipeline on virtual time, one world per seed. One line per seed with its fingerprint, the figures of all
at the end. Exit code 1 and the command that shows it again if a world breaks an invariant. Needs no root.
  --sessions N        hosts of each world (100)
  --minutes M         virtual minutes of churn (10)
  --seeds FIRST..LAST worlds (0..199)
  --profile NAME      mobile, flapping, storm or quiet
  --events FILE       the audit log as JSON lines
  --json FILE         the figures as JSON
  --trace             the timeline of a seed, on standard error
";

const FUZZ_HELP: &str = "\
cargo xtask fuzz [TARGET] [--minutes N]

Set-up, nightly compiler and cargo-fuzz if they are missing, then libFuzzer on one target of bench/fuzz or on all, one after
the other, N minutes each (10). Starts from fresh seeds, fuzz/corpus and what earlier runs left in target/fuzz. Afterwards
fuzz/corpus/TARGET holds the smallest inputs that reach everything reached: commit it, every `cargo test` replays it. A
finding is in fuzz/artifacts; `cargo run -p jvpn-fuzz -- run TARGET FILE` shows it. Needs no root.
";

const CI_HELP: &str = "\
cargo xtask ci

What .ci/run runs: set-up, a browser and wireguard-go for the tests that want them (fetched beside what follows, for three
minutes at most; without them these are left out, counted and named), cargo fmt --check, tidy, the XDP object without
warnings and with its lock file, clippy with warnings as errors, cargo deny if it is installed, and what `cargo xtask test`
does. No step stops the next; a table at the end says what failed and what each took.
";

const TIDY_HELP: &str = "\
cargo xtask tidy

The house rules that no compiler checks: length of files, which crate may import which, files that no module reaches,
unsafe outside its islands, unfinished places, requirement IDs that docs/TRACEABILITY.md does not have, paths and hosts of
one machine, tests ignored for another reason than root.
";

const CLEAN_HELP: &str = "\
cargo xtask clean-rigs

Calls `jvpn-bench sweep`: removes network namespaces whose owner is dead. Every demo and every privileged test does the
same at its start, so this is for looking at a clean machine. Needs root.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Parsed, String> {
        Verb::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn verbs_are_read_with_their_arguments() {
        assert_eq!(parse("setup --check"), Ok(Parsed::Do(Verb::Setup(setup::Asked::Look))));
        assert_eq!(parse("setup --browser"), Ok(Parsed::Do(Verb::Setup(setup::Asked::Browser))));
        assert_eq!(parse("setup --peers"), Ok(Parsed::Do(Verb::Setup(setup::Asked::Peers))));
        let asked = dist::Asked { report: dist::Report::Dir("x".into()) };
        assert_eq!(parse("dist --report x"), Ok(Parsed::Do(Verb::Dist(asked))));
        assert_eq!(parse("test window"), Ok(Parsed::Do(Verb::Test { filter: Some("window".to_owned()) })));
        let args = vec!["--repeat".to_owned(), "20".to_owned()];
        assert_eq!(parse("demo --repeat 20"), Ok(Parsed::Do(Verb::Demo { args })));
        let args = vec!["--rtt".to_owned(), "0,50".to_owned()];
        assert_eq!(parse("bench --rtt 0,50"), Ok(Parsed::Do(Verb::Bench { args })));
        let args = vec!["--seeds".to_owned(), "7".to_owned()];
        assert_eq!(parse("simulate --seeds 7"), Ok(Parsed::Do(Verb::Simulate { args })));
        let args = vec!["--deep".to_owned()];
        assert_eq!(parse("model --deep"), Ok(Parsed::Do(Verb::Model { args })));
        let asked = fuzz::Asked { target: Some("wire".to_owned()), minutes: 2 };
        assert_eq!(parse("fuzz wire --minutes 2"), Ok(Parsed::Do(Verb::Fuzz(asked))));
        assert_eq!(parse("ci"), Ok(Parsed::Do(Verb::Ci)));
    }

    #[test]
    fn every_verb_has_help_and_is_listed() {
        for (verb, help) in VERB_HELP {
            assert_eq!(parse(&format!("{verb} --help")), Ok(Parsed::Help(help)));
            assert_eq!(parse(&format!("help {verb}")), Ok(Parsed::Help(help)));
            assert!(help.starts_with(&format!("cargo xtask {verb}")), "{verb}");
            assert!(HELP.contains(&format!("\n  {verb}")), "{verb}");
        }
        assert_eq!(parse(""), Ok(Parsed::Help(HELP)));
    }

    #[test]
    fn unknown_verbs_and_arguments_are_named() {
        assert!(parse("frobnicate").is_err_and(|e| e.contains("frobnicate") && e.contains("demo")));
        assert!(parse("setup --force").is_err_and(|e| e.contains("--force")));
        assert!(parse("fuzz --minutes none").is_err_and(|e| e.contains("--minutes")));
        assert!(parse("dist --fast").is_err_and(|e| e.contains("--report")));
        assert!(parse("test --nocapture").is_err_and(|e| e.contains("--nocapture")));
    }
}
