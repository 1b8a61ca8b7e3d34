//! The same seed gives the same world.

use crate::{ms, secs};
use jvpn_bench::simulation::faults::schedule;
use jvpn_bench::simulation::{Setup, Simulation};

fn world(seed: u64) -> (String, String, Vec<String>) {
    let setup = Setup { seed, clients: 3, traffic_every: Some(ms(40)), ..Setup::default() };
    let mut sim = Simulation::new(&setup).unwrap();
    sim.network.tape = Some(Default::default());
    for (at, fault) in schedule(&setup, secs(20)) {
        sim.plan(at, fault);
    }
    sim.run(secs(25)).unwrap();
    let (datagrams, audit) = sim.digests();
    (datagrams, audit, sim.audit)
}

/// I9, R1.4: the same seed gives the same audit log and the same datagrams, octet for octet; another seed another world.
#[test]
fn i9_same_seed_same_world() {
    for seed in [3, 11] {
        let (one, two) = (world(seed), world(seed));
        assert_eq!(one.2, two.2, "seed {seed}: the audit logs differ");
        assert_eq!((one.0, one.1), (two.0, two.1), "seed {seed}: the datagrams differ");
    }
    assert_ne!(world(3).0, world(4).0);
}
