//! What is to be taken back, written down before it is done, where a loss of power does not lose it: `jvpn down` finds the
//! file by the socket that it was told, and `jvpn restore` when the host starts.
//!
//! A record names the boot that it was written in. Of another boot only the name servers are left to take back: rules,
//! routes and the kill switch went with the kernel.

use super::{dns, killswitch};
use crate::config::Config;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Largest record that is read, octets.
const MAX_OCTETS: u64 = 16 << 10;
/// What a restart of the host empties; of `/var/run` it is the other name.
const VOLATILE: [&str; 2] = ["/run", "/var/run"];
/// Where the records of sockets there are kept.
const STATE: &str = "/var/lib/jvpn";
/// Names the boot (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What an agent changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// First routing table of the agent.
    pub first_table: u32,
    /// Table of the kill switch, if there is one.
    pub kill_switch: Option<String>,
    /// Tunnel device that `resolv_conf` was written for, if it was.
    pub dns: Option<String>,
    /// The file with the name servers.
    pub resolv_conf: PathBuf,
    /// The boot that it was written in; empty if the host does not say.
    #[serde(default)]
    pub boot: String,
}

impl Record {
    /// Where the record of the agent with this status socket is: beside it, but for sockets in a folder that a restart of
    /// the host empties in `/var/lib/jvpn`, named after them.
    #[must_use]
    pub fn path(socket: &Path) -> PathBuf {
        let mut name = socket.as_os_str().to_owned();
        if let Some(inside) = VOLATILE.iter().find_map(|folder| socket.strip_prefix(folder).ok()) {
            // A socket's name cannot end with the escaped one of another: '%' is escaped, too.
            let inside = inside.to_string_lossy().replace('%', "%25").replace('/', "%2f");
            name = Path::new(STATE).join(inside).into();
        }
        name.push(".undo");
        name.into()
    }

    /// Names the boot that the host is in.
    #[must_use]
    pub fn this_boot() -> String {
        std::fs::read_to_string(BOOT_ID).map(|text| text.trim().to_owned()).unwrap_or_default()
    }

    /// Whether the host was started anew since this was written. Where it does not tell its boots apart: no.
    #[must_use]
    pub fn is_of_another_boot(&self) -> bool {
        let now = Self::this_boot();
        !self.boot.is_empty() && !now.is_empty() && self.boot != now
    }

    /// What an agent with this configuration may have left, where its own record says nothing.
    #[must_use]
    pub fn as_configured(config: &Config) -> Self {
        let (interface, resolv_conf) = (&config.interface.name, &config.dns.resolv_conf);
        Self {
            first_table: config.interface.table,
            // Removing one that is not there is no error, unless there is nothing to remove it with, nor to make it.
            kill_switch: killswitch::is_available().then(|| killswitch::table_name(interface)),
            dns: dns::is_ours(resolv_conf, interface).then(|| interface.clone()),
            resolv_conf: resolv_conf.clone(),
            boot: Self::this_boot(),
        }
    }

    /// Reads a record; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read or is none.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        let explain = |error: io::Error| {
            io::Error::new(error.kind(), format!("the record {} of what to undo: {error}", path.display()))
        };
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(explain(error)),
        };
        let mut octets = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, MAX_OCTETS), &mut octets).map_err(explain)?;
        serde_json::from_slice(&octets).map(Some).map_err(|error| explain(error.into()))
    }

    /// Writes the record, whole or not at all; it is on the disk when this returns.
    ///
    /// # Errors
    /// If the folder takes no file.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)?;
        sync_folder(path)
    }

    /// Nothing is left to undo.
    pub fn remove(path: &Path) {
        if let Err(error) = std::fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "the record of what to undo stays; it is harmless");
        }
    }
}

/// Brings what became of the names in the folder of `path` to the disk.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R7.3: of a socket that a restart of the host removes the record is kept elsewhere, each under a name of its own.
    #[test]
    fn r7_3_records_are_kept_where_a_restart_leaves_them() {
        let of = |socket: &str| Record::path(Path::new(socket)).to_string_lossy().into_owned();
        assert_eq!(of("/run/jvpn/agent.sock"), "/var/lib/jvpn/jvpn%2fagent.sock.undo");
        assert_eq!(of("/var/run/jvpn/agent.sock"), of("/run/jvpn/agent.sock"), "the same folder");
        assert_ne!(of("/run/jvpn%2fagent.sock"), of("/run/jvpn/agent.sock"));
        assert_eq!(of("/srv/vpn/agent.sock"), "/srv/vpn/agent.sock.undo");
        assert_eq!(of("/runner/agent.sock"), "/runner/agent.sock.undo");
    }

    /// A record of this boot is told from one of another, and a host that does not name its boots is in none but this.
    #[test]
    fn boots_are_told_apart() {
        let record = Record { boot: Record::this_boot(), ..Record::default() };
        assert!(!record.is_of_another_boot());
        assert!(!Record::default().is_of_another_boot());
        if !record.boot.is_empty() {
            assert!(Record { boot: "before".to_owned(), ..record }.is_of_another_boot());
        }
    }

    #[test]
    fn a_record_is_read_as_written_and_garbage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = Record::path(&folder.path().join("agent.sock"));
        assert_eq!(Record::read(&path).unwrap(), None);
        let record = Record {
            first_table: 700,
            kill_switch: Some("jvpn-jvpn0".to_owned()),
            dns: Some("jvpn0".to_owned()),
            resolv_conf: "/etc/resolv.conf".into(),
            boot: "of then".to_owned(),
        };
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path).unwrap(), Some(record));
        for garbage in ["", "{", "{\"first_table\": -1}", "[]", "\u{0}"] {
            std::fs::write(&path, garbage).unwrap();
            assert!(Record::read(&path).unwrap_err().to_string().contains("agent.sock.undo"));
        }
        Record::remove(&path);
        Record::remove(&path);
        assert_eq!(Record::read(&path).unwrap(), None);
    }
}
