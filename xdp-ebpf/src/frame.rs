//! Bounds-checked access to the frame of an XDP context: the `View` that classification reads through.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use jvpn_abi::steer::{self, View};
use jvpn_abi::tables::SteeringMark;
use jvpn_abi::wire::MsgType;

/// Octets of an 802.1Q tag.
pub const TAG_LEN: usize = 4;
/// Octets of the two MAC addresses in front of it.
const ADDRESSES_LEN: usize = 12;

/// The frame between `data` and `data_end`. One that [`Self::behind_tag`] made begins at the end of its tag less the two
/// addresses: from the EtherType on it reads as a frame without a tag, and nobody looks at its addresses.
pub struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    /// The frame as the context has it now; stale after anything that moves packet pointers.
    #[inline(always)]
    pub fn of(ctx: &XdpContext) -> Self {
        Self { start: ctx.data(), end: ctx.data_end() }
    }

    /// The frame as it would be without its tag, but for the addresses.
    #[inline(always)]
    pub fn behind_tag<const TAG: usize>(ctx: &XdpContext) -> Self {
        Self { start: ctx.data() + TAG, end: ctx.data_end() }
    }

    /// Takes the tag of a frame off. Call it for a frame that goes to a socket, once everything has been read.
    #[inline(always)]
    pub fn strip_tag(ctx: &XdpContext) -> bool {
        let frame = Self::of(ctx);
        let Some(addresses) = frame.octets::<ADDRESSES_LEN>(0) else { return false };
        let to = frame.start + TAG_LEN;
        if to + ADDRESSES_LEN > frame.end {
            return false;
        }
        // SAFETY: `to .. to + ADDRESSES_LEN` lies inside the frame, checked above.
        unsafe { core::ptr::write_unaligned(to as *mut [u8; ADDRESSES_LEN], addresses) };
        // SAFETY: the context of the kernel; no pointer into the frame is used after this.
        unsafe { bpf_xdp_adjust_head(ctx.as_ptr().cast(), TAG_LEN as i32) == 0 }
    }

    /// Writes the steering mark over the destination MAC address. Only for a frame that goes to a socket or nowhere.
    #[inline(always)]
    pub fn write_mark(&self, mark: SteeringMark) -> bool {
        if self.start + SteeringMark::LEN > self.end {
            return false;
        }
        // SAFETY: the first octets of the frame, checked above.
        unsafe { core::ptr::write_unaligned(self.start as *mut [u8; SteeringMark::LEN], mark.encode()) };
        true
    }

    /// Turns the DATA datagram whose payload starts at `payload_at` into an UNBOUND_SAMPLE, checksum included.
    #[inline(always)]
    pub fn mark_sample(&self, payload_at: usize) -> bool {
        let payload = self.start + payload_at;
        // The checksum is the last field of the UDP header, right before the payload.
        if payload + 1 > self.end || payload_at < steer::UDP_LEN {
            return false;
        }
        let checksum = payload - 2;
        if checksum < self.start {
            return false;
        }
        // SAFETY: `checksum .. payload + 1` lies between `start` and `end`, checked above.
        unsafe {
            let old = u16::from_be_bytes(core::ptr::read_unaligned(checksum as *const [u8; 2]));
            let new = steer::checksum_after_marking(old).to_be_bytes();
            core::ptr::write_unaligned(checksum as *mut [u8; 2], new);
            core::ptr::write_unaligned(payload as *mut u8, MsgType::UnboundSample.octet());
        }
        true
    }
}

impl View for Frame {
    #[inline(always)]
    fn octets<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let from = self.start + at;
        if from + N > self.end {
            return None;
        }
        // SAFETY: `from .. from + N` lies between `start` and `end`, checked above; octets need no alignment.
        Some(unsafe { core::ptr::read_unaligned(from as *const [u8; N]) })
    }
}
