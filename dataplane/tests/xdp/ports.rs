//! Programs of several interfaces, and frames with VLAN tags: by BPF_PROG_TEST_RUN, where no kernel module is needed.

use super::*;
use jvpn_abi::ports::wan_place;
use jvpn_abi::steer::ETHERNET_LEN;

const VLAN: u16 = 100;
const NO_SAMPLE: Rate = Rate { per_second: 0, burst: 0 };

/// The frame with these tags (TPID, control information) behind its addresses.
fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    let tags = tags.iter().flat_map(|(tpid, tci)| [tpid.to_be_bytes(), tci.to_be_bytes()].concat());
    addresses.iter().copied().chain(tags).chain(rest.iter().copied()).collect()
}

fn on_vlan(number: usize, kernel_index: u32) -> (Loaded, Vec<u8>) {
    let mut x = loaded(PLENTY, NO_SAMPLE);
    let entry = PortEntry { vlan: VLAN, kernel_index, ..PortEntry::default() };
    attach::set_port(&mut x.bpf, wan_place(number), entry).unwrap();
    let slot = SlotId::new(7, 3).unwrap();
    bind(&x, slot);
    let frame = udp_frame(REMOTE, (LOCAL, PORT), &data(slot, 0));
    (x, frame)
}

/// R0.1: DATA of the VLAN goes to the socket, its tag taken off and nothing else changed, whatever its priority; every
/// other frame is the kernel's, as it came.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn r0_1_data_of_the_vlan_is_steered_without_its_tag() {
    for (number, program) in [(0, "wan"), (3, "wan3")] {
        let (mut x, plain) = on_vlan(number, 0);
        // The VLAN alone, and with priority 7 and "may be dropped" set.
        for tci in [VLAN, 0xf000 | VLAN] {
            let (action, out) = x.run(program, &tagged(&plain, &[(0x8100, tci)]));
            assert_eq!((action, &out), (XDP_DROP, &plain), "no socket in this test, but the tag is off");
        }
        assert_eq!(x.counters(), BTreeMap::from([(DropReason::NoSocket, 2)]));
        let others = [
            ("untagged", plain.clone()),
            ("another VLAN", tagged(&plain, &[(0x8100, VLAN + 1)])),
            ("a priority without a VLAN", tagged(&plain, &[(0x8100, 0xe000)])),
            ("a service tag", tagged(&plain, &[(0x88a8, VLAN)])),
            ("two tags, the outer ours", tagged(&plain, &[(0x8100, VLAN), (0x8100, 7)])),
            ("two tags, the inner ours", tagged(&plain, &[(0x88a8, 7), (0x8100, VLAN)])),
        ];
        let count = others.len() as u64;
        for (what, frame) in others {
            assert_eq!(x.run(program, &frame), (XDP_PASS, frame), "{what}");
        }
        assert_eq!(x.counters()[&DropReason::PassedToKernel], count);
    }
}

/// R1.9: a tagged frame that ends anywhere is never steered as something it is not.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn r1_9_truncated_tagged_frames_are_not_steered() {
    let (mut x, plain) = on_vlan(0, 0);
    let whole = tagged(&plain, &[(0x8100, VLAN)]);
    // The kernel runs programs on no less than an Ethernet header.
    for len in ETHERNET_LEN..whole.len() {
        let (_, out) = x.run("wan", &whole[..len]);
        // Up to the slot number there is nothing to steer by; from there on it is the worker that finds it too short.
        let is_steered = len >= 12 + 4 + 2 + 20 + 8 + 8;
        assert_eq!(out.len(), if is_steered { len - 4 } else { len }, "{len} octets");
    }
}

/// R3.1: what the tunnel needs of the kernel keeps its tag and meets the limits; a sample is marked in its place.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn r3_1_control_datagrams_of_the_vlan_meet_the_limits() {
    let mut x = loaded(Rate { per_second: 1, burst: 3 }, PLENTY);
    core_affinity::set_for_current(core_affinity::CoreId { id: 0 });
    let entry = PortEntry { vlan: VLAN, ..PortEntry::default() };
    attach::set_port(&mut x.bpf, wan_place(0), entry).unwrap();
    let control = tagged(&udp_frame(REMOTE, (LOCAL, PORT), &[0x24; 256]), &[(0x8100, VLAN)]);
    let answers: Vec<_> = (0..10).map(|_| x.run("wan", &control)).collect();
    let passed = answers.iter().filter(|(action, _)| *action == XDP_PASS).count();
    assert_eq!(passed, 3);
    assert!(
        answers.iter().all(|(_, out)| *out == control),
        "the kernel's device for the VLAN takes the tag off"
    );

    let slot = SlotId::new(8, 0).unwrap();
    let unbound = tagged(&udp_frame(REMOTE, (LOCAL, PORT), &data(slot, 0)), &[(0x8100, VLAN)]);
    let (action, out) = x.run("wan", &unbound);
    assert_eq!(action, XDP_PASS);
    let at = ETHERNET_LEN + 4 + 28;
    assert_eq!((unbound[at], out[at]), (0x10, 0x11));
    let bare = [&out[..12], &out[16..]].concat();
    assert_eq!(
        u16::from_be_bytes([bare[40], bare[41]]),
        udp_checksum(&bare),
        "the checksum followed the mark"
    );
}

/// R0.2: each interface has a program of its own over the same tables; a LAN program takes what is addressed to its own
/// interface.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn r0_2_each_interface_has_a_program_over_the_same_tables() {
    let (mut x, plain) = on_vlan(3, 0);
    // The first interface has no VLAN, the fourth has: one table says so.
    assert_eq!(x.run("wan", &plain), (XDP_DROP, plain.clone()));
    assert_eq!(x.run("wan3", &plain).0, XDP_PASS);
    assert_eq!(x.run("wan3", &tagged(&plain, &[(0x8100, VLAN)])).0, XDP_DROP);
    assert_eq!(x.counters()[&DropReason::NoSocket], 2, "counted in one place");

    let mut routes: LpmTrie<_, [u8; 16], u32> = LpmTrie::try_from(x.bpf.map_mut("ROUTES").unwrap()).unwrap();
    let client = Endpoint::v4([10, 77, 0, 2], 0).addr;
    routes.insert(&Key::new(128, client), 7, 0).unwrap();
    let entry = PortEntry { mac: [2, 0, 0, 0, 3, 3], ..PortEntry::default() };
    attach::set_port(&mut x.bpf, lan_place(3), entry).unwrap();
    let to = |mac: [u8; 6]| {
        let mut frame = udp_frame(([192, 168, 50, 9], 9), ([10, 77, 0, 2], 9), &[1; 20]);
        frame[..6].copy_from_slice(&mac);
        frame
    };
    for (program, own, other) in
        [("lan", [2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 3, 3]), ("lan3", [2, 0, 0, 0, 3, 3], [2, 0, 0, 0, 0, 1])]
    {
        assert_eq!(x.run(program, &to(other)).0, XDP_PASS, "{program}: addressed to the other one");
        let (action, out) = x.run(program, &to(own));
        assert_eq!(action, XDP_DROP, "{program}");
        assert_eq!(SteeringMark::decode(&out), Some(SteeringMark { slot_index: 7 }), "{program}");
    }
}
