//! User-space side of the shared tables: mapping, atomic views, doorbells, and the handover of descriptors between the
//! two gateway processes.
//!
//! This is one of the small unsafe islands: it turns descriptors into references to the all-atomic layouts of
//! `jvpn_abi::tables`. Whatever lies in shared memory may be torn or hostile; nothing here trusts it beyond its bounds.

pub mod bindings;
pub mod doorbell;
pub mod handover;
pub mod keys;
pub mod mapping;
pub mod prefixes;

pub use bindings::Bindings;
pub use doorbell::Doorbell;
pub use mapping::{Mapping, TableError};
pub use prefixes::{InnerPrefix, PrefixError, PrefixWriter, Prefixes};
