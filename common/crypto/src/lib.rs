//! Handshake, reattach, AEAD, replay window, limits and keys: the reviewable module.
//!
//! Everything cryptographic of Jumping VPN happens here, by composing reviewed parts: the Noise framework
//! (`snow`), X25519, HKDF-SHA-256 and two AEADs. No primitive is invented. The crate has no I/O and no clock;
//! randomness is handed in as a [`rng::Random`]. It mints the two proofs that the rest of the system is built
//! on: [`Opened`] (a frame authenticated, so its counter may enter the replay window) and [`Proven`] (a peer
//! possesses its keys, so a session may move).
//!
//! | Module | What for |
//! |---|---|
//! | [`rng`] | randomness that is handed in, and its check at start |
//! | [`keys`] | static keys, pre-shared keys, the node key, their text form |
//! | `agreement` | the Diffie-Hellman function: X25519, but for simulations |
//! | `schedule` | from an epoch's secret to the keys for data, control and the next reattach |
//! | `handshake`, `reattach` | the two Noise exchanges |
//! | [`aead`] | sealing and opening on the hot path, without allocation |
//! | [`window`] | replay windows, shared between processes or owned |
//! | `control` | sealed CONTROL datagrams |
//! | `path` | tickets for path probes, made and judged without memory |
//! | [`limits`] | how long a key may live |
//!
//! `agreement`, `schedule`, `handshake`, `reattach`, `control` and `path` need the feature `handshake`, which the data plane does
//! without.
#![forbid(unsafe_code)]

pub mod aead;
#[cfg(feature = "handshake")]
pub mod agreement;
#[cfg(feature = "handshake")]
pub mod control;
mod error;
#[cfg(feature = "handshake")]
pub mod handshake;
pub mod keys;
pub mod limits;
mod mac;
#[cfg(feature = "handshake")]
mod noise;
#[cfg(feature = "handshake")]
pub mod path;
pub mod proof;
#[cfg(feature = "handshake")]
pub mod reattach;
pub mod rng;
#[cfg(feature = "handshake")]
pub mod schedule;
#[cfg(test)]
mod testing;
pub mod window;

pub use aead::{AeadError, OpenKey, Opened, SealKey};
pub use error::CryptoError;
pub use proof::Proven;
