//! The hand-off: KEYS, the installer, CONTEXT made new, the workers' queues, the bound word.

use super::{PREEMPTIONS, explore, spawn, word};
use crate::{Cell, Guarded, Mutant, tables};
use bytemuck::Zeroable;
use jvpn_abi::tables::{
    BINDING_WORDS, BindingEntry, BindingWord, Context, InstallEntry, InstallOp, KeyRing, Reports,
};
use jvpn_abi::{BootTime, Endpoint, Word};
use jvpn_controlplane::engine::TableEvent;
use jvpn_controlplane::reports::Reading;
use jvpn_dataplane::boundary::Boundary;
use jvpn_dataplane::slots::{clear, confirm, is_confirmed, key_state, sending_number, take_counter};
use jvpn_tables::bindings::{bound_word, store_bound, store_unbound};
use jvpn_tables::keys::{put, take};
use loom::sync::atomic::AtomicU64;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What an earlier binding left in CONTEXT.
const LEFT: u64 = 77;

fn entry(seq: u64) -> InstallEntry {
    let octet = u8::try_from(seq).unwrap_or(u8::MAX);
    InstallEntry {
        seq,
        word: word(1).0,
        op: InstallOp::Install as u32,
        open_key: [octet; 32],
        seal_key: [octet; 32],
        ..InstallEntry::zeroed()
    }
}

/// R0.3: entries come out of KEYS whole and in order, however the two ends meet, also where the ring starts again; what was
/// taken is wiped.
pub fn keys_ring(mutant: Mutant) {
    const ENTRIES: u64 = 2;
    explore(mutant, Some(PREEMPTIONS), move || {
        let ring: Arc<KeyRing<Cell, 1>> = Arc::new(tables::keys(mutant));
        let far = Arc::clone(&ring);
        let installer = spawn(move || {
            let mut expected = 1;
            for _ in 0..2 {
                if let Some(taken) = take(&far) {
                    let octet = u8::try_from(expected).unwrap_or(u8::MAX);
                    let seen = (taken.seq, taken.open_key, taken.seal_key);
                    assert_eq!(seen, (expected, [octet; 32], [octet; 32]), "half an entry");
                    expected += 1;
                }
            }
            expected
        });
        let mut sent = 0;
        for _ in 0..3 {
            if sent < ENTRIES && put(&ring, &entry(sent + 1)) {
                sent += 1;
            }
        }
        let mut expected = installer.join().unwrap_or(0);
        while let Some(taken) = take(&ring) {
            assert_eq!((taken.seq, taken.seal_key[31]), (expected, u8::try_from(expected).unwrap_or(0)));
            expected += 1;
        }
        assert_eq!(expected, sent + 1, "every entry came once");
        let left: u64 = ring.entries.iter().flatten().map(|cell| cell.load(Ordering::Relaxed)).sum();
        assert_eq!(left, 0, "keys were left");
    });
}

/// A queue for one handout, as weak as a queue can be: who takes sees what was stored before it was pushed, no more.
struct Handout {
    there: AtomicU64,
    word: Guarded<BindingWord>,
}

impl Handout {
    fn push(&self, word: BindingWord) {
        self.word.change(|_| word);
        self.there.store(1, Ordering::Release);
    }

    fn pop(&self) -> Option<BindingWord> {
        (self.there.load(Ordering::Acquire) == 1).then(|| self.word.read())
    }
}

struct World {
    mutant: Mutant,
    binding: [Cell; BINDING_WORDS],
    contexts: [Context<Cell>; 1],
    reports: Reports<Cell, 1>,
    ring: KeyRing<Cell, 2>,
    handout: Handout,
}

/// R1.8, I11: control plane, installer and a worker. A worker that finds the slot bound has its keys and a CONTEXT in
/// which nothing of the binding before is left; an install that was taken is not reported as refused.
pub fn slot_reuse(mutant: Mutant) {
    explore(mutant, Some(PREEMPTIONS), move || {
        let world = Arc::new(World {
            mutant,
            binding: tables::binding(mutant),
            contexts: [tables::context(mutant, LEFT)],
            reports: tables::reports(mutant),
            ring: tables::keys(mutant),
            handout: Handout { there: AtomicU64::new(0), word: Guarded::new(BindingWord::UNBOUND) },
        });
        let threads: [fn(&World); 2] = [installer, worker];
        let threads = threads.map(|run| {
            let world = Arc::clone(&world);
            spawn(move || run(&world))
        });
        control_plane(&world);
        for thread in threads {
            let _ended = thread.join();
        }
    });
}

fn control_plane(world: &World) {
    let mut reading = Reading::new(&world.reports, 1, 1, false);
    reading.expect(1, 0, Some(word(1).0));
    assert!(put(&world.ring, &entry(1)));
    let mut events = Vec::new();
    reading.poll(&world.reports, &world.contexts, &mut events);
    assert!(!events.contains(&TableEvent::InstallRefused { seq: 1 }), "it was taken");
    if events.contains(&TableEvent::Installed { seq: 1 }) {
        store_bound(&world.binding, &BindingEntry::default(), word(1));
    }
}

/// The installer's part of `Installer::run` that other threads see.
fn installer(world: &World) {
    let Some(entry) = take(&world.ring) else { return };
    let word = BindingWord(entry.word);
    if world.mutant == Mutant::HandedOutBeforeCleared {
        world.handout.push(word);
        clear(&world.contexts[0], word, entry.key_number, 0);
    } else {
        clear(&world.contexts[0], word, entry.key_number, 0);
        world.handout.push(word);
    }
}

fn worker(world: &World) {
    let (mut boundary, mut installed) = (Boundary::default(), None);
    for _ in 0..2 {
        let report = &world.reports.worker[0];
        let _told = boundary.pass_with(&world.reports.requested_unbind_seq, report, || {
            installed = Some(world.handout.pop()?);
            Some(1)
        });
        let now = bound_word(&world.binding[0]);
        if now.is_bound() && installed == Some(now) {
            let context = &world.contexts[0];
            assert_eq!(context.tag.load(Ordering::Acquire), now.0);
            assert!(!is_confirmed(context, now), "nothing of the binding before is left");
            assert_eq!(sending_number(context), Some(0));
            let state = key_state(context, 0);
            assert_eq!(state.window_end.load(Ordering::Acquire), 0, "an empty window");
            assert_eq!(take_counter(state, 10), Some(0), "the first counter");
            assert!(confirm(context, now, BootTime(1)));
            return;
        }
    }
}

/// R1.8: unbind and bind are one step to whoever reads the word; the path that it reads behind a bound word is that word's.
pub fn binding(mutant: Mutant) {
    explore(mutant, None, move || {
        let cells: Arc<[Cell; BINDING_WORDS]> = Arc::new(tables::binding(mutant));
        let path = |port| BindingEntry::new(Endpoint::v4([1; 4], port), Endpoint::v4([2; 4], port));
        store_bound(&*cells, &path(1), word(1));
        let far = Arc::clone(&cells);
        let reader = spawn(move || {
            let seen = bound_word(&far[0]);
            if seen.is_bound() && seen.serial() == 2 {
                let mut words: [u64; BINDING_WORDS] =
                    std::array::from_fn(|at| if at == 0 { 0 } else { far[at].load(Ordering::Relaxed) });
                words[0] = 0;
                let entry: BindingEntry = bytemuck::cast(words);
                let (seen, expected) = ((entry.remote(), entry.local()), (path(2).remote(), path(2).local()));
                assert_eq!(seen, expected, "the path of another binding");
            }
            assert!(seen == BindingWord::UNBOUND || seen == word(1) || seen == word(2), "no such word");
        });
        store_unbound(&cells[0]);
        if mutant == Mutant::WordBeforePath {
            cells[0].store(word(2).0, Ordering::SeqCst);
        }
        store_bound(&*cells, &path(2), word(2));
        let _ended = reader.join();
    });
}
