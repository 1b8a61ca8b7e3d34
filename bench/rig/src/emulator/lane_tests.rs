use super::super::profile::Burst;
use super::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn percent(percent: f64) -> Share {
    Share::from_percent(percent).unwrap()
}

/// Offers a frame each `gap`, as numbers, and gives what arrived: number and moment.
fn run(settings: LaneSettings, seed: u64, count: u32, gap: Duration) -> (Vec<(u32, Duration)>, LaneCounters) {
    let mut lane = Lane::new(settings, seed);
    let mut arrived = Vec::new();
    for number in 0..count {
        let now = gap * number;
        while let Some(due) = lane.next_due().filter(|due| *due <= now) {
            let (_, frame) = lane.poll(due).unwrap();
            arrived.push((u32::from_be_bytes(frame[..4].try_into().unwrap()), due));
        }
        let mut frame = number.to_be_bytes().to_vec();
        frame.resize(1_000, 0);
        lane.offer(now, frame);
    }
    while let Some(due) = lane.next_due() {
        let (_, frame) = lane.poll(due).unwrap();
        arrived.push((u32::from_be_bytes(frame[..4].try_into().unwrap()), due));
    }
    (arrived, lane.counters())
}

#[test]
fn a_plain_lane_delays_and_nothing_else() {
    let (arrived, counters) = run(LaneSettings { delay: ms(7), ..LaneSettings::default() }, 1, 100, ms(1));
    let wanted: Vec<_> = (0..100).map(|number| (number, ms(u64::from(number) + 7))).collect();
    assert_eq!(arrived, wanted);
    assert_eq!((counters.offered, counters.delivered), (100, 100));
}

/// I9, R8.4: the same seed loses, delays and shuffles the same frames; another one others.
#[test]
fn i9_all_chance_follows_from_the_seed() {
    let settings = LaneSettings {
        delay: ms(20),
        jitter: ms(10),
        loss: percent(5.0),
        burst: Some(Burst { enter: percent(1.0), leave: percent(20.0), loss: percent(80.0) }),
        reorder: percent(2.0),
        reorder_by: ms(5),
        duplicate: percent(1.0),
        ..LaneSettings::default()
    };
    let first = run(settings.clone(), 7, 5_000, ms(1));
    assert_eq!(first, run(settings.clone(), 7, 5_000, ms(1)));
    assert_ne!(first.0, run(settings, 8, 5_000, ms(1)).0);
    let LaneCounters { offered, delivered, lost, lost_in_burst, duplicated, reordered, .. } = first.1;
    assert_eq!(offered + duplicated, delivered + lost + lost_in_burst);
    assert!(reordered > 0 && lost_in_burst > 0 && duplicated > 0);
}

#[test]
fn r7_1_loss_is_what_was_asked_and_bursts_are_bursts() {
    let count = 200_000_u32;
    let (_, even) = run(LaneSettings { loss: percent(10.0), ..LaneSettings::default() }, 3, count, ms(1));
    let share = even.lost as f64 / f64::from(count);
    // Four standard deviations of a binomial share.
    assert!((share - 0.1).abs() < 4.0 * (0.1 * 0.9 / f64::from(count)).sqrt(), "{share}");

    let burst = Burst { enter: percent(0.5), leave: percent(10.0), loss: percent(100.0) };
    let (arrived, counters) =
        run(LaneSettings { burst: Some(burst), ..LaneSettings::default() }, 3, count, ms(1));
    let share = counters.lost_in_burst as f64 / f64::from(count);
    assert!(
        (share - burst.mean_loss()).abs() < 0.1 * burst.mean_loss(),
        "{share}, not {}",
        burst.mean_loss()
    );
    let gaps: Vec<_> =
        arrived.windows(2).map(|pair| pair[1].0 - pair[0].0 - 1).filter(|gap| *gap > 0).collect();
    let mean = f64::from(gaps.iter().sum::<u32>()) / gaps.len() as f64;
    assert!((8.0..12.0).contains(&mean), "a burst lasts ten frames on average, not {mean}");
}

#[test]
fn jitter_keeps_order_and_reordering_does_not() {
    let jitter = LaneSettings { delay: ms(20), jitter: ms(10), ..LaneSettings::default() };
    let (arrived, _) = run(jitter.clone(), 5, 20_000, ms(1));
    assert!(arrived.is_sorted_by_key(|(number, _)| *number), "frames on a line keep their order");
    let delays: Vec<_> = arrived.iter().map(|(number, at)| *at - ms(1) * *number).collect();
    assert!(delays.iter().all(|delay| (ms(20)..ms(31)).contains(delay)));
    let spread = *delays.iter().max().unwrap() - *delays.iter().min().unwrap();
    assert!(spread > ms(9), "{spread:?}");
    // Frames far apart are not held up by each other: then jitter is spread evenly, mean 5 ms.
    let (apart, _) = run(jitter, 5, 20_000, ms(50));
    let sum: Duration = apart.iter().map(|(number, at)| *at - ms(50) * *number).sum();
    let mean = sum / 20_000;
    assert!((ms(20) + Duration::from_micros(4_900)..ms(20) + Duration::from_micros(5_100)).contains(&mean));

    let shuffled =
        LaneSettings { delay: ms(20), reorder: percent(5.0), reorder_by: ms(3), ..LaneSettings::default() };
    let (arrived, counters) = run(shuffled, 5, 20_000, ms(1));
    let overtaken = arrived.windows(2).filter(|pair| pair[1].0 < pair[0].0).count() as u64;
    assert!(!arrived.is_sorted_by_key(|(number, _)| *number));
    assert!(overtaken > counters.reordered / 2, "{overtaken} of {}", counters.reordered);
}

#[test]
fn a_rate_spreads_frames_and_its_queue_ends() {
    // 1,000 octets at 8 Mbit/s are one millisecond.
    let settings =
        LaneSettings { rate_bit_s: Some(8_000_000), queue: ms(10), delay: ms(5), ..LaneSettings::default() };
    let (arrived, counters) = run(settings, 1, 100, Duration::ZERO);
    assert_eq!(arrived.len(), 11, "ten wait, one is on the line");
    assert_eq!(counters.queue_full, 89);
    let moments: Vec<_> = arrived.iter().map(|(_, at)| *at).collect();
    assert_eq!(moments, (1..=11).map(|n| ms(5 + n)).collect::<Vec<_>>());
}

#[test]
fn what_a_blackhole_takes_can_be_kept_and_a_dead_link_forgets() {
    let mut lane = Lane::new(LaneSettings { blackhole: true, ..LaneSettings::default() }, 1);
    lane.hold(2);
    (0..3_u8).for_each(|number| lane.offer(ms(1), vec![number]));
    assert_eq!(lane.take_held(), Held(vec![vec![0], vec![1]]));
    assert_eq!((lane.counters().blackholed, lane.next_due()), (3, None));
    lane.set(LaneSettings { delay: ms(9), ..LaneSettings::default() });
    lane.offer(ms(2), vec![9]);
    assert_eq!(lane.next_due(), Some(ms(11)));
    lane.flush();
    assert_eq!(lane.next_due(), None);
}
