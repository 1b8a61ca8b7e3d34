use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::hint::spin_loop;
use std::sync::Barrier;

/// Both parts of a window.
struct Memory {
    state: KeyState,
    bits: ReplayWindow,
}

impl Memory {
    const fn window(&self) -> Window<'_> {
        Window::new(&self.state, &self.bits)
    }
}

impl std::ops::Deref for Memory {
    type Target = KeyState;

    fn deref(&self) -> &KeyState {
        &self.state
    }
}

fn empty() -> Memory {
    let state = KeyState {
        send_counter: AtomicU64::new(0),
        reserved: [const { AtomicU64::new(0) }; 7],
        key_number_plus_one: AtomicU64::new(1),
        window_lock: AtomicU64::new(0),
        window_end: AtomicU64::new(0),
        received: AtomicU64::new(0),
        peer_received: AtomicU64::new(0),
        peer_end: AtomicU64::new(0),
        window_plus_one: AtomicU64::new(0),
        refused_seq: AtomicU64::new(0),
    };
    Memory { state, bits: ReplayWindow { words: [const { AtomicU64::new(0) }; WINDOW_WORDS] } }
}

fn opened(counter: u64) -> Opened {
    Opened::for_test(counter)
}

/// What a window is, said as simply as possible: everything ever accepted, and how far back is too far.
#[derive(Default)]
struct Oracle {
    accepted: BTreeSet<u64>,
}

impl Oracle {
    fn accept(&mut self, counter: u64) -> Result<(), WindowError> {
        let oldest = self.accepted.last().map_or(0, |highest| (highest + 1).saturating_sub(WINDOW_LEN));
        if counter == u64::MAX || counter < oldest {
            return Err(WindowError::TooOld);
        }
        if self.accepted.insert(counter) { Ok(()) } else { Err(WindowError::Replayed) }
    }
}

/// How the next counter follows from the highest so far.
#[derive(Clone, Debug)]
enum Step {
    Next,
    Behind(u64),
    Ahead(u64),
    Absolute(u64),
    Again(proptest::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Next),
        4 => (0..200_u64).prop_map(Step::Behind),
        3 => (WINDOW_LEN - 130..WINDOW_LEN + 130).prop_map(Step::Behind),
        2 => (0..3 * WINDOW_LEN).prop_map(Step::Behind),
        3 => (1..200_u64).prop_map(Step::Ahead),
        2 => (WINDOW_LEN - 130..WINDOW_LEN + 200).prop_map(Step::Ahead),
        1 => (1..1_u64 << 40).prop_map(Step::Ahead),
        4 => any::<proptest::sample::Index>().prop_map(Step::Again),
    ];
    // Absolute jumps are rare: one near the end of the range makes all that follows one-sided.
    let absolute = prop_oneof![
        any::<u64>(),
        (0..200_u64).prop_map(|below| u64::MAX - below),
        (0..20_000_u64).prop_map(|below| u64::MAX - below),
    ]
    .prop_map(Step::Absolute);
    prop_oneof![
        proptest::collection::vec(step.clone(), 1..600),
        (proptest::collection::vec(step.clone(), 0..200), absolute, proptest::collection::vec(step, 0..400))
            .prop_map(|(mut before, jump, after)| {
                before.push(jump);
                before.extend(after);
                before
            }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// R2.2 R2.4: both windows accept exactly what the oracle accepts, whatever comes in whatever order.
    #[test]
    fn windows_agree_with_a_set(start in prop_oneof![Just(0), 0..20_000_u64], steps in steps()) {
        let state = empty();
        let shared = state.window();
        let mut own = OwnWindow::new();
        let mut oracle = Oracle::default();
        let mut tried = vec![start];
        let mut accepted = 0_u64;
        for step in std::iter::once(Step::Absolute(start)).chain(steps) {
            let highest = oracle.accepted.last().copied().unwrap_or(start);
            let counter = match step {
                Step::Next => highest.saturating_add(1),
                Step::Behind(by) => highest.saturating_sub(by),
                Step::Ahead(by) => highest.saturating_add(by),
                Step::Absolute(counter) => counter,
                Step::Again(index) => *index.get(&tried),
            };
            tried.push(counter);
            let expected = oracle.accept(counter);
            prop_assert_eq!(shared.check(counter), expected, "check of {} at {}", counter, highest);
            prop_assert_eq!(own.check(counter), expected);
            prop_assert_eq!(shared.commit(opened(counter)), expected, "commit of {} at {}", counter, highest);
            prop_assert_eq!(own.commit(opened(counter)), expected);
            accepted += u64::from(expected.is_ok());
            prop_assert_eq!(own.highest(), oracle.accepted.last().copied());
            prop_assert_eq!(own.received(), accepted);
            prop_assert_eq!(state.received.load(Ordering::Relaxed), accepted);
            prop_assert_eq!(state.window_lock.load(Ordering::Relaxed), 0);
        }
    }

    /// R2.4: hostile or torn contents of the shared memory make nothing panic or hang, and one counter is
    /// still never accepted twice in a row.
    #[test]
    fn hostile_contents_are_survived(
        end in prop_oneof![any::<u64>(), Just(u64::MAX), Just(u64::MAX - 1), 0..10_000_u64],
        received in prop_oneof![any::<u64>(), Just(u64::MAX)],
        words in proptest::collection::vec(any::<u64>(), WINDOW_WORDS),
        counters in proptest::collection::vec(
            prop_oneof![any::<u64>(), Just(u64::MAX), 0..10_000_u64], 1..40),
        near in proptest::collection::vec(0..20_000_u64, 1..40),
    ) {
        let state = empty();
        state.window_end.store(end, Ordering::Relaxed);
        state.received.store(received, Ordering::Relaxed);
        for (word, content) in state.bits.words.iter().zip(words) {
            word.store(content, Ordering::Relaxed);
        }
        let window = state.window();
        let near = near.into_iter().map(|offset| end.wrapping_add(offset).wrapping_sub(10_000));
        for counter in near.chain(counters) {
            let _ = window.check(counter);
            if window.commit(opened(counter)).is_ok() {
                prop_assert_eq!(window.check(counter), Err(WindowError::Replayed));
                prop_assert_eq!(window.commit(opened(counter)), Err(WindowError::Replayed));
            }
        }
    }

    /// R2.2: a process killed at any store of a commit leaves a window that accepts nothing twice.
    #[test]
    fn a_killed_commit_opens_no_hole(
        counters in proptest::collection::vec(0..30_000_u64, 1..120),
        jump in 1..20_000_u64,
        stores_done in 0..=WINDOW_WORDS,
    ) {
        let state = empty();
        let window = state.window();
        let mut accepted = BTreeSet::new();
        for counter in counters {
            if window.commit(opened(counter)).is_ok() {
                accepted.insert(counter);
            }
        }
        // The same commit on a copy tells which words it clears; here it stops after `stores_done` of them.
        let end = state.window_end.load(Ordering::Relaxed);
        let next = end + jump;
        state.window_lock.store(1, Ordering::Relaxed);
        state.window_end.store(next + 1, Ordering::Relaxed);
        let first = ((end - 1) / 64 + 1).max((next / 64).saturating_sub(WINDOW_WORDS as u64 - 1));
        for number in (first..=next / 64).take(stores_done) {
            state.bits.words[number as usize % WINDOW_WORDS].store(0, Ordering::Relaxed);
        }
        for counter in &accepted {
            prop_assert_eq!(window.commit(opened(*counter)), Err(WindowError::Busy), "the dead one's lock");
        }
        release_abandoned_lock(&state.state);
        for counter in accepted {
            prop_assert!(window.commit(opened(counter)).is_err(), "{} was accepted before", counter);
        }
    }
}

/// R2.2: the order that `a_killed_commit_opens_no_hole` builds on, watched from another thread: whoever sees
/// a word cleared sees the end moved already.
#[test]
fn the_end_moves_before_anything_is_cleared() {
    const JUMPS: u64 = 3_000;
    const JUMP: u64 = 2 * 8_192;
    let state = empty();
    let turn = AtomicU64::new(0);
    // Each jump lands in word 0 and clears the ring from word 1 on; the watcher looks at that first one.
    let watched = &state.bits.words[1];
    let too_early = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut too_early = 0_u64;
            for jump in 1..=JUMPS {
                while turn.load(Ordering::Acquire) != jump {
                    spin_loop();
                }
                while watched.load(Ordering::Acquire) != 0 {
                    spin_loop();
                }
                let end = state.window_end.load(Ordering::Acquire);
                too_early += u64::from(end != jump * JUMP + 1);
                turn.store(0, Ordering::Release);
            }
            too_early
        });
        for jump in 1..=JUMPS {
            watched.store(u64::MAX, Ordering::Relaxed);
            turn.store(jump, Ordering::Release);
            state.window().commit(opened(jump * JUMP)).unwrap();
            while turn.load(Ordering::Acquire) != 0 {
                spin_loop();
            }
        }
        watcher.join().unwrap()
    });
    assert_eq!(too_early, 0, "of {JUMPS} commits cleared before they moved the end");
}

/// R2.2: the edges, by hand.
#[test]
fn edges_of_the_window() {
    let state = empty();
    let window = state.window();
    assert_eq!(window.check(u64::MAX), Err(WindowError::TooOld));
    assert_eq!(window.commit(opened(0)), Ok(()));
    assert_eq!(window.commit(opened(0)), Err(WindowError::Replayed));
    assert_eq!(window.commit(opened(WINDOW_LEN)), Ok(()));
    assert_eq!(window.check(0), Err(WindowError::TooOld), "one beyond the window");
    assert_eq!(window.commit(opened(1)), Ok(()), "the oldest that the window holds");
    assert_eq!(window.commit(opened(u64::MAX - 1)), Ok(()), "the highest that a window holds");
    assert_eq!(window.commit(opened(u64::MAX)), Err(WindowError::TooOld));
    assert_eq!(window.commit(opened(u64::MAX - 1)), Err(WindowError::Replayed));
    assert_eq!(window.commit(opened(u64::MAX - WINDOW_LEN)), Ok(()));
    assert_eq!(window.commit(opened(u64::MAX - WINDOW_LEN - 1)), Err(WindowError::TooOld));
    assert_eq!(state.received.load(Ordering::Relaxed), 5);
}

/// R2.2: a refused counter changes nothing.
#[test]
fn refusals_mutate_nothing() {
    let state = empty();
    let window = state.window();
    for counter in [5, 9_000, 8_999] {
        window.commit(opened(counter)).unwrap();
    }
    let image = |state: &Memory| {
        let words: Vec<u64> = state.bits.words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        (state.window_end.load(Ordering::Relaxed), state.received.load(Ordering::Relaxed), words)
    };
    let before = image(&state);
    for counter in [5, 8_999, 9_000, 0, u64::MAX] {
        assert!(window.commit(opened(counter)).is_err());
    }
    assert_eq!(image(&state), before);
}

/// R2.4: two workers that commit the same counters accept each at most once, and exactly once unless one of
/// them reported that it gave up on the lock.
#[test]
fn two_threads_accept_each_counter_once() {
    const COUNTERS: u64 = 40_000;
    let state = empty();
    let start = Barrier::new(2);
    let worker = || {
        let window = state.window();
        start.wait();
        (0..COUNTERS)
            .map(|at| {
                // Blocks of 64 in reverse: inside the window, across word borders, with many ends moved.
                let counter = at / 64 * 64 + (63 - at % 64);
                (counter, window.commit(opened(counter)))
            })
            .collect::<Vec<_>>()
    };
    let (a, b) = std::thread::scope(|scope| {
        let other = scope.spawn(worker);
        let own = worker();
        (own, other.join().unwrap())
    });
    let mut accepted = 0;
    for ((counter, a), (same, b)) in a.into_iter().zip(b) {
        assert_eq!(counter, same);
        let times = u64::from(a.is_ok()) + u64::from(b.is_ok());
        assert!(times <= 1, "counter {counter} was accepted twice");
        let gave_up = [a, b].contains(&Err(WindowError::Busy)) || [a, b].contains(&Err(WindowError::TooOld));
        assert!(times == 1 || gave_up, "counter {counter} was lost: {a:?} {b:?}");
        accepted += times;
    }
    assert_eq!(state.received.load(Ordering::Relaxed), accepted);
    assert!(accepted > COUNTERS / 2, "{accepted} of {COUNTERS}");
}

/// R2.4: while another worker moves the window, a set bit is no verdict: the commit decides.
#[test]
fn a_check_during_a_commit_leaves_the_verdict_to_the_commit() {
    let state = empty();
    let window = state.window();
    window.commit(opened(3)).unwrap();
    state.window_lock.store(1, Ordering::Relaxed);
    assert_eq!(window.check(3), Ok(()));
    assert_eq!(window.commit(opened(3)), Err(WindowError::Busy));
    assert_eq!(window.commit(opened(4)), Err(WindowError::Busy));
    release_abandoned_lock(&state.state);
    assert_eq!(window.check(3), Err(WindowError::Replayed));
    assert_eq!(window.commit(opened(4)), Ok(()));
}
