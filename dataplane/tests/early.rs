//! A binding that nobody has confirmed seals only if its address was proven: as many frames as it was given, to where the
//! kernel says, and never a counter twice.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use common::*;
use jvpn_abi::DropReason;
use jvpn_abi::tables::{EARLY_PACKETS, InstallOp, NEXT_HOP_KNOWN};
use jvpn_dataplane::frame::Mac;
use jvpn_dataplane::hops::WanHops;
use jvpn_dataplane::lan::LanView;
use jvpn_dataplane::pipeline::Verdict;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const FEW: u32 = 3;
const HOP: Mac = Mac([2, 0, 0, 0, 0, 8]);

/// With the way to everybody over one station.
fn knows_the_way(bench: &mut Bench) {
    let hops = Arc::new(WanHops::new(vec![(0, LanView::point_to_point(HOP))]));
    let installer = std::mem::replace(&mut bench.installer, Bench::new().installer);
    bench.installer = installer.with_hops(hops);
}

/// Installed and bound, for an address that was proven.
fn proven() -> Bench {
    let mut bench = Bench::new();
    knows_the_way(&mut bench);
    assert!(bench.install(InstallOp::Install, |entry| entry.early_packets = FEW));
    bench.bind(slot());
    bench
}

/// A packet from the LAN; the counter under which it left.
fn down(bench: &mut Bench) -> Result<u64, DropReason> {
    match bench.outbound(&mut lan_frame(&inner(SERVER, CLIENT, 64, b"down"))) {
        Verdict::ToWan(len) => Ok(bench.client_opens(len).0),
        Verdict::Drop(reason) => Err(reason),
        other @ (Verdict::ToLan(_) | Verdict::ToWanInPart { .. }) => panic!("{other:?}"),
    }
}

/// R0.4, R7.1: it sends unheard, over the next hop that the kernel knows, as many frames as it was given and no more; when
/// its client is heard it goes on with the counter behind.
#[test]
fn r7_1_a_proven_address_is_sent_to_unheard_and_within_its_bound() {
    let mut bench = proven();
    for expected in 0..u64::from(FEW) {
        assert_eq!(down(&mut bench), Ok(expected));
        assert_eq!(&bench.wan_out[..6], &HOP.0[..]);
    }
    for _ in 0..5 {
        assert_eq!(down(&mut bench), Err(DropReason::Unconfirmed));
    }
    assert!(!bench.pipeline.after_batch().confirmed, "sending confirms nothing");
    assert_eq!(bench.context().confirmed.load(Ordering::Relaxed), 0);
    let first = data_frame(0, &inner(CLIENT, SERVER, 64, b"first"));
    assert!(matches!(bench.inbound(&first), Verdict::ToLan(_)));
    assert!(bench.pipeline.after_batch().confirmed);
    assert_eq!(down(&mut bench), Ok(u64::from(FEW)));
    assert_eq!(&bench.wan_out[..6], &ROUTER_MAC.0[..], "from here on the way that its frames come");
}

/// R3.2: the bound holds here, too, whatever the entry says.
#[test]
fn r3_2_no_entry_lets_more_be_sent_unheard_than_the_bound() {
    let mut bench = Bench::new();
    knows_the_way(&mut bench);
    assert!(bench.install(InstallOp::Install, |entry| entry.early_packets = u32::MAX));
    bench.bind(slot());
    let sent = (0..2 * EARLY_PACKETS).filter(|_| down(&mut bench).is_ok()).count();
    assert_eq!(sent, EARLY_PACKETS as usize);
    assert_eq!(down(&mut bench), Err(DropReason::Unconfirmed));
}

/// R1.1, R2.2: nothing is sent unheard to an address that was not proven, nor over a way that nobody knows, nor from a slot
/// that is not bound.
#[test]
fn r1_1_nothing_is_sent_to_an_address_that_is_proven_neither_way() {
    let mut bench = Bench::new();
    knows_the_way(&mut bench);
    assert!(bench.install(InstallOp::Install, |_| ()));
    bench.bind(slot());
    assert_eq!(down(&mut bench), Err(DropReason::Unconfirmed));
    assert_eq!(bench.context().next_hop_mac.load(Ordering::Relaxed) & NEXT_HOP_KNOWN, 0);
    let mut bench = Bench::new();
    assert!(bench.install(InstallOp::Install, |entry| entry.early_packets = FEW));
    bench.bind(slot());
    assert_eq!(down(&mut bench), Err(DropReason::Unconfirmed));
    let mut bench = proven();
    bench.tables.bindings.unbind(slot().index());
    assert_eq!(down(&mut bench), Err(DropReason::SlotUnbound));
}

/// R7.3, I11: neither a restart of the process nor the entry that gives the binding back gives the advance again, and no
/// counter comes twice.
#[test]
fn r7_3_a_restart_gives_no_second_advance() {
    let mut bench = proven();
    assert_eq!((down(&mut bench), down(&mut bench)), (Ok(0), Ok(1)));
    bench.restart();
    knows_the_way(&mut bench);
    assert!(bench.install(InstallOp::Adopt, |entry| entry.early_packets = FEW));
    assert_eq!(down(&mut bench), Ok(2));
    assert_eq!(down(&mut bench), Err(DropReason::Unconfirmed));
}

/// R1.1: a slot that is used again for an address that was not proven has nothing of the one before.
#[test]
fn r1_1_the_next_binding_of_a_slot_inherits_no_way() {
    let mut bench = proven();
    assert_eq!(down(&mut bench), Ok(0));
    bench.tables.bindings.unbind(slot().index());
    assert!(bench.install(InstallOp::Install, |_| ()));
    bench.bind(slot());
    assert_eq!(down(&mut bench), Err(DropReason::Unconfirmed));
    assert_eq!(bench.context().next_hop_mac.load(Ordering::Relaxed), 0);
}
