//! Command line.
use std::process::ExitCode;
/// Entry.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
