//! The batch boundary: where a worker takes over what the installer handed out and says which unbind it has passed.
//!
//! The order is the whole of it: first the unbind sequence is read, then what was handed out is applied, then both are
//! reported. Words that were stored before the sequence was raised are seen by the batch that follows.

use crate::pipeline::Pipeline;
use crate::slots::WorkerQueues;
use crate::tables::Tables;
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
        let unbind = tables.reports().requested_unbind_seq.load(Ordering::SeqCst);
        let installed = pipeline.apply(queues).unwrap_or(self.installed);
        let passed = Self { unbind, installed };
        if passed == *self {
            return false;
        }
        let report = tables.report(worker);
        report.install_seq.store(installed, Ordering::Release);
        report.unbind_seq.store(unbind, Ordering::Release);
        *self = passed;
        true
    }
}
