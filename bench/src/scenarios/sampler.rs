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

/// Takes samples at an interval until it goes.
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
            while !stopped.load(Ordering::Relaxed) {
                let sample = pids.sample(start);
                taken.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                thread::sleep(interval);
            }
        };
        let thread = thread::Builder::new().name("sampler".to_owned()).spawn(work).context("no thread")?;
        Ok(Self { stop, samples, thread: Some(thread) })
    }

    /// What has been seen so far.
    pub(super) fn samples(&self) -> Vec<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
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
}
