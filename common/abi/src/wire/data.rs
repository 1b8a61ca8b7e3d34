//! DATA: the 16-octet header is the AEAD's associated data; behind it AEAD(inner packet or internal frame) and the tag.
//!
//! | 0 | 1 | 2–3 | 4–7 | 8–15 |
//! |---|---|---|---|---|
//! | type | flags: bit 0 = key phase | shard | slot | counter |

use super::{MsgType, TAG_LEN, be16, be32, be64};

/// Octets of the DATA header.
pub const DATA_HEADER_LEN: usize = 16;

/// Octets that DATA adds to an inner packet, without UDP and IP.
pub const DATA_OVERHEAD: usize = DATA_HEADER_LEN + TAG_LEN;

/// Bits of a slot's index in the binding table.
pub const SLOT_INDEX_BITS: u32 = 17;

/// Entries of the binding table.
pub const MAX_SLOTS: u32 = 1 << SLOT_INDEX_BITS;

/// Bits of the reuse counter of a slot.
pub const SLOT_SERIAL_BITS: u32 = 32 - SLOT_INDEX_BITS;

/// Largest reuse counter. A slot that reached it is retired until the node key changes.
pub const MAX_SLOT_SERIAL: u32 = (1 << SLOT_SERIAL_BITS) - 1;

/// Index and reuse counter of a slot, as DATA names it. Never reused under one node key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u32);

impl SlotId {
    /// From its parts; `None` if one is out of range.
    #[must_use]
    pub const fn new(index: u32, serial: u32) -> Option<Self> {
        if index >= MAX_SLOTS || serial > MAX_SLOT_SERIAL {
            return None;
        }
        Some(Self(serial << SLOT_INDEX_BITS | index))
    }

    /// Position in the shared tables. Always below [`MAX_SLOTS`].
    #[must_use]
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0 & (MAX_SLOTS - 1)
    }

    /// Reuse counter.
    #[must_use]
    #[inline(always)]
    pub const fn serial(self) -> u32 {
        self.0 >> SLOT_INDEX_BITS
    }
}

/// A parsed DATA header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataHeader {
    /// Bit 0 of the flags: lowest bit of the key number.
    pub key_phase: bool,
    /// Routing bucket for a load balancer.
    pub shard: u16,
    /// Which binding.
    pub slot: SlotId,
    /// AEAD nonce and replay number.
    pub counter: u64,
}

impl DataHeader {
    /// Reads the header of a datagram that is long enough to hold a tag too and sets no reserved flag.
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        if datagram.len() < DATA_OVERHEAD || datagram.first().copied() != Some(MsgType::Data.octet()) {
            return None;
        }
        let flags = datagram.get(1).copied()?;
        if flags & !1 != 0 {
            return None;
        }
        Some(Self {
            key_phase: flags & 1 == 1,
            shard: be16(datagram, 2)?,
            slot: SlotId(be32(datagram, 4)?),
            counter: be64(datagram, 8)?,
        })
    }

    /// The 16 octets on the wire.
    #[must_use]
    pub const fn encode(&self) -> [u8; DATA_HEADER_LEN] {
        let shard = self.shard.to_be_bytes();
        let slot = self.slot.0.to_be_bytes();
        let c = self.counter.to_be_bytes();
        [
            MsgType::Data as u8,
            self.key_phase as u8,
            shard[0],
            shard[1],
            slot[0],
            slot[1],
            slot[2],
            slot[3],
            c[0],
            c[1],
            c[2],
            c[3],
            c[4],
            c[5],
            c[6],
            c[7],
        ]
    }
}
