//! R1.4, R1.5: the whole table, state × event, as a text that is reviewed. The normative rows of
//! `docs/PROTOCOL.md` are among them.
//!
//! After a change on purpose: `UPDATE_TABLES=1 cargo test -p jvpn-session --test transition_table`, then
//! review the diff.

#![allow(clippy::unwrap_used, reason = "test code: a failure is the message")]

mod support;

use jvpn_abi::BootTime;
use jvpn_session::event::Origin;
use jvpn_session::{Anchor, BindingPhase, Event, Generation, Policy, ReattachClaim, Rejection, State};
use std::fmt::Write;
use std::time::Duration;
use support::{Drive, proof};

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transition_table.md");

/// A session in `state`; in RECOVERING with a binding in `phase`.
fn in_state(state: State, phase: BindingPhase) -> Drive {
    let mut drive = Drive::attached(Policy::default());
    drive.switch();
    match state {
        State::Birth => {
            drive = Drive::born(Policy::default());
            drive.install();
        }
        State::Attached => {}
        State::Volatile => drop(drive.must(Event::QualityBelow)),
        State::Degraded => {
            drive.must(Event::QualityBelow);
            drive = drive.after(Policy::default().volatile_max);
            drive.must(Event::VolatileTooLong);
        }
        State::Recovering => {
            drive.must(drive.request(Generation::Confirmed, false));
            if phase == BindingPhase::Unconfirmed {
                drive.install();
            }
        }
        State::Terminated => drop(drive.must(Event::AdminTerminated)),
    }
    assert_eq!(drive.core.state(), state);
    drive
}

fn epoch(drive: &Drive) -> u64 {
    drive.core.epoch()
}

fn reach(drive: &mut Drive, deadline: Option<BootTime>) {
    drive.now = drive.now.max(deadline.unwrap_or(drive.now));
}

/// A request that claims `offset` more than the anchor of its generation.
fn request(drive: &Drive, offset: i64, voluntary: bool) -> Event {
    let anchor = drive.core.confirmed().or(drive.core.pending()).unwrap();
    let under = if drive.core.confirmed().is_some() { Generation::Confirmed } else { Generation::Pending };
    let anchor_version = anchor.version.0.checked_add_signed(offset).unwrap();
    Event::ReattachProven(proof(), ReattachClaim { under, anchor_version, voluntary })
}

/// A takeover whose answer offered the binding that is `ahead` of the newest.
fn takeover(drive: &Drive, ahead: u64) -> Event {
    let offered = Anchor { epoch: drive.core.epoch() + ahead, version: drive.core.version().next() };
    Event::TakeoverProven(proof(), offered)
}

/// A column of the table: its label, and how to bring a session to it.
type Column = (&'static str, fn(&mut Drive) -> Event);

/// Every event, and every condition that changes its meaning.
#[allow(clippy::too_many_lines, reason = "a table, a row for each event and condition")]
fn columns() -> Vec<Column> {
    vec![
        ("HandshakeProven", |_| Event::HandshakeProven(proof())),
        ("ReattachProven", |d| {
            d.now = d.now.after(d.policy.cooldown_after_switch);
            request(d, 0, false)
        }),
        ("ReattachProven, voluntary", |d| {
            d.now = d.now.after(d.policy.cooldown_after_switch);
            request(d, 0, true)
        }),
        ("ReattachProven, needed, in cooldown", |d| {
            d.policy.cooldown_after_switch = Duration::from_secs(60);
            request(d, 0, false)
        }),
        ("ReattachProven, voluntary, in cooldown", |d| {
            d.policy.cooldown_after_switch = Duration::from_secs(60);
            request(d, 0, true)
        }),
        ("ReattachProven, budget used up", |d| {
            d.policy.max_switches_per_min = 1;
            request(d, 0, false)
        }),
        ("ReattachProven, anchor_version lower", |d| {
            // The generation of a birth has version 0: nothing is lower.
            let lower = d.core.confirmed().or(d.core.pending()).unwrap().version.0.min(1);
            request(d, -i64::try_from(lower).unwrap(), false)
        }),
        ("ReattachProven, anchor_version higher", |d| request(d, 1, false)),
        ("ReattachProven, session TTL over", |d| {
            reach(d, Some(d.core.session_deadline(&d.policy)));
            request(d, 0, false)
        }),
        ("TakeoverProven", |d| {
            d.now = d.now.after(d.policy.cooldown_after_switch);
            takeover(d, 1)
        }),
        ("TakeoverProven, in cooldown", |d| {
            d.policy.cooldown_after_switch = Duration::from_secs(60);
            takeover(d, 1)
        }),
        ("TakeoverProven, budget used up", |d| {
            d.policy.max_switches_per_min = 1;
            takeover(d, 1)
        }),
        ("TakeoverProven, another binding since the offer", |d| takeover(d, 0)),
        ("TakeoverProven, session TTL over", |d| {
            reach(d, Some(d.core.session_deadline(&d.policy)));
            takeover(d, 1)
        }),
        ("PeerTerminated", |_| Event::PeerTerminated),
        ("AdminTerminated", |_| Event::AdminTerminated),
        ("PeerRevoked", |_| Event::PeerRevoked),
        ("Superseded", |_| Event::Superseded),
        ("SecurityViolated", |_| Event::SecurityViolated),
        ("SessionTtlExpired", |d| {
            reach(d, Some(d.core.session_deadline(&d.policy)));
            Event::SessionTtlExpired
        }),
        ("SessionTtlExpired, too early", |_| Event::SessionTtlExpired),
        ("OwnershipConflict", |_| Event::OwnershipConflict),
        ("OwnershipLost", |_| Event::OwnershipLost),
        ("OwnerRestarted", |_| Event::OwnerRestarted),
        ("OwnerTookOver", |_| Event::OwnerTookOver),
        ("TransportLossTtlExpired", |d| {
            reach(d, d.core.transport_loss_deadline(&d.policy));
            Event::TransportLossTtlExpired
        }),
        ("TransportLossTtlExpired, too early", |_| Event::TransportLossTtlExpired),
        ("RecoveryWindowOver", |d| {
            // Attempts go on until the window is over.
            d.policy.recovery_window = Duration::from_secs(4);
            reach(d, d.core.recovery_deadline(&d.policy));
            Event::RecoveryWindowOver
        }),
        ("RecoveryWindowOver, burst ended before", |d| {
            reach(d, d.core.attempts().map(|burst| burst.first_at.after(d.policy.recovery_window)));
            Event::RecoveryWindowOver
        }),
        ("DataPlaneLost", |_| Event::DataPlaneLost),
        ("KeyLimitReached", |_| Event::KeyLimitReached),
        ("BindingConfirmed, budget left", |d| Event::BindingConfirmed { epoch: epoch(d) }),
        ("BindingConfirmed, this one used up the budget", |d| {
            d.policy.max_switches_per_min = 2;
            Event::BindingConfirmed { epoch: epoch(d) }
        }),
        ("BindingConfirmed, of an earlier epoch", |d| Event::BindingConfirmed { epoch: epoch(d) - 1 }),
        ("Rekeyed", |_| Event::Rekeyed),
        ("HandshakeFailed", |_| Event::HandshakeFailed),
        ("InstallFailed", |d| Event::InstallFailed { epoch: epoch(d) }),
        ("InstallFailed, of an earlier epoch", |d| Event::InstallFailed { epoch: epoch(d) - 1 }),
        ("BindUnconfirmed", |d| Event::BindUnconfirmed { epoch: epoch(d) }),
        ("BindUnconfirmed, of an earlier epoch", |d| Event::BindUnconfirmed { epoch: epoch(d) - 1 }),
        ("BirthTimeout", |d| {
            reach(d, d.core.birth_deadline());
            Event::BirthTimeout
        }),
        ("BirthTimeout, too early", |_| Event::BirthTimeout),
        ("TransportDead", |_| Event::TransportDead),
        ("DegradedTooLong", |d| {
            d.now = d.now.after(d.policy.degraded_max);
            Event::DegradedTooLong { bad_since: d.core.entered_at() }
        }),
        ("DegradedTooLong, too early", |d| Event::DegradedTooLong { bad_since: d.core.entered_at() }),
        ("VolatileTooLong", |d| {
            d.now = d.now.after(d.policy.volatile_max);
            Event::VolatileTooLong
        }),
        ("VolatileTooLong, too early", |_| Event::VolatileTooLong),
        ("QualityBelow", |_| Event::QualityBelow),
        ("QualityGood", |d| {
            let since = d.core.entered_at();
            d.now = d.now.after(d.policy.stability_window);
            Event::QualityGood { since }
        }),
        ("QualityGood, too short", |d| Event::QualityGood { since: d.now }),
        ("QualityGood, budget used up", |d| {
            d.policy.max_switches_per_min = 1;
            d.policy.stability_window = Duration::ZERO;
            d.now = BootTime(d.core.switches().last().map_or(0, |at| at.0)).max(d.core.entered_at());
            Event::QualityGood { since: d.core.entered_at() }
        }),
    ]
}

/// The phase in which an event of RECOVERING can mean something.
fn phase_for(label: &str) -> BindingPhase {
    if label.starts_with("InstallFailed") { BindingPhase::Installing } else { BindingPhase::Unconfirmed }
}

fn table() -> String {
    let mut text = String::from("| From | Event | To | Reason |\n|---|---|---|---|\n");
    text.push_str("| – | HandshakeProven | BIRTH | HANDSHAKE_START |\n");
    for from in State::ALL {
        for (label, prepare) in columns() {
            let mut drive = in_state(from, phase_for(label));
            let event = prepare(&mut drive);
            let origin = event.origin();
            let (to, reason) = match drive.decide(event) {
                Ok(next) => {
                    assert_eq!(next.from, Some(from));
                    assert_eq!(next.core.id(), drive.core.id(), "I2");
                    assert!(next.core.version() > drive.core.version(), "I3");
                    assert_eq!(next.core.broken_invariant(&drive.policy), None, "{from} {label}");
                    (next.core.state().name(), next.reason().name())
                }
                Err(Rejection::Ignored) => {
                    assert_eq!(origin, Origin::Internal);
                    ("–", "IGNORED")
                }
                Err(Rejection::Refused { reason, .. }) => {
                    assert_eq!(origin, Origin::Peer);
                    ("–", reason.name())
                }
                Err(Rejection::Relinquished) => ("–", "SESSION_OWNER_TRANSFERRED"),
            };
            writeln!(text, "| {from} | {label} | {to} | {reason} |").unwrap();
        }
    }
    text
}

/// R1.4, R1.5, I9: every state × event has exactly the outcome that was reviewed, and twice the same.
#[test]
fn r1_5_every_state_and_event_has_its_reviewed_outcome() {
    let now = table();
    assert_eq!(now, table(), "I9: the same inputs gave two outcomes");
    if std::env::var_os("UPDATE_TABLES").is_some() {
        std::fs::write(TABLE, &now).unwrap();
    }
    let reviewed = std::fs::read_to_string(TABLE).unwrap();
    for (number, (line, expected)) in now.lines().zip(reviewed.lines()).enumerate() {
        assert_eq!(line, expected, "row {number} of {TABLE}");
    }
    assert_eq!(now.lines().count(), reviewed.lines().count());
}

/// R1.5: every reason of the design's table occurs in ours.
#[test]
fn r1_5_every_transition_reason_occurs() {
    let table = table();
    for reason in jvpn_abi::Reason::ALL.iter().filter(|reason| reason.number() < 64) {
        assert!(table.contains(&format!("| {reason} |")), "{reason} leads nowhere");
    }
}
