//! What happens to paths, and what becomes of the session.

use super::gateway::SamePlace;
use super::world::{A, B, LATENCY_MS, Way, World, endpoint, ms, usable};
use crate::agent::{Event, Inner};
use crate::paths::LinkState;
use jvpn_abi::wire::MsgType;
use jvpn_abi::{BootTime, Reason};
use jvpn_session::State;
use jvpn_session::messages::{ControlMessage, SwitchCause};

const ACK: u8 = MsgType::ReattachAck.octet();
const REQUEST: u8 = MsgType::ReattachRequest.octet();
const INIT: u8 = MsgType::HandshakeInit.octet();
const RESPONSE: u8 = MsgType::HandshakeResponse.octet();

/// R5.1, R1.5: one round trip to a session, the preferred uplink, and each state change has a reason.
#[test]
fn a_session_is_born_over_the_preferred_uplink() {
    let mut world = World::new();
    assert_eq!(world.agent.poll_timeout(), Some(BootTime(0)), "asks as soon as there is a link");
    world.run(100);
    assert!(world.recorded.is_empty(), "no link, no datagram");
    world.link(B, usable(2));
    world.link(A, usable(1));
    let took = world.run_until(1_000, |w| w.state() == "ATTACHED").unwrap();
    assert!(took <= 4 * LATENCY_MS + 3, "{took}");
    assert_eq!(world.uplink(), Some(B), "the first usable one is taken at once");
    let changes: Vec<_> = world
        .events
        .iter()
        .filter_map(|(_, event)| {
            let Event::StateChange { from, to, reason, .. } = event else { return None };
            Some((*from, *to, *reason))
        })
        .collect();
    assert_eq!(
        changes,
        [
            (None, State::Birth, Reason::HandshakeStart),
            (Some(State::Birth), State::Attached, Reason::HandshakeOk)
        ]
    );
    world.run(500);
    assert!(!world.gateway.inner.is_empty() && !world.delivered.is_empty());
}

/// R1.2, R7.1, demo step 2: a silent cut in the middle of traffic: same session over the other uplink, and what was sent
/// meanwhile arrives late instead of never.
#[test]
fn a_silent_cut_moves_the_session() {
    let mut world = World::attached();
    let id = world.session();
    let before = world.sent;
    world.cut[A.index()] = true;
    let took = world.run_until(2_000, |w| !w.recoveries().is_empty()).unwrap();
    assert!(took < 450, "took {took} ms");
    let [report] = world.recoveries()[..] else { panic!("one recovery") };
    assert_eq!((report.cause, report.from, report.to, report.attempts), (SwitchCause::PathDead, A, B, 1));
    assert!(report.detect_ms >= 50 && report.detect_ms < 400, "{report:?}");
    assert!(report.reattach_ms <= 4 * LATENCY_MS + 3, "{report:?}");
    assert_eq!(report.outage_ms, report.detect_ms + report.reattach_ms);
    assert_eq!((world.session(), world.uplink(), world.state()), (id, Some(B), "ATTACHED"));
    assert_eq!(world.gateway.asks[0].cause, SwitchCause::PathDead);
    world.run(200);
    let number = |packet: &Vec<u8>| u32::from_be_bytes(packet[20..24].try_into().unwrap());
    let came: Vec<u32> = world.gateway.inner.iter().map(number).collect();
    let gaps: Vec<u32> = came.windows(2).map(|pair| pair[1] - pair[0] - 1).filter(|gap| *gap > 0).collect();
    let [gap] = gaps[..] else { panic!("order is kept, and there is one gap: {gaps:?}") };
    let lost_unnoticed = u32::try_from(report.detect_ms / world.traffic_ms).unwrap() + 1;
    assert!(
        gap <= lost_unnoticed,
        "only what was sent before the decision is lost: {gap} of {lost_unnoticed}"
    );
    assert!(*came.last().unwrap() >= world.sent - 1 && came.contains(&before));
    assert_eq!(world.agent.status(world.now).counters.sessions, 1);
}

/// R7.1, demo step 3: carrier loss counts at once.
#[test]
fn carrier_loss_counts_at_once() {
    let mut world = World::attached();
    let id = world.session();
    world.link(A, LinkState::NoCarrier);
    assert_eq!(world.state(), "RECOVERING");
    let took = world.run_until(500, |w| w.state() == "ATTACHED").unwrap();
    assert!(took <= 4 * LATENCY_MS + 3, "{took}");
    assert_eq!(world.recoveries()[0].cause, SwitchCause::LinkDown);
    assert_eq!((world.session(), world.uplink()), (id, Some(B)));
    world.link(A, usable(1));
    world.run(500);
    assert_eq!(world.uplink(), Some(B), "no fail-back by itself");
    world.link(B, LinkState::Down);
    world.run(100);
    assert_eq!((world.session(), world.uplink(), world.state()), (id, Some(A), "ATTACHED"));
}

/// R7.1, demo step 4: a NAT rebinds, the gateway hints, the client reattaches over the same uplink.
#[test]
fn a_path_hint_reattaches_over_the_same_uplink() {
    let mut world = World::attached();
    let id = world.session();
    world.nat[A.index()] += 1;
    let took = world.run_until(500, |w| !w.recoveries().is_empty()).unwrap();
    assert!(took <= 10 + 8 * LATENCY_MS, "{took}");
    let report = world.recoveries()[0];
    assert_eq!((report.cause, report.from, report.to), (SwitchCause::PathHint, A, A));
    assert_eq!((world.session(), world.state()), (id, "ATTACHED"));
}

/// I13, demo step 5: the answers over B are lost; the third attempt over A gets in, and from then on as before.
#[test]
fn lost_answers_never_lock_the_client_out() {
    let mut world = World::attached();
    let id = world.session();
    world.filter = Box::new(|way, uplink, d| !(way == Way::Down && uplink == B && d[0] == ACK));
    world.link(A, LinkState::NoCarrier);
    world.run(300);
    world.link(A, usable(1));
    world.run_until(3_000, |w| w.state() == "ATTACHED").unwrap();
    assert_eq!((world.session(), world.uplink()), (id, Some(A)));
    assert!(world.gateway.asks.len() >= 2);
    world.filter = Box::new(|_, _, _| true);
    for _ in 0..4 {
        let over = world.uplink().unwrap();
        world.link(over, LinkState::NoCarrier);
        world.run(200);
        assert_eq!((world.session(), world.state()), (id, "ATTACHED"));
        world.link(over, usable(1));
    }
}

/// I13: an answer arrives, but nothing gets through under the new keys: the client asks under the newest generation it
/// holds, and the gateway knows both.
#[test]
fn an_unproven_binding_is_left_for_the_next() {
    let mut world = World::attached();
    let id = world.session();
    // Over B only requests and answers pass: no frame ever confirms the binding.
    world.filter = Box::new(|_, uplink, d| uplink == A || matches!(d[0], ACK | REQUEST));
    world.link(A, LinkState::NoCarrier);
    world.run(100);
    assert_eq!(world.state(), "RECOVERING");
    world.link(A, usable(1));
    let took = world.run_until(3_000, |w| w.state() == "ATTACHED").unwrap();
    assert!((800..1_200).contains(&took), "after max(3 RTT, 1 s): {took}");
    assert_eq!((world.session(), world.uplink()), (id, Some(A)));
    world.filter = Box::new(|_, _, _| true);
    world.link(A, LinkState::NoCarrier);
    world.run(200);
    assert_eq!((world.session(), world.uplink(), world.state()), (id, Some(B), "ATTACHED"));
}

/// R2.4: an answer to an earlier request is ignored when a later one is under way.
#[test]
fn stale_answers_are_ignored() {
    let mut world = World::attached();
    world.filter = Box::new(|way, _, d| !(way == Way::Down && d[0] == ACK));
    world.link(A, LinkState::NoCarrier);
    world.run(100);
    let answers = |w: &World| -> Vec<Vec<u8>> {
        w.recorded
            .iter()
            .filter(|(way, _, d)| *way == Way::Down && d[0] == ACK)
            .map(|r| r.2.clone())
            .collect()
    };
    let first = answers(&world)[0].clone();
    world.run(1_000);
    assert!(world.gateway.asks.len() >= 2, "a fresh request was made");
    let before = world.agent.status(world.now).counters.unauthentic;
    world.inject(B, &first);
    assert_eq!(world.state(), "RECOVERING", "the old answer changed nothing");
    assert_eq!(world.agent.status(world.now).counters.unauthentic, before + 1);
    let latest = answers(&world).last().unwrap().clone();
    world.inject(A, &latest);
    assert_eq!(
        world.agent.status(world.now).counters.stale_answers,
        1,
        "over another uplink than its request"
    );
    world.filter = Box::new(|_, _, _| true);
    world.inject(B, &latest);
    world.run(50);
    assert_eq!(world.state(), "ATTACHED");
    world.inject(B, &latest);
    assert_eq!(world.state(), "ATTACHED", "an answer again is nothing");
}

/// R3.3: a gateway that refuses for now has answered, so its path works: the next handshake goes the same way.
#[test]
fn a_refused_handshake_is_repeated_over_the_same_uplink() {
    let mut world = World::new();
    world.gateway.refuse_handshake = Some((Reason::Unavailable, 500));
    world.link(A, usable(1));
    world.link(B, usable(2));
    world.run(300);
    world.gateway.refuse_handshake = None;
    world.run_until(2_000, |w| w.state() == "ATTACHED").unwrap();
    assert_eq!(world.uplink(), Some(A));
}

/// R3.3: refusals with a time are waited out; refusals that end the session end it, and a new one is another one.
#[test]
fn refusals_are_waited_out_or_end_the_session() {
    let mut world = World::attached();
    let id = world.session();
    world.gateway.refuse = Some((Reason::Cooldown, 1_500));
    world.link(A, LinkState::NoCarrier);
    world.run(1_400);
    assert_eq!((world.gateway.asks.len(), world.state()), (1, "RECOVERING"));
    world.gateway.refuse = None;
    world.run(300);
    assert_eq!((world.session(), world.state()), (id, "ATTACHED"));
    assert_eq!(world.gateway.asks[1].attempt, 2);

    world.gateway.refuse = Some((Reason::SessionExpired, 0));
    world.link(A, usable(1));
    world.link(B, LinkState::NoCarrier);
    world.run(3_000);
    assert_ne!(world.session(), id);
    assert_eq!(world.state(), "ATTACHED");
    let ended = world.events.iter().any(
        |(_, e)| matches!(e, Event::SessionEnded { reason: Reason::SessionExpired, session } if Some(*session) == id),
    );
    assert!(ended, "explicit and with its reason");
}

/// A gateway that lost its slots says so, and the client reattaches without waiting for silence.
#[test]
fn a_slot_reset_reattaches() {
    let mut world = World::attached();
    let id = world.session();
    world.gateway.session.as_mut().unwrap().binding = None;
    let took = world.run_until(500, |w| !w.recoveries().is_empty()).unwrap();
    assert!(took <= 10 + 6 * LATENCY_MS + 5, "{took}");
    assert_eq!(world.recoveries()[0].cause, SwitchCause::SlotReset);
    assert_eq!((world.session(), world.uplink()), (id, Some(A)));
}

/// R2.5: a RESET without the gateway's token is nothing, whatever it is about.
#[test]
fn resets_with_a_wrong_token_are_ignored() {
    use jvpn_abi::wire::reset::{Reset, ResetKind};
    let mut world = World::attached();
    let slot = world.gateway.session.as_ref().unwrap().binding.as_ref().unwrap().slot;
    for kind in [ResetKind::Slot, ResetKind::Handle] {
        for token in [[0; 16], [0xff; 16]] {
            let reset = Reset { kind, value: Reset::slot_value(slot), token };
            world.inject(A, &reset.encode());
        }
    }
    assert_eq!(world.state(), "ATTACHED");
    let counters = world.agent.status(world.now).counters;
    assert_eq!((counters.reset_refused, counters.resets), (4, 0));
}

/// A client told SUPERSEDED stays away; told anything else it comes back as a new session.
#[test]
fn superseded_means_no_own_new_handshake() {
    let mut world = World::attached();
    world.gateway.say(ControlMessage::Terminate { reason: Reason::Superseded });
    world.run(20_000);
    let status = world.agent.status(world.now);
    assert_eq!((status.state, status.reason), ("TERMINATED", Some("SUPERSEDED")));
    assert_eq!((world.gateway.sessions, world.agent.poll_timeout()), (1, None));

    let mut world = World::attached();
    world.gateway.say(ControlMessage::Terminate { reason: Reason::AdminTerminate });
    world.run(5_000);
    assert_eq!((world.gateway.sessions, world.state()), (2, "ATTACHED"));
}

/// The gateway is authoritative about quality states; late messages about older versions change nothing (R1.3).
#[test]
fn gateway_states_are_shown_and_versions_only_rise() {
    let mut world = World::attached();
    let say = |world: &mut World, version, state: State, reason| {
        world.gateway.say(ControlMessage::State { version, state: state.number(), reason });
        world.run(20);
    };
    say(&mut world, 5, State::Volatile, Reason::VolatilitySignal);
    assert_eq!(world.state(), "VOLATILE");
    say(&mut world, 4, State::Attached, Reason::HealthRecovered);
    assert_eq!(world.state(), "VOLATILE");
    say(&mut world, 6, State::Degraded, Reason::QualityFloorViolation);
    assert_eq!(
        (world.state(), world.agent.status(world.now).gateway.unwrap().state_version),
        ("DEGRADED", 6)
    );
    say(&mut world, 7, State::Terminated, Reason::PolicyTermination);
    assert_eq!(world.agent.session_id(), None);
}

/// R1.6: total silence ends in an explicit end, and the search for a new session goes on with bounded effort (R3.3).
#[test]
fn silence_ends_the_session_after_its_ttl() {
    let mut world = World::attached();
    world.cut = [true; 3];
    world.run(59_000);
    assert_eq!(world.state(), "RECOVERING");
    let requests = world.recorded.iter().filter(|r| r.2[0] == REQUEST).count();
    assert!(requests < 60, "backs off: {requests} requests in a minute");
    world.run(2_500);
    assert_eq!(world.state(), "SEARCHING");
    let before = world.recorded.len();
    world.run(60_000);
    let inits = world.recorded[before..].iter().filter(|r| r.2[0] == INIT).count();
    assert!((10..60).contains(&inits), "{inits} handshakes in a minute");
    assert!(world.agent.status(world.now).held <= crate::hold::HOLD_PACKETS_MAX);
    world.cut = [false; 3];
    world.run(6_000);
    assert_eq!(world.state(), "ATTACHED");
}

/// A lost response, and a binding that is never confirmed, both lead to another handshake over another uplink.
#[test]
fn births_are_tried_again() {
    let mut world = World::new();
    let mut lost = 0;
    world.filter = Box::new(move |way, _, d| {
        lost += u32::from(way == Way::Down && d[0] == RESPONSE && lost < 1);
        !(way == Way::Down && d[0] == RESPONSE && lost == 1)
    });
    world.link(A, usable(1));
    world.link(B, usable(2));
    world.run(200);
    world.filter = Box::new(|_, _, _| true);
    world.run(400);
    assert_eq!((world.state(), world.uplink()), ("ATTACHED", Some(B)));

    let mut world = World::new();
    world.filter = Box::new(|_, uplink, d| uplink == B || matches!(d[0], INIT | RESPONSE));
    world.link(A, usable(1));
    world.link(B, usable(2));
    world.run(6_000);
    assert_eq!((world.state(), world.uplink()), ("ATTACHED", Some(B)));
    world.link(B, LinkState::NoCarrier);
    world.run(1_000);
    assert_eq!(world.state(), "RECOVERING", "over A only handshakes pass");
}

/// A refused handshake is waited out as the gateway says.
#[test]
fn refused_handshakes_wait() {
    let mut world = World::new();
    world.gateway.refuse_handshake = Some((Reason::RateLimited, 3_000));
    world.link(A, usable(1));
    world.run(2_900);
    assert_eq!(world.recorded.iter().filter(|r| r.2[0] == INIT).count(), 1);
    world.gateway.refuse_handshake = None;
    world.run(300);
    assert_eq!(world.state(), "ATTACHED");
}

/// A host that slept reattaches at once instead of waiting for silence.
#[test]
fn waking_up_reattaches() {
    let mut world = World::attached();
    let id = world.session();
    world.traffic_ms = 0;
    world.run(2_000);
    world.now = world.now.after(ms(600_000));
    world.run(100);
    assert_eq!(world.recoveries()[0].cause, SwitchCause::Wake);
    assert_eq!((world.session(), world.state()), (id, "ATTACHED"));
}

/// The address of the bound uplink changes: reattach over the same uplink.
#[test]
fn a_new_address_reattaches() {
    let mut world = World::attached();
    world.link(A, usable(77));
    world.run(100);
    let report = world.recoveries()[0];
    assert_eq!((report.cause, report.to), (SwitchCause::AddressChange, A));
}

/// R5.2 (door): an answer that says REKEY is followed: same slot, flipped phase, nothing lost.
#[test]
fn a_rekey_answer_is_followed() {
    let mut world = World::attached();
    world.gateway.same_place = SamePlace::Rekey;
    let slot = world.agent.status(world.now).path.unwrap().slot;
    world.agent.begin_recovery(world.now, SwitchCause::Wake, Some(A));
    world.run(100);
    assert_eq!((world.state(), world.agent.status(world.now).path.unwrap().slot), ("ATTACHED", slot));
    let delivered = world.delivered.len();
    world.run(200);
    assert!(world.delivered.len() >= delivered + 19);
}

/// The user ends it: the gateway is told, and nothing is tried any more.
#[test]
fn terminate_tells_the_gateway() {
    let mut world = World::attached();
    world.traffic_ms = 0;
    world.run(50);
    world.agent.terminate(world.now);
    world.run(2_000);
    assert_eq!(world.gateway.terminated, Some(Reason::PeerTerminate));
    assert_eq!((world.gateway.sessions, world.state(), world.agent.poll_timeout()), (1, "TERMINATED", None));
}

/// While nothing carries data, packets are held, bounded, and never leave over another way.
#[test]
fn packets_are_held_while_recovering() {
    let mut world = World::attached();
    world.traffic_ms = 0;
    world.run(50);
    world.cut = [true; 3];
    world.link(A, LinkState::NoCarrier);
    assert_eq!(world.send_inner(), Inner::Held);
    for _ in 0..crate::hold::HOLD_PACKETS_MAX + 10 {
        world.send_inner();
    }
    let status = world.agent.status(world.now);
    assert_eq!((status.held, status.held_dropped), (crate::hold::HOLD_PACKETS_MAX, 11));
    let before = world.gateway.inner.len();
    world.cut = [false; 3];
    world.run(1_000);
    assert_eq!(world.gateway.inner.len() - before, crate::hold::HOLD_PACKETS_MAX);
    assert_eq!(world.agent.status(world.now).held, 0);
    assert_eq!(world.agent.endpoint_over(A), endpoint());
}
