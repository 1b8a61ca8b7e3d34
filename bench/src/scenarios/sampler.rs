//! Memory, descriptors and processor time of processes over the time of a run, from /proc.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::measure::{Memory, processor_time};

/// Control plane, data plane, and this process with the swarm.
const PROCESSES: usize = 3;

/// Two samples are so far apart at least: processor time is counted in hundredths of a second.
const APART: Duration = Duration::from_millis(100);

/// A process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Resident, KiB.
    pub rss_kib: u64,
    /// Resident and not backed by a file, KiB.
    pub anonymous_kib: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Processor seconds since it began.
    pub cpu_s: f64,
}

impl Usage {
    fn of(pid: u32) -> Option<Self> {
        let memory = Memory::of(pid).ok()?;
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
        let cpu_s = processor_time(pid).ok()?.as_secs_f64();
        Some(Self { rss_kib: memory.rss_kib, anonymous_kib: memory.anonymous_kib, descriptors, cpu_s })
    }
}

/// All at one moment. A process that is not there at that moment is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Seconds since sampling began.
    pub at_s: f64,
    /// `jvpn-controlplane`.
    pub control_plane: Option<Usage>,
    /// `jvpn-dataplane`.
    pub data_plane: Option<Usage>,
    /// The bench with the swarm.
    pub swarm: Option<Usage>,
}

/// The processes that are looked at: control plane, data plane, swarm. A restarted one has another ID.
#[derive(Clone, Debug, Default)]
pub(super) struct Pids(Arc<Mutex<[u32; PROCESSES]>>);

impl Pids {
    pub(super) fn set(&self, pids: [u32; PROCESSES]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = pids;
    }

    fn get(&self) -> [u32; PROCESSES] {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them now.
    pub(super) fn sample(&self, since: Instant) -> Sample {
        let [control_plane, data_plane, swarm] = self.get().map(Usage::of);
        Sample { at_s: since.elapsed().as_secs_f64(), control_plane, data_plane, swarm }
    }
}

/// Takes samples when it starts, at an interval, and when it ends.
pub(super) struct Sampler {
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Starts.
    ///
    /// # Errors
    /// No thread.
    pub(super) fn start(pids: &Pids, interval: Duration) -> Result<Self> {
        let (stop, samples) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, taken, pids, start) =
            (Arc::clone(&stop), Arc::clone(&samples), pids.clone(), Instant::now());
        let work = move || {
            loop {
                let is_last = stopped.load(Ordering::Relaxed);
                let sample = pids.sample(start);
                let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
                let then = taken.last().map_or(0.0, |before: &Sample| before.at_s);
                if taken.is_empty() || sample.at_s - then >= APART.as_secs_f64() {
                    taken.push(sample);
                }
                drop(taken);
                if is_last {
                    return;
                }
                thread::park_timeout(interval);
            }
        };
        let thread = thread::Builder::new().name("sampler".to_owned()).spawn(work).context("no thread")?;
        Ok(Self { stop, samples, thread: Some(thread) })
    }

    /// Ends with one more look; gives everything that was seen.
    pub(super) fn finish(mut self) -> Vec<Sample> {
        self.stop();
        std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ended = thread.join();
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen_and_a_missing_one_is_none() {
        let pids = Pids::default();
        pids.set([std::process::id(), 0, std::process::id()]);
        let sample = pids.sample(Instant::now());
        let usage = sample.control_plane.unwrap();
        assert!(usage.rss_kib > 0 && usage.descriptors >= 3);
        assert_eq!(sample.data_plane, None);
    }

    /// R8.4: a run that is over before the interval is has a sample of its beginning and one of its end.
    #[test]
    fn r8_4_a_short_run_is_seen_at_both_ends() {
        let pids = Pids::default();
        pids.set([std::process::id(); PROCESSES]);
        let sampler = Sampler::start(&pids, Duration::from_secs(600)).unwrap();
        while sampler.samples.lock().unwrap().is_empty() {
            thread::yield_now();
        }
        let begun = Instant::now();
        while begun.elapsed() < APART * 2 {
            thread::yield_now();
        }
        let found = sampler.finish();
        assert!(found.len() >= 2, "{found:?}");
        assert!(begun.elapsed() < Duration::from_secs(300), "nobody waits for the interval");
    }
}
