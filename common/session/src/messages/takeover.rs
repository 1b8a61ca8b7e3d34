//! What a takeover request says in its encrypted payload.

use super::{Reader, SessionId, SwitchCause, Writer};

/// Asks a gateway without memory for a binding of a session that it has stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakeoverAsk {
    /// Which session.
    pub session_id: SessionId,
    /// Unix time in ns; rises with each handshake and takeover request of a peer.
    pub timestamp_ns: u64,
    /// Why the path was left at first.
    pub cause: SwitchCause,
    /// From the last frame heard on the old path to the decision to leave it, ms.
    pub detect_ms: u32,
    /// Requests sent in this burst, this one included.
    pub attempt: u16,
}

impl TakeoverAsk {
    /// The payload octets (unpadded).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.octets(&self.session_id.0).u64(self.timestamp_ns);
        w.u8(self.cause as u8).u32(self.detect_ms).u16(self.attempt);
        w.0
    }

    /// Reads a payload.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut r = Reader(payload);
        let ask = Self {
            session_id: SessionId(r.octets()?),
            timestamp_ns: r.u64()?,
            cause: SwitchCause::from_number(r.u8()?)?,
            detect_ms: r.u32()?,
            attempt: r.u16()?,
        };
        r.finish()?;
        Some(ask)
    }
}
