//! A client as far as the engine can tell. It keeps nothing on the heap between two exchanges, so that what the heap
//! grows by is the gateway's.

use anyhow::{Context, Result, bail};
use jvpn_abi::wire::{DATA_HEADER_LEN, DataHeader, MsgType, SlotId, Suite, TAG_LEN};
use jvpn_abi::{Endpoint, PROTOCOL_VERSION, Reason};
use jvpn_controlplane::engine::PeerSettings;
use jvpn_crypto::SealKey;
use jvpn_crypto::cookie::{Question, read_retry};
use jvpn_crypto::handshake::{Initiation, initiate};
use jvpn_crypto::keys::{PresharedKey, PublicKey, StaticSecret};
use jvpn_crypto::reattach::{PendingRequest, RequestParams, request};
use jvpn_crypto::schedule::{EpochSecret, Resume};
use jvpn_session::messages::{
    BindingGrant, HandshakeAnswer, HandshakeOffer, ReattachAsk, ReattachGrant, SessionId, SwitchCause,
};

use crate::simulation::dice::Dice;

/// A binding that the client was granted.
struct Held {
    grant: BindingGrant,
    resume: Resume,
    data_key: [u8; 32],
    is_rekey: bool,
}

impl Held {
    fn new(grant: BindingGrant, secret: &EpochSecret, is_rekey: bool) -> Self {
        let data_key = secret.data_keys().client_to_gateway;
        Self { grant, resume: secret.resume(), data_key, is_rekey }
    }
}

/// A request on its way.
pub struct Sent {
    /// The datagram.
    pub datagram: Vec<u8>,
    pending: PendingRequest,
}

impl Sent {
    /// Follows a RETRY: the same request, with its cookie.
    ///
    /// # Errors
    /// It is no RETRY for this request.
    pub fn follow(&mut self, gateway: &PublicKey, retry: &[u8]) -> Result<()> {
        let question = Question::of_request(&self.datagram).context("no request")?;
        let cookie = read_retry(gateway, &question, retry)?;
        Ok(self.pending.with_cookie(&mut self.datagram, cookie)?)
    }
}

/// What the gateway said to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Granted: this slot has to be confirmed.
    Granted(SlotId),
    /// The same, but the slot is bound already and only its key is new.
    Rekeyed(SlotId),
    /// Refused, and when to ask again, ms.
    Refused(Reason, u32),
}

/// A client with at most one session.
pub struct Peer {
    number: u32,
    secret: StaticSecret,
    session: Option<SessionId>,
    held: Option<Held>,
    suite: Suite,
    nonce: u64,
    timestamp_ns: u64,
    path: u8,
}

impl Peer {
    /// Client number `number` of a seed.
    ///
    /// # Errors
    /// No randomness.
    pub fn new(seed: u64, number: u32) -> Result<Self> {
        let secret = StaticSecret::generate(&mut Dice::new(seed, 1_000 + u64::from(number)))?;
        let (session, held, suite) = (None, None, Suite::Aes256Gcm);
        Ok(Self { number, secret, session, held, suite, nonce: 0, timestamp_ns: 0, path: 0 })
    }

    /// The gateway's entry for it.
    ///
    /// # Errors
    /// None that happens: the address is made of numbers.
    pub fn settings(&self) -> Result<PeerSettings> {
        let [_, high, middle, low] = self.number.to_be_bytes();
        let address = format!("10.{high}.{middle}.{low}/32").parse().map_err(anyhow::Error::msg)?;
        Ok(PeerSettings {
            name: format!("peer{}", self.number),
            public_key: self.secret.public(),
            preshared_key: PresharedKey::default(),
            addresses: vec![address],
            prefixes: vec![address],
        })
    }

    /// Where it is.
    #[must_use]
    pub const fn remote(&self) -> Endpoint {
        let [_, high, middle, low] = self.number.to_be_bytes();
        Endpoint::v4([100 + high, 64 + self.path, middle, low], 40_000)
    }

    /// Moves to its other path.
    pub const fn move_on(&mut self) {
        self.path ^= 1;
    }

    /// Its session's name.
    #[must_use]
    pub const fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// The slot that it was granted last.
    #[must_use]
    pub fn slot(&self) -> Option<SlotId> {
        self.held.as_ref().map(|held| held.grant.slot)
    }

    /// An INIT.
    ///
    /// # Errors
    /// From the cryptography.
    pub fn init(&mut self, gateway: &PublicKey, dice: &mut Dice) -> Result<(Vec<u8>, Initiation)> {
        self.timestamp_ns += 1;
        let suites = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305].map(|suite| suite as u8).to_vec();
        let timestamp_ns = self.timestamp_ns;
        let offer = HandshakeOffer { versions: vec![PROTOCOL_VERSION], suites, timestamp_ns };
        let psk = PresharedKey::default();
        Ok(initiate(dice, &self.secret, gateway, &psk, self.number, &offer.encode())?)
    }

    /// Reads the RESPONSE.
    ///
    /// # Errors
    /// It was refused, or is none.
    pub fn read_response(&mut self, mut initiation: Initiation, response: &[u8]) -> Result<SlotId> {
        let (secret, payload) = initiation.read_response(response)?;
        match HandshakeAnswer::decode(&payload).context("an answer that cannot be read")? {
            HandshakeAnswer::Refused { reason, .. } => bail!("a handshake was refused: {}", reason.name()),
            HandshakeAnswer::Granted(grant) => {
                let slot = grant.binding.slot;
                self.session = Some(grant.session_id);
                self.suite = grant.suite;
                self.nonce = 0;
                self.held = Some(Held::new(grant.binding, &secret, false));
                Ok(slot)
            }
        }
    }

    /// A request under the newest generation.
    ///
    /// # Errors
    /// There is no session, or from the cryptography.
    pub fn request(&mut self, gateway: &PublicKey, cause: SwitchCause, dice: &mut Dice) -> Result<Sent> {
        self.nonce += 1;
        let held = self.held.as_ref().context("no session")?;
        let params = RequestParams {
            local: &self.secret,
            gateway,
            resume: &held.resume,
            session_id: self.session.context("no session")?.0,
            anchor_version: held.grant.anchor_version,
            nonce: self.nonce,
            handle: held.grant.handle.0,
        };
        let ask = ReattachAsk { cause, detect_ms: 700, attempt: 1 };
        let (datagram, pending) = request(dice, &params, &ask.encode())?;
        Ok(Sent { datagram, pending })
    }

    /// Reads the answer to a request.
    ///
    /// # Errors
    /// It is none.
    pub fn read_answer(&mut self, sent: &mut Sent, answer: &[u8]) -> Result<Answer> {
        if answer.first() == Some(&MsgType::ReattachReject.octet()) {
            let reject = sent.pending.read_reject(answer)?;
            return Ok(Answer::Refused(reject.reason, reject.retry_after_ms));
        }
        let (secret, payload) = sent.pending.read_ack(answer)?;
        let grant = ReattachGrant::decode(&payload).context("a grant that cannot be read")?;
        let held = self.held.insert(Held::new(grant.binding, &secret, grant.rekey));
        let slot = held.grant.slot;
        Ok(if held.is_rekey { Answer::Rekeyed(slot) } else { Answer::Granted(slot) })
    }

    /// DATA as XDP hands it to the control plane when no binding takes it.
    ///
    /// # Errors
    /// There is no session.
    pub fn sample(&self, counter: u64) -> Result<Vec<u8>> {
        let held = self.held.as_ref().context("no session")?;
        let header = DataHeader { key_phase: false, shard: 0, slot: held.grant.slot, counter }.encode();
        let plain = [0x45; 60];
        let mut datagram = [&header[..], &[0; 60 + TAG_LEN]].concat();
        let room = datagram.get_mut(DATA_HEADER_LEN..).context("room for the frame")?;
        SealKey::new(self.suite, &held.data_key).seal(counter, &header, &plain, room)?;
        if let Some(first) = datagram.first_mut() {
            *first = MsgType::UnboundSample.octet();
        }
        Ok(datagram)
    }
}
