//! The worlds, one module per property. Each function explores one world to its end and panics where it breaks.

mod counters;
mod handoff;
mod quiescence;
mod reports;
mod windows;

pub use counters::{rekey_flips_once, send_counters, window};
pub use handoff::{binding, keys_ring, slot_reuse};
pub use quiescence::quiescence;
pub use reports::{confirmations, full_ring, probes};
pub use windows::{window_assigned, window_reuse};

use crate::{Mutant, cell};
use jvpn_abi::tables::BindingWord;
use jvpn_abi::wire::SlotId;
use loom::model::Builder;
use std::sync::Arc;

/// Context switches of a thread that could have gone on, in worlds too large for all of them.
const PREEMPTIONS: usize = 2;

/// Explores what `world` can do.
fn explore(mutant: Mutant, preemptions: Option<usize>, world: impl Fn() + Sync + Send + 'static) {
    cell::set_fences(mutant);
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 20_000;
    // The environment may not make it check less.
    (builder.max_permutations, builder.max_duration, builder.checkpoint_file) = (None, None, None);
    let world = Arc::new(world);
    builder.check(move || {
        let world = Arc::clone(&world);
        spawn(move || world())
            .join()
            .unwrap_or_else(|_| unreachable!("a panic of any thread ends the world"));
    });
}

/// A thread of a world, with room for whole tables on its stack: loom's own has 32 KiB.
fn spawn<R: Send + 'static>(run: impl FnOnce() -> R + Send + 'static) -> loom::thread::JoinHandle<R> {
    const STACK_WORDS: usize = 1 << 16;
    let spawned = loom::thread::Builder::new().stack_size(STACK_WORDS).spawn(run);
    spawned.unwrap_or_else(|error| unreachable!("loom's threads are functions: {error}"))
}

/// The word of binding `serial` of the slot that all worlds are about.
fn word(serial: u32) -> BindingWord {
    // A serial that small is always sound.
    SlotId::new(0, serial).map_or(BindingWord::UNBOUND, |slot| BindingWord::bound(slot, u64::from(serial)))
}
