//! The bundled bench and the demo.
//!
//! It starts the processes that a user would start, in the network of `jvpn-rig`, sends real traffic through
//! them, breaks the network, and judges by what comes out at the other end. The demo takes no part in the protocol:
//! it holds no key and opens no tunnel packet. The swarm does, with the agents of `jvpn-client`; and the attackers of
//! the flood have keys of their own.

pub mod account;
pub mod browser;
pub mod check_events;
pub mod cli;
pub mod compare;
pub mod deployment;
pub mod environment;
pub mod events;
pub mod forwarding;
pub mod frames;
pub mod lock;
pub mod model;
pub mod origin;
pub mod page;
pub mod peers;
pub mod pinned;
pub mod raw;
pub mod report;
pub mod reserve;
pub mod result;
pub mod run_dir;
pub mod scenarios;
pub mod schemas;
pub mod simulate;
pub mod simulation;
pub mod status;
pub mod swarm;
pub mod timeline;
pub mod timing;
