//! Where things are: the root of the tree, its target directory, and the cargo that started us.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    target: PathBuf,
}

impl Tree {
    /// `cargo xtask` says where its manifest lies, wherever in the tree it was typed.
    pub(crate) fn locate() -> Result<Self> {
        let manifest_dir = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let root = manifest_dir.parent().context("xtask's own directory has no parent")?.to_owned();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => env::current_dir().context("the current directory is gone")?.join(dir),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    pub(crate) fn log_dir(&self) -> PathBuf {
        self.target.join("xtask")
    }

    /// Directory of the binaries of a profile.
    pub(crate) fn bin_dir(&self, release: bool) -> PathBuf {
        self.target.join(if release { "release" } else { "debug" })
    }

    /// Names of the programs that cargo makes of the `tests` directories of the workspace's packages: one of each file, and
    /// one of each directory with a `main.rs`.
    pub(crate) fn test_programs(&self) -> Result<BTreeSet<String>> {
        let mut programs = BTreeSet::new();
        for member in self.members()? {
            let dir = self.root.join(member).join("tests");
            let said = || format!("cannot read {}", dir.display());
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(said),
            };
            for entry in entries {
                let path = entry.with_context(said)?.path();
                let is_program = if path.is_dir() {
                    path.join("main.rs").is_file()
                } else {
                    path.extension().is_some_and(|ending| ending == "rs")
                };
                let name = path.file_stem().filter(|_| is_program);
                programs.extend(name.map(|name| name.to_string_lossy().into_owned()));
            }
        }
        Ok(programs)
    }

    /// Directories of the workspace's packages, as its manifest names them.
    fn members(&self) -> Result<Vec<String>> {
        let manifest = self.root.join("Cargo.toml");
        let text =
            fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
        let list = text.split_once("members = [").and_then(|(_, rest)| rest.split_once(']'));
        let (list, _) = list.with_context(|| format!("{} names no members", manifest.display()))?;
        // Every other piece stands between two quotes.
        Ok(list.split('"').skip(1).step_by(2).map(str::to_owned).collect())
    }

    /// The cargo that runs us, at the root of the tree, without what it set for xtask itself: a build that sees other
    /// variables than the developer's own `cargo build` would do the work twice.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root);
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of tests that is not found by its place would never be run with root's rights.
    #[test]
    fn every_test_program_is_found_by_its_place() {
        let tree = Tree::locate().unwrap();
        let programs = tree.test_programs().unwrap();
        for name in ["ns_demo", "ns_resilience", "xdp_programs", "window_pool", "engine", "replay", "worlds"]
        {
            assert!(programs.contains(name), "{name}: {programs:?}");
        }
        assert!(!programs.contains("common"), "a directory of modules is no program");
        let members = tree.members().unwrap();
        assert!(members.iter().any(|member| member == "xtask"), "{members:?}");
        for member in members {
            let manifest = fs::read_to_string(tree.root().join(&member).join("Cargo.toml")).unwrap();
            for word in ["[[test]]", "autotests"] {
                assert!(!manifest.contains(word), "{member}: {word} makes programs of other names or places");
            }
        }
    }
}
