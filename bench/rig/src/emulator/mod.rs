//! The path emulator: what lies between two interfaces behaves as a profile says.
//!
//! | Module | What for |
//! |---|---|
//! | `profile`, `field` | what a path is like: TOML, checked value by value, and the profiles that come with the rig |
//! | `lane` | one direction: loss, bursts, delay, jitter, reordering, duplication, rate, queue |
//! | `nat` | a NAT whose mappings expire and that can be told to forget them |
//! | `packet` | what of a frame the emulator looks at and rewrites |
//! | `path` | two lanes, the NAT, and a script that changes them over time |
//! | `relay`, `batch`, `carrier` | the shell: frames from one interface to the other, on a thread of its own |
//!
//! Everything but the shell is pure: frames and moments in, frames and moments out, all chance from one seed. So a path
//! is tested on virtual time (`docs/decisions/0034-path-emulator.md`).

mod batch;
mod carrier;
mod field;
pub mod lane;
pub mod nat;
pub mod packet;
pub mod path;
pub mod profile;
mod relay;

pub use lane::{Held, LaneCounters};
pub use nat::NatCounters;
pub use path::{Direction, Path, PathCounters};
pub use profile::{
    Burst, Change, LanePatch, LaneSettings, MtuAnswer, NatSettings, Profile, ProfileError, Share,
};
pub use relay::{Lateness, Relay};
