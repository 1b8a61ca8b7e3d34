//! The verb `test`: everything that anybody may run, then everything that needs root.
//!
//! A test that needs root (namespaces, XDP, AF_XDP) is marked `#[ignore = "needs root…"]`; `tidy` sees to it that the
//! mark is used for nothing else. Those run one at a time: they share two cores and the names of devices.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result};

use crate::binaries;
use crate::run::Runner;
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
    let mut all = test_command(tree);
    all.args(filter);
    // Not only the first program's failures: a run takes minutes, and all of them are wanted.
    let plain = runner.shown("tests", &mut all, |line| tally.read(line));

    let privileged = if setup::is_root() {
        privileged(tree, runner, filter, &mut tally)
            .inspect_err(|error| binaries::sweep_if_interrupted(tree, error))
    } else {
        leave_out(tree, runner, filter, &mut tally)
    };
    println!("{tally}");
    plain.and(privileged)?;
    Ok(tally)
}

fn privileged(tree: &Tree, runner: &Runner, filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    setup::require_kernel().context("the privileged tests cannot run")?;
    // Those that will run now were counted as left out before.
    tally.left_out = 0;
    let mut command = privileged_command(tree);
    command.args(["--test-threads=1"]).args(filter);
    runner.shown("privileged tests", &mut command, |line| tally.read(line))
}

fn leave_out(tree: &Tree, runner: &Runner, filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    let list =
        runner.logged("list of privileged tests", privileged_command(tree).arg("--list").args(filter))?;
    tally.left_out = list.lines().filter(|line| line.ends_with(": test")).count();
    println!(
        "  left out: {} tests, for they need root (network namespaces, XDP); `sudo -E cargo xtask test` runs them",
        tally.left_out
    );
    Ok(())
}

fn test_command(tree: &Tree) -> Command {
    let mut command = tree.cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]).env("JVPN_BIN_DIR", tree.bin_dir(false));
    command
}

/// Without documentation tests: an `ignore` there means another thing.
fn privileged_command(tree: &Tree) -> Command {
    let mut command = test_command(tree);
    command.args(["--lib", "--bins", "--tests", "--", "--ignored"]);
    command
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
