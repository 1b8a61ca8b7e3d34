//! CONTROL: sealed messages inside a session, with keys of their own (never those of DATA).
//!
//! `0 type | 1 version | 2..4 zero | 4..8 slot | 8..12 incarnation | 12..20 counter | 20.. AEAD(message) ‖ tag`;
//! the 20-octet header is the associated data. The counter starts at 0 in each incarnation.

use super::{MsgType, SlotId, TAG_LEN, be32, be64, octets};

/// Octets of the CONTROL header.
pub const CONTROL_HEADER_LEN: usize = 20;

/// Octets that CONTROL adds to a message.
pub const CONTROL_OVERHEAD: usize = CONTROL_HEADER_LEN + TAG_LEN;

/// A parsed CONTROL header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlHeader {
    /// The binding whose epoch secret keys this message.
    pub slot: SlotId,
    /// Rises whenever a sender starts without its counters; selects the key.
    pub incarnation: u32,
    /// Nonce and replay number within the incarnation.
    pub counter: u64,
}

impl ControlHeader {
    /// Reads the header of a datagram that is long enough to hold a tag too.
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let [kind, version, zero_a, zero_b] = octets::<4>(datagram, 0)?;
        if datagram.len() < CONTROL_OVERHEAD
            || kind != MsgType::Control.octet()
            || version != crate::PROTOCOL_VERSION
            || zero_a | zero_b != 0
        {
            return None;
        }
        Some(Self {
            slot: SlotId(be32(datagram, 4)?),
            incarnation: be32(datagram, 8)?,
            counter: be64(datagram, 12)?,
        })
    }

    /// The 20 octets on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; CONTROL_HEADER_LEN] {
        let mut out = [0; CONTROL_HEADER_LEN];
        out[0] = MsgType::Control.octet();
        out[1] = crate::PROTOCOL_VERSION;
        out[4..8].copy_from_slice(&self.slot.0.to_be_bytes());
        out[8..12].copy_from_slice(&self.incarnation.to_be_bytes());
        out[12..20].copy_from_slice(&self.counter.to_be_bytes());
        out
    }
}
