//! A data plane that goes away and comes back, with and without its memory.

use crate::client::Client;
use crate::rig::{Answers, PATH_A, PATH_B, Rig};
use jvpn_abi::Reason;
use jvpn_abi::tables::InstallOp;
use jvpn_controlplane::engine::{INSTALL_TIMEOUT, TableEvent};
use jvpn_session::Policy;
use std::time::Duration;

fn lose(rig: &mut Rig) {
    rig.tables.bound.clear();
    rig.tables.routes.clear();
    rig.event(TableEvent::DataPlaneLost);
}

fn up(rig: &mut Rig, context_kept: bool) {
    rig.event(TableEvent::DataPlaneUp { slots: 64, context_kept });
}

/// R7.3: with its CONTEXT a restarted data plane goes on: same slot, same epoch, same keys, same state.
#[test]
fn r7_3_a_restarted_data_plane_goes_on() {
    let mut rig = Rig::new(Policy::default());
    let client = rig.attached(0);
    let before = rig.status(&client);
    let index = client.slot().index();
    let (bound, entry) = (rig.tables.bound.clone(), rig.tables.entries[&index]);
    lose(&mut rig);
    // Longer than the path may be silent: nobody listened, so silence says nothing.
    rig.wait(Duration::from_secs(30));
    assert_eq!(rig.state(&client).0, "ATTACHED");
    up(&mut rig, true);
    let adopted = rig.tables.entries[&index];
    assert_eq!(adopted.op, InstallOp::Adopt as u32);
    assert_eq!(
        (adopted.word, adopted.open_key, adopted.seal_key),
        (entry.word, entry.open_key, entry.seal_key)
    );
    assert_eq!(rig.tables.bound, bound);
    assert_eq!(rig.tables.routes["10.77.0.2/32"], client.slot());
    let after = rig.status(&client);
    assert_eq!(
        (after.state_version, after.epoch, after.slot),
        (before.state_version, before.epoch, before.slot)
    );
    rig.wait(Duration::from_millis(2_900));
    assert_eq!(rig.state(&client).0, "ATTACHED", "silence counts from the restart");
    rig.check_audit();
}

/// R7.3: without its CONTEXT the bindings are gone: RECOVERING (DATA_PLANE_LOST), and a reattach brings it
/// back.
#[test]
fn r7_3_a_data_plane_without_memory_makes_sessions_recover() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    let mut unconfirmed = Client::new(1, rig.gateway);
    unconfirmed.handshake(&mut rig, PATH_B());
    lose(&mut rig);
    up(&mut rig, false);
    assert_eq!(rig.state(&client), ("RECOVERING", Reason::DataPlaneLost));
    assert_eq!(rig.state(&unconfirmed), ("TERMINATED", Reason::HandshakeFail));
    client.switch(&mut rig, PATH_A());
    assert_eq!(rig.state(&client).0, "ATTACHED");
    rig.check_audit();
}

/// I13: a generation whose answer has left survives the loss of its unconfirmed binding.
#[test]
fn i13_a_granted_generation_survives_a_data_plane_without_memory() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    let mut sent = client.request(&mut rig);
    let ack = rig.ask(PATH_B(), &sent.datagram);
    client.read_ack(&mut sent, &ack);
    lose(&mut rig);
    up(&mut rig, false);
    assert_eq!(rig.state(&client), ("RECOVERING", Reason::BindUnconfirmed));
    client.switch(&mut rig, PATH_B());
    assert_eq!(rig.state(&client).0, "ATTACHED");
}

/// R7.3: what was under way when the data plane went fails, is told, and can be asked again.
#[test]
fn r7_3_an_attempt_under_way_fails_with_the_data_plane() {
    for held in [true, false] {
        let mut rig = Rig::new(Policy::default());
        let mut client = rig.attached(0);
        rig.tables.quiesce = if held { Answers::Held } else { Answers::AtOnce };
        rig.tables.install = Answers::Held;
        let sent = client.request(&mut rig);
        rig.ask_in_vain(PATH_B(), &sent.datagram);
        lose(&mut rig);
        assert_eq!(rig.state(&client), ("RECOVERING", Reason::InstallFailed));
        let refusal = rig.sent.pop_front().unwrap();
        assert_eq!(sent.reject(&refusal.payload).0, Reason::Unavailable);
        let sent = client.request(&mut rig);
        let refusal = rig.ask(PATH_B(), &sent.datagram);
        assert_eq!(sent.reject(&refusal), (Reason::Unavailable, 500));
        rig.tables.quiesce = Answers::AtOnce;
        rig.tables.install = Answers::AtOnce;
        up(&mut rig, true);
        // Reports of the process before mean nothing any more.
        rig.let_go();
        client.switch(&mut rig, PATH_B());
        assert_eq!(rig.state(&client).0, "ATTACHED");
        rig.check_audit();
    }
}

/// R7.3: what was reported while the control plane waited for its disk counts, however late it is read: at the same moment
/// a report goes before the timer that it settles.
#[test]
fn r7_3_a_report_that_is_there_goes_before_its_timer() {
    for is_read in [true, false] {
        let mut rig = Rig::new(Policy::default());
        let mut client = rig.attached(0);
        rig.tables.quiesce = Answers::Held;
        rig.tables.install = Answers::Held;
        let mut sent = client.request(&mut rig);
        rig.ask_in_vain(PATH_B(), &sent.datagram);
        // The old binding's end, then the new keys: each is reported while the disk takes its time.
        let stages = [150, 1_050].into_iter().take(if is_read { 2 } else { 1 });
        for took_ms in stages {
            rig.now = rig.now.after(Duration::from_millis(took_ms));
            assert!(rig.engine.poll_timeout().unwrap() <= rig.now, "its timer is due as well");
            if is_read {
                let report = rig.tables.held.pop_front().unwrap();
                rig.event(report);
            }
            rig.wait(Duration::ZERO);
        }
        if is_read {
            let ack = rig.sent.pop_front().unwrap();
            client.read_ack(&mut sent, &ack.payload);
            rig.frame(client.slot(), PATH_B());
            assert_eq!(rig.state(&client).0, "ATTACHED");
        } else {
            assert_eq!(rig.state(&client), ("RECOVERING", Reason::InstallFailed), "the timer alone fails it");
        }
        rig.check_audit();
    }
}

/// A restarted data plane that refuses a binding, or does not take it in time, has lost it.
#[test]
fn r7_3_a_binding_that_is_not_adopted_is_lost() {
    for answers in [Answers::Refused, Answers::Never] {
        let mut rig = Rig::new(Policy::default());
        let mut client = rig.attached(0);
        lose(&mut rig);
        rig.tables.install = answers;
        up(&mut rig, true);
        rig.wait(Duration::from_secs(1));
        assert_eq!(rig.state(&client), ("RECOVERING", Reason::DataPlaneLost), "{answers:?}");
        rig.tables.install = Answers::AtOnce;
        client.switch(&mut rig, PATH_B());
        assert_eq!(rig.state(&client).0, "ATTACHED");
    }
}

/// R1.2, R7.3: a successor that dies before it has taken the bindings back costs none of them: the next one is asked anew,
/// however long it takes to come, and what the dead one was asked means nothing any more.
#[test]
fn r7_3_a_successor_that_dies_at_once_costs_no_binding() {
    let mut rig = Rig::new(Policy::default());
    let client = rig.attached(0);
    let (before, bound) = (rig.status(&client), rig.tables.bound.clone());
    lose(&mut rig);
    rig.tables.install = Answers::Held;
    up(&mut rig, true);
    assert!(!rig.tables.held.is_empty(), "it was asked");
    lose(&mut rig);
    rig.wait(INSTALL_TIMEOUT * 3);
    assert_eq!(rig.state(&client).0, "ATTACHED", "nobody was there to refuse it");
    rig.let_go();
    assert!(rig.tables.bound.is_empty(), "the dead one's report binds nothing");
    rig.tables.install = Answers::AtOnce;
    up(&mut rig, true);
    assert_eq!(rig.tables.bound, bound);
    let after = rig.status(&client);
    assert_eq!(
        (after.state_version, after.epoch, after.slot),
        (before.state_version, before.epoch, before.slot)
    );
    rig.check_audit();
}

/// A reattach that arrives while a binding is being adopted goes its ordinary way.
#[test]
fn i13_a_reattach_during_the_adoption_wins() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    lose(&mut rig);
    rig.tables.install = Answers::Held;
    up(&mut rig, true);
    let mut sent = client.request(&mut rig);
    rig.ask_in_vain(PATH_B(), &sent.datagram);
    rig.let_go();
    let ack = rig.sent.pop_front().unwrap();
    client.read_ack(&mut sent, &ack.payload);
    assert_eq!(rig.bound_slots(), [client.slot().index()]);
    rig.frame(client.slot(), PATH_B());
    assert_eq!(rig.state(&client).0, "ATTACHED");
}

/// R7.3: slots beyond a smaller data plane are lost, the others go on; slots in use are not handed out again.
#[test]
fn r7_3_a_smaller_data_plane_keeps_what_fits() {
    let mut rig = Rig::new(Policy::default());
    let first = rig.attached(0);
    let mut second = Client::new(1, rig.gateway);
    second.handshake(&mut rig, PATH_B());
    rig.frame(second.slot(), PATH_B());
    lose(&mut rig);
    rig.event(TableEvent::DataPlaneUp { slots: 1, context_kept: true });
    assert_eq!(rig.state(&first).0, "ATTACHED");
    assert_eq!(rig.state(&second), ("RECOVERING", Reason::DataPlaneLost));
    let sent = second.request(&mut rig);
    let refusal = rig.ask(PATH_B(), &sent.datagram);
    assert_eq!(sent.reject(&refusal), (Reason::Unavailable, 500));
}

/// R6.1: traffic counts over all bindings of a session.
#[test]
fn r6_1_traffic_adds_up_over_switches() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    for (path, packets) in [(PATH_B(), 5), (PATH_A(), 7)] {
        rig.tables.contexts.0.get_mut(&client.slot().index()).unwrap().traffic.packets_in = packets;
        client.switch(&mut rig, path);
    }
    rig.tables.contexts.0.get_mut(&client.slot().index()).unwrap().traffic.packets_in = 1;
    let status = rig.status(&client);
    assert_eq!((status.packets_in, status.switches), (13, 2));
    let json = serde_json::to_value(rig.engine.status(rig.now, &rig.tables.contexts)).unwrap();
    assert_eq!(json["sessions"][0]["state"], "ATTACHED");
    assert_eq!(json["counters"]["kernel_socket_bound_data"], 0);
}
