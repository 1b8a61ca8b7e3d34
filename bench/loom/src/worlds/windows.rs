//! Replay windows go from one key to another.

use super::{PREEMPTIONS, explore, spawn};
use crate::{Cell, Mutant, Place, tables};
use jvpn_abi::Word;
use jvpn_abi::tables::{KeyState, ReplayWindow, window_place};
use jvpn_crypto::window::Window;
use jvpn_dataplane::slots::{assign, key_state};
use loom::sync::atomic::AtomicU64;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Looks at a window's lock before a worker gives up.
const LOCK_SPINS: u32 = 1;
/// What the key before has left in the window.
const LEFT: u64 = 77;
/// Whose the window was.
const FORMER: u64 = window_place(0, 0);
/// Whose the window is next.
const NEXT: u64 = window_place(1, 0);

struct World {
    mutant: Mutant,
    /// The key set that has the window, and the one that gets it.
    contexts: [jvpn_abi::tables::Context<Cell>; 2],
    bits: ReplayWindow<Cell>,
    owner: Cell,
    /// The queues between installer and workers, as weak as queues can be.
    retired: AtomicU64,
    handed_out: AtomicU64,
}

impl World {
    fn new(mutant: Mutant, left: u64) -> Self {
        Self {
            mutant,
            contexts: std::array::from_fn(|_| tables::context(mutant, 0)),
            bits: tables::window(mutant, left),
            owner: Cell::watched(mutant, Place::WindowOwner, FORMER),
            retired: AtomicU64::new(0),
            handed_out: AtomicU64::new(0),
        }
    }

    fn state(&self, slot: usize) -> &KeyState<Cell> {
        key_state(&self.contexts[slot], 0)
    }

    fn accepts(&self, slot: usize, counter: u64) -> bool {
        let window = Window::with_lock_spins(self.state(slot), &self.bits, LOCK_SPINS);
        super::counters::opened(counter).is_some_and(|proof| window.commit(proof).is_ok())
    }

    fn installer(&self) {
        let is_early = self.mutant == Mutant::WindowReusedEarly;
        if is_early || self.retired.load(Ordering::Acquire) == 1 {
            assign(&self.bits, &self.owner, &self.state(1).window_plus_one, (0, NEXT));
            self.handed_out.store(1, Ordering::Release);
        }
    }
}

/// R2.4, I11: a worker accepts a frame under the old key and gives it back; the installer makes its window another key's.
/// What that key's worker accepts is accepted once, and nothing that the old key accepted is in its way.
pub fn window_reuse(mutant: Mutant) {
    explore(mutant, Some(PREEMPTIONS), move || {
        let world = Arc::new(World::new(mutant, 0));
        let threads: [fn(&World); 2] = [
            |world| {
                let _known = world.accepts(0, 5);
                world.retired.store(1, Ordering::Release);
            },
            World::installer,
        ];
        let threads = threads.map(|run| {
            let world = Arc::clone(&world);
            spawn(move || run(&world))
        });
        if world.handed_out.load(Ordering::Acquire) == 1 {
            assert!(world.accepts(1, 6), "the first frame");
            assert!(world.accepts(1, 5), "late, but never seen under this key");
            assert!(!world.accepts(1, 6), "accepted twice");
        }
        for thread in threads {
            let _ended = thread.join();
        }
    });
}

/// R7.3, R2.4: a window is a key set's only when it is empty and the key set names it, so that whoever goes on with what is
/// there after a crash goes on with a whole window or finds none. The same holds of the key set before: as long as the window
/// is its, all bits are.
pub fn window_assigned(mutant: Mutant) {
    explore(mutant, None, move || {
        let world = Arc::new(World::new(mutant, LEFT));
        let far = Arc::clone(&world);
        let installer = spawn(move || {
            if far.mutant == Mutant::OwnerKeptWhileCleared {
                far.bits.words[0].store(0, Ordering::SeqCst);
            }
            assign(&far.bits, &far.owner, &far.state(1).window_plus_one, (0, NEXT));
        });
        // Bits that are read before the owner are no newer than it, those that are read after it no older.
        let bits = || world.bits.words[0].load(Ordering::SeqCst);
        let before = bits();
        match world.owner.load(Ordering::SeqCst) {
            NEXT => {
                assert_eq!(bits(), 0, "bits of the key before");
                assert_eq!(world.state(1).window_plus_one.load(Ordering::SeqCst), 1, "named");
            }
            FORMER => assert_eq!(before, LEFT, "bits lost"),
            owner => assert_eq!(owner, 0),
        }
        let _ended = installer.join();
    });
}
