//! What the XDP programs refused at the edge, read from their table EDGE: counts, and where the last of it came from.
//!
//! Nobody else sees these datagrams. The counts are exact; who sent them is known of the last few per CPU only, so the
//! rest of a CPU's refusals is put down to those in equal parts.

use aya::maps::{Map, MapData, MapError, PerCpuArray};
use jvpn_abi::edge::EdgeLedger;
use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;

/// u64 words of an [`EdgeLedger`].
const WORDS: usize = size_of::<EdgeLedger>() / 8;

/// Refusals of some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EdgeRefusals {
    /// How many there were.
    pub total: u64,
    /// Senders, IPv4-mapped, and how many of the refusals are put down to each. The sum is `total`.
    pub sources: BTreeMap<[u8; 16], u64>,
}

/// EDGE, and what was read of it before.
pub struct Edge {
    map: PerCpuArray<MapData, [u64; WORDS]>,
    /// Refusals of each CPU when it was last read.
    seen: Vec<u64>,
}

impl Edge {
    /// What was refused before counts as read: an earlier process may have told of it.
    ///
    /// # Errors
    /// If this is no such map, or it cannot be read.
    pub fn open(fd: OwnedFd) -> Result<Self, MapError> {
        let map = PerCpuArray::try_from(Map::PerCpuArray(MapData::from_fd(fd)?))?;
        let mut edge = Self { map, seen: Vec::new() };
        edge.seen = edge.read()?.iter().map(|ledger| ledger.total).collect();
        Ok(edge)
    }

    /// What was refused since the last call; `None` if that is nothing.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn poll(&mut self) -> Result<Option<EdgeRefusals>, MapError> {
        let ledgers = self.read()?;
        let refusals = fresh(&ledgers, &self.seen);
        self.seen = ledgers.iter().map(|ledger| ledger.total).collect();
        Ok((refusals.total > 0).then_some(refusals))
    }

    fn read(&self) -> Result<Vec<EdgeLedger>, MapError> {
        let per_cpu = self.map.get(&0, 0)?;
        Ok(per_cpu.iter().map(|words| bytemuck::pod_read_unaligned(bytemuck::cast_slice(words))).collect())
    }
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge").field("seen", &self.seen).finish_non_exhaustive()
    }
}

/// What is new in the ledgers of all CPUs, of which so many refusals were seen.
fn fresh(ledgers: &[EdgeLedger], seen: &[u64]) -> EdgeRefusals {
    let mut refusals = EdgeRefusals::default();
    let seen = seen.iter().copied().chain(std::iter::repeat(0));
    for (ledger, seen) in ledgers.iter().zip(seen) {
        let count = ledger.total.wrapping_sub(seen);
        let known = ledger.latest(count).count() as u64;
        for (place, source) in ledger.latest(count).enumerate() {
            // What does not divide goes to the newest.
            let rest = if place == 0 { count % known.max(1) } else { 0 };
            let part = (count / known.max(1)).saturating_add(rest);
            let of = refusals.sources.entry(*source).or_default();
            *of = of.saturating_add(part);
        }
        refusals.total = refusals.total.saturating_add(if known > 0 { count } else { 0 });
    }
    refusals
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;
    use jvpn_abi::edge::EdgeLimit;
    use proptest::prelude::*;

    /// R3.1, R3.2: counts are exact over CPUs and reads, and the senders are those of what is new.
    #[test]
    fn r3_1_refusals_are_counted_once_and_put_down_to_their_senders() {
        let mut ledgers = [EdgeLedger::zeroed(); 2];
        (0..1_000).for_each(|_| ledgers[0].note(0, EdgeLimit::Class, [1; 16]));
        (0..9).for_each(|_| ledgers[1].note(2, EdgeLimit::Source, [2; 16]));
        let first = fresh(&ledgers, &[]);
        assert_eq!((first.total, &first.sources), (1_009, &BTreeMap::from([([1; 16], 1_000), ([2; 16], 9)])));
        let seen = [1_000, 9];
        assert_eq!(fresh(&ledgers, &seen), EdgeRefusals::default());
        ledgers[0].note(0, EdgeLimit::Class, [3; 16]);
        assert_eq!(fresh(&ledgers, &seen).sources, BTreeMap::from([([3; 16], 1)]));
    }

    proptest! {
        /// R1.8: whatever stands there, the parts sum up to the whole, and reading ends.
        #[test]
        fn r1_8_hostile_ledgers(totals in proptest::collection::vec(any::<u64>(), 1..4), seen in proptest::collection::vec(any::<u64>(), 0..4), filled: u8) {
            let ledgers: Vec<_> = totals
                .iter()
                .map(|total| {
                    let mut ledger = EdgeLedger::zeroed();
                    ledger.total = *total;
                    ledger.samples.iter_mut().take(usize::from(filled)).for_each(|sample| *sample = [filled; 16]);
                    ledger
                })
                .collect();
            let refusals = fresh(&ledgers, &seen);
            let sum = refusals.sources.values().fold(0_u64, |sum, part| sum.saturating_add(*part));
            prop_assert_eq!(sum, refusals.total);
        }
    }
}
