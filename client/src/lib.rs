//! Client agent and command-line tool.
#![forbid(unsafe_code)]

pub mod agent;
pub mod hold;
pub mod paths;
