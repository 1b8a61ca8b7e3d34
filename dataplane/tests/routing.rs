//! Where inner packets go: pools, sites, peers and the LAN are told apart in memory; what policy denies is denied by every
//! way, and what does not fit is cut or told.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;
#[path = "common/two.rs"]
mod two;

use common::*;
use jvpn_abi::DropReason;
use jvpn_abi::wire::internal::{ProbeFrame, ProbeKind};
use jvpn_dataplane::frame::{Address, Inner, fold, sum_words};
use jvpn_dataplane::lan::{LanRoute, LanView};
use jvpn_dataplane::lan_mtu::LanMtus;
use jvpn_dataplane::pipeline::{BetweenClients, Verdict};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use two::*;

fn inner_6(source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let mut p = vec![0x60, 0, 0, 0];
    p.extend((payload.len() as u16).to_be_bytes());
    p.extend([17, 64]);
    p.extend(source.octets());
    p.extend(destination.octets());
    p.extend(payload);
    p
}

/// A packet that its sender allows to be cut.
fn without_df(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = inner(source, destination, 64, payload);
    packet[6] = 0;
    packet[10..12].fill(0);
    let checksum = fold(sum_words(&packet[..20]));
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// R0.2: without `client_to_client` neither another client nor its site is reached, of either family; the sender is told
/// that it is prohibited. The LAN is reached, and one's own site is nowhere behind the gateway.
#[test]
fn r0_2_sites_of_others_are_denied_as_their_addresses_are() {
    let (mut bench, mut writer) = two_sites(BetweenClients::Denied);
    for (counter, packet) in [
        inner(CLIENT, OTHER, 64, b"x"),
        inner(CLIENT, OTHER_SITE, 64, b"x"),
        inner(SITE, OTHER_SITE, 64, b"x"),
        inner_6(CLIENT_6, OTHER_SITE_6, b"x"),
    ]
    .iter()
    .enumerate()
    {
        let Verdict::ToWan(len) = bench.inbound(&data_frame(counter as u64 + 1, packet)) else {
            panic!("nobody was told")
        };
        let answer = opens(&bench, slot(), len);
        let head = Inner::parse(&answer).unwrap();
        let told = (answer[head.header_len], answer[head.header_len + 1]);
        assert_eq!(told, if answer[0] >> 4 == 4 { (3, 13) } else { (1, 1) }, "administratively prohibited");
    }
    assert_eq!(bench.counter(DropReason::ClientToClientDenied), 4);
    let Verdict::ToWan(len) = bench.inbound(&data_frame(5, &inner(CLIENT, SITE, 64, b"x"))) else {
        panic!("nobody was told")
    };
    assert_eq!(opens(&bench, slot(), len)[20..22], [3, 0], "its own site: no route");
    assert!(matches!(bench.inbound(&data_frame(6, &inner(SITE, SERVER, 64, b"x"))), Verdict::ToLan(_)));
    assert_eq!(bench.counter(DropReason::TurnedRound), 0);

    // Once the other's session is gone, its site's prefix is an address like any other: the LAN knows it or does not.
    assert!(writer.remove(prefix(OTHER_SITE, 16), other_slot().index()));
    let Verdict::ToWan(len) = bench.inbound(&data_frame(7, &inner(CLIENT, OTHER_SITE, 64, b"x"))) else {
        panic!("nobody was told")
    };
    assert_eq!(opens(&bench, slot(), len)[20..22], [3, 0], "no route");
}

/// R0.2: nobody on the LAN sends as a client, as a site, or as the gateway; a client sends as nobody's site but its own.
#[test]
fn r0_2_sources_of_sites_are_the_sites_alone() {
    for policy in [BetweenClients::Denied, BetweenClients::TurnedRound] {
        let (mut bench, mut writer) = two_sites(policy);
        for source in [OTHER, OTHER_SITE, SITE, CLIENT, GATEWAY] {
            let verdict = bench.outbound(&mut lan_frame(&inner(source, CLIENT, 9, b"spoofed")));
            assert_eq!(verdict, Verdict::Drop(DropReason::InnerSourceDenied), "{source} from the LAN");
        }
        let spoofed = bench.inbound(&data_frame(1, &inner(OTHER_SITE, SERVER, 64, b"x")));
        assert_eq!(spoofed, Verdict::Drop(DropReason::InnerSourceDenied), "another's site, from a client");
        assert!(matches!(bench.outbound(&mut lan_frame(&inner(SERVER, CLIENT, 9, b"x"))), Verdict::ToWan(_)));
        // A prefix that comes is a source that goes, from the next packet on.
        writer.insert(prefix(SERVER, 24), other_slot().index()).unwrap();
        let verdict = bench.outbound(&mut lan_frame(&inner(SERVER, CLIENT, 9, b"x")));
        assert_eq!(verdict, Verdict::Drop(DropReason::InnerSourceDenied));
    }
}

/// R0.2: with `client_to_client` sites reach each other in the worker, by the longest prefix.
#[test]
fn r0_2_sites_reach_each_other_where_policy_allows_it() {
    let (mut bench, mut writer) = two_sites(BetweenClients::TurnedRound);
    let packets = [inner(SITE, OTHER_SITE, 64, b"there"), inner_6(CLIENT_6, OTHER_SITE_6, b"six")];
    for (counter, packet) in packets.iter().enumerate() {
        let Verdict::ToWan(len) = bench.inbound(&data_frame(counter as u64 + 1, packet)) else {
            panic!("not turned")
        };
        let got = opens(&bench, other_slot(), len);
        assert_eq!((got.len(), Inner::parse(&got).unwrap().hop_limit), (packet.len(), 63));
    }
    let Verdict::ToWan(len) = bench.inbound(&other_frame(1, &inner(OTHER_SITE, SITE, 64, b"back"))) else {
        panic!("not turned")
    };
    assert!(opens(&bench, slot(), len).ends_with(b"back"));
    assert_eq!(bench.counter(DropReason::TurnedRound), 3);
    // A longer prefix of a client within the other's network: but the binding that it leads to decides, not the table.
    writer.insert(prefix(OTHER_SITE, 32), slot().index()).unwrap();
    let Verdict::ToWan(len) = bench.inbound(&other_frame(2, &inner(OTHER, OTHER_SITE, 64, b"x"))) else {
        panic!("nobody was told")
    };
    assert_eq!(opens(&bench, other_slot(), len)[20..22], [3, 0], "no route: the table is a hint");
}

/// RFC 791 §2.3, R9.2: what is too long for the other's path is cut where its sender allows it, into pieces that fit and make
/// the packet; with DF the sender is told what fits.
#[test]
fn r9_2_what_is_turned_round_is_cut_or_told() {
    let (mut bench, _writer) = two_sites(BetweenClients::TurnedRound);
    bench.tables.contexts[other_slot().index() as usize].path_mtu.store(1_220, Ordering::Relaxed);
    let payload: Vec<u8> = (0..1_380u32).map(|n| (n * 7) as u8).collect();
    let verdict = bench.inbound(&data_frame(1, &without_df(SITE, OTHER_SITE, &payload)));
    let Verdict::ToWanInPart { len, rest } = verdict else { panic!("not cut: {verdict:?}") };
    let first = opens(&bench, other_slot(), len);
    let mut left = bench.lan_out[rest..].to_vec();
    let Verdict::ToWan(len) = bench.pipeline.turned_rest(NOW, &mut left, &mut bench.wan_out) else {
        panic!("no second piece")
    };
    let second = opens(&bench, other_slot(), len);
    assert!(first.len() <= 1_220 && second.len() <= 1_220);
    assert_eq!([&first[20..], &second[20..]].concat(), payload);
    for (piece, field) in [(&first, 0x2000), (&second, (first.len() - 20) as u16 / 8)] {
        assert_eq!((fold(sum_words(&piece[..20])), piece[8]), (0, 63), "whole, one hop further, once");
        assert_eq!(u16::from_be_bytes([piece[6], piece[7]]), field);
    }
    let context = &bench.tables.contexts[other_slot().index() as usize];
    let _batch = bench.pipeline.after_batch();
    assert_eq!(context.packets_out.load(Ordering::Relaxed), 2);
    assert_eq!((bench.counter(DropReason::Fragmented), bench.counter(DropReason::TurnedRound)), (1, 1));

    let Verdict::ToWan(len) = bench.inbound(&data_frame(2, &inner(SITE, OTHER_SITE, 64, &payload))) else {
        panic!("nobody was told")
    };
    let answer = opens(&bench, slot(), len);
    assert_eq!((&answer[20..22], &answer[24..28]), (&[3, 4][..], &1_220u32.to_be_bytes()[..]));
    // Garbage instead of a rest is a counted drop.
    let verdict = bench.pipeline.turned_rest(NOW, &mut [0; 200], &mut bench.wan_out);
    assert_eq!(verdict, Verdict::Drop(DropReason::NoSteeringMark));
}

/// R9.2: a SYN from client to client asks for what the smaller path of the two carries; what the LAN takes is none of theirs.
#[test]
fn r9_2_the_mss_between_clients_is_that_of_the_smaller_path() {
    let (mut bench, _writer) = two_sites(BetweenClients::TurnedRound);
    let mtus = Arc::new(LanMtus::default());
    let _change = mtus.set(0, 1_000);
    bench.pipeline = bench.pipeline.with_lan_mtus(mtus);
    let mut syn = vec![0; 24];
    (syn[12], syn[13]) = (0x60, 2);
    syn[20..24].copy_from_slice(&[2, 4, 0x23, 0x28]);
    for (counter, own, other) in [(1, 1_300, 1_220), (2, 1_250, 1_350)] {
        for (slot, carried) in [(slot(), own), (other_slot(), other)] {
            bench.tables.contexts[slot.index() as usize].path_mtu.store(carried, Ordering::Relaxed);
        }
        let verdict = bench.inbound(&data_frame(counter, &inner_of(6, SITE, OTHER_SITE, 64, &syn)));
        let Verdict::ToWan(len) = verdict else { panic!("not turned round: {verdict:?}") };
        let turned = opens(&bench, other_slot(), len);
        assert_eq!(turned[turned.len() - 2..], (own.min(other) as u16 - 40).to_be_bytes());
    }
    let verdict = bench.inbound(&data_frame(3, &inner(SITE, OTHER_SITE, 64, &[0; 1_200])));
    assert!(matches!(verdict, Verdict::ToWan(_)), "{verdict:?}");
    assert_eq!(bench.counter(DropReason::TooBig), 0);
}

/// RFC 4443 §2.4(f): what cannot be answered does not use up the answers of others.
#[test]
fn r9_2_unanswerable_packets_use_up_no_answers() {
    let mut bench = Bench::attached();
    let long = [0; MTU];
    for _ in 0..200 {
        let mut later = inner(SERVER, CLIENT, 9, &long);
        later[7] = 9;
        assert_eq!(
            bench.outbound(&mut lan_frame(&later)),
            Verdict::Drop(DropReason::TooBig),
            "a later fragment"
        );
    }
    let mut error = inner_of(1, CLIENT, SERVER, 1, &[3, 1, 0, 0, 0, 0, 0, 0]);
    for counter in 1..200 {
        error[4..6].copy_from_slice(&(counter as u16).to_be_bytes());
        let verdict = bench.inbound(&data_frame(counter, &error));
        assert_eq!(verdict, Verdict::Drop(DropReason::TtlExpired), "an error");
    }
    assert!(matches!(bench.outbound(&mut lan_frame(&inner(SERVER, CLIENT, 9, &long))), Verdict::ToLan(_)));
    assert_eq!(bench.counter(DropReason::IcmpErrorSent), 1);
}

/// R9.2: fragments of IPv6 and ESP that do not fit are told, as anything else is.
#[test]
fn r9_2_too_big_is_told_to_fragments_and_esp() {
    for next_header in [44, 50] {
        let mut bench = Bench::attached();
        let mut packet = inner_6(SERVER_6, CLIENT_6, &[0; MTU]);
        (packet[6], packet[40]) = (next_header, 17);
        let mut frame = lan_frame(&packet);
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        let Verdict::ToLan(_) = bench.outbound(&mut frame) else {
            panic!("nobody was told of {next_header}")
        };
        assert_eq!(bench.lan_out[14 + 40], 2, "packet too big");
    }
}

/// R0.2: what the LAN's routes refuse is told to the client as what has no route, though a default route would take it.
/// A router of IPv6 gets packets of IPv4 as such.
#[test]
fn r0_2_what_the_lans_routes_refuse_is_told() {
    let mut bench = Bench::attached();
    let default = |network: IpAddr| LanRoute::new(network, 0, Some(SERVER_6.into()));
    let refused_6 = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 0);
    let routes = vec![
        default(IpAddr::from([0; 4])),
        default(IpAddr::from([0; 16])),
        LanRoute::refusing(IpAddr::from([172, 16, 0, 0]), 12, 0),
        LanRoute::refusing(refused_6.into(), 48, 0),
    ];
    let view = LanView::new(routes, HashMap::from([(Address::from(SERVER_6), SERVER_MAC)]));
    drop(bench.pipeline.replace_lan(Arc::new(view)));
    let beyond = inner(CLIENT, Ipv4Addr::new(172, 32, 0, 1), 64, b"x");
    assert_eq!(bench.inbound(&data_frame(1, &beyond)), Verdict::ToLan(14 + beyond.len()));
    assert_eq!(bench.lan_out[..6], SERVER_MAC.0);
    assert_eq!(bench.lan_out[12..14], [8, 0], "IPv4");
    for (counter, packet, expected) in [
        (2, inner(CLIENT, Ipv4Addr::new(172, 31, 0, 1), 64, b"x"), (3, 0)),
        (3, inner_6(CLIENT_6, refused_6, b"x"), (1, 0)),
    ] {
        let Verdict::ToWan(len) = bench.inbound(&data_frame(counter, &packet)) else {
            panic!("nobody was told")
        };
        let answer = opens(&bench, slot(), len);
        let head = Inner::parse(&answer).unwrap();
        assert_eq!((answer[head.header_len], answer[head.header_len + 1]), expected, "no route");
    }
    assert_eq!(bench.counter(DropReason::NoRoute), 2);
}

/// R1.2: a probe is answered though the LAN port has no frame to spare; data then has no place and is lost.
#[test]
fn r1_2_a_probe_needs_no_frame_of_the_lan() {
    let mut bench = Bench::attached();
    let probe = ProbeFrame {
        kind: ProbeKind::Probe,
        id: 9,
        sent_at_ns: 1,
        next_interval_ms: 200,
        rtt_us: 1,
        received: 1,
        highest_counter: 1,
    };
    let verdict = bench.pipeline.inbound(NOW, &data_frame(1, &probe.encode()), &mut [], &mut bench.wan_out);
    let Verdict::ToWan(len) = verdict else { panic!("not answered: {verdict:?}") };
    let (_, plain) = bench.client_opens(len);
    let ack = ProbeFrame::parse(&plain).unwrap();
    assert_eq!((ack.kind, ack.id), (ProbeKind::ProbeAck, 9));
    assert_eq!(bench.context().probes.load(Ordering::Relaxed), 1);
    for (counter, packet) in
        [(2, inner(CLIENT, SERVER, 64, b"short")), (3, inner(CLIENT, SERVER, 64, &[0; 900]))]
    {
        let frame = data_frame(counter, &packet);
        let verdict = bench.pipeline.inbound(NOW, &frame, &mut [], &mut bench.wan_out);
        assert_eq!(verdict, Verdict::Drop(DropReason::NoTxFrame));
    }
}
