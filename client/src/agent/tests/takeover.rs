//! A gateway that has forgotten the session: the same session goes on, or its gateway says that it does not.

use super::gateway::Cookies;
use super::world::{A, B, LATENCY_MS, Way, World};
use crate::agent::Event;
use jvpn_abi::Reason;
use jvpn_abi::wire::control::ControlHeader;
use jvpn_abi::wire::reattach::{KIND_AT, KIND_TAKEOVER};
use jvpn_abi::wire::{DataHeader, MsgType};
use jvpn_session::State;
use jvpn_session::messages::{SessionId, SwitchCause};

const REQUEST: u8 = MsgType::ReattachRequest.octet();
const ACK: u8 = MsgType::ReattachAck.octet();
const REJECT: u8 = MsgType::ReattachReject.octet();
const CONTROL: u8 = MsgType::Control.octet();

fn ends(world: &World) -> Vec<(SessionId, Reason)> {
    let end = |event: &Event| {
        let Event::SessionEnded { session, reason } = event else { return None };
        Some((*session, *reason))
    };
    world.events.iter().filter_map(|(_, event)| end(event)).collect()
}

fn is_takeover(datagram: &[u8]) -> bool {
    [REQUEST, ACK, REJECT].contains(&datagram[0]) && datagram[KIND_AT] == KIND_TAKEOVER
}

/// R1.2, R4.3, R7.3: slot RESET, handle RESET, takeover exchange: the same session over the same path, in round trips and
/// not in timeouts; what was held goes out, and DATA not before the gateway says that the binding is there.
#[test]
fn r7_3_a_forgetful_gateway_gets_its_session_back() {
    let mut world = World::attached();
    let (id, delivered) = (world.session(), world.delivered.len());
    world.gateway.forget();
    let took = world.run_until(1_000, |w| !w.recoveries().is_empty()).unwrap();
    // DATA and its RESET, the reattach and its RESET, the exchange, TAKE_OVER, the probe.
    assert!(took <= 10 + 10 * LATENCY_MS + 5, "{took}");
    assert_eq!((world.session(), world.uplink(), world.state()), (id, Some(A), "ATTACHED"));
    assert_eq!(world.recoveries()[0].cause, SwitchCause::SlotReset);
    assert_eq!((ends(&world).len(), world.gateway.sessions, world.gateway.takeovers.len()), (0, 1, 1));
    let status = world.agent.status(world.now);
    assert_eq!((status.counters.takeovers_sent, status.counters.handshakes_sent), (1, 1));
    let slot = world.gateway.session.as_ref().unwrap().binding.as_ref().unwrap().slot;
    let first = |way, is_meant: &dyn Fn(&[u8]) -> bool| {
        world.recorded.iter().position(|(w, _, datagram)| *w == way && is_meant(datagram)).unwrap()
    };
    let data = first(Way::Up, &|d| DataHeader::parse(d).is_some_and(|header| header.slot == slot));
    let word = first(Way::Down, &|d| ControlHeader::parse(d).is_some_and(|header| header.slot == slot));
    assert!(word < data, "DATA before the gateway's word");
    world.run(500);
    assert!(world.delivered.len() > delivered + 30);
    // The generation of the takeover serves reattaches.
    world.cut[A.index()] = true;
    assert!(world.run_until(3_000, |w| w.recoveries().len() == 2).is_some());
    assert_eq!((world.session(), world.uplink(), ends(&world).len()), (id, Some(B), 0));
}

/// R1.3: the gateway's term has risen: its versions are higher than any before, and are believed.
#[test]
fn r1_3_a_risen_term_is_believed() {
    let mut world = World::attached();
    for round in 1..4 {
        world.gateway.forget();
        assert!(world.run_until(1_000, |w| w.recoveries().len() == round).is_some());
        let version = world.agent.status(world.now).gateway.unwrap().state_version;
        assert_eq!(version >> 40, round as u64);
    }
    assert_eq!((world.gateway.sessions, ends(&world).len()), (1, 0));
}

/// R1.2, R4.3: only the authenticated refusal of the exchange ends the session, explicitly; a new one is reported.
#[test]
fn r4_3_only_an_authenticated_refusal_ends_the_session() {
    let mut world = World::attached();
    let id = world.session().unwrap();
    world.gateway.forget();
    world.gateway.refuse_takeover = Some((Reason::SessionNotFound, 0));
    let mut refused = None;
    world.run_until(1_000, |w| {
        refused = w.recorded.iter().find(|(_, _, d)| d[0] == REJECT && is_takeover(d)).cloned();
        refused.is_some()
    });
    let (_, _, refusal) = refused.unwrap();
    for at in 0..refusal.len() {
        let mut forged = refusal.clone();
        forged[at] ^= 1;
        world.inject(A, &forged);
    }
    assert_eq!((world.session(), ends(&world).len()), (Some(id), 0), "forged refusals are nothing");
    world.run(3_000);
    assert_eq!(ends(&world), [(id, Reason::SessionNotFound)]);
    assert_eq!((world.state(), world.gateway.sessions), ("ATTACHED", 2));
    assert_ne!(world.session(), Some(id));
    world.inject(A, &refusal);
    assert_eq!(ends(&world).len(), 1, "nor is a genuine one that comes late");
}

/// R1.2, I13: UNAVAILABLE is no end: the client asks again when it was told to, over the same path, and gets in.
#[test]
fn i13_unavailable_is_asked_again() {
    let mut world = World::attached();
    let id = world.session();
    world.gateway.forget();
    world.gateway.refuse_takeover = Some((Reason::Unavailable, 700));
    world.run(3_000);
    let asked = world.gateway.takeovers.len();
    assert!((3..=5).contains(&asked), "{asked}");
    assert_eq!((world.session(), world.state(), ends(&world).len()), (id, "RECOVERING", 0));
    world.gateway.refuse_takeover = None;
    assert!(world.run_until(1_000, |w| !w.recoveries().is_empty()).is_some());
    assert_eq!((world.session(), world.uplink(), world.gateway.sessions), (id, Some(A), 1));
}

/// R3.2, I13: under load, and refused for longer than RETRYs are followed: each request shows the cookie that was given.
#[test]
fn i13_requests_under_load_show_the_cookie_that_was_given() {
    let mut world = World::new();
    world.gateway.cookies = Cookies::Yes;
    let mut world = world.attach();
    let id = world.session();
    world.gateway.forget();
    world.gateway.refuse_takeover = Some((Reason::Unavailable, 100));
    world.run(20_000);
    let counters = world.agent.status(world.now).counters;
    assert!(world.gateway.takeovers.len() > 20, "{}", world.gateway.takeovers.len());
    assert!(counters.retries_followed <= 4, "{}", counters.retries_followed);
    world.gateway.refuse_takeover = None;
    assert!(world.run_until(6_000, |w| !w.recoveries().is_empty()).is_some());
    assert_eq!((world.session(), ends(&world).len()), (id, 0));
}

/// R1.8, I13: any datagram of the exchange may be lost, several times, or all of a path: no timer but those of a reattach,
/// and the same session.
#[test]
fn i13_lost_datagrams_lock_nobody_out() {
    let kinds: [fn(Way, &[u8]) -> bool; 4] = [
        |way, d| way == Way::Up && is_takeover(d),
        |way, d| way == Way::Down && is_takeover(d),
        |way, d| way == Way::Up && d[0] == CONTROL,
        |way, d| way == Way::Down && d[0] == CONTROL,
    ];
    for (number, is_meant) in kinds.into_iter().enumerate() {
        for lost in 1..=3 {
            let mut world = World::attached();
            let id = world.session();
            world.gateway.forget();
            let mut left = lost;
            world.filter = Box::new(move |way, _, datagram| {
                let hit = left > 0 && is_meant(way, datagram);
                left -= usize::from(hit);
                !hit
            });
            let took = world.run_until(8_000, |w| !w.recoveries().is_empty());
            assert!(took.is_some(), "datagram {number}, lost {lost} times");
            assert_eq!((world.session(), ends(&world).len(), world.state()), (id, 0, "ATTACHED"));
        }
    }
}

/// R1.8, I13: the path dies in the middle of the exchange: it goes on over another one.
#[test]
fn i13_the_exchange_moves_to_another_path() {
    for after in 0..40 {
        let mut world = World::attached();
        let id = world.session();
        world.gateway.forget();
        world.run(10 + after);
        world.cut[A.index()] = true;
        let took = world.run_until(8_000, |w| {
            w.state() == "ATTACHED" && w.uplink() == Some(B) && !w.recoveries().is_empty()
        });
        assert!(took.is_some(), "after {after} ms: {}", world.state());
        assert_eq!((world.session(), ends(&world).len()), (id, 0));
    }
}

/// R1.6: a gateway that never answers again: the exchange is bounded like any recovery.
#[test]
fn r1_6_the_exchange_is_bounded() {
    let mut world = World::attached();
    let id = world.session().unwrap();
    world.gateway.forget();
    world.filter = Box::new(|_, _, datagram| !is_takeover(datagram));
    world.run(65_000);
    assert_eq!(ends(&world), [(id, Reason::TtlTransportLossExpired)]);
    let asked = world.recorded.iter().filter(|(w, _, d)| *w == Way::Up && is_takeover(d)).count();
    assert!((10..40).contains(&asked), "{asked} requests in a minute");
    let changes =
        world.events.iter().filter(|(_, e)| matches!(e, Event::StateChange { to: State::Recovering, .. }));
    assert_eq!(changes.count(), 1);
}
