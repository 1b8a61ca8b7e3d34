//! The estimators of a path's quality, against paths whose loss, delay and order are known.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use jvpn_abi::BootTime;
use jvpn_session::Policy;
use jvpn_session::quality::{Breach, Counts, Estimator, Level, Measure, Thresholds, Verdict};
use proptest::prelude::*;
use std::time::Duration;

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

fn secs(value: u64) -> Duration {
    Duration::from_secs(value)
}

fn at(millis: u64) -> BootTime {
    BootTime::from_millis(1_000_000 + millis)
}

fn thresholds() -> Thresholds {
    Thresholds::from(&Policy::default())
}

/// One direction of a path: packet n leaves at n · `gap_us`, arrives after `delay_us(n)`, or never. What its receiver has
/// counted, every `look_ms` for `span_ms`.
fn counted(
    gap_us: u64,
    (look_ms, span_ms): (u64, u64),
    delay_us: impl Fn(u64) -> Option<u64>,
) -> Vec<(BootTime, Counts)> {
    let packets = 0..span_ms * 1_000 / gap_us;
    let mut arrivals: Vec<(u64, u64)> =
        packets.filter_map(|n| Some((n * gap_us + delay_us(n)?, n))).collect();
    arrivals.sort_unstable();
    let mut counts = Counts::default();
    let mut looks = Vec::new();
    let mut arrivals = arrivals.into_iter().peekable();
    for look in (0..=span_ms).step_by(look_ms as usize) {
        while let Some((_, n)) = arrivals.next_if(|(when, _)| *when <= look * 1_000) {
            counts.received += 1;
            counts.end = counts.end.max(n + 1);
        }
        looks.push((at(look), counts));
    }
    looks
}

/// Feeds what was counted of the direction towards the gateway; the other direction is without fault.
fn fed(looks: &[(BootTime, Counts)]) -> (Estimator, BootTime) {
    let mut estimator = Estimator::default();
    for (now, up) in looks {
        let down = Counts { key: up.key, end: up.end, received: up.end };
        estimator.note(*now, [Some(*up), None], [Some(down), None], &thresholds());
    }
    (estimator, looks.last().unwrap().0)
}

/// R9.2: a known loss is measured, in the direction that has it and in no other.
#[test]
fn r9_2_a_known_loss_is_measured() {
    for every in [2, 5, 10, 20, 50] {
        let looks = counted(5_000, (200, 6_000), |n| (n % every != 0).then_some(10_000));
        let (estimator, now) = fed(&looks);
        let measured = estimator.measured(now, &thresholds());
        let (up, down) = (measured.loss_up.unwrap(), measured.loss_down.unwrap());
        let truth = 100.0 / every as f64;
        assert!((up.percent_exact() - truth).abs() < 1.0, "{up:?}, 1 of {every}");
        assert!(up.of > 300 && down.lost == 0, "{up:?} {down:?}");
        let bad = matches!(measured.judge(&thresholds()), Verdict::Bad(b) if b.measure == Measure::Loss);
        assert_eq!(bad, truth > 5.0, "1 of {every}");
    }
}

/// R1.7: one packet that is lost among few is no level.
#[test]
fn r1_7_one_lost_probe_is_an_accident() {
    let looks = counted(200_000, (200, 6_000), |n| (n != 26).then_some(10_000));
    for end in 1..=looks.len() {
        let (estimator, now) = fed(&looks[..end]);
        let verdict = estimator.measured(now, &thresholds()).judge(&thresholds());
        assert!(!matches!(verdict, Verdict::Bad(_)), "{verdict:?}");
    }
    let looks = counted(200_000, (200, 6_000), |n| (n % 4 != 0).then_some(10_000));
    let (estimator, now) = fed(&looks);
    let verdict = estimator.measured(now, &thresholds()).judge(&thresholds());
    assert!(matches!(verdict, Verdict::Bad(_)), "probes alone show a loss that lasts: {verdict:?}");
}

/// R5.2: a rekey starts its counters anew: neither that nor the first sight of an old binding is a loss.
#[test]
fn a_new_key_is_no_loss() {
    let mut estimator = Estimator::default();
    let t = thresholds();
    // A binding that has lost half of its packets before anybody looked.
    let old = |n: u64| Counts { key: 6, end: 10_000 + n * 20, received: 5_000 + n * 20 };
    let new = |n: u64| Counts { key: 7, end: n * 20, received: n * 20 };
    for n in 0..40 {
        let both = if n < 20 { [Some(old(n)), None] } else { [Some(old(20)), Some(new(n - 20))] };
        estimator.note(at(n * 200), both, both, &t);
        let measured = estimator.measured(at(n * 200), &t);
        assert!(measured.loss_up.is_none_or(|loss| loss.lost == 0), "{n}: {measured:?}");
    }
    let loss = estimator.measured(at(39 * 200), &t).loss_up.unwrap();
    assert!(loss.of >= 180, "{loss:?}");
    // And the number after that takes the place of the first.
    let third = Counts { key: 8, end: 30, received: 15 };
    estimator.note(at(8_000), [Some(third), Some(new(20))], [None, None], &t);
    estimator.note(at(8_200), [Some(third), Some(new(20))], [None, None], &t);
    assert_eq!(estimator.measured(at(8_200), &t).loss_up.unwrap().lost, 15);
}

/// R1.7: round-trip time is the median, so one late answer is none; jitter is the mean change, and both forget.
#[test]
fn r1_7_times_are_those_of_the_span() {
    let t = thresholds();
    let mut estimator = Estimator::default();
    for n in 0..11 {
        estimator.note_rtt(at(n * 200), if n == 5 { ms(3_000) } else { ms(40) });
        estimator.note_change(at(n * 200), ms(if n % 2 == 0 { 10 } else { 30 }));
    }
    let measured = estimator.measured(at(2_000), &t);
    assert_eq!(measured.rtt, Some(ms(40)));
    assert!((ms(15)..=ms(25)).contains(&measured.jitter.unwrap()), "{measured:?}");
    for n in 20..31 {
        estimator.note_rtt(at(n * 200), ms(500));
        estimator.note_change(at(n * 200), ms(1));
    }
    let measured = estimator.measured(at(6_000), &t);
    assert_eq!((measured.rtt, measured.jitter), (Some(ms(500)), Some(ms(1))));
    let Verdict::Bad(breach) = measured.judge(&t) else { panic!("{measured:?}") };
    assert_eq!((breach.measure.policy_name(), breach.threshold, breach.observed), ("volatile_rtt", 400, 500));
    assert_eq!(estimator.measured(at(6_000 + 4_001), &t).rtt, None, "old samples are no evidence");
}

/// R1.7: a path with long round trips is probed slowly, and judged all the same.
#[test]
fn r1_7_slow_probes_are_evidence_and_idle_ones_are_none() {
    let verdict = |interval: u64| {
        let looks = counted(interval * 1_000, (interval, interval * 12), |n| (n % 3 != 0).then_some(1_000));
        let (estimator, now) = fed(&looks);
        estimator.measured(now, &thresholds()).judge(&thresholds())
    };
    assert!(matches!(verdict(1_000), Verdict::Bad(_)));
    assert_eq!(verdict(25_000), Verdict::NoEvidence);
}

/// R1.7: bad at once, good only after the stability window without a break; time without evidence does not count.
#[test]
fn r1_7_a_level_has_hysteresis() {
    let t = thresholds();
    let looks = counted(5_000, (200, 4_000), |n| (n % 3 != 0).then_some(1));
    let (estimator, now) = fed(&looks);
    let bad = estimator.measured(now, &t).judge(&t);
    let mut level = Level::default();
    assert_eq!(level.name(), "unknown");
    level.note(at(0), bad, &t);
    assert_eq!((level.bad_since(), level.name()), (Some(at(0)), "bad"));
    for n in 1..6 {
        level.note(at(n * 500), Verdict::Good, &t);
    }
    assert_eq!((level.bad_since(), level.good_since()), (Some(at(0)), Some(at(500))));
    level.note(at(3_000), bad, &t);
    assert_eq!(level.good_since(), None, "a break");
    level.note(at(4_000), Verdict::NoEvidence, &t);
    level.note(at(63_000), bad, &t);
    assert_eq!(level.bad_since(), Some(at(60_000)), "a minute without evidence is no minute of bad quality");
    for n in 0..=6 {
        level.note(at(64_000 + n * 500), Verdict::Good, &t);
    }
    assert_eq!((level.bad_since(), level.good_since()), (None, Some(at(64_000))));
    assert_eq!(level.name(), "good");
}

/// R1.7, R7.3: while no process was there to judge, nothing was bad: the level is as bad as it was, for as long as it was
/// then. Nor does it get worse while the new process finds no evidence.
#[test]
fn r7_3_absence_of_the_judge_is_no_bad_time() {
    let t = thresholds();
    let bad = Verdict::Bad(Breach { measure: Measure::Loss, threshold: 5, observed: 30 });
    let mut level = Level::default();
    level.note(at(10_000), bad, &t);
    level.note(at(13_000), bad, &t);
    assert_eq!((level.bad_for(at(0)), level.bad_for(at(12_000))), (Some(secs(3)), Some(secs(1))));
    let back = Level::restored(level.bad_for(at(0)), at(103_000));
    assert_eq!(
        (back.name(), back.bad_for(at(0))),
        ("bad", Some(secs(3))),
        "and so it is for the next process"
    );
    assert!(!back.is_judged(at(103_000)), "a look is no verdict");
    let (mut soon, mut late) = (back, back);
    soon.note(at(104_000), bad, &t);
    assert_eq!(soon.bad_since(), back.bad_since());
    late.note(at(163_000), bad, &t);
    assert_eq!(late.bad_for(at(0)), Some(secs(3)));
    let never = Level::restored(None, at(103_000));
    assert_eq!((never.name(), never.bad_for(at(0))), ("unknown", None));
}

proptest! {
    /// R1.7, R7.1: packets that overtake each other by up to 30 ms are no loss, at any rate.
    #[test]
    fn reordering_is_no_loss(gap_us in 500u64..50_000, spread_us in 0u64..30_000, salt: u64, look in 100u64..500) {
        let delay = |n: u64| Some(10_000 + (n ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) % (spread_us + 1));
        let looks = counted(gap_us, (look, 8_000), delay);
        for end in 1..=looks.len() {
            let (estimator, now) = fed(&looks[..end]);
            let verdict = estimator.measured(now, &thresholds()).judge(&thresholds());
            prop_assert!(!matches!(verdict, Verdict::Bad(_)), "{verdict:?} at {now:?}");
        }
    }

    /// R9.2: a random loss is measured within what chance allows, whatever the order.
    #[test]
    fn random_loss_is_measured(percent in 0u64..60, salt: u64, spread_us in 0u64..30_000) {
        let dice = |n: u64, k: u64| (n ^ salt).wrapping_add(k).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
            .wrapping_mul(0xd6e8_feb8_6659_fd93) >> 33;
        let delay = |n: u64| (dice(n, 1) % 100 >= percent).then(|| 5_000 + dice(n, 2) % (spread_us + 1));
        let (estimator, now) = fed(&counted(1_000, (200, 8_000), delay));
        let loss = estimator.measured(now, &thresholds()).loss_up.unwrap();
        let error = (loss.percent_exact() - percent as f64).abs();
        prop_assert!(error < 6.0, "{loss:?}, {percent} % were lost");
    }

    /// R1.4: whatever stands in CONTEXT or in a probe, in whichever order and at whatever moment: no panic, no more
    /// memory, and a loss between nothing and everything.
    #[test]
    fn hostile_values_are_bounded(
        words in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>()), 1..80),
        near: bool,
    ) {
        let t = thresholds();
        let (mut estimator, mut level) = (Estimator::default(), Level::default());
        for (n, (a, b, c, key)) in words.into_iter().enumerate() {
            let now = if near { at(n as u64 * 200) } else { BootTime(c) };
            let key = if near { key % 3 } else { key };
            let one = Counts { key, end: a, received: b };
            let other = Counts { key: key.wrapping_add(1), end: b, received: a };
            estimator.note(now, [Some(one), Some(other)], [Some(other), None], &t);
            estimator.note_rtt(now, Duration::from_nanos(a));
            estimator.note_change(now, Duration::from_nanos(b));
            let measured = estimator.measured(now, &t);
            for loss in measured.loss_up.iter().chain(&measured.loss_down) {
                prop_assert!(loss.of > 0 && loss.lost <= loss.of && loss.percent() <= 100);
            }
            level.note(now, measured.judge(&t), &t);
        }
        prop_assert!(format!("{estimator:?}").len() < 32_768, "memory is bounded");
    }
}
