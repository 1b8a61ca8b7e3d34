//! A control plane that is killed, at any step, and its successor: the same session goes on, nothing is used twice.

use crate::client::Client;
use crate::rig::{Answers, GATEWAY, PATH_A, PATH_B, PATH_C, Rig};
use jvpn_abi::wire::MsgType;
use jvpn_abi::wire::control::ControlHeader;
use jvpn_abi::{Endpoint, Reason};
use jvpn_controlplane::engine::{Counter, TableEvent};
use jvpn_session::Policy;
use std::collections::BTreeSet;
use std::time::Duration;

/// What an outsider sees of one client's life: none of it may ever come twice.
#[derive(Default)]
struct Seen {
    epochs: BTreeSet<u64>,
    anchors: BTreeSet<u64>,
}

impl Seen {
    fn note(&mut self, client: &Client) {
        let grant = &client.newest().grant;
        assert!(self.epochs.insert(grant.epoch), "I11: epoch {} came twice", grant.epoch);
        assert!(self.anchors.insert(grant.anchor_version), "I3: version {} came twice", grant.anchor_version);
        assert_eq!(self.epochs.last(), Some(&grant.epoch), "I11: epochs rise");
    }
}

/// A request and its answer, if one comes; then the first frame.
fn try_switch(rig: &mut Rig, client: &mut Client, to: Endpoint, seen: &mut Seen) -> bool {
    let mut sent = client.request(rig);
    rig.sent.clear();
    rig.datagram(to, &sent.datagram);
    let ack = rig.sent.iter().find(|t| t.payload[0] == MsgType::ReattachAck.octet()).cloned();
    let Some(ack) = ack else { return false };
    client.read_ack(&mut sent, &ack.payload);
    seen.note(client);
    rig.frame(client.slot(), to);
    true
}

/// I13: the client gets back into the same session, over whichever path, with patience.
fn get_back(rig: &mut Rig, client: &mut Client, seen: &mut Seen) {
    let id = client.session();
    for attempt in 0.. {
        assert!(attempt < 10, "I13: locked out: {:?}", rig.find(client));
        if try_switch(rig, client, PATH_C(), seen) && rig.status(client).slot == Some(client.slot().0) {
            break;
        }
        rig.wait(Duration::from_secs(2));
    }
    client.settle();
    assert_eq!((client.session(), rig.status(client).state), (id, "ATTACHED"));
    assert_eq!(rig.bound_slots(), [client.slot().index()], "I1: one binding");
    rig.check_audit();
}

/// R7.3: forwarding does not notice; identity, version, epoch, slot and traffic go on; then a switch works.
#[test]
fn r7_3_a_killed_control_plane_goes_on() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    client.switch(&mut rig, PATH_B());
    rig.tables.contexts.0.get_mut(&client.slot().index()).unwrap().traffic.packets_in = 5;
    let before = rig.status(&client);
    let (bound, routes, log) = (rig.tables.bound.clone(), rig.tables.routes.clone(), rig.tables.log.len());
    rig.restart();
    let after = rig.status(&client);
    assert_eq!((&after.id, after.state, after.state_version), (&before.id, "ATTACHED", before.state_version));
    assert_eq!((after.epoch, after.slot, after.remote), (before.epoch, before.slot, before.remote));
    assert_eq!((after.switches, after.packets_in), (before.switches, before.packets_in));
    assert_eq!((rig.tables.bound.clone(), rig.tables.routes.clone()), (bound, routes));
    let touched = rig.tables.log[log..]
        .iter()
        .find(|line| !line.starts_with("Journal") && !line.starts_with("RouteAdd"));
    assert_eq!(touched, None, "nothing that forwards is touched");
    assert!(rig.events().contains(&"NODE_STARTED"));
    assert_eq!(rig.counter(Counter::SessionsAdopted), 1);

    let incarnations: BTreeSet<u32> = {
        rig.sent.clear();
        client.switch(&mut rig, PATH_A());
        // The end of the session is told over a binding of this life, the switch before over none: see below.
        rig.sent.iter().filter_map(|t| ControlHeader::parse(&t.payload)).map(|h| h.incarnation).collect()
    };
    assert_eq!(incarnations, BTreeSet::from([0]), "a fresh epoch starts over");
    rig.check_audit();
}

/// R7.3, I11: CONTROL of an adopted binding comes under the next incarnation, every time.
#[test]
fn i11_control_goes_on_with_the_next_incarnation() {
    let mut rig = Rig::new(Policy { max_switches_per_min: 1, ..Policy::default() });
    let mut client = rig.attached(0);
    client.switch(&mut rig, PATH_B());
    for life in 1..4 {
        rig.restart();
        rig.sent.clear();
        // A sample from elsewhere cannot be judged without the keys, so nobody is told anything …
        let sample = client.sample(client.newest(), 900);
        rig.datagram(PATH_C(), &sample);
        assert_eq!((rig.sent.len(), rig.counter(Counter::SampleWithoutKey)), (0, 1));
        if life == 1 {
            // … but a change of state is told to the client: DEGRADED ends.
            let mut told = None;
            for _ in 0..140 {
                rig.frame(client.slot(), PATH_B());
                rig.wait(Duration::from_millis(500));
                told = told.or_else(|| rig.sent.iter().find_map(|t| ControlHeader::parse(&t.payload)));
            }
            assert_eq!(told.unwrap().incarnation, 1);
        }
    }
    rig.sent.clear();
    let id = client.session();
    let admin = jvpn_controlplane::engine::AdminCommand::TerminateSession(id);
    rig.engine.handle_admin(rig.now, &admin, &rig.tables.contexts).unwrap();
    rig.pump();
    assert_eq!(ControlHeader::parse(&rig.sent[0].payload).unwrap().incarnation, 3);
    assert!(rig.tables.journal.is_empty(), "a session that is over leaves nothing in JOURNAL");
}

/// R7.3, I1, I3, I11, I13: killed at every step of a reattach, before and after its first frame.
#[test]
fn r7_3_killed_at_every_step_of_a_reattach() {
    let mut died = 0;
    for fuse in 0..40 {
        let mut rig = Rig::new(Policy::default());
        let mut client = rig.attached(0);
        let mut seen = Seen::default();
        seen.note(&client);
        rig.fuse = Some(fuse);
        try_switch(&mut rig, &mut client, PATH_B(), &mut seen);
        if !rig.is_dead() {
            break;
        }
        died += 1;
        let version = rig.lines.last().and_then(|line| line.event.session).map(|(_, version)| version.0);
        rig.restart();
        assert!(Some(rig.status(&client).state_version) >= version, "I3: fuse {fuse}");
        get_back(&mut rig, &mut client, &mut seen);
    }
    assert!(died > 12, "only {died} steps");
}

/// R7.3, I13: killed at every step of a birth: the same session, or a new handshake, never a lock-out.
#[test]
fn r7_3_killed_at_every_step_of_a_birth() {
    let mut outcomes = BTreeSet::new();
    for fuse in 0..20 {
        let mut rig = Rig::new(Policy::default());
        let mut client = Client::new(0, rig.gateway);
        let (init, initiation) = client.init(&mut rig);
        rig.fuse = Some(fuse);
        rig.datagram(PATH_A(), &init);
        if let Some(response) = rig.sent.pop_front() {
            client.read_response(initiation, &response.payload).unwrap();
            rig.frame(client.slot(), PATH_A());
        }
        let died = rig.is_dead();
        if died {
            rig.restart();
        }
        rig.fuse = None;
        if client.grant.is_some() {
            assert_eq!(rig.status(&client).state, "ATTACHED", "fuse {fuse}: it is in");
            outcomes.insert("same session");
        } else {
            client.handshake(&mut rig, PATH_A());
            rig.frame(client.slot(), PATH_A());
            outcomes.insert("new handshake");
        }
        let mut seen = Seen::default();
        seen.note(&client);
        get_back(&mut rig, &mut client, &mut seen);
        if !died {
            break;
        }
    }
    assert_eq!(outcomes.len(), 2);
}

/// R7.3: a frame that came while nobody listened counts: the switch is complete, and so is its audit.
#[test]
fn r7_3_a_confirmation_while_it_was_dead_counts() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    let mut sent = client.request(&mut rig);
    let ack = rig.ask(PATH_B(), &sent.datagram);
    client.read_ack(&mut sent, &ack);
    rig.fuse = Some(0);
    rig.frame(client.slot(), PATH_B());
    rig.restart();
    assert_eq!(rig.state(&client), ("ATTACHED", Reason::TransportSwitchOk));
    assert!(rig.events().contains(&"RECOVERY_COMPLETE"));
    assert_eq!(rig.tables.routes["10.77.0.2/32"], client.slot());
}

/// R7.3: what waited for the workers has failed; the older binding is gone, the client asks again and is in.
#[test]
fn r7_3_unfinished_work_has_failed() {
    for (quiesce, install) in [(Answers::Never, Answers::AtOnce), (Answers::AtOnce, Answers::Never)] {
        let mut rig = Rig::new(Policy::default());
        let mut client = rig.attached(0);
        rig.tables.quiesce = quiesce;
        rig.tables.install = install;
        let sent = client.request(&mut rig);
        rig.datagram(PATH_B(), &sent.datagram);
        rig.fuse = Some(0);
        (rig.tables.quiesce, rig.tables.install) = (Answers::AtOnce, Answers::AtOnce);
        rig.restart();
        assert_eq!(rig.state(&client), ("RECOVERING", Reason::InstallFailed));
        assert_eq!(rig.bound_slots(), [0u32; 0]);
        get_back(&mut rig, &mut client, &mut Seen::default());
    }
}

/// R2.4: a nonce that was burnt stays burnt: a recorded request is refused by the successor too.
#[test]
fn r2_4_the_nonce_mark_outlives_the_process() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    client.cause = jvpn_session::messages::SwitchCause::Voluntary;
    let refused = client.request_as(&mut rig, 0, 7, 1);
    rig.datagram(PATH_B(), &refused.datagram);
    client.nonce = 7;
    rig.restart();
    rig.ask_in_vain(PATH_B(), &refused.datagram);
    assert_eq!(rig.rejected(Reason::ReplayDetected), 1);
    client.switch(&mut rig, PATH_B());
}

/// R1.7: neither the budget nor the cooldown starts over.
#[test]
fn r1_7_the_budget_outlives_the_process() {
    let mut rig = Rig::new(Policy { max_switches_per_min: 2, ..Policy::default() });
    let mut client = rig.attached(0);
    client.switch(&mut rig, PATH_B());
    client.switch(&mut rig, PATH_C());
    assert_eq!(rig.state(&client), ("DEGRADED", Reason::PolicyFlapLimit));
    rig.restart();
    assert_eq!(rig.state(&client), ("DEGRADED", Reason::PolicyFlapLimit));
    let sent = client.request(&mut rig);
    let refusal = rig.ask(PATH_B(), &sent.datagram);
    assert_eq!(sent.reject(&refusal).0, Reason::Cooldown);
}

/// R7.3: without the DATA keys a data plane that dies afterwards takes the bindings with it, not the sessions.
#[test]
fn r7_3_then_the_data_plane_dies_too() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    rig.restart();
    rig.tables.bound.clear();
    rig.tables.routes.clear();
    rig.event(TableEvent::DataPlaneLost);
    rig.event(TableEvent::DataPlaneUp { slots: 64, context_kept: true });
    assert_eq!(rig.state(&client), ("RECOVERING", Reason::DataPlaneLost));
    get_back(&mut rig, &mut client, &mut Seen::default());
}

/// R1.6: deadlines go on from where they were: a session that lost its path does not live longer for a restart.
#[test]
fn r1_6_deadlines_outlive_the_process() {
    let mut rig = Rig::new(Policy::default());
    let client = rig.attached(0);
    rig.wait(Duration::from_secs(3));
    assert_eq!(rig.state(&client), ("RECOVERING", Reason::TransportDead));
    let ttl = Policy::default().transport_loss_ttl;
    rig.wait(ttl / 2);
    rig.restart();
    rig.wait(ttl / 2 - Duration::from_millis(2));
    assert_eq!(rig.state(&client).0, "RECOVERING");
    rig.wait(Duration::from_millis(1));
    assert_eq!(rig.state(&client), ("TERMINATED", Reason::TtlTransportLossExpired));
    assert!(rig.tables.routes.is_empty() && rig.tables.journal.is_empty());
}

/// R7.3: nobody gets a RESET before adoption is done: its session may be one of those that are being adopted.
#[test]
fn r7_3_no_reset_before_adoption_is_done() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    let sent = client.request(&mut rig);
    rig.tables.journal.clear();
    let bound = |_: u32| jvpn_abi::tables::BindingWord::UNBOUND;
    let mut other = Rig::asleep(Policy::default(), vec![client.suite]);
    assert_eq!(other.engine.adopt(other.now, 8, Vec::new(), &[3], &bound).words.len(), 0);
    other.pump();
    other.ask_in_vain(PATH_B(), &sent.datagram);
    assert_eq!((other.counter(Counter::ResetHeldBack), other.counter(Counter::JournalDamaged)), (1, 1));
    assert!(other.events().contains(&"SECURITY_EVENT"), "a session that ends with its record is not silent");
    other.event(TableEvent::Adopted { slots: 64 });
    assert_eq!(other.ask(PATH_B(), &sent.datagram)[0], MsgType::Reset.octet());
}

/// R7.3, R2.4: JOURNAL may say less than the tables: who reattaches before both were read is told to come again, and is
/// no offender.
#[test]
fn r7_3_a_reattach_before_adoption_is_done_comes_again() {
    let mut rig = Rig::new(Policy::default());
    let mut client = Client::new(0, rig.gateway);
    client.handshake(&mut rig, PATH_A());
    rig.fuse = Some(0);
    // Confirmed in CONTEXT; the control plane dies before it hears of it.
    rig.frame(client.slot(), PATH_A());
    let sent = client.request(&mut rig);
    let (now, contexts) = (rig.now.after(Duration::from_millis(1)), rig.tables.contexts.clone());
    rig.restart_with(|engine| engine.handle_datagram(now, PATH_B(), GATEWAY, &sent.datagram, &contexts));
    let refusal = rig.sent.drain(..).find(|sent| sent.payload[0] == MsgType::ReattachReject.octet()).unwrap();
    assert_eq!(sent.reject(&refusal.payload).0, Reason::Unavailable);
    assert!(!rig.events().contains(&"SECURITY_EVENT"), "{:?}", rig.events());
    assert_eq!(rig.state(&client).0, "ATTACHED");
    get_back(&mut rig, &mut client, &mut Seen::default());
}

/// R7.3: a binding that JOURNAL names but the tables do not hold (the data plane had restarted and was just getting
/// it back) is lost, not believed.
#[test]
fn r7_3_a_binding_that_the_tables_do_not_hold_is_lost() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    rig.tables.bound.clear();
    rig.tables.routes.clear();
    rig.event(TableEvent::DataPlaneLost);
    rig.tables.install = Answers::Held;
    rig.event(TableEvent::DataPlaneUp { slots: 64, context_kept: true });
    assert_eq!((rig.state(&client).0, rig.bound_slots().len()), ("ATTACHED", 0), "on its way back");
    rig.fuse = Some(0);
    rig.tables.install = Answers::AtOnce;
    rig.restart();
    assert_eq!(rig.state(&client), ("RECOVERING", Reason::DataPlaneLost));
    get_back(&mut rig, &mut client, &mut Seen::default());
}
