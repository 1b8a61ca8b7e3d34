//! Single questions about single sessions, for who must not ask for all of them: an outside judge after every step.

use super::Engine;
use jvpn_abi::wire::SlotId;
use jvpn_session::State;
use jvpn_session::messages::SessionId;

impl Engine {
    /// The session whose binding this slot is; `None` also for a former binding.
    #[must_use]
    pub fn owner_of(&self, slot: SlotId) -> Option<SessionId> {
        let id = *self.world.by_slot.get(&slot)?;
        let binding = self.sessions.get(&id)?.binding.as_ref()?;
        (binding.slot == slot).then_some(id)
    }

    /// The state of a session that is still remembered.
    #[must_use]
    pub fn state_of(&self, session: SessionId) -> Option<State> {
        Some(self.sessions.get(&session)?.core.state())
    }

    /// Slots in use.
    #[must_use]
    pub fn slots_in_use(&self) -> usize {
        self.world.slots.in_use()
    }
}
