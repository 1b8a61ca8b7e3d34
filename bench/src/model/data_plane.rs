//! What the data plane does: `dataplane::{worker, pipeline, slots}` on the shared tables.
//!
//! The quick worker handles a frame in one step, and is at a boundary after every one. The slow one may stop between looking at the word
//! (`pipeline::Pipeline::bound`) and the commit or the seal, for as long as it likes, and passes no batch boundary
//! meanwhile. The installer (`slots::Installer::run`) hands out at once; XDP is a filter and not modelled.

use super::mutant::Mutant;
use super::state::{Bind, Frame, Life, Link, Message, Place, QUICK, SessionNo};
use super::step::Step;

impl Step<'_> {
    /// `worker::Worker::boundary`: passes every unbind on, applies what was handed out.
    pub(super) fn boundary(&mut self, worker: u8) {
        let bit = 1 << worker;
        for slot in &mut self.world.slots {
            slot.draining &= !bit;
            if slot.handed {
                slot.applied |= bit;
            }
        }
        if let Life::Sweeping(waiting) = &mut self.world.gateway.life {
            *waiting &= !bit;
        }
    }

    /// `pipeline::Pipeline::bound`: the word is bound and this worker has the binding's keys.
    pub(super) fn is_bound(&self, worker: u8, bind: Bind) -> bool {
        let slot = &self.world.slots[usize::from(bind)];
        slot.word && slot.applied & 1 << worker != 0
    }

    /// A frame of the client reaches the quick worker.
    pub(super) fn inbound(&mut self, bind: Bind, place: Place) {
        let slot = &self.world.slots[usize::from(bind)];
        if self.is_bound(QUICK, bind) && slot.remote == place {
            self.accept(bind);
        }
    }

    /// The slow worker has checked word and endpoint of a client's frame.
    pub(super) fn take_inbound(&mut self, bind: Bind) {
        self.world.data_plane.frame = Some(Frame::Inbound(bind));
    }

    /// The slow worker has checked the word for a packet from the LAN.
    pub(super) fn take_outbound(&mut self, bind: Bind) {
        self.world.data_plane.frame = Some(Frame::Outbound(bind));
    }

    /// The slow worker goes on with its frame.
    pub(super) fn finish(&mut self) {
        match self.world.data_plane.frame.take() {
            Some(Frame::Inbound(bind)) => self.accept(bind),
            Some(Frame::Outbound(bind)) => self.seal(bind),
            None => {}
        }
    }

    /// A packet from the LAN reaches the quick worker. ROUTES is a hint: here any bound slot may be meant.
    pub(super) fn outbound(&mut self, bind: Bind) {
        self.seal(bind);
    }

    /// `pipeline::inbound`: window check, open, window commit, confirmation, answer to the probe.
    fn accept(&mut self, bind: Bind) {
        if self.world.slots[usize::from(bind)].committed {
            return;
        }
        self.forwards(bind);
        let slot = &mut self.world.slots[usize::from(bind)];
        slot.committed = true;
        slot.confirmed = true;
        self.seal(bind);
    }

    /// `pipeline::seal_into`: confirmed or its address proven, counter from CONTEXT, sealed.
    fn seal(&mut self, bind: Bind) {
        let slot = &self.world.slots[usize::from(bind)];
        if !slot.confirmed && !slot.early && !self.is(Mutant::SendUnproven) {
            return;
        }
        if !slot.committed {
            let (reached, session) = (slot.reached, usize::from(slot.session));
            if !reached {
                self.breaks("I1 (outside): something is sent to an address that is proven neither way");
            }
            if *self.world.seen.unheard[session].get_or_insert(bind) != bind {
                self.breaks("R3.2: a second binding sends unheard, and none was confirmed since the first");
            }
        }
        self.forwards(bind);
        let slot = &mut self.world.slots[usize::from(bind)];
        let counter = slot.counter;
        slot.counter += 1;
        let reused = counter < slot.sealed;
        slot.sealed = slot.sealed.max(counter + 1);
        if reused {
            self.breaks("I11: a key meets a nonce twice");
        }
        self.world.net.send(Message::Down { bind });
    }

    /// A binding accepts or sends: no earlier one may do so after a later one, or after its answer has left.
    fn forwards(&mut self, bind: Bind) {
        let slot = &self.world.slots[usize::from(bind)];
        let (session, epoch) = (usize::from(slot.session), slot.order());
        let seen = &mut self.world.seen;
        let (Some(forwarded), Some(answered)) = (seen.forwarded.get_mut(session), seen.answered.get(session))
        else {
            return self.breaks("the scope bears more sessions than are watched");
        };
        let (late, left) = (epoch < *forwarded, epoch < *answered);
        *forwarded = epoch.max(*forwarded);
        if late {
            self.breaks("I1 (workers): two bindings of a session forward in turns");
        } else if left {
            self.breaks("I1 (outside): a binding forwards after the next one's answer has left");
        }
    }

    /// The process dies: what its workers held is gone, and with it their keys.
    pub(super) fn data_plane_crash(&mut self) {
        self.world.left.data_plane_crashes -= 1;
        self.world.data_plane.running = false;
        self.world.data_plane.frame = None;
        for slot in &mut self.world.slots {
            slot.handed = false;
            slot.applied = 0;
        }
        match &mut self.world.gateway.life {
            Life::Gone => self.memory_is_gone(),
            Life::Sweeping(waiting) => *waiting = 0,
            Life::Running => {}
        }
    }

    /// A new data plane has met the control plane: `tables::Tables::clear`, quiescence, `DataPlaneUp`. CONTEXT came from
    /// the control plane, which held it meanwhile.
    pub(super) fn data_plane_start(&mut self) {
        if self.world.gateway.link == Link::Up {
            self.data_plane_lost();
        }
        self.world.data_plane.running = true;
        self.world.gateway.link = Link::Up;
        for slot in &mut self.world.slots {
            slot.word = false;
            slot.draining = 0;
        }
        for session in 0..self.world.gateway.sessions.len() as SessionNo {
            let binding = self.session_ref(session).and_then(|session| session.binding);
            match binding {
                Some(binding) if binding.keys => self.adopt(session),
                Some(_) => self.lose_binding(session),
                None => {}
            }
        }
    }

    /// `slots::adopt`: goes on with the CONTEXT that is there.
    fn adopt(&mut self, session: SessionNo) {
        let reset = self.is(Mutant::CounterReusedAfterRestart);
        let Some(binding) = self.session(session).and_then(|session| session.binding.as_mut()) else {
            return;
        };
        binding.adopting = true;
        let slot = usize::from(binding.bind);
        let slot = &mut self.world.slots[slot];
        slot.handed = true;
        if reset {
            slot.counter = 0;
        }
    }
}
