//! What a start finds in its memory and cannot read: records of the store, one by one, and a JOURNAL as a whole. What
//! becomes of it is decided here, counted, and on record (`docs/decisions/0027-unreadable-records.md`).

use super::Engine;
use super::counters::Counter;
use crate::audit::{AuditKind, Decision, STORE_RECORDS_MAX, Violation};
use crate::journal::Unusable;
use crate::store::{Unreadable, UnreadableRecord};
use jvpn_abi::{BootTime, Reason};
use jvpn_session::messages::SessionId;
use std::collections::BTreeMap;

impl Engine {
    /// Decides about records of the store that cannot be read. Call it after [`Self::adopt`], if there was a JOURNAL: the
    /// record of a session that lives stays, and goes when the session ends.
    pub fn judge_unreadable(&mut self, now: BootTime, records: Vec<UnreadableRecord>) {
        let mut decided: BTreeMap<(Unreadable, Decision), Vec<SessionId>> = BTreeMap::new();
        for UnreadableRecord { id, version, why } in records {
            let lives = self.note_stored(id, version);
            let decision = match why {
                Unreadable::Damaged if !lives => Decision::Removed,
                Unreadable::Damaged | Unreadable::NewerLayout | Unreadable::OtherKey => Decision::Kept,
            };
            self.world.counters.count(match decision {
                Decision::Kept => Counter::StoreRecordsKept,
                Decision::Removed => Counter::StoreRecordsRemoved,
            });
            match (decision, why) {
                (Decision::Removed, _) => self.forget_stored(id, version),
                (Decision::Kept, Unreadable::NewerLayout) if !lives => {
                    if let Some(store) = &mut self.world.store {
                        store.loads.newer.insert(id);
                    }
                }
                (Decision::Kept, _) => {}
            }
            decided.entry((why, decision)).or_default().push(id);
        }
        for ((problem, decision), sessions) in decided {
            tell(problem, decision, sessions.len());
            for sessions in sessions.chunks(STORE_RECORDS_MAX) {
                let kind = AuditKind::StoreRecords { problem, decision, sessions: sessions.to_vec() };
                self.world.report_node(now, Some(reason_of(problem)), kind);
            }
        }
    }

    /// JOURNAL as a whole is no memory to go on from: it is made anew, and what the store holds is loaded.
    pub fn journal_is_unusable(&mut self, now: BootTime, why: &Unusable) {
        self.world.counters.count(Counter::JournalDamaged);
        let reason = match why {
            Unusable::NoHead => Reason::SecurityViolation,
            Unusable::Version(_) => Reason::VersionUnsupported,
            Unusable::OtherKey => Reason::AuthFail,
        };
        self.world.report_node(
            now,
            Some(reason),
            AuditKind::Security { violation: Violation::JournalDamaged },
        );
    }
}

const fn reason_of(problem: Unreadable) -> Reason {
    match problem {
        Unreadable::NewerLayout => Reason::VersionUnsupported,
        Unreadable::OtherKey => Reason::AuthFail,
        Unreadable::Damaged => Reason::SecurityViolation,
    }
}

fn tell(problem: Unreadable, decision: Decision, records: usize) {
    match (problem, decision) {
        (Unreadable::NewerLayout, _) => tracing::error!(
            records,
            "a newer release wrote records of the session store; they are kept, and their clients wait: start that release \
             again, or stop the gateway and remove sessions.redb, which ends those sessions"
        ),
        (Unreadable::OtherKey, _) => tracing::error!(
            records,
            "records of the session store are sealed under another node key; they are kept and not loaded: restore the node \
             file they belong to, or stop the gateway and remove sessions.redb"
        ),
        (Unreadable::Damaged, Decision::Removed) => {
            tracing::error!(
                records,
                "records of the session store are damaged and are removed; check the disk"
            );
        }
        (Unreadable::Damaged, Decision::Kept) => tracing::error!(
            records,
            "records of the session store are damaged; their sessions go on, but not if both processes end; check the disk"
        ),
    }
}
