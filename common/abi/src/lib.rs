//! The contracts of Jumping VPN: what is on the wire, what lies in the shared tables, how a packet is steered, and
//! the names of every reason.
//!
//! This crate is shared by the XDP program, both gateway processes and the client. It has no I/O, no clock, no
//! allocation and no `unsafe`; whoever maps or reads memory does so elsewhere and hands it in.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod ecn;
pub mod edge;
pub mod endpoint;
pub mod limit;
pub mod ports;
pub mod reason;
pub mod steer;
pub mod tables;
pub mod time;
pub mod wire;
pub mod word;

pub use ecn::Ecn;
pub use endpoint::Endpoint;
pub use reason::{DropReason, Reason};
pub use time::BootTime;
pub use word::Word;

/// Version of the shared-table and handover contract between the two gateway processes and the XDP program.
///
/// Rises with every change of a layout in [`tables`]; processes that disagree refuse each other, naming both.
pub const CONTRACT_VERSION: u32 = 6;

/// Version of the protocol on the wire (`docs/PROTOCOL.md`).
pub const PROTOCOL_VERSION: u8 = 1;
