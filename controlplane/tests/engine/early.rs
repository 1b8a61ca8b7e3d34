//! The advance: a binding whose address its request has proven sends before it is confirmed, once, bounded, and nothing
//! else changes.

use crate::client::{Client, Sent};
use crate::rig::{Answers, GATEWAY, PATH_A, PATH_B, PATH_C, Rig, endpoint};
use jvpn_abi::tables::{EARLY_PACKETS, InstallOp};
use jvpn_abi::wire::path::PathEcho;
use jvpn_abi::{Endpoint, Reason};
use jvpn_controlplane::engine::{AdminCommand, Counter, TableEvent};
use jvpn_crypto::path::Ticket;
use jvpn_session::Policy;
use jvpn_session::messages::ControlMessage;
use std::time::Duration;

fn rig() -> (Rig, Client) {
    let mut rig = Rig::new(Policy::default());
    let client = rig.attached(0);
    rig.wait(Duration::from_millis(1_100));
    (rig, client)
}

/// The cookie that a path echo brings to `from`.
fn cookie_at(rig: &mut Rig, client: &Client, from: Endpoint) -> [u8; 16] {
    rig.sent.clear();
    rig.now.0 += 1_000_000_000;
    // A counter that the gateway has not heard yet.
    let asked = rig.counter(Counter::TicketsHandedOut) as usize;
    let question = client.controls(&ControlMessage::AskTickets, asked + 1).pop().unwrap();
    rig.datagram(PATH_A(), &question);
    let answer = rig.sent.pop_front().unwrap();
    let Some(ControlMessage::Tickets(mut batch)) = client.open(client.newest(), &answer.payload) else {
        panic!("no tickets");
    };
    let (probe, awaited) = Ticket::from(batch.tickets.remove(0)).probe();
    let echo = PathEcho::parse(&rig.ask(from, &probe)).unwrap();
    assert!(awaited.matches(&echo));
    echo.cookie
}

/// A fresh request with this cookie arrives from `from`, and is answered.
fn reattach(rig: &mut Rig, client: &mut Client, from: Endpoint, cookie: [u8; 16]) -> Sent {
    let mut sent = client.request(rig);
    sent.show_octets(cookie);
    let ack = rig.ask(from, &sent.datagram);
    client.read_ack(&mut sent, &ack);
    sent
}

/// What the workers were told that the newest binding may send unheard.
fn advance(rig: &Rig, client: &Client) -> u32 {
    rig.tables.entries[&client.slot().index()].early_packets
}

/// The first of the newest commands that begins so.
fn place(log: &[String], what: &str) -> usize {
    log.iter().position(|line| line.starts_with(what)).unwrap_or_else(|| panic!("no {what} in {log:?}"))
}

fn confirm(rig: &mut Rig, client: &mut Client, from: Endpoint) {
    rig.frame(client.slot(), from);
    client.settle();
    assert_eq!(rig.state(client).0, "ATTACHED");
}

/// R0.4, R7.1: with the cookie of the very address the binding may send at once, its client's prefixes lead to it, and
/// both stand before the answer leaves; with its first frame it is confirmed and counted, as ever.
#[test]
fn r7_1_a_proven_address_is_sent_to_before_it_is_confirmed() {
    let (mut rig, mut client) = rig();
    let cookie = cookie_at(&mut rig, &client, PATH_B());
    rig.tables.log.clear();
    let (lines, before) = (rig.lines.len(), rig.tables.routes.clone());
    reattach(&mut rig, &mut client, PATH_B(), cookie);
    assert_eq!(advance(&rig, &client), EARLY_PACKETS);
    assert_eq!(rig.counter(Counter::ReattachAddressProven), 1);
    let log = &rig.tables.log;
    let order = ["Unbind", "Install", "Bind", "RouteAdd"].map(|what| place(log, what));
    assert!(order.is_sorted(), "{log:?}");
    assert!(before.len() == rig.tables.routes.len() && !before.is_empty());
    assert!(rig.tables.routes.values().all(|slot| *slot == client.slot()), "{:?}", rig.tables.routes);
    assert_eq!(rig.state(&client).0, "RECOVERING", "sending is not being confirmed");
    assert_eq!(rig.lines.len(), lines + 1, "RECOVERY_START and nothing more");
    let switches = |rig: &mut Rig| rig.events().iter().filter(|kind| **kind == "TRANSPORT_SWITCH").count();
    assert_eq!(switches(&mut rig), 0);
    rig.tables.log.clear();
    confirm(&mut rig, &mut client, PATH_B());
    assert!(!rig.tables.log.iter().any(|line| line.starts_with("RouteAdd")), "they lead there already");
    assert_eq!(switches(&mut rig), 1);
    rig.check_audit();
}

/// R2.2, R3.1: without a cookie, with one of another address, port or gateway address, with a made-up or an old one a
/// request is accepted as ever, and nothing is sent before its client is heard.
#[test]
fn r2_2_no_other_cookie_lets_send() {
    let (mut rig, mut client) = rig();
    let here = cookie_at(&mut rig, &client, PATH_B());
    let other_port = endpoint(PATH_B().addr[15], PATH_B().port + 1);
    let elsewhere = cookie_at(&mut rig, &client, other_port);
    for cookie in [[0; 16], elsewhere, [7; 16]] {
        let (routes, to) = (rig.tables.routes.clone(), PATH_B());
        reattach(&mut rig, &mut client, to, cookie);
        assert_eq!((advance(&rig, &client), rig.counter(Counter::ReattachAddressProven)), (0, 0));
        assert_eq!(rig.tables.routes, routes, "routes follow a confirmed binding");
        confirm(&mut rig, &mut client, to);
        rig.wait(Duration::from_secs(9));
        client.switch(&mut rig, PATH_A());
        rig.wait(Duration::from_secs(9));
    }
    // A copy of the request at another address, before the original gets there.
    let mut sent = client.request(&mut rig);
    sent.show_octets(here);
    let _stolen = rig.ask(PATH_C(), &sent.datagram);
    assert_eq!(rig.counter(Counter::ReattachAddressProven), 0);
    assert!(rig.tables.entries.values().all(|entry| entry.early_packets == 0));
    rig.ask_in_vain(PATH_B(), &sent.datagram);
    rig.wait(Duration::from_millis(1_500));
    // Another one is granted; the cookie has become old.
    client.switch(&mut rig, PATH_A());
    for _ in 0..30 {
        rig.wait(Duration::from_secs(9));
        rig.frame(client.slot(), PATH_A());
    }
    reattach(&mut rig, &mut client, PATH_B(), here);
    assert_eq!(advance(&rig, &client), 0, "four minutes later");
    assert_eq!(rig.sent.iter().filter(|sent| sent.local != GATEWAY).count(), 0);
}

/// R2.2: two forms of one request, from one endpoint: the answer to the first is repeated, and the cookie of the second
/// changes nothing.
#[test]
fn r2_2_the_other_form_gives_no_advance() {
    let (mut rig, mut client) = rig();
    let cookie = cookie_at(&mut rig, &client, PATH_B());
    let mut sent = client.request(&mut rig);
    let first = rig.ask(PATH_B(), &sent.datagram);
    sent.show_octets(cookie);
    let (log, second) = (rig.tables.log.len(), rig.ask(PATH_B(), &sent.datagram));
    assert_eq!((first.clone(), log), (second, rig.tables.log.len()));
    client.read_ack(&mut sent, &first);
    assert_eq!(advance(&rig, &client), 0);
    confirm(&mut rig, &mut client, PATH_B());
}

/// R2.2, R3.2: whoever does not confirm gets nothing in advance a second time, whatever he shows; a confirmed binding gives
/// the next one its advance again.
#[test]
fn r3_2_an_advance_is_given_once_between_two_confirmations() {
    let (mut rig, mut client) = rig();
    let (b, c) = (cookie_at(&mut rig, &client, PATH_B()), cookie_at(&mut rig, &client, PATH_C()));
    reattach(&mut rig, &mut client, PATH_B(), b);
    assert_eq!(advance(&rig, &client), EARLY_PACKETS);
    for (path, cookie) in [(PATH_C(), c), (PATH_B(), b)] {
        reattach(&mut rig, &mut client, path, cookie);
        assert_eq!(advance(&rig, &client), 0);
    }
    rig.wait(Duration::from_secs(4));
    assert_eq!(rig.state(&client).1, Reason::BindUnconfirmed);
    assert!(rig.bound_slots().is_empty(), "what was not confirmed in time sends no longer");
    reattach(&mut rig, &mut client, PATH_C(), c);
    assert_eq!(advance(&rig, &client), 0);
    confirm(&mut rig, &mut client, PATH_C());
    rig.wait(Duration::from_secs(3));
    reattach(&mut rig, &mut client, PATH_B(), b);
    assert_eq!(advance(&rig, &client), EARLY_PACKETS);
    assert_eq!(rig.counter(Counter::ReattachAddressProven), 2);
}

/// R2.2, R3.2: births are no switches, so nobody counts them; whoever handshakes where he receives and asks in the name of
/// another address has, over all his sessions, the advances of one, and again when a minute is over.
#[test]
fn r3_2_new_sessions_bring_no_new_advances() {
    let (mut rig, mut client) = rig();
    let most = u64::from(Policy::default().max_switches_per_min);
    let victim = cookie_at(&mut rig, &client, PATH_B());
    let since = rig.now;
    for born in 0..3 * most {
        rig.wait(Duration::from_millis(500));
        client.handshake(&mut rig, PATH_A());
        rig.frame(client.slot(), PATH_A());
        reattach(&mut rig, &mut client, PATH_B(), victim);
        assert_eq!(advance(&rig, &client), if born < most { EARLY_PACKETS } else { 0 }, "{born}");
    }
    assert!(rig.now.since(since) < Duration::from_secs(60));
    assert_eq!(rig.counter(Counter::ReattachAddressProven), most);
    // Another peer has its own.
    let mut other = rig.attached(1);
    let cookie = cookie_at(&mut rig, &other, PATH_C());
    reattach(&mut rig, &mut other, PATH_C(), cookie);
    assert_eq!(advance(&rig, &other), EARLY_PACKETS);
    rig.wait(Duration::from_secs(60));
    client.handshake(&mut rig, PATH_A());
    rig.frame(client.slot(), PATH_A());
    reattach(&mut rig, &mut client, PATH_B(), victim);
    assert_eq!(advance(&rig, &client), EARLY_PACKETS);
}

/// R7.1: the hint to a client whose NAT has rebound brings the cookie for where it is now; a hint is not larger than its
/// question, and goes without a cookie rather than not at all.
#[test]
fn r7_1_a_hint_brings_a_cookie_if_it_fits() {
    let (mut rig, mut client) = rig();
    let rebound = endpoint(10, 41_234);
    for (len, fits) in [(20, None), (30, Some(false)), (39, Some(true))] {
        let mut question = client.data_of(client.newest(), 1, len);
        question[0] = jvpn_abi::wire::MsgType::UnboundSample.octet();
        rig.sent.clear();
        rig.datagram(rebound, &question);
        let Some(hint) = rig.sent.pop_front() else {
            assert_eq!(fits, None, "{len}");
            continue;
        };
        assert!(hint.payload.len() <= question.len());
        let Some(ControlMessage::PathHint { observed, cookie }) = client.open(client.newest(), &hint.payload)
        else {
            panic!("no hint");
        };
        assert_eq!((observed, Some(cookie != [0; 16])), (rebound, fits), "{len}");
        if cookie != [0; 16] {
            reattach(&mut rig, &mut client, rebound, cookie);
            assert_eq!(advance(&rig, &client), EARLY_PACKETS);
        }
    }
    confirm(&mut rig, &mut client, rebound);
}

/// R1.8, R5.2: a rekey and an installation that failed take no advance.
#[test]
fn r1_8_only_what_was_bound_takes_the_advance() {
    let (mut rig, mut client) = rig();
    let cookie = cookie_at(&mut rig, &client, PATH_A());
    reattach(&mut rig, &mut client, PATH_A(), cookie);
    assert!(client.newest().rekey);
    assert_eq!(rig.counter(Counter::ReattachAddressProven), 0);
    rig.flip(client.slot());
    client.settle();
    let cookie = cookie_at(&mut rig, &client, PATH_B());
    rig.tables.install = Answers::Refused;
    let mut sent = client.request(&mut rig);
    sent.show_octets(cookie);
    let refusal = rig.ask(PATH_B(), &sent.datagram);
    assert_eq!(sent.reject(&refusal).0, Reason::Unavailable);
    assert_eq!(rig.counter(Counter::ReattachAddressProven), 0);
    rig.tables.install = Answers::AtOnce;
    reattach(&mut rig, &mut client, PATH_B(), cookie);
    assert_eq!(advance(&rig, &client), EARLY_PACKETS);
}

/// R7.3: the control plane dies while a binding sends unheard: its successor keeps word and routes, confirms it when it is
/// heard, and takes it away when it is not. It knows no cookie of the life before.
#[test]
fn r7_3_a_restart_keeps_what_sends_unheard() {
    for heard in [true, false] {
        let (mut rig, mut client) = rig();
        let cookie = cookie_at(&mut rig, &client, PATH_B());
        reattach(&mut rig, &mut client, PATH_B(), cookie);
        let (bound, routes) = (rig.bound_slots(), rig.tables.routes.clone());
        rig.restart();
        assert_eq!((rig.bound_slots(), &rig.tables.routes), (bound, &routes));
        if !heard {
            rig.wait(Duration::from_secs(2));
            assert_eq!((rig.state(&client).1, rig.bound_slots().len()), (Reason::BindUnconfirmed, 0));
            reattach(&mut rig, &mut client, PATH_B(), cookie);
            assert_eq!(advance(&rig, &client), 0);
            continue;
        }
        confirm(&mut rig, &mut client, PATH_B());
        let next = cookie_at(&mut rig, &client, PATH_C());
        reattach(&mut rig, &mut client, PATH_C(), next);
        assert_eq!(advance(&rig, &client), EARLY_PACKETS);
    }
}

/// R7.3, I11: a data plane that restarts is given the binding with the same bound; CONTEXT, which it finds, says how much of
/// it is left.
#[test]
fn r7_3_a_restarted_data_plane_gets_the_same_bound() {
    let (mut rig, mut client) = rig();
    let cookie = cookie_at(&mut rig, &client, PATH_B());
    reattach(&mut rig, &mut client, PATH_B(), cookie);
    let slot = client.slot();
    rig.event(TableEvent::DataPlaneLost);
    let contexts = rig.tables.contexts.clone();
    rig.tables.restart();
    rig.tables.contexts = contexts;
    rig.event(TableEvent::DataPlaneUp { slots: 1_024, context_kept: true });
    let entry = &rig.tables.entries[&slot.index()];
    assert_eq!((entry.op, entry.early_packets), (InstallOp::Adopt as u32, EARLY_PACKETS));
    assert!(rig.tables.routes.values().all(|led| *led == slot) && !rig.tables.routes.is_empty());
    confirm(&mut rig, &mut client, PATH_B());
}

/// R1.2: a session that ends while it sends unheard leaves neither word nor route.
#[test]
fn r1_2_an_end_takes_word_and_routes() {
    let (mut rig, mut client) = rig();
    let cookie = cookie_at(&mut rig, &client, PATH_B());
    reattach(&mut rig, &mut client, PATH_B(), cookie);
    rig.sent.clear();
    let end = AdminCommand::TerminateSession(client.session());
    rig.engine.handle_admin(rig.now, &end, &rig.tables.contexts).unwrap();
    rig.pump();
    assert!(rig.bound_slots().is_empty() && rig.tables.routes.is_empty());
    assert!(rig.sent.is_empty(), "CONTROL goes to nobody who was not heard");
}
