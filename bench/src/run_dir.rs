//! The directory of a run: room is kept in it for the run's end, and what is written there fits its schema and is whole or
//! not there.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::reserve::{Reserve, is_disk_full};
use crate::result::write_json;
use crate::{page, schemas};

const RESULT: &str = "result.json";
/// A result that does not fit its schema: a fault of the bench, and still what was measured.
const REJECTED: &str = "result.rejected.json";

/// The directory of a run that goes on.
#[derive(Debug)]
pub struct RunDir {
    dir: PathBuf,
    reserve: Option<Reserve>,
}

impl RunDir {
    /// Begins a run: makes the directory if it is not there, keeps room, and takes an older run's result away.
    ///
    /// # Errors
    /// It cannot be made, or has no room.
    pub fn begin(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let reserve = Some(Reserve::take(dir)?);
        for name in [RESULT, REJECTED, "report.html", "summary.md"] {
            match fs::remove_file(dir.join(name)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error)
                        .with_context(|| format!("cannot replace {}", dir.join(name).display()));
                }
                _ => {}
            }
        }
        Ok(Self { reserve, dir: dir.to_owned() })
    }

    /// Gives the room back before the run's end: last words of processes and logs that are kept come before the result,
    /// on the same disk.
    pub fn release(&mut self) {
        self.reserve = None;
    }

    /// Keeps room once more, if it was given back.
    ///
    /// # Errors
    /// There is none any more.
    pub fn keep_room(&mut self) -> Result<()> {
        if self.reserve.is_none() {
            self.reserve = Some(Reserve::take(&self.dir)?);
        }
        Ok(())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Writes `result.json` alone, in the room that was kept.
    ///
    /// # Errors
    /// It does not fit its schema, and is kept under another name; or cannot be written.
    pub fn write(&mut self, result: &impl Serialize) -> Result<()> {
        self.reserve = None;
        let result = serde_json::to_value(result).context("a result is no JSON")?;
        if let Err(error) = schemas::check(&result) {
            let kept = self.dir.join(REJECTED);
            write_json(&kept, &result).map_err(explain)?;
            return Err(error.context(format!("what was measured is in {}", kept.display())));
        }
        write_json(&self.dir.join(RESULT), &result).map_err(explain)
    }

    /// Writes `result.json`, `report.html` and `summary.md`, in the room that was kept.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn publish(&mut self, title: &str, result: &impl Serialize) -> Result<()> {
        self.write(result)?;
        page::pages(&self.dir, title, result).map_err(explain)
    }

    /// Publishes what was measured, whole or in part; then gives what ended the run, if something did.
    ///
    /// # Errors
    /// `measured`, with a word about what is kept; or as [`Self::publish`].
    pub fn conclude<T>(&mut self, title: &str, result: &impl Serialize, measured: Result<T>) -> Result<T> {
        let published = self.publish(title, result);
        self.after(measured, published)
    }

    /// What ended a run first explains the rest.
    ///
    /// # Errors
    /// `measured`, with a word about what is kept; then `published`.
    pub fn after<T>(&self, measured: Result<T>, published: Result<()>) -> Result<T> {
        match (measured, published) {
            (Ok(measured), published) => published.map(|()| measured),
            (Err(error), Ok(())) => {
                let kept = format!("what was measured until then is in {}/result.json", self.dir.display());
                Err(explain(error).context(kept))
            }
            (Err(error), Err(second)) => {
                Err(explain(error).context(format!("nothing could be kept of it: {second:#}")))
            }
        }
    }
}

fn explain(error: anyhow::Error) -> anyhow::Error {
    if is_disk_full(&error) {
        return error.context("the disk is full: make room, or choose another --out, and run it again");
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Ending, Environment};
    use anyhow::anyhow;
    use serde_json::{Value, json};

    fn result(measured: &Result<()>) -> Value {
        let ending = serde_json::to_value(Ending::of(measured)).unwrap();
        let mut result = json!({
            "scenario": "timing", "valid": true, "failures": [], "calls": 1, "seed": 1, "threshold": 4.5,
            "environment": Environment::collect(), "comparisons": [],
        });
        result.as_object_mut().unwrap().extend(ending.as_object().unwrap().clone());
        result
    }

    /// R8.4: a run that ends early keeps what it has, marked, and gives the room back; the error says where it is.
    #[test]
    fn r8_4_a_part_is_kept_and_marked() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = RunDir::begin(&dir.path().join("new")).unwrap();
        assert!(run.path().join("reserve").exists());
        let measured: Result<()> = Err(anyhow!("interrupted").context("round 3"));
        let error = run.conclude("x", &result(&measured), measured).unwrap_err();
        let said = format!("{error:#}");
        assert!(said.contains("new/result.json") && said.contains("round 3: interrupted"), "{said}");
        let read = |name: &str| fs::read_to_string(run.path().join(name)).unwrap();
        let found: Value = serde_json::from_str(&read("result.json")).unwrap();
        assert_eq!(
            (&found["complete"], &found["broken_off"]),
            (&json!(false), &json!("round 3: interrupted"))
        );
        assert!(read("report.html").contains("A part of what was asked for: round 3: interrupted"));
        assert!(read("summary.md").contains("A part of what was asked for: round 3: interrupted"));
        assert!(!run.path().join("reserve").exists());
        run.conclude("x", &result(&Ok(())), Ok(())).unwrap();
        assert!(!fs::read_to_string(run.path().join("report.html")).unwrap().contains("A part"));
    }

    /// R8.4: room is given back for logs and taken again for what comes behind them, and never twice; who asks for it
    /// where there is none any more is told that the disk is full.
    #[test]
    fn r8_4_room_is_given_back_for_logs_and_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = dir.path().join("reserve");
        let mut run = RunDir::begin(dir.path()).unwrap();
        run.keep_room().unwrap();
        assert!(reserve.exists(), "the first one does not go with the second");
        run.release();
        assert!(!reserve.exists());
        run.keep_room().unwrap();
        assert!(reserve.exists());
        run.release();
        std::os::unix::fs::symlink("/dev/full", &reserve).unwrap();
        let error = run.keep_room().unwrap_err();
        assert!(is_disk_full(&error) && error.to_string().contains("has no 16 MiB"), "{error:#}");
        assert!(!reserve.is_symlink(), "half of it is given back, too");
    }

    /// R8.4: what does not fit its schema is kept under another name; the next run takes everything of this one away.
    #[test]
    fn r8_4_what_does_not_fit_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = RunDir::begin(dir.path()).unwrap();
        run.write(&result(&Ok(()))).unwrap();
        let before = fs::read(dir.path().join("result.json")).unwrap();
        let mut odd = result(&Ok(()));
        odd["threshold"] = json!("high");
        let error = format!("{:#}", run.publish("x", &odd).unwrap_err());
        for part in ["does not fit its schema", "threshold", "result.rejected.json"] {
            assert!(error.contains(part), "{part} in {error}");
        }
        let rejected = fs::read(dir.path().join("result.rejected.json")).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&rejected).unwrap()["threshold"], "high");
        assert_eq!(fs::read(dir.path().join("result.json")).unwrap(), before);
        assert!(!dir.path().join("report.html").exists());
        drop(run);
        let _next = RunDir::begin(dir.path()).unwrap();
        for name in ["result.json", "result.rejected.json"] {
            assert!(!dir.path().join(name).exists(), "{name}");
        }
    }
}
