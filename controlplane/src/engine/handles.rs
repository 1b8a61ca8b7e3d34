//! The handles that this node knows, and what the edge has to be told of them.
//!
//! XDP gives requests with a known handle a share of their own. It is told of every handle that is remembered here –
//! the one erased last included, whose use must be answered with REPLAY_DETECTED and not with a RESET.

use jvpn_session::messages::SessionId;
use std::collections::{BTreeMap, VecDeque};

/// A change to the table HANDLES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandleChange {
    /// Requests with this handle belong to a session here.
    Known([u8; 8]),
    /// They no longer do.
    Forgotten([u8; 8]),
}

/// Handle → session.
#[derive(Debug, Default)]
pub(super) struct Handles {
    sessions: BTreeMap<[u8; 8], SessionId>,
    changes: VecDeque<HandleChange>,
}

impl Handles {
    pub(super) fn get(&self, handle: &[u8; 8]) -> Option<SessionId> {
        self.sessions.get(handle).copied()
    }

    pub(super) fn contains(&self, handle: &[u8; 8]) -> bool {
        self.sessions.contains_key(handle)
    }

    pub(super) fn insert(&mut self, handle: [u8; 8], session: SessionId) {
        if self.sessions.insert(handle, session).is_none() {
            self.changes.push_back(HandleChange::Known(handle));
        }
    }

    pub(super) fn remove(&mut self, handle: &[u8; 8]) {
        if self.sessions.remove(handle).is_some() {
            self.changes.push_back(HandleChange::Forgotten(*handle));
        }
    }

    /// Tells a data plane that has just come up of all of them.
    pub(super) fn announce_all(&mut self) {
        self.changes.clear();
        self.changes.extend(self.sessions.keys().copied().map(HandleChange::Known));
    }

    pub(super) fn poll_change(&mut self) -> Option<HandleChange> {
        self.changes.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R3.1: the edge hears of every handle once, of its end once, and of all that are left when it comes back.
    #[test]
    fn every_change_is_told_once() {
        let mut handles = Handles::default();
        let (a, b, session) = ([1; 8], [2; 8], SessionId([9; 16]));
        handles.insert(a, session);
        handles.insert(a, session);
        handles.insert(b, session);
        handles.remove(&a);
        handles.remove(&a);
        let told: Vec<_> = std::iter::from_fn(|| handles.poll_change()).collect();
        assert_eq!(told, [HandleChange::Known(a), HandleChange::Known(b), HandleChange::Forgotten(a)]);
        handles.announce_all();
        assert_eq!((handles.poll_change(), handles.poll_change()), (Some(HandleChange::Known(b)), None));
        assert!(handles.contains(&b) && handles.get(&a).is_none());
    }
}
