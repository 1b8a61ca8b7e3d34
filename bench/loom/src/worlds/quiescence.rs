//! Unbind, then quiescence: once the control plane has read it, no worker seals or opens with the old binding.

use super::{PREEMPTIONS, explore, spawn, word};
use crate::{Cell, Guarded, Mutant, tables};
use jvpn_abi::Word;
use jvpn_abi::tables::{BINDING_WORDS, BindingEntry, Context, Reports};
use jvpn_controlplane::engine::{ContextView, TableEvent};
use jvpn_controlplane::reports::{Reading, request_unbind};
use jvpn_controlplane::tables::Contexts;
use jvpn_dataplane::boundary::Boundary;
use jvpn_tables::bindings::{bound_word, store_bound, store_unbound};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Batches of each worker.
const BATCHES: usize = 2;

struct World<const WORKERS: usize> {
    mutant: Mutant,
    binding: [Cell; BINDING_WORDS],
    contexts: [Context<Cell>; 1],
    reports: Reports<Cell, WORKERS>,
    /// The keys of the old binding: loom objects if a worker may use them while the control plane takes them away, that is
    /// if no order holds between the two. What each worker has sealed is in its place.
    keys: [Guarded<u64>; WORKERS],
}

/// R1.1, I1: `WORKERS` workers in their batches, a control plane that unbinds and goes on when told that all have passed.
/// What was sealed for the binding is all counted by then.
pub fn quiescence<const WORKERS: usize>(mutant: Mutant) {
    let preemptions = (WORKERS > 1).then_some(PREEMPTIONS);
    explore(mutant, preemptions, move || {
        let world = Arc::new(World::<WORKERS> {
            mutant,
            binding: tables::binding(mutant),
            contexts: [tables::context(mutant, 0)],
            reports: tables::reports(mutant),
            keys: std::array::from_fn(|_| Guarded::new(0)),
        });
        store_bound(&world.binding, &BindingEntry::default(), word(1));
        let workers: Vec<_> = (0..WORKERS)
            .map(|index| {
                let world = Arc::clone(&world);
                spawn(move || worker(&world, index))
            })
            .collect();
        control_plane(&world);
        for worker in workers {
            let _ended = worker.join();
        }
    });
}

fn worker<const WORKERS: usize>(world: &World<WORKERS>, index: usize) {
    let mut boundary = Boundary::default();
    for _ in 0..BATCHES {
        pass(&mut boundary, world, index);
        let is_bound = world.mutant == Mutant::WordNotChecked || bound_word(&world.binding[0]) == word(1);
        if is_bound {
            if world.mutant == Mutant::ReportWithinBatch {
                pass(&mut boundary, world, index);
            }
            world.keys[index].change(|sealed| sealed + 1);
            world.contexts[0].packets_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn pass<const WORKERS: usize>(boundary: &mut Boundary, world: &World<WORKERS>, index: usize) {
    let _told =
        boundary.pass_with(&world.reports.requested_unbind_seq, &world.reports.worker[index], || None);
}

fn control_plane<const WORKERS: usize>(world: &World<WORKERS>) {
    let counted = if world.mutant == Mutant::OneWorkerCounts { 1 } else { WORKERS };
    let mut reading = Reading::new(&world.reports, 1, counted, false);
    if world.mutant == Mutant::RequestBeforeWord {
        request_unbind(&world.reports, 1);
        store_unbound(&world.binding[0]);
    } else {
        store_unbound(&world.binding[0]);
        request_unbind(&world.reports, 1);
    }
    let mut events = Vec::new();
    reading.poll(&world.reports, &world.contexts, &mut events);
    if world.mutant == Mutant::QuiescenceSkipped || events.contains(&TableEvent::Quiesced { seq: 1 }) {
        // The next binding of the session may be installed: nothing seals or opens with the old one any more.
        let sealed: u64 = world.keys.iter().map(Guarded::read).sum();
        world.keys.iter().for_each(|keys| keys.change(|_| 0));
        assert_eq!(Contexts(&world.contexts).traffic(0).packets_out, sealed, "all of it is counted");
    }
}
