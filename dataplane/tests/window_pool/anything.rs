//! Whatever stands in shared memory, and whatever is asked for in whatever order.

use crate::rig::{Key, Rig, SLOTS, WINDOWS};
use jvpn_abi::tables::{InstallOp, window_place};
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::atomic::Ordering;

/// Something happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// An entry of the control plane's.
    Entry(InstallOp, Key),
    /// The worker comes to what it was handed.
    Apply,
    /// A frame opens under the next key.
    Flip(Key),
    /// A frame is accepted.
    Use(Key),
    /// The process dies, and the next one comes.
    Restart,
    /// Somebody writes this into the word that names a set's window.
    Name(Key, u64),
    /// Somebody writes this into the word that names a window's owner.
    Own(u32, u64),
    /// Both, so that they agree.
    Give(Key, u32),
    /// Somebody writes this into another word of a CONTEXT.
    Scribble(Key, u8, u64),
}

fn key() -> impl Strategy<Value = Key> {
    (0..SLOTS, 1_u32..3, 0_u32..4).prop_map(|(slot, serial, number)| Key { slot, serial, number })
}

fn op() -> impl Strategy<Value = InstallOp> {
    (1_u32..=6).prop_map(|number| InstallOp::from_number(number).unwrap())
}

fn step() -> impl Strategy<Value = Step> {
    let small = || prop_oneof![9 => 0_u64..u64::from(WINDOWS) + 3, 1 => any::<u64>()];
    prop_oneof![
        12 => (op(), key()).prop_map(|(op, key)| Step::Entry(op, key)),
        // What makes keys, of few bindings, so that much of it is taken.
        12 => (op(), key()).prop_map(|(op, key)| Step::Entry(op, Key { serial: 1, number: key.number % 2, ..key })),
        6 => Just(Step::Apply),
        2 => key().prop_map(Step::Flip),
        2 => key().prop_map(Step::Use),
        1 => Just(Step::Restart),
        2 => (key(), small()).prop_map(|(key, word)| Step::Name(key, word)),
        2 => (0..WINDOWS, small()).prop_map(|(window, word)| Step::Own(window, word)),
        6 => (key(), 0..WINDOWS).prop_map(|(key, window)| Step::Give(key, window)),
        2 => (key(), any::<u8>(), small()).prop_map(|(key, cell, word)| Step::Scribble(key, cell, word)),
    ]
}

fn take(rig: &mut Rig, step: Step) {
    match step {
        Step::Entry(op, key) => {
            let _is_taken = rig.run(op, key);
        }
        Step::Apply => rig.apply(),
        Step::Flip(key) => rig.flip(key),
        Step::Use(key) => rig.state(key.slot, key.number).window_end.store(1, Ordering::SeqCst),
        Step::Restart => rig.restart(),
        Step::Name(key, word) => {
            rig.state(key.slot, key.number).window_plus_one.store(word, Ordering::SeqCst);
        }
        Step::Own(window, word) => rig.tables.window_owner(window).unwrap().store(word, Ordering::SeqCst),
        Step::Give(key, window) => {
            let named = u64::from(window) + 1;
            rig.state(key.slot, key.number).window_plus_one.store(named, Ordering::SeqCst);
            let owner = rig.tables.window_owner(window).unwrap();
            owner.store(window_place(key.slot, key.number), Ordering::SeqCst);
        }
        Step::Scribble(key, cell, word) => {
            let (context, state) = (rig.context(key.slot), rig.state(key.slot, key.number));
            // A tag that means something, now and then.
            let tag = if word % 2 == 0 { key.word().0 } else { word };
            let cells = [
                (&context.tag, tag),
                (&context.send_key, word),
                (&state.key_number_plus_one, word),
                (&state.window_end, word),
                (&state.window_lock, word),
                (&state.refused_seq, word),
            ];
            let (cell, word) = cells[usize::from(cell) % cells.len()];
            cell.store(word, Ordering::SeqCst);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    /// R2.4, I11: whatever is asked for, in whatever order, over whatever stands in shared memory: nothing panics, and no
    /// window is ever two keys', among those that a worker has or is yet to be handed. Once everything is given up,
    /// every slot can have two keys: nothing was lost.
    #[test]
    fn r2_4_no_two_keys_ever_share_a_window(steps in prop::collection::vec(step(), 1..80)) {
        let mut rig = Rig::new();
        for (at, step) in steps.iter().enumerate() {
            take(&mut rig, *step);
            let mut whose = HashMap::new();
            for (key, window) in rig.live() {
                let other = *whose.entry(window).or_insert(key);
                prop_assert_eq!(other, key, "window {} after {:?}", window, &steps[..=at]);
            }
        }
        let first = |slot| Key { slot, serial: 3, number: 0 };
        for slot in 0..SLOTS {
            prop_assert!(rig.install(InstallOp::Remove, first(slot)));
        }
        prop_assert_eq!(rig.windows_in_use(), 0);
        for slot in 0..SLOTS {
            prop_assert!(rig.install(InstallOp::Install, first(slot)));
            let second = Key { number: 1, ..first(slot) };
            prop_assert!(rig.install(InstallOp::AddKey, second));
        }
        prop_assert_eq!(rig.windows_in_use(), WINDOWS as usize);
    }
}
