//! How far a long run is, for who waits; and Ctrl-C.

use std::time::{Duration, Instant};

use anyhow::Result;
use jvpn_rig::Interrupt;

use crate::timeline;

/// At most one line in this span.
const SILENCE: Duration = Duration::from_secs(3);

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
                timeline::print(&format!("    {}", self.line()));
            }
        }
        Ok(())
    }

    fn line(&self) -> String {
        let left = self.total.saturating_sub(self.done) as f64;
        let each = self.start.elapsed().as_secs_f64() / self.done.max(1) as f64;
        format!("{}: {} of {}, about {:.0} s left", self.what, self.done, self.total, left * each)
    }
}
