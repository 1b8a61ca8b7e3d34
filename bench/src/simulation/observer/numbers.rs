//! Which numbers were seen, each once. Numbers are given out from 0 upwards, so one bit each is enough.

/// A set of numbers.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    words: Vec<u64>,
    len: usize,
}

impl Numbers {
    /// Far more than anybody sends in a simulation; what is above was not given out here.
    const MAX: u64 = 1 << 32;

    /// Takes a number in. `false`: it was there, or cannot have been given out.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        if number >= Self::MAX {
            return false;
        }
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let fresh = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.len += usize::from(fresh);
        fresh
    }

    /// Whether a number was seen.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        self.words.get((number / 64) as usize).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    /// How many were seen.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether none was.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The highest.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        let word = self.words.iter().rposition(|word| *word != 0)?;
        Some(word as u64 * 64 + u64::from(self.words[word].ilog2()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_once() {
        let mut numbers = Numbers::default();
        assert_eq!((numbers.last(), numbers.is_empty()), (None, true));
        for number in [5, 0, 64, 200] {
            assert!(numbers.insert(number) && numbers.contains(number));
            assert!(!numbers.insert(number));
        }
        assert_eq!((numbers.len(), numbers.last()), (4, Some(200)));
        assert!(!numbers.contains(63) && !numbers.contains(1 << 40) && !numbers.insert(u64::MAX));
    }
}
