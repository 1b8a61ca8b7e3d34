//! What is joined, what is not, and that nothing is lost, changed or overtaken.

use super::*;
use proptest::prelude::*;

/// A TCP packet with right checksums.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    v6: bool,
    port: u16,
    seq: u32,
    payload: usize,
    flags: u8,
    tos: u8,
    window: u16,
}

const PLAIN: Wanted =
    Wanted { v6: false, port: 5_001, seq: 1_000, payload: 100, flags: ACK, tos: 0, window: 500 };
/// Timestamps, as every Linux sends them.
const OPTIONS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];

fn build(wanted: Wanted) -> Vec<u8> {
    let Wanted { v6, port, seq, payload, flags, tos, window } = wanted;
    let mut tcp = Vec::new();
    tcp.extend(port.to_be_bytes());
    tcp.extend(443u16.to_be_bytes());
    tcp.extend(seq.to_be_bytes());
    tcp.extend(7u32.to_be_bytes());
    tcp.extend([0x80, flags]);
    tcp.extend(window.to_be_bytes());
    tcp.extend([0; 4]);
    tcp.extend(OPTIONS);
    // Each octet says which of the stream it is.
    tcp.extend((0..payload).map(|at| (seq.wrapping_add(at as u32) % 251) as u8));
    let mut packet = if v6 {
        let mut header = vec![0x60 | tos >> 4, tos << 4, 0, 0];
        header.extend((tcp.len() as u16).to_be_bytes());
        header.extend([TCP, 64]);
        header.extend([0xfd; 16]);
        header.extend([0xfe; 16]);
        header
    } else {
        let mut header = vec![0x45, tos];
        header.extend((tcp.len() as u16 + 20).to_be_bytes());
        header.extend([0x12, 0x34, 0x40, 0, 64, TCP, 0, 0, 10, 77, 0, 2, 192, 168, 50, 1]);
        let sum = !fold(tun_rs::checksum_no_fold(&header, 0));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    };
    let sum = !fold(tun_rs::checksum_no_fold(&tcp, pseudo(&packet, tcp.len())));
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    packet.extend(tcp);
    packet
}

/// What the batch hands over: device header and packet.
fn joined(packets: &[Vec<u8>]) -> Vec<([u8; VNET_LEN], Vec<u8>)> {
    let mut buffer = Vec::new();
    let mut batch = Batch::default();
    let mut places = Vec::new();
    for packet in packets {
        // As sealed frames lie there: something in between.
        buffer.extend([0xaa; 16]);
        places.push(Place { at: buffer.len(), len: packet.len() });
        buffer.extend(packet);
    }
    places.into_iter().for_each(|place| batch.push(&buffer, place));
    batch.finish(&mut buffer);
    let mut all = Vec::new();
    batch.for_each(&buffer, |header, parts| all.push((header, parts.concat())));
    all
}

/// Cuts up again as a kernel does (GSO): this is what the joined packet means.
fn cut(header: [u8; VNET_LEN], packet: &[u8]) -> Vec<Vec<u8>> {
    if header == [0; VNET_LEN] {
        return vec![packet.to_vec()];
    }
    let field = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
    let (header_len, size, start, offset) = (field(2), field(4), field(6), field(8));
    let v6 = packet[0] >> 4 == 6;
    assert_eq!((header[0], header[1], offset), (1, if v6 { 4 } else { 1 }, 16));
    assert_eq!(start, if v6 { 40 } else { 20 });
    let network = &packet[..start];
    assert_eq!(packet[start + 16..start + 18], fold(pseudo(network, packet.len() - start)).to_be_bytes());
    if !v6 {
        assert_eq!(
            fold(tun_rs::checksum_no_fold(network, 0)),
            0xffff,
            "header checksum of the joined packet"
        );
        assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
    }
    let seq = u32::from_be_bytes(packet[start + 4..start + 8].try_into().unwrap());
    let payload = &packet[header_len..];
    let count = payload.len().div_ceil(size);
    let segment = |(index, part): (usize, &[u8])| {
        let last = index + 1 == count;
        let flags = packet[start + 13] & if last { 0xff } else { !PSH };
        build(Wanted {
            v6,
            port: u16::from_be_bytes([packet[start], packet[start + 1]]),
            seq: seq.wrapping_add((index * size) as u32),
            payload: part.len(),
            flags,
            tos: if v6 { packet[0] << 4 | packet[1] >> 4 } else { packet[1] },
            window: u16::from_be_bytes([packet[start + 14], packet[start + 15]]),
        })
    };
    payload.chunks(size).enumerate().map(segment).collect()
}

fn stream(first: Wanted, payloads: &[usize]) -> Vec<Vec<u8>> {
    let mut seq = first.seq;
    let one = |payload: &usize| {
        let packet = build(Wanted { seq, payload: *payload, ..first });
        seq = seq.wrapping_add(*payload as u32);
        packet
    };
    payloads.iter().map(one).collect()
}

/// Segments in a row become one, also over the end of the sequence numbers, up to the shorter last one.
#[test]
fn a_stream_becomes_one_packet() {
    for v6 in [false, true] {
        let packets = stream(Wanted { v6, seq: u32::MAX - 150, ..PLAIN }, &[100, 100, 100, 40, 100]);
        let all = joined(&packets);
        assert_eq!(all.iter().map(|(_, packet)| packet.len()).collect::<Vec<_>>().len(), 2);
        let again: Vec<_> = all.iter().flat_map(|(header, packet)| cut(*header, packet)).collect();
        assert_eq!(again, packets);
    }
}

/// Two streams that alternate become two packets; each keeps its order.
#[test]
fn streams_are_told_apart() {
    let one = stream(PLAIN, &[100; 6]);
    let two = stream(Wanted { port: 5_002, ..PLAIN }, &[80; 6]);
    let mixed: Vec<_> = one.iter().zip(&two).flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    let all = joined(&mixed);
    assert_eq!(all.len(), 2);
    assert_eq!(cut(all[0].0, &all[0].1), one);
    assert_eq!(cut(all[1].0, &all[1].1), two);
}

/// Whatever differs between two packets keeps them apart, and a wrong checksum stays wrong.
#[test]
fn what_differs_stays_apart() {
    let first = build(PLAIN);
    let next = Wanted { seq: 1_100, ..PLAIN };
    assert_eq!(joined(&[first.clone(), build(next)]).len(), 1, "these two would be joined");
    for other in [
        Wanted { seq: 1_101, ..next },
        Wanted { seq: 1_099, ..next },
        Wanted { payload: 101, ..next },
        Wanted { payload: 0, ..next },
        Wanted { flags: ACK | 0x01, ..next },
        Wanted { flags: ACK | 0x02, ..next },
        Wanted { flags: ACK | 0x04, ..next },
        Wanted { flags: ACK | 0x20, ..next },
        Wanted { flags: ACK | 0x40, ..next },
        Wanted { flags: ACK | 0x80, ..next },
        Wanted { tos: 3, ..next },
        Wanted { window: 501, ..next },
        Wanted { port: 5_002, ..next },
    ] {
        assert_eq!(joined(&[first.clone(), build(other)]).len(), 2, "{other:?}");
    }
    for at in [1, 4, 8, 12, 19, 28, 34, 40, 60, 151] {
        let mut damaged = build(next);
        damaged[at] ^= 0x10;
        let all = joined(&[first.clone(), damaged.clone()]);
        // Only the identification (octets 4 and 5) may differ, and then the header's own checksum is wrong.
        assert_eq!((all.len(), &all[1].1), (2, &damaged), "octet {at}");
    }
    let mut fragment = build(next);
    fragment[6] = 0x20;
    assert_eq!(joined(&[first, fragment]).len(), 2);
}

/// PSH ends a packet: the reader is to be woken.
#[test]
fn push_is_kept_and_ends_a_packet() {
    let mut packets = stream(PLAIN, &[100; 4]);
    packets[1] = build(Wanted { seq: 1_100, flags: ACK | PSH, ..PLAIN });
    let all = joined(&packets);
    assert_eq!(all.len(), 2);
    assert_eq!(all.iter().flat_map(|(header, packet)| cut(*header, packet)).collect::<Vec<_>>(), packets);
}

/// A packet of a flow that cannot be joined is not overtaken by those behind it.
#[test]
fn nothing_is_overtaken() {
    let mut packets = stream(PLAIN, &[100; 4]);
    packets.insert(2, build(Wanted { seq: 1_100, payload: 0, ..PLAIN }));
    let all = joined(&packets);
    assert_eq!(all.len(), 3);
    assert_eq!(all.iter().flat_map(|(header, packet)| cut(*header, packet)).collect::<Vec<_>>(), packets);
}

/// No packet grows beyond what IP can say.
#[test]
fn sixty_four_large_ones_stay_below_the_limit() {
    let packets = stream(PLAIN, &[1_400; PACKETS_MAX]);
    let all = joined(&packets);
    assert!(all.iter().all(|(_, packet)| packet.len() <= LARGEST), "{}", all.len());
    assert_eq!(all.iter().flat_map(|(header, packet)| cut(*header, packet)).collect::<Vec<_>>(), packets);
}

proptest! {
    /// Any mixture of flows comes out as it went in, flow by flow.
    #[test]
    fn every_flow_comes_out_as_it_went_in(
        choices in proptest::collection::vec((0u16..3, any::<bool>(), 1usize..5, 0u8..12), 1..PACKETS_MAX)
    ) {
        let mut seqs = [100u32, u32::MAX - 300, 7, 50, 60, 70];
        let mut packets = Vec::new();
        for (port, v6, size, oddity) in choices {
            let seq = &mut seqs[usize::from(port) + if v6 { 3 } else { 0 }];
            let payload = if oddity == 0 { 33 } else { size.min(2) * 50 };
            let flags = match oddity { 1 => ACK | PSH, 2 => ACK | 1, _ => ACK };
            if oddity == 3 {
                *seq = seq.wrapping_add(1_000);
            }
            packets.push(build(Wanted { v6, port, seq: *seq, payload, flags, ..PLAIN }));
            *seq = seq.wrapping_add(payload as u32);
        }
        let flow = |packet: &Vec<u8>| (packet[0] >> 4, packet[if packet[0] >> 4 == 4 { 21 } else { 41 }]);
        let out: Vec<Vec<u8>> = joined(&packets).iter().flat_map(|(header, packet)| cut(*header, packet)).collect();
        prop_assert_eq!(out.len(), packets.len());
        for which in packets.iter().map(flow) {
            let of = |all: &[Vec<u8>]| all.iter().filter(|packet| flow(packet) == which).cloned().collect::<Vec<_>>();
            prop_assert_eq!(of(&out), of(&packets));
        }
    }

    /// R1.8: whatever was sealed inside, looking at it is safe and hands it over unchanged.
    #[test]
    fn garbage_goes_through_unchanged(packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..90), 0..20)) {
        let all: Vec<Vec<u8>> = joined(&packets).into_iter().map(|(_, packet)| packet).collect();
        prop_assert_eq!(all, packets);
    }
}
