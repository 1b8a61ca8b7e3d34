//! Whether an interface is there, as the main thread sees it and workers read it.

use serde::Serialize;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// The state of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Presence {
    /// It is up and has a carrier.
    #[default]
    Up = 0,
    /// It is there, but down or without a carrier: nothing is sent by it.
    Down = 1,
    /// It was deleted or moved away. Should it come back, a restart takes it in again.
    Gone = 2,
}

impl Presence {
    /// The one of two that lets less through.
    #[must_use]
    pub const fn worse(self, other: Self) -> Self {
        if other as u8 > self as u8 { other } else { self }
    }
}

/// The state, shared: written by the main thread, read by every worker for each frame. Nobody else writes to its line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Watched(AtomicU8);

impl Watched {
    /// Stores the state. Returns what it was.
    pub fn set(&self, now: Presence) -> Presence {
        Self::of(self.0.swap(now as u8, Ordering::Relaxed))
    }

    /// The state.
    #[must_use]
    #[inline]
    pub fn presence(&self) -> Presence {
        Self::of(self.0.load(Ordering::Relaxed))
    }

    /// Whether frames may be sent by it.
    #[must_use]
    #[inline]
    pub fn is_up(&self) -> bool {
        self.presence() == Presence::Up
    }

    const fn of(number: u8) -> Presence {
        match number {
            0 => Presence::Up,
            1 => Presence::Down,
            _ => Presence::Gone,
        }
    }
}

/// Frames of one worker over one interface. One writer; others read when somebody asks.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct PortTally {
    received: AtomicU64,
    sent: AtomicU64,
    lost: AtomicU64,
}

/// What a [`PortTally`] says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PortTraffic {
    /// Frames that XDP steered here.
    pub received: u64,
    /// Frames that were handed to the interface.
    pub sent: u64,
    /// Frames that were to leave by it and were dropped: it is down or gone, or had no frame free.
    pub lost: u64,
}

impl PortTally {
    pub(super) fn add_received(&self, count: usize) {
        crate::tables::add(&self.received, count as u64);
    }
    pub(super) fn add_sent(&self) {
        crate::tables::add(&self.sent, 1);
    }
    pub(super) fn add_lost(&self) {
        crate::tables::add(&self.lost, 1);
    }

    /// The numbers, each of its own moment.
    #[must_use]
    pub fn shown(&self) -> PortTraffic {
        let of = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        PortTraffic { received: of(&self.received), sent: of(&self.sent), lost: of(&self.lost) }
    }
}

impl std::ops::Add for PortTraffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            sent: self.sent + other.sent,
            lost: self.lost + other.lost,
        }
    }
}
