//! Which machine and which programs figures come from: what has to be the same over all stretches of one run.
//!
//! A commit does not tell that: a tree may have changes that are in none, and programs may come from elsewhere
//! (`JVPN_BIN_DIR`). The programs' own octets do.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::deployment::{self, Role};
use crate::environment::shown;

/// What of an environment tells one build and one machine from another, beside the programs.
const FIELDS: [&str; 7] = ["version", "build", "commit", "changed", "kernel", "cpu", "cpus"];

/// This program, also where its file has been replaced since it began.
const OWN_FILE: &str = "/proc/self/exe";

/// SHA-256 of this program and of those that it starts, by name. One that is not here, or cannot be read, is left out.
#[must_use]
pub fn programs() -> BTreeMap<String, String> {
    let own = [("jvpn-bench".to_owned(), PathBuf::from(OWN_FILE))];
    let dir = deployment::programs_dir().ok();
    let others = dir
        .iter()
        .flat_map(|dir| Role::ALL.map(Role::program).map(|program| (program.to_owned(), dir.join(program))));
    let hashed = |(name, path): (String, PathBuf)| Some((name, sha256(&path).ok()?));
    own.into_iter().chain(others).filter_map(hashed).collect()
}

/// That the programs are still those of the beginning: figures of two builds in one result are figures of none.
///
/// # Errors
/// One of them was built anew meanwhile.
pub fn still(programs_before: &BTreeMap<String, String>) -> Result<()> {
    let now = programs();
    let mut names = programs_before.keys().chain(now.keys());
    let Some(changed) = names.find(|name| programs_before.get(*name) != now.get(*name)) else {
        return Ok(());
    };
    bail!(
        "{changed} was built anew while this ran, so two builds were measured: do it again, and build nothing"
    )
}

/// What of the environment in a result must be the same for another stretch of it, by name.
#[must_use]
pub fn of(environment: &Value) -> BTreeMap<String, String> {
    let fields = FIELDS.iter().map(|name| ((*name).to_owned(), shown(environment.get(name))));
    let programs = environment.get("programs").and_then(Value::as_object).into_iter().flatten();
    fields.chain(programs.map(|(name, hash)| (format!("program {name}"), shown(Some(hash))))).collect()
}

/// Which file it is, and when it was written: as long as that stays, its octets do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    place: (u64, u64),
    octets: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self {
            place: (file.dev(), file.ino()),
            octets: file.len(),
            written: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

/// What was read already. Programs are large, and are asked for before every part of a suite.
static READ: Mutex<BTreeMap<PathBuf, (Stamp, String)>> = Mutex::new(BTreeMap::new());

fn sha256(path: &Path) -> io::Result<String> {
    let stamp = Stamp::of(&fs::metadata(path)?);
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, hash)) = read.get(path).filter(|(of, _)| *of == stamp) {
        return Ok(hash.clone());
    }
    let mut digest = Sha256::new();
    io::copy(&mut File::open(path)?, &mut digest)?;
    let hash: String = digest.finalize().iter().map(|octet| format!("{octet:02x}")).collect();
    read.insert(path.to_owned(), (stamp, hash.clone()));
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;
    use serde_json::json;

    /// R8.4: another commit, a tree with changes, another kernel, processor or program is another origin; load, ports and
    /// versions of what came up are not.
    #[test]
    fn r8_4_another_machine_or_build_is_another_origin() {
        let here = json!(Environment::collect());
        assert_eq!(of(&here)["program jvpn-bench"].len(), 64, "{here:#}");
        for field in FIELDS {
            let mut other = here.clone();
            other[field] = json!("another");
            assert_ne!(of(&other), of(&here), "{field}");
        }
        let mut other = here.clone();
        other["programs"]["jvpn-dataplane"] = json!("00");
        assert_ne!(of(&other), of(&here));
        let mut other = here.clone();
        (other["load_percent"], other["versions"]["jvpn"]) = (json!(777), json!("9"));
        other["ports"] = json!([{"port": "wan"}]);
        assert_eq!(of(&other), of(&here));
        assert_ne!(of(&json!({})), of(&here), "a result that kept nothing is of no known origin");
    }

    /// R8.4: a program that is built anew is another one, at once.
    #[test]
    fn r8_4_a_program_that_is_built_anew_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        fs::write(&path, "abc").unwrap();
        let first = sha256(&path).unwrap();
        // FIPS 180-4, the first example.
        assert_eq!(first, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(sha256(&path).unwrap(), first);
        // As a linker does it: a new file in the place of the old one.
        fs::write(dir.path().join("next"), "abd").unwrap();
        fs::rename(dir.path().join("next"), &path).unwrap();
        assert_ne!(sha256(&path).unwrap(), first);
        let mut before = programs();
        still(&before).unwrap();
        before.insert("jvpn-bench".to_owned(), first);
        let error = still(&before).unwrap_err().to_string();
        assert!(error.starts_with("jvpn-bench was built anew"), "{error}");
    }
}
