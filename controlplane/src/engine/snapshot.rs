//! A session as one record of JOURNAL: everything that must go on after the control plane was killed, and no DATA key.
//!
//! | Kept | Why |
//! |---|---|
//! | the plain core | all that `transition` reads: state, version, epoch, deadlines, switch log, nonce mark, anchors |
//! | both generations, the erased handle | the client always gets back in; a replay stays one |
//! | slot, endpoints, stage of the binding | what the tables may bind for it; what is unfinished |
//! | numbers and ages of its keys | a rekey goes on where it was; limits hold over a restart |
//! | CONTROL secrets, own incarnation, what was heard | the next incarnation speaks; nothing opens twice |
//! | routed slot, recovery, earlier traffic | routes stay; what is measured goes on |
//! | for how many seconds quality was bad in this state | its deadline stays, but for the time of nobody judging |

use super::api::{TableCommand, Traffic};
use super::early::Advance;
use super::quality::QualityWatch;
use super::session::{Attempt, Binding, GenerationSecrets, Recovery, Session, Stage};
use super::world::World;
use jvpn_abi::BootTime;
use jvpn_abi::tables::{BindingWord, JOURNAL_PLAIN_LEN};
use jvpn_abi::wire::{SlotId, Suite};
use jvpn_crypto::control::{ControlOpener, ControlSealer, Heard};
use jvpn_crypto::keys::PublicKey;
use jvpn_crypto::schedule::{ControlSecret, Resume};
use jvpn_session::messages::Handle;
use jvpn_session::pack::{Packer, Unpacker};
use jvpn_session::{BindingPhase, Policy, SessionCore};
use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;
use zeroize::Zeroizing;

/// The plain text of a record. Wiped when dropped; prints nothing.
#[derive(Clone)]
pub struct Snapshot(Zeroizing<[u8; JOURNAL_PLAIN_LEN]>);

impl Snapshot {
    /// Octets that were kept.
    #[must_use]
    pub const fn from_octets(octets: Zeroizing<[u8; JOURNAL_PLAIN_LEN]>) -> Self {
        Self(octets)
    }

    /// The octets to keep.
    #[must_use]
    pub fn octets(&self) -> &[u8; JOURNAL_PLAIN_LEN] {
        &self.0
    }

    /// Tells a record from the one before. Two different ones look equal once in 2^64 times.
    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(&*self.0);
        hasher.finish()
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Snapshot(..)")
    }
}

/// A session's place in JOURNAL and what stands there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) index: u32,
    digest: Option<u64>,
}

impl Place {
    /// A place whose content is to be replaced, whatever it is.
    pub(super) const fn of_another(index: u32) -> Self {
        Self { index, digest: None }
    }
}

/// The records of JOURNAL: which are free.
#[derive(Debug)]
pub(super) struct Places {
    capacity: u32,
    /// The first that was never used.
    fresh: u32,
    free: Vec<u32>,
    /// A session once found no place: JOURNAL does not know all of them.
    overflowed: bool,
}

impl Places {
    /// All free, but for those in use.
    pub(super) fn new(capacity: u32, in_use: &std::collections::BTreeSet<u32>) -> Self {
        let fresh = in_use.last().map_or(0, |last| last.saturating_add(1));
        // Low ones are handed out first, so that little memory is touched.
        let free = (0..fresh).rev().filter(|index| !in_use.contains(index)).collect();
        Self { capacity, fresh, free, overflowed: false }
    }

    pub(super) const fn has_room(&self) -> bool {
        !self.free.is_empty() || self.fresh < self.capacity
    }

    pub(super) const fn has_overflowed(&self) -> bool {
        self.overflowed
    }

    fn take(&mut self) -> Option<u32> {
        let taken = self.free.pop().or_else(|| {
            let index = self.fresh;
            (index < self.capacity).then(|| self.fresh += 1)?;
            Some(index)
        });
        self.overflowed |= taken.is_none();
        taken
    }
}

impl World {
    /// Writes what became of a session into JOURNAL, before the commands behind `mark`, which follow from it.
    pub(super) fn journal(&mut self, session: &mut Session, mark: usize) {
        let Some(places) = &mut self.journal else { return };
        if std::mem::take(&mut session.unchanged)
            && let Some(place) = session.journal
        {
            debug_assert_eq!(place.digest, Some(session.snapshot().digest()), "it did change");
            return;
        }
        if !session.core.state().is_live() {
            if let Some(Place { index, .. }) = session.journal.take() {
                places.free.push(index);
                self.commands.insert(mark, TableCommand::Journal { index, snapshot: None });
            }
            return;
        }
        let snapshot = session.snapshot();
        let digest = Some(snapshot.digest());
        let index = match session.journal {
            Some(place) if place.digest == digest => return,
            Some(place) => place.index,
            // Without a record a session is loaded from the store after its process has died.
            None => match places.take() {
                Some(index) => index,
                None => return self.counters.count(super::Counter::JournalFull),
            },
        };
        session.journal = Some(Place { index, digest });
        let snapshot = Some(Box::new(snapshot));
        self.commands.insert(mark, TableCommand::Journal { index, snapshot });
    }
}

/// How far the binding in a record is.
const NO_BINDING: u8 = 0;
const ON_ITS_WAY: u8 = 1;
const BOUND: u8 = 2;

impl Session {
    /// The record of this session.
    pub(super) fn snapshot(&self) -> Snapshot {
        let mut octets = Zeroizing::new([0; JOURNAL_PLAIN_LEN]);
        let mut p = Packer::new(&mut *octets);
        self.core.pack(&mut p);
        p.octets(&self.peer.0).u8(self.suite as u8);
        for secrets in [&self.confirmed, &self.pending] {
            let parts = secrets.as_ref().map(|s| (*s.resume.as_octets(), s.handle.0));
            p.option(parts, |p, (resume, handle)| p.octets(&resume).octets(&handle));
        }
        p.option(self.erased.map(|handle| handle.0), |p, handle| p.octets(&handle));
        p.option(self.routed.map(|slot| slot.0), Packer::u32);
        let traffic = self.earlier_traffic;
        p.u64(traffic.packets_in).u64(traffic.bytes_in).u64(traffic.packets_out).u64(traffic.bytes_out);
        let recovery = self.recovery.as_ref().map(|r| (r.left, r.last_heard.0, r.detect_ms));
        p.option(recovery, |p, (left, heard, detect)| {
            p.endpoint(left).u64(heard).option(detect, Packer::u32)
        });
        // In seconds: while it is bad a record is written once in each.
        let bad_for = self.quality.level().bad_for(self.core.entered_at());
        p.option(bad_for.map(|span| u32::try_from(span.as_secs()).unwrap_or(u32::MAX)), Packer::u32);
        match (&self.binding, &self.attempt) {
            (Some(binding), _) => pack_binding(p.u8(BOUND), binding),
            (None, Some(attempt)) => pack_binding(p.u8(ON_ITS_WAY), &attempt.binding),
            (None, None) => {
                p.u8(NO_BINDING);
            }
        }
        let fits = p.finish();
        debug_assert!(fits, "a session does not fit its record");
        Snapshot(octets)
    }

    /// The session of a record, as it stood there: what is unfinished is still unfinished. CONTROL goes on with the next
    /// incarnation. `None` if the record is impossible.
    pub(super) fn restore(snapshot: &Snapshot, policy: &Policy, now: BootTime) -> Option<Box<Self>> {
        let mut p = Unpacker::new(&*snapshot.0);
        let mut core = SessionCore::unpack(&mut p)?;
        core.bound_switches(policy.max_switches_per_min);
        let peer = PublicKey(p.octets()?);
        let suite = Suite::from_number(p.u8()?)?;
        let mut session = Box::new(Self::new(core, peer, suite, policy));
        session.confirmed = p.option(unpack_secrets)?;
        session.pending = p.option(unpack_secrets)?;
        session.erased = p.option(|p| p.octets().map(Handle))?;
        session.routed = p.option(|p| p.u32().map(SlotId))?;
        session.earlier_traffic =
            Traffic { packets_in: p.u64()?, bytes_in: p.u64()?, packets_out: p.u64()?, bytes_out: p.u64()? };
        session.recovery = p.option(|p| {
            Some(Box::new(Recovery {
                left: p.endpoint()?,
                last_heard: BootTime(p.u64()?),
                detect_ms: p.option(Unpacker::u32)?,
                rtt_us: 0,
            }))
        })?;
        session.dead_check_at = now.after(policy.dead_after_min);
        if session.core.state().is_bound() {
            session.advance = Advance::Due;
        }
        let bad_for = p.option(Unpacker::u32)?.map(|seconds| Duration::from_secs(u64::from(seconds)));
        // A path that was bad is judged anew as soon as can be; the others can wait for their first check for silence.
        let soon = bad_for.map(|_| QualityWatch::first_look(now, policy));
        session.quality = QualityWatch::restored(bad_for, soon.unwrap_or(session.dead_check_at));
        match p.u8()? {
            NO_BINDING => {}
            ON_ITS_WAY => {
                let binding = unpack_binding(&mut p, suite, now)?;
                let (stage, answer, refusal) = (Stage::Installing { seq: 0 }, Vec::new(), None);
                session.attempt = Some(Box::new(Attempt { binding, stage, until: now, answer, refusal }));
            }
            BOUND => {
                let mut binding = unpack_binding(&mut p, suite, now)?;
                binding.unconfirmed_until = (session.core.phase() == BindingPhase::Unconfirmed)
                    .then(|| now.after(super::bindings::UNCONFIRMED_MIN));
                session.binding = Some(binding);
            }
            _ => return None,
        }
        session.core.state().is_live().then_some(session).filter(|s| s.broken_invariant(policy).is_none())
    }
}

fn unpack_secrets(p: &mut Unpacker<'_>) -> Option<GenerationSecrets> {
    let resume = Resume::from_octets(Zeroizing::new(p.octets()?));
    Some(GenerationSecrets { resume, handle: Handle(p.octets()?) })
}

fn pack_binding(p: &mut Packer<'_>, binding: &Binding) {
    p.u32(binding.slot.0).u64(binding.epoch).endpoint(binding.remote).endpoint(binding.local);
    p.octets(binding.sealer.secret().as_octets()).u32(binding.sealer.incarnation());
    p.octets(binding.opener.secret().as_octets());
    let heard = binding.opener.heard().map(|heard| (heard.incarnation, heard.highest_counter));
    p.option(heard, |p, (incarnation, counter)| p.u32(incarnation).u64(counter));
    p.u32(binding.key_number).u64(binding.key_since.0);
    binding.pack_other_key(p);
}

fn unpack_binding(p: &mut Unpacker<'_>, suite: Suite, now: BootTime) -> Option<Binding> {
    let slot = SlotId(p.u32()?);
    let epoch = p.u64()?;
    let (remote, local) = (p.endpoint()?, p.endpoint()?);
    let ours = ControlSecret::from_octets(Zeroizing::new(p.octets()?));
    // Used up only if a process died four thousand million times under one epoch.
    let incarnation = p.u32()?.checked_add(1)?;
    let theirs = ControlSecret::from_octets(Zeroizing::new(p.octets()?));
    let heard = p.option(|p| Some(Heard { incarnation: p.u32()?, highest_counter: p.u64()? }))?;
    let (key_number, key_since) = (p.u32()?, BootTime(p.u64()?));
    let mut binding = Binding {
        slot,
        word: BindingWord::bound(slot, epoch),
        epoch,
        remote,
        local,
        keys: None,
        sealer: ControlSealer::from_secret(ours, suite, slot, incarnation),
        opener: ControlOpener::from_secret(theirs, suite, slot, heard),
        key_number,
        key_since,
        rekey: None,
        previous: None,
        alive_since: now,
        patience: super::bindings::UNCONFIRMED_MIN,
        // What the workers have of it goes on; this process cannot give it to others, without its keys.
        early_packets: 0,
        unconfirmed_until: None,
        adopting: None,
    };
    binding.unpack_other_key(p, suite, now)?;
    Some(binding)
}
