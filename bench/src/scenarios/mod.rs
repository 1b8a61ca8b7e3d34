//! What the bench does, one module per scenario. Each builds its own network and leaves nothing behind.

pub mod churn;
mod closing;
pub mod contenders;
pub mod cost;
pub mod demo;
pub mod emulator;
pub mod flood;
pub mod idle;
mod measure;
pub(crate) mod progress;
pub mod recovery;
mod sampler;
pub mod sessions;
pub mod soak;
mod stage;
pub mod suite;
pub mod throughput;

// The rig knows the wire only as a stranger would; here both views meet.
const _: () = assert!(jvpn_rig::DATA_OCTET == jvpn_abi::wire::MsgType::Data.octet());
