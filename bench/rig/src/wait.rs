//! Waiting for a condition that can only be asked for (a counter in a status document, a namespace gone),
//! with a deadline.
//!
//! Where an event can be awaited (a captured frame, a line of a log, the end of a process) await that
//! instead.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::Interrupt;

/// How often a condition is asked for.
const INTERVAL: Duration = Duration::from_millis(5);

/// Asks `probe` until it gives a value.
///
/// # Errors
/// What `probe` fails with; "interrupted"; or, after `patience`, that `what` did not happen.
pub fn until<T>(
    what: &str,
    patience: Duration,
    interrupt: &Interrupt,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        interrupt.check()?;
        if start.elapsed() > patience {
            bail!("{what}: not within {:.1} s", patience.as_secs_f64());
        }
        thread::sleep(INTERVAL);
    }
}
