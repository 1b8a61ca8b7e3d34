//! What the processes share on a host: the clock, key files, configuration files, status sockets, signals, locking of
//! memory, dropping of privileges and logging. The I/O shells use it; nothing below them may.
#![forbid(unsafe_code)]

pub mod clock;
pub mod config;
pub mod keyfile;
pub mod logging;
pub mod memory;
pub mod privileges;
pub mod signals;
pub mod status;
