//! Memory and processor time of the gateway's processes, from /proc.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

/// How often memory is looked at for its peak.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

/// Memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Resident, KiB.
    pub rss_kib: u64,
    /// Resident and not backed by a file: heap, stacks, anonymous maps. KiB.
    pub anonymous_kib: u64,
    /// Octets of its heap that are mapped, KiB: `[heap]` and anonymous maps, resident or not, without shared memory.
    pub data_kib: u64,
}

impl Memory {
    /// Of a running process.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or_default()
        };
        Ok(Self { rss_kib: field("VmRSS"), anonymous_kib: field("RssAnon"), data_kib: field("VmData") })
    }

    /// The larger value of each.
    #[must_use]
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            rss_kib: self.rss_kib.max(other.rss_kib),
            anonymous_kib: self.anonymous_kib.max(other.anonymous_kib),
            data_kib: self.data_kib.max(other.data_kib),
        }
    }
}

/// Processor time of a process so far.
///
/// # Errors
/// It is gone.
pub(crate) fn processor_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The command's name is in parentheses and may hold anything; state is field 3, user and system time 14 and 15.
    let (_, fields) = text.rsplit_once(") ").with_context(|| format!("{path} is not as expected"))?;
    let fields: Vec<_> = fields.split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
    // USER_HZ is 100 on every architecture that Linux runs XDP on (proc(5)).
    Ok(Duration::from_millis((ticks(11) + ticks(12)) * 10))
}

/// Watches the memory of processes for its peak. Ends with its value.
pub(crate) struct Peaks<const N: usize> {
    stop: Arc<AtomicBool>,
    peaks: Arc<Mutex<[Memory; N]>>,
    thread: Option<JoinHandle<()>>,
}

impl<const N: usize> Peaks<N> {
    /// Starts watching.
    ///
    /// # Errors
    /// No thread.
    pub(crate) fn start(pids: [u32; N]) -> Result<Self> {
        let (stop, peaks) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new([Memory::default(); N])));
        let (stopped, seen) = (Arc::clone(&stop), Arc::clone(&peaks));
        let watch = move || {
            while !stopped.load(Ordering::Relaxed) {
                // One that has gone keeps its peak; that it has gone is noticed elsewhere.
                let now = pids.map(|pid| Memory::of(pid).unwrap_or_default());
                for (peak, now) in seen.lock().unwrap_or_else(PoisonError::into_inner).iter_mut().zip(now) {
                    *peak = peak.max(now);
                }
                thread::sleep(SAMPLE_INTERVAL);
            }
        };
        let thread = thread::Builder::new().name("memory".to_owned()).spawn(watch).context("no thread")?;
        Ok(Self { stop, peaks, thread: Some(thread) })
    }

    /// The peaks so far.
    #[must_use]
    pub(crate) fn peaks(&self) -> [Memory; N] {
        *self.peaks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<const N: usize> Drop for Peaks<N> {
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
    fn this_process_uses_memory_and_time() {
        let memory = Memory::of(std::process::id()).unwrap();
        assert!(memory.rss_kib > memory.anonymous_kib && memory.anonymous_kib > 0);
        let before = processor_time(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while processor_time(std::process::id()).unwrap() <= before {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(Memory::of(0).is_err());
    }
}
