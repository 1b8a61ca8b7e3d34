//! Memory and processor time of the processes over the run.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// How often.
const INTERVAL: Duration = Duration::from_secs(1);
/// Samples that are kept: beyond that every second one goes and the interval doubles.
const KEPT_MAX: usize = 1_200;

/// One look at one process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Sample {
    /// Since the beginning of the run, s.
    pub(super) at_s: f64,
    /// Which process.
    pub(super) process: String,
    /// Resident memory, KiB.
    pub(super) rss_kib: u64,
    /// Processor time since the look before, percent of one core.
    pub(super) cpu_percent: f64,
}

type Pids = Arc<Mutex<Vec<(String, u32)>>>;

/// Looks until it is dropped.
#[derive(Debug)]
pub(super) struct Usage {
    pids: Pids,
    samples: Arc<Mutex<Vec<Sample>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Usage {
    pub(super) fn start() -> Result<Self> {
        let (pids, samples, stop) =
            (Pids::default(), Arc::new(Mutex::default()), Arc::new(AtomicBool::new(false)));
        let work = {
            let (pids, samples, stop) = (Arc::clone(&pids), Arc::clone(&samples), Arc::clone(&stop));
            move || watch(&pids, &samples, &stop)
        };
        let thread =
            thread::Builder::new().name("usage".to_owned()).spawn(work).context("cannot start a thread")?;
        Ok(Self { pids, samples, stop, thread: Some(thread) })
    }

    /// Which processes are looked at from now on.
    pub(super) fn set(&self, pids: Vec<(String, u32)>) {
        *self.pids.lock().unwrap_or_else(PoisonError::into_inner) = pids;
    }

    pub(super) fn samples(&self) -> Vec<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Usage {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn watch(pids: &Pids, samples: &Mutex<Vec<Sample>>, stop: &AtomicBool) {
    let start = Instant::now();
    let mut before: Vec<(u32, Duration, Instant)> = Vec::new();
    let mut interval = INTERVAL;
    while !stop.load(Ordering::Relaxed) {
        let now = pids.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut next = Vec::new();
        let mut kept = samples.lock().unwrap_or_else(PoisonError::into_inner);
        for (process, pid) in now {
            // One that has just been killed is looked at again when it is back.
            let Some((rss_kib, used)) = look(pid) else { continue };
            let at = Instant::now();
            if let Some((_, earlier, then)) = before.iter().find(|(known, ..)| *known == pid) {
                let share =
                    used.saturating_sub(*earlier).as_secs_f64() / at.duration_since(*then).as_secs_f64();
                let at_s = start.elapsed().as_secs_f64();
                kept.push(Sample { at_s, process, rss_kib, cpu_percent: share * 100.0 });
            }
            next.push((pid, used, at));
        }
        if kept.len() > KEPT_MAX {
            thin(&mut kept);
            interval *= 2;
        }
        drop(kept);
        before = next;
        thread::park_timeout(interval);
    }
}

/// What was seen before, and what was seen since the run went on, which was `offset_s` after its beginning.
pub(super) fn joined(mut before: Vec<Sample>, since: Vec<Sample>, offset_s: f64) -> Vec<Sample> {
    before.extend(since.into_iter().map(|sample| Sample { at_s: sample.at_s + offset_s, ..sample }));
    while before.len() > KEPT_MAX {
        thin(&mut before);
    }
    before
}

/// Every second look goes, of all processes.
fn thin(samples: &mut Vec<Sample>) {
    let mut seen = std::collections::BTreeMap::<String, u32>::new();
    samples.retain(|sample| {
        let count = seen.entry(sample.process.clone()).or_default();
        *count += 1;
        *count % 2 == 1
    });
}

/// Resident memory in KiB and processor time so far.
fn look(pid: u32) -> Option<(u64, Duration)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may hold anything; user and system time are fields 14 and 15.
    let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    // USER_HZ is 100 on every architecture that Linux runs XDP on (proc(5)).
    let used = Duration::from_millis((ticks(11)? + ticks(12)?) * 10);
    Some((rss.split_whitespace().next()?.parse().ok()?, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen_and_a_missing_one_is_not() {
        assert!(look(std::process::id()).unwrap().0 > 0);
        assert_eq!(look(0), None);
    }

    fn sample(process: &str, at_s: f64) -> Sample {
        Sample { at_s, process: process.into(), rss_kib: 1, cpu_percent: 0.0 }
    }

    /// R8.4: what was seen before an interruption stays when a run goes on, also if nothing was left to be run.
    #[test]
    fn r8_4_a_run_that_goes_on_keeps_what_was_seen() {
        let before = vec![sample("a", 1.0), sample("a", 2.0)];
        assert_eq!(joined(before.clone(), Vec::new(), 3.0), before);
        let all = joined(before, vec![sample("a", 1.0)], 3.0);
        assert_eq!(all.iter().map(|one| one.at_s).collect::<Vec<_>>(), [1.0, 2.0, 4.0]);
        let many = (0..KEPT_MAX).map(|_| sample("a", 1.0)).collect::<Vec<_>>();
        assert!(joined(many.clone(), many, 1.0).len() <= KEPT_MAX);
    }

    #[test]
    fn thinning_keeps_every_process() {
        let mut samples: Vec<_> = (0..6).flat_map(|n| ["a", "b"].map(|p| sample(p, f64::from(n)))).collect();
        thin(&mut samples);
        assert_eq!(samples.len(), 6);
        assert_eq!(samples.iter().filter(|s| s.process == "b").count(), 3);
    }
}
