//! The laboratory: network namespaces, path impairments, an attacker and outside observers, for demo, tests
//! and bench.
//!
//! The rig knows nothing of sessions, keys or the processes under test; what it knows of the protocol is a
//! UDP port and the first octet of a datagram, as any stranger on the path could. So what it observes is
//! evidence from outside.
//!
//! ```text
//!                 ┌───────────── router ─────────────┐
//!  client  upA ───┤ rA 10.0.1.1   (NAT)              │
//!  10.0.1.2       │               rW 198.51.100.254 ─┼── wan0  gateway  lan0 ──── eth0  lan
//!  10.0.2.2  upB ─┤ rB 10.0.2.1   (plain)            │   198.51.100.1   192.168.50.1    192.168.50.10
//!                 │ rX 10.0.9.1 ─────────────────────┼── eth0  attacker 10.0.9.2
//!                 └──────────────────────────────────┘
//! ```
//!
//! Everything a rig makes is written to its registry first, so that [`registry::sweep`] removes what a killed
//! owner left.

pub mod attacker;
pub mod capture;
pub mod dual;
pub mod emulator;
pub mod frame;
pub mod heap;
pub mod hold;
pub mod impair;
pub mod inject;
pub mod interrupt;
pub mod netns;
pub mod priority;
pub mod process;
pub mod redirect;
pub mod registry;
pub mod requirements;
pub mod site;
pub mod stamp;
pub mod tool;
pub mod topology;
pub mod vlan;
pub mod wait;

mod link;
mod packet_socket;

pub use interrupt::{Interrupt, Interrupted};
pub use netns::Namespace;
pub use topology::{Rig, Uplink};

/// The gateway's UDP port.
pub const TUNNEL_PORT: u16 = 4500;

/// First octet of DATA on the wire.
pub const DATA_OCTET: u8 = 0x10;
