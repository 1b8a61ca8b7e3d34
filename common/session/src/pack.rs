//! The plain part of a session as fixed octets: what a restarted gateway process goes on from.
//!
//! A record has one length whatever it holds, is written into a caller's buffer without allocating, and is read with
//! every field checked. It never leaves its host; who keeps it seals it.

use crate::core::{Anchor, Attempts, SessionCore};
use crate::messages::SessionId;
use crate::state::{BindingPhase, State};
use crate::switches::SwitchLog;
use crate::version::StateVersion;
use jvpn_abi::{BootTime, Endpoint, Reason};
use std::time::Duration;

/// Writes fixed-length fields into a buffer, big-endian. What does not fit is noticed by [`Packer::finish`].
#[derive(Debug)]
pub struct Packer<'a> {
    rest: &'a mut [u8],
    cut: bool,
}

impl<'a> Packer<'a> {
    /// Writes from the start of `buffer`.
    #[must_use]
    pub const fn new(buffer: &'a mut [u8]) -> Self {
        Self { rest: buffer, cut: false }
    }

    /// Octets as they are.
    pub fn octets(&mut self, value: &[u8]) -> &mut Self {
        let rest = std::mem::take(&mut self.rest);
        if let Some((head, tail)) = rest.split_at_mut_checked(value.len()) {
            head.copy_from_slice(value);
            self.rest = tail;
        } else {
            self.cut = true;
        }
        self
    }

    /// One octet.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.octets(&[value])
    }

    /// A flag.
    pub fn flag(&mut self, value: bool) -> &mut Self {
        self.u8(u8::from(value))
    }

    /// Four octets.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.octets(&value.to_be_bytes())
    }

    /// Eight octets.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.octets(&value.to_be_bytes())
    }

    /// An address and port.
    pub fn endpoint(&mut self, value: Endpoint) -> &mut Self {
        self.octets(&value.addr).octets(&value.port.to_be_bytes())
    }

    /// Something that may be missing: its place is taken all the same, so that the length stays.
    pub fn option<T: Default>(
        &mut self,
        value: Option<T>,
        mut each: impl FnMut(&mut Self, T) -> &mut Self,
    ) -> &mut Self {
        self.flag(value.is_some());
        each(self, value.unwrap_or_default())
    }

    /// Fills what is left with zeros. `false`: something did not fit.
    #[must_use]
    pub fn finish(self) -> bool {
        self.rest.fill(0);
        !self.cut
    }
}

/// Takes fields that [`Packer`] wrote.
#[derive(Debug)]
pub struct Unpacker<'a>(&'a [u8]);

impl<'a> Unpacker<'a> {
    /// Reads from the start of `record`.
    #[must_use]
    pub const fn new(record: &'a [u8]) -> Self {
        Self(record)
    }

    /// Octets as they are; `None` behind the end.
    pub fn octets<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_at_checked(N)?;
        self.0 = rest;
        head.try_into().ok()
    }

    /// One octet.
    pub fn u8(&mut self) -> Option<u8> {
        self.octets::<1>().map(|[octet]| octet)
    }

    /// A flag: 0 or 1, nothing else.
    pub fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            2.. => None,
        }
    }

    /// Four octets.
    pub fn u32(&mut self) -> Option<u32> {
        self.octets().map(u32::from_be_bytes)
    }

    /// Eight octets.
    pub fn u64(&mut self) -> Option<u64> {
        self.octets().map(u64::from_be_bytes)
    }

    /// An address and port.
    pub fn endpoint(&mut self) -> Option<Endpoint> {
        Some(Endpoint { addr: self.octets()?, port: self.octets().map(u16::from_be_bytes)? })
    }

    /// Something that may be missing. The outer `None` is a malformed record.
    pub fn option<T>(&mut self, each: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        let is_here = self.flag()?;
        let value = each(self);
        if is_here { value.map(Some) } else { Some(None) }
    }
}

fn time(p: &mut Unpacker<'_>) -> Option<BootTime> {
    p.u64().map(BootTime)
}

fn anchor(p: &mut Unpacker<'_>) -> Option<Anchor> {
    Some(Anchor { epoch: p.u64()?, version: StateVersion(p.u64()?) })
}

impl SessionCore {
    /// Octets of a packed core.
    pub const PACKED_LEN: usize = 16 + 3 + 5 * 8 + 2 * 17 + 2 * 9 + 21 + 8 + SwitchLog::PACKED_LEN;

    /// Writes [`Self::PACKED_LEN`] octets.
    pub fn pack(&self, p: &mut Packer<'_>) {
        let phase = match self.phase {
            BindingPhase::None => 0,
            BindingPhase::Installing => 1,
            BindingPhase::Unconfirmed => 2,
            BindingPhase::Confirmed => 3,
        };
        p.octets(&self.id.0).u8(self.state.number()).u8(self.reason.number()).u8(phase);
        p.u64(self.version.0).u64(self.entered_at.0).u64(self.born_at.0).u64(self.epoch);
        for anchor in [self.confirmed, self.pending] {
            p.option(anchor.map(|a| (a.epoch, a.version.0)), |p, (epoch, version)| p.u64(epoch).u64(version));
        }
        p.option(self.nonce_mark, Packer::u64).option(self.lost_at.map(|at| at.0), Packer::u64);
        let attempts = self.attempts.map(|a| (a.first_at.0, a.last_at.0, a.count));
        p.option(attempts, |p, (first, last, count)| p.u64(first).u64(last).u32(count));
        p.u64(self.total_switches);
        p.u64(u64::try_from(self.lived_before.as_nanos()).unwrap_or(u64::MAX));
        self.switches.pack(p);
    }

    /// Reads what [`Self::pack`] wrote; `None` if a field is impossible. Whether state and phase fit each other is for
    /// [`Self::broken_invariant`].
    #[must_use]
    pub fn unpack(p: &mut Unpacker<'_>) -> Option<Self> {
        Some(Self {
            id: SessionId(p.octets()?),
            state: State::from_number(p.u8()?)?,
            reason: Reason::from_number(p.u8()?)?,
            phase: match p.u8()? {
                0 => BindingPhase::None,
                1 => BindingPhase::Installing,
                2 => BindingPhase::Unconfirmed,
                3 => BindingPhase::Confirmed,
                4.. => return None,
            },
            version: StateVersion(p.u64()?),
            entered_at: time(p)?,
            born_at: time(p)?,
            epoch: p.u64()?,
            confirmed: p.option(anchor)?,
            pending: p.option(anchor)?,
            nonce_mark: p.option(Unpacker::u64)?,
            lost_at: p.option(time)?,
            attempts: p
                .option(|p| Some(Attempts { first_at: time(p)?, last_at: time(p)?, count: p.u32()? }))?,
            total_switches: p.u64()?,
            lived_before: Duration::from_nanos(p.u64()?),
            switches: SwitchLog::unpack(p)?,
        })
    }

    /// A policy that allows fewer switches than the one before counts the newest of them.
    pub fn bound_switches(&mut self, max: u32) {
        self.switches.keep_newest(max as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core() -> SessionCore {
        let at = BootTime::from_millis;
        let mut switches = SwitchLog::default();
        for n in 0..60 {
            switches.push(at(100_000 + n * 900));
        }
        SessionCore {
            id: SessionId([7; 16]),
            state: State::Recovering,
            version: StateVersion(StateVersion::first(3).0 + 9),
            reason: Reason::RecoveryRetry,
            entered_at: at(160_000),
            born_at: at(1_000),
            lived_before: Duration::from_secs(86_400 * 30),
            epoch: 44,
            phase: BindingPhase::Unconfirmed,
            confirmed: Some(Anchor { epoch: 43, version: StateVersion(5) }),
            pending: Some(Anchor { epoch: 44, version: StateVersion(9) }),
            nonce_mark: Some(u64::MAX),
            lost_at: Some(at(159_000)),
            attempts: Some(Attempts { first_at: at(1), last_at: at(2), count: 3 }),
            switches,
            total_switches: 900,
        }
    }

    fn round(core: &SessionCore) -> SessionCore {
        let mut record = [0xff; SessionCore::PACKED_LEN];
        let mut p = Packer::new(&mut record);
        core.pack(&mut p);
        assert!(p.rest.is_empty() && p.finish(), "the length is what it says");
        SessionCore::unpack(&mut Unpacker::new(&record)).unwrap()
    }

    /// R7.3: nothing that `transition` reads is lost or changed, with everything there and with nothing there.
    #[test]
    fn r7_3_a_core_survives_packing() {
        let full = core();
        assert_eq!(round(&full), full);
        let bare = SessionCore {
            confirmed: None,
            pending: None,
            nonce_mark: None,
            lost_at: None,
            attempts: None,
            switches: SwitchLog::default(),
            ..core()
        };
        assert_eq!(round(&bare), bare);
    }

    /// R1.7: a moment between two microseconds is kept as the later one: a restart frees no budget early.
    #[test]
    fn r1_7_packing_never_frees_budget_early() {
        let mut log = SwitchLog::default();
        for at in [1_000_000_001, 30_000_000_777, 59_999_999_999] {
            log.push(BootTime(at));
        }
        let full = SessionCore { switches: log.clone(), ..core() };
        let after = round(&full);
        let now = BootTime(60_000_000_000);
        for max in 1..4 {
            let (before, after) = (log.free_at(max, now), after.switches.free_at(max, now));
            assert!(after >= before && after.since(before).as_nanos() < 1_000, "{before:?} {after:?}");
        }
    }

    /// R1.8: torn and short records are refused, never guessed; a buffer that is too small is noticed.
    #[test]
    fn r1_8_impossible_records_are_refused() {
        let mut record = [0; SessionCore::PACKED_LEN];
        let mut p = Packer::new(&mut record);
        core().pack(&mut p);
        assert!(p.finish());
        for (at, octet) in [(16, 6), (17, 0), (18, 4), (51, 2), (68, 9)] {
            let mut bad = record;
            bad[at] = octet;
            assert!(SessionCore::unpack(&mut Unpacker::new(&bad)).is_none(), "octet {at}");
        }
        for len in 0..record.len() {
            assert!(SessionCore::unpack(&mut Unpacker::new(&record[..len])).is_none());
        }
        let mut short = [0; 30];
        let mut p = Packer::new(&mut short);
        core().pack(&mut p);
        assert!(!p.finish());
    }
}
