//! The audit logs of the worlds. Each world is a node of its own, and its log is judged by [`crate::check_events`] while it
//! is written, by the policy that the world lives under; on request it goes to a file of its own, the policy beside it.

use super::Seeds;
use crate::check_events::findings::Findings;
use crate::check_events::rules::PolicyNumbers;
use crate::check_events::{Expectations, Judge};
use crate::simulation::Setup;
use anyhow::{Context, Result};
use std::fs::{File, remove_file, write};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Where the logs go.
pub(super) struct EventFiles {
    file: Option<PathBuf>,
    only: bool,
}

/// The log of one world.
pub(super) struct EventFile {
    judge: Judge,
    file: Option<Opened>,
}

struct Opened {
    writer: BufWriter<File>,
    path: PathBuf,
    policy: PathBuf,
}

impl EventFiles {
    pub(super) fn new(file: Option<PathBuf>, seeds: &Seeds) -> Self {
        Self { file, only: seeds.0.start() == seeds.0.end() }
    }

    /// The log of a seed: the file itself if there is only one, or else one whose name ends in the seed.
    pub(super) fn open(&self, seed: u64, setup: &Setup) -> Result<EventFile> {
        let text = policy_text(setup);
        let policy = PolicyNumbers::parse(&text)?;
        let judge =
            Judge::new(&format!("world {seed}"), &Expectations { policy, ..Expectations::default() })?;
        let Some(file) = &self.file else { return Ok(EventFile { judge, file: None }) };
        let path = if self.only { file.clone() } else { numbered(file, seed) };
        let policy = path.with_extension("toml");
        write(&policy, text).with_context(|| cannot_write(&policy))?;
        let writer =
            BufWriter::with_capacity(1 << 20, File::create(&path).with_context(|| cannot_write(&path))?);
        Ok(EventFile { judge, file: Some(Opened { writer, path, policy }) })
    }
}

/// `events.jsonl` becomes `events-7.jsonl`.
fn numbered(file: &Path, seed: u64) -> PathBuf {
    let mut name = file.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{seed}"));
    if let Some(extension) = file.extension() {
        name.push(".");
        name.push(extension);
    }
    file.with_file_name(name)
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// The policy as a gateway's configuration has it: the preset, and what a world may have otherwise.
fn policy_text(setup: &Setup) -> String {
    let preset = setup.churn.map_or("edge", |profile| profile.preset);
    let policy = &setup.policy;
    let secs = |name: &str, value: std::time::Duration| format!("{name} = \"{}s\"\n", value.as_secs());
    format!(
        "[policy]\npreset = \"{preset}\"\n{}{}{}",
        secs("session_ttl", policy.session_ttl),
        secs("transport_loss_ttl", policy.transport_loss_ttl),
        secs("recovery_window", policy.recovery_window)
    )
}

impl EventFile {
    /// Takes the lines.
    pub(super) fn take(&mut self, lines: &mut Vec<String>) -> Result<()> {
        lines.iter().for_each(|line| self.judge.line(line));
        if let Some(Opened { writer, path, .. }) = &mut self.file {
            for line in lines.iter() {
                writeln!(writer, "{line}").with_context(|| cannot_write(path))?;
            }
        }
        lines.clear();
        Ok(())
    }

    /// Everything is written: the verdict.
    pub(super) fn finish(self) -> Result<Findings> {
        if let Some(Opened { mut writer, path, .. }) = self.file {
            writer.flush().with_context(|| cannot_write(&path))?;
        }
        self.judge.finish()
    }

    /// Nobody wants it.
    pub(super) fn discard(self) {
        if let Some(Opened { writer, path, policy }) = self.file {
            drop(writer);
            // What cannot be removed is only in the way.
            let _ = remove_file(path);
            let _ = remove_file(policy);
        }
    }
}
