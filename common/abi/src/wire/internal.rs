//! Internal frames: plaintexts of DATA whose first nibble is 0. They travel as data, so they measure the path that data takes.

use super::{be16, be32, be64};

/// Octets of a probe frame (PROBE and PROBE_ACK alike).
pub const PROBE_LEN: usize = 40;

/// Which probe frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ProbeKind {
    /// A question.
    Probe = 0x01,
    /// Its answer: id and sent_at are copied from the question.
    ProbeAck = 0x02,
}

/// PROBE or PROBE_ACK.
///
/// | 0 | 1–3 | 4–7 | 8–15 | 16–19 | 20–23 | 24–31 | 32–39 |
/// |---|---|---|---|---|---|---|---|
/// | kind | 0 | id | sent_at (ns, sender's clock) | my next interval (ms) | last round trip (µs) | received packets | highest counter received |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeFrame {
    /// Question or answer.
    pub kind: ProbeKind,
    /// Number of the question.
    pub id: u32,
    /// When the question was sent, on the asker's own clock, ns.
    pub sent_at_ns: u64,
    /// The sender's next probe comes within this many ms.
    pub next_interval_ms: u32,
    /// The round trip that the sender of a PROBE has measured last, µs; 0 = none since its last PROBE. 0 in answers.
    pub rtt_us: u32,
    /// DATA packets that the sender of this frame has accepted under this key.
    pub received: u64,
    /// Highest counter among them.
    pub highest_counter: u64,
}

impl ProbeFrame {
    /// Reads a probe frame (padding behind it is allowed).
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let kind = match frame.first().copied()? {
            0x01 => ProbeKind::Probe,
            0x02 => ProbeKind::ProbeAck,
            _ => return None,
        };
        if frame.len() < PROBE_LEN {
            return None;
        }
        Some(Self {
            kind,
            id: be32(frame, 4)?,
            sent_at_ns: be64(frame, 8)?,
            next_interval_ms: be32(frame, 16)?,
            rtt_us: be32(frame, 20)?,
            received: be64(frame, 24)?,
            highest_counter: be64(frame, 32)?,
        })
    }

    /// The octets of the frame.
    #[must_use]
    pub fn encode(&self) -> [u8; PROBE_LEN] {
        let mut out = [0; PROBE_LEN];
        out[0] = self.kind as u8;
        out[4..8].copy_from_slice(&self.id.to_be_bytes());
        out[8..16].copy_from_slice(&self.sent_at_ns.to_be_bytes());
        out[16..20].copy_from_slice(&self.next_interval_ms.to_be_bytes());
        out[20..24].copy_from_slice(&self.rtt_us.to_be_bytes());
        out[24..32].copy_from_slice(&self.received.to_be_bytes());
        out[32..40].copy_from_slice(&self.highest_counter.to_be_bytes());
        out
    }
}

/// Octets of a size frame without its padding.
pub const SIZE_LEN: usize = 12;

/// Which size frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SizeKind {
    /// A question: does a packet as long as this frame come through?
    Ask = 0x03,
    /// Its answer, as long as the question.
    Answer = 0x04,
}

/// SIZE_ASK or SIZE_ANSWER: padded to the size that is asked about.
///
/// | 0 | 1–3 | 4–7 | 8–9 | 10–11 | 12– |
/// |---|---|---|---|---|---|
/// | kind | 0 | id | largest inner packet that its sender uses on this path now (octets) | 0 | padding |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeFrame {
    /// Question or answer.
    pub kind: SizeKind,
    /// Number of the question.
    pub id: u32,
    /// The largest inner packet that the asker uses on this path now, octets; copied into the answer.
    pub carried: u16,
}

impl SizeFrame {
    /// Reads a size frame; what is behind it is padding.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let kind = match frame.first().copied()? {
            0x03 => SizeKind::Ask,
            0x04 => SizeKind::Answer,
            _ => return None,
        };
        if frame.len() < SIZE_LEN {
            return None;
        }
        Some(Self { kind, id: be32(frame, 4)?, carried: be16(frame, 8)? })
    }

    /// Writes the frame over the start of `out`, which is as long as the frame shall be. `None` if that is too short.
    pub fn write(&self, out: &mut [u8]) -> Option<()> {
        let head = out.first_chunk_mut::<SIZE_LEN>()?;
        *head = [0; SIZE_LEN];
        head[0] = self.kind as u8;
        head[4..8].copy_from_slice(&self.id.to_be_bytes());
        head[8..10].copy_from_slice(&self.carried.to_be_bytes());
        Some(())
    }
}
