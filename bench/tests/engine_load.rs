//! The engine under load, with real cryptography: a reattach storm, and memory under churn.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::sync::Mutex;
use std::time::Duration;

use jvpn_bench::scenarios::cost::crowd::Crowd;
use jvpn_bench::scenarios::cost::lifted_policy;
use jvpn_bench::scenarios::cost::progress::Progress;
use jvpn_bench::scenarios::cost::storm::{self, Clock};
use jvpn_rig::{Interrupt, heap};
use jvpn_session::Policy;

/// One at a time: the heap is that of the process.
static ALONE: Mutex<()> = Mutex::new(());

fn crowd(policy: Policy, sessions: u32) -> Crowd {
    let mut crowd = Crowd::new(7, policy, sessions).unwrap();
    let interrupt = Interrupt::default();
    crowd.births(sessions as usize, &mut Progress::new(&interrupt, "births", 0)).unwrap();
    crowd.wait(Duration::from_secs(10));
    crowd
}

/// R7.4: every session loses its path at once. All are attached again, none is lost or doubled, every version is two
/// higher; where a limit refuses, who comes back when told gets in.
#[test]
fn r7_4_a_reattach_storm_loses_nobody() {
    const SESSIONS: u32 = 300;
    let _alone = ALONE.lock().unwrap();
    for (per_second, refuses) in [(5_000, false), (100, true)] {
        let mut crowd =
            crowd(Policy { reattach_global_per_second: per_second, ..Policy::default() }, SESSIONS);
        let interrupt = Interrupt::default();
        let clock = Clock::Fixed(Duration::from_micros(200));
        // It checks sessions, slots and versions itself.
        let storm = storm::run(&mut crowd, clock, &mut Progress::new(&interrupt, "attached", 0)).unwrap();
        assert_eq!(storm.sessions, SESSIONS as usize);
        let refused: u64 = storm.refused.values().sum();
        assert_eq!((refused > 0, storm.requests), (refuses, u64::from(SESSIONS) + refused), "{storm:?}");
        if refuses {
            assert_eq!(storm.refused.keys().copied().collect::<Vec<_>>(), ["RATE_LIMITED"]);
            // 100 at once, 200 more at 100 per second.
            assert!(storm.all_attached_ms > 1_900.0 && storm.all_attached_ms < 10_000.0, "{storm:?}");
        } else {
            assert!(storm.all_attached_ms < 300.0, "{storm:?}");
        }
    }
}

/// R7.4, R8.2: births, ends, reattaches and rekeys over and over leave the heap where it was. Growth is judged in the
/// second half of the rounds: ended sessions are remembered for a while, and malloc fills its own caches first. In the
/// environment `JVPN_CHURN_ROUNDS=n` runs longer.
#[test]
fn r7_4_churn_leaves_the_heap_flat() {
    const SESSIONS: u32 = 100;
    const ROUNDS: usize = 30;
    let rounds = std::env::var("JVPN_CHURN_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let _alone = ALONE.lock().unwrap();
    let policy = Policy {
        transport_loss_ttl: Duration::from_secs(60),
        recovery_window: Duration::from_secs(30),
        ..lifted_policy()
    };
    let mut crowd = crowd(policy, SESSIONS);
    let interrupt = Interrupt::default();
    let everybody: Vec<usize> = (0..SESSIONS as usize).collect();
    let mut heaps = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        for _ in 0..3 {
            crowd.switches(&everybody, &mut Progress::new(&interrupt, "switches", 0)).unwrap();
            crowd.wait(Duration::from_secs(10));
        }
        crowd.rekeys(&everybody, &mut Progress::new(&interrupt, "rekeys", 0)).unwrap();
        crowd.wait(Duration::from_secs(10));
        for number in &everybody {
            // The client's older session ends with the first frame of this one.
            crowd.birth(*number).unwrap();
        }
        crowd.wait(Duration::from_secs(20));
        crowd.check().unwrap();
        heaps.push(heap::in_use());
    }
    let (warm, rest) = heaps.split_at(rounds / 2);
    let (most, last) = (*warm.iter().max().unwrap(), *rest.iter().max().unwrap());
    // Each round makes 100 sessions and 400 bindings; one octet kept of each would be 15 KiB in 30 rounds' second half.
    assert!(last <= most + 32 * 1_024, "octets in use grow: {heaps:?}");
    eprintln!("octets in use after each round: {heaps:?}");
}
