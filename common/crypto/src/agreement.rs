//! The Diffie-Hellman function under the Noise exchanges. Production has one: X25519 (`x25519`).
//!
//! Which function an exchange uses is a property of the static key that it is set up with
//! ([`crate::keys::StaticSecret`]): every key that is read or generated is an X25519 key. Simulations of many thousand
//! sessions make theirs with another, cheap function ([`crate::keys::StaticSecret::simulated`]), which they bring
//! themselves. Nothing of this crate, and so nothing of a production binary, contains one
//! (`docs/decisions/0020-simulation-at-scale.md`).

use crate::keys::PublicKey;
use crate::mac::{SECRET_LEN, Secret};
use crate::x25519;
use std::sync::Arc;

/// A Diffie-Hellman function over keys of 32 octets.
pub trait Agreement: Sync {
    /// The public key of a private one.
    fn public(&self, private: &[u8; SECRET_LEN]) -> [u8; 32];

    /// What a private key and a peer's public key have in common, written to `shared`. `false` if the peer's key
    /// contributes nothing (RFC 7748, section 6.1): `shared` must then not be used.
    fn agree(&self, private: &[u8; SECRET_LEN], theirs: &[u8; 32], shared: &mut [u8; SECRET_LEN]) -> bool;
}

/// Which function a key is of.
#[derive(Clone, Copy)]
pub(crate) enum Function {
    /// X25519 (RFC 7748).
    X25519,
    /// What a simulation brought.
    Simulated(&'static dyn Agreement),
}

/// A private key, ready for use, and its public half.
pub(crate) enum Private {
    /// Of X25519.
    X25519(x25519::Private),
    /// Of what a simulation brought.
    Simulated {
        /// The private half.
        octets: Secret,
        /// The public half.
        public: PublicKey,
        /// What computes.
        function: &'static dyn Agreement,
    },
}

impl Private {
    /// `None` if the backend refuses the key; none of this length is refused.
    pub(crate) fn new(function: Function, octets: Secret) -> Option<Self> {
        match function {
            Function::X25519 => x25519::Private::new(octets).map(Self::X25519),
            Function::Simulated(function) => {
                let public = PublicKey(function.public(&octets));
                Some(Self::Simulated { octets, public, function })
            }
        }
    }

    pub(crate) const fn function(&self) -> Function {
        match self {
            Self::X25519(_) => Function::X25519,
            Self::Simulated { function, .. } => Function::Simulated(*function),
        }
    }

    pub(crate) const fn octets(&self) -> &Secret {
        match self {
            Self::X25519(key) => key.octets(),
            Self::Simulated { octets, .. } => octets,
        }
    }

    pub(crate) const fn public(&self) -> &PublicKey {
        match self {
            Self::X25519(key) => key.public(),
            Self::Simulated { public, .. } => public,
        }
    }

    /// What both ends share; `None` if their key contributes nothing.
    pub(crate) fn agree(&self, theirs: &[u8; SECRET_LEN]) -> Option<Secret> {
        match self {
            Self::X25519(key) => key.agree(theirs),
            Self::Simulated { octets, function, .. } => {
                let mut shared = Secret::default();
                function.agree(octets, theirs, &mut shared).then_some(shared)
            }
        }
    }
}

/// One key of an exchange, as `snow` wants it.
pub(crate) struct Agreed {
    function: Function,
    /// This end's static key, ready for use: `snow` names it by its octets, and its public half need not be computed
    /// again for every exchange.
    local: Option<Arc<Private>>,
    key: Option<Arc<Private>>,
}

impl Agreed {
    pub(crate) fn new(local: Arc<Private>) -> Self {
        Self { function: local.function(), local: Some(local), key: None }
    }

    fn take(&mut self, octets: Secret) -> Result<(), snow::Error> {
        let known = self.local.take().filter(|local| crate::mac::equal(&local.octets()[..], &octets[..]));
        let key = known.or_else(|| Private::new(self.function, octets).map(Arc::new));
        self.key = Some(key.ok_or(snow::Error::Dh)?);
        Ok(())
    }
}

impl snow::types::Dh for Agreed {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, private: &[u8]) {
        // `snow` has no way to report a wrong length; ours is fixed by `StaticSecret`. Without a key `dh` fails.
        if let Ok(octets) = private.try_into() {
            let _ = self.take(Secret::new(octets));
        }
    }

    fn generate(&mut self, rng: &mut dyn snow::types::Random) -> Result<(), snow::Error> {
        let mut octets = Secret::default();
        rng.try_fill_bytes(&mut *octets)?;
        self.take(octets)
    }

    fn pubkey(&self) -> &[u8] {
        self.key.as_ref().map_or(&[0; 32], |key| &key.public().0)
    }

    fn privkey(&self) -> &[u8] {
        self.key.as_ref().map_or(&[0; 32], |key| &key.octets()[..])
    }

    fn dh(&self, theirs: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let theirs: &[u8; 32] = theirs.first_chunk().ok_or(snow::Error::Dh)?;
        let out: &mut [u8; 32] = out.first_chunk_mut().ok_or(snow::Error::Dh)?;
        let shared = self.key.as_ref().and_then(|key| key.agree(theirs)).ok_or(snow::Error::Dh)?;
        *out = *shared;
        Ok(())
    }
}
