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
//! | `handshake`, `reattach`, `takeover` | the three Noise exchanges |
//! | `ik` | what handshake and takeover share |
//! | [`aead`] | sealing and opening on the hot path, without allocation |
//! | [`window`] | replay windows, shared between processes or owned |
//! | `control` | sealed CONTROL datagrams |
//! | `cookie` | RETRY: that a sender receives at his address, made and judged without memory |
//! | `path` | tickets for path probes, made and judged without memory |
//! | [`limits`] | how long a key may live |
//! | `x25519` | the one Diffie-Hellman, by the backend that was built in |
//!
//! `agreement`, `schedule`, `handshake`, `reattach`, `takeover`, `control`, `cookie` and `path` need the feature `handshake`,
//! which the data plane does without.
#![forbid(unsafe_code)]

pub mod aead;
#[cfg(feature = "handshake")]
pub mod agreement;
#[cfg(feature = "handshake")]
pub mod control;
#[cfg(feature = "handshake")]
pub mod cookie;
mod error;
#[cfg(feature = "handshake")]
pub mod handshake;
#[cfg(feature = "handshake")]
mod ik;
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
#[cfg(feature = "handshake")]
pub mod takeover;
#[cfg(test)]
mod testing;
pub mod window;
#[cfg(feature = "handshake")]
pub mod x25519;

pub use aead::{AeadError, OpenKey, Opened, SealKey};
pub use error::CryptoError;
pub use proof::Proven;
