//! What is to be taken back, written down before it is done: a file beside the status socket, so that `jvpn down` finds
//! it by the socket that it was told.

use super::{dns, killswitch};
use crate::config::Config;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Largest record that is read, octets.
const MAX_OCTETS: u64 = 16 << 10;

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
}

impl Record {
    /// Where the record of the agent with this status socket is.
    #[must_use]
    pub fn path(socket: &Path) -> PathBuf {
        let mut path = socket.as_os_str().to_owned();
        path.push(".undo");
        path.into()
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

    /// Writes the record, whole or not at all.
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
        std::fs::rename(&fresh, path)
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

#[cfg(test)]
mod tests {
    use super::*;

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
