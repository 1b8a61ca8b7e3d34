//! The verbs around the binaries: `build`, `demo`, `clean-rigs`.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run::{Interrupted, Runner, interrupted};
use crate::setup;
use crate::tree::Tree;

/// The processes that the demo starts, and the bench that starts them.
const DEMO_BINARIES: [&str; 4] = ["jvpn", "jvpn-controlplane", "jvpn-dataplane", BENCH];
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

/// Builds, has the emulator test itself, then becomes `jvpn-bench recovery`.
pub(crate) fn bench(tree: &Tree, runner: &Runner, args: &[String]) -> Result<()> {
    let bench = build_for_rig(tree, runner, "the recovery bench")?;
    runner.logged("emulator, self-test", Command::new(&bench).args(["emulator", "--self-test"]))?;
    if let Some(signal) = interrupted() {
        bail!(signal);
    }
    let error = Command::new(&bench).arg("recovery").args(args).current_dir(tree.root()).exec();
    Err(error).with_context(|| format!("cannot start {}", bench.display()))
}

/// Set-up and release build of everything that runs in a rig; gives the bench.
fn build_for_rig(tree: &Tree, runner: &Runner, what: &str) -> Result<PathBuf> {
    setup::install(tree, runner)?;
    setup::require_kernel()
        .with_context(|| format!("{what} makes network namespaces and attaches XDP programs"))?;
    let mut command = tree.cargo();
    command.args(["build", "--release"]);
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
