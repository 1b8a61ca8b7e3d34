//! HANDSHAKE_INIT: from a datagram to a session in BIRTH with its first binding under way.
//!
//! Order: MAC (silence for scanners) · under load a cookie · the node's limit · Noise message · allow-list · timestamp, made
//! durable before anything leaves · versions and suites by the server's preference · sessions and slots ·
//! birth.

use super::api::ContextView;
use super::counters::Counter;
use super::retry::Work;
use super::session::{Binding, GenerationSecrets, Session};
use super::world::World;
use super::{Arrival, Engine};
use crate::audit::{AuditKind, LimitScope, Violation};
use jvpn_abi::wire::reset::{Reset, ResetKind};
use jvpn_abi::wire::{SlotId, Suite};
use jvpn_abi::{PROTOCOL_VERSION, Reason};
use jvpn_crypto::Proven;
use jvpn_crypto::cookie::Question;
use jvpn_crypto::handshake::{IncomingInit, init_mac_ok, read_init};
use jvpn_session::messages::{
    BindingGrant, Handle, HandshakeAnswer, HandshakeGrant, HandshakeOffer, SessionId,
};
use jvpn_session::{Event, SessionCore};

/// One node without a load balancer has one shard.
pub(super) const SHARD: u16 = 0;
/// A client that found no room comes back after this.
const FULL_RETRY_MS: u32 = 30_000;
/// A client that found no data plane comes back after this.
pub(super) const UNAVAILABLE_RETRY_MS: u32 = 500;
/// The first term of a session that was never taken over.
const FIRST_TERM: u32 = 0;

/// A handshake whose sender is known and whose message is fresh.
struct Fresh {
    proof: Proven,
    init: IncomingInit,
    offer: HandshakeOffer,
}

/// A handshake that is granted a session.
struct Birth {
    proof: Proven,
    init: IncomingInit,
    suite: Suite,
    slot: SlotId,
    timestamp_ns: u64,
}

impl Engine {
    pub(super) fn handshake(&mut self, at: Arrival, datagram: &[u8], view: &dyn ContextView) {
        let Some(Fresh { proof, init, offer }) = self.world.admit_handshake(at, datagram) else { return };
        let peer = init.peer;
        let suite = match self.world.choose(&offer, &peer, at.now) {
            Ok(suite) => suite,
            Err((reason, retry_after_ms)) => {
                return self.world.refuse_handshake(at, init, reason, retry_after_ms);
            }
        };
        let slot = match self.world.slots.take(&mut *self.world.durable) {
            Ok(slot) => slot,
            Err(error) => {
                tracing::warn!(%error, "a handshake found no slot");
                self.world.counters.count(Counter::NoSlot);
                return self.world.refuse_handshake(at, init, Reason::Unavailable, FULL_RETRY_MS);
            }
        };
        let mark = self.world.commands.len();
        let birth = Birth { proof, init, suite, slot, timestamp_ns: offer.timestamp_ns };
        let Some(mut session) = self.bear(at, birth) else {
            self.world.slots.release(slot);
            return;
        };
        // Before anything else may take or free a record.
        self.world.journal(&mut session, mark);
        // A birth that nobody confirmed gives way at once; a session past its birth only to the first frame.
        if let Some(older) = self.world.peers.get(&peer).and_then(|peer| peer.birth) {
            self.happen(older, Event::Superseded, at.now, view);
        }
        let id = session.id();
        if let Some(peer) = self.world.peers.get_mut(&peer) {
            peer.birth = Some(id);
        }
        self.world.live += 1;
        self.world.schedule(&mut session);
        debug_assert_eq!(session.broken_invariant(&self.world.settings.policy), None);
        self.sessions.insert(id, session);
        self.bound_memory();
    }

    /// The session, its answer on hold until the binding is installed.
    fn bear(&mut self, at: Arrival, birth: Birth) -> Option<Box<Session>> {
        let Birth { proof, init, suite, slot, timestamp_ns } = birth;
        let id = SessionId(self.world.random()?);
        let handle = self.world.fresh_handle()?;
        if self.sessions.contains_key(&id) {
            // 2^-128 per session: a random source that does this is broken.
            self.world.counters.count(Counter::CryptoFailed);
            return None;
        }
        let peer = init.peer;
        let next = jvpn_session::birth(proof, id, FIRST_TERM, at.now);
        let answer = self.world.grant(&next.core, &peer, suite, slot, handle)?.encode();
        let psk = self.world.peers.get(&peer)?.settings.preshared_key.clone();
        let Ok((response, secret)) = init.respond(&psk, &answer) else {
            self.world.counters.count(Counter::CryptoFailed);
            return None;
        };
        let path = (at.remote, at.local);
        let binding = Binding::new(&secret, suite, slot, next.core.epoch(), path, at.now);
        let policy = &self.world.settings.policy;
        let mut session = Box::new(Session::new(next.core.clone(), peer, suite, policy));
        session.pending = Some(GenerationSecrets { resume: secret.resume(), handle });
        session.takeover = Some(secret.root().takeover());
        self.world.handles.insert(handle.0, id);
        self.world.counters.count(Counter::SessionsBorn);
        let created = AuditKind::SessionCreated {
            peer: self.world.peer_name(&peer),
            policy: self.world.settings.policy_name.clone(),
        };
        self.world.report(&mut session, at.now, Reason::HandshakeStart, created);
        self.world.commit(&mut session, next, at.now, &NoContext);
        match self.world.store_birth(&session, &secret.root(), timestamp_ns) {
            Some(ticket) => self.world.begin_stored(&mut session, binding, response, ticket, at.now),
            None => self.world.begin(&mut session, binding, response, None, at.now),
        }
        Some(session)
    }
}

/// A session that is being born has nothing in CONTEXT.
struct NoContext;

impl ContextView for NoContext {
    fn last_heard(&self, _: u32) -> Option<jvpn_abi::BootTime> {
        None
    }
    fn peer_interval_ms(&self, _: u32) -> Option<u32> {
        None
    }
    fn confirmed(&self, _: u32, _: jvpn_abi::tables::BindingWord) -> bool {
        false
    }
    fn highest_counter(&self, _: u32, _: u32) -> Option<u64> {
        None
    }
    fn sending_key(&self, _: u32) -> Option<u32> {
        None
    }
    fn sealed(&self, _: u32, _: u32) -> Option<u64> {
        None
    }
    fn failed_opens(&self, _: u32) -> u64 {
        0
    }
    fn traffic(&self, _: u32) -> super::Traffic {
        super::Traffic::default()
    }
    fn probed(&self, _: u32) -> Option<super::Probed> {
        None
    }
}

impl World {
    /// Everything before the sender deserves an answer. What fails here is counted and meets silence.
    fn admit_handshake(&mut self, at: Arrival, datagram: &[u8]) -> Option<Fresh> {
        if !init_mac_ok(&self.public_key, datagram) {
            self.counters.count(Counter::HandshakeMacWrong);
            self.note_abuse(at, Reason::AuthFail);
            return None;
        }
        self.counters.count(Counter::HandshakeReceived);
        let at = self.pass(at, Work::Handshake, &Question::of_init(datagram)?)?;
        if self.limits.handshakes.take(at.now, at.address).is_err() {
            let kind = AuditKind::RateLimit { scope: LimitScope::Global };
            return self.drop_handshake(at, Reason::RateLimited, kind);
        }
        let security = |violation| AuditKind::Security { violation };
        let Ok((proof, init)) = read_init(&mut *self.rng, &self.private_key, datagram) else {
            return self.drop_handshake(at, Reason::AuthFail, security(Violation::AuthFail));
        };
        if !self.is_allowed(&init.peer) {
            return self.drop_handshake(at, Reason::PolicyDeny, security(Violation::UnknownPeer));
        }
        let Some(offer) = HandshakeOffer::decode(&init.payload) else {
            return self.drop_handshake(at, Reason::Malformed, security(Violation::Malformed));
        };
        let last = self.durable.handshake_timestamp(&init.peer);
        if last.is_some_and(|last| offer.timestamp_ns <= last) {
            return self.drop_handshake(at, Reason::ReplayDetected, security(Violation::ReplayDetected));
        }
        // Only what is fresh: nobody may use up a peer's own limit with a handshake that he saw.
        let own = self.peers.get_mut(&init.peer).map(|peer| peer.handshakes.take(at.now));
        if !matches!(own, Some(Ok(()))) {
            let kind = AuditKind::RateLimit { scope: LimitScope::Session };
            return self.drop_handshake(at, Reason::RateLimited, kind);
        }
        if let Err(error) = self.durable.record_handshake(&init.peer, offer.timestamp_ns) {
            // An answer now could be replayed after a restart: none leaves.
            tracing::error!(%error, "a handshake could not be made durable and is not answered");
            self.counters.count(Counter::StateWriteFailed);
            self.counters.handshake_refused(Reason::Unavailable);
            return None;
        }
        Some(Fresh { proof, init, offer })
    }

    fn drop_handshake(&mut self, at: Arrival, reason: Reason, kind: AuditKind) -> Option<Fresh> {
        self.counters.handshake_refused(reason);
        self.note_abuse(at, reason);
        self.report_node(at.now, Some(reason), kind);
        None
    }

    /// The suite, by this node's preference, or why there will be no session and when to ask again.
    fn choose(
        &self,
        offer: &HandshakeOffer,
        peer: &jvpn_crypto::keys::PublicKey,
        now: jvpn_abi::BootTime,
    ) -> Result<Suite, (Reason, u32)> {
        if !offer.versions.contains(&PROTOCOL_VERSION) {
            return Err((Reason::VersionUnsupported, 0));
        }
        let offered = |suite: &&Suite| offer.suites.contains(&(**suite as u8));
        let Some(suite) = self.settings.suites.iter().find(offered) else {
            return Err((Reason::VersionUnsupported, 0));
        };
        // A peer that is here already only replaces itself, so it always gets back in (I13).
        let is_here = !self.sessions_of(peer).is_empty();
        let is_full = self.live >= self.settings.policy.max_sessions as usize && !is_here;
        if is_full || self.journal.as_ref().is_some_and(|places| !places.has_room()) {
            return Err((Reason::PolicyDeny, FULL_RETRY_MS));
        }
        if !self.is_up() {
            return Err((Reason::Unavailable, UNAVAILABLE_RETRY_MS));
        }
        if let Some(pause_ms) = self.store_pause_ms(now) {
            return Err((Reason::Unavailable, pause_ms));
        }
        Ok(*suite)
    }

    fn refuse_handshake(&mut self, at: Arrival, init: IncomingInit, reason: Reason, retry_after_ms: u32) {
        self.counters.handshake_refused(reason);
        if reason == Reason::PolicyDeny {
            let max = u64::from(self.settings.policy.max_sessions);
            let kind =
                AuditKind::Policy { name: "max_sessions", threshold: max, observed: self.live as u64 + 1 };
            self.report_node(at.now, Some(reason), kind);
        }
        let Some(peer) = self.peers.get(&init.peer) else { return };
        let psk = peer.settings.preshared_key.clone();
        let answer = HandshakeAnswer::Refused { reason, retry_after_ms }.encode();
        match init.respond(&psk, &answer) {
            Ok((response, _)) => self.send(at.remote, at.local, response),
            Err(_) => self.counters.count(Counter::CryptoFailed),
        }
    }

    /// A handle that no session has.
    pub(super) fn fresh_handle(&mut self) -> Option<Handle> {
        // Two of 2^17 handles meet with probability 2^-47; a few draws more than suffice.
        for _ in 0..4 {
            let handle = self.random()?;
            if !self.handles.contains(&handle) {
                return Some(Handle(handle));
            }
        }
        self.counters.count(Counter::CryptoFailed);
        None
    }

    /// What a new binding brings with it.
    pub(super) fn binding_grant(&self, core: &SessionCore, slot: SlotId, handle: Handle) -> BindingGrant {
        self.grant_of(core.epoch(), core.version().0, slot, handle)
    }

    pub(super) fn grant_of(
        &self,
        epoch: u64,
        anchor_version: u64,
        slot: SlotId,
        handle: Handle,
    ) -> BindingGrant {
        let node_key = self.durable.node_key();
        BindingGrant {
            slot,
            shard: SHARD,
            epoch,
            anchor_version,
            handle,
            slot_token: node_key.reset_token(ResetKind::Slot, Reset::slot_value(slot)),
            handle_token: node_key.reset_token(ResetKind::Handle, handle.0),
        }
    }

    fn grant(
        &self,
        core: &SessionCore,
        peer: &jvpn_crypto::keys::PublicKey,
        suite: Suite,
        slot: SlotId,
        handle: Handle,
    ) -> Option<HandshakeAnswer> {
        let tunnel = &self.settings.tunnel;
        Some(HandshakeAnswer::Granted(Box::new(HandshakeGrant {
            version: PROTOCOL_VERSION,
            suite,
            session_id: core.id(),
            binding: self.binding_grant(core, slot, handle),
            mtu: tunnel.mtu,
            addresses: self.peers.get(peer)?.settings.addresses.clone(),
            gateway_addresses: tunnel.gateway_addresses.clone(),
            routes: tunnel.routes.clone(),
            dns: tunnel.dns.clone(),
            policy: self.settings.policy.client_policy(),
        })))
    }
}
