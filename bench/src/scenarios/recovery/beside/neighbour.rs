//! Who gets a result put beside its own: a recovery run, a suite or a part of one. What its reader opens has the bars then:
//! the report of the run, and that of the suite around it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::scenarios::recovery;
use crate::scenarios::suite;

/// Directories whose reports are written anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    /// The recovery run.
    pub(super) run: PathBuf,
    /// The suite that it is a part of.
    suite: Option<PathBuf>,
}

impl Neighbour {
    /// Looks what a directory is. Of a suite that is named itself it is the part whose causes and round-trip time are
    /// those of `peers --recovery`.
    ///
    /// # Errors
    /// It is none of them.
    pub(super) fn find(dir: &Path) -> Result<Self> {
        let is_run = |dir: &Path| dir.join("run.json").is_file();
        if is_run(dir) {
            // A relative name may have no parent of its own.
            let dir = dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))?;
            let suite = dir.parent().filter(|parent| suite::is_one(parent)).map(Path::to_owned);
            return Ok(Self { run: dir, suite });
        }
        let part = dir.join(suite::BESIDE_PEERS);
        if suite::is_one(dir) && is_run(&part) {
            return Ok(Self { run: part, suite: Some(dir.to_owned()) });
        }
        bail!(
            "{} has no recovery run to put this beside: there is neither run.json nor a suite with its part {}",
            dir.display(),
            suite::BESIDE_PEERS
        )
    }

    /// Writes the reports anew.
    ///
    /// # Errors
    /// The run cannot be judged, or a file cannot be written.
    pub(super) fn show(&self) -> Result<()> {
        recovery::judge(&self.run).with_context(|| format!("the recovery run in {}", self.run.display()))?;
        let Some(dir) = &self.suite else { return Ok(()) };
        suite::write_pages(dir).with_context(|| format!("the suite in {}", dir.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::super::super::cause::Cause;
    use super::super::super::record::tests::trial;
    use super::super::super::recorded::Recorded;
    use super::super::super::result::{Run, conclude};
    use super::super::super::usage::Sample;
    use super::super::result::tests::report;
    use super::*;
    use crate::result::Environment;
    use crate::run_dir::RunDir;

    /// A recovery run with three trials and nothing else.
    fn lay_down(dir: &Path) -> recovery::Report {
        let options = recovery::Options {
            causes: vec![Cause::LinkDown],
            rtts_ms: vec![50],
            trials: 3,
            seed: 1,
            policy: "preset = \"edge\"\n".to_owned(),
            policy_numbers: crate::check_events::rules::PolicyNumbers::default(),
            profile: jvpn_rig::emulator::Profile::load("plain").unwrap(),
            delays: recovery::Delays::Asked,
            clients: 1,
            resume: false,
            out_dir: dir.to_owned(),
        };
        let mut run = Run::default();
        run.describe(&options, &Environment::collect(), None);
        let sample = |at_s| Sample { at_s, process: "jvpn-dataplane".into(), rss_kib: 9, cpu_percent: 1.0 };
        run.usage = [1.0, 2.0].map(sample).into();
        run.timelines = vec![Recorded {
            cause: Cause::LinkDown,
            rtt_ms: 50,
            incident: 1,
            client: 0,
            outage_ms: 60.0,
            detect_ms: Some(2.0),
            reattach_ms: Some(51.0),
            up: vec![(-1.0, Some(24.0)), (0.0, None), (60.0, Some(85.0))],
            down: vec![(-1.0, Some(24.0)), (0.0, None), (60.0, Some(85.0))],
        }];
        run.save(dir).unwrap();
        let trials: Vec<_> = (1..=3).map(|n| trial(Cause::LinkDown, n, 60.0 + f64::from(n))).collect();
        conclude(dir, &run, &trials, &[]).unwrap()
    }

    /// R8.1, R8.4: the page that a release carries has every plot once the peers' result lies beside its part: outages by
    /// cause, a recovery packet by packet, bars beside peers, memory and processor time.
    #[test]
    fn r8_1_a_suites_page_has_every_plot() {
        let dir = tempfile::tempdir().unwrap();
        let part = dir.path().join(suite::BESIDE_PEERS);
        fs::create_dir(&part).unwrap();
        let found = lay_down(&part);
        let named = |name: &str, causes: serde_json::Value| {
            json!({"name": name, "what": name, "preset": null, "valid": true, "complete": true, "problems": [],
                "causes": causes})
        };
        let whole = json!({"scenario": "suite", "form": 2, "valid": true, "complete": true, "problems": [],
            "broken_off": null, "size": "full", "seed": 1, "clients": 8, "took_s": 1.0,
            "environment": Environment::collect(), "aims": found.aims,
            "parts": [named(suite::BESIDE_PEERS, json!(found.causes)), named("cost", json!([]))]});
        crate::schemas::check(&whole).unwrap();
        fs::write(dir.path().join("result.json"), whole.to_string()).unwrap();
        let page = || {
            suite::write_pages(dir.path()).unwrap();
            fs::read_to_string(dir.path().join("report.html")).unwrap()
        };
        let plots = [
            "<h3>Distribution</h3><svg",
            "packet by packet</h2>",
            "resident memory, MiB",
            "processor, % of a core",
        ];
        let before = page();
        for plot in plots {
            assert!(before.contains(plot), "{plot}: {before}");
        }
        assert!(!before.contains("Beside the peers"));
        let count = |page: &str| page.matches("<svg").count();
        assert_eq!(count(&before), 6, "distribution, quantiles, two directions, memory, processor");
        let mut run = RunDir::begin(&dir.path().join("peers")).unwrap();
        report(&[300.0, 310.0, 320.0], &[400.0, 400.0, 2_000.0]).write(&mut run, Some(&part)).unwrap();
        let after = page();
        assert!(after.contains("Beside the peers") && after.contains("<td>gotatun</td>"), "{after}");
        assert_eq!(count(&after), 7, "and bars for the peers' cause");
        crate::browser::tests::open_and_judge(&after, 7);
        fs::remove_file(part.join("run.json")).unwrap();
        fs::write(part.join("result.json"), "{").unwrap();
        let error = format!("{:#}", suite::write_pages(dir.path()).unwrap_err());
        assert!(error.contains("default-50") && error.contains("no recovery result"), "{error}");
    }

    /// R8.1: a run, a part of a suite and a suite are taken for what they are; anything else is refused.
    #[test]
    fn r8_1_a_run_a_part_and_a_suite_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let part = dir.join(suite::BESIDE_PEERS);
        fs::create_dir(&part).unwrap();
        assert!(Neighbour::find(&dir).unwrap_err().to_string().contains("neither run.json"));
        fs::write(part.join("run.json"), "{}").unwrap();
        let alone = Neighbour { run: part.clone(), suite: None };
        assert_eq!(Neighbour::find(&part).unwrap(), alone);
        assert!(Neighbour::find(&dir).is_err(), "no suite yet");
        fs::write(dir.join("result.json"), "{\"scenario\": \"peers\"}").unwrap();
        assert_eq!(Neighbour::find(&part).unwrap(), alone);
        fs::write(dir.join("result.json"), "{\"scenario\": \"suite\"}").unwrap();
        let whole = Neighbour { suite: Some(dir.clone()), ..alone };
        assert_eq!((Neighbour::find(&part).unwrap(), Neighbour::find(&dir).unwrap()), (whole.clone(), whole));
    }
}
