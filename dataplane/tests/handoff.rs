//! Installer, control plane and worker on threads of their own over the same tables: the hand-off and the claim of
//! quiescence, with whatever interleavings the machine gives. (The model checker of `jvpn-bench model` explores all of
//! them, of the design; this runs the code.)

mod common;

use common::*;
use jvpn_abi::DropReason;
use jvpn_abi::Endpoint;
use jvpn_abi::tables::{BindingEntry, BindingWord, InstallOp};
use jvpn_abi::wire::SlotId;
use jvpn_dataplane::boundary::Boundary;
use jvpn_dataplane::pipeline::Verdict;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bindings that follow each other in one slot.
const ROUNDS: u32 = 300;

/// R1.4, R2.4, I1: a control plane that binds, lets frames flow, unbinds and waits for the worker's report, again and again.
/// Once the worker has reported an unbind, it accepts nothing of that binding, whatever is handed to it meanwhile; and it
/// accepts something of each.
#[test]
fn r1_4_after_its_report_a_worker_accepts_nothing_of_an_unbound_slot() {
    let mut bench = Bench::new();
    let (tables, queues) = (Arc::clone(&bench.tables), Arc::clone(&bench.queues));
    // The serial whose frames may be accepted now; 0 = none.
    let allowed = Arc::new(AtomicU64::new(0));
    let accepted = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let serials = 1..=ROUNDS;
    let of_round = |serial: u32| SlotId::new(7, serial).unwrap();
    // One frame per binding is enough: replays of it are refused by the window, so many are made.
    let frames: Vec<Vec<Vec<u8>>> = serials
        .clone()
        .map(|serial| {
            let plain = inner(CLIENT, SERVER, 64, b"quiescence");
            (0..64).map(|counter| data_frame_of(of_round(serial), false, counter, &plain, REMOTE)).collect()
        })
        .collect();
    let entries: Vec<_> = serials
        .map(|serial| {
            let mut entry = entry(InstallOp::Install);
            entry.seq = u64::from(serial);
            entry.slot = of_round(serial).0;
            entry.word = BindingWord::bound(of_round(serial), u64::from(serial)).0;
            entry
        })
        .collect();
    let (pipeline, installer, mailbox) = (&mut bench.pipeline, &bench.installer, &bench.mailbox);
    let (mut lan_out, mut wan_out) = (vec![0; 1_792], vec![0; 1_792]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The worker: a boundary, then a batch of frames of every binding that may be there.
            let (mut boundary, mut next) = (Boundary::default(), 0_usize);
            while !stop.load(Ordering::Acquire) {
                boundary.pass(&tables, 0, pipeline, &queues);
                let now_allowed = allowed.load(Ordering::SeqCst);
                for _ in 0..16 {
                    let round =
                        usize::try_from(now_allowed).unwrap().saturating_sub(usize::from(next % 3 == 0));
                    next = next.wrapping_add(1);
                    let Some(of_binding) = round.checked_sub(1).and_then(|round| frames.get(round)) else {
                        continue;
                    };
                    let frame = &of_binding[next % of_binding.len()];
                    let verdict = pipeline.inbound(NOW, frame, &mut lan_out, &mut wan_out);
                    if matches!(verdict, Verdict::ToLan(_)) {
                        // Bound while the frame was handled, or until a boundary that is yet to come.
                        let serial = u64::try_from(round).unwrap();
                        let reported = tables.report(0).unbind_seq.load(Ordering::SeqCst);
                        assert!(reported < serial, "binding {serial} after unbind {reported} was reported");
                        accepted.fetch_max(serial, Ordering::SeqCst);
                    }
                }
                let _told = pipeline.after_batch();
            }
        });
        for (entry, serial) in entries.iter().zip(1_u64..) {
            assert!(mailbox.put(entry));
            let done = installer.run(mailbox);
            assert_eq!((done.handed, done.refused), (1, 0));
            await_that(|| tables.report(0).install_seq.load(Ordering::Acquire) >= serial);
            let path = BindingEntry::new(Endpoint::v4(REMOTE.0, REMOTE.1), Endpoint::v4(LOCAL.0, LOCAL.1));
            tables.bindings.bind(7, &path, BindingWord(entry.word));
            allowed.store(serial, Ordering::SeqCst);
            await_that(|| accepted.load(Ordering::SeqCst) >= serial);
            tables.bindings.unbind(7);
            tables.reports().requested_unbind_seq.store(serial, Ordering::SeqCst);
            await_that(|| tables.report(0).unbind_seq.load(Ordering::Acquire) >= serial);
        }
        stop.store(true, Ordering::Release);
    });
    assert_eq!(accepted.load(Ordering::SeqCst), u64::from(ROUNDS), "each binding forwarded");
    assert!(bench.counter(DropReason::SlotUnbound) > 0, "frames came while nothing was bound");
}

/// Waits for another thread. A minute is longer than any scheduler makes a runnable thread wait.
fn await_that(condition: impl Fn() -> bool) {
    let patience = std::time::Instant::now();
    while !condition() {
        assert!(patience.elapsed().as_secs() < 60, "the other thread does not come");
        std::thread::yield_now();
    }
}
