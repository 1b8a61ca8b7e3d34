//! One session as the engine holds it: the plain core, and the keys, bindings and answers that belong to it.

use super::api::Traffic;
use super::bindings::UNCONFIRMED_MIN;
use super::early::Advance;
use super::quality::QualityWatch;
use super::rekey::{Previous, Rekey};
use super::snapshot::Place;
use super::takeover::Offered;
use super::timeline::Timeline;
use super::wheel::Timer;
use crate::audit::Floods;
use crate::limits::SessionLimits;
use crate::store::Version;
use bytemuck::Zeroable;
use jvpn_abi::tables::{BindingWord, InstallEntry, InstallOp, MAX_PREFIXES};
use jvpn_abi::wire::reattach::REJECT_LEN;
use jvpn_abi::wire::{Direction, SlotId, Suite};
use jvpn_abi::{BootTime, Endpoint};
use jvpn_crypto::control::{ControlOpener, ControlSealer};
use jvpn_crypto::keys::PublicKey;
use jvpn_crypto::schedule::{DataKeys, EpochSecret, Resume, TakeoverKey};
use jvpn_session::messages::{Handle, Prefix, SessionId};
use jvpn_session::{BindingPhase, Generation, Policy, SessionCore, State};
use std::time::Duration;
use zeroize::Zeroizing;

/// DATA keys of a fresh binding have this number; a rekey counts up.
pub(super) const FIRST_KEY_NUMBER: u32 = 0;

/// Every epoch secret meets its first CONTROL incarnation here; a restarted control plane goes on with the next.
const CONTROL_INCARNATION: u32 = 0;

/// A session.
pub(super) struct Session {
    pub(super) core: SessionCore,
    pub(super) peer: PublicKey,
    pub(super) suite: Suite,
    /// What the tables bind.
    pub(super) binding: Option<Binding>,
    /// What is on its way into the tables. On the heap of its own, because most of the time there is none.
    pub(super) attempt: Option<Box<Attempt>>,
    /// The binding before, to recognise its late frames.
    pub(super) former: Option<Former>,
    /// The unbind that the workers have not passed yet.
    pub(super) draining: Option<Drain>,
    pub(super) confirmed: Option<GenerationSecrets>,
    pub(super) pending: Option<GenerationSecrets>,
    /// Handle of the last generation that was erased.
    pub(super) erased: Option<Handle>,
    /// The last granted request and its answer; lives as long as the binding.
    pub(super) answered: Option<Answered>,
    /// The last refused request and its answer: there is one only until the next is granted.
    pub(super) refused: Option<Box<Answered>>,
    pub(super) limits: SessionLimits,
    pub(super) floods: Floods,
    /// The slot that ROUTES leads this peer's prefixes to.
    pub(super) routed: Option<SlotId>,
    /// The recovery under way.
    pub(super) recovery: Option<Box<Recovery>>,
    /// When the next look at a silent path is due.
    pub(super) dead_check_at: BootTime,
    /// The quality of the bound path.
    pub(super) quality: QualityWatch,
    /// Traffic of earlier bindings.
    pub(super) earlier_traffic: Traffic,
    /// The entry in the timer queue.
    pub(super) scheduled: Option<Timer>,
    /// Version of its record in the store, once it is there.
    pub(super) stored: Option<Version>,
    /// Its record in JOURNAL.
    pub(super) journal: Option<Place>,
    /// What happened just now changed nothing that JOURNAL holds: a flood of it must not cost a record each to see that.
    pub(super) unchanged: bool,
    /// The last transitions, to show.
    pub(super) timeline: Timeline,
    /// The secret of its takeover exchange; `None` if nobody stored it.
    pub(super) takeover: Option<TakeoverKey>,
    /// What the answer to a takeover request offers.
    pub(super) offered: Option<Box<Offered>>,
    /// Whether its next binding may send before it is confirmed.
    pub(super) advance: Advance,
}

impl Session {
    /// The round trip of the path that its binding left; zero if it is not known.
    pub(super) fn left_rtt(&self) -> Duration {
        Duration::from_micros(self.recovery.as_ref().map_or(0, |recovery| u64::from(recovery.rtt_us)))
    }

    pub(super) fn new(core: SessionCore, peer: PublicKey, suite: Suite, policy: &Policy) -> Self {
        Self {
            core,
            peer,
            suite,
            binding: None,
            attempt: None,
            former: None,
            draining: None,
            confirmed: None,
            pending: None,
            erased: None,
            answered: None,
            refused: None,
            limits: SessionLimits::new(policy),
            floods: Floods::default(),
            routed: None,
            recovery: None,
            dead_check_at: BootTime::NEVER,
            quality: QualityWatch::new(),
            earlier_traffic: Traffic::default(),
            scheduled: None,
            stored: None,
            journal: None,
            unchanged: false,
            timeline: Timeline::default(),
            takeover: None,
            offered: None,
            advance: Advance::Taken,
        }
    }

    pub(super) const fn id(&self) -> SessionId {
        self.core.id()
    }

    /// The generation that a handle names, with its secret.
    pub(super) fn generation(&self, handle: Handle) -> Option<(Generation, &Resume)> {
        let named =
            |secrets: &Option<GenerationSecrets>| secrets.as_ref().is_some_and(|s| s.handle == handle);
        if named(&self.pending) {
            return self.pending.as_ref().map(|s| (Generation::Pending, &s.resume));
        }
        if named(&self.confirmed) {
            return self.confirmed.as_ref().map(|s| (Generation::Confirmed, &s.resume));
        }
        None
    }

    /// Whether nothing is bound and nothing is under way.
    pub(super) const fn is_idle(&self) -> bool {
        self.binding.is_none() && self.attempt.is_none()
    }

    /// The first invariant that is broken, in words.
    pub(super) fn broken_invariant(&self, policy: &Policy) -> Option<&'static str> {
        if let Some(broken) = self.core.broken_invariant(policy) {
            return Some(broken);
        }
        if self.binding.is_some() && self.attempt.is_some() {
            return Some("I1: one binding is bound while another is being installed");
        }
        if self.attempt.is_some() != (self.core.phase() == BindingPhase::Installing) {
            return Some("I13: an installation that nobody waits for, or the other way round");
        }
        if self.core.state().is_bound()
            != self.binding.as_ref().is_some_and(|b| b.unconfirmed_until.is_none())
        {
            return Some("I1: the state and the confirmed binding disagree");
        }
        if self.binding.is_some() && self.draining.is_some() {
            return Some("I1: a binding was bound before the one before it was quiescent");
        }
        let rekeys = |b: &Binding| b.rekey.is_some() || b.previous.is_some();
        if self.binding.as_ref().is_some_and(rekeys) && !self.core.state().is_bound() {
            return Some("I1: two keys of a binding that is not confirmed");
        }
        if self.core.state() == State::Terminated && self.offered.is_some() {
            return Some("I4: a terminated session offers a binding");
        }
        if self.core.state() == State::Terminated && !self.is_idle() {
            return Some("I4: a terminated session has a binding");
        }
        if self.core.confirmed().is_some() != self.confirmed.is_some()
            || self.core.pending().is_some() != self.pending.is_some()
        {
            return Some("I13: generations and their secrets disagree");
        }
        None
    }
}

/// The secret part of a generation.
pub(super) struct GenerationSecrets {
    pub(super) resume: Resume,
    pub(super) handle: Handle,
}

/// A binding: one transport path with its slot and keys.
pub(super) struct Binding {
    pub(super) slot: SlotId,
    pub(super) word: BindingWord,
    pub(super) epoch: u64,
    pub(super) remote: Endpoint,
    pub(super) local: Endpoint,
    /// `None` after a restart of the control plane: DATA keys outlive it only in the workers.
    pub(super) keys: Option<DataKeys>,
    pub(super) sealer: ControlSealer,
    pub(super) opener: ControlOpener,
    /// Number of these keys; a rekey counts up.
    pub(super) key_number: u32,
    /// Their limits of time count from here.
    pub(super) key_since: BootTime,
    /// The next keys.
    pub(super) rekey: Option<Rekey>,
    /// The keys before.
    pub(super) previous: Option<Previous>,
    /// Silence counts from here at the earliest.
    pub(super) alive_since: BootTime,
    /// How long it may stay unconfirmed.
    pub(super) patience: Duration,
    /// Frames that it may send before the first one of its client; 0 = none: its address is not proven.
    pub(super) early_packets: u32,
    /// Until when the first frame has to come; `None` once it came.
    pub(super) unconfirmed_until: Option<BootTime>,
    /// The last install entry by which a restarted data plane gets it back, and until when.
    pub(super) adopting: Option<(u64, BootTime)>,
}

impl Binding {
    pub(super) fn new(
        secret: &EpochSecret,
        suite: Suite,
        slot: SlotId,
        epoch: u64,
        (remote, local): (Endpoint, Endpoint),
        now: BootTime,
    ) -> Self {
        Self {
            slot,
            word: BindingWord::bound(slot, epoch),
            epoch,
            remote,
            local,
            keys: Some(secret.data_keys()),
            sealer: ControlSealer::new(secret, suite, Direction::GatewayToClient, slot, CONTROL_INCARNATION),
            opener: ControlOpener::new(secret, suite, Direction::ClientToGateway, slot),
            key_number: FIRST_KEY_NUMBER,
            key_since: now,
            rekey: None,
            previous: None,
            alive_since: BootTime(0),
            patience: UNCONFIRMED_MIN,
            early_packets: 0,
            unconfirmed_until: None,
            adopting: None,
        }
    }

    /// The entry for the key mailbox. Whoever puts it there wipes it. `None` without keys.
    pub(super) fn install_entry(
        &self,
        op: InstallOp,
        seq: u64,
        suite: Suite,
        prefixes: &[Prefix],
    ) -> Option<Box<InstallEntry>> {
        Some(self.entry(op, seq, suite, prefixes, (self.key_number, self.keys.as_ref()?)))
    }

    /// The entry for some of the binding's keys.
    pub(super) fn entry(
        &self,
        op: InstallOp,
        seq: u64,
        suite: Suite,
        prefixes: &[Prefix],
        (key_number, keys): (u32, &DataKeys),
    ) -> Box<InstallEntry> {
        let mut entry = Box::new(InstallEntry::zeroed());
        entry.seq = seq;
        entry.word = self.word.0;
        entry.op = op as u32;
        entry.slot = self.slot.0;
        entry.key_number = key_number;
        entry.suite = suite as u8;
        entry.remote_addr = self.remote.addr;
        entry.remote_port = self.remote.port;
        entry.local_addr = self.local.addr;
        entry.local_port = self.local.port;
        entry.early_packets = self.early_packets;
        entry.open_key = keys.client_to_gateway;
        entry.seal_key = keys.gateway_to_client;
        debug_assert!(prefixes.len() <= MAX_PREFIXES, "configuration bounds the prefixes of a peer");
        let cells = entry.prefixes.iter_mut().zip(entry.prefix_lens.iter_mut());
        let mut count = 0;
        for ((cell, len), prefix) in cells.zip(prefixes) {
            (*cell, *len) = prefix.mapped();
            count += 1;
        }
        entry.prefix_count = count;
        entry
    }
}

/// A binding on its way into the tables, and what is sent when it is there or cannot be.
pub(super) struct Attempt {
    pub(super) binding: Binding,
    pub(super) stage: Stage,
    /// When it has taken too long.
    pub(super) until: BootTime,
    /// The answer to the client.
    pub(super) answer: Vec<u8>,
    /// The answer if it fails. A handshake has none: the client's own timer ends it.
    pub(super) refusal: Option<[u8; REJECT_LEN]>,
}

/// How far an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waiting until the birth is stored.
    Storing {
        /// The request.
        ticket: u64,
    },
    /// Waiting until every worker has passed the unbind before it.
    Quiescing,
    /// Waiting until every worker has this entry.
    Installing {
        /// Sequence of the entry.
        seq: u64,
    },
}

/// An unbind that the workers have not passed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Drain {
    pub(super) slot: SlotId,
    pub(super) seq: u64,
}

/// A binding that was unbound: enough to recognise its frames.
pub(super) struct Former {
    pub(super) slot: SlotId,
    pub(super) keys: Box<[FormerKey]>,
    /// The client still holds its CONTROL keys while it knows no newer binding.
    pub(super) sealer: ControlSealer,
}

/// A key by which frames are recognised. It opens samples only, and none past its hard limit.
pub(super) struct FormerKey {
    pub(super) number: u32,
    pub(super) open_key: Zeroizing<[u8; 32]>,
    /// Highest counter committed.
    pub(super) highest: Option<u64>,
    pub(super) hard_at: BootTime,
}

/// A proven request and its answer, for repetitions.
pub(super) struct Answered {
    pub(super) request: Box<[u8]>,
    pub(super) remote: Endpoint,
    pub(super) local: Endpoint,
    /// `None` while the binding is being installed.
    pub(super) answer: Option<Box<[u8]>>,
}

/// What is measured of a recovery.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recovery {
    /// The path that was left.
    pub(super) left: Endpoint,
    /// When it was last heard.
    pub(super) last_heard: BootTime,
    /// As the client reported it in its first accepted request.
    pub(super) detect_ms: Option<u32>,
    /// The round trip of the path that was left, µs; zero if it is not known.
    pub(super) rtt_us: u32,
}
