//! The model in CI's bounds: every invariant holds in every state that can be reached, and every seeded bug is found.

use jvpn_bench::model::{Mutant, Scope, check, hunt, run};

/// R1.1, R1.3, R1.4, R1.7, R1.8, R2.1, R2.3: I1–I11 hold and nobody is locked out (I13), whatever is lost, repeated,
/// delayed or forged, whoever dies; and a checker that finds every seeded bug says so.
#[test]
fn i1_to_i13_hold_and_every_mutant_is_found() {
    let verdict = run(false).unwrap();
    let lines = verdict.lines().join("\n");
    println!("{lines}");
    assert!(verdict.is_good(), "{lines}");
}

/// I9: the same search twice is the same search.
#[test]
fn i9_a_search_is_reproducible() {
    let scope = Scope::all(false).into_iter().find(|scope| scope.name == "data-plane-crash").unwrap();
    let (first, second) = (check(&scope, None).unwrap(), check(&scope, None).unwrap());
    assert_eq!(
        (first.states, first.steps, first.depth, first.decisions),
        (second.states, second.steps, second.depth, second.decisions)
    );
    assert!(first.states > 1_000, "the scope is not empty: {} states", first.states);
}

/// A counterexample can be read: it begins at the beginning and ends where the invariant breaks.
#[test]
fn a_counterexample_tells_its_way() {
    let outcome = hunt(&Scope::all(false), Mutant::BindBeforeUnbind).unwrap().unwrap();
    let counterexample = outcome.counterexample.unwrap();
    assert!(counterexample.invariant.starts_with("I1"), "{}", counterexample.invariant);
    let (first, _) = counterexample.way.first().unwrap();
    let (last, _) = counterexample.way.last().unwrap();
    assert!(first.starts_with("client:") && last.contains("REATTACH_REQUEST"), "{first} … {last}");
}
