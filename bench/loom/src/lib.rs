//! The shared tables' protocol under loom: the production functions of both planes, over cells of which loom tries every
//! interleaving and every value that the C11 memory model lets a load return (docs/decisions/0046-interleavings.md).
//!
//! A world is a handful of threads that do what control plane, installer and workers do. Each takes a [`Mutant`]: with
//! [`Mutant::None`] it must hold, with every other one that concerns it loom must find what is wrong.

pub mod cell;
pub mod guarded;
pub mod tables;
pub mod worlds;

pub use cell::Cell;
pub use guarded::Guarded;

/// A place of the tables whose order of accesses something rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A slot's word in BINDINGS.
    BindingWord,
    /// The sequence that workers are to pass.
    UnbindRequest,
    /// What a worker has passed.
    UnbindReport,
    /// What a worker has applied.
    InstallReport,
    /// Entries that the control plane has put into KEYS.
    KeysWritten,
    /// Entries that the installer has taken out of KEYS.
    KeysTaken,
    /// A slot's confirmed word in CONTEXT.
    Confirmed,
    /// The key number that is sealed with.
    SendKey,
    /// The counter to seal with.
    SendCounter,
    /// The lock of a replay window.
    WindowLock,
    /// Events in a worker's ring.
    EventsWritten,
    /// Events that the control plane has read.
    EventsRead,
    /// Events that found the ring full.
    EventsLost,
    /// PROBEs noted in CONTEXT.
    Probes,
    /// End and bits of a replay window.
    Window,
    /// Whose a replay window is.
    WindowOwner,
    /// Any other.
    Other,
}

impl Place {
    /// Whether a thread reads it and then writes it, in two steps, while others read.
    const fn is_read_by_its_writer(self) -> bool {
        matches!(
            self,
            Self::KeysWritten
                | Self::KeysTaken
                | Self::EventsWritten
                | Self::EventsRead
                | Self::Probes
                | Self::Window
        )
    }
}

/// What is wrong with a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Nothing.
    None,
    /// Every access of this place is relaxed.
    Relaxed(Place),
    /// Every read-modify-write of this place is a load and a store.
    InTwoSteps(Place),
    /// This place is relaxed, and fences do nothing.
    RelaxedWithoutFences(Place),
    /// The control plane goes on without waiting for quiescence.
    QuiescenceSkipped,
    /// The control plane asks for the unbind before it stores the word.
    RequestBeforeWord,
    /// One worker's report stands for all.
    OneWorkerCounts,
    /// A worker reports in the middle of a batch.
    ReportWithinBatch,
    /// The installer hands a binding out before CONTEXT is made for it.
    HandedOutBeforeCleared,
    /// The word is stored before the path that it binds.
    WordBeforePath,
    /// A binding is told before it is confirmed.
    ToldBeforeConfirmed,
    /// The word of a worker's slot is not compared with the one in BINDINGS.
    WordNotChecked,
    /// A replay window is another key's before the worker has given the key before back.
    WindowReusedEarly,
    /// A window's bits are cleared while it is still the key's that had it.
    OwnerKeptWhileCleared,
}
