//! How long nobody forwarded when the data plane was replaced: from the moment its end was seen until every binding that
//! goes on is installed and stored again. Measured here, since this process lives through it.

use jvpn_abi::BootTime;
use jvpn_abi::tables::InstallOp;
use serde::Serialize;
use std::collections::BTreeSet;

/// One replacement of the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Nobody forwarded for so long, ms.
    pub gap_ms: u64,
    /// Of that, until the next data plane was there, ms.
    pub away_ms: u64,
    /// Bindings that went on.
    pub bindings_kept: u32,
}

/// Measures gaps.
#[derive(Clone, Debug, Default)]
pub struct GapMeter {
    lost_at: Option<BootTime>,
    up_at: Option<BootTime>,
    waiting: BTreeSet<u64>,
    kept: u32,
    /// Replacements so far.
    restarts: u64,
    last: Option<Gap>,
}

impl GapMeter {
    /// The data plane's end was seen.
    pub fn lost(&mut self, now: BootTime) {
        // A successor that dies before it forwards prolongs the gap.
        self.lost_at.get_or_insert(now);
        self.up_at = None;
        self.waiting.clear();
        self.kept = 0;
    }

    /// A data plane is there, and what it is to install was said. `Some` if that was nothing.
    pub fn up(&mut self, now: BootTime) -> Option<Gap> {
        self.lost_at?;
        self.up_at = Some(now);
        self.settle(now)
    }

    /// An entry with this operation was handed to the data plane.
    pub fn installing(&mut self, seq: u64, op: u32) {
        if self.lost_at.is_none() {
            return;
        }
        match InstallOp::from_number(op) {
            Some(InstallOp::Adopt) => self.kept = self.kept.saturating_add(1),
            Some(InstallOp::AdoptKey) => {}
            _ => return,
        }
        self.waiting.insert(seq);
    }

    /// An entry was installed and its binding stored.
    pub fn installed(&mut self, seq: u64, now: BootTime) -> Option<Gap> {
        self.waiting.remove(&seq).then(|| self.settle(now))?
    }

    /// An entry was refused: its session recovers instead.
    pub fn refused(&mut self, seq: u64, now: BootTime) -> Option<Gap> {
        self.kept = self.kept.saturating_sub(u32::from(self.waiting.contains(&seq)));
        self.installed(seq, now)
    }

    /// Replacements so far, and the last one.
    #[must_use]
    pub const fn shown(&self) -> (u64, Option<Gap>) {
        (self.restarts, self.last)
    }

    fn settle(&mut self, now: BootTime) -> Option<Gap> {
        let (lost_at, up_at) = (self.lost_at?, self.up_at?);
        if !self.waiting.is_empty() {
            return None;
        }
        let ms = |until: BootTime| until.0.saturating_sub(lost_at.0) / 1_000_000;
        let gap = Gap { gap_ms: ms(now), away_ms: ms(up_at), bindings_kept: self.kept };
        self.restarts += 1;
        self.last = Some(gap);
        self.lost_at = None;
        Some(gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> BootTime {
        BootTime::from_millis(ms)
    }

    /// R1.2: the gap ends with the last binding, not with the first, nor when the process is there.
    #[test]
    fn r1_2_the_gap_of_a_restart() {
        let mut meter = GapMeter::default();
        meter.installing(1, InstallOp::Adopt as u32);
        assert_eq!((meter.up(at(5)), meter.installed(1, at(6)), meter.shown()), (None, None, (0, None)));
        meter.lost(at(1_000));
        meter.installing(7, InstallOp::Adopt as u32);
        meter.installing(8, InstallOp::AdoptKey as u32);
        meter.installing(9, InstallOp::Adopt as u32);
        meter.installing(10, InstallOp::Install as u32);
        assert_eq!(meter.up(at(1_040)), None);
        assert_eq!(meter.installed(7, at(1_045)), None);
        assert_eq!(meter.installed(7, at(1_046)), None);
        assert_eq!(meter.installed(8, at(1_050)), None);
        let gap = Gap { gap_ms: 55, away_ms: 40, bindings_kept: 1 };
        assert_eq!(meter.refused(9, at(1_055)), Some(gap));
        assert_eq!(meter.shown(), (1, Some(gap)));
        assert_eq!(meter.installed(10, at(1_060)), None);
    }

    /// A successor that dies at once belongs to the same gap; one without bindings ends it when it is there.
    #[test]
    fn r1_2_a_gap_with_two_deaths() {
        let mut meter = GapMeter::default();
        meter.lost(at(100));
        meter.installing(1, InstallOp::Adopt as u32);
        assert_eq!(meter.up(at(150)), None);
        meter.lost(at(160));
        assert_eq!(meter.installed(1, at(170)), None);
        assert_eq!(meter.up(at(300)), Some(Gap { gap_ms: 200, away_ms: 200, bindings_kept: 0 }));
    }
}
