//! Holds inner packets while no path carries data, so that TCP sees delay instead of loss. Bounded in packets and time.

use jvpn_abi::BootTime;
use std::collections::VecDeque;
use std::time::Duration;

/// Most packets held: a congestion window of 1.4 MB.
pub const HOLD_PACKETS_MAX: usize = 1_024;
/// Longest time that a packet is held: beyond it TCP has sent it again, and other protocols have given up.
pub const HOLD_TIME_MAX: Duration = Duration::from_secs(3);

/// The queue. Full means that the newest is refused: what waits longest is what the peer's stack needs first.
#[derive(Debug, Default)]
pub struct Hold {
    packets: VecDeque<(BootTime, Vec<u8>)>,
    dropped: u64,
}

impl Hold {
    /// Holds a copy of `packet`. `false` if it was dropped because the queue is full.
    pub fn push(&mut self, now: BootTime, packet: &[u8]) -> bool {
        self.expire(now);
        if self.packets.len() >= HOLD_PACKETS_MAX {
            self.dropped += 1;
            return false;
        }
        self.packets.push_back((now, packet.to_vec()));
        true
    }

    /// The oldest packet that is not too old.
    pub fn pop(&mut self, now: BootTime) -> Option<Vec<u8>> {
        self.expire(now);
        self.packets.pop_front().map(|(_, packet)| packet)
    }

    /// Packets held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Packets dropped because the queue was full or they were too old.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    fn expire(&mut self, now: BootTime) {
        while self.packets.front().is_some_and(|(since, _)| now.since(*since) > HOLD_TIME_MAX) {
            self.packets.pop_front();
            self.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R3.2: bounded in packets and in time.
    #[test]
    fn bounded_in_packets_and_time() {
        let mut hold = Hold::default();
        let start = BootTime::from_millis(1_000);
        for index in 0..HOLD_PACKETS_MAX + 5 {
            assert_eq!(hold.push(start, &[index as u8]), index < HOLD_PACKETS_MAX);
        }
        assert_eq!((hold.len(), hold.dropped()), (HOLD_PACKETS_MAX, 5));
        assert_eq!(hold.pop(start.after(HOLD_TIME_MAX)), Some(vec![0]));
        assert!(hold.push(start.after(Duration::from_secs(2)), &[7]));
        assert_eq!(hold.pop(start.after(Duration::from_secs(4))), Some(vec![7]));
        assert!(hold.is_empty());
    }
}
