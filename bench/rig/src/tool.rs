//! Calls of `ip`, `nft`, `conntrack` and `ethtool`: the error carries the command and what the program said.

use std::io::{ErrorKind, Write};
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
        let mut command = Command::new(self.program);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:{ADMIN_PATHS}")).env("LC_ALL", "C");
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
        if let Some(namespace) = namespace {
            namespace.apply_to(&mut command);
        }
        let shown = || {
            let place = namespace.map_or(String::new(), |ns| format!(" in namespace {}", ns.name()));
            format!("`{} {}`{place}", self.program, args.join(" "))
        };
        let mut child = command.spawn().map_err(|e| {
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
