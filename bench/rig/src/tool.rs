//! Calls of `ip`, `nft`, `conntrack` and `ethtool`: the error carries the command and what the program said.

use std::env;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use crate::Namespace;

/// A program the rig calls, and the Debian package that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Name of the executable.
    pub program: &'static str,
    /// Debian package.
    pub package: &'static str,
}

/// Links, addresses, routes, namespaces.
pub const IP: Tool = Tool { program: "ip", package: "iproute2" };
/// Impairments and NAT.
pub const NFT: Tool = Tool { program: "nft", package: "nftables" };
/// NAT rebinding.
pub const CONNTRACK: Tool = Tool { program: "conntrack", package: "conntrack" };
/// Offloads.
pub const ETHTOOL: Tool = Tool { program: "ethtool", package: "ethtool" };

/// All of them.
pub const ALL: [Tool; 4] = [IP, NFT, CONNTRACK, ETHTOOL];

/// Where administrators' programs are; a user's PATH (su without `-`) may lack them.
const ADMIN_PATHS: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";

impl Tool {
    /// The program, to be run in the caller's namespace.
    #[must_use]
    pub fn command(self) -> Command {
        let path = env::var("PATH").unwrap_or_default();
        let path = format!("{path}:{ADMIN_PATHS}");
        // By its whole path: a search in a changed PATH is made after a fork, and a fork is what the rig avoids (see
        // `Namespace::run`).
        let program = find(self.program, &path).unwrap_or_else(|| PathBuf::from(self.program));
        let mut command = Command::new(program);
        command.env("PATH", path).env("LC_ALL", "C");
        command
    }

    /// Runs it in `namespace` and gives its standard output.
    ///
    /// # Errors
    /// The program is missing or fails; the text has the command and its standard error.
    pub fn run(self, namespace: Option<&Namespace>, args: &[&str]) -> Result<String> {
        self.run_with_input(namespace, args, "")
    }

    /// Like [`Tool::run`], with `input` on its standard input.
    ///
    /// # Errors
    /// As [`Tool::run`].
    pub fn run_with_input(self, namespace: Option<&Namespace>, args: &[&str], input: &str) -> Result<String> {
        let mut command = self.command();
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let shown = || {
            let place = namespace.map_or(String::new(), |ns| format!(" in namespace {}", ns.name()));
            format!("`{} {}`{place}", self.program, args.join(" "))
        };
        let spawned = match namespace {
            Some(namespace) => namespace.run(|| command.spawn())?,
            None => command.spawn(),
        };
        let mut child = spawned.map_err(|e| {
            if e.kind() == ErrorKind::NotFound {
                anyhow!("{} is missing: apt-get install {}", self.program, self.package)
            } else {
                anyhow!("cannot run {}: {e}", shown())
            }
        })?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that failed before reading all of it says why on standard error.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().with_context(shown)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let input = if input.is_empty() { String::new() } else { format!("\ninput was:\n{input}") };
            bail!("{} failed ({}): {}{input}", shown(), output.status, said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The first file of this name in the directories of `path` that may be executed.
fn find(program: &str, path: &str) -> Option<PathBuf> {
    env::split_paths(path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(program)).find(|file| {
        file.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R8.1: a program of the rig is named by its whole path, so that starting it forks nothing.
    #[test]
    fn r8_1_a_program_is_found_before_it_is_started() {
        assert_eq!(find("sh", "relative:/nowhere:/bin").as_deref(), Some("/bin/sh".as_ref()));
        assert_eq!(find("sh", "relative:/nowhere"), None);
        assert_eq!(find("passwd", "/etc"), None, "a file that nobody may execute");
    }
}
