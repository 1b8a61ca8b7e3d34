//! Whether a datagram is addressed to this host at all: the kernel's own routing decision.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
    BPF_FIB_LKUP_RET_UNSUPP_LWT, bpf_fib_lookup as Lookup,
};
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use aya_ebpf::programs::XdpContext;
use jvpn_abi::steer::{ETHERNET_LEN, ETHERTYPE_IPV4, View};

use crate::frame::Frame;

/// Address families (linux/socket.h).
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Whether the kernel would send this datagram on to somebody else. Everything else counts as ours, also what it would
/// not take: then the limits apply, and nothing reaches a socket past them.
///
/// `kernel_index` is the device that the kernel would take it in by, where that is not the interface itself (a VLAN).
/// Asked for what no binding admits only, so DATA never pays for it.
#[inline(always)]
pub fn is_forwarded(ctx: &XdpContext, frame: &Frame, kernel_index: u32) -> bool {
    // SAFETY: the struct is plain octets; zero is a valid value of each.
    let mut lookup: Lookup = unsafe { core::mem::zeroed() };
    if frame.octets::<2>(12) == Some(ETHERTYPE_IPV4) {
        let Some(source) = frame.octets::<4>(ETHERNET_LEN + 12) else { return false };
        let Some(destination) = frame.octets::<4>(ETHERNET_LEN + 16) else { return false };
        // Broadcast and multicast are delivered here, also where a default route would match them.
        if destination[0] >= 224 || destination == [0; 4] {
            return false;
        }
        lookup.family = AF_INET;
        lookup.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(source);
        lookup.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(destination);
    } else {
        let Some(source) = frame.octets::<16>(ETHERNET_LEN + 8) else { return false };
        let Some(destination) = frame.octets::<16>(ETHERNET_LEN + 24) else { return false };
        if destination[0] == 0xff {
            return false;
        }
        lookup.family = AF_INET6;
        // SAFETY: sixteen octets are four words of any value.
        unsafe {
            lookup.__bindgen_anon_3.ipv6_src = core::mem::transmute::<[u8; 16], [u32; 4]>(source);
            lookup.__bindgen_anon_4.ipv6_dst = core::mem::transmute::<[u8; 16], [u32; 4]>(destination);
        }
    }
    // SAFETY: `ctx.ctx` is the context that the kernel passed in.
    lookup.ifindex = if kernel_index == 0 { unsafe { (*ctx.ctx).ingress_ifindex } } else { kernel_index };
    // SAFETY: the helper gets its context and a struct of the size that it is told.
    let verdict = unsafe { bpf_fib_lookup(ctx.as_ptr(), &mut lookup, size_of::<Lookup>() as i32, 0) };
    [
        BPF_FIB_LKUP_RET_SUCCESS,
        BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_FRAG_NEEDED,
        BPF_FIB_LKUP_RET_UNSUPP_LWT,
    ]
    .iter()
    .any(|forwarded| verdict == i64::from(*forwarded))
}
