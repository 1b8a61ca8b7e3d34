//! The data plane of the gateway: XDP steering, AF_XDP ports, pinned workers and their pure packet pipeline.
//!
//! It knows slots, keys and endpoints. It knows no policy, no handshake and no peer names; what is bound is the control
//! plane's decision, which reaches it through the shared tables alone.

pub(crate) mod asking;
pub mod attach;
pub mod boundary;
pub mod claim;
pub mod config;
pub(crate) mod crew;
pub mod ending;
pub mod frame;
pub mod gauges;
mod halving;
mod handed;
mod hearing;
pub mod hook;
pub mod hops;
pub mod host_end;
pub mod host_guards;
pub mod host_links;
pub mod host_routes;
pub mod host_side;
pub mod ladder;
pub mod lan;
pub mod lan_mtu;
pub mod managed;
pub mod neighbours;
pub mod netlink;
mod pace;
pub mod pins;
pub mod pipeline;
pub mod plan;
pub mod port;
pub mod replace;
pub mod routes;
pub mod run;
mod shares;
pub mod sides;
pub mod slots;
pub mod spread;
pub mod status;
pub mod tables;
pub mod tuning;
pub mod udp;
pub mod watch;
pub mod worker;
