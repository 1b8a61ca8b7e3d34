//! `setup --peers`: the programs of others that `jvpn-bench peers` measures beside ours. Neither build nor tests need them.
//!
//! Pinned versions where we build or fetch them, in `target/peers`; packages of the distribution as they come. What cannot
//! be had is said and stops nothing: the bench measures with those that are there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::packages;
use crate::run::{Interrupted, Runner, done};
use crate::tree::Tree;

/// Taken as the distribution has them.
const PACKAGES: [&str; 3] = ["openvpn", "openssl", "wireguard-tools"];

/// A crate with a program.
struct Crate {
    name: &'static str,
    version: &'static str,
    program: &'static str,
}

const CRATES: [Crate; 2] = [
    Crate { name: "gotatun-cli", version: "0.10.2", program: "gotatun" },
    Crate { name: "boringtun-cli", version: "0.7.1", program: "boringtun-cli" },
];

/// wireguard-go with UDP segmentation and joining, as Debian's backports of release 12 have it: what a stable release has
/// may be older and slower, and beside an old one we would look better than we are.
const WIREGUARD_GO: &str = "wireguard-go_0.0.20231211-1~bpo12+1_amd64.deb";
const WIREGUARD_GO_SHA256: &str = "8aa051985912bbc5499e4abe66389395656cf2daec02271a1ca654a277a82d33";
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";

/// Gets what is missing; says of each what is there and of what is not, why.
pub(crate) fn install(tree: &Tree, runner: &Runner) -> Result<()> {
    let start = Instant::now();
    let (dir, _bin) = places(tree)?;
    let mut outcomes = Vec::new();
    let mut note = |what: &str, result: Result<String>| match result {
        // A signal ends all of it.
        Err(error) if error.is::<Interrupted>() => Err(error),
        result => {
            outcomes.push((what.to_owned(), result));
            Ok(())
        }
    };
    let mut apt = packages::Apt::new(runner);
    for package in PACKAGES {
        note(package, from_apt(&mut apt, package))?;
    }
    note("wireguard-go", wireguard_go(tree, runner, &mut apt))?;
    for one in &CRATES {
        note(one.program, from_crate(tree, runner, one, &dir))?;
    }
    println!("For `jvpn-bench peers`:");
    let mut missing = 0;
    for (what, result) in &outcomes {
        match result {
            Ok(found) => println!("  {:<8}{what:<16}{found}", "ok"),
            Err(error) => {
                missing += 1;
                println!("  {:<8}{what:<16}{error:#}", "MISSING");
            }
        }
    }
    println!("  {:<8}{:<16}{}", "", "kernel module", kernel());
    if missing > 0 {
        println!("The bench runs with those that are there, and says which are not.");
    }
    done("setup --peers", start.elapsed());
    Ok(())
}

/// Where everything of the peers is, and their programs.
fn places(tree: &Tree) -> Result<(PathBuf, PathBuf)> {
    let dir = tree.target().join("peers");
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    Ok((dir, bin))
}

fn from_apt(apt: &mut packages::Apt<'_>, package: &str) -> Result<String> {
    if packages::missing(&[package])?.is_empty() {
        return Ok("installed".to_owned());
    }
    apt.install(&[package])?;
    Ok("installed now".to_owned())
}

/// Whether it is where set-up puts it.
pub(super) fn has_wireguard_go(tree: &Tree) -> bool {
    tree.target().join("peers/bin/wireguard-go").is_file()
}

/// The pinned package's program, not installed but laid beside the others; else the distribution's package.
pub(super) fn wireguard_go(tree: &Tree, runner: &Runner, apt: &mut packages::Apt<'_>) -> Result<String> {
    let (dir, bin) = places(tree)?;
    let program = bin.join("wireguard-go");
    if program.is_file() {
        return Ok(program.display().to_string());
    }
    match pinned_wireguard_go(runner, apt, &dir, &program) {
        Ok(()) => Ok(format!("{}, of {WIREGUARD_GO}", program.display())),
        Err(error) if error.is::<Interrupted>() => Err(error),
        Err(error) => {
            let found = from_apt(apt, "wireguard-go").with_context(|| format!("{error:#}; and"))?;
            Ok(format!("{found}, the distribution's: may be without UDP offloads ({error:#})"))
        }
    }
}

fn pinned_wireguard_go(runner: &Runner, apt: &packages::Apt<'_>, dir: &Path, program: &Path) -> Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the pinned package is for amd64");
    ensure!(Path::new(APT_HELPER).exists(), "no apt to fetch the pinned package with");
    let mirror = mirror()?;
    let package = dir.join("wireguard-go.deb");
    let mut fetch = Command::new(APT_HELPER);
    fetch.arg("download-file").arg(format!("{mirror}/pool/main/w/wireguard-go/{WIREGUARD_GO}")).arg(&package);
    // It checks the sum and leaves nothing that has another.
    fetch.arg(format!("SHA256:{WIREGUARD_GO_SHA256}"));
    apt.fetch("fetch wireguard-go", &mut fetch)?;
    let unpacked = dir.join("wireguard-go.unpacked");
    runner.logged("unpack wireguard-go", Command::new("dpkg-deb").arg("-x").args([&package, &unpacked]))?;
    let inside = unpacked.join("usr/bin/wireguard-go");
    fs::rename(&inside, program).with_context(|| format!("{} is not in the package", inside.display()))?;
    fs::remove_dir_all(&unpacked).and_then(|()| fs::remove_file(&package)).context("cannot clean up")
}

/// The first mirror of Debian's that apt uses here.
fn mirror() -> Result<String> {
    let answer = Command::new("apt-get")
        .args(["indextargets", "--format", "$(ORIGIN) $(SITE)", "Created-By: Packages", "Component: main"])
        .output()
        .context("cannot ask apt for its mirrors")?;
    let text = String::from_utf8_lossy(&answer.stdout);
    parse_mirror(&text).map(str::to_owned).context("apt knows no mirror of Debian")
}

fn parse_mirror(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("Debian ")).map(|site| site.trim().trim_end_matches('/'))
}

fn from_crate(tree: &Tree, runner: &Runner, one: &Crate, root: &Path) -> Result<String> {
    let program: PathBuf = root.join("bin").join(one.program);
    let listed = fs::read_to_string(root.join(".crates.toml")).unwrap_or_default();
    if program.is_file() && is_listed(&listed, one) {
        return Ok(format!("{} {}", one.name, one.version));
    }
    let mut command = tree.cargo();
    command
        .args(["install", one.name, "--version", one.version, "--locked", "--force", "--root"])
        .arg(root)
        .env_remove("CARGO_TARGET_DIR");
    runner.logged(&format!("{} {}", one.name, one.version), &mut command)?;
    Ok(format!("{} {}, built now", one.name, one.version))
}

/// Whether cargo's own list of what it installed there has this version.
fn is_listed(crates: &str, one: &Crate) -> bool {
    crates.contains(&format!("\"{} {} ", one.name, one.version))
}

fn kernel() -> &'static str {
    // A module that is not loaded yet is found by its file, one that is built in or loaded by its directory.
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let file = format!("/lib/modules/{}/kernel/drivers/net/wireguard", release.trim());
    if Path::new("/sys/module/wireguard").exists() || Path::new(&file).exists() {
        "of WireGuard: there"
    } else {
        "none of WireGuard here: left out"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_has_installed_is_read() {
        let text = "[v1]\n\"boringtun-cli 0.7.1 (registry+https://x)\" = [\"boringtun-cli\"]\n";
        let [gotatun, boringtun] = &CRATES;
        assert!(is_listed(text, boringtun) && !is_listed(text, gotatun));
        assert!(!is_listed(&text.replace("0.7.1", "0.7.0"), boringtun), "another version is built anew");
    }

    #[test]
    fn a_mirror_of_debian_is_taken_and_no_other() {
        let text =
            "Example https://a.invalid\nDebian http://mirror.invalid/debian/\nDebian http://b.invalid\n";
        assert_eq!(parse_mirror(text), Some("http://mirror.invalid/debian"));
        assert_eq!(parse_mirror("Ubuntu http://c.invalid\n"), None);
    }
}
