//! The control plane's end of the shared tables, as `jvpn_controlplane::tables` has it, but over plain memory and without
//! doorbells: ROUTES is a kernel map there, which the simulation has no kernel for. Reports are read by the same code.

use super::data_plane::{DataPlane, Routes};
use jvpn_abi::tables::{BindingEntry, BindingWord, Context, InstallEntry, InstallOp, Reports};
use jvpn_abi::wire::SlotId;
use jvpn_controlplane::engine::{Kept, TableCommand, TableEvent};
use jvpn_controlplane::reports::Reading;
use jvpn_tables::keys::KeyMailbox;
use jvpn_tables::{Bindings, Mapping, TableError};
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

/// The writer of one connection to a data plane.
#[derive(Debug)]
pub(crate) struct TableWriter {
    pub(crate) bindings: Bindings,
    mailbox: KeyMailbox,
    contexts: Mapping<Context>,
    reports: Mapping<Reports>,
    routes: Routes,
    slots: u32,
    reading: Reading,
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
    /// Maps the tables of a data plane whose workers run. [`Self::clear`] comes next.
    pub(crate) fn connect(data_plane: &DataPlane) -> Result<Option<Self>, TableError> {
        let Some(running) = data_plane.running() else { return Ok(None) };
        let slots = data_plane.slots;
        let reports: Mapping<Reports> = Mapping::new("REPORTS", running.reports.as_fd(), 1)?;
        Ok(Some(Self {
            bindings: Bindings::map(data_plane.bindings.as_fd(), slots)?,
            mailbox: KeyMailbox::map(running.keys.as_fd())?,
            contexts: Mapping::new("CONTEXT", running.context.as_fd(), slots as usize)?,
            reading: Reading::new(&reports[0], slots, running.workers.len(), running.context_kept),
            reports,
            routes: Routes::clone(&data_plane.routes),
            slots,
        }))
    }

    /// Removes every binding and route that an earlier control plane left, but for what `kept` names.
    pub(crate) fn clear(&mut self, kept: Option<&Kept>) {
        for slot_index in 0..self.slots {
            let word = self.bindings.word(slot_index);
            let is_named = kept.and_then(|kept| kept.words.get(&slot_index)) == Some(&word);
            if word != BindingWord::UNBOUND && !is_named {
                self.bindings.unbind(slot_index);
            }
        }
        let routes = kept.iter().flat_map(|kept| &kept.routes);
        let named: BTreeSet<_> = routes.map(|(prefix, slot)| (prefix.mapped(), slot.index())).collect();
        self.routes.borrow_mut().retain(|prefix, slot_index| named.contains(&(*prefix, *slot_index)));
        let seq = self.reports[0].requested_unbind_seq.load(Ordering::SeqCst) + 1;
        self.reports[0].requested_unbind_seq.store(seq, Ordering::SeqCst);
        match kept {
            Some(_) => self.reading.adopting(seq),
            None => self.reading.clearing(seq),
        }
    }

    /// Whether the engine knows of this data plane.
    pub(crate) const fn is_up(&self) -> bool {
        self.reading.is_up()
    }

    /// Carries out a command: a refusal is reported at once, and somebody is rung.
    pub(crate) fn carry_out(&mut self, command: TableCommand) -> (Option<TableEvent>, Rung) {
        match command {
            // Memory of its own, which the host writes.
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
        self.reading.expect(seq, SlotId(entry.slot).index(), expect);
        (None, Rung::Installer)
    }

    /// What the data plane has reported since the last call.
    pub(crate) fn poll_events(&mut self, into: &mut Vec<TableEvent>) {
        self.reading.poll(&self.reports[0], &self.contexts, into);
    }
}
