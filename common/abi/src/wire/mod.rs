//! What is on the wire: datagram types, sizes and field positions. Big-endian. `docs/PROTOCOL.md` is the same in words.
//!
//! Parsing never trusts a length and never panics: every accessor returns `None` on a datagram that is too short.

pub mod control;
pub mod data;
pub mod handshake;
pub mod internal;
pub mod path;
pub mod reattach;
pub mod reset;
pub mod retry;
pub mod takeover;

pub use data::{DATA_HEADER_LEN, DATA_OVERHEAD, DataHeader, SlotId};

/// Largest UDP payload of any handshake or reattach datagram: an IPv6 packet of 1,280 octets less 40 and 8.
pub const MAX_CONTROL_DATAGRAM: usize = 1_232;

/// Octets of an AEAD tag (AES-GCM and ChaCha20-Poly1305 alike).
pub const TAG_LEN: usize = 16;

/// Octets of the keyed MACs on control datagrams.
pub const MAC_LEN: usize = 16;

/// Octets of the cookie field (RETRY under load; all zero when there is none).
pub const COOKIE_LEN: usize = 16;

/// First octet of every datagram. Values stay below 0x40 so that QUIC can share the port (its first octet has 0x40 set).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MsgType {
    /// Sealed payload of a session.
    Data = 0x10,
    /// DATA that XDP marked as an unbound sample for the control plane; refused when it comes from the wire.
    UnboundSample = 0x11,
    /// First handshake message.
    HandshakeInit = 0x20,
    /// Second handshake message.
    HandshakeResponse = 0x21,
    /// Stateless cookie under load.
    Retry = 0x22,
    /// Client asks to bind its session to the path this came over.
    ReattachRequest = 0x24,
    /// The binding is installed.
    ReattachAck = 0x25,
    /// The request is refused, with a reason.
    ReattachReject = 0x26,
    /// Sealed control message inside a session.
    Control = 0x28,
    /// This node does not know a slot or handle.
    Reset = 0x2a,
    /// Client measures a candidate path.
    PathProbe = 0x2c,
    /// Answer to a path probe.
    PathEcho = 0x2d,
}

impl MsgType {
    /// The type with this first octet.
    #[must_use]
    #[inline(always)]
    pub const fn from_octet(octet: u8) -> Option<Self> {
        Some(match octet {
            0x10 => Self::Data,
            0x11 => Self::UnboundSample,
            0x20 => Self::HandshakeInit,
            0x21 => Self::HandshakeResponse,
            0x22 => Self::Retry,
            0x24 => Self::ReattachRequest,
            0x25 => Self::ReattachAck,
            0x26 => Self::ReattachReject,
            0x28 => Self::Control,
            0x2a => Self::Reset,
            0x2c => Self::PathProbe,
            0x2d => Self::PathEcho,
            _ => return None,
        })
    }

    /// The first octet.
    #[must_use]
    pub const fn octet(self) -> u8 {
        self as u8
    }

    /// Whether a gateway takes this type from the wire through its control plane.
    #[must_use]
    #[inline(always)]
    pub const fn is_control_to_gateway(self) -> bool {
        matches!(self, Self::HandshakeInit | Self::ReattachRequest | Self::Control | Self::PathProbe)
    }
}

/// AEAD suites for DATA and CONTROL, by their number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Suite {
    /// AES-256-GCM (SP 800-38D).
    Aes256Gcm = 1,
    /// ChaCha20-Poly1305 (RFC 8439).
    ChaCha20Poly1305 = 2,
}

impl Suite {
    /// The suite with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// The name that configuration and status use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }
}

/// The direction of sealed traffic, by who seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Sealed by the client.
    ClientToGateway,
    /// Sealed by the gateway.
    GatewayToClient,
}

/// `N` octets at `at`, if they are there.
#[must_use]
pub fn octets<const N: usize>(datagram: &[u8], at: usize) -> Option<[u8; N]> {
    datagram.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Big-endian u16 at `at`.
#[must_use]
pub fn be16(datagram: &[u8], at: usize) -> Option<u16> {
    octets(datagram, at).map(u16::from_be_bytes)
}

/// Big-endian u32 at `at`.
#[must_use]
pub fn be32(datagram: &[u8], at: usize) -> Option<u32> {
    octets(datagram, at).map(u32::from_be_bytes)
}

/// Big-endian u64 at `at`.
#[must_use]
pub fn be64(datagram: &[u8], at: usize) -> Option<u64> {
    octets(datagram, at).map(u64::from_be_bytes)
}

/// Copies `from` into `into` at `at`; `None` if it does not fit.
pub(crate) fn put(into: &mut [u8], at: usize, from: &[u8]) -> Option<()> {
    into.get_mut(at..at.checked_add(from.len())?)?.copy_from_slice(from);
    Some(())
}
