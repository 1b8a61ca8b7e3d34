//! The client of Jumping VPN: an agent that keeps one session alive over several uplinks, and the `jvpn` tool.
//!
//! | Module | What for | I/O |
//! |---|---|---|
//! | [`agent`] | handshake, session, bindings, reattach: bytes and moments in, bytes and events out | none |
//! | [`paths`] | which uplink, when it is dead, when to try again | none |
//! | [`resolve`] | the gateway's name, asked for outside the tunnel | none |
//! | [`offload`] | packets that become one at the edges | none |
//! | [`hold`] | packets that wait for a path | none |
//! | [`transport`] | datagrams over one uplink | sockets |
//! | [`tun`] | the tunnel device | device |
//! | [`link`] | links, routes, rules, addresses | netlink |
//! | [`host`] | kill switch, name servers, and how they are taken back | nft, files |
//! | [`io`] | the only loop | all of them |
//! | [`config`], [`events`], [`cli`], [`show`] | the user's side | files, terminal |
#![forbid(unsafe_code)]

pub mod agent;
pub mod cli;
pub mod config;
pub mod events;
pub mod hold;
pub mod host;
pub mod io;
pub mod link;
pub mod offload;
pub mod paths;
pub mod resolve;
pub mod show;
pub mod transport;
pub mod tun;
