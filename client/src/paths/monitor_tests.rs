//! The watch over a path, on virtual time.

use super::*;
use proptest::prelude::*;

const MS: u64 = 1_000_000;

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

fn timing() -> Timing {
    Timing { traffic: ms(200), idle: ms(25_000), suspicion: ms(25), dead_after: 3 }
}

/// A path with a fixed round-trip time that can be cut, and a user who sends every `traffic` ns (0 = never).
struct World {
    now: BootTime,
    monitor: Monitor,
    rtt: Duration,
    /// Probes before this moment are answered.
    cut_at: BootTime,
    /// Inner packets come until this moment.
    heard_until: BootTime,
    traffic: u64,
    /// Of each packet.
    octets: usize,
    /// Until then another uplink answers all the time.
    elsewhere_until: BootTime,
    acks: Vec<(BootTime, u32)>,
    probes: Vec<BootTime>,
}

impl World {
    fn new(rtt: Duration, traffic: u64) -> Self {
        let now = BootTime(1_000_000 * MS);
        Self {
            now,
            monitor: Monitor::new(timing(), Some(rtt), Duration::ZERO, now),
            rtt,
            cut_at: BootTime::NEVER,
            heard_until: BootTime(0),
            traffic,
            octets: 100,
            elsewhere_until: BootTime(0),
            acks: Vec::new(),
            probes: Vec::new(),
        }
    }

    /// Runs in steps of 1 ms until `until` or a verdict.
    fn run(&mut self, until: BootTime) -> Option<Step> {
        while self.now < until {
            self.now = self.now.after(ms(1));
            let now = self.now;
            for (_, id) in self.acks.extract_if(.., |(at, _)| *at <= now) {
                self.monitor.on_ack(now, id);
            }
            if self.traffic > 0 && now.0.is_multiple_of(self.traffic) {
                self.monitor.on_sent(now, self.octets);
            }
            if now < self.heard_until {
                self.monitor.on_received(now);
            }
            if now < self.elsewhere_until {
                self.monitor.set_elsewhere(Elsewhere::Answered(now));
            }
            loop {
                match self.monitor.poll(now) {
                    Step::Probe { id, next_within } => {
                        assert!(next_within > Duration::ZERO);
                        self.probes.push(now);
                        if now < self.cut_at {
                            self.acks.push((now.after(self.rtt), id));
                        }
                    }
                    Step::Wait(at) => {
                        assert!(at > now, "a wait lies in the future");
                        break;
                    }
                    verdict @ (Step::Dead | Step::Unproven) => return Some(verdict),
                }
            }
        }
        None
    }
}

/// R7.1: under traffic a silent path is found within the probe interval plus three misses, at any round-trip time and
/// whenever it is cut.
#[test]
fn a_silent_path_is_found_within_bounds() {
    for rtt in [1, 20, 100, 400] {
        for phase in 0..25 {
            let mut world = World::new(ms(rtt), 10 * MS);
            assert_eq!(world.run(world.now.after(ms(5_000 + 17 * phase))), None, "a good path never dies");
            world.cut_at = world.now;
            let cut = world.now;
            assert_eq!(world.run(cut.after(ms(20_000))), Some(Step::Dead));
            let found = world.now.since(cut);
            let interval = ms(200).max(ms(2 * rtt));
            let miss = world.monitor.rtt().miss_after();
            let bound = interval + miss + 3 * (ms(25).max(ms(rtt) / 2)) + miss + ms(5);
            assert!(found <= bound, "rtt {rtt}: found after {found:?}, bound {bound:?}");
            assert!(found >= ms(50), "three misses take their time: {found:?}");
        }
    }
}

/// An idle path costs one probe in 25 s, as announced.
#[test]
fn an_idle_path_is_probed_rarely() {
    let mut world = World::new(ms(10), 0);
    assert_eq!(world.run(world.now.after(ms(100_000))), None);
    assert!((4..=6).contains(&world.probes.len()), "{:?}", world.probes.len());
}

/// The first packet after a long pause is followed by a probe at once.
#[test]
fn traffic_wakes_an_idle_watch() {
    let mut world = World::new(ms(10), 0);
    world.run(world.now.after(ms(10_000)));
    let before = world.probes.len();
    world.monitor.on_sent(world.now, 100);
    assert_eq!(world.monitor.next_event(), world.now, "due now, not in the past: the host has not slept");
    world.run(world.now.after(ms(2)));
    assert_eq!(world.probes.len(), before + 1);
}

/// R7.1: a loaded path whose answers come late (long queue) but whose frames arrive is not dead.
#[test]
fn late_answers_are_no_death_while_frames_arrive() {
    let mut world = World::new(ms(2), 10 * MS);
    world.run(world.now.after(ms(3_000)));
    world.rtt = ms(500);
    world.heard_until = BootTime::NEVER;
    assert_eq!(world.run(world.now.after(ms(10_000))), None);
}

/// R7.1 (path asymmetry): only the way back works: frames arrive, answers never do.
#[test]
fn one_way_paths_die_too() {
    let mut world = World::new(ms(2), 10 * MS);
    world.run(world.now.after(ms(3_000)));
    world.cut_at = world.now;
    world.heard_until = BootTime::NEVER;
    let cut = world.now;
    assert_eq!(world.run(cut.after(ms(10_000))), Some(Step::Dead));
    assert!(world.now.since(cut) <= ms(1_300), "{:?}", world.now.since(cut));
}

/// R7.1: the same while another uplink answers is found in less than 600 ms at a round trip of 50 ms, whenever it is cut.
#[test]
fn r7_1_a_one_way_path_is_left_sooner_for_one_that_answers() {
    for phase in 0..25 {
        let mut world = World::new(ms(50), 10 * MS);
        world.elsewhere_until = BootTime::NEVER;
        world.run(world.now.after(ms(3_000 + 17 * phase)));
        (world.cut_at, world.heard_until) = (world.now, BootTime::NEVER);
        let cut = world.now;
        assert_eq!(world.run(cut.after(ms(10_000))), Some(Step::Dead));
        let found = world.now.since(cut);
        assert!(found >= ms(100) && found <= ms(510), "{found:?}");
    }
}

/// R7.1: an answer from before the silence says nothing about now: what ails both paths gets the longer time.
#[test]
fn r7_1_an_old_answer_of_another_path_is_no_reason_to_leave_sooner() {
    let mut world = World::new(ms(50), 10 * MS);
    world.elsewhere_until = BootTime::NEVER;
    world.run(world.now.after(ms(3_000)));
    (world.cut_at, world.heard_until, world.elsewhere_until) = (world.now, BootTime::NEVER, world.now);
    let cut = world.now;
    assert_eq!(world.run(cut.after(ms(10_000))), Some(Step::Dead));
    let found = world.now.since(cut);
    assert!(found >= ms(950) && found <= ms(1_300), "{found:?}");
}

/// R7.1: no false alarm, though another uplink answers: a queue on the way up that grows as fast as time passes, and a jump
/// behind what the client itself has sent.
#[test]
fn r7_1_a_queue_on_the_way_up_is_no_one_way_path() {
    let mut world = World::new(ms(50), 10 * MS);
    world.elsewhere_until = BootTime::NEVER;
    world.run(world.now.after(ms(3_000)));
    world.heard_until = BootTime::NEVER;
    for _ in 0..150 {
        world.rtt += ms(5);
        assert_eq!(world.run(world.now.after(ms(5))), None, "at {:?}", world.rtt);
    }
    assert_eq!(world.run(world.now.after(ms(5_000))), None);
    let mut world = World::new(ms(20), MS);
    world.octets = 1_200;
    world.elsewhere_until = BootTime::NEVER;
    world.run(world.now.after(ms(3_000)));
    (world.rtt, world.heard_until) = (ms(600), BootTime::NEVER);
    assert_eq!(world.run(world.now.after(ms(5_000))), None);
}

#[test]
fn a_binding_that_nobody_answers_is_unproven() {
    let mut world = World::new(ms(2), 10 * MS);
    world.cut_at = BootTime(0);
    let start = world.now;
    assert_eq!(world.run(start.after(ms(10_000))), Some(Step::Unproven));
    assert_eq!(world.now.since(start), ms(1_000));
    assert!(world.probes.len() > 10, "an unproven binding is probed at the suspicion interval");
}

proptest! {
    /// Random losses below the row of three never kill a path, and nothing overflows.
    #[test]
    fn isolated_losses_are_survived(lost in proptest::collection::vec(any::<bool>(), 50..200)) {
        let start = BootTime(5_000 * MS);
        let mut monitor = Monitor::new(timing(), Some(ms(4)), Duration::ZERO, start);
        let mut now = start;
        let (mut row, mut count) = (0, 0);
        while count < lost.len() {
            monitor.on_sent(now, 100);
            match monitor.poll(now) {
                Step::Probe { id, .. } => {
                    let drop = lost[count] && row < 2;
                    count += 1;
                    row = if drop { row + 1 } else { 0 };
                    if !drop {
                        now = now.after(ms(4));
                        monitor.on_ack(now, id);
                    }
                }
                Step::Wait(at) => now = at,
                verdict @ (Step::Dead | Step::Unproven) => prop_assert!(false, "{verdict:?}"),
            }
        }
    }

    /// Policies from the wire are clamped to numbers that can be lived with.
    #[test]
    fn any_policy_gives_sane_timing(a: u32, b: u32, c: u32, d: u8) {
        let policy = ClientPolicy {
            probe_traffic_ms: a, probe_idle_ms: b, suspicion_ms: c, dead_after_missed: d,
            cooldown_ms: 0, recovery_window_ms: 0, transport_loss_ttl_ms: 0, candidates_max: 0,
            rekey_soft_ms: 0, rekey_hard_ms: 0, rekey_soft_packets: 0, rekey_hard_packets: 0,
            volatile_loss_percent: 0, volatile_rtt_ms: 0, volatile_jitter_ms: 0,
            quality_span_ms: 0, stability_window_ms: 0,
        };
        let timing = Timing::from(&policy);
        prop_assert!(timing.traffic >= ms(20) && timing.idle >= ms(1_000) && timing.suspicion >= ms(5));
        prop_assert!((1..=16).contains(&timing.dead_after));
    }
}
