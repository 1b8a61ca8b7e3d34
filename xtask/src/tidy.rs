//! `tidy`: the house rules that no compiler checks.
//!
//! Each rule is a pure function from text to [`Finding`]s, tested by itself; only [`Sources::read`] touches the disk.
//! The length of functions is clippy's (`too_many_lines`, its number in clippy.toml).

mod code;
mod imports;
mod modules;
mod text;

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::run::done;
use crate::tree::Tree;

/// Something that a rule objects to.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    place: String,
    text: String,
    weight: Weight,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// Asks for a decision; does not fail.
    Warning,
    Failure,
}

impl Finding {
    fn failure(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { place: place.into(), text: text.into(), weight: Weight::Failure }
    }

    fn warning(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { place: place.into(), text: text.into(), weight: Weight::Warning }
    }
}

pub(crate) fn tidy(tree: &Tree) -> Result<()> {
    let start = Instant::now();
    let sources = Sources::read(tree.root())?;
    let findings = check(&sources);
    let mut failures = 0;
    for Finding { place, text, weight } in &findings {
        let mark = match weight {
            Weight::Warning => "warn",
            Weight::Failure => {
                failures += 1;
                "FAIL"
            }
        };
        println!("  {mark}  {place}: {text}");
    }
    if failures > 0 {
        bail!("tidy: {failures} findings");
    }
    done(&format!("tidy, {} files", sources.files.len()), start.elapsed());
    Ok(())
}

fn check(sources: &Sources) -> Vec<Finding> {
    let mut findings = Vec::new();
    let traceability = sources.text_of("docs/TRACEABILITY.md");
    for file in &sources.files {
        findings.extend(text::leaks(&file.path, &file.text));
        if file.path.ends_with("Cargo.toml") {
            findings.extend(imports::check(&file.path, &file.text));
        }
        if !file.path.ends_with(".rs") {
            continue;
        }
        let code = code::without_comments_and_strings(&file.text);
        findings.extend(text::length(&file.path, &file.text));
        findings.extend(text::unfinished(&file.path, &file.text));
        findings.extend(code::unsafe_outside_islands(&file.path, &code));
        findings.extend(code::simulated_keys(&file.path, &code));
        findings.extend(code::ignored_tests(&file.path, &file.text));
        if let Some(traceability) = traceability {
            findings.extend(text::unknown_requirements(&file.path, &file.text, traceability));
        }
    }
    findings.extend(modules::unreached(sources));
    findings
}

/// One text file, its path relative to the root of the tree, with forward slashes.
#[derive(Debug)]
struct Source {
    path: String,
    text: String,
}

/// Every text file of the tree, without what is built or generated.
#[derive(Debug, Default)]
struct Sources {
    files: Vec<Source>,
}

impl Sources {
    fn read(root: &Path) -> Result<Self> {
        let mut sources = Self::default();
        sources.read_dir(root, "")?;
        sources.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(sources)
    }

    fn read_dir(&mut self, dir: &Path, prefix: &str) -> Result<()> {
        let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", dir.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // `.git` is a file in a second work tree.
            if ["target", ".git", "Cargo.lock"].contains(&name.as_str()) {
                continue;
            }
            let path = format!("{prefix}{name}");
            let kind = entry.file_type().with_context(|| format!("cannot look at {path}"))?;
            if kind.is_dir() {
                self.read_dir(&entry.path(), &format!("{path}/"))?;
            } else if kind.is_file() {
                let bytes = fs::read(entry.path()).with_context(|| format!("cannot read {path}"))?;
                // What is not UTF-8 is not text.
                if let Ok(text) = String::from_utf8(bytes) {
                    self.files.push(Source { path, text });
                }
            }
        }
        Ok(())
    }

    fn text_of(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|file| file.path == path).map(|file| file.text.as_str())
    }

    #[cfg(test)]
    fn of(files: &[(&str, &str)]) -> Self {
        let files =
            files.iter().map(|(path, text)| Source { path: (*path).to_owned(), text: (*text).to_owned() });
        Self { files: files.collect() }
    }
}

/// `path:line` of a zero-based line.
fn at(path: &str, line: usize) -> String {
    format!("{path}:{}", line + 1)
}
