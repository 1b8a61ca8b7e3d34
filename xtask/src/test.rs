//! The verb `test`: everything that anybody may run, then everything that needs root.
//!
//! A test that needs root (namespaces, XDP, AF_XDP) is marked `#[ignore = "needs root…"]`; `tidy` sees to it that the
//! mark is used for nothing else. Those run one at a time, for they share two cores; the programs that mostly wait run
//! two at a time ([`side_by_side`]).

mod may_lack;
mod side_by_side;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::binaries;
use crate::run::{Interrupted, Runner};
use crate::setup;
use crate::tree::Tree;

/// One profile for all of it, with debug assertions; dependencies are optimised in it, for cryptography's sake.
pub(crate) fn test(tree: &Tree, runner: &Runner, filter: Option<&str>) -> Result<Tally> {
    setup::install(tree, runner)?;
    build(tree, runner, &[])?;
    run(tree, runner, filter)
}

/// Binaries and tests in one cargo call: dependencies get one set of features, and are compiled once.
pub(crate) fn build(tree: &Tree, runner: &Runner, extra: &[&str]) -> Result<()> {
    runner.logged(
        "build tests",
        tree.cargo().args(["build", "--workspace", "--bins", "--tests"]).args(extra),
    )?;
    Ok(())
}

/// Runs the tests that [`build`] has built.
pub(crate) fn run(tree: &Tree, runner: &Runner, filter: Option<&str>) -> Result<Tally> {
    let mut tally = Tally::default();
    // Not only the first program's failures: a run takes minutes, and all of them are wanted.
    let plain = plain(tree, runner, filter, &mut tally);
    let privileged = if setup::is_root() {
        privileged(tree, runner, filter, &mut tally)
            .inspect_err(|error| binaries::sweep_if_interrupted(tree, error))
    } else {
        leave_out(tree, runner, filter, &mut tally)
    };
    println!("{tally}");
    // Who is not root lacks something already, and has been told so.
    let judged = if setup::is_root() { tally.judge() } else { Ok(()) };
    both(both(plain, privileged), judged)?;
    Ok(tally)
}

/// Everything that needs no root. Libraries, whose tests wait for much, are tested beside the programs of `tests`, which
/// compute.
fn plain(tree: &Tree, runner: &Runner, filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    if let Some(filter) = filter {
        return runner.shown("tests", test_command(tree).arg(filter), |line| tally.read(line));
    }
    let programs = tree.test_programs()?;
    let tests = side_by_side::run(runner, tally, &["tests of programs", LIBRARIES], |name| {
        let mut command = test_command(tree);
        if name == LIBRARIES {
            command.args(["--lib", "--bins"]);
        } else {
            command.args(programs.iter().flat_map(|name| ["--test", name]));
        }
        command
    });
    let documents =
        runner.shown("documentation tests", test_command(tree).arg("--doc"), |line| tally.read(line));
    both(tests, documents)
}

const LIBRARIES: &str = "tests of libraries";

fn privileged(tree: &Tree, runner: &Runner, filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    setup::require_kernel().context("the privileged tests cannot run")?;
    // Those that will run now were counted as left out before.
    tally.left_out = 0;
    if let Some(filter) = filter {
        let mut command = privileged_command(tree, ALL_TARGETS);
        return runner.shown("privileged tests", command.arg(filter), |line| tally.read(line));
    }
    let programs = tree.test_programs()?;
    let mut command = privileged_command(tree, one_at_a_time(&programs));
    let alone = runner.shown("privileged tests, one at a time", &mut command, |line| tally.read(line));
    let beside = side_by_side::run(runner, tally, &side_by_side::PROGRAMS, |name| {
        privileged_command(tree, ["--test", name])
    });
    both(alone, beside)
}

fn leave_out(tree: &Tree, runner: &Runner, filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    let list = runner.logged(
        "list of privileged tests",
        privileged_command(tree, ALL_TARGETS).arg("--list").args(filter),
    )?;
    tally.left_out = list.lines().filter(|line| line.ends_with(": test")).count();
    println!(
        "  left out: {} tests, for they need root (network namespaces, XDP); `sudo -E cargo xtask test` runs them",
        tally.left_out
    );
    Ok(())
}

/// Says what failed in either; an interruption stands for itself.
fn both(first: Result<()>, second: Result<()>) -> Result<()> {
    match (first, second) {
        (Err(error), _) | (_, Err(error)) if error.is::<Interrupted>() => Err(error),
        (Err(first), Err(second)) => bail!("{first:#}; {second:#}"),
        (first, second) => first.and(second),
    }
}

fn test_command(tree: &Tree) -> Command {
    let mut command = tree.cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]).env("JVPN_BIN_DIR", tree.bin_dir(false));
    command
}

/// Without documentation tests: an `ignore` there means another thing.
const ALL_TARGETS: [&str; 3] = ["--lib", "--bins", "--tests"];

/// The tests of these targets that need root, one after the other.
fn privileged_command(tree: &Tree, targets: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = test_command(tree);
    command.args(targets).args(["--", "--ignored", "--test-threads=1"]);
    command
}

/// All targets but those that run side by side.
fn one_at_a_time(programs: &BTreeSet<String>) -> Vec<&str> {
    let alone = programs.iter().map(String::as_str).filter(|name| !side_by_side::PROGRAMS.contains(name));
    ["--lib", "--bins"].into_iter().chain(alone.flat_map(|name| ["--test", name])).collect()
}

/// How the tests themselves say that they, or parts of them, checked nothing on this machine (`common/testing`).
const LEFT_OUT: [&str; 2] = ["left out: ", "left out in part: "];

/// The sum of the `test result:` lines, and what tests left out by themselves.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    passed: usize,
    failed: usize,
    left_out: usize,
    programs: usize,
    /// Tests that passed because they checked nothing, with the reason.
    empty: Vec<String>,
    /// Tests that checked less than elsewhere.
    partial: BTreeSet<String>,
}

impl Tally {
    /// Root must have run everything, but for what a machine may lack.
    fn judge(&self) -> Result<()> {
        let words = self.empty.iter().chain(&self.partial);
        let strange: Vec<&str> = words.map(String::as_str).filter(|word| !may_lack::allows(word)).collect();
        if !strange.is_empty() {
            bail!(
                "tests left themselves out, as root, for reasons that are not in xtask/src/test/may_lack.rs: {}",
                strange.join("; ")
            );
        }
        Ok(())
    }

    fn read(&mut self, line: &str) {
        let [whole, part] = LEFT_OUT;
        // The harness may have begun the line with the test's name.
        if let Some((_, word)) = line.split_once(part) {
            self.partial.insert(word.to_owned());
        } else if let Some((_, word)) = line.split_once(whole) {
            self.empty.push(word.to_owned());
        }
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        let counts = rest.split_once(". ").map_or(rest, |(_, counts)| counts);
        for count in counts.split(';') {
            let mut words = count.split_whitespace();
            let (Some(Ok(number)), Some(kind)) = (words.next().map(str::parse::<usize>), words.next()) else {
                continue;
            };
            match kind {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.left_out += number,
                _ => {}
            }
        }
        self.programs += 1;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { passed, failed, left_out, programs, empty, partial } = self;
        // To the harness they passed.
        let (passed, left_out) = (passed.saturating_sub(empty.len()), left_out + empty.len());
        write!(
            f,
            "tests: {passed} passed, {failed} failed, {left_out} left out, {} in part, in {programs} runs of test \
             programs",
            partial.len()
        )?;
        let [whole, part] = LEFT_OUT;
        empty.iter().try_for_each(|word| write!(f, "\n  {whole}{word}"))?;
        partial.iter().try_for_each(|word| write!(f, "\n  {part}{word}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is in no lane is in the call for the others, and the other way round: every program runs once.
    #[test]
    fn every_program_runs_once() {
        let programs = Tree::locate().unwrap().test_programs().unwrap();
        let targets = one_at_a_time(&programs);
        assert_eq!(targets[..2], ["--lib", "--bins"]);
        let alone = targets[2..].iter().filter(|target| **target != "--test").map(|name| (*name).to_owned());
        let beside = side_by_side::PROGRAMS.map(str::to_owned);
        let mut all: Vec<_> = alone.chain(beside).collect();
        all.sort_unstable();
        assert_eq!(all, programs.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn both_failures_are_told_and_an_interruption_stays_one() {
        let failed = |word: &'static str| Err(anyhow::anyhow!(word));
        assert_eq!(both(failed("a"), failed("b")).unwrap_err().to_string(), "a; b");
        assert_eq!(both(Ok(()), failed("b")).unwrap_err().to_string(), "b");
        assert!(both(failed("a"), Err(Interrupted(2).into())).unwrap_err().is::<Interrupted>());
        assert!(both(Err(Interrupted(2).into()), Ok(())).unwrap_err().is::<Interrupted>());
        both(Ok(()), Ok(())).unwrap();
    }

    #[test]
    fn result_lines_are_summed_and_others_ignored() {
        let mut tally = Tally::default();
        tally.read("running 3 tests");
        tally.read(
            "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 1 filtered out; finished in 0.01s",
        );
        tally.read("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s");
        assert_eq!(tally, Tally { passed: 13, failed: 2, left_out: 3, programs: 2, ..Tally::default() });
    }

    /// R8.4: as root a test that leaves itself out fails the run, unless a machine may lack what it names.
    #[test]
    fn r8_4_root_leaves_out_only_what_a_machine_may_lack() {
        let judged = |lines: &[&str]| {
            let mut tally = Tally::default();
            lines.iter().for_each(|line| tally.read(line));
            tally.judge().map_err(|error| error.to_string())
        };
        let no_peer = "left out in part: a: no wireguard-go here; `cargo xtask setup --peers` installs it";
        assert_eq!(judged(&["test b ... left out: b: no IPv6 here", no_peer]), Ok(()));
        let denied = "left out: c: SO_BINDTODEVICE needs CAP_NET_RAW here";
        let no_root = "test d ... left out in part: d: the client wants to be root";
        let error = judged(&[no_peer, denied, no_root]).unwrap_err();
        assert!(
            error.ends_with(": c: SO_BINDTODEVICE needs CAP_NET_RAW here; d: the client wants to be root"),
            "{error}"
        );
    }

    /// R8.4: a test that checked nothing is none that passed, and it is named; so is one that checked less.
    #[test]
    fn r8_4_what_tests_leave_out_is_counted_and_named() {
        let mut tally = Tally::default();
        for line in [
            "test a::one ... left out: a::one: no root",
            "left out: b::two: no wireguard-go",
            "left out in part: pages: no Chromium",
            "test pages ... left out in part: pages: no Chromium",
            "  gotatun: left out, not there",
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        ] {
            tally.read(line);
        }
        let wanted = "tests: 3 passed, 0 failed, 3 left out, 1 in part, in 1 runs of test programs\n  left out: a::one: \
                      no root\n  left out: b::two: no wireguard-go\n  left out in part: pages: no Chromium";
        assert_eq!(tally.to_string(), wanted);
        let others = include_str!("../../common/testing/src/lib.rs");
        for word in LEFT_OUT {
            assert!(others.contains(&format!("tell(\"{}\"", word.trim_end_matches(": "))), "{word}");
        }
    }
}
