//! The same filter in front of plain sockets, for a WAN port without XDP. The kernel has put fragments together by then and
//! taken the frame apart; what is left of it is read where it lies, so that the classification is the very same.
//!
//! `spread` chooses the socket of a group that shares the port: the workers' for DATA, the control plane's for the rest and
//! for samples of unbound DATA. `edge` stands in front of the control plane's socket.

use crate::{BINDINGS, GATE, LIMITS, boot_time, control, count};
use aya_ebpf::bindings::{__sk_buff, bpf_hdr_start_off, xdp_action};
use aya_ebpf::helpers::generated::{bpf_skb_load_bytes, bpf_skb_load_bytes_relative};
use aya_ebpf::macros::{map, socket_filter};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::SkBuffContext;
use jvpn_abi::ports::MAX_PORTS;
use jvpn_abi::steer::{
    self, DataFrame, ETHERNET_LEN, ETHERTYPE_IPV4, IPV4_LEN, IPV6_LEN, UDP_LEN, View, WanClass,
};
use jvpn_abi::tables::Gate;
use jvpn_abi::{DropReason, Endpoint};

/// How many sockets of workers follow the control plane's in the group.
#[map]
static PLAIN: Array<u32> = Array::with_max_entries(1, 0);

/// Indexes of the devices that the kernel has for the WAN, if it has several; 0 = no more of them. Nothing for one, to which
/// the socket is bound.
#[map]
static PLAIN_PORTS: Array<u32> = Array::with_max_entries(MAX_PORTS as u32, 0);

/// As many octets as there are.
const ACCEPT: i64 = u32::MAX as i64;
/// None.
const DROP: i64 = 0;
/// Place of the control plane's socket in the group.
const CONTROL_PLANE: i64 = 0;

/// In front of the control plane's socket: what XDP would have let pass, and samples.
#[socket_filter]
pub fn edge(ctx: SkBuffContext) -> i64 {
    let Some(gate) = GATE.get(0) else { return ACCEPT };
    if is_stranger(&ctx) {
        return DROP;
    }
    let frame = Datagram::of(&ctx, 0);
    let refused = match steer::classify_wan(&frame, gate.port) {
        // `spread` has chosen it.
        WanClass::Data(_) => return ACCEPT,
        WanClass::Control(datagram) => {
            return if control(&frame, gate, &datagram) == xdp_action::XDP_PASS { ACCEPT } else { DROP };
        }
        // It was sent to this socket all the same: options or extension headers.
        WanClass::Kernel => DropReason::OddHeaders,
        WanClass::Refused(reason) => reason,
    };
    count(refused);
    DROP
}

/// Whether a datagram came by another device than those of the WAN: a socket has one filter, so this one asks that too.
#[inline(always)]
fn is_stranger(ctx: &SkBuffContext) -> bool {
    // SAFETY: the context that the kernel passed in.
    let arrived_by = unsafe { (*ctx.skb.skb).ifindex };
    let mut number = 0;
    while number < MAX_PORTS as u32 {
        match PLAIN_PORTS.get(number) {
            Some(0) | None => break,
            Some(index) if *index == arrived_by => return false,
            Some(_) => number += 1,
        }
    }
    number > 0
}

/// Chooses the socket, by its place in the group.
#[socket_filter]
pub fn spread(ctx: SkBuffContext) -> i64 {
    let (Some(gate), Some(workers)) = (GATE.get(0), PLAIN.get(0)) else { return CONTROL_PLANE };
    let WanClass::Data(data) = steer::classify_wan(&Datagram::of(&ctx, UDP_LEN), gate.port) else {
        return CONTROL_PLANE;
    };
    if is_unbound(gate, &data) && is_sampled(gate) {
        count(DropReason::UnboundSampled);
        return CONTROL_PLANE;
    }
    // Bound, or for a worker to count and drop.
    let workers = if *workers == 0 { 1 } else { *workers };
    1 + (mixed(&data.remote) % workers) as i64
}

#[inline(always)]
fn is_unbound(gate: &Gate, data: &DataFrame) -> bool {
    if steer::fenced(gate, boot_time) {
        return false;
    }
    match BINDINGS.get(data.slot.index()) {
        Some(entry) => steer::admit(data, entry).is_err(),
        None => false,
    }
}

#[inline(always)]
fn is_sampled(gate: &Gate) -> bool {
    let Some(buckets) = LIMITS.get_ptr_mut(0) else { return false };
    // SAFETY: a per-CPU element is only touched by this CPU. Another packet may come in between: then one sample too many or
    // too few is taken.
    unsafe { (*buckets).sample.take(boot_time(), gate.sample) }
}

/// The same for all datagrams of a flow: a worker keeps its sessions in its cache.
#[inline(always)]
fn mixed(remote: &Endpoint) -> u32 {
    let [.., a, b, c, d] = remote.addr;
    let mixed = (u32::from_ne_bytes([a, b, c, d]) ^ remote.port as u32).wrapping_mul(0x9e37_79b1);
    mixed >> 16
}

/// A datagram at a socket, read as the frame that it was.
struct Datagram {
    skb: *mut __sk_buff,
    /// Where in the frame that begins what the socket buffer calls its data.
    data_at: usize,
    ethertype: [u8; 2],
}

impl Datagram {
    /// `taken`: octets of the UDP header that the kernel has taken off already.
    #[inline(always)]
    fn of(ctx: &SkBuffContext, taken: usize) -> Self {
        let skb = ctx.skb.skb;
        // SAFETY: the context that the kernel passed in.
        let ethertype = (unsafe { (*skb).protocol } as u16).to_ne_bytes();
        let ip_len = if ethertype == ETHERTYPE_IPV4 { IPV4_LEN } else { IPV6_LEN };
        Self { skb, data_at: ETHERNET_LEN + ip_len + taken, ethertype }
    }
}

impl View for Datagram {
    #[inline(always)]
    fn octets<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut out = [0_u8; N];
        if at < ETHERNET_LEN {
            // Of the Ethernet header only the type is known.
            if at != 12 || N != 2 {
                return None;
            }
            out[0] = self.ethertype[0];
            out[1] = self.ethertype[1];
            return Some(out);
        }
        let to = out.as_mut_ptr().cast();
        // SAFETY: `out` has N octets, and both helpers check that so many are there.
        let outcome = unsafe {
            if at >= self.data_at {
                bpf_skb_load_bytes(self.skb.cast(), (at - self.data_at) as u32, to, N as u32)
            } else {
                let start = bpf_hdr_start_off::BPF_HDR_START_NET;
                bpf_skb_load_bytes_relative(self.skb.cast(), (at - ETHERNET_LEN) as u32, to, N as u32, start)
            }
        };
        (outcome == 0).then_some(out)
    }
}
