//! What a person should change, with the commands to do it. Each function knows one thing that goes wrong in practice.

use super::checksums;
use super::decide::{Role, Seat, Wishes};
use super::drivers::{XdpSupport, driver_notes};
use super::facts::{Facts, Interface};
use super::settle::Setting;
use crate::shares;
use crate::tuning::HugePages;
use serde::Serialize;

/// Longest MTU that fits a frame with XDP's headroom.
const MTU_MAX: u32 = 1_700;
/// napi_defer_hard_irqs and gro_flush_timeout (ns) that let busy polling keep interrupts away.
const DEFER_IRQS: u32 = 2;
const FLUSH_TIMEOUT_NS: u64 = 200_000;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Urgency {
    /// Without it packets are lost, or the data plane does not start.
    Must,
    /// Without it the machine is slower than it could be.
    Should,
    /// Worth a measurement.
    May,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// How much it matters.
    pub urgency: Urgency,
    /// What is wrong, and why that matters.
    pub what: String,
    /// Commands to copy. Empty: there is none.
    pub commands: Vec<String>,
}

impl Advice {
    pub(super) fn new(
        urgency: Urgency,
        what: impl Into<String>,
        commands: impl IntoIterator<Item = String>,
    ) -> Self {
        Self { urgency, what: what.into(), commands: commands.into_iter().collect() }
    }
}

/// Everything, the most urgent first.
pub(super) fn collect(facts: &Facts, wishes: &Wishes, seats: &[Seat], umem_octets: u64) -> Vec<Advice> {
    let mut all = Vec::new();
    for interface in &facts.interfaces {
        let role = wishes.ports.iter().find(|(_, name)| *name == interface.name).map(|(role, _)| *role);
        queues(interface, (facts, wishes), seats, &mut all);
        channels(interface, &mut all);
        offloads(interface, wishes.vlan.filter(|_| role == Some(Role::Wan)), &mut all);
        if role != Some(Role::Lan) {
            hashing(interface, &mut all);
        }
        if role != Some(Role::Wan) {
            let is_native = driver_notes(interface.driver.as_deref()).xdp == XdpSupport::Native;
            all.extend(checksums::advice(interface, wishes.generic || !is_native));
        }
        if role == Some(Role::Lan) {
            small_lan(interface, wishes, &mut all);
        }
        interrupts(interface, seats, &mut all);
        device(interface, &mut all);
        if wishes.tuning.busy_poll > 0 {
            busy_poll(interface, &mut all);
        }
    }
    uplinks(wishes, &mut all);
    processors(facts, wishes, seats, &mut all);
    memory(facts, wishes, umem_octets, &mut all);
    all.sort_by_key(|advice| advice.urgency);
    all
}

fn queues(interface: &Interface, (facts, wishes): (&Facts, &Wishes), seats: &[Seat], all: &mut Vec<Advice>) {
    let (name, count, workers) = (&interface.name, interface.rx_queues, seats.len());
    let Some(highest) = seats.iter().map(|seat| seat.queue).max() else { return };
    if highest >= count {
        all.push(Advice::new(
            Urgency::Must,
            format!("{name} has {count} receive queues, but a worker is to serve queue {highest}"),
            [Setting::of_channels(interface, highest + 1).command()],
        ));
    } else if count as usize > workers {
        let is_exact = !wishes.tuning.queues.is_empty();
        let most = shares::most(&of_side(interface, facts, wishes), workers).filter(|most| count > *most);
        // Queues that were named are all that is served; else the others are spread over the workers.
        let (urgency, what, used) = match most {
            _ if is_exact => {
                let what = "tunnel packets that the device puts into the others are dropped".to_owned();
                (Urgency::Must, what, as_queues(workers))
            }
            Some(most) => {
                let what =
                    format!("{most} of an interface can be served here; with more AF_XDP does not start");
                (Urgency::Must, what, most)
            }
            None => {
                let what = "the others are spread over them and cost memory each".to_owned();
                (Urgency::May, what, as_queues(workers))
            }
        };
        let also = if most.is_some() && !is_exact { ", and name these in tuning.queues" } else { "" };
        all.push(Advice::new(
            urgency,
            format!(
                "{name} has {count} receive queues, {workers} of which have a worker of their own: {what}"
            ),
            [
                Setting::of_channels(interface, used).command(),
                format!("ethtool -X {name} equal {workers}   # if the driver cannot have fewer{also}"),
            ],
        ));
    }
}

/// Queues of the interfaces on the side of this one, itself among them. A candidate is alone.
fn of_side(interface: &Interface, facts: &Facts, wishes: &Wishes) -> Vec<u32> {
    let role = |of: &Interface| wishes.ports.iter().find(|(_, name)| *name == of.name).map(|(role, _)| *role);
    let is_beside = |of: &&Interface| match role(interface) {
        Some(own @ (Role::Wan | Role::Lan)) => role(of) == Some(own),
        Some(Role::Candidate) | None => of.name == interface.name,
    };
    facts.interfaces.iter().filter(is_beside).map(|of| of.rx_queues).collect()
}

/// There are never more than fit: [`MAX_WORKERS`](jvpn_abi::tables::MAX_WORKERS).
fn as_queues(workers: usize) -> u32 {
    u32::try_from(workers).unwrap_or(u32::MAX)
}

/// The kernel's own answers, on several uplinks.
fn uplinks(wishes: &Wishes, all: &mut Vec<Advice>) {
    let wans: Vec<&String> =
        wishes.ports.iter().filter(|(role, _)| *role == Role::Wan).map(|(_, name)| name).collect();
    if wans.len() < 2 {
        return;
    }
    let commands = wans.iter().zip(101..).flat_map(|(name, table)| {
        [
            format!("ip route replace default via <router of {name}> dev {name} table {table}"),
            format!("ip rule add from <address of {name}> lookup {table}"),
        ]
    });
    all.push(Advice::new(
        Urgency::Should,
        "several WAN interfaces: handshakes are answered by the kernel's routes; with an address per uplink they must \
         leave by its own",
        commands,
    ));
}

fn channels(interface: &Interface, all: &mut Vec<Advice>) {
    let Some(channels) = interface.channels else { return };
    let half = (channels.max_combined / 2).max(1);
    if driver_notes(interface.driver.as_deref()).halves_channels && channels.combined > half {
        let name = &interface.name;
        all.push(Advice::new(
            Urgency::Must,
            format!(
                "{name} uses {} of {} channels; native XDP needs as many spare transmit queues and will be refused",
                channels.combined, channels.max_combined
            ),
            [format!("ethtool -L {name} combined {half}")],
        ));
    }
}

fn offloads(interface: &Interface, vlan: Option<u16>, all: &mut Vec<Advice>) {
    let name = &interface.name;
    if interface.offloads.lro == Some(true) {
        all.push(Advice::new(
            Urgency::Must,
            format!(
                "{name} merges packets (LRO): native XDP is refused, and what arrives is not what was sent"
            ),
            [format!("ethtool -K {name} lro off")],
        ));
    }
    if interface.offloads.rx_vlan == Some(true) && interface.driver.as_deref() != Some("veth") {
        let (urgency, what) = match vlan {
            Some(_) => (Urgency::Must, "XDP finds no frame of wan.vlan, and nothing is steered"),
            None => (Urgency::May, "on a tagged port the frames look untagged"),
        };
        all.push(Advice::new(
            urgency,
            format!("{name} takes VLAN tags off before XDP sees them: {what}"),
            [format!("ethtool -K {name} rxvlan off")],
        ));
    }
}

fn hashing(interface: &Interface, all: &mut Vec<Advice>) {
    if interface.rx_queues < 2 {
        return;
    }
    let name = &interface.name;
    for (family, has_ports) in [("udp4", interface.rss.udp4_ports), ("udp6", interface.rss.udp6_ports)] {
        if has_ports == Some(false) {
            all.push(Advice::new(
                Urgency::Should,
                format!(
                    "{name} hashes {family} by addresses alone: every client behind one NAT lands on one queue"
                ),
                [format!("ethtool -N {name} rx-flow-hash {family} sdfn")],
            ));
        }
    }
}

fn interrupts(interface: &Interface, seats: &[Seat], all: &mut Vec<Advice>) {
    // The queue's number is the last number in the interrupt's name, as in "eth0-TxRx-3" or "virtio0-input.3".
    let queue_of = |name: &str| {
        let digits: String =
            name.chars().rev().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
        digits.chars().rev().collect::<String>().parse::<u32>().ok()
    };
    let of_queues = interface.irqs.iter().filter(|irq| {
        let name = irq.name.to_ascii_lowercase();
        ["rx", "input", "comp"].iter().any(|part| name.contains(part))
    });
    let commands: Vec<String> = of_queues
        .filter_map(|irq| {
            let seat = seats.iter().find(|seat| queue_of(&irq.name) == Some(seat.queue))?;
            (irq.affinity != [seat.cpu]).then(|| {
                format!("echo {} > /proc/irq/{}/smp_affinity_list   # {}", seat.cpu, irq.number, irq.name)
            })
        })
        .collect();
    if !commands.is_empty() {
        let stop = "systemctl stop irqbalance   # or it moves them back".to_owned();
        all.push(Advice::new(
            Urgency::Should,
            format!(
                "interrupts of {} are served by other CPUs than the workers of their queues",
                interface.name
            ),
            std::iter::once(stop).chain(commands),
        ));
    }
}

fn device(interface: &Interface, all: &mut Vec<Advice>) {
    let name = &interface.name;
    if let Some(master) = &interface.master {
        all.push(Advice::new(
            Urgency::May,
            format!("{name} belongs to {master}: XDP on {name} sees frames before {master} does"),
            [],
        ));
    }
    if interface.driver.as_deref() == Some("bonding") {
        all.push(Advice::new(
            Urgency::Must,
            format!("{name} is a bond: name its slaves as ports instead"),
            [format!("cat /sys/class/net/{name}/bonding/slaves")],
        ));
    }
    if interface.mtu > MTU_MAX {
        all.push(Advice::new(
            Urgency::Must,
            format!(
                "{name} has an MTU of {}: frames above {MTU_MAX} do not fit the data plane's",
                interface.mtu
            ),
            [format!("ip link set {name} mtu 1500")],
        ));
    }
    if driver_notes(interface.driver.as_deref()).xdp == XdpSupport::Generic {
        let driver = interface.driver.as_deref().unwrap_or("unknown");
        all.push(Advice::new(
            Urgency::May,
            format!(
                "{name} (driver {driver}) will have generic XDP: another NIC would carry about twice as much"
            ),
            [],
        ));
    }
}

/// A LAN that takes less than the tunnel carries.
fn small_lan(interface: &Interface, wishes: &Wishes, all: &mut Vec<Advice>) {
    let (name, mtu) = (&interface.name, interface.mtu);
    let Some(tunnel) = wishes.tunnel_mtu.filter(|tunnel| mtu > 0 && mtu < u32::from(*tunnel)) else { return };
    all.push(Advice::new(
        Urgency::Should,
        format!(
            "{name} has an MTU of {mtu}, tunnel.mtu is {tunnel}: what is larger goes back with 'too big', and is lost \
             if its sender does not heed that"
        ),
        [format!("ip link set {name} mtu {tunnel}   # if all of that LAN takes as much; else lower tunnel.mtu")],
    ));
}

fn busy_poll(interface: &Interface, all: &mut Vec<Advice>) {
    let name = &interface.name;
    let (defer, flush) = (interface.napi_defer_hard_irqs, interface.gro_flush_timeout_ns);
    if defer == Some(0) || flush == Some(0) {
        all.push(Advice::new(
            Urgency::Should,
            format!(
                "{name} raises an interrupt for each busy poll that ends; these two keep it away meanwhile"
            ),
            [
                format!("echo {DEFER_IRQS} > /sys/class/net/{name}/napi_defer_hard_irqs"),
                format!("echo {FLUSH_TIMEOUT_NS} > /sys/class/net/{name}/gro_flush_timeout"),
            ],
        ));
    }
}

fn processors(facts: &Facts, wishes: &Wishes, seats: &[Seat], all: &mut Vec<Advice>) {
    let mut distinct: Vec<usize> = seats.iter().map(|seat| seat.cpu).collect();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() < seats.len() {
        all.push(Advice::new(
            Urgency::Should,
            format!(
                "{} workers share {} CPUs: fewer queues and workers would spare the changes between them",
                seats.len(),
                distinct.len()
            ),
            facts
                .interfaces
                .iter()
                .map(|interface| Setting::of_channels(interface, as_queues(distinct.len())).command()),
        ));
    }
    let missing: Vec<usize> =
        distinct.iter().copied().filter(|cpu| !facts.cpus.allowed.contains(cpu)).collect();
    if !missing.is_empty() && !wishes.cores.is_empty() {
        all.push(Advice::new(
            Urgency::Must,
            format!(
                "cores names CPUs that this process may not use: {missing:?}; the workers would run unpinned"
            ),
            ["grep Cpus_allowed_list /proc/self/status".to_owned()],
        ));
    }
    let far: Vec<String> = facts
        .interfaces
        .iter()
        .filter_map(|interface| {
            let node = interface.numa_node?;
            let far = distinct.iter().filter(|&&cpu| facts.cpus.node_of(cpu).is_some_and(|of| of != node));
            let far: Vec<String> = far.map(usize::to_string).collect();
            (!far.is_empty()).then(|| format!("CPU {} for {} on node {node}", far.join(", "), interface.name))
        })
        .collect();
    if !far.is_empty() {
        all.push(Advice::new(
            Urgency::Should,
            format!(
                "workers far from their device: {}; each frame crosses the processors' link",
                far.join("; ")
            ),
            [],
        ));
    }
    if facts.cpus.isolated.is_empty() && facts.cpus.allowed.len() > distinct.len() + 1 {
        let list: Vec<String> = distinct.iter().map(usize::to_string).collect();
        let list = list.join(",");
        all.push(Advice::new(
            Urgency::May,
            "no CPU is isolated: other processes may interrupt the workers (kernel command line, then restart)",
            [format!("isolcpus=managed_irq,domain,{list} nohz_full={list} rcu_nocbs={list}")],
        ));
    }
}

fn memory(facts: &Facts, wishes: &Wishes, umem_octets: u64, all: &mut Vec<Advice>) {
    if let Some(pool) = facts.huge_pages {
        let page = pool.size_kib * 1_024;
        let needed = umem_octets.div_ceil(page.max(1));
        if pool.free < needed && wishes.tuning.huge_pages != HugePages::Off {
            let required = wishes.tuning.huge_pages == HugePages::Require;
            let urgency = if required { Urgency::Must } else { Urgency::May };
            all.push(Advice::new(
                urgency,
                format!(
                    "{needed} huge pages of {} KiB are needed for frames, {} are free",
                    pool.size_kib, pool.free
                ),
                [format!("sysctl -w vm.nr_hugepages={}", pool.total + needed - pool.free)],
            ));
        }
    } else if wishes.tuning.huge_pages == HugePages::Require {
        all.push(Advice::new(
            Urgency::Must,
            "this kernel has no huge pages, but huge_pages = \"require\"",
            [],
        ));
    }
    if let Some(limit) = facts.memory_lock.limit_octets
        && !facts.memory_lock.cap_ipc_lock
        && limit < umem_octets
    {
        all.push(Advice::new(
            Urgency::Must,
            format!("{umem_octets} octets must be locked for frames, RLIMIT_MEMLOCK is {limit} and CAP_IPC_LOCK is missing"),
            ["LimitMEMLOCK=infinity   # in the unit of systemd".to_owned()],
        ));
    }
    if !facts.bpffs {
        all.push(Advice::new(
            Urgency::Should,
            "/sys/fs/bpf is no BPF file system: nothing can be pinned, so a restart detaches XDP",
            ["mount -t bpf bpf /sys/fs/bpf".to_owned()],
        ));
    }
}
