//! X25519 (RFC 7748), by the backend that was built in. Keys whose agreement contributes nothing are refused (section 6.1);
//! private keys are wiped when dropped.
//!
//! Four agreements and one new key are most of what a reattach costs, so the backend is chosen by speed
//! (docs/decisions/0019): `aws-lc-rs` where the hot path has it too, else `x25519-dalek`.

use crate::keys::PublicKey;
use crate::mac::{SECRET_LEN, Secret};

#[cfg(feature = "aws-lc")]
pub use aws_lc::BACKEND;
#[cfg(feature = "aws-lc")]
use aws_lc::Backend;
#[cfg(not(feature = "aws-lc"))]
pub use dalek::BACKEND;
#[cfg(not(feature = "aws-lc"))]
use dalek::Backend;

/// A private key, ready for use, and its public half.
pub(crate) struct Private {
    octets: Secret,
    public: PublicKey,
    backend: Backend,
}

impl Private {
    /// `None` if the backend refuses the key; none of this length is refused.
    pub(crate) fn new(octets: Secret) -> Option<Self> {
        let (backend, public) = Backend::new(&octets)?;
        Some(Self { octets, public: PublicKey(public), backend })
    }

    pub(crate) const fn octets(&self) -> &Secret {
        &self.octets
    }

    pub(crate) const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// What both ends share; `None` if their key contributes nothing.
    pub(crate) fn agree(&self, theirs: &[u8; SECRET_LEN]) -> Option<Secret> {
        self.backend.agree(theirs)
    }
}

#[cfg(feature = "aws-lc")]
mod aws_lc {
    use super::{SECRET_LEN, Secret};
    use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};

    /// The crate that computes.
    pub const BACKEND: &str = "aws-lc-rs";

    /// Wiped by aws-lc when it is freed.
    pub(super) struct Backend(PrivateKey);

    impl Backend {
        pub(super) fn new(octets: &[u8; SECRET_LEN]) -> Option<(Self, [u8; SECRET_LEN])> {
            let key = PrivateKey::from_private_key(&X25519, octets).ok()?;
            let public = key.compute_public_key().ok()?.as_ref().try_into().ok()?;
            Some((Self(key), public))
        }

        /// aws-lc fails if the result is all zero.
        pub(super) fn agree(&self, theirs: &[u8; SECRET_LEN]) -> Option<Secret> {
            let theirs = UnparsedPublicKey::new(&X25519, theirs);
            agree(&self.0, theirs, (), |shared| shared.try_into().map(Secret::new).map_err(|_| ())).ok()
        }
    }
}

#[cfg(any(not(feature = "aws-lc"), test))]
mod dalek {
    use super::{SECRET_LEN, Secret};
    use x25519_dalek::{PublicKey, StaticSecret};

    /// The crate that computes.
    #[cfg(not(feature = "aws-lc"))]
    pub const BACKEND: &str = "x25519-dalek";

    /// Wiped when dropped.
    pub(super) struct Backend(StaticSecret);

    impl Backend {
        pub(super) fn new(octets: &[u8; SECRET_LEN]) -> Option<(Self, [u8; SECRET_LEN])> {
            let secret = StaticSecret::from(*octets);
            let public = PublicKey::from(&secret).to_bytes();
            Some((Self(secret), public))
        }

        pub(super) fn agree(&self, theirs: &[u8; SECRET_LEN]) -> Option<Secret> {
            let shared = self.0.diffie_hellman(&PublicKey::from(*theirs));
            shared.was_contributory().then(|| Secret::new(shared.to_bytes()))
        }
    }
}

#[cfg(test)]
mod tests;
