//! The verbs around the binaries: `build`, `demo`, `clean-rigs`.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run::{Interrupted, Runner, interrupted};
use crate::setup;
use crate::tree::Tree;

/// The processes that the demo starts, and the bench that starts them.
pub(crate) const DEMO_BINARIES: [&str; 4] = ["jvpn", "jvpn-controlplane", "jvpn-dataplane", BENCH];
const BENCH: &str = "jvpn-bench";

/// All binaries, the XDP object inside the data plane's.
pub(crate) fn build(tree: &Tree, runner: &Runner, release: bool) -> Result<()> {
    setup::install(tree, runner)?;
    let (name, profile) = if release { ("build, release", &["--release"][..]) } else { ("build", &[][..]) };
    runner.logged(name, tree.cargo().args(["build", "--workspace", "--bins"]).args(profile))?;
    println!("binaries: {}", tree.bin_dir(release).display());
    Ok(())
}

/// Builds, then becomes `jvpn-bench demo`: its output, signals and exit code are those of this process.
pub(crate) fn demo(tree: &Tree, runner: &Runner, args: &[String]) -> Result<()> {
    let bench = build_for_rig(tree, runner, "the demo")?;
    let error = Command::new(&bench).arg("demo").args(args).current_dir(tree.root()).exec();
    Err(error).with_context(|| format!("cannot start {}", bench.display()))
}

/// Arguments that only `jvpn-bench recovery` takes.
const OF_RECOVERY: [&str; 7] =
    ["--cause", "--rtt", "--trials", "--policy", "--preset", "--profile", "--judge"];

/// Builds, has the emulator test itself, then becomes `jvpn-bench suite`, or the verb that the arguments name or belong to.
pub(crate) fn bench(tree: &Tree, runner: &Runner, args: &[String]) -> Result<()> {
    let bench = build_for_rig(tree, runner, "the bench")?;
    let out = out_of(args).map_or_else(|| tree.target().join(usual_dir(args)), |out| tree.root().join(out));
    self_test(runner, &bench, &of_emulator(&out))?;
    let error = Command::new(&bench).args(bench_verb(args)).args(args).current_dir(tree.root()).exec();
    Err(error).with_context(|| format!("cannot start {}", bench.display()))
}

/// The emulator against itself: figures made with it would prove nothing otherwise. Its result stays in `out`.
pub(crate) fn self_test(runner: &Runner, bench: &Path, out: &Path) -> Result<()> {
    let mut command = Command::new(bench);
    command.args(["emulator", "--self-test", "--out"]).arg(out);
    runner.logged("emulator, self-test", &mut command)?;
    if let Some(signal) = interrupted() {
        bail!(signal);
    }
    Ok(())
}

/// Where the self-test's result goes: beside that of the run whose figures it vouches for, and not into it, where
/// `--resume` and `dist` know what belongs there.
pub(crate) fn of_emulator(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push("-emulator");
    name.into()
}

/// The directory that the arguments name for the run.
fn out_of(args: &[String]) -> Option<&str> {
    let (at, found) =
        args.iter().enumerate().find(|(_, arg)| *arg == "--out" || arg.starts_with("--out="))?;
    match found.strip_prefix("--out=") {
        Some(value) => Some(value),
        None => args.get(at + 1).map(String::as_str),
    }
}

/// The directory under `target` that a verb writes into where no other is named.
fn usual_dir(args: &[String]) -> &str {
    match (bench_verb(args), args.first()) {
        (Some("suite"), _) => "bench",
        (Some(verb), _) => verb,
        (None, first) => first.map_or("bench", String::as_str),
    }
}

/// The verb that stands before the arguments; none if they begin with one.
fn bench_verb(args: &[String]) -> Option<&'static str> {
    let of_recovery = |arg: &String| OF_RECOVERY.contains(&arg.split('=').next().unwrap_or_default());
    match args.first() {
        Some(first) if !first.starts_with('-') => None,
        _ if args.iter().any(of_recovery) => Some("recovery"),
        _ => Some("suite"),
    }
}

/// Set-up and release build of everything that runs in a rig; gives the bench.
pub(crate) fn build_for_rig(tree: &Tree, runner: &Runner, what: &str) -> Result<PathBuf> {
    setup::install(tree, runner)?;
    setup::require_kernel()
        .with_context(|| format!("{what} makes network namespaces and attaches XDP programs"))?;
    let mut command = tree.cargo();
    command.args(["build", "--release"]);
    // Results of a binary that is carried elsewhere still say what it was built from.
    command.env("JVPN_COMMIT", commit(tree).unwrap_or_default());
    for binary in DEMO_BINARIES {
        command.args(["--bin", binary]);
    }
    runner.logged("build, release", &mut command)?;
    if let Some(signal) = interrupted() {
        bail!(signal);
    }
    Ok(tree.bin_dir(true).join(BENCH))
}

/// Builds, then becomes `jvpn-bench model`. Larger bounds take a release build.
pub(crate) fn model(tree: &Tree, runner: &Runner, args: &[String]) -> Result<()> {
    setup::install(tree, runner)?;
    let release = args.iter().any(|arg| arg == "--deep");
    let mut command = tree.cargo();
    command.args(["build", "--bin", BENCH]);
    if release {
        command.arg("--release");
    }
    runner.logged("build", &mut command)?;
    if let Some(signal) = interrupted() {
        bail!(signal);
    }
    let bench = tree.bin_dir(release).join(BENCH);
    let error = Command::new(&bench).arg("model").args(args).current_dir(tree.root()).exec();
    Err(error).with_context(|| format!("cannot start {}", bench.display()))
}

/// Builds, then becomes `jvpn-bench simulate`. The debug build, as the tests have it: optimised, with every assertion on.
/// A judge that is switched off finds nothing.
pub(crate) fn simulate(tree: &Tree, runner: &Runner, args: &[String]) -> Result<()> {
    setup::install(tree, runner)?;
    runner.logged("build", tree.cargo().args(["build", "--bin", BENCH]))?;
    if let Some(signal) = interrupted() {
        bail!(signal);
    }
    let bench = tree.bin_dir(false).join(BENCH);
    let error = Command::new(&bench).arg("simulate").args(args).current_dir(tree.root()).exec();
    Err(error).with_context(|| format!("cannot start {}", bench.display()))
}

/// Removes network namespaces and the like that dead runs left behind.
pub(crate) fn clean_rigs(tree: &Tree) -> Result<()> {
    let Some(bench) =
        [true, false].map(|release| tree.bin_dir(release).join(BENCH)).into_iter().find(|p| p.exists())
    else {
        println!(
            "{BENCH} is not built, so no run of this tree can have left anything; `cargo xtask build` builds it"
        );
        return Ok(());
    };
    if !setup::is_root() {
        bail!("only root may remove network namespaces: run it as root, for instance with sudo -E");
    }
    let status = Command::new(&bench)
        .arg("sweep")
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {}", bench.display()))?;
    if !status.success() {
        bail!("`{BENCH} sweep` failed ({status}); `ip netns list` shows what is left");
    }
    Ok(())
}

/// After an interrupted privileged run: takes away what it had no time to take away.
pub(crate) fn sweep_if_interrupted(tree: &Tree, error: &anyhow::Error) {
    let bench = tree.bin_dir(false).join(BENCH);
    if error.is::<Interrupted>() && setup::is_root() && bench.exists() {
        // The interruption is what is reported; the next run sweeps again.
        let _ = Command::new(bench).arg("sweep").stdin(Stdio::null()).status();
    }
}

/// The tree's commit, with `-changed` behind it where the tree has changes that are in none; nothing where there is no git.
pub(crate) fn commit(tree: &Tree) -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).current_dir(tree.root()).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let hash = git(&["rev-parse", "--short=12", "HEAD"]).filter(|hash| !hash.is_empty())?;
    let changed = git(&["status", "--porcelain"]).is_some_and(|changed| !changed.is_empty());
    Some(if changed { hash + "-changed" } else { hash })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bench_is_the_suite_unless_told_otherwise() {
        let verb = |line: &str| bench_verb(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(verb(""), Some("suite"));
        assert_eq!(verb("--quick --resume"), Some("suite"));
        assert_eq!(verb("--rtt 0,50 --trials 30"), Some("recovery"));
        assert_eq!(verb("--out x --preset=fintech"), Some("recovery"));
        assert_eq!(verb("churn --minutes 5"), None);
        assert_eq!(verb("peers --recovery"), None);
    }

    #[test]
    fn the_self_test_lies_beside_the_run() {
        let out = |line: &str| {
            let args: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            out_of(&args).map(|out| of_emulator(Path::new(out)))
        };
        assert_eq!(out("--quick --out some/where --resume"), Some(PathBuf::from("some/where-emulator")));
        assert_eq!(out("recovery --out=there"), Some(PathBuf::from("there-emulator")));
        assert_eq!(out("--quick"), None);
        assert_eq!(out("--out"), None);
        let usual = |line: &str| {
            let args: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            usual_dir(&args).to_owned()
        };
        assert_eq!(usual("--quick"), "bench");
        assert_eq!(
            usual("--rtt 0,50 --trials 30"),
            "recovery",
            "not beside the suite, which it does not vouch for"
        );
        assert_eq!(usual("churn --minutes 5"), "churn");
    }
}
