//! SIGINT, SIGTERM and SIGHUP (a closed terminal) as something that a poll loop can wait for.

use std::io;
use std::os::unix::net::UnixStream;

/// Becomes readable when the process is asked to end. Keep it: dropping it does not unregister the handlers.
///
/// # Errors
/// If the handlers cannot be registered.
pub fn shutdown_stream() -> io::Result<UnixStream> {
    stream(&[signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP])
}

/// Becomes readable when the process is asked to end so that another one can take its place at once (SIGUSR2). Keep it, as
/// above.
///
/// # Errors
/// If the handler cannot be registered.
pub fn restart_stream() -> io::Result<UnixStream> {
    stream(&[signal_hook::consts::SIGUSR2])
}

fn stream(signals: &[i32]) -> io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    for &signal in signals {
        signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
    }
    Ok(reader)
}
