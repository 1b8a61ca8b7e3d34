//! Debian packages: which are wanted, which are missing, and apt for those.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::is_root;
use crate::run::Runner;

/// libxdp is compiled from C (clang … zlib1g-dev; its configure wants llc, of llvm), aws-lc with gcc; the rest is what
/// demo and tests call.
pub(super) const BASE: &[&str] = &[
    "gcc",
    "libc6-dev",
    "make",
    "cmake",
    "pkg-config",
    "clang",
    "llvm",
    "m4",
    "libelf-dev",
    "libpcap-dev",
    "zlib1g-dev",
    "iproute2",
    "nftables",
    "conntrack",
    "ethtool",
    "iputils-ping",
    "valgrind",
];

/// Debian's second Rust (there for the browsers) and its prebuilt `core` for BPF.
pub(super) const COMPILER: &[&str] = &["rustc-web", "cargo-web", COMPILER_CORE];
pub(super) const COMPILER_CORE: &str = "libstd-rust-web-dev-bpf";

/// Opens reports of the bench in tests.
pub(super) const CHROMIUM: &str = "chromium";
/// Its names, and those of its relatives, on PATH.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// A browser that can be run headless.
pub(super) fn browser() -> Option<PathBuf> {
    BROWSERS.iter().find_map(|name| on_path(name))
}

/// The first file of this name on PATH.
pub(super) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// What bpf-linker is compiled against.
pub(super) fn llvm(major: u32) -> String {
    format!("llvm-{major}-dev")
}

pub(super) fn has_apt() -> bool {
    Path::new("/usr/bin/apt-get").exists() && Path::new("/usr/bin/dpkg-query").exists()
}

/// Those of `wanted` that are not installed; where there is no dpkg, those whose program is not on PATH.
pub(super) fn missing<'a>(wanted: &[&'a str]) -> Result<Vec<&'a str>> {
    if !has_apt() {
        return Ok(wanted.iter().copied().filter(|package| !looks_present(package)).collect());
    }
    // Exits with 1 when it does not know one of the names, and still answers for the others.
    let answer = Command::new("dpkg-query")
        .args(["--show", "--showformat=${binary:Package} ${db:Status-Status}\n"])
        .args(wanted)
        .output()
        .context("cannot run dpkg-query to see which packages are installed")?;
    let text = String::from_utf8_lossy(&answer.stdout);
    let installed = parse_installed(&text);
    Ok(wanted.iter().copied().filter(|package| !installed.contains(*package)).collect())
}

/// What a person can do about missing packages.
pub(super) fn advice(missing: &[&str]) -> String {
    if has_apt() {
        format!("as root: apt-get install --no-install-recommends {}", missing.join(" "))
    } else {
        format!("install what your distribution calls Debian's {}", missing.join(", "))
    }
}

/// apt, with its index refreshed at most once per run, and only when something is to be installed.
#[derive(Debug)]
pub(super) struct Apt<'a> {
    runner: &'a Runner,
    updated: bool,
    /// Nothing is fetched after this.
    deadline: Option<Instant>,
}

impl<'a> Apt<'a> {
    pub(super) fn new(runner: &'a Runner) -> Self {
        Self { runner, updated: false, deadline: None }
    }

    /// One that fetches nothing after `deadline`.
    pub(super) fn until(runner: &'a Runner, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..Self::new(runner) }
    }

    /// Runs what fetches, for as long as there is time.
    pub(super) fn fetch(&self, name: &str, command: &mut Command) -> Result<()> {
        let limit = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        ensure!(limit.is_none_or(|limit| !limit.is_zero()), "no time is left to fetch it");
        self.runner.logged_within(name, command, limit).map(drop)
    }

    /// Whether apt could install `package`; refreshes the index first, for a bare image has none.
    pub(super) fn offers(&mut self, package: &str) -> Result<bool> {
        self.update()?;
        let answer = Command::new("apt-cache")
            .args(["policy", package])
            .output()
            .context("cannot run apt-cache policy")?;
        Ok(has_candidate(&String::from_utf8_lossy(&answer.stdout)))
    }

    pub(super) fn install(&mut self, packages: &[&str]) -> Result<()> {
        if !has_apt() {
            bail!(
                "this is no Debian or Ubuntu, so set-up cannot install packages here: {}",
                advice(packages)
            );
        }
        if !is_root() {
            bail!("packages are missing and only root may install them. {}", advice(packages));
        }
        self.update()?;
        println!("  …     installing {}", packages.join(" "));
        let install = ["install", "--yes", "--no-install-recommends"];
        if self.deadline.is_some() {
            // Fetching may be broken off, unpacking may not: it would leave packages half installed.
            let mut command = apt_get();
            self.fetch("apt-get download", command.args(install).arg("--download-only").args(packages))?;
        }
        let mut command = apt_get();
        command.args(install).args(packages);
        self.runner.logged("apt-get install", &mut command)?;
        Ok(())
    }

    fn update(&mut self) -> Result<()> {
        if !self.updated {
            self.fetch("apt-get update", apt_get().arg("update"))?;
            self.updated = true;
        }
        Ok(())
    }
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("NEEDRESTART_SUSPEND", "1")
        // Another apt may be at work just after boot.
        .args(["-o", "DPkg::Lock::Timeout=300", "-q"]);
    command
}

fn parse_installed(answer: &str) -> HashSet<&str> {
    answer
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, status)| *status == "installed")
        .map(|(package, _)| package.split_once(':').map_or(package, |(name, _)| name))
        .collect()
}

fn has_candidate(policy: &str) -> bool {
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate:"))
        .any(|candidate| candidate.trim() != "(none)")
}

fn looks_present(package: &str) -> bool {
    let program = match package {
        "libelf-dev" => return pkg_config_knows("libelf"),
        "libpcap-dev" => return pkg_config_knows("libpcap"),
        "zlib1g-dev" => return pkg_config_knows("zlib"),
        "libc6-dev" => return Path::new("/usr/include/stdio.h").exists(),
        "iproute2" => "ip",
        "llvm" => "llc",
        "nftables" => "nft",
        "iputils-ping" => "ping",
        other => other,
    };
    on_path(program).is_some()
}

fn pkg_config_knows(library: &str) -> bool {
    Command::new("pkg-config").args(["--exists", library]).status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fully_installed_packages_count() {
        let answer = "gcc installed\nlibelf-dev:amd64 installed\nclang config-files\nm4 unpacked\n";
        let installed = parse_installed(answer);
        assert!(installed.contains("gcc") && installed.contains("libelf-dev"));
        assert!(!installed.contains("clang") && !installed.contains("m4"));
    }

    #[test]
    fn a_package_without_candidate_is_not_offered() {
        assert!(has_candidate("rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1\n"));
        assert!(!has_candidate("rustc-web:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!has_candidate(""));
    }
}
