//! Memory and processor time of the processes over the run.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// How often.
const INTERVAL: Duration = Duration::from_secs(1);
/// Two looks at a process are so far apart at least: processor time is counted in hundredths of a second.
const APART: Duration = Duration::from_millis(100);
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
    /// Processor time since the look before, or since the process began, percent of one core.
    pub(super) cpu_percent: f64,
}

/// What is watched, and what was seen of it.
#[derive(Debug)]
struct Watched {
    start: Instant,
    interval: Duration,
    pids: Vec<(String, u32)>,
    /// The last look at each.
    before: Vec<(u32, Duration, Instant)>,
    samples: Vec<Sample>,
}

/// Looks until it is dropped: when it is told of a process, when it is told of others instead, and every second.
#[derive(Debug)]
pub(super) struct Usage {
    watched: Arc<Mutex<Watched>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Usage {
    pub(super) fn start() -> Result<Self> {
        let watched = Watched {
            start: Instant::now(),
            interval: INTERVAL,
            pids: Vec::new(),
            before: Vec::new(),
            samples: Vec::new(),
        };
        let (watched, stop) = (Arc::new(Mutex::new(watched)), Arc::new(AtomicBool::new(false)));
        let (shared, stopped) = (Arc::clone(&watched), Arc::clone(&stop));
        let work = move || {
            while !stopped.load(Ordering::Relaxed) {
                let interval = {
                    let mut watched = lock(&shared);
                    watched.look();
                    watched.interval
                };
                thread::park_timeout(interval);
            }
        };
        let thread =
            thread::Builder::new().name("usage".to_owned()).spawn(work).context("cannot start a thread")?;
        Ok(Self { watched, stop, thread: Some(thread) })
    }

    /// Which processes are looked at from now on. Those before are looked at once more.
    pub(super) fn set(&self, pids: Vec<(String, u32)>) {
        let mut watched = lock(&self.watched);
        watched.look();
        watched.pids = pids;
        watched.look();
    }

    /// One more, or another one of the same name.
    pub(super) fn add(&self, process: &str, pid: u32) {
        let mut pids = lock(&self.watched).pids.clone();
        if pids.iter().any(|(known, same)| known == process && *same == pid) {
            return;
        }
        pids.retain(|(known, _)| known != process);
        pids.push((process.to_owned(), pid));
        self.set(pids);
    }

    pub(super) fn samples(&self) -> Vec<Sample> {
        lock(&self.watched).samples.clone()
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

fn lock(watched: &Mutex<Watched>) -> MutexGuard<'_, Watched> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watched {
    fn look(&mut self) {
        let mut next = Vec::new();
        for (process, pid) in &self.pids {
            let known = self.before.iter().find(|(known, ..)| known == pid);
            if let Some(known) = known.filter(|(_, _, then)| then.elapsed() < APART) {
                next.push(*known);
                continue;
            }
            // One that has just been killed is looked at again when it is back.
            let Some((rss_kib, used, age)) = look(*pid) else { continue };
            let at = Instant::now();
            // What it used before anybody looked belongs to the first look, over the time that it is there.
            let (used_since, time) = known.map_or((used, age), |(_, earlier, then)| {
                (used.saturating_sub(*earlier), at.duration_since(*then))
            });
            let cpu_percent = used_since.as_secs_f64() / time.max(APART).as_secs_f64() * 100.0;
            let at_s = at.duration_since(self.start).as_secs_f64();
            self.samples.push(Sample { at_s, process: process.clone(), rss_kib, cpu_percent });
            next.push((*pid, used, at));
        }
        self.before = next;
        if self.samples.len() > KEPT_MAX {
            thin(&mut self.samples);
            self.interval *= 2;
        }
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

/// Resident memory in KiB, processor time so far, and how long the process has been there.
fn look(pid: u32) -> Option<(u64, Duration, Duration)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may hold anything; user and system time are fields 14 and 15, the time of
    // its start field 22.
    let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
    // USER_HZ is 100 on every architecture that Linux runs XDP on (proc(5)).
    let time = |at: usize| {
        let ticks = fields.get(at).and_then(|field| field.parse::<u64>().ok())?;
        Some(Duration::from_millis(ticks * 10))
    };
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime = Duration::try_from_secs_f64(uptime.split_whitespace().next()?.parse().ok()?).ok()?;
    let age = uptime.saturating_sub(time(19)?);
    Some((rss.split_whitespace().next()?.parse().ok()?, time(11)? + time(12)?, age))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen_and_a_missing_one_is_not() {
        let (rss_kib, used, age) = look(std::process::id()).unwrap();
        assert!(rss_kib > 0 && used <= age * 64 + APART, "{used:?} in {age:?}");
        assert_eq!(look(0), None);
    }

    /// R8.4: of a part that is over in less than a second there is a line, too: processes are looked at when they come and
    /// when they go.
    #[test]
    fn r8_4_a_short_part_is_seen_at_both_ends() {
        let usage = Usage::start().unwrap();
        let own = std::process::id();
        usage.set(vec![("a".to_owned(), own)]);
        assert!(!usage.samples().is_empty(), "at once");
        usage.add("b", own);
        // The clock of the looks is to go on.
        let begun = Instant::now();
        while begun.elapsed() < APART + Duration::from_millis(20) {
            thread::yield_now();
        }
        usage.set(Vec::new());
        let found = usage.samples();
        let times: Vec<_> = found.iter().filter(|one| one.process == "a").map(|one| one.at_s).collect();
        assert!(times.len() >= 2 && times[1] - times[0] >= 0.1, "{found:?}");
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
