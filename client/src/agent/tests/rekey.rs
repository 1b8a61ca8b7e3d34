//! R5.2 at the client: it renews its keys by itself, loses nothing by it, and uses none past its limit.

use super::gateway::SamePlace;
use super::world::{A, B, LATENCY_MS, Way, World, ms, packet, usable};
use crate::agent::Event;
use crate::paths::LinkState;
use jvpn_abi::Reason;
use jvpn_abi::wire::{DataHeader, MsgType};
use jvpn_session::messages::SwitchCause;

const ACK: u8 = MsgType::ReattachAck.octet();
const REQUEST: u8 = MsgType::ReattachRequest.octet();
const DATA: u8 = MsgType::Data.octet();

/// A session whose keys are to be renewed every 2 s and end after 12 s.
fn quick() -> World {
    let mut world = World::new();
    world.gateway.policy.rekey_soft_ms = 2_000;
    world.gateway.policy.rekey_hard_ms = 12_000;
    world.gateway.same_place = SamePlace::Rekey;
    world.link(A, usable(1));
    world.link(B, usable(2));
    world.run(1_500);
    assert_eq!((world.state(), key(&world)), ("ATTACHED", 0));
    world
}

fn key(world: &World) -> u32 {
    world.agent.status(world.now).path.unwrap().key_number
}

fn requests(world: &World) -> usize {
    world.recorded.iter().filter(|(way, _, d)| *way == Way::Up && d[0] == REQUEST).count()
}

/// Numbers of the inner packets that reached the gateway.
fn arrived(world: &World) -> Vec<u32> {
    world.gateway.inner.iter().map(|p| u32::from_be_bytes(p[20..24].try_into().unwrap())).collect()
}

/// R5.2, R1.2: many rekeys under traffic: no packet is lost either way, no state changes, nothing is a recovery.
#[test]
fn r5_2_keys_are_renewed_without_loss() {
    let mut world = quick();
    let (id, events) = (world.session(), world.events.len());
    let slot = world.agent.status(world.now).path.unwrap().slot;
    world.run(12_000);
    assert!(key(&world) >= 5, "{}", key(&world));
    let status = world.agent.status(world.now);
    assert_eq!((world.session(), status.path.as_ref().unwrap().slot), (id, slot));
    assert_eq!(status.counters.rekeys, u64::from(key(&world)));
    assert!(world.gateway.asks.iter().all(|ask| ask.cause == SwitchCause::Rekey));
    assert_eq!(world.events.len(), events, "{:?}", &world.events[events..]);
    let came = arrived(&world);
    assert!(came.windows(2).all(|pair| pair[1] == pair[0] + 1), "uplink: a gap");
    let under_way = 2 * LATENCY_MS / world.traffic_ms + 1;
    assert!(came.len() as u64 <= world.delivered.len() as u64 + under_way, "downlink: a gap");
    assert_eq!((status.counters.open_failed, status.counters.replayed), (0, 0));
    // The next rekey comes no sooner than asked for.
    assert!(requests(&world) <= 8, "{} requests", requests(&world));
}

/// R5.2: packets count too, of either direction.
#[test]
fn r5_2_many_packets_ask_for_new_keys() {
    let mut world = World::new();
    world.gateway.policy.rekey_soft_packets = 100;
    world.gateway.same_place = SamePlace::Rekey;
    world.link(A, usable(1));
    world.run(4_000);
    assert!((2..=4).contains(&key(&world)), "{} after {} packets", key(&world), world.sent);
}

/// R3.3, I13: without an answer the request is repeated twice, then made anew, with bounded effort; the keys go on.
#[test]
fn r5_2_lost_answers_are_asked_for_again() {
    let mut world = quick();
    world.filter = Box::new(|way, _, d| !(way == Way::Down && d[0] == ACK));
    world.run(6_000);
    assert_eq!((world.state(), key(&world)), ("ATTACHED", 0));
    let asked = requests(&world);
    assert!((5..=16).contains(&asked), "{asked} requests");
    assert!((2..=5).contains(&world.gateway.asks.len()), "{} fresh ones", world.gateway.asks.len());
    world.filter = Box::new(|_, _, _| true);
    world.run(4_500);
    assert!(key(&world) >= 1);
    assert!(world.recoveries().is_empty());
    let came = arrived(&world);
    assert!(came.windows(2).all(|pair| pair[1] == pair[0] + 1));
}

/// R5.2: no key outlives its hard limit: the client stops, reattaches, and is back once it is heard.
#[test]
fn r5_2_no_key_is_used_past_its_hard_limit() {
    let mut world = quick();
    world.filter = Box::new(|way, _, d| !(way == Way::Down && d[0] == ACK));
    let born = world.now;
    let took = world.run_until(12_000, |w| w.state() == "RECOVERING").unwrap();
    assert!((10_000..=11_000).contains(&took), "{took}");
    let sealed = world.recorded.iter().filter(|(way, _, d)| *way == Way::Up && d[0] == DATA).count();
    world.run(1_000);
    let after = world.recorded.iter().filter(|(way, _, d)| *way == Way::Up && d[0] == DATA).count();
    assert_eq!(after, sealed, "nothing more under the old keys");
    assert!(world.now.since(born) > ms(10_000));
    world.filter = Box::new(|_, _, _| true);
    world.run_until(6_000, |w| w.state() == "ATTACHED").unwrap();
    assert_eq!(world.recoveries()[0].cause, SwitchCause::Rekey);
}

/// A refusal with a time is waited out; meanwhile the session is as healthy as before.
#[test]
fn r5_2_a_refused_rekey_waits() {
    let mut world = quick();
    world.gateway.refuse = Some((Reason::RateLimited, 1_500));
    world.run(1_900);
    assert_eq!((world.gateway.asks.len(), world.state(), key(&world)), (1, "ATTACHED", 0));
    world.gateway.refuse = None;
    world.run(400);
    assert_eq!((world.gateway.asks.len(), key(&world)), (2, 1));
    assert!(world.recoveries().is_empty());
}

/// R5.2: keys whose number does not follow the one in use are refused and told: the one in use again, one further on, the
/// very last one. Those in use go on without a loss, and the next answer that fits is taken.
#[test]
fn r5_2_key_numbers_that_do_not_follow_are_refused() {
    for off in [u32::MAX, 1, u32::MAX - 1] {
        let mut world = quick();
        let events = world.events.len();
        world.gateway.key_number_off = off;
        world.run(4_000);
        let status = world.agent.status(world.now);
        assert_eq!((world.state(), key(&world), status.counters.rekeys), ("ATTACHED", 0, 0), "{off}");
        let told = |(_, event): &(_, Event)| matches!(event, Event::Trouble { message } if message.contains("keys that do not follow ours"));
        assert!(world.events.len() > events && world.events[events..].iter().all(told), "{off}");
        assert!((1..=16).contains(&world.gateway.asks.len()), "{off}: {}", world.gateway.asks.len());
        world.gateway.key_number_off = 0;
        world.run(4_000);
        assert!(key(&world) >= 1, "{off}");
        assert!(world.recoveries().is_empty());
        let came = arrived(&world);
        assert!(came.windows(2).all(|pair| pair[1] == pair[0] + 1), "{off}: a gap");
    }
}

/// I13: the gateway may see the request from elsewhere: then its answer is a switch, and the client follows it.
#[test]
fn r5_2_an_answer_may_be_a_switch() {
    let mut world = quick();
    world.gateway.same_place = SamePlace::Switch;
    let (id, slot) = (world.session(), world.agent.status(world.now).path.unwrap().slot);
    world.run_until(2_000, |w| !w.recoveries().is_empty()).unwrap();
    let path = world.agent.status(world.now).path.unwrap();
    assert_eq!((world.session(), world.state(), path.uplink), (id, "ATTACHED", A));
    assert_ne!(path.slot, slot);
    assert_eq!(world.gateway.asks.len(), 1, "the answer was taken, not asked for again");
}

/// While nothing gets through under the new keys, what comes under the old ones still counts; then it goes on.
#[test]
fn r5_2_a_lost_first_frame_costs_nothing_downwards() {
    let mut world = quick();
    world.filter =
        Box::new(|way, _, d| !(way == Way::Up && d[0] == DATA && DataHeader::parse(d).unwrap().key_phase));
    world.run_until(1_000, |w| key(w) == 1).unwrap();
    world.run(3 * LATENCY_MS);
    let delivered = world.delivered.len();
    world.gateway.send_plaintext(&packet(7));
    world.run(2 * LATENCY_MS);
    assert_eq!(world.delivered.len(), delivered + 1, "under the keys before");
    assert_eq!(world.state(), "ATTACHED");
    world.filter = Box::new(|_, _, _| true);
    world.run(500);
    assert_eq!((world.state(), key(&world)), ("ATTACHED", 1));
}

/// I13: a path that dies in the middle of a rekey is left as ever.
#[test]
fn i13_a_path_may_die_during_a_rekey() {
    for lost in [REQUEST, ACK, DATA] {
        let mut world = quick();
        let id = world.session();
        world.filter = Box::new(move |_, _, d| d[0] != lost);
        world.run_until(1_500, |w| requests(w) > 0).unwrap();
        world.run(15);
        world.filter = Box::new(|_, _, _| true);
        world.link(A, LinkState::NoCarrier);
        world.run(1_000);
        assert_eq!((world.session(), world.state(), world.uplink()), (id, "ATTACHED", Some(B)), "{lost:#x}");
        world.run(3_000);
        assert!(key(&world) >= 1, "and goes on to be rekeyed there");
        let ended = world.events.iter().any(|(_, event)| matches!(event, Event::SessionEnded { .. }));
        assert!(!ended);
    }
}
