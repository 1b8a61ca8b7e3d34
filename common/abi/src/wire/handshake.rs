//! HANDSHAKE_INIT and HANDSHAKE_RESPONSE: framing around the two Noise IKpsk2 messages.
//!
//! ```text
//! INIT      0 type | 1 version | 2..4 zero | 4..8 client index | 8..24 MAC | 24..40 cookie | 40.. Noise message 1
//! RESPONSE  0 type | 1 version | 2..4 zero | 4..8 client index | 8.. Noise message 2
//! ```
//! The MAC covers the whole datagram with the MAC field zero and is keyed by the gateway's public key, so a scanner
//! gets silence. INIT is padded to [`INIT_LEN`]; a RESPONSE is never larger than its INIT (no amplification).

/// Octets of every HANDSHAKE_INIT.
pub const INIT_LEN: usize = 1_200;
/// Position of the version octet in every control datagram.
pub const VERSION_AT: usize = 1;
/// Position of the client's index, which the response repeats.
pub const CLIENT_INDEX_AT: usize = 4;
/// Position of the MAC in INIT.
pub const INIT_MAC_AT: usize = 8;
/// Position of the cookie in INIT.
pub const INIT_COOKIE_AT: usize = 24;
/// Position of the Noise message in INIT.
pub const INIT_NOISE_AT: usize = 40;
/// Position of the Noise message in RESPONSE.
pub const RESPONSE_NOISE_AT: usize = 8;
/// Noise IKpsk2 message 1 without payload: e (32), s (32 + 16), payload tag (16).
pub const NOISE_INIT_OVERHEAD: usize = 96;
/// Noise IKpsk2 message 2 without payload: e (32), payload tag (16).
pub const NOISE_RESPONSE_OVERHEAD: usize = 48;
/// Octets of the (padded) payload in INIT.
pub const INIT_PAYLOAD_LEN: usize = INIT_LEN - INIT_NOISE_AT - NOISE_INIT_OVERHEAD;
/// Most octets of payload in RESPONSE.
pub const RESPONSE_PAYLOAD_MAX: usize = INIT_LEN - RESPONSE_NOISE_AT - NOISE_RESPONSE_OVERHEAD;

const _: () = assert!(INIT_LEN <= super::MAX_CONTROL_DATAGRAM);
