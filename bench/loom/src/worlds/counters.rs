//! What several workers use of one binding at once: the counter, the window, the key number.

use super::{PREEMPTIONS, explore, spawn, word};
use crate::{Cell, Mutant, tables};
use jvpn_abi::BootTime;
use jvpn_abi::tables::{Context, ReplayWindow};
use jvpn_abi::wire::{Suite, TAG_LEN};
use jvpn_crypto::aead::Opened;
use jvpn_crypto::window::Window;
use jvpn_crypto::{OpenKey, SealKey};
use jvpn_dataplane::slots::{confirm, flip_to, key_state, sending_number, take_counter};
use std::sync::Arc;

/// Looks at a window's lock before a worker gives up.
const LOCK_SPINS: u32 = 1;

/// R5.1: two workers take counters until the limit: none twice, none beyond it, and all below it are handed out.
pub fn send_counters(mutant: Mutant) {
    const LIMIT: u64 = 3;
    explore(mutant, None, move || {
        let context = Arc::new(tables::context(mutant, 0));
        let worker = |context: &Context<Cell>| [(); 2].map(|()| take_counter(key_state(context, 0), LIMIT));
        let far = Arc::clone(&context);
        let other = spawn(move || worker(&far));
        let mut taken: Vec<u64> = worker(&context).into_iter().flatten().collect();
        taken.extend(other.join().into_iter().flatten().flatten());
        taken.sort_unstable();
        assert_eq!(taken, [0, 1, 2]);
    });
}

/// A frame with this counter, opened: the only proof that a window takes.
pub(super) fn opened(counter: u64) -> Option<Opened> {
    let suite = Suite::ChaCha20Poly1305;
    let mut sealed = [0; 4 + TAG_LEN];
    SealKey::new(suite, &[7; 32]).seal(counter, &[], &[1; 4], &mut sealed).ok()?;
    OpenKey::new(suite, &[7; 32]).open(counter, &[], &sealed, &mut [0; 4]).ok()
}

/// R2.4: a counter that two workers opened at once is accepted once, and one that the window has moved past is not lost.
pub fn window(mutant: Mutant) {
    explore(mutant, Some(PREEMPTIONS), move || {
        let context = Arc::new((tables::context(mutant, 0), tables::window(mutant, 0)));
        let accepted =
            |(context, bits): &(Context<Cell>, ReplayWindow<Cell>), counters: &[u64]| -> Vec<u64> {
                let window = Window::with_lock_spins(key_state(context, 0), bits, LOCK_SPINS);
                let commit = |counter: &&u64| {
                    window.check(**counter).is_ok()
                        && opened(**counter).is_some_and(|proof| window.commit(proof).is_ok())
                };
                counters.iter().filter(commit).copied().collect()
            };
        let far = Arc::clone(&context);
        let other = spawn(move || accepted(&far, &[5]));
        let mut all = accepted(&context, &[5, 6]);
        all.extend(other.join().unwrap_or_default());
        // A worker may give up on a lock that is held; nothing is accepted twice.
        let fives = all.iter().filter(|counter| **counter == 5).count();
        assert!(fives <= 1, "5 was accepted {fives} times");
        let (context, bits) = &*context;
        let window = Window::with_lock_spins(key_state(context, 0), bits, LOCK_SPINS);
        assert!(all.iter().all(|counter| window.check(*counter).is_err()), "what was accepted is known");
    });
}

/// R5.2: of two workers that open frames under the next keys at once, one flips and one confirms; whoever seals reads the old
/// number or the new one.
pub fn rekey_flips_once(mutant: Mutant) {
    explore(mutant, None, move || {
        let context = Arc::new(tables::context(mutant, 0));
        jvpn_dataplane::slots::clear(&*context, word(1), 0, 0);
        let worker = |context: &Context<Cell>| {
            let confirmed = confirm(context, word(1), BootTime(1));
            let flipped = flip_to(context, 1);
            assert_eq!(sending_number(context), Some(1), "a worker seals with what it has opened under");
            (confirmed, flipped)
        };
        let far = Arc::clone(&context);
        let other = spawn(move || worker(&far));
        let here = worker(&context);
        let there = other.join().unwrap_or_default();
        assert!(here.0 != there.0, "confirmed once");
        assert!(here.1 != there.1, "flipped once");
    });
}
