//! The agent against a gateway in memory that uses the real cryptography and messages, on virtual time.

mod early;
pub(crate) mod gateway;
mod hostile;
mod paths;
mod quality;
mod rekey;
mod retry;
mod scenarios;
mod sequences;
mod takeover;
mod world;

use jvpn_crypto::rng::{Random, RandomError};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Seeded randomness.
#[derive(Clone, Debug)]
pub(crate) struct Seeded(ChaCha20Rng);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha20Rng::seed_from_u64(seed))
    }
}

impl Random for Seeded {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), RandomError> {
        self.0.fill_bytes(out);
        Ok(())
    }
}
