//! The shared tables as the data plane's threads see them, and the few words that they put into them.

use jvpn_abi::tables::{
    Context, EVENT_RING_LEN, ReplayWindow, Reports, WINDOWS_PER_SLOT, WorkerReport, window_owners_at,
    windows_at,
};
use jvpn_abi::{BootTime, CONTRACT_VERSION, DropReason, Word};
use jvpn_tables::{Bindings, Mapping, TableError};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// u64 words of GATE.
const GATE_WORDS: usize = size_of::<jvpn_abi::tables::Gate>() / 8;
/// The fence deadline is the second word of GATE.
const GATE_FENCE_WORD: usize = std::mem::offset_of!(jvpn_abi::tables::Gate, fence_deadline_ns) / 8;

/// Everything shared, mapped.
#[derive(Debug)]
pub struct Tables {
    /// BINDINGS.
    pub bindings: Bindings,
    /// CONTEXT.
    pub contexts: Mapping<Context>,
    windows: Mapping<ReplayWindow>,
    window_owners: Mapping<AtomicU64>,
    /// REPORTS (one element).
    reports: Mapping<Reports>,
    gate: Mapping<AtomicU64>,
}

impl Tables {
    /// Maps the four tables that workers touch.
    ///
    /// # Errors
    /// If one cannot be mapped.
    pub fn map(
        slots: u32,
        bindings: BorrowedFd<'_>,
        context: BorrowedFd<'_>,
        reports: BorrowedFd<'_>,
        gate: BorrowedFd<'_>,
    ) -> Result<Self, TableError> {
        let windows = slots as usize * WINDOWS_PER_SLOT as usize;
        let tables = Self {
            bindings: Bindings::map(bindings, slots)?,
            contexts: Mapping::new("CONTEXT", context, slots as usize)?,
            windows: Mapping::new_at("CONTEXT", context, windows_at(slots), windows)?,
            window_owners: Mapping::new_at("CONTEXT", context, window_owners_at(slots), windows)?,
            reports: Mapping::new("REPORTS", reports, 1)?,
            gate: Mapping::new("GATE", gate, GATE_WORDS)?,
        };
        tables.reports().contract_version.store(u64::from(CONTRACT_VERSION), Ordering::Release);
        Ok(tables)
    }

    /// REPORTS.
    #[must_use]
    pub fn reports(&self) -> &Reports {
        // One element was mapped in `map`; slicing cannot fail.
        &self.reports[0]
    }

    /// The bits of a replay window.
    #[must_use]
    #[inline]
    pub fn window(&self, index: u32) -> Option<&ReplayWindow> {
        self.windows.get(index as usize)
    }

    /// Whose a replay window is: [`jvpn_abi::tables::window_place`], or 0.
    #[must_use]
    pub fn window_owner(&self, index: u32) -> Option<&AtomicU64> {
        self.window_owners.get(index as usize)
    }

    /// The report of a worker. Worker numbers are below `MAX_WORKERS` by configuration.
    #[must_use]
    pub fn report(&self, worker: usize) -> &WorkerReport {
        &self.reports().worker[worker]
    }

    /// Whether this node's lease is over at `now`: then nothing is accepted or sent.
    #[must_use]
    #[inline]
    pub fn fenced(&self, now: BootTime) -> bool {
        let deadline = self.gate.get(GATE_FENCE_WORD).map_or(0, |word| word.load(Ordering::Acquire));
        now.0 >= deadline
    }
}

/// Counts one packet in a worker's report. Single writer, so a load and a store will do.
#[inline]
pub fn count(report: &WorkerReport, reason: DropReason) {
    let counter = &report.counters[reason.number() as usize];
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// Tells the control plane, through the event ring, that a binding was confirmed, or its next keys are in use.
pub fn push_event<A: Word>(report: &WorkerReport<A>, slot_index: u32) {
    let written = report.events_written.load(Ordering::Relaxed);
    let waiting = written.wrapping_sub(report.events_read.load(Ordering::Acquire));
    if waiting >= EVENT_RING_LEN as u64 {
        report.events_lost.fetch_add(1, Ordering::Release);
    } else {
        report.events[written as usize % EVENT_RING_LEN].store(u64::from(slot_index), Ordering::Relaxed);
        report.events_written.store(written.wrapping_add(1), Ordering::Release);
    }
}

/// Adds to a counter that has a single writer at a time.
#[inline]
pub(crate) fn add(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}
