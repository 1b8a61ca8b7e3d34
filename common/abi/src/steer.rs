//! The steering decision: pure code over a tiny view of a frame. The XDP programs run exactly this; host tests too.
//!
//! Odd frames (extension headers, VLAN tags, ARP) are passed to the kernel, but not what the kernel would turn into a
//! datagram for our port behind the edge limits: fragments and IP options there are refused. XDP is a filter, not the
//! judge; the worker repeats every check that matters.

use crate::endpoint::Endpoint;
use crate::reason::DropReason;
use crate::tables::{BindingEntry, BindingWord, EdgeClass, Gate};
use crate::time::BootTime;
use crate::wire::data::DATA_OVERHEAD;
use crate::wire::reattach::{HANDLE_AT, HANDLE_LEN, KIND_AT, KIND_TAKEOVER};
use crate::wire::{MsgType, SlotId};

/// Read access to a frame. Every read is bounds-checked by the implementation.
pub trait View {
    /// `N` octets at `at`, or `None` if the frame is shorter.
    fn octets<const N: usize>(&self, at: usize) -> Option<[u8; N]>;
}

impl View for [u8] {
    #[inline(always)]
    fn octets<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        crate::wire::octets(self, at)
    }
}

/// Octets of an Ethernet header without tags.
pub const ETHERNET_LEN: usize = 14;
/// Octets of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Octets of an IPv6 header.
pub const IPV6_LEN: usize = 40;
/// Octets of a UDP header.
pub const UDP_LEN: usize = 8;
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const PROTOCOL_UDP: u8 = 17;

/// What a frame on the WAN port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WanClass {
    /// None of ours: the kernel's.
    Kernel,
    /// DATA for a slot.
    Data(DataFrame),
    /// A control datagram for the control plane, subject to the edge limits.
    Control(ControlFrame),
    /// Refused at once.
    Refused(DropReason),
}

/// The parts of a control datagram that the edge looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlFrame {
    /// Its type; one that [`MsgType::is_control_to_gateway`].
    pub kind: MsgType,
    /// Where it comes from.
    pub remote: Endpoint,
    /// Position of the UDP payload in the frame.
    pub payload_at: usize,
}

impl ControlFrame {
    /// The class of its limits. `is_known` looks a handle up and is asked for a reattach only.
    #[inline(always)]
    pub fn class<V: View + ?Sized>(
        &self,
        frame: &V,
        is_known: impl FnOnce(&[u8; HANDLE_LEN]) -> bool,
    ) -> EdgeClass {
        match self.kind {
            MsgType::HandshakeInit => EdgeClass::Handshake,
            // Names no handle and costs what a handshake costs: it must not pass on the share of a handle that somebody
            // saw and wrote into its place.
            MsgType::ReattachRequest
                if frame.octets::<1>(self.payload_at + KIND_AT) == Some([KIND_TAKEOVER]) =>
            {
                EdgeClass::Handshake
            }
            MsgType::ReattachRequest => match frame.octets::<HANDLE_LEN>(self.payload_at + HANDLE_AT) {
                Some(handle) if is_known(&handle) => EdgeClass::KnownHandle,
                Some(_) | None => EdgeClass::UnknownHandle,
            },
            MsgType::Data
            | MsgType::UnboundSample
            | MsgType::HandshakeResponse
            | MsgType::Retry
            | MsgType::ReattachAck
            | MsgType::ReattachReject
            | MsgType::Control
            | MsgType::Reset
            | MsgType::PathProbe
            | MsgType::PathEcho => EdgeClass::Session,
        }
    }
}

/// The prefix that a source is counted under: /24 of IPv4, /56 of IPv6 (what one customer is usually given).
#[must_use]
#[inline(always)]
pub const fn source_prefix(remote: &Endpoint) -> [u8; 16] {
    let mut prefix = remote.addr;
    let is_v4 = prefix[0] | prefix[1] == 0 && prefix[10] & prefix[11] == 0xff;
    if is_v4 {
        prefix[15] = 0;
    } else {
        let [a, b, c, d, e, f, g, ..] = prefix;
        prefix = [a, b, c, d, e, f, g, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    }
    prefix
}

/// The parts of a DATA frame that steering looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataFrame {
    /// The slot it names.
    pub slot: SlotId,
    /// Where it comes from.
    pub remote: Endpoint,
    /// Where it is going.
    pub local: Endpoint,
    /// Position of the UDP payload in the frame.
    pub payload_at: usize,
}

/// Says what a frame on the WAN port is.
#[inline(always)]
pub fn classify_wan<V: View + ?Sized>(frame: &V, port: u16) -> WanClass {
    let Some(ethertype) = frame.octets::<2>(12) else { return WanClass::Kernel };
    if ethertype == ETHERTYPE_IPV4 {
        classify_v4(frame, port)
    } else if ethertype == ETHERTYPE_IPV6 {
        classify_v6(frame, port)
    } else {
        WanClass::Kernel
    }
}

#[inline(always)]
fn classify_v4<V: View + ?Sized>(frame: &V, port: u16) -> WanClass {
    let Some(ip) = frame.octets::<IPV4_LEN>(ETHERNET_LEN) else { return WanClass::Kernel };
    if ip[0] >> 4 != 4 || ip[9] != PROTOCOL_UDP {
        return WanClass::Kernel;
    }
    // Plain is five words of header and no fragment (neither "more fragments" nor an offset).
    if ip[0] != 0x45 || (ip[6] & 0x3f) | ip[7] != 0 {
        return odd_v4(frame, &ip, port);
    }
    let Some(udp) = frame.octets::<UDP_LEN>(ETHERNET_LEN + IPV4_LEN) else { return WanClass::Kernel };
    if u16::from_be_bytes([udp[2], udp[3]]) != port {
        return WanClass::Kernel;
    }
    let remote = Endpoint::v4([ip[12], ip[13], ip[14], ip[15]], u16::from_be_bytes([udp[0], udp[1]]));
    let local = Endpoint::v4([ip[16], ip[17], ip[18], ip[19]], port);
    // The lengths in the headers must agree with each other and with the frame (Ethernet may pad it).
    let ip_len = u16::from_be_bytes([ip[2], ip[3]]) as usize;
    let udp_len = u16::from_be_bytes([udp[4], udp[5]]) as usize;
    if ip_len != udp_len + IPV4_LEN {
        return WanClass::Refused(DropReason::TooShort);
    }
    classify_payload(frame, ETHERNET_LEN + IPV4_LEN + UDP_LEN, udp_len, remote, local)
}

/// Fragments and options. The tunnel sends neither, and the kernel would put together behind the edge limits what was
/// cut in front of them: what starts a datagram for our port is refused. Its further fragments never find a start.
#[inline(always)]
fn odd_v4<V: View + ?Sized>(frame: &V, ip: &[u8; IPV4_LEN], port: u16) -> WanClass {
    let starts = (ip[6] & 0x1f) | ip[7] == 0;
    let header_len = ((ip[0] & 0x0f) as usize) * 4;
    if !starts || header_len < IPV4_LEN {
        return WanClass::Kernel;
    }
    match frame.octets::<4>(ETHERNET_LEN + header_len) {
        Some(udp) if u16::from_be_bytes([udp[2], udp[3]]) == port => {
            WanClass::Refused(DropReason::OddHeaders)
        }
        Some(_) | None => WanClass::Kernel,
    }
}

/// Next header of a fragment (RFC 8200 §4.5).
const FRAGMENT_HEADER: u8 = 44;
/// Octets of the fragment header.
const FRAGMENT_LEN: usize = 8;

/// As [`odd_v4`], for the fragment header; other extension headers do not occur in front of UDP in practice.
#[inline(always)]
fn odd_v6<V: View + ?Sized>(frame: &V, port: u16) -> WanClass {
    let Some(fragment) = frame.octets::<FRAGMENT_LEN>(ETHERNET_LEN + IPV6_LEN) else {
        return WanClass::Kernel;
    };
    let starts = fragment[2] | (fragment[3] & 0xf8) == 0;
    if fragment[0] != PROTOCOL_UDP || !starts {
        return WanClass::Kernel;
    }
    match frame.octets::<4>(ETHERNET_LEN + IPV6_LEN + FRAGMENT_LEN) {
        Some(udp) if u16::from_be_bytes([udp[2], udp[3]]) == port => {
            WanClass::Refused(DropReason::OddHeaders)
        }
        Some(_) | None => WanClass::Kernel,
    }
}

#[inline(always)]
fn classify_v6<V: View + ?Sized>(frame: &V, port: u16) -> WanClass {
    let Some(ip) = frame.octets::<8>(ETHERNET_LEN) else { return WanClass::Kernel };
    if ip[0] >> 4 != 6 {
        return WanClass::Kernel;
    }
    if ip[6] == FRAGMENT_HEADER {
        return odd_v6(frame, port);
    }
    // Anything with another extension header goes to the kernel.
    if ip[6] != PROTOCOL_UDP {
        return WanClass::Kernel;
    }
    let Some(source) = frame.octets::<16>(ETHERNET_LEN + 8) else { return WanClass::Kernel };
    let Some(destination) = frame.octets::<16>(ETHERNET_LEN + 24) else { return WanClass::Kernel };
    let Some(udp) = frame.octets::<UDP_LEN>(ETHERNET_LEN + IPV6_LEN) else { return WanClass::Kernel };
    if u16::from_be_bytes([udp[2], udp[3]]) != port {
        return WanClass::Kernel;
    }
    let remote = Endpoint { addr: source, port: u16::from_be_bytes([udp[0], udp[1]]) };
    let local = Endpoint { addr: destination, port };
    let udp_len = u16::from_be_bytes([udp[4], udp[5]]) as usize;
    if u16::from_be_bytes([ip[4], ip[5]]) as usize != udp_len {
        return WanClass::Refused(DropReason::TooShort);
    }
    classify_payload(frame, ETHERNET_LEN + IPV6_LEN + UDP_LEN, udp_len, remote, local)
}

#[inline(always)]
fn classify_payload<V: View + ?Sized>(
    frame: &V,
    at: usize,
    udp_len: usize,
    remote: Endpoint,
    local: Endpoint,
) -> WanClass {
    let Some(kind) = frame.octets::<1>(at) else { return WanClass::Refused(DropReason::TooShort) };
    match MsgType::from_octet(kind[0]) {
        Some(MsgType::Data) => {
            if udp_len < UDP_LEN + DATA_OVERHEAD {
                return WanClass::Refused(DropReason::TooShort);
            }
            let Some(slot) = frame.octets::<4>(at + 4) else {
                return WanClass::Refused(DropReason::TooShort);
            };
            let slot = SlotId(u32::from_be_bytes(slot));
            WanClass::Data(DataFrame { slot, remote, local, payload_at: at })
        }
        Some(kind) if kind.is_control_to_gateway() => {
            WanClass::Control(ControlFrame { kind, remote, payload_at: at })
        }
        Some(_) | None => WanClass::Refused(DropReason::UnknownType),
    }
}

/// Whether a DATA frame may go to a worker, by the binding table alone.
///
/// # Errors
/// The reason why not; `SlotUnbound` and `EndpointMismatch` may be sampled for the control plane.
#[inline(always)]
pub fn admit(frame: &DataFrame, entry: &BindingEntry) -> Result<(), DropReason> {
    let word = BindingWord(entry.word);
    if !word.is_bound() || word.serial() != frame.slot.serial() {
        return Err(DropReason::SlotUnbound);
    }
    // Compared field by field in one expression: the verifier wants few branches.
    if frame.remote != entry.remote() || frame.local != entry.local() {
        return Err(DropReason::EndpointMismatch);
    }
    Ok(())
}

/// Whether this node's lease is over.
#[must_use]
#[inline(always)]
pub fn fenced(gate: &Gate, now: impl FnOnce() -> BootTime) -> bool {
    gate.fence_deadline_ns != u64::MAX && now().0 >= gate.fence_deadline_ns
}

/// The inner destination of a frame on the LAN port, IPv4-mapped; `None` = the kernel's.
#[inline(always)]
pub fn inner_destination<V: View + ?Sized>(frame: &V) -> Option<[u8; 16]> {
    let ethertype = frame.octets::<2>(12)?;
    if ethertype == ETHERTYPE_IPV4 {
        let version = frame.octets::<1>(ETHERNET_LEN)?;
        if version[0] >> 4 != 4 {
            return None;
        }
        let destination = frame.octets::<4>(ETHERNET_LEN + 16)?;
        Some(Endpoint::v4(destination, 0).addr)
    } else if ethertype == ETHERTYPE_IPV6 {
        let version = frame.octets::<1>(ETHERNET_LEN)?;
        if version[0] >> 4 != 6 {
            return None;
        }
        frame.octets::<16>(ETHERNET_LEN + 24)
    } else {
        None
    }
}

/// The UDP checksum after the first payload octet changed from DATA to [`MsgType::UnboundSample`] (RFC 1624, eqn. 3).
///
/// Zero means "no checksum" (RFC 768) and stays zero.
#[must_use]
#[inline(always)]
pub const fn checksum_after_marking(checksum: u16) -> u16 {
    if checksum == 0 {
        return 0;
    }
    // ~m + m' of the changed word is a constant: the high octet rose by one.
    let step = (MsgType::UnboundSample as u32 - MsgType::Data as u32) << 8;
    let sum = (!checksum) as u32 + step;
    let folded = (sum & 0xffff) + (sum >> 16);
    let result = !(folded as u16);
    if result == 0 { 0xffff } else { result }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R3.1: a takeover request has the share of handshakes, whatever known handle stands in it.
    #[test]
    fn r3_1_a_takeover_request_counts_as_a_handshake() {
        let remote = Endpoint::v4([203, 0, 113, 9], 4_000);
        let frame = ControlFrame { kind: MsgType::ReattachRequest, remote, payload_at: 2 };
        let mut octets = [0_u8; 40];
        let class = |octets: &[u8]| frame.class(octets, |_| true);
        assert!(matches!(class(&octets), EdgeClass::KnownHandle));
        octets[2 + KIND_AT] = KIND_TAKEOVER;
        assert!(matches!(class(&octets), EdgeClass::Handshake));
    }
}
