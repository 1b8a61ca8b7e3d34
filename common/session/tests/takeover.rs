//! A session that its owner knows from the store only: loaded, taken over by its client, lived out.

#![allow(clippy::unwrap_used, reason = "test code: a failure is the message")]

mod support;

use jvpn_abi::{BootTime, Reason};
use jvpn_session::{
    Anchor, BindingChange, Event, Generation, Policy, Rejection, State, StateVersion, admit_takeover, reload,
};
use std::time::Duration;
use support::{Drive, ID, proof};

fn loaded(lived_before: Duration) -> Drive {
    let (now, policy) = (BootTime::from_millis(9_000), Policy::default());
    let core = reload(ID, 3, lived_before, now, &policy).unwrap().core;
    Drive { core, now, policy }
}

/// A takeover of what is offered now.
fn take(drive: &Drive) -> Event {
    Event::TakeoverProven(proof(), admit_takeover(&drive.core, drive.now, &drive.policy).unwrap())
}

fn refusal(drive: &Drive) -> Option<Reason> {
    match admit_takeover(&drive.core, drive.now, &drive.policy) {
        Ok(_) => None,
        Err(Rejection::Refused { reason, .. }) => Some(reason),
        Err(other) => panic!("{other:?}"),
    }
}

/// R1.3, R1.5, R7.3: loaded into RECOVERING with the first version of the next term, without binding and generation; no
/// term is left after the last one.
#[test]
fn r7_3_a_stored_session_is_loaded_with_the_next_term() {
    let policy = Policy::default();
    let next = reload(ID, 3, Duration::ZERO, BootTime(5), &policy).unwrap();
    assert_eq!((next.from, next.reason(), next.change), (None, Reason::OwnerRestart, BindingChange::Unbind));
    let core = next.core;
    assert_eq!((core.id(), core.state(), core.version()), (ID, State::Recovering, StateVersion::first(4)));
    assert_eq!((core.confirmed(), core.pending(), core.epoch()), (None, None, 0));
    assert_eq!(core.broken_invariant(&policy), None);
    assert!(reload(ID, StateVersion::MAX_TERM, Duration::ZERO, BootTime(5), &policy).is_none());
}

/// R1.6: the transport-loss TTL runs from the load on, the session TTL from the birth, over any restart.
#[test]
fn r1_6_a_loaded_session_ends_in_time() {
    let mut drive = loaded(Duration::from_secs(3_600));
    let left = drive.policy.session_ttl - Duration::from_secs(3_600);
    assert_eq!(drive.core.session_deadline(&drive.policy), drive.now.after(left));
    assert_eq!(drive.core.lifetime(drive.now), Duration::from_secs(3_600));
    let deadline = drive.core.transport_loss_deadline(&drive.policy).unwrap();
    assert_eq!(deadline, drive.now.after(drive.policy.transport_loss_ttl));
    drive.now = deadline;
    assert_eq!(refusal(&drive), Some(Reason::SessionExpired));
    drive.must(Event::TransportLossTtlExpired);
    assert_eq!(refusal(&drive), Some(Reason::SessionTerminated));
    let outlived = loaded(Policy::default().session_ttl + Duration::from_secs(1));
    assert_eq!(refusal(&outlived), Some(Reason::SessionExpired));
}

/// R1.4, R7.3, I13: a takeover replaces whatever is there, its answer's generation is the pending one, its first frame
/// attaches the session, and reattaches go on from there.
#[test]
fn r7_3_a_takeover_leads_to_attached() {
    let mut drive = loaded(Duration::ZERO);
    let next = drive.must(take(&drive));
    assert_eq!((next.reason(), next.change), (Reason::RecoveryRetry, BindingChange::Replace));
    assert_eq!((drive.core.epoch(), drive.core.version()), (1, StateVersion::first(4).next()));
    // It is asked for again before anything came through.
    drive.install();
    let offered = admit_takeover(&drive.core, drive.now, &drive.policy).unwrap();
    // What happens meanwhile raises the version and leaves the offer good; another binding voids it.
    drive.must(Event::BindUnconfirmed { epoch: 1 });
    let mut other = drive.clone();
    drive.must(Event::TakeoverProven(proof(), offered));
    assert_eq!(drive.core.pending(), Some(offered));
    other.must(take(&other));
    let late = other.decide(Event::TakeoverProven(proof(), offered));
    assert!(matches!(late, Err(Rejection::Refused { reason: Reason::StaleVersion, .. })));
    drive.install();
    assert_eq!(drive.must(Event::BindingConfirmed { epoch: 2 }).reason(), Reason::TransportSwitchOk);
    drive.switch();
    assert_eq!(drive.core.total_switches(), 2);
}

/// R1.7: the budget refuses a takeover like any other switch, with a time; cooldown does not.
#[test]
fn r1_7_the_budget_counts_for_takeovers() {
    let mut drive = Drive::attached(Policy { max_switches_per_min: 1, ..Policy::default() });
    assert_eq!(refusal(&drive), None);
    drive.switch();
    let refused = admit_takeover(&drive.core, drive.now, &drive.policy);
    assert!(
        matches!(refused, Err(Rejection::Refused { reason: Reason::Cooldown, retry_after }) if retry_after > Duration::ZERO)
    );
    let before = drive.core.clone();
    let offered = Anchor { epoch: before.epoch() + 1, version: before.version().next() };
    assert!(drive.decide(Event::TakeoverProven(proof(), offered)).is_err());
    assert_eq!(drive.core, before, "I5");
    let mut calm =
        Drive::attached(Policy { cooldown_after_switch: Duration::from_secs(60), ..Policy::default() });
    calm.switch();
    let confirmed = calm.core.confirmed();
    assert_eq!(calm.must(take(&calm)).reason(), Reason::RecoveryStart);
    assert_eq!(calm.core.confirmed(), confirmed, "what the client may still hold is kept");
    calm.install();
    calm.must(calm.request(Generation::Confirmed, false));
}
