//! Candidates on virtual time: a network of paths that answer after so many milliseconds, or not at all.

use super::super::{LinkState, UplinkSpec};
use super::*;
use proptest::prelude::*;
use std::net::IpAddr;

const A: UplinkId = UplinkId(0);
const B: UplinkId = UplinkId(1);
const C: UplinkId = UplinkId(2);
const START: u64 = 100_000;

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

/// Paths A (bound, best), B and C; C is metered if asked. Each answers after its RTT, `None` = never.
struct Net {
    paths: Paths,
    now: BootTime,
    rtt: [Option<u64>; 3],
    situation: Situation,
    flying: Vec<(BootTime, UplinkId, u32)>,
    log: Vec<(u64, UplinkId)>,
}

impl Net {
    fn new(metered: bool, active: UplinkId, hold: Option<Duration>) -> Self {
        let spec = |device: &str, priority, metered| UplinkSpec { device: device.into(), priority, metered };
        let settings = CandidateSettings { fail_back_hold: hold, ..CandidateSettings::default() };
        let specs = vec![spec("a", 1, false), spec("b", 2, false), spec("c", 3, metered)];
        let mut paths = Paths::new(specs, settings);
        for id in [A, B, C] {
            paths.set_link(id, LinkState::Usable { source: IpAddr::from([10, 0, id.0, 2]) });
        }
        let situation = Situation { active, urgency: Urgency::Calm, candidates_max: 4, tickets: 1_000 };
        let now = BootTime::from_millis(START);
        Self { paths, now, rtt: [Some(10); 3], situation, flying: Vec::new(), log: Vec::new() }
    }

    fn run(&mut self, span: u64) {
        self.run_until(span, |_| false);
    }

    /// Steps of 1 ms until `done`; whether it was, and after how many.
    fn run_until(&mut self, span: u64, done: impl Fn(&Self) -> bool) -> Option<u64> {
        for step in 0..span {
            if done(self) {
                return Some(step);
            }
            self.now = self.now.after(ms(1));
            let now = self.now;
            for (_, id, number) in self.flying.extract_if(.., |(at, ..)| *at <= now).collect::<Vec<_>>() {
                self.paths.candidate_answered(now, id, number);
            }
            while let Step::Probe { uplink, number } = self.paths.poll_candidates(now, &self.situation, 0) {
                self.situation.tickets -= 1;
                self.log.push((now.as_millis() - START, uplink));
                if let Some(rtt) = self.rtt[uplink.index()] {
                    self.flying.push((now.after(ms(rtt)), uplink, number));
                }
            }
        }
        None
    }

    fn suspect(&mut self) {
        self.situation.urgency = Urgency::Suspicion(ms(25));
    }

    fn probes(&self, id: UplinkId) -> Vec<u64> {
        self.log.iter().filter(|(_, probed)| *probed == id).map(|(at, _)| *at).collect()
    }

    fn evidence(&self, id: UplinkId) -> Evidence {
        self.paths.candidate(id, self.now).unwrap().evidence
    }
}

/// R7.1: calm times: unmetered candidates every 10 s, metered ones every 60 s, the bound one never.
#[test]
fn calm_candidates_are_probed_at_their_interval() {
    let mut net = Net::new(true, A, None);
    net.run(61_000);
    assert_eq!(net.probes(B), [1, 10_001, 20_001, 30_001, 40_001, 50_001, 60_001]);
    assert_eq!(net.probes(C), [1, 60_001]);
    assert!(net.probes(A).is_empty());
    assert_eq!((net.evidence(B), net.evidence(C)), (Evidence::Answering, Evidence::Answering));
    let view = net.paths.candidate(B, net.now).unwrap();
    assert_eq!((view.loss_percent, net.paths.uplink(B).unwrap().srtt), (Some(0.0), Some(ms(10))));
}

/// R7.1: at most `candidates_max`, the best ones.
#[test]
fn candidates_are_bounded() {
    let mut net = Net::new(false, A, None);
    net.situation.candidates_max = 1;
    net.run(15_000);
    assert_eq!((net.probes(B).len(), net.probes(C).len()), (2, 0));
}

/// R7.1: a silent candidate is noticed by a probe that follows the first miss soon, and is not chosen first; what
/// answers again is trusted again.
#[test]
fn a_silent_candidate_is_known_and_comes_last() {
    let mut net = Net::new(false, A, None);
    net.run(12_000);
    net.rtt[B.index()] = None;
    net.run(12_000);
    assert_eq!(net.evidence(B), Evidence::Silent);
    net.paths.mark_failed(A, net.now);
    assert_eq!(net.paths.pick(net.now), Some(C), "B has the better priority, but it does not answer");
    net.rtt[B.index()] = Some(10);
    net.run(12_000);
    assert_eq!((net.evidence(B), net.paths.pick(net.now)), (Evidence::Answering, Some(B)));
    let loss = net.paths.candidate(B, net.now).unwrap().loss_percent.unwrap();
    assert!(loss > 20.0 && loss < 80.0, "{loss}");
}

/// R7.1: suspicion probes all candidates at once and in parallel, at max(25 ms, RTT / 2); within 100 ms a dead one is
/// told from one that works, though both answered a moment ago.
#[test]
fn suspicion_probes_in_parallel_and_tells_the_dead_from_the_living() {
    let mut net = Net::new(false, A, None);
    net.rtt[C.index()] = Some(80);
    net.run(5_000);
    net.rtt[B.index()] = None;
    net.suspect();
    let before = net.log.len();
    net.run(100);
    let burst: Vec<_> = net.log[before..].iter().map(|(at, id)| (at - 5_001, *id)).collect();
    let of = |id| burst.iter().filter(|(_, probed)| *probed == id).map(|(at, _)| *at).collect::<Vec<_>>();
    assert_eq!(of(B), [0, 25, 50, 75]);
    assert_eq!(of(C), [0, 40, 80], "RTT / 2");
    net.paths.mark_failed(A, net.now);
    assert_eq!((net.evidence(B), net.evidence(C)), (Evidence::Silent, Evidence::Answering));
    assert_eq!(net.paths.pick(net.now), Some(C));
}

/// R3.3: suspicion that lasts does not go on at its first pace.
#[test]
fn lasting_suspicion_backs_off() {
    let mut net = Net::new(false, A, None);
    net.suspect();
    net.run(60_000);
    let first_second = net.probes(B).iter().filter(|at| **at <= 1_000).count();
    assert!((8..=14).contains(&first_second), "{first_second}");
    assert!(net.probes(B).len() < 30, "{:?}", net.probes(B));
    // Each suspicion has a burst of its own.
    net.situation.urgency = Urgency::Calm;
    net.run(1_000);
    net.suspect();
    let before = net.probes(B).len();
    net.run(200);
    assert!(net.probes(B).len() >= before + 7);
}

/// R3.3: without tickets nothing is sent; the last ones are kept for suspicion.
#[test]
fn tickets_run_out() {
    let mut net = Net::new(false, A, None);
    net.situation.tickets = TICKETS_RESERVED + 3;
    net.run(120_000);
    assert_eq!((net.log.len(), net.situation.tickets), (3, TICKETS_RESERVED));
    net.suspect();
    net.run(5_000);
    assert_eq!((net.log.len(), net.situation.tickets), (3 + TICKETS_RESERVED, 0));
    assert_eq!(net.paths.poll_candidates(net.now, &net.situation, 0), Step::Wait(BootTime::NEVER));
    // Old evidence is no evidence.
    net.run(60_000);
    assert_eq!(net.evidence(B), Evidence::Unknown);
}

/// Choice among what answers: unmetered before metered, then priority, then how recently it answered, then RTT.
#[test]
fn the_best_of_what_answers_is_chosen() {
    let mut net = Net::new(true, A, None);
    net.run(1_000);
    net.paths.mark_failed(A, net.now);
    assert_eq!(net.paths.pick(net.now), Some(B), "C is metered");
    net.paths.set_link(B, LinkState::NoCarrier);
    assert_eq!(net.paths.pick(net.now), Some(C), "but better than none");
    net.rtt[C.index()] = None;
    net.suspect();
    net.run(200);
    assert_eq!(net.paths.pick(net.now), Some(A), "C is silent too, and A failed longer ago");
    net.run(1_000);
    net.paths.mark_failed(A, net.now);
    assert_eq!(net.paths.pick(net.now), Some(C), "in turn");

    let spec = |device: &str| UplinkSpec { device: device.into(), priority: 1, metered: false };
    let mut equal = Paths::new(vec![spec("a"), spec("b")], CandidateSettings::default());
    let at = BootTime::from_millis(1_000_000);
    for (id, rtt) in [(A, 50), (B, 20)] {
        equal.set_link(id, LinkState::Usable { source: IpAddr::from([10, 0, id.0, 2]) });
        let uplink = &mut equal.uplinks[id.index()];
        let number = uplink.watch.probe(at, ms(1));
        equal.candidate_answered(at.after(ms(rtt)), id, number);
    }
    assert_eq!(equal.pick(at.after(ms(100))), Some(B), "the faster of two equals");
}

/// R7.1: back to a better uplink only after the hold time without any loss in its probes.
#[test]
fn fail_back_waits_for_the_hold_time_without_loss() {
    let mut net = Net::new(false, B, Some(ms(30_000)));
    net.rtt[A.index()] = None;
    net.run(20_000);
    assert_eq!(net.paths.fail_back(net.now, B), None, "A does not answer");
    net.rtt[A.index()] = Some(10);
    let back = |net: &Net| net.paths.fail_back(net.now, B).is_some();
    let first = net.run_until(100_000, back).unwrap();
    assert!((30_000..=48_000).contains(&first), "{first}");
    assert_eq!(net.paths.fail_back(net.now, B), Some(A));
    assert!(net.paths.fail_back_due(B).unwrap() <= net.now);
    // One lost probe, and the time starts anew.
    net.rtt[A.index()] = None;
    net.run(8_000);
    net.rtt[A.index()] = Some(10);
    assert_eq!(net.paths.fail_back(net.now, B), None);
    let again = net.run_until(100_000, back).unwrap();
    assert!((30_000..=48_000).contains(&again), "{again}");
}

/// Hysteresis: a link that flaps faster than the hold time never gets the session back.
#[test]
fn a_flapping_uplink_is_never_gone_back_to() {
    let mut net = Net::new(false, B, Some(ms(30_000)));
    for _ in 0..40 {
        net.run(10_000);
        net.paths.set_link(A, LinkState::NoCarrier);
        net.run(5_000);
        net.paths.set_link(A, LinkState::Usable { source: IpAddr::from([10, 0, 0, 2]) });
        assert_eq!(net.paths.fail_back(net.now, B), None);
    }
    net.run(31_000);
    assert_eq!(net.paths.fail_back(net.now, B), Some(A));
}

/// Nothing is gained by going to an equal or worse uplink, nor to a metered one; `never` means never.
#[test]
fn fail_back_only_upwards() {
    let mut best = Net::new(true, A, Some(ms(1_000)));
    best.run(20_000);
    assert_eq!(best.paths.fail_back(best.now, A), None);
    let mut metered = Net::new(true, C, Some(ms(1_000)));
    metered.paths.set_link(A, LinkState::Missing);
    metered.run(20_000);
    assert_eq!(metered.paths.fail_back(metered.now, C), Some(B), "from a metered one to an unmetered one");
    assert_eq!(metered.paths.fail_back(metered.now, B), None);
    let mut never = Net::new(false, B, None);
    never.run(120_000);
    assert_eq!((never.paths.fail_back(never.now, B), never.paths.fail_back_due(B)), (None, None));
}

/// An answer that comes after its probe was given up is loss, but no silence.
#[test]
fn a_late_answer_says_that_the_path_works() {
    let mut net = Net::new(false, A, None);
    net.run(5_000);
    net.rtt[B.index()] = Some(1_500);
    net.suspect();
    net.run(300);
    assert_eq!(net.evidence(B), Evidence::Silent);
    net.run(1_400);
    assert_eq!(net.evidence(B), Evidence::Answering);
    assert!(net.paths.candidate(B, net.now).unwrap().loss_percent.unwrap() > 50.0);
}

/// R7.1: after a sleep nothing that was known counts, and everything is looked at anew.
#[test]
fn forgotten_evidence_is_gathered_anew() {
    let mut net = Net::new(false, A, None);
    net.run(5_000);
    net.paths.mark_failed(C, net.now);
    net.paths.forget_evidence();
    assert_eq!((net.evidence(B), net.evidence(C)), (Evidence::Unknown, Evidence::Unknown));
    let before = net.log.len();
    net.run(20);
    assert_eq!((net.log.len() - before, net.evidence(B)), (2, Evidence::Answering));
}

/// One thing that happens to a path.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Pass(u64),
    Answers(usize, Option<u64>),
    Suspect,
    Calm,
    Fail(usize),
    Lose(usize),
    Gain(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (1u64..4_000).prop_map(Happening::Pass),
        (0usize..3, prop::option::of(1u64..200)).prop_map(|(id, rtt)| Happening::Answers(id, rtt)),
        Just(Happening::Suspect),
        Just(Happening::Calm),
        (0usize..3).prop_map(Happening::Fail),
        (0usize..3).prop_map(Happening::Lose),
        (0usize..3).prop_map(Happening::Gain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// R7.1: whatever happens, what is chosen is usable; no metered uplink is chosen while an unmetered one answers, none
    /// that is silent while one answers; and the way back leads upwards to what has answered for the hold time.
    #[test]
    fn choices_follow_the_rules(happenings in prop::collection::vec(happening(), 1..25)) {
        let mut net = Net::new(true, C, Some(ms(3_000)));
        for happening in happenings {
            let id = |index: usize| UplinkId(index as u8);
            match happening {
                Happening::Pass(span) => net.run(span),
                Happening::Answers(index, rtt) => net.rtt[index] = rtt,
                Happening::Suspect => net.suspect(),
                Happening::Calm => net.situation.urgency = Urgency::Calm,
                Happening::Fail(index) => net.paths.mark_failed(id(index), net.now),
                Happening::Lose(index) => { net.paths.set_link(id(index), LinkState::NoCarrier); }
                Happening::Gain(index) => {
                    let source = IpAddr::from([10, 0, index as u8, 2]);
                    net.paths.set_link(id(index), LinkState::Usable { source });
                }
            }
            let answering: Vec<_> = [A, B, C]
                .into_iter()
                .filter(|id| net.paths.is_usable(*id) && net.evidence(*id) == Evidence::Answering)
                .collect();
            let picked = net.paths.pick(net.now);
            prop_assert_eq!(picked.is_some(), net.paths.usable() > 0);
            if let Some(picked) = picked {
                prop_assert!(net.paths.is_usable(picked));
                prop_assert!(answering.is_empty() || answering.contains(&picked));
                prop_assert!(picked != C || answering.is_empty() || answering == [C], "C is metered");
            }
            if let Some(back) = net.paths.fail_back(net.now, C) {
                let view = net.paths.candidate(back, net.now).unwrap();
                prop_assert!(back != C && answering.contains(&back) && view.stable_for.unwrap() >= ms(3_000));
            }
        }
    }
}
