//! Brings into the cache what the next frames of a batch will need. With many sessions in random order each packet meets
//! a slot whose lines are in memory only; asked for some frames ahead, they are there when the frame's turn comes.
//!
//! Nothing here decides anything: a frame that lies about its slot costs a useless line.

use super::Pipeline;
use crate::slots::{KeySet, SlotContext, sending_keys};
use crate::tables::Tables;
use jvpn_abi::steer::ETHERNET_LEN;
use jvpn_abi::tables::{Context, SteeringMark, WINDOW_WORDS};
use jvpn_abi::wire::{DATA_HEADER_LEN, Suite, be32, be64};
use std::sync::Arc;

/// Frames ahead at which the frame's own first lines are asked for: the kernel wrote them on another CPU, perhaps.
const FRAME_AHEAD: usize = 14;
/// Frames ahead at which the tables are asked for: what each stage reads, the stage before it has brought.
const TABLES_AHEAD: usize = 11;
/// The binding itself.
const SLOT_AHEAD: usize = 8;
/// Its keys and prefixes.
const KEYS_AHEAD: usize = 5;
/// What the cipher made of the key, and the window's line of the frame's counter.
const CIPHER_AHEAD: usize = 2;
/// Octets of outer headers over IPv4 and over IPv6 without options.
const OUTER_V4: usize = ETHERNET_LEN + 20 + 8;
const OUTER_V6: usize = ETHERNET_LEN + 40 + 8;

/// Hints that are kept: a power of two above [`TABLES_AHEAD`].
const KEPT: usize = 16;
const _: () = assert!(KEPT > TABLES_AHEAD && FRAME_AHEAD > TABLES_AHEAD);

/// What is known of a frame before it is looked at properly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Hint {
    slot_index: u32,
    /// Of a sealed frame.
    key_phase: bool,
    counter: u64,
}

/// What the stages that come later need of a frame: whose it is, `NOBODY` if that cannot be said or is in the cache anyway.
const NOBODY: u32 = u32::MAX;

/// Slot, key phase and counter of a frame.
type Kept = (u32, bool, u64);

/// How far each stage has come in this batch.
#[derive(Debug)]
pub(super) struct LookAhead {
    /// The frame whose turn it is.
    at: usize,
    /// Frames from here on have not been looked at.
    tables: usize,
    slot: usize,
    keys: usize,
    cipher: usize,
    /// Of the frame before the next to be looked at.
    last: u32,
    /// Of frame n in place n % 16.
    kept: [Kept; KEPT],
}

impl Default for LookAhead {
    fn default() -> Self {
        Self { at: 0, tables: 0, slot: 0, keys: 0, cipher: 0, last: NOBODY, kept: [(NOBODY, false, 0); KEPT] }
    }
}

/// Which way frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

impl Pipeline {
    /// Another batch begins: what was looked at before says nothing of it.
    #[inline]
    pub fn begin_batch(&mut self) {
        let ahead = &mut self.ahead;
        (ahead.at, ahead.tables, ahead.slot, ahead.keys, ahead.cipher) = (0, 0, 0, 0, 0);
        ahead.last = NOBODY;
    }

    /// To be called before each frame from the WAN is handled; `frame(n)` is the n-th behind it in the batch.
    #[inline]
    pub fn look_ahead_inbound<'a>(&mut self, frame: impl Fn(usize) -> Option<&'a [u8]>) {
        self.look_ahead(Way::In, frame, sealed);
    }

    /// To be called before each frame from the LAN is handled; `frame(n)` is the n-th behind it in the batch.
    #[inline]
    pub fn look_ahead_outbound<'a>(&mut self, frame: impl Fn(usize) -> Option<&'a [u8]>) {
        self.look_ahead(Way::Out, frame, marked);
    }

    #[inline]
    fn look_ahead<'a>(
        &mut self,
        way: Way,
        frame: impl Fn(usize) -> Option<&'a [u8]>,
        hint: impl Fn(&[u8]) -> Option<Hint>,
    ) {
        let Self { ahead, slots, tables, .. } = self;
        let reach = Reach { way, slots, tables };
        frame(FRAME_AHEAD).into_iter().for_each(prefetch_head);
        let at = ahead.at;
        ahead.at += 1;
        if ahead.tables < at {
            // The batch was longer than its frames: whoever calls once more than there are gets nothing looked at.
            (ahead.tables, ahead.slot, ahead.keys, ahead.cipher) = (at, at, at, at);
        }
        while ahead.tables <= at + TABLES_AHEAD {
            let Some(octets) = frame(ahead.tables - at) else { break };
            let place = ahead.tables % KEPT;
            ahead.tables += 1;
            ahead.kept[place] = match hint(octets) {
                // Frames of one session follow each other: its lines have been asked for.
                Some(hint) if hint.slot_index != ahead.last => {
                    ahead.last = hint.slot_index;
                    reach.ask_for_tables(hint);
                    (hint.slot_index, hint.key_phase, hint.counter)
                }
                Some(_) | None => (NOBODY, false, 0),
            };
        }
        let end = |ahead: usize, seen: usize| seen.min(at + ahead + 1);
        while ahead.slot < end(SLOT_AHEAD, ahead.tables) {
            let (slot_index, ..) = ahead.kept[ahead.slot % KEPT];
            reach.known(slot_index).into_iter().for_each(prefetch_whole::<SlotContext>);
            ahead.slot += 1;
        }
        while ahead.keys < end(KEYS_AHEAD, ahead.tables) {
            let (slot_index, ..) = ahead.kept[ahead.keys % KEPT];
            reach.known(slot_index).into_iter().for_each(SlotContext::prefetch_keys);
            ahead.keys += 1;
        }
        while ahead.cipher < end(CIPHER_AHEAD, ahead.tables) {
            reach.ask_for_cipher(ahead.kept[ahead.cipher % KEPT]);
            ahead.cipher += 1;
        }
    }
}

/// What the stages reach.
struct Reach<'a> {
    way: Way,
    slots: &'a [Option<Arc<SlotContext>>],
    tables: &'a Tables,
}

impl Reach<'_> {
    #[inline]
    fn known(&self, slot_index: u32) -> Option<&SlotContext> {
        self.slots.get(slot_index as usize)?.as_deref()
    }

    #[inline]
    fn ask_for_tables(&self, hint: Hint) {
        let Some(place) = self.slots.get(hint.slot_index as usize) else { return };
        prefetch(place);
        self.tables.bindings.cell(hint.slot_index).into_iter().for_each(prefetch);
        if let Some(context) = self.tables.contexts.get(hint.slot_index as usize) {
            prefetch_context(context, self.way, hint);
        }
    }

    #[inline]
    fn ask_for_cipher(&self, (slot_index, phase, counter): Kept) {
        let Some(slot) = self.known(slot_index) else { return };
        match self.way {
            Way::In => {
                let Some(keys) = slot.keys(phase) else { return };
                let window = self.tables.window(keys.window());
                window
                    .into_iter()
                    .for_each(|bits| prefetch(&bits.words[(counter / 64) as usize % WINDOW_WORDS]));
                keys.prefetch_open();
            }
            Way::Out => {
                let context = self.tables.contexts.get(slot_index as usize);
                let keys = context.and_then(|context| sending_keys(slot, context));
                keys.into_iter().for_each(KeySet::prefetch_seal);
            }
        }
    }
}

fn sealed(frame: &[u8]) -> Option<Hint> {
    let at = if frame.get(12) == Some(&0x08) { OUTER_V4 } else { OUTER_V6 };
    let header = frame.get(at..at + DATA_HEADER_LEN)?;
    // As `DataHeader` has them; the serial above the index is not looked at.
    let slot = jvpn_abi::wire::SlotId(be32(header, 4)?);
    let key_phase = header.get(1)? & 1 == 1;
    Some(Hint { slot_index: slot.index(), key_phase, counter: be64(header, 8)? })
}

fn marked(frame: &[u8]) -> Option<Hint> {
    let mark = SteeringMark::decode(frame)?;
    Some(Hint { slot_index: mark.slot_index, ..Hint::default() })
}

/// The lines that each packet touches.
#[inline]
fn prefetch_context(context: &Context, way: Way, hint: Hint) {
    prefetch(&context.tag);
    let keys = &context.keys[usize::from(hint.key_phase)];
    match way {
        Way::In => {
            prefetch(&context.last_heard_ns);
            prefetch(&keys.window_lock);
        }
        Way::Out => {
            prefetch(&context.packets_out);
            prefetch(&keys.send_counter);
        }
    }
}

/// The two lines that have a frame's headers.
#[inline]
fn prefetch_head(frame: &[u8]) {
    frame.iter().step_by(64).take(2).for_each(prefetch);
}

/// Where the expanded forms of two keys of one suite lie, for [`prefetch_expanded`]: the cipher's library keeps them on its
/// heap and tells nobody where. The one word in which the two differ is the pointer. A guess that is wrong, as it may be
/// with another version of the library, costs useless lines and nothing else: nothing is ever read or written there.
pub(crate) fn expanded_at<A, B>(one: &A, other: &B) -> Expanded {
    const WORD: usize = size_of::<usize>();
    let (one_at, other_at) = (std::ptr::from_ref(one).cast::<u8>(), std::ptr::from_ref(other).cast::<u8>());
    let words = size_of::<A>().min(size_of::<B>()) / WORD;
    let mut differing = (0..words).filter_map(|n| {
        let pair = (word_at(one_at.wrapping_add(n * WORD))?, word_at(other_at.wrapping_add(n * WORD))?);
        (pair.0 != pair.1 && pair.0.min(pair.1) >= LOWEST_POINTER).then_some(pair)
    });
    match (differing.next(), differing.next()) {
        (Some((open, seal)), None) => Expanded { open, seal },
        _ => Expanded::default(),
    }
}

/// Addresses of what the cipher made of two keys; 0 = not known. Numbers, not pointers: they are never followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expanded {
    pub(crate) open: usize,
    pub(crate) seal: usize,
}

/// Numbers below are none that mmap gives out (vm.mmap_min_addr), so no pointers but tags of enums.
const LOWEST_POINTER: usize = 1 << 16;

/// A word of a value, as a number. The value may have padding there, which Rust must not read and a processor may.
fn word_at(address: *const u8) -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    {
        let word: usize;
        // SAFETY: the caller's word lies within a value that it borrows; nothing is written.
        unsafe {
            std::arch::asm!(
                "mov {word}, qword ptr [{address}]",
                word = lateout(reg) word,
                address = in(reg) address,
                options(nostack, readonly, preserves_flags),
            );
        }
        Some(word)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = address;
        None
    }
}

/// Octets that the cipher reads of an expanded key: AES-256's round keys, GHASH's table and what belongs to them (`struct
/// evp_aead_ctx_st` of AWS-LC, 584 octets behind an allocation's head), or ChaCha20's key.
#[inline]
pub(crate) fn prefetch_expanded(address: usize, suite: Suite) {
    if address == 0 {
        return;
    }
    let start: *const u8 = std::ptr::without_provenance(address);
    match suite {
        Suite::Aes256Gcm => (0..10_usize).for_each(|line| prefetch_at(start.wrapping_add(line * 64))),
        Suite::ChaCha20Poly1305 => prefetch_at(start),
    }
}

/// Every line of a value.
#[inline]
pub(crate) fn prefetch_whole<T>(value: &T) {
    let start = std::ptr::from_ref(value).cast::<u8>();
    for line in (0..size_of::<T>()).step_by(64) {
        prefetch_at(start.wrapping_add(line));
    }
}

/// The line in which a value begins.
#[inline]
pub(crate) fn prefetch<T>(value: &T) {
    prefetch_at(std::ptr::from_ref(value).cast());
}

#[inline]
fn prefetch_at(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program sees and faults on no address; SSE is part of x86_64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R0.5: hints come from where the headers are, over both families; a frame that is too short gives none.
    #[test]
    fn r0_5_hints_of_frames() {
        for (ether_type, at) in [([0x08, 0x00], OUTER_V4), ([0x86, 0xdd], OUTER_V6)] {
            let mut frame = vec![0; at + DATA_HEADER_LEN];
            frame[12..14].copy_from_slice(&ether_type);
            let slot = jvpn_abi::wire::SlotId::new(513, 2).unwrap();
            frame[at + 1] = 1;
            frame[at + 4..at + 8].copy_from_slice(&slot.0.to_be_bytes());
            frame[at + 8..at + 16].copy_from_slice(&77_u64.to_be_bytes());
            assert_eq!(sealed(&frame), Some(Hint { slot_index: 513, key_phase: true, counter: 77 }));
            for short in 0..frame.len() {
                assert_eq!(sealed(&frame[..short]), None);
            }
        }
    }

    /// R0.5: what the cipher made of a key is found, so that it can be asked for: the address of an allocation that was
    /// made for this key alone. Should another version of the library hide it, look-ahead loses its last stage.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn r0_5_expanded_keys_are_found() {
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            let keys: Vec<_> = (0..4_u8).map(|n| jvpn_crypto::aead::OpenKey::new(suite, &[n; 32])).collect();
            let found: Vec<_> = keys.windows(2).map(|pair| expanded_at(&pair[0], &pair[1])).collect();
            assert!(found.iter().all(|at| at.open != 0 && at.seal.abs_diff(at.open) >= 512), "{found:x?}");
            assert!(found.windows(2).all(|pair| pair[0].seal == pair[1].open), "{found:x?}");
        }
        let alike = [1_usize << 20, 7];
        assert_eq!(expanded_at(&alike, &alike), Expanded::default(), "nothing differs");
        let (one, other) = ([1_usize << 20, 1 << 30], [1_usize << 21, 1 << 31]);
        assert_eq!(expanded_at(&one, &other), Expanded::default(), "two words differ: which is it?");
    }
}
