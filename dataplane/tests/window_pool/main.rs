//! The pool of replay windows under an installer that dies anywhere, and over shared memory that anybody may have written
//! (docs/decisions/0047-one-window-per-key-in-use.md).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod anything;
#[cfg(target_arch = "x86_64")]
mod crashes;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "what only crashes need"))]
mod rig;
#[cfg(target_arch = "x86_64")]
mod stores;
