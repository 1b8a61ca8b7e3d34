//! What the fake data plane does with the keys of a binding.

use crate::rig::{Rig, Tables};
use jvpn_abi::Endpoint;
use jvpn_abi::tables::{InstallEntry, InstallOp};
use jvpn_abi::wire::SlotId;
use jvpn_controlplane::engine::TableEvent;

impl Tables {
    /// What the installer does with an entry; what it would refuse fails here.
    pub(crate) fn install_keys(&mut self, op: InstallOp, entry: &InstallEntry) {
        let index = SlotId(entry.slot).index();
        let context = self.contexts.0.get_mut(&index).unwrap();
        let number = entry.key_number;
        match op {
            InstallOp::Install | InstallOp::Adopt => {
                assert!(op == InstallOp::Adopt || number == 0, "a fresh binding begins with key number 0");
                self.entries.insert(index, *entry);
            }
            InstallOp::AddKey => {
                assert_eq!(number, context.send_key + 1, "a rekey counts up by one");
                assert!(context.other_key.is_none_or(|other| other == number), "a third key");
                context.other_key = Some(number);
                self.next_entries.insert(index, *entry);
            }
            InstallOp::AdoptKey => context.other_key = Some(number),
            InstallOp::DropKey => {
                assert!(context.other_key.take().is_none_or(|other| other == number));
                assert_ne!(context.send_key, number, "the key in use is dropped");
            }
            InstallOp::Remove => panic!("a removal is a command of its own"),
        }
        if op != InstallOp::DropKey {
            assert_ne!(entry.open_key, entry.seal_key);
            assert!(entry.hard_packets > 0);
        }
    }

    /// The data plane is gone: what it held beside CONTEXT is gone too.
    pub(crate) fn forget_keys(&mut self) {
        for context in self.contexts.0.values_mut() {
            context.other_key = None;
        }
    }
}

impl Rig {
    /// A worker opened a frame under the next key number: from now on it is the one to seal with.
    pub(crate) fn flip(&mut self, slot: SlotId) {
        let (word, ..) = self.tables.bound[&slot.index()];
        let context = self.tables.contexts.0.get_mut(&slot.index()).unwrap();
        assert_eq!(context.other_key, Some(context.send_key + 1), "the workers hold the next key");
        context.other_key = Some(context.send_key);
        context.send_key += 1;
        (context.heard, context.highest, context.sealed) = (Some(self.now), Some(0), 0);
        self.event(TableEvent::Confirmed { slot_index: slot.index(), word });
    }

    /// A frame under this key number, if the workers hold it.
    pub(crate) fn frame_under(&mut self, slot: SlotId, remote: Endpoint, number: u32) {
        let context = self.tables.contexts.0.get(&slot.index()).copied().unwrap_or_default();
        let bound = self.tables.bound.get(&slot.index());
        let bound = bound.is_some_and(|(word, at, _)| word.serial() == slot.serial() && *at == remote);
        if bound && context.other_key == Some(number) && number == context.send_key + 1 {
            self.flip(slot);
        } else if number == context.send_key {
            self.frame(slot, remote);
        }
    }
}
