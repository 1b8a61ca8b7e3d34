//! Torn and hostile contents of the shared tables: nothing panics, nothing hangs, and nothing is forwarded that did not
//! authenticate for the binding that is installed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use common::*;
use jvpn_abi::tables::{BINDING_WORDS, Context, InstallOp};
use jvpn_dataplane::boundary::Boundary;
use jvpn_dataplane::pipeline::Verdict;
use proptest::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};

/// A cell of a CONTEXT: one of those that a worker reads, or a word of a window.
fn cell(context: &Context, place: usize) -> &AtomicU64 {
    let [even, odd] = &context.keys;
    let named = [
        &context.tag,
        &context.confirmed,
        &context.next_hop_mac,
        &context.send_key,
        &context.packets_in,
        &context.packets_out,
        &context.probes,
        &even.send_counter,
        &even.key_number_plus_one,
        &even.window_lock,
        &even.window_end,
        &even.received,
        &odd.send_counter,
        &odd.key_number_plus_one,
        &odd.window_lock,
        &odd.window_end,
    ];
    let window = &even.window[place / 32 % even.window.len()];
    named.get(place % 32).copied().unwrap_or(window)
}

/// What a hostile or dying process leaves: mostly words that mean something.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0_u64..8,
        Just(u64::MAX),
        Just(u64::MAX - 1),
        Just(1 << 63),
        any::<u64>().prop_map(|bits| bits | 1 << 63),
    ]
}

/// A store of a word at a place, of the slot's CONTEXT (0), any CONTEXT (1), BINDINGS (2), REPORTS' sequences (3).
fn stores() -> impl Strategy<Value = Vec<(u8, usize, u64)>> {
    prop::collection::vec((0_u8..4, any::<usize>(), word()), 1..60)
}

fn scribble(bench: &Bench, (table, place, word): (u8, usize, u64)) {
    let contexts = &bench.tables.contexts;
    match table {
        0 | 1 => {
            let slot = if table == 0 { slot().index() as usize } else { place % contexts.len() };
            cell(&contexts[slot], place).store(word, Ordering::SeqCst);
        }
        2 => {
            let slot = u32::try_from(place / BINDING_WORDS).unwrap_or(0) % SLOTS;
            bench.tables.bindings.cell(slot).unwrap().store(word, Ordering::SeqCst);
        }
        _ => {
            let reports = bench.tables.reports();
            let cells = [
                &reports.requested_unbind_seq,
                &reports.installer_seq,
                &reports.refused_seq,
                &reports.worker[0].events_read,
                &reports.worker[0].events_written,
                &reports.worker[0].unbind_seq,
            ];
            cells[place % cells.len()].store(word, Ordering::SeqCst);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// R2.4, R8.2: whatever stands in the tables, a worker that goes on handles every frame, forwards only what it opened,
    /// and passes its boundary.
    #[test]
    fn r2_4_hostile_tables_harm_nobody(stores in stores(), garbage in any::<[u8; 64]>()) {
        let mut bench = Bench::attached();
        let mut boundary = Boundary::default();
        let plain = inner(CLIENT, SERVER, 64, b"honest");
        let mut forged = data_frame(40, &plain);
        let last = forged.len() - 1;
        forged[last] ^= 1;
        for (counter, store) in (1_u64..).zip(stores) {
            scribble(&bench, store);
            let honest = data_frame(counter, &plain);
            let verdict = bench.inbound(&honest);
            prop_assert!(!matches!(verdict, Verdict::ToWan(_)), "{verdict:?}");
            if let Verdict::ToLan(len) = verdict {
                prop_assert_eq!(&bench.lan_out[len - 6..len], b"honest");
            }
            let refused = bench.inbound(&forged);
            prop_assert!(matches!(refused, Verdict::Drop(_)), "{refused:?}");
            let mut down = lan_frame(&inner(SERVER, CLIENT, 64, &garbage));
            if let Verdict::ToWan(len) = bench.outbound(&mut down) {
                let (_, opened) = bench.client_opens(len);
                prop_assert_eq!(&opened[20..], &garbage, "sealed for this client alone");
            }
            let Bench { tables, pipeline, queues, .. } = &mut bench;
            let _told = pipeline.after_batch();
            boundary.pass(tables, 0, pipeline, queues);
        }
        // The installer makes it good again: a new binding begins with a clean CONTEXT.
        prop_assert!(bench.install(InstallOp::Install, |_| ()));
        bench.bind(slot());
        let first = data_frame(0, &plain);
        prop_assert!(matches!(bench.inbound(&first), Verdict::ToLan(_)));
    }
}
