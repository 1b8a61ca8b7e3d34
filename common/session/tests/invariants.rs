//! Any sequence of events at any moments keeps the invariants, and decides the same twice.

mod support;

use jvpn_abi::{BootTime, Reason};
use jvpn_session::{
    Anchor, BindingPhase, Event, Generation, Policy, ReattachClaim, Rejection, SessionCore, State, reload,
};
use proptest::prelude::*;
use std::time::Duration;
use support::{Drive, proof};

/// One step of a sequence: wait, then let something happen. Numbers choose among what a step may carry.
#[derive(Clone, Copy, Debug)]
struct Op {
    wait_ms: u64,
    kind: u8,
    offset: i8,
    flag: bool,
}

const KINDS: u8 = 30;
/// The owner loses its memory, and loads what the store has of the session: no event of the session that it knew.
const RELOAD: u8 = 29;

fn op() -> impl Strategy<Value = Op> {
    // Mostly short waits, sometimes long ones, so that every deadline is met from both sides.
    let wait_ms = prop_oneof![4 => 0u64..2_000, 2 => 0u64..40_000, 1 => 0u64..2_000_000];
    // Installation, request and confirmation are frequent: otherwise sessions end at once.
    let kind = prop_oneof![1 => 0..KINDS, 2 => Just(0u8), 2 => Just(1), 2 => Just(2)];
    let offset = prop_oneof![6 => Just(0i8), 1 => -2i8..=2];
    (wait_ms, kind, offset, any::<bool>()).prop_map(|(wait_ms, kind, offset, flag)| Op {
        wait_ms,
        kind,
        offset,
        flag,
    })
}

fn small_policy() -> Policy {
    Policy {
        session_ttl: Duration::from_secs(3_600),
        transport_loss_ttl: Duration::from_secs(60),
        recovery_window: Duration::from_secs(20),
        max_switches_per_min: 3,
        ..Policy::default()
    }
}

/// The event of a step; `None` for the progress of an installation, which is no event.
fn event(op: Op, drive: &Drive) -> Option<Event> {
    let core = &drive.core;
    let epoch = core.epoch().saturating_add_signed(op.offset.into());
    let moment = BootTime(drive.now.0.saturating_sub(op.wait_ms * 1_000_000));
    Some(match op.kind {
        0 => return None,
        1 => {
            let under = if op.flag { Generation::Confirmed } else { Generation::Pending };
            let anchor = if op.flag { core.confirmed() } else { core.pending() };
            let version = anchor.map_or(0, |anchor| anchor.version.0);
            let anchor_version = version.saturating_add_signed(op.offset.into());
            let claim = ReattachClaim { under, anchor_version, voluntary: op.wait_ms.is_multiple_of(2) };
            Event::ReattachProven(proof(), claim)
        }
        2 => Event::BindingConfirmed { epoch },
        3 => Event::InstallFailed { epoch },
        4 => Event::BindUnconfirmed { epoch },
        5 => Event::SessionTtlExpired,
        6 => Event::TransportLossTtlExpired,
        7 => Event::RecoveryWindowOver,
        8 => Event::BirthTimeout,
        9 => Event::TransportDead,
        10 => Event::DataPlaneLost,
        11 => Event::KeyLimitReached,
        12 => Event::Rekeyed,
        13 => Event::QualityBelow,
        14 => Event::QualityGood { since: moment },
        15 => Event::VolatileTooLong,
        16 => Event::DegradedTooLong { bad_since: moment },
        17 => Event::OwnerRestarted,
        18 => Event::OwnerTookOver,
        19 => Event::OwnershipLost,
        20 => Event::HandshakeProven(proof()),
        // Sure ends are rare, so that sequences get somewhere.
        21 if op.flag => Event::PeerTerminated,
        22 if op.flag => Event::AdminTerminated,
        23 if op.flag => Event::PeerRevoked,
        24 if op.flag => Event::Superseded,
        25 if op.flag => Event::SecurityViolated,
        26 if op.flag => Event::OwnershipConflict,
        27 if op.flag => Event::HandshakeFailed,
        28 => Event::TakeoverProven(proof(), Anchor { epoch: epoch + 1, version: core.version().next() }),
        _ => Event::QualityGood { since: drive.now },
    })
}

/// Everything that one run shows.
#[derive(Debug, Default, PartialEq)]
struct Trace {
    cores: Vec<SessionCore>,
    outcomes: Vec<Result<Reason, Rejection>>,
    switches: Vec<BootTime>,
}

fn check_step(before: &SessionCore, after: &SessionCore, reason: Reason, drive: &Drive) {
    assert!(before.state().is_live(), "I4: left TERMINATED");
    assert_eq!(before.id(), after.id(), "I2, R1.2");
    let new_term = matches!(reason, Reason::OwnerRestart | Reason::OwnerTakeover);
    let expected = if new_term { before.version().next_term() } else { before.version().next() };
    assert_eq!(after.version(), expected, "I3, R1.3");
    assert!(after.epoch() >= before.epoch(), "I11: epochs only rise");
    if after.epoch() != before.epoch() {
        assert_eq!(after.phase(), BindingPhase::Installing, "I1: a new epoch starts unbound");
    }
    assert_eq!(after.broken_invariant(&drive.policy), None);
}

fn load(drive: &mut Drive) {
    let before = drive.core.clone();
    if !before.state().is_live() {
        return;
    }
    let term = before.version().term();
    let Some(next) = reload(before.id(), term, Duration::ZERO, drive.now, &drive.policy) else { return };
    assert!(next.core.version() > before.version(), "I3, R1.3: a loaded session is older than it was");
    assert_eq!((next.core.id(), next.core.state()), (before.id(), State::Recovering), "I2");
    assert_eq!(next.core.broken_invariant(&drive.policy), None);
    drive.core = next.core;
}

fn run(ops: &[Op]) -> Trace {
    let mut drive = Drive::born(small_policy());
    let mut trace = Trace::default();
    for op in ops {
        drive.now = drive.now.after(Duration::from_millis(op.wait_ms));
        if op.kind == RELOAD && op.flag {
            load(&mut drive);
            // The budget is forgotten with the rest (ADR 0016).
            trace.switches.clear();
        }
        let Some(event) = event(*op, &drive) else {
            let epoch = drive.core.epoch();
            let _ = drive.core.binding_installed(epoch);
            continue;
        };
        let before = drive.core.clone();
        let outcome = drive.decide(event).map(|next| {
            check_step(&before, &next.core, next.reason(), &drive);
            if next.core.total_switches() > before.total_switches() {
                trace.switches.push(drive.now);
            }
            drive.core = next.core.clone();
            next.reason()
        });
        if outcome.is_err() {
            assert_eq!(drive.core, before, "I5: a rejection mutates nothing");
        }
        trace.outcomes.push(outcome);
        trace.cores.push(drive.core.clone());
    }
    trace
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// R1.1–R1.5, R1.7, I1–I5, I7, I9–I11: over any sequence.
    #[test]
    fn any_sequence_keeps_the_invariants(ops in proptest::collection::vec(op(), 1..80)) {
        let trace = run(&ops);
        prop_assert_eq!(&trace, &run(&ops), "I9: the same inputs gave two outcomes");
        let max = small_policy().max_switches_per_min as usize;
        for (index, start) in trace.switches.iter().enumerate() {
            let end = start.after(Duration::from_secs(60));
            let within = trace.switches.iter().skip(index).take_while(|at| **at < end).count();
            prop_assert!(within <= max, "I7: {} switches in 60 s", within);
        }
    }
}

/// R1.6, I6: whatever is tried, a session that never confirms again ends by the transport-loss TTL.
#[test]
fn r1_6_recovering_is_bounded_by_its_ttl() {
    let mut drive = Drive::attached(small_policy());
    drive.must(Event::TransportDead);
    let lost_at = drive.core.lost_at();
    for _ in 0..5 {
        // Pauses longer than 5 s: each attempt is a burst of its own, no recovery window ends.
        drive.now = drive.now.after(Duration::from_secs(11));
        drive.must(drive.request(Generation::Confirmed, false));
        drive.install();
        let epoch = drive.core.epoch();
        drive.must(Event::BindUnconfirmed { epoch });
        assert_eq!(drive.core.lost_at(), lost_at, "attempts do not prolong the TTL");
        assert!(drive.decide(Event::RecoveryWindowOver).is_err());
    }
    drive.now = drive.core.transport_loss_deadline(&drive.policy).unwrap();
    let refused = drive.decide(drive.request(Generation::Confirmed, false));
    assert!(matches!(refused, Err(Rejection::Refused { reason: Reason::SessionExpired, .. })));
    assert_eq!(drive.must(Event::TransportLossTtlExpired).reason(), Reason::TtlTransportLossExpired);
    assert_eq!(drive.core.state(), State::Terminated);
}

/// R1.6: a burst of attempts ends with the recovery window; a pause ends the burst instead.
#[test]
fn r1_6_the_recovery_window_counts_a_burst() {
    let mut drive = Drive::attached(small_policy());
    drive.must(drive.request(Generation::Confirmed, false));
    let first = drive.core.attempts().unwrap().first_at;
    assert_eq!(
        drive.core.recovery_deadline(&drive.policy),
        None,
        "one attempt and silence: only the TTL runs"
    );
    for n in 1..=5 {
        drive.now = first.after(Duration::from_secs(n * 4));
        if n < 5 {
            drive.must(drive.request(Generation::Confirmed, false));
        }
    }
    assert_eq!(drive.core.recovery_deadline(&drive.policy), Some(first.after(Duration::from_secs(20))));
    assert_eq!(drive.must(Event::RecoveryWindowOver).reason(), Reason::RecoveryBoundsExceeded);
}

/// R1.6: a repetition of the open request, and a wait that the client was told, are no pause. Neither begins anything, and
/// a repetition counts only for a while: it may be somebody's recording.
#[test]
fn r1_6_repetitions_and_told_waits_are_no_pause() {
    let secs = Duration::from_secs;
    let mut drive = Drive::attached(small_policy());
    drive.core.told_to_wait(drive.now, secs(3));
    drive.core.request_repeated(drive.now);
    assert_eq!(drive.core.attempts(), None, "nothing begins with a refusal");
    drive.must(drive.request(Generation::Confirmed, false));
    let first = drive.core.attempts().unwrap().first_at;
    let at = |s: u64| first.after(secs(s));
    drive.core.request_repeated(at(4));
    drive.now = at(8);
    drive.must(drive.request(Generation::Confirmed, false));
    assert_eq!(drive.core.attempts().unwrap().first_at, first, "8 s later, and still one burst");
    drive.core.told_to_wait(at(9), secs(6));
    drive.now = at(19);
    drive.must(drive.request(Generation::Confirmed, false));
    assert_eq!(drive.core.attempts().unwrap().first_at, first, "4 s after the end of the wait");
    assert_eq!(drive.core.recovery_deadline(&drive.policy), Some(at(20)));

    // One request and a recording of it.
    let mut drive = Drive::attached(small_policy());
    drive.must(drive.request(Generation::Confirmed, false));
    let first = drive.core.attempts().unwrap().first_at;
    for tenths in 1..200 {
        drive.core.request_repeated(first.after(Duration::from_millis(tenths * 100)));
    }
    let last = drive.core.attempts().unwrap().last_at;
    assert_eq!(last, first.after(Duration::from_millis(4_900)));
    assert_eq!(drive.core.recovery_deadline(&drive.policy), None, "the burst ended long before the window");
    // Nor does a wait wake a burst that is over.
    drive.core.told_to_wait(first.after(secs(12)), secs(10));
    assert_eq!(drive.core.attempts().unwrap().last_at, last);
}

/// R1.7: the budget refuses needed and voluntary switches alike, says until when, and keeps its word.
#[test]
fn r1_7_a_used_up_budget_says_when_it_is_free() {
    let mut drive = Drive::attached(small_policy());
    let start = drive.now;
    for n in 0..3 {
        drive.now = start.after(Duration::from_secs(n * 5));
        let reason = drive.switch().reason();
        assert_eq!(reason, if n < 2 { Reason::TransportSwitchOk } else { Reason::PolicyFlapLimit });
    }
    assert_eq!(drive.core.state(), State::Degraded);
    drive.must(Event::TransportDead);
    for voluntary in [false, true] {
        let refused = drive.decide(drive.request(Generation::Confirmed, voluntary));
        let retry_after = Duration::from_secs(50);
        assert_eq!(refused, Err(Rejection::Refused { reason: Reason::Cooldown, retry_after }));
    }
    assert_eq!(drive.core.attempts(), None, "I5: refused attempts start no burst");
    drive.now = drive.now.after(Duration::from_secs(50));
    assert_eq!(drive.switch().reason(), Reason::PolicyFlapLimit);
}

/// R1.7: cooldown holds back voluntary switches only.
#[test]
fn r1_7_cooldown_refuses_voluntary_switches_only() {
    let mut drive = Drive::attached(Policy::default());
    drive.switch();
    drive.now = drive.now.after(Duration::from_millis(500));
    let refused = drive.decide(drive.request(Generation::Confirmed, true));
    let retry_after = Duration::from_millis(1_500);
    assert_eq!(refused, Err(Rejection::Refused { reason: Reason::Cooldown, retry_after }));
    drive.must(drive.request(Generation::Confirmed, false));
}

/// I13: a request under the pending generation makes that generation, not the binding, confirmed.
#[test]
fn i13_generations_turn_as_the_client_shows_what_it_holds() {
    let mut drive = Drive::attached(Policy::default());
    let birth = drive.core.confirmed();
    drive.must(drive.request(Generation::Confirmed, false));
    let first = drive.core.pending();
    // The answer was lost: under the confirmed generation again. The pending one is replaced.
    drive.must(drive.request(Generation::Confirmed, false));
    assert_eq!(drive.core.confirmed(), birth);
    assert_ne!(drive.core.pending(), first);
    let second = drive.core.pending();
    // This answer arrived, the path died: under the pending generation.
    drive.install();
    drive.must(drive.request(Generation::Pending, false));
    assert_eq!(drive.core.confirmed(), second);
    assert_eq!(drive.core.phase(), BindingPhase::Installing);
    // An answer that never left is forgotten; the confirmed generation is not.
    let epoch = drive.core.epoch();
    drive.must(Event::InstallFailed { epoch });
    assert_eq!((drive.core.confirmed(), drive.core.pending()), (second, None));
    drive.must(drive.request(Generation::Confirmed, false));
    drive.install();
    let epoch = drive.core.epoch();
    drive.must(Event::BindUnconfirmed { epoch });
    assert!(drive.core.pending().is_some(), "its answer may have arrived");
}

/// R2.2: the nonce mark only rises.
#[test]
fn r2_2_the_nonce_mark_only_rises() {
    let mut drive = Drive::attached(Policy::default());
    assert!(drive.core.is_fresh(0));
    for (nonce, mark) in [(5, 5), (3, 5), (9, 9)] {
        drive.core.burn_nonce(&proof(), nonce);
        assert_eq!(drive.core.nonce_mark(), Some(mark));
        assert!(!drive.core.is_fresh(mark) && drive.core.is_fresh(mark + 1));
    }
}
