//! The verb `fuzz`: libFuzzer on the targets of `bench/fuzz`, from the kept corpus and fresh seeds, and back into the corpus.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::run::{Interrupted, Runner, interrupted};
use crate::setup;
use crate::tree::Tree;

/// What the verb was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// One target, or all of them.
    pub(crate) target: Option<String>,
    /// Minutes for each target.
    pub(crate) minutes: u32,
}

/// Minutes when nobody says how many.
const MINUTES: u32 = 10;
/// Files that are kept of a target, and octets of one: the corpus is replayed by every `cargo test`.
const KEPT_FILES: usize = 64;
const KEPT_OCTETS: u64 = 4_096;
/// The longest input. Sequences are short, and no datagram is longer.
const INPUT_OCTETS: usize = 4_096;

impl Asked {
    /// Reads `[TARGET] [--minutes N]`.
    pub(crate) fn parse(args: &[&str]) -> Option<Self> {
        let (target, rest) = match args {
            [target, rest @ ..] if !target.starts_with('-') => (Some((*target).to_owned()), rest),
            rest => (None, rest),
        };
        let minutes = match rest {
            [] => MINUTES,
            ["--minutes", minutes] => {
                minutes.parse().ok().filter(|minutes| (1..=10_000).contains(minutes))?
            }
            _ => return None,
        };
        Some(Self { target, minutes })
    }
}

pub(crate) fn fuzz(tree: &Tree, runner: &Runner, asked: &Asked) -> Result<()> {
    setup::install(tree, runner)?;
    tools(tree, runner)?;
    runner.logged("build", tree.cargo().args(["build", "--bin", "jvpn-fuzz"]))?;
    let tool = tree.bin_dir(false).join("jvpn-fuzz");
    let listed = Command::new(&tool)
        .arg("list")
        .output()
        .with_context(|| format!("cannot start {}", tool.display()))?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let targets: Vec<&str> =
        listed.lines().filter(|name| asked.target.as_deref().is_none_or(|target| target == *name)).collect();
    ensure!(
        !targets.is_empty(),
        "there is no such target; there are: {}",
        listed.lines().collect::<Vec<_>>().join(", ")
    );
    runner.logged("build, fuzzer", nightly(tree).args(["fuzz", "build", "-s", "none"]))?;
    let mut broken = Vec::new();
    for target in targets {
        let fuzzer = Fuzzer::new(tree, target);
        if let Err(error) = fuzzer.run(runner, &tool, asked.minutes) {
            if error.is::<Interrupted>() {
                return Err(error);
            }
            broken.push(format!("{target} ({error:#})"));
        }
        if let Some(signal) = interrupted() {
            bail!(signal);
        }
    }
    ensure!(broken.is_empty(), "found something: {}; the inputs are in fuzz/artifacts", broken.join(", "));
    Ok(())
}

/// The nightly compiler and cargo-fuzz, installed where they are missing.
fn tools(tree: &Tree, runner: &Runner) -> Result<()> {
    let answers = |command: &mut Command| {
        let probe = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        probe.is_ok_and(|status| status.success())
    };
    if !answers(nightly(tree).arg("--version")) {
        let mut rustup = Command::new("rustup");
        runner.logged(
            "rustup, nightly",
            rustup.args(["toolchain", "install", "nightly", "--profile", "minimal"]),
        )?;
    }
    if !answers(nightly(tree).args(["fuzz", "--version"])) {
        runner.logged("cargo-fuzz", tree.cargo().args(["install", "--locked", "cargo-fuzz"]))?;
    }
    Ok(())
}

/// The nightly cargo, which instruments; whatever toolchain runs us.
fn nightly(tree: &Tree) -> Command {
    let mut command = Command::new("rustup");
    command
        .args(["run", "nightly", "cargo"])
        .current_dir(tree.root())
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO");
    command
}

/// One target: the binary and its directories.
struct Fuzzer<'a> {
    name: &'a str,
    root: &'a Path,
    binary: PathBuf,
    /// What this machine has found so far; not kept.
    work: PathBuf,
    /// What is kept in the tree.
    corpus: PathBuf,
}

impl<'a> Fuzzer<'a> {
    fn new(tree: &'a Tree, name: &'a str) -> Self {
        let release =
            tree.root().join(format!("fuzz/target/{}-unknown-linux-gnu/release", std::env::consts::ARCH));
        Self {
            name,
            root: tree.root(),
            binary: release.join(name),
            work: tree.target().join("fuzz").join(name),
            corpus: tree.root().join("fuzz/corpus").join(name),
        }
    }

    fn run(&self, runner: &Runner, tool: &Path, minutes: u32) -> Result<()> {
        for dir in [&self.work, &self.corpus, &self.root.join("fuzz/artifacts")] {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        let mut seeds = Command::new(tool);
        runner.logged(&format!("{}, seeds", self.name), seeds.args(["seeds", self.name]).arg(&self.work))?;
        let mut fuzzer = Command::new(&self.binary);
        fuzzer
            .arg(format!("-max_total_time={}", u64::from(minutes) * 60))
            .arg(format!("-max_len={INPUT_OCTETS}"))
            .arg(format!("-artifact_prefix={}/fuzz/artifacts/{}-", self.root.display(), self.name))
            // Sequences get interesting by their length, and there is no time to grow it.
            .args(["-len_control=0", "-print_final_stats=1", "-timeout=30"])
            .args([&self.work, &self.corpus]);
        let outcome = runner.shown(&format!("{}, {minutes} min", self.name), &mut fuzzer, |_| ());
        // What was found before it broke is worth keeping too.
        self.keep(runner)?;
        outcome
    }

    /// Replaces the kept corpus by few inputs that reach every edge which any input has reached, as far as so many can.
    fn keep(&self, runner: &Runner) -> Result<()> {
        let fresh = self.work.with_extension("kept");
        let _absent = fs::remove_dir_all(&fresh);
        fs::create_dir_all(&fresh).with_context(|| format!("cannot create {}", fresh.display()))?;
        let mut merge = Command::new(&self.binary);
        merge.args(["-set_cover_merge=1", "-use_counters=0"]).arg(format!("-max_len={INPUT_OCTETS}"));
        runner.logged(&format!("{}, merge", self.name), merge.args([&fresh, &self.corpus, &self.work]))?;
        let (found, named): (Vec<_>, Vec<_>) =
            list(&self.corpus)?.into_iter().partition(|(_, name)| is_digest(name));
        for (_, name) in &found {
            fs::remove_file(self.corpus.join(name))?;
        }
        let mut files = list(&fresh)?;
        files.sort();
        files.retain(|(len, _)| *len <= KEPT_OCTETS);
        // The longest reach most.
        let kept = files.split_off((files.len() + named.len()).saturating_sub(KEPT_FILES).min(files.len()));
        for (_, name) in &kept {
            fs::copy(fresh.join(name), self.corpus.join(name))?;
        }
        let all = kept.len() + files.len();
        println!("  kept  {} of {all} inputs in {}", kept.len(), self.corpus.display());
        Ok(())
    }
}

/// Length and name of each file.
fn list(dir: &Path) -> Result<Vec<(u64, String)>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    entries
        .map(|entry| {
            let entry = entry?;
            Ok((entry.metadata()?.len(), entry.file_name().to_string_lossy().into_owned()))
        })
        .collect()
}

/// Whether libFuzzer named a file. What people have named, the input of a mended finding, stays.
fn is_digest(name: &str) -> bool {
    name.len() == 40 && name.bytes().all(|octet| octet.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let asked = |target: Option<&str>, minutes| Asked { target: target.map(str::to_owned), minutes };
        assert_eq!(Asked::parse(&[]), Some(asked(None, MINUTES)));
        assert_eq!(Asked::parse(&["wire"]), Some(asked(Some("wire"), MINUTES)));
        assert_eq!(Asked::parse(&["wire", "--minutes", "3"]), Some(asked(Some("wire"), 3)));
        assert_eq!(Asked::parse(&["--minutes", "3"]), Some(asked(None, 3)));
        for bad in [&["--minutes"][..], &["--minutes", "0"], &["wire", "text"], &["--seconds", "3"]] {
            assert_eq!(Asked::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_people_have_named_stays() {
        assert!(is_digest("a7170e20d1ac7130409ff0d32fab90161916b3ea"));
        assert!(!is_digest("least-error-number") && !is_digest("seed-001"));
    }
}
