//! Tickets and path probes: judged without memory, limited, never larger than the question, and of no effect on any
//! binding.

use crate::client::Client;
use crate::rig::{PATH_A, PATH_B, PATH_C, Rig};
use jvpn_controlplane::engine::{AdminCommand, Counter};
use jvpn_controlplane::limits::{PATH_PROBES_PER_SECOND, TICKETS_BURST};
use jvpn_crypto::keys::NodeKey;
use jvpn_crypto::path::{BUCKET_SECONDS, TICKET_BUCKETS, Ticket, TicketMint};
use jvpn_session::Policy;
use jvpn_session::messages::{ControlMessage, MAX_TICKETS, TicketBatch};
use std::time::Duration;

/// What the gateway answers when this client asks for tickets.
fn ask(rig: &mut Rig, client: &Client) -> Option<TicketBatch> {
    rig.sent.clear();
    let question = client.control(&ControlMessage::AskTickets);
    rig.datagram(PATH_A(), &question);
    let answer = rig.sent.pop_front()?;
    assert_eq!(answer.remote, PATH_A(), "over the bound path and no other");
    match client.open(client.newest(), &answer.payload) {
        Some(ControlMessage::Tickets(batch)) => Some(batch),
        other => panic!("no tickets, but {other:?}"),
    }
}

fn tickets(rig: &mut Rig, client: &Client) -> Vec<Ticket> {
    ask(rig, client).unwrap().tickets.into_iter().map(Ticket::from).collect()
}

/// R7.1: tickets come by sealed CONTROL over the confirmed binding; each is echoed from wherever its probe comes, never
/// with more than was asked, and nothing else changes.
#[test]
fn tickets_are_handed_out_and_echoed_anywhere() {
    let mut rig = Rig::new(Policy::default());
    let client = rig.attached(0);
    let batch = ask(&mut rig, &client).unwrap();
    assert_eq!(batch.tickets.len(), MAX_TICKETS);
    assert!(batch.lifetime_s >= 600);
    let (before, bound, lines) = (rig.status(&client), rig.bound_slots(), rig.lines.len());
    let log = rig.tables.log.len();
    for (at, ticket) in batch.tickets.into_iter().enumerate() {
        let (probe, awaited) = Ticket::from(ticket).probe();
        let from = [PATH_A(), PATH_B(), PATH_C()][at % 3];
        let echo = rig.ask(from, &probe);
        assert!(awaited.matches(&jvpn_abi::wire::path::PathEcho::parse(&echo).unwrap()));
    }
    assert_eq!(rig.counter(Counter::PathEchoSent), MAX_TICKETS as u64);
    let after = rig.status(&client);
    assert_eq!(
        (after.state, after.state_version, after.remote),
        (before.state, before.state_version, before.remote)
    );
    assert_eq!(
        (rig.bound_slots(), rig.lines.len(), rig.tables.log.len()),
        (bound, lines, log),
        "no effect at all"
    );
}

/// The gateway remembers no ticket: used twice it is echoed twice, with the same octets at the same place, from a session
/// that has ended too, until its time is over.
#[test]
fn the_gateway_remembers_no_ticket() {
    let mut rig = Rig::new(Policy::default());
    let client = rig.attached(0);
    let (probe, _) = tickets(&mut rig, &client).remove(0).probe();
    let first = rig.ask(PATH_B(), &probe);
    assert_eq!(rig.ask(PATH_B(), &probe), first);
    assert_ne!(rig.ask(PATH_C(), &probe), first, "a cookie is for one place");
    let id = client.session();
    rig.engine.handle_admin(rig.now, &AdminCommand::TerminateSession(id), &rig.tables.contexts).unwrap();
    rig.pump();
    assert_eq!(rig.status(&client).state, "TERMINATED");
    assert_eq!(rig.ask(PATH_B(), &probe), first);
    rig.wait(Duration::from_secs(BUCKET_SECONDS * u64::from(TICKET_BUCKETS)));
    rig.ask_in_vain(PATH_B(), &probe);
    assert_eq!(rig.counter(Counter::PathProbeExpired), 1);
}

/// R2.2, R2.3: a changed octet, a ticket of another node, of another holder, and a datagram of another size get silence.
#[test]
fn what_is_no_valid_probe_gets_silence() {
    let mut rig = Rig::new(Policy::default());
    let client = rig.attached(0);
    let mut held = tickets(&mut rig, &client);
    let (bucket, name, _) = held[1].parts();
    let stolen = Ticket::from_parts(bucket, name, *held[2].parts().2).probe().0;
    let elsewhere = TicketMint::new(&NodeKey::from_bytes([1; 32])).issue(rig.now, [1; 8]).probe().0;
    let (genuine, _) = held.remove(0).probe();
    for at in 0..genuine.len() {
        let mut spoiled = genuine;
        spoiled[at] ^= 0x40;
        rig.ask_in_vain(PATH_B(), &spoiled);
    }
    rig.ask_in_vain(PATH_B(), &stolen);
    rig.ask_in_vain(PATH_B(), &elsewhere);
    for len in [1, 31, 33, 1_200] {
        let mut odd = genuine.to_vec();
        odd.resize(len, 0);
        rig.ask_in_vain(PATH_B(), &odd);
    }
    assert_eq!(rig.counter(Counter::PathEchoSent), 0);
    rig.ask(PATH_B(), &genuine);
}

/// R3.1: a flood of valid probes is answered up to the node's limit, and costs nobody his session.
#[test]
fn echoes_are_limited_for_the_whole_node() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    let (probe, _) = tickets(&mut rig, &client).remove(0).probe();
    rig.sent.clear();
    for _ in 0..PATH_PROBES_PER_SECOND + 100 {
        rig.datagram(PATH_B(), &probe);
    }
    assert_eq!(rig.sent.len(), PATH_PROBES_PER_SECOND as usize);
    assert_eq!(rig.counter(Counter::PathProbeLimited), 100);
    client.switch(&mut rig, PATH_B());
    assert_eq!(rig.status(&client).state, "ATTACHED");
    rig.wait(Duration::from_millis(100));
    rig.ask(PATH_C(), &probe);
}

/// R3.1, I1: tickets are limited per session, and an unconfirmed binding gets none (its CONTROL is never larger than what
/// asks for it).
#[test]
fn tickets_are_limited_and_need_a_confirmed_binding() {
    let mut rig = Rig::new(Policy::default());
    let mut client = Client::new(0, rig.gateway);
    client.handshake(&mut rig, PATH_A());
    let question = client.control(&ControlMessage::AskTickets);
    rig.ask_in_vain(PATH_A(), &question);
    assert_eq!(rig.counter(Counter::TicketsHeldBack), 1);

    let mut other = rig.attached(1);
    let questions: Vec<_> = {
        let held = other.newest();
        let direction = jvpn_abi::wire::Direction::ClientToGateway;
        let mut sealer = jvpn_crypto::control::ControlSealer::new(
            &held.secret,
            other.suite,
            direction,
            held.grant.slot,
            0,
        );
        (0..TICKETS_BURST + 3).map(|_| sealer.seal(&ControlMessage::AskTickets.encode()).unwrap()).collect()
    };
    rig.sent.clear();
    for question in &questions {
        rig.datagram(PATH_A(), question);
    }
    assert_eq!(rig.sent.len(), TICKETS_BURST as usize);
    let replayed = &questions[0];
    rig.wait(Duration::from_secs(3));
    rig.ask_in_vain(PATH_A(), replayed);
    other.cause = jvpn_session::messages::SwitchCause::PathDead;
    other.switch(&mut rig, PATH_B());
}
