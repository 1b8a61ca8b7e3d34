//! Warm candidates, the decision by evidence, the way back to a better uplink, waking up, moving.

use super::world::{A, B, C, LATENCY_MS, Way, World, endpoint, ms, usable};
use crate::agent::{Event, Inner};
use crate::paths::LinkState;
use crate::paths::candidates::CandidateSettings;
use jvpn_abi::wire::MsgType;
use jvpn_abi::{BootTime, Endpoint, Reason};
use jvpn_session::State;
use jvpn_session::messages::{ControlMessage, SwitchCause};

const ACK: u8 = MsgType::ReattachAck.octet();
const REQUEST: u8 = MsgType::ReattachRequest.octet();
const PROBE: u8 = MsgType::PathProbe.octet();
const ECHO: u8 = MsgType::PathEcho.octet();

/// Goes back after 2 s.
const HASTY: CandidateSettings = CandidateSettings {
    interval: std::time::Duration::from_secs(10),
    metered_interval: std::time::Duration::from_secs(60),
    fail_back_hold: Some(std::time::Duration::from_secs(2)),
    for_quality: true,
};

fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[20..24].try_into().unwrap())
}

/// Attached over B, with A whole again: the session will want to go back.
fn on_b() -> World {
    let mut world = World::with(HASTY, 5).attach();
    world.link(A, LinkState::NoCarrier);
    world.run(500);
    assert_eq!((world.uplink(), world.state()), (Some(B), "ATTACHED"));
    world
}

fn cancelled(world: &World) -> Vec<Reason> {
    let reason = |(_, event): &(BootTime, Event)| {
        let Event::SwitchCancelled { reason, .. } = event else { return None };
        Some(*reason)
    };
    world.events.iter().filter_map(reason).collect()
}

/// R7.1: candidates are validated beside the bound path: what goes over them is probes and echoes only, and status says
/// what is known.
#[test]
fn candidates_are_kept_warm_and_carry_no_data() {
    let mut world = World::attached();
    world.run(25_000);
    let over_b: Vec<u8> =
        world.recorded.iter().filter(|(_, uplink, _)| *uplink == B).map(|(_, _, d)| d[0]).collect();
    assert!(over_b.len() >= 6 && over_b.iter().all(|kind| [PROBE, ECHO].contains(kind)), "{over_b:?}");
    let status = world.agent.status(world.now);
    assert!(status.uplinks[0].candidate.is_none(), "the bound one is none");
    let b = status.uplinks[1].candidate.unwrap();
    let json = serde_json::to_value(b).unwrap();
    assert_eq!((json["state"].as_str(), b.loss_percent), (Some("answering"), Some(0.0)));
    assert!(b.answered_ms.unwrap() < 12_000 && b.stable_ms.unwrap() > 10_000);
    assert_eq!(status.uplinks[1].rtt_ms, Some(2.0 * LATENCY_MS as f64));
    assert!(status.uplinks[2].candidate.is_none(), "C is missing");
    assert!(status.tickets > 8 && status.counters.tickets_asked >= 2);
    assert_eq!((world.state(), world.recoveries().len()), ("ATTACHED", 0));
}

/// R7.1: A and B die together; B's silence is known before A is given up, and the first request goes out over C.
#[test]
fn a_dead_candidate_is_never_chosen_first() {
    let mut world = World::attached();
    world.link(C, usable(3));
    world.run(2_000);
    let id = world.session();
    world.cut = [true, true, false];
    world.recorded.clear();
    let took = world.run_until(3_000, |w| !w.recoveries().is_empty()).unwrap();
    let report = world.recoveries()[0];
    assert_eq!((report.to, report.attempts, report.cause), (C, 1, SwitchCause::PathDead));
    let requests: Vec<_> = world.recorded.iter().filter(|(_, _, d)| d[0] == REQUEST).collect();
    assert!(requests.iter().all(|(_, uplink, _)| *uplink == C), "no request over a dead path");
    assert!(took < 450, "as fast as with one dead path: {took} ms");
    assert_eq!(world.session(), id);
}

/// R7.1: without tickets there is no evidence, and the uplinks are tried in turn; the client asks for tickets less and
/// less often.
#[test]
fn without_tickets_paths_are_tried_in_turn() {
    let mut world = World::new();
    world.gateway.tickets = 0;
    let mut world = world.attach();
    world.link(C, usable(3));
    world.run(30_000);
    let asked = world.agent.status(world.now).counters.tickets_asked;
    assert!((4..=6).contains(&asked), "{asked}");
    world.cut = [true, true, false];
    world.run_until(5_000, |w| !w.recoveries().is_empty()).unwrap();
    assert_eq!((world.recoveries()[0].to, world.recoveries()[0].attempts), (C, 2));
    assert!(world.recorded.iter().all(|(_, _, d)| d[0] != PROBE));
}

/// R7.1: tickets that run out are asked for again over whatever path is bound, and never used twice (the gateway of this
/// test sees to that).
#[test]
fn tickets_are_asked_for_anew() {
    let mut world = World::attached();
    for _ in 0..6 {
        world.gateway.session.as_mut().unwrap();
        let bound = world.uplink().unwrap();
        world.cut[bound.index()] = true;
        let before = world.recoveries().len();
        world.run_until(3_000, |w| w.recoveries().len() > before).unwrap();
        world.cut[bound.index()] = false;
        world.run(3_000);
        assert!(world.agent.status(world.now).tickets >= 8);
    }
    assert!(world.agent.status(world.now).counters.tickets_asked >= 4);
}

/// R2.2: an echo counts once, unchanged, over the uplink of its probe; anything else changes nothing.
#[test]
fn echoes_that_nobody_awaits_are_refused() {
    let mut world = World::attached();
    let (_, _, echo) =
        world.recorded.iter().rfind(|(way, _, d)| *way == Way::Down && d[0] == ECHO).unwrap().clone();
    world.filter = Box::new(|way, _, d| !(way == Way::Down && d[0] == ECHO));
    let before = world.agent.status(world.now).counters;
    world.inject(B, &echo);
    world
        .run_until(15_000, |w| w.agent.status(w.now).counters.path_probes_sent > before.path_probes_sent)
        .unwrap();
    world.run(2 * LATENCY_MS + 1);
    let (_, _, genuine) = world.recorded.iter().rfind(|(_, _, d)| d[0] == ECHO).unwrap().clone();
    for at in 0..genuine.len() {
        let mut forged = genuine.clone();
        forged[at] ^= 1;
        world.inject(B, &forged);
    }
    world.inject(A, &genuine);
    assert_eq!(world.agent.status(world.now).counters.path_echoes, before.path_echoes);
    world.inject(B, &genuine);
    assert_eq!(world.agent.status(world.now).counters.path_echoes, before.path_echoes + 1);
    world.inject(B, &genuine);
    assert_eq!(world.agent.status(world.now).counters.path_echoes, before.path_echoes + 1);
}

/// R7.1, R1.2: a better uplink that has answered for the hold time gets the session back; nothing is lost by it, in
/// either direction, and the old path is silent for a round trip before.
#[test]
fn fail_back_after_the_hold_time_loses_nothing() {
    let mut world = on_b();
    let id = world.session();
    world.gateway.inner.clear();
    world.delivered.clear();
    let first = world.sent + 1;
    world.link(A, usable(1));
    let took = world.run_until(10_000, |w| w.recoveries().len() == 2).unwrap();
    assert!((2_000..2_700).contains(&took), "{took}");
    let report = world.recoveries()[1];
    assert_eq!((report.cause, report.from, report.to), (SwitchCause::Voluntary, B, A));
    assert_eq!(world.gateway.asks.last().unwrap().cause, SwitchCause::Voluntary);
    world.run(200);
    let came: Vec<u32> = world.gateway.inner.iter().map(|packet| number(packet)).collect();
    let all: Vec<u32> = (first..=*came.last().unwrap()).collect();
    assert_eq!(came[came.iter().position(|n| *n == first).unwrap()..], all, "every packet, in order");
    let back: Vec<u32> = world.delivered.iter().map(|(_, packet)| number(packet)).collect();
    assert!(back.windows(2).all(|pair| pair[1] == pair[0] + 1), "{back:?}");
    assert_eq!((world.session(), world.uplink(), world.state()), (id, Some(A), "ATTACHED"));
    let last_on_b =
        world.recorded.iter().rposition(|(way, up, d)| *way == Way::Up && *up == B && d[0] == 0x10);
    let request = world.recorded.iter().position(|(_, up, d)| *up == A && d[0] == REQUEST);
    assert!(last_on_b < request);
    world.run(10_000);
    assert_eq!(world.recoveries().len(), 2, "and there it stays");
}

/// R7.1: the old path is ten times as slow as the new one: what is under way on it arrives before the switch, there and
/// back, because the client falls silent for one of its round trips first.
#[test]
fn a_slow_old_path_is_drained_before_the_switch() {
    let mut world = on_b();
    world.latency[B.index()] = 50;
    world.run(3_000);
    world.gateway.inner.clear();
    world.delivered.clear();
    world.link(A, usable(1));
    world.run_until(10_000, |w| w.recoveries().len() == 2).unwrap();
    world.run(500);
    for came in [world.gateway.inner.clone(), world.delivered.iter().map(|(_, p)| p.clone()).collect()] {
        let came: Vec<u32> = came.iter().map(|packet| number(packet)).collect();
        assert!(came.len() > 200 && came.windows(2).all(|pair| pair[1] == pair[0] + 1), "{came:?}");
    }
    assert_eq!((world.uplink(), world.recoveries()[1].cause), (Some(A), SwitchCause::Voluntary));
}

/// R1.7: while the cooldown of the last switch runs, no voluntary one is asked for; refused all the same, the session goes
/// on where it is and asks later.
#[test]
fn a_refused_fail_back_leaves_the_session_where_it_is() {
    let mut world = on_b();
    world.gateway.refuse = Some((Reason::Cooldown, 6_000));
    world.link(A, usable(1));
    world.run_until(10_000, |w| !cancelled(w).is_empty()).unwrap();
    assert_eq!(cancelled(&world), [Reason::Cooldown]);
    assert_eq!((world.uplink(), world.state()), (Some(B), "ATTACHED"));
    let sent = world.sent;
    world.run(500);
    assert!(world.gateway.inner.iter().any(|packet| number(packet) > sent), "data flows over B");
    assert_eq!(world.agent.status(world.now).held, 0);
    world.gateway.refuse = None;
    world.run(4_000);
    assert_eq!((world.uplink(), cancelled(&world).len()), (Some(B), 1), "not before the gateway's time");
    world.run(3_000);
    assert_eq!((world.uplink(), world.state()), (Some(A), "ATTACHED"));
}

/// I1, I13: the answer to a voluntary request is lost: the gateway may have switched, so nothing is sealed under the old
/// keys any more (the world of this test sees to that), and no cooldown stops what follows.
#[test]
fn an_unanswered_fail_back_becomes_a_recovery() {
    let mut world = on_b();
    world.filter = Box::new(|way, uplink, d| !(way == Way::Down && uplink == A && d[0] == ACK));
    world.link(A, usable(1));
    world
        .run_until(10_000, |w| w.gateway.asks.last().is_some_and(|ask| ask.cause == SwitchCause::Retry))
        .unwrap();
    world.run_until(3_000, |w| w.state() == "ATTACHED").unwrap();
    assert_eq!(world.uplink(), Some(B), "the other one, since A does not answer requests");
    assert!(cancelled(&world).is_empty());
    world.filter = Box::new(|_, _, _| true);
    world.run(500);
    assert_eq!(world.agent.status(world.now).counters.sessions, 1);
}

/// The target goes away while the old path falls silent for it: nothing was asked, so nothing has changed.
#[test]
fn a_target_that_goes_away_in_time_changes_nothing() {
    let mut world = on_b();
    world.link(A, usable(1));
    let planned = |w: &World| {
        w.events
            .iter()
            .any(|(_, event)| matches!(event, Event::RecoveryStarted { cause: SwitchCause::Voluntary, .. }))
    };
    world.run_until(10_000, planned).unwrap();
    let asks = world.gateway.asks.len();
    assert_eq!((world.state(), world.send_inner()), ("ATTACHED", Inner::Held), "one round trip of silence");
    world.link(A, LinkState::NoCarrier);
    assert!(!cancelled(&world).is_empty());
    assert!(matches!(world.send_inner(), Inner::Send(B)));
    world.run(100);
    assert_eq!((world.gateway.asks.len(), world.agent.status(world.now).held), (asks, 0));
}

/// DEGRADED restricts voluntary switches, and nothing else.
#[test]
fn a_degraded_session_does_not_go_back() {
    let mut world = on_b();
    let state = State::Degraded.number();
    world.gateway.say(ControlMessage::State { version: 99, state, reason: Reason::PolicyFlapLimit });
    world.run(20);
    world.link(A, usable(1));
    world.run(10_000);
    assert_eq!((world.uplink(), world.state()), (Some(B), "DEGRADED"));
    world.cut[B.index()] = true;
    world.run_until(2_000, |w| w.uplink() == Some(A)).unwrap();
}

/// R7.1: the clock that stands still during suspend tells that the host slept: a reattach at once, over the same uplink.
#[test]
fn a_suspend_is_seen_in_the_clocks() {
    let mut world = World::attached();
    let id = world.session();
    let asleep = |slept_ms: u64, w: &World| w.now.0 - 5_000_000_000 - slept_ms * 1_000_000;
    let monotonic = asleep(0, &world);
    world.agent.handle_monotonic(world.now, monotonic);
    world.run(100);
    let monotonic = asleep(200, &world);
    world.agent.handle_monotonic(world.now, monotonic);
    assert_eq!(world.state(), "ATTACHED", "a hiccup is no suspend");
    let monotonic = asleep(3_200, &world);
    world.agent.handle_monotonic(world.now, monotonic);
    assert_eq!(world.state(), "RECOVERING");
    let took = world.run_until(500, |w| w.state() == "ATTACHED").unwrap();
    assert!(took <= 4 * LATENCY_MS + 3, "{took}");
    let report = world.recoveries()[0];
    assert_eq!((report.cause, report.to, world.session()), (SwitchCause::Wake, A, id));
}

/// R7.1: the only uplink gets another address, with a moment without any: one reattach, and its cause is the address.
#[test]
fn the_only_uplink_changes_its_address() {
    let mut world = World::new();
    world.link(A, usable(1));
    world.run(500);
    let id = world.session();
    world.link(A, LinkState::NoAddress);
    world.run(50);
    assert_eq!(world.state(), "RECOVERING");
    world.nat[A.index()] += 1;
    world.link(A, usable(9));
    let took = world.run_until(500, |w| w.state() == "ATTACHED").unwrap();
    assert!(took <= 4 * LATENCY_MS + 3, "{took}");
    assert_eq!((world.recoveries()[0].cause, world.session()), (SwitchCause::AddressChange, id));
    // Also into another family.
    let v6 = LinkState::Usable { source: "2001:db8::2".parse().unwrap() };
    world.link(A, v6);
    world.run_until(500, |w| w.recoveries().len() == 2).unwrap();
    assert_eq!(world.recoveries()[1].cause, SwitchCause::AddressChange);
}

/// The gateway's name leads elsewhere: what comes from the old address is ignored, and the session is asked for at the
/// new one.
#[test]
fn a_gateway_that_moved_is_asked_there() {
    let mut world = World::attached();
    assert_eq!(world.agent.unanswered_since(), None);
    world.cut = [true; 3];
    world.run(1_000);
    let since = world.agent.unanswered_since().unwrap();
    assert!(world.now.since(since) < ms(1_000));
    world.agent.set_endpoint(world.now, endpoint());
    assert_eq!(world.agent.unanswered_since(), Some(since), "the same place is no news");
    let elsewhere = Endpoint::v4([203, 0, 113, 5], 4_500);
    world.recorded.clear();
    world.agent.set_endpoint(world.now, elsewhere);
    world.run(400);
    assert!(world.recorded.iter().any(|(_, _, d)| d[0] == REQUEST));
    let foreign = world.agent.status(world.now).counters.foreign_source;
    world.inject(A, &[0x25; 100]);
    assert_eq!(world.agent.status(world.now).counters.foreign_source, foreign + 1);
    assert_eq!(world.agent.endpoint_over(A), elsewhere);
}

/// R3.3: whatever the links do, the client keeps to its own limit of requests.
#[test]
fn flapping_links_do_not_storm_the_gateway() {
    let mut world = World::attached();
    let before = world.agent.status(world.now).counters;
    for step in 0..200 {
        let (up, down) = if step % 2 == 0 { (A, B) } else { (B, A) };
        world.link(up, usable(1));
        world.link(down, LinkState::NoCarrier);
        world.run(10);
    }
    let after = world.agent.status(world.now).counters;
    let asked =
        after.requests_sent + after.requests_repeated - before.requests_sent - before.requests_repeated;
    assert!((5..=16).contains(&asked), "{asked} requests in 2 s");
    world.link(A, usable(1));
    world.link(B, usable(2));
    world.run_until(5_000, |w| w.state() == "ATTACHED").unwrap();
}

/// I9, R3.3: the same seed gives the same datagrams at the same moments, another one spreads the attempts.
#[test]
fn jitter_follows_from_the_seed() {
    let moments = |seed| {
        let mut world = World::with(CandidateSettings::default(), seed).attach();
        world.cut = [true; 3];
        let mut log = Vec::new();
        for _ in 0..20_000 {
            let before = world.recorded.len();
            world.run(1);
            let new = world.recorded[before..].iter().filter(|(_, _, d)| d[0] != 0x10);
            log.extend(new.map(|(_, uplink, d)| (world.now, *uplink, d.clone())));
        }
        log
    };
    let [first, again, other] = [moments(5), moments(5), moments(6)];
    assert!(first.len() > 10 && first == again);
    let times = |log: &[(BootTime, crate::paths::UplinkId, Vec<u8>)]| {
        log.iter().map(|(at, ..)| *at).collect::<Vec<_>>()
    };
    assert_ne!(times(&first), times(&other));
}
