//! Frames that somebody made to hurt: every kind of datagram in every shape that the headers around it can have, cut at
//! every length. What may come of each is said here by its shape, not by the classifier.

use super::*;
use aya::maps::lpm_trie::Key;

/// What stands around a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Plain,
    /// IPv4: header words beyond five. IPv6: an extension header of this number.
    Options(u8),
    FirstFragment,
    /// At this offset, in units of eight octets.
    LaterFragment(u16),
    /// The only fragment: IPv6 alone has a header that says so (RFC 6946).
    AtomicFragment,
    /// So many VLAN tags.
    Tagged(usize),
    /// The IP length is this instead.
    IpLength(u16),
    /// The UDP length is this instead.
    UdpLength(u16),
}

const SHAPES: [Shape; 20] = [
    Shape::Plain,
    Shape::Options(0),
    Shape::Options(1),
    Shape::Options(6),
    Shape::Options(10),
    Shape::Options(43),
    Shape::Options(51),
    Shape::Options(60),
    Shape::Options(135),
    Shape::FirstFragment,
    Shape::LaterFragment(1),
    Shape::LaterFragment(0x1fff),
    Shape::AtomicFragment,
    Shape::Tagged(1),
    Shape::Tagged(2),
    // As a jumbogram says it (RFC 2675), and lies in both directions.
    Shape::IpLength(0),
    Shape::IpLength(19),
    Shape::IpLength(u16::MAX),
    Shape::UdpLength(7),
    Shape::UdpLength(u16::MAX),
];

/// First octets of datagrams: all types there are, a mark that only the edge makes, and some that nobody knows.
const KINDS: [u8; 16] =
    [0x10, 0x11, 0x20, 0x21, 0x22, 0x24, 0x25, 0x26, 0x28, 0x2a, 0x2c, 0x2d, 0x23, 0x7f, 0x00, 0xff];

const REMOTE_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
const LOCAL_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1];

fn slot() -> SlotId {
    SlotId::new(7, 3).unwrap()
}

fn udp(remote_port: u16, payload: &[u8], shape: Shape) -> Vec<u8> {
    let len = match shape {
        Shape::UdpLength(len) => len,
        _ => u16::try_from(8 + payload.len()).unwrap(),
    };
    let ports = [remote_port.to_be_bytes(), PORT.to_be_bytes()].concat();
    [&ports[..], &len.to_be_bytes(), &[0, 0], payload].concat()
}

/// An IPv4 packet of this shape.
fn v4(payload: &[u8], shape: Shape) -> Vec<u8> {
    let words = match shape {
        Shape::Options(words) => words.clamp(1, 10),
        _ => 0,
    };
    let fragment: u16 = match shape {
        Shape::FirstFragment => 0x2000,
        Shape::LaterFragment(offset) => offset,
        // The bit that must be zero (RFC 791).
        Shape::AtomicFragment => 0x8000,
        _ => 0x4000,
    };
    let udp = udp(REMOTE.1, payload, shape);
    let len = match shape {
        Shape::IpLength(len) => len,
        _ => u16::try_from(20 + 4 * usize::from(words) + udp.len()).unwrap(),
    };
    let mut packet = vec![0x45 + words, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, 17, 0, 0]);
    packet.extend(REMOTE.0);
    packet.extend(LOCAL);
    packet.extend(std::iter::repeat_n(1, 4 * usize::from(words)));
    packet.extend(udp);
    packet
}

/// An IPv6 packet of this shape.
fn v6(payload: &[u8], shape: Shape) -> Vec<u8> {
    let udp = udp(REMOTE.1, payload, shape);
    let fragment = |offset: u16, more: u16| {
        let [a, b] = (offset << 3 | more).to_be_bytes();
        Some((44, [17, 0, a, b, 0, 0, 0, 1]))
    };
    let extension: Option<(u8, [u8; 8])> = match shape {
        Shape::Options(next) => Some((next, [17, 0, 1, 4, 0, 0, 0, 0])),
        Shape::FirstFragment => fragment(0, 1),
        Shape::LaterFragment(offset) => fragment(offset, 0),
        Shape::AtomicFragment => fragment(0, 0),
        _ => None,
    };
    let (next, extra) = extension.map_or((17, vec![]), |(next, octets)| (next, octets.to_vec()));
    let len = match shape {
        Shape::IpLength(len) => len,
        _ => u16::try_from(extra.len() + udp.len()).unwrap(),
    };
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(REMOTE_V6);
    packet.extend(LOCAL_V6);
    packet.extend(extra);
    packet.extend(udp);
    packet
}

fn ethernet(ethertype: [u8; 2], packet: &[u8], shape: Shape) -> Vec<u8> {
    let tags = if let Shape::Tagged(tags) = shape { tags } else { 0 };
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend([0x81, 0, 0, 5].repeat(tags));
    frame.extend(ethertype);
    frame.extend(packet);
    frame
}

/// Both families, with the position of the payload in a plain frame.
fn frames(payload: &[u8], shape: Shape) -> [(Vec<u8>, usize); 2] {
    [
        (ethernet([8, 0], &v4(payload, shape), shape), 42),
        (ethernet([0x86, 0xdd], &v6(payload, shape), shape), 62),
    ]
}

fn bind_both(x: &Loaded) {
    bind(x, slot());
    let entry = BindingEntry::new(
        Endpoint { addr: REMOTE_V6, port: REMOTE.1 },
        Endpoint { addr: LOCAL_V6, port: PORT },
    );
    let other = SlotId::new(8, 3).unwrap();
    x.bindings.bind(other.index(), &entry, BindingWord::bound(other, 1));
}

/// R0.1, R3.1: of every shape, kind and length only whole headers around DATA are steered; nothing that is cut, has options
/// or is a fragment reaches a worker, what cannot be ours passes as it came, and the kernel does what the host's copy says.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn r3_1_hostile_frames_at_every_length() {
    let mut x = loaded(PLENTY, PLENTY);
    bind_both(&x);
    let (mut steered, mut before) = (0_u64, x.counters());
    for shape in SHAPES {
        for kind in KINDS {
            for family in 0..2 {
                let slot = SlotId::new(if family == 0 { 7 } else { 8 }, 3).unwrap();
                let mut payload = data(slot, 0);
                payload[0] = kind;
                let (whole, payload_at) = frames(&payload, shape)[family].clone();
                for len in 14..=whole.len() {
                    let frame = &whole[..len];
                    let (action, out) = x.run("wan", frame);
                    let now = x.counters();
                    let counted = |reason| now.get(&reason) > before.get(&reason);
                    let case = format!("{shape:?}, type {kind:#04x}, family {family}, {len} octets");
                    let may_be_steered = shape == Shape::Plain && kind == 0x10 && len >= payload_at + 8
                        || shape == Shape::AtomicFragment
                            && family == 0
                            && kind == 0x10
                            && len >= payload_at + 8;
                    let is_steered = counted(DropReason::NoSocket);
                    steered += u64::from(is_steered);
                    assert_eq!(is_steered, may_be_steered, "{case}");
                    assert!(!counted(DropReason::UnboundSampled), "{case}");
                    assert!(action == XDP_DROP || out == frame, "{case}: what passes is not changed");
                    let alike = match steer::classify_wan(frame, PORT) {
                        steer::WanClass::Kernel => action == XDP_PASS && counted(DropReason::PassedToKernel),
                        steer::WanClass::Control(_) => {
                            action == XDP_PASS && counted(DropReason::ControlPassed)
                        }
                        steer::WanClass::Refused(reason) => action == XDP_DROP && counted(reason),
                        steer::WanClass::Data(_) => is_steered,
                    };
                    assert!(alike, "{case}: the kernel did {action}");
                    before = now;
                }
            }
        }
    }
    assert!(steered > 0, "DATA reaches workers");
}

/// R0.1: on the LAN every shape is steered by its destination or passes as it came; nothing is marked that is not steered.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn r0_1_hostile_lan_frames_at_every_length() {
    let mut x = loaded(PLENTY, PLENTY);
    let mut routes: LpmTrie<_, [u8; 16], u32> = LpmTrie::try_from(x.bpf.map_mut("ROUTES").unwrap()).unwrap();
    routes.insert(&Key::new(128, Endpoint::v4(LOCAL, 0).addr), 11, 0).unwrap();
    routes.insert(&Key::new(128, LOCAL_V6), 12, 0).unwrap();
    let mut before = x.counters();
    for shape in SHAPES {
        for family in 0..2 {
            let (whole, _) = frames(&[0; 40], shape)[family].clone();
            // Where the destination ends.
            let header_len = if family == 0 { 34 } else { 54 };
            for len in 14..=whole.len() {
                let frame = &whole[..len];
                let (action, out) = x.run("lan", frame);
                let now = x.counters();
                let case = format!("{shape:?}, family {family}, {len} octets");
                let is_steered = now.get(&DropReason::NoSocket) > before.get(&DropReason::NoSocket);
                let is_whole = !matches!(shape, Shape::Tagged(_)) && len >= header_len;
                assert_eq!(is_steered, is_whole, "{case}");
                if is_steered {
                    let slot_index = if family == 0 { 11 } else { 12 };
                    assert_eq!(SteeringMark::decode(&out), Some(SteeringMark { slot_index }), "{case}");
                    assert_eq!((action, &out[6..]), (XDP_DROP, &frame[6..]), "{case}");
                } else {
                    assert_eq!((action, &out[..]), (XDP_PASS, frame), "{case}");
                }
                before = now;
            }
        }
    }
}
