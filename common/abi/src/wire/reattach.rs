//! REATTACH_REQUEST, _ACK and _REJECT: framing around the two Noise KKpsk0 messages.
//!
//! ```text
//! REQUEST  0 type | 1 version | 2 kind | 3 zero | 4..12 handle | 12..28 masked anchor_version ‖ nonce | 28..44 cookie
//!          | 44..240 Noise message 1 | 240..256 MAC
//! ACK      0 type | 1 version | 2 kind | 3 zero | 4..12 echo (first 8 octets of the request's MAC) | 12.. Noise message 2
//! REJECT   0 type | 1 version | 2 kind | 3 reason | 4..12 echo | 12..16 retry_after ms | 16..32 MAC
//! ```
//! The request's MAC covers everything before it. A request has exactly [`REQUEST_LEN`] octets; an answer never more.

use super::MAC_LEN;

/// Octets of every REATTACH_REQUEST.
pub const REQUEST_LEN: usize = 256;
/// Position of the kind octet.
pub const KIND_AT: usize = 2;
/// Position of the reason in a REJECT.
pub const REJECT_REASON_AT: usize = 3;
/// Kind: a reattach at the owner (Noise KKpsk0).
pub const KIND_REATTACH: u8 = 0;
/// Kind: takeover exchange (Noise IKpsk2, [`super::takeover`]).
pub const KIND_TAKEOVER: u8 = 1;
/// Position of the handle.
pub const HANDLE_AT: usize = 4;
/// Octets of a handle.
pub const HANDLE_LEN: usize = 8;
/// Position of the masked `anchor_version ‖ nonce`.
pub const MASKED_AT: usize = 12;
/// Octets of the masked field.
pub const MASKED_LEN: usize = 16;
/// Position of the cookie.
pub const COOKIE_AT: usize = 28;
/// Position of the Noise message.
pub const NOISE_AT: usize = 44;
/// Position of the MAC.
pub const MAC_AT: usize = REQUEST_LEN - MAC_LEN;
/// Noise KKpsk0 message without payload: e (32) and payload tag (16); both messages alike.
pub const NOISE_OVERHEAD: usize = 48;
/// Octets of the (padded) payload in a request.
pub const REQUEST_PAYLOAD_LEN: usize = MAC_AT - NOISE_AT - NOISE_OVERHEAD;
/// Position of the echo in ACK and REJECT.
pub const ECHO_AT: usize = 4;
/// Octets of the echo.
pub const ECHO_LEN: usize = 8;
/// Position of the Noise message in ACK.
pub const ACK_NOISE_AT: usize = 12;
/// Most octets of payload in ACK: the answer is never larger than the question.
pub const ACK_PAYLOAD_MAX: usize = REQUEST_LEN - ACK_NOISE_AT - NOISE_OVERHEAD;
/// Position of retry_after in REJECT.
pub const REJECT_RETRY_AFTER_AT: usize = 12;
/// Position of the MAC in REJECT.
pub const REJECT_MAC_AT: usize = 16;
/// Octets of a REJECT.
pub const REJECT_LEN: usize = REJECT_MAC_AT + MAC_LEN;

const _: () = assert!(REQUEST_LEN <= super::MAX_CONTROL_DATAGRAM && REJECT_LEN <= REQUEST_LEN);
