//! The control plane's end of the shared tables, as `jvpn_controlplane::tables` has it, but over plain memory and without
//! doorbells: ROUTES is a kernel map there, which the simulation has no kernel for.

use super::data_plane::{DataPlane, Routes};
use jvpn_abi::tables::{
    BindingEntry, BindingWord, Context, EVENT_RING_LEN, InstallEntry, InstallOp, Reports,
};
use jvpn_abi::wire::SlotId;
use jvpn_controlplane::engine::{TableCommand, TableEvent};
use jvpn_tables::keys::KeyMailbox;
use jvpn_tables::{Bindings, Mapping, TableError};
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Everything was unbound; waiting for the workers to pass that.
    Clearing(u64),
    /// The engine knows of the data plane.
    Up,
}

#[derive(Debug)]
struct Installing {
    seq: u64,
    slot_index: u32,
    expect: Option<u64>,
}

/// The writer of one connection to a data plane.
#[derive(Debug)]
pub(crate) struct TableWriter {
    pub(crate) bindings: Bindings,
    mailbox: KeyMailbox,
    contexts: Mapping<Context>,
    reports: Mapping<Reports>,
    routes: Routes,
    workers: usize,
    slots: u32,
    context_kept: bool,
    phase: Phase,
    quiesced: u64,
    events_lost: Vec<u64>,
    installing: VecDeque<Installing>,
}

/// Whom a command rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    /// Nobody.
    Nobody,
    /// The installer.
    Installer,
    /// Every worker.
    Workers,
}

impl TableWriter {
    /// Maps the tables of a data plane whose workers run, and clears every binding.
    pub(crate) fn connect(data_plane: &DataPlane) -> Result<Option<Self>, TableError> {
        let Some(running) = data_plane.running() else { return Ok(None) };
        let contexts = Mapping::new("CONTEXT", running.context.as_fd(), data_plane.slots as usize)?;
        let reports: Mapping<Reports> = Mapping::new("REPORTS", running.reports.as_fd(), 1)?;
        let mut writer = Self {
            bindings: Bindings::map(data_plane.bindings.as_fd(), data_plane.slots)?,
            mailbox: KeyMailbox::map(running.keys.as_fd())?,
            contexts,
            events_lost: reports[0].worker.iter().map(|w| w.events_lost.load(Ordering::Acquire)).collect(),
            reports,
            routes: Routes::clone(&data_plane.routes),
            workers: running.workers.len(),
            slots: data_plane.slots,
            context_kept: running.context_kept,
            phase: Phase::Clearing(0),
            quiesced: 0,
            installing: VecDeque::new(),
        };
        writer.clear();
        Ok(Some(writer))
    }

    fn clear(&mut self) {
        for slot_index in 0..self.slots {
            self.bindings.unbind(slot_index);
        }
        self.routes.borrow_mut().clear();
        let seq = self.reports[0].requested_unbind_seq.load(Ordering::SeqCst) + 1;
        self.reports[0].requested_unbind_seq.store(seq, Ordering::SeqCst);
        self.phase = Phase::Clearing(seq);
    }

    /// Whether the engine knows of this data plane.
    pub(crate) fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    /// Carries out a command: a refusal is reported at once, and somebody is rung.
    pub(crate) fn carry_out(&mut self, command: TableCommand) -> (Option<TableEvent>, Rung) {
        match command {
            // Asked for only by an engine that keeps a JOURNAL.
            TableCommand::Journal { .. } => (None, Rung::Nobody),
            TableCommand::Unbind { slot, seq } => {
                self.bindings.unbind(slot.index());
                self.reports[0].requested_unbind_seq.store(seq, Ordering::SeqCst);
                (None, Rung::Workers)
            }
            TableCommand::Install { seq, mut entry } => {
                entry.seq = seq;
                let expect = Some(entry.word);
                self.put(&entry, expect)
            }
            TableCommand::Remove { seq, slot, word } => {
                let entry = InstallEntry {
                    seq,
                    word: word.0,
                    op: InstallOp::Remove as u32,
                    slot: slot.0,
                    ..bytemuck::Zeroable::zeroed()
                };
                let (refused, rung) = self.put(&entry, None);
                (refused.map(|_| TableEvent::Installed { seq }), rung)
            }
            TableCommand::Bind { slot, word, remote, local } => {
                self.bindings.bind(slot.index(), &BindingEntry::new(remote, local), word);
                (None, Rung::Nobody)
            }
            TableCommand::RouteAdd { prefix, slot } => {
                self.routes.borrow_mut().insert(prefix.mapped(), slot.index());
                (None, Rung::Nobody)
            }
            TableCommand::RouteRemove { prefix, slot } => {
                let mut routes = self.routes.borrow_mut();
                if routes.get(&prefix.mapped()) == Some(&slot.index()) {
                    routes.remove(&prefix.mapped());
                }
                (None, Rung::Nobody)
            }
        }
    }

    fn put(&mut self, entry: &InstallEntry, expect: Option<u64>) -> (Option<TableEvent>, Rung) {
        let seq = entry.seq;
        if !self.mailbox.put(entry) {
            return (Some(TableEvent::InstallRefused { seq }), Rung::Nobody);
        }
        let slot_index = SlotId(entry.slot).index();
        self.installing.push_back(Installing { seq, slot_index, expect });
        (None, Rung::Installer)
    }

    /// What the data plane has reported since the last call.
    pub(crate) fn poll_events(&mut self, into: &mut Vec<TableEvent>) {
        let passed = self.lowest(|worker| worker.unbind_seq.load(Ordering::Acquire));
        if let Phase::Clearing(seq) = self.phase {
            if passed < seq {
                return;
            }
            self.phase = Phase::Up;
            self.quiesced = passed;
            into.push(TableEvent::DataPlaneUp { slots: self.slots, context_kept: self.context_kept });
        }
        if passed > self.quiesced {
            self.quiesced = passed;
            into.push(TableEvent::Quiesced { seq: passed });
        }
        let applied = self.lowest(|worker| worker.install_seq.load(Ordering::Acquire));
        while let Some(first) = self.installing.front()
            && first.seq <= applied
        {
            let context = self.contexts.get(first.slot_index as usize);
            let tag = context.map_or(0, |context| context.tag.load(Ordering::Acquire));
            let seq = first.seq;
            let taken = first.expect.is_none_or(|word| word == tag);
            into.push(if taken { TableEvent::Installed { seq } } else { TableEvent::InstallRefused { seq } });
            self.installing.pop_front();
        }
        for index in 0..self.workers {
            self.poll_confirmed(index, into);
        }
    }

    fn lowest(&self, of: impl Fn(&jvpn_abi::tables::WorkerReport) -> u64) -> u64 {
        self.reports[0].worker.iter().take(self.workers).map(of).min().unwrap_or(0)
    }

    fn poll_confirmed(&mut self, index: usize, into: &mut Vec<TableEvent>) {
        let worker = &self.reports[0].worker[index];
        let (written, read) =
            (worker.events_written.load(Ordering::Acquire), worker.events_read.load(Ordering::Relaxed));
        let lost = worker.events_lost.load(Ordering::Acquire);
        let mut slots: Vec<u64> = (read..written)
            .map(|n| worker.events[n as usize % EVENT_RING_LEN].load(Ordering::Relaxed))
            .collect();
        worker.events_read.store(written, Ordering::Release);
        if self.events_lost[index] != lost {
            slots = (0..u64::from(self.slots)).collect();
            self.events_lost[index] = lost;
        }
        for slot_index in slots {
            let confirmed = self.contexts[slot_index as usize].confirmed.load(Ordering::Acquire);
            let (slot_index, word) = (slot_index as u32, BindingWord(confirmed));
            if word.is_bound() {
                into.push(TableEvent::Confirmed { slot_index, word });
            }
        }
    }
}
