//! The way down comes with the answer: cookies that echoes and hints bring, shown in the request, and DATA of a gateway that
//! has not heard the client on the new path.

use super::world::{A, B, LATENCY_MS, Way, World, ms, packet, usable};
use crate::paths::LinkState;
use jvpn_abi::wire::MsgType;
use jvpn_session::messages::SwitchCause;

const ACK: u8 = MsgType::ReattachAck.octet();
const DATA: u8 = MsgType::Data.octet();
const REQUEST: u8 = MsgType::ReattachRequest.octet();

/// Attached over A, B warm; something waits for the client at the gateway, which gives cookies.
fn world() -> World {
    let mut world = World::new();
    world.gateway.early = true;
    let mut world = world.attach();
    world.run(1_000);
    world.traffic_ms = 0;
    world.run(100);
    world.gateway.downstream = Some(packet(99));
    world.recorded.clear();
    world.delivered.clear();
    world
}

/// R0.4, R7.1: the second uplink is warm, so the request proves its address, and what waits for the client comes with the
/// answer: one round trip after the link went down, without a cookie two.
#[test]
fn r7_1_the_way_down_comes_with_the_answer_over_a_warm_uplink() {
    for early in [true, false] {
        let mut world = world();
        world.gateway.early = early;
        if !early {
            world.agent.cookies.forget(B);
        }
        let before = world.now;
        world.link(A, LinkState::NoCarrier);
        world.run_until(500, |w| w.state() == "ATTACHED").unwrap();
        let at = world.delivered.iter().map(|(at, _)| at.since(before).as_millis() as u64).next();
        let shown = world.agent.status(world.now).counters.cookies_shown;
        if early {
            assert!(at.is_some_and(|at| at <= 2 * LATENCY_MS + 2), "{at:?}");
            assert_eq!((world.gateway.sent_early, shown), (1, 1));
        } else {
            assert_eq!((at, world.gateway.sent_early, shown), (None, 0, 0));
        }
        assert_eq!((world.uplink(), world.recoveries()[0].cause), (Some(B), SwitchCause::LinkDown));
        world.run(100);
        let confirmed = world.gateway.session.as_ref().unwrap().binding.as_ref().unwrap().confirmed;
        assert!(confirmed, "the client's first frame confirms, as ever");
    }
}

/// R7.1: a NAT rebinds: the hint brings a cookie for where the client is now, and the old one is not shown.
#[test]
fn r7_1_a_hint_brings_a_cookie_for_the_new_place() {
    let mut world = world();
    world.traffic_ms = 20;
    world.nat[A.index()] += 1;
    world.run_until(500, |w| !w.recoveries().is_empty()).unwrap();
    assert_eq!((world.recoveries()[0].cause, world.recoveries()[0].to), (SwitchCause::PathHint, A));
    assert_eq!(world.gateway.sent_early, 1);
    let requests = world.recorded.iter().filter(|(way, _, d)| *way == Way::Up && d[0] == REQUEST).count();
    assert_eq!(requests, 1);
    // A hint without one, as a small question gets: the cookie of before is void all the same.
    let mut world = self::world();
    world.gateway.early = false;
    world.traffic_ms = 20;
    world.nat[A.index()] += 1;
    world.run_until(500, |w| !w.recoveries().is_empty()).unwrap();
    assert_eq!(world.agent.status(world.now).counters.cookies_shown, 0);
}

/// R1.8: DATA that overtakes the answer finds no keys: dropped and counted, and nothing else happens.
#[test]
fn r1_8_data_that_overtakes_its_answer_is_dropped_and_counted() {
    let mut world = world();
    let mut held = None;
    world.filter = Box::new(|way, _, d| !(way == Way::Down && d[0] == ACK));
    world.link(A, LinkState::NoCarrier);
    world.run(2 * LATENCY_MS + 2);
    for (way, uplink, datagram) in &world.recorded {
        if *way == Way::Down && datagram[0] == ACK {
            held = Some((*uplink, datagram.clone()));
        }
    }
    let counters = world.agent.status(world.now).counters;
    assert_eq!((counters.wrong_slot, world.delivered.len(), world.state()), (1, 0, "RECOVERING"));
    let (uplink, answer) = held.unwrap();
    world.filter = Box::new(|_, _, _| true);
    world.inject(uplink, &answer);
    world.run(4 * LATENCY_MS);
    assert_eq!((world.state(), world.uplink()), ("ATTACHED", Some(B)));
}

/// I13: the client has opened DATA of a binding that the gateway then gives up, because nothing of the client ever reached
/// it: the generation that it holds is known, and it gets back in under it.
#[test]
fn i13_an_early_frame_and_a_dead_way_up_lock_nobody_out() {
    let mut world = world();
    let id = world.session();
    // Over B nothing but requests goes up.
    world.filter = Box::new(|way, uplink, d| way == Way::Down || uplink == A || d[0] == REQUEST);
    world.link(A, LinkState::NoCarrier);
    world.run_until(500, |w| w.state() == "ATTACHED").unwrap();
    assert_eq!((world.gateway.sent_early, world.uplink()), (1, Some(B)));
    let binding = |w: &World| w.gateway.session.as_ref().unwrap().binding.as_ref().unwrap().confirmed;
    assert!(!binding(&world), "opened by the client, not confirmed at the gateway");
    world.link(A, usable(1));
    world.run_until(5_000, |w| w.uplink() == Some(A) && w.state() == "ATTACHED").unwrap();
    world.run(100);
    assert!(binding(&world));
    assert_eq!(world.session(), id);
}

/// I13, R7.1: a path whose round trip is longer than either end waits for in a first attempt. What the gateway sends early
/// ends the burst here, not the count: the next attempts go on, at both ends, until the gateway says that it hears us.
#[test]
fn i13_early_frames_over_a_slow_path_do_not_begin_the_attempts_anew() {
    let mut world = World::new();
    world.gateway.early = true;
    world.latency[B.index()] = 750;
    let mut world = world.attach();
    world.run(4_000);
    world.traffic_ms = 0;
    world.run(2_000);
    world.gateway.downstream = Some(packet(99));
    let id = world.session();
    world.link(A, LinkState::NoCarrier);
    let mut bound = (world.now, None);
    for _ in 0..20_000 {
        world.run(1);
        // The gateway gives up what it has not heard in as many seconds as there were attempts.
        let attempt = world.gateway.asks.last().map_or(1, |ask| ask.attempt);
        let binding = &mut world.gateway.session.as_mut().unwrap().binding;
        let Some(there) = binding.as_ref().filter(|there| there.remote.0 == B) else { continue };
        if bound.1 != Some(there.slot) {
            bound = (world.now, Some(there.slot));
        }
        if !there.confirmed && world.now.since(bound.0) >= ms(1_000) * u32::from(attempt) {
            *binding = None;
        }
    }
    let attempts = |world: &World| world.gateway.asks.iter().map(|ask| ask.attempt).collect::<Vec<_>>();
    let asked = attempts(&world);
    assert!(asked.iter().copied().eq(1..=asked.len() as u16) && asked.len() <= 5, "{asked:?}");
    assert!(world.gateway.sent_early >= 2, "a burst ended early");
    assert!(world.gateway.session.as_ref().unwrap().binding.as_ref().unwrap().confirmed);
    assert_eq!((world.state(), world.session()), ("ATTACHED", id));
    // The answer to a probe has said that the gateway hears us: the next burst is a new one.
    world.agent.begin_recovery(world.now, SwitchCause::PathDead, Some(B));
    world.run(2_000);
    assert_eq!(attempts(&world).get(asked.len()), Some(&1));
}

/// R7.1: only the way back works over A. B, which answers, is taken soon; B, of which only an old answer is known, is not.
#[test]
fn r7_1_a_one_way_path_is_left_soon_for_one_that_answers_now() {
    for answers in [true, false] {
        let mut world = world();
        world.traffic_ms = 10;
        world.run(2_000);
        world.gateway.downstream = None;
        world.cut[B.index()] = !answers;
        world.filter = Box::new(|way, uplink, _| way == Way::Down || uplink != A);
        let since = world.now;
        while world.state() == "ATTACHED" && world.now.since(since) < ms(3_000) {
            world.gateway.send_plaintext(&packet(7));
            world.run(1);
        }
        let took = world.now.since(since);
        let expected = if answers { ms(100)..ms(600) } else { ms(900)..ms(1_300) };
        assert!(expected.contains(&took), "{answers}: {took:?}");
    }
}

/// R3.1: nothing links two networks that a host meets with the same address: a cookie does not outlive its link, nor a
/// sleep, seen in the clocks or as a timer that comes too late.
#[test]
fn r3_1_no_cookie_outlives_its_link_or_a_sleep() {
    type Change = fn(&mut World);
    let changes: [Change; 4] = [
        |world| {
            world.link(B, LinkState::NoCarrier);
            world.link(B, usable(2));
        },
        |world| {
            world.link(B, LinkState::Missing);
            world.link(B, LinkState::NoRoute);
            world.link(B, usable(2));
        },
        |world| {
            let monotonic = world.now.0 - 5_000_000_000;
            world.agent.handle_monotonic(world.now, monotonic);
            world.agent.handle_monotonic(world.now, monotonic - 3_000_000_000);
        },
        |world| {
            world.now = world.now.after(ms(40_000));
            world.agent.handle_timeout(world.now);
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut world = world();
        assert_eq!(world.agent.status(world.now).cookies, 1);
        change(&mut world);
        assert_eq!(world.agent.status(world.now).cookies, 0, "{number}");
        world.link(A, LinkState::NoCarrier);
        world.run_until(1_000, |w| w.state() == "ATTACHED" && w.uplink() == Some(B)).unwrap();
        assert_eq!(world.agent.status(world.now).counters.cookies_shown, 0, "{number}");
    }
    // Asleep in the middle of a recovery.
    let mut world = world();
    world.cut = [true; 3];
    world.link(A, LinkState::NoCarrier);
    assert_eq!(world.agent.status(world.now).cookies, 1);
    world.now = world.now.after(ms(12_000));
    world.agent.handle_timeout(world.now);
    assert_eq!((world.agent.status(world.now).cookies, world.state()), (0, "RECOVERING"));
    // What the host says again changes nothing.
    let mut world = self::world();
    world.link(B, usable(2));
    assert_eq!(world.agent.status(world.now).cookies, 1);
}

/// R3.1: a cookie is for the path as it was: after the uplink has got another address it is not shown.
#[test]
fn r3_1_a_cookie_of_an_echo_is_bound_to_its_path() {
    let mut world = world();
    assert_eq!(world.agent.status(world.now).cookies, 1);
    world.link(B, LinkState::NoAddress);
    world.link(B, usable(9));
    world.link(A, LinkState::NoCarrier);
    let sent =
        |w: &World| w.recorded.iter().any(|(way, over, d)| *way == Way::Up && *over == B && d[0] == DATA);
    world.run_until(500, |w| sent(w)).unwrap();
    assert_eq!(world.agent.status(world.now).counters.cookies_shown, 0);
    assert_eq!(world.gateway.sent_early, 0);
}
