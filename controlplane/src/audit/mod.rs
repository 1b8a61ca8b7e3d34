//! Audit: what happened to sessions, as JSON lines. A failed or slow sink never reaches the engine.
//!
//! [`event`] says what there is to report and how it is spelled; [`floods`] summarises what could flood the
//! log; [`writer`] is the bounded channel to the thread that writes. State changes are never summarised.

pub mod event;
pub mod floods;
pub mod writer;

pub use event::{
    AuditEvent, AuditKind, Decision, Encoder, LimitScope, Line, NOTE_MAX, STORE_RECORDS_MAX, Violation, note,
};
pub use floods::Floods;
pub use writer::{AuditHandle, AuditWriter, DEFAULT_CAPACITY, WriterSettings};
