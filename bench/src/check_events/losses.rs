//! Which gaps are explained: by a TELEMETRY_DEGRADED beside them that counts enough lost lines, or by a start of the
//! control plane in between.

use std::collections::VecDeque;

use super::findings::Violation;

/// Lines between a gap and its TELEMETRY_DEGRADED, at most: the writer's queue holds 16,384, some of which stand before
/// the lost one and some behind it.
const BESIDE_LINES: u64 = 2 * 16_384;

/// Notices that are remembered for sessions that were silent since. One comes per second at most.
const NOTICES_MAX: usize = 65_536;

/// A TELEMETRY_DEGRADED, and how many of its lines no gap has taken yet.
#[derive(Clone, Copy, Debug)]
struct Notice {
    line: u64,
    left: u64,
}

/// A gap that waits for its notice.
#[derive(Clone, Debug)]
struct Pending {
    line: u64,
    missing: u64,
    violation: Violation,
}

/// Missing lines: after which line of the whole log, seen at which one, how many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    pub(super) since: u64,
    pub(super) at: u64,
    pub(super) missing: u64,
}

/// The account.
#[derive(Debug, Default)]
pub(super) struct Losses {
    notices: VecDeque<Notice>,
    pending: VecDeque<Pending>,
    last_start: u64,
    /// Gaps explained by TELEMETRY_DEGRADED.
    pub(super) by_notice: u64,
    /// Gaps explained by NODE_STARTED.
    pub(super) by_start: u64,
}

impl Losses {
    /// A control plane started: what the one before had not written yet is lost.
    pub(super) const fn start(&mut self, line: u64) {
        self.last_start = line;
    }

    /// Whether a control plane started after this line.
    pub(super) const fn started_since(&self, line: u64) -> bool {
        self.last_start > line
    }

    /// Lines were lost.
    pub(super) fn notice(&mut self, line: u64, dropped: u64) {
        self.notices.push_back(Notice { line, left: dropped });
        if self.notices.len() > NOTICES_MAX {
            self.notices.pop_front();
        }
        for _ in 0..self.pending.len() {
            let Some(gap) = self.pending.pop_front() else { break };
            if gap.line + BESIDE_LINES >= line && self.take(gap.line, u64::MAX, gap.missing) {
                self.by_notice += 1;
            } else {
                self.pending.push_back(gap);
            }
        }
    }

    /// Explains a gap, or keeps it until a notice comes. Gives whether it is explained already.
    pub(super) fn explain(&mut self, gap: Gap, violation: Violation) -> bool {
        if self.started_since(gap.since) {
            self.by_start += 1;
            return true;
        }
        if self.take(gap.since.saturating_sub(BESIDE_LINES), gap.at, gap.missing) {
            self.by_notice += 1;
            return true;
        }
        self.pending.push_back(Pending { line: gap.at, missing: gap.missing, violation });
        false
    }

    /// Gaps for which no notice can come any more.
    pub(super) fn expire(&mut self, line: u64) -> Vec<Violation> {
        let is_over = |gap: &Pending| gap.line.saturating_add(BESIDE_LINES) < line;
        let mut over = Vec::new();
        while self.pending.front().is_some_and(is_over) {
            over.extend(self.pending.pop_front().map(|gap| gap.violation));
        }
        over
    }

    /// Takes so many lost lines from the notices in this stretch of the log: all or none.
    fn take(&mut self, first: u64, last: u64, missing: u64) -> bool {
        let in_reach = |notice: &&mut Notice| (first..=last).contains(&notice.line);
        let there: u64 = self.notices.iter_mut().filter(in_reach).map(|notice| notice.left).sum();
        if there < missing {
            return false;
        }
        let mut wanted = missing;
        for notice in self.notices.iter_mut().filter(in_reach) {
            let taken = notice.left.min(wanted);
            notice.left -= taken;
            wanted -= taken;
        }
        self.notices.retain(|notice| notice.left > 0);
        true
    }
}
