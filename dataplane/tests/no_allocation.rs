//! R0.2: after start-up the packet path allocates nothing – counted by the allocator, over 100,000 packets each way.

mod common;
#[path = "common/two.rs"]
mod two;

use common::*;
use jvpn_abi::tables::InstallOp;
use jvpn_abi::wire::internal::{ProbeFrame, ProbeKind};
use jvpn_dataplane::frame::Address;
use jvpn_dataplane::lan::{LanRoute, LanView, NextHop};
use jvpn_dataplane::pipeline::{BetweenClients, Verdict};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::Ordering;

/// Counts what the current thread allocates or frees.
struct Counting;

thread_local! {
    static TOUCHED: Cell<u64> = const { Cell::new(0) };
}

fn touched() -> u64 {
    TOUCHED.with(Cell::get)
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TOUCHED.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        TOUCHED.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn r0_2_the_packet_path_allocates_nothing() {
    const PACKETS: u64 = 100_000;
    let mut bench = Bench::attached();
    let up: Vec<Vec<u8>> =
        (1..=PACKETS).map(|n| data_frame(n, &inner(CLIENT, SERVER, 64, &n.to_be_bytes()))).collect();
    let down = lan_frame(&inner(SERVER, CLIENT, 64, &[7; 1_000]));
    let mut scratch = down.clone();
    assert!(touched() > 0, "the counter counts");

    let before = touched();
    let mut forwarded = (0u64, 0u64);
    for frame in &up {
        forwarded.0 += u64::from(matches!(bench.inbound(frame), Verdict::ToLan(_)));
        scratch.copy_from_slice(&down);
        forwarded.1 += u64::from(matches!(bench.outbound(&mut scratch), Verdict::ToWan(_)));
    }
    let refused = bench.inbound(&up[0]);
    let after = touched();
    assert_eq!(forwarded, (PACKETS, PACKETS), "every packet took the whole way");
    assert!(matches!(refused, Verdict::Drop(_)));
    assert_eq!(after - before, 0, "allocations or frees on the packet path");
}

/// R5.2, R0.2: the same with two keys, and with the flip from one to the other.
#[test]
fn r0_2_a_flip_allocates_nothing() {
    const PACKETS: u64 = 10_000;
    let mut bench = Bench::attached();
    assert!(bench.install(InstallOp::AddKey, next_key));
    let packet = inner(CLIENT, SERVER, 64, b"up");
    let up: Vec<_> = (1..=PACKETS)
        .map(|n| if n > PACKETS / 2 { next_frame(n, &packet) } else { data_frame(n, &packet) })
        .collect();
    let down = lan_frame(&inner(SERVER, CLIENT, 64, &[7; 1_000]));
    let mut scratch = down.clone();
    let before = touched();
    let mut forwarded = (0u64, 0u64);
    for frame in &up {
        forwarded.0 += u64::from(matches!(bench.inbound(frame), Verdict::ToLan(_)));
        scratch.copy_from_slice(&down);
        forwarded.1 += u64::from(matches!(bench.outbound(&mut scratch), Verdict::ToWan(_)));
    }
    let after = touched();
    assert_eq!(forwarded, (PACKETS, PACKETS));
    assert_eq!(bench.context().send_key.load(Ordering::Relaxed), 2, "it flipped");
    assert_eq!(after - before, 0, "allocations or frees on the packet path");
}

/// R0.2: nor does a look at a LAN that has very many routes.
#[test]
fn r0_2_a_lookup_among_many_routes_allocates_nothing() {
    let host = |n: u32| Address::v4((0x0a00_0000 + (n << 8)).to_be_bytes());
    let route = |n: u32| LanRoute::new(host(n).ip(), 24, None);
    let view = LanView::new((0..10_000).map(route).collect(), HashMap::new());
    let before = touched();
    let found = (0..10_000).filter(|n| view.next_hop(host(*n)) == NextHop::Unresolved(host(*n))).count();
    assert_eq!((found, touched() - before), (10_000, 0));
}

/// R9.2, R0.2: a probe leaves its measurements without allocating.
#[test]
fn r0_2_a_probe_allocates_nothing() {
    const PROBES: u64 = 1_000;
    let mut bench = Bench::attached();
    let probe = |n: u64| ProbeFrame {
        kind: ProbeKind::Probe,
        id: n as u32,
        sent_at_ns: n,
        next_interval_ms: 200,
        rtt_us: 1,
        received: n,
        highest_counter: n,
    };
    let frames: Vec<_> = (1..=PROBES).map(|n| data_frame(n, &probe(n).encode())).collect();
    let before = touched();
    let answered = frames.iter().filter(|frame| matches!(bench.inbound(frame), Verdict::ToWan(_))).count();
    let after = touched();
    assert_eq!((answered as u64, bench.context().probes.load(Ordering::Relaxed)), (PROBES, PROBES));
    assert_eq!(after - before, 0, "allocations or frees on the packet path");
}

/// R0.2: nor does a packet that is turned round, with or without being cut, while PREFIXES changes.
#[test]
fn r0_2_turning_round_allocates_nothing() {
    const PACKETS: u64 = 5_000;
    let (mut bench, mut writer) = two::two_sites(BetweenClients::TurnedRound);
    let path_mtu = &bench.tables.contexts[two::other_slot().index() as usize].path_mtu;
    path_mtu.store(1_220, Ordering::Relaxed);
    let mut long = inner(two::SITE, two::OTHER_SITE, 64, &[7; 1_300]);
    long[6] = 0;
    let short = inner(two::SITE, two::OTHER_SITE, 64, &[7; 100]);
    let up: Vec<Vec<u8>> =
        (1..=PACKETS).map(|n| data_frame(n, if n % 2 == 0 { &long } else { &short })).collect();
    let before = touched();
    let mut sent = 0u64;
    for (n, frame) in up.iter().enumerate() {
        writer.insert(two::prefix(two::SITE, 24), (n % 64) as u32).unwrap();
        let mut piece = bench.inbound(frame);
        let mut start = 0;
        while let Verdict::ToWanInPart { rest, .. } = piece {
            (start, sent) = (start + rest, sent + 1);
            piece = bench.pipeline.turned_rest(NOW, &mut bench.lan_out[start..], &mut bench.wan_out);
        }
        sent += u64::from(matches!(piece, Verdict::ToWan(_)));
    }
    let after = touched();
    assert_eq!(sent, PACKETS / 2 * 3, "every packet, half of them in two pieces");
    assert_eq!(after - before, 0, "allocations or frees on the packet path");
}

/// R0.2: neither do plain sockets, where AF_XDP is missing: frames in, frames out, in both families.
#[test]
fn r0_2_plain_sockets_allocate_nothing() {
    use jvpn_dataplane::frame::{Ecn, Mac, OuterTemplate};
    use jvpn_dataplane::port::QueuePort;
    use jvpn_dataplane::port::plain::PlainPort;
    use jvpn_dataplane::port::udp_end::UdpEnd;
    const PACKETS: usize = 20_000;
    let opened = jvpn_dataplane::udp::open_for_data(&["lo"], 0);
    let denied = "SO_BINDTODEVICE needs CAP_NET_RAW here";
    let Some(opened) = jvpn_testing::unless_denied(opened, denied) else { return };
    let port = jvpn_dataplane::udp::port_of(&opened.socket).unwrap();
    let mut plain = PlainPort::new(UdpEnd::new(opened.socket, opened.family, port), 64);
    let mut batch = Vec::with_capacity(64);
    for at in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(client) = std::net::UdpSocket::bind(at) else {
            jvpn_testing::left_out_in_part("no IPv6 here");
            continue;
        };
        client.set_nonblocking(true).unwrap();
        let own = client.local_addr().unwrap();
        let there = std::net::SocketAddr::new(own.ip(), port);
        client.connect(there).unwrap();
        let back = OuterTemplate::new(Mac::default(), there.into(), own.into()).unwrap();
        let mut reply = [0; 64];
        let (mut came, mut returned) = (0, 0);
        let before = touched();
        for _ in 0..PACKETS {
            client.send(&[0x10; 200]).unwrap();
            plain.receive(&mut batch, 64);
            while let Some(frame) = batch.pop() {
                came += 1;
                plain.recycle(frame);
            }
            let mut frame = plain.take_free().unwrap();
            let room = plain.room(&mut frame);
            back.write(room, Mac::default(), 5, Ecn::ECT_1).unwrap();
            plain.transmit(frame, back.header_len() + 5);
            assert_eq!(plain.flush(), 0);
            returned += usize::from(client.recv(&mut reply).is_ok());
        }
        let after = touched();
        assert_eq!((came, returned), (PACKETS, PACKETS), "{at}");
        assert_eq!(after - before, 0, "allocations or frees per {PACKETS} packets, {at}");
    }
}
