//! CONTEXT as the engine reads it: what workers wrote there, within the bounds in which it can be true.

use crate::engine::{ContextView, Probed, Traffic};
use jvpn_abi::tables::{BindingWord, Context, KeyState};
use jvpn_abi::{BootTime, Word};
use jvpn_session::quality::Counts;
use std::sync::atomic::{AtomicU64, Ordering};

/// CONTEXT as the engine reads it.
#[derive(Debug)]
pub struct Contexts<'a, A = AtomicU64>(pub &'a [Context<A>]);

impl<A: Word> Contexts<'_, A> {
    fn at(&self, slot_index: u32) -> Option<&Context<A>> {
        self.0.get(slot_index as usize)
    }

    fn key(&self, slot_index: u32, key_number: u32) -> Option<&KeyState<A>> {
        let state = self.at(slot_index)?.keys.get(key_number as usize % 2)?;
        (state.key_number_plus_one.load(Ordering::Acquire) == u64::from(key_number) + 1).then_some(state)
    }
}

impl<A: Word> ContextView for Contexts<'_, A> {
    fn last_heard(&self, slot_index: u32) -> Option<BootTime> {
        let at = self.at(slot_index)?.last_heard_ns.load(Ordering::Acquire);
        (at != 0).then_some(BootTime(at))
    }

    fn peer_interval_ms(&self, slot_index: u32) -> Option<u32> {
        let interval = self.at(slot_index)?.peer_interval_ms.load(Ordering::Acquire);
        u32::try_from(interval).ok().filter(|interval| *interval != 0)
    }

    fn confirmed(&self, slot_index: u32, word: BindingWord) -> bool {
        self.at(slot_index).is_some_and(|context| context.confirmed.load(Ordering::Acquire) == word.0)
    }

    fn highest_counter(&self, slot_index: u32, key_number: u32) -> Option<u64> {
        self.key(slot_index, key_number)?.window_end.load(Ordering::Acquire).checked_sub(1)
    }

    fn sending_key(&self, slot_index: u32) -> Option<u32> {
        u32::try_from(self.at(slot_index)?.send_key.load(Ordering::Acquire).checked_sub(1)?).ok()
    }

    fn sealed(&self, slot_index: u32, key_number: u32) -> Option<u64> {
        Some(self.key(slot_index, key_number)?.send_counter.load(Ordering::Acquire))
    }

    fn failed_opens(&self, slot_index: u32) -> u64 {
        self.at(slot_index).map_or(0, |context| context.failed_opens.load(Ordering::Acquire))
    }

    fn traffic(&self, slot_index: u32) -> Traffic {
        self.at(slot_index).map_or_else(Traffic::default, |context| Traffic {
            packets_in: context.packets_in.load(Ordering::Relaxed),
            bytes_in: context.bytes_in.load(Ordering::Relaxed),
            packets_out: context.packets_out.load(Ordering::Relaxed),
            bytes_out: context.bytes_out.load(Ordering::Relaxed),
        })
    }

    fn probed(&self, slot_index: u32) -> Option<Probed> {
        let context = self.at(slot_index)?;
        let probes = context.probes.load(Ordering::Acquire);
        let mut probed = Probed { probes, ..Probed::default() };
        for (place, state) in context.keys.iter().enumerate() {
            let number = state.key_number_plus_one.load(Ordering::Acquire).checked_sub(1);
            let Some(key) = number.and_then(|number| u32::try_from(number).ok()) else { continue };
            let end = state.window_end.load(Ordering::Relaxed);
            let up = Counts { key, end, received: state.received.load(Ordering::Relaxed) };
            // The client cannot have received what was never sealed.
            let sealed = state.send_counter.load(Ordering::Relaxed);
            let end = state.peer_end.load(Ordering::Relaxed).min(sealed);
            let received = state.peer_received.load(Ordering::Relaxed).min(end);
            if let (Some(to_gateway), Some(to_client)) =
                (probed.up.get_mut(place), probed.down.get_mut(place))
            {
                (*to_gateway, *to_client) = (Some(up), Some(Counts { key, end, received }));
            }
        }
        for (sample, cell) in probed.samples.iter_mut().zip(&context.samples) {
            *sample = cell.load(Ordering::Relaxed);
        }
        (probes != 0).then_some(probed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jvpn_tables::Mapping;
    use jvpn_tables::mapping::shared_memory;
    use proptest::prelude::*;
    use std::os::fd::AsFd;

    /// R1.4: a client cannot have received what was never sealed, whatever its probes say; before its first probe there
    /// is nothing, and a slot that does not exist has nothing.
    #[test]
    fn r1_4_what_a_client_says_is_bounded_by_what_was_sent() {
        let memory = shared_memory("CONTEXT", c"jvpn-test", size_of::<Context>()).unwrap();
        let contexts = Mapping::<Context>::new("CONTEXT", memory.as_fd(), 1).unwrap();
        let (context, view) = (&contexts[0], Contexts(&contexts));
        assert_eq!((view.probed(0), view.probed(1)), (None, None));
        let key = &context.keys[1];
        for (cell, value) in [
            (&context.probes, 3),
            (&context.samples[2], 77),
            (&key.key_number_plus_one, 6),
            (&key.window_end, 50),
            (&key.received, 40),
            (&key.send_counter, 20),
            (&key.peer_end, u64::MAX),
            (&key.peer_received, u64::MAX - 1),
        ] {
            cell.store(value, Ordering::Relaxed);
        }
        let probed = view.probed(0).unwrap();
        assert_eq!(probed.up, [None, Some(Counts { key: 5, end: 50, received: 40 })]);
        assert_eq!(probed.down, [None, Some(Counts { key: 5, end: 20, received: 20 })]);
        assert_eq!((probed.probes, probed.samples), (3, [0, 0, 77, 0, 0, 0]));
        key.key_number_plus_one.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(view.probed(0).unwrap().up, [None, None], "no such key number");
    }

    proptest! {
        /// R1.8: whatever octets stand in CONTEXT, reading any slot of it ends, and says nothing that cannot be.
        #[test]
        fn r1_8_any_octets_in_context(
            stores in proptest::collection::vec((any::<usize>(), prop_oneof![any::<u64>(), 0_u64..8]), 0..200),
            slot_index in prop_oneof![0_u32..4, any::<u32>()],
            key_number: u32,
        ) {
            let memory = shared_memory("CONTEXT", c"jvpn-test", 2 * size_of::<Context>()).unwrap();
            let words = 2 * size_of::<Context>() / 8;
            let cells = Mapping::<AtomicU64>::new("CONTEXT", memory.as_fd(), words).unwrap();
            for (at, word) in stores {
                cells[at % words].store(word, Ordering::Relaxed);
            }
            let contexts = Mapping::<Context>::new("CONTEXT", memory.as_fd(), 2).unwrap();
            let view = Contexts(&contexts);
            let is_there = slot_index < 2;
            let word = BindingWord(cells[1].load(Ordering::Relaxed));
            prop_assert!(is_there || !view.confirmed(slot_index, word));
            prop_assert!(view.last_heard(slot_index).is_none_or(|at| is_there && at.0 != 0));
            prop_assert!(view.peer_interval_ms(slot_index).is_none_or(|interval| is_there && interval != 0));
            prop_assert!(view.highest_counter(slot_index, key_number).is_none() || is_there);
            prop_assert!(view.sealed(slot_index, key_number).is_none() || is_there);
            prop_assert!(view.sending_key(slot_index).is_none() || is_there);
            let traffic = view.traffic(slot_index);
            prop_assert!(is_there || (traffic.packets_in, traffic.bytes_out, view.failed_opens(slot_index)) == (0, 0, 0));
            if let Some(probed) = view.probed(slot_index) {
                prop_assert!(is_there && probed.probes != 0);
                for (place, counts) in probed.down.iter().enumerate() {
                    let Some(counts) = counts else { continue };
                    let sealed = contexts[slot_index as usize].keys[place].send_counter.load(Ordering::Relaxed);
                    prop_assert!(counts.received <= counts.end && counts.end <= sealed);
                }
            }
        }
    }
}
