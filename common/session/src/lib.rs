//! The session: states, events, one pure transition function, policy, and the messages inside sealed
//! payloads.
//!
//! Nothing here reads a clock, a socket or randomness.
#![forbid(unsafe_code)]

pub mod core;
pub mod event;
pub mod messages;
pub mod pack;
pub mod policy;
pub mod quality;
pub mod state;
pub mod switches;
pub mod transition;
pub mod version;

pub use crate::core::{Anchor, Attempts, SessionCore};
pub use crate::event::{Event, Generation, ReattachClaim};
pub use crate::policy::Policy;
pub use crate::state::{BindingPhase, State};
pub use crate::transition::{
    BindingChange, Rejection, Transition, admit_rekey, admit_takeover, birth, reload, transition,
};
pub use crate::version::StateVersion;
