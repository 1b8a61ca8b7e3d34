//! A client as far as the engine can tell: real handshakes and requests, generations kept as the design says.

use crate::rig::{Rig, client_secret};
use jvpn_abi::wire::{DATA_HEADER_LEN, DataHeader, Direction, MsgType, SlotId, Suite, TAG_LEN};
use jvpn_abi::{Endpoint, PROTOCOL_VERSION, Reason};
use jvpn_crypto::SealKey;
use jvpn_crypto::control::{ControlOpener, ControlSealer};
use jvpn_crypto::cookie::{Cookie, Question, read_retry};
use jvpn_crypto::handshake::{Initiation, initiate};
use jvpn_crypto::keys::{PresharedKey, PublicKey, StaticSecret};
use jvpn_crypto::reattach::{PendingRequest, RequestParams, request};
use jvpn_crypto::schedule::{EpochSecret, Resume, TakeoverKey};
use jvpn_session::messages::{
    BindingGrant, ControlMessage, HandshakeAnswer, HandshakeGrant, HandshakeOffer, ReattachAsk,
    ReattachGrant, SessionId, SwitchCause,
};

/// A binding that the client was granted.
pub(crate) struct Held {
    pub(crate) grant: BindingGrant,
    pub(crate) secret: EpochSecret,
    pub(crate) rekey: bool,
    pub(crate) key_number: u32,
    resume: Resume,
}

impl Held {
    pub(crate) fn new(grant: BindingGrant, secret: EpochSecret) -> Self {
        Self { grant, resume: secret.resume(), secret, rekey: false, key_number: 0 }
    }
}

/// A request on its way.
pub(crate) struct Sent {
    pub(crate) datagram: Vec<u8>,
    pending: PendingRequest,
}

pub(crate) struct Client {
    pub(crate) secret: StaticSecret,
    gateway: PublicKey,
    pub(crate) suite: Suite,
    pub(crate) grant: Option<HandshakeGrant>,
    /// Newest last; older ones are kept until a frame opens under the newest.
    pub(crate) held: Vec<Held>,
    pub(crate) nonce: u64,
    pub(crate) timestamp_ns: u64,
    pub(crate) cause: SwitchCause,
    pub(crate) attempt: u16,
    /// The secret of its session's takeover exchange.
    pub(crate) takeover: Option<TakeoverKey>,
}

impl Client {
    pub(crate) fn new(peer: u8, gateway: PublicKey) -> Self {
        Self {
            secret: client_secret(peer),
            gateway,
            suite: Suite::Aes256Gcm,
            grant: None,
            held: Vec::new(),
            nonce: 0,
            timestamp_ns: 1_000,
            cause: SwitchCause::PathDead,
            attempt: 1,
            takeover: None,
        }
    }

    pub(crate) fn offer(&mut self) -> HandshakeOffer {
        self.timestamp_ns += 1;
        let suites = [Suite::ChaCha20Poly1305, Suite::Aes256Gcm].map(|suite| suite as u8).to_vec();
        HandshakeOffer { versions: vec![PROTOCOL_VERSION], suites, timestamp_ns: self.timestamp_ns }
    }

    pub(crate) fn init(&mut self, rig: &mut Rig) -> (Vec<u8>, Initiation) {
        let offer = self.offer();
        self.init_with(rig, &offer)
    }

    pub(crate) fn init_with(&self, rig: &mut Rig, offer: &HandshakeOffer) -> (Vec<u8>, Initiation) {
        let psk = PresharedKey::default();
        initiate(&mut rig.rng, &self.secret, &self.gateway, &psk, 77, &offer.encode()).unwrap()
    }

    /// Reads a response: granted, or why not.
    pub(crate) fn read_response(
        &mut self,
        mut initiation: Initiation,
        response: &[u8],
    ) -> Result<(), (Reason, u32)> {
        let (secret, payload) = initiation.read_response(response).unwrap();
        match HandshakeAnswer::decode(&payload).unwrap() {
            HandshakeAnswer::Refused { reason, retry_after_ms } => Err((reason, retry_after_ms)),
            HandshakeAnswer::Granted(grant) => {
                self.suite = grant.suite;
                self.takeover = Some(secret.root().takeover());
                self.held = vec![Held::new(grant.binding.clone(), secret)];
                self.grant = Some(*grant);
                self.nonce = 0;
                Ok(())
            }
        }
    }

    /// A whole handshake, up to the granted binding.
    pub(crate) fn handshake(&mut self, rig: &mut Rig, from: Endpoint) {
        let (init, initiation) = self.init(rig);
        let response = rig.ask(from, &init);
        self.read_response(initiation, &response).unwrap();
    }

    pub(crate) fn session(&self) -> SessionId {
        self.grant.as_ref().expect("the client has a session").session_id
    }

    pub(crate) fn newest(&self) -> &Held {
        self.held.last().expect("the client has a binding")
    }

    pub(crate) fn slot(&self) -> SlotId {
        self.newest().grant.slot
    }

    /// A fresh request under the newest generation that the client holds.
    pub(crate) fn request(&mut self, rig: &mut Rig) -> Sent {
        self.nonce += 1;
        self.request_as(rig, self.held.len() - 1, self.nonce, 0)
    }

    /// A request under a chosen generation, with a chosen nonce and a wrong anchor.
    pub(crate) fn request_as(
        &self,
        rig: &mut Rig,
        generation: usize,
        nonce: u64,
        anchor_offset: i64,
    ) -> Sent {
        let held = &self.held[generation];
        let params = RequestParams {
            local: &self.secret,
            gateway: &self.gateway,
            resume: &held.resume,
            session_id: self.session().0,
            anchor_version: held.grant.anchor_version.checked_add_signed(anchor_offset).unwrap(),
            nonce,
            handle: held.grant.handle.0,
        };
        let ask = ReattachAsk { cause: self.cause, detect_ms: 700, attempt: self.attempt };
        let (datagram, pending) = request(&mut rig.rng, &params, &ask.encode()).unwrap();
        Sent { datagram, pending }
    }

    /// Reads an ACK and holds the new binding.
    pub(crate) fn read_ack(&mut self, sent: &mut Sent, ack: &[u8]) {
        let (secret, payload) = sent.pending.read_ack(ack).unwrap();
        let grant = ReattachGrant::decode(&payload).unwrap();
        let mut held = Held::new(grant.binding, secret);
        (held.rekey, held.key_number) = (grant.rekey, grant.key_number);
        self.held.push(held);
    }

    /// A frame opened under the newest keys: older generations go.
    pub(crate) fn settle(&mut self) {
        self.held.drain(..self.held.len() - 1);
    }

    /// A whole switch to another path, confirmed.
    pub(crate) fn switch(&mut self, rig: &mut Rig, to: Endpoint) {
        let mut sent = self.request(rig);
        let ack = rig.ask(to, &sent.datagram);
        self.read_ack(&mut sent, &ack);
        if self.newest().rekey {
            rig.flip(self.slot());
        } else {
            rig.frame(self.slot(), to);
        }
        self.settle();
    }

    /// DATA under the keys of a held binding.
    pub(crate) fn data(&self, held: &Held, counter: u64) -> Vec<u8> {
        self.data_of(held, counter, 60)
    }

    /// DATA of so many octets inside.
    pub(crate) fn data_of(&self, held: &Held, counter: u64, len: usize) -> Vec<u8> {
        let header =
            DataHeader { key_phase: held.key_number & 1 == 1, shard: 0, slot: held.grant.slot, counter }
                .encode();
        let plain = vec![0x45; len];
        let mut datagram = [&header[..], &vec![0; len + TAG_LEN]].concat();
        let key = SealKey::new(self.suite, &held.secret.data_keys().client_to_gateway);
        key.seal(counter, &header, &plain, &mut datagram[DATA_HEADER_LEN..]).unwrap();
        datagram
    }

    /// DATA as XDP hands it to the control plane when no binding takes it.
    pub(crate) fn sample(&self, held: &Held, counter: u64) -> Vec<u8> {
        let mut datagram = self.data(held, counter);
        datagram[0] = MsgType::UnboundSample.octet();
        datagram
    }

    /// A sealed CONTROL message.
    pub(crate) fn control(&self, message: &ControlMessage) -> Vec<u8> {
        self.controls(message, 1).remove(0)
    }

    /// The same message several times, under one counter after the other.
    pub(crate) fn controls(&self, message: &ControlMessage, count: usize) -> Vec<Vec<u8>> {
        let held = self.newest();
        let direction = Direction::ClientToGateway;
        let mut sealer = ControlSealer::new(&held.secret, self.suite, direction, held.grant.slot, 0);
        (0..count).map(|_| sealer.seal(&message.encode()).unwrap()).collect()
    }

    /// Opens a CONTROL message of a held binding.
    pub(crate) fn open(&self, held: &Held, datagram: &[u8]) -> Option<ControlMessage> {
        let direction = Direction::GatewayToClient;
        let mut opener = ControlOpener::new(&held.secret, self.suite, direction, held.grant.slot);
        ControlMessage::decode(&opener.open(datagram).ok()?)
    }
}

impl Sent {
    /// Shows the cookie of a RETRY from now on.
    pub(crate) fn show(&mut self, rig: &Rig, retry: &[u8]) {
        let question = Question::of_request(&self.datagram).unwrap();
        let Cookie(octets) = read_retry(&rig.gateway, &question, retry).unwrap();
        self.show_octets(octets);
    }

    pub(crate) fn show_octets(&mut self, cookie: [u8; 16]) {
        self.pending.with_cookie(&mut self.datagram, Cookie(cookie)).unwrap();
    }

    pub(crate) fn reject(&self, datagram: &[u8]) -> (Reason, u32) {
        let reject = self.pending.read_reject(datagram).unwrap();
        (reject.reason, reject.retry_after_ms)
    }
}
