//! `state_version`: `term << 40 | sequence`. Within a term the sequence rises by one per transition, from 0.

/// Bits of the sequence.
pub const SEQUENCE_BITS: u32 = 40;

/// Version of a session's state. Only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateVersion(pub u64);

impl StateVersion {
    /// The first version of a term.
    #[must_use]
    pub const fn first(term: u32) -> Self {
        // 24 bits of term are left; a term that wrapped would roll back, so it stops instead.
        let term = if term > Self::MAX_TERM { Self::MAX_TERM } else { term };
        Self((term as u64) << SEQUENCE_BITS)
    }

    /// Largest term.
    pub const MAX_TERM: u32 = (1 << (64 - SEQUENCE_BITS)) - 1;

    /// The version of the next transition in the same term.
    #[must_use]
    pub const fn next(self) -> Self {
        // 2^40 transitions at 60 a minute take 35,000 years; the sum cannot reach the term in practice.
        Self(self.0.saturating_add(1))
    }

    /// The version of the first transition in the next term.
    #[must_use]
    pub const fn next_term(self) -> Self {
        Self::first(self.term().saturating_add(1))
    }

    /// Ownership term.
    #[must_use]
    pub const fn term(self) -> u32 {
        (self.0 >> SEQUENCE_BITS) as u32
    }

    /// Transitions in this term before this one.
    #[must_use]
    pub const fn sequence(self) -> u64 {
        self.0 & ((1 << SEQUENCE_BITS) - 1)
    }
}

impl std::fmt::Display for StateVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.term(), self.sequence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R1.3: versions only rise, within a term and across terms.
    #[test]
    fn r1_3_versions_only_rise() {
        let first = StateVersion::first(3);
        assert_eq!((first.term(), first.sequence()), (3, 0));
        assert_eq!((first.next().term(), first.next().sequence()), (3, 1));
        assert!(first.next_term() > first.next());
        assert_eq!(first.next_term(), StateVersion::first(4));
        assert_eq!(StateVersion::first(u32::MAX).term(), StateVersion::MAX_TERM);
    }
}
