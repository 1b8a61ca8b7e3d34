//! Programs of the host, called with arguments and input, with their complaint as the error.

use std::io::{self, Write};
use std::process::{Command, Stdio};

/// Longest part of a complaint that is passed on, characters.
const COMPLAINT_MAX: usize = 400;

/// Runs `program` to its end.
pub(super) fn run(program: &str, args: &[&str], input: &[u8]) -> io::Result<()> {
    let explain = |error: io::Error| {
        let hint = if error.kind() == io::ErrorKind::NotFound { "; is it installed?" } else { "" };
        io::Error::new(error.kind(), format!("cannot run {program}: {error}{hint}"))
    };
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(explain)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read its input says why at its end.
        let _broken_pipe = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(explain)?;
    if output.status.success() {
        return Ok(());
    }
    let complaint: String =
        String::from_utf8_lossy(&output.stderr).trim().chars().take(COMPLAINT_MAX).collect();
    Err(io::Error::other(format!("{program} failed ({}): {complaint}", output.status)))
}
