//! Fixed buffers for one batch of packets, allocated once.

use jvpn_abi::wire::DATA_HEADER_LEN;
use jvpn_abi::{Ecn, Endpoint};
use std::ops::Range;

/// Packets per outgoing batch: enough for a large TCP segment behind others, few enough to stay in the cache (256 KiB).
pub const BATCH: usize = 128;
/// Octets per frame: the largest inner packet plus what DATA adds.
pub const FRAME_LEN: usize = crate::agent::MAX_INNER_LEN + crate::agent::FRAME_OVERHEAD;

/// [`BATCH`] buffers of [`FRAME_LEN`] octets, each with the length that is in use.
#[derive(Debug)]
pub struct Frames {
    octets: Box<[[u8; FRAME_LEN]]>,
    lengths: [usize; BATCH],
    marks: [Ecn; BATCH],
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            octets: vec![[0; FRAME_LEN]; BATCH].into_boxed_slice(),
            lengths: [0; BATCH],
            marks: [Ecn::NOT_ECT; BATCH],
        }
    }
}

impl Frames {
    /// All buffers, whole, to read into.
    pub fn buffers(&mut self) -> &mut [[u8; FRAME_LEN]] {
        &mut self.octets
    }

    /// Says how much of frame `index` is in use.
    pub fn set_len(&mut self, index: usize, len: usize) {
        if let Some(slot) = self.lengths.get_mut(index) {
            *slot = len.min(FRAME_LEN);
        }
    }

    /// The octets in use of frame `index`; empty if there is no such frame.
    #[must_use]
    pub fn frame(&self, index: usize) -> &[u8] {
        let len = self.lengths.get(index).copied().unwrap_or(0);
        self.octets.get(index).and_then(|octets| octets.get(..len)).unwrap_or_default()
    }

    /// Takes down the congestion mark of the inner packet in frame `index`, which is still to be sealed: the datagram that
    /// carries it gets the same one (RFC 6040 §4.1).
    pub fn copy_mark(&mut self, index: usize) {
        let mark = Ecn::of(self.frame(index).get(DATA_HEADER_LEN..).unwrap_or_default());
        if let Some(slot) = self.marks.get_mut(index) {
            *slot = mark;
        }
    }

    /// The mark that frame `index` leaves with.
    #[must_use]
    pub fn mark(&self, index: usize) -> Ecn {
        self.marks.get(index).copied().unwrap_or_default()
    }

    /// The same, to change in place.
    pub fn frame_mut(&mut self, index: usize) -> &mut [u8] {
        let len = self.lengths.get(index).copied().unwrap_or(0);
        self.octets.get_mut(index).and_then(|octets| octets.get_mut(..len)).unwrap_or_default()
    }

    /// Frame `index`, whole, to read into.
    pub fn buffer(&mut self, index: usize) -> &mut [u8] {
        self.octets.get_mut(index).map(|octets| octets.as_mut_slice()).unwrap_or_default()
    }
}

/// What a datagram may be at most, octets: as many joined ones as the kernel hands over at once fit as well.
pub const LARGE: usize = 1 << 16;
/// Slots for large datagrams …
pub const LARGE_SLOTS: usize = 16;
/// … and for single ones, which are no longer than a frame.
pub const SMALL_SLOTS: usize = 64;

/// Received datagrams: slots of one size in one buffer, each with one datagram or several of one length in a row.
#[derive(Debug)]
pub struct Inbox {
    octets: Vec<u8>,
    slot_len: usize,
    arrivals: Vec<Arrival>,
}

/// What lies in a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// Octets.
    pub len: usize,
    /// Octets of each datagram but the last.
    pub stride: usize,
    /// From where.
    pub from: Endpoint,
    /// The congestion mark of all of them.
    pub mark: Ecn,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            octets: vec![0; LARGE * LARGE_SLOTS],
            slot_len: LARGE,
            arrivals: Vec::with_capacity(SMALL_SLOTS),
        }
    }
}

impl Inbox {
    /// The slots, empty, for large datagrams or for single ones.
    pub fn slots(&mut self, slot_len: usize) -> impl Iterator<Item = &mut [u8]> {
        self.slot_len = slot_len.max(1);
        self.arrivals.clear();
        let count = if slot_len == LARGE { LARGE_SLOTS } else { SMALL_SLOTS };
        self.octets.chunks_exact_mut(self.slot_len).take(count)
    }

    /// The next slot was filled.
    pub fn arrived(&mut self, arrival: Arrival) {
        self.arrivals.push(arrival);
    }

    /// Slots that were filled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.arrivals.len()
    }

    /// Whether nothing came.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.arrivals.is_empty()
    }

    /// Where the datagrams of slot `index` lie, and what holds for all of them.
    pub fn datagrams(&self, index: usize) -> (Arrival, impl Iterator<Item = Range<usize>> + use<>) {
        let arrival = self.arrivals.get(index).copied().unwrap_or_default();
        let (start, stride) = (index * self.slot_len, arrival.stride.max(1));
        let end = start + arrival.len.min(self.slot_len);
        let places = (start..end).step_by(stride).map(move |at| at..(at + stride).min(end));
        (arrival, places)
    }

    /// The whole buffer, in which these places are.
    pub fn octets(&mut self) -> &mut [u8] {
        &mut self.octets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Joined datagrams come apart at their lengths, the last one may be shorter, and an empty slot has none.
    #[test]
    fn joined_datagrams_come_apart() {
        let mut inbox = Inbox::default();
        assert_eq!(inbox.slots(LARGE).count(), LARGE_SLOTS);
        let from = Endpoint::v4([192, 0, 2, 1], 4_500);
        inbox.arrived(Arrival { from, ..Arrival::default() });
        inbox.arrived(Arrival { len: 250, stride: 100, from, mark: Ecn::CE });
        let (arrival, places) = inbox.datagrams(1);
        assert_eq!((arrival.from, arrival.mark), (from, Ecn::CE));
        let places: Vec<_> = places.collect();
        assert_eq!(places, [LARGE..LARGE + 100, LARGE + 100..LARGE + 200, LARGE + 200..LARGE + 250]);
        assert_eq!((inbox.datagrams(0).1.count(), inbox.datagrams(9).1.count()), (0, 0));
        assert_eq!(inbox.slots(FRAME_LEN).count(), SMALL_SLOTS);
        assert!(inbox.is_empty());
    }
}
