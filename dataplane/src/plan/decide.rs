//! Facts and wishes in, a plan out. Pure.

use super::advice::{self, Advice};
use super::cpus::choose_cpus;
use super::drivers::{AfXdpSupport, XdpSupport, driver_notes};
use super::facts::{Facts, Interface};
use super::settle::{Setting, settings};
use crate::tuning::{HugePages, Numa, Tuning};
use jvpn_abi::tables::MAX_WORKERS;
use serde::Serialize;

/// Memory of one port's queue, octets (`port`: frames for both directions).
pub(super) const UMEM_OCTETS: u64 = 8 << 20;

/// What the configuration asks for.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Interfaces and what they are for. Empty roles: plans for each interface on its own.
    pub ports: Vec<(Role, String)>,
    /// XDP is to be generic.
    pub generic: bool,
    /// The VLAN of the WAN's frames.
    pub vlan: Option<u16>,
    /// The largest inner packet, octets, if it is known.
    pub tunnel_mtu: Option<u16>,
    /// Workers; 0 = one per queue.
    pub workers: usize,
    /// CPU of each worker; empty = chosen.
    pub cores: Vec<usize>,
    /// The rest.
    pub tuning: Tuning,
}

/// What an interface is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Towards the clients.
    Wan,
    /// Towards the protected network.
    Lan,
    /// Nothing is decided yet.
    Candidate,
}

/// Where a worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Seat {
    /// Its receive queue on both ports.
    pub queue: u32,
    /// Its CPU.
    pub cpu: usize,
    /// The NUMA node of its memory, if it is to be bound to one.
    pub node: Option<usize>,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortPlan {
    /// What it is for.
    pub role: Role,
    /// The interface.
    pub interface: String,
    /// How XDP will be attached.
    pub xdp: XdpSupport,
    /// How frames will come.
    pub af_xdp: AfXdpSupport,
    /// Why that is expected.
    pub why: &'static str,
}

/// What the data plane will do, and what to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The ports.
    pub ports: Vec<PortPlan>,
    /// The workers.
    pub workers: Vec<Seat>,
    /// Memory for frames, octets.
    pub umem_octets: u64,
    /// Whether it will lie in huge pages.
    pub huge_pages: bool,
    /// The tuning in force.
    pub tuning: Tuning,
    /// What the data plane sets itself at its start.
    pub settings: Vec<Setting>,
    /// What to change, the most urgent first.
    pub advice: Vec<Advice>,
}

/// The seats of the workers. An empty answer means that the machine's processors are unknown.
#[must_use]
pub fn seats(facts: &Facts, wishes: &Wishes) -> Vec<Seat> {
    let fewest = facts.interfaces.iter().map(|interface| interface.rx_queues.max(1)).min().unwrap_or(1);
    let workers = match (wishes.workers, wishes.cores.len()) {
        (0, 0) => fewest as usize,
        (0, cores) => cores,
        (workers, _) => workers,
    }
    .min(MAX_WORKERS);
    let near = wan(facts, wishes).and_then(|interface| interface.numa_node);
    let cpus =
        if wishes.cores.is_empty() { choose_cpus(&facts.cpus, near, workers) } else { wishes.cores.clone() };
    let several_nodes = facts.cpus.nodes.len() > 1;
    (0_u32..)
        .zip(cpus)
        .take(workers)
        .map(|(index, cpu)| Seat {
            queue: wishes.tuning.queues.get(index as usize).copied().unwrap_or(index),
            cpu,
            node: match wishes.tuning.numa {
                Numa::Auto if several_nodes => facts.cpus.node_of(cpu),
                Numa::Auto | Numa::Off => None,
            },
        })
        .collect()
}

fn wan<'a>(facts: &'a Facts, wishes: &Wishes) -> Option<&'a Interface> {
    let name = wishes.ports.iter().find(|(role, _)| *role == Role::Wan).map(|(_, name)| name);
    facts.interfaces.iter().find(|interface| name.is_none_or(|name| *name == interface.name))
}

/// The plan.
#[must_use]
pub fn decide(facts: &Facts, wishes: &Wishes) -> Plan {
    let workers = seats(facts, wishes);
    let ports: Vec<PortPlan> = facts
        .interfaces
        .iter()
        .map(|interface| {
            let role = wishes.ports.iter().find(|(_, name)| *name == interface.name);
            let notes = driver_notes(interface.driver.as_deref());
            PortPlan {
                role: role.map_or(Role::Candidate, |(role, _)| *role),
                interface: interface.name.clone(),
                xdp: notes.xdp,
                af_xdp: notes.af_xdp,
                why: notes.why,
            }
        })
        .collect();
    let umem_octets = UMEM_OCTETS * sockets(facts, wishes, workers.len());
    let enough = facts
        .huge_pages
        .is_some_and(|pool| pool.free * pool.size_kib * 1_024 >= umem_octets && umem_octets > 0);
    let huge_pages = match wishes.tuning.huge_pages {
        HugePages::Off => false,
        HugePages::Auto => enough,
        HugePages::Require => true,
    };
    let advice = advice::collect(facts, wishes, &workers, umem_octets);
    let settings = settings(facts, wishes);
    Plan { ports, workers, umem_octets, huge_pages, tuning: wishes.tuning.clone(), settings, advice }
}

/// Sockets of all ports together: one per queue, but for those that were not named.
fn sockets(facts: &Facts, wishes: &Wishes, workers: usize) -> u64 {
    let of = |interface: &Interface| match wishes.tuning.queues.len() {
        0 => (interface.rx_queues as usize).clamp(workers, MAX_WORKERS),
        _ => workers,
    };
    if workers == 0 {
        return 0;
    }
    let known: Vec<usize> = facts.interfaces.iter().map(of).collect();
    // A candidate would be one of two ports; a LAN that is made at the start is none yet.
    let is_open = wishes.ports.iter().all(|(role, _)| *role != Role::Lan);
    let candidates = wishes.ports.is_empty();
    let all = match (candidates, is_open) {
        (true, _) => 2 * workers,
        (false, true) => known.iter().sum::<usize>() + workers,
        (false, false) => known.iter().sum(),
    };
    all as u64
}
