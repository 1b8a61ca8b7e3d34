//! The engine against a fake data plane on virtual time, with real cryptography and seeded randomness.
#![allow(clippy::unwrap_used, reason = "test code: a failure is the message")]

mod birth;
mod client;
mod dataplane;
mod reattach;
mod recovery;
mod rig;
mod sequences;
mod unbound;
