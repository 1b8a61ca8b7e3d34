//! Packets and octets towards a client, kept by the worker until the batch ends: the counters in CONTEXT are shared by all
//! workers that seal for the binding, and two locked additions per packet to a line that wanders between them cost more than
//! the packet's headers.

use jvpn_abi::tables::Context;
use std::cell::Cell;
use std::sync::atomic::Ordering;

/// What was sealed for one slot and not yet told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pending {
    slot_index: u32,
    packets: u64,
    octets: u64,
}

/// One worker's tally. It remembers one slot: a flow's packets follow each other.
#[derive(Debug, Default)]
pub(super) struct Tally(Cell<Pending>);

impl Tally {
    /// Counts a packet; tells what was kept for another slot.
    #[inline]
    pub(super) fn sealed(&self, contexts: &[Context], slot_index: u32, octets: usize) {
        let kept = self.0.get();
        if kept.slot_index == slot_index {
            let (packets, octets) = (kept.packets + 1, kept.octets + octets as u64);
            self.0.set(Pending { packets, octets, ..kept });
        } else {
            tell(contexts, kept);
            self.0.set(Pending { slot_index, packets: 1, octets: octets as u64 });
        }
    }

    /// The batch ends: before this worker reports that it has passed an unbind, so that what is told belongs to the binding
    /// that it was counted for.
    #[inline]
    pub(super) fn end_batch(&self, contexts: &[Context]) {
        tell(contexts, self.0.take());
    }
}

#[inline]
fn tell(contexts: &[Context], kept: Pending) {
    if kept.packets > 0
        && let Some(context) = contexts.get(kept.slot_index as usize)
    {
        context.packets_out.fetch_add(kept.packets, Ordering::Relaxed);
        context.bytes_out.fetch_add(kept.octets, Ordering::Relaxed);
    }
}
