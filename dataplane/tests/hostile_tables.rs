//! Torn and hostile contents of the shared tables: nothing panics, nothing hangs, and nothing is forwarded that did not
//! authenticate for the binding that is installed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use common::*;
use jvpn_abi::tables::{BINDING_WORDS, INSTALL_WORDS, InstallEntry, InstallOp, KEY_RING_LEN, KeyRing};
use jvpn_abi::wire::SlotId;
use jvpn_dataplane::boundary::Boundary;
use jvpn_dataplane::frame::Address;
use jvpn_dataplane::pipeline::{BetweenClients, PipelineConfig, Routes, Verdict};
use jvpn_dataplane::tables::Tables;
use jvpn_tables::Mapping;
use proptest::prelude::*;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A cell of a CONTEXT: one of those that a worker or the installer reads, or a word of a window, or of the windows' owners.
fn cell(tables: &Tables, slot: usize, place: usize) -> &AtomicU64 {
    let context = &tables.contexts[slot];
    let [even, odd] = &context.keys;
    let window = u32::try_from(place / 2_048).unwrap_or(0) % 4;
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
        &even.window_plus_one,
        &odd.window_plus_one,
        tables.window_owner(window).unwrap(),
    ];
    let words = &tables.window(window).unwrap().words;
    named.get(place % 32).copied().unwrap_or(&words[place / 32 % words.len()])
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
            cell(&bench.tables, slot, place).store(word, Ordering::SeqCst);
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

/// A word of an entry: anything, or what its neighbours take for sound.
fn entry_word() -> impl Strategy<Value = u64> {
    prop_oneof![word(), any::<u32>().prop_map(u64::from), Just(u64::from(slot().0) << 32 | 1)]
}

/// ROUTES with this in every place.
struct Everywhere(AtomicU64);

impl Routes for Everywhere {
    fn slot_of(&self, _: Address) -> Option<u32> {
        u32::try_from(self.0.load(Ordering::Relaxed)).ok()
    }

    fn generation(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// R1.8, R2.4: whatever octets stand in KEYS, every entry is handed out or refused and counted, the octets are wiped, and
    /// nothing opens for a slot that BINDINGS does not bind.
    #[test]
    fn r1_8_any_octets_in_keys(
        ops in prop::collection::vec(0_u32..8, 0..4),
        stores in prop::collection::vec((0..8 * INSTALL_WORDS, entry_word()), 0..40),
        more in prop_oneof![Just(0_u64), 0_u64..8, any::<u64>()],
    ) {
        let mut bench = Bench::attached();
        let memory = Mapping::<KeyRing>::new("KEYS", bench.keys.as_fd(), 1).unwrap();
        let ring = &memory[0];
        for (seq, op) in (10..).zip(ops) {
            let entry = InstallEntry { seq, op, ..entry(InstallOp::Install) };
            prop_assert!(bench.mailbox.put(&entry));
        }
        let taken = ring.taken.load(Ordering::Relaxed);
        for (place, word) in stores {
            let entry = (taken as usize + place / INSTALL_WORDS) % KEY_RING_LEN;
            ring.entries[entry][place % INSTALL_WORDS].store(word, Ordering::Relaxed);
        }
        let written = ring.written.load(Ordering::Relaxed).wrapping_add(more);
        ring.written.store(written, Ordering::Relaxed);
        let refused_before = bench.tables.reports().refused.load(Ordering::Relaxed);
        let done = bench.installer.run(&bench.mailbox);
        let waiting = written.wrapping_sub(taken);
        let expected = if waiting > KEY_RING_LEN as u64 { 0 } else { waiting };
        prop_assert_eq!(u64::from(done.handed + done.refused), expected);
        let refused = bench.tables.reports().refused.load(Ordering::Relaxed) - refused_before;
        prop_assert_eq!(u64::from(done.refused), refused, "refusals are counted");
        for n in 0..expected {
            let entry = &ring.entries[taken.wrapping_add(n) as usize % KEY_RING_LEN];
            prop_assert!(entry.iter().all(|cell| cell.load(Ordering::Relaxed) == 0), "wiped");
        }
        let _last = bench.pipeline.apply(&bench.queues);
        let plain = inner(CLIENT, SERVER, 64, b"honest");
        for index in (0..SLOTS).filter(|index| *index != slot().index()) {
            let unbound = SlotId::new(index, slot().serial()).unwrap();
            let verdict = bench.inbound(&data_frame_of(unbound, false, 1, &plain, REMOTE));
            prop_assert!(matches!(verdict, Verdict::Drop(_)), "{verdict:?}");
        }
        let mut forged = data_frame(1, &plain);
        *forged.last_mut().unwrap() ^= 1;
        let verdict = bench.inbound(&forged);
        prop_assert!(matches!(verdict, Verdict::Drop(_)), "{verdict:?}");
    }

    /// R1.8: wherever ROUTES leads, a packet for another client is sealed for nobody who does not own its destination.
    #[test]
    fn r1_8_any_octets_in_routes(slots in prop::collection::vec(prop_oneof![any::<u64>(), 0_u64..128], 1..20)) {
        let mut bench = Bench::new();
        let routes = Arc::new(Everywhere(AtomicU64::new(0)));
        let config = PipelineConfig { between_clients: BetweenClients::TurnedRound, ..config() };
        bench.pipeline = pipeline_of(&bench.tables, &bench.misses, config).with_routes(Arc::clone(&routes) as _);
        prop_assert!(bench.install(InstallOp::Install, |_| ()));
        bench.bind(slot());
        for (counter, to) in (0..).zip(slots) {
            routes.0.store(to, Ordering::Relaxed);
            let other = inner(CLIENT, Ipv4Addr::new(10, 77, 0, 9), 64, b"for somebody else");
            match bench.inbound(&data_frame(counter, &other)) {
                Verdict::Drop(_) => {}
                // An error to the sender: sealed for its own slot, which `client_opens` asserts.
                Verdict::ToWan(len) => {
                    let (_, opened) = bench.client_opens(len);
                    prop_assert_eq!(opened[9], 1, "ICMP");
                    prop_assert_eq!(&opened[16..20], &CLIENT.octets());
                }
                verdict @ (Verdict::ToLan(_) | Verdict::ToWanInPart { .. }) => prop_assert!(false, "{verdict:?} with a route to slot {to}"),
            }
        }
    }
}
