//! The engine against a fake data plane on virtual time, with real cryptography and seeded randomness.
#![allow(clippy::unwrap_used, reason = "test code: a failure is the message")]

mod admin;
mod birth;
mod client;
mod clocks;
mod dataplane;
mod disk;
mod durable;
mod early;
mod edge;
mod keys;
mod paths;
mod quality;
mod randomness;
mod reattach;
mod reborn;
mod recovery;
mod rekey;
mod restart;
mod restart_time;
mod retry;
mod rig;
mod rivals;
mod sequences;
mod takeover;
mod takeover_sequences;
mod unbound;
mod unreadable;
