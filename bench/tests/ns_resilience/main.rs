//! Kills, hostile datagrams, refusals and ends, with the three real processes in real namespaces. Needs root
//! and the binaries; run serially by `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod crash_both;
mod crash_control_plane;
mod crash_data_plane;
mod frames;
mod hostile;
mod lab;
mod lifecycle;
mod privileges;
mod slow_ends;
mod suites;
mod wire;
