//! The key schedule: from the secret of an epoch to every key that epoch needs.
//!
//! ```text
//! epoch secret = HKDF-Extract(salt = Noise handshake hash, ikm = Noise split k1 ‖ k2)
//!   ├ "jvpn1 data" ‖ direction              → DATA key
//!   ├ "jvpn1 control" ‖ direction           → CONTROL secret
//!   │    └ "jvpn1 incarnation" ‖ number     → CONTROL key
//!   ├ "jvpn1 resume"                        → resume of the next generation
//!   │    ├ "jvpn1 psk"                      → psk of its Noise exchange
//!   │    ├ "jvpn1 hp" ‖ ephemeral           → mask of anchor_version ‖ nonce
//!   │    ├ "jvpn1 mac"                      → MAC key of a request
//!   │    └ "jvpn1 reject"                   → MAC key of a REJECT
//!   └ "jvpn1 root"                          → root of the session (handshake epoch only)
//!        └ "jvpn1 takeover"                   → psk of the takeover exchange
//! ```
//! Every arrow is HKDF-Expand with SHA-256. CONTROL has a level of its own so that who keeps it for an epoch
//! can make no DATA key from it. Each type is wiped when dropped and prints nothing.

use crate::mac::{SECRET_LEN, Secret, expand};
use jvpn_abi::wire::Direction;
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const fn octet(direction: Direction) -> u8 {
    match direction {
        Direction::ClientToGateway => 0,
        Direction::GatewayToClient => 1,
    }
}

/// Debug output that says which secret it is and nothing of it.
macro_rules! prints_nothing {
    ($($name:ident),+) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    )+};
}

prints_nothing!(EpochSecret, DataKeys, ControlSecret, ControlKey, Resume, Root, TakeoverKey);

/// What both ends share after a handshake or reattach, and nobody else.
pub struct EpochSecret(Secret);

impl EpochSecret {
    /// From what a finished Noise exchange yields.
    pub(crate) fn from_noise(handshake_hash: &[u8], split: &[u8; 2 * SECRET_LEN]) -> Self {
        Self(crate::mac::extract(handshake_hash, split))
    }

    #[cfg(test)]
    pub(crate) fn for_test(octet: u8) -> Self {
        Self(Secret::new([octet; SECRET_LEN]))
    }

    /// The DATA keys, one per direction.
    #[must_use]
    pub fn data_keys(&self) -> DataKeys {
        let key = |direction| *expand(&self.0, &[b"jvpn1 data", &[octet(direction)]]);
        DataKeys {
            client_to_gateway: key(Direction::ClientToGateway),
            gateway_to_client: key(Direction::GatewayToClient),
        }
    }

    /// The CONTROL key of one direction and incarnation.
    #[must_use]
    pub fn control_key(&self, direction: Direction, incarnation: u32) -> ControlKey {
        self.control_secret(direction).key(incarnation)
    }

    /// What all CONTROL keys of one direction come from.
    #[must_use]
    pub fn control_secret(&self, direction: Direction) -> ControlSecret {
        ControlSecret(expand(&self.0, &[b"jvpn1 control", &[octet(direction)]]))
    }

    /// The secret of the generation that this epoch makes.
    #[must_use]
    pub fn resume(&self) -> Resume {
        Resume(expand(&self.0, &[b"jvpn1 resume"]))
    }

    /// The secret of the session. Only meaningful for the epoch that the handshake made.
    #[must_use]
    pub fn root(&self) -> Root {
        Root(*expand(&self.0, &[b"jvpn1 root"]))
    }
}

/// The DATA keys of an epoch, by who seals.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct DataKeys {
    /// Sealed by the client.
    pub client_to_gateway: [u8; 32],
    /// Sealed by the gateway.
    pub gateway_to_client: [u8; 32],
}

/// What all CONTROL keys of one epoch and direction come from.
#[derive(Clone)]
pub struct ControlSecret(Secret);

impl ControlSecret {
    /// The octets, for who keeps them sealed over a restart.
    #[must_use]
    pub fn as_octets(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }

    /// One that was kept.
    #[must_use]
    pub const fn from_octets(octets: Zeroizing<[u8; SECRET_LEN]>) -> Self {
        Self(octets)
    }

    pub(crate) fn key(&self, incarnation: u32) -> ControlKey {
        ControlKey(expand(&self.0, &[b"jvpn1 incarnation", &incarnation.to_be_bytes()]))
    }
}

/// A CONTROL key of one direction and incarnation.
pub struct ControlKey(Secret);

impl ControlKey {
    pub(crate) fn as_bytes(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }
}

/// The secret of a generation: ties the next reattach to session and generation.
#[derive(Clone)]
pub struct Resume(Secret);

impl Resume {
    /// The octets, for who keeps them sealed over a restart.
    #[must_use]
    pub fn as_octets(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }

    /// One that was kept.
    #[must_use]
    pub const fn from_octets(octets: Zeroizing<[u8; SECRET_LEN]>) -> Self {
        Self(octets)
    }

    /// The psk of the Noise exchange. Derived, so that no key serves two algorithms.
    pub(crate) fn psk(&self) -> Secret {
        expand(&self.0, &[b"jvpn1 psk"])
    }

    /// What anchor_version ‖ nonce are masked with in the request that carries this ephemeral key.
    pub(crate) fn mask(&self, ephemeral: &[u8; 32]) -> [u8; 16] {
        *expand(&self.0, &[b"jvpn1 hp", ephemeral])
    }

    pub(crate) fn mac_key(&self) -> Secret {
        expand(&self.0, &[b"jvpn1 mac"])
    }

    pub(crate) fn reject_key(&self) -> Secret {
        expand(&self.0, &[b"jvpn1 reject"])
    }

    #[cfg(test)]
    pub(crate) fn for_test(octet: u8) -> Self {
        Self(Secret::new([octet; SECRET_LEN]))
    }
}

/// The secret of a session, stable from its handshake to its end. The keys of takeover, probes and hints come
/// from it.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Root([u8; SECRET_LEN]);

impl Root {
    /// The octets, for who keeps them sealed over a restart.
    #[must_use]
    pub const fn as_octets(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }

    /// One that was kept.
    #[must_use]
    pub const fn from_octets(octets: [u8; SECRET_LEN]) -> Self {
        Self(octets)
    }

    /// The secret of the takeover exchange.
    #[must_use]
    pub fn takeover(&self) -> TakeoverKey {
        TakeoverKey(expand(&self.0, &[b"jvpn1 takeover"]))
    }
}

/// Ties a takeover exchange to its session. The same from the session's birth to its end.
#[derive(Clone)]
pub struct TakeoverKey(Secret);

impl TakeoverKey {
    pub(crate) fn psk(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }
}

#[cfg(test)]
mod tests;
