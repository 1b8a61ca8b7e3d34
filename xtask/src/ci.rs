//! The verb `ci`: every check that a change must pass, in the order in which they fail fastest.
//!
//! No step stops the next one, so one run shows all that is wrong; only tests that do not build are not run. Warnings
//! are made errors by clippy alone, which sees rustc's as well: a RUSTFLAGS that differs between steps would compile
//! everything twice.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};

use crate::ebpf::Toolchain;
use crate::run::{Interrupted, Runner, interrupted, seconds};
use crate::setup;
use crate::test;
use crate::tidy;
use crate::tree::Tree;

pub(crate) fn ci(tree: &Tree, runner: &Runner) -> Result<()> {
    let mut table = Table::default();
    table.step("setup", || setup::install(tree, runner))?;
    let built = thread::scope(|scope| {
        // Fetching waits for a network, all else here for the processor.
        let extras = scope.spawn(|| setup::extras::try_install(tree, runner));
        let built = check_and_build(tree, runner, &mut table)?;
        let fetched = || extras.join().map_err(|_| anyhow!("the thread that fetches has panicked"))?;
        table.step_in_part("extras", fetched)?;
        anyhow::Ok(built)
    })?;
    let mut tally = None;
    table.step("test", || {
        ensure!(built, "not run, for they do not build");
        tally = Some(test::run(tree, runner, None)?);
        Ok(())
    })?;
    table.close(tally.as_ref())
}

/// Everything that comes before the tests; says whether these are built.
fn check_and_build(tree: &Tree, runner: &Runner, table: &mut Table) -> Result<bool> {
    table.step("fmt", || fmt(tree, runner))?;
    table.step("tidy", || tidy::tidy(tree))?;
    table.step("xdp object", || xdp_object(tree, runner))?;
    table.step("clippy", || clippy(tree, runner))?;
    table.step_in_part("deny", || deny(tree, runner))?;
    table.step("build tests", || test::build(tree, runner, &["--locked"]))
}

fn fmt(tree: &Tree, runner: &Runner) -> Result<()> {
    runner
        .logged("fmt, workspace", tree.cargo().args(["fmt", "--all", "--check", "--", "--color", "never"]))?;
    for outside in ["xdp-ebpf", "fuzz"] {
        let mut command = tree.cargo();
        command.current_dir(tree.root().join(outside)).args(["fmt", "--check", "--", "--color", "never"]);
        runner.logged(&format!("fmt, {outside}"), &mut command)?;
    }
    Ok(())
}

/// The object with its lock file as it is, and without a warning (cargo repeats the warnings of what is built already).
fn xdp_object(tree: &Tree, runner: &Runner) -> Result<()> {
    let toolchain = Toolchain::find(tree.root()).map_err(anyhow::Error::msg)?;
    let (mut command, object) =
        toolchain.build_command(&tree.root().join("xdp-ebpf"), &tree.target().join("xdp"));
    let output = runner.logged("xdp object", command.arg("--locked"))?;
    if output.lines().any(|line| line.starts_with("warning")) {
        print!("{output}");
        bail!("the XDP object {} builds with warnings", object.display());
    }
    Ok(())
}

fn clippy(tree: &Tree, runner: &Runner) -> Result<()> {
    runner.logged(
        "clippy",
        tree.cargo()
            .args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])
            // The house's bound on the length of a function; the number is in clippy.toml.
            .args(["-D", "clippy::too_many_lines"]),
    )?;
    Ok(())
}

/// Licences, bans and sources, where the tool is there; compiling it would take longer than all the rest. Gives what it
/// leaves out.
fn deny(tree: &Tree, runner: &Runner) -> Result<Vec<String>> {
    let probe =
        Command::new("cargo-deny").arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        return Ok(vec!["cargo-deny is not installed (cargo install --locked cargo-deny)".to_owned()]);
    }
    let config = tree.root().join("deny.toml");
    for (name, dir) in
        [("deny, workspace", tree.root().to_owned()), ("deny, xdp-ebpf", tree.root().join("xdp-ebpf"))]
    {
        let mut command = tree.cargo();
        command.current_dir(dir).args(["deny", "--config"]).arg(&config);
        runner.logged(name, command.args(["check", "licenses", "bans", "sources"]))?;
    }
    Ok(Vec::new())
}

/// What each step took and how it ended.
#[derive(Debug, Default)]
struct Table {
    start: Option<Instant>,
    rows: Vec<(&'static str, Duration, Option<String>)>,
    /// What steps that went well left out.
    left_out: Vec<String>,
}

impl Table {
    /// A step that may leave something out and goes well all the same: what that is, is said here and at the end.
    fn step_in_part(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> Result<Vec<String>>,
    ) -> Result<bool> {
        let mut left_out = Vec::new();
        let well = self.step(name, || {
            left_out = work()?;
            Ok(())
        });
        for what in left_out {
            println!("  left out: {name}: {what}");
            self.left_out.push(format!("{name}: {what}"));
        }
        well
    }

    /// Runs a step, keeps its outcome and says whether it went well; only an interruption ends the run.
    fn step(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) -> Result<bool> {
        self.start.get_or_insert_with(Instant::now);
        println!("{name}");
        let start = Instant::now();
        let outcome = work();
        if let Some(signal) = interrupted() {
            bail!(signal);
        }
        let failure = match outcome {
            Ok(()) => None,
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => {
                let text = format!("{error:#}");
                println!("  FAILED {name}: {text}");
                Some(text)
            }
        };
        let well = failure.is_none();
        self.rows.push((name, start.elapsed(), failure));
        Ok(well)
    }

    fn close(&self, tally: Option<&test::Tally>) -> Result<()> {
        println!("\n{:<14}{:>9}  outcome", "step", "time");
        for (name, elapsed, failure) in &self.rows {
            let first = failure.as_deref().and_then(|text| text.lines().next());
            println!(
                "{name:<14}{:>9}  {}",
                seconds(*elapsed),
                first.map_or("ok".to_owned(), |f| format!("FAILED: {f}"))
            );
        }
        let total = self.start.map(|start| start.elapsed()).unwrap_or_default();
        println!("{:<14}{:>9}", "all", seconds(total));
        self.left_out.iter().for_each(|what| println!("  left out: {what}"));
        if let Some(tally) = tally {
            println!("{tally}");
        }
        let failed: Vec<_> = self.rows.iter().filter(|row| row.2.is_some()).map(|row| row.0).collect();
        if !failed.is_empty() {
            bail!("ci failed: {}", failed.join(", "));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_does_not_stop_the_next_and_fails_the_whole() {
        let mut table = Table::default();
        assert!(!table.step("first", || bail!("broken")).unwrap());
        let mut ran = false;
        table
            .step("second", || {
                ran = true;
                Ok(())
            })
            .unwrap();
        assert!(ran);
        assert!(table.step_in_part("third", || Ok(vec!["no tool".to_owned()])).unwrap());
        assert_eq!(table.left_out, ["third: no tool"]);
        let error = table.close(None).unwrap_err();
        assert_eq!(error.to_string(), "ci failed: first");
    }
}
