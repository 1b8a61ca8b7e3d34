//! What the tests of several modules share: seeded randomness and ways to spoil a datagram.

use crate::rng::{Random, RandomError, SourceError};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Reproducible randomness.
pub(crate) struct Seeded(ChaCha20Rng);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha20Rng::seed_from_u64(seed))
    }

    pub(crate) fn octets(&mut self, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.0.fill_bytes(&mut out);
        out
    }
}

impl Random for Seeded {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), RandomError> {
        self.0.fill_bytes(out);
        Ok(())
    }
}

/// What a source that fails says.
pub(crate) const NO_SOURCE: RandomError = RandomError::Unavailable(SourceError::Os(38));

/// A source that always fails.
pub(crate) struct Failing;

impl Random for Failing {
    fn fill(&mut self, _: &mut [u8]) -> Result<(), RandomError> {
        Err(NO_SOURCE)
    }
}

/// Every octet of `genuine` changed in three ways: lowest bit, highest bit, all bits.
pub(crate) fn spoiled(genuine: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> + '_ {
    (0..genuine.len()).flat_map(move |at| {
        [0x01, 0x80, 0xff].map(|bits| {
            let mut datagram = genuine.to_vec();
            datagram[at] ^= bits;
            (at, datagram)
        })
    })
}

/// Every shorter form of `genuine`, and some longer ones.
pub(crate) fn resized(genuine: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let shorter = (0..genuine.len()).map(|len| genuine[..len].to_vec());
    let longer = [1, 2, 16, 1_000, 64_000].into_iter().map(|more| {
        let mut datagram = genuine.to_vec();
        datagram.resize(genuine.len() + more, 0);
        datagram
    });
    shorter.chain(longer)
}

/// Octets from hexadecimal text.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2) && text.is_ascii());
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
