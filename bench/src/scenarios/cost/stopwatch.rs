//! Time on the processor, so that what else runs on the machine disturbs a measurement little.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Runs while this thread has a processor.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Duration);

impl Stopwatch {
    /// Starts.
    #[must_use]
    pub fn start() -> Self {
        Self(on_processor())
    }

    /// The thread's time on a processor since the start.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        on_processor().saturating_sub(self.0)
    }
}

fn on_processor() -> Duration {
    // Linux always has this clock for the calling thread.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_counts_and_waiting_does_not() {
        let watch = Stopwatch::start();
        std::thread::sleep(Duration::from_millis(50));
        let waited = watch.elapsed();
        while watch.elapsed() < Duration::from_millis(60) {}
        assert!(waited < Duration::from_millis(40), "{waited:?}");
    }
}
