//! Target `pipeline`: frames of both ports through a worker's pipeline, behind authentication too, while bindings come,
//! change their keys and go. Real tables, mailbox and installer. What the gateway is like an input may choose
//! (`world.rs`).

mod outside;
mod seeds;
mod worker;
mod world;

use crate::Source;
use crate::ports::conserve;
use crate::shapes;
use jvpn_abi::ports::PortMark;
use jvpn_abi::tables::{InstallEntry, SteeringMark};
use jvpn_abi::{DropReason, Endpoint};
use jvpn_dataplane::frame::checksum::pseudo_sum;
use jvpn_dataplane::frame::{
    Ecn, Family, GatewayAddresses, IcmpError, Inner, answer_echo, clamp_mss, cut, error_in_place,
    finish_checksum, fold, sum_words,
};
use jvpn_dataplane::pipeline::Verdict;
use outside::{Transport, UdpSum};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::time::Duration;
use worker::{Place, Worker};
use world::{Client, Path, World, server_mac};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 10);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x50, 0, 0, 0, 0, 0x10);
/// The second client's. Without it nobody's: in the pool, and in a network that no route leads to.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 9);
/// Largest inner packet.
const MTU: usize = 1_400;
/// Most octets of a plaintext that an input brings itself.
const LONGEST: usize = 1_700;
/// Steps of one sequence.
const STEPS: usize = 48;

fn gateway() -> GatewayAddresses {
    GatewayAddresses { v4: Some(GATEWAY.into()), v6: Some(GATEWAY_V6.into()) }
}

pub(crate) fn run(data: &[u8]) {
    let _reached = reached(data);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    seeds::all()
}

/// Runs an input. Where it has come to, and why packets left the pipeline.
fn reached(data: &[u8]) -> (BTreeSet<Place>, BTreeSet<DropReason>) {
    packets(data);
    let mut source = Source::new(data);
    let world = World::chosen(&mut source);
    let mut worker = Worker::attached(world);
    for _ in 0..STEPS {
        step(&mut worker, &mut source);
        if source.is_empty() {
            break;
        }
    }
    let reasons = worker.conclude();
    let [wan, lan] = std::mem::take(&mut worker.came);
    // A worker of its own over fresh tables: what was a replay above is new to it, and with few frames to send with.
    let again = Worker::attached(world);
    conserve(wan, lan, 1 + data.len() as u64 % 4, &again.tables, again.pipeline, &again.queues);
    (worker.reached, reasons)
}

/// An entry as a control plane that has lost its mind would write it.
fn odd_entry(source: &mut Source<'_>, world: World) -> InstallEntry {
    let client = Client::First;
    let number = u32::from(source.u8() % 4);
    let mut odd = client.entry(world.path(client), u32::from(source.u8() % 8));
    odd.key_number = number;
    [odd.open_key, odd.seal_key] = client.keys(number);
    match source.u8() {
        // Another family, at both ends or at one alone.
        ends @ 0xf0..=0xf3 => {
            let end = |bit: u8| client.path(if ends & bit == 0 { Family::V4 } else { Family::V6 });
            let (Path { remote, .. }, Path { local, .. }) = (end(1), end(2));
            (odd.remote_addr, odd.remote_port) = (remote.addr, remote.port);
            (odd.local_addr, odd.local_port) = (local.addr, local.port);
        }
        other => match other % 8 {
            0 => odd.slot = source.u32(),
            1 => odd.word = source.u64(),
            2 => odd.suite = source.u8(),
            3 => odd.prefix_count = source.u8(),
            4 => odd.prefix_lens[0] = source.u8(),
            5 => odd.hard_packets = u64::from(source.u8()),
            _ => {}
        },
    }
    odd
}

/// The octets of a step that say that a packet of some shape comes, and those that say everything of a frame. Others
/// are told apart by their lowest bits.
const SHAPED: RangeInclusive<u8> = 0xf8..=0xff;
const CHOSEN: RangeInclusive<u8> = 0xf0..=0xf3;

fn step(worker: &mut Worker, source: &mut Source<'_>) {
    let op = source.u8();
    if SHAPED.contains(&op) {
        return shaped(worker, source, op);
    }
    if CHOSEN.contains(&op) {
        return chosen(worker, source, op);
    }
    match op % 8 {
        0 => {
            let _verdict = worker.inbound(source.chunk(), None);
        }
        1 => worker.outbound(source.chunk(), false),
        2 | 3 => sealed(worker, source),
        4 => {
            let mut frame = SteeringMark { slot_index: Client::First.slot().index() }.encode().to_vec();
            frame.extend(server_mac(0).0);
            frame.extend([8, 0]);
            frame.extend(source.chunk());
            let spoiled = source.spoil(&frame);
            worker.outbound(&spoiled, false);
        }
        5 => {
            let odd = odd_entry(source, worker.world());
            worker.install(&odd);
        }
        6 => rebind(worker, source),
        _ => worker.now = worker.now.after(Duration::from_millis(u64::from(source.u16()))),
    }
}

/// A packet of some shape, by the tunnel or from the LAN.
fn shaped(worker: &mut Worker, source: &mut Source<'_>, op: u8) {
    let client = Client::First;
    let is_up = op & 1 == 0;
    let packet = shapes::packet(source, &client.hosts(), is_up);
    if is_up {
        let datagram = client.seals(0, u64::from(source.u16()), &packet);
        let path = worker.path(client);
        let mut frame = outside::frame(path, &datagram, UdpSum::usual(path));
        outside::mark_ecn(&mut frame, source.u8());
        let _verdict = worker.inbound(&frame, Some(&packet));
    } else {
        worker.outbound(&lan_frame(client, &packet), false);
    }
}

/// The frame in which a packet from the LAN's server is steered to a client.
fn lan_frame(client: Client, packet: &[u8]) -> Vec<u8> {
    let is_v6 = packet.first().is_some_and(|octet| octet >> 4 == 6);
    let ethertype = if is_v6 { [0x86, 0xdd] } else { [8, 0] };
    let mark = SteeringMark { slot_index: client.slot().index() }.encode();
    [&mark[..], &server_mac(0).0, &ethertype, packet].concat()
}

/// A frame of which the input says everything: whose it is, and what is in it; from the LAN, what its sender made of
/// its checksum; from the WAN, by which path and interface it came, with which checksum and mark.
fn chosen(worker: &mut Worker, source: &mut Source<'_>, op: u8) {
    let client = if op & 2 == 0 { Client::First } else { Client::Second };
    let is_up = op & 1 == 0;
    let (how, what) = (source.u8(), source.u8());
    let counter = if is_up { u64::from(source.u16()) } else { 0 };
    let packet = if what & 0x80 == 0 {
        shapes::packet(source, &client.hosts(), is_up)
    } else {
        let chunk = source.chunk();
        chunk.get(..LONGEST).unwrap_or(chunk).to_vec()
    };
    if is_up {
        let datagram = client.seals(u32::from(what & 3) % 3, counter, &packet);
        up(worker, client, &datagram, &packet, how);
    } else {
        down(worker, client, packet, how);
    }
}

fn up(worker: &mut Worker, client: Client, datagram: &[u8], plain: &[u8], how: u8) {
    let bound = worker.path(client);
    let is_elsewhere = how & 0x20 != 0;
    let path = match (is_elsewhere, bound.family()) {
        (false, _) => bound,
        (true, Family::V4) => client.path(Family::V6),
        (true, Family::V6) => client.path(Family::V4),
    };
    let sum = match how & 3 {
        0 => UdpSum::usual(path),
        1 => UdpSum::Wrong,
        2 => UdpSum::Absent,
        _ => UdpSum::True,
    };
    let mut frame = outside::frame(path, datagram, sum);
    outside::mark_ecn(&mut frame, how >> 6);
    if how & 0x10 != 0 {
        frame[..PortMark::LEN].copy_from_slice(&PortMark(how >> 2 & 3).encode());
    }
    let verdict = worker.inbound(&frame, Some(plain));
    if matches!(verdict, Verdict::Drop(_)) {
        return;
    }
    assert!(!is_elsewhere, "a frame was taken that did not come by its binding's path: {verdict:?}");
    let again = worker.inbound(&frame, Some(plain));
    assert!(matches!(again, Verdict::Drop(_)), "R2.4: a replay was taken: {again:?}");
}

fn down(worker: &mut Worker, client: Client, mut packet: Vec<u8>, how: u8) {
    let transport = Transport::of(&packet);
    let is_left_out = how % 3 == 1 && transport.is_some();
    if let Some(transport) = transport {
        match how % 3 {
            0 => {}
            1 => transport.leave_out(&mut packet),
            _ => transport.complete(&mut packet),
        }
    }
    worker.outbound(&lan_frame(client, &packet), is_left_out);
}

/// A plaintext of the input's, spoiled on the way.
fn sealed(worker: &mut Worker, source: &mut Source<'_>) {
    let (number, counter) = (u32::from(source.u8() % 3), u64::from(source.u16()));
    let chunk = source.chunk();
    let plain = chunk.get(..LONGEST).unwrap_or(chunk);
    let path = worker.path(Client::First);
    let datagram = Client::First.seals(number, counter, plain);
    let genuine = outside::frame(path, &datagram, UdpSum::usual(path));
    let spoiled = source.spoil(&genuine);
    let changed = |at: usize| spoiled[at] != genuine[at] && !outside::is_routers(&genuine, at);
    let verdict = worker.inbound(&spoiled, Some(plain));
    if spoiled.len() == genuine.len() && (0..genuine.len()).any(changed) {
        assert!(matches!(verdict, Verdict::Drop(_)), "a changed frame was taken: {verdict:?}");
    }
    if worker.inbound(&genuine, Some(plain)) != verdict {
        let again = worker.inbound(&genuine, Some(plain));
        assert!(matches!(again, Verdict::Drop(_)), "R2.4: a replay was taken: {again:?}");
    }
}

/// Bindings come and go without their keys; and the LAN is seen anew.
fn rebind(worker: &mut Worker, source: &mut Source<'_>) {
    let (first, second) = (Client::First, Client::Second);
    match source.u8() {
        0xf0 => worker.unbind(second),
        0xf1 => worker.bind(second, worker.world().path(second)),
        0xf2 => worker.change_lan(),
        other => match other % 3 {
            0 => worker.unbind(first),
            1 => worker.bind(first, worker.world().path(first)),
            _ => {
                let path = worker.world().path(first);
                let remote = Endpoint { port: source.u16(), ..path.remote };
                worker.bind(first, Path { remote, ..path });
            }
        },
    }
}

/// The helpers that rewrite packets, on packets of any shape.
fn packets(data: &[u8]) {
    let Some(inner) = Inner::parse(data) else { return };
    assert!(inner.header_len <= inner.len && inner.len <= data.len(), "{inner:?}");
    unfinished(data, &inner);
    let header = |packet: &[u8]| fold(sum_words(&packet[..inner.header_len]));
    let mut packet = data.to_vec();
    if inner.hop_limit > 1 && (inner.family == Family::V6 || header(&packet) == 0) {
        inner.take_hop(&mut packet);
        inner.mark(&mut packet, Ecn::CE);
        assert!(inner.family == Family::V6 || header(&packet) == 0, "RFC 1624");
    }
    let mut packet = data.to_vec();
    clamp_mss(&mut packet, &inner, 1_280);
    assert_eq!(packet.len(), data.len());
    if answer_echo(&mut packet, &inner).is_some() {
        let answer = Inner::parse(&packet).unwrap();
        assert_eq!((answer.source, answer.destination), (inner.destination, inner.source));
        assert_eq!(icmp_sum(&packet, &answer), 0, "RFC 792, RFC 4443");
    }
    let mut packet = [data, &[0; 128]].concat();
    if let Some(len) = error_in_place(&mut packet, &inner, IcmpError::TooBig(1_280), &gateway()) {
        let error = Inner::parse(&packet[..len]).unwrap();
        assert_eq!((error.len, error.destination), (len, inner.source));
        assert_eq!(icmp_sum(&packet, &error), 0, "RFC 792, RFC 4443");
    }
    let mut frame = [&[0; 14], data].concat();
    if let Some(piece) = cut(&mut frame, &inner, 576) {
        let first = Inner::parse(&frame[14..]).unwrap();
        let rest = piece.uncover_rest(&mut frame).unwrap();
        let rest = Inner::parse(&frame[rest + 14..]).unwrap();
        assert!(first.len <= 576 && first.len - 20 + rest.len == inner.len, "{first:?} and {rest:?}");
    }
}

/// What a sender left out is computed, whatever is in its packet; what is true stays.
fn unfinished(data: &[u8], inner: &Inner) {
    let Some(transport) = Transport::of(data) else { return };
    let mut packet = data.to_vec();
    let is_finished = finish_checksum(&mut packet, inner);
    assert!(packet == data || is_finished && !transport.is_true(data), "{inner:?}");
    transport.leave_out(&mut packet);
    assert!(finish_checksum(&mut packet, inner) && transport.is_true(&packet), "{inner:?}");
}

fn icmp_sum(packet: &[u8], inner: &Inner) -> u16 {
    let pseudo = match inner.family {
        Family::V4 => 0,
        Family::V6 => pseudo_sum(&packet[8..40], 58, inner.len - inner.header_len),
    };
    fold(pseudo + sum_words(&packet[inner.header_len..inner.len]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R1.9: the fuzzer begins behind authentication over both families outside, and by every way that a world offers;
    /// otherwise it would hardly ever get there.
    #[test]
    fn r1_9_seeds_of_the_pipeline_take_every_way() {
        let (mut places, mut reasons) = (BTreeSet::new(), BTreeSet::new());
        for seed in seeds() {
            let (more_places, more_reasons) = reached(&seed);
            places.extend(more_places);
            reasons.extend(more_reasons);
        }
        for place in [Place::OpenedV6, Place::SealedV6, Place::Finished, Place::SecondWan, Place::SecondLan] {
            assert!(places.contains(&place), "{place:?} is not reached: {places:?}");
        }
        for reason in [
            DropReason::ForwardedIn,
            DropReason::ForwardedOut,
            DropReason::TurnedRound,
            DropReason::ClientToClientDenied,
            DropReason::Fragmented,
            DropReason::IcmpErrorSent,
            DropReason::EndpointMismatch,
            DropReason::OpenFailed,
            DropReason::Unconfirmed,
            DropReason::CongestionLost,
        ] {
            assert!(reasons.contains(&reason), "{reason} is not reached: {reasons:?}");
        }
    }
}
