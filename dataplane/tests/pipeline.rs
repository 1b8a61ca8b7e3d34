//! The pipeline driven in memory, with the real tables, mailbox and installer around it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use common::*;
use jvpn_abi::tables::{InstallOp, PROBE_SAMPLES, ProbeSample, WINDOW_WORDS};
use jvpn_abi::wire::SlotId;
use jvpn_abi::wire::internal::{PROBE_LEN, ProbeFrame, ProbeKind};
use jvpn_abi::{BootTime, DropReason};
use jvpn_dataplane::frame::{Inner, fold, sum_words};
use jvpn_dataplane::pipeline::Verdict;
use proptest::prelude::*;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;

fn dropped(verdict: Verdict) -> DropReason {
    match verdict {
        Verdict::Drop(reason) => reason,
        Verdict::ToLan(_) | Verdict::ToWan(_) | Verdict::ToWanInPart { .. } => {
            panic!("not dropped: {verdict:?}")
        }
    }
}

/// R5.1: a sealed packet comes out on the LAN as it went in, one hop further.
#[test]
fn a_packet_goes_in() {
    let mut bench = Bench::attached();
    let packet = inner(CLIENT, SERVER, 64, b"hello");
    let Verdict::ToLan(len) = bench.inbound(&data_frame(1, &packet)) else { panic!("not forwarded") };
    let out = &bench.lan_out[..len];
    assert_eq!((&out[..6], &out[6..12], &out[12..14]), (&SERVER_MAC.0[..], &LAN_MAC.0[..], &[8u8, 0][..]));
    let forwarded = Inner::parse(&out[14..]).unwrap();
    assert_eq!((forwarded.hop_limit, &out[34..]), (63, &packet[20..]));
    assert_eq!(fold(sum_words(&out[14..34])), 0);
    assert_eq!(bench.context().packets_in.load(Ordering::Relaxed), 2);
    assert_eq!(bench.counter(DropReason::ForwardedIn), 2);
}

/// The first frame that opens confirms, exactly once, and teaches the way back.
#[test]
fn the_first_frame_confirms() {
    let mut bench = Bench::attached();
    let word = bench.context().tag.load(Ordering::Relaxed);
    assert_eq!(bench.context().confirmed.load(Ordering::Relaxed), word);
    assert!(bench.pipeline.after_batch().confirmed);
    assert!(!bench.pipeline.after_batch().confirmed);
    let _second = bench.inbound(&data_frame(1, &inner(CLIENT, SERVER, 64, b"x")));
    assert_eq!(bench.pipeline.report().events_written.load(Ordering::Relaxed), 1);
    assert_eq!(bench.context().last_heard_ns.load(Ordering::Relaxed), NOW.0);
}

/// R1.1: an unconfirmed binding sends nothing; once confirmed it does.
#[test]
fn unconfirmed_sends_nothing() {
    let mut bench = Bench::new();
    bench.install(InstallOp::Install, |_| ());
    bench.bind(slot());
    let mut frame = lan_frame(&inner(SERVER, CLIENT, 64, b"down"));
    assert_eq!(dropped(bench.outbound(&mut frame)), DropReason::Unconfirmed);
    assert_eq!(bench.context().keys[0].send_counter.load(Ordering::Relaxed), 0, "no counter is spent");
    let _first = bench.inbound(&data_frame(0, &inner(CLIENT, SERVER, 64, b"up")));
    assert!(matches!(bench.outbound(&mut lan_frame(&inner(SERVER, CLIENT, 64, b"down"))), Verdict::ToWan(_)));
}

/// R5.1: what the gateway seals opens at the client, with rising counters and true outer headers.
#[test]
fn a_packet_goes_out() {
    let mut bench = Bench::attached();
    for expected in 0..3 {
        let packet = inner(SERVER, CLIENT, 9, b"reply");
        let Verdict::ToWan(len) = bench.outbound(&mut lan_frame(&packet)) else { panic!("not sent") };
        let out = &bench.wan_out[..len];
        assert_eq!(out[..6], ROUTER_MAC.0, "back to where the client's frames came from");
        assert_eq!((fold(sum_words(&out[14..34])), &out[30..34]), (0, &REMOTE.0[..]));
        let (counter, plain) = bench.client_opens(len);
        assert_eq!(counter, expected);
        assert_eq!((Inner::parse(&plain).unwrap().hop_limit, &plain[20..]), (8, &packet[20..]));
    }
}

/// R2.4, R5.1: every octet flipped, every length cut: never forwarded, and the genuine frame still is.
#[test]
fn no_altered_frame_is_forwarded() {
    let mut bench = Bench::attached();
    let good = data_frame(1, &inner(CLIENT, SERVER, 64, b"payload"));
    for at in 14..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        // TOS, IP ID, DF, TTL, header checksum and UDP checksum are not the tunnel's: routers change them on the way.
        let routers = matches!(at, 15 | 18..=20 | 22 | 24..=25 | 40..=41);
        let verdict = bench.inbound(&bad);
        if routers && matches!(verdict, Verdict::ToLan(_)) {
            bench = Bench::attached();
        } else {
            let _reason = dropped(verdict);
        }
    }
    for len in 0..good.len() {
        let _reason = dropped(bench.inbound(&good[..len]));
    }
    assert!(matches!(bench.inbound(&good), Verdict::ToLan(_)));
    assert_eq!(dropped(bench.inbound(&good)), DropReason::Replayed);
}

/// R2.2: old counters are refused by the window, new ones may come in any order within it.
#[test]
fn replays_and_reordering() {
    let mut bench = Bench::attached();
    let packet = inner(CLIENT, SERVER, 64, b"x");
    for counter in [9_000, 5_000, 8_999, 1_000] {
        let verdict = bench.inbound(&data_frame(counter, &packet));
        assert!(matches!(verdict, Verdict::ToLan(_)), "{counter}: {verdict:?}");
    }
    for counter in [9_000, 5_000, 0, 800] {
        assert_eq!(dropped(bench.inbound(&data_frame(counter, &packet))), DropReason::Replayed, "{counter}");
    }
}

/// R1.1: the worker's own check of word, serial and endpoint is decisive.
#[test]
fn only_the_bound_path_is_accepted() {
    let mut bench = Bench::attached();
    let packet = inner(CLIENT, SERVER, 64, b"x");
    let moved = data_frame_of(slot(), false, 1, &packet, (REMOTE.0, REMOTE.1 + 1));
    assert_eq!(dropped(bench.inbound(&moved)), DropReason::EndpointMismatch);
    let stale = data_frame_of(SlotId::new(7, 2).unwrap(), false, 1, &packet, REMOTE);
    assert_eq!(dropped(bench.inbound(&stale)), DropReason::SlotUnbound);
    let beyond = data_frame_of(SlotId::new(SLOTS, 0).unwrap(), false, 1, &packet, REMOTE);
    assert_eq!(dropped(bench.inbound(&beyond)), DropReason::SlotOutOfRange);
    let phase = data_frame_of(slot(), true, 1, &packet, REMOTE);
    assert_eq!(dropped(bench.inbound(&phase)), DropReason::OpenFailed);
    bench.tables.bindings.unbind(7);
    assert_eq!(dropped(bench.inbound(&data_frame(1, &packet))), DropReason::SlotUnbound);
    assert_eq!(
        dropped(bench.outbound(&mut lan_frame(&inner(SERVER, CLIENT, 9, b"x")))),
        DropReason::SlotUnbound
    );
}

/// Bound without keys (or with the keys removed) nothing is accepted.
#[test]
fn no_keys_no_traffic() {
    let mut bench = Bench::new();
    bench.bind(slot());
    let frame = data_frame(0, &inner(CLIENT, SERVER, 64, b"x"));
    assert_eq!(dropped(bench.inbound(&frame)), DropReason::NoContext);
    let mut bench = Bench::attached();
    assert!(bench.install(InstallOp::Remove, |_| ()));
    assert_eq!(
        dropped(bench.inbound(&data_frame(1, &inner(CLIENT, SERVER, 64, b"x")))),
        DropReason::NoContext
    );
}

/// A node past its fence deadline forwards nothing, on either side.
#[test]
fn fenced() {
    let mut bench = Bench::attached();
    bench.fence(NOW.0);
    assert_eq!(dropped(bench.inbound(&data_frame(1, &inner(CLIENT, SERVER, 64, b"x")))), DropReason::Fenced);
    assert_eq!(dropped(bench.outbound(&mut lan_frame(&inner(SERVER, CLIENT, 9, b"x")))), DropReason::Fenced);
    bench.fence(NOW.0 + 1);
    assert!(matches!(bench.inbound(&data_frame(1, &inner(CLIENT, SERVER, 64, b"x"))), Verdict::ToLan(_)));
}

/// What is inside is checked after it was opened: source, destination, TTL, size, form.
#[test]
fn inner_checks() {
    let mut bench = Bench::attached();
    let other_client = Ipv4Addr::new(10, 77, 0, 3);
    let mut long = vec![0x45];
    long.resize(100, 0);
    let cases = [
        (inner(other_client, SERVER, 64, b"x"), DropReason::InnerSourceDenied),
        (inner(CLIENT, other_client, 64, b"x"), DropReason::ClientToClientDenied),
        (inner(CLIENT, SERVER, 1, b"x"), DropReason::TtlExpired),
        (inner(CLIENT, SERVER, 0, b"x"), DropReason::TtlExpired),
        (inner(CLIENT, Ipv4Addr::new(8, 8, 8, 8), 64, b"x"), DropReason::NoRoute),
        (inner(CLIENT, Ipv4Addr::BROADCAST, 64, b"x"), DropReason::NoRoute),
        (inner(CLIENT, Ipv4Addr::new(224, 0, 0, 1), 64, b"x"), DropReason::NoRoute),
        (inner(CLIENT, Ipv4Addr::new(192, 168, 50, 77), 64, b"x"), DropReason::NeighbourMissing),
        (inner(CLIENT, SERVER, 64, &[0; 1_400]), DropReason::TooBig),
        (inner(CLIENT, GATEWAY, 64, b"no echo"), DropReason::NoRoute),
        (long, DropReason::InnerMalformed),
        (vec![0x60; 60], DropReason::InnerMalformed),
        (vec![], DropReason::InnerMalformed),
        (vec![0x09; 60], DropReason::UnknownInternalFrame),
    ];
    for (counter, (packet, reason)) in cases.into_iter().enumerate() {
        let frame = data_frame(counter as u64 + 1, &packet);
        let before = bench.counter(reason);
        let verdict = bench.inbound(&frame);
        assert!(!matches!(verdict, Verdict::ToLan(_)), "case {counter}: forwarded");
        assert_eq!(bench.counter(reason), before + 1, "case {counter}: {verdict:?}");
        assert_eq!(dropped(bench.inbound(&frame)), DropReason::Replayed, "its counter is spent all the same");
    }
    assert_eq!(bench.misses.pop(), Some(Ipv4Addr::new(192, 168, 50, 77).into()));
    assert!(bench.pipeline.after_batch().missed);
}

/// Outbound: the mark is a hint, the installed prefixes decide.
#[test]
fn outbound_checks() {
    let mut bench = Bench::attached();
    let mut unmarked = lan_frame(&inner(SERVER, CLIENT, 9, b"x"));
    unmarked[0] = 2;
    assert_eq!(dropped(bench.outbound(&mut unmarked)), DropReason::NoSteeringMark);
    let cases = [
        (inner(SERVER, Ipv4Addr::new(10, 77, 0, 3), 9, b"x"), DropReason::NoRoute),
        (inner(SERVER, CLIENT, 1, b"x"), DropReason::TtlExpired),
        (inner(GATEWAY, CLIENT, 9, b"x"), DropReason::InnerSourceDenied),
        (inner(SERVER, CLIENT, 9, &[0; 1_400]), DropReason::TooBig),
        (vec![0x45; 10], DropReason::InnerMalformed),
    ];
    for (packet, reason) in cases {
        let before = bench.counter(reason);
        let verdict = bench.outbound(&mut lan_frame(&packet));
        assert!(!matches!(verdict, Verdict::ToWan(_)), "{reason}: sealed");
        assert_eq!(bench.counter(reason), before + 1, "{verdict:?}");
    }
    for len in 0..30 {
        let _reason = dropped(bench.outbound(&mut lan_frame(&inner(SERVER, CLIENT, 9, b"x"))[..len]));
    }
}

/// Probes are answered by the worker, with what it has received.
#[test]
fn probes_are_answered() {
    let mut bench = Bench::attached();
    let probe = ProbeFrame {
        kind: ProbeKind::Probe,
        id: 77,
        sent_at_ns: 123,
        next_interval_ms: 200,
        rtt_us: 20_000,
        received: 0,
        highest_counter: 0,
    };
    let Verdict::ToWan(len) = bench.inbound(&data_frame(5, &probe.encode())) else { panic!("no answer") };
    let (_, plain) = bench.client_opens(len);
    let ack = ProbeFrame::parse(&plain).unwrap();
    let expected = ProbeFrame {
        kind: ProbeKind::ProbeAck,
        next_interval_ms: 0,
        rtt_us: 0,
        received: 2,
        highest_counter: 5,
        ..probe
    };
    assert_eq!(ack, expected);
    assert_eq!(bench.context().peer_interval_ms.load(Ordering::Relaxed), 200);
    // An answer is not answered: two ends never probe each other without end.
    let _reason = dropped(bench.inbound(&data_frame(6, &ack.encode())));
}

/// R9.2, R1.7: what a probe says and how long it took stands in CONTEXT: under its key what the client has received, and
/// for each of the last probes its round trip and by how much its way differed from the one before.
#[test]
fn r9_2_probes_leave_their_measurements_in_context() {
    let mut bench = Bench::attached();
    let probe = |n: u64| ProbeFrame {
        kind: ProbeKind::Probe,
        id: n as u32,
        // Sent every 200 ms on another clock; each comes 1.5 ms later than the one before.
        sent_at_ns: 7_000_000_000 + n * 200_000_000,
        next_interval_ms: 200,
        rtt_us: 20_000 + n as u32,
        received: 10 * n,
        highest_counter: 11 * n,
    };
    for n in 0..9 {
        let now = BootTime(NOW.0 + n * 201_500_000);
        let frame = data_frame(5 + n, &probe(n).encode());
        let verdict = bench.pipeline.inbound(now, &frame, &mut bench.lan_out, &mut bench.wan_out);
        assert!(matches!(verdict, Verdict::ToWan(_)));
        let context = bench.context();
        assert_eq!(context.probes.load(Ordering::Relaxed), n + 1);
        let key = &context.keys[0];
        let end = if n == 0 { 0 } else { 11 * n + 1 };
        let said = (key.peer_received.load(Ordering::Relaxed), key.peer_end.load(Ordering::Relaxed));
        assert_eq!(said, (10 * n, end), "nothing received is no counter 0");
        let change_us = if n == 0 { ProbeSample::NO_CHANGE } else { 1_500 };
        let place = n as usize % PROBE_SAMPLES;
        let sample = ProbeSample::decode(context.samples[place].load(Ordering::Relaxed));
        assert_eq!(sample, ProbeSample { rtt_us: 20_000 + n as u32, change_us });
    }
    // An answer measures nothing, and another binding starts anew.
    let answer = ProbeFrame { kind: ProbeKind::ProbeAck, ..probe(9) };
    let _reason = dropped(bench.inbound(&data_frame(50, &answer.encode())));
    assert_eq!(bench.context().probes.load(Ordering::Relaxed), 9);
    assert!(bench.install(InstallOp::Install, |_| ()));
    let context = bench.context();
    let left = context.samples.iter().chain([&context.probes, &context.keys[0].peer_end]);
    assert!(left.into_iter().all(|word| word.load(Ordering::Relaxed) == 0));
}

/// Echo to the gateway's own inner address is answered by the worker.
#[test]
fn echo_is_answered() {
    let mut bench = Bench::attached();
    let mut icmp = vec![8, 0, 0, 0, 0, 1, 0, 1, b'p'];
    let checksum = fold(sum_words(&icmp));
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    let frame = data_frame(1, &inner_of(1, CLIENT, GATEWAY, 64, &icmp));
    let Verdict::ToWan(len) = bench.inbound(&frame) else { panic!("no answer") };
    let (_, plain) = bench.client_opens(len);
    let reply = Inner::parse(&plain).unwrap();
    assert_eq!((reply.source, reply.destination, plain[20]), (GATEWAY.into(), CLIENT.into(), 0));
}

/// I11: a restarted data plane goes on with the counters and the window that CONTEXT holds, and only with those.
#[test]
fn adopting_after_a_restart_repeats_nothing() {
    let mut bench = Bench::attached();
    for _ in 0..5 {
        bench.outbound(&mut lan_frame(&inner(SERVER, CLIENT, 9, b"x")));
    }
    // The worker died inside the window's lock.
    bench.context().keys[0].window_lock.store(1, Ordering::Relaxed);
    bench.restart();
    assert!(bench.install(InstallOp::Adopt, |_| ()));
    let Verdict::ToWan(len) = bench.outbound(&mut lan_frame(&inner(SERVER, CLIENT, 9, b"x"))) else {
        panic!("an adopted binding is still confirmed")
    };
    assert_eq!(bench.client_opens(len).0, 5, "the next counter");
    let first = data_frame(0, &inner(CLIENT, SERVER, 64, b"first"));
    assert_eq!(dropped(bench.inbound(&first)), DropReason::Replayed, "the window goes on");
    assert!(
        !bench.install(InstallOp::Adopt, |entry| entry.key_number = 1),
        "another key's counters are unknown"
    );
    assert!(
        !bench.install(InstallOp::Adopt, |entry| entry.word ^= 1),
        "another binding's counters are unknown"
    );
}

/// A key that reached its hard limit seals nothing more, however often it is tried.
#[test]
fn the_hard_limit_holds() {
    let mut bench = Bench::attached();
    let counter = &bench.tables.contexts[7].keys[0].send_counter;
    counter.store(jvpn_crypto::limits::HARD_PACKETS - 1, Ordering::Relaxed);
    let frame = || lan_frame(&inner(SERVER, CLIENT, 9, b"x"));
    assert!(matches!(bench.outbound(&mut frame()), Verdict::ToWan(_)));
    for _ in 0..3 {
        assert_eq!(dropped(bench.outbound(&mut frame())), DropReason::KeyExhausted);
    }
}

/// Entries that make no sense are refused, counted, and leave nothing installed.
#[test]
fn malformed_entries_are_refused() {
    type Edit = fn(&mut jvpn_abi::tables::InstallEntry);
    let edits: [Edit; 9] = [
        |e| e.op = 9,
        |e| e.slot = SlotId::new(SLOTS, 3).unwrap().0,
        |e| e.slot = SlotId::new(7, 4).unwrap().0,
        |e| e.word = 0,
        |e| e.suite = 0,
        |e| e.prefix_count = 9,
        |e| e.prefix_lens[0] = 129,
        |e| e.remote_addr = [0x20; 16],
        |e| e.local_addr = [0x20; 16],
    ];
    for (case, edit) in edits.into_iter().enumerate() {
        let mut bench = Bench::new();
        assert!(!bench.install(InstallOp::Install, edit), "case {case}");
        bench.bind(slot());
        let frame = data_frame(0, &inner(CLIENT, SERVER, 64, b"x"));
        assert_eq!(dropped(bench.inbound(&frame)), DropReason::NoContext, "case {case}");
        assert_eq!(bench.tables.reports().refused.load(Ordering::Relaxed), 1);
    }
}

/// Without a free TX frame a packet is dropped and counted; nothing is written elsewhere.
#[test]
fn no_tx_frame() {
    let mut bench = Bench::attached();
    let frame = data_frame(1, &inner(CLIENT, SERVER, 64, b"x"));
    let verdict = bench.pipeline.inbound(BootTime(5), &frame, &mut [], &mut []);
    assert_eq!(dropped(verdict), DropReason::NoTxFrame);
    let verdict = bench.pipeline.outbound(
        BootTime(5),
        &mut lan_frame(&inner(SERVER, CLIENT, 9, b"x")),
        &mut [],
        &mut [],
    );
    assert_eq!(dropped(verdict), DropReason::NoTxFrame);
}

proptest! {
    /// Whatever lies on the wire: no panic, nothing forwarded.
    #[test]
    fn noise_is_never_forwarded(octets in proptest::collection::vec(any::<u8>(), 0..200), whole: bool) {
        let mut bench = Bench::attached();
        let frame = if whole { outer(REMOTE, LOCAL, &octets) } else { octets.clone() };
        prop_assert!(matches!(bench.inbound(&frame), Verdict::Drop(_)));
        let mut frame = if whole { lan_frame(&octets) } else { octets };
        let _verdict = bench.outbound(&mut frame);
    }

    /// Whatever is inside a genuine frame: no panic, and never a source that is not the peer's.
    #[test]
    fn hostile_clients(plain in proptest::collection::vec(any::<u8>(), 20..200), own: bool, known: bool) {
        let mut bench = Bench::attached();
        let mut plain = plain;
        plain[0] = 0x45;
        let len = plain.len() as u16;
        plain[2..4].copy_from_slice(&len.to_be_bytes());
        plain[8] = plain[8].max(2);
        if own {
            plain[12..16].copy_from_slice(&CLIENT.octets());
        }
        if known {
            plain[16..20].copy_from_slice(&SERVER.octets());
        }
        let forwarded = matches!(bench.inbound(&data_frame(1, &plain)), Verdict::ToLan(_));
        let is_own = plain[12..16] == CLIENT.octets();
        prop_assert!(!forwarded || is_own, "a foreign source was forwarded");
        prop_assert!(forwarded || !(is_own && known), "a packet of its own was not forwarded");
    }

    /// Torn or hostile shared memory: no panic, no hang.
    #[test]
    fn hostile_context(words in proptest::collection::vec(any::<u64>(), 16), at in 0usize..WINDOW_WORDS) {
        let mut bench = Bench::attached();
        let context = &bench.tables.contexts[7];
        context.next_hop_mac.store(words[0], Ordering::Relaxed);
        context.keys[0].window_end.store(words[1], Ordering::Relaxed);
        bench.tables.window(0).unwrap().words[at].store(words[2], Ordering::Relaxed);
        context.keys[0].send_counter.store(words[3], Ordering::Relaxed);
        context.keys[0].window_lock.store(words[4] % 2, Ordering::Relaxed);
        context.confirmed.store(words[5], Ordering::Relaxed);
        context.probes.store(words[6], Ordering::Relaxed);
        context.probe_transit_ns.store(words[7], Ordering::Relaxed);
        let probe = ProbeFrame {
            kind: ProbeKind::Probe,
            id: words[8] as u32,
            sent_at_ns: words[9],
            next_interval_ms: words[10] as u32,
            rtt_us: words[11] as u32,
            received: words[12],
            highest_counter: words[13],
        };
        let _verdict = bench.inbound(&data_frame(2, &probe.encode()));
        let _verdict = bench.inbound(&data_frame(1, &inner(CLIENT, SERVER, 64, b"x")));
        let _verdict = bench.outbound(&mut lan_frame(&inner(SERVER, CLIENT, 9, b"x")));
    }

    #[test]
    fn probe_frames_round_trip(
        id: u32, sent_at_ns: u64, received: u64, highest_counter: u64, next_interval_ms: u32, rtt_us: u32,
    ) {
        let kind = ProbeKind::Probe;
        let probe = ProbeFrame { kind, id, sent_at_ns, next_interval_ms, rtt_us, received, highest_counter };
        let octets = probe.encode();
        prop_assert_eq!(ProbeFrame::parse(&octets), Some(probe));
        prop_assert_eq!(ProbeFrame::parse(&octets[..PROBE_LEN - 1]), None);
    }
}
