//! What the pipeline does to packets of both families: IPv6 inside and outside, hop limits, MSS, congestion marks, cutting,
//! and the errors that senders are told.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use common::*;
use jvpn_abi::tables::{BindingEntry, BindingWord, InstallOp, SteeringMark};
use jvpn_abi::wire::internal::{SIZE_LEN, SizeFrame, SizeKind};
use jvpn_abi::wire::{DATA_HEADER_LEN, DataHeader, SlotId, Suite, TAG_LEN};
use jvpn_abi::{DropReason, Endpoint};
use jvpn_crypto::aead::{OpenKey, SealKey};
use jvpn_dataplane::frame::checksum::pseudo_sum;
use jvpn_dataplane::frame::{Address, Ecn, Family, Inner, Mac, OUTER_V6_LEN, OuterTemplate, fold, sum_words};
use jvpn_dataplane::lan::{LanRoute, LanView};
use jvpn_dataplane::lan_mtu::LanMtus;
use jvpn_dataplane::pipeline::{BetweenClients, PipelineConfig, Routes, Verdict};
use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const REMOTE_6: Endpoint =
    Endpoint { addr: [0x20, 1, 0xd, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9], port: 40_000 };
const LOCAL_6: Endpoint =
    Endpoint { addr: [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], port: 4_500 };

/// An IPv6 packet of UDP.
fn inner_6(source: Ipv6Addr, destination: Ipv6Addr, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut p = vec![0x60, 0, 0, 0];
    p.extend((payload.len() as u16).to_be_bytes());
    p.extend([17, hop_limit]);
    p.extend(source.octets());
    p.extend(destination.octets());
    p.extend(payload);
    p
}

fn lan_frame_6(packet: &[u8]) -> Vec<u8> {
    let mut f = SteeringMark { slot_index: slot().index() }.encode().to_vec();
    f.extend(SERVER_MAC.0);
    f.extend([0x86, 0xdd]);
    f.extend(packet);
    f
}

/// The frame in which a client's sealed plaintext reaches the WAN port over IPv6.
fn data_frame_6(counter: u64, plaintext: &[u8], ecn: Ecn) -> Vec<u8> {
    let header = DataHeader { key_phase: false, shard: 0, slot: slot(), counter }.encode();
    let mut payload = header.to_vec();
    payload.resize(DATA_HEADER_LEN + plaintext.len() + TAG_LEN, 0);
    let key = SealKey::new(Suite::Aes256Gcm, &OPEN_KEY);
    key.seal(counter, &header, plaintext, &mut payload[DATA_HEADER_LEN..]).unwrap();
    let template = OuterTemplate::new(ROUTER_MAC, REMOTE_6, LOCAL_6).unwrap();
    let mut frame = vec![0; OUTER_V6_LEN];
    template.write(&mut frame, LAN_MAC, payload.len(), ecn).unwrap();
    frame.extend(payload);
    template.finish(&mut frame);
    frame
}

/// A binding whose path is IPv6, confirmed.
fn attached_6() -> Bench {
    let mut bench = Bench::new();
    assert!(bench.install(InstallOp::Install, |entry| {
        (entry.remote_addr, entry.remote_port) = (REMOTE_6.addr, REMOTE_6.port);
        (entry.local_addr, entry.local_port) = (LOCAL_6.addr, LOCAL_6.port);
    }));
    let path = BindingEntry::new(REMOTE_6, LOCAL_6);
    bench.tables.bindings.bind(slot().index(), &path, BindingWord::bound(slot(), 1));
    let first = data_frame_6(0, &inner(CLIENT, SERVER, 64, b"first"), Ecn::NOT_ECT);
    assert!(matches!(bench.inbound(&first), Verdict::ToLan(_)));
    bench
}

/// R5.1: IPv4 and IPv6 inside, over an IPv6 path, both ways, with true checksums.
#[test]
fn an_ipv6_path_carries_both_families() {
    let mut bench = attached_6();
    let packets = [inner(CLIENT, SERVER, 64, b"four"), inner_6(CLIENT_6, SERVER_6, 64, b"six")];
    for (counter, packet) in packets.iter().enumerate() {
        let frame = data_frame_6(counter as u64 + 1, packet, Ecn::NOT_ECT);
        let Verdict::ToLan(len) = bench.inbound(&frame) else { panic!("not forwarded") };
        let forwarded = Inner::parse(&bench.lan_out[14..len]).unwrap();
        assert_eq!((forwarded.hop_limit, forwarded.len), (63, packet.len()));
    }
    for mut frame in
        [lan_frame(&inner(SERVER, CLIENT, 9, b"four")), lan_frame_6(&inner_6(SERVER_6, CLIENT_6, 9, b"six"))]
    {
        let Verdict::ToWan(len) = bench.outbound(&mut frame) else { panic!("not sealed") };
        let out = &bench.wan_out[..len];
        assert_eq!((&out[..6], &out[12..14]), (&ROUTER_MAC.0[..], &[0x86, 0xdd][..]));
        assert_eq!((&out[22..38], &out[38..54]), (&LOCAL_6.addr[..], &REMOTE_6.addr[..]));
        assert_eq!(fold(pseudo_sum(&out[22..54], 17, len - 54) + sum_words(&out[54..])), 0);
        let header = DataHeader::parse(&out[OUTER_V6_LEN..]).unwrap();
        let (aad, sealed) = out[OUTER_V6_LEN..].split_at(DATA_HEADER_LEN);
        let mut plain = vec![0; sealed.len() - TAG_LEN];
        drop(
            OpenKey::new(Suite::Aes256Gcm, &SEAL_KEY).open(header.counter, aad, sealed, &mut plain).unwrap(),
        );
        assert_eq!(Inner::parse(&plain).unwrap().hop_limit, 8);
    }
}

/// IPv6 inside an IPv4 path; a source that is not the peer's is refused in either family.
#[test]
fn an_ipv4_path_carries_ipv6() {
    let mut bench = Bench::attached();
    let Verdict::ToLan(len) = bench.inbound(&data_frame(1, &inner_6(CLIENT_6, SERVER_6, 64, b"x"))) else {
        panic!("not forwarded")
    };
    assert_eq!((&bench.lan_out[..6], &bench.lan_out[12..14]), (&SERVER_MAC.0[..], &[0x86, 0xdd][..]));
    assert_eq!(bench.lan_out[14..len][7], 63);
    let foreign = inner_6("fd77::3".parse().unwrap(), SERVER_6, 64, b"x");
    assert_eq!(bench.inbound(&data_frame(2, &foreign)), Verdict::Drop(DropReason::InnerSourceDenied));
    let mapped = inner_6(CLIENT.to_ipv6_mapped(), SERVER_6, 64, b"x");
    assert_eq!(bench.inbound(&data_frame(3, &mapped)), Verdict::Drop(DropReason::InnerMalformed));
    let Verdict::ToWan(len) = bench.outbound(&mut lan_frame_6(&inner_6(SERVER_6, CLIENT_6, 9, b"x"))) else {
        panic!("not sealed")
    };
    assert_eq!(Inner::parse(&bench.client_opens(len).1).unwrap().family, Family::V6);
}

/// RFC 6040: a mark of the network reaches the inner packet, and inner marks are shown to the network.
#[test]
fn congestion_marks_survive_the_tunnel() {
    let mut bench = attached_6();
    let marked = |ecn: u8| {
        let mut packet = inner(CLIENT, SERVER, 64, b"x");
        let parsed = Inner::parse(&packet).unwrap();
        parsed.mark(&mut packet, Ecn::from_bits(ecn));
        packet
    };
    let Verdict::ToLan(len) = bench.inbound(&data_frame_6(1, &marked(2), Ecn::CE)) else { panic!("dropped") };
    assert_eq!(Inner::parse(&bench.lan_out[14..len]).unwrap().ecn, Ecn::CE);
    assert_eq!(fold(sum_words(&bench.lan_out[14..34])), 0);
    let verdict = bench.inbound(&data_frame_6(2, &marked(0), Ecn::CE));
    assert_eq!(verdict, Verdict::Drop(DropReason::CongestionLost));

    let mut bench = Bench::attached();
    let mut packet = inner(SERVER, CLIENT, 9, b"x");
    let parsed = Inner::parse(&packet).unwrap();
    parsed.mark(&mut packet, Ecn::ECT_1);
    let Verdict::ToWan(len) = bench.outbound(&mut lan_frame(&packet)) else { panic!("not sealed") };
    assert_eq!(bench.wan_out[15] & 3, Ecn::ECT_1.bits());
    assert_eq!(fold(sum_words(&bench.wan_out[14..34])), 0);
    assert_eq!(Inner::parse(&bench.client_opens(len).1).unwrap().ecn, Ecn::ECT_1);
}

/// A packet from the LAN that is too long: its sender is told what fits, in either family.
#[test]
fn too_big_for_the_tunnel_is_told_on_the_lan() {
    let mut bench = Bench::attached();
    for (mut frame, kind) in [
        (lan_frame(&inner(SERVER, CLIENT, 9, &[0; MTU])), 3u8),
        (lan_frame_6(&inner_6(SERVER_6, CLIENT_6, 9, &[0; MTU])), 2),
    ] {
        let Verdict::ToLan(len) = bench.outbound(&mut frame) else { panic!("nobody was told") };
        let out = &bench.lan_out[..len];
        assert_eq!((&out[..6], &out[6..12]), (&SERVER_MAC.0[..], &LAN_MAC.0[..]));
        let answer = Inner::parse(&out[14..]).unwrap();
        assert!(config().gateway.contains(answer.source));
        let icmp = &out[14 + answer.header_len..];
        assert_eq!((icmp[0], &icmp[4..8]), (kind, &(MTU as u32).to_be_bytes()[..]));
    }
    assert_eq!(bench.counter(DropReason::TooBig), 2);
    assert_eq!(bench.counter(DropReason::IcmpErrorSent), 2);
    assert_eq!(bench.counter(DropReason::ForwardedOut), 0);
}

/// A client is told why its packet goes nowhere; the answers are limited.
#[test]
fn refusals_are_told_to_the_client_but_not_without_end() {
    let mut bench = Bench::attached();
    let Verdict::ToWan(len) = bench.inbound(&data_frame(1, &inner_6(CLIENT_6, SERVER_6, 1, b"x"))) else {
        panic!("nobody was told")
    };
    let (_, plain) = bench.client_opens(len);
    let answer = Inner::parse(&plain).unwrap();
    assert_eq!((answer.destination, plain[40]), (CLIENT_6.into(), 3), "time exceeded");
    let mut told = 1;
    for counter in 2..500 {
        let verdict = bench.inbound(&data_frame(counter, &inner(CLIENT, SERVER, 1, b"x")));
        told += u64::from(matches!(verdict, Verdict::ToWan(_)));
    }
    assert_eq!(told, 50, "the burst, at one moment");
    assert_eq!(bench.counter(DropReason::TtlExpired), 499, "every one is counted");
}

/// A packet that its sender allows to be cut is cut; the pieces are the packet.
#[test]
fn what_may_be_cut_is_cut() {
    let mut bench = Bench::attached();
    let payload: Vec<u8> = (0..1_470u32).map(|n| n as u8).collect();
    let mut packet = inner(SERVER, CLIENT, 9, &payload);
    packet[6] = 0;
    packet[10..12].fill(0);
    let checksum = fold(sum_words(&packet[..20]));
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = lan_frame(&packet);
    let Verdict::ToWanInPart { len, rest } = bench.outbound(&mut frame) else { panic!("not cut") };
    let (_, first) = bench.client_opens(len);
    let Verdict::ToWan(len) = bench.outbound(&mut frame[rest..]) else { panic!("no second piece") };
    let (_, second) = bench.client_opens(len);
    assert_eq!([&first[20..], &second[20..]].concat(), payload);
    for (piece, field) in [(&first, 0x2000), (&second, (first.len() - 20) as u16 / 8)] {
        assert_eq!((fold(sum_words(&piece[..20])), piece[8]), (0, 8));
        assert_eq!(u16::from_be_bytes([piece[6], piece[7]]), field);
    }
    assert_eq!(bench.counter(DropReason::Fragmented), 1);
}

/// R9.2: a question about a size comes back as long as it was, and what it says about the path holds from then on: for
/// errors, cutting and MSS, until the next binding.
#[test]
fn sizes_are_answered_at_their_length_and_kept_to() {
    let mut bench = Bench::attached();
    let asked = SizeFrame { kind: SizeKind::Ask, id: 7, carried: 1_220 };
    let mut counter = 1;
    let mut ask = |bench: &mut Bench, asked: SizeFrame, len: usize| {
        let mut frame = vec![0; len];
        asked.write(&mut frame).unwrap();
        counter += 1;
        bench.inbound(&data_frame(counter, &frame))
    };
    for len in [SIZE_LEN, 1_280, MTU] {
        let Verdict::ToWan(out) = ask(&mut bench, asked, len) else { panic!("not answered") };
        let (_, plain) = bench.client_opens(out);
        assert_eq!(plain.len(), len, "both ways have this size");
        assert_eq!(SizeFrame::parse(&plain), Some(SizeFrame { kind: SizeKind::Answer, ..asked }));
    }
    let told = |bench: &mut Bench, packet: &[u8]| match bench.outbound(&mut lan_frame(packet)) {
        Verdict::ToLan(len) => {
            let at = 14 + Inner::parse(&bench.lan_out[14..len]).unwrap().header_len;
            Some(u32::from_be_bytes(bench.lan_out[at + 4..at + 8].try_into().unwrap()))
        }
        Verdict::ToWan(_) | Verdict::ToWanInPart { .. } | Verdict::Drop(_) => None,
    };
    let packet = |len: usize| inner(SERVER, CLIENT, 9, &vec![0; len - 20]);
    assert_eq!((told(&mut bench, &packet(1_220)), told(&mut bench, &packet(1_221))), (None, Some(1_220)));
    // What is only being asked about changes nothing: neither what holds, nor that nothing is known yet.
    let _answer = ask(&mut bench, SizeFrame { carried: 1_280, ..asked }, MTU);
    assert_eq!((told(&mut bench, &packet(1_220)), told(&mut bench, &packet(1_221))), (None, Some(1_220)));
    bench.context().path_mtu.store(0, Ordering::Relaxed);
    let _answer = ask(&mut bench, SizeFrame { carried: 1_280, ..asked }, MTU);
    assert_eq!(told(&mut bench, &packet(MTU)), None, "most paths carry it");
    // Less than any path carries, and more than is configured, is not taken at its word.
    for (carried, holds) in [(SIZE_LEN as u16, 1_200), (9_000, MTU)] {
        let _answer = ask(&mut bench, SizeFrame { carried, ..asked }, SIZE_LEN);
        let (fits, not) = (told(&mut bench, &packet(holds)), told(&mut bench, &packet(holds + 1)));
        assert_eq!((fits, not), (None, Some(holds as u32)), "{carried}");
    }
    let answer = SizeFrame { kind: SizeKind::Answer, ..asked };
    assert_eq!(ask(&mut bench, answer, SIZE_LEN), Verdict::Drop(DropReason::ProbeAnswered));
    assert_eq!(told(&mut bench, &packet(MTU)), None, "an answer says nothing");
    let short = bench.inbound(&data_frame(900, &[3; SIZE_LEN - 1]));
    assert_eq!(short, Verdict::Drop(DropReason::UnknownInternalFrame));
}

/// A SYN is clamped on its way in and out.
#[test]
fn the_mss_fits_the_tunnel() {
    let mut syn = vec![0; 24];
    (syn[12], syn[13]) = (0x60, 2);
    syn[20..24].copy_from_slice(&[2, 4, 0x23, 0x28]);
    let mut bench = Bench::attached();
    let Verdict::ToLan(len) = bench.inbound(&data_frame(1, &inner_of(6, CLIENT, SERVER, 64, &syn))) else {
        panic!("not forwarded")
    };
    assert_eq!(bench.lan_out[len - 2..len], (MTU as u16 - 40).to_be_bytes());
    let Verdict::ToWan(len) = bench.outbound(&mut lan_frame(&inner_of(6, SERVER, CLIENT, 64, &syn))) else {
        panic!("not sealed")
    };
    let (_, plain) = bench.client_opens(len);
    assert_eq!(plain[plain.len() - 2..], (MTU as u16 - 40).to_be_bytes());
}

/// A client is attached to a gateway before a LAN whose interfaces take what is said of them.
fn attached_before(mtus: &Arc<LanMtus>) -> Bench {
    let mut bench = Bench::new();
    bench.pipeline = pipeline_of(&bench.tables, &bench.misses, config()).with_lan_mtus(Arc::clone(mtus));
    assert!(bench.install(InstallOp::Install, |_| ()));
    bench.bind(slot());
    assert!(matches!(bench.inbound(&data_frame(0, &inner(CLIENT, SERVER, 64, b"first"))), Verdict::ToLan(_)));
    bench
}

/// Packets of so many octets for the LAN, of either family.
fn for_the_lan(len: usize) -> [Vec<u8>; 2] {
    let octets = |header: usize| vec![0; len - header];
    [inner(CLIENT, SERVER, 64, &octets(20)), inner_6(CLIENT_6, SERVER_6, 64, &octets(40))]
}

/// The size that the client is told, if it is told one.
fn told_size(bench: &mut Bench, frame: &[u8]) -> Option<u32> {
    let Verdict::ToWan(len) = bench.inbound(frame) else { return None };
    let (_, answer) = bench.client_opens(len);
    let at = Inner::parse(&answer).unwrap().header_len;
    let is_too_big = [[3, 4], [2, 0]].contains(&[answer[at], answer[at + 1]]);
    is_too_big.then(|| u32::from_be_bytes(answer[at + 4..at + 8].try_into().unwrap()))
}

/// R9.2: what the LAN does not take is not sent there: the client is told what it takes, in either family, as the LAN is
/// at that moment. What it takes beyond the tunnel's MTU changes nothing.
#[test]
fn r9_2_what_the_lan_does_not_take_is_told_to_the_client() {
    let mtus = Arc::new(LanMtus::default());
    let mut bench = attached_before(&mtus);
    let mut counter = 0;
    let mut frame = |packet: &[u8]| {
        counter += 1;
        data_frame(counter, packet)
    };
    for (mtu, takes) in [(1_300, 1_300), (0, MTU), (1_320, 1_320), (1_500, MTU)] {
        let _change = mtus.set(0, mtu);
        for packet in for_the_lan(takes) {
            assert_eq!(bench.inbound(&frame(&packet)), Verdict::ToLan(14 + takes), "{mtu}");
        }
        for packet in for_the_lan(takes + 1) {
            assert_eq!(told_size(&mut bench, &frame(&packet)), Some(takes as u32), "{mtu}");
        }
    }
    assert_eq!((bench.counter(DropReason::TooBig), bench.counter(DropReason::ForwardedIn)), (8, 9));
}

/// R9.2, R0.2: each interface of the LAN takes what its own MTU says. A SYN towards the LAN asks for no more than its
/// interface takes, one from the LAN for no more than any does.
#[test]
fn r9_2_each_interface_of_the_lan_takes_its_own() {
    let mtus = Arc::new(LanMtus::default());
    let mut bench = attached_before(&mtus);
    let routes = vec![
        LanRoute::new(SERVER.into(), 32, None).by(1, 0),
        LanRoute::new(SERVER_6.into(), 128, None).by(0, 0),
    ];
    let behind = |host: Address| HashMap::from([(host, Mac([2, 0, 0, 0, 0, 9]))]);
    let view = LanView::of_ports(routes, vec![behind(SERVER_6.into()), behind(SERVER.into())]);
    drop(bench.pipeline.replace_lan(Arc::new(view)));
    let _changes = (mtus.set(0, 1_350), mtus.set(1, 1_290));
    let [four, six] = for_the_lan(1_300);
    assert_eq!(told_size(&mut bench, &data_frame(1, &four)), Some(1_290));
    assert_eq!(bench.inbound(&data_frame(2, &six)), Verdict::ToLan(14 + 1_300));

    let mut syn = vec![0; 24];
    (syn[12], syn[13]) = (0x60, 2);
    syn[20..24].copy_from_slice(&[2, 4, 0x23, 0x28]);
    let mss = |packet: &[u8]| u16::from_be_bytes(packet[packet.len() - 2..].try_into().unwrap());
    let mut syn_6 = inner_6(CLIENT_6, SERVER_6, 64, &syn);
    syn_6[6] = 6;
    for (counter, packet, expected) in
        [(3, inner_of(6, CLIENT, SERVER, 64, &syn), 1_290 - 40), (4, syn_6, 1_350 - 60)]
    {
        let Verdict::ToLan(len) = bench.inbound(&data_frame(counter, &packet)) else {
            panic!("not forwarded")
        };
        assert_eq!(mss(&bench.lan_out[..len]), expected);
    }
    let Verdict::ToWan(len) = bench.outbound(&mut lan_frame(&inner_of(6, SERVER, CLIENT, 64, &syn))) else {
        panic!("not sealed")
    };
    assert_eq!(mss(&bench.client_opens(len).1), 1_290 - 40);
}

struct OneRoute(Address, u32);

impl Routes for OneRoute {
    fn slot_of(&self, destination: Address) -> Option<u32> {
        (destination == self.0).then_some(self.1)
    }

    fn generation(&self) -> u64 {
        0
    }
}

/// Between clients: denied by default; turned round in the worker where policy allows it, never back to its sender.
#[test]
fn between_clients_by_policy() {
    let other = std::net::Ipv4Addr::new(10, 77, 0, 3);
    let mut bench = Bench::attached();
    let Verdict::ToWan(len) = bench.inbound(&data_frame(1, &inner(CLIENT, other, 64, b"x"))) else {
        panic!("nobody was told")
    };
    let (_, plain) = bench.client_opens(len);
    assert_eq!((plain[20], plain[21]), (3, 13), "administratively prohibited");
    assert_eq!(bench.counter(DropReason::ClientToClientDenied), 1);

    let second = SlotId::new(9, 1).unwrap();
    let turned = PipelineConfig { between_clients: BetweenClients::TurnedRound, ..config() };
    let mut bench = Bench::new();
    bench.pipeline = pipeline_of(&bench.tables, &bench.misses, turned)
        .with_routes(Arc::new(OneRoute(other.into(), second.index())));
    assert!(bench.install(InstallOp::Install, |_| ()));
    bench.bind(slot());
    assert!(bench.install(InstallOp::Install, |entry| {
        entry.word = BindingWord::bound(second, 1).0;
        entry.slot = second.0;
        entry.prefixes[0] = other.to_ipv6_mapped().octets();
        entry.remote_port = 41_000;
    }));
    let path = BindingEntry::new(Endpoint::v4(REMOTE.0, 41_000), Endpoint::v4(LOCAL.0, LOCAL.1));
    bench.tables.bindings.bind(second.index(), &path, BindingWord::bound(second, 1));
    let verdict = bench.inbound(&data_frame(0, &inner(CLIENT, other, 64, b"x")));
    assert_eq!(
        verdict,
        Verdict::Drop(DropReason::Unconfirmed),
        "nothing is sent to a path that nobody confirmed"
    );
    let confirm = data_frame_of(second, false, 0, &inner(other, SERVER, 64, b"x"), (REMOTE.0, 41_000));
    assert!(matches!(bench.inbound(&confirm), Verdict::ToLan(_)));
    let Verdict::ToWan(_) = bench.inbound(&data_frame(1, &inner(CLIENT, other, 64, b"to you"))) else {
        panic!("not turned round")
    };
    let header = DataHeader::parse(&bench.wan_out[42..]).unwrap();
    assert_eq!(header.slot, second);
    assert_eq!(bench.counter(DropReason::TurnedRound), 1);
    let context = &bench.tables.contexts[second.index() as usize];
    assert_eq!(
        context.packets_out.load(Ordering::Relaxed),
        0,
        "the line of the tally is written once per batch"
    );
    let _batch = bench.pipeline.after_batch();
    assert_eq!(context.packets_out.load(Ordering::Relaxed), 1);
}
