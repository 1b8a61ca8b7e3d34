use jvpn_bench::simulation::faults::schedule;
use jvpn_bench::simulation::{Setup, Simulation};
use jvpn_bench::simulation::observer::Violation;
use std::time::{Duration, Instant};

fn one(seed: u64, traced: bool) -> Result<Duration, Violation> {
    let setup = Setup {
        seed,
        clients: 1 + (seed % 3) as usize,
        uplinks: 2 + (seed % 2) as u8,
        traffic_every: Some(Duration::from_millis(50)),
        ..Setup::default()
    };
    let span = Duration::from_secs(40);
    let mut sim = Simulation::new(&setup).unwrap();
    sim.traced = traced;
    sim.network.tape = Some(Default::default());
    for (at, fault) in schedule(&setup, span) {
        sim.plan(at, fault);
    }
    sim.run(span)?;
    sim.heal()?;
    let echoed: Vec<usize> = (0..sim.clients()).map(|c| sim.observer.client(c).echoed.len()).collect();
    let bound = Duration::from_secs(90);
    let Some(took) = sim.run_until(bound, |sim| sim.is_settled() && (0..sim.clients()).all(|c| sim.observer.client(c).echoed.len() > echoed[c] + 2))? else {
        for client in 0..sim.clients() {
            println!("{:?}", sim.client(client).state);
        }
        panic!("seed {seed}: not back after {bound:?}");
    };
    sim.run(Duration::from_secs(3))?;
    let before: Vec<_> = (0..sim.clients()).map(|c| (sim.observer.client(c).recoveries.len(), sim.observer.client(c).echoed.len())).collect();
    sim.run(Duration::from_secs(8))?;
    assert!(sim.is_settled(), "unsettled again");
    for (c, (recoveries, echoed)) in before.into_iter().enumerate() {
        let watch = sim.observer.client(c);
        assert_eq!(watch.recoveries.len(), recoveries, "client {c} recovers without a fault");
        assert!(watch.echoed.len() >= echoed + 150, "client {c}: {} of 160", watch.echoed.len() - echoed);
    }
    let status = sim.gateway().unwrap();
    assert_eq!(status.slots_in_use, sim.clients(), "slots leak");
    assert_eq!(status.live_sessions, sim.clients(), "sessions leak");
    Ok(took)
}

#[test]
fn seeds() {
    if let Ok(seed) = std::env::var("JVPN_SIM_SEED") {
        let took = one(seed.parse().unwrap(), true);
        println!("{took:?}");
        took.unwrap();
        return;
    }
    let first: u64 = std::env::var("FIRST").map_or(0, |v| v.parse().unwrap());
    let count: u64 = std::env::var("COUNT").map_or(20, |v| v.parse().unwrap());
    let mut worst = Duration::ZERO;
    let mut bad = 0;
    for seed in first..first + count {
        let begin = Instant::now();
        let result = std::panic::catch_unwind(|| one(seed, false));
        match result {
            Ok(Ok(took)) => {
                worst = worst.max(took);
                if took > Duration::from_secs(30) { println!("seed {seed} took {took:?}"); }
            }
            Ok(Err(violation)) => { bad += 1; println!("seed {seed}: {violation}"); }
            Err(_) => { bad += 1; println!("seed {seed}: panicked"); }
        }
        if begin.elapsed() > Duration::from_secs(2) { println!("seed {seed} real {:?}", begin.elapsed()); }
    }
    println!("worst {worst:?}, bad {bad}");
}
