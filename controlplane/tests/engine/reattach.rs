//! Reattach: the order of checks, generations, lost and repeated messages.

use crate::client::Client;
use crate::rig::{Answers, PATH_A, PATH_B, PATH_C, Rig};
use jvpn_abi::Reason;
use jvpn_abi::wire::reset::{Reset, ResetKind};
use jvpn_controlplane::engine::{Counter, QUIESCE_TIMEOUT, TableEvent};
use jvpn_session::Policy;
use jvpn_session::messages::{ControlMessage, SwitchCause};
use std::time::Duration;

fn rig() -> (Rig, Client) {
    let mut rig = Rig::new(Policy::default());
    let client = rig.attached(0);
    rig.wait(Duration::from_millis(500));
    rig.tables.log.clear();
    rig.events();
    (rig, client)
}

/// R1.1, R1.2, R1.5: unbind, quiesce, install, bind, answer, confirm, routes; two transitions, the same
/// SessionID.
#[test]
fn r1_1_a_switch_unbinds_before_it_installs() {
    let (mut rig, mut client) = rig();
    let (session, old) = (client.session(), client.slot());
    rig.tables.quiesce = Answers::Held;
    rig.tables.install = Answers::Held;
    let mut sent = client.request(&mut rig);
    rig.ask_in_vain(PATH_B(), &sent.datagram);
    assert_eq!(rig.state(&client), ("RECOVERING", Reason::RecoveryStart));
    assert!(rig.bound_slots().is_empty(), "unbound at once");
    let quiesced = rig.tables.held.pop_front().unwrap();
    rig.event(quiesced);
    assert!(rig.bound_slots().is_empty(), "installing is not binding");
    assert!(rig.sent.is_empty(), "no answer before every worker has the keys");
    let installed = rig.tables.held.pop_front().unwrap();
    rig.event(installed);
    let ack = rig.sent.pop_front().unwrap();
    client.read_ack(&mut sent, &ack.payload);
    assert_eq!(client.session(), session);
    assert_ne!(client.slot(), old);
    assert_eq!(rig.tables.routes["10.77.0.2/32"], old, "unconfirmed: nothing is sent to the new path");
    assert_eq!(rig.state(&client), ("RECOVERING", Reason::RecoveryStart));
    rig.wait(Duration::from_millis(40));
    rig.frame(client.slot(), PATH_B());
    assert_eq!(rig.state(&client), ("ATTACHED", Reason::TransportSwitchOk));
    assert_eq!(rig.tables.routes["10.77.0.2/32"], client.slot());
    let kinds: Vec<_> = rig.tables.log.iter().map(|line| line.split('(').next().unwrap()).collect();
    assert_eq!(
        kinds,
        ["Journal", "Unbind", "Remove", "Install", "Journal", "Bind", "Journal", "RouteAdd", "RouteAdd"]
    );
    assert_eq!(rig.events(), ["STATE_CHANGE", "STATE_CHANGE", "TRANSPORT_SWITCH", "RECOVERY_COMPLETE"]);
    rig.check_audit();
}

/// I13: the answer is lost, the client comes back over a third path under the generation it still holds.
#[test]
fn i13_a_lost_answer_locks_nobody_out() {
    let (mut rig, mut client) = rig();
    let lost = client.request(&mut rig);
    rig.ask(PATH_B(), &lost.datagram);
    rig.wait(Duration::from_millis(300));
    let unconfirmed = rig.bound_slots();
    client.attempt = 2;
    let mut third = client.request(&mut rig);
    let ack = rig.ask(PATH_C(), &third.datagram);
    assert_eq!(rig.state(&client), ("RECOVERING", Reason::RecoveryRetry));
    client.read_ack(&mut third, &ack);
    assert_ne!(rig.bound_slots(), unconfirmed);
    assert_eq!(rig.bound_slots(), [client.slot().index()]);
    rig.frame(client.slot(), PATH_C());
    assert_eq!(rig.state(&client), ("ATTACHED", Reason::TransportSwitchOk));
    assert_eq!(rig.status(&client).switches, 1, "one switch, however many attempts");
    rig.check_audit();
}

/// I13: the answer arrived, but the new path died before the first frame: the request comes under the pending
/// generation, which erases the older one.
#[test]
fn i13_a_request_under_the_pending_generation_is_accepted() {
    let (mut rig, mut client) = rig();
    let mut sent = client.request(&mut rig);
    let ack = rig.ask(PATH_B(), &sent.datagram);
    client.read_ack(&mut sent, &ack);
    rig.wait(Duration::from_millis(1_000));
    assert_eq!(rig.state(&client), ("RECOVERING", Reason::BindUnconfirmed));
    assert!(rig.bound_slots().is_empty());
    // Removing the binding kept its generation.
    let mut again = client.request(&mut rig);
    let ack = rig.ask(PATH_C(), &again.datagram);
    client.read_ack(&mut again, &ack);
    // The generation before is erased: its handle is a replay now.
    client.nonce += 1;
    let stale = client.request_as(&mut rig, 0, client.nonce, 0);
    rig.ask_in_vain(PATH_A(), &stale.datagram);
    assert_eq!(rig.rejected(Reason::ReplayDetected), 1);
    rig.frame(client.slot(), PATH_C());
    assert_eq!(rig.state(&client).0, "ATTACHED");
    rig.check_audit();
}

/// A repeated request gets the same answer and more time; without its binding it is a replay.
#[test]
fn r2_2_a_repeated_request_gets_the_same_answer() {
    let (mut rig, mut client) = rig();
    let mut sent = client.request(&mut rig);
    let ack = rig.ask(PATH_B(), &sent.datagram);
    let version = rig.status(&client).state_version;
    for _ in 0..3 {
        rig.wait(Duration::from_millis(900));
        assert_eq!(rig.ask(PATH_B(), &sent.datagram), ack, "byte-identical, and the timer restarts");
    }
    assert_eq!(rig.status(&client).state_version, version);
    assert_eq!(rig.counter(Counter::ReattachAnsweredAgain), 3);
    // From another endpoint it is a replay.
    rig.ask_in_vain(PATH_C(), &sent.datagram);
    assert_eq!(rig.rejected(Reason::ReplayDetected), 1);
    rig.wait(Duration::from_millis(900));
    assert_eq!(rig.state(&client).1, Reason::RecoveryStart);
    rig.wait(Duration::from_millis(100));
    assert_eq!(rig.state(&client).1, Reason::BindUnconfirmed);
    rig.ask_in_vain(PATH_B(), &sent.datagram);
    client.read_ack(&mut sent, &ack);
    client.switch(&mut rig, PATH_B());
    assert_eq!(rig.state(&client).0, "ATTACHED");
}

/// A repetition while the binding is being installed waits for the one answer.
#[test]
fn r2_2_a_repetition_during_the_installation_changes_nothing() {
    let (mut rig, mut client) = rig();
    rig.tables.install = Answers::Held;
    let sent = client.request(&mut rig);
    rig.ask_in_vain(PATH_B(), &sent.datagram);
    rig.ask_in_vain(PATH_B(), &sent.datagram);
    assert_eq!(rig.counter(Counter::ReattachInProgress), 1);
    rig.let_go();
    assert_eq!(rig.sent.len(), 1);
}

/// R2.4, R2.2: recorded requests are refused from anywhere, counted, and change nothing.
#[test]
fn r2_4_replayed_requests_change_nothing() {
    let (mut rig, mut client) = rig();
    let mut recorded = Vec::new();
    for path in [PATH_B(), PATH_C(), PATH_A()] {
        let mut sent = client.request(&mut rig);
        let ack = rig.ask(path, &sent.datagram);
        client.read_ack(&mut sent, &ack);
        rig.frame(client.slot(), path);
        client.settle();
        recorded.push(sent.datagram);
        rig.wait(Duration::from_millis(400));
    }
    let before = rig.status(&client);
    let bound = rig.tables.bound.clone();
    rig.events();
    for _ in 0..50 {
        // The newest handle is the last erased; older ones are not known any more and get a handle RESET at
        // most.
        for request in &recorded {
            rig.sent.clear();
            rig.datagram(crate::rig::endpoint(66, 666), request);
            assert!(rig.sent.iter().all(|answer| Reset::parse(&answer.payload).is_some()));
        }
    }
    let after = rig.status(&client);
    assert_eq!((after.state_version, after.epoch), (before.state_version, before.epoch));
    assert_eq!(rig.tables.bound, bound);
    assert_eq!(rig.rejected(Reason::ReplayDetected), 50);
    assert_eq!(rig.rejected(Reason::SessionNotFound), 100);
    let summarised = rig.events();
    assert_eq!(summarised.iter().filter(|kind| **kind == "SECURITY_EVENT").count(), 1);
    assert_eq!(summarised.len(), 2, "SECURITY_EVENT and REATTACH_REJECT, once each");
    client.switch(&mut rig, PATH_B());
}

/// R2.3: forged requests meet silence, touch no limit of the session and burn no nonce.
#[test]
fn r2_3_forged_requests_cost_the_session_nothing() {
    let (mut rig, mut client) = rig();
    let genuine = client.request(&mut rig);
    for at in [4, 12, 20, 28, 44, 100, 239, 240, 255] {
        for _ in 0..10 {
            let mut forged = genuine.datagram.clone();
            forged[at] ^= 0x80;
            rig.sent.clear();
            rig.datagram(PATH_B(), &forged);
            assert!(rig.sent.iter().all(|answer| Reset::parse(&answer.payload).is_some()), "octet {at}");
        }
    }
    rig.ask_in_vain(PATH_B(), &genuine.datagram[..255]);
    assert_eq!(rig.rejected(Reason::Malformed), 1);
    assert_eq!(rig.state(&client).0, "ATTACHED");
    let ack = rig.ask(PATH_B(), &genuine.datagram);
    assert!(ack.len() > 100, "the genuine one is granted");
}

/// R1.3, R1.4: an older or newer anchor is refused, authenticated; the nonce is burnt, the refusal
/// repeatable.
#[test]
fn r1_3_stale_and_future_versions_are_refused_and_burn_the_nonce() {
    let (mut rig, mut client) = rig();
    client.switch(&mut rig, PATH_A());
    let before = rig.status(&client);
    for (nonce, offset, reason) in [(5, -1, Reason::StaleVersion), (9, 1, Reason::VersionAhead)] {
        let sent = client.request_as(&mut rig, 0, nonce, offset);
        let refusal = rig.ask(PATH_B(), &sent.datagram);
        assert_eq!(sent.reject(&refusal), (reason, 0));
        assert_eq!(rig.ask(PATH_B(), &sent.datagram), refusal, "repeated");
        rig.ask_in_vain(PATH_C(), &sent.datagram);
        let burnt = client.request_as(&mut rig, 0, nonce, 0);
        rig.ask_in_vain(PATH_B(), &burnt.datagram);
    }
    assert_eq!(rig.status(&client).state_version, before.state_version);
    client.nonce = 9;
    client.switch(&mut rig, PATH_B());
}

/// A payload that does not parse is refused although its sender is proven.
#[test]
fn r1_4_a_request_under_another_session_does_not_authenticate() {
    let (mut rig, mut client) = rig();
    let other = rig.attached(1);
    let mut grant = client.grant.clone().unwrap();
    grant.session_id = other.session();
    client.grant = Some(grant);
    let crossed = client.request(&mut rig);
    rig.ask_in_vain(PATH_B(), &crossed.datagram);
    assert_eq!(rig.rejected(Reason::AuthFail), 1);
    assert_eq!(rig.state(&other).0, "ATTACHED");
}

/// R3.1: the session's limit refuses with a time to come back, before any Diffie-Hellman, and burns nothing.
#[test]
fn r3_1_the_limit_of_a_session_says_when_to_come_back() {
    let (mut rig, mut client) = rig();
    client.cause = SwitchCause::Voluntary;
    client.switch(&mut rig, PATH_B());
    for _ in 0..4 {
        let sent = client.request(&mut rig);
        let refusal = rig.ask(PATH_C(), &sent.datagram);
        assert_eq!(sent.reject(&refusal).0, Reason::Cooldown);
    }
    let sent = client.request(&mut rig);
    let refusal = rig.ask(PATH_C(), &sent.datagram);
    assert_eq!(sent.reject(&refusal), (Reason::RateLimited, 200));
    rig.wait(Duration::from_millis(2_000));
    let ack = rig.ask(PATH_C(), &sent.datagram);
    assert!(ack.len() > 100, "the very request that was limited: its nonce was not burnt");
}

/// R3.1: the node's limit protects the Diffie-Hellman.
#[test]
fn r3_1_the_limit_of_the_node_refuses_too() {
    let mut rig = Rig::new(Policy { reattach_global_per_second: 1, ..Policy::default() });
    let mut a = rig.attached(0);
    let mut b = Client::new(1, rig.gateway);
    b.handshake(&mut rig, PATH_C());
    rig.frame(b.slot(), PATH_C());
    a.switch(&mut rig, PATH_B());
    let sent = b.request(&mut rig);
    let refusal = rig.ask(PATH_A(), &sent.datagram);
    assert_eq!(sent.reject(&refusal), (Reason::RateLimited, 1_000));
    assert!(rig.events().contains(&"RATE_LIMIT_EVENT"));
}

/// An unknown handle gets a stateless RESET with the token that its owner was given, within a limit.
#[test]
fn r2_3_an_unknown_handle_gets_a_reset() {
    let (mut rig, mut client) = rig();
    let sent = client.request(&mut rig);
    let grant = client.newest().grant.clone();
    let mut fresh = Rig::new(Policy::default());
    fresh.gateway = rig.gateway;
    let answer = fresh.ask(PATH_B(), &sent.datagram);
    let reset = Reset::parse(&answer).unwrap();
    assert_eq!(
        (reset.kind, reset.value, reset.token),
        (ResetKind::Handle, grant.handle.0, grant.handle_token)
    );
    for _ in 0..1_000 {
        fresh.datagram(PATH_B(), &sent.datagram);
    }
    // Half of the limit for whoever asks; then a cookie is asked for first.
    let resets = fresh.sent.iter().filter(|answer| Reset::parse(&answer.payload).is_some()).count();
    assert_eq!(resets, 499, "limited");
    assert_eq!((fresh.counter(Counter::ResetHeldBack), fresh.counter(Counter::RetrySent)), (0, 501));
}

/// Nothing is reset before a control plane knows what the data plane holds.
#[test]
fn r7_3_no_reset_before_the_data_plane_is_known() {
    let (mut rig, mut client) = rig();
    let sent = client.request(&mut rig);
    let mut fresh = Rig::asleep(Policy::default(), vec![]);
    fresh.ask_in_vain(PATH_B(), &sent.datagram);
    assert_eq!(fresh.counter(Counter::ResetHeldBack), 1);
}

/// R1.8: a worker that does not quiesce makes the installation fail; the session stays unbound and can come
/// back.
#[test]
fn r1_8_no_quiescence_no_installation() {
    let (mut rig, mut client) = rig();
    rig.tables.quiesce = Answers::Held;
    let sent = client.request(&mut rig);
    rig.ask_in_vain(PATH_B(), &sent.datagram);
    rig.wait(QUIESCE_TIMEOUT);
    assert_eq!(rig.state(&client), ("RECOVERING", Reason::InstallFailed));
    let refusal = rig.sent.pop_front().unwrap();
    assert_eq!(sent.reject(&refusal.payload), (Reason::Unavailable, 500));
    assert!(rig.bound_slots().is_empty());
    // The next attempt waits for the same slot again, and is installed when the worker reports at last.
    let mut again = client.request(&mut rig);
    rig.ask_in_vain(PATH_B(), &again.datagram);
    assert!(!rig.tables.log.iter().any(|line| line.starts_with("Install")));
    rig.let_go();
    let ack = rig.sent.pop_front().unwrap();
    client.read_ack(&mut again, &ack.payload);
    rig.frame(client.slot(), PATH_B());
    assert_eq!(rig.state(&client).0, "ATTACHED");
    rig.check_audit();
}

/// R1.8: a refused installation is told; the generation whose answer never left is forgotten.
#[test]
fn r1_8_a_refused_installation_leaves_the_session_unbound() {
    let (mut rig, mut client) = rig();
    for answers in [Answers::Refused, Answers::Never] {
        rig.tables.install = answers;
        let sent = client.request(&mut rig);
        rig.sent.clear();
        rig.datagram(PATH_B(), &sent.datagram);
        rig.wait(Duration::from_secs(1));
        assert_eq!(rig.state(&client), ("RECOVERING", Reason::InstallFailed));
        let refusal = rig.sent.pop_front().unwrap();
        assert_eq!(sent.reject(&refusal.payload).0, Reason::Unavailable);
    }
    rig.tables.install = Answers::AtOnce;
    client.switch(&mut rig, PATH_B());
    assert_eq!(rig.state(&client).0, "ATTACHED");
    rig.check_audit();
}

/// A further request while the previous one is being quiesced, installed or is unconfirmed replaces it.
#[test]
fn i13_a_further_request_replaces_the_one_under_way() {
    let (mut rig, mut client) = rig();
    rig.tables.quiesce = Answers::Held;
    rig.tables.install = Answers::Held;
    let quiescing = client.request(&mut rig);
    rig.ask_in_vain(PATH_B(), &quiescing.datagram);
    rig.wait(Duration::from_millis(20));
    let installing = client.request(&mut rig);
    rig.ask_in_vain(PATH_C(), &installing.datagram);
    assert_eq!(rig.state(&client).1, Reason::RecoveryRetry);
    // Both unbinds are passed; the second attempt is being installed.
    for _ in 0..2 {
        let quiesced = rig.tables.held.pop_front().unwrap();
        rig.event(quiesced);
    }
    rig.wait(Duration::from_millis(20));
    let mut last = client.request(&mut rig);
    rig.ask_in_vain(PATH_B(), &last.datagram);
    // The report of the installation that was given up comes late and means nothing.
    rig.let_go();
    assert_eq!(rig.sent.len(), 1, "only the latest request is answered");
    let ack = rig.sent.pop_front().unwrap();
    assert_eq!(ack.remote, PATH_B());
    client.read_ack(&mut last, &ack.payload);
    assert_eq!(rig.bound_slots(), [client.slot().index()]);
    rig.frame(client.slot(), PATH_B());
    assert_eq!(rig.state(&client).0, "ATTACHED");
    assert_eq!(rig.status(&client).epoch, 4, "every attempt had an epoch of its own");
    rig.check_audit();
}

/// A late report of a binding that was left confirms nothing.
#[test]
fn r1_1_a_late_confirmation_means_nothing() {
    let (mut rig, mut client) = rig();
    let lost = client.request(&mut rig);
    rig.ask(PATH_B(), &lost.datagram);
    let (index, (word, ..)) = rig.tables.bound.iter().next().map(|(i, b)| (*i, *b)).unwrap();
    let mut next = client.request(&mut rig);
    let ack = rig.ask(PATH_C(), &next.datagram);
    rig.event(TableEvent::Confirmed { slot_index: index, word });
    assert_eq!(rig.state(&client), ("RECOVERING", Reason::RecoveryRetry));
    assert_eq!(rig.counter(Counter::StaleReport), 1);
    client.read_ack(&mut next, &ack);
    rig.frame(client.slot(), PATH_C());
    assert_eq!(rig.state(&client).0, "ATTACHED");
}

/// A request from the bound endpoint brings fresh keys, and neither a switch nor a slot (`rekey.rs` has the rest).
#[test]
fn r5_2_a_request_from_the_same_endpoint_brings_fresh_keys() {
    let (mut rig, mut client) = rig();
    let (before, slot) = (client.newest().secret.data_keys(), client.slot());
    client.switch(&mut rig, PATH_A());
    assert_eq!((rig.state(&client), client.slot()), (("ATTACHED", Reason::RekeyOk), slot));
    assert_ne!(before.client_to_gateway, client.newest().secret.data_keys().client_to_gateway);
}

/// I4: a terminated session stays terminated, and says so with authentication.
#[test]
fn i4_terminated_stays_terminated() {
    let (mut rig, mut client) = rig();
    let mut newer = Client::new(0, rig.gateway);
    newer.timestamp_ns = 9_000;
    newer.handshake(&mut rig, PATH_B());
    rig.frame(newer.slot(), PATH_B());
    // Told that it was superseded, a client does not come back by itself.
    let sent = client.request(&mut rig);
    let refusal = rig.ask(PATH_A(), &sent.datagram);
    assert_eq!(sent.reject(&refusal), (Reason::Superseded, 0));
    assert_eq!(rig.state(&client), ("TERMINATED", Reason::Superseded));

    let control = newer.control(&ControlMessage::Terminate { reason: Reason::PeerTerminate });
    rig.datagram(PATH_B(), &control);
    let sent = newer.request(&mut rig);
    let refusal = rig.ask(PATH_A(), &sent.datagram);
    assert_eq!(sent.reject(&refusal), (Reason::SessionTerminated, 0));
    rig.check_audit();
}
