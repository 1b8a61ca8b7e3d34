//! Slots: one fresh (index, serial) per binding. A serial of an index is never handed out twice under one
//! node key.

use super::api::Durable;
use crate::node_state::StateError;
use jvpn_abi::wire::SlotId;
use jvpn_abi::wire::data::{MAX_SLOT_SERIAL, MAX_SLOTS};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Indexes rest in the queue until this many wait, so that one index does not use up its serials alone;
/// beyond that they are reused before fresh ones, so that the tables' memory stays small.
const RESTING: usize = 64;

/// Why there is no slot.
#[derive(Debug, thiserror::Error)]
pub(super) enum SlotError {
    /// Every index is in use or has used up its serials.
    #[error("every slot of the data plane is in use")]
    Full,
    /// The serial could not be made durable.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Hands out slots and takes indexes back when nothing refers to them any more.
#[derive(Debug)]
pub(super) struct Slots {
    /// Indexes that the tables have.
    limit: u32,
    /// Next serial of each index that was ever used; its length is the first fresh index.
    serials: Vec<u32>,
    /// Indexes that may be used again, longest rest first. All are below the limit.
    resting: VecDeque<u32>,
    /// The same, but above the limit: of a data plane that had more slots.
    beyond: Vec<u32>,
    /// References to indexes in use: the binding, and the routes that still lead to it.
    held: BTreeMap<u32, u32>,
    /// Slots whose answer has not left.
    fresh: BTreeSet<SlotId>,
    floor: u32,
    reserved: u32,
}

impl Slots {
    pub(super) const fn new(floor: u32) -> Self {
        Self {
            limit: 0,
            serials: Vec::new(),
            resting: VecDeque::new(),
            beyond: Vec::new(),
            held: BTreeMap::new(),
            fresh: BTreeSet::new(),
            floor,
            reserved: floor,
        }
    }

    /// The tables have this many slots.
    pub(super) fn resize(&mut self, slots: u32) {
        self.limit = slots.min(MAX_SLOTS);
        let free = self.resting.drain(..).chain(self.beyond.drain(..));
        let (within, beyond): (Vec<u32>, Vec<u32>) = free.partition(|index| *index < self.limit);
        (self.resting, self.beyond) = (within.into(), beyond);
    }

    pub(super) const fn limit(&self) -> u32 {
        self.limit
    }

    /// A slot that was never handed out, held once.
    ///
    /// # Errors
    /// [`SlotError`].
    pub(super) fn take(&mut self, durable: &mut dyn Durable) -> Result<SlotId, SlotError> {
        loop {
            let index = self.next_index().ok_or(SlotError::Full)?;
            let Some(serial) = self.serials.get_mut(index as usize) else { return Err(SlotError::Full) };
            if *serial > MAX_SLOT_SERIAL {
                // Retired until the node key changes.
                continue;
            }
            if *serial >= self.reserved {
                match durable.reserve_serials(*serial) {
                    Ok(reserved) => self.reserved = reserved,
                    Err(error) => {
                        self.resting.push_front(index);
                        return Err(error.into());
                    }
                }
            }
            let slot = SlotId::new(index, *serial).ok_or(SlotError::Full)?;
            *serial += 1;
            self.held.insert(index, 1);
            self.fresh.insert(slot);
            return Ok(slot);
        }
    }

    /// Whether a slot was handed out under this node key and had its answer. The token of any other must stay unknown:
    /// whoever held it could reset the client that gets the slot later.
    pub(super) fn was_granted(&self, slot: SlotId) -> bool {
        let next = self.serials.get(slot.index() as usize).copied().unwrap_or(self.floor);
        slot.serial() < next && !self.fresh.contains(&slot)
    }

    /// The answer that grants a slot leaves.
    pub(super) fn grant(&mut self, slot: SlotId) {
        self.fresh.remove(&slot);
    }

    fn next_index(&mut self) -> Option<u32> {
        let fresh = u32::try_from(self.serials.len()).unwrap_or(u32::MAX);
        if self.resting.len() < RESTING && fresh < self.limit {
            self.serials.push(self.floor);
            return Some(fresh);
        }
        self.resting.pop_front()
    }

    /// Slots that an earlier process handed out are in use, each as often as it is named.
    pub(super) fn adopt(&mut self, slots: &[SlotId]) {
        for slot in slots {
            self.hold(*slot);
        }
        let indexes = self.held.keys().last().map_or(0, |last| last.saturating_add(1));
        // Every serial below the floor may have been used, at any index.
        self.serials.resize(self.serials.len().max(indexes as usize), self.floor);
        self.resting = (0..indexes).filter(|index| !self.held.contains_key(index)).collect();
        self.resize(self.limit);
    }

    /// One more reference to a slot in use.
    pub(super) fn hold(&mut self, slot: SlotId) {
        *self.held.entry(slot.index()).or_insert(0) += 1;
    }

    /// One reference less; the last one sends the index to rest.
    pub(super) fn release(&mut self, slot: SlotId) {
        let Some(count) = self.held.get_mut(&slot.index()) else {
            debug_assert!(false, "slot {slot:?} was released more often than it was held");
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.held.remove(&slot.index());
            self.fresh.remove(&slot);
            if slot.index() < self.limit {
                self.resting.push_back(slot.index());
            } else {
                self.beyond.push(slot.index());
            }
        }
    }

    /// Indexes in use.
    pub(super) fn in_use(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node_state::NodeState;
    use jvpn_crypto::rng::OsRandom;
    use std::collections::BTreeSet;

    /// I11: no slot is handed out twice, also over restarts; indexes are reused, serials are not.
    #[test]
    fn i11_slots_never_repeat() {
        let dir = tempfile::tempdir().unwrap();
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let mut state = NodeState::open(dir.path(), &mut OsRandom::checked().unwrap()).unwrap();
            let mut slots = Slots::new(state.serial_floor());
            assert!(matches!(slots.take(&mut state), Err(SlotError::Full)));
            slots.resize(100);
            for _ in 0..20_000 {
                let slot = slots.take(&mut state).unwrap();
                assert!(seen.insert(slot), "{slot:?}");
                assert!(slot.index() < 100);
                slots.release(slot);
            }
            assert_eq!(slots.in_use(), 0);
        }
    }

    /// R8.3: indexes above a smaller data plane's limit wait until there is a larger one; nobody has to look for them.
    #[test]
    fn r8_3_a_smaller_data_plane_leaves_out_what_it_does_not_have() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = NodeState::open(dir.path(), &mut OsRandom::checked().unwrap()).unwrap();
        let mut slots = Slots::new(state.serial_floor());
        slots.resize(4);
        let taken: Vec<SlotId> = (0..4).map(|_| slots.take(&mut state).unwrap()).collect();
        slots.release(taken[3]);
        slots.resize(2);
        slots.release(taken[2]);
        assert!(matches!(slots.take(&mut state), Err(SlotError::Full)));
        slots.release(taken[1]);
        assert_eq!(slots.take(&mut state).unwrap().index(), 1);
        slots.resize(4);
        let mut again: Vec<u32> = (0..2).map(|_| slots.take(&mut state).unwrap().index()).collect();
        again.sort_unstable();
        assert_eq!(again, [2, 3]);
        assert!(matches!(slots.take(&mut state), Err(SlotError::Full)));
    }

    #[test]
    fn a_held_index_is_not_reused_and_a_full_table_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = NodeState::open(dir.path(), &mut OsRandom::checked().unwrap()).unwrap();
        let mut slots = Slots::new(state.serial_floor());
        slots.resize(2);
        let a = slots.take(&mut state).unwrap();
        let b = slots.take(&mut state).unwrap();
        assert!(matches!(slots.take(&mut state), Err(SlotError::Full)));
        slots.hold(a);
        slots.release(a);
        assert!(matches!(slots.take(&mut state), Err(SlotError::Full)), "a route still leads to it");
        slots.release(b);
        let c = slots.take(&mut state).unwrap();
        assert_eq!((c.index(), c.serial()), (b.index(), b.serial() + 1));
    }
}
