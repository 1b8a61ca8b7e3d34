//! The batch boundary: where a worker takes over what the installer handed out and says which unbind it has passed.
//!
//! The order is the whole of it: first the unbind sequence is read, then what was handed out is applied, then both are
//! reported. Words that were stored before the sequence was raised are seen by the batch that follows.

use crate::pipeline::Pipeline;
use crate::slots::WorkerQueues;
use crate::tables::Tables;
use jvpn_abi::Word;
use jvpn_abi::tables::WorkerReport;
use std::sync::atomic::Ordering;

/// What one worker has reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Boundary {
    unbind: u64,
    installed: u64,
}

impl Boundary {
    /// Passes one. Every frame of the batch before must have been handed to its TX ring, and [`Pipeline::after_batch`] been
    /// called. `true` if something new was reported: ring the control plane.
    pub fn pass(
        &mut self,
        tables: &Tables,
        worker: usize,
        pipeline: &mut Pipeline,
        queues: &WorkerQueues,
    ) -> bool {
        let requested = &tables.reports().requested_unbind_seq;
        self.pass_with(requested, tables.report(worker), || pipeline.apply(queues))
    }

    /// The same over its cells: the sequence that is `requested`, this worker's report, and what takes over what was handed
    /// out and says its last sequence.
    pub fn pass_with<A: Word>(
        &mut self,
        requested: &A,
        report: &WorkerReport<A>,
        apply: impl FnOnce() -> Option<u64>,
    ) -> bool {
        let unbind = requested.load(Ordering::SeqCst);
        let installed = apply().unwrap_or(self.installed);
        let passed = Self { unbind, installed };
        if passed == *self {
            return false;
        }
        report.install_seq.store(installed, Ordering::Release);
        report.unbind_seq.store(unbind, Ordering::Release);
        *self = passed;
        true
    }
}
