//! Tables of a world, as small as a world needs them.

use crate::{Cell, Mutant, Place};
use jvpn_abi::tables::{BINDING_WORDS, Context, KeyRing, KeyState, ReplayWindow, Reports, WorkerReport};

/// One slot's entry of BINDINGS.
#[must_use]
pub fn binding(mutant: Mutant) -> [Cell; BINDING_WORDS] {
    std::array::from_fn(|word| {
        Cell::watched(mutant, if word == 0 { Place::BindingWord } else { Place::Other }, 0)
    })
}

/// CONTEXT of one slot, as a binding before left it: `left` in every cell that a worker would believe.
#[must_use]
pub fn context(mutant: Mutant, left: u64) -> Context<Cell> {
    let other = |value| Cell::watched(mutant, Place::Other, value);
    let aside = || Cell::aside(0);
    Context {
        tag: other(left),
        confirmed: Cell::watched(mutant, Place::Confirmed, left),
        confirmed_at_ns: aside(),
        next_hop_mac: aside(),
        send_key: Cell::watched(mutant, Place::SendKey, left),
        path_mtu: aside(),
        reserved: std::array::from_fn(|_| aside()),
        last_heard_ns: aside(),
        peer_interval_ms: aside(),
        packets_in: aside(),
        bytes_in: aside(),
        failed_opens: aside(),
        probes: Cell::watched(mutant, Place::Probes, left),
        probe_transit_ns: aside(),
        reserved_2: std::array::from_fn(|_| aside()),
        packets_out: other(0),
        bytes_out: aside(),
        samples: std::array::from_fn(|place| if place < 2 { other(left) } else { aside() }),
        keys: std::array::from_fn(|phase| key_state(mutant, phase, left)),
    }
}

/// Counter and window's end of one key number. Only the first set is watched.
fn key_state(mutant: Mutant, phase: usize, left: u64) -> KeyState<Cell> {
    let cell = |place, value| {
        if phase == 0 { Cell::watched(mutant, place, value) } else { Cell::aside(value) }
    };
    KeyState {
        send_counter: cell(Place::SendCounter, left),
        reserved: std::array::from_fn(|_| Cell::aside(0)),
        key_number_plus_one: cell(Place::Other, left),
        window_lock: cell(Place::WindowLock, 0),
        window_end: cell(Place::Window, left),
        received: cell(Place::Other, left),
        peer_received: cell(Place::Other, 0),
        peer_end: cell(Place::Other, 0),
        window_plus_one: cell(Place::Other, left),
        refused_seq: Cell::aside(0),
    }
}

/// The bits of a window. The first word is watched.
#[must_use]
pub fn window(mutant: Mutant, left: u64) -> ReplayWindow<Cell> {
    let word = |at| if at == 0 { Cell::watched(mutant, Place::Window, left) } else { Cell::aside(left) };
    ReplayWindow { words: std::array::from_fn(word) }
}

/// REPORTS of so many workers. An event that nobody wrote names no slot.
#[must_use]
pub fn reports<const WORKERS: usize>(mutant: Mutant) -> Reports<Cell, WORKERS> {
    Reports {
        contract_version: Cell::aside(0),
        workers: Cell::aside(WORKERS as u64),
        requested_unbind_seq: Cell::watched(mutant, Place::UnbindRequest, 0),
        installer_seq: Cell::aside(0),
        refused: Cell::aside(0),
        refused_seq: Cell::watched(mutant, Place::Other, 0),
        reserved: std::array::from_fn(|_| Cell::aside(0)),
        worker: std::array::from_fn(|_| worker_report(mutant, 0)),
    }
}

/// What one worker reports, with so many events in its ring already that nobody has read. Watched are the places that the
/// first two events of a world go to.
#[must_use]
pub fn worker_report(mutant: Mutant, waiting: u64) -> WorkerReport<Cell> {
    let next = usize::try_from(waiting).unwrap_or(0);
    WorkerReport {
        unbind_seq: Cell::watched(mutant, Place::UnbindReport, 0),
        install_seq: Cell::watched(mutant, Place::InstallReport, 0),
        events_written: Cell::watched(mutant, Place::EventsWritten, waiting),
        events_lost: Cell::watched(mutant, Place::EventsLost, 0),
        cpu_plus_one: Cell::aside(0),
        batches: Cell::aside(0),
        reserved: std::array::from_fn(|_| Cell::aside(0)),
        events_read: Cell::watched(mutant, Place::EventsRead, 0),
        reserved_2: std::array::from_fn(|_| Cell::aside(0)),
        counters: std::array::from_fn(|_| Cell::aside(0)),
        events: std::array::from_fn(|place| {
            if place == next || place == next + 1 {
                Cell::watched(mutant, Place::Other, u64::MAX)
            } else {
                Cell::aside(u64::MAX)
            }
        }),
    }
}

/// KEYS with room for so many entries. Watched are the words that tell entries apart in a world: the sequence and the
/// last word of each key.
#[must_use]
pub fn keys<const LEN: usize>(mutant: Mutant) -> KeyRing<Cell, LEN> {
    use jvpn_abi::tables::InstallEntry;
    use std::mem::offset_of;
    let open = offset_of!(InstallEntry, open_key) / 8;
    let seal = offset_of!(InstallEntry, seal_key) / 8;
    let watched = [0, open + 3, seal + 3];
    KeyRing {
        written: Cell::watched(mutant, Place::KeysWritten, 0),
        reserved: std::array::from_fn(|_| Cell::aside(0)),
        taken: Cell::watched(mutant, Place::KeysTaken, 0),
        reserved_2: std::array::from_fn(|_| Cell::aside(0)),
        entries: std::array::from_fn(|_| {
            std::array::from_fn(|word| {
                if watched.contains(&word) { Cell::watched(mutant, Place::Other, 0) } else { Cell::aside(0) }
            })
        }),
    }
}
