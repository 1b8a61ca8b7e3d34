//! A program of the bench that is ended by Ctrl-C, and what it may not leave.

use std::fs;
use std::path::PathBuf;
use std::process::Child;

use jvpn_rig::registry::REGISTRY_DIR;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Ctrl-C.
pub(crate) fn interrupt(child: &Child) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
}

/// Rigs that a process has left.
pub(crate) fn rigs_of(owner: u32) -> Vec<PathBuf> {
    let rigs = fs::read_dir(REGISTRY_DIR).into_iter().flatten().flatten().map(|rig| rig.path());
    let is_owned = |rig: &PathBuf| {
        let registry = fs::read_to_string(rig.join("registry")).unwrap_or_default();
        registry.lines().any(|line| line.starts_with(&format!("owner {owner} ")))
    };
    rigs.filter(is_owned).collect()
}
