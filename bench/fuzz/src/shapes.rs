//! Inner packets of every shape, as an input asks for them: both families, options and extension headers, fragments, TCP with
//! its options, ICMP errors, lengths that lie, marks of congestion. Ordinary octets hardly ever get there by themselves.

use crate::Source;
use jvpn_dataplane::frame::{fold, sum_words};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Longest packet, without what its length says.
const LONGEST: usize = 1_690;
/// Hop-by-hop, routing, fragment, authentication, destination options, mobility.
const EXTENSIONS: [u8; 6] = [0, 43, 44, 51, 60, 135];

/// The addresses that a packet may have; the first two of each are the client's and the server's.
pub(crate) struct Hosts {
    pub(crate) v4: [Ipv4Addr; 4],
    pub(crate) v6: [Ipv6Addr; 4],
}

/// A packet, from client to server if `up`, or wherever the input wants it to go.
pub(crate) fn packet(source: &mut Source<'_>, hosts: &Hosts, up: bool) -> Vec<u8> {
    let [is_v6, ends, ecn, hop_limit] = [(); 4].map(|()| source.u8());
    let (from, to) = if up { (0, 1) } else { (1, 0) };
    let (from, to) = match ends {
        0..192 => (from, to),
        other => (usize::from(other % 4), usize::from(other / 4 % 4)),
    };
    let (protocol, payload) = payload(source);
    let mut packet = if is_v6 % 2 == 0 {
        v4(source, (hosts.v4[from], hosts.v4[to]), ecn, hop_limit, protocol, &payload)
    } else {
        v6(source, (hosts.v6[from], hosts.v6[to]), ecn, hop_limit, protocol, &payload)
    };
    packet.truncate(LONGEST);
    packet
}

/// What is in it: protocol number as of IPv4, and octets.
fn payload(source: &mut Source<'_>) -> (u8, Vec<u8>) {
    let pad = usize::from(source.u16()) % LONGEST;
    match source.u8() % 4 {
        0 => (17, [&[0, 7, 0, 7][..], &((8 + pad) as u16).to_be_bytes(), &[0, 0], &vec![5; pad]].concat()),
        // SYN with options as the input says them; maximum segment size among them.
        1 => {
            let mss = [[2, 4], source.u16().to_be_bytes()].concat();
            let more = usize::from(source.u8() % 34);
            let options = [&mss[..], source.octets(more), &[0; 3]].concat();
            let words = (20 + options.len()) / 4;
            let head = [0, 7, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, (words as u8) << 4, 2, 4, 0, 0, 0, 0, 0];
            (6, [&head[..], &options].concat())
        }
        // An ICMP error about whatever follows.
        2 => {
            let head = [source.u8(), source.u8(), 0, 0, 0, 0, 5, 0];
            (1, [&head[..], source.chunk()].concat())
        }
        _ => (source.u8(), vec![9; pad]),
    }
}

fn v4(
    source: &mut Source<'_>,
    (from, to): (Ipv4Addr, Ipv4Addr),
    ecn: u8,
    hop_limit: u8,
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let words = usize::from(source.u8() % 11);
    let fragment = if source.u8().is_multiple_of(2) { 0 } else { source.u16() };
    let len = length(source, 20 + 4 * words + payload.len());
    let mut packet = vec![0x45 + words as u8, ecn];
    packet.extend(len.to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([hop_limit, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend((0..4 * words).map(|_| source.u8()));
    let sum = fold(sum_words(&packet));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

fn v6(
    source: &mut Source<'_>,
    (from, to): (Ipv6Addr, Ipv6Addr),
    ecn: u8,
    hop_limit: u8,
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let last = if protocol == 1 { 58 } else { protocol };
    let count = usize::from(source.u8() % 4);
    let kinds: Vec<u8> = (0..count).map(|_| EXTENSIONS[source.below(EXTENSIONS.len())]).collect();
    let mut extensions = Vec::new();
    for at in 0..count {
        let next = kinds.get(at + 1).copied().unwrap_or(last);
        let words = source.u8() % 3;
        extensions.extend([next, words]);
        extensions.extend((0..6 + 8 * usize::from(words)).map(|_| source.u8()));
    }
    let len = length(source, extensions.len() + payload.len());
    let mut packet = vec![0x60 | ecn >> 4, ecn << 4, 0, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([kinds.first().copied().unwrap_or(last), hop_limit]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(extensions);
    packet.extend(payload);
    packet
}

/// What the header says of the length: mostly the truth; else anything, among it that of a jumbogram, which is 0.
fn length(source: &mut Source<'_>, truth: usize) -> u16 {
    match source.u8() {
        0..200 => u16::try_from(truth).unwrap_or(u16::MAX),
        200..220 => 0,
        _ => source.u16(),
    }
}
