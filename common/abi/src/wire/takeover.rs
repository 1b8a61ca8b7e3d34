//! The takeover exchange: types of a reattach with kind 1, framing around the two Noise IKpsk2 messages.
//!
//! ```text
//! REQUEST  0 type | 1 version | 2 kind | 3 zero | 4..8 client index | 8..24 MAC | 24..40 cookie | 40..256 Noise message 1
//! ACK      0 type | 1 version | 2 kind | 3 zero | 4..8 client index | 8.. Noise message 2
//! REJECT   0 type | 1 version | 2 kind | 3 zero | 4..8 client index | 8..61 Noise message 2
//! ```
//! Index, MAC and cookie lie where HANDSHAKE_INIT has them, and the MAC is made in the same way: over the whole datagram
//! with its field zero, keyed by the gateway's public key. A request has exactly [`TAKEOVER_LEN`] octets; an answer never
//! more.

use super::handshake::{CLIENT_INDEX_AT, INIT_COOKIE_AT, INIT_MAC_AT, INIT_NOISE_AT};
use super::handshake::{NOISE_INIT_OVERHEAD, NOISE_RESPONSE_OVERHEAD};

/// Octets of every takeover request.
pub const TAKEOVER_LEN: usize = super::reattach::REQUEST_LEN;
/// Position of the client's index, which the answer repeats.
pub const INDEX_AT: usize = CLIENT_INDEX_AT;
/// Position of the MAC.
pub const MAC_AT: usize = INIT_MAC_AT;
/// Position of the cookie.
pub const COOKIE_AT: usize = INIT_COOKIE_AT;
/// Position of the Noise message in a request.
pub const NOISE_AT: usize = INIT_NOISE_AT;
/// Position of the Noise message in both answers.
pub const ANSWER_NOISE_AT: usize = 8;
/// Noise IKpsk2 message 1 without payload.
pub const NOISE_OVERHEAD: usize = NOISE_INIT_OVERHEAD;
/// Noise IKpsk2 message 2 without payload.
pub const NOISE_ANSWER_OVERHEAD: usize = NOISE_RESPONSE_OVERHEAD;
/// Octets of the (padded) payload in a request.
pub const TAKEOVER_PAYLOAD_LEN: usize = TAKEOVER_LEN - NOISE_AT - NOISE_OVERHEAD;
/// Most octets of payload in ACK: the answer is never larger than the question.
pub const TAKEOVER_ACK_PAYLOAD_MAX: usize = TAKEOVER_LEN - ANSWER_NOISE_AT - NOISE_ANSWER_OVERHEAD;
/// Octets of the payload in REJECT: reason (1), retry_after in ms (4).
pub const REFUSAL_LEN: usize = 5;
/// Octets of a REJECT of this kind.
pub const TAKEOVER_REJECT_LEN: usize = ANSWER_NOISE_AT + NOISE_ANSWER_OVERHEAD + REFUSAL_LEN;

const _: () = assert!(TAKEOVER_LEN <= super::MAX_CONTROL_DATAGRAM && TAKEOVER_REJECT_LEN <= TAKEOVER_LEN);
