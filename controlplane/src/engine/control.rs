//! CONTROL from clients, and DATA that should not have come this way.

use super::api::ContextView;
use super::counters::Counter;
use super::{Arrival, Engine};
use jvpn_abi::Reason;
use jvpn_abi::wire::DataHeader;
use jvpn_abi::wire::control::ControlHeader;
use jvpn_session::Event;
use jvpn_session::messages::ControlMessage;

impl Engine {
    pub(super) fn control(&mut self, at: Arrival, datagram: &[u8], view: &dyn ContextView) {
        let Some(header) = ControlHeader::parse(datagram) else {
            self.world.counters.count(Counter::ControlRefused);
            return;
        };
        let Some(id) = self.world.by_slot.get(&header.slot).copied() else {
            self.world.counters.count(Counter::ControlUnknownSlot);
            return;
        };
        if self.sessions.get(&id).is_some_and(|session| session.offers(header.slot)) {
            return self.take_over(at, id, header.slot, datagram, view);
        }
        let opened = self.with(id, |world, session| {
            let Some(binding) = session.binding.as_mut().filter(|b| b.slot == header.slot) else {
                world.counters.count(Counter::ControlUnknownSlot);
                return None;
            };
            let message = binding.open_control(datagram);
            if message.is_none() {
                world.note_abuse(at, Reason::AuthFail);
                world.counters.count(Counter::ControlRefused);
            }
            message
        });
        match opened.flatten() {
            Some(ControlMessage::Terminate { .. }) => self.happen(id, Event::PeerTerminated, at.now, view),
            Some(ControlMessage::AskTickets) => {
                self.with(id, |world, session| world.hand_out_tickets(session, at.now));
            }
            Some(ControlMessage::TakeOver { .. }) => {
                self.with(id, |world, session| world.confirm_taken(session, at));
            }
            Some(
                ControlMessage::PathHint { .. } | ControlMessage::State { .. } | ControlMessage::Tickets(_),
            ) => {
                self.world.counters.count(Counter::ControlMeaningless);
            }
            None => {}
        }
    }

    /// DATA in the kernel's socket. Of a bound slot: it should have been steered, and is counted, never opened. Else a sample
    /// by the program that chooses among plain sockets, which cannot mark it as XDP does.
    pub(super) fn stray_data(&mut self, at: Arrival, datagram: &[u8], view: &dyn ContextView) {
        let bound = DataHeader::parse(datagram)
            .and_then(|header| Some((header.slot, self.world.by_slot.get(&header.slot)?)))
            .and_then(|(slot, id)| self.sessions.get(id)?.binding.as_ref().filter(|b| b.slot == slot))
            .is_some_and(|binding| binding.remote == at.remote && binding.local == at.local);
        self.world.counters.count(if bound {
            Counter::KernelSocketBoundData
        } else {
            Counter::KernelSocketOtherData
        });
        if !bound {
            self.sample(at, datagram, view);
        }
    }
}
