//! The `[tuning]` table of the configuration: what has a good default on every machine and a better one on some.

use jvpn_abi::tables::MAX_WORKERS;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// Frames between two batch boundaries, per port: below 8 the boundary dominates, above 512 an unbind waits too long.
pub const BATCH_BOUNDS: RangeInclusive<usize> = 8..=512;
/// Longest busy poll, µs: quiescence waits for a worker at most 100 ms.
pub const BUSY_POLL_MAX_US: u32 = 50_000;

/// The table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tuning {
    /// Receive queue of each worker, the same on both ports; empty = 0, 1, 2 …
    pub queues: Vec<u32>,
    /// How long a worker polls the driver after its last frame before it sleeps, µs; 0 = it sleeps at once.
    pub busy_poll: u32,
    /// Frames that one busy poll takes at most.
    pub busy_poll_budget: u16,
    /// Frames between two batch boundaries, per port.
    pub batch: usize,
    /// Whether UMEM lies in huge pages.
    pub huge_pages: HugePages,
    /// Where UMEM lies.
    pub numa: Numa,
    /// Whether the WAN's devices are told to spread UDP by ports.
    pub flow_hash: FlowHash,
    /// Whether the devices are told to use as many channels as there are workers.
    pub channels: Channels,
}

/// Whether the WAN's devices are told to spread UDP by ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowHash {
    /// At the start, where they do not.
    #[default]
    Set,
    /// They stay as they are.
    Leave,
}

/// Whether the devices are told to use as many channels as there are workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channels {
    /// They stay as they are.
    #[default]
    Leave,
    /// At the start.
    Set,
}

/// Whether UMEM lies in huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HugePages {
    /// If enough are free.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Or the data plane does not start.
    Require,
}

/// Where UMEM lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Numa {
    /// On the node of the worker's CPU.
    #[default]
    Auto,
    /// Wherever the kernel puts it.
    Off,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            queues: Vec::new(),
            busy_poll: 0,
            busy_poll_budget: 64,
            batch: 64,
            huge_pages: HugePages::Auto,
            numa: Numa::Auto,
            flow_hash: FlowHash::Set,
            channels: Channels::Leave,
        }
    }
}

impl Tuning {
    /// Checks every field. `workers` is 0 for "one per queue".
    ///
    /// # Errors
    /// Names the key, what it is and what it may be.
    pub fn validate(&self, workers: usize) -> Result<(), String> {
        if !self.queues.is_empty() && self.queues.len() != workers {
            return Err(format!(
                "tuning.queues names {} queues for {workers} workers; give one per worker, or none",
                self.queues.len()
            ));
        }
        let mut seen = self.queues.clone();
        seen.sort_unstable();
        seen.dedup();
        if seen.len() != self.queues.len() {
            return Err("tuning.queues names a queue twice; each worker needs its own".to_owned());
        }
        if let Some(queue) = self.queues.iter().find(|&&queue| queue as usize >= MAX_WORKERS) {
            return Err(format!("tuning.queues: {queue} must be below {MAX_WORKERS}"));
        }
        if self.busy_poll > BUSY_POLL_MAX_US {
            return Err(format!("tuning.busy_poll = {} must be 0 to {BUSY_POLL_MAX_US} µs", self.busy_poll));
        }
        if !(1..=1_024).contains(&self.busy_poll_budget) {
            return Err(format!("tuning.busy_poll_budget = {} must be 1 to 1024", self.busy_poll_budget));
        }
        if self.channels == Channels::Set && workers == 0 {
            return Err(
                "tuning.channels = \"set\" needs a number of workers: it sets as many channels".to_owned()
            );
        }
        if !BATCH_BOUNDS.contains(&self.batch) {
            return Err(format!(
                "tuning.batch = {} must be {} to {}",
                self.batch,
                BATCH_BOUNDS.start(),
                BATCH_BOUNDS.end()
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R0.5: each field wrong, once: the error names it.
    #[test]
    fn r0_5_every_tuning_field_is_checked() {
        type Edit = fn(&mut Tuning);
        let good = Tuning::default();
        good.validate(0).unwrap();
        good.validate(64).unwrap();
        let cases: [(&str, Edit); 8] = [
            ("queues", |t| t.queues = vec![0]),
            ("queues", |t| t.queues = vec![1, 1]),
            ("queues", |t| t.queues = vec![0, 64]),
            ("busy_poll", |t| t.busy_poll = 50_001),
            ("busy_poll_budget", |t| t.busy_poll_budget = 0),
            ("busy_poll_budget", |t| t.busy_poll_budget = 1_025),
            ("batch", |t| t.batch = 7),
            ("batch", |t| t.batch = 513),
        ];
        for (named, edit) in cases {
            let mut wrong = good.clone();
            edit(&mut wrong);
            let error = wrong.validate(2).expect_err(named);
            assert!(error.contains(&format!("tuning.{named}")), "{error}");
        }
        let known: Tuning =
            toml::from_str("queues = [4, 5]\nhuge_pages = \"require\"\nnuma = \"off\"").unwrap();
        known.validate(2).unwrap();
        assert!(toml::from_str::<Tuning>("huge_pages = \"maybe\"").is_err());
        assert!(toml::from_str::<Tuning>("bacth = 3").is_err());
        let channels: Tuning = toml::from_str("channels = \"set\"\nflow_hash = \"leave\"").unwrap();
        channels.validate(2).unwrap();
        assert!(channels.validate(0).unwrap_err().contains("tuning.channels"));
    }
}
