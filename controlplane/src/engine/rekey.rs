//! Rekey: new keys for a binding that stays where it is. Epoch, slot and state stay; the key number counts up and its
//! lowest bit is the phase in DATA.
//!
//! 1. A proven request from the bound endpoint: key N+1 goes to every worker, receive-only ([`RekeyStage::Installing`]).
//! 2. Every worker has it: the answer leaves, and its generation is the pending one ([`RekeyStage::Offered`]).
//! 3. The first frame that opens under N+1 makes the workers seal with it; reported, this is [`Event::Rekeyed`].
//! 4. N only receives for max(3 RTT, 1 s) ([`Previous`]), then the workers drop it. Until they have, a further rekey has to wait.

use super::Arrival;
use super::api::{ContextView, TableCommand};
use super::bindings::{INSTALL_TIMEOUT, QUIESCE_TIMEOUT, three_round_trips};
use super::counters::Counter;
use super::handshake::UNAVAILABLE_RETRY_MS;
use super::quality::round_trip;
use super::reattach::{Asked, Known, refusal};
use super::session::{Answered, Binding, FormerKey, GenerationSecrets, Session};
use super::world::{DataPlane, World};
use bytemuck::Zeroable;
use jvpn_abi::tables::{BindingWord, InstallEntry, InstallOp};
use jvpn_abi::wire::reattach::REJECT_LEN;
use jvpn_abi::wire::{Direction, SlotId, Suite};
use jvpn_abi::{BootTime, Reason};
use jvpn_crypto::control::{ControlOpener, ControlSealer, Heard};
use jvpn_crypto::limits;
use jvpn_crypto::schedule::{ControlSecret, DataKeys, EpochSecret};

use jvpn_session::messages::{ControlMessage, ReattachGrant, SessionId};
use jvpn_session::pack::{Packer, Unpacker};
use jvpn_session::{Event, Generation, ReattachClaim, Rejection, StateVersion, admit_rekey};
use std::time::Duration;
use zeroize::Zeroizing;

/// What a client waits beyond the overlap, so that the workers have dropped the key when it asks again.
const DROP_PATIENCE: Duration = Duration::from_millis(50);

/// Which key beside the one in use a record of JOURNAL holds.
const NO_OTHER: u8 = 0;
const OTHER_IS_NEXT: u8 = 1;
const OTHER_IS_PREVIOUS: u8 = 2;

/// Everything that one key number of a binding brings, while it is not the one in use.
pub(super) struct Key {
    pub(super) number: u32,
    /// `None` if an earlier process had them.
    pub(super) data: Option<DataKeys>,
    pub(super) sealer: ControlSealer,
    pub(super) opener: ControlOpener,
    /// Its limits of time count from here.
    pub(super) since: BootTime,
}

impl Key {
    /// `incarnation` is that of the gateway's CONTROL. Each key has a CONTROL key of its own, and yet the incarnation
    /// rises with it: so the header alone shows that no counter is sealed twice.
    fn new(
        secret: &EpochSecret,
        (suite, slot): (Suite, SlotId),
        number: u32,
        incarnation: u32,
        since: BootTime,
    ) -> Self {
        Self {
            number,
            data: Some(secret.data_keys()),
            sealer: ControlSealer::new(secret, suite, Direction::GatewayToClient, slot, incarnation),
            opener: ControlOpener::new(secret, suite, Direction::ClientToGateway, slot),
            since,
        }
    }
}

/// The next key of a binding. On the heap of its own, like the one before: most of the time there is none.
pub(super) struct Rekey {
    pub(super) key: Box<Key>,
    pub(super) stage: RekeyStage,
}

/// How far a rekey is.
pub(super) enum RekeyStage {
    /// Waiting until every worker has the key.
    Installing(Box<Offer>),
    /// The answer has left; waits until it is used, replaced, or the key before it reaches its hard limit.
    Offered,
}

/// What leaves when the key is installed, or cannot be.
pub(super) struct Offer {
    seq: u64,
    until: BootTime,
    answer: Vec<u8>,
    refusal: [u8; REJECT_LEN],
    generation: GenerationSecrets,
    answered: StateVersion,
}

/// The key before: it only receives.
pub(super) struct Previous {
    pub(super) key: Box<Key>,
    /// When the workers are told to drop it, or told again.
    pub(super) until: BootTime,
    /// The entry that tells them.
    pub(super) dropping: Option<u64>,
}

/// What a proven request asks for, by the endpoint that the gateway sees.
pub(super) enum Asks {
    /// A fresh binding.
    Switch,
    /// New keys for the one that is bound.
    Rekey,
    /// The same, but the rekey before is not over.
    Wait(Duration),
}

impl Session {
    /// Only a confirmed binding at this very endpoint is rekeyed. A request under the pending generation of a rekey
    /// shows that its client has the keys but nothing came through under them: then the binding itself is replaced.
    pub(super) fn asks(&self, at: Arrival, under: Generation) -> Asks {
        let Some(binding) = self.binding.as_ref().filter(|binding| {
            let settled = binding.unconfirmed_until.is_none() && binding.adopting.is_none();
            settled && binding.remote == at.remote && binding.local == at.local
        }) else {
            return Asks::Switch;
        };
        if let Some(previous) = &binding.previous {
            return Asks::Wait(previous.until.after(DROP_PATIENCE).since(at.now));
        }
        match (&binding.rekey, under) {
            (Some(Rekey { stage: RekeyStage::Installing(_), .. }), _) => Asks::Wait(QUIESCE_TIMEOUT),
            (_, Generation::Pending) => Asks::Switch,
            (_, Generation::Confirmed) => Asks::Rekey,
        }
    }
}

impl Binding {
    /// Opens CONTROL under whichever key of this binding its sender has.
    pub(super) fn open_control(&mut self, datagram: &[u8]) -> Option<ControlMessage> {
        let later = self.rekey.as_mut().map(|rekey| &mut rekey.key.opener);
        let earlier = self.previous.as_mut().map(|previous| &mut previous.key.opener);
        let mut openers = [Some(&mut self.opener), later, earlier].into_iter().flatten();
        let message = openers.find_map(|opener| opener.open(datagram).ok())?;
        ControlMessage::decode(&message)
    }

    /// Number, DATA keys and start of the key in use, of the next and of the one before.
    fn all_keys(&self) -> impl Iterator<Item = (u32, Option<&DataKeys>, BootTime)> {
        let later = self.rekey.as_ref().map(|rekey| &rekey.key);
        let earlier = self.previous.as_ref().map(|previous| &previous.key);
        let others = later.into_iter().chain(earlier).map(|key| (key.number, key.data.as_ref(), key.since));
        std::iter::once((self.key_number, self.keys.as_ref(), self.key_since)).chain(others)
    }

    /// The keys that recognise this binding's frames: at most one per phase.
    pub(super) fn known_keys(&self, hard: Duration, view: &dyn ContextView) -> Box<[FormerKey]> {
        let known = |(number, data, since): (u32, Option<&DataKeys>, BootTime)| {
            Some(FormerKey {
                number,
                open_key: Zeroizing::new(data?.client_to_gateway),
                highest: view.highest_counter(self.slot.index(), number),
                hard_at: since.after(hard),
            })
        };
        self.all_keys().filter_map(known).collect()
    }

    /// Keeps what a restarted control plane needs of the next key or of the one before: never both are there. A key that
    /// is still being installed is not kept: its answer has not left.
    pub(super) fn pack_other_key(&self, p: &mut Packer<'_>) {
        let (kind, key) = match (&self.rekey, &self.previous) {
            (Some(Rekey { key, stage: RekeyStage::Offered }), _) => (OTHER_IS_NEXT, Some(key)),
            (Some(Rekey { stage: RekeyStage::Installing(_), .. }) | None, Some(previous)) => {
                (OTHER_IS_PREVIOUS, Some(&previous.key))
            }
            (_, None) => (NO_OTHER, None),
        };
        p.u8(kind);
        let Some(key) = key else { return };
        p.u64(key.since.0);
        p.octets(key.sealer.secret().as_octets()).u32(key.sealer.incarnation());
        p.octets(key.opener.secret().as_octets());
        let heard = key.opener.heard().map(|heard| (heard.incarnation, heard.highest_counter));
        p.option(heard, |p, (incarnation, counter)| p.u32(incarnation).u64(counter));
    }

    /// Reads what [`Self::pack_other_key`] kept. The key before is dropped at once: its overlap is over.
    pub(super) fn unpack_other_key(
        &mut self,
        p: &mut Unpacker<'_>,
        suite: Suite,
        now: BootTime,
    ) -> Option<()> {
        let kind = p.u8()?;
        let number = match kind {
            NO_OTHER => return Some(()),
            OTHER_IS_NEXT => self.key_number.checked_add(1)?,
            OTHER_IS_PREVIOUS => self.key_number.checked_sub(1)?,
            _ => return None,
        };
        let since = BootTime(p.u64()?);
        let ours = ControlSecret::from_octets(Zeroizing::new(p.octets()?));
        let incarnation = p.u32()?.checked_add(1)?;
        let theirs = ControlSecret::from_octets(Zeroizing::new(p.octets()?));
        let heard = p.option(|p| Some(Heard { incarnation: p.u32()?, highest_counter: p.u64()? }))?;
        let key = Box::new(Key {
            number,
            data: None,
            sealer: ControlSealer::from_secret(ours, suite, self.slot, incarnation),
            opener: ControlOpener::from_secret(theirs, suite, self.slot, heard),
            since,
        });
        if kind == OTHER_IS_NEXT {
            self.rekey = Some(Rekey { key, stage: RekeyStage::Offered });
        } else {
            self.previous = Some(Previous { key, until: now, dropping: None });
        }
        Some(())
    }

    /// The install entry by which a rekey is going on or coming to its end.
    pub(super) fn rekey_entries(&self) -> impl Iterator<Item = u64> {
        let adding = match &self.rekey {
            Some(Rekey { stage: RekeyStage::Installing(offer), .. }) => Some(offer.seq),
            Some(Rekey { stage: RekeyStage::Offered, .. }) | None => None,
        };
        adding.into_iter().chain(self.previous.as_ref().and_then(|previous| previous.dropping))
    }

    fn is_adding(&self, seq: u64) -> bool {
        matches!(&self.rekey, Some(Rekey { stage: RekeyStage::Installing(offer), .. }) if offer.seq == seq)
    }

    fn is_dropping(&self, seq: u64) -> bool {
        self.previous.as_ref().is_some_and(|previous| previous.dropping == Some(seq))
    }

    /// Whether a rekey's installation has taken too long.
    pub(super) fn rekey_is_late(&self, now: BootTime) -> bool {
        matches!(&self.rekey, Some(Rekey { stage: RekeyStage::Installing(offer), .. }) if now >= offer.until)
    }

    /// Whether the key before is to be dropped now.
    pub(super) fn previous_is_over(&self, now: BootTime) -> bool {
        self.previous.as_ref().is_some_and(|previous| now >= previous.until)
    }

    /// Whether the workers seal with the key that was offered.
    pub(super) fn is_flipped(&self, view: &dyn ContextView) -> bool {
        matches!(&self.rekey, Some(Rekey { key, stage: RekeyStage::Offered })
            if view.sending_key(self.slot.index()) == Some(key.number))
    }
}

impl World {
    /// DATA packets under one key and direction after which it is not used any more.
    pub(super) fn hard_packets(&self, suite: Suite) -> u64 {
        let largest = usize::from(self.settings.tunnel.mtu);
        limits::hard_packets(suite, largest).min(u64::from(self.settings.policy.rekey_hard_packets))
    }

    /// The next moment at which something may be due for the keys of a session.
    pub(super) fn key_deadline(&self, session: &Session) -> Option<BootTime> {
        let binding = session.binding.as_ref()?;
        let hard = binding.key_since.after(self.settings.policy.rekey_hard);
        let installing = match &binding.rekey {
            Some(Rekey { stage: RekeyStage::Installing(offer), .. }) => Some(offer.until),
            Some(Rekey { stage: RekeyStage::Offered, .. }) | None => None,
        };
        let previous = binding.previous.as_ref().map(|previous| previous.until);
        let hard = session.core.state().is_bound().then_some(hard);
        [hard, installing, previous].into_iter().flatten().min()
    }

    /// Whether the key in use has reached a hard limit: age, packets of either direction, frames that did not open.
    pub(super) fn key_is_exhausted(&self, session: &Session, now: BootTime, view: &dyn ContextView) -> bool {
        let Some(binding) = session.binding.as_ref().filter(|_| session.core.state().is_bound()) else {
            return false;
        };
        let (index, number) = (binding.slot.index(), binding.key_number);
        let most = self.hard_packets(session.suite);
        now >= binding.key_since.after(self.settings.policy.rekey_hard)
            || view.sealed(index, number).is_some_and(|sealed| sealed >= most)
            || view.highest_counter(index, number).is_some_and(|highest| highest.saturating_add(1) >= most)
            || view.failed_opens(index) >= limits::failed_opens(session.suite)
    }

    /// Check 13 of a rekey: everything passed but what only the binding knows.
    pub(super) fn rekey(
        &mut self,
        session: &mut Session,
        at: Arrival,
        known: &Known<'_>,
        asked: Asked,
        view: &dyn ContextView,
    ) {
        let Asked { proof, request, anchor_version, .. } = asked;
        let claim = ReattachClaim { under: known.under, anchor_version, voluntary: false };
        match admit_rekey(&session.core, proof, claim, at.now, &self.settings.policy) {
            Ok(()) => {}
            Err(Rejection::Refused { reason, retry_after }) => {
                return self.refuse(session, at, known, reason, retry_after);
            }
            Err(Rejection::Ignored | Rejection::Relinquished) => {
                return self.refuse(session, at, known, Reason::Unavailable, Duration::ZERO);
            }
        }
        // A key that is in use already is not replaced.
        self.note_flip(session, at.now, view);
        if let Asks::Wait(wait) = session.asks(at, known.under) {
            return self.refuse(session, at, known, Reason::RateLimited, wait);
        }
        let unavailable = Duration::from_millis(u64::from(UNAVAILABLE_RETRY_MS));
        let next = session.binding.as_ref().and_then(|binding| {
            let incarnation = binding.sealer.incarnation().checked_add(1)?;
            Some((binding.slot, binding.key_number.checked_add(1)?, incarnation))
        });
        let (true, Some((slot, number, incarnation))) = (self.is_up(), next) else {
            return self.refuse(session, at, known, Reason::Unavailable, unavailable);
        };
        let answered = self.fresh_handle().and_then(|handle| {
            let binding = self.binding_grant(&session.core, slot, handle);
            let payload = ReattachGrant { rekey: true, key_number: number, binding }.encode();
            request.answer(&payload).ok().map(|(answer, secret)| (handle, answer, secret))
        });
        let Some((handle, answer, secret)) = answered else {
            self.counters.count(Counter::CryptoFailed);
            return self.refuse(session, at, known, Reason::Unavailable, unavailable);
        };
        self.counters.count(Counter::ReattachAccepted);
        session.answered = Some(Answered {
            request: known.frame.datagram().into(),
            remote: at.remote,
            local: at.local,
            answer: None,
        });
        session.refused = None;
        let offer = Box::new(Offer {
            seq: self.install_seq + 1,
            until: at.now.after(INSTALL_TIMEOUT),
            answer,
            refusal: refusal(known, Reason::Unavailable, unavailable),
            generation: GenerationSecrets { resume: secret.resume(), handle },
            answered: session.core.version(),
        });
        let key = Box::new(Key::new(&secret, (session.suite, slot), number, incarnation, at.now));
        if let Some(binding) = &mut session.binding {
            binding.rekey = Some(Rekey { key, stage: RekeyStage::Installing(offer) });
        }
        let entered = self.enter_key(session, InstallOp::AddKey, number);
        debug_assert!(entered.is_some(), "fresh keys are there");
    }

    /// Puts one key of the binding, by its number, into the mailbox. Returns the entry's sequence; `None` if this process
    /// never had the keys.
    fn enter_key(&mut self, session: &Session, op: InstallOp, number: u32) -> Option<u64> {
        let prefixes = self.prefixes_of(&session.peer);
        let binding = session.binding.as_ref()?;
        let keys = binding.all_keys().find(|(other, ..)| *other == number).and_then(|(_, keys, _)| keys)?;
        let seq = self.install_seq + 1;
        let mut entry = binding.entry(op, seq, session.suite, &prefixes, (number, keys));
        entry.hard_packets = self.hard_packets(session.suite);
        self.enter(session.id(), entry);
        Some(seq)
    }

    fn enter(&mut self, id: SessionId, entry: Box<InstallEntry>) {
        let seq = entry.seq;
        self.install_seq = seq;
        self.installing.insert(seq, id);
        self.commands.push_back(TableCommand::Install { seq, entry });
    }

    /// A report about an entry of a rekey. `false`: it is about something else.
    pub(super) fn rekey_installed(&mut self, session: &mut Session, seq: u64) -> bool {
        let Some(binding) = &mut session.binding else { return false };
        if binding.is_dropping(seq) {
            binding.previous = None;
            return true;
        }
        if !binding.is_adding(seq) {
            return false;
        }
        let (remote, local) = (binding.remote, binding.local);
        let stage =
            binding.rekey.as_mut().map(|rekey| std::mem::replace(&mut rekey.stage, RekeyStage::Offered));
        let Some(RekeyStage::Installing(offer)) = stage else { return false };
        if !session.core.rekey_answered(offer.answered) {
            debug_assert!(false, "a rekey lives as long as its confirmed binding");
            binding.rekey = None;
            return true;
        }
        self.turn_generations(session, Generation::Confirmed, offer.generation);
        if let Some(answered) = &mut session.answered {
            answered.answer = Some(offer.answer.as_slice().into());
        }
        self.send(remote, local, offer.answer);
        true
    }

    /// An entry of a rekey was refused. `false`: it is about something else.
    pub(super) fn rekey_refused(&mut self, session: &mut Session, now: BootTime, seq: u64) -> bool {
        let Some(binding) = &mut session.binding else { return false };
        if let Some(previous) = binding.previous.as_mut().filter(|previous| previous.dropping == Some(seq)) {
            previous.dropping = None;
            previous.until = now.after(QUIESCE_TIMEOUT);
            return true;
        }
        let adding = binding.is_adding(seq);
        if adding {
            self.fail_rekey(session);
        }
        adding
    }

    /// A rekey could not be installed: its generation never left, the binding goes on, the client is told.
    pub(super) fn fail_rekey(&mut self, session: &mut Session) {
        let Some(binding) = &mut session.binding else { return };
        let (remote, local) = (binding.remote, binding.local);
        let installing = |rekey: &mut Rekey| matches!(rekey.stage, RekeyStage::Installing(_));
        let Some(Rekey { stage: RekeyStage::Installing(offer), .. }) = binding.rekey.take_if(installing)
        else {
            return;
        };
        self.installing.remove(&offer.seq);
        session.answered = None;
        self.counters.reattach_rejected(Reason::Unavailable);
        self.send(remote, local, offer.refusal.to_vec());
    }

    /// The workers seal with the offered key: it is the binding's key now, and its generation the confirmed one.
    pub(super) fn note_flip(&mut self, session: &mut Session, now: BootTime, view: &dyn ContextView) {
        let hard = self.settings.policy.rekey_hard;
        let Some(binding) = session.binding.as_mut().filter(|binding| binding.is_flipped(view)) else {
            return;
        };
        let Some(rekey) = binding.rekey.take() else { return };
        let Key { number, data, sealer, opener, since } = *rekey.key;
        let key = Box::new(Key {
            number: std::mem::replace(&mut binding.key_number, number),
            data: std::mem::replace(&mut binding.keys, data),
            sealer: std::mem::replace(&mut binding.sealer, sealer),
            opener: std::mem::replace(&mut binding.opener, opener),
            since: std::mem::replace(&mut binding.key_since, since),
        });
        let overlap = three_round_trips(round_trip(view, binding.slot.index()));
        let until = now.after(overlap).min(key.since.after(hard));
        binding.previous = Some(Previous { key, until, dropping: None });
        if let Some(pending) = session.pending.take()
            && let Some(erased) = session.confirmed.replace(pending)
        {
            self.erase(session, erased.handle);
        }
        self.counters.count(Counter::Rekeyed);
        self.step(session, Event::Rekeyed, now, view);
    }

    /// The overlap is over: the workers drop the key before. Said again if they do not report. Without a data plane nobody
    /// has it, and the next one does not get it.
    pub(super) fn drop_previous(&mut self, session: &mut Session, now: BootTime) {
        let (id, seq) = (session.id(), self.install_seq + 1);
        let Some(binding) = &mut session.binding else { return };
        if self.data_plane == DataPlane::Lost {
            binding.previous = None;
            return;
        }
        let Some(previous) = &mut binding.previous else { return };
        if let Some(earlier) = previous.dropping.replace(seq) {
            self.installing.remove(&earlier);
        }
        previous.until = now.after(INSTALL_TIMEOUT);
        let entry = drop_entry(seq, binding.word, binding.slot, previous.key.number);
        self.enter(id, entry);
    }

    /// The data plane's exit was seen: what it was told and did not report is void.
    pub(super) fn void_rekey(&mut self, session: &mut Session) {
        self.fail_rekey(session);
        if let Some(binding) = &mut session.binding {
            binding.previous.take_if(|previous| previous.dropping.is_some());
        }
    }

    /// Gives a restarted data plane every key of a binding. Returns the sequence of the last entry; `None` if this
    /// process has not the keys that are in use.
    pub(super) fn adopt_keys(&mut self, session: &mut Session) -> Option<u64> {
        let binding = session.binding.as_mut()?;
        binding.previous.take_if(|previous| previous.key.data.is_none());
        let in_use = binding.key_number;
        let others: Vec<u32> = binding.all_keys().map(|(number, ..)| number).skip(1).collect();
        let first = self.enter_key(session, InstallOp::Adopt, in_use)?;
        let mut last = first;
        for number in others {
            last = self.enter_key(session, InstallOp::AdoptKey, number).unwrap_or(last);
        }
        Some(last)
    }

    /// Nothing recognises the frames of the former binding any more.
    pub(super) fn forget_former(&mut self, session: &mut Session) {
        if let Some(former) = session.former.take() {
            self.by_slot.remove(&former.slot);
        }
    }
}

/// The entry by which the workers drop a key.
pub(super) fn drop_entry(seq: u64, word: BindingWord, slot: SlotId, number: u32) -> Box<InstallEntry> {
    let op = InstallOp::DropKey as u32;
    let rest = InstallEntry::zeroed();
    Box::new(InstallEntry { seq, word: word.0, op, slot: slot.0, key_number: number, ..rest })
}
