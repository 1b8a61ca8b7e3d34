//! How `jvpn-bench peers` is run, and programs of others that are there, or are put in their place.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

pub(crate) fn peers(args: &[&str], out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jvpn-bench"));
    command.args(["peers", "--out"]).arg(out).args(args);
    command
}

pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub(crate) fn result(out: &Path) -> Value {
    let result = serde_json::from_slice(&fs::read(out.join("result.json")).unwrap()).unwrap();
    jvpn_bench::schemas::check(&result).unwrap();
    result
}

/// wireguard-go, where set-up or the user has put it; where nobody has, `leave_out` says so.
pub(crate) fn wireguard_go(leave_out: fn(&str)) -> Option<PathBuf> {
    let set_up = Path::new(env!("CARGO_BIN_EXE_jvpn-bench")).parent().unwrap().with_file_name("peers/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = [set_up].into_iter().chain(std::env::split_paths(&path));
    let found = dirs.map(|dir| dir.join("wireguard-go")).find(|path| path.is_file());
    if found.is_none() {
        leave_out("no wireguard-go here; `cargo xtask setup --peers` installs it");
    }
    found
}

pub(crate) fn fake(dir: &Path, name: &str, script: &str) {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

pub(crate) const SAYS_ITS_VERSION: &str = "case \"$*\" in *--version*) echo \"fake 1.0\"; exit;; esac";
