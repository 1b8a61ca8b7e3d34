//! DATA that no binding accepts: hints, RESETs, replays, held-back frames.

use crate::rig::{PATH_A, PATH_B, PATH_C, Rig, endpoint};
use jvpn_abi::Reason;
use jvpn_abi::wire::reset::{Reset, ResetKind};
use jvpn_abi::wire::{MsgType, SlotId};
use jvpn_controlplane::audit::{AuditKind, Violation};
use jvpn_controlplane::engine::{AdminCommand, Counter};
use jvpn_session::Policy;
use jvpn_session::messages::ControlMessage;
use std::time::Duration;

/// R7.1: a NAT rebinds: the first DATA from the new endpoint brings a hint there, and the reattach is
/// granted.
#[test]
fn r7_1_a_rebinding_nat_brings_a_hint() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    let rebound = endpoint(10, 41_234);
    let hint = rig.ask(rebound, &client.sample(client.newest(), 1));
    let message = client.open(client.newest(), &hint);
    assert!(matches!(message, Some(ControlMessage::PathHint { observed, .. }) if observed == rebound));
    assert_eq!(rig.state(&client).0, "ATTACHED", "a hint moves nothing");
    assert!(rig.events().contains(&"SECURITY_EVENT"));
    client.switch(&mut rig, rebound);
    assert_eq!(rig.state(&client).0, "ATTACHED");
}

/// Hints are limited per session, never larger than the question, and none goes to the bound endpoint.
#[test]
fn r3_1_hints_are_limited() {
    let mut rig = Rig::new(Policy::default());
    let client = rig.attached(0);
    rig.sent.clear();
    for counter in 1..=20 {
        rig.datagram(PATH_C(), &client.sample(client.newest(), counter));
    }
    assert_eq!(rig.sent.len(), 5);
    assert_eq!(rig.counter(Counter::PathHintHeldBack), 15);
    rig.wait(Duration::from_secs(1));
    rig.ask_in_vain(PATH_A(), &client.sample(client.newest(), 30));
    assert_eq!(rig.counter(Counter::SampleOfBoundPath), 1);
}

/// R2.4: replayed DATA is counted and answered by nothing; forged DATA too.
#[test]
fn r2_4_replayed_and_forged_data_meets_silence() {
    let mut rig = Rig::new(Policy::default());
    let client = rig.attached(0);
    for _ in 0..9 {
        rig.frame(client.slot(), PATH_A());
    }
    let before = rig.status(&client).state_version;
    for counter in 0..9 {
        rig.ask_in_vain(PATH_C(), &client.sample(client.newest(), counter));
    }
    assert_eq!(rig.counter(Counter::SampleReplayed), 9);
    let mut forged = client.sample(client.newest(), 50);
    forged[40] ^= 1;
    rig.ask_in_vain(PATH_C(), &forged);
    assert_eq!(rig.counter(Counter::SampleAuthFail), 1);
    rig.ask_in_vain(PATH_C(), &forged[..31]);
    rig.ask_in_vain(PATH_C(), &[MsgType::UnboundSample.octet()]);
    assert_eq!(rig.counter(Counter::SampleMalformed), 2);
    assert_eq!(rig.status(&client).state_version, before);
    assert_eq!(rig.lines.iter().filter(|line| line.event.reason == Some(Reason::ReplayDetected)).count(), 1);
}

/// Genuine DATA of the binding before, held back and released after the switch: counted, neither hint nor
/// RESET.
#[test]
fn r1_1_held_back_data_of_the_former_binding_is_only_counted() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    let held_back: Vec<_> = (1..6).map(|counter| client.sample(client.newest(), counter)).collect();
    client.switch(&mut rig, PATH_B());
    for datagram in &held_back {
        rig.ask_in_vain(PATH_A(), datagram);
    }
    assert_eq!(rig.counter(Counter::SampleOfFormerBinding), 5);
    assert_eq!(rig.state(&client).0, "ATTACHED");
}

/// R6.1, R1.1: the same is on record as DUAL_ACTIVE_ATTEMPT, every packet counted and summarised; what does not
/// open, or was accepted before, is no such attempt.
#[test]
fn r6_1_data_of_the_former_binding_is_on_record() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    let held_back: Vec<_> = (1..300).map(|counter| client.sample(client.newest(), counter)).collect();
    let accepted = client.sample(client.newest(), 0);
    client.switch(&mut rig, PATH_B());
    let before = rig.status(&client).state_version;
    let mut forged = held_back[0].clone();
    *forged.last_mut().unwrap() ^= 1;
    rig.ask_in_vain(PATH_A(), &accepted);
    rig.ask_in_vain(PATH_A(), &forged);
    let attempts = |rig: &Rig| -> Vec<u64> {
        let kind = AuditKind::Security { violation: Violation::DualActiveAttempt };
        let ours = rig.lines.iter().filter(|line| line.event.kind == kind);
        ours.map(|line| 1 + line.suppressed.unwrap()).collect()
    };
    assert!(attempts(&rig).is_empty());
    for datagram in &held_back {
        rig.ask_in_vain(PATH_A(), datagram);
        rig.wait(Duration::from_millis(10));
    }
    rig.frame(client.slot(), PATH_B());
    rig.wait(Duration::from_secs(2));
    let lines = attempts(&rig);
    assert_eq!(lines.iter().sum::<u64>(), 299);
    assert!(lines.len() <= 8, "in three seconds: {lines:?}");
    assert_eq!((rig.status(&client).state_version, rig.state(&client).0), (before, "ATTACHED"));
}

/// I13: the gateway gave a path up that the client still uses: its DATA brings a hint, not silence.
#[test]
fn i13_data_after_the_gateway_gave_up_brings_a_hint() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    rig.wait(Duration::from_secs(3));
    assert_eq!(rig.state(&client).1, Reason::TransportDead);
    let hint = rig.ask(PATH_A(), &client.sample(client.newest(), 7));
    let message = client.open(client.newest(), &hint);
    assert!(matches!(message, Some(ControlMessage::PathHint { observed, .. }) if observed == PATH_A()));
    client.switch(&mut rig, PATH_A());
    assert_eq!(rig.state(&client).0, "ATTACHED");
}

/// I13: an unconfirmed binding whose client moved meanwhile gets a hint under the pending keys.
#[test]
fn i13_data_under_pending_keys_from_elsewhere_brings_a_hint() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    let mut sent = client.request(&mut rig);
    let ack = rig.ask(PATH_B(), &sent.datagram);
    client.read_ack(&mut sent, &ack);
    let hint = rig.ask(PATH_C(), &client.sample(client.newest(), 0));
    let message = client.open(client.newest(), &hint);
    assert!(matches!(message, Some(ControlMessage::PathHint { observed, .. }) if observed == PATH_C()));
    client.switch(&mut rig, PATH_C());
}

/// A slot that is not known, or not under this serial, gets a RESET with its token, smaller than the
/// question.
#[test]
fn r2_3_an_unknown_slot_gets_a_reset() {
    let mut rig = Rig::new(Policy::default());
    let client = rig.attached(0);
    let grant = client.newest().grant.clone();
    // A gateway that has granted this very slot before, to somebody whose session has ended.
    let mut fresh = Rig::new(Policy::default());
    let earlier = fresh.attached(1);
    assert_eq!(earlier.slot(), grant.slot);
    let end = AdminCommand::TerminateSession(earlier.session());
    fresh.engine.handle_admin(fresh.now, &end, &fresh.tables.contexts).unwrap();
    fresh.pump();
    let answer = fresh.ask(PATH_A(), &client.sample(client.newest(), 3));
    let reset = Reset::parse(&answer).unwrap();
    assert_eq!(reset.kind, ResetKind::Slot);
    assert_eq!((reset.value, reset.token), (Reset::slot_value(grant.slot), grant.slot_token));
    // Nobody learns the token of a slot that was not granted yet: its holder could reset whoever gets it.
    for (index, serial) in [(grant.slot.index(), grant.slot.serial() + 1), (1, 0), (63, 0), (60, 9)] {
        let mut early = client.sample(client.newest(), 3);
        early[4..8].copy_from_slice(&SlotId::new(index, serial).unwrap().0.to_be_bytes());
        rig.ask_in_vain(PATH_A(), &early);
        fresh.ask_in_vain(PATH_A(), &early);
    }
    fresh.sent.clear();
    for _ in 0..1_000 {
        fresh.datagram(PATH_A(), &client.sample(client.newest(), 3));
    }
    assert_eq!(fresh.sent.len(), 199, "limited");
}

/// Every state: random, truncated and oversized datagrams of every type change nothing and never panic.
#[test]
fn r1_9_noise_changes_nothing() {
    use jvpn_crypto::rng::Random;
    let mut rig = Rig::new(Policy::default());
    let client = rig.attached(0);
    let before = rig.status(&client);
    let mut noise = vec![0; 1_500];
    for round in 0..2_000usize {
        rig.rng.fill(&mut noise).unwrap();
        let len = [0, 1, 15, 28, 32, 36, 60, 255, 256, 257, 1_199, 1_200, 1_232, 1_500][round % 14];
        noise[0] = [0x00, 0x10, 0x11, 0x20, 0x21, 0x22, 0x24, 0x25, 0x26, 0x28, 0x2a, 0x2c, 0x2d, 0xff]
            [round / 14 % 14];
        noise[1] = (round % 3) as u8;
        noise[2..4].fill(0);
        if round % 2 == 0 {
            noise[4..8].copy_from_slice(&client.slot().0.to_be_bytes());
        }
        rig.datagram(PATH_A(), &noise[..len]);
    }
    let after = rig.status(&client);
    assert_eq!((after.state_version, after.state), (before.state_version, "ATTACHED"));
    assert!(rig.counter(Counter::UnknownType) > 0 && rig.counter(Counter::ControlRefused) > 0);
    assert!(rig.counter(Counter::HandshakeMacWrong) > 0);
}

/// DATA of a bound path in the kernel's socket is counted by itself: the demo demands zero of it. Other DATA there is a sample
/// by the program that chooses among plain sockets.
#[test]
fn r0_1_data_in_the_kernels_socket_is_counted() {
    let mut rig = Rig::new(Policy::default());
    let client = rig.attached(0);
    rig.ask_in_vain(PATH_A(), &client.data(client.newest(), 4));
    assert_eq!(rig.counter(Counter::SampleReceived), 0);
    rig.datagram(PATH_B(), &client.data(client.newest(), 5));
    assert_eq!(rig.counter(Counter::SampleReceived), 1);
    assert_eq!(rig.counter(Counter::KernelSocketBoundData), 1);
    assert_eq!(rig.counter(Counter::KernelSocketOtherData), 1);
}
