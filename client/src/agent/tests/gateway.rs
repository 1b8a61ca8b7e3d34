//! A gateway for one peer: handshake, generations, reattach, path hint and resets as `docs/PROTOCOL.md` has them, with
//! knobs for what tests need. It checks nothing but what the client depends on.

mod tickets;

use super::Seeded;
use crate::paths::UplinkId;
use jvpn_abi::wire::control::ControlHeader;
use jvpn_abi::wire::data::SlotId;
use jvpn_abi::wire::internal::{ProbeFrame, ProbeKind, SizeFrame, SizeKind};
use jvpn_abi::wire::reattach::{KIND_AT, KIND_TAKEOVER};
use jvpn_abi::wire::reset::{Reset, ResetKind};
use jvpn_abi::wire::{DATA_HEADER_LEN, DATA_OVERHEAD, DataHeader, Direction, MsgType, Suite};
use jvpn_abi::{BootTime, Endpoint, PROTOCOL_VERSION, Reason};
use jvpn_crypto::control::{ControlOpener, ControlSealer};
use jvpn_crypto::cookie::{self, Cookie, CookieJar, Question};
use jvpn_crypto::keys::{NodeKey, PresharedKey, PublicKey, StaticSecret};
use jvpn_crypto::reattach::{RequestFrame, reject};
use jvpn_crypto::rng::Random;
use jvpn_crypto::schedule::{EpochSecret, Resume, Root};
use jvpn_crypto::takeover::{self, Awaited};
use jvpn_crypto::window::OwnWindow;
use jvpn_crypto::{OpenKey, SealKey, handshake};
use jvpn_session::State;
use jvpn_session::messages::{
    BindingGrant, ClientPolicy, ControlMessage, Handle, HandshakeAnswer, HandshakeGrant, HandshakeOffer,
    ReattachAsk, ReattachGrant, SessionId, TakeoverAsk,
};
use std::collections::BTreeSet;
use tickets::ends;

/// The gateway's own clock, which stands still.
const NOW: BootTime = BootTime(5_000_000_000_000);

/// Where a datagram comes from, as a NAT shows it: uplink and the port of the moment.
pub(crate) type Remote = (UplinkId, u16);

/// Whether a reattach from the bound endpoint is answered as a rekey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SamePlace {
    Switch,
    Rekey,
}

/// Whether cookies are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cookies {
    No,
    Yes,
    /// And none is ever good.
    InVain,
}

struct Generation {
    anchor_version: u64,
    resume: Resume,
    handle: Handle,
}

pub(crate) struct Binding {
    pub(crate) slot: SlotId,
    pub(crate) remote: Remote,
    pub(crate) confirmed: bool,
    /// The request showed a cookie of its address.
    proven: bool,
    /// Number of the keys; its lowest bit is the phase.
    pub(crate) number: u32,
    /// With the keys before a rekey: it sends until something comes under the new ones, and goes on receiving.
    previous: Option<Box<Self>>,
    seal: SealKey,
    open: OpenKey,
    window: OwnWindow,
    counter: u64,
    control_out: ControlSealer,
    control_in: ControlOpener,
}

pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) binding: Option<Binding>,
    confirmed: Generation,
    pending: Option<Generation>,
    nonce: u64,
    epoch: u64,
    version: u64,
    cached: Option<(Vec<u8>, Remote, Vec<u8>)>,
}

pub(crate) struct Gateway {
    pub(crate) secret: StaticSecret,
    pub(crate) session: Option<Session>,
    pub(crate) out: Vec<(Remote, Vec<u8>)>,
    pub(crate) asks: Vec<ReattachAsk>,
    pub(crate) inner: Vec<Vec<u8>>,
    pub(crate) terminated: Option<Reason>,
    pub(crate) refuse: Option<(Reason, u32)>,
    pub(crate) refuse_handshake: Option<(Reason, u32)>,
    pub(crate) same_place: SamePlace,
    pub(crate) cookies: Cookies,
    /// It gives cookies with echoes and hints, and sends over a path that a request proves before it hears its client.
    pub(crate) early: bool,
    /// What waits for the client: a binding that may send sends it behind its answer.
    pub(crate) downstream: Option<Vec<u8>>,
    /// Frames that it sent so.
    pub(crate) sent_early: u32,
    /// Added to the number that an answer gives its keys: what an honest gateway never does.
    pub(crate) key_number_off: u32,
    pub(crate) policy: ClientPolicy,
    /// What a client has inside the tunnel.
    pub(crate) addresses: Vec<jvpn_session::messages::Prefix>,
    pub(crate) slot_resets: bool,
    /// Turns an inner packet into what comes back for it.
    pub(crate) reflect: fn(&mut [u8]),
    pub(crate) sessions: u32,
    /// Tickets that it still gives.
    pub(crate) tickets: usize,
    /// Timestamp of the last handshake; it outlives the gateway's memory.
    stamp: u64,
    probes: BTreeSet<Vec<u8>>,
    /// PROBEs received.
    pub(crate) probed: Vec<ProbeFrame>,
    jar: CookieJar,
    peer: PublicKey,
    psk: PresharedKey,
    node_key: NodeKey,
    random: Seeded,
    serial: u32,
    /// What outlives its memory: the session and its root.
    pub(crate) stored: Option<(SessionId, Root)>,
    offered: Option<Offered>,
    /// The terms that it has lost its memory in.
    term: u64,
    pub(crate) takeovers: Vec<TakeoverAsk>,
    /// Takeover requests are refused.
    pub(crate) refuse_takeover: Option<(Reason, u32)>,
}

/// What a takeover's answer offers.
struct Offered {
    awaited: Awaited,
    binding: Binding,
    generation: Generation,
    version: u64,
}

pub(crate) const POLICY: ClientPolicy = ClientPolicy {
    probe_traffic_ms: 200,
    probe_idle_ms: 25_000,
    suspicion_ms: 25,
    dead_after_missed: 3,
    cooldown_ms: 2_000,
    recovery_window_ms: 30_000,
    transport_loss_ttl_ms: 60_000,
    candidates_max: 4,
    rekey_soft_ms: 120_000,
    rekey_hard_ms: 180_000,
    rekey_soft_packets: 1 << 26,
    rekey_hard_packets: 1 << 28,
    volatile_loss_percent: 5,
    volatile_rtt_ms: 400,
    volatile_jitter_ms: 100,
    quality_span_ms: 2_000,
    stability_window_ms: 3_000,
};

impl Gateway {
    pub(crate) fn new(peer: PublicKey) -> Self {
        let mut random = Seeded::new(7);
        Self {
            secret: StaticSecret::generate(&mut random).unwrap(),
            session: None,
            out: Vec::new(),
            asks: Vec::new(),
            inner: Vec::new(),
            terminated: None,
            refuse: None,
            refuse_handshake: None,
            same_place: SamePlace::Switch,
            cookies: Cookies::No,
            early: false,
            downstream: None,
            sent_early: 0,
            key_number_off: 0,
            policy: POLICY,
            addresses: vec!["10.77.0.2/32".parse().unwrap()],
            slot_resets: true,
            reflect: |_| {},
            sessions: 0,
            tickets: usize::MAX,
            stamp: 0,
            probes: BTreeSet::new(),
            probed: Vec::new(),
            jar: CookieJar::default(),
            peer,
            psk: PresharedKey::default(),
            node_key: NodeKey::generate(&mut random).unwrap(),
            random,
            serial: 0,
            stored: None,
            offered: None,
            term: 0,
            takeovers: Vec::new(),
            refuse_takeover: None,
        }
    }

    pub(crate) fn receive(&mut self, from: Remote, datagram: &[u8]) {
        if self.asks_for_cookie(from, datagram) {
            return;
        }
        match MsgType::from_octet(datagram[0]) {
            Some(MsgType::HandshakeInit) => self.init(from, datagram),
            Some(MsgType::ReattachRequest) if datagram[KIND_AT] == KIND_TAKEOVER => {
                self.takeover(from, datagram);
            }
            Some(MsgType::ReattachRequest) => self.request(from, datagram),
            Some(MsgType::Data) => self.data(from, datagram),
            Some(MsgType::Control) => self.control(from, datagram),
            Some(MsgType::PathProbe) => self.path_probe(from, datagram),
            other => panic!("a client never sends {other:?}"),
        }
    }

    fn asks_for_cookie(&mut self, from: Remote, datagram: &[u8]) -> bool {
        let is_request = datagram[0] == MsgType::ReattachRequest.octet();
        let request = is_request.then(|| Question::of_request(datagram)).flatten();
        let is_init = datagram[0] == MsgType::HandshakeInit.octet();
        let question = is_init.then(|| Question::of_init(datagram)).flatten().or(request);
        let Some(question) = question.filter(|_| self.cookies != Cookies::No) else { return false };
        let (remote, local) = ends(from);
        if self.cookies == Cookies::Yes && self.jar.accepts(NOW, remote, local, question.shown()) {
            return false;
        }
        let cookie = self.jar.bake(&mut self.random, NOW, remote, local).unwrap();
        self.out.push((from, cookie::retry(&self.secret.public(), &question, cookie).to_vec()));
        true
    }

    fn grant(&mut self, epoch: u64, anchor_version: u64) -> BindingGrant {
        self.serial += 1;
        let slot = SlotId::new(5, self.serial).unwrap();
        let mut handle = [0; 8];
        self.random.fill(&mut handle).unwrap();
        BindingGrant {
            slot,
            shard: 3,
            epoch,
            anchor_version,
            handle: Handle(handle),
            slot_token: self.node_key.reset_token(ResetKind::Slot, Reset::slot_value(slot)),
            handle_token: self.node_key.reset_token(ResetKind::Handle, handle),
        }
    }

    fn init(&mut self, from: Remote, datagram: &[u8]) {
        let (_, init) = handshake::read_init(&mut self.random, &self.secret, datagram).unwrap();
        assert_eq!(init.peer, self.peer);
        let offer = HandshakeOffer::decode(&init.payload).unwrap();
        assert_eq!(offer.versions, [PROTOCOL_VERSION]);
        if offer.timestamp_ns <= self.stamp {
            // It was overtaken by a later one, over another path.
            return;
        }
        self.stamp = offer.timestamp_ns;
        if let Some((reason, retry_after_ms)) = self.refuse_handshake {
            let answer = HandshakeAnswer::Refused { reason, retry_after_ms }.encode();
            let (datagram, _) = init.respond(&self.psk, &answer).unwrap();
            self.out.push((from, datagram));
            return;
        }
        let binding = self.grant(0, 0);
        let mut id = [0; 16];
        self.random.fill(&mut id).unwrap();
        let suite = Suite::from_number(offer.suites[0]).unwrap();
        let grant = HandshakeGrant {
            version: PROTOCOL_VERSION,
            suite,
            session_id: SessionId(id),
            binding: binding.clone(),
            mtu: 1_280,
            addresses: self.addresses.clone(),
            gateway_addresses: vec!["10.77.0.1".parse().unwrap()],
            routes: vec!["192.168.50.0/24".parse().unwrap()],
            dns: Vec::new(),
            policy: self.policy,
        };
        let answer = HandshakeAnswer::Granted(Box::new(grant)).encode();
        let (datagram, secret) = init.respond(&self.psk, &answer).unwrap();
        self.sessions += 1;
        self.stored = Some((SessionId(id), secret.root()));
        self.session = Some(Session {
            id: SessionId(id),
            binding: Some(Binding::new(&binding, &secret, suite, from)),
            confirmed: Generation::new(&binding, &secret),
            pending: None,
            nonce: 0,
            epoch: 0,
            version: 0,
            cached: None,
        });
        self.out.push((from, datagram));
    }

    /// The generation with this handle, and whether it is the pending one.
    fn generation_of(&self, handle: Handle) -> Option<(&Generation, bool)> {
        let session = self.session.as_ref()?;
        let pending = session.pending.as_ref().filter(|pending| pending.handle == handle);
        pending
            .map(|pending| (pending, true))
            .or_else(|| (session.confirmed.handle == handle).then_some((&session.confirmed, false)))
    }

    fn request(&mut self, from: Remote, datagram: &[u8]) {
        let frame = RequestFrame::parse(datagram).unwrap();
        let handle = Handle(frame.handle());
        let Some((generation, under_pending)) = self.generation_of(handle) else {
            let value = handle.0;
            let token = self.node_key.reset_token(ResetKind::Handle, value);
            let reset = Reset { kind: ResetKind::Handle, value, token };
            self.out.push((from, reset.encode().to_vec()));
            return;
        };
        let (resume, anchor_version) = (generation.resume.clone(), generation.anchor_version);
        assert!(frame.mac_ok(&resume));
        let claim = frame.unmask(&resume);
        let session = self.session.as_ref().unwrap();
        if claim.nonce <= session.nonce {
            let answer = match &session.cached {
                Some((request, remote, answer)) if frame.is_same_request(request) && *remote == from => {
                    answer.clone()
                }
                _ => reject(&resume, &frame, Reason::ReplayDetected, 0).to_vec(),
            };
            self.out.push((from, answer));
            return;
        }
        let id = session.id;
        let (_, incoming) =
            frame.read(&mut self.random, &self.secret, &self.peer, &resume, id.0).expect("a proven request");
        self.asks.push(ReattachAsk::decode(&incoming.payload).unwrap());
        assert_eq!(claim.anchor_version, anchor_version);
        self.session.as_mut().unwrap().nonce = claim.nonce;
        if let Some((reason, retry_after_ms)) = self.refuse {
            let answer = reject(&resume, &frame, reason, retry_after_ms);
            self.out.push((from, answer.to_vec()));
            return;
        }
        let shown = Question::of_request(datagram).unwrap().shown();
        let (remote, local) = ends(from);
        let is_proven = shown.is_some() && self.jar.accepts(NOW, remote, local, shown);
        let session = self.session.as_mut().unwrap();
        if under_pending {
            session.confirmed = session.pending.take().unwrap();
        }
        let rekey = self.same_place == SamePlace::Rekey
            && session.binding.as_ref().is_some_and(|b| b.heard().is_some_and(|b| b.remote == from));
        session.version += if rekey { 1 } else { 2 };
        session.epoch += u64::from(!rekey);
        let (epoch, version) = (session.epoch, session.version);
        let mut grant = self.grant(epoch, version);
        let session = self.session.as_mut().unwrap();
        if rekey {
            grant.slot = session.binding.as_ref().unwrap().slot;
        }
        let before = session.binding.take().filter(|_| rekey).and_then(Binding::into_heard);
        let key_number = before.as_ref().map_or(0, |before| before.number + 1);
        let named = key_number.wrapping_add(self.key_number_off);
        let answer = ReattachGrant { rekey, key_number: named, binding: grant.clone() }.encode();
        let (answer, secret) = incoming.answer(&answer).unwrap();
        let suite = Suite::Aes256Gcm;
        let mut binding = Binding::new(&grant, &secret, suite, from);
        binding.number = key_number;
        binding.previous = before.map(Box::new);
        binding.proven = self.early && is_proven && !rekey;
        session.binding = Some(binding);
        session.pending = Some(Generation::new(&grant, &secret));
        session.cached = Some((datagram.to_vec(), from, answer.clone()));
        self.out.push((from, answer));
        if let Some(packet) = self.downstream.clone() {
            self.send_plaintext(&packet);
        }
    }

    /// It loses its memory, but for what is stored.
    pub(crate) fn forget(&mut self) {
        self.session = None;
        self.offered = None;
        self.term += 1;
    }

    fn takeover(&mut self, from: Remote, datagram: &[u8]) {
        let incoming = takeover::read_request(&mut self.random, &self.secret, datagram).unwrap();
        assert_eq!(incoming.peer, self.peer);
        let ask = TakeoverAsk::decode(&incoming.payload).unwrap();
        let rises = self.takeovers.last().is_none_or(|last| ask.timestamp_ns > last.timestamp_ns);
        assert!(rises, "each request has a higher timestamp");
        self.takeovers.push(ask);
        let stored = self.stored.clone().filter(|(id, _)| *id == ask.session_id);
        let refusal = self.refuse_takeover.or(stored.is_none().then_some((Reason::SessionNotFound, 0)));
        if let Some((reason, retry_after_ms)) = refusal {
            let refusal = incoming.refuse(&self.psk, reason, retry_after_ms).unwrap();
            return self.out.push((from, refusal));
        }
        let (_, root) = stored.unwrap();
        let version = (self.term << 40) + 1;
        let grant = self.grant(1, version);
        let payload = ReattachGrant { rekey: false, key_number: 0, binding: grant.clone() }.encode();
        let answered = incoming.answer(&root.takeover(), &payload, Suite::Aes256Gcm, grant.slot).unwrap();
        assert!(answered.datagram.len() <= datagram.len());
        let binding = Binding::new(&grant, &answered.secret, Suite::Aes256Gcm, from);
        let generation = Generation::new(&grant, &answered.secret);
        self.offered = Some(Offered { awaited: answered.awaited, binding, generation, version });
        self.out.push((from, answered.datagram));
    }

    /// CONTROL that takes what is offered.
    fn take(&mut self, from: Remote, datagram: &[u8]) {
        let mut offered = self.offered.take().unwrap();
        let (_, message) = offered.awaited.open(datagram).unwrap();
        let wanted = ControlMessage::TakeOver { epoch: 1, version: offered.version };
        assert_eq!(ControlMessage::decode(&message), Some(wanted));
        offered.binding.control_in = offered.awaited.into_opener();
        let id = self.stored.as_ref().unwrap().0;
        self.session = Some(Session {
            id,
            binding: Some(offered.binding),
            confirmed: offered.generation,
            pending: None,
            nonce: 0,
            epoch: 1,
            version: offered.version,
            cached: None,
        });
        self.say_state(from, datagram.len());
    }

    fn say_state(&mut self, from: Remote, question_len: usize) {
        let version = self.session.as_ref().unwrap().version;
        let (state, reason) = (State::Recovering.number(), Reason::RecoveryRetry);
        self.say_to(from, ControlMessage::State { version, state, reason });
        assert!(self.out.last().unwrap().1.len() <= question_len, "larger than its question");
    }

    fn data(&mut self, from: Remote, datagram: &[u8]) {
        let header = DataHeader::parse(datagram).unwrap();
        let binding = self.session.as_mut().and_then(|session| session.binding.as_mut());
        let Some(binding) = binding.filter(|binding| binding.slot == header.slot) else {
            if self.slot_resets {
                let value = Reset::slot_value(header.slot);
                let token = self.node_key.reset_token(ResetKind::Slot, value);
                let reset = Reset { kind: ResetKind::Slot, value, token };
                self.out.push((from, reset.encode().to_vec()));
            }
            return;
        };
        let newest = header.key_phase == (binding.number & 1 == 1);
        let binding = match &mut binding.previous {
            _ if newest => binding,
            Some(previous) => &mut **previous,
            None => return,
        };
        let mut datagram = datagram.to_vec();
        let (head, body) = datagram.split_at_mut(DATA_HEADER_LEN);
        binding.window.check(header.counter).expect("the client never repeats a counter");
        let (opened, plaintext) = binding.open.open_in_place(header.counter, head, body).unwrap();
        binding.window.commit(opened).unwrap();
        let (received, highest) = (binding.window.received(), binding.window.highest().unwrap_or(0));
        if from != binding.remote {
            let observed = Endpoint::v4([203, 0, 113, 9], from.1);
            let cookie = if self.early { self.cookie_for(from).0 } else { Cookie::NONE.0 };
            self.say_to(from, ControlMessage::PathHint { observed, cookie });
            return;
        }
        if !binding.confirmed {
            binding.confirmed = true;
            let session = self.session.as_mut().unwrap();
            if let Some(pending) = session.pending.take() {
                session.confirmed = pending;
            }
        }
        let plaintext = plaintext.to_vec();
        if let Some(size) = SizeFrame::parse(&plaintext) {
            let mut answer = plaintext;
            SizeFrame { kind: SizeKind::Answer, ..size }.write(&mut answer).unwrap();
            self.send_plaintext(&answer);
            return;
        }
        match ProbeFrame::parse(&plaintext) {
            Some(probe) if plaintext[0] >> 4 == 0 => {
                assert_eq!(probe.kind, ProbeKind::Probe);
                self.probed.push(probe);
                let kind = ProbeKind::ProbeAck;
                let answer = ProbeFrame { kind, received, highest_counter: highest, rtt_us: 0, ..probe };
                self.send_plaintext(&answer.encode());
            }
            _ => {
                self.inner.push(plaintext.clone());
                let mut back = plaintext;
                (self.reflect)(&mut back);
                self.send_plaintext(&back);
            }
        }
    }

    fn control(&mut self, from: Remote, datagram: &[u8]) {
        let slot = ControlHeader::parse(datagram).unwrap().slot;
        if self.offered.as_ref().is_some_and(|offered| offered.binding.slot == slot) {
            return self.take(from, datagram);
        }
        if self.session.is_none() {
            return;
        }
        let binding = self.session.as_mut().and_then(|session| session.binding.as_mut()).unwrap();
        let before = binding.previous.as_mut().and_then(|previous| previous.control_in.open(datagram).ok());
        let message = before.unwrap_or_else(|| binding.control_in.open(datagram).unwrap());
        match ControlMessage::decode(&message) {
            Some(ControlMessage::Terminate { reason }) => self.terminated = Some(reason),
            Some(ControlMessage::AskTickets) => self.hand_out_tickets(from),
            Some(ControlMessage::TakeOver { .. }) => self.say_state(from, datagram.len()),
            other => panic!("a client never says {other:?}"),
        }
    }

    /// DATA to the client, if the binding is confirmed.
    pub(crate) fn send_plaintext(&mut self, plaintext: &[u8]) {
        let binding = self.session.as_mut().and_then(|session| session.binding.as_mut());
        let Some(binding) = binding.and_then(Binding::speaking_mut) else { return };
        self.sent_early += u32::from(!binding.confirmed);
        let counter = binding.counter;
        binding.counter += 1;
        let header = DataHeader { key_phase: binding.number & 1 == 1, shard: 3, slot: binding.slot, counter };
        let header = header.encode();
        let mut datagram = vec![0; plaintext.len() + DATA_OVERHEAD];
        datagram[..DATA_HEADER_LEN].copy_from_slice(&header);
        binding.seal.seal(counter, &header, plaintext, &mut datagram[DATA_HEADER_LEN..]).unwrap();
        let remote = binding.remote;
        self.out.push((remote, datagram));
    }

    /// Sealed CONTROL to the bound endpoint.
    pub(crate) fn say(&mut self, message: ControlMessage) {
        let remote = self.session.as_ref().unwrap().binding.as_ref().unwrap().remote;
        self.say_to(remote, message);
    }

    fn say_to(&mut self, remote: Remote, message: ControlMessage) {
        let binding = self.session.as_mut().unwrap().binding.as_mut().unwrap();
        let datagram = binding.control_out.seal(&message.encode()).unwrap();
        self.out.push((remote, datagram));
    }
}

impl Generation {
    fn new(grant: &BindingGrant, secret: &EpochSecret) -> Self {
        Self { anchor_version: grant.anchor_version, resume: secret.resume(), handle: grant.handle }
    }
}

impl Binding {
    /// The one under whose keys something has come.
    fn heard(&self) -> Option<&Self> {
        if self.confirmed { Some(self) } else { self.previous.as_deref()?.heard() }
    }

    fn heard_mut(&mut self) -> Option<&mut Self> {
        if self.confirmed { Some(self) } else { self.previous.as_deref_mut()?.heard_mut() }
    }

    /// The one that it may send under.
    fn speaking_mut(&mut self) -> Option<&mut Self> {
        if self.proven { Some(self) } else { self.heard_mut() }
    }

    fn into_heard(self) -> Option<Self> {
        if self.confirmed { Some(Self { previous: None, ..self }) } else { self.previous?.into_heard() }
    }

    fn new(grant: &BindingGrant, secret: &EpochSecret, suite: Suite, remote: Remote) -> Self {
        let keys = secret.data_keys();
        let (out, into) = (Direction::GatewayToClient, Direction::ClientToGateway);
        Self {
            slot: grant.slot,
            remote,
            confirmed: false,
            proven: false,
            number: 0,
            previous: None,
            seal: SealKey::new(suite, &keys.gateway_to_client),
            open: OpenKey::new(suite, &keys.client_to_gateway),
            window: OwnWindow::new(),
            counter: 0,
            control_out: ControlSealer::new(secret, suite, out, grant.slot, 4),
            control_in: ControlOpener::new(secret, suite, into, grant.slot),
        }
    }
}
