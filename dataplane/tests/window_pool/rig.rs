//! A small data plane without packets: tables, mailbox, installer, and a worker that holds what it is handed.

use bytemuck::Zeroable;
use jvpn_abi::Endpoint;
use jvpn_abi::tables::{
    BINDING_WORDS, BindingWord, Context, InstallEntry, InstallOp, KeyRing, KeyState, ReplayWindow, Reports,
    WINDOWS_PER_SLOT, context_octets, window_owners_at, windows_at,
};
use jvpn_abi::wire::{SlotId, Suite};
use jvpn_dataplane::frame::Mac;
use jvpn_dataplane::slots::{Installer, SlotContext, WorkerQueues};
use jvpn_dataplane::tables::Tables;
use jvpn_tables::Mapping;
use jvpn_tables::keys::KeyMailbox;
use jvpn_tables::mapping::shared_memory;
use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) const SLOTS: u32 = 4;
pub(crate) const WINDOWS: u32 = SLOTS * WINDOWS_PER_SLOT;

/// One key of one binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) slot: u32,
    pub(crate) serial: u32,
    pub(crate) number: u32,
}

impl Key {
    pub(crate) fn slot_id(self) -> SlotId {
        SlotId::new(self.slot, self.serial).unwrap()
    }

    pub(crate) fn word(self) -> BindingWord {
        BindingWord::bound(self.slot_id(), u64::from(self.serial))
    }
}

pub(crate) struct Rig {
    pub(crate) tables: Arc<Tables>,
    /// The memory of CONTEXT once more.
    memory: Mapping<AtomicU64>,
    installer: Installer,
    mailbox: KeyMailbox,
    queues: Arc<WorkerQueues>,
    /// Handed out, and the worker has not come to it.
    on_the_way: VecDeque<(u32, Option<Arc<SlotContext>>)>,
    worker: Vec<Option<Arc<SlotContext>>>,
    seq: u64,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let memory = |octets| shared_memory("TEST", c"jvpn-test", octets).unwrap();
        let context = memory(context_octets(SLOTS));
        let (bindings, reports) = (memory(SLOTS as usize * BINDING_WORDS * 8), memory(size_of::<Reports>()));
        let (gate, keys) = (memory(4096), memory(size_of::<KeyRing>()));
        let tables = Arc::new(
            Tables::map(SLOTS, bindings.as_fd(), context.as_fd(), reports.as_fd(), gate.as_fd()).unwrap(),
        );
        let queues = Arc::new(WorkerQueues::new().unwrap());
        Self {
            memory: Mapping::new("TEST", context.as_fd(), context_octets(SLOTS) / 8).unwrap(),
            installer: installer(&tables, &queues),
            mailbox: KeyMailbox::map(keys.as_fd()).unwrap(),
            on_the_way: VecDeque::new(),
            worker: (0..SLOTS).map(|_| None).collect(),
            seq: 0,
            tables,
            queues,
        }
    }

    /// The process dies and the next one comes. Nobody knows anything but what stands in the tables.
    pub(crate) fn restart(&mut self) {
        self.on_the_way.clear();
        self.worker.iter_mut().for_each(|held| *held = None);
        self.queues = Arc::new(WorkerQueues::new().unwrap());
        self.installer = installer(&self.tables, &self.queues);
    }

    /// The installer takes one entry; the worker has not come to it yet. Returns whether it was taken.
    pub(crate) fn run(&mut self, op: InstallOp, key: Key) -> bool {
        self.seq += 1;
        let endpoint = Endpoint::v4([198, 51, 100, 1], 4_500);
        let entry = InstallEntry {
            seq: self.seq,
            word: key.word().0,
            op: op as u32,
            slot: key.slot_id().0,
            key_number: key.number,
            suite: Suite::Aes256Gcm as u8,
            remote_addr: endpoint.addr,
            local_addr: endpoint.addr,
            remote_port: 1,
            local_port: 2,
            ..InstallEntry::zeroed()
        };
        assert!(self.mailbox.put(&entry));
        let done = self.installer.run(&self.mailbox);
        assert_eq!(done.handed + done.refused, 1);
        while let Some(handout) = self.queues.handouts.pop() {
            self.on_the_way.push_back((handout.slot_index, handout.context));
        }
        done.refused == 0
    }

    /// The worker takes everything that was handed to it, and gives back what that replaces.
    pub(crate) fn apply(&mut self) {
        for (slot, context) in self.on_the_way.drain(..) {
            let held = self.worker.get_mut(slot as usize).unwrap();
            if let Some(replaced) = std::mem::replace(held, context) {
                self.queues.retired.push(replaced).unwrap();
            }
        }
    }

    /// The same at once. Returns whether the entry was taken.
    pub(crate) fn install(&mut self, op: InstallOp, key: Key) -> bool {
        let is_taken = self.run(op, key);
        self.apply();
        is_taken
    }

    /// Windows in use, once everything that was given back is free.
    pub(crate) fn windows_in_use(&self) -> usize {
        self.installer.run(&self.mailbox);
        self.installer.windows_in_use()
    }

    /// Every key that a worker accepts frames under, now or when it comes to what it was handed, and its window.
    pub(crate) fn live(&self) -> Vec<(Key, u32)> {
        let on_the_way = self.on_the_way.iter().filter_map(|(_, context)| context.as_ref());
        let held = self.worker.iter().flatten().chain(on_the_way);
        let of_phase = |context: &Arc<SlotContext>, phase| {
            let slot = context.slot;
            let key = |number| Key { slot: slot.index(), serial: slot.serial(), number };
            context.keys(phase).map(|keys| (key(keys.number), keys.window()))
        };
        held.flat_map(|context| [false, true].map(|phase| of_phase(context, phase))).flatten().collect()
    }

    pub(crate) fn context(&self, slot: u32) -> &Context {
        &self.tables.contexts[slot as usize]
    }

    pub(crate) fn state(&self, slot: u32, number: u32) -> &KeyState {
        &self.context(slot).keys[(number % 2) as usize]
    }

    pub(crate) fn window(&self, index: u32) -> &ReplayWindow {
        self.tables.window(index).unwrap()
    }

    /// The word that all words of a window are; `None` if they differ.
    pub(crate) fn bits(&self, index: u32) -> Option<u64> {
        let mut words = self.window(index).words.iter().map(|word| word.load(Ordering::SeqCst));
        let first = words.next().unwrap();
        words.all(|word| word == first).then_some(first)
    }

    /// A client's frame opens under the next key: from now on it is the one in use.
    pub(crate) fn flip(&self, key: Key) {
        self.context(key.slot).send_key.store(u64::from(key.number) + 1, Ordering::SeqCst);
    }

    /// The memory of CONTEXT, and which of its words mean something.
    pub(crate) fn words(&self) -> (&[AtomicU64], [Range<usize>; 3]) {
        let part = |at: usize, octets: usize| at / 8..(at + octets) / 8;
        let windows = WINDOWS as usize;
        let parts = [
            part(0, SLOTS as usize * size_of::<Context>()),
            part(windows_at(SLOTS), windows * size_of::<ReplayWindow>()),
            part(window_owners_at(SLOTS), windows * 8),
        ];
        (&self.memory, parts)
    }

    /// What stands in CONTEXT's memory.
    pub(crate) fn left(&self) -> Vec<u64> {
        let (memory, parts) = self.words();
        parts.into_iter().flatten().map(|at| memory[at].load(Ordering::SeqCst)).collect()
    }

    /// A process that finds this in CONTEXT's memory.
    pub(crate) fn go_on_with(&mut self, left: &[u64]) {
        let (memory, parts) = self.words();
        parts
            .into_iter()
            .flatten()
            .zip(left)
            .for_each(|(at, word)| memory[at].store(*word, Ordering::SeqCst));
        self.restart();
    }
}

fn installer(tables: &Arc<Tables>, queues: &Arc<WorkerQueues>) -> Installer {
    Installer::new(Arc::clone(tables), vec![Arc::clone(queues)], Mac([2, 0, 0, 0, 0, 1]))
}
