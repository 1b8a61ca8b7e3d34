//! Sessions, policy, handshake, reattach, audit: the control plane of the gateway.
//!
//! [`engine`] decides and never touches a socket, a clock or a table. [`audit`] turns its events into lines without ever
//! holding it up, [`abuse`] tells
//! operators who asks for too much. [`node_state`] keeps what must outlive the process. [`config`] is what an operator writes.
#![forbid(unsafe_code)]

pub mod abuse;
pub mod admin;
pub mod audit;
pub mod config;
pub mod edge;
mod ending;
pub mod engine;
pub mod gap;
pub mod io;
pub mod journal;
pub mod limits;
pub mod load;
pub mod node_state;
pub mod reports;
pub mod store;
pub mod tables;
mod tries;
pub mod udp;
