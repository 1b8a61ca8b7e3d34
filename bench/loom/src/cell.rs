//! Cells whose every access loom decides.

use crate::{Mutant, Place};
use jvpn_abi::Word;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::atomic::AtomicU64 as PlainU64;

thread_local! {
    /// Whether fences do something in the world of this thread: loom runs all threads of a world on one.
    static FENCES: std::cell::Cell<bool> = const { std::cell::Cell::new(true) };
}

/// How a cell obeys what it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obeys {
    Fully,
    WithoutOrder,
    InTwoSteps,
}

/// A cell of a table in a world.
#[derive(Debug)]
pub struct Cell(Kind);

#[derive(Debug)]
enum Kind {
    /// Every access is an event of the world.
    Watched(Box<Watched>),
    /// Only there because the layout has it: no world has two threads meet at it.
    Aside(PlainU64),
}

/// A cell that loom decides about.
#[derive(Debug)]
struct Watched {
    cell: AtomicU64,
    obeys: Obeys,
    /// Passed before each access, without any order, where a thread reads and then writes while another one reads.
    ///
    /// Of each cell loom remembers the last access only, when it looks for what else could have come first: the writer's
    /// own read hides the other thread's from its write. What passes here never hides behind a read.
    turns: Option<AtomicU64>,
}

impl Watched {
    fn cell(&self) -> &AtomicU64 {
        if let Some(turns) = &self.turns {
            turns.fetch_add(1, Ordering::Relaxed);
        }
        &self.cell
    }

    fn order(&self, asked: Ordering) -> Ordering {
        if self.obeys == Obeys::WithoutOrder { Ordering::Relaxed } else { asked }
    }

    fn change(
        &self,
        in_one: impl FnOnce(&AtomicU64, Ordering) -> u64,
        order: Ordering,
        to: impl FnOnce(u64) -> u64,
    ) -> u64 {
        if self.obeys != Obeys::InTwoSteps {
            return in_one(self.cell(), self.order(order));
        }
        let before = self.cell().load(Ordering::Acquire);
        self.cell().store(to(before), Ordering::Release);
        before
    }
}

impl Cell {
    /// A watched cell, spoilt if the mutant wants this place to be.
    #[must_use]
    pub fn watched(mutant: Mutant, place: Place, value: u64) -> Self {
        let is_here = |spoilt: Mutant| mutant == spoilt;
        let obeys = if is_here(Mutant::Relaxed(place)) || is_here(Mutant::RelaxedWithoutFences(place)) {
            Obeys::WithoutOrder
        } else if is_here(Mutant::InTwoSteps(place)) {
            Obeys::InTwoSteps
        } else {
            Obeys::Fully
        };
        let turns = place.is_read_by_its_writer().then(|| AtomicU64::new(0));
        Self(Kind::Watched(Box::new(Watched { cell: AtomicU64::new(value), obeys, turns })))
    }

    /// A cell that no two threads meet at.
    #[must_use]
    pub const fn aside(value: u64) -> Self {
        Self(Kind::Aside(PlainU64::new(value)))
    }
}

/// Whether fences do something in the world that this thread is about to explore.
pub(crate) fn set_fences(mutant: Mutant) {
    FENCES.set(!matches!(mutant, Mutant::RelaxedWithoutFences(_)));
}

impl Word for Cell {
    fn load(&self, order: Ordering) -> u64 {
        match &self.0 {
            Kind::Watched(watched) => watched.cell().load(watched.order(order)),
            Kind::Aside(cell) => cell.load(order),
        }
    }

    fn store(&self, value: u64, order: Ordering) {
        match &self.0 {
            Kind::Watched(watched) => watched.cell().store(value, watched.order(order)),
            Kind::Aside(cell) => cell.store(value, order),
        }
    }

    fn swap(&self, value: u64, order: Ordering) -> u64 {
        match &self.0 {
            Kind::Watched(watched) => watched.change(|cell, order| cell.swap(value, order), order, |_| value),
            Kind::Aside(cell) => cell.swap(value, order),
        }
    }

    fn fetch_add(&self, by: u64, order: Ordering) -> u64 {
        match &self.0 {
            Kind::Watched(watched) => {
                watched.change(|cell, order| cell.fetch_add(by, order), order, |was| was.wrapping_add(by))
            }
            Kind::Aside(cell) => cell.fetch_add(by, order),
        }
    }

    fn fetch_sub(&self, by: u64, order: Ordering) -> u64 {
        match &self.0 {
            Kind::Watched(watched) => {
                watched.change(|cell, order| cell.fetch_sub(by, order), order, |was| was.wrapping_sub(by))
            }
            Kind::Aside(cell) => cell.fetch_sub(by, order),
        }
    }

    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        match &self.0 {
            Kind::Watched(watched) if watched.obeys == Obeys::InTwoSteps => {
                let there = watched.cell().load(Ordering::Acquire);
                if there != current {
                    return Err(there);
                }
                watched.cell().store(new, Ordering::Release);
                Ok(there)
            }
            Kind::Watched(watched) => {
                let (success, failure) = (watched.order(success), watched.order(failure));
                watched.cell().compare_exchange(current, new, success, failure)
            }
            Kind::Aside(cell) => cell.compare_exchange(current, new, success, failure),
        }
    }

    fn compare_exchange_weak(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.compare_exchange(current, new, success, failure)
    }

    fn fence(order: Ordering) {
        if FENCES.get() {
            fence(order);
        }
    }

    fn spin_loop() {
        loom::thread::yield_now();
    }
}
