//! Slots, keys and counters as they appear on the wire and in the tables: who seals what, once, and in what order.

use super::super::network::PathId;
use jvpn_abi::tables::{InstallEntry, InstallOp};
use jvpn_abi::wire::control::ControlHeader;
use jvpn_abi::wire::{DataHeader, MsgType, SlotId};
use jvpn_client::paths::UplinkId;
use jvpn_session::messages::SessionId;
use std::collections::{BTreeMap, BTreeSet};

type Verdict = Result<(), (&'static str, String)>;

/// DATA of one direction: the phase tells when the next key number begins, and with it the counters.
#[derive(Clone, Copy, Debug, Default)]
struct Sealing {
    key_number: u32,
    next: u64,
}

impl Sealing {
    /// Whether a sealed frame follows the ones before: the same key and a higher counter, or the next key.
    fn follows(&mut self, header: &DataHeader) -> bool {
        if header.key_phase != (self.key_number & 1 == 1) {
            *self = Self { key_number: self.key_number + 1, next: 0 };
        }
        let follows = header.counter >= self.next;
        self.next = header.counter + 1;
        follows
    }
}

/// One slot's life. A slot is one binding and is never used again, so neither are its keys.
#[derive(Clone, Debug, Default)]
struct Slot {
    /// Keys by number. An offered one that nobody used may be replaced.
    keys: BTreeMap<u32, ([u8; 32], [u8; 32])>,
    session: Option<SessionId>,
    /// DATA sealed by the client, by the gateway.
    up: Sealing,
    down: Sealing,
    /// Next counters of CONTROL sealed by the gateway, per incarnation.
    next_control: BTreeMap<u32, u64>,
    /// The path that its client sends over.
    path: Option<PathId>,
    /// A newer binding of its session was bound: nothing of it may be accepted or sealed.
    left: bool,
}

/// All slots.
#[derive(Debug, Default)]
pub(crate) struct Seals {
    slots: BTreeMap<SlotId, Slot>,
    keys: BTreeSet<[u8; 32]>,
    /// Slots of each session, in the order in which they were bound.
    bound: BTreeMap<SessionId, Vec<SlotId>>,
    /// The slot that each client sends under.
    sending: BTreeMap<usize, SlotId>,
    /// Slots that each client has left.
    client_left: BTreeSet<(usize, SlotId)>,
}

impl Seals {
    /// I11, R1.1: the client's counters rise, each slot has one path, and a slot that was left is not taken up again.
    pub(super) fn up(&mut self, path: PathId, datagram: &[u8]) -> Verdict {
        let Some(header) = DataHeader::parse(datagram) else { return Ok(()) };
        let slot = self.slots.entry(header.slot).or_default();
        if !slot.up.follows(&header) {
            return Err(("I11", format!("client {path:?} seals {header:?} again")));
        }
        if *slot.path.get_or_insert(path) != path {
            return Err(("R1.1", format!("{:?} over {path:?} and {:?}", header.slot, slot.path)));
        }
        if self.client_left.contains(&(path.client, header.slot)) {
            return Err(("R1.1", format!("client {path:?} sends under {:?} after it left it", header.slot)));
        }
        let before = self.sending.insert(path.client, header.slot);
        if let Some(before) = before.filter(|before| *before != header.slot) {
            self.client_left.insert((path.client, before));
        }
        Ok(())
    }

    /// I11: no counter is sealed twice under one key, by whichever process.
    pub(super) fn down(&mut self, datagram: &[u8]) -> Verdict {
        let kind = datagram.first().copied().and_then(MsgType::from_octet);
        if kind == Some(MsgType::Data) {
            let Some(header) = DataHeader::parse(datagram) else {
                return Err(("R5.1", "the gateway sends malformed DATA".to_owned()));
            };
            let slot = self.slots.entry(header.slot).or_default();
            if !slot.down.follows(&header) {
                return Err(("I11", format!("the gateway seals {header:?} again")));
            }
            if slot.down.key_number > slot.up.key_number {
                return Err(("R5.2", format!("the gateway seals {header:?} before its client did")));
            }
        } else if kind == Some(MsgType::Control) {
            let Some(header) = ControlHeader::parse(datagram) else {
                return Err(("R5.1", "the gateway sends malformed CONTROL".to_owned()));
            };
            let slot = self.slots.entry(header.slot).or_default();
            let next = slot.next_control.entry(header.incarnation).or_default();
            if header.counter < *next {
                return Err(("I11", format!("the gateway seals {header:?} again")));
            }
            *next = header.counter + 1;
        }
        Ok(())
    }

    /// I11: slots and keys are new with each binding, and an adopted one has those it had.
    pub(super) fn installs(&mut self, entry: &InstallEntry) -> Verdict {
        let id = SlotId(entry.slot);
        let slot = self.slots.entry(id).or_default();
        let keys = (entry.open_key, entry.seal_key);
        let number = entry.key_number;
        let wrong = |what: &str| Err(("I11", format!("key {number} of {id:?} {what}")));
        match InstallOp::from_number(entry.op) {
            Some(InstallOp::Adopt | InstallOp::AdoptKey) if slot.keys.get(&number) == Some(&keys) => {
                return Ok(());
            }
            Some(InstallOp::Adopt | InstallOp::AdoptKey) => return wrong("is adopted with other keys"),
            Some(InstallOp::DropKey | InstallOp::Remove) => return Ok(()),
            Some(InstallOp::Install) if !slot.keys.is_empty() => return wrong("is a second binding"),
            Some(InstallOp::AddKey) if number != slot.down.key_number + 1 => return wrong("does not follow"),
            Some(InstallOp::Install | InstallOp::AddKey) => {}
            None => return wrong("comes with an unknown operation"),
        }
        slot.keys.insert(number, keys);
        if !self.keys.insert(keys.0) || !self.keys.insert(keys.1) {
            return Err(("I11", format!("{id:?} has a key that was there before")));
        }
        Ok(())
    }

    /// I1: from here on nothing of an earlier slot of this session may be accepted or sealed.
    pub(super) fn binds(&mut self, id: SlotId, session: Option<SessionId>) -> Verdict {
        let slot = self.slots.entry(id).or_default();
        if slot.left {
            return Err(("I1", format!("{id:?} is bound again after a newer one")));
        }
        let Some(session) = session else { return Ok(()) };
        slot.session = Some(session);
        let bound = self.bound.entry(session).or_default();
        if bound.last() != Some(&id) {
            for earlier in bound.iter() {
                if let Some(earlier) = self.slots.get_mut(earlier) {
                    earlier.left = true;
                }
            }
            bound.push(id);
        }
        Ok(())
    }

    /// I1, outside view: a worker accepted or sealed a frame under this slot.
    pub(super) fn used(&self, id: SlotId) -> Verdict {
        match self.slots.get(&id) {
            Some(slot) if slot.left => {
                Err(("I1", format!("a frame of {id:?} after a newer binding of {:?}", slot.session)))
            }
            Some(_) => Ok(()),
            None => Err(("I1", format!("a frame of {id:?}, which was never installed"))),
        }
    }

    pub(super) fn newest_slot(&self, session: SessionId) -> Option<SlotId> {
        self.bound.get(&session)?.last().copied()
    }

    pub(super) fn uplink_of(&self, client: usize) -> Option<UplinkId> {
        let slot = self.sending.get(&client)?;
        self.slots.get(slot)?.path.map(|path| path.uplink)
    }
}
