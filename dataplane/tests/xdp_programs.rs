//! The XDP programs as the kernel runs them: BPF_PROG_TEST_RUN cases against the embedded object (R0.1, R3.1).
//!
//! A frame that would be redirected finds no socket here, so it is counted as `no_socket` and dropped; that it reaches
//! a socket when there is one is shown by the namespace tests.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use jvpn_abi::limit::Rate;
use jvpn_abi::ports::{PortEntry, lan_place};
use jvpn_abi::steer;
use jvpn_abi::tables::{BindingEntry, BindingWord, EDGE_CLASSES, Gate, SteeringMark};
use jvpn_abi::wire::{DataHeader, SlotId};
use jvpn_abi::{CONTRACT_VERSION, DropReason, Endpoint};
use jvpn_dataplane::attach;
use jvpn_tables::Bindings;
use std::collections::BTreeMap;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const SLOTS: u32 = 64;
const PORT: u16 = 4500;
const REMOTE: ([u8; 4], u16) = ([203, 0, 113, 9], 40_000);
const LOCAL: [u8; 4] = [198, 51, 100, 1];

#[path = "xdp/edge.rs"]
mod edge;
#[path = "xdp/hostile.rs"]
#[allow(clippy::wildcard_enum_match_arm, reason = "a shape changes one thing, the rest stays")]
mod hostile;
#[path = "xdp/pins.rs"]
mod pins;
#[path = "xdp/plain.rs"]
mod plain;
#[path = "xdp/ports.rs"]
mod ports;

struct Loaded {
    bpf: Ebpf,
    bindings: Bindings,
}

fn loaded(class: Rate, sample: Rate) -> Loaded {
    loaded_with([class; EDGE_CLASSES], [PLENTY; EDGE_CLASSES], sample)
}

fn loaded_with(class: [Rate; EDGE_CLASSES], source: [Rate; EDGE_CLASSES], sample: Rate) -> Loaded {
    // A network without addresses and routes, whatever this host has: nothing is forwarded.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let mut bpf = attach::load(SLOTS).unwrap();
    let gate = Gate {
        contract_version: CONTRACT_VERSION,
        port: PORT,
        log: 0,
        reserved: [0; 8],
        fence_deadline_ns: u64::MAX,
        class,
        source,
        sample,
        handle: PER_HANDLE,
    };
    attach::set_gate(&mut bpf, gate).unwrap();
    let lan = PortEntry { mac: [2, 0, 0, 0, 0, 1], ..PortEntry::default() };
    attach::set_port(&mut bpf, lan_place(0), lan).unwrap();
    for name in ["wan", "lan", "wan3", "lan3"] {
        let program: &mut Xdp = bpf.program_mut(name).unwrap().try_into().unwrap();
        program.load().unwrap();
    }
    let bindings = Bindings::map(attach::table_fd(&bpf, "BINDINGS").unwrap(), SLOTS).unwrap();
    Loaded { bpf, bindings }
}

const PLENTY: Rate = Rate { per_second: 1_000_000, burst: 1_000_000 };
const PER_HANDLE: Rate = Rate { per_second: 1_000, burst: 1_000 };
/// [`HandleEntry::FRESH`] as the table's value.
const FRESH: [u64; 3] = [0; 3];

impl Loaded {
    /// Runs a program on a frame; returns its action and the frame afterwards.
    fn run(&mut self, program: &str, frame: &[u8]) -> (u32, Vec<u8>) {
        let steer: &mut Xdp = self.bpf.program_mut(program).unwrap().try_into().unwrap();
        let mut out = vec![0; frame.len() + 64];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let result = steer.test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    }

    /// Sets how often one handle may be asked for.
    fn set_handle_rate(&mut self, handle: Rate) {
        let still = Rate { per_second: 1, burst: 100 };
        let gate = Gate {
            contract_version: CONTRACT_VERSION,
            port: PORT,
            fence_deadline_ns: u64::MAX,
            class: [still; EDGE_CLASSES],
            source: [PLENTY; EDGE_CLASSES],
            sample: PLENTY,
            handle,
            ..Gate::default()
        };
        attach::set_gate(&mut self.bpf, gate).unwrap();
    }

    fn counters(&self) -> BTreeMap<DropReason, u64> {
        attach::counters(&self.bpf).unwrap().into_iter().filter(|(_, n)| *n > 0).collect()
    }

    fn fence(&mut self, deadline: u64) {
        let gate = Gate {
            contract_version: CONTRACT_VERSION,
            port: PORT,
            log: 0,
            reserved: [0; 8],
            fence_deadline_ns: deadline,
            class: [PLENTY; EDGE_CLASSES],
            source: [PLENTY; EDGE_CLASSES],
            sample: PLENTY,
            handle: PER_HANDLE,
        };
        attach::set_gate(&mut self.bpf, gate).unwrap();
    }
}

fn udp_frame(source: ([u8; 4], u16), destination: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
    f.extend(u16::to_be_bytes((28 + payload.len()) as u16));
    f.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    f.extend(source.0);
    f.extend(destination.0);
    f.extend(source.1.to_be_bytes());
    f.extend(destination.1.to_be_bytes());
    f.extend(u16::to_be_bytes((8 + payload.len()) as u16));
    f.extend([0, 0]);
    f.extend(payload);
    let checksum = udp_checksum(&f);
    f[40..42].copy_from_slice(&checksum.to_be_bytes());
    f
}

fn udp_checksum(frame: &[u8]) -> u16 {
    use jvpn_dataplane::frame::{fold, sum_words};
    let udp = &frame[34..];
    let mut cleared = udp.to_vec();
    cleared[6..8].fill(0);
    match fold(sum_words(&frame[26..34]) + 17 + udp.len() as u32 + sum_words(&cleared)) {
        0 => 0xffff,
        sum => sum,
    }
}

fn data(slot: SlotId, counter: u64) -> Vec<u8> {
    let mut payload = DataHeader { key_phase: false, shard: 0, slot, counter }.encode().to_vec();
    payload.extend([0xcc; 40]);
    payload
}

fn bind(loaded: &Loaded, slot: SlotId) {
    let remote = Endpoint::v4(REMOTE.0, REMOTE.1);
    let entry = BindingEntry::new(remote, Endpoint::v4(LOCAL, PORT));
    loaded.bindings.bind(slot.index(), &entry, BindingWord::bound(slot, 1));
}

/// R0.1: DATA of a bound slot from the bound endpoint goes to the socket; every deviation does not.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn bound_data_is_steered_and_nothing_else() {
    let mut x = loaded(PLENTY, Rate { per_second: 0, burst: 0 });
    let slot = SlotId::new(7, 3).unwrap();
    bind(&x, slot);
    let good = udp_frame(REMOTE, (LOCAL, PORT), &data(slot, 0));
    assert_eq!(x.run("wan", &good).0, XDP_DROP, "no socket in this test");
    assert_eq!(x.counters(), BTreeMap::from([(DropReason::NoSocket, 1)]));

    let other_port = udp_frame((REMOTE.0, REMOTE.1 + 1), (LOCAL, PORT), &data(slot, 0));
    let other_address = udp_frame(([203, 0, 113, 10], REMOTE.1), (LOCAL, PORT), &data(slot, 0));
    let other_local = udp_frame(REMOTE, ([198, 51, 100, 2], PORT), &data(slot, 0));
    for frame in [other_port, other_address, other_local] {
        assert_eq!(x.run("wan", &frame).0, XDP_DROP);
    }
    let stale = udp_frame(REMOTE, (LOCAL, PORT), &data(SlotId::new(7, 2).unwrap(), 0));
    let free = udp_frame(REMOTE, (LOCAL, PORT), &data(SlotId::new(8, 0).unwrap(), 0));
    let beyond = udp_frame(REMOTE, (LOCAL, PORT), &data(SlotId::new(SLOTS + 1, 0).unwrap(), 0));
    for frame in [stale, free, beyond] {
        assert_eq!(x.run("wan", &frame).0, XDP_DROP);
    }
    x.bindings.unbind(7);
    assert_eq!(x.run("wan", &good).0, XDP_DROP);
    let expected = BTreeMap::from([
        (DropReason::NoSocket, 1),
        (DropReason::EndpointMismatch, 3),
        (DropReason::SlotUnbound, 3),
        (DropReason::SlotOutOfRange, 1),
    ]);
    assert_eq!(x.counters(), expected);
}

/// R3.1: control datagrams pass up to the edge limit, then they are dropped and counted.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn control_datagrams_meet_the_edge_limit() {
    let mut x = loaded(Rate { per_second: 1, burst: 3 }, PLENTY);
    let frame = udp_frame(REMOTE, (LOCAL, PORT), &[0x24; 256]);
    // Pinned to this thread's CPU by the kernel for each run; buckets are per CPU.
    core_affinity::set_for_current(core_affinity::CoreId { id: 0 });
    let passed = (0..10).filter(|_| x.run("wan", &frame).0 == XDP_PASS).count();
    assert_eq!(passed, 3);
    assert_eq!(x.counters(), BTreeMap::from([(DropReason::ControlPassed, 3), (DropReason::EdgeLimited, 7)]));
}

/// R3.1, R3.2: each class has its own share, each source prefix its own; known handles are not starved by unknown ones.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn classes_and_sources_have_their_own_shares() {
    let few = |burst| Rate { per_second: 1, burst };
    let class = [few(50), few(2), few(3), few(4)];
    let mut x = loaded_with(class, [few(5); EDGE_CLASSES], PLENTY);
    core_affinity::set_for_current(core_affinity::CoreId { id: 0 });
    let known = [0xee; 8];
    let mut handles: HashMap<_, [u8; 8], [u64; 3]> =
        HashMap::try_from(x.bpf.map_mut("HANDLES").unwrap()).unwrap();
    handles.insert(known, FRESH, 0).unwrap();
    let datagram = |kind: u8, handle: [u8; 8]| {
        let mut payload = vec![kind; 256];
        payload[4..12].copy_from_slice(&handle);
        payload
    };
    let from =
        |net: u8, host: u8, payload: &[u8]| udp_frame(([203, 0, net, host], 9), (LOCAL, PORT), payload);
    let mut passed =
        |frame: &dyn Fn(u8) -> Vec<u8>| (0..20).filter(|n| x.run("wan", &frame(*n)).0 == XDP_PASS).count();
    // Unknown handles from twenty prefixes use up their class, and only that.
    assert_eq!(passed(&|n| from(n, 1, &datagram(0x24, [n; 8]))), 2);
    assert_eq!(passed(&|n| from(n, 1, &datagram(0x20, [n; 8]))), 3);
    assert_eq!(passed(&|n| from(n, 1, &datagram(0x28, [n; 8]))), 4);
    assert_eq!(passed(&|n| from(n, 1, &datagram(0x24, known))), 20);
    // One prefix, whatever the host, is held to its own limit before it costs the class anything.
    assert_eq!(passed(&|n| from(200, n, &datagram(0x24, known))), 5);
    assert_eq!(passed(&|n| from(n + 100, 1, &datagram(0x24, known))), 20);
    assert_eq!(x.counters()[&DropReason::SourceLimited], 15);
    let mut handles: HashMap<_, [u8; 8], [u64; 3]> =
        HashMap::try_from(x.bpf.map_mut("HANDLES").unwrap()).unwrap();
    handles.remove(&known).unwrap();
    assert_eq!(
        x.run("wan", &from(250, 1, &datagram(0x24, known))).0,
        XDP_DROP,
        "an erased handle is unknown"
    );
}

/// A sample of unbound DATA reaches the kernel marked, with a true checksum; over the limit it is dropped.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn unbound_data_is_sampled_and_marked() {
    let mut x = loaded(PLENTY, Rate { per_second: 1, burst: 2 });
    core_affinity::set_for_current(core_affinity::CoreId { id: 0 });
    let frame = udp_frame(REMOTE, (LOCAL, PORT), &data(SlotId::new(1, 1).unwrap(), 77));
    let (action, out) = x.run("wan", &frame);
    assert_eq!((action, out[42]), (XDP_PASS, 0x11));
    assert_eq!(udp_checksum(&out).to_be_bytes(), out[40..42], "the checksum follows the mark");
    assert_eq!(out[43..], frame[43..], "nothing else changes");
    assert_eq!(x.run("wan", &frame).0, XDP_PASS);
    assert_eq!(x.run("wan", &frame).0, XDP_DROP);
    assert_eq!(x.counters()[&DropReason::UnboundSampled], 2);
    assert_eq!(x.counters()[&DropReason::SlotUnbound], 3);
}

/// Odd frames pass to the kernel; unknown types and a sample's mark from the wire are refused; short ones too.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn odd_frames() {
    let mut x = loaded(PLENTY, PLENTY);
    let slot = SlotId::new(7, 3).unwrap();
    bind(&x, slot);
    let good = udp_frame(REMOTE, (LOCAL, PORT), &data(slot, 0));
    let edited = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        edit(&mut frame);
        frame
    };
    let to_kernel = [
        edited(&|f| f[12..14].copy_from_slice(&[8, 6])),
        edited(&|f| f[12..14].copy_from_slice(&[0x81, 0])),
        // A later fragment, and a first one or options of a datagram that is none of ours.
        edited(&|f| f[21] = 1),
        edited(&|f| (f[20], f[37]) = (0x20, f[37] ^ 1)),
        edited(&|f| f[14] = 0x46),
        edited(&|f| f[23] = 6),
        edited(&|f| f[37] ^= 1),
        edited(&|f| f.truncate(20)),
    ];
    for (index, frame) in to_kernel.iter().enumerate() {
        assert_eq!(x.run("wan", frame).0, XDP_PASS, "case {index}");
    }
    assert_eq!(x.counters(), BTreeMap::from([(DropReason::PassedToKernel, to_kernel.len() as u64)]));
    let refused = [
        // A first fragment for our port, and options in front of it (one word: the UDP header moves).
        edited(&|f| f[20] = 0x20),
        edited(&|f| {
            f[14] = 0x46;
            f.splice(34..34, [1, 1, 1, 0]);
        }),
        edited(&|f| f[42] = 0x11),
        edited(&|f| f[42] = 0x21),
        edited(&|f| f[42] = 0x7f),
        edited(&|f| f[39] -= 1),
        udp_frame(REMOTE, (LOCAL, PORT), &data(slot, 0)[..31]),
        udp_frame(REMOTE, (LOCAL, PORT), &[]),
    ];
    for (index, frame) in refused.iter().enumerate() {
        assert_eq!(x.run("wan", frame).0, XDP_DROP, "case {index}");
    }
    assert_eq!(x.counters()[&DropReason::UnknownType], 3);
    assert_eq!(x.counters()[&DropReason::TooShort], 3);
    assert_eq!(x.counters()[&DropReason::OddHeaders], 2);
}

/// The programs classify exactly as the host's copy of the same code does, on frames of every length and on noise.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn host_and_kernel_classify_alike() {
    let mut x = loaded(PLENTY, PLENTY);
    let slot = SlotId::new(7, 3).unwrap();
    let whole = udp_frame(REMOTE, (LOCAL, PORT), &data(slot, 0));
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    for round in 0..2_000usize {
        let mut frame = whole.clone();
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let at = seed as usize % 60;
        frame[at] = (seed >> 32) as u8;
        // The kernel refuses test frames shorter than an Ethernet header.
        frame.truncate(14 + round % (frame.len() - 13));
        let before = x.counters();
        let (action, _) = x.run("wan", &frame);
        let host = steer::classify_wan(frame.as_slice(), PORT);
        let counted = |reason| x.counters().get(&reason).copied() > before.get(&reason).copied();
        let alike = match host {
            steer::WanClass::Kernel => action == XDP_PASS && counted(DropReason::PassedToKernel),
            steer::WanClass::Control(_) => action == XDP_PASS && counted(DropReason::ControlPassed),
            steer::WanClass::Refused(reason) => action == XDP_DROP && counted(reason),
            steer::WanClass::Data(_) => {
                counted(DropReason::SlotUnbound) || counted(DropReason::SlotOutOfRange)
            }
        };
        assert!(alike, "round {round}: host says {host:?}, kernel did {action}: {frame:02x?}");
    }
}

/// The LAN program: inner destinations with a route are marked and steered, the rest is the kernel's.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn lan_frames_are_marked_by_longest_prefix() {
    let mut x = loaded(PLENTY, PLENTY);
    let mut routes: LpmTrie<_, [u8; 16], u32> = LpmTrie::try_from(x.bpf.map_mut("ROUTES").unwrap()).unwrap();
    let mapped = |a: [u8; 4]| Endpoint::v4(a, 0).addr;
    routes.insert(&Key::new(96 + 24, mapped([10, 77, 3, 0])), 11, 0).unwrap();
    routes.insert(&Key::new(128, mapped([10, 77, 3, 9])), 12, 0).unwrap();
    for (destination, slot) in [([10, 77, 3, 1], 11), ([10, 77, 3, 9], 12)] {
        let (action, out) = x.run("lan", &udp_frame(([192, 168, 50, 10], 1), (destination, 2), &[0; 30]));
        assert_eq!((action, SteeringMark::decode(&out)), (XDP_DROP, Some(SteeringMark { slot_index: slot })));
    }
    assert_eq!(x.counters(), BTreeMap::from([(DropReason::NoSocket, 2)]));
    let mut other_station = udp_frame(([192, 168, 50, 10], 1), ([10, 77, 3, 1], 2), &[0; 30]);
    other_station[5] = 9;
    assert_eq!(x.run("lan", &other_station), (XDP_PASS, other_station.clone()), "not addressed to this port");
    let elsewhere = udp_frame(([192, 168, 50, 10], 1), ([10, 78, 0, 1], 2), &[0; 30]);
    let (action, out) = x.run("lan", &elsewhere);
    assert_eq!((action, out), (XDP_PASS, elsewhere));
}

/// A node whose lease is over accepts nothing on either side, and goes on when it has one again.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn a_fenced_node_is_silent() {
    let mut x = loaded(PLENTY, PLENTY);
    let slot = SlotId::new(7, 3).unwrap();
    bind(&x, slot);
    let good = udp_frame(REMOTE, (LOCAL, PORT), &data(slot, 0));
    x.fence(1);
    assert_eq!(x.run("wan", &good).0, XDP_DROP);
    assert_eq!(x.counters(), BTreeMap::from([(DropReason::Fenced, 1)]));
    x.fence(u64::MAX - 1);
    x.run("wan", &good);
    assert_eq!(x.counters()[&DropReason::NoSocket], 1);
}

/// R0.5: every table of the object is pinned, so that a program that replaces another finds all of them, and the ring of the
/// log; those of the compiler and of the programs in front of plain sockets are its own.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn r0_5_every_table_is_pinned() {
    let bpf = attach::load(SLOTS).unwrap();
    let own = |name: &str| name.starts_with('.') || name.starts_with("AYA_LOG") || name.starts_with("PLAIN");
    let mut found: Vec<&str> = bpf.maps().map(|(name, _)| name).filter(|name| !own(name)).collect();
    found.sort_unstable();
    let mut pinned = jvpn_dataplane::pins::TABLES;
    pinned.sort_unstable();
    assert_eq!(found, pinned);
    assert!(bpf.map(jvpn_dataplane::pins::LOG).is_some(), "and the log");
}
