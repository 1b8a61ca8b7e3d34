//! The handles that this node knows, and what the edge has to be told of them.
//!
//! XDP gives requests with a known handle a share of their own. It is told of the handles of living generations only. The
//! one erased last is remembered here, since its use must be answered with REPLAY_DETECTED and not with a RESET; but
//! whoever watched the wire has it, so at the edge it counts as unknown: replays must not use up that share.

use jvpn_session::messages::SessionId;
use std::collections::{BTreeMap, VecDeque};

/// A change to the table HANDLES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandleChange {
    /// Requests with this handle belong to a session here.
    Known([u8; 8]),
    /// They still do, but the handle stood in a request: others may have it.
    Shown([u8; 8]),
    /// They no longer do.
    Forgotten([u8; 8]),
}

/// Whether a handle names a generation that a request may be made under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Yes, and only its client knows it.
    Fresh,
    /// Yes, and whoever watches the wire has it.
    Shown,
    Erased,
}

impl Standing {
    const fn is_living(self) -> bool {
        matches!(self, Self::Fresh | Self::Shown)
    }
}

/// Handle → session.
#[derive(Debug, Default)]
pub(super) struct Handles {
    sessions: BTreeMap<[u8; 8], (SessionId, Standing)>,
    changes: VecDeque<HandleChange>,
}

impl Handles {
    pub(super) fn get(&self, handle: &[u8; 8]) -> Option<SessionId> {
        self.sessions.get(handle).map(|(session, _)| *session)
    }

    pub(super) fn contains(&self, handle: &[u8; 8]) -> bool {
        self.sessions.contains_key(handle)
    }

    pub(super) fn insert(&mut self, handle: [u8; 8], session: SessionId) {
        let before = self.sessions.get(&handle).map(|(_, standing)| *standing);
        if before.is_none_or(|standing| !standing.is_living()) {
            self.sessions.insert(handle, (session, Standing::Fresh));
            self.changes.push_back(HandleChange::Known(handle));
        }
    }

    /// A request was made with it: from now on it gives way to handles that nobody has seen.
    pub(super) fn show(&mut self, handle: [u8; 8]) {
        if let Some((_, standing @ Standing::Fresh)) = self.sessions.get_mut(&handle) {
            *standing = Standing::Shown;
            self.changes.push_back(HandleChange::Shown(handle));
        }
    }

    /// The generation is erased: whoever uses its handle from now on replays.
    pub(super) fn erase(&mut self, handle: [u8; 8], session: SessionId) {
        let before = self.sessions.insert(handle, (session, Standing::Erased));
        if before.is_some_and(|(_, standing)| standing.is_living()) {
            self.changes.push_back(HandleChange::Forgotten(handle));
        }
    }

    pub(super) fn remove(&mut self, handle: &[u8; 8]) {
        if self.sessions.remove(handle).is_some_and(|(_, standing)| standing.is_living()) {
            self.changes.push_back(HandleChange::Forgotten(*handle));
        }
    }

    /// Tells a data plane that has just come up of all that live.
    pub(super) fn announce_all(&mut self) {
        self.changes.clear();
        self.changes.extend(self.sessions.iter().filter_map(|(handle, (_, standing))| match standing {
            Standing::Fresh => Some(HandleChange::Known(*handle)),
            Standing::Shown => Some(HandleChange::Shown(*handle)),
            Standing::Erased => None,
        }));
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

    /// R3.2: a handle that was seen on the wire has no share at the edge once its generation is erased; the engine still
    /// knows whose it was.
    #[test]
    fn r3_2_an_erased_handle_is_unknown_to_the_edge_only() {
        let mut handles = Handles::default();
        let (a, b, session) = ([1; 8], [2; 8], SessionId([9; 16]));
        handles.insert(a, session);
        handles.insert(b, session);
        handles.erase(a, session);
        handles.erase(a, session);
        let told = |handles: &mut Handles| std::iter::from_fn(|| handles.poll_change()).collect::<Vec<_>>();
        let (known, forgotten) = (HandleChange::Known, HandleChange::Forgotten);
        assert_eq!(told(&mut handles), [known(a), known(b), forgotten(a)]);
        assert_eq!(handles.get(&a), Some(session));
        handles.announce_all();
        assert_eq!(told(&mut handles), [known(b)]);
        handles.remove(&a);
        assert_eq!((told(&mut handles), handles.get(&a)), (vec![], None));
        // What stood in a request is told so once, and a data plane that comes back is told so, too.
        handles.insert(b, session);
        handles.show(b);
        handles.show(b);
        handles.insert(b, session);
        assert_eq!(told(&mut handles), [HandleChange::Shown(b)]);
        handles.announce_all();
        assert_eq!(told(&mut handles), [HandleChange::Shown(b)]);
        // Adopted from JOURNAL, it was never told of.
        handles.erase(a, session);
        assert_eq!((told(&mut handles), handles.get(&a)), (vec![], Some(session)));
    }
}
