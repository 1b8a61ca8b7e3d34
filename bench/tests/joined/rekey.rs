//! R5.2: the production parts renew the keys under traffic, and nothing is lost.

use super::{A, B, attached_as, flows, ms, recovered, recoveries, secs, session};
use jvpn_bench::simulation::faults::Fault;
use jvpn_bench::simulation::{Setup, Simulation};
use jvpn_session::Policy;
use std::time::Duration;

fn quick() -> Setup {
    let policy = Policy { rekey_soft: secs(2), rekey_hard: secs(12), ..Policy::default() };
    Setup { policy, traffic_every: Some(ms(5)), ..Setup::default() }
}

fn keys(sim: &Simulation) -> (u32, u32, u64) {
    let path = sim.client(0).path.unwrap();
    (path.slot, path.key_number, path.epoch)
}

/// R5.2, R1.2: many rekeys under traffic: same session, slot and epoch, and every single packet comes back.
#[test]
fn r5_2_rekeys_lose_nothing() {
    let mut sim = attached_as(&quick());
    let (id, (slot, first, epoch)) = (session(&sim), keys(&sim));
    let (sent, echoed) = (sim.sent(0), sim.observer.client(0).echoed.len() as u64);
    sim.run(secs(20)).unwrap();
    let (sent, echoed) = (sim.sent(0) - sent, sim.observer.client(0).echoed.len() as u64 - echoed);
    let (slot_after, last, epoch_after) = keys(&sim);
    assert!(last >= first + 6, "{first} to {last}");
    assert_eq!((session(&sim), slot_after, epoch_after), (id, slot, epoch));
    assert!(sent - echoed.min(sent) <= 20, "{echoed} of {sent}: no more than were under way at both ends");
    let gateway = sim.gateway().unwrap().sessions;
    assert!(gateway.iter().any(|s| s.key_number == Some(last) && s.switches == 0), "{gateway:?}");
    assert_eq!(recoveries(&sim), 0);
}

/// R5.2, I11: rekeys while the path is cut, moved to and fro and the processes die: the observer sees every counter.
#[test]
fn r5_2_rekeys_among_faults() {
    for round in 0..12u64 {
        let mut sim = attached_as(&quick());
        let id = session(&sim);
        // Around the moment of the first rekey.
        sim.run(ms(12 * round)).unwrap();
        match round % 3 {
            0 => sim.strike(Fault::CutBoth(A)).unwrap(),
            1 => sim.strike(Fault::KillDataPlane).unwrap(),
            _ => sim.strike(Fault::CutBoth(B)).unwrap(),
        }
        if round % 3 == 1 {
            sim.run(ms(30)).unwrap();
            sim.strike(Fault::StartDataPlane).unwrap();
        }
        if round % 3 == 0 {
            recovered(&mut sim, 1, Duration::from_secs(3));
        }
        sim.run(secs(8)).unwrap();
        assert_eq!(session(&sim), id, "round {round}");
        assert!(keys(&sim).1 >= 2, "round {round}: {:?}", keys(&sim));
        flows(&mut sim);
    }
}
