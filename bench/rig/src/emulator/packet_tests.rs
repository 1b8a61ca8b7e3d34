use std::net::SocketAddr;

use super::*;
use crate::frame::{Datagram, checksum};

fn v4(payload: &[u8]) -> Vec<u8> {
    let datagram = Datagram {
        source: "10.0.1.2:40000".parse().unwrap(),
        destination: "198.51.100.1:4500".parse().unwrap(),
        payload,
    };
    datagram.to_frame([2; 6], [4; 6]).unwrap()
}

fn with_sum(mut transport: Vec<u8>, protocol: u8, addresses: &[u8]) -> Vec<u8> {
    let at = if protocol == UDP { 6 } else { 16 };
    let len = u16::try_from(transport.len()).unwrap().to_be_bytes();
    let sum = checksum([addresses, &[0, protocol, len[0], len[1]], &transport]);
    transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    transport
}

fn tcp_v4() -> Vec<u8> {
    let mut frame = v4(b"")[..34].to_vec();
    frame[23] = TCP;
    frame[16..18].copy_from_slice(&45_u16.to_be_bytes());
    frame[24..26].copy_from_slice(&[0, 0]);
    let sum = checksum([&frame[14..34]]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let mut tcp = vec![0x9c, 0x40, 0x00, 0x50];
    tcp.resize(12, 7);
    tcp.extend([0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    tcp.extend(b"odd!!");
    frame.extend(with_sum(tcp, TCP, &v4(b"")[26..34]));
    frame
}

fn udp_v6(payload: &[u8]) -> Vec<u8> {
    let mut frame = [[4; 6], [2; 6]].concat();
    let len = u16::try_from(8 + payload.len()).unwrap().to_be_bytes();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, len[0], len[1], UDP, 64]);
    frame.extend([0xfd; 16]);
    frame.extend([0x20; 16]);
    let mut udp = [[0x9c, 0x40], [0x11, 0x94], len, [0, 0]].concat();
    udp.extend(payload);
    let addresses = [[0xfd; 16], [0x20; 16]].concat();
    frame.extend(with_sum(udp, UDP, &addresses));
    frame
}

/// Whether all checksums of the frame hold, computed anew over the whole.
fn holds(frame: &[u8]) -> bool {
    let layout = Layout::of(frame).unwrap();
    let transport = &frame[layout.transport..];
    let len = u16::try_from(transport.len()).unwrap().to_be_bytes();
    let pseudo = [0, layout.protocol, len[0], len[1]];
    let addresses = if layout.is_v6 { &frame[22..54] } else { &frame[26..34] };
    let header = layout.is_v6 || checksum([&frame[14..34]]) == 0;
    header && checksum([addresses, &pseudo, transport]) == 0
}

/// R7.1: a NAT's rewriting leaves right checksums: IPv4 and IPv6, UDP and TCP, odd lengths, both ends, and back again.
#[test]
fn r7_1_rewriting_keeps_checksums_right() {
    let to_v4: [SocketAddr; 3] = [
        "192.0.2.1:20001".parse().unwrap(),
        "255.255.255.255:65535".parse().unwrap(),
        "0.0.0.0:0".parse().unwrap(),
    ];
    for original in [v4(b"even"), v4(b"odd"), v4(b""), tcp_v4()] {
        assert!(holds(&original));
        for to in to_v4 {
            for end in [End::Source, End::Destination] {
                let mut frame = original.clone();
                let before = flow(&frame).unwrap();
                assert!(rewrite(&mut frame, end, to));
                assert!(holds(&frame), "{to} {end:?}");
                let after = flow(&frame).unwrap();
                let (changed, was) = match end {
                    End::Source => (after.source, before.source),
                    End::Destination => (after.destination, before.destination),
                };
                assert_eq!(changed, to);
                assert!(rewrite(&mut frame, end, was));
                assert_eq!(flow(&frame), Some(before));
                assert!(holds(&frame));
            }
        }
        assert!(!rewrite(&mut original.clone(), End::Source, "[::1]:5".parse().unwrap()), "another family");
    }
    let original = udp_v6(b"payload");
    let mut frame = original.clone();
    assert!(holds(&frame) && rewrite(&mut frame, End::Source, "[2001:db8::5]:20001".parse().unwrap()));
    assert!(holds(&frame));
    assert_eq!(flow(&frame).unwrap().source, "[2001:db8::5]:20001".parse().unwrap());
}

#[test]
fn no_checksum_stays_none_and_what_is_no_flow_is_left_alone() {
    let mut frame = v4(b"x");
    frame[40..42].copy_from_slice(&[0, 0]);
    assert!(rewrite(&mut frame, End::Source, "192.0.2.1:9".parse().unwrap()));
    assert_eq!(frame[40..42], [0, 0], "UDP over IPv4 may do without");
    let mut fragment = v4(b"x");
    fragment[20] = 0x20;
    for frame in [fragment, vec![], vec![0; 13], v4(b"x")[..40].to_vec(), vec![0xff; 60]] {
        let mut same = frame.clone();
        assert!(flow(&frame).is_none() && !rewrite(&mut same, End::Source, "192.0.2.1:9".parse().unwrap()));
        assert_eq!(same, frame);
    }
    let mut arp = vec![0xff; 42];
    arp[12..14].copy_from_slice(&[8, 6]);
    assert!(!is_ip(&arp) && is_ip(&v4(b"")));
    let mut solicitation = udp_v6(b"");
    (solicitation[20], solicitation[54]) = (58, 135);
    assert!(!is_ip(&solicitation), "neighbour discovery is the link's own");
}

#[test]
fn the_sender_of_a_packet_that_is_too_big_is_told() {
    let frame = v4(&[1; 1_400]);
    let answer = too_big(&frame, 1_300).unwrap();
    assert_eq!((&answer[..6], &answer[6..12]), (&frame[6..12], &frame[..6]), "back to where it came from");
    assert_eq!((checksum([&answer[14..34]]), checksum([&answer[34..]])), (0, 0));
    assert_eq!((answer[34], answer[35], &answer[40..42]), (3, 4, 1_300_u16.to_be_bytes().as_slice()));
    assert_eq!(answer[42..], frame[14..42], "it quotes header and ports");
    assert!(too_big(&answer, 20).is_none(), "no error about an error");

    let frame = udp_v6(&[1; 1_400]);
    let answer = too_big(&frame, 1_300).unwrap();
    assert_eq!((answer[54], &answer[58..62]), (2, 1_300_u32.to_be_bytes().as_slice()));
    let len = u16::try_from(answer.len() - 54).unwrap().to_be_bytes();
    let pseudo = [0, 0, len[0], len[1], 0, 0, 0, ICMPV6];
    assert_eq!(checksum([&answer[22..54], &pseudo, &answer[54..]]), 0);
}
