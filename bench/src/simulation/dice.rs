//! Seeded randomness: the network's luck, the schedules of faults, and the keys of everybody in the simulation.

use jvpn_crypto::rng::{Random, RandomError};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::time::Duration;

/// A stream of a seed. Different streams of one seed are independent, so that one more draw in one place does not
/// change what happens everywhere else.
#[derive(Clone, Debug)]
pub struct Dice(ChaCha20Rng);

impl Dice {
    /// Stream number `stream` of `seed`.
    #[must_use]
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self(rng)
    }

    /// A number below `bound`; 0 if there is none. (The bias of the remainder does not matter here.)
    pub fn below(&mut self, bound: u64) -> u64 {
        let draw = self.0.next_u64();
        if bound == 0 { 0 } else { draw % bound }
    }

    /// Whether something of this probability happens.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1_000) < u64::from(per_mille)
    }

    /// A span from `least` up to `most`.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let room = most.saturating_sub(least).as_nanos();
        let room = u64::try_from(room).unwrap_or(u64::MAX);
        least + Duration::from_nanos(self.below(room.saturating_add(1)))
    }
}

impl Random for Dice {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), RandomError> {
        self.0.fill_bytes(out);
        Ok(())
    }
}
