//! What `jvpn status` shows of the data plane. Read from shared memory; no worker is disturbed.

use crate::attach::{Side, Steering};
use crate::hook::Hook;
use crate::plan::Seat;
use crate::tables::Tables;
use crate::worker::WorkerLinks;
use jvpn_abi::DropReason;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the status is made of.
#[derive(Debug)]
pub struct StatusSource<'a> {
    /// The programs.
    pub steering: &'a Steering,
    /// The tables; `None` until a control plane came.
    pub tables: Option<&'a Tables>,
    /// The workers.
    pub links: &'a [Arc<WorkerLinks>],
    /// Whether a control plane is connected.
    pub control_plane: bool,
    /// Where the workers run.
    pub seats: &'a [Seat],
}

/// The document.
#[must_use]
pub fn status(source: &StatusSource<'_>) -> Value {
    let workers: Vec<Value> = source
        .tables
        .map(|tables| (0..source.links.len()).map(|index| worker(source, tables, index)).collect())
        .unwrap_or_default();
    let xdp_counters: Map<String, Value> = match source.steering.counters() {
        Ok(counters) => counters
            .into_iter()
            .filter(|(_, n)| *n > 0)
            .map(|(reason, n)| (reason.name().to_owned(), json!(n)))
            .collect(),
        Err(error) => Map::from_iter([("error".to_owned(), json!(error.to_string()))]),
    };
    let (wan, lan) = (side(source.steering, Side::Wan), side(source.steering, Side::Lan));
    json!({
        "process": "jvpn-dataplane",
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
        "contract_version": jvpn_abi::CONTRACT_VERSION,
        "control_plane_connected": source.control_plane,
        "xdp_mode": wan.get("xdp_mode"),
        "af_xdp_mode": wan.get("af_xdp_mode"),
        "ports": { "wan": wan, "lan": lan },
        "xdp_attachment": source.steering.attachment,
        "xdp_pinned": source.steering.is_pinned(),
        "workers": workers,
        "bindings": source.tables.map(bindings),
        "xdp_counters": xdp_counters,
    })
}

/// The document of a start that waits for a queue.
#[must_use]
pub fn starting(interface: &str, queue: u32) -> Value {
    json!({
        "process": "jvpn-dataplane",
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
        "contract_version": jvpn_abi::CONTRACT_VERSION,
        "control_plane_connected": false,
        "starting": format!("waits for queue {queue} of {interface}"),
    })
}

/// A side: what its first interface is, the lowest step of all, and each of them.
fn side(steering: &Steering, side: Side) -> Value {
    let first = steering.of(side).next();
    let falls: Vec<_> = steering.of(side).flat_map(|hook| &hook.standing.falls).collect();
    json!({
        "xdp_mode": first.and_then(|hook| hook.link.xdp).unwrap_or("none"),
        "af_xdp_mode": first.map(|hook| hook.af_xdp),
        "queues": steering.of(side).map(|hook| hook.queues).min(),
        "step": steering.of(side).map(|hook| hook.standing.step).max(),
        "falls": falls,
        "interfaces": steering.of(side).map(Hook::shown).collect::<Vec<_>>(),
    })
}

fn worker(source: &StatusSource<'_>, tables: &Tables, index: usize) -> Value {
    let report = tables.report(index);
    let of = |reason: DropReason| report.counters[reason.number() as usize].load(Ordering::Relaxed);
    let counters: Map<String, Value> = DropReason::ALL
        .iter()
        .filter(|reason| of(**reason) > 0)
        .map(|reason| (reason.name().to_owned(), json!(of(*reason))))
        .collect();
    let kernel = source.links.get(index).and_then(|links| links.statistics.lock().ok().map(|shown| *shown));
    let (wan, lan) = kernel.unwrap_or_default();
    let levels = source.links.get(index).map(|links| &links.levels);
    json!({
        "cpu": source.seats.get(index).map(|seat| seat.cpu),
        "queue": source.seats.get(index).map(|seat| seat.queue),
        "packets_in": of(DropReason::ForwardedIn),
        "packets_out": of(DropReason::ForwardedOut),
        "checksums_finished": source.links.get(index).map(|links| links.checksums_finished.get()),
        "batches": report.batches.load(Ordering::Relaxed),
        "counters": counters,
        "kernel": { "wan": wan, "lan": lan },
        "rings": levels.map(|(wan, lan)| json!({ "wan": wan.shown(), "lan": lan.shown() })),
    })
}

/// Slots that are shown, those with most octets first.
const SLOTS_SHOWN: usize = 64;

/// Traffic of the bindings, as CONTEXT has it. The data plane knows slots; whose they are says `jvpn sessions`.
fn bindings(tables: &Tables) -> Value {
    // Only CONTEXT of bound slots is looked at: the memory of the others does not exist until it is touched.
    let bound = (0..tables.bindings.slots()).filter(|slot| tables.bindings.word(*slot).is_bound());
    let mut shown: Vec<(u64, Value)> = bound
        .filter_map(|slot| Some((slot, tables.contexts.get(slot as usize)?)))
        .map(|(slot, context)| {
            let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let (bytes_in, bytes_out) = (of(&context.bytes_in), of(&context.bytes_out));
            let row = json!({
                "slot": slot,
                "packets_in": of(&context.packets_in),
                "bytes_in": bytes_in,
                "packets_out": of(&context.packets_out),
                "bytes_out": bytes_out,
                "failed_opens": of(&context.failed_opens),
            });
            (bytes_in.wrapping_add(bytes_out), row)
        })
        .collect();
    let count = shown.len();
    shown.sort_by_key(|(octets, _)| std::cmp::Reverse(*octets));
    let rows: Vec<Value> = shown.into_iter().take(SLOTS_SHOWN).map(|(_, row)| row).collect();
    json!({ "count": count, "shown": rows })
}
