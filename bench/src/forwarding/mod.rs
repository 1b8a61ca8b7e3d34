//! Packets per second through the kernel: one worker between two veth ports, fed by an AF_XDP generator. `l2fwd` compares
//! ours with plain forwarding, `pinning` compares settings of ours with each other.

mod edge;
mod generator;
pub mod l2fwd;
mod lab;
pub mod memory;
mod ours;
pub mod pinning;
mod plain;
pub mod scaling;

use crate::scenarios::progress::{Progress, so_far};
use serde::Serialize;
use std::time::Instant;

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Sealed DATA from the WAN is opened and leaves by the LAN port.
    Decrypt,
    /// Plain packets from the LAN are sealed and leave by the WAN port.
    Encrypt,
}

/// Tells a waiting person how many measurements are done, and how long the rest will take.
#[derive(Clone, Copy, Debug)]
struct Pace {
    progress: Progress,
    began: Instant,
    total: usize,
    done: usize,
}

impl Pace {
    fn new(total: usize) -> Self {
        Self { progress: Progress::start(), began: Instant::now(), total, done: 0 }
    }

    /// One more is done. The first is always told: from then on there is something to keep.
    fn next(&mut self) {
        self.done += 1;
        if self.done == 1 {
            self.progress.say(&so_far("measurements", self.done, self.total, self.began));
        } else {
            self.progress.step("measurements", self.done, self.total, self.began);
        }
    }
}

/// The middle of the values; 0 without any.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (None, _) => 0.0,
        (Some(upper), 0) => f64::midpoint(*upper, sorted.get(middle - 1).copied().unwrap_or(*upper)),
        (Some(only), _) => *only,
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).abs() < 1e-9);
    }
}
