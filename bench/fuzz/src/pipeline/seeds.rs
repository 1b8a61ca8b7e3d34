//! Inputs that get somewhere: both families inside and outside, every world, every kind of step.

use super::outside::{self, Transport, UdpSum};
use super::world::{CHOICE, Client, World};
use super::{CLIENT, CLIENT_V6, GATEWAY, GATEWAY_V6, OTHER, OTHER_V6, SERVER, SERVER_V6, icmp_sum};
use jvpn_abi::tables::InstallOp;
use jvpn_abi::wire::internal::{ProbeFrame, ProbeKind, SIZE_LEN, SizeFrame, SizeKind};
use jvpn_dataplane::frame::{Family, Inner, fold, sum_words};
use std::net::{Ipv4Addr, Ipv6Addr};

/// All of them.
pub(super) fn all() -> Vec<Vec<u8>> {
    [plain(), of_one_client(), of_two_clients(), of_shapes()].concat()
}

/// A packet with sound checksums.
fn packet(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(((20 + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = fold(sum_words(&packet));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// The same, of IPv6; UDP's checksum is not looked at.
fn packet_v6(next_header: u8, source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next_header, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// UDP without a checksum, as much of it as is asked for.
fn udp(len: usize) -> Vec<u8> {
    let mut udp = vec![0, 7, 0, 7];
    udp.extend((len as u16).to_be_bytes());
    udp.resize(len, 0);
    udp
}

/// A SYN that asks for segments of 9,000 octets.
const SYN: [u8; 24] = [0, 7, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 2, 4, 0, 0, 0, 0, 0, 2, 4, 0x23, 0x28];

/// The same packet with a true checksum of TCP or UDP.
fn complete(mut packet: Vec<u8>) -> Vec<u8> {
    Transport::of(&packet).unwrap().complete(&mut packet);
    packet
}

/// The same packet, and its sender allows it to be cut.
fn loose(mut packet: Vec<u8>) -> Vec<u8> {
    packet[6] = 0;
    packet[10..12].fill(0);
    let sum = fold(sum_words(&packet[..20]));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn chunk(octets: &[u8]) -> Vec<u8> {
    [&(octets.len() as u16).to_be_bytes()[..], octets].concat()
}

/// A step: this plaintext, sealed and not spoiled.
fn data(number: u8, counter: u8, plain: &[u8]) -> Vec<u8> {
    [vec![2, number, 0, counter], chunk(plain), vec![0]].concat()
}

/// A step: this packet from the LAN, not spoiled.
fn lan(packet: &[u8]) -> Vec<u8> {
    [vec![4], chunk(packet), vec![0]].concat()
}

/// A step: an odd entry. `other` says what is odd about it; 7 is nothing.
fn entry(number: u8, op: InstallOp, other: u8) -> Vec<u8> {
    vec![5, number, op as u8, other]
}

/// A step that says everything of a frame, here with a plaintext of its own: from this client to the gateway.
fn up(client: Client, how: u8, counter: u8, plain: &[u8]) -> Vec<u8> {
    let op = if client == Client::First { 0xf0 } else { 0xf2 };
    [vec![op, how, 0x80, 0, counter], chunk(plain)].concat()
}

/// The same from the LAN to this client.
fn down(client: Client, how: u8, packet: &[u8]) -> Vec<u8> {
    let op = if client == Client::First { 0xf1 } else { 0xf3 };
    [vec![op, how, 0x80], chunk(packet)].concat()
}

/// The input that has these steps in this world.
fn world(bits: u8, steps: &[Vec<u8>]) -> Vec<u8> {
    [vec![CHOICE, bits], steps.concat()].concat()
}

fn ping() -> Vec<u8> {
    let mut echo = vec![8, 0, 0, 0, 1, 2, 3, 4];
    let sum = fold(sum_words(&echo));
    echo[2..4].copy_from_slice(&sum.to_be_bytes());
    packet(1, CLIENT, GATEWAY, &echo)
}

fn ping_v6() -> Vec<u8> {
    let mut echo = packet_v6(58, CLIENT_V6, GATEWAY_V6, &[128, 0, 0, 0, 1, 2, 3, 4]);
    let sum = icmp_sum(&echo, &Inner::parse(&echo).unwrap());
    echo[42..44].copy_from_slice(&sum.to_be_bytes());
    echo
}

fn probe() -> Vec<u8> {
    let probe = ProbeFrame {
        kind: ProbeKind::Probe,
        id: 1,
        sent_at_ns: 2,
        next_interval_ms: 200,
        received: 4,
        highest_counter: 5,
        rtt_us: 6,
    };
    probe.encode().to_vec()
}

/// A question that says that the path carries so much.
fn size(carried: u16) -> Vec<u8> {
    let mut frame = vec![0; SIZE_LEN];
    SizeFrame { kind: SizeKind::Ask, id: 1, carried }.write(&mut frame).unwrap();
    frame
}

/// Without a world.
fn plain() -> Vec<Vec<u8>> {
    let up = packet(17, CLIENT, SERVER, b"payload!");
    let down = packet(17, SERVER, CLIENT, b"payload!");
    let frame = {
        let path = Client::First.path(Family::V4);
        outside::frame(path, &Client::First.seals(0, 0, &up), UdpSum::Absent)
    };
    let up_v6 = packet_v6(17, CLIENT_V6, SERVER_V6, b"payload!");
    let down_v6 = packet_v6(17, SERVER_V6, CLIENT_V6, b"payload!");
    let nowhere = packet(17, CLIENT, Ipv4Addr::new(192, 0, 2, 1), b"payload!");
    let mut long = packet(17, SERVER, CLIENT, &[7; 1_500]);
    long[6] = 0;
    let rekey = entry(1, InstallOp::AddKey, 7);
    vec![
        [data(0, 0, &up), lan(&down), data(0, 1, &up)].concat(),
        [data(0, 0, &probe()), data(0, 5, &ping()), lan(&down)].concat(),
        [data(0, 0, &up), rekey, data(1, 0, &up), lan(&down), data(0, 9, &up)].concat(),
        [vec![0], chunk(&frame), vec![1], chunk(&down), vec![6, 0], data(0, 2, &up), vec![6, 1], lan(&down)]
            .concat(),
        [vec![2, 0, 0, 1], chunk(&up), vec![1, 0, 50, 0x80], data(0, 1, &up)].concat(),
        [data(0, 0, &up_v6), lan(&down_v6), data(0, 1, &ping_v6())].concat(),
        [data(0, 0, &nowhere), lan(&long), data(0, 1, &up_v6)].concat(),
        ping(),
        down,
        ping_v6(),
        long,
        complete(packet(17, SERVER, CLIENT, &udp(16))),
        complete(packet_v6(6, SERVER_V6, CLIENT_V6, &SYN)),
    ]
}

/// Over IPv6, by several interfaces, with checksums that are left out.
fn of_one_client() -> Vec<Vec<u8>> {
    const MARK_1: u8 = 0x10 | 1 << 2;
    const MARK_3: u8 = 0x10 | 3 << 2;
    let first = Client::First;
    let (out, out_v6) = (packet(17, CLIENT, SERVER, &udp(16)), packet_v6(17, CLIENT_V6, SERVER_V6, &udp(16)));
    let (back, back_v6) =
        (packet(17, SERVER, CLIENT, &udp(16)), packet_v6(17, SERVER_V6, CLIENT_V6, &udp(16)));
    let (syn, syn_v6) = (packet(6, SERVER, CLIENT, &SYN), packet_v6(6, SERVER_V6, CLIENT_V6, &SYN));
    let expired = {
        let mut packet = packet_v6(17, SERVER_V6, CLIENT_V6, &udp(16));
        packet[7] = 1;
        packet
    };
    let spoiled = [vec![2, 0, 0, 9], chunk(&out), vec![1, 0, 82, 0x80]].concat();
    // (odd about its path) both ends; one alone.
    let (moved, torn) = (entry(0, InstallOp::Install, 0xf3), entry(0, InstallOp::Install, 0xf1));
    let several = World::FIRST_V6 | World::UNFINISHED | World::MARKED | World::TWO_LANS;
    vec![
        world(
            World::FIRST_V6,
            &[lan(&back), data(0, 0, &out), lan(&back), data(0, 1, &out_v6), lan(&back_v6), spoiled],
        ),
        world(World::FIRST_V6, &[data(0, 0, &ping()), data(0, 1, &ping_v6()), data(0, 2, &probe())]),
        // Checksums outside: wrong, none. Then the other family's path, and congestion.
        world(
            World::FIRST_V6,
            &[
                up(first, 1, 0, &out),
                up(first, 2, 1, &out),
                up(first, 0x20, 2, &out),
                up(first, 0xc0, 3, &out),
            ],
        ),
        world(
            several,
            &[
                up(first, MARK_1, 0, &out),
                up(first, MARK_1, 1, &out_v6),
                down(first, 1, &back),
                down(first, 1, &back_v6),
                down(first, 1, &syn),
                down(first, 1, &syn_v6),
                down(first, 2, &syn),
                down(first, 0, &expired),
            ],
        ),
        world(World::UNFINISHED, &[up(first, 3, 0, &out), down(first, 1, &back), down(first, 1, &syn_v6)]),
        world(
            World::MARKED | World::TWO_LANS,
            &[
                up(first, MARK_3, 0, &complete(packet(6, CLIENT, SERVER, &SYN))),
                down(first, 2, &back),
                vec![6, 0xf2],
                up(first, MARK_3, 1, &out_v6),
                entry(0, InstallOp::Adopt, 7),
                lan(&back),
                data(0, 2, &out),
                lan(&back),
            ],
        ),
        // A mark on the wire is nobody's here.
        world(0, &[up(first, MARK_1, 0, &out), lan(&back), vec![6, 0xf1], down(Client::Second, 0, &back)]),
        [data(0, 0, &out), moved, data(0, 0, &out), lan(&back), torn, data(0, 1, &out)].concat(),
    ]
}

/// What one client sends to another, over two families.
fn of_two_clients() -> Vec<Vec<u8>> {
    let (first, second) = (Client::First, Client::Second);
    let known = packet(17, CLIENT, SERVER, &udp(16));
    let known_too = packet(17, OTHER, SERVER, &udp(16));
    let across = complete(packet(17, CLIENT, OTHER, &udp(16)));
    let across_v6 = packet_v6(17, CLIENT_V6, OTHER_V6, &udp(16));
    let and_back = complete(packet(6, OTHER, CLIENT, &SYN));
    let long = packet(17, CLIENT, OTHER, &udp(1_380));
    let met = [up(first, 0, 0, &known), up(second, 0, 0, &known_too)].concat();
    let sent = [
        up(first, 0, 1, &across),
        up(first, 0, 2, &across_v6),
        up(second, 0, 1, &and_back),
        up(second, 0, 2, &size(1_220)),
        up(first, 0, 3, &loose(long.clone())),
        up(first, 0, 4, &long),
        down(second, 0, &packet(17, SERVER, OTHER, &udp(16))),
        down(second, 2, &packet_v6(6, SERVER_V6, OTHER_V6, &SYN)),
        vec![6, 0xf0],
        up(first, 0, 5, &across),
    ]
    .concat();
    let over_v6 = World::FIRST_V6 | World::SECOND_V6;
    [0, World::SECOND_V6, World::FIRST_V6, over_v6, World::DENIED, over_v6 | World::DENIED]
        .map(|bits| world(World::SECOND | bits, &[met.clone(), sent.clone()]))
        .into()
}

/// Both ways, both families, plain and with everything; in the plain world, and in worlds with everything.
fn of_shapes() -> Vec<Vec<u8>> {
    let simple: Vec<u8> =
        (0_u8..32).flat_map(|n| [0xf8 + n % 4, n, n, n, 64, 0, n * 8, n, n, 0, n, n, n, 1, n, n]).collect();
    let rich: Vec<u8> = (0_u8..32)
        .flat_map(|n| [0xf8 + n % 2, n / 2, 0, 1, 64, 1, 100, n, 2, 5, 180, n % 5, 1, 1, 3])
        .collect();
    let chosen: Vec<u8> = (0_u8..24)
        .flat_map(|n| [0xf0 + n % 4, n % 3, 0, n / 2, 0, 1, 64, 0, 40, n / 4, 0, 0, 0, 0, n % 3, 0, 0])
        .collect();
    let everything = World::SECOND | World::UNFINISHED | World::MARKED | World::TWO_LANS;
    let worlds = [everything | World::FIRST_V6, everything | World::SECOND_V6 | World::DENIED];
    let with = |steps: &Vec<u8>| worlds.map(|bits| world(bits, std::slice::from_ref(steps)));
    let in_worlds: Vec<Vec<u8>> = [&simple, &rich, &chosen].into_iter().flat_map(with).collect();
    [vec![simple, rich], in_worlds].concat()
}
