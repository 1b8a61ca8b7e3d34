//! Files that hold a secret: never readable by others, never silently empty.

use nix::fcntl::OFlag;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Why a secret file was refused.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It could not be opened, read or written.
    #[error("secret file {path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Others may read or change it.
    #[error(
        "secret file {path} has mode {mode:04o}: others may read it; run 'chmod 600 {path}' and consider the key burnt"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Empty, too long, or no text.
    #[error("secret file {path} {problem}; make one with 'jvpn genkey > {path}' (umask 077)")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
}

/// A key is 44 octets of base64; a file ten times as long is something else.
const MAX_SECRET_OCTETS: u64 = 4_096;

/// Reads the text of a secret file, without surrounding white space.
///
/// # Errors
/// If the file is missing, not a regular file, accessible to group or world, empty, too long or not text.
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
    let io = |cause| KeyFileError::Io { path: path.to_owned(), cause };
    let content = |problem| KeyFileError::Content { path: path.to_owned(), problem };
    // Checked on the open descriptor, so that the file cannot be swapped between check and read. O_NONBLOCK: a FIFO
    // at this path must not hang the start.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    if !meta.is_file() {
        return Err(content("is not a regular file"));
    }
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::with_capacity(MAX_SECRET_OCTETS as usize + 1));
    let read = file.take(MAX_SECRET_OCTETS + 1).read_to_string(&mut text);
    read.map_err(|error| {
        if error.kind() == std::io::ErrorKind::InvalidData { content("is not text") } else { io(error) }
    })?;
    if text.len() as u64 > MAX_SECRET_OCTETS {
        return Err(content("is too long for a key"));
    }
    let trimmed = Zeroizing::new(text.trim().to_owned());
    if trimmed.is_empty() {
        return Err(content("is empty"));
    }
    Ok(trimmed)
}

/// Writes a secret so that it is whole or not there: a new file of mode 0600, synced, renamed over the old one.
///
/// # Errors
/// If any step fails; the old file is then untouched.
pub fn write_secret(path: &Path, content: &[u8]) -> Result<(), KeyFileError> {
    let io = |cause| KeyFileError::Io { path: path.to_owned(), cause };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        Ok(()) | Err(_) => {}
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(io)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(io)?;
    std::fs::rename(&temporary, path).map_err(io)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// R5.3: a missing, exposed, empty or binary key file is refused with what to do.
    #[test]
    fn bad_secret_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(matches!(read_secret(&path), Err(KeyFileError::Io { .. })));
        write_secret(&path, b"  abc\n").unwrap();
        assert_eq!(read_secret(&path).unwrap().as_str(), "abc");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read_secret(&path).unwrap_err().to_string().contains("chmod 600"));
        for bad in [&b""[..], b" \n", &[0xff, 0xfe], &[b'a'; 5000]] {
            write_secret(&path, bad).unwrap();
            assert!(matches!(read_secret(&path), Err(KeyFileError::Content { .. })));
        }
        assert!(read_secret(dir.path()).is_err());
    }
}
