//! R0.5: which cache lines a worker writes per packet, by the layout of what is shared. Two workers that serve different
//! bindings meet in none of them; two that serve one binding meet in the line of the send counter, and in the batch's
//! tally once per batch.

use jvpn_abi::tables::{BINDING_WORDS, Context, KeyState, ReplayWindow, Reports, WorkerReport};
use std::mem::{align_of, offset_of, size_of};

/// Octets of a line, as every processor has it that the data plane runs on.
const LINE: usize = 64;

/// Lines of CONTEXT that hold these fields.
fn lines(offsets: &[usize]) -> Vec<usize> {
    let mut lines: Vec<_> = offsets.iter().map(|at| at / LINE).collect();
    lines.sort_unstable();
    lines.dedup();
    lines
}

const OF_WINDOW: usize = offset_of!(Context, keys);

/// Written for each packet that is opened, but the words of the window themselves.
fn opening() -> Vec<usize> {
    lines(&[
        offset_of!(Context, last_heard_ns),
        offset_of!(Context, packets_in),
        offset_of!(Context, bytes_in),
        OF_WINDOW + offset_of!(KeyState, window_lock),
        OF_WINDOW + offset_of!(KeyState, window_end),
        OF_WINDOW + offset_of!(KeyState, received),
    ])
}

/// Written for each packet that is sealed (the counter) or each batch (the tally).
fn sealing() -> Vec<usize> {
    lines(&[
        OF_WINDOW + offset_of!(KeyState, send_counter),
        offset_of!(Context, packets_out),
        offset_of!(Context, bytes_out),
    ])
}

/// Read by everybody, written when a binding is made, confirmed or rekeyed.
fn standing() -> Vec<usize> {
    lines(&[
        offset_of!(Context, tag),
        offset_of!(Context, confirmed),
        offset_of!(Context, next_hop_mac),
        offset_of!(Context, send_key),
        offset_of!(Context, path_mtu),
    ])
}

#[test]
fn r0_5_bindings_share_no_line() {
    assert_eq!((align_of::<Context>(), size_of::<Context>() % LINE), (LINE, 0));
    assert_eq!(BINDING_WORDS * 8, LINE);
    assert_eq!((align_of::<ReplayWindow>(), size_of::<ReplayWindow>() % LINE), (LINE, 0));
    assert_eq!(size_of::<KeyState>() % LINE, 0, "the two key sets of a binding");
}

#[test]
fn r0_5_opening_and_sealing_for_one_binding_share_no_line() {
    let (opening, sealing, standing) = (opening(), sealing(), standing());
    assert_eq!((opening.len(), sealing.len(), standing.len()), (2, 2, 1));
    let apart = |one: &[usize], other: &[usize]| one.iter().all(|line| !other.contains(line));
    assert!(apart(&opening, &sealing) && apart(&opening, &standing) && apart(&sealing, &standing));
    let counter = OF_WINDOW + offset_of!(KeyState, send_counter);
    assert_eq!(counter % LINE, 0);
    assert_eq!(offset_of!(KeyState, key_number_plus_one), LINE, "the counter is alone in its line");
}

#[test]
fn r0_5_reports_of_two_workers_share_no_line() {
    assert_eq!((align_of::<WorkerReport>(), size_of::<WorkerReport>() % LINE), (LINE, 0));
    assert_eq!(offset_of!(Reports, worker) % LINE, 0, "what the control plane writes lies elsewhere");
    // The control plane writes `events_read`; the worker's counters are in other lines.
    let (read, counters) = (offset_of!(WorkerReport, events_read), offset_of!(WorkerReport, counters));
    assert_eq!((read % LINE, counters % LINE), (0, 0));
    assert!(counters >= read + LINE && read / LINE != offset_of!(WorkerReport, batches) / LINE);
}
