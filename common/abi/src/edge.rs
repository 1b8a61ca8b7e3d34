//! What the edge keeps about handles and about what it refused: layouts and decisions that the XDP program, the control
//! plane and tests share.

use crate::limit::{Bucket, Rate};
use crate::tables::EDGE_CLASSES;
use crate::time::BootTime;
use bytemuck::{Pod, Zeroable};

/// Value of HANDLES: a living handle, and how often it was asked for lately.
///
/// One bucket for all CPUs. Two that ask for one handle at the same instant may both get the last token; that is as much
/// as a handle can have too much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct HandleEntry {
    /// Requests with this handle; written by XDP.
    pub bucket: Bucket,
    /// 1 = it stood in a request, so whoever watches the wire has it; written by the control plane.
    pub shown: u32,
    /// Zero.
    pub reserved: u32,
}

impl HandleEntry {
    /// A handle that only its client and its gateway know.
    pub const FRESH: Self = Self { bucket: Bucket::FULL, shown: 0, reserved: 0 };
    /// One that stood in a request.
    pub const SHOWN: Self = Self { bucket: Bucket::FULL, shown: 1, reserved: 0 };

    /// Counts a request with this handle, and says with whom it has to share.
    #[inline(always)]
    pub fn ask(&mut self, now: BootTime, rate: Rate) -> HandleShare {
        let is_own = self.bucket.take(now, rate);
        match (is_own, self.shown) {
            (true, 0) => HandleShare::Own,
            (true, _) => HandleShare::Shown,
            (false, _) => HandleShare::Beyond,
        }
    }
}

/// Which part of the class of known handles a request may use. None of them is refused for its handle alone: who floods
/// with a handle that he saw must not shut its owner out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandleShare {
    /// The handle's first requests, and nobody else can have it: all of the class.
    Own,
    /// The handle's first requests, and others may have it.
    Shown,
    /// Asked for more often than one client asks.
    Beyond,
}

impl HandleShare {
    /// Tokens of the class's bucket that are left to those who go first, of `burst`.
    #[must_use]
    #[inline(always)]
    pub const fn leaves(self, burst: u32) -> u32 {
        match self {
            Self::Own => 0,
            Self::Shown => burst / 4,
            Self::Beyond => burst / 2,
        }
    }
}

/// Which limit of the edge refused a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EdgeLimit {
    /// That of its source prefix.
    Source = 0,
    /// That of its class.
    Class = 1,
}

/// How many limits there are.
pub const EDGE_LIMITS: usize = 2;
/// Sources of refused datagrams that are remembered, per CPU: the last ones. A power of two.
pub const EDGE_SAMPLES: usize = 64;

/// The one entry of EDGE, per CPU: what was refused, written by XDP, read by the control plane.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct EdgeLedger {
    /// Refused datagrams by [`crate::tables::EdgeClass`] and [`EdgeLimit`].
    pub refused: [[u64; EDGE_LIMITS]; EDGE_CLASSES],
    /// All of them: the next sample's place is this, modulo [`EDGE_SAMPLES`].
    pub total: u64,
    /// Zero.
    pub reserved: u64,
    /// Where the last ones came from, IPv4-mapped.
    pub samples: [[u8; 16]; EDGE_SAMPLES],
}

const _: () = assert!(EDGE_SAMPLES.is_power_of_two());
const _: () = assert!(size_of::<EdgeLedger>() == 64 + 16 + 16 * EDGE_SAMPLES);
const _: () = assert!(size_of::<HandleEntry>() == 24);

impl EdgeLedger {
    /// Notes a refused datagram. `class` is an [`crate::tables::EdgeClass`].
    #[inline(always)]
    pub fn note(&mut self, class: u32, limit: EdgeLimit, source: [u8; 16]) {
        // Masked, not checked: the verifier then sees that no place is beyond the end.
        let counter =
            &mut self.refused[class as usize & (EDGE_CLASSES - 1)][limit as usize & (EDGE_LIMITS - 1)];
        *counter = counter.wrapping_add(1);
        self.samples[self.total as usize & (EDGE_SAMPLES - 1)] = source;
        self.total = self.total.wrapping_add(1);
    }

    /// The sources of the last `fresh` refusals, as far as they are remembered.
    pub fn latest(&self, fresh: u64) -> impl Iterator<Item = &[u8; 16]> {
        let known = fresh.min(EDGE_SAMPLES as u64).min(self.total);
        (1..=known)
            .filter_map(|back| self.samples.get(self.total.wrapping_sub(back) as usize & (EDGE_SAMPLES - 1)))
    }
}

const _: () = assert!(EDGE_CLASSES.is_power_of_two() && EDGE_LIMITS.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    const PER_HANDLE: Rate = Rate { per_second: 10, burst: 20 };
    const CLASS: Rate = Rate { per_second: 1_000, burst: 100 };

    fn pass(class: &mut Bucket, entry: &mut HandleEntry, now: BootTime) -> bool {
        let share = entry.ask(now, PER_HANDLE);
        class.take_leaving(now, CLASS, share.leaves(CLASS.burst))
    }

    /// R3.1, R3.2: a hundred times what the class admits, all with one handle, for ten seconds: every request with a handle
    /// of its own passes, and the flood gets what is left.
    #[test]
    fn r3_2_a_flood_with_one_handle_takes_nothing_from_others() {
        let (mut class, mut flood) = (Bucket::default(), HandleEntry::FRESH);
        let start = BootTime(1);
        let mut flooded = 0;
        for tick in 0..1_000_000_u64 {
            let now = start.after(Duration::from_micros(tick * 10));
            flooded += u32::from(pass(&mut class, &mut flood, now));
            // Five hundred honest requests a second, each with a handle of its own.
            if tick % 200 == 0 {
                let mut own = HandleEntry::FRESH;
                assert!(pass(&mut class, &mut own, now), "tick {tick}");
            }
        }
        // What the class admits in ten seconds, less what the honest took.
        assert!((4_900..=5_200).contains(&flooded), "{flooded}");
    }

    /// R3.2: an observer who floods with every handle that he saw takes nothing from those whose handles nobody saw; and
    /// the owner of a handle that is flooded has as much of a chance as anybody before.
    #[test]
    fn r3_2_seen_handles_give_way_to_fresh_ones_and_are_never_shut_out() {
        let (mut class, mut seen) = (Bucket::default(), [HandleEntry::SHOWN; 200]);
        let start = BootTime(1);
        let (mut owner, mut asked) = (0, 0);
        for tick in 0..500_000_u64 {
            let now = start.after(Duration::from_micros(tick * 20));
            let _flood = pass(&mut class, &mut seen[tick as usize % 200], now);
            if tick % 200 == 0 {
                let mut own = HandleEntry::FRESH;
                assert!(pass(&mut class, &mut own, now), "tick {tick}");
            }
            if tick % 997 == 0 {
                asked += 1;
                owner += u32::from(pass(&mut class, &mut seen[7], now));
            }
        }
        assert!(owner > 0, "of {asked}");
    }

    /// R3.1: what was refused is counted by class and limit, and the last sources are told, newest first.
    #[test]
    fn r3_1_the_ledger_counts_and_remembers_the_last() {
        let mut ledger = EdgeLedger::zeroed();
        assert_eq!(ledger.latest(5).count(), 0);
        for n in 0..200_u8 {
            ledger.note(u32::from(n % 2), if n < 50 { EdgeLimit::Source } else { EdgeLimit::Class }, [n; 16]);
        }
        assert_eq!(ledger.refused[..3], [[25, 75], [25, 75], [0, 0]]);
        assert!(ledger.latest(3).eq([&[199; 16], &[198; 16], &[197; 16]]));
        assert_eq!(ledger.latest(1_000).count(), EDGE_SAMPLES);
    }
}
