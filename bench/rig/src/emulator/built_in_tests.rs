//! The built-in profiles, lived through from beginning to end on virtual time: a frame each way every millisecond.

use super::super::profile::{LaneSettings, Profile};
use super::*;
use crate::frame::Datagram;

/// What a lane ought to have counted.
#[derive(Clone, Copy, Debug, Default)]
struct Expected {
    blackholed: f64,
    lost: f64,
    lost_in_burst: f64,
    reordered: f64,
    duplicated: f64,
    /// Any frame too many for the line.
    overloads: bool,
}

const FRAME: usize = 122;
/// Of IP; beyond every MTU floor of the profiles, within Ethernet's.
const LARGE: usize = 1_478;

fn frame(ip_len: usize, at_ms: u64, [source, destination]: [std::net::SocketAddrV4; 2]) -> Vec<u8> {
    let mut payload = vec![0; ip_len - 28];
    payload[..8].copy_from_slice(&at_ms.to_be_bytes());
    Datagram { source, destination, payload: &payload }.to_frame([2; 6], [4; 6]).unwrap()
}

/// Counters after so long, and the shortest way each way, ms.
fn live(profile: &Profile, span_ms: u64) -> (PathCounters, [u64; 2]) {
    let mut path = Path::new(profile, 7);
    let (client, gateway) = ("10.0.1.2:40000".parse().unwrap(), "198.51.100.1:4500".parse().unwrap());
    let (mut outside, mut shortest) = (None, [u64::MAX; 2]);
    for at_ms in 0..span_ms {
        let now = Duration::from_millis(at_ms);
        path.handle_timeout(now);
        while let Some((direction, due, frame)) = path.poll_frame(now) {
            let Some(datagram) = Datagram::parse(&frame) else { continue };
            let sent = u64::from_be_bytes(*datagram.payload.first_chunk().unwrap());
            let way = u64::try_from(due.as_millis()).unwrap() - sent;
            let shortest = &mut shortest[direction.index()];
            *shortest = way.min(*shortest);
            if direction == Direction::Up {
                outside = Some(datagram.source);
            }
        }
        path.handle_frame(now, Direction::Up, frame(FRAME - 14, at_ms, [client, gateway]));
        if at_ms % 1_000 == 999 {
            path.handle_frame(now, Direction::Up, frame(LARGE, at_ms, [client, gateway]));
        }
        if let Some(outside) = outside {
            path.handle_frame(now, Direction::Down, frame(FRAME - 14, at_ms, [gateway, outside]));
        }
    }
    (path.counters(), shortest)
}

/// What the text of a profile amounts to, by its own rules.
fn expected(profile: &Profile, direction: Direction, span_ms: u64) -> Expected {
    let mut sum = Expected::default();
    for at_ms in 0..span_ms {
        let phase = profile.repeat.map_or(at_ms, |repeat| at_ms % u64::try_from(repeat.as_millis()).unwrap());
        let phase = Duration::from_millis(phase);
        let mut lane: LaneSettings = [&profile.up, &profile.down][direction.index()].clone();
        for change in &profile.changes {
            let ends = change.lasts.map_or(Duration::MAX, |lasts| change.after + lasts);
            if (change.after..ends).contains(&phase) {
                lane.apply([&change.up, &change.down][direction.index()]);
            }
        }
        if lane.blackhole {
            sum.blackholed += 1.0;
            continue;
        }
        let in_burst = lane.burst.map_or(0.0, |burst| burst.mean_loss());
        let left = (1.0 - in_burst) * (1.0 - lane.loss.fraction());
        sum.lost_in_burst += in_burst;
        sum.lost += (1.0 - in_burst) * lane.loss.fraction();
        sum.reordered += left * lane.reorder.fraction();
        sum.duplicated += left * lane.duplicate.fraction();
        sum.overloads |= lane.rate_bit_s.is_some_and(|rate| rate < FRAME as u64 * 8 * 1_000);
    }
    sum
}

/// Nothing where nothing is expected; else something, within what chance allows.
fn near(what: &str, seen: u64, expected: f64, clumps: f64) {
    let seen_f = seen as f64;
    let allowed = 6.0 * (expected * clumps).sqrt() + 3.0;
    assert!((seen > 0) == (expected > 0.0), "{what}: {seen}, expected {expected}");
    assert!((seen_f - expected).abs() <= allowed, "{what}: {seen}, expected {expected} ± {allowed}");
}

/// R7.1: each built-in profile does over its whole script what its text says: losses one by one and in bursts, copies,
/// packets that overtake, blackholes, lines that are too narrow, MTU floors, NATs that forget, and its own delays.
#[test]
fn r7_1_each_built_in_profile_does_what_it_says() {
    for name in Profile::names() {
        let profile = Profile::load(name).unwrap();
        let span = profile.repeat.unwrap_or(Duration::from_secs(100));
        let span_ms = u64::try_from(span.as_millis()).unwrap();
        let (seen, shortest) = live(&profile, span_ms);
        for direction in Direction::BOTH {
            let (lane, settings) = match direction {
                Direction::Up => (seen.up, &profile.up),
                Direction::Down => (seen.down, &profile.down),
            };
            let wanted = expected(&profile, direction, span_ms);
            let what = |field: &str| format!("{name}, {direction:?}: {field}");
            near(&what("blackholed"), lane.blackholed, wanted.blackholed, 0.1);
            near(&what("lost"), lane.lost, wanted.lost, 1.0);
            // A burst is as long as it takes to leave it.
            let clump = settings.burst.map_or(1.0, |burst| 2.0 / burst.leave.fraction());
            near(&what("lost in bursts"), lane.lost_in_burst, wanted.lost_in_burst, clump);
            near(&what("reordered"), lane.reordered, wanted.reordered, 1.0);
            near(&what("duplicated"), lane.duplicated, wanted.duplicated, 1.0);
            assert_eq!(lane.queue_full > 0, wanted.overloads, "{}: {lane:?}", what("queue"));
            let way = shortest[direction.index()];
            let delay = u64::try_from(settings.delay.as_millis()).unwrap();
            let longest = delay + u64::try_from(settings.jitter.as_millis()).unwrap() + 1;
            assert!((delay..=longest).contains(&way), "{}: {way} ms", what("delay"));
        }
        let large = if profile.up.mtu.is_some() { span_ms / 1_000 } else { 0 };
        assert_eq!(seen.up.too_big, large, "{name}");
        let rebinds = profile.changes.iter().filter(|change| change.rebind_nat).count() as u64;
        assert_eq!(seen.nat.map(|nat| nat.forgotten), profile.nat.is_some().then_some(rebinds), "{name}");
    }
}

/// R7.1: the second path of a client follows the script a third of a round ahead, so that at no moment both are cut.
#[test]
fn r7_1_two_paths_of_a_client_are_not_cut_at_once() {
    let mut cuts = 0;
    for name in Profile::names() {
        let profile = Profile::load(name).unwrap();
        let mut pair = [Path::new(&profile, 1), Path::a_third_ahead(&profile, 2)];
        let rounds_ms = profile.repeat.map_or(0, |repeat| 2 * u64::try_from(repeat.as_millis()).unwrap());
        for at_ms in (0..rounds_ms).step_by(10) {
            let is_cut = |path: &mut Path| {
                path.handle_timeout(Duration::from_millis(at_ms));
                path.is_link_down() || path.lanes.iter().any(|lane| lane.settings().blackhole)
            };
            let [a, b] = pair.each_mut().map(is_cut);
            assert!(!(a && b), "{name} at {at_ms} ms");
            cuts += u64::from(a) + u64::from(b);
        }
    }
    // Two rounds of both paths: 12.25 s of the train, 0.12 s of the mobile one.
    assert_eq!(cuts, 4 * (1_225 + 12));
}

/// R7.1: a third of a round ahead, a script's NAT forgets when that moment comes, once a round.
#[test]
fn r7_1_a_script_that_is_ahead_keeps_its_moments() {
    let text = "name = \"x\"\nrepeat = \"3s\"\n[nat]\nttl = \"1min\"\n[[change]]\nafter = \"1500ms\"\nrebind_nat = true\n";
    let mut path = Path::a_third_ahead(&Profile::parse(text).unwrap(), 1);
    let ends = ["10.0.1.2:40000".parse().unwrap(), "198.51.100.1:4500".parse().unwrap()];
    let mut forgotten = Vec::new();
    for at_ms in 0..7_000 {
        path.handle_frame(Duration::from_millis(at_ms), Direction::Up, frame(100, at_ms, ends));
        let count = path.counters().nat.unwrap().forgotten;
        if count > forgotten.len() as u64 {
            forgotten.push(at_ms);
        }
    }
    assert_eq!(forgotten, [500, 3_500, 6_500]);
}
