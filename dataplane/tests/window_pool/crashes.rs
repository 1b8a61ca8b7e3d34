//! An installer that dies after any of its stores.

use crate::rig::{Key, Rig, SLOTS, WINDOWS};
use crate::stores::after_every_store;
use jvpn_abi::tables::{BindingWord, InstallOp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

/// A data plane that is killed after each store of its installer, over and over, and then goes on as if it had not been.
struct Crashing {
    rig: Rig,
    /// Finds what the dead left.
    next: Rig,
    /// What the windows of keys that were used are full of: each key's own.
    bits: BTreeMap<Key, u64>,
    crashes: usize,
}

impl Crashing {
    fn new() -> Self {
        Self { rig: Rig::new(), next: Rig::new(), bits: BTreeMap::new(), crashes: 0 }
    }

    /// An entry, and a death after each store of it. Keys of other slots outlive each of them; when it is done, so do the
    /// slot's own.
    fn entry(&mut self, op: InstallOp, key: Key) {
        self.entry_that(op, key, true);
    }

    fn entry_that(&mut self, op: InstallOp, key: Key, is_taken: bool) {
        let others: BTreeSet<_> =
            self.rig.live().into_iter().map(|(key, _)| key).filter(|other| other.slot != key.slot).collect();
        let mut taken = None;
        let left = after_every_store(&mut self.rig, |rig| taken = Some(rig.run(op, key)));
        assert_eq!(taken, Some(is_taken), "{op:?} {key:?}");
        let mut before = self.rig.left();
        for (n, left) in left.into_iter().enumerate() {
            if left != before {
                self.die(&left, &others, &format!("{op:?} {key:?}, store {n}"));
                before = left;
            }
        }
        assert_eq!(before, self.rig.left(), "every store was seen");
        self.rig.apply();
        let live = self.rig.live().into_iter().map(|(key, _)| key).collect();
        self.die(&before, &live, &format!("{op:?} {key:?}, done"));
    }

    /// Frames were accepted under a key.
    fn accept(&mut self, key: Key) {
        let live = self.rig.live();
        let (_, window) = live.iter().find(|(live, _)| *live == key).unwrap();
        let own = self.bits.len() as u64 + 1;
        self.rig.window(*window).words.iter().for_each(|word| word.store(own, Ordering::SeqCst));
        self.rig.state(key.slot, key.number).window_end.store(own, Ordering::SeqCst);
        self.bits.insert(key, own);
    }

    /// The next process finds this, and adopts whatever it can. Each key has its own bits then, those in `must` are there,
    /// and when everybody has gone no window is missing.
    fn die(&mut self, left: &[u64], must: &BTreeSet<Key>, when: &str) {
        self.crashes += 1;
        for first in [0, 1] {
            self.next.go_on_with(left);
            let mut adopted = BTreeMap::new();
            for slot in 0..SLOTS {
                adopt(&mut self.next, slot, first);
            }
            for (key, window) in self.next.live() {
                let bits = self.bits.get(&key).copied().unwrap_or(0);
                assert_eq!(self.next.bits(window), Some(bits), "bits of {key:?}: {when}");
                assert_eq!(adopted.insert(window, key), None, "window {window}: {when}");
            }
            // Who names a key that is not there as the one in use gets no other.
            let in_use = |key: &&Key| must.iter().any(|of| of.slot == key.slot && of.number % 2 == first);
            let adopted: BTreeSet<_> = adopted.into_values().collect();
            let missing: Vec<_> = must.iter().filter(in_use).filter(|key| !adopted.contains(key)).collect();
            assert_eq!(missing, Vec::<&Key>::new(), "{when}");
            self.nothing_leaks(when);
        }
    }

    fn nothing_leaks(&mut self, when: &str) {
        let (next, born) = (&mut self.next, |slot| Key { slot, serial: 100, number: 0 });
        for slot in 0..SLOTS {
            assert!(next.install(InstallOp::Install, born(slot)), "{when}");
        }
        for slot in 0..SLOTS {
            assert!(next.install(InstallOp::AddKey, Key { number: 1, ..born(slot) }), "{when}");
        }
        assert_eq!(next.windows_in_use(), WINDOWS as usize, "{when}");
        assert!((0..WINDOWS).all(|window| next.bits(window) == Some(0)), "{when}");
    }
}

/// Asks for both keys that stand in a slot's CONTEXT, one as the one in use.
fn adopt(rig: &mut Rig, slot: u32, first: u32) {
    let word = BindingWord(rig.context(slot).tag.load(Ordering::SeqCst));
    if !word.is_bound() {
        return;
    }
    let number = |set| rig.state(slot, set).key_number_plus_one.load(Ordering::SeqCst).checked_sub(1);
    let numbers = [first, first ^ 1].map(number);
    for (op, number) in [InstallOp::Adopt, InstallOp::AdoptKey].into_iter().zip(numbers) {
        if let Some(number) = number {
            let key = Key { slot, serial: word.serial(), number: u32::try_from(number).unwrap() };
            let _is_there = rig.install(op, key);
        }
    }
}

const fn key(slot: u32, serial: u32, number: u32) -> Key {
    Key { slot, serial, number }
}

impl Crashing {
    fn rekey(&mut self, next: Key) {
        self.entry(InstallOp::AddKey, next);
        // Its answer was lost.
        self.entry(InstallOp::AddKey, next);
        self.rig.flip(next);
        self.accept(next);
        self.entry(InstallOp::DropKey, Key { number: next.number - 1, ..next });
    }

    fn born(&mut self, key: Key) {
        self.entry(InstallOp::Install, key);
        self.accept(key);
    }
}

/// R7.3, R2.4: wherever the installer dies, the next one finds each window whole and its key's, or no window: no two keys
/// share one, no adopted key lacks what it has accepted, no session loses its window for another one's sake, and no window
/// is lost.
#[test]
fn r7_3_an_installer_may_die_after_any_store() {
    let mut world = Crashing::new();
    world.born(key(0, 1, 0));
    world.born(key(1, 1, 0));
    // The dropped key's window goes to another slot, and its set gets another one.
    world.rekey(key(0, 1, 1));
    world.born(key(2, 1, 0));
    world.rekey(key(0, 1, 2));
    // To the same set of the same slot again.
    world.rekey(key(0, 1, 3));
    world.entry(InstallOp::Remove, key(1, 1, 0));
    world.born(key(1, 2, 0));
    // Over one that is still there.
    world.born(key(1, 3, 0));
    world.entry(InstallOp::AddKey, key(1, 3, 1));
    assert!(world.crashes > 500, "{} deaths", world.crashes);
}

/// R7.3, R2.4: the same of a data plane that goes on with what it finds, also when new bindings come before the old ones.
#[test]
fn r7_3_a_successor_may_die_after_any_store() {
    let mut world = Crashing::new();
    for slot in 0..3 {
        world.born(key(slot, 1, 0));
    }
    world.entry(InstallOp::AddKey, key(0, 1, 1));
    world.rekey(key(1, 1, 1));
    world.rig.restart();
    world.born(key(3, 1, 0));
    world.entry(InstallOp::Adopt, key(0, 1, 0));
    world.entry(InstallOp::AdoptKey, key(0, 1, 1));
    // The dropped key, which nobody may ask for, and one that never was: the binding is given up.
    world.entry_that(InstallOp::Adopt, key(2, 1, 1), false);
    world.born(key(2, 2, 0));
    // Not adopted, but born again.
    world.born(key(1, 2, 0));
    assert!(world.crashes > 300, "{} deaths", world.crashes);
}
