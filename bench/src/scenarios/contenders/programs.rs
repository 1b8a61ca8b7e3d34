//! The programs of the others: where they are, which version they are, and how to get what is missing. A program that
//! hangs, dies or talks nonsense is missing, too, and the reason says so.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jvpn_rig::{Interrupt, wait};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::Kind;

/// Directory that is looked into first.
const DIR_VARIABLE: &str = "JVPN_PEERS_DIR";
/// Where administrators' programs are; a user's PATH may lack them.
const ADMIN_DIRS: [&str; 6] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"];
/// How long a program may take to say its version, or `openssl` to make a key.
const PATIENCE: Duration = Duration::from_secs(10);
/// As much of what a program says is looked at.
const SAID_MAX: u64 = 16 << 10;
/// Characters of a version that are kept.
const VERSION_LEN: usize = 80;

/// What one contender is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Which.
    pub contender: Kind,
    /// What it says of itself; for ours the version of the bench.
    pub version: String,
    /// Its program.
    pub program: Option<PathBuf>,
    /// First half of the program's SHA-256: two builds of one version are told apart.
    pub sha256: Option<String>,
    /// How it is configured, in a line.
    pub configuration: &'static str,
}

/// A contender that cannot run here, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Which.
    pub contender: Kind,
    /// Why, and how to get it.
    pub why: String,
}

/// Looks for the program of `kind`.
///
/// # Errors
/// It is not there, or not usable: with the reason and how to get it.
pub(super) fn look(kind: Kind) -> Result<Found, Missing> {
    let found = |program: Option<PathBuf>, version: String| {
        let sha256 = program.as_deref().and_then(fingerprint);
        Found { contender: kind, version, program, sha256, configuration: kind.configuration() }
    };
    let Some(name) = kind.program() else {
        let kernel = || fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let version = if kind == Kind::Plain {
            format!("Linux {}", kernel().trim())
        } else {
            env!("CARGO_PKG_VERSION").to_owned()
        };
        return Ok(found(None, version));
    };
    let missing = |why: String| Missing { contender: kind, why };
    let path = find(name).ok_or_else(|| missing(format!("{name} is not there: {}", kind.advice())))?;
    let version = version_of(&path).map_err(|error| missing(format!("{}: {error:#}", path.display())))?;
    Ok(found(Some(path), version))
}

/// The first file of this name in the places that are looked into.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let named = std::env::var_os(DIR_VARIABLE).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/bin"));
    let dirs = named.into_iter().chain(set_up_dir()).chain(std::env::split_paths(&path));
    let dirs = dirs.chain(ADMIN_DIRS.map(PathBuf::from)).chain(cargo);
    dirs.map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// Where `cargo xtask setup --peers` puts them: `peers/bin` in the target directory that this program is in.
fn set_up_dir() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    own.ancestors().skip(2).take(2).map(|dir| dir.join("peers/bin")).find(|dir| dir.is_dir())
}

/// The first line that a program says of its version, whatever its exit code.
fn version_of(program: &Path) -> Result<String> {
    let said = output(Command::new(program).arg("--version"), PATIENCE)?.text;
    let line = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let readable = |c: char| c.is_ascii_graphic() || c == ' ';
    ensure!(
        line.chars().all(readable) && line.chars().any(|c| c.is_ascii_digit()),
        "it does not say which version it is"
    );
    let kept: String = line.chars().take(VERSION_LEN).collect();
    Ok(kept.trim_end().to_owned())
}

fn fingerprint(program: &Path) -> Option<String> {
    let digest = Sha256::digest(fs::read(program).ok()?);
    Some(digest.iter().take(16).map(|octet| format!("{octet:02x}")).collect())
}

/// What a program said, both outputs in one, and whether it was content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) text: String,
    pub(super) is_success: bool,
}

/// Runs a program that should end at once, and ends it when it does not.
///
/// # Errors
/// It cannot be started, or goes on for longer than `patience`.
pub(super) fn output(command: &mut Command, patience: Duration) -> Result<Said> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
    let (tell, told) = mpsc::channel();
    let pipes = child.stdout.take().map(read).into_iter().chain(child.stderr.take().map(read));
    for pipe in pipes {
        let tell = tell.clone();
        // Not joined: a stray child of it may hold the pipe for longer than anybody waits.
        thread::spawn(move || {
            let _gone = tell.send(pipe());
        });
    }
    drop(tell);
    let ended = wait::until(&program, patience, &Interrupt::default(), || Ok(child.try_wait()?));
    let Ok(status) = ended else {
        // It is our child and not waited for yet.
        let _ended = child.kill().and_then(|()| child.wait());
        bail!("it does not answer within {:.0} s, and was ended", patience.as_secs_f64());
    };
    let grace = Duration::from_millis(200);
    let parts: Vec<String> = (0..2).map_while(|_| told.recv_timeout(grace).ok()).collect();
    Ok(Said { text: parts.join("\n"), is_success: status.success() })
}

/// Reads the beginning of what comes.
fn read<R: Read + Send + 'static>(pipe: R) -> Box<dyn FnOnce() -> String + Send> {
    Box::new(move || {
        let mut octets = Vec::new();
        // What was read before an error counts.
        let _result = pipe.take(SAID_MAX).read_to_end(&mut octets);
        String::from_utf8_lossy(&octets).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    fn fake(script: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fake");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        (dir, path)
    }

    /// R8.4: a peer's version stands in the result, and what says none is no peer.
    #[test]
    fn r8_4_versions_are_read_whatever_the_exit_code() {
        let (_dir, path) = fake("echo 'OpenVPN 2.6.14 x86_64'; echo more; exit 1");
        assert_eq!(version_of(&path).unwrap(), "OpenVPN 2.6.14 x86_64");
        let (_dir, path) = fake("printf '\\033[2J\\001 7'");
        assert!(version_of(&path).unwrap_err().to_string().contains("which version"));
        let (_dir, path) = fake("exit 3");
        assert!(version_of(&path).is_err());
        let (_dir, path) = fake("yes 1.0 | head -c 4000000");
        assert_eq!(version_of(&path).unwrap(), "1.0", "a flood is cut off");
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let (_dir, path) = fake("exec sleep 600");
        let start = Instant::now();
        let error = output(&mut Command::new(&path), Duration::from_millis(200)).unwrap_err().to_string();
        assert!(error.contains("does not answer") && start.elapsed() < Duration::from_secs(60), "{error}");
        let (_dir, path) = fake("sleep 600 & echo 1.2");
        let said = output(&mut Command::new(&path), PATIENCE).unwrap();
        assert!(
            said.is_success && start.elapsed() < Duration::from_secs(60),
            "a stray child is not waited for"
        );
    }

    #[test]
    fn whoever_is_missing_says_how_to_get_it() {
        assert!(find("no-such-vpn").is_none());
        for kind in Kind::ALL {
            assert_eq!(kind.program().is_some(), !kind.advice().is_empty(), "{kind}");
        }
    }
}
