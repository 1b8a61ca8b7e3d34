//! Production engine, agents, pipeline and installer joined on virtual time (`jvpn_bench::simulation`): named scenarios,
//! random schedules of faults over many seeds, determinism.
//!
//! A violation of an invariant fails the test that meets it; the invariants are judged after every step, from outside.
//! A failing seed prints the command that shows its timeline again.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod answers;
mod bursts;
mod candidates;
mod determinism;
mod ends;
mod floods;
mod paths;
mod quality;
mod random;
mod rekey;
mod replays;
mod restarts;

use jvpn_abi::Reason;
use jvpn_bench::simulation::network::PathId;
use jvpn_bench::simulation::{Setup, Simulation, path};
use jvpn_controlplane::engine::SessionStatus;
use jvpn_session::State;
use jvpn_session::messages::SessionId;
use std::time::Duration;

const A: PathId = path(0, 0);
const B: PathId = path(0, 1);

const fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

const fn secs(value: u64) -> Duration {
    Duration::from_secs(value)
}

/// One client with two uplinks, ATTACHED over A, with traffic.
fn attached() -> Simulation {
    attached_as(&Setup::default())
}

/// The same with another setup.
fn attached_as(setup: &Setup) -> Simulation {
    let mut sim = Simulation::new(setup).unwrap();
    sim.run(secs(2)).unwrap();
    assert!(sim.is_settled());
    for client in 0..sim.clients() {
        assert_eq!(sim.client(client).path.unwrap().uplink.0, 0, "the preferred uplink");
    }
    sim
}

/// The session of client 0.
fn session(sim: &Simulation) -> SessionId {
    sim.observer.client(0).session.unwrap()
}

/// The gateway's account of a session.
fn at_gateway(sim: &Simulation, session: SessionId) -> SessionStatus {
    let sessions = sim.gateway().unwrap().sessions;
    sessions.into_iter().find(|status| status.id == session.to_string()).unwrap()
}

/// States and reasons that a session went through, from its `from`th transition on.
fn changes(sim: &Simulation, session: SessionId, from: usize) -> Vec<(State, Reason)> {
    let trail = sim.observer.trail.session(session).unwrap();
    trail.changes.iter().skip(from).map(|(_, state, reason)| (*state, *reason)).collect()
}

/// Transitions of a session so far.
fn transitions(sim: &Simulation, session: SessionId) -> usize {
    sim.observer.trail.session(session).unwrap().changes.len()
}

/// A counter of the engine.
fn counter(sim: &Simulation, name: &str) -> u64 {
    sim.gateway().unwrap().counters.get(name).copied().unwrap_or(0)
}

/// Completed recoveries of client 0.
fn recoveries(sim: &Simulation) -> usize {
    sim.observer.client(0).recoveries.len()
}

/// Runs until client 0 has completed this many recoveries and both sides agree; how long it took.
fn recovered(sim: &mut Simulation, count: usize, within: Duration) -> Duration {
    let done = |sim: &Simulation| recoveries(sim) >= count && sim.is_settled();
    let took = sim.run_until(within, done).unwrap();
    took.unwrap_or_else(|| panic!("{} of {count} recoveries within {within:?}", recoveries(sim)))
}

/// The path that client 0 is bound to.
fn bound(sim: &Simulation) -> PathId {
    path(0, sim.client(0).path.unwrap().uplink.0)
}

/// Traffic flows: in the next second nearly every packet of client 0 comes back.
fn flows(sim: &mut Simulation) {
    sim.run(ms(200)).unwrap();
    let (sent, echoed) = (sim.sent(0), sim.observer.client(0).echoed.len());
    sim.run(secs(1)).unwrap();
    let (sent, echoed) = (sim.sent(0) - sent, sim.observer.client(0).echoed.len() - echoed);
    assert!(echoed as u64 + 5 >= sent, "{echoed} of {sent} came back");
}
