//! R5.2: new keys for a binding that stays where it is, and what happens to keys at their limits.

use crate::client::{Client, Sent};
use crate::rig::{Answers, GATEWAY, PATH_A, PATH_B, Rig};
use jvpn_abi::Reason;
use jvpn_abi::tables::{InstallOp, ProbeSample};
use jvpn_abi::wire::MsgType;
use jvpn_controlplane::audit::AuditKind;
use jvpn_controlplane::engine::{Counter, TableEvent};
use jvpn_session::Policy;
use jvpn_session::messages::{ControlMessage, SwitchCause};
use std::time::Duration;

const OVERLAP: Duration = Duration::from_secs(1);

fn rig() -> (Rig, Client) {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    client.cause = SwitchCause::Rekey;
    (rig, client)
}

/// A rekey, up to its answer.
fn answered(rig: &mut Rig, client: &mut Client) {
    let mut sent = client.request(rig);
    let ack = rig.ask(PATH_A(), &sent.datagram);
    client.read_ack(&mut sent, &ack);
    assert!(client.newest().rekey);
}

fn rekey(rig: &mut Rig, client: &mut Client) {
    answered(rig, client);
    rig.flip(client.slot());
    client.settle();
}

/// Traffic that keeps the path from counting as dead.
fn alive(rig: &mut Rig, client: &Client, span: Duration) {
    let step = Duration::from_secs(1);
    let mut left = span;
    while !left.is_zero() {
        let next = left.min(step);
        rig.wait(next);
        rig.frame(client.slot(), PATH_A());
        left -= next;
    }
}

fn refused(rig: &mut Rig, client: &mut Client) -> (Reason, u32) {
    let sent = client.request(rig);
    let answer = rig.ask(PATH_A(), &sent.datagram);
    sent.reject(&answer)
}

/// R5.2, R1.2: same session, epoch, slot and state; fresh keys; one version; no switch.
#[test]
fn r5_2_a_rekey_changes_the_keys_and_nothing_else() {
    let (mut rig, mut client) = rig();
    let before = rig.status(&client);
    let keys = client.newest().secret.data_keys();
    rig.events();
    rekey(&mut rig, &mut client);
    let after = rig.status(&client);
    assert_eq!(rig.state(&client), ("ATTACHED", Reason::RekeyOk));
    assert_eq!((after.slot, after.epoch, after.switches), (before.slot, before.epoch, 0));
    assert_eq!((after.state_version, after.key_number), (before.state_version + 1, Some(1)));
    assert_eq!((before.key_number, after.key_age_ms), (Some(0), Some(0)));
    assert_ne!(keys.client_to_gateway, client.newest().secret.data_keys().client_to_gateway);
    assert_eq!(rig.events(), ["STATE_CHANGE"]);
    assert_eq!(rig.counter(Counter::Rekeyed), 1);
    assert!(!rig.tables.log.iter().any(|line| line.starts_with("Unbind")), "nothing was unbound");
    rig.check_audit();
}

/// R5.2: the answer leaves when every worker has the next key, and the generation changes with its use.
#[test]
fn r5_2_no_answer_before_the_key_is_installed() {
    let (mut rig, mut client) = rig();
    rig.tables.install = Answers::Held;
    let mut sent = client.request(&mut rig);
    rig.ask_in_vain(PATH_A(), &sent.datagram);
    rig.ask_in_vain(PATH_A(), &sent.datagram.clone());
    assert_eq!(rig.counter(Counter::ReattachInProgress), 1);
    rig.let_go();
    let ack = rig.sent.pop_front().unwrap();
    assert_eq!((ack.remote, ack.local), (PATH_A(), GATEWAY));
    client.read_ack(&mut sent, &ack.payload);
    let again = rig.ask(PATH_A(), &sent.datagram);
    assert_eq!(again, ack.payload, "the kept answer");
    assert_eq!((rig.status(&client).key_number, client.held.len()), (Some(0), 2));
    rig.flip(client.slot());
    assert_eq!(rig.status(&client).key_number, Some(1));
}

/// The key before only receives for a moment and is dropped; until then a further rekey has to wait.
#[test]
fn r5_2_a_further_rekey_waits_until_the_key_before_is_gone() {
    let (mut rig, mut client) = rig();
    rekey(&mut rig, &mut client);
    let index = client.slot().index();
    assert_eq!(rig.tables.contexts.0[&index].other_key, Some(0));
    let (reason, retry_after_ms) = refused(&mut rig, &mut client);
    assert_eq!(reason, Reason::RateLimited);
    assert!((1_000..=1_100).contains(&retry_after_ms), "{retry_after_ms}");
    rig.wait(OVERLAP);
    assert_eq!(rig.tables.contexts.0[&index].other_key, None);
    for number in 2..6 {
        alive(&mut rig, &client, OVERLAP);
        rekey(&mut rig, &mut client);
        assert_eq!(rig.status(&client).key_number, Some(number));
        rig.wait(OVERLAP);
    }
    assert_eq!(rig.status(&client).switches, 0, "rekeys never count");
    rig.check_audit();
}

/// The key before receives for max(3 RTT, 1 s), the round trip being that which the probes measured.
#[test]
fn r5_2_the_key_before_receives_for_three_round_trips() {
    for (rtt_ms, overlap_ms) in [(0, 1_000), (200, 1_000), (700, 2_100), (100_000, 8_000)] {
        let (mut rig, mut client) = rig();
        let index = client.slot().index();
        let context = rig.tables.contexts.0.get_mut(&index).unwrap();
        context.probed.probes = 1;
        context.probed.samples[0] = ProbeSample { rtt_us: rtt_ms * 1_000, change_us: 0 }.encode();
        rekey(&mut rig, &mut client);
        alive(&mut rig, &client, Duration::from_millis(overlap_ms - 1));
        assert_eq!(rig.tables.contexts.0[&index].other_key, Some(0), "{rtt_ms} ms");
        rig.wait(Duration::from_millis(1));
        assert_eq!(rig.tables.contexts.0[&index].other_key, None, "{rtt_ms} ms");
    }
}

/// Workers that do not report the removal are told again; a refused removal is tried again.
#[test]
fn r5_2_the_removal_of_a_key_is_repeated_until_it_is_reported() {
    for answers in [Answers::Never, Answers::Refused] {
        let (mut rig, mut client) = rig();
        rekey(&mut rig, &mut client);
        rig.tables.install = answers;
        rig.wait(OVERLAP);
        assert_eq!(refused(&mut rig, &mut client).0, Reason::RateLimited);
        rig.tables.install = Answers::AtOnce;
        let index = client.slot().index();
        rig.tables.contexts.0.get_mut(&index).unwrap().other_key = Some(0);
        alive(&mut rig, &client, Duration::from_secs(2));
        rekey(&mut rig, &mut client);
        assert_eq!(rig.status(&client).key_number, Some(2), "{answers:?}");
    }
}

/// I13: a lost answer locks nobody out: the next request under the generation in use replaces the offered key.
#[test]
fn i13_a_lost_answer_is_asked_for_again() {
    let (mut rig, mut client) = rig();
    let lost = client.request(&mut rig);
    rig.ask(PATH_A(), &lost.datagram);
    let first = rig.tables.next_entries[&client.slot().index()];
    rekey(&mut rig, &mut client);
    let second = rig.tables.next_entries[&client.slot().index()];
    assert_eq!((first.key_number, second.key_number), (1, 1));
    assert_ne!(first.open_key, second.open_key);
    assert_eq!(rig.status(&client).key_number, Some(1));
    assert_eq!(rig.state(&client), ("ATTACHED", Reason::RekeyOk));
}

/// I13: a client that holds the next key, under which nothing comes through, gets a whole new binding.
#[test]
fn i13_a_key_that_does_not_work_is_left_with_its_binding() {
    let (mut rig, mut client) = rig();
    answered(&mut rig, &mut client);
    let slot = client.slot();
    client.cause = SwitchCause::Retry;
    client.switch(&mut rig, PATH_A());
    assert_ne!(client.slot(), slot);
    assert_eq!(rig.state(&client), ("ATTACHED", Reason::TransportSwitchOk));
    assert_eq!(rig.status(&client).key_number, Some(0));
}

/// A rekey that cannot be installed leaves everything as it is, and is told.
#[test]
fn r5_2_a_failed_rekey_changes_nothing() {
    for answers in [Answers::Refused, Answers::Never] {
        let (mut rig, mut client) = rig();
        let before = rig.status(&client);
        rig.tables.install = answers;
        let sent = client.request(&mut rig);
        rig.sent.clear();
        rig.datagram(PATH_A(), &sent.datagram);
        rig.wait(Duration::from_secs(1));
        let refusal = rig.sent.pop_front().unwrap();
        assert_eq!(sent.reject(&refusal.payload), (Reason::Unavailable, 500), "{answers:?}");
        let after = rig.status(&client);
        assert_eq!((after.state_version, after.key_number), (before.state_version, Some(0)));
        rig.tables.install = Answers::AtOnce;
        rekey(&mut rig, &mut client);
        assert_eq!(rig.status(&client).key_number, Some(1));
    }
}

/// From another endpoint, or once the binding is gone, the same request is a switch.
#[test]
fn r5_2_elsewhere_it_is_a_switch() {
    let (mut rig, mut client) = rig();
    client.switch(&mut rig, PATH_B());
    assert_eq!(rig.status(&client).switches, 1);
    let (mut rig, mut client) = self::rig();
    rig.wait(Duration::from_secs(80));
    assert_eq!(rig.state(&client), ("RECOVERING", Reason::TransportDead));
    client.switch(&mut rig, PATH_A());
    assert_eq!(rig.state(&client), ("ATTACHED", Reason::TransportSwitchOk));
}

/// Neither budget nor cooldown refuse a rekey, and DEGRADED stays what it is.
#[test]
fn r5_2_a_rekey_needs_no_budget() {
    let mut rig = Rig::new(Policy { max_switches_per_min: 1, ..Policy::default() });
    let mut client = rig.attached(0);
    client.switch(&mut rig, PATH_B());
    assert_eq!(rig.state(&client), ("DEGRADED", Reason::PolicyFlapLimit));
    let mut sent = client.request(&mut rig);
    let ack = rig.ask(PATH_B(), &sent.datagram);
    client.read_ack(&mut sent, &ack);
    rig.flip(client.slot());
    assert_eq!(rig.state(&client), ("DEGRADED", Reason::RekeyOk));
}

/// R5.2: at its hard limit – age, packets sealed, packets opened, frames that did not open – a key is erased.
#[test]
fn r5_2_no_key_outlives_its_hard_limit() {
    let policy = Policy { rekey_hard_packets: 1_000, ..Policy::default() };
    let reach: [fn(&mut Rig, u32); 4] = [
        |_, _| {},
        |rig, index| rig.tables.contexts.0.get_mut(&index).unwrap().sealed = 1_000,
        |rig, index| rig.tables.contexts.0.get_mut(&index).unwrap().highest = Some(999),
        |rig, index| rig.tables.contexts.0.get_mut(&index).unwrap().failed_opens = 1 << 52,
    ];
    for (case, reach) in reach.into_iter().enumerate() {
        let mut rig = Rig::new(policy.clone());
        let mut client = rig.attached(0);
        let slot = client.slot();
        reach(&mut rig, slot.index());
        let patience = if case == 0 { Duration::from_secs(180) } else { Duration::from_secs(3) };
        if case == 0 {
            alive(&mut rig, &client, Duration::from_secs(179));
            assert_eq!(rig.state(&client).0, "ATTACHED");
        }
        rig.wait(patience);
        assert_eq!(rig.state(&client), ("RECOVERING", Reason::KeyExhausted), "case {case}");
        assert!(rig.bound_slots().is_empty());
        // No key past its limit recognises a frame: the client is told that its slot is gone.
        let sample = client.sample(client.newest(), 5_000);
        let reset = rig.ask(PATH_A(), &sample);
        assert_eq!(reset[0], MsgType::Reset.octet());
        client.switch(&mut rig, PATH_A());
        assert_eq!(rig.state(&client).0, "ATTACHED");
        rig.check_audit();
    }
}

/// An offered key waits until the key in use reaches its hard limit; then both are gone.
#[test]
fn r5_2_an_offered_key_waits_until_the_hard_limit() {
    let (mut rig, mut client) = rig();
    answered(&mut rig, &mut client);
    alive(&mut rig, &client, Duration::from_secs(179));
    assert_eq!(rig.state(&client).0, "ATTACHED");
    alive(&mut rig, &client, Duration::from_secs(1));
    assert_eq!(rig.state(&client), ("RECOVERING", Reason::KeyExhausted));
    client.switch(&mut rig, PATH_A());
    assert_eq!(rig.state(&client).0, "ATTACHED");
}

/// Rekeyed in time, a binding lives on.
#[test]
fn r5_2_rekeyed_in_time_a_binding_lives_on() {
    let (mut rig, mut client) = rig();
    for _ in 0..10 {
        alive(&mut rig, &client, Duration::from_secs(120));
        rekey(&mut rig, &mut client);
    }
    let status = rig.status(&client);
    assert_eq!((status.state, status.key_number, status.switches), ("ATTACHED", Some(10), 0));
    rig.check_audit();
}

fn lose_and_adopt(rig: &mut Rig) {
    rig.tables.bound.clear();
    rig.tables.routes.clear();
    rig.event(TableEvent::DataPlaneLost);
    rig.tables.forget_keys();
    rig.event(TableEvent::DataPlaneUp { slots: 64, context_kept: true });
}

/// R7.3, I11: a data plane that restarts in the middle of a rekey gets both keys back, whichever is in use.
#[test]
fn r7_3_a_data_plane_that_restarts_in_a_rekey_gets_both_keys() {
    let (mut rig, mut client) = rig();
    answered(&mut rig, &mut client);
    let index = client.slot().index();
    let offered = rig.tables.next_entries[&index];
    lose_and_adopt(&mut rig);
    assert_eq!(rig.tables.contexts.0[&index].other_key, Some(1));
    assert_eq!(rig.tables.entries[&index].op, InstallOp::Adopt as u32);
    assert_ne!(rig.tables.entries[&index].open_key, offered.open_key);
    rig.flip(client.slot());
    client.settle();
    assert_eq!(rig.state(&client), ("ATTACHED", Reason::RekeyOk));
    // In the overlap: the key before comes back too, and is dropped in its time.
    lose_and_adopt(&mut rig);
    assert_eq!(rig.tables.contexts.0[&index].other_key, Some(0));
    assert_eq!((rig.tables.entries[&index].key_number, rig.status(&client).key_number), (1, Some(1)));
    rig.wait(OVERLAP);
    assert_eq!(rig.tables.contexts.0[&index].other_key, None);
    rig.check_audit();
}

/// R5.2, R7.3: an overlap that ends while no data plane is there ends then: nobody is told anything, and the next one gets
/// the key in use alone.
#[test]
fn r5_2_an_overlap_that_ends_without_a_data_plane_is_over() {
    let (mut rig, mut client) = rig();
    rekey(&mut rig, &mut client);
    let index = client.slot().index();
    rig.tables.bound.clear();
    rig.tables.routes.clear();
    rig.event(TableEvent::DataPlaneLost);
    rig.tables.forget_keys();
    let said = rig.tables.log.len();
    rig.wait(OVERLAP * 5);
    let told: Vec<_> = rig.tables.log.iter().skip(said).filter(|line| !line.starts_with("Journal")).collect();
    assert_eq!(told, Vec::<&String>::new(), "nobody is there to be told");
    rig.event(TableEvent::DataPlaneUp { slots: 64, context_kept: true });
    assert_eq!((rig.tables.entries[&index].key_number, rig.tables.contexts.0[&index].other_key), (1, None));
    assert_eq!(rig.state(&client), ("ATTACHED", Reason::RekeyOk));
    rekey(&mut rig, &mut client);
    assert_eq!(rig.status(&client).key_number, Some(2));
    rig.check_audit();
}

/// R7.3: a flip that the data plane could not report before its end is seen when it is back.
#[test]
fn r7_3_an_unreported_flip_is_seen() {
    for lost in [true, false] {
        let (mut rig, mut client) = rig();
        answered(&mut rig, &mut client);
        let context = rig.tables.contexts.0.get_mut(&client.slot().index()).unwrap();
        (context.send_key, context.other_key) = (1, Some(0));
        if lost {
            lose_and_adopt(&mut rig);
        } else {
            // No report, but at the latest when the path is looked at.
            alive(&mut rig, &client, Duration::from_secs(3));
        }
        assert_eq!(rig.state(&client), ("ATTACHED", Reason::RekeyOk), "lost {lost}");
    }
}

/// R7.3: a rekey that was being installed when the data plane went fails and is told.
#[test]
fn r7_3_a_rekey_under_way_fails_with_the_data_plane() {
    let (mut rig, mut client) = rig();
    rig.tables.install = Answers::Held;
    let sent: Sent = client.request(&mut rig);
    rig.ask_in_vain(PATH_A(), &sent.datagram);
    rig.tables.install = Answers::AtOnce;
    lose_and_adopt(&mut rig);
    let refusal = rig.sent.pop_front().unwrap();
    assert_eq!(sent.reject(&refusal.payload).0, Reason::Unavailable);
    assert_eq!(rig.state(&client).0, "ATTACHED");
    rig.let_go();
    rekey(&mut rig, &mut client);
    assert_eq!(rig.status(&client).key_number, Some(1));
}

/// CONTROL opens under the keys of whichever answer its sender has.
#[test]
fn r5_2_control_is_heard_under_both_keys() {
    let (mut rig, mut client) = rig();
    answered(&mut rig, &mut client);
    let goodbye = client.control(&ControlMessage::Terminate { reason: Reason::PeerTerminate });
    rig.datagram(PATH_A(), &goodbye);
    assert_eq!(rig.state(&client), ("TERMINATED", Reason::PeerTerminate));
    let (mut rig, mut client) = self::rig();
    let goodbye = client.control(&ControlMessage::Terminate { reason: Reason::PeerTerminate });
    rekey(&mut rig, &mut client);
    rig.datagram(PATH_A(), &goodbye);
    assert_eq!(rig.state(&client), ("TERMINATED", Reason::PeerTerminate));
}

/// R1.1: DATA under the next key from elsewhere is known, hinted at, and flips nothing.
#[test]
fn r1_1_a_sample_under_the_next_key_is_only_a_hint() {
    let (mut rig, mut client) = rig();
    answered(&mut rig, &mut client);
    let sample = client.sample(client.newest(), 3);
    let hint = rig.ask(PATH_B(), &sample);
    assert!(matches!(client.open(&client.held[0], &hint), Some(ControlMessage::PathHint { .. })));
    assert_eq!(rig.status(&client).key_number, Some(0));
    let security =
        |line: &jvpn_controlplane::audit::Line| matches!(line.event.kind, AuditKind::Security { .. });
    assert_eq!(rig.lines.iter().filter(|line| security(line)).count(), 1);
}

/// R7.3, I11: a control plane that is killed in the middle of a rekey: the offered key comes into use all the same, the one
/// before is dropped, and the next rekey goes on from there.
#[test]
fn r7_3_a_killed_control_plane_goes_on_with_a_rekey() {
    for stage in ["in use", "offered", "flipped unseen", "overlap"] {
        let (mut rig, mut client) = rig();
        let id = rig.status(&client).id;
        match stage {
            "in use" => {}
            "offered" => answered(&mut rig, &mut client),
            "flipped unseen" => {
                answered(&mut rig, &mut client);
                let context = rig.tables.contexts.0.get_mut(&client.slot().index()).unwrap();
                (context.send_key, context.other_key) = (1, Some(0));
            }
            _ => rekey(&mut rig, &mut client),
        }
        rig.restart();
        if stage == "offered" {
            rig.flip(client.slot());
        }
        alive(&mut rig, &client, Duration::from_secs(4));
        client.settle();
        let number = u32::from(stage != "in use");
        let status = rig.status(&client);
        assert_eq!(
            (status.state, status.key_number, status.switches),
            ("ATTACHED", Some(number), 0),
            "{stage}"
        );
        assert_eq!(status.id, id);
        assert_eq!(rig.tables.contexts.0[&client.slot().index()].other_key, None, "{stage}");
        rekey(&mut rig, &mut client);
        assert_eq!(rig.status(&client).key_number, Some(number + 1), "{stage}");
        let goodbye = client.control(&ControlMessage::Terminate { reason: Reason::PeerTerminate });
        rig.datagram(PATH_A(), &goodbye);
        assert_eq!(rig.state(&client), ("TERMINATED", Reason::PeerTerminate), "{stage}");
        rig.check_audit();
    }
}

/// R5.2: limits of age hold over a restart of the control plane.
#[test]
fn r5_2_a_key_does_not_grow_younger_by_a_restart() {
    let (mut rig, client) = rig();
    alive(&mut rig, &client, Duration::from_secs(100));
    rig.restart();
    assert!(rig.status(&client).key_age_ms.unwrap() >= 100_000);
    alive(&mut rig, &client, Duration::from_secs(81));
    assert_eq!(rig.state(&client), ("RECOVERING", Reason::KeyExhausted));
}
