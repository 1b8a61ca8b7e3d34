//! Replay windows are taken when a key comes and given back when its last holder has dropped it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use common::{Bench, CLIENT, SERVER, data_frame, inner, next_frame, slot};
use jvpn_abi::DropReason;
use jvpn_abi::tables::{BindingWord, InstallOp, window_place};
use jvpn_abi::wire::SlotId;
use jvpn_dataplane::pipeline::Verdict;
use std::sync::atomic::Ordering;

/// Another slot.
fn other(index: u32) -> SlotId {
    SlotId::new(index, 1).unwrap()
}

fn install_other(bench: &mut Bench, index: u32, op: InstallOp) -> bool {
    bench.install(op, |entry| {
        entry.slot = other(index).0;
        entry.word = BindingWord::bound(other(index), 1).0;
    })
}

/// The window that a slot's key set names, plus one.
fn named(bench: &Bench, slot: SlotId, number: usize) -> u64 {
    bench.tables.contexts[slot.index() as usize].keys[number % 2].window_plus_one.load(Ordering::SeqCst)
}

/// R8.2: a binding has a second window only while it is rekeyed, and the third key has no more than two.
#[test]
fn r8_2_a_second_window_only_during_a_rekey() {
    let mut bench = Bench::attached();
    assert_eq!(bench.installer.windows_in_use(), 1);
    for number in 1..5 {
        assert!(bench.install(InstallOp::AddKey, |entry| entry.key_number = number));
        assert_eq!(bench.installer.windows_in_use(), 2);
        assert_ne!(named(&bench, slot(), 0), named(&bench, slot(), 1));
        // An answer was lost: the keys of that number are replaced, and go on with its window.
        let before = named(&bench, slot(), number as usize);
        assert!(bench.install(InstallOp::AddKey, |entry| entry.key_number = number));
        assert_eq!((bench.installer.windows_in_use(), named(&bench, slot(), number as usize)), (2, before));
        bench.context().send_key.store(u64::from(number) + 1, Ordering::SeqCst);
        assert!(bench.install(InstallOp::DropKey, |entry| entry.key_number = number - 1));
        // What the worker gave back is dropped with the next run.
        bench.installer.run(&bench.mailbox);
        assert_eq!(bench.installer.windows_in_use(), 1);
    }
    let used: Vec<_> = (0..4).map(|index| bench.tables.window_owner(index).unwrap()).collect();
    let owned = used.iter().filter(|owner| owner.load(Ordering::SeqCst) != 0).count();
    assert_eq!(owned, 2, "two windows were ever touched");
}

/// R2.4, I11: a window is nobody else's while a worker still holds the key that it belongs to, and empty when it is.
#[test]
fn r2_4_a_window_is_not_made_new_under_a_worker() {
    let mut bench = Bench::attached();
    // The installer was told to drop the binding; the worker has not come to it yet.
    let mut entry = common::entry(InstallOp::Remove);
    entry.seq = 100;
    assert!(bench.mailbox.put(&entry));
    bench.installer.run(&bench.mailbox);
    assert_eq!(bench.installer.windows_in_use(), 1, "the worker holds it");
    let mut entry = common::entry(InstallOp::Install);
    (entry.seq, entry.slot) = (101, other(9).0);
    entry.word = BindingWord::bound(other(9), 1).0;
    assert!(bench.mailbox.put(&entry));
    bench.installer.run(&bench.mailbox);
    assert_eq!(named(&bench, other(9), 0), 2, "another one");
    assert_ne!(bench.tables.window(0).unwrap().words[0].load(Ordering::SeqCst), 0, "the first frame's bit");
    // Now it has: the window is used again, and is empty.
    bench.pipeline.apply(&bench.queues);
    assert!(install_other(&mut bench, 10, InstallOp::Install));
    assert_eq!(named(&bench, other(10), 0), 1);
    let word = |word: usize| bench.tables.window(0).unwrap().words[word].load(Ordering::SeqCst);
    assert!((0..128).all(|at| word(at) == 0));
    assert_eq!(bench.installer.windows_in_use(), 2);
}

/// R7.3, R2.4: a restarted data plane goes on with the window of each binding, also when new bindings come before the old
/// ones are adopted.
#[test]
fn r7_3_windows_outlive_the_process() {
    let mut bench = Bench::attached();
    assert!(install_other(&mut bench, 9, InstallOp::Install));
    bench.restart();
    for index in 10..14 {
        assert!(install_other(&mut bench, index, InstallOp::Install), "before anybody was adopted");
    }
    let named = |bench: &Bench, index| named(bench, other(index), 0);
    let mut all: Vec<_> = (9..14).map(|index| named(&bench, index)).collect();
    all.push(self::named(&bench, slot(), 0));
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 6, "{all:?}");
    assert!(bench.install(InstallOp::Adopt, |_| ()));
    let first = data_frame(0, &inner(CLIENT, SERVER, 64, b"first"));
    assert!(
        matches!(bench.inbound(&first), Verdict::Drop(DropReason::Replayed)),
        "accepted before the restart"
    );
    assert!(matches!(bench.inbound(&data_frame(1, &inner(CLIENT, SERVER, 64, b"x"))), Verdict::ToLan(_)));
    assert_eq!(bench.installer.windows_in_use(), 5);
    // What nobody adopted is kept until its slot is used again, or given up.
    let left = named(&bench, 9);
    assert!(install_other(&mut bench, 9, InstallOp::Remove));
    assert!(install_other(&mut bench, 14, InstallOp::Install));
    assert_eq!((named(&bench, 14), named(&bench, 9)), (left, 0));
}

/// R8.2: who nobody adopts gives up both windows as soon as the slot is used again.
#[test]
fn r8_2_a_slot_that_is_used_again_gives_up_both_windows() {
    let mut bench = Bench::attached();
    assert!(bench.install(InstallOp::AddKey, common::next_key));
    bench.restart();
    // Meanwhile the windows were looked at, and left alone.
    assert!(install_other(&mut bench, 10, InstallOp::Install));
    assert_eq!(named(&bench, other(10), 0), 3);
    assert!(bench.install(InstallOp::Install, |_| ()));
    assert!(install_other(&mut bench, 11, InstallOp::Install));
    let mut both = [named(&bench, slot(), 0), named(&bench, other(11), 0)];
    both.sort_unstable();
    assert_eq!(both, [1, 2]);
}

/// R2.4, R7.3: a binding whose window went to somebody else, or that names none, is not adopted.
#[test]
fn r2_4_without_its_window_nothing_is_adopted() {
    for spoil in 0..3 {
        let mut bench = Bench::attached();
        bench.restart();
        let state = &bench.context().keys[0];
        match spoil {
            0 => state.window_plus_one.store(0, Ordering::SeqCst),
            1 => state.window_plus_one.store(u64::MAX, Ordering::SeqCst),
            _ => bench.tables.window_owner(0).unwrap().store(0, Ordering::SeqCst),
        }
        assert!(!bench.install(InstallOp::Adopt, |_| ()), "{spoil}");
        assert!(bench.install(InstallOp::Install, |_| ()), "but made new");
        assert_eq!(bench.installer.windows_in_use(), 1);
    }
}

/// Writes into shared memory that a window is a key set's, in both places.
fn give(bench: &Bench, (slot_index, number): (u32, u32), window: u32) {
    let state = &bench.tables.contexts[slot_index as usize].keys[(number % 2) as usize];
    state.window_plus_one.store(u64::from(window) + 1, Ordering::SeqCst);
    bench.tables.window_owner(window).unwrap().store(window_place(slot_index, number), Ordering::SeqCst);
}

/// R2.4, I11: whatever shared memory says, keys that are replaced keep the window that this process gave them, and a window
/// that another key has is not adopted: else the two would clear each other's bits, and replays would pass.
#[test]
fn r2_4_a_window_in_use_is_nobody_elses() {
    let mut bench = Bench::attached();
    assert!(install_other(&mut bench, 9, InstallOp::Install));
    assert!(bench.install(InstallOp::AddKey, common::next_key));
    let own = named(&bench, slot(), 1);
    assert_eq!((named(&bench, other(9), 0), own), (2, 3));
    give(&bench, (slot().index(), 1), 1);
    assert!(bench.install(InstallOp::AddKey, common::next_key));
    assert_eq!(named(&bench, slot(), 1), own, "it goes on with its own, and says so again");
    assert_eq!(bench.installer.windows_in_use(), 3);
    // The next process has nothing but shared memory, but knows what it has adopted.
    bench.restart();
    give(&bench, (9, 0), 1);
    assert!(install_other(&mut bench, 9, InstallOp::Adopt));
    give(&bench, (slot().index(), 0), 1);
    assert!(!bench.install(InstallOp::Adopt, |_| ()));
    assert_eq!(bench.installer.windows_in_use(), 1);
}

/// R5.2: a word that was torn between two offers of one key does not stop the rekey, and the next process finds the window.
#[test]
fn r5_2_a_torn_word_does_not_stop_a_rekey() {
    for spoil in 0..3 {
        let mut bench = Bench::attached();
        assert!(bench.install(InstallOp::AddKey, common::next_key));
        let state = &bench.context().keys[1];
        match spoil {
            0 => state.window_plus_one.store(0, Ordering::SeqCst),
            1 => state.window_plus_one.store(u64::MAX, Ordering::SeqCst),
            _ => bench.tables.window_owner(1).unwrap().store(0, Ordering::SeqCst),
        }
        assert!(bench.install(InstallOp::AddKey, common::next_key), "{spoil}");
        assert!(matches!(
            bench.inbound(&next_frame(0, &inner(CLIENT, SERVER, 64, b"next"))),
            Verdict::ToLan(_)
        ));
        bench.restart();
        assert!(bench.install(InstallOp::Adopt, |_| ()), "{spoil}");
        assert!(bench.install(InstallOp::AdoptKey, common::next_key), "{spoil}");
        let again = next_frame(0, &inner(CLIENT, SERVER, 64, b"next"));
        assert!(matches!(bench.inbound(&again), Verdict::Drop(DropReason::Replayed)));
    }
}

/// R1.4, R7.3: each refusal stays to be read, however many follow: a refused adoption leaves no tag that could be taken for
/// the binding's, a refused rekey its sequence at the key set.
#[test]
fn r1_4_a_refusal_is_not_hidden_by_the_next() {
    let mut bench = Bench::attached();
    assert!(install_other(&mut bench, 9, InstallOp::Install));
    bench.restart();
    let tag =
        |bench: &Bench, slot: SlotId| bench.tables.contexts[slot.index() as usize].tag.load(Ordering::SeqCst);
    for window in 0..2 {
        bench.tables.window_owner(window).unwrap().store(0, Ordering::SeqCst);
    }
    assert_ne!((tag(&bench, slot()), tag(&bench, other(9))), (0, 0));
    assert!(!bench.install(InstallOp::Adopt, |_| ()));
    assert!(!install_other(&mut bench, 9, InstallOp::Adopt));
    assert_eq!((tag(&bench, slot()), tag(&bench, other(9))), (0, 0));
    // Neither has the key that is to be adopted.
    for index in [9, 10] {
        assert!(install_other(&mut bench, index, InstallOp::Install));
    }
    let adopt_key = |bench: &mut Bench, index, seq| {
        bench.install(InstallOp::AdoptKey, |entry| {
            entry.slot = other(index).0;
            entry.word = BindingWord::bound(other(index), 1).0;
            (entry.key_number, entry.seq) = (1, seq);
        })
    };
    assert!(!adopt_key(&mut bench, 9, 101));
    assert!(!adopt_key(&mut bench, 10, 102));
    let refused = |index: usize| bench.tables.contexts[index].keys[1].refused_seq.load(Ordering::SeqCst);
    assert_eq!((refused(9), refused(10)), (101, 102));
    assert_ne!((tag(&bench, other(9)), tag(&bench, other(10))), (0, 0), "the bindings stay");
}

/// R8.2: more keys than two per slot are refused, not served with somebody else's window. Only memory that was scribbled on
/// leads there.
#[test]
fn r8_2_without_a_free_window_nothing_is_installed() {
    let mut bench = Bench::new();
    let windows = 2 * common::SLOTS;
    // Every window is claimed by a slot that looks alive.
    for (place, index) in (1_u64..).zip(0..windows) {
        bench.tables.window_owner(index).unwrap().store(place, Ordering::SeqCst);
        let context = &bench.tables.contexts[(index / 2) as usize];
        context.tag.store(1, Ordering::SeqCst);
        let state = &context.keys[(index % 2) as usize];
        state.window_plus_one.store(u64::from(index) + 1, Ordering::SeqCst);
        state.key_number_plus_one.store(1, Ordering::SeqCst);
    }
    // Its own slot's windows are given up first: it can have two keys, and no third one.
    assert!(bench.install(InstallOp::Install, |_| ()));
    assert!(bench.install(InstallOp::AddKey, |entry| entry.key_number = 1));
    assert_eq!(bench.installer.windows_in_use(), 2);
    let mut third = common::entry(InstallOp::Install);
    third.seq = 100;
    assert!(bench.mailbox.put(&third));
    let done = bench.installer.run(&bench.mailbox);
    assert_eq!((done.handed, done.refused), (0, 1), "the worker still holds both");
    assert_eq!(bench.context().tag.load(Ordering::SeqCst), 0, "nobody adopts what is left");
}

/// R2.4, R7.3: a lock that a dead worker left is freed when its binding is adopted; one that a worker of this process may
/// hold is not, whatever is asked for.
#[test]
fn r2_4_a_lock_that_a_worker_may_hold_is_not_freed() {
    let mut bench = Bench::attached();
    assert!(bench.install(InstallOp::AddKey, common::next_key));
    let locks =
        |bench: &Bench| [0, 1].map(|at: usize| bench.context().keys[at].window_lock.load(Ordering::SeqCst));
    bench.context().keys.iter().for_each(|key| key.window_lock.store(1, Ordering::SeqCst));
    assert!(bench.install(InstallOp::Adopt, |_| ()));
    assert_eq!(locks(&bench), [1, 1]);
    bench.restart();
    assert!(bench.install(InstallOp::Adopt, |_| ()));
    assert_eq!(locks(&bench), [0, 0]);
}
