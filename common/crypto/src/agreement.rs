//! The Diffie-Hellman function under both Noise exchanges. Production has one: [`X25519`].
//!
//! Which function an exchange uses is a property of the static key that it is set up with
//! ([`crate::keys::StaticSecret`]): every key that is read or generated is an X25519 key. Simulations of many thousand
//! sessions make theirs with another, cheap function ([`crate::keys::StaticSecret::simulated`]), which they bring
//! themselves. Nothing of this crate, and so nothing of a production binary, contains one
//! (`docs/decisions/0020-simulation-at-scale.md`).

use crate::mac::{SECRET_LEN, Secret};

/// A Diffie-Hellman function over keys of 32 octets.
pub trait Agreement: Sync {
    /// The public key of a private one.
    fn public(&self, private: &[u8; SECRET_LEN]) -> [u8; 32];

    /// What a private key and a peer's public key have in common, written to `shared`. `false` if the peer's key
    /// contributes nothing (RFC 7748, section 6.1): `shared` must then not be used.
    fn agree(&self, private: &[u8; SECRET_LEN], theirs: &[u8; 32], shared: &mut [u8; SECRET_LEN]) -> bool;
}

/// X25519 (RFC 7748) through `x25519-dalek`.
pub(crate) struct X25519;

impl Agreement for X25519 {
    fn public(&self, private: &[u8; SECRET_LEN]) -> [u8; 32] {
        x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(*private)).to_bytes()
    }

    fn agree(&self, private: &[u8; SECRET_LEN], theirs: &[u8; 32], shared: &mut [u8; SECRET_LEN]) -> bool {
        let agreed = x25519_dalek::StaticSecret::from(*private)
            .diffie_hellman(&x25519_dalek::PublicKey::from(*theirs));
        if !agreed.was_contributory() {
            return false;
        }
        *shared = agreed.to_bytes();
        true
    }
}

/// A function with a key pair, as `snow` wants it.
pub(crate) struct Agreed {
    function: &'static dyn Agreement,
    private: Secret,
    public: [u8; 32],
}

impl Agreed {
    pub(crate) fn new(function: &'static dyn Agreement) -> Self {
        Self { function, private: Secret::default(), public: [0; 32] }
    }

    fn derive(&mut self) {
        self.public = self.function.public(&self.private);
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
        // `snow` has no way to report a wrong length; ours is fixed by `StaticSecret`.
        if let Ok(octets) = private.try_into() {
            *self.private = octets;
            self.derive();
        }
    }

    fn generate(&mut self, rng: &mut dyn snow::types::Random) -> Result<(), snow::Error> {
        rng.try_fill_bytes(&mut *self.private)?;
        self.derive();
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &*self.private
    }

    fn dh(&self, theirs: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let theirs: &[u8; 32] = theirs.first_chunk().ok_or(snow::Error::Dh)?;
        let out: &mut [u8; 32] = out.first_chunk_mut().ok_or(snow::Error::Dh)?;
        if self.function.agree(&self.private, theirs, out) { Ok(()) } else { Err(snow::Error::Dh) }
    }
}
