//! Tells a waiting person how far a run is, on standard error: the result alone goes to standard output.

use std::io::{Write, stderr};
use std::time::{Duration, Instant};

/// At most one line about the same step in this span.
pub(crate) const SILENCE: Duration = Duration::from_secs(3);

/// How far a step is that began then, and how long the rest of it will take at that pace.
pub(crate) fn so_far(what: &str, done: usize, total: usize, began: Instant) -> String {
    let each = began.elapsed().as_secs_f64() / done.max(1) as f64;
    let left = each * total.saturating_sub(done) as f64;
    format!("{what}: {done} of {total}, about {left:.0} s left")
}

/// Lines with the time since the run began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    start: Instant,
    said: Instant,
}

impl Progress {
    /// The clock starts now.
    pub(crate) fn start() -> Self {
        let start = Instant::now();
        Self { start, said: start }
    }

    /// One line.
    pub(crate) fn say(&self, text: &str) {
        // Nobody may be there to read it.
        let _told = writeln!(stderr().lock(), "  {:8.3}  {text}", self.start.elapsed().as_secs_f64());
    }

    /// One line now and then: `done` of `total` since `began`, and how long the rest will take at that pace.
    pub(crate) fn step(&mut self, what: &str, done: usize, total: usize, began: Instant) {
        if self.said.elapsed() < SILENCE {
            return;
        }
        self.said = Instant::now();
        self.say(&so_far(what, done, total, began));
    }

    /// One line now and then about a span that is waited out.
    pub(crate) fn span(&mut self, what: &str, spent: Duration, span: Duration) {
        if self.said.elapsed() < SILENCE {
            return;
        }
        self.said = Instant::now();
        let left = span.saturating_sub(spent).as_secs_f64();
        self.say(&format!(
            "{what}: {:.0} of {:.0} s, about {left:.0} s left",
            spent.as_secs_f64(),
            span.as_secs_f64()
        ));
    }
}
