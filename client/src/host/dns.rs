//! The host's name servers: set while the tunnel is up, and put back. By systemd-resolved where it decides about names,
//! else by replacing `resolv.conf`.
//!
//! The file is replaced in one step, and the one before is kept beside it, where a restart of the host does not lose it.
//! What somebody else wrote later is never overwritten: then theirs stays.

use super::record::sync_folder;
use super::{resolv, tool};
use crate::config::{Dns, DnsMethod};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

/// Where systemd-resolved lives.
const RESOLVED: &str = "/run/systemd/resolve";
/// The real name servers where `resolv.conf` names only systemd-resolved itself.
const RESOLVED_SERVERS: &str = "/run/systemd/resolve/resolv.conf";

/// How it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Told to systemd-resolved, which forgets it with the tunnel device.
    Resolved,
    /// Written to the file.
    File,
}

/// What became of our file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is not ours, or not any more; what stood there still does.
    NotOurs,
    /// The one before is back.
    Restored,
    /// There was none before, and is none now.
    Removed,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotOurs => "name servers: somebody else's now, left alone",
            Self::Restored => "name servers restored",
            Self::Removed => "name servers removed",
        })
    }
}

/// How the host would be told.
#[must_use]
pub fn way(settings: &Dns) -> Way {
    match settings.method {
        DnsMethod::Resolved => Way::Resolved,
        DnsMethod::File => Way::File,
        DnsMethod::Auto => {
            let runs = Path::new(RESOLVED).join("io.systemd.Resolve").exists();
            let real = std::fs::canonicalize(&settings.resolv_conf);
            let decides = real.is_ok_and(|path| path.starts_with(RESOLVED))
                || read(&settings.resolv_conf)
                    .is_ok_and(|text| text.is_some_and(|text| is_stub(&resolv::servers(&text))));
            if runs && decides { Way::Resolved } else { Way::File }
        }
    }
}

/// Tells systemd-resolved: servers and domains of the tunnel device. With `all`, names of every domain are asked there.
///
/// # Errors
/// If resolvectl is missing or refuses.
pub fn tell_resolved(interface: &str, servers: &[IpAddr], search: &[String], all: bool) -> io::Result<()> {
    for call in resolved_calls(interface, servers, search, all) {
        let args: Vec<&str> = call.iter().map(String::as_str).collect();
        tool::run("resolvectl", &args, &[])?;
    }
    Ok(())
}

/// The calls of resolvectl(1) that set servers and domains.
fn resolved_calls(interface: &str, servers: &[IpAddr], search: &[String], all: bool) -> Vec<Vec<String>> {
    let call =
        |verb: &str, values: Vec<String>| [vec![verb.to_owned(), interface.to_owned()], values].concat();
    let mut domains = search.to_vec();
    if all {
        // "." alone: this device is asked about every name that no other device claims more closely.
        domains.push("~.".to_owned());
    }
    vec![
        call("dns", servers.iter().map(ToString::to_string).collect()),
        call("domain", if domains.is_empty() { vec![String::new()] } else { domains }),
        call("default-route", vec![if all { "yes" } else { "no" }.to_owned()]),
    ]
}

/// Replaces the file at `path`.
///
/// # Errors
/// If another agent has replaced it, or the folder takes no file.
pub fn set(path: &Path, interface: &str, servers: &[IpAddr], search: &[String]) -> io::Result<()> {
    restore(path, interface)?;
    // A link that leads nowhere is something that was there, too.
    let original = read(path)?.or_else(|| path.is_symlink().then(String::new));
    if let Some(own) = original.as_deref().and_then(resolv::recognise)
        && own.is_intact
    {
        let message = format!("{} was written by the agent of {}", path.display(), own.interface);
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    let backup = backup_of(path);
    remove_if_there(&backup)?;
    if original.is_some() {
        keep(path, &backup)?;
        // On the disk before the change: after a loss of power one of the two is there.
        sync_folder(&backup)?;
    }
    let text = resolv::render(interface, servers, search, original.as_deref());
    let fresh = beside(path, ".jvpn-new");
    remove_if_there(&fresh)?;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o644).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, path).map_err(|error| {
        // Nothing was changed: nothing is to be put back.
        let _gone = (std::fs::remove_file(&fresh), std::fs::remove_file(&backup));
        io::Error::new(error.kind(), format!("{} cannot be replaced: {error}", path.display()))
    })?;
    sync_folder(path)
}

/// Puts back what was at `path` before [`set`], if the file there is still the one that was written for `interface`.
///
/// # Errors
/// If what was there before is gone, or the folder takes no change.
pub fn restore(path: &Path, interface: &str) -> io::Result<Outcome> {
    let backup = backup_of(path);
    let own = read(path)?.as_deref().and_then(resolv::recognise);
    match own {
        Some(own) if own.is_intact && own.interface != interface => Ok(Outcome::NotOurs),
        Some(own) if own.is_intact && own.had_original => {
            std::fs::rename(&backup, path).map_err(|error| {
                let (path, backup) = (path.display(), backup.display());
                let message = format!(
                    "{backup} cannot be put back to {path}: {error}; write the host's own name servers into {path}, \
                     and nothing is left to put back"
                );
                io::Error::new(error.kind(), message)
            })?;
            sync_folder(path)?;
            Ok(Outcome::Restored)
        }
        Some(own) if own.is_intact => std::fs::remove_file(path).map(|()| Outcome::Removed),
        // Somebody wrote it later. What they replaced was ours; what was before that is old.
        Some(_) | None => remove_if_there(&backup).map(|()| Outcome::NotOurs),
    }
}

/// Whether the file is the one that was written for `interface`.
#[must_use]
pub fn is_ours(path: &Path, interface: &str) -> bool {
    let own = read(path).ok().flatten().as_deref().and_then(resolv::recognise);
    own.is_some_and(|own| own.is_intact && own.interface == interface)
}

/// The name servers to ask outside the tunnel: the configured ones, else those of the host without our change.
#[must_use]
pub fn outside(settings: &Dns) -> Vec<IpAddr> {
    if !settings.outside.is_empty() {
        return settings.outside.clone();
    }
    let path = &settings.resolv_conf;
    let of = |path: &Path| read(path).ok().flatten();
    let mut text = of(path);
    if text.as_deref().and_then(resolv::recognise).is_some_and(|own| own.is_intact) {
        text = of(&backup_of(path));
    }
    let mut found = resolv::servers(text.as_deref().unwrap_or_default());
    if is_stub(&found) && settings.resolv_conf == Dns::default().resolv_conf {
        found = resolv::servers(of(Path::new(RESOLVED_SERVERS)).as_deref().unwrap_or_default());
        found.retain(|server| !settings.servers.contains(server));
    }
    // What listens on this host has no uplink to be asked over.
    found.retain(|server| !server.is_loopback());
    found
}

/// Whether only something on this host is named.
fn is_stub(servers: &[IpAddr]) -> bool {
    servers.iter().all(IpAddr::is_loopback)
}

fn backup_of(path: &Path) -> PathBuf {
    beside(path, ".before-jvpn")
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// A second name for what is at `path`, be it a file or a link.
fn keep(path: &Path, backup: &Path) -> io::Result<()> {
    match std::fs::read_link(path) {
        Ok(target) => symlink(target, backup),
        Err(_) => std::fs::hard_link(path, backup).or_else(|_| {
            std::fs::copy(path, backup)?;
            std::fs::File::open(backup)?.sync_all()
        }),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The text at `path`; `None` if there is no file.
fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display())));
        }
    };
    let mut octets = Vec::new();
    file.take(resolv::MAX_OCTETS).read_to_end(&mut octets)?;
    Ok(Some(String::from_utf8_lossy(&octets).into_owned()))
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
