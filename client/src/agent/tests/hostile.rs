//! What anybody can send to the client: garbage, replays, flipped octets. Counted, no panic, no change.

use super::world::{A, B, Way, World, endpoint, ms, usable};
use crate::agent::{FRAME_OVERHEAD, Inner};
use crate::paths::LinkState;
use jvpn_abi::Endpoint;
use jvpn_abi::wire::MsgType;
use proptest::prelude::*;

const TYPES: [u8; 12] = [0x10, 0x11, 0x20, 0x21, 0x22, 0x24, 0x25, 0x26, 0x28, 0x2a, 0x2c, 0x2d];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Random datagrams, with plausible first octets, in every phase: no panic, no state change, no inner packet.
    #[test]
    fn random_datagrams_change_nothing(
        datagrams in proptest::collection::vec((0usize..13, proptest::collection::vec(any::<u8>(), 0..300)), 1..60),
        phase in 0u8..3,
    ) {
        let mut world = match phase {
            0 => { let mut w = World::new(); w.link(A, usable(1)); w }
            1 => World::attached(),
            _ => { let mut w = World::attached(); w.cut = [true; 3]; w.link(A, LinkState::NoCarrier); w.run(50); w }
        };
        world.traffic_ms = 0;
        let (state, id) = (world.state(), world.session());
        for (kind, mut datagram) in datagrams {
            if let (Some(first), Some(kind)) = (datagram.first_mut(), TYPES.get(kind)) {
                *first = *kind;
            }
            for uplink in [A, B] {
                prop_assert_eq!(world.inject(uplink, &datagram), None);
            }
        }
        prop_assert_eq!((world.state(), world.session()), (state, id));
    }

    /// Genuine datagrams with one octet changed or cut short: refused, whatever they are.
    #[test]
    fn flipped_and_truncated_datagrams_are_refused(at in 0usize..1_200, bit in 0u8..8, cut in any::<bool>()) {
        let mut world = World::attached();
        world.filter = Box::new(|way, _, _| way == Way::Up);
        world.run(60);
        world.link(A, LinkState::NoCarrier);
        world.run(300);
        let (state, id) = (world.state(), world.session());
        let down: Vec<_> = world.recorded.iter().filter(|(way, ..)| *way == Way::Down).cloned().collect();
        for (_, uplink, mut datagram) in down {
            let at = at % datagram.len();
            if cut { datagram.truncate(at) } else { datagram[at] ^= 1 << bit }
            prop_assert_eq!(world.inject(uplink, &datagram), None);
        }
        prop_assert_eq!((world.state(), world.session()), (state, id));
    }

    /// Inner packets of any shape are sealed, held or dropped.
    #[test]
    fn any_inner_packet_is_handled(packet in proptest::collection::vec(any::<u8>(), 0..2_300)) {
        let mut world = World::attached();
        let mut frame = packet.clone();
        let outcome = world.agent.handle_inner_packet(world.now, &mut frame);
        let len = packet.len().saturating_sub(FRAME_OVERHEAD);
        if matches!(outcome, Inner::Send(_)) {
            prop_assert!((20..=1_280).contains(&len));
            prop_assert_eq!(frame[0], MsgType::Data.octet());
        }
    }
}

/// R2.2, R2.4: a recorded downlink replayed whole, in its own session and after a switch: all refused and counted.
#[test]
fn replays_are_refused_and_counted() {
    let mut world = World::attached();
    let recorded: Vec<_> = world.recorded.iter().filter(|(way, ..)| *way == Way::Down).cloned().collect();
    let data = recorded.iter().filter(|(_, _, d)| d[0] == MsgType::Data.octet()).count() as u64;
    assert!(data > 100);
    for (_, uplink, datagram) in &recorded {
        assert_eq!(world.inject(*uplink, datagram), None);
    }
    let flying = recorded.len() as u64 / 50;
    let counters = world.agent.status(world.now).counters;
    assert!(counters.replayed >= data - flying - 2, "{} of {data}", counters.replayed);
    world.link(A, LinkState::NoCarrier);
    world.run(300);
    world.link(A, usable(1));
    let before = world.agent.status(world.now).counters;
    for (_, uplink, datagram) in &recorded {
        assert_eq!(world.inject(*uplink, datagram), None);
        assert_eq!(world.inject(B, datagram), None);
    }
    let after = world.agent.status(world.now).counters;
    // CONTROL of the old epoch: over A it is of no binding, over B it does not open.
    let control = recorded.iter().filter(|(_, _, d)| d[0] == MsgType::Control.octet()).count() as u64;
    assert_eq!(after.wrong_slot - before.wrong_slot, 2 * data + control);
    assert_eq!(after.control_received, before.control_received);
    assert_eq!(world.state(), "ATTACHED");
}

/// Datagrams from elsewhere than the gateway are not even looked at.
#[test]
fn foreign_sources_are_ignored() {
    let mut world = World::attached();
    let (_, uplink, mut datagram) =
        world.recorded.iter().rfind(|(way, ..)| *way == Way::Down).unwrap().clone();
    let from = Endpoint::v4([198, 51, 100, 2], 4_500);
    assert!(world.agent.handle_datagram(world.now, uplink, from, &mut datagram).is_none());
    assert!(world.agent.handle_datagram(world.now, uplink, endpoint(), &mut []).is_none());
    let counters = world.agent.status(world.now).counters;
    assert_eq!((counters.foreign_source, counters.malformed), (1, 1));
    world.now = world.now.after(ms(1));
}

/// A stolen path hint of an older epoch moves nothing.
#[test]
fn control_of_an_older_epoch_is_refused() {
    use jvpn_session::messages::ControlMessage;
    let mut world = World::attached();
    world.filter = Box::new(|way, _, d| !(way == Way::Down && d[0] == MsgType::Control.octet()));
    world.gateway.say(ControlMessage::PathHint { observed: endpoint(), cookie: [0; 16] });
    world.run(20);
    let hint = world.recorded.iter().rfind(|r| r.2[0] == MsgType::Control.octet()).unwrap().2.clone();
    world.filter = Box::new(|_, _, _| true);
    world.link(A, LinkState::NoCarrier);
    world.run(300);
    assert_eq!(world.state(), "ATTACHED");
    let before = world.agent.status(world.now).counters.unauthentic;
    world.inject(B, &hint);
    assert_eq!(world.state(), "ATTACHED");
    assert_eq!(world.agent.status(world.now).counters.unauthentic, before + 1);
}
