//! Every world holds, and every mutant of it is found.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use jvpn_loom::{Mutant, Place, worlds};
use std::panic::catch_unwind;

/// A world by its name, and what loom must find in it.
struct Case {
    world: fn(Mutant),
    mutants: &'static [Mutant],
}

/// Runs the world as it is, then with everything that is to be found.
fn check(Case { world, mutants }: Case) {
    world(Mutant::None);
    for mutant in mutants {
        let found = catch_unwind(|| world(*mutant)).is_err();
        assert!(found, "{mutant:?} was not found");
    }
}

/// R1.1, I1: after quiescence no worker seals or opens with the old binding.
#[test]
fn r1_1_after_quiescence_nobody_uses_the_old_keys() {
    check(Case {
        world: worlds::quiescence::<1>,
        mutants: &[
            Mutant::QuiescenceSkipped,
            Mutant::RequestBeforeWord,
            Mutant::ReportWithinBatch,
            Mutant::WordNotChecked,
            Mutant::Relaxed(Place::UnbindRequest),
            Mutant::Relaxed(Place::UnbindReport),
        ],
    });
}

/// R1.1, I1: the same with two workers, of which the slower counts.
#[test]
fn r1_1_the_slowest_of_two_workers_counts() {
    check(Case { world: worlds::quiescence::<2>, mutants: &[Mutant::OneWorkerCounts] });
}

/// R0.3: no half entry comes out of KEYS.
#[test]
fn r0_3_keys_come_whole() {
    check(Case { world: worlds::keys_ring, mutants: &[Mutant::Relaxed(Place::KeysWritten)] });
}

/// R1.8, I11: a worker that finds a slot bound finds it whole, and nothing of the binding before.
#[test]
fn i11_a_slot_is_used_again_whole_or_not_at_all() {
    check(Case {
        world: worlds::slot_reuse,
        mutants: &[Mutant::HandedOutBeforeCleared, Mutant::Relaxed(Place::InstallReport)],
    });
}

/// R1.8: binding and unbinding are one step, and the path is there before the word.
#[test]
fn r1_8_a_bound_word_has_its_path() {
    check(Case {
        world: worlds::binding,
        mutants: &[Mutant::WordBeforePath, Mutant::RelaxedWithoutFences(Place::BindingWord)],
    });
}

/// R5.1: no counter is handed out twice.
#[test]
fn r5_1_counters_are_handed_out_once() {
    check(Case { world: worlds::send_counters, mutants: &[Mutant::InTwoSteps(Place::SendCounter)] });
}

/// R2.4: no counter is accepted twice.
#[test]
fn r2_4_counters_are_accepted_once() {
    check(Case {
        world: worlds::window,
        mutants: &[Mutant::InTwoSteps(Place::WindowLock), Mutant::Relaxed(Place::WindowLock)],
    });
}

/// R2.4, I11: a replay window that goes to another key takes nothing along, and nobody touches it any more.
#[test]
fn r2_4_a_window_goes_to_another_key_empty() {
    check(Case { world: worlds::window_reuse, mutants: &[Mutant::WindowReusedEarly] });
    let mutants = &[Mutant::Relaxed(Place::WindowOwner), Mutant::OwnerKeptWhileCleared];
    check(Case { world: worlds::window_assigned, mutants });
}

/// R5.2: one worker flips to the next keys, one confirms.
#[test]
fn r5_2_one_worker_flips() {
    check(Case {
        world: worlds::rekey_flips_once,
        mutants: &[Mutant::InTwoSteps(Place::SendKey), Mutant::InTwoSteps(Place::Confirmed)],
    });
}

/// R0.3: no confirmation is lost, in a ring with room and in a full one.
#[test]
fn r0_3_no_confirmation_is_lost() {
    let mutants = &[Mutant::ToldBeforeConfirmed, Mutant::Relaxed(Place::EventsWritten)];
    check(Case { world: worlds::confirmations, mutants });
    check(Case { world: worlds::full_ring, mutants: &[Mutant::Relaxed(Place::EventsLost)] });
}

/// R9.2: a PROBE that was counted was noted whole.
#[test]
fn r9_2_a_counted_probe_is_noted() {
    check(Case { world: worlds::probes, mutants: &[Mutant::Relaxed(Place::Probes)] });
}
