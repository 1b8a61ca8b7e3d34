//! How far a long run is, for who waits; and Ctrl-C.

use std::time::Instant;

use anyhow::Result;
use jvpn_rig::Interrupt;

use crate::scenarios::progress::{SILENCE, so_far};
use crate::timeline;

/// One part of a run.
pub struct Progress<'a> {
    interrupt: &'a Interrupt,
    what: String,
    done: usize,
    total: usize,
    start: Instant,
    said: Instant,
}

impl<'a> Progress<'a> {
    /// A part of `total` steps.
    #[must_use]
    pub fn new(interrupt: &'a Interrupt, what: impl Into<String>, total: usize) -> Self {
        let start = Instant::now();
        Self { interrupt, what: what.into(), done: 0, total, start, said: start }
    }

    /// One step is done.
    ///
    /// # Errors
    /// On Ctrl-C.
    pub fn one(&mut self) -> Result<()> {
        self.done += 1;
        if self.done.is_multiple_of(64) {
            self.interrupt.check()?;
            if self.said.elapsed() >= SILENCE {
                self.said = Instant::now();
                let line = so_far(&self.what, self.done, self.total, self.start);
                timeline::print(&format!("    {line}"));
            }
        }
        Ok(())
    }
}
