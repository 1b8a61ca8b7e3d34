//! What a gateway of ours leaves of a run: the policy that it had, and its audit log, kept as `events.jsonl` and judged.
//!
//! Every verb that runs our gateway comes here, so that a broken rule makes each of them INVALID. A verb may run several
//! gateways, one after the other: each is a node of its own, whose log is kept behind that of the one before and judged by
//! itself.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write, copy};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::check_events::findings::Findings;
use crate::check_events::rules::PolicyNumbers;
use crate::check_events::{Expectations, check_behind};
use crate::deployment::{Places, Role};

/// What happened in a run, one JSON object a line, in its directory.
pub const EVENTS: &str = "events.jsonl";
/// Broken rules that are named in a result; `check-events` names them all.
const NAMED_MAX: usize = 20;

/// Whether figures prove anything, as fields of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verdict {
    /// `None`: no gateway of ours ran, so nothing was there to judge. `false`: INVALID.
    pub valid: Option<bool>,
    /// Why it is INVALID.
    pub problems: Vec<String>,
}

impl Verdict {
    /// What one gateway left: its findings, or why there are none.
    #[must_use]
    pub fn of(judged: &Result<Findings>) -> Self {
        let mut verdict = Self::default();
        verdict.add(judged);
        verdict
    }

    /// One more gateway.
    pub fn add(&mut self, judged: &Result<Findings>) {
        match judged {
            Ok(findings) if findings.good => {}
            Ok(findings) => {
                let total = findings.violations_total;
                self.problems.push(format!("the audit log breaks {total} rules"));
                let named = findings.violations.iter().take(NAMED_MAX);
                self.problems.extend(named.map(|violation| format!("audit: {violation}")));
            }
            Err(error) => self.problems.push(format!("the audit log was not judged: {error:#}")),
        }
        self.valid = Some(self.problems.is_empty());
    }

    /// Fails what is INVALID.
    ///
    /// # Errors
    /// It is; with every reason.
    pub fn or_fail(&self) -> Result<()> {
        if self.valid == Some(false) {
            bail!("INVALID: {}", self.problems.join("; "));
        }
        Ok(())
    }
}

/// Forgets what an earlier run has left in this directory.
///
/// # Errors
/// It cannot be removed.
pub fn begin(dir: &Path) -> Result<()> {
    let path = dir.join(EVENTS);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Keeps the audit log of a gateway behind what is kept already; gives how many lines that is.
///
/// # Errors
/// The gateway has written none, or it cannot be kept.
pub fn keep(places: &Places, dir: &Path) -> Result<u64> {
    let (from, to) = (places.audit_file(), dir.join(EVENTS));
    let kept = (|| -> std::io::Result<u64> {
        let mut log = File::open(&from)?;
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&to)?;
        let mut lines = 0;
        let mut is_open = false;
        let mut reader = BufReader::new(&file);
        loop {
            let octets = reader.fill_buf()?;
            let Some(last) = octets.last() else { break };
            lines += octets.iter().filter(|octet| **octet == b'\n').count() as u64;
            is_open = *last != b'\n';
            let len = octets.len();
            reader.consume(len);
        }
        if is_open {
            // A crash has cut the last line off.
            file.write_all(b"\n")?;
            lines += 1;
        }
        copy(&mut log, &mut file)?;
        Ok(lines)
    })();
    kept.with_context(|| format!("cannot keep {} in {}", from.display(), to.display()))
}

/// Keeps the audit log of a gateway that has ended, and judges it by the policy that the gateway had.
///
/// # Errors
/// It cannot be kept or read, or there is not a single event.
pub fn keep_and_judge(places: &Places, dir: &Path) -> Result<Findings> {
    let before = keep(places, dir)?;
    check_behind(&dir.join(EVENTS), before, &expectations(places)?)
}

/// Whether a gateway has written a line of its audit log. One that was ended while it started may not have: it had no
/// session, and has nothing to account for.
#[must_use]
pub fn has_a_line(places: &Places) -> bool {
    fs::read(places.audit_file()).is_ok_and(|log| log.contains(&b'\n'))
}

/// How the log of this gateway is to be judged.
///
/// # Errors
/// Its configuration cannot be read.
pub fn expectations(places: &Places) -> Result<Expectations> {
    let policy = PolicyNumbers::load(&places.config_dir.join(Role::ControlPlane.config_file()))?;
    Ok(Expectations { policy, ..Expectations::default() })
}

/// The lines of the `[policy]` table that the gateway is configured with.
///
/// # Errors
/// Its configuration cannot be read, or has none.
pub fn policy(places: &Places) -> Result<String> {
    let path = places.config_dir.join(Role::ControlPlane.config_file());
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let table = text.split_once("[policy]\n").map(|(_, rest)| rest);
    let table = table.with_context(|| format!("{} has no [policy]", path.display()))?;
    let lines = table.lines().take_while(|line| !line.starts_with('[')).filter(|line| !line.is_empty());
    Ok(lines.map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTED: &str = "{\"ts_ms\":1,\"node_id\":\"n\",\"event_type\":\"NODE_STARTED\",\"session_id\":null,\
                           \"state_version\":null,\"reason_code\":null}\n";

    /// The places of a gateway that has written this log.
    fn node(log: &str) -> (tempfile::TempDir, Places) {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::under(dir.path());
        fs::create_dir_all(&places.config_dir).unwrap();
        fs::create_dir_all(places.audit_file().parent().unwrap()).unwrap();
        fs::write(places.audit_file(), log).unwrap();
        let config = "node_id = \"n\"\n\n[policy]\npreset = \"edge\"\n\n[tunnel]\nmtu = 1280\n";
        fs::write(places.config_dir.join(Role::ControlPlane.config_file()), config).unwrap();
        (dir, places)
    }

    /// R8.4: logs of several gateways stand in one file, each is judged by itself, and a broken rule in any makes the run
    /// INVALID with its place.
    #[test]
    fn r8_4_a_broken_rule_of_any_gateway_is_invalid() {
        let out = tempfile::tempdir().unwrap();
        fs::write(out.path().join(EVENTS), "of an earlier run\n").unwrap();
        begin(out.path()).unwrap();
        begin(out.path()).unwrap();
        let mut verdict = Verdict::default();
        assert!(verdict.valid.is_none() && verdict.or_fail().is_ok(), "no gateway is not INVALID");
        let (_node, places) = node(STARTED);
        assert_eq!(policy(&places).unwrap(), "preset = \"edge\"\n");
        verdict.add(&keep_and_judge(&places, out.path()));
        assert_eq!((verdict.valid, verdict.problems.as_slice()), (Some(true), [].as_slice()));
        // What a crash cut off stays a line of its own.
        let (_cut, cut) = node(&format!("{STARTED}{{\"ts_ms\":"));
        verdict.add(&keep_and_judge(&cut, out.path()));
        assert_eq!(verdict.valid, Some(true), "{verdict:?}");
        let (_broken, broken) = node(&format!("{STARTED}nonsense\n"));
        verdict.add(&keep_and_judge(&broken, out.path()));
        assert_eq!(verdict.valid, Some(false));
        let said = verdict.or_fail().unwrap_err().to_string();
        assert!(said.starts_with("INVALID: the audit log breaks 1 rules; audit: "), "{said}");
        assert!(said.contains("events.jsonl:5: session -: json"), "{said}");
        let text = fs::read_to_string(out.path().join(EVENTS)).unwrap();
        assert_eq!(text, format!("{STARTED}{STARTED}{{\"ts_ms\":\n{STARTED}nonsense\n"));
        verdict.add(&keep_and_judge(&places, out.path()));
        assert_eq!(verdict.valid, Some(false), "a good one mends nothing");
    }

    /// R8.4: a log that is not there or has no event proves nothing either.
    #[test]
    fn r8_4_a_log_that_cannot_be_judged_is_invalid() {
        let out = tempfile::tempdir().unwrap();
        let (_empty, empty) = node("");
        let (_gone, gone) = node(STARTED);
        fs::remove_file(gone.audit_file()).unwrap();
        for places in [empty, gone] {
            let verdict = Verdict::of(&keep_and_judge(&places, out.path()));
            assert!(verdict.valid == Some(false) && verdict.problems.len() == 1, "{verdict:?}");
            assert!(verdict.problems[0].contains("was not judged"), "{verdict:?}");
        }
    }
}
