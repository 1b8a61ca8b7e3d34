//! Any sequence of what network, host and gateway may do: the rules hold at every step, and when the trouble is over the
//! client is back (I13). What [`World`] checks by itself: no two paths ever carry data (R1.1), and nothing that is due
//! stays undone.

use super::gateway::Cookies;
use super::world::{A, B, C, Way, World, usable};
use crate::agent::Event;
use crate::paths::{LinkState, UplinkId};
use jvpn_abi::wire::MsgType;
use jvpn_abi::{BootTime, Reason};
use jvpn_session::State;
use jvpn_session::messages::SessionId;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Something that happens.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Pass(u64),
    Cut(u8, bool),
    Link(u8, LinkState),
    /// The uplink gets another address.
    Move(u8, u8),
    /// The NAT in front of the uplink forgets.
    Rebind(u8),
    /// Of so many datagrams in each direction one arrives.
    Lossy(u64),
    /// The gateway dies with everything but its store; or with that, too.
    Forget {
        stored: bool,
    },
    Refuse(Option<(Reason, u32)>),
    Cookies(Cookies),
    /// An answer or a frame of earlier comes again.
    Replay(usize),
    Quiet(bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    let link = prop_oneof![
        Just(LinkState::NoCarrier),
        Just(LinkState::Down),
        Just(LinkState::NoRoute),
        Just(usable(1)),
        Just(usable(2))
    ];
    let refusal = prop_oneof![
        Just((Reason::Unavailable, 100)),
        Just((Reason::RateLimited, 400)),
        Just((Reason::Cooldown, 900)),
        Just((Reason::ReplayDetected, 0)),
        Just((Reason::PolicyDeny, 0))
    ];
    let cookies = prop_oneof![3 => Just(Cookies::Yes), 3 => Just(Cookies::No), 1 => Just(Cookies::InVain)];
    prop_oneof![
        8 => prop_oneof![1u64..40, 1u64..400, 200u64..1_500].prop_map(Happening::Pass),
        4 => (0u8..3, any::<bool>()).prop_map(|(path, cut)| Happening::Cut(path, cut)),
        4 => (0u8..3, link).prop_map(|(path, state)| Happening::Link(path, state)),
        2 => (0u8..3, 1u8..200).prop_map(|(path, last)| Happening::Move(path, last)),
        2 => (0u8..3).prop_map(Happening::Rebind),
        2 => (1u64..4).prop_map(Happening::Lossy),
        2 => prop::bool::weighted(0.8).prop_map(|stored| Happening::Forget { stored }),
        2 => prop::option::of(refusal).prop_map(Happening::Refuse),
        2 => cookies.prop_map(Happening::Cookies),
        3 => any::<usize>().prop_map(Happening::Replay),
        1 => any::<bool>().prop_map(Happening::Quiet),
    ]
}

fn happens(world: &mut World, happening: Happening) {
    match happening {
        Happening::Pass(span) => world.run(span),
        Happening::Cut(path, cut) => world.cut[usize::from(path)] = cut,
        Happening::Link(path, state) => world.link(UplinkId(path), state),
        Happening::Move(path, last) => world.link(UplinkId(path), usable(last)),
        Happening::Rebind(path) => world.nat[usize::from(path)] += 1,
        Happening::Lossy(one_of) => {
            let mut count = 0;
            world.filter = Box::new(move |_, _, _| {
                count += 1;
                count % one_of == 0
            });
        }
        Happening::Forget { stored } => {
            world.gateway.forget();
            if !stored {
                world.gateway.stored = None;
            }
        }
        Happening::Refuse(refusal) => {
            world.gateway.refuse = refusal;
            world.gateway.refuse_takeover = refusal;
        }
        Happening::Cookies(cookies) => world.gateway.cookies = cookies,
        Happening::Replay(index) => {
            let old: Vec<_> = world.recorded.iter().filter(|(way, ..)| *way == Way::Down).collect();
            if !old.is_empty() {
                let (_, uplink, datagram) = old[index % old.len()].clone();
                // One that was lost is new to the client.
                if let Some(inner) = world.inject(uplink, &datagram) {
                    world.delivered.push((world.now, inner));
                }
            }
        }
        Happening::Quiet(quiet) => world.traffic_ms = if quiet { 0 } else { 10 },
    }
}

/// R1.2, R1.3: one session at a time, each ended before the next begins and none begun twice; states are chained.
fn check_events(events: &[(BootTime, Event)]) {
    let mut live: Option<SessionId> = None;
    let mut known = BTreeSet::new();
    let mut state: Option<State> = None;
    for (_, event) in events {
        match event {
            Event::SessionStarted { grant } => {
                assert_eq!(live.replace(grant.session_id), None, "R1.2: a session began beside another");
                assert!(known.insert(grant.session_id), "R1.2: a session began twice");
                state = None;
            }
            Event::SessionEnded { session, .. } => {
                assert_eq!(live.take(), Some(*session), "R1.2: a session ended that was not there");
            }
            Event::StateChange { session, from, to, .. } => {
                assert!(known.contains(session), "a state of a session that nobody began");
                assert_eq!(*from, state, "R1.5: a state was left that was not entered");
                assert_ne!(*from, Some(*to), "a change to the same state");
                state = Some(*to);
            }
            Event::RecoveryStarted { session, .. }
            | Event::RecoveryComplete { session, .. }
            | Event::MtuChanged { session, .. } => {
                assert_eq!(live, Some(*session), "news of a session that is not there");
            }
            Event::SwitchCancelled { .. }
            | Event::Refused { .. }
            | Event::Link { .. }
            | Event::Trouble { .. } => {}
        }
    }
}

/// R3.1, R3.3: whatever happens, requests and handshakes keep the client's own limit over any span: five at once, and
/// five per second.
fn check_rate(asked: &[BootTime]) {
    for (first, from) in asked.iter().enumerate() {
        for (count, at) in asked[first..].iter().enumerate() {
            let span_ms = u64::try_from(at.since(*from).as_millis()).unwrap();
            let allowed = 5 + span_ms * 5 / 1_000 + 1;
            assert!(count as u64 <= allowed, "{} requests within {span_ms} ms", count + 1);
            if span_ms > 5_000 {
                break;
            }
        }
    }
}

/// R2.4: no packet is delivered twice, whatever came twice.
fn check_delivered(delivered: &[(BootTime, Vec<u8>)]) {
    let mut once = BTreeSet::new();
    assert!(delivered.iter().all(|(_, inner)| once.insert(inner)), "R2.4: a packet was delivered twice");
}

/// Requests that were sent since `seen`, all at the present moment or a little before.
fn note_asks(world: &World, seen: &mut usize, asked: &mut Vec<BootTime>) {
    let kinds = [MsgType::HandshakeInit.octet(), MsgType::ReattachRequest.octet()];
    for (way, _, datagram) in &world.recorded[*seen..] {
        if *way == Way::Up && kinds.contains(&datagram[0]) {
            asked.push(world.now);
        }
    }
    *seen = world.recorded.len();
}

fn pass(world: &mut World, span: u64, seen: &mut usize, asked: &mut Vec<BootTime>) {
    for _ in 0..span {
        world.run(1);
        note_asks(world, seen, asked);
    }
}

/// Nobody hinders anybody any more. (The budget of the gateway is not this gateway's business.)
fn heal(world: &mut World) {
    world.cut = [false; 3];
    world.filter = Box::new(|_, _, _| true);
    world.gateway.refuse = None;
    world.gateway.refuse_takeover = None;
    world.gateway.cookies = Cookies::No;
    world.traffic_ms = 10;
    for (id, last) in [(A, 1), (B, 2), (C, 3)] {
        world.link(id, usable(last));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 400, ..ProptestConfig::default() })]

    /// R1.1, R1.2, R1.3, R1.5, R2.4, R3.1, R3.3, I13: over any sequence.
    #[test]
    fn any_sequence_keeps_the_rules_and_leads_back_in(
        happenings in prop::collection::vec(happening(), 1..40),
    ) {
        let mut world = World::attached();
        let (mut seen, mut asked) = (0, Vec::new());
        let mut version = (None, 0);
        for happening in happenings {
            if let Happening::Pass(span) = happening {
                pass(&mut world, span, &mut seen, &mut asked);
            } else {
                happens(&mut world, happening);
                note_asks(&world, &mut seen, &mut asked);
            }
            check_events(&world.events);
            let shown = world.agent.status(world.now).gateway.map_or(0, |gateway| gateway.state_version);
            if (world.session(), shown) != version {
                prop_assert!(world.session() != version.0 || shown > version.1, "R1.3: {shown} after {version:?}");
                version = (world.session(), shown);
            }
        }
        heal(&mut world);
        let mut delivered = None;
        for waited in 0.. {
            prop_assert!(waited < 90_000, "I13: not back: {:?}", world.agent.status(world.now));
            pass(&mut world, 1, &mut seen, &mut asked);
            let is_in = world.state() == "ATTACHED";
            match delivered {
                None if is_in => delivered = Some(world.delivered.len()),
                Some(before) if is_in && world.delivered.len() > before + 3 => break,
                Some(_) if !is_in => delivered = None,
                _ => {}
            }
        }
        check_events(&world.events);
        check_rate(&asked);
        check_delivered(&world.delivered);
    }
}
