//! R0.5: what `jvpn-dataplane plan` decides for machines that were described, not owned.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use jvpn_dataplane::plan::{
    Advice, AfXdpSupport, Facts, Plan, Role, Senders, Setting, Urgency, Wishes, XdpSupport, decide,
    driver_notes, seats, text,
};
use jvpn_dataplane::tuning::{Channels, FlowHash, HugePages, Numa, Tuning};

fn machine(text: &str) -> Facts {
    serde_json::from_str(text).unwrap()
}

fn veth() -> Facts {
    machine(include_str!("machines/veth.json"))
}

fn two_sockets() -> Facts {
    machine(include_str!("machines/two_sockets.json"))
}

fn virtual_machine() -> Facts {
    machine(include_str!("machines/virtual_machine.json"))
}

fn wishes(facts: &Facts) -> Wishes {
    let names = facts.interfaces.iter().map(|interface| interface.name.clone());
    Wishes { ports: [Role::Wan, Role::Lan].into_iter().zip(names).collect(), ..Wishes::default() }
}

fn cpus(plan: &Plan) -> Vec<usize> {
    plan.workers.iter().map(|seat| seat.cpu).collect()
}

fn find<'a>(plan: &'a Plan, part: &str) -> Option<&'a Advice> {
    plan.advice.iter().find(|advice| advice.what.contains(part))
}

/// One worker, away from CPU 0, ordinary pages, and the one thing that everybody gets wrong with veth.
#[test]
fn r0_5_plan_for_a_veth_with_one_queue() {
    let facts = veth();
    let plan = decide(&facts, &wishes(&facts));
    assert_eq!(cpus(&plan), [1]);
    assert!(!plan.huge_pages);
    assert_eq!(plan.umem_octets, 16 << 20);
    let port = &plan.ports[0];
    assert_eq!((port.role, port.xdp, port.af_xdp), (Role::Wan, XdpSupport::Native, AfXdpSupport::Copy));
    let names = |part: &str| plan.advice.iter().filter(move |advice| advice.what.contains(part)).count();
    assert_eq!(names("leaves checksums out"), facts.interfaces.len() - 1, "on the WAN nothing depends on it");
    assert_eq!(find(&plan, "huge pages").unwrap().commands, ["sysctl -w vm.nr_hugepages=8"]);
    assert!(plan.advice.iter().all(|advice| advice.urgency != Urgency::Must), "{:?}", plan.advice);
    assert_eq!(plan.workers[0].node, None, "one node needs no binding");
}

/// On the LAN the peer of a veth costs time with its offloads on; behind generic XDP packets are lost.
#[test]
fn r0_5_plan_for_a_veth_on_the_lan() {
    let facts = veth();
    let ports = vec![(Role::Lan, facts.interfaces[0].name.clone())];
    let wishes = Wishes { ports, ..Wishes::default() };
    let plan = decide(&facts, &wishes);
    let costly = find(&plan, "leaves checksums out").unwrap();
    assert_eq!(costly.urgency, Urgency::May);
    assert!(costly.commands[0].contains("tx off"));
    assert!(find(&plan, "generic XDP").is_none());
    let plan = decide(&facts, &Wishes { generic: true, ..wishes });
    let lost = find(&plan, "generic XDP").unwrap();
    assert_eq!(lost.urgency, Urgency::Must);
    assert!(lost.commands[0].contains("tso off gso off tx-udp-segmentation off"));
}

/// R9.2: a LAN that takes less than the tunnel carries is said, with the way out; the WAN's MTU is searched by clients.
#[test]
fn r9_2_a_lan_smaller_than_the_tunnel_is_said() {
    let mut facts = veth();
    facts.interfaces.iter_mut().for_each(|interface| interface.mtu = 1_400);
    let of = |tunnel_mtu| decide(&facts, &Wishes { tunnel_mtu, ..wishes(&facts) });
    for enough in [None, Some(1_280), Some(1_400)] {
        assert_eq!(find(&of(enough), "tunnel.mtu"), None, "{enough:?}");
    }
    let plan = of(Some(1_420));
    let said: Vec<&Advice> = plan.advice.iter().filter(|advice| advice.what.contains("tunnel.mtu")).collect();
    let lan = plan.ports.iter().find(|port| port.role == Role::Lan).unwrap();
    assert_eq!((said.len(), said[0].urgency), (1, Urgency::Should));
    assert!(said[0].what.starts_with(&format!("{} has an MTU of 1400", lan.interface)), "{said:?}");
    assert!(said[0].commands[0].starts_with(&format!("ip link set {} mtu 1420", lan.interface)), "{said:?}");
}

/// Eight queues on node 1 with isolated CPUs there: each worker is near its device on an isolated CPU with memory of that
/// node, and the interrupts are to follow.
#[test]
fn r0_5_plan_for_a_device_on_the_second_node() {
    let facts = two_sockets();
    let plan = decide(&facts, &wishes(&facts));
    assert_eq!(cpus(&plan), (24..32).collect::<Vec<_>>());
    assert!(plan.workers.iter().all(|seat| seat.node == Some(1)));
    assert!(plan.huge_pages);
    let port = &plan.ports[1];
    assert_eq!((port.role, port.xdp, port.af_xdp), (Role::Lan, XdpSupport::Native, AfXdpSupport::ZeroCopy));
    let rss: Vec<&Advice> = plan.advice.iter().filter(|advice| advice.what.contains("hashes")).collect();
    assert_eq!(rss.len(), 1, "IPv6 has ports already, and the LAN side hashes what it likes");
    assert_eq!(rss[0].commands, ["ethtool -N ens1f0 rx-flow-hash udp4 sdfn"]);
    let interrupts = find(&plan, "interrupts of ens1f0").unwrap();
    assert_eq!(interrupts.commands.len(), 9);
    assert!(interrupts.commands[4].starts_with("echo 27 > /proc/irq/123/smp_affinity_list"));
    assert!(find(&plan, "no CPU is isolated").is_none());
}

/// A chosen CPU on the wrong node is said; interrupts that are where they belong are not.
#[test]
fn r0_5_what_was_chosen_badly_is_said() {
    let mut facts = two_sockets();
    for interface in &mut facts.interfaces {
        interface.irqs.iter_mut().enumerate().for_each(|(queue, irq)| irq.affinity = vec![24 + queue]);
    }
    let good = decide(&facts, &wishes(&facts));
    assert!(find(&good, "interrupts").is_none());
    assert!(find(&good, "far from their device").is_none());
    let tuning = Tuning { numa: Numa::Off, busy_poll: 50, ..Tuning::default() };
    let wishes = Wishes { workers: 8, cores: (0..8).collect(), tuning, ..wishes(&facts) };
    let bad = decide(&facts, &wishes);
    assert!(
        find(&bad, "far from their device").unwrap().what.contains("CPU 0, 1, 2, 3, 4, 5, 6, 7 for ens1f0")
    );
    assert!(bad.workers.iter().all(|seat| seat.node.is_none()), "numa = off");
    assert!(find(&bad, "raises an interrupt").unwrap().commands[0].contains("napi_defer_hard_irqs"));
    let wishes = Wishes { workers: 1, cores: vec![99], ..Wishes::default() };
    assert_eq!(find(&decide(&facts, &wishes), "may not use").unwrap().urgency, Urgency::Must);
}

/// A virtual machine: LRO must go, memory may not be locked, nothing can be pinned.
#[test]
fn r0_5_plan_for_a_virtual_machine() {
    let facts = virtual_machine();
    let plan = decide(&facts, &wishes(&facts));
    assert_eq!(cpus(&plan), [0, 1, 2, 3]);
    assert!(!plan.huge_pages, "four pages are too few for 32");
    assert_eq!(find(&plan, "eth0 merges packets").unwrap().commands, ["ethtool -K eth0 lro off"]);
    assert!(find(&plan, "eth1 merges packets").is_none());
    assert_eq!(find(&plan, "CAP_IPC_LOCK is missing").unwrap().urgency, Urgency::Must);
    assert_eq!(find(&plan, "/sys/fs/bpf").unwrap().commands, ["mount -t bpf bpf /sys/fs/bpf"]);
    assert_eq!(plan.advice[0].urgency, Urgency::Must, "the most urgent first");
}

/// Queues without a worker drop packets, workers without a queue do not start: both are said before it happens.
#[test]
fn r0_5_queues_and_workers_that_do_not_fit() {
    let facts = two_sockets();
    let few = decide(&facts, &Wishes { workers: 2, ..wishes(&facts) });
    let advice = find(&few, "8 receive queues, 2 of which have a worker").unwrap();
    assert_eq!((advice.urgency, advice.commands[0].as_str()), (Urgency::May, "ethtool -L ens1f0 combined 2"));
    assert_eq!(few.umem_octets, 16 * (8 << 20), "each queue has a socket");
    let named = Tuning { queues: vec![0, 1], ..Tuning::default() };
    let named = decide(&facts, &Wishes { workers: 2, tuning: named, ..wishes(&facts) });
    assert_eq!(find(&named, "puts into the others are dropped").unwrap().urgency, Urgency::Must);
    assert_eq!(named.umem_octets, 4 * (8 << 20));
    let tuning = Tuning { queues: vec![6, 8], ..Tuning::default() };
    let beyond = decide(&facts, &Wishes { workers: 2, tuning, ..wishes(&facts) });
    assert_eq!(beyond.workers.iter().map(|seat| seat.queue).collect::<Vec<_>>(), [6, 8]);
    assert!(find(&beyond, "serve queue 8").unwrap().commands[0].contains("combined 9"));
    let mut uneven = two_sockets();
    uneven.interfaces[1].rx_queues = 3;
    assert_eq!(seats(&uneven, &wishes(&uneven)).len(), 3, "as many as the port with fewer queues");
    let mut small = two_sockets();
    small.cpus.allowed = vec![16, 17];
    let shared = decide(&small, &wishes(&small));
    assert_eq!(cpus(&shared), [16, 17, 16, 17, 16, 17, 16, 17]);
    assert!(find(&shared, "8 workers share 2 CPUs").unwrap().commands[0].contains("combined 2"));
}

/// R0.5: a queue that no worker could have a socket for keeps the data plane from starting, which the plan says, with what
/// would do. One interface of a side with 64 queues is no such case.
#[test]
fn r0_5_queues_that_nobody_could_serve_are_said_before() {
    let with = |queues: [u32; 2], roles: [Role; 2], workers| {
        let mut facts = two_sockets();
        facts.interfaces.iter_mut().zip(queues).for_each(|(interface, queues)| interface.rx_queues = queues);
        let mut wishes = Wishes { workers, ..wishes(&facts) };
        wishes.ports.iter_mut().zip(roles).for_each(|(port, role)| port.0 = role);
        decide(&facts, &wishes)
    };
    let sides = [Role::Wan, Role::Lan];
    let plan = with([64, 64], sides, 2);
    assert_eq!(find(&plan, "64 receive queues, 2 of which").unwrap().urgency, Urgency::May);
    for (plan, queues, most) in
        [(with([96, 8], sides, 2), 96, 64), (with([64, 64], [Role::Wan; 2], 1), 64, 32)]
    {
        let advice = find(&plan, &format!("ens1f0 has {queues} receive queues")).unwrap();
        assert_eq!(advice.urgency, Urgency::Must, "{advice:?}");
        assert!(advice.what.contains("does not start"), "{advice:?}");
        assert_eq!(advice.commands[0], format!("ethtool -L ens1f0 combined {most}"));
        assert!(advice.commands[1].contains("tuning.queues"), "{advice:?}");
    }
}

/// R0.5: drivers that take as many channels for native XDP as are in use refuse it where all are: that is said with the
/// command, and no more are set than leave XDP its own. virtio_net is none of them.
#[test]
fn r0_5_channels_are_left_for_native_xdp() {
    let set = Tuning { flow_hash: FlowHash::Leave, channels: Channels::Set, ..Tuning::default() };
    let said = |driver: &str| {
        let mut facts = virtual_machine();
        facts.interfaces[0].driver = Some(driver.to_owned());
        let asked = Wishes { tuning: set.clone(), workers: 4, ..wishes(&facts) };
        let settings: Vec<String> = decide(&facts, &asked).settings.iter().map(Setting::command).collect();
        let plan = decide(&facts, &wishes(&facts));
        let advice = find(&plan, "eth0 uses 4 of 4 channels");
        (advice.map(|one| (one.urgency, one.commands.clone())), settings)
    };
    let command = "ethtool -L eth0 combined 2".to_owned();
    for driver in ["ena", "gve"] {
        let (advice, settings) = said(driver);
        assert_eq!(advice, Some((Urgency::Must, vec![command.clone()])), "{driver}");
        assert!(settings.contains(&command), "{driver}: {settings:?}");
    }
    let (advice, settings) = said("virtio_net");
    assert!(advice.is_none() && !settings.iter().any(|one| one.contains("eth0")), "{settings:?}");
}

/// R0.5: commands count queues as the driver does: a veth has no combined channels, and refuses to be told of them.
#[test]
fn r0_5_commands_are_those_that_the_driver_takes() {
    let mut facts = veth();
    for interface in &mut facts.interfaces {
        interface.rx_queues = 4;
        interface.channels = machine(include_str!("machines/veth.json")).interfaces[0].channels;
    }
    let few = decide(&facts, &Wishes { workers: 2, ..wishes(&facts) });
    assert_eq!(find(&few, "wan0 has 4 receive queues").unwrap().commands[0], "ethtool -L wan0 rx 2 tx 2");
    let many = decide(&facts, &Wishes { workers: 6, ..wishes(&facts) });
    assert_eq!(find(&many, "serve queue 5").unwrap().commands, ["ethtool -L wan0 rx 6 tx 6"]);
    let shared = find(&many, "6 workers share 2 CPUs").unwrap();
    assert_eq!(shared.commands, ["ethtool -L wan0 rx 2 tx 2", "ethtool -L lan0 rx 2 tx 2"]);
    let tuning = Tuning { channels: Channels::Set, ..Tuning::default() };
    let settings = decide(&facts, &Wishes { workers: 2, tuning, ..wishes(&facts) }).settings;
    assert_eq!(settings[0].command(), "ethtool -L wan0 rx 2 tx 2");
}

/// R0.5: a tap's guest, and whoever sends by a bridge in front of generic XDP, must cut large packets: nobody else does.
#[test]
fn r0_5_large_packets_of_guests_are_warned_of() {
    let mut facts = veth();
    let lan = &mut facts.interfaces[1];
    (lan.driver, lan.senders) = (Some("tun".to_owned()), Senders::Software);
    let advice = decide(&facts, &wishes(&facts));
    let advice = find(&advice, "lan0 is a tap").unwrap();
    assert_eq!(advice.urgency, Urgency::Must);
    assert!(advice.commands[0].contains("tso off gso off"), "{advice:?}");
    facts.interfaces[1].driver = Some("bridge".to_owned());
    let advice = decide(&facts, &wishes(&facts));
    assert_eq!(find(&advice, "that send by lan0").unwrap().urgency, Urgency::Must, "it has no other XDP");
    facts.interfaces.swap(0, 1);
    let advice = decide(&facts, &wishes(&facts));
    assert!(find(&advice, "that send by lan0").is_none(), "on the WAN nothing depends on it");
}

/// R0.5: what the data plane sets itself: UDP by ports where it is known that it is not, on the WAN alone; channels only
/// when asked; the plan shows both.
#[test]
fn r0_5_settings_that_are_made_at_the_start() {
    let mut facts = two_sockets();
    facts.interfaces[0].rss.udp4_ports = Some(false);
    facts.interfaces[0].rss.udp6_ports = Some(true);
    facts.interfaces[1].rss.udp4_ports = Some(false);
    let wan = facts.interfaces[0].name.clone();
    let wishes = wishes(&facts);
    let commands = |facts: &Facts, wishes: &Wishes| -> Vec<String> {
        decide(facts, wishes).settings.iter().map(Setting::command).collect()
    };
    assert_eq!(commands(&facts, &wishes), [format!("ethtool -N {wan} rx-flow-hash udp4 sdfn")]);
    let shown = text(&facts, &decide(&facts, &wishes));
    assert!(shown.contains("set at its start") && shown.contains("rx-flow-hash udp4 sdfn"), "{shown}");
    let mut unknown = facts.clone();
    unknown.interfaces[0].rss.udp4_ports = None;
    assert!(commands(&unknown, &wishes).is_empty(), "what the driver does not say is left alone");
    let left = Tuning { flow_hash: FlowHash::Leave, ..Tuning::default() };
    assert!(commands(&facts, &Wishes { tuning: left, ..wishes.clone() }).is_empty());
    let set = Tuning { flow_hash: FlowHash::Leave, channels: Channels::Set, ..Tuning::default() };
    let asked = Wishes { tuning: set, workers: 3, ..wishes };
    let names = facts.interfaces.iter().map(|interface| format!("ethtool -L {} combined 3", interface.name));
    assert_eq!(commands(&facts, &asked), names.collect::<Vec<_>>());
}

/// R0.5: a device that hides tags is a hindrance on a tagged WAN; several uplinks need routes of their own.
#[test]
fn r0_5_vlans_and_several_uplinks() {
    let mut facts = two_sockets();
    facts.interfaces[0].offloads.rx_vlan = Some(true);
    let tagged = Wishes { vlan: Some(100), ..wishes(&facts) };
    let advice = decide(&facts, &tagged);
    let advice = find(&advice, "takes VLAN tags off").unwrap();
    assert_eq!(advice.urgency, Urgency::Must);
    assert!(advice.commands[0].contains("rxvlan off"));
    assert_eq!(find(&decide(&facts, &wishes(&facts)), "VLAN tags off").unwrap().urgency, Urgency::May);
    let mut several = wishes(&facts);
    several.ports.iter_mut().for_each(|(role, _)| *role = Role::Wan);
    let plan = decide(&facts, &several);
    assert_eq!(find(&plan, "several WAN interfaces").unwrap().commands.len(), 4);
    assert!(find(&decide(&facts, &wishes(&facts)), "several WAN interfaces").is_none());
}

#[test]
fn r0_5_huge_pages_as_asked_for() {
    let facts = two_sockets();
    let with = |huge_pages, free| {
        let mut facts = facts.clone();
        facts.huge_pages.as_mut().unwrap().free = free;
        decide(&facts, &Wishes { tuning: Tuning { huge_pages, ..Tuning::default() }, ..wishes(&facts) })
    };
    assert!(with(HugePages::Auto, 64).huge_pages);
    assert!(!with(HugePages::Auto, 63).huge_pages);
    assert!(!with(HugePages::Off, 64).huge_pages);
    assert!(find(&with(HugePages::Off, 0), "huge pages").is_none());
    let required = with(HugePages::Require, 63);
    assert!(required.huge_pages);
    assert_eq!(find(&required, "huge pages").unwrap().urgency, Urgency::Must);
}

/// Every driver gets an answer, an unknown one the careful one.
#[test]
fn drivers() {
    for driver in ["i40e", "mlx5_core", "virtio_net"] {
        assert_eq!(driver_notes(Some(driver)).af_xdp, AfXdpSupport::ZeroCopy, "{driver}");
    }
    for driver in ["veth", "ena", "bnxt_en"] {
        let notes = driver_notes(Some(driver));
        assert_eq!((notes.xdp, notes.af_xdp), (XdpSupport::Native, AfXdpSupport::Copy), "{driver}");
    }
    for driver in [Some("e1000e"), None] {
        assert_eq!(driver_notes(driver).xdp, XdpSupport::Generic, "{driver:?}");
    }
}

/// The text has each fact, each seat and each command; a machine of which nothing is known is shown as that.
#[test]
fn r0_5_the_plan_as_text() {
    for facts in [veth(), two_sockets(), virtual_machine()] {
        let plan = decide(&facts, &wishes(&facts));
        let shown = text(&facts, &plan);
        for interface in &facts.interfaces {
            assert!(shown.contains(&interface.name) && shown.contains(interface.driver.as_ref().unwrap()));
        }
        for (index, seat) in plan.workers.iter().enumerate() {
            assert!(shown.contains(&format!("worker {index} on CPU {}, for queue {}", seat.cpu, seat.queue)));
        }
        for command in plan.advice.iter().flat_map(|advice| &advice.commands) {
            assert!(shown.contains(command), "{command}");
        }
    }
    let nothing = Facts::default();
    let plan = decide(&nothing, &Wishes::default());
    assert!(plan.workers.is_empty());
    assert!(text(&nothing, &plan).contains("CPUs        none"));
}

/// Recorded facts survive their own notation: `plan --json` of a machine can be made into a test.
#[test]
fn r0_5_facts_can_be_recorded() {
    for facts in [veth(), two_sockets(), virtual_machine()] {
        let again: Facts = serde_json::from_str(&serde_json::to_string(&facts).unwrap()).unwrap();
        assert_eq!(again, facts);
    }
}
