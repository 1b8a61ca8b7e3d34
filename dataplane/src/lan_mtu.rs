//! What each interface of the LAN takes, as the main thread sees it and workers read it: what is larger than the link that
//! it would leave by goes back to its sender with the size that fits (RFC 1191 §4, RFC 8201).

use jvpn_abi::ports::MAX_PORTS;
use std::sync::atomic::{AtomicU16, Ordering};

/// Nothing is known: whatever the tunnel carries is handed over.
const NO_BOUND: u16 = u16::MAX;

/// MTUs, octets: written by the main thread alone, read by every worker for each packet.
#[derive(Debug)]
#[repr(align(64))]
pub struct LanMtus {
    /// By the number of the interface.
    ports: [AtomicU16; MAX_PORTS],
    least: AtomicU16,
}

impl Default for LanMtus {
    fn default() -> Self {
        Self { ports: [const { AtomicU16::new(NO_BOUND) }; MAX_PORTS], least: AtomicU16::new(NO_BOUND) }
    }
}

impl LanMtus {
    /// Notes what the kernel says of an interface; 0: it does not say. Returns what it took before and takes now.
    pub fn set(&self, port: usize, mtu: u32) -> (usize, usize) {
        let mtu = u16::try_from(mtu).ok().filter(|mtu| *mtu > 0).unwrap_or(NO_BOUND);
        let before = self.ports.get(port).map_or(NO_BOUND, |place| place.swap(mtu, Ordering::Relaxed));
        let all = self.ports.iter().map(|place| place.load(Ordering::Relaxed));
        self.least.store(all.min().unwrap_or(NO_BOUND), Ordering::Relaxed);
        (usize::from(before), usize::from(mtu))
    }

    /// The largest packet that leaves by this interface.
    #[must_use]
    #[inline]
    pub fn of(&self, port: u8) -> usize {
        let place = self.ports.get(usize::from(port));
        usize::from(place.map_or(NO_BOUND, |place| place.load(Ordering::Relaxed)))
    }

    /// The largest packet that leaves by any of them.
    #[must_use]
    #[inline]
    pub fn least(&self) -> usize {
        usize::from(self.least.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R9.2: an interface that nobody looked at, or of which the kernel says nothing, bounds nothing; the least is that of
    /// today, also after it has risen.
    #[test]
    fn r9_2_the_least_of_those_that_are_known() {
        let none = usize::from(NO_BOUND);
        let mtus = LanMtus::default();
        assert_eq!((mtus.of(0), mtus.of(u8::MAX), mtus.least()), (none, none, none));
        assert_eq!([mtus.set(0, 1_500), mtus.set(2, 1_400)], [(none, 1_500), (none, 1_400)]);
        assert_eq!((mtus.of(0), mtus.of(1), mtus.of(2), mtus.least()), (1_500, none, 1_400, 1_400));
        assert_eq!((mtus.set(2, 9_000), mtus.least()), ((1_400, 9_000), 1_500));
        assert_eq!((mtus.set(0, 0), mtus.least()), ((1_500, none), 9_000));
        assert_eq!((mtus.set(2, 1 << 20), mtus.least()), ((9_000, none), none));
        let _beyond = mtus.set(MAX_PORTS, 68);
        assert_eq!(mtus.least(), none, "there is no such interface");
    }
}
