//! Whose turn it is at the edge, what it writes down, and what is none of its business.

use super::*;
use aya::maps::PerCpuArray;
use jvpn_abi::edge::{EdgeLedger, HandleEntry};
use std::process::Command;

const WORDS: usize = size_of::<EdgeLedger>() / 8;

/// A reattach request with this handle, from the prefix with this number.
fn request(prefix: u16, handle: [u8; 8]) -> Vec<u8> {
    let mut payload = vec![0x24; 256];
    payload[2] = 0;
    payload[4..12].copy_from_slice(&handle);
    let [a, b] = prefix.to_be_bytes();
    udp_frame(([100, a, b, 7], 9), (LOCAL, PORT), &payload)
}

fn know(x: &mut Loaded, handle: [u8; 8], entry: HandleEntry) {
    let mut handles: HashMap<_, [u8; 8], [u64; 3]> =
        HashMap::try_from(x.bpf.map_mut("HANDLES").unwrap()).unwrap();
    let value: [u64; 3] = bytemuck::cast(entry);
    handles.insert(handle, value, 0).unwrap();
}

/// R3.1, R3.2: a known handle that is flooded, each datagram from another prefix, gets what the others leave: half of the
/// class is theirs, three quarters are not for handles that were seen, and nobody is shut out for his handle.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn r3_2_one_flooded_handle_leaves_the_class_to_the_others() {
    let still = |burst| Rate { per_second: 1, burst };
    let mut x = loaded_with([still(100); EDGE_CLASSES], [PLENTY; EDGE_CLASSES], PLENTY);
    x.set_handle_rate(still(5));
    core_affinity::set_for_current(core_affinity::CoreId { id: 0 });
    let (flooded, seen, fresh) = ([0xa1; 8], [0xb2; 8], [0xc3; 8]);
    know(&mut x, flooded, HandleEntry::FRESH);
    know(&mut x, seen, HandleEntry::SHOWN);
    know(&mut x, fresh, HandleEntry::FRESH);
    let mut passed = |handle, times: u16| {
        (0..times).filter(|prefix| x.run("wan", &request(*prefix, handle)).0 == XDP_PASS).count()
    };
    // Its first five, and then down to the half that others have.
    assert_eq!(passed(flooded, 300), 50);
    // One that was seen may go on to the last quarter with its own five; its flood may not.
    assert_eq!(passed(seen, 300), 5);
    // One that nobody has seen has all of it, as long as it is asked for no more than one client asks.
    assert_eq!(passed(fresh, 300), 5);
    for other in 0..39_u8 {
        know(&mut x, [other; 8], HandleEntry::FRESH);
        assert_eq!(x.run("wan", &request(7, [other; 8])).0, XDP_PASS, "handle {other}");
    }
}

/// R3.1, R6.1: EDGE says how many were refused, by class and limit, and who the last ones were.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn r6_1_what_the_edge_refuses_is_written_down() {
    let few = |burst| Rate { per_second: 1, burst };
    let mut x = loaded_with([few(3); EDGE_CLASSES], [few(2); EDGE_CLASSES], PLENTY);
    core_affinity::set_for_current(core_affinity::CoreId { id: 0 });
    for _ in 0..10 {
        x.run("wan", &request(1, [9; 8]));
    }
    for prefix in 2..6 {
        x.run("wan", &request(prefix, [9; 8]));
    }
    let map: PerCpuArray<_, [u64; WORDS]> = PerCpuArray::try_from(x.bpf.map("EDGE").unwrap()).unwrap();
    let per_cpu = map.get(&0, 0).unwrap();
    let ledgers: Vec<EdgeLedger> =
        per_cpu.iter().map(|words| bytemuck::pod_read_unaligned(bytemuck::cast_slice(words))).collect();
    let ledger = ledgers[0];
    // Two of the first prefix pass, then one of the others: the class is used up.
    assert_eq!(ledger.refused, [[0, 0], [8, 3], [0, 0], [0, 0]]);
    assert_eq!((ledger.total, ledgers[1..].iter().map(|other| other.total).sum::<u64>()), (11, 0));
    let latest: Vec<_> = ledger.latest(4).map(|source| source[13..].to_vec()).collect();
    assert_eq!(latest, [[0, 5, 7], [0, 4, 7], [0, 3, 7], [0, 1, 7]]);
    assert_eq!(x.counters()[&DropReason::SourceLimited] + x.counters()[&DropReason::EdgeLimited], 11);
}

pub(super) fn ip(command: &str) {
    let status = Command::new("ip").args(command.split(' ')).status().unwrap();
    assert!(status.success(), "ip {command}");
}

fn frame_v6(destination: [u8; 16], payload: &[u8]) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0];
    f.extend(u16::to_be_bytes((8 + payload.len()) as u16));
    f.extend([17, 64]);
    f.extend("2001:db8:9::9".parse::<std::net::Ipv6Addr>().unwrap().octets());
    f.extend(destination);
    f.extend([0x9c, 0x40]);
    f.extend(PORT.to_be_bytes());
    f.extend(u16::to_be_bytes((8 + payload.len()) as u16));
    f.extend([0, 0]);
    f.extend(payload);
    f
}

/// R0.1, R3.1: on a host that also routes, datagrams to the tunnel's port at somebody else's address (another tunnel, or
/// IPsec behind a NAT, which has the same port) go their way untouched and uncounted by any limit; those to every address
/// of this host, broadcast and multicast included, meet the limits; and without routing nothing is let past.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn r0_1_what_is_on_its_way_to_somebody_else_is_not_ours() {
    let none = Rate { per_second: 0, burst: 0 };
    let mut x = loaded(none, none);
    ip("link set lo up");
    ip("link add jvt0 type veth peer name jvt1");
    ip("address add 198.51.100.1/24 brd 198.51.100.255 dev jvt0");
    ip("address add 2001:db8:1::1/64 dev jvt0 nodad");
    ip("link set jvt0 up");
    ip("link set jvt1 up");
    // A default route matches what has no route of its own; that does not make it somebody else's.
    ip("route add default via 198.51.100.254 dev jvt0");
    ip("-6 route add default via 2001:db8:1::fe dev jvt0");
    let forwarding = |on: &str| {
        for family in ["ipv4", "ipv6"] {
            std::fs::write(format!("/proc/sys/net/{family}/conf/all/forwarding"), on).unwrap();
        }
    };
    let v6 = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let slot = SlotId::new(7, 3).unwrap();
    bind(&x, slot);
    let beyond = SlotId::new(SLOTS + 1, 0).unwrap();
    // A request, DATA of a bound slot, of a free one, of none, and what is no datagram of ours.
    let payloads =
        [vec![0x24; 256], data(slot, 0), data(SlotId::new(8, 0).unwrap(), 0), data(beyond, 0), vec![0; 40]];
    let ours = [[198, 51, 100, 1], [198, 51, 100, 255], [255; 4], [224, 0, 0, 1], [127, 0, 0, 1]];
    let theirs = [198, 51, 100, 77];
    for (routes, foreign) in [("1", XDP_PASS), ("0", XDP_DROP)] {
        forwarding(routes);
        for (number, payload) in payloads.iter().enumerate() {
            for address in ours {
                let (action, _) = x.run("wan", &udp_frame(REMOTE, (address, PORT), payload));
                assert_eq!(action, XDP_DROP, "payload {number} to {address:?}, forwarding {routes}");
            }
            for address in ["2001:db8:1::1", "ff02::1", "::1"] {
                let (action, _) = x.run("wan", &frame_v6(v6(address), payload));
                assert_eq!(action, XDP_DROP, "payload {number} to {address}, forwarding {routes}");
            }
            let frames =
                [udp_frame(REMOTE, (theirs, PORT), payload), frame_v6(v6("2001:db8:1::77"), payload)];
            for (family, frame) in frames.iter().enumerate() {
                let before = x.counters();
                let (action, out) = x.run("wan", frame);
                assert_eq!(action, foreign, "payload {number}, family {family}, forwarding {routes}");
                if action == XDP_PASS {
                    assert_eq!(&out, frame, "untouched");
                    let mut after = x.counters();
                    *after.get_mut(&DropReason::PassedToKernel).unwrap() -= 1;
                    after.retain(|_, count| *count > 0);
                    assert_eq!(after, before, "no limit was asked");
                }
            }
        }
    }
}
