//! Load: when the node asks for cookies, and who goes first then. Deterministic, over the time handed in; nothing here
//! grows with the number of senders.
//!
//! A [`Share`] is one global limit of which half is reserved for senders who have shown that they receive at their
//! address. More asks than the other half pays for mean load, whether or not the asks would have been admitted: so those
//! without a cookie are sent away before they can use up what those with one need.

use crate::limits::Limit;
use jvpn_abi::{BootTime, Endpoint, steer};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Asks are counted over the last second …
const SPAN: Duration = Duration::from_secs(1);
/// … in so many parts.
const PARTS: usize = 10;
/// Load lasts this long beyond the last moment at which more was asked for than calm allows, so that a flood in bursts
/// does not turn cookies on and off.
pub const LOAD_HOLD: Duration = Duration::from_secs(5);
/// Asks per second that are never load, however small the limit is.
const ASKS_MIN: u32 = 4;

/// Whether a sender has shown that he receives at the address that his datagram came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// Anybody may have written it there.
    Unproven,
    /// He showed a cookie that was sent there.
    Proven,
}

/// Asks within the last second.
#[derive(Clone, Debug, Default)]
struct Meter {
    parts: [u32; PARTS],
    /// Number of the newest part.
    newest: u64,
}

impl Meter {
    fn ask(&mut self, now: BootTime) -> u32 {
        let part = now.0 / (SPAN.as_nanos() as u64 / PARTS as u64);
        if part > self.newest {
            let gone = usize::try_from(part - self.newest).unwrap_or(PARTS).min(PARTS);
            self.parts.rotate_right(gone);
            self.parts.iter_mut().take(gone).for_each(|old| *old = 0);
            self.newest = part;
        }
        let [newest, ..] = &mut self.parts;
        *newest = newest.saturating_add(1);
        self.parts.iter().fold(0, |sum: u32, part| sum.saturating_add(*part))
    }
}

/// What an ask did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// It is calm.
    Calm,
    /// With this ask load begins.
    Begins,
    /// It goes on.
    Lasts,
}

/// A global limit, half of it reserved.
#[derive(Clone, Debug)]
pub struct Share {
    limit: Limit,
    per_second: u32,
    meter: Meter,
    /// Load lasts until then.
    until: BootTime,
}

impl Share {
    /// A full limit of so many per second, all of which may be used at once.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let limit = Limit::new(per_second, per_second);
        Self { limit, per_second, meter: Meter::default(), until: BootTime(0) }
    }

    /// Counts a datagram that asks for what is limited here.
    pub fn ask(&mut self, now: BootTime) -> Load {
        let before = self.is_under_load(now);
        let asks = self.meter.ask(now);
        let calm = if before { self.per_second / 4 } else { self.per_second / 2 };
        if asks > calm.max(ASKS_MIN) {
            self.until = now.after(LOAD_HOLD);
        }
        match (before, self.is_under_load(now)) {
            (true, _) => Load::Lasts,
            (false, true) => Load::Begins,
            (false, false) => Load::Calm,
        }
    }

    /// Whether cookies are asked for.
    #[must_use]
    pub fn is_under_load(&self, now: BootTime) -> bool {
        now < self.until
    }

    /// Takes one. What is reserved is not there for unproven addresses.
    ///
    /// # Errors
    /// The milliseconds until there will be one.
    pub fn take(&mut self, now: BootTime, address: Address) -> Result<(), u32> {
        let reserved = match address {
            Address::Proven => 0,
            // A limit this small cannot be divided.
            Address::Unproven if self.per_second < 2 * ASKS_MIN => 0,
            Address::Unproven => self.per_second / 2,
        };
        self.limit.take_leaving(now, reserved)
    }
}

/// Prefixes that are told apart among proven addresses. They cannot be made up: each costs its owner an address that he
/// receives at.
const PREFIXES_MAX: usize = 1_024;
/// What one prefix gets per second of the reserve, and as much at once.
pub const PREFIX_PER_SECOND: u32 = 20;

/// Under load, a limit for each source prefix (/24, /56) among proven addresses, so that one sender with an address of his
/// own does not use up what is reserved for all. Many honest clients in one prefix still get what nobody else wants. When
/// it is full, the prefix that was quiet longest is forgotten.
#[derive(Clone, Debug, Default)]
pub struct PrefixLimits {
    limits: BTreeMap<[u8; 16], (Limit, u64)>,
    order: BTreeSet<(u64, [u8; 16])>,
    /// Numbers the uses.
    uses: u64,
}

impl PrefixLimits {
    /// Takes one of the prefix of `remote`.
    ///
    /// # Errors
    /// The milliseconds until there will be one.
    pub fn take(&mut self, now: BootTime, remote: Endpoint) -> Result<(), u32> {
        let prefix = steer::source_prefix(&remote);
        self.uses += 1;
        let fresh = (Limit::new(PREFIX_PER_SECOND, PREFIX_PER_SECOND), self.uses);
        let (limit, used) = self.limits.entry(prefix).or_insert(fresh);
        self.order.remove(&(*used, prefix));
        *used = self.uses;
        let taken = limit.take(now);
        self.order.insert((self.uses, prefix));
        if self.limits.len() > PREFIXES_MAX
            && let Some((_, quiet)) = self.order.pop_first()
        {
            self.limits.remove(&quiet);
        }
        taken
    }

    /// Prefixes that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.limits.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> BootTime {
        BootTime::from_millis(1_000_000 + ms)
    }

    /// R3.1, R3.3: load begins with more asks in a second than half the limit, goes on while they are more than a quarter,
    /// and ends some time after.
    #[test]
    fn r3_1_load_begins_and_ends_with_hysteresis() {
        let mut share = Share::new(100);
        for ask in 0..50 {
            assert_eq!(share.ask(at(ask * 10)), Load::Calm);
        }
        assert_eq!(share.ask(at(500)), Load::Begins);
        assert!(share.is_under_load(at(501)));
        // 40 per second: load would not begin with them, but it lasts.
        let mut now = 500;
        for _ in 0..400 {
            now += 25;
            assert_eq!(share.ask(at(now)), Load::Lasts);
        }
        let hold = u64::try_from(LOAD_HOLD.as_millis()).unwrap();
        assert!(share.is_under_load(at(now + hold - 1)) && !share.is_under_load(at(now + hold)));
        // 20 per second are calm: load ends beneath them, and does not come back.
        let mut share = Share::new(100);
        while share.ask(at(0)) != Load::Begins {}
        let (mut now, mut calm) = (0, 0);
        for _ in 0..400 {
            now += 50;
            calm += u32::from(share.ask(at(now)) == Load::Calm);
        }
        assert!(calm > 250 && !share.is_under_load(at(now)), "{calm}");
    }

    /// R3.1: unproven addresses leave half of the limit to proven ones; both together never get more than the limit; a
    /// limit that cannot be divided is not.
    #[test]
    fn r3_1_half_of_a_limit_is_reserved() {
        let mut share = Share::new(100);
        let mut taken = |address| (0..200).filter(|_| share.take(at(0), address).is_ok()).count();
        assert_eq!((taken(Address::Unproven), taken(Address::Proven)), (50, 50));
        assert_eq!(share.take(at(0), Address::Unproven), Err(510));
        assert_eq!(share.take(at(0), Address::Proven), Err(10));
        let mut small = Share::new(1);
        assert_eq!(small.take(at(0), Address::Unproven), Ok(()));
        assert_eq!(small.take(at(0), Address::Proven), Err(1_000));
        assert_eq!((0..4).map(|_| small.ask(at(0))).max_by_key(|load| *load as u8), Some(Load::Calm));
    }

    /// R3.2: one prefix has its own part; many prefixes cost bounded memory, and who is quiet longest is forgotten first.
    #[test]
    fn r3_2_prefixes_are_limited_and_bounded() {
        let mut limits = PrefixLimits::default();
        let host = |n: u32| Endpoint::v4((0x0a00_0000 | n).to_be_bytes(), 9);
        let taken = (0..100).filter(|port| limits.take(at(0), host(*port)).is_ok()).count();
        assert_eq!((taken, limits.len()), (PREFIX_PER_SECOND as usize, 1), "all of one /24");
        for n in 1..10_000 {
            assert!(limits.take(at(0), host(n << 8)).is_ok());
            // Busy, so not forgotten.
            assert!(limits.take(at(0), host(0)).is_err());
        }
        assert_eq!((limits.len(), limits.is_empty()), (PREFIXES_MAX, false));
        assert_eq!(limits.order.len(), PREFIXES_MAX);
    }
}
