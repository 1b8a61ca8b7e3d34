//! The gateway's turns: the control plane's loop in the order of its shell, the installer, the workers, the ports.

use super::agenda::{Actor, Happening};
use super::client::whole_ms;
use super::gateway::ControlPlane;
use super::gateway::data_plane::{Did, Steered};
use super::gateway::tables::Rung;
use super::network::GATEWAY;
use super::observer::{Confirmation, Violation};
use super::{LAN_LATENCY, Simulation};
use jvpn_abi::Endpoint;
use jvpn_abi::tables::BindingWord;
use jvpn_abi::wire::{DataHeader, SlotId};
use jvpn_controlplane::engine::{AdminCommand, ContextView, Engine, TableCommand, TableEvent};
use jvpn_session::messages::SessionId;
use sha2::Digest;

/// Datagrams handled before the reports are looked at again, as the shell has it.
const DATAGRAMS_PER_TURN: usize = 64;
/// Tables up to this size are judged as a whole after each turn of the control plane.
const SLOTS_AT_ONCE: u32 = 256;
/// Of larger ones so many slots, beside those that something happened to.
const SLOTS_IN_TURN: u32 = 2;

impl Simulation {
    /// An operator's wish, which the control plane meets at its next turn.
    pub fn admin(&mut self, command: AdminCommand) {
        self.host.admin.push_back(command);
        self.wake_soon(Actor::Control);
    }

    /// One turn of the control plane's loop.
    pub(super) fn control_turn(&mut self) -> Result<(), Violation> {
        if self.host.control.is_none() {
            return Ok(());
        }
        if self.host.is_loss_unseen() {
            // What the workers confirmed before their end counts.
            self.reports()?;
            self.host.disconnect();
            self.table_event(TableEvent::DataPlaneLost)?;
        }
        let connected =
            self.host.connect(self.now).map_err(|error| self.observer.violation("simulator", error))?;
        if connected {
            self.drain()?;
            self.wake_workers();
        }
        self.reports()?;
        self.store_outcomes()?;
        self.datagrams()?;
        let now = self.now;
        let Some(control) = &mut self.host.control else { return Ok(()) };
        let (engine, view) = control.parts();
        if engine.poll_timeout().is_some_and(|due| due <= now) {
            engine.handle_timeout(now, &view);
            self.engine_calls += 1;
            self.drain()?;
        }
        self.wishes()?;
        if let Some(due) = self.host.control.as_ref().and_then(|control| control.engine.poll_timeout()) {
            if due <= now {
                return Err(self.observer.violation("I9", "a timer of the engine does not pass"));
            }
            self.agenda.wake(Actor::Control, whole_ms(due));
        }
        // A wake for what the store has done meanwhile gave way to this turn, if this turn came first.
        if let Some(at) = self.host.control.as_ref().and_then(ControlPlane::stored_at) {
            self.agenda.wake(Actor::Control, at);
        }
        self.check()
    }

    fn store_outcomes(&mut self) -> Result<(), Violation> {
        let now = self.now;
        while let Some(outcome) = self.host.control.as_mut().and_then(|control| control.stored(now)) {
            self.trace(|| format!("store: {outcome:?}"));
            let Some(control) = &mut self.host.control else { return Ok(()) };
            let (engine, view) = control.parts();
            engine.handle_store_outcome(now, outcome, &view);
            self.drain()?;
        }
        Ok(())
    }

    fn wishes(&mut self) -> Result<(), Violation> {
        while let Some(command) = self.host.admin.pop_front() {
            let now = self.now;
            let Some(control) = &mut self.host.control else { return Ok(()) };
            let (engine, view) = control.parts();
            if let Err(error) = engine.handle_admin(now, &command, &view) {
                self.trace(|| format!("{command:?}: {error}"));
            }
            self.drain()?;
        }
        Ok(())
    }

    fn reports(&mut self) -> Result<(), Violation> {
        let mut events = Vec::new();
        if let Some(writer) = self.host.control.as_mut().and_then(|control| control.writer.as_mut()) {
            writer.poll_events(&mut events);
        }
        events.into_iter().try_for_each(|event| self.table_event(event))
    }

    fn table_event(&mut self, event: TableEvent) -> Result<(), Violation> {
        self.trace(|| format!("tables report {event:?}"));
        if let TableEvent::Confirmed { slot_index, .. } = event {
            self.touched.push(slot_index);
        }
        self.engine_calls += 1;
        let now = self.now;
        let Some(control) = &mut self.host.control else { return Ok(()) };
        let (engine, view) = control.parts();
        engine.handle_table_event(now, event, &view);
        self.drain()
    }

    fn datagrams(&mut self) -> Result<(), Violation> {
        for _ in 0..DATAGRAMS_PER_TURN {
            let now = self.now;
            let Some(control) = &mut self.host.control else { return Ok(()) };
            if control.writer.is_none() {
                return Ok(());
            }
            let Some((remote, datagram)) = self.host.socket.pop_front() else { return Ok(()) };
            let (engine, view) = control.parts();
            engine.handle_datagram(now, remote, GATEWAY, &datagram, &view);
            self.engine_calls += 1;
            self.drain()?;
        }
        self.wake_soon(Actor::Control);
        Ok(())
    }

    /// Commands, then answers, then audit lines.
    fn drain(&mut self) -> Result<(), Violation> {
        loop {
            let mut refused = Vec::new();
            while let Some(command) = self.host.polled(Engine::poll_command) {
                refused.extend(self.command(command)?);
            }
            while let Some(answer) = self.host.polled(Engine::poll_transmit) {
                let connected = self.host.control.as_ref().is_some_and(|c| c.writer.is_some());
                if connected {
                    self.gateway_sends(answer.remote, answer.payload)?;
                }
            }
            // The edge is not simulated; its knowledge of handles is only kept from piling up.
            while self.host.control.as_mut().is_some_and(|c| c.engine.poll_handle_change().is_some()) {}
            while let Some(request) = self.host.polled(Engine::poll_store) {
                let known_at = self.host.store(self.now, request);
                self.agenda.wake(Actor::Control, known_at);
            }
            while let Some(line) = self.host.polled(Engine::poll_audit) {
                let text = self.encoder.encode(&line);
                self.trace(|| text.clone());
                self.audit_digest.update(text.as_bytes());
                self.audit.push(text);
                self.observer.audit(&line)?;
                let session = line.event.session.map(|(id, _)| id);
                self.touched.extend(session.and_then(|id| self.observer.newest_slot(id)));
            }
            if self.host.control.is_none() {
                self.observer.control_plane_died_in_a_step();
                self.supervise();
            }
            if refused.is_empty() {
                if let Some(control) = &mut self.host.control {
                    control.mark_journal();
                }
                return Ok(());
            }
            for event in refused {
                let now = self.now;
                let Some(control) = &mut self.host.control else { return Ok(()) };
                let (engine, view) = control.parts();
                engine.handle_table_event(now, event, &view);
            }
        }
    }

    fn command(&mut self, command: TableCommand) -> Result<Option<TableEvent>, Violation> {
        self.trace(|| format!("command {command:?}"));
        match &command {
            TableCommand::Install { entry, .. } => self.observer.installs(entry)?,
            TableCommand::Bind { slot, .. } => {
                let owner = self.owner(*slot);
                self.observer.binds(*slot, owner)?;
                self.touched.push(slot.index());
            }
            TableCommand::Journal { index, snapshot } => {
                if let Some(control) = &mut self.host.control {
                    control.record(*index, snapshot.as_deref());
                }
            }
            TableCommand::Unbind { slot, .. } => self.touched.push(slot.index()),
            TableCommand::Remove { .. }
            | TableCommand::RouteAdd { .. }
            | TableCommand::RouteRemove { .. } => {}
        }
        let Some(writer) = self.host.control.as_mut().and_then(|control| control.writer.as_mut()) else {
            return Ok(None);
        };
        let (refused, rung) = writer.carry_out(command);
        match rung {
            Rung::Nobody => {}
            Rung::Installer => self.wake_soon(Actor::Installer),
            Rung::Workers => self.wake_workers(),
        }
        Ok(refused)
    }

    fn wake_workers(&mut self) {
        for index in 0..self.host.workers() {
            self.wake_soon(Actor::Worker(index));
        }
    }

    fn gateway_sends(&mut self, remote: Endpoint, datagram: Vec<u8>) -> Result<(), Violation> {
        self.observer.gateway_sends(remote, &datagram)?;
        self.trace_datagram(remote, "down", &datagram);
        let flights = self.network.send_down(self.now, remote, datagram);
        self.take_off(flights);
        Ok(())
    }

    /// Which session the engine says has this slot bound.
    fn owner(&self, slot: SlotId) -> Option<SessionId> {
        self.host.control.as_ref()?.engine.owner_of(slot)
    }

    /// Tables against the engine's account, once the control plane is settled with its data plane: every slot in a small
    /// world; in a large one those that something happened to, and some of the others in turn.
    fn check(&mut self) -> Result<(), Violation> {
        let touched = std::mem::take(&mut self.touched);
        let Some(control) = &self.host.control else { return Ok(()) };
        let Some(writer) = control.writer.as_ref().filter(|writer| writer.is_up()) else { return Ok(()) };
        let slots = writer.bindings.slots();
        if slots <= SLOTS_AT_ONCE {
            (0..slots).try_for_each(|slot_index| self.check_slot(slot_index))?;
        } else {
            touched.into_iter().try_for_each(|slot_index| self.check_slot(slot_index))?;
            for _ in 0..SLOTS_IN_TURN {
                self.next_checked = (self.next_checked + 1) % slots;
                self.check_slot(self.next_checked)?;
            }
        }
        let engine = self.host.control.as_ref().map(|control| &control.engine);
        let knows = |id| engine.is_some_and(|engine| engine.state_of(id).is_some());
        self.observer.clocks(&knows)
    }

    /// The same for every slot, whatever the size of the world.
    pub(super) fn check_all(&mut self) -> Result<(), Violation> {
        let up = self.host.control.as_ref().and_then(|control| control.writer.as_ref());
        let Some(writer) = up.filter(|writer| writer.is_up()) else { return Ok(()) };
        (0..writer.bindings.slots()).try_for_each(|slot_index| self.check_slot(slot_index))
    }

    fn check_slot(&self, slot_index: u32) -> Result<(), Violation> {
        let Some(control) = &self.host.control else { return Ok(()) };
        let Some(writer) = &control.writer else { return Ok(()) };
        let word = writer.bindings.word(slot_index);
        let Some(slot) = SlotId::new(slot_index, word.serial()).filter(|_| word.is_bound()) else {
            return Ok(());
        };
        let confirmed = control.view().confirmed(slot_index, word);
        let confirmation = if confirmed { Confirmation::Given } else { Confirmation::Awaited };
        self.observer.bound(slot, confirmation, control.engine.owner_of(slot))
    }

    /// The installer thread's turn.
    pub(super) fn installer_turn(&mut self) {
        let handed = self.host.data_plane.as_ref().is_some_and(|data_plane| data_plane.installer_turn());
        if handed {
            self.wake_workers();
        }
    }

    /// A worker's turn.
    pub(super) fn worker_turn(&mut self, index: usize) -> Result<(), Violation> {
        let Some(data_plane) = &mut self.host.data_plane else { return Ok(()) };
        let mut did = Vec::new();
        let turn = data_plane.worker_turn(index, self.now, &mut did);
        if turn.rang {
            self.wake_soon(Actor::Control);
        }
        if turn.again {
            self.wake_soon(Actor::Worker(index));
        }
        for act in did {
            match act {
                Did::Accepted(slot) => {
                    self.used(slot)?;
                    let entry = self.host.data_plane.as_ref().and_then(|d| d.entry(slot.index()));
                    if let Some(entry) = entry {
                        self.observer.proven(entry.remote());
                    }
                }
                Did::ToLan(packet) => {
                    self.agenda.put(self.now.after(LAN_LATENCY), Happening::AtServer(packet));
                }
                Did::ToWan(remote, datagram) => {
                    if let Some(header) = DataHeader::parse(&datagram) {
                        self.used(header.slot)?;
                    }
                    self.gateway_sends(remote, datagram)?;
                }
            }
        }
        Ok(())
    }

    /// I1: a worker used a slot in this turn, so its word was bound when the turn began: nobody stores words meanwhile.
    fn used(&mut self, slot: SlotId) -> Result<(), Violation> {
        let entry = self.host.data_plane.as_ref().and_then(|data_plane| data_plane.entry(slot.index()));
        let word = BindingWord(entry.map_or(0, |entry| entry.word));
        if !word.is_bound() || word.serial() != slot.serial() {
            let what = format_args!("a frame of {slot:?} while its word is {:#x}", word.0);
            return Err(self.observer.violation("I1", what));
        }
        self.observer.used(slot)
    }

    /// A datagram reaches the WAN port.
    pub(super) fn at_gateway(&mut self, remote: Endpoint, datagram: Vec<u8>) {
        self.observer.gateway_receives(remote, &datagram);
        let now = self.now;
        let steered = match &mut self.host.data_plane {
            Some(data_plane) => data_plane.wan(now, remote, datagram),
            // Without XDP the socket's own filter keeps DATA out.
            None if DataHeader::parse(&datagram).is_some() => Steered::Dropped,
            None => Steered::Socket(datagram),
        };
        match steered {
            Steered::Worker(index) => self.wake_soon(Actor::Worker(index)),
            Steered::Socket(datagram) => {
                if self.host.receive(remote, datagram) {
                    self.wake_soon(Actor::Control);
                }
            }
            Steered::Dropped => {}
        }
    }

    /// A packet of the server reaches the LAN port.
    pub(super) fn packet_of_server(&mut self, packet: &[u8]) {
        let Some(data_plane) = &mut self.host.data_plane else { return };
        if let Steered::Worker(index) = data_plane.lan(packet) {
            self.wake_soon(Actor::Worker(index));
        }
    }
}
