//! What workers tell and the control plane reads while they go on: the event ring and the counts of PROBEs.

use super::{explore, spawn, word};
use crate::{Cell, Mutant, tables};
use jvpn_abi::BootTime;
use jvpn_abi::tables::{Context, EVENT_RING_LEN, ProbeSample, Reports};
use jvpn_abi::wire::internal::{ProbeFrame, ProbeKind};
use jvpn_controlplane::engine::{ContextView, TableEvent};
use jvpn_controlplane::reports::Reading;
use jvpn_controlplane::tables::Contexts;
use jvpn_dataplane::pipeline::note_probe;
use jvpn_dataplane::slots::{confirm, key_state};
use jvpn_dataplane::tables::push_event;
use std::sync::Arc;

struct World {
    contexts: [Context<Cell>; 2],
    reports: Reports<Cell, 1>,
}

/// R0.3: no confirmation is lost, whenever the control plane looks.
pub fn confirmations(mutant: Mutant) {
    confirmations_with(mutant, 0, &[1]);
}

/// R0.3: nor where the ring has room for one more event and two come.
pub fn full_ring(mutant: Mutant) {
    confirmations_with(mutant, EVENT_RING_LEN as u64 - 1, &[0, 1]);
}

fn confirmations_with(mutant: Mutant, waiting: u64, slots: &'static [u32]) {
    explore(mutant, None, move || {
        let contexts = [tables::context(mutant, 0), tables::context(mutant, 0)];
        let mut reports = tables::reports(mutant);
        reports.worker = [tables::worker_report(mutant, waiting)];
        let world = Arc::new(World { contexts, reports });
        let mut reading = Reading::new(&world.reports, 2, 1, false);
        let far = Arc::clone(&world);
        let worker = spawn(move || {
            for slot_index in slots {
                let (context, report) = (&far.contexts[*slot_index as usize], &far.reports.worker[0]);
                if mutant == Mutant::ToldBeforeConfirmed {
                    push_event(report, *slot_index);
                    assert!(confirm(context, word(1), BootTime(1)));
                } else {
                    assert!(confirm(context, word(1), BootTime(1)));
                    push_event(report, *slot_index);
                }
            }
        });
        let mut events = Vec::new();
        reading.poll(&world.reports, &world.contexts, &mut events);
        let _ended = worker.join();
        reading.poll(&world.reports, &world.contexts, &mut events);
        for slot_index in slots {
            let told = TableEvent::Confirmed { slot_index: *slot_index, word: word(1) };
            assert!(events.contains(&told), "the confirmation of slot {slot_index} is lost");
        }
    });
}

/// R9.2: who reads that n PROBEs were noted reads what the last of them brought, and never that the client received more
/// than was sealed.
pub fn probes(mutant: Mutant) {
    explore(mutant, None, move || {
        let contexts = Arc::new([tables::context(mutant, 0)]);
        jvpn_dataplane::slots::clear(&contexts[0], word(1), 0, 0);
        let far = Arc::clone(&contexts);
        let worker = spawn(move || {
            for number in 1..=2_u32 {
                let probe = ProbeFrame {
                    kind: ProbeKind::Probe,
                    id: number,
                    sent_at_ns: 0,
                    next_interval_ms: 0,
                    received: number.into(),
                    highest_counter: number.into(),
                    rtt_us: 10,
                };
                note_probe(BootTime(number.into()), &far[0], key_state(&far[0], 0), &probe);
            }
        });
        if let Some(probed) = Contexts(&*contexts).probed(0) {
            assert!((1..=2).contains(&probed.probes));
            let noted = usize::try_from(probed.probes).unwrap_or(0);
            for sample in probed.samples.iter().take(noted) {
                assert_eq!(ProbeSample::decode(*sample).rtt_us, 10, "a PROBE that was counted was not noted");
            }
            assert!(probed.down.iter().flatten().all(|counts| counts.received == 0), "nothing was sealed");
        }
        let _ended = worker.join();
    });
}
