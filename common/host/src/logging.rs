//! Process logs on standard error. The audit log is something else and has its own sink.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging: `JVPN_LOG` chooses the level (default `info`), as `tracing` filters are written.
pub fn init() {
    let filter = EnvFilter::try_from_env("JVPN_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // By default a line that cannot be written is told on standard error, which panics where that is what cannot be
        // written: a full disk under the log would end a tunnel.
        .log_internal_errors(false);
    // A second call (tests) keeps the first subscriber.
    if subscriber.try_init().is_err() {
        tracing::debug!("logging was already started");
    }
}
