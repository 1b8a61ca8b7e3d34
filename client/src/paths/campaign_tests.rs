//! Bursts of attempts, on virtual time.

use super::super::candidates::CandidateSettings;
use super::super::{LinkState, UplinkSpec};
use super::*;
use proptest::prelude::*;
use std::net::IpAddr;

const A: UplinkId = UplinkId(0);
const B: UplinkId = UplinkId(1);

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

fn usable() -> LinkState {
    LinkState::Usable { source: IpAddr::from([10, 0, 0, 1]) }
}

fn two() -> Paths {
    let spec = |device: &str, priority| UplinkSpec { device: device.to_owned(), priority, metered: false };
    let mut paths = Paths::new(vec![spec("a", 1), spec("b", 2)], CandidateSettings::default());
    paths.set_link(A, usable());
    paths.set_link(B, usable());
    paths
}

/// Runs without any answer for `span`; what was sent, and when.
fn run(campaign: &mut Campaign, paths: &mut Paths, from: BootTime, span: Duration) -> Vec<(u64, Step)> {
    let mut log = Vec::new();
    let mut now = from;
    while now.since(from) < span {
        match campaign.poll(now, paths, 0) {
            Step::Wait(BootTime::NEVER) => break,
            Step::Wait(at) => now = at,
            step @ (Step::Fresh(_) | Step::Repeat(_)) => log.push((now.since(from).as_millis() as u64, step)),
        }
    }
    log
}

/// R3.3, R7.1: with one uplink a request is repeated identically twice, then made afresh, and waits double.
#[test]
fn one_uplink_two_repeats_then_fresh_with_doubled_waits() {
    let mut paths = two();
    paths.set_link(B, LinkState::NoCarrier);
    let mut campaign = Campaign::new(Repetition::Identical, None);
    let log = run(&mut campaign, &mut paths, BootTime::from_millis(1_000_000), ms(2_300));
    let expected = [
        (0, Step::Fresh(A)),
        (250, Step::Repeat(A)),
        (500, Step::Repeat(A)),
        (750, Step::Fresh(A)),
        (1_250, Step::Repeat(A)),
        (1_750, Step::Repeat(A)),
        (2_250, Step::Fresh(A)),
    ];
    assert_eq!(log, expected);
}

/// R7.1: with two uplinks they take turns, the one that just failed last.
#[test]
fn two_uplinks_alternate() {
    let mut paths = two();
    let start = BootTime::from_millis(1_000_000);
    paths.mark_failed(A, start);
    let mut campaign = Campaign::new(Repetition::Identical, None);
    let log = run(&mut campaign, &mut paths, start, ms(2_100));
    let expected = [
        (0, Step::Fresh(B)),
        (250, Step::Repeat(B)),
        (500, Step::Fresh(A)),
        (750, Step::Repeat(A)),
        (1_000, Step::Fresh(B)),
        (1_500, Step::Repeat(B)),
        (2_000, Step::Fresh(A)),
    ];
    assert_eq!(log, expected);
    assert_eq!(campaign.attempts(), 4);
}

/// R1.6: however long nothing is answered, and whatever the round trip: a fresh request comes before the gateway takes the
/// burst for over, with one uplink and with two; and the backoff holds.
#[test]
fn r1_6_attempts_stay_one_burst() {
    let start = BootTime::from_millis(1_000_000);
    for uplinks in [1, 2] {
        for rtt_ms in [1, 200, 700, 1_500, 3_000, 20_000] {
            for jitter in [0, u16::MAX] {
                let mut paths = two();
                if uplinks == 1 {
                    paths.set_link(B, LinkState::NoCarrier);
                }
                for id in [A, B] {
                    paths.mark_good(id, Some(ms(rtt_ms)));
                }
                let mut campaign = Campaign::new(Repetition::Identical, None);
                let (mut fresh, mut now, mut sent) = (Vec::new(), start, 0);
                while now.since(start) < ms(120_000) {
                    match campaign.poll(now, &mut paths, jitter) {
                        Step::Wait(at) => now = at,
                        Step::Fresh(_) => {
                            fresh.push(now);
                            sent += 1;
                        }
                        Step::Repeat(_) => sent += 1,
                    }
                }
                let gaps = || fresh.windows(2).map(|pair| pair[1].since(pair[0]));
                let longest = gaps().max().unwrap();
                assert!(longest < BURST_PAUSE, "{uplinks} uplinks, {rtt_ms} ms: {longest:?}");
                assert!(
                    gaps().next_back().unwrap() >= ATTEMPT_MAX,
                    "{uplinks} uplinks, {rtt_ms} ms: no backoff"
                );
                assert!(sent < 55, "{uplinks} uplinks, {rtt_ms} ms: {sent} in two minutes");
            }
        }
    }
}

/// A gateway's retry_after is kept, and the wait is no reason to try another path meanwhile.
#[test]
fn retry_after_is_honoured() {
    let mut paths = two();
    let start = BootTime::from_millis(5_000);
    let mut campaign = Campaign::new(Repetition::Identical, Some(B));
    assert_eq!(campaign.poll(start, &mut paths, 0), Step::Fresh(B));
    let later = start.after(ms(3_000));
    campaign.again(later);
    assert_eq!(campaign.poll(start.after(ms(1)), &mut paths, 0), Step::Wait(later));
    campaign.link_gained(start.after(ms(2)), &mut paths);
    assert_eq!(campaign.poll(start.after(ms(2)), &mut paths, 0), Step::Wait(later));
    assert_eq!(campaign.poll(later, &mut paths, 0), Step::Fresh(B));
}

/// R7.1: carrier loss under an open attempt moves on at once, without waiting for its timer.
#[test]
fn a_lost_link_moves_on_at_once() {
    let mut paths = two();
    let start = BootTime::from_millis(5_000);
    let mut campaign = Campaign::new(Repetition::Identical, None);
    assert_eq!(campaign.poll(start, &mut paths, 0), Step::Fresh(A));
    paths.set_link(A, LinkState::NoCarrier);
    assert_eq!(campaign.poll(start.after(ms(3)), &mut paths, 0), Step::Fresh(B));
    paths.set_link(B, LinkState::Down);
    assert_eq!(campaign.poll(start.after(ms(4)), &mut paths, 0), Step::Wait(BootTime::NEVER));
    paths.set_link(A, usable());
    campaign.link_gained(start.after(ms(5)), &mut paths);
    assert_eq!(campaign.poll(start.after(ms(5)), &mut paths, 0), Step::Fresh(A));
}

#[test]
fn an_answered_attempt_waits_for_its_proof_only() {
    let mut paths = two();
    let start = BootTime::from_millis(5_000);
    let mut campaign = Campaign::new(Repetition::Identical, None);
    campaign.poll(start, &mut paths, 0);
    campaign.answered();
    assert_eq!(campaign.poll(start.after(ms(9_000)), &mut paths, 0), Step::Wait(BootTime::NEVER));
    campaign.failed(start.after(ms(9_000)), &mut paths, BootTime(0));
    assert_eq!(campaign.poll(start.after(ms(9_000)), &mut paths, 0), Step::Fresh(B));
}

/// No span has more than the client's own limit: five at once, and five per second.
fn keeps_the_limit(sent: &[BootTime]) -> bool {
    let allowed = |span: Duration| 5 + span.as_millis() * 5 / 1_000 + 1;
    let spans =
        |first: usize| sent[first..].iter().enumerate().map(move |(n, at)| (n + 1, at.since(sent[first])));
    (0..sent.len()).flat_map(spans).all(|(count, span)| count as u128 <= allowed(span))
}

proptest! {
    /// R1.1, R3.1: whatever links and answers do, at most one attempt is open; a new one is never made while the old one's
    /// time runs on a usable uplink, unless a link was gained; and over all bursts the client's own limit holds.
    #[test]
    fn never_two_open_attempts_and_never_a_storm(
        events in proptest::collection::vec((0u8..10, 0u64..400, any::<u16>()), 1..300),
    ) {
        let mut paths = two();
        let mut now = BootTime::from_millis(1_000_000);
        let mut campaign = Campaign::new(Repetition::Identical, None);
        let (mut sent, mut fresh) = (Vec::new(), 0);
        // The open attempt, and when its time is over.
        let mut open: Option<(UplinkId, BootTime)> = None;
        for (event, gap, jitter) in events {
            now = now.after(ms(gap));
            match event {
                0 => { paths.set_link(A, LinkState::NoCarrier); }
                1 => { paths.set_link(A, usable()); campaign.link_gained(now, &mut paths); }
                2 => { paths.set_link(B, LinkState::NoCarrier); }
                3 => { paths.set_link(B, usable()); campaign.link_gained(now, &mut paths); }
                4 => { campaign.failed(now, &mut paths, now.after(ms(gap))); open = None; }
                5 => { campaign.again(now.after(ms(gap))); open = None; }
                6 if campaign.retried(now, &mut paths) => sent.push(now),
                // A burst is over, the next one begins.
                7 if gap % 4 == 0 => {
                    (campaign, open, fresh) = (Campaign::new(Repetition::Identical, None), None, 0);
                }
                _ => {}
            }
            match campaign.poll(now, &mut paths, jitter) {
                Step::Fresh(id) => {
                    prop_assert!(paths.is_usable(id));
                    prop_assert_eq!(campaign.uplink(), Some(id));
                    let too_early = open.is_some_and(|(over, until)| paths.is_usable(over) && now < until);
                    prop_assert!(!too_early || [1, 3].contains(&event), "{open:?} is still open at {now:?}");
                    fresh += 1;
                    sent.push(now);
                }
                Step::Repeat(id) => {
                    prop_assert!(paths.is_usable(id));
                    prop_assert_eq!(open.map(|(over, _)| over), Some(id), "repeated over another uplink");
                    sent.push(now);
                }
                Step::Wait(at) => prop_assert!(at > now),
            }
            // What it does next it does not do at once, and until then the attempt is open.
            let Step::Wait(until) = campaign.poll(now, &mut paths, jitter) else {
                return Err(TestCaseError::fail("two steps at one moment"));
            };
            open = campaign.uplink().map(|id| (id, until));
        }
        prop_assert_eq!(usize::from(campaign.attempts()), fresh);
        prop_assert!(keeps_the_limit(&sent), "{sent:?}");
    }
}

/// R3.3: a RETRY is followed within the limits of the burst and of the client, and the wait for its answer begins again.
#[test]
fn r3_3_retries_are_bounded() {
    let (mut paths, mut campaign) = (two(), Campaign::new(Repetition::Identical, None));
    let mut now = BootTime::from_millis(1_000_000);
    assert!(!campaign.retried(now, &mut paths), "nothing is open");
    assert_eq!(campaign.poll(now, &mut paths, 0), Step::Fresh(A));
    now = now.after(ms(200));
    assert!(campaign.retried(now, &mut paths));
    assert_eq!(campaign.poll(now, &mut paths, 0), Step::Wait(now.after(ms(250))));
    let followed = (0..100).filter(|_| campaign.retried(now, &mut paths)).count();
    assert!(followed <= 4, "the client's own limit");
    let mut followed = 0;
    for _ in 0..100 {
        now = now.after(ms(1_000));
        let _step = campaign.poll(now, &mut paths, 0);
        followed += u32::from(campaign.retried(now, &mut paths));
    }
    assert!((1..=16).contains(&followed), "{followed}");
    campaign.answered();
    assert!(!campaign.retried(now, &mut paths));
}
