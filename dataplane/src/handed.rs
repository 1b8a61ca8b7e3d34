//! Memory that a control plane hands over because it outlived a data plane. It comes from another process: it is taken for
//! what it is, not for what is said of it.

use jvpn_abi::tables::{JournalRecord, context_octets};
use jvpn_tables::TableError;
use jvpn_tables::mapping::{holds, is_sealed, shared_memory};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Most elements of a JOURNAL: what is asked for beyond that is a mistake. Its pages cost nothing until they are used.
const JOURNAL_RECORDS_MAX: u32 = 1 << 20;

/// CONTEXT: that of an earlier data plane if it fits, else a fresh one. And whether it is the one handed over.
pub(crate) fn context(
    handed: Option<OwnedFd>,
    theirs: u32,
    ours: u32,
) -> Result<(OwnedFd, bool), TableError> {
    if let Some(fd) = handed {
        match unfit(fd.as_fd(), theirs, ours) {
            None => return Ok((fd, true)),
            Some(why) => tracing::warn!(
                theirs,
                ours,
                why,
                "the CONTEXT of the data plane before cannot be used: starting anew, every session reattaches"
            ),
        }
    }
    Ok((shared_memory("CONTEXT", c"jvpn-context", context_octets(ours))?, false))
}

/// Why a CONTEXT cannot go on.
fn unfit(fd: BorrowedFd<'_>, theirs: u32, ours: u32) -> Option<&'static str> {
    if theirs != ours {
        return Some("it is of another number of slots");
    }
    if !is_sealed(fd) {
        return Some("it is not sealed against shrinking");
    }
    (!holds(fd, context_octets(ours))).then_some("it is shorter than its slots need")
}

/// JOURNAL as the data plane holds it: a descriptor to hand on. What is in it is sealed and none of its business.
pub(crate) struct Journal {
    pub(crate) fd: OwnedFd,
    /// Elements.
    pub(crate) records: u32,
    /// Whether a control plane may have written to it.
    pub(crate) kept: bool,
}

/// Whose JOURNAL the control plane writes that it is handed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writes {
    /// This one: it has brought none.
    Ours,
    /// The one that it has brought.
    ItsOwn,
}

impl Journal {
    /// The one that the control plane brought, or a fresh one of the size it wishes.
    pub(crate) fn take(handed: Option<OwnedFd>, records: u32) -> Result<Self, TableError> {
        let records = records.clamp(1, JOURNAL_RECORDS_MAX);
        let octets = records as usize * size_of::<JournalRecord>();
        match handed {
            Some(fd) if is_sealed(fd.as_fd()) && holds(fd.as_fd(), octets) => {
                return Ok(Self { fd, records, kept: true });
            }
            Some(_) => tracing::warn!(
                records,
                "the JOURNAL that the control plane brought is not sealed against shrinking, or shorter than it says: the \
                 next control plane gets an empty one and goes on from its store"
            ),
            None => {}
        }
        Ok(Self { fd: shared_memory("JOURNAL", c"jvpn-journal", octets)?, records, kept: false })
    }

    /// A control plane has it now. Whoever writes to its own does not write to this one, unless it is the same.
    pub(crate) const fn handed_out(&mut self, writes: Writes) {
        self.kept |= matches!(writes, Writes::Ours);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jvpn_tables::mapping::is_same_memory;

    const SLOTS: u32 = 64;

    fn memory(octets: usize) -> OwnedFd {
        shared_memory("CONTEXT", c"jvpn-context", octets).unwrap()
    }

    /// R7.3: a CONTEXT that fits goes on; one that is too short, whatever is said of it, or of another size, is replaced by
    /// one that can be mapped, instead of being refused at every greeting.
    #[test]
    fn r7_3_a_context_that_does_not_fit_is_replaced() {
        let whole = context_octets(SLOTS);
        let handed = memory(whole);
        let (taken, kept) = context(Some(handed.try_clone().unwrap()), SLOTS, SLOTS).unwrap();
        assert!(kept && is_same_memory(taken.as_fd(), handed.as_fd()));
        let page = 4_096;
        for (handed, theirs) in [
            (Some(memory(whole - page)), SLOTS),
            (Some(memory(page)), SLOTS),
            (Some(memory(whole)), SLOTS * 2),
            (Some(std::fs::File::open("/dev/null").unwrap().into()), SLOTS),
            (None, 0),
        ] {
            let (taken, kept) = context(handed, theirs, SLOTS).unwrap();
            assert!(!kept && holds(taken.as_fd(), whole));
        }
    }

    /// R7.3: the same for JOURNAL, which the next control plane maps.
    #[test]
    fn r7_3_a_journal_that_is_too_short_is_replaced() {
        let octets = |records: usize| records * size_of::<JournalRecord>();
        assert!(Journal::take(Some(memory(octets(8))), 8).unwrap().kept);
        let fresh = Journal::take(Some(memory(octets(7))), 8).unwrap();
        assert!(!fresh.kept && holds(fresh.fd.as_fd(), octets(8)));
    }

    /// R7.3: the next control plane goes on from a JOURNAL that somebody wrote to, and is not told that of one that nobody
    /// did: whoever brought one that did not fit goes on writing to that.
    #[test]
    fn r7_3_a_journal_that_nobody_writes_to_is_not_kept() {
        let octets = 8 * size_of::<JournalRecord>();
        for (brought, writes, kept) in [
            (None, Writes::Ours, true),
            (Some(memory(octets)), Writes::ItsOwn, true),
            (Some(memory(octets - 1)), Writes::ItsOwn, false),
        ] {
            let mut journal = Journal::take(brought, 8).unwrap();
            journal.handed_out(writes);
            assert_eq!(journal.kept, kept, "{writes:?}");
        }
    }
}
