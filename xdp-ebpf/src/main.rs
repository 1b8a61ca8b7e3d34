//! The XDP programs. They run the classification of `jvpn-abi` on the frame, steer DATA of bound slots and traffic for
//! inner addresses into AF_XDP sockets, shield the control plane, and pass the rest. They hold no session: a filter,
//! not the judge.
#![no_std]
#![no_main]

mod frame;
mod plain;
mod route;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, HashMap, LruPerCpuHashMap, PerCpuArray, XskMap};
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use frame::{Frame, TAG_LEN};
use jvpn_abi::edge::{EdgeLedger, EdgeLimit, HandleEntry};
use jvpn_abi::limit::{Bucket, Rate};
use jvpn_abi::ports::{PORTS_LEN, PortEntry, SOCKETS_LEN, lan_place, socket_place, wan_place};
use jvpn_abi::steer::{self, ControlFrame, DataFrame, View, WanClass};
use jvpn_abi::tables::{
    BindingEntry, COUNTERS_LEN, EdgeBuckets, EdgeClass, Gate, MAX_HANDLES, MAX_ROUTES, MAX_SOURCES,
    SourceKey, SteeringMark,
};
use jvpn_abi::wire::data::MAX_SLOTS;
use jvpn_abi::{BootTime, DropReason};

/// BPF_F_MMAPABLE (linux/bpf.h): user space maps the table and stores words directly.
const MMAPABLE: u32 = 1 << 10;

/// BPF_F_NO_PREALLOC (linux/bpf.h): memory grows with the entries.
const NO_PREALLOC: u32 = 1;

#[map]
static BINDINGS: Array<BindingEntry> = Array::with_max_entries(MAX_SLOTS, MMAPABLE);
#[map]
static GATE: Array<Gate> = Array::with_max_entries(1, MMAPABLE);
#[map]
static ROUTES: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(MAX_ROUTES, 0);
#[map]
static LIMITS: PerCpuArray<EdgeBuckets> = PerCpuArray::with_max_entries(1, 0);
#[map]
static SOURCES: LruPerCpuHashMap<SourceKey, Bucket> = LruPerCpuHashMap::with_max_entries(MAX_SOURCES, 0);
#[map]
static HANDLES: HashMap<[u8; 8], HandleEntry> = HashMap::with_max_entries(MAX_HANDLES, NO_PREALLOC);
#[map]
static EDGE: PerCpuArray<EdgeLedger> = PerCpuArray::with_max_entries(1, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS_LEN, 0);
#[map]
static PORTS: Array<PortEntry> = Array::with_max_entries(PORTS_LEN, 0);
#[map]
static WAN_XSKS: XskMap = XskMap::with_max_entries(SOCKETS_LEN, 0);
#[map]
static LAN_XSKS: XskMap = XskMap::with_max_entries(SOCKETS_LEN, 0);

/// TPID of an 802.1Q tag. Service tags (802.1ad) and whatever stands behind a first tag are the kernel's.
const TPID: [u8; 2] = [0x81, 0x00];
/// The VLAN in a tag's second word; priority and drop eligibility are whatever they are.
const VLAN_MASK: u16 = 0x0fff;

/// The programs of one interface of each side, by its number there: the constant is its place in the tables.
macro_rules! programs {
    ($($wan:ident, $lan:ident: $number:literal;)*) => { $(
        /// The WAN port: DATA of bound slots to its worker, control datagrams through the edge limit, the rest to the kernel.
        #[xdp]
        pub fn $wan(ctx: XdpContext) -> u32 {
            wan_port::<$number>(&ctx)
        }

        /// The LAN port: traffic for an inner address to the worker of its queue, the rest to the kernel.
        #[xdp]
        pub fn $lan(ctx: XdpContext) -> u32 {
            lan_port::<$number>(&ctx)
        }
    )* };
}

programs! {
    wan, lan: 0;
    wan1, lan1: 1;
    wan2, lan2: 2;
    wan3, lan3: 3;
}

#[inline(always)]
fn wan_port<const NUMBER: usize>(ctx: &XdpContext) -> u32 {
    let Some(gate) = GATE.get(0) else { return xdp_action::XDP_PASS };
    let Some(port) = PORTS.get(wan_place(NUMBER)) else { return xdp_action::XDP_PASS };
    if port.vlan == 0 {
        return steer_wan::<NUMBER, 0>(ctx, gate, port);
    }
    let Some([a, b, c, d]) = Frame::of(ctx).octets::<TAG_LEN>(12) else {
        return pass(DropReason::PassedToKernel);
    };
    if [a, b] != TPID || u16::from_be_bytes([c, d]) & VLAN_MASK != port.vlan {
        return pass(DropReason::PassedToKernel);
    }
    steer_wan::<NUMBER, TAG_LEN>(ctx, gate, port)
}

/// `TAG` octets of a tag stand behind the addresses.
#[inline(always)]
fn steer_wan<const NUMBER: usize, const TAG: usize>(ctx: &XdpContext, gate: &Gate, port: &PortEntry) -> u32 {
    let frame = Frame::behind_tag::<TAG>(ctx);
    match steer::classify_wan(&frame, gate.port) {
        WanClass::Kernel => pass(DropReason::PassedToKernel),
        WanClass::Data(data) => bound_data::<NUMBER, TAG>(ctx, gate, port, &data),
        // A gateway that also routes: what is on its way to somebody else is not ours, whatever its port.
        WanClass::Control(_) | WanClass::Refused(_)
            if route::is_forwarded(ctx, &frame, port.kernel_index) =>
        {
            pass(DropReason::PassedToKernel)
        }
        WanClass::Control(datagram) => control(&frame, gate, &datagram),
        WanClass::Refused(reason) => {
            if gate.log != 0 {
                debug!(ctx, "refused, reason {}", reason.number());
            }
            dropped(reason)
        }
    }
}

#[inline(always)]
fn lan_port<const NUMBER: usize>(ctx: &XdpContext) -> u32 {
    let Some(gate) = GATE.get(0) else { return xdp_action::XDP_PASS };
    let Some(port) = PORTS.get(lan_place(NUMBER)) else { return xdp_action::XDP_PASS };
    // What another station is meant to get (a switch that floods, a port that mirrors) is none of ours.
    if Frame::of(ctx).octets::<6>(0) != Some(port.mac) {
        return pass(DropReason::PassedToKernel);
    }
    let Some(destination) = steer::inner_destination(&Frame::of(ctx)) else {
        return pass(DropReason::PassedToKernel);
    };
    let Some(slot_index) = ROUTES.get(Key::new(128, destination)) else {
        return pass(DropReason::PassedToKernel);
    };
    let slot_index = *slot_index;
    if steer::fenced(gate, boot_time) {
        return dropped(DropReason::Fenced);
    }
    if !Frame::of(ctx).write_mark(SteeringMark { slot_index }) {
        return dropped(DropReason::NoSteeringMark);
    }
    redirect::<NUMBER>(&LAN_XSKS, ctx)
}

/// First the sender's own share, then that of the class: who floods uses up his own first. Within the class of known
/// handles those go first whose handle is not asked for all the time.
#[inline(always)]
fn control<V: View>(frame: &V, gate: &Gate, datagram: &ControlFrame) -> u32 {
    let now = boot_time();
    let mut entry = None;
    let class = datagram.class(frame, |handle| {
        entry = HANDLES.get_ptr_mut(handle);
        entry.is_some()
    });
    let (source_rate, class_rate) = rates(gate, class);
    let key = SourceKey { prefix: steer::source_prefix(&datagram.remote), class: class as u32 };
    if !take_of_source(&key, now, source_rate) {
        return refused(DropReason::SourceLimited, class, EdgeLimit::Source, datagram);
    }
    let left = match entry {
        // SAFETY: the entry stays until this program is done (RCU). Another CPU may write it at the same time: words are
        // stored whole, and `HandleEntry` says what is lost then.
        Some(entry) => unsafe { (*entry).ask(now, gate.handle) }.leaves(class_rate.burst),
        None => 0,
    };
    let Some(buckets) = LIMITS.get_ptr_mut(0) else { return xdp_action::XDP_DROP };
    // SAFETY: a per-CPU element is only touched by this CPU, and XDP does not nest on one CPU.
    let bucket = unsafe { &mut *buckets };
    let bucket = match class {
        EdgeClass::KnownHandle => &mut bucket.class[0],
        EdgeClass::UnknownHandle => &mut bucket.class[1],
        EdgeClass::Handshake => &mut bucket.class[2],
        EdgeClass::Session => &mut bucket.class[3],
    };
    if bucket.take_leaving(now, class_rate, left) {
        pass(DropReason::ControlPassed)
    } else {
        refused(DropReason::EdgeLimited, class, EdgeLimit::Class, datagram)
    }
}

/// Counted, and written down for the control plane.
#[inline(always)]
fn refused(reason: DropReason, class: EdgeClass, limit: EdgeLimit, datagram: &ControlFrame) -> u32 {
    if let Some(ledger) = EDGE.get_ptr_mut(0) {
        // SAFETY: a per-CPU element is only touched by this CPU, and XDP does not nest on one CPU.
        unsafe { (*ledger).note(class as u32, limit, datagram.remote.addr) };
    }
    dropped(reason)
}

/// Indexed by constants: the verifier then needs no bounds check.
#[inline(always)]
fn rates(gate: &Gate, class: EdgeClass) -> (Rate, Rate) {
    match class {
        EdgeClass::KnownHandle => (gate.source[0], gate.class[0]),
        EdgeClass::UnknownHandle => (gate.source[1], gate.class[1]),
        EdgeClass::Handshake => (gate.source[2], gate.class[2]),
        EdgeClass::Session => (gate.source[3], gate.class[3]),
    }
}

#[inline(always)]
fn take_of_source(key: &SourceKey, now: BootTime, rate: Rate) -> bool {
    if let Some(bucket) = SOURCES.get_ptr_mut(key) {
        // SAFETY: a per-CPU value is only touched by this CPU.
        return unsafe { (*bucket).take(now, rate) };
    }
    let mut bucket = Bucket::default();
    let admitted = bucket.take(now, rate);
    // A table that takes no entry (memory is short) must not open the gate: then nothing new passes.
    admitted && SOURCES.insert(key, &bucket, 0).is_ok()
}

#[inline(always)]
fn bound_data<const NUMBER: usize, const TAG: usize>(
    ctx: &XdpContext,
    gate: &Gate,
    port: &PortEntry,
    data: &DataFrame,
) -> u32 {
    let admitted = if steer::fenced(gate, boot_time) {
        Err(DropReason::Fenced)
    } else {
        match BINDINGS.get(data.slot.index()) {
            Some(entry) => steer::admit(data, entry),
            None => Err(DropReason::SlotOutOfRange),
        }
    };
    match admitted {
        // A binding names one of our addresses: nobody has to be asked whose it is.
        Ok(()) => {
            // Workers know no tags.
            if TAG != 0 && !Frame::strip_tag(ctx) {
                return dropped(DropReason::TooShort);
            }
            redirect::<NUMBER>(&WAN_XSKS, ctx)
        }
        Err(_) if route::is_forwarded(ctx, &Frame::behind_tag::<TAG>(ctx), port.kernel_index) => {
            pass(DropReason::PassedToKernel)
        }
        Err(reason @ (DropReason::Fenced | DropReason::SlotOutOfRange)) => dropped(reason),
        Err(reason) => sample::<TAG>(ctx, gate, data, reason),
    }
}

/// Lets a limited share of unbound DATA reach the control plane, marked, so that it can hint or reset.
#[inline(always)]
fn sample<const TAG: usize>(ctx: &XdpContext, gate: &Gate, data: &DataFrame, reason: DropReason) -> u32 {
    count(reason);
    let Some(buckets) = LIMITS.get_ptr_mut(0) else { return xdp_action::XDP_DROP };
    // SAFETY: as in `control`.
    let admitted = unsafe { (*buckets).sample.take(boot_time(), gate.sample) };
    if gate.log != 0 {
        debug!(
            ctx,
            "unbound DATA, slot {}, reason {}, sampled {}",
            data.slot.0,
            reason.number(),
            admitted as u32
        );
    }
    if !admitted || !Frame::behind_tag::<TAG>(ctx).mark_sample(data.payload_at) {
        return xdp_action::XDP_DROP;
    }
    pass(DropReason::UnboundSampled)
}

#[inline(always)]
fn redirect<const NUMBER: usize>(sockets: &XskMap, ctx: &XdpContext) -> u32 {
    // SAFETY: `ctx.ctx` is the context that the kernel passed in.
    let queue = unsafe { (*ctx.ctx).rx_queue_index };
    // Beyond the table would be another interface's place.
    let Some(queue) = socket_place(NUMBER, queue) else { return dropped(DropReason::NoSocket) };
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
