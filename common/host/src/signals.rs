//! SIGINT, SIGTERM and SIGHUP (a closed terminal) as something that a poll loop can wait for.

use std::io;
use std::os::unix::net::UnixStream;

/// Becomes readable when the process is asked to end. Keep it: dropping it does not unregister the handlers.
///
/// # Errors
/// If the handlers cannot be registered.
pub fn shutdown_stream() -> io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
    }
    Ok(reader)
}
