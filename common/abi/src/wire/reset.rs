//! RESET: this node does not know a slot or handle. Carries the token that only this node could have made.
//!
//! `0 type | 1 version | 2 kind | 3 zero | 4..12 value | 12..28 token` – 28 octets, less than any datagram that causes one.

use super::{MAC_LEN, MsgType, octets, put};

/// Octets of a RESET.
pub const RESET_LEN: usize = 12 + MAC_LEN;

const _: () = assert!(RESET_LEN < super::DATA_OVERHEAD && RESET_LEN < super::reattach::REQUEST_LEN);

/// What is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ResetKind {
    /// A slot: the client tries a reattach.
    Slot = 0,
    /// A handle: the session is not here.
    Handle = 1,
}

/// A parsed RESET. Means nothing until its token was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Slot or handle.
    pub kind: ResetKind,
    /// The handle, or the slot as four zero octets and its big-endian value.
    pub value: [u8; 8],
    /// MAC(node key, kind ‖ value).
    pub token: [u8; MAC_LEN],
}

impl Reset {
    /// Reads a RESET of exactly [`RESET_LEN`] octets.
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let [kind_type, version, kind, zero] = octets::<4>(datagram, 0)?;
        if datagram.len() != RESET_LEN
            || kind_type != MsgType::Reset.octet()
            || version != crate::PROTOCOL_VERSION
            || zero != 0
        {
            return None;
        }
        let kind = match kind {
            0 => ResetKind::Slot,
            1 => ResetKind::Handle,
            _ => return None,
        };
        Some(Self { kind, value: octets(datagram, 4)?, token: octets(datagram, 12)? })
    }

    /// The octets on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; RESET_LEN] {
        let mut out = [0; RESET_LEN];
        out[0] = MsgType::Reset.octet();
        out[1] = crate::PROTOCOL_VERSION;
        out[2] = self.kind as u8;
        let fits = put(&mut out, 4, &self.value).and(put(&mut out, 12, &self.token));
        debug_assert!(fits.is_some(), "RESET_LEN holds value and token");
        out
    }

    /// The value field for a slot.
    #[must_use]
    pub const fn slot_value(slot: super::SlotId) -> [u8; 8] {
        (slot.0 as u64).to_be_bytes()
    }
}
