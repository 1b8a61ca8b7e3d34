//! R5.2 in the packet path: two keys of one binding, in memory, with the real tables, mailbox and installer.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use common::*;
use jvpn_abi::DropReason;
use jvpn_abi::tables::{InstallEntry, InstallOp};
use jvpn_abi::wire::internal::{ProbeFrame, ProbeKind};
use jvpn_dataplane::pipeline::Verdict;
use std::sync::atomic::Ordering;

fn up() -> Vec<u8> {
    inner(CLIENT, SERVER, 64, b"up")
}

fn send(bench: &mut Bench) -> usize {
    match bench.outbound(&mut lan_frame(&inner(SERVER, CLIENT, 64, b"down"))) {
        Verdict::ToWan(len) => len,
        Verdict::ToLan(_) | Verdict::ToWanInPart { .. } | Verdict::Drop(_) => panic!("not sent"),
    }
}

fn forwarded(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::ToLan(_))
}

fn dropped(verdict: Verdict) -> DropReason {
    match verdict {
        Verdict::Drop(reason) => reason,
        Verdict::ToLan(_) | Verdict::ToWan(_) | Verdict::ToWanInPart { .. } => {
            panic!("not dropped: {verdict:?}")
        }
    }
}

/// R5.3: what a worker hands back has keys in it: it wakes the installer, which frees them (they are wiped when they are
/// dropped). Nothing else wakes it: no packet, and no install into an empty slot.
#[test]
fn r5_3_retired_keys_are_freed_at_once() {
    let mut bench = Bench::attached();
    let woken = |bench: &Bench| bench.queues.installer_bell.silence();
    assert!(!woken(&bench), "nothing was there to be retired");
    assert!(forwarded(bench.inbound(&data_frame(1, &up()))));
    send(&mut bench);
    bench.pipeline.apply(&bench.queues);
    assert!(!woken(&bench), "packets wake nobody");
    for op in [InstallOp::AddKey, InstallOp::Remove] {
        assert!(bench.install(op, next_key));
        assert!(woken(&bench) && bench.queues.retired.len() == 1, "{op:?}");
        bench.installer.run(&bench.mailbox);
        assert!(bench.queues.retired.is_empty(), "{op:?}");
        assert!(!woken(&bench), "{op:?}");
    }
}

fn drop_key(number: u32) -> impl FnOnce(&mut InstallEntry) {
    move |entry| entry.key_number = number
}

/// R5.2: both keys receive during the overlap; the first frame under the next one flips sending, once; nothing is lost.
#[test]
fn r5_2_both_keys_receive_and_one_sends() {
    let mut bench = Bench::attached();
    assert!(bench.install(InstallOp::AddKey, next_key));
    let len = send(&mut bench);
    assert_eq!(opened_under(&bench, &SEAL_KEY, len), (0, false), "until then the key before sends");
    assert!(forwarded(bench.inbound(&data_frame(1, &up()))));
    assert!(!bench.pipeline.after_batch().confirmed || bench.context().send_key.load(Ordering::Relaxed) == 1);
    let reported = bench.pipeline.report().events_written.load(Ordering::Relaxed);

    assert!(forwarded(bench.inbound(&next_frame(0, &up()))));
    assert_eq!(bench.context().send_key.load(Ordering::Relaxed), 2);
    assert!(bench.pipeline.after_batch().confirmed, "the control plane is rung");
    for expected in 0..3 {
        let len = send(&mut bench);
        assert_eq!(opened_under(&bench, &NEXT_SEAL_KEY, len), (expected, true));
    }
    // What was under way under the key before still arrives, each frame once, and changes nothing.
    for counter in [5, 2, 3] {
        assert!(forwarded(bench.inbound(&data_frame(counter, &up()))));
        assert_eq!(dropped(bench.inbound(&data_frame(counter, &up()))), DropReason::Replayed);
    }
    assert!(forwarded(bench.inbound(&next_frame(2, &up()))));
    assert_eq!(
        dropped(bench.inbound(&next_frame(2, &up()))),
        DropReason::Replayed,
        "a window per key number"
    );
    assert!(forwarded(bench.inbound(&next_frame(1, &up()))));
    assert_eq!(bench.pipeline.report().events_written.load(Ordering::Relaxed), reported + 1, "reported once");
    let len = send(&mut bench);
    assert_eq!(opened_under(&bench, &NEXT_SEAL_KEY, len), (3, true), "never back");
}

/// The key before is refused once it is dropped; its set serves the key number after, from counter 0.
#[test]
fn r5_2_a_dropped_key_is_refused_and_its_set_is_made_new() {
    let mut bench = Bench::attached();
    assert!(bench.install(InstallOp::AddKey, next_key));
    assert!(!bench.install(InstallOp::DropKey, drop_key(0)), "the key in use is not dropped");
    send(&mut bench);
    assert!(forwarded(bench.inbound(&next_frame(0, &up()))));
    assert!(
        !bench.install(InstallOp::AddKey, |e| (e.key_number, e.open_key) = (2, [5; 32])),
        "0 is still there"
    );
    assert!(bench.install(InstallOp::DropKey, drop_key(0)));
    assert!(bench.install(InstallOp::DropKey, drop_key(0)), "said twice");
    assert_eq!(dropped(bench.inbound(&data_frame(9, &up()))), DropReason::OpenFailed);
    let len = send(&mut bench);
    assert_eq!(opened_under(&bench, &NEXT_SEAL_KEY, len), (0, true));

    assert!(bench.install(InstallOp::AddKey, |entry| entry.key_number = 2));
    assert_eq!(bench.context().keys[0].send_counter.load(Ordering::Relaxed), 0);
    assert!(forwarded(bench.inbound(&data_frame(0, &up()))), "a fresh window");
    assert_eq!(bench.context().send_key.load(Ordering::Relaxed), 3);
    let len = send(&mut bench);
    assert_eq!(opened_under(&bench, &SEAL_KEY, len), (0, false));
}

/// I11: an offered key that was never used is replaced; one that was used is not, and no counter is taken twice.
#[test]
fn i11_only_an_unused_key_is_replaced() {
    let mut bench = Bench::attached();
    assert!(bench.install(InstallOp::AddKey, |entry| {
        next_key(entry);
        entry.open_key = [9; 32];
    }));
    assert!(bench.install(InstallOp::AddKey, next_key));
    assert!(forwarded(bench.inbound(&next_frame(0, &up()))), "the later one counts");
    send(&mut bench);
    assert!(!bench.install(InstallOp::AddKey, next_key));
    let len = send(&mut bench);
    assert_eq!(opened_under(&bench, &NEXT_SEAL_KEY, len).0, 1);
}

/// What does not follow is refused, and the binding goes on as it is.
#[test]
fn a_key_that_does_not_follow_is_refused() {
    let mut bench = Bench::new();
    assert!(!bench.install(InstallOp::AddKey, next_key), "nothing is installed");
    let mut bench = Bench::attached();
    for edit in [
        |entry: &mut InstallEntry| entry.key_number = 0,
        |entry: &mut InstallEntry| entry.key_number = 3,
        |entry: &mut InstallEntry| (entry.key_number, entry.word) = (1, entry.word + 1),
        |entry: &mut InstallEntry| (entry.key_number, entry.suite) = (1, 9),
    ] {
        assert!(!bench.install(InstallOp::AddKey, edit));
    }
    assert!(!bench.install(InstallOp::AdoptKey, next_key), "CONTEXT has no such key");
    assert!(forwarded(bench.inbound(&data_frame(1, &up()))));
    send(&mut bench);
}

/// R7.3, I11: a data plane that restarts in the middle of a rekey goes on with both keys, their counters and windows.
#[test]
fn r7_3_adopted_in_the_middle_of_a_rekey() {
    let mut bench = Bench::attached();
    assert!(bench.install(InstallOp::AddKey, next_key));
    let len = send(&mut bench);
    assert_eq!(opened_under(&bench, &SEAL_KEY, len).0, 0);
    for flipped in [false, true] {
        bench.restart();
        assert!(bench.install(InstallOp::Adopt, |_| ()));
        assert!(bench.install(InstallOp::AdoptKey, next_key));
        assert_eq!(dropped(bench.inbound(&data_frame(0, &up()))), DropReason::Replayed);
        let len = send(&mut bench);
        if flipped {
            assert_eq!(dropped(bench.inbound(&next_frame(0, &up()))), DropReason::Replayed);
            assert_eq!(opened_under(&bench, &NEXT_SEAL_KEY, len), (0, true));
        } else {
            assert_eq!(opened_under(&bench, &SEAL_KEY, len), (1, false), "no counter twice");
            assert!(forwarded(bench.inbound(&next_frame(0, &up()))));
        }
    }
    // The engine knows of the flip by now: the other key is the one before.
    bench.restart();
    assert!(bench.install(InstallOp::Adopt, next_key));
    assert!(bench.install(InstallOp::AdoptKey, |_| ()));
    let len = send(&mut bench);
    assert_eq!(opened_under(&bench, &NEXT_SEAL_KEY, len), (1, true));
    assert!(forwarded(bench.inbound(&data_frame(1, &up()))));
}

/// R5.2: a key's own limit of packets holds in both directions, and failed opens are counted for the control plane.
#[test]
fn r5_2_the_hard_limit_holds_in_both_directions() {
    let mut bench = Bench::new();
    assert!(bench.install(InstallOp::Install, |entry| entry.hard_packets = 3));
    bench.bind(slot());
    for counter in 0..3 {
        assert!(forwarded(bench.inbound(&data_frame(counter, &up()))));
        send(&mut bench);
    }
    assert_eq!(dropped(bench.inbound(&data_frame(3, &up()))), DropReason::KeyExhausted);
    let mut frame = lan_frame(&inner(SERVER, CLIENT, 64, b"down"));
    assert_eq!(dropped(bench.outbound(&mut frame)), DropReason::KeyExhausted);
    assert_eq!(bench.context().keys[0].send_counter.load(Ordering::Relaxed), 3);
    let mut bench = Bench::attached();
    for counter in 1..4 {
        let mut forged = data_frame(counter, &up());
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(dropped(bench.inbound(&forged)), DropReason::OpenFailed);
    }
    assert_eq!(bench.context().failed_opens.load(Ordering::Relaxed), 3);
}

/// A probe is answered with what came under its own key.
#[test]
fn probes_report_the_key_that_they_came_under() {
    let mut bench = Bench::attached();
    assert!(bench.install(InstallOp::AddKey, next_key));
    let probe = ProbeFrame {
        kind: ProbeKind::Probe,
        id: 7,
        sent_at_ns: 1,
        next_interval_ms: 200,
        rtt_us: 0,
        received: 0,
        highest_counter: 0,
    };
    let Verdict::ToWan(len) = bench.inbound(&next_frame(4, &probe.encode())) else { panic!("not answered") };
    assert_eq!(
        opened_under(&bench, &NEXT_SEAL_KEY, len),
        (0, true),
        "the answer is the first under the next key"
    );
}
