//! Replay windows: a pool behind CONTEXT, in the same memory (docs/decisions/0047-one-window-per-key-in-use.md).

use super::Context;
use core::sync::atomic::AtomicU64;

/// u64 words of a replay window: 8,192 bits (RFC 6479; one word is always being recycled).
pub const WINDOW_WORDS: usize = 128;

/// The bits of a replay window. They lie behind CONTEXT, in a pool: a key set takes one when it gets its key and gives it
/// back with it, so that a binding has two only during a rekey.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct ReplayWindow<A = AtomicU64> {
    /// Bit ring: counter c is bit `c % 64` of word `c / 64 % WINDOW_WORDS`.
    pub words: [A; WINDOW_WORDS],
}

/// Windows per slot: enough for every slot to rekey at once. Those that are never used cost no memory.
pub const WINDOWS_PER_SLOT: u32 = 2;

/// What the owner's word of a window says, when it belongs to this key set: never 0, which is nobody.
#[must_use]
pub const fn window_place(slot_index: u32, key_number: u32) -> u64 {
    slot_index as u64 * 2 + (key_number % 2) as u64 + 1
}

/// Where parts of the memory of CONTEXT begin: multiples of the usual huge page, and so of every page.
const CONTEXT_PART: usize = 2 << 20;

/// Where the windows begin in the memory of CONTEXT, octets.
#[must_use]
pub const fn windows_at(slots: u32) -> usize {
    (slots as usize * size_of::<Context>()).next_multiple_of(CONTEXT_PART)
}

/// Where the owners of the windows begin, a word each, octets.
#[must_use]
pub const fn window_owners_at(slots: u32) -> usize {
    let windows = slots as usize * WINDOWS_PER_SLOT as usize * size_of::<ReplayWindow>();
    windows_at(slots) + windows.next_multiple_of(CONTEXT_PART)
}

/// Octets of the memory of CONTEXT.
#[must_use]
pub const fn context_octets(slots: u32) -> usize {
    window_owners_at(slots) + slots as usize * WINDOWS_PER_SLOT as usize * size_of::<u64>()
}

const _: () = assert!(size_of::<ReplayWindow>() == 1_024);
