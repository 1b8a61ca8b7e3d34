//! Octets of the fuzzer taken apart, front to back. Behind the end there are zeros: every input means something.

/// What is left of an input.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    /// All of an input.
    #[must_use]
    pub const fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether nothing is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// At most `len` octets.
    pub fn octets(&mut self, len: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// Octets with their number in front.
    pub fn chunk(&mut self) -> &'a [u8] {
        let len = usize::from(self.u16());
        self.octets(len)
    }

    /// Everything else.
    pub fn rest(&mut self) -> &'a [u8] {
        self.octets(usize::MAX)
    }

    fn fixed<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        for (to, from) in out.iter_mut().zip(self.octets(N)) {
            *to = *from;
        }
        out
    }

    /// One octet.
    pub fn u8(&mut self) -> u8 {
        u8::from_be_bytes(self.fixed())
    }

    /// Two octets.
    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.fixed())
    }

    /// Four octets.
    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.fixed())
    }

    /// Eight octets.
    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.fixed())
    }

    /// One of `count` numbers from 0.
    pub fn below(&mut self, count: usize) -> usize {
        usize::from(self.u16()) % count.max(1)
    }

    /// `genuine`, changed as the input says: octets flipped, cut off or added. With no input left it stays as it is.
    pub fn spoil(&mut self, genuine: &[u8]) -> Vec<u8> {
        let mut spoiled = genuine.to_vec();
        for _ in 0..self.u8() % 8 {
            let at = self.below(spoiled.len());
            match self.u8() {
                0 => spoiled.truncate(at),
                1 => spoiled.extend(self.chunk()),
                bits => {
                    if let Some(octet) = spoiled.get_mut(at) {
                        *octet ^= bits;
                    }
                }
            }
        }
        spoiled
    }
}
