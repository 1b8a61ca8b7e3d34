//! How long a key may live. Sources: RFC 9001 section 6.6 and appendix B, RFC 8439, SP 800-38D.

use jvpn_abi::wire::Suite;
use std::time::Duration;

/// Packets sealed under one key after which a rekey is asked for.
pub const REKEY_SOFT_PACKETS: u64 = 1 << 26;

/// Packets sealed under one key after which it is erased, for packets of at most [`LARGE_PACKET_LEN`] octets.
pub const HARD_PACKETS: u64 = 1 << 28;

/// The same for AES-GCM where packets may be larger (RFC 9001 B.1: the bound falls with the packet's length).
pub const HARD_PACKETS_LARGE: u64 = 1 << 23;

/// Octets of a sealed packet up to which [`HARD_PACKETS`] holds for AES-GCM.
pub const LARGE_PACKET_LEN: usize = 2_048;

/// Age of a key after which a rekey is asked for.
pub const REKEY_SOFT_TIME: Duration = Duration::from_secs(120);

/// Age of a key after which it is erased.
pub const HARD_TIME: Duration = Duration::from_secs(180);

/// Failed opens under one ChaCha20-Poly1305 key after which it must not be used (RFC 9001 section 6.6).
pub const FAILED_OPENS_CHACHA: u64 = 1 << 36;

/// Failed opens under one AES-256-GCM key after which it must not be used (RFC 9001 section 6.6).
pub const FAILED_OPENS_AES_GCM: u64 = 1 << 52;

/// The hard limit of packets for a suite and the largest packet (octets, without tag) that its key may seal.
#[must_use]
pub const fn hard_packets(suite: Suite, largest_packet: usize) -> u64 {
    match suite {
        Suite::Aes256Gcm if largest_packet > LARGE_PACKET_LEN => HARD_PACKETS_LARGE,
        Suite::Aes256Gcm | Suite::ChaCha20Poly1305 => HARD_PACKETS,
    }
}

/// The limit of failed opens for a suite.
#[must_use]
pub const fn failed_opens(suite: Suite) -> u64 {
    match suite {
        Suite::Aes256Gcm => FAILED_OPENS_AES_GCM,
        Suite::ChaCha20Poly1305 => FAILED_OPENS_CHACHA,
    }
}

const _: () = assert!(REKEY_SOFT_PACKETS < HARD_PACKETS && REKEY_SOFT_TIME.as_secs() < HARD_TIME.as_secs());
// Counters never come near the end of their range, so window arithmetic has room.
const _: () = assert!(HARD_PACKETS < u64::MAX >> 8);
