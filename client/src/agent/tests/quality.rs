//! The client's own judgement of its path, and the switch to a better one.

use super::world::{A, B, LATENCY_MS, Way, World};
use crate::paths::UplinkId;
use crate::paths::candidates::CandidateSettings;
use jvpn_abi::Reason;
use jvpn_abi::wire::MsgType;
use jvpn_abi::wire::internal::ProbeFrame;
use jvpn_session::State;
use jvpn_session::messages::{ControlMessage, SwitchCause};

/// Loses every `nth` datagram of both ways on the given uplinks.
fn lose(world: &mut World, nth: u64, over: &'static [UplinkId]) {
    let mut seen = [0_u64; 6];
    world.filter = Box::new(move |way, uplink, _| {
        let count = &mut seen[uplink.index() * 2 + usize::from(way == Way::Up)];
        *count += 1;
        !over.contains(&uplink) || !count.is_multiple_of(nth)
    });
}

fn heal(world: &mut World) {
    world.filter = Box::new(|_, _, _| true);
}

/// R7.1, R1.7: a path that loses an eighth of everything is left for a warm one that loses nothing: once, voluntarily, not
/// before it was bad for six seconds. It does not get the session back soon, however good its few probes look.
#[test]
fn r7_1_a_better_path_is_taken_and_kept() {
    let mut world = World::attached();
    let id = world.session();
    lose(&mut world, 8, &[A]);
    let took = world.run_until(20_000, |w| !w.recoveries().is_empty()).unwrap();
    assert!((6_000..14_000).contains(&took), "{took} ms");
    let report = world.recoveries()[0];
    assert_eq!((report.cause, report.from, report.to), (SwitchCause::Voluntary, A, B));
    assert_eq!((world.session(), world.state()), (id, "ATTACHED"));
    heal(&mut world);
    world.run(50_000);
    assert_eq!((world.uplink(), world.recoveries().len()), (Some(B), 1), "A was poor a short while ago");
    world.run(60_000);
    assert_eq!((world.uplink(), world.recoveries().len()), (Some(A), 2), "and has been good since");
}

/// R1.7: three seconds of 30 % loss are no reason to leave, whatever candidate there is.
#[test]
fn r1_7_a_spike_is_no_reason_to_leave() {
    for way in [Way::Up, Way::Down] {
        let mut world = World::attached();
        let mut seen = 0_u64;
        world.filter = Box::new(move |w, uplink, _| {
            seen += u64::from(w == way && uplink == A);
            w != way || uplink != A || !seen.is_multiple_of(3)
        });
        world.run(3_000);
        assert_eq!(world.agent.status(world.now).uplinks[0].quality.unwrap().level, "bad", "{way:?}");
        heal(&mut world);
        world.run(30_000);
        assert_eq!((world.uplink(), world.recoveries().len()), (Some(A), 0), "{way:?}");
        assert_eq!(world.agent.status(world.now).uplinks[0].quality.unwrap().level, "good");
    }
}

/// R1.7: a candidate that is no better is not taken; nor is any if the user or the gateway does not want it.
#[test]
fn r1_7_a_path_is_left_only_for_a_better_one_and_only_freely() {
    let mut world = World::attached();
    lose(&mut world, 8, &[A, B]);
    world.run(60_000);
    assert_eq!((world.uplink(), world.recoveries().len()), (Some(A), 0), "B is as bad");

    let settings = CandidateSettings { for_quality: false, ..CandidateSettings::default() };
    let mut world = World::with(settings, 5).attach();
    lose(&mut world, 8, &[A]);
    world.run(30_000);
    assert_eq!((world.uplink(), world.recoveries().len()), (Some(A), 0), "switched off");

    let mut world = World::attached();
    let state = State::Degraded.number();
    world.gateway.say(ControlMessage::State { version: 99, state, reason: Reason::QualityFloorViolation });
    lose(&mut world, 8, &[A]);
    world.run(30_000);
    assert_eq!((world.uplink(), world.state(), world.recoveries().len()), (Some(A), "DEGRADED", 0));
}

/// R9.2: status shows loss of each direction, round trip and jitter of the bound path, and the same of candidates as far as
/// their probes tell.
#[test]
fn r9_2_status_shows_quality_per_uplink() {
    let mut world = World::attached();
    let mut seen = 0_u64;
    world.filter = Box::new(move |way, uplink, datagram| {
        let data = way == Way::Down && uplink == A && datagram[0] == MsgType::Data.octet();
        seen += u64::from(data);
        !data || !seen.is_multiple_of(10)
    });
    world.run(3_000);
    let status = world.agent.status(world.now);
    let quality = status.uplinks[0].quality.unwrap();
    let (out, inward) = (quality.loss_out_percent.unwrap(), quality.loss_in_percent.unwrap());
    assert!(out < 0.1 && (8.0..12.0).contains(&inward), "{quality:?}");
    assert_eq!((quality.level, quality.rtt_ms), ("bad", Some(2.0 * LATENCY_MS as f64)));
    assert!(quality.jitter_ms.unwrap() < 1.0);
    assert!(status.uplinks[1].quality.is_none() && status.uplinks[1].candidate.unwrap().jitter_ms.is_some());
}

/// R9.2: each probe tells the last round trip, once.
#[test]
fn r9_2_probes_tell_the_round_trip() {
    let mut world = World::attached();
    world.run(2_000);
    let told = world.gateway.probed.split_off(0);
    let rtts: Vec<u32> = told.iter().map(|probe: &ProbeFrame| probe.rtt_us).collect();
    assert_eq!(rtts[0], 0, "nothing was measured yet");
    assert!(rtts[1..].iter().filter(|rtt| **rtt == 10_000).count() + 2 >= rtts.len() - 1, "{rtts:?}");
}

/// R1.7: while the gateway says VOLATILE, an idle path is probed as under traffic, and not after.
#[test]
fn r1_7_a_volatile_path_is_probed_for_evidence() {
    let mut world = World::attached();
    world.traffic_ms = 0;
    world.run(30_000);
    let probes = |world: &mut World, version: u64, state: State| {
        let (state, reason) = (state.number(), Reason::VolatilitySignal);
        world.gateway.say(ControlMessage::State { version, state, reason });
        world.gateway.probed.clear();
        world.run(10_000);
        world.gateway.probed.len()
    };
    let (volatile, attached) =
        (probes(&mut world, 98, State::Volatile), probes(&mut world, 99, State::Attached));
    assert!(volatile >= 45 && attached <= 3, "{volatile} {attached}");
}
