//! Calls of `ip`, `nft`, `conntrack` and `ethtool`: the error carries the command and what the program said.

use std::env;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

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
        self.start(namespace, args)?.finish(input)
    }

    /// Starts it, gives it `first` on its standard input, and waits until it has answered with a line: what it is given
    /// then is done at once, without the time that a program takes to come up.
    ///
    /// # Errors
    /// As [`Tool::run`].
    pub fn ready(self, namespace: Option<&Namespace>, args: &[&str], first: &str) -> Result<Ready> {
        let mut ready = self.start(namespace, args)?;
        if ready.answer(first)? {
            return Ok(ready);
        }
        let shown = ready.shown.clone();
        ready.finish("")?;
        bail!("{shown} ended without an answer to {first:?}")
    }

    fn start(self, namespace: Option<&Namespace>, args: &[&str]) -> Result<Ready> {
        let mut command = self.command();
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let place = namespace.map_or(String::new(), |ns| format!(" in namespace {}", ns.name()));
        let shown = format!("`{} {}`{place}", self.program, args.join(" "));
        let spawned = match namespace {
            Some(namespace) => namespace.run(|| command.spawn())?,
            None => command.spawn(),
        };
        let child = spawned.map_err(|e| {
            if e.kind() == ErrorKind::NotFound {
                anyhow!("{} is missing: apt-get install {}", self.program, self.package)
            } else {
                anyhow!("cannot run {shown}: {e}")
            }
        })?;
        Ok(Ready { child: Some(child), shown })
    }
}

/// A program that runs and waits for input. Dropped, it is ended.
#[derive(Debug)]
pub struct Ready {
    child: Option<Child>,
    shown: String,
}

impl Ready {
    /// Whether it answers with a line; it has ended if not.
    fn answer(&mut self, first: &str) -> Result<bool> {
        let Some(Child { stdin: Some(stdin), stdout: Some(stdout), .. }) = &mut self.child else {
            return Ok(false);
        };
        // A program that failed before reading it says why on standard error.
        let _ = stdin.write_all(first.as_bytes());
        let mut octet = [0];
        while stdout.read(&mut octet).with_context(|| self.shown.clone())? > 0 {
            if octet == *b"\n" {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Gives it the rest of its input, waits for its end, and gives the rest of its standard output.
    ///
    /// # Errors
    /// As [`Tool::run`].
    pub fn finish(mut self, input: &str) -> Result<String> {
        let shown = self.shown.clone();
        let Some(mut child) = self.child.take() else { bail!("{shown} has ended") };
        if let Some(mut stdin) = child.stdin.take() {
            // A program that failed before reading all of it says why on standard error.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().with_context(|| shown.clone())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let input = if input.is_empty() { String::new() } else { format!("\ninput was:\n{input}") };
            bail!("{shown} failed ({}): {}{input}", output.status, said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
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

    const CAT: Tool = Tool { program: "cat", package: "coreutils" };

    /// R8.1: a program that is ready has answered; what it is given then is done, and what it says is told.
    #[test]
    fn r8_1_a_program_that_is_ready_does_the_rest_at_once() {
        assert_eq!(CAT.ready(None, &[], "first\n").unwrap().finish("rest\n").unwrap(), "rest\n");
        let error = CAT.ready(None, &["/nowhere"], "first\n").unwrap_err().to_string();
        assert!(error.contains("`cat /nowhere`") && error.contains("No such file"), "{error}");
        let error = CAT.ready(None, &["/dev/null"], "first\n").unwrap_err().to_string();
        assert!(error.contains("ended without an answer"), "{error}");
        let error = Tool { program: "ip", package: "iproute2" }
            .ready(None, &["-batch", "-"], "link show dev lo\n")
            .and_then(|ip| ip.finish("link show dev none-such\n"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("none-such"), "{error}");
        drop(CAT.ready(None, &[], "first\n").unwrap());
    }

    /// R8.1: a program of the rig is named by its whole path, so that starting it forks nothing.
    #[test]
    fn r8_1_a_program_is_found_before_it_is_started() {
        assert_eq!(find("sh", "relative:/nowhere:/bin").as_deref(), Some("/bin/sh".as_ref()));
        assert_eq!(find("sh", "relative:/nowhere"), None);
        assert_eq!(find("passwd", "/etc"), None, "a file that nobody may execute");
    }
}
