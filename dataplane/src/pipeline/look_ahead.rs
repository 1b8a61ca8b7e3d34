//! Brings into the cache what the next frames of a batch will need. With many sessions in random order each packet meets
//! a slot whose lines are in memory only; asked for some frames ahead, they are there when the frame's turn comes.
//!
//! Nothing here decides anything: a frame that lies about its slot costs a useless line.

use super::Pipeline;
use crate::slots::SlotContext;
use jvpn_abi::steer::ETHERNET_LEN;
use jvpn_abi::tables::{Context, SteeringMark, WINDOW_WORDS};
use jvpn_abi::wire::{DATA_HEADER_LEN, be32, be64};

/// Frames ahead at which the frame's own first lines are asked for: the kernel wrote them on another CPU, perhaps.
const FRAME_AHEAD: usize = 12;
/// Frames ahead at which the tables are asked for: what each stage reads, the stage before it has brought.
const TABLES_AHEAD: usize = 8;
/// The binding itself.
const SLOT_AHEAD: usize = 5;
/// Its keys.
const KEYS_AHEAD: usize = 3;
/// Octets of outer headers over IPv4 and over IPv6 without options.
const OUTER_V4: usize = ETHERNET_LEN + 20 + 8;
const OUTER_V6: usize = ETHERNET_LEN + 40 + 8;

/// What is known of a frame before it is looked at properly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hint {
    slot_index: u32,
    /// Of a sealed frame.
    counter: Option<u64>,
}

impl Pipeline {
    /// To be called before a frame from the WAN is handled; `frame(n)` is the n-th behind it in the batch.
    #[inline]
    pub fn look_ahead_inbound<'a>(&self, frame: impl Fn(usize) -> Option<&'a [u8]>) {
        frame(FRAME_AHEAD).into_iter().for_each(prefetch_head);
        self.look_ahead(|ahead| sealed(frame(ahead)?));
    }

    /// To be called before a frame from the LAN is handled; `frame(n)` is the n-th behind it in the batch.
    #[inline]
    pub fn look_ahead_outbound<'a>(&self, frame: impl Fn(usize) -> Option<&'a [u8]>) {
        frame(FRAME_AHEAD).into_iter().for_each(prefetch_head);
        self.look_ahead(|ahead| {
            let mark = SteeringMark::decode(frame(ahead)?)?;
            Some(Hint { slot_index: mark.slot_index, counter: None })
        });
    }

    #[inline]
    fn look_ahead(&self, hint: impl Fn(usize) -> Option<Hint>) {
        if let Some(Hint { slot_index, counter }) = hint(TABLES_AHEAD)
            && let Some(place) = self.slots.get(slot_index as usize)
        {
            prefetch(place);
            self.tables.bindings.cell(slot_index).into_iter().for_each(prefetch);
            if let Some(context) = self.tables.contexts.get(slot_index as usize) {
                prefetch_context(context, counter);
            }
        }
        if let Some(Some(slot)) = hint(SLOT_AHEAD).and_then(|hint| self.slots.get(hint.slot_index as usize)) {
            prefetch_whole::<SlotContext>(slot);
        }
        if let Some(Some(slot)) = hint(KEYS_AHEAD).and_then(|hint| self.slots.get(hint.slot_index as usize)) {
            slot.prefetch_keys();
        }
    }
}

fn sealed(frame: &[u8]) -> Option<Hint> {
    let at = if frame.get(12) == Some(&0x08) { OUTER_V4 } else { OUTER_V6 };
    let header = frame.get(at..at + DATA_HEADER_LEN)?;
    // As `DataHeader` has them; the serial above the index is not looked at.
    let slot = jvpn_abi::wire::SlotId(be32(header, 4)?);
    Some(Hint { slot_index: slot.index(), counter: be64(header, 8) })
}

/// The three lines that each packet touches, and of the window those of its counter.
#[inline]
fn prefetch_context(context: &Context, counter: Option<u64>) {
    prefetch(&context.tag);
    let keys = &context.keys[0];
    match counter {
        Some(counter) => {
            prefetch(&context.last_heard_ns);
            prefetch(&keys.window_lock);
            prefetch(&keys.window[(counter / 64) as usize % WINDOW_WORDS]);
        }
        None => {
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
            frame[at + 4..at + 8].copy_from_slice(&slot.0.to_be_bytes());
            frame[at + 8..at + 16].copy_from_slice(&77_u64.to_be_bytes());
            assert_eq!(sealed(&frame), Some(Hint { slot_index: 513, counter: Some(77) }));
            for short in 0..frame.len() {
                assert_eq!(sealed(&frame[..short]), None);
            }
        }
    }
}
