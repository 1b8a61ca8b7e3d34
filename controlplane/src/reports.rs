//! REPORTS and CONTEXT, read: what the workers say has happened, as events for the engine.
//!
//! The memory belongs to another process. Whatever stands in it – torn, hostile, from an earlier process – leads to an
//! event that the engine checks, or to none; never to a panic, an endless loop or an access out of bounds.

use crate::engine::TableEvent;
use jvpn_abi::Word;
use jvpn_abi::tables::{BindingWord, Context, EVENT_RING_LEN, Reports, WorkerReport};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;

/// Asks the workers to pass an unbind: only after the words that it stands for were stored.
pub fn request_unbind<A: Word, const WORKERS: usize>(reports: &Reports<A, WORKERS>, seq: u64) {
    reports.requested_unbind_seq.store(seq, Ordering::SeqCst);
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Everything was unbound under this sequence; waiting for the workers to pass it.
    Clearing(u64),
    /// What was not kept was unbound under this sequence; waiting as well.
    Adopting(u64),
    /// The engine knows of the data plane.
    Up,
}

/// An entry on its way to the workers.
#[derive(Debug)]
struct Installing {
    seq: u64,
    slot_index: u32,
    /// The tag that CONTEXT must carry if the installer took the entry; `None` for a removal.
    expect: Option<u64>,
}

/// What has been read so far.
#[derive(Debug)]
pub struct Reading {
    slots: u32,
    workers: usize,
    context_kept: bool,
    phase: Phase,
    quiesced: u64,
    events_lost: Vec<u64>,
    installing: VecDeque<Installing>,
}

impl Reading {
    /// Starts to read; nothing is expected yet.
    #[must_use]
    pub fn new<A: Word, const WORKERS: usize>(
        reports: &Reports<A, WORKERS>,
        slots: u32,
        workers: usize,
        context_kept: bool,
    ) -> Self {
        let events_lost = reports.worker.iter().map(|w| w.events_lost.load(Ordering::Acquire)).collect();
        let (phase, installing) = (Phase::Clearing(0), VecDeque::new());
        Self { slots, workers, context_kept, phase, quiesced: 0, events_lost, installing }
    }

    /// Everything was unbound under `seq`: once every worker has passed that, the data plane is up.
    pub const fn clearing(&mut self, seq: u64) {
        self.phase = Phase::Clearing(seq);
    }

    /// What an earlier control plane left was adopted, the rest unbound under `seq`: once every worker has passed that,
    /// the data plane is adopted.
    pub const fn adopting(&mut self, seq: u64) {
        self.phase = Phase::Adopting(seq);
    }

    /// Whether the engine was told of the data plane.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up)
    }

    /// An entry was put into KEYS. `expect` is the tag that shows that the installer took it; `None` for a removal.
    pub fn expect(&mut self, seq: u64, slot_index: u32, expect: Option<u64>) {
        self.installing.push_back(Installing { seq, slot_index, expect });
    }

    /// What is new since the last call.
    pub fn poll<A: Word, const WORKERS: usize>(
        &mut self,
        reports: &Reports<A, WORKERS>,
        contexts: &[Context<A>],
        into: &mut Vec<TableEvent>,
    ) {
        let passed = self.lowest(reports, |worker| worker.unbind_seq.load(Ordering::Acquire));
        let (seq, event) = match self.phase {
            Phase::Clearing(seq) => {
                (seq, Some(TableEvent::DataPlaneUp { slots: self.slots, context_kept: self.context_kept }))
            }
            Phase::Adopting(seq) => (seq, Some(TableEvent::Adopted { slots: self.slots })),
            Phase::Up => (0, None),
        };
        if let Some(event) = event {
            if passed < seq {
                return;
            }
            self.phase = Phase::Up;
            // What the engine has unbound meanwhile is above that, and is reported of its own.
            self.quiesced = seq;
            into.push(event);
        }
        if passed > self.quiesced {
            self.quiesced = passed;
            into.push(TableEvent::Quiesced { seq: passed });
        }
        self.poll_installed(reports, contexts, into);
        for index in 0..self.workers {
            self.poll_confirmed(index, reports, contexts, into);
        }
    }

    fn lowest<A: Word, const WORKERS: usize>(
        &self,
        reports: &Reports<A, WORKERS>,
        of: impl Fn(&WorkerReport<A>) -> u64,
    ) -> u64 {
        reports.worker.iter().take(self.workers).map(of).min().unwrap_or(0)
    }

    fn poll_installed<A: Word, const WORKERS: usize>(
        &mut self,
        reports: &Reports<A, WORKERS>,
        contexts: &[Context<A>],
        into: &mut Vec<TableEvent>,
    ) {
        let applied = self.lowest(reports, |worker| worker.install_seq.load(Ordering::Acquire));
        while let Some(first) = self.installing.pop_front_if(|first| first.seq <= applied) {
            // The installer makes the tag before it hands out; a refused binding leaves another one. A refused rekey
            // leaves the same, but its sequence at the key set, where refusals of others do not replace it.
            let context = contexts.get(first.slot_index as usize);
            let tag = context.map_or(0, |context| context.tag.load(Ordering::Acquire));
            let seq = first.seq;
            let is_this = |cell: &A| cell.load(Ordering::Acquire) == seq;
            let refused = is_this(&reports.refused_seq)
                || context.is_some_and(|context| context.keys.iter().any(|key| is_this(&key.refused_seq)));
            let taken = first.expect.is_none_or(|word| word == tag && !refused);
            into.push(if taken { TableEvent::Installed { seq } } else { TableEvent::InstallRefused { seq } });
        }
    }

    fn poll_confirmed<A: Word, const WORKERS: usize>(
        &mut self,
        index: usize,
        reports: &Reports<A, WORKERS>,
        contexts: &[Context<A>],
        into: &mut Vec<TableEvent>,
    ) {
        let (Some(worker), Some(known_lost)) = (reports.worker.get(index), self.events_lost.get_mut(index))
        else {
            return;
        };
        let written = worker.events_written.load(Ordering::Acquire);
        let read = worker.events_read.load(Ordering::Relaxed);
        let lost = worker.events_lost.load(Ordering::Acquire);
        let waiting = written.wrapping_sub(read);
        let confirmed = |slot_index: u64| confirmation(contexts, slot_index);
        if waiting > EVENT_RING_LEN as u64 || *known_lost != lost {
            // Events were lost, or the ring's counters make no sense: every slot may have been confirmed.
            *known_lost = lost;
            into.extend((0..u64::from(self.slots)).filter_map(confirmed));
        } else {
            let slots = (0..waiting).filter_map(|n| {
                let at = read.wrapping_add(n) as usize % EVENT_RING_LEN;
                worker.events.get(at).map(|event| event.load(Ordering::Relaxed))
            });
            into.extend(slots.filter_map(confirmed));
        }
        worker.events_read.store(written, Ordering::Release);
    }
}

fn confirmation<A: Word>(contexts: &[Context<A>], slot_index: u64) -> Option<TableEvent> {
    let context = contexts.get(usize::try_from(slot_index).ok()?)?;
    let word = BindingWord(context.confirmed.load(Ordering::Acquire));
    let slot_index = u32::try_from(slot_index).ok()?;
    word.is_bound().then_some(TableEvent::Confirmed { slot_index, word })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jvpn_abi::wire::SlotId;
    use jvpn_tables::Mapping;
    use jvpn_tables::mapping::shared_memory;
    use proptest::prelude::*;
    use std::os::fd::AsFd;

    const SLOTS: u32 = 8;

    struct Memory {
        reports: Mapping<Reports>,
        contexts: Mapping<Context>,
    }

    fn memory() -> Memory {
        let reports = shared_memory("REPORTS", c"jvpn-test", size_of::<Reports>()).unwrap();
        let contexts = shared_memory("CONTEXT", c"jvpn-test", SLOTS as usize * size_of::<Context>()).unwrap();
        Memory {
            reports: Mapping::new("REPORTS", reports.as_fd(), 1).unwrap(),
            contexts: Mapping::new("CONTEXT", contexts.as_fd(), SLOTS as usize).unwrap(),
        }
    }

    fn poll(reading: &mut Reading, memory: &Memory) -> Vec<TableEvent> {
        let mut events = Vec::new();
        reading.poll(&memory.reports[0], &memory.contexts, &mut events);
        events
    }

    /// R1.1: quiescence counts only when the slowest worker has passed.
    #[test]
    fn the_slowest_worker_counts() {
        let memory = memory();
        let mut reading = Reading::new(&memory.reports[0], SLOTS, 2, true);
        reading.clearing(5);
        memory.reports[0].worker[0].unbind_seq.store(9, Ordering::Relaxed);
        assert_eq!(poll(&mut reading, &memory), []);
        memory.reports[0].worker[1].unbind_seq.store(5, Ordering::Relaxed);
        assert_eq!(
            poll(&mut reading, &memory),
            [TableEvent::DataPlaneUp { slots: SLOTS, context_kept: true }]
        );
        memory.reports[0].worker[1].unbind_seq.store(7, Ordering::Relaxed);
        assert_eq!(poll(&mut reading, &memory), [TableEvent::Quiesced { seq: 7 }]);
        assert_eq!(poll(&mut reading, &memory), [], "told once");
    }

    /// I10: what the engine unbinds before the adoption is reported, is reported too: its slot has to become free.
    #[test]
    fn an_unbind_that_overtakes_the_adoption_is_reported() {
        let memory = memory();
        let mut reading = Reading::new(&memory.reports[0], SLOTS, 1, true);
        reading.adopting(5);
        memory.reports[0].worker[0].unbind_seq.store(9, Ordering::Relaxed);
        let events = [TableEvent::Adopted { slots: SLOTS }, TableEvent::Quiesced { seq: 9 }];
        assert_eq!(poll(&mut reading, &memory), events);
        assert_eq!(poll(&mut reading, &memory), [], "told once");
    }

    #[test]
    fn an_install_is_believed_by_its_tag() {
        let memory = memory();
        let mut reading = Reading::new(&memory.reports[0], SLOTS, 1, true);
        let word = BindingWord::bound(SlotId::new(3, 1).unwrap(), 1);
        let _up = poll(&mut reading, &memory);
        reading.expect(1, 3, Some(word.0));
        reading.expect(2, 4, Some(word.0));
        reading.expect(3, 4, None);
        memory.contexts[3].tag.store(word.0, Ordering::Relaxed);
        memory.reports[0].worker[0].install_seq.store(2, Ordering::Relaxed);
        let expected = [TableEvent::Installed { seq: 1 }, TableEvent::InstallRefused { seq: 2 }];
        assert_eq!(poll(&mut reading, &memory), expected);
        memory.reports[0].worker[0].install_seq.store(3, Ordering::Relaxed);
        assert_eq!(poll(&mut reading, &memory), [TableEvent::Installed { seq: 3 }]);
    }

    /// R1.4: of several refusals in one burst each is reported, not the last one alone: a rekey that is believed to be there
    /// would be answered, and its client's frames dropped.
    #[test]
    fn r1_4_every_refused_rekey_of_a_burst_is_reported() {
        let memory = memory();
        let mut reading = Reading::new(&memory.reports[0], SLOTS, 1, true);
        let word = |slot| BindingWord::bound(SlotId::new(slot, 1).unwrap(), 1).0;
        let _up = poll(&mut reading, &memory);
        for (seq, slot) in [(1, 3), (2, 4), (3, 5)] {
            memory.contexts[slot as usize].tag.store(word(slot), Ordering::Relaxed);
            reading.expect(seq, slot, Some(word(slot)));
        }
        memory.contexts[3].keys[1].refused_seq.store(1, Ordering::Relaxed);
        memory.contexts[5].keys[0].refused_seq.store(3, Ordering::Relaxed);
        memory.reports[0].refused_seq.store(3, Ordering::Relaxed);
        memory.reports[0].worker[0].install_seq.store(3, Ordering::Relaxed);
        let expected = [
            TableEvent::InstallRefused { seq: 1 },
            TableEvent::Installed { seq: 2 },
            TableEvent::InstallRefused { seq: 3 },
        ];
        assert_eq!(poll(&mut reading, &memory), expected);
    }

    /// A rekey leaves the tag as it is, so its refusal is told by its sequence, here the one that was refused last.
    #[test]
    fn a_refused_rekey_is_told_apart() {
        let memory = memory();
        let mut reading = Reading::new(&memory.reports[0], SLOTS, 1, true);
        let word = BindingWord::bound(SlotId::new(3, 1).unwrap(), 1);
        let _up = poll(&mut reading, &memory);
        memory.contexts[3].tag.store(word.0, Ordering::Relaxed);
        for (seq, refused) in [(1, false), (2, true), (3, false)] {
            reading.expect(seq, 3, Some(word.0));
            if refused {
                memory.reports[0].refused_seq.store(seq, Ordering::Relaxed);
            }
            memory.reports[0].worker[0].install_seq.store(seq, Ordering::Relaxed);
            let event =
                if refused { TableEvent::InstallRefused { seq } } else { TableEvent::Installed { seq } };
            assert_eq!(poll(&mut reading, &memory), [event]);
        }
    }

    /// No confirmation is lost, not even when the ring was full.
    #[test]
    fn confirmations_come_by_ring_or_by_looking() {
        let memory = memory();
        let mut reading = Reading::new(&memory.reports[0], SLOTS, 1, true);
        let word = BindingWord::bound(SlotId::new(3, 1).unwrap(), 1);
        memory.contexts[3].confirmed.store(word.0, Ordering::Relaxed);
        let _up = poll(&mut reading, &memory);
        let worker = &memory.reports[0].worker[0];
        worker.events[0].store(3, Ordering::Relaxed);
        worker.events_written.store(1, Ordering::Relaxed);
        let confirmed = [TableEvent::Confirmed { slot_index: 3, word }];
        assert_eq!(poll(&mut reading, &memory), confirmed);
        assert_eq!(poll(&mut reading, &memory), []);
        worker.events_lost.store(1, Ordering::Relaxed);
        assert_eq!(poll(&mut reading, &memory), confirmed);
    }

    proptest! {
        /// R1.8: whatever stands in the shared memory, reading it ends, and names only slots that exist.
        #[test]
        fn hostile_memory(words in proptest::collection::vec(any::<u64>(), 12), near: bool) {
            let memory = memory();
            let mut reading = Reading::new(&memory.reports[0], SLOTS, 2, true);
            let worker = &memory.reports[0].worker[0];
            worker.unbind_seq.store(words[0], Ordering::Relaxed);
            worker.install_seq.store(words[1], Ordering::Relaxed);
            worker.events_written.store(words[2], Ordering::Relaxed);
            worker.events_read.store(if near { words[2].wrapping_sub(words[3] % 2_000) } else { words[3] }, Ordering::Relaxed);
            worker.events_lost.store(words[4], Ordering::Relaxed);
            for (event, word) in worker.events.iter().zip(words.iter().cycle()) {
                event.store(*word, Ordering::Relaxed);
            }
            for (context, word) in memory.contexts.iter().zip(words.iter().cycle()) {
                context.confirmed.store(*word, Ordering::Relaxed);
                context.tag.store(*word, Ordering::Relaxed);
            }
            reading.expect(words[5], words[6] as u32, Some(words[7]));
            for _ in 0..3 {
                for event in poll(&mut reading, &memory) {
                    if let TableEvent::Confirmed { slot_index, .. } = event {
                        prop_assert!(slot_index < SLOTS);
                    }
                }
            }
        }
    }
}
