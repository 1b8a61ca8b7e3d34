//! The XDP programs. They run the classification of `jvpn-abi` on the frame, steer DATA of bound slots and traffic for
//! inner addresses into AF_XDP sockets, shield the control plane, and pass the rest. They hold no session: a filter,
//! not the judge.
#![no_std]
#![no_main]

mod frame;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, PerCpuArray, XskMap};
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use frame::Frame;
use jvpn_abi::steer::{self, DataFrame, WanClass};
use jvpn_abi::tables::{
    BindingEntry, COUNTERS_LEN, EdgeBuckets, Gate, MAX_ROUTES, MAX_WORKERS, SteeringMark,
};
use jvpn_abi::wire::data::MAX_SLOTS;
use jvpn_abi::{BootTime, DropReason};

/// BPF_F_MMAPABLE (linux/bpf.h): user space maps the table and stores words directly.
const MMAPABLE: u32 = 1 << 10;

#[map]
static BINDINGS: Array<BindingEntry> = Array::with_max_entries(MAX_SLOTS, MMAPABLE);
#[map]
static GATE: Array<Gate> = Array::with_max_entries(1, MMAPABLE);
#[map]
static ROUTES: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(MAX_ROUTES, 0);
#[map]
static LIMITS: PerCpuArray<EdgeBuckets> = PerCpuArray::with_max_entries(1, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS_LEN, 0);
#[map]
static WAN_XSKS: XskMap = XskMap::with_max_entries(MAX_WORKERS as u32, 0);
#[map]
static LAN_XSKS: XskMap = XskMap::with_max_entries(MAX_WORKERS as u32, 0);

/// The WAN port: DATA of bound slots to its worker, control datagrams through the edge limit, the rest to the kernel.
#[xdp]
pub fn wan(ctx: XdpContext) -> u32 {
    let Some(gate) = GATE.get(0) else { return xdp_action::XDP_PASS };
    match steer::classify_wan(&Frame::of(&ctx), gate.port) {
        WanClass::Kernel => pass(DropReason::PassedToKernel),
        WanClass::Control => control(gate),
        WanClass::Refused(reason) => {
            if gate.log != 0 {
                debug!(&ctx, "refused, reason {}", reason.number());
            }
            dropped(reason)
        }
        WanClass::Data(data) => bound_data(&ctx, gate, &data),
    }
}

/// The LAN port: traffic for an inner address to the worker of its queue, the rest to the kernel.
#[xdp]
pub fn lan(ctx: XdpContext) -> u32 {
    let Some(gate) = GATE.get(0) else { return xdp_action::XDP_PASS };
    let Some(destination) = steer::inner_destination(&Frame::of(&ctx)) else {
        return pass(DropReason::PassedToKernel);
    };
    let Some(slot_index) = ROUTES.get(Key::new(128, destination)) else {
        return pass(DropReason::PassedToKernel);
    };
    let slot_index = *slot_index;
    if steer::fenced(gate, boot_time) {
        return dropped(DropReason::Fenced);
    }
    if !Frame::of(&ctx).write_mark(SteeringMark { slot_index }) {
        return dropped(DropReason::NoSteeringMark);
    }
    redirect(&LAN_XSKS, &ctx)
}

#[inline(always)]
fn control(gate: &Gate) -> u32 {
    let Some(buckets) = LIMITS.get_ptr_mut(0) else { return xdp_action::XDP_DROP };
    // SAFETY: a per-CPU element is only touched by this CPU, and XDP does not nest on one CPU.
    let admitted = unsafe { (*buckets).control.take(boot_time(), gate.control) };
    if admitted { pass(DropReason::ControlPassed) } else { dropped(DropReason::EdgeLimited) }
}

#[inline(always)]
fn bound_data(ctx: &XdpContext, gate: &Gate, data: &DataFrame) -> u32 {
    if steer::fenced(gate, boot_time) {
        return dropped(DropReason::Fenced);
    }
    let Some(entry) = BINDINGS.get(data.slot.index()) else { return dropped(DropReason::SlotOutOfRange) };
    match steer::admit(data, entry) {
        Ok(()) => redirect(&WAN_XSKS, ctx),
        Err(reason) => sample(ctx, gate, data, reason),
    }
}

/// Lets a limited share of unbound DATA reach the control plane, marked, so that it can hint or reset.
#[inline(always)]
fn sample(ctx: &XdpContext, gate: &Gate, data: &DataFrame, reason: DropReason) -> u32 {
    count(reason);
    let Some(buckets) = LIMITS.get_ptr_mut(0) else { return xdp_action::XDP_DROP };
    // SAFETY: as in `control`.
    let admitted = unsafe { (*buckets).sample.take(boot_time(), gate.sample) };
    if gate.log != 0 {
        debug!(ctx, "unbound DATA, slot {}, reason {}, sampled {}", data.slot.0, reason.number(), admitted as u32);
    }
    if !admitted || !Frame::of(ctx).mark_sample(data.payload_at) {
        return xdp_action::XDP_DROP;
    }
    pass(DropReason::UnboundSampled)
}

#[inline(always)]
fn redirect(sockets: &XskMap, ctx: &XdpContext) -> u32 {
    // SAFETY: `ctx.ctx` is the context that the kernel passed in.
    let queue = unsafe { (*ctx.ctx).rx_queue_index };
    match sockets.redirect(queue, xdp_action::XDP_DROP as u64) {
        Ok(action) => {
            count(DropReason::Steered);
            action
        }
        Err(action) => {
            count(DropReason::NoSocket);
            action
        }
    }
}

#[inline(always)]
fn pass(reason: DropReason) -> u32 {
    count(reason);
    xdp_action::XDP_PASS
}

#[inline(always)]
fn dropped(reason: DropReason) -> u32 {
    count(reason);
    xdp_action::XDP_DROP
}

#[inline(always)]
fn count(reason: DropReason) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason.number()) {
        // SAFETY: a per-CPU element is only touched by this CPU.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}

#[inline(always)]
fn boot_time() -> BootTime {
    // SAFETY: a helper without arguments.
    BootTime(unsafe { bpf_ktime_get_boot_ns() })
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses an endless loop that can be reached: a panic path that survives does not load.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
