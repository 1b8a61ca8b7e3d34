//! The engine against a fake data plane on virtual time, with real cryptography and seeded randomness.

mod birth;
mod client;
mod dataplane;
mod reattach;
mod recovery;
mod rig;
mod sequences;
mod unbound;
