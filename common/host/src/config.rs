//! Configuration files: TOML, unknown keys refused, errors that name file, line and key.

use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Why a configuration file was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It could not be read.
    #[error("cannot read configuration {path}: {cause}; give an existing file with --config")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// It is not the TOML that is expected. The message carries line, column and key.
    #[error("configuration {path} is not valid: {cause}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        cause: Box<toml::de::Error>,
    },
    /// A value is out of bounds or contradicts another.
    #[error("configuration {path}: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Which key, what it is, what it may be.
        message: String,
    },
}

/// Largest configuration file that is read, octets: beyond it somebody gave the wrong file.
const MAX_FILE_OCTETS: u64 = 16 << 20;

/// Reads and parses a file. Types should carry `#[serde(deny_unknown_fields)]`.
///
/// # Errors
/// If the file cannot be read or is not what `T` expects.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let read = |cause| ConfigError::Read { path: path.to_owned(), cause };
    let meta = std::fs::metadata(path).map_err(read)?;
    if !meta.is_file() {
        let message = "is not a regular file".to_owned();
        return Err(ConfigError::Invalid { path: path.to_owned(), message });
    }
    if meta.len() > MAX_FILE_OCTETS {
        let message = format!("is {} octets long; at most {MAX_FILE_OCTETS} are read", meta.len());
        return Err(ConfigError::Invalid { path: path.to_owned(), message });
    }
    parse(path, &std::fs::read_to_string(path).map_err(read)?)
}

/// Parses the text of the file at `path`, which only the error names.
///
/// # Errors
/// If the text is not what `T` expects.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|cause| ConfigError::Parse { path: path.to_owned(), cause: Box::new(cause) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Small {
        #[allow(dead_code, reason = "only parsed")]
        port: u16,
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        assert!(load::<Small>(&path).unwrap_err().to_string().contains("x.toml"));
        std::fs::write(&path, "port = 1\npotr = 2\n").unwrap();
        let text = load::<Small>(&path).unwrap_err().to_string();
        assert!(text.contains("line 2") && text.contains("potr"), "{text}");
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(load::<Small>(&path).is_err());
    }
}
