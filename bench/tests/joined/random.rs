use jvpn_bench::simulation::faults::schedule;
use jvpn_bench::simulation::{Setup, Simulation};
use jvpn_bench::simulation::observer::Violation;
use std::time::{Duration, Instant};

fn settled(sim: &Simulation) -> bool {
    let Some(gateway) = sim.gateway() else { return false };
    (0..sim.clients()).all(|client| {
        let status = sim.client(client);
        let (Some(id), Some(path)) = (status.session_id, status.path) else { return false };
        matches!(status.state, "ATTACHED" | "VOLATILE" | "DEGRADED")
            && gateway.sessions.iter().any(|session| {
                session.id == id && matches!(session.state, "ATTACHED" | "VOLATILE" | "DEGRADED") && session.slot == Some(path.slot)
            })
    })
}

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
    sim.run(span + Duration::from_secs(30))?;
    sim.heal()?;
    let bound = Duration::from_secs(90);
    let Some(took) = sim.run_until(bound, settled)? else {
        for client in 0..sim.clients() {
            println!("{:?}", sim.client(client).state);
        }
        panic!("seed {seed}: not back after {bound:?}");
    };
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
