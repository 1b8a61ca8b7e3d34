//! The limits that the control plane keeps itself, behind the edge limit in XDP. Deterministic token buckets
//! over the time handed in; what they refuse is counted, and nothing they protect is reached.

use crate::load::{PrefixLimits, Share};
use jvpn_abi::BootTime;
use jvpn_abi::limit::{Bucket, Rate};
use jvpn_session::Policy;

/// A token bucket with its rate.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    bucket: Bucket,
    rate: Rate,
}

impl Limit {
    /// A full bucket.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self { bucket: Bucket::default(), rate: Rate { per_second, burst } }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// The milliseconds until there will be one.
    pub fn take(&mut self, now: BootTime) -> Result<(), u32> {
        self.take_leaving(now, 0)
    }

    /// Takes a token if there is one beyond those that are reserved for others.
    ///
    /// # Errors
    /// The milliseconds until there will be one.
    pub fn take_leaving(&mut self, now: BootTime, reserved: u32) -> Result<(), u32> {
        if self.bucket.take_leaving(now, self.rate, reserved) {
            Ok(())
        } else {
            Err(self.bucket.retry_after_leaving_ms(self.rate, reserved).max(1))
        }
    }
}

/// The same with a rate that is no matter of policy: a session has it for 16 octets.
#[derive(Clone, Copy, Debug, Default)]
pub struct FixedLimit<const PER_SECOND: u32, const BURST: u32>(Bucket);

impl<const PER_SECOND: u32, const BURST: u32> FixedLimit<PER_SECOND, BURST> {
    /// Takes a token.
    ///
    /// # Errors
    /// The milliseconds until there will be one.
    pub fn take(&mut self, now: BootTime) -> Result<(), u32> {
        let rate = Rate { per_second: PER_SECOND, burst: BURST };
        if self.0.take_leaving(now, rate, 0) {
            Ok(())
        } else {
            Err(self.0.retry_after_leaving_ms(rate, 0).max(1))
        }
    }
}

/// Handshakes per second of the whole node: two Diffie-Hellman operations and one durable write each.
pub const HANDSHAKES_PER_SECOND: u32 = 500;
/// Takeover requests per second of the whole node: four Diffie-Hellman operations each, and no durable write.
pub const TAKEOVERS_PER_SECOND: u32 = 1_000;
/// RESETs per second for slots: small answers to datagrams that nobody authenticated.
pub const SLOT_RESETS_PER_SECOND: u32 = 200;
/// RESETs per second for handles: by one of them a client learns that it has to take its session over, so there are as many
/// as takeovers.
pub const HANDLE_RESETS_PER_SECOND: u32 = TAKEOVERS_PER_SECOND;
/// RETRYs per second to requests of one kind: two MACs each. Above what the edge lets through of a kind by default.
pub const RETRIES_PER_SECOND: u32 = 10_000;
/// Unbound samples per second that are tried with keys: one AEAD operation or two each.
pub const SAMPLES_PER_SECOND: u32 = 5_000;
/// Path hints per second of one session.
pub const HINTS_PER_SECOND: u32 = 5;

/// Path probes per second of the whole node: three MACs and a derivation or two each.
pub const PATH_PROBES_PER_SECOND: u32 = 20_000;
/// Batches of tickets per second of one session: 32 probes, more than a client with suspicion and four candidates
/// sends for longer than a moment …
pub const TICKETS_PER_SECOND: u32 = 2;
/// … and how many at once: what it holds, from nothing.
pub const TICKETS_BURST: u32 = 4;

/// The node's limits.
#[derive(Clone, Debug)]
pub struct NodeLimits {
    /// Reattach requests whose MAC is right (check 7).
    pub reattach: Share,
    /// Handshakes whose MAC is right.
    pub handshakes: Share,
    /// Handshakes that showed a cookie, by source prefix.
    pub handshake_prefixes: PrefixLimits,
    /// The same for requests with handles that are not known.
    pub reset_prefixes: PrefixLimits,
    /// The same for takeover requests.
    pub takeover_prefixes: PrefixLimits,
    /// RETRYs to handshakes.
    pub handshake_retries: Limit,
    /// RETRYs to requests for a reattach.
    pub reattach_retries: Limit,
    /// RETRYs to requests with handles that are not known, and for a takeover.
    pub stranger_retries: Limit,
    /// Takeover requests whose MAC is right.
    pub takeovers: Share,
    /// RESETs for slots.
    pub slot_resets: Limit,
    /// RESETs for handles.
    pub handle_resets: Share,
    /// Unbound samples.
    pub samples: Limit,
    /// Path probes.
    pub path_probes: Limit,
}

impl NodeLimits {
    /// From policy.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        Self {
            reattach: Share::new(policy.reattach_global_per_second),
            handshakes: Share::new(HANDSHAKES_PER_SECOND),
            handshake_prefixes: PrefixLimits::default(),
            reset_prefixes: PrefixLimits::default(),
            takeover_prefixes: PrefixLimits::default(),
            handshake_retries: Limit::new(RETRIES_PER_SECOND, RETRIES_PER_SECOND),
            reattach_retries: Limit::new(RETRIES_PER_SECOND, RETRIES_PER_SECOND),
            stranger_retries: Limit::new(RETRIES_PER_SECOND, RETRIES_PER_SECOND),
            takeovers: Share::new(TAKEOVERS_PER_SECOND),
            slot_resets: Limit::new(SLOT_RESETS_PER_SECOND, SLOT_RESETS_PER_SECOND),
            handle_resets: Share::new(HANDLE_RESETS_PER_SECOND),
            samples: Limit::new(SAMPLES_PER_SECOND, SAMPLES_PER_SECOND),
            path_probes: Limit::new(PATH_PROBES_PER_SECOND, PATH_PROBES_PER_SECOND),
        }
    }
}

/// One session's limits.
#[derive(Clone, Debug)]
pub struct SessionLimits {
    /// Reattach requests whose MAC is right (check 6).
    pub reattach: Limit,
    /// Path hints.
    pub hints: FixedLimit<HINTS_PER_SECOND, HINTS_PER_SECOND>,
    /// Batches of tickets for path probes.
    pub tickets: FixedLimit<TICKETS_PER_SECOND, TICKETS_BURST>,
}

impl SessionLimits {
    /// From policy.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        Self {
            reattach: Limit::new(policy.reattach_per_second, policy.reattach_burst),
            hints: FixedLimit::default(),
            tickets: FixedLimit::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R3.1: after the burst a limit says when to come back, and keeps its word.
    #[test]
    fn r3_1_a_limit_says_when_to_come_back() {
        let mut limit = Limit::new(5, 2);
        let now = BootTime::from_millis(1_000);
        assert_eq!((limit.take(now), limit.take(now), limit.take(now)), (Ok(()), Ok(()), Err(200)));
        assert_eq!(limit.take(BootTime::from_millis(1_199)), Err(1));
        assert_eq!(limit.take(BootTime::from_millis(1_200)), Ok(()));
    }
}
