//! Bindings of a gateway with several interfaces on a side, in memory.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use common::{Bench, CLIENT, ROUTER_MAC, SERVER, SERVER_MAC, inner, lan_frame};
use jvpn_abi::DropReason;
use jvpn_abi::ports::PortMark;
use jvpn_abi::tables::{InstallOp, NEXT_HOP_KNOWN};
use jvpn_dataplane::pipeline::Verdict;
use jvpn_dataplane::slots::Installer;
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn reply() -> Vec<u8> {
    lan_frame(&inner(SERVER, CLIENT, 9, b"x"))
}

/// R1.2: a restarted data plane goes on by the interface that the client was heard on, unless the configuration does not
/// have that any more: then the client is heard first.
#[test]
fn r1_2_the_way_back_by_an_interface_that_is_gone_is_learned_anew() {
    let cases: [(&[usize], u8, bool); 5] =
        [(&[0, 1], 1, true), (&[0], 1, false), (&[0, 2], 1, false), (&[0, 2], 2, true), (&[0], 0, true)];
    for (numbers, by, is_kept) in cases {
        let mut bench = Bench::attached();
        let word = ROUTER_MAC.to_bits() | PortMark(by).to_next_hop() | NEXT_HOP_KNOWN;
        bench.context().next_hop_mac.store(word, Ordering::Relaxed);
        bench.restart();
        bench.installer =
            Installer::new(Arc::clone(&bench.tables), vec![Arc::clone(&bench.queues)], common::LAN_MAC)
                .with_wan_numbers(numbers.iter().copied());
        assert!(bench.install(InstallOp::Adopt, |_| ()));
        let kept = bench.context().next_hop_mac.load(Ordering::Relaxed);
        assert_eq!(kept, if is_kept { word } else { 0 }, "{by} of {numbers:?}");
        match bench.outbound(&mut reply()) {
            Verdict::ToWan(_) => assert!(is_kept, "{by} of {numbers:?}"),
            Verdict::Drop(reason) => assert_eq!((reason, is_kept), (DropReason::Unconfirmed, false)),
            other @ (Verdict::ToLan(_) | Verdict::ToWanInPart { .. }) => panic!("{other:?}"),
        }
    }
}

/// R0.2: the sender of a packet that goes nowhere is told by the interface that he is routed by; one who is not
/// resolved is asked for instead of being told by whichever interface is the first.
#[test]
fn r0_2_who_is_told_is_where_he_is_routed() {
    let stranger = std::net::Ipv4Addr::new(192, 168, 50, 77);
    for several in [false, true] {
        let mut bench = Bench::attached();
        if several {
            bench = bench.with_several_lans();
        }
        let expired = |source| lan_frame(&inner(source, CLIENT, 1, b"x"));
        let Verdict::ToLan(_) = bench.outbound(&mut expired(SERVER)) else { panic!("not told") };
        assert_eq!(bench.lan_out[..6], SERVER_MAC.0);
        let verdict = bench.outbound(&mut expired(stranger));
        if several {
            assert!(matches!(verdict, Verdict::Drop(DropReason::TtlExpired)), "{verdict:?}");
            assert_eq!(bench.misses.pop(), Some(stranger.into()), "the next one is told");
        } else {
            assert!(matches!(verdict, Verdict::ToLan(_)), "{verdict:?}");
        }
    }
}
