//! One trial as it stands in `trials.jsonl` and `events.jsonl`, and the file that keeps them over interruptions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::cause::Cause;
use super::compare::text_difference;
use super::delays::Delays;
use super::result::trial_problem;
use crate::reserve::{Reserve, is_disk_full};

/// What one client lived through.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Trial {
    /// What happened.
    pub(super) cause: Cause,
    /// The life of the gateway that it belongs to.
    #[serde(default)]
    pub(super) segment: u32,
    /// Emulated round-trip time, ms.
    pub(super) rtt_ms: u64,
    /// Trials with the same number were struck by one incident.
    pub(super) incident: u32,
    /// Which client.
    pub(super) client: u8,
    /// When it happened, Unix ms.
    pub(super) at_ms: u64,
    /// Its session.
    pub(super) session_id: String,
    /// Whether traffic flowed both ways again in time.
    pub(super) recovered: bool,
    /// From the incident to the client's decision to leave the path.
    pub(super) detect_ms: Option<f64>,
    /// From that decision to the first frame over the new binding.
    pub(super) reattach_ms: Option<f64>,
    /// What the client took it for.
    pub(super) noticed_as: Option<String>,
    /// Requests that it made.
    pub(super) attempts: Option<u64>,
    /// Confirmed switches.
    pub(super) switches: u32,
    /// Longest time without a probe at the LAN.
    pub(super) outage_up_ms: f64,
    /// Longest time without a probe at the client.
    pub(super) outage_down_ms: f64,
    /// The longer of the two.
    pub(super) outage_ms: f64,
    /// Probes to the LAN that never came: at 1 kHz a millisecond of goodput each.
    pub(super) lost_up: u64,
    /// Probes to the client that never came.
    pub(super) lost_down: u64,
    /// Longest time without an octet of the TCP stream.
    pub(super) tcp_stall_ms: f64,
    /// Whether the TCP stream went on and delivered everything.
    pub(super) tcp_survived: bool,
    /// Whether its session is the same afterwards.
    pub(super) session_kept: bool,
    /// Genuine datagrams of the old binding that the emulator held back and released after the switch.
    pub(super) held_released: u64,
    /// Probes of an old binding that came out at the LAN after its unbind: there must be none.
    pub(super) stale_forwarded: u64,
    /// Longest time in which the bench itself sent nothing: what of an outage is the machine's fault.
    pub(super) bench_pause_ms: f64,
}

/// What a journal belongs to: going on with another question would mix two answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Question {
    /// Layout of the journal.
    pub(super) form: u32,
    /// Build and machine, by name ([`crate::origin`]): trials of two of them have no common p99. Empty in journals that
    /// did not keep it.
    #[serde(default)]
    pub(super) origin: BTreeMap<String, String>,
    /// Policy, as text.
    pub(super) policy: String,
    /// Name of the profile.
    pub(super) profile: String,
    /// All of the profile, as it was written: another file may have the same name. Empty in journals that did not keep it.
    #[serde(default)]
    pub(super) profile_text: String,
    /// Whose delays the paths have.
    #[serde(default)]
    pub(super) delays: Delays,
    /// Clients at once.
    pub(super) clients: u8,
    /// Determines all chance of the bench.
    pub(super) seed: u64,
}

impl Question {
    /// What another question has otherwise, for a person.
    fn differences(&self, other: &Self) -> String {
        let all = |one: &Self| -> BTreeMap<String, String> {
            let asked = [
                ("layout", one.form.to_string()),
                ("policy", one.policy.clone()),
                ("profile", one.profile.clone()),
                ("content of the profile", one.profile_text.clone()),
                ("delays", one.delays.name().to_owned()),
                ("clients", one.clients.to_string()),
                ("seed", one.seed.to_string()),
            ];
            asked.map(|(name, text)| (name.to_owned(), text)).into_iter().chain(one.origin.clone()).collect()
        };
        let (one, other) = (all(self), all(other));
        let text = |of: &BTreeMap<String, String>, name: &String| of.get(name).cloned().unwrap_or_default();
        let names: BTreeSet<_> = one.keys().chain(other.keys()).collect();
        let said = names.into_iter().filter_map(|name| {
            let (one, other) = (text(&one, name), text(&other, name));
            (one != other).then(|| format!("{name}: {}", text_difference(&one, &other)))
        });
        said.collect::<Vec<_>>().join("; ")
    }
}

/// Whether a directory has a journal with a trial: a run that failed before its first leaves nothing to go on with.
///
/// # Errors
/// There is something that cannot be read.
pub(crate) fn has_trials(dir: &Path) -> Result<bool> {
    let path = dir.join("trials.jsonl");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.contains("{\"trial\":")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Question(Question),
    /// A life of the gateway begins: its audit is in `audit-<n>.jsonl`.
    Segment(u32),
    Trial(Box<Trial>),
    /// Something was wrong that is no trial's.
    Problem(String),
}

/// What a journal says of a run, and of earlier ones that it goes on with.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// Trials that count.
    pub(super) trials: Vec<Trial>,
    /// Trials of lives of the gateway that left no audit log: they prove nothing, but what is against us stays.
    unjudged: Vec<Trial>,
    /// What was wrong and is no trial's.
    problems: Vec<String>,
    /// Lives of the gateway.
    pub(super) segments: u32,
    /// Octets of whole lines in the file, when it was read.
    whole: u64,
}

impl Entries {
    /// Trials of lives that left no audit log do not count, but what they say against us does.
    pub(super) fn keep_only(&mut self, judged: &[u32]) {
        let is_judged = |trial: &Trial| judged.contains(&trial.segment);
        let (kept, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.trials).into_iter().partition(is_judged);
        self.trials = kept;
        self.unjudged.extend(others);
    }

    /// What is against the run beside the trials that count.
    pub(super) fn against(&self) -> Vec<String> {
        let of_trial =
            |trial: &Trial| Some(format!("{}; that life left no audit log", trial_problem(trial)?));
        self.problems.iter().cloned().chain(self.unjudged.iter().filter_map(of_trial)).collect()
    }
}

/// The journal of a run.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    pub(super) entries: Entries,
    /// Room for the end of the run, given back when the disk is full.
    reserve: Option<Reserve>,
}

impl Journal {
    /// Begins a journal, or goes on with the one that is there. Of that only trials count whose life of the gateway is among
    /// `judged`: the others ended without an audit log, killed or out of room, and prove nothing. What is against the run
    /// counts in any case.
    ///
    /// # Errors
    /// There is one and `resume` is not asked for; or it belongs to another question; or it cannot be written.
    pub(super) fn open(dir: &Path, question: &Question, resume: bool, judged: &[u32]) -> Result<Self> {
        let path = dir.join("trials.jsonl");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let has_trials = has_trials(dir)?;
        ensure!(
            !has_trials || resume,
            "{} has trials of an earlier run: go on with --resume, or choose another --out",
            dir.display()
        );
        let exists = has_trials || resume && text.contains("{\"problem\":");
        let mut entries = if exists { load(&path, question)? } else { Entries::default() };
        let whole = entries.whole;
        entries.keep_only(judged);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let mut file = file.with_context(|| format!("cannot write {}", path.display()))?;
        // A line that was cut off goes.
        file.set_len(whole).with_context(|| format!("cannot write {}", path.display()))?;
        io::Seek::seek(&mut file, io::SeekFrom::End(0)).context("cannot find the end of the journal")?;
        let mut journal = Self { file, path, entries, reserve: None };
        if !exists || whole == 0 {
            journal.write(&Line::Question(question.clone()))?;
        }
        Ok(journal)
    }

    /// What the journal says that is there, for whoever does not go on with it: the file stays as it is, and a line
    /// that is being written in this moment is passed over. Nothing if there is none.
    ///
    /// # Errors
    /// It belongs to another question, or cannot be read.
    pub(super) fn read(dir: &Path, question: &Question, judged: &[u32]) -> Result<Entries> {
        let path = dir.join("trials.jsonl");
        let mut entries = if path.exists() { load(&path, question)? } else { Entries::default() };
        entries.keep_only(judged);
        Ok(entries)
    }

    /// Keeps room for what a run writes at its end, until [`Self::release`]. Once: what is kept stays.
    ///
    /// # Errors
    /// There is none: better now than after an hour.
    pub(super) fn reserve(&mut self, dir: &Path) -> Result<()> {
        if self.reserve.is_none() {
            let taken = Reserve::take(dir);
            self.reserve = Some(taken.map_err(|error| explain(error, self.entries.trials.len()))?);
        }
        Ok(())
    }

    /// Gives the room back.
    pub(super) fn release(&mut self) {
        self.reserve = None;
    }

    /// Keeps something that was wrong and is no trial's: in one line, and at once, so that it is there whatever comes.
    ///
    /// # Errors
    /// It cannot be written. Of this run it counts even so.
    pub(super) fn note(&mut self, text: &str) -> Result<()> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let text = lines.collect::<Vec<_>>().join(" | ");
        let line = Line::Problem(text.clone());
        self.entries.problems.push(text);
        // A disk that is full has given the reserve back by then.
        self.write(&line).or_else(|_| self.write(&line))
    }

    /// A life of the gateway begins; gives its number.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn segment(&mut self) -> Result<u32> {
        self.entries.segments += 1;
        self.write(&Line::Segment(self.entries.segments))?;
        Ok(self.entries.segments)
    }

    /// Keeps a trial.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn add(&mut self, mut trial: Trial) -> Result<()> {
        trial.segment = self.entries.segments;
        self.write(&Line::Trial(Box::new(trial.clone())))?;
        self.entries.trials.push(trial);
        Ok(())
    }

    fn write(&mut self, line: &Line) -> Result<()> {
        let mut octets = serde_json::to_vec(line).context("a trial is no JSON")?;
        octets.push(b'\n');
        let kept = self.entries.trials.len();
        let end = io::Seek::stream_position(&mut self.file).unwrap_or_default();
        self.file.write_all(&octets).map_err(|error| {
            // What came of a line goes; logs, result and report of the part take the room that was kept for them.
            // The next line begins where this one did: behind it would be a hole.
            let _cut = self.file.set_len(end);
            let _back = io::Seek::seek(&mut self.file, io::SeekFrom::Start(end));
            self.reserve = None;
            explain(anyhow::Error::new(error).context(format!("cannot write {}", self.path.display())), kept)
        })
    }
}

fn explain(error: anyhow::Error, kept: usize) -> anyhow::Error {
    if is_disk_full(&error) {
        return error.context(format!(
            "the disk is full; {kept} trials are kept: make room, then go on with --resume"
        ));
    }
    error
}

fn load(path: &Path, question: &Question) -> Result<Entries> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut reader = BufReader::new(file);
    let mut loaded = Entries::default();
    let mut text = String::new();
    for number in 1.. {
        text.clear();
        let len = reader.read_line(&mut text).with_context(|| format!("cannot read {}", path.display()))?;
        if len == 0 || !text.ends_with('\n') {
            break;
        }
        let line = serde_json::from_str(&text)
            .with_context(|| format!("{}:{number} is no line of a journal", path.display()))?;
        match line {
            Line::Question(asked) if asked == *question => {}
            Line::Question(asked) => {
                bail!(
                    "{} belongs to another run, there and here differ; {}",
                    path.display(),
                    asked.differences(question)
                )
            }
            Line::Segment(segment) => loaded.segments = segment,
            Line::Trial(trial) => loaded.trials.push(Trial { segment: loaded.segments, ..*trial }),
            Line::Problem(text) => loaded.problems.push(text),
        }
        loaded.whole += len as u64;
    }
    Ok(loaded)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn trial(cause: Cause, incident: u32, outage_ms: f64) -> Trial {
        Trial {
            cause,
            segment: 1,
            rtt_ms: 50,
            incident,
            client: 0,
            at_ms: 1,
            session_id: "s".into(),
            recovered: true,
            detect_ms: Some(outage_ms / 2.0),
            reattach_ms: Some(1.0),
            noticed_as: Some("path_dead".into()),
            attempts: Some(1),
            switches: 1,
            outage_up_ms: outage_ms,
            outage_down_ms: 1.0,
            outage_ms,
            lost_up: 3,
            lost_down: 0,
            tcp_stall_ms: 2.0,
            tcp_survived: true,
            session_kept: true,
            held_released: 0,
            stale_forwarded: 0,
            bench_pause_ms: 1.0,
        }
    }

    fn origin<const N: usize>(differs: [(&str, &str); N]) -> BTreeMap<String, String> {
        let here = [("build", "debug"), ("changed", "true"), ("commit", "abc"), ("cpu", "x"), ("cpus", "2")];
        let more = [("kernel", "6.18"), ("program jvpn-dataplane", "0f"), ("version", "1")];
        let all = here.into_iter().chain(more).chain(differs);
        all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    pub(in super::super) fn question() -> Question {
        Question {
            form: 1,
            origin: origin([]),
            policy: String::new(),
            profile: "plain".into(),
            profile_text: "name = \"plain\"\n".into(),
            delays: Delays::Asked,
            clients: 4,
            seed: 1,
        }
    }

    /// R8.4: a run does not go on with another profile of the same name, nor with other delays.
    #[test]
    fn r8_4_another_profile_of_the_same_name_is_another_run() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path(), &question(), false, &[]).unwrap();
        journal.segment().unwrap();
        journal.add(trial(Cause::LinkDown, 1, 5.0)).unwrap();
        drop(journal);
        let refused =
            |other: Question| Journal::open(dir.path(), &other, true, &[1]).unwrap_err().to_string();
        let text = "name = \"plain\"\n[up]\nloss_percent = 1\n".to_owned();
        let error = refused(Question { profile_text: text, ..question() });
        assert!(error.contains("content of the profile") && error.contains("loss_percent = 1"), "{error}");
        assert!(!error.contains("seed"), "{error}");
        let error = refused(Question { delays: Delays::Profile, ..question() });
        assert!(error.contains("delays: \"asked\", then \"profile\""), "{error}");
        let error = refused(Question { seed: 2, ..question() });
        assert!(error.contains("another run") && error.contains("seed: \"1\", then \"2\""), "{error}");
        // Of a journal that did not keep them nobody knows.
        let line = r#"{"question":{"form":1,"version":"v","build":"debug","policy":"","profile":"plain","clients":4,"seed":1}}"#;
        let Line::Question(old) = serde_json::from_str(line).unwrap() else { panic!("no question") };
        let said = old.differences(&question());
        assert!(
            said.contains("content of the profile: not kept") && said.contains("kernel: not kept"),
            "{said}"
        );
    }

    /// R8.4: a run does not go on with other programs, even of the same commit, nor on another machine: its p99 would be
    /// that of two.
    #[test]
    fn r8_4_another_build_or_machine_does_not_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path(), &question(), false, &[]).unwrap();
        journal.segment().unwrap();
        journal.add(trial(Cause::LinkDown, 1, 5.0)).unwrap();
        drop(journal);
        let others = [
            ("program jvpn-dataplane", "1f"),
            ("changed", "false"),
            ("commit", "def"),
            ("kernel", "6.19"),
            ("cpu", "y"),
            ("cpus", "4"),
        ];
        for (name, value) in others {
            let other = Question { origin: origin([(name, value)]), ..question() };
            let opened = Journal::open(dir.path(), &other, true, &[1]).map(drop);
            let error = opened.unwrap_err().to_string();
            let word = format!("{name}: \"{}\", then \"{value}\"", question().origin[name]);
            assert!(error.contains("another run") && error.ends_with(&word), "{error}");
            assert!(Journal::read(dir.path(), &other, &[1]).is_err());
        }
        let journal = Journal::open(dir.path(), &question(), true, &[1]).unwrap();
        assert_eq!(journal.entries.trials.len(), 1, "nothing is lost for whoever has the same");
    }

    /// R8.4: an interrupted run keeps its trials, and goes on only with the same question.
    #[test]
    fn r8_4_a_journal_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path(), &question(), false, &[]).unwrap();
        assert_eq!(journal.segment().unwrap(), 1);
        journal.add(trial(Cause::LinkDown, 1, 5.0)).unwrap();
        drop(journal);
        let path = dir.path().join("trials.jsonl");
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"trial\":{\"cause\":").unwrap();
        let again = Journal::open(dir.path(), &question(), false, &[]).unwrap_err().to_string();
        assert!(again.contains("--resume"), "{again}");
        let other = Question { seed: 2, ..question() };
        let error = Journal::open(dir.path(), &other, true, &[1]).unwrap_err().to_string();
        assert!(error.contains("another run"), "{error}");
        let mut journal = Journal::open(dir.path(), &question(), true, &[1]).unwrap();
        assert_eq!((journal.entries.trials.len(), journal.entries.segments), (1, 1));
        journal.add(trial(Cause::LinkDown, 2, 6.0)).unwrap();
        let journal = Journal::open(dir.path(), &question(), true, &[1]).unwrap();
        assert_eq!(journal.entries.trials.len(), 2, "the line that was cut off is gone");
        let journal = Journal::open(dir.path(), &question(), true, &[2]).unwrap();
        assert_eq!(journal.entries.trials.len(), 0, "a life without an audit log proves nothing");
        assert_eq!(journal.entries.segments, 1, "its number is not given again");
    }

    /// R8.1, R8.4: what is against a run stays in it, whatever became of its life of the gateway, and whoever goes on.
    #[test]
    fn r8_4_a_journal_keeps_what_is_against_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let open = |resume, judged: &[u32]| Journal::open(dir.path(), &question(), resume, judged).unwrap();
        let mut journal = open(false, &[]);
        journal.segment().unwrap();
        journal.add(trial(Cause::LinkDown, 1, 5.0)).unwrap();
        journal.add(Trial { stale_forwarded: 3, ..trial(Cause::LinkDown, 2, 5.0) }).unwrap();
        journal.add(Trial { recovered: false, ..trial(Cause::LinkDown, 3, 5.0) }).unwrap();
        assert_eq!(journal.entries.against(), Vec::<String>::new(), "trials that count speak for themselves");
        journal.note("the data plane crashed; its last words:\n    one\n\n    two\n").unwrap();
        // Its end failed: no audit log.
        journal.entries.keep_only(&[]);
        let said = journal.entries.against();
        let [noted, stale, lost] = said.as_slice() else { panic!("{said:?}") };
        assert_eq!(noted, "the data plane crashed; its last words: | one | two");
        assert!(stale.contains("incident 2") && stale.contains("3 frames of an old binding"), "{stale}");
        assert!(lost.contains("incident 3") && lost.ends_with("left no audit log"), "{lost}");
        drop(journal);
        let mut journal = open(true, &[]);
        assert_eq!((journal.entries.against(), journal.entries.trials.len()), (said, 0));
        assert_eq!(journal.segment().unwrap(), 2);
        drop(journal);
        assert_eq!(
            open(true, &[1]).entries.against(),
            ["the data plane crashed; its last words: | one | two"]
        );
        // A run that ended before its first trial: going on keeps it, beginning anew does not.
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path(), &question(), false, &[]).unwrap();
        journal.note("the gateway did not start").unwrap();
        let again = |resume| Journal::open(dir.path(), &question(), resume, &[]).unwrap().entries.against();
        assert_eq!(again(true), ["the gateway did not start"]);
        assert_eq!(again(false), Vec::<String>::new());
    }

    /// R8.4: whoever only judges leaves the journal as it is: a run may be at work there, in the middle of a line.
    #[test]
    fn r8_4_whoever_judges_only_reads_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path(), &question(), false, &[]).unwrap();
        journal.segment().unwrap();
        journal.add(trial(Cause::LinkDown, 1, 5.0)).unwrap();
        journal.segment().unwrap();
        journal.add(Trial { recovered: false, ..trial(Cause::LinkDown, 2, 5.0) }).unwrap();
        journal.file.write_all(b"{\"trial\":{\"cause\":").unwrap();
        let path = dir.path().join("trials.jsonl");
        let before = fs::read(&path).unwrap();
        let entries = Journal::read(dir.path(), &question(), &[1]).unwrap();
        assert_eq!((entries.trials.len(), entries.segments), (1, 2));
        assert!(entries.against()[0].contains("incident 2"), "{:?}", entries.against());
        assert_eq!(fs::read(&path).unwrap(), before);
        let nothing = tempfile::tempdir().unwrap();
        assert!(Journal::read(nothing.path(), &question(), &[1]).unwrap().trials.is_empty());
        assert_eq!(fs::read_dir(nothing.path()).unwrap().count(), 0, "nor is one made");
    }

    /// R8.4: the room for the end is given back for the logs of a life and taken again for the next one; where there is
    /// none any more the run ends as by any full disk.
    #[test]
    fn r8_4_each_life_begins_with_room_for_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path(), &question(), false, &[]).unwrap();
        let reserve = dir.path().join("reserve");
        for _life in 0..2 {
            journal.reserve(dir.path()).unwrap();
            journal.reserve(dir.path()).unwrap();
            assert!(reserve.exists(), "the first one does not go with the second");
            journal.release();
            assert!(!reserve.exists());
        }
        std::os::unix::fs::symlink("/dev/full", &reserve).unwrap();
        let error = journal.reserve(dir.path()).unwrap_err();
        let said = format!("{error:#}");
        assert!(is_disk_full(&error) && said.contains("disk is full") && said.contains("--resume"), "{said}");
    }

    #[test]
    fn r8_4_a_full_disk_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path(), &question(), false, &[]).unwrap();
        journal.reserve(dir.path()).unwrap();
        let reserve = dir.path().join("reserve");
        assert!(reserve.exists());
        journal.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = format!("{:#}", journal.add(trial(Cause::LinkDown, 1, 5.0)).unwrap_err());
        assert!(error.contains("disk is full") && error.contains("--resume"), "{error}");
        assert!(journal.entries.trials.is_empty(), "what is not written is not kept");
        assert!(!reserve.exists(), "there is room for the end");
        assert!(journal.note("a crash").is_err());
        assert_eq!(journal.entries.against(), ["a crash"], "of this run it counts even so");
    }
}
