use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// The wheel beside what it must agree with.
struct Pair {
    wheel: Wheel<u16>,
    model: BTreeSet<(BootTime, u16)>,
    timers: BTreeMap<u16, Timer>,
    inserted: u64,
}

impl Pair {
    fn new() -> Self {
        Self { wheel: Wheel::new(), model: BTreeSet::new(), timers: BTreeMap::new(), inserted: 0 }
    }

    fn insert(&mut self, at: u64, item: u16) {
        self.remove(item);
        self.timers.insert(item, self.wheel.insert(BootTime(at), item));
        self.model.insert((BootTime(at), item));
        self.inserted += 1;
        self.check();
    }

    fn remove(&mut self, item: u16) {
        if let Some(timer) = self.timers.remove(&item) {
            self.wheel.remove(timer, item);
            assert!(self.model.remove(&(timer.at(), item)));
            let (kept, after) = (self.wheel.first(), self.wheel.entries.free.len());
            self.wheel.remove(timer, item);
            assert_eq!((self.wheel.first(), self.wheel.entries.free.len()), (kept, after), "only once");
        }
        self.check();
    }

    /// Everything up to `now` comes out, in order.
    fn fire(&mut self, now: u64) {
        while let Some((timer, item)) = self.wheel.first().filter(|(timer, _)| timer.at().0 <= now) {
            assert_eq!(self.model.first(), Some(&(timer.at(), item)));
            self.remove(item);
        }
        assert!(self.model.first().is_none_or(|(at, _)| at.0 > now), "nothing due is left");
    }

    fn check(&self) {
        let first = self.wheel.first().map(|(timer, item)| (timer.at(), item));
        assert_eq!(first, self.model.first().copied());
    }

    /// R8.3: the cost of an entry's whole life is bounded by the number of levels, and what is empty is given back.
    fn check_cost(&self) {
        assert!(self.wheel.moves <= self.inserted * (u64::from(TOP) + 2), "{} moves", self.wheel.moves);
        let used = |len: usize, free: usize| len - free;
        let entries = used(self.wheel.entries.values.len(), self.wheel.entries.free.len());
        assert_eq!(entries, self.model.len());
        let ticks = used(self.wheel.ticks.values.len(), self.wheel.ticks.free.len());
        let turns = used(self.wheel.turns.values.len(), self.wheel.turns.free.len());
        assert!(ticks <= entries, "a tick without entries");
        assert!(turns <= 1 + entries * usize::from(TOP), "a turn without entries");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u64, u16),
    Remove(u16),
    Fire(u64),
}

/// Deadlines as sessions have them: some equal, some within a tick, some hours apart, some never.
fn moment() -> impl Strategy<Value = u64> {
    const NOW: u64 = 5_000_000_000_000_000;
    prop_oneof![
        4 => (0..4_u64).prop_map(|n| NOW + n),
        4 => (0..200_000_u64).prop_map(|n| NOW + n),
        4 => (0..5_000_u64).prop_map(|ms| NOW + ms * 1_000_000),
        2 => (0..200_000_000_u64).prop_map(|us| NOW + us * 1_000),
        1 => any::<u64>(),
        1 => Just(u64::MAX),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (moment(), 0..300_u16).prop_map(|(at, item)| Step::Insert(at, item)),
        2 => (0..300_u16).prop_map(Step::Remove),
        1 => moment().prop_map(Step::Fire),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// R8.3, I9: whatever is entered, moved, taken out and fired, in whatever order, comes as from an ordered set.
    #[test]
    fn r8_3_the_wheel_agrees_with_an_ordered_set(steps in prop::collection::vec(step(), 1..400)) {
        let mut pair = Pair::new();
        for step in steps {
            match step {
                Step::Insert(at, item) => pair.insert(at, item),
                Step::Remove(item) => pair.remove(item),
                Step::Fire(now) => pair.fire(now),
            }
            pair.check_cost();
        }
        pair.fire(u64::MAX);
        pair.check_cost();
    }
}

/// R8.3: all deadlines of a full node move and pass at a bounded cost each, whatever their order.
#[test]
fn r8_3_a_full_node_moves_each_deadline_a_few_times() {
    let mut pair = Pair::new();
    for item in 0..u16::MAX {
        pair.insert(5_000_000_000_000_000 + u64::from(item) * 40_000, item);
    }
    // As in a storm: whoever is first is moved to later, again and again.
    for round in 1..3_u64 {
        for item in 0..u16::MAX {
            pair.insert(5_000_000_000_000_000 + round * 3_000_000_000 + u64::from(item) * 40_000, item);
        }
    }
    pair.check_cost();
    pair.fire(u64::MAX);
    assert_eq!(pair.wheel.first(), None);
    assert_eq!(
        pair.wheel.turns.values.len() - pair.wheel.turns.free.len(),
        1,
        "only the coarsest turn is left"
    );
}
