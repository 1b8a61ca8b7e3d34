//! How much of the heap is in use, by the book-keeping of glibc's malloc.
//!
//! A counting allocator sees what Rust asks for, but not the contexts that cryptographic libraries allocate in C. Both
//! come from malloc, so its own figures have both, with what each block costs on top.

/// Octets of this process' heap in use: in arenas and mapped blocks, with malloc's own head of each block.
#[must_use]
pub fn in_use() -> usize {
    // SAFETY: mallinfo2 takes no argument and reads malloc's figures under malloc's own locks.
    let figures = unsafe { libc::mallinfo2() };
    figures.uordblks + figures.hblkhd
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_is_seen_and_what_is_freed_is_not() {
        const BLOCKS: usize = 10_000;
        let before = in_use();
        let blocks: Vec<Box<[u8; 1_000]>> = (0..BLOCKS).map(|_| Box::new([7; 1_000])).collect();
        let large = vec![1_u8; 8 << 20];
        let grown = in_use() - before;
        assert!(grown > BLOCKS * 1_000 + large.len(), "{grown}");
        assert!(grown < BLOCKS * 1_100 + large.len() + (1 << 20), "{grown}");
        drop((blocks, large));
        assert!(in_use() < before + (1 << 20));
    }
}
