//! Fixed buffers for one batch of packets, allocated once.

/// Packets per batch: enough to share the cost of a system call, few enough to stay in the cache (128 KiB).
pub const BATCH: usize = 64;
/// Octets per frame: the largest inner packet plus what DATA adds.
pub const FRAME_LEN: usize = crate::agent::MAX_INNER_LEN + crate::agent::FRAME_OVERHEAD;

/// [`BATCH`] buffers of [`FRAME_LEN`] octets, each with the length that is in use.
#[derive(Debug)]
pub struct Frames {
    octets: Box<[[u8; FRAME_LEN]]>,
    lengths: [usize; BATCH],
}

impl Default for Frames {
    fn default() -> Self {
        Self { octets: vec![[0; FRAME_LEN]; BATCH].into_boxed_slice(), lengths: [0; BATCH] }
    }
}

impl Frames {
    /// All buffers, whole, to read into.
    pub fn buffers(&mut self) -> &mut [[u8; FRAME_LEN]] {
        &mut self.octets
    }

    /// Says how much of frame `index` is in use.
    pub fn set_len(&mut self, index: usize, len: usize) {
        if let Some(slot) = self.lengths.get_mut(index) {
            *slot = len.min(FRAME_LEN);
        }
    }

    /// The octets in use of frame `index`; empty if there is no such frame.
    #[must_use]
    pub fn frame(&self, index: usize) -> &[u8] {
        let len = self.lengths.get(index).copied().unwrap_or(0);
        self.octets.get(index).and_then(|octets| octets.get(..len)).unwrap_or_default()
    }

    /// The same, to change in place.
    pub fn frame_mut(&mut self, index: usize) -> &mut [u8] {
        let len = self.lengths.get(index).copied().unwrap_or(0);
        self.octets.get_mut(index).and_then(|octets| octets.get_mut(..len)).unwrap_or_default()
    }

    /// Frame `index`, whole, to read into.
    pub fn buffer(&mut self, index: usize) -> &mut [u8] {
        self.octets.get_mut(index).map(|octets| octets.as_mut_slice()).unwrap_or_default()
    }
}
