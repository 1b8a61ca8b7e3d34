//! A data plane as the engine sees it: CONTEXT, the answers to its commands in any order, and workers that open and seal.

use jvpn_abi::tables::PROBE_SAMPLES;
use jvpn_abi::tables::{BindingWord, InstallEntry, InstallOp};
use jvpn_abi::wire::internal::{ProbeFrame, ProbeKind};
use jvpn_abi::wire::{DATA_HEADER_LEN, DataHeader, SlotId, Suite, TAG_LEN};
use jvpn_abi::{BootTime, Endpoint};
use jvpn_controlplane::engine::{ContextView, Probed, Snapshot, TableCommand, TableEvent, Traffic};
use jvpn_crypto::window::OwnWindow;
use jvpn_crypto::{OpenKey, SealKey};
use jvpn_session::quality::Counts;
use std::collections::{BTreeMap, VecDeque};

/// How it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Answers {
    #[default]
    AtOnce,
    /// Later, when the input says so.
    Held,
    Refused,
    Never,
}

impl Answers {
    pub(crate) const fn from_number(number: u8) -> Self {
        match number % 4 {
            0 => Self::AtOnce,
            1 => Self::Held,
            2 => Self::Refused,
            _ => Self::Never,
        }
    }
}

/// One key set of a slot.
struct Keys {
    number: u32,
    open: OpenKey,
    seal: SealKey,
    window: OwnWindow,
    sent: u64,
}

/// A slot with its keys and CONTEXT.
struct Slot {
    id: SlotId,
    word: BindingWord,
    keys: Vec<Keys>,
    sending: u32,
    confirmed: bool,
    heard: Option<BootTime>,
    interval_ms: Option<u32>,
}

/// What an input makes of CONTEXT, which the engine must bound.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lies {
    pub(crate) heard: Option<BootTime>,
    pub(crate) interval_ms: Option<u32>,
    pub(crate) sealed: u64,
    pub(crate) failed_opens: u64,
    pub(crate) highest: Option<u64>,
}

/// A frame that a worker took.
pub(crate) struct Taken {
    pub(crate) events: Vec<TableEvent>,
    pub(crate) answer: Option<Vec<u8>>,
}

/// The data plane.
#[derive(Default)]
pub(crate) struct Plane {
    pub(crate) quiesce: Answers,
    pub(crate) install: Answers,
    pub(crate) held: VecDeque<TableEvent>,
    pub(crate) bound: BTreeMap<u32, (BindingWord, Endpoint)>,
    pub(crate) journal: BTreeMap<u32, Box<Snapshot>>,
    pub(crate) lies: BTreeMap<u32, Lies>,
    slots: BTreeMap<u32, Slot>,
    last_unbind: u64,
    last_install: u64,
}

impl Plane {
    /// Carries a command out. What must never be asked fails here.
    pub(crate) fn apply(&mut self, command: TableCommand) -> Option<TableEvent> {
        match command {
            TableCommand::Journal { index, snapshot } => {
                match snapshot {
                    Some(snapshot) => self.journal.insert(index, snapshot),
                    None => self.journal.remove(&index),
                };
                None
            }
            TableCommand::Unbind { slot, seq } => {
                assert!(seq > self.last_unbind, "unbind sequences rise");
                self.last_unbind = seq;
                self.bound.remove(&slot.index());
                // A quiescence is reported, late or never; it is not refused.
                let quiesce = if self.quiesce == Answers::Refused { Answers::Never } else { self.quiesce };
                self.answer(quiesce, TableEvent::Quiesced { seq })
            }
            TableCommand::Install { seq, entry } => {
                self.count(seq);
                if self.install == Answers::Refused {
                    return Some(TableEvent::InstallRefused { seq });
                }
                self.take(&entry);
                self.answer(self.install, TableEvent::Installed { seq })
            }
            TableCommand::Bind { slot, word, remote, .. } => {
                self.bound.insert(slot.index(), (word, remote));
                None
            }
            TableCommand::Remove { seq, slot, .. } => {
                self.count(seq);
                assert!(!self.bound.contains_key(&slot.index()), "removed while bound");
                self.slots.remove(&slot.index());
                Some(TableEvent::Installed { seq })
            }
            TableCommand::RouteAdd { .. } | TableCommand::RouteRemove { .. } => None,
        }
    }

    fn count(&mut self, seq: u64) {
        assert!(seq > self.last_install, "install sequences rise");
        self.last_install = seq;
    }

    fn answer(&mut self, how: Answers, event: TableEvent) -> Option<TableEvent> {
        match how {
            Answers::AtOnce => Some(event),
            Answers::Held => {
                self.held.push_back(event);
                None
            }
            Answers::Refused | Answers::Never => None,
        }
    }

    fn take(&mut self, entry: &InstallEntry) {
        let id = SlotId(entry.slot);
        let keys = || {
            let suite = Suite::from_number(entry.suite).unwrap();
            Keys {
                number: entry.key_number,
                open: OpenKey::new(suite, &entry.open_key),
                seal: SealKey::new(suite, &entry.seal_key),
                window: OwnWindow::new(),
                sent: 0,
            }
        };
        match InstallOp::from_number(entry.op).unwrap() {
            op @ (InstallOp::Install | InstallOp::Adopt) => {
                let known = self.slots.remove(&id.index()).filter(|known| known.id == id);
                assert!(op == InstallOp::Adopt || known.is_none(), "I11: {id:?} was used before");
                let kept = known.filter(|known| known.keys.iter().any(|k| k.number == entry.key_number));
                let slot = kept.unwrap_or_else(|| Slot {
                    id,
                    word: BindingWord(entry.word),
                    keys: vec![keys()],
                    sending: entry.key_number,
                    confirmed: false,
                    heard: None,
                    interval_ms: None,
                });
                self.slots.insert(id.index(), slot);
            }
            op @ (InstallOp::AddKey | InstallOp::AdoptKey) => {
                let Some(slot) = self.slots.get_mut(&id.index()) else { return };
                let is_there = slot.keys.iter().any(|k| k.number == entry.key_number);
                if op == InstallOp::AddKey || !is_there {
                    slot.keys.retain(|key| key.number == slot.sending);
                    slot.keys.push(keys());
                }
            }
            InstallOp::DropKey => {
                if let Some(slot) = self.slots.get_mut(&id.index()) {
                    slot.keys.retain(|key| key.number != entry.key_number || key.number == slot.sending);
                }
            }
            InstallOp::Remove => drop(self.slots.remove(&id.index())),
        }
    }

    /// A sequence that was asked for, or nearly.
    pub(crate) const fn near(&self, number: u8) -> u64 {
        let last = if number & 1 == 0 { self.last_unbind } else { self.last_install };
        last.wrapping_add((number >> 1) as u64 % 8).wrapping_sub(4)
    }

    /// A frame from `from`. `None`: no binding takes it.
    pub(crate) fn data(&mut self, now: BootTime, from: Endpoint, datagram: &[u8]) -> Option<Taken> {
        let header = DataHeader::parse(datagram)?;
        let (word, remote) = *self.bound.get(&header.slot.index())?;
        let slot = self.slots.get_mut(&header.slot.index())?;
        if word.serial() != header.slot.serial() || remote != from || slot.id != header.slot {
            return None;
        }
        let nothing = || Some(Taken { events: Vec::new(), answer: None });
        let Some(keys) = slot.keys.iter_mut().find(|keys| (keys.number & 1 == 1) == header.key_phase) else {
            return nothing();
        };
        if keys.window.check(header.counter).is_err() {
            return nothing();
        }
        let (aad, sealed) = datagram.split_at(DATA_HEADER_LEN);
        let mut plain = vec![0; sealed.len() - TAG_LEN];
        let Ok(opened) = keys.open.open(header.counter, aad, sealed, &mut plain) else { return nothing() };
        keys.window.commit(opened).unwrap();
        let number = keys.number;
        let news = !slot.confirmed || number > slot.sending;
        (slot.confirmed, slot.heard, slot.sending) = (true, Some(now), slot.sending.max(number));
        let event = TableEvent::Confirmed { slot_index: header.slot.index(), word };
        let answer = ProbeFrame::parse(&plain).and_then(|probe| slot.echo(&probe));
        Some(Taken { events: if news { vec![event] } else { Vec::new() }, answer })
    }

    /// The process died; memory that it shared is still there.
    pub(crate) fn restart(&mut self) {
        self.bound.clear();
        self.held.clear();
    }

    /// The memory is gone too.
    pub(crate) fn forget(&mut self) {
        self.restart();
        self.slots.clear();
        self.lies.clear();
    }
}

impl Slot {
    fn echo(&mut self, probe: &ProbeFrame) -> Option<Vec<u8>> {
        self.interval_ms = Some(probe.next_interval_ms);
        if probe.kind != ProbeKind::Probe {
            return None;
        }
        let sending = self.sending;
        let keys = self.keys.iter_mut().find(|keys| keys.number == sending)?;
        let plain =
            ProbeFrame { kind: ProbeKind::ProbeAck, received: keys.window.received(), ..*probe }.encode();
        let counter = keys.sent;
        keys.sent += 1;
        let header =
            DataHeader { key_phase: keys.number & 1 == 1, shard: 0, slot: self.id, counter }.encode();
        let mut datagram = [&header[..], &plain, &[0; TAG_LEN]].concat();
        keys.seal.seal(counter, &header, &plain, datagram.get_mut(DATA_HEADER_LEN..)?).ok()?;
        Some(datagram)
    }
}

impl ContextView for Plane {
    fn last_heard(&self, slot_index: u32) -> Option<BootTime> {
        let lie = self.lies.get(&slot_index).and_then(|lies| lies.heard);
        lie.or(self.slots.get(&slot_index)?.heard)
    }
    fn peer_interval_ms(&self, slot_index: u32) -> Option<u32> {
        let lie = self.lies.get(&slot_index).and_then(|lies| lies.interval_ms);
        lie.or(self.slots.get(&slot_index)?.interval_ms)
    }
    fn confirmed(&self, slot_index: u32, word: BindingWord) -> bool {
        self.slots.get(&slot_index).is_some_and(|slot| slot.confirmed && slot.word == word)
    }
    fn highest_counter(&self, slot_index: u32, key_number: u32) -> Option<u64> {
        let lie = self.lies.get(&slot_index).and_then(|lies| lies.highest);
        let keys = self.slots.get(&slot_index)?.keys.iter().find(|keys| keys.number == key_number)?;
        lie.or(keys.window.highest())
    }
    fn sending_key(&self, slot_index: u32) -> Option<u32> {
        Some(self.slots.get(&slot_index)?.sending)
    }
    fn sealed(&self, slot_index: u32, key_number: u32) -> Option<u64> {
        let lie = self.lies.get(&slot_index).map_or(0, |lies| lies.sealed);
        let keys = self.slots.get(&slot_index)?.keys.iter().find(|keys| keys.number == key_number)?;
        Some(keys.sent.max(lie))
    }
    fn failed_opens(&self, slot_index: u32) -> u64 {
        self.lies.get(&slot_index).map_or(0, |lies| lies.failed_opens)
    }
    fn traffic(&self, _: u32) -> Traffic {
        Traffic::default()
    }
    fn probed(&self, slot_index: u32) -> Option<Probed> {
        let lies = self.lies.get(&slot_index)?;
        let (sealed, highest) = (lies.sealed, lies.highest.unwrap_or(0));
        let count = |key, end, received| Some(Counts { key, end, received });
        let counts = |end, received| [count(0, end, received), count(1, received, end)];
        let (up, down) = (counts(sealed, highest), counts(highest, sealed));
        Some(Probed { probes: sealed, up, down, samples: [sealed ^ highest; PROBE_SAMPLES] })
    }
}
