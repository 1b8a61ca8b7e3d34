//! Randomness, always handed in: the production source with its check at start, and the trait that tests
//! implement.
//!
//! Nothing else in the system may ask the operating system for random octets.

/// A source of octets that nobody can predict (in tests: a seeded one).
pub trait Random {
    /// Fills `out` completely or fails.
    ///
    /// # Errors
    /// [`RandomError`] if the source has none to give; `out` must then not be used.
    fn fill(&mut self, out: &mut [u8]) -> Result<(), RandomError>;
}

/// Why there is no randomness. Whoever gets this must stop: going on without is worse than not going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RandomError {
    /// The source failed.
    #[error("the operating system gave no random octets ({0}); check getrandom(2) and any seccomp filter")]
    Unavailable(SourceError),
    /// A draw was one octet repeated.
    #[error("the random source is broken: it returns constant octets; do not run on this machine")]
    Constant,
    /// Two draws were equal.
    #[error("the random source is broken: it returned the same octets twice; do not run on this machine")]
    Repeating,
}

/// What the source said when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// An error number of the operating system.
    #[error("error {0}")]
    Os(i32),
    /// No error number.
    #[error("no error number")]
    Unknown,
}

/// The operating system's generator. Exists only after [`OsRandom::checked`] (R2.5).
#[derive(Debug)]
pub struct OsRandom(());

impl OsRandom {
    /// The generator, if it passes [`health_check`].
    ///
    /// # Errors
    /// [`RandomError`]; the process must not start.
    pub fn checked() -> Result<Self, RandomError> {
        let mut candidate = Self(());
        health_check(&mut candidate)?;
        Ok(candidate)
    }
}

impl Random for OsRandom {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), RandomError> {
        getrandom::fill(out).map_err(|error| {
            RandomError::Unavailable(error.raw_os_error().map_or(SourceError::Unknown, SourceError::Os))
        })
    }
}

/// Draws twice 32 octets: neither draw may be constant, and they must differ. A sound source fails this with
/// probability below 2^-240; a stuck or stubbed one does not pass.
///
/// # Errors
/// [`RandomError`] naming what was seen.
pub fn health_check(source: &mut dyn Random) -> Result<(), RandomError> {
    let mut draws = [[0; 32]; 2];
    for draw in &mut draws {
        source.fill(draw)?;
        let [first, rest @ ..] = &*draw;
        if rest.iter().all(|octet| octet == first) {
            return Err(RandomError::Constant);
        }
    }
    let [a, b] = draws;
    if a == b { Err(RandomError::Repeating) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
