//! The size of inner packets on the bound path: the search's questions and answers travel as DATA, and the shell hears of
//! what was found.

use super::binding::Sending;
use super::{Agent, Event, Phase, Session, Transmit};
use crate::paths::UplinkId;
use crate::paths::mtu::{MtuSearch, Step};
use jvpn_abi::BootTime;
use jvpn_abi::wire::internal::{SizeFrame, SizeKind};

impl Session {
    /// A search over a new binding begins with what this uplink carried before.
    pub(super) fn search_mtu(&mut self, now: BootTime, uplink: UplinkId) {
        let known = self.known_mtus.get(&uplink).copied();
        self.mtu = MtuSearch::new(self.grant.mtu, known, now);
    }

    /// When the search has something to do.
    pub(super) fn mtu_event(&self) -> BootTime {
        let runs = self.binding.sending == Sending::Allowed && self.monitor.is_proven();
        if runs { self.mtu.next_event() } else { BootTime::NEVER }
    }
}

impl Agent {
    pub(super) fn drive_mtu(&mut self, now: BootTime) {
        while let Phase::Session(session) = &mut self.phase
            && session.mtu_event() <= now
        {
            let patience = session.monitor.rtt().miss_after();
            if let Step::Probe { id, size } = session.mtu.poll(now, patience) {
                let mut frame = vec![0; usize::from(size)];
                let asked = SizeFrame { kind: SizeKind::Ask, id, carried: session.mtu.carried() };
                if asked.write(&mut frame).is_some()
                    && let Ok(payload) = session.binding.seal_new(&frame)
                {
                    let uplink = session.binding.uplink;
                    self.outbox.push_back(Transmit { uplink, payload });
                }
            }
            self.tell_mtu();
        }
    }

    /// A size frame of the gateway.
    pub(super) fn handle_size(&mut self, now: BootTime, frame: SizeFrame, len: usize) {
        let Phase::Session(session) = &mut self.phase else { return };
        if frame.kind == SizeKind::Answer {
            session.mtu.answered(now, frame.id, len);
            self.tell_mtu();
            self.drive_mtu(now);
        }
    }

    /// Tells the shell, once per change.
    pub(super) fn tell_mtu(&mut self) {
        let Phase::Session(session) = &mut self.phase else { return };
        let (uplink, mtu) = (session.binding.uplink, session.mtu.carried());
        if session.mtu.is_known() {
            session.known_mtus.insert(uplink, mtu);
        }
        if std::mem::replace(&mut session.told_mtu, mtu) != mtu {
            let session = session.id;
            self.push_event(Event::MtuChanged { session, mtu, uplink });
        }
    }
}
