//! Random worlds with random schedules of faults, over many seeds. Environment:
//!
//! | Variable | Meaning |
//! |---|---|
//! | `JVPN_SIM_SEED=n` | only this seed, with its timeline on standard error |
//! | `JVPN_SIM_SEEDS=n` | so many seeds instead of what CI runs |
//! | `JVPN_SIM_FIRST=n` | beginning with this one |

use crate::secs;
use jvpn_bench::simulation::faults::{schedule, world};
use jvpn_bench::simulation::{Setup, Simulation};
use std::time::Duration;

/// Seeds that CI runs.
const SEEDS: u64 = 240;
/// Faults strike for this long.
const STORM: Duration = secs(40);
/// I13: whoever has a working path is back after this long. A minute until the switch budget is free again, and the
/// longest waits of a burst of attempts.
const BACK_WITHIN: Duration = secs(85);

/// Says how to see a failure again.
struct Hint(u64);

impl Drop for Hint {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!(
                "seed {seed} failed; its timeline:\n  \
                 JVPN_SIM_SEED={seed} cargo test -p jvpn-bench --test joined random:: -- --nocapture"
            );
        }
    }
}

/// One world through a storm and back; how long the way back took.
fn survives(seed: u64, traced: bool) -> Duration {
    let _hint = Hint(seed);
    let setup = world(seed);
    let mut sim = Simulation::new(&setup).unwrap();
    sim.traced = traced;
    sim.network.tape = Some(Default::default());
    for (at, fault) in schedule(&setup, STORM) {
        sim.plan(at, fault);
    }
    sim.run(STORM).unwrap();
    sim.heal().unwrap();
    let took = comes_back(&mut sim, &setup);
    stays(&mut sim);
    took
}

/// I13: every client is back, and its packets go both ways.
fn comes_back(sim: &mut Simulation, setup: &Setup) -> Duration {
    let clients = 0..sim.clients();
    // A silent client may take its time to notice; one that sends may not.
    clients.clone().for_each(|client| sim.set_traffic(client, Some(Duration::from_millis(50))));
    let echoed: Vec<usize> = clients.map(|client| sim.observer.client(client).echoed.len()).collect();
    let all_back = |sim: &Simulation| {
        let heard = |(client, before): (usize, &usize)| sim.observer.client(client).echoed.len() > before + 2;
        echoed.iter().enumerate().all(heard) && sim.is_settled()
    };
    let took = sim.run_until(BACK_WITHIN, all_back).unwrap();
    took.unwrap_or_else(|| {
        let states: Vec<_> = (0..sim.clients()).map(|client| sim.client(client).state).collect();
        panic!("I13: not back after {BACK_WITHIN:?}: {states:?}, {setup:?}")
    })
}

/// Without faults nothing moves any more, nothing is lost, and nothing of the storm is left in memory.
fn stays(sim: &mut Simulation) {
    sim.run(secs(4)).unwrap();
    let clients = 0..sim.clients();
    let seen = |sim: &Simulation, client: usize| {
        let watch = sim.observer.client(client);
        let needed = watch.recoveries.iter().filter(|(_, report)| !report.cause.is_voluntary()).count();
        (watch.sessions.len(), needed, watch.echoed.len())
    };
    let before: Vec<_> = clients.clone().map(|client| seen(sim, client)).collect();
    let sent: Vec<_> = clients.clone().map(|client| sim.sent(client)).collect();
    sim.run(secs(5)).unwrap();
    for client in clients {
        let (sessions, recoveries, echoed) = before[client];
        let now = seen(sim, client);
        if now.0 != sessions {
            // A session TTL of a minute may end one here.
            continue;
        }
        assert_eq!(now.1, recoveries, "client {client} recovers from nothing");
        let (came, sent) = (now.2 - echoed, sim.sent(client) - sent[client]);
        assert!(came as u64 + 3 >= sent, "client {client}: {came} of {sent} came back");
    }
    let status = sim.gateway().unwrap();
    if sim.is_settled() {
        assert_eq!(status.live_sessions, sim.clients(), "I10: sessions are left over");
        assert_eq!(status.slots_in_use, sim.clients(), "I10: slots are left over");
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// Runs every `step`th seed.
fn seeds(offset: u64, step: u64) {
    if let Some(seed) = number("JVPN_SIM_SEED") {
        if offset == 0 {
            eprintln!("seed {seed}: back after {:?}", survives(seed, true));
        }
        return;
    }
    let (first, count) = (number("JVPN_SIM_FIRST").unwrap_or(0), number("JVPN_SIM_SEEDS").unwrap_or(SEEDS));
    let mut longest = Duration::ZERO;
    for seed in (first + offset..first + count).step_by(step as usize) {
        longest = longest.max(survives(seed, false));
    }
    eprintln!("{} seeds from {}: back after {longest:?} at the latest", count / step, first + offset);
}

/// R1.1, R1.2, R1.3, R1.5, R1.6, R1.7, R1.9, R2.4, R7.1, R7.3, I1 – I13: even seeds.
#[test]
fn random_worlds_even_seeds() {
    seeds(0, 2);
}

/// R1.1, R1.2, R1.3, R1.5, R1.6, R1.7, R1.9, R2.4, R7.1, R7.3, I1 – I13: odd seeds, on another core.
#[test]
fn random_worlds_odd_seeds() {
    seeds(1, 2);
}
