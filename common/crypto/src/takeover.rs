//! The takeover exchange: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s between a client and a gateway that has no memory of its
//! session but the stored root. It makes the secret of the session's next epoch.
//!
//! The first message names the session in its encrypted payload and reads without the psk (psk2 enters with the second
//! message), so the gateway learns whose psk it needs. What it proves is the static key and nothing of the moment: it can
//! be replayed, so it mints no [`Proven`]. The second message carries what a reattach's answer carries, under the
//! session's [`TakeoverKey`], or a refusal under the peer's pre-shared key (zeros if there is none): both authenticate
//! the gateway's static key (Noise's `es`), and neither is read as the other. The first CONTROL under the new epoch shows
//! that the client computed the exchange now and knows the psk: that is the proof ([`Awaited::open`]).
//!
//! ```
//! use jvpn_abi::wire::{Direction, SlotId, Suite};
//! use jvpn_crypto::control::ControlSealer;
//! use jvpn_crypto::keys::{PresharedKey, StaticSecret};
//! use jvpn_crypto::rng::OsRandom;
//! use jvpn_crypto::schedule::Root;
//! use jvpn_crypto::takeover::{RequestParams, read_request, request, request_mac_ok};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut rng = OsRandom::checked()?;
//! let (client, gateway) = (StaticSecret::generate(&mut rng)?, StaticSecret::generate(&mut rng)?);
//! let (root, preshared) = (Root::from_octets([7; 32]), PresharedKey::default());
//!
//! let params = RequestParams {
//!     local: &client,
//!     gateway: &gateway.public(),
//!     takeover: &root.takeover(),
//!     preshared: &preshared,
//!     client_index: 7,
//! };
//! let (datagram, mut pending) = request(&mut rng, &params, b"which session")?;
//! assert!(request_mac_ok(&gateway.public(), &datagram));
//! let incoming = read_request(&mut rng, &gateway, &datagram)?;
//! assert_eq!(incoming.peer, client.public());
//! let (suite, slot) = (Suite::Aes256Gcm, SlotId(9));
//! let answered = incoming.answer(&root.takeover(), b"grant", suite, slot)?;
//!
//! let (secret, grant) = pending.read_ack(&answered.datagram)?;
//! assert_eq!(grant, b"grant");
//! let mut sealer = ControlSealer::new(&secret, suite, Direction::ClientToGateway, slot, 0);
//! let mut awaited = answered.awaited;
//! let (proof, message) = awaited.open(&sealer.seal(b"mine")?)?;
//! assert_eq!(message, b"mine");
//! # drop(proof);
//! # Ok(())
//! # }
//! ```

use crate::control::ControlOpener;
use crate::cookie::Cookie;
use crate::keys::{PresharedKey, PublicKey, StaticSecret};
use crate::mac;
use crate::noise::{self, Role, Setup};
use crate::reattach::Reject;
use crate::rng::Random;
use crate::schedule::{EpochSecret, TakeoverKey};
use crate::{CryptoError, Proven};
use jvpn_abi::wire::reattach::KIND_TAKEOVER;
use jvpn_abi::wire::takeover::{
    ANSWER_NOISE_AT, COOKIE_AT, INDEX_AT, MAC_AT, NOISE_ANSWER_OVERHEAD, NOISE_AT, NOISE_OVERHEAD,
    REFUSAL_LEN, TAKEOVER_ACK_PAYLOAD_MAX, TAKEOVER_LEN, TAKEOVER_PAYLOAD_LEN, TAKEOVER_REJECT_LEN,
};
use jvpn_abi::wire::{COOKIE_LEN, Direction, MAC_LEN, MsgType, SlotId, Suite, be32, octets};
use jvpn_abi::{PROTOCOL_VERSION, Reason};
use snow::HandshakeState;
use std::fmt;

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PSK_POSITION: u8 = 2;
const PROLOGUE: [u8; 14] = *b"jvpn takeover\x01";

const _: () = assert!(PROLOGUE[13] == PROTOCOL_VERSION);

/// What a request is made from.
#[derive(Debug)]
pub struct RequestParams<'a> {
    /// The client's static key.
    pub local: &'a StaticSecret,
    /// The gateway's static key.
    pub gateway: &'a PublicKey,
    /// The session's.
    pub takeover: &'a TakeoverKey,
    /// The peer's pre-shared key, under which a refusal comes; zeros if there is none.
    pub preshared: &'a PresharedKey,
    /// Random; the answer repeats it.
    pub client_index: u32,
}

/// The client's side of an exchange that waits for its answer.
pub struct Pending {
    client_index: u32,
    gateway: PublicKey,
    takeover: TakeoverKey,
    preshared: PresharedKey,
    /// `None` once an answer was read.
    state: Option<HandshakeState>,
}

/// Makes a request of [`TAKEOVER_LEN`] octets. `payload` (at most [`TAKEOVER_PAYLOAD_LEN`] octets) is padded with zeros.
///
/// # Errors
/// [`CryptoError::TooLong`], [`CryptoError::Random`]; [`CryptoError::Authentication`] if the gateway's key is no usable
/// X25519 key.
pub fn request(
    rng: &mut dyn Random,
    params: &RequestParams<'_>,
    payload: &[u8],
) -> Result<(Vec<u8>, Pending), CryptoError> {
    if payload.len() > TAKEOVER_PAYLOAD_LEN {
        return Err(CryptoError::TooLong { len: payload.len(), max: TAKEOVER_PAYLOAD_LEN });
    }
    let mut padded = payload.to_vec();
    padded.resize(TAKEOVER_PAYLOAD_LEN, 0);

    let psk = Some((PSK_POSITION, params.takeover.psk()));
    let (local, remote) = (params.local, Some(params.gateway));
    let mut state =
        Setup { pattern: PATTERN, prologue: &PROLOGUE, local, remote, psk }.build(Role::Initiator, rng)?;
    let message = noise::write(&mut state, &padded, NOISE_OVERHEAD)?;

    let mut datagram = Vec::with_capacity(TAKEOVER_LEN);
    datagram.extend(header(MsgType::ReattachRequest, params.client_index));
    datagram.resize(NOISE_AT, 0);
    datagram.extend(message);
    write_mac(params.gateway, &mut datagram);
    let pending = Pending {
        client_index: params.client_index,
        gateway: *params.gateway,
        takeover: params.takeover.clone(),
        preshared: params.preshared.clone(),
        state: Some(state),
    };
    Ok((datagram, pending))
}

fn write_mac(gateway: &PublicKey, request: &mut [u8]) {
    let mac = request_mac(gateway, request);
    if let Some(field) = request.get_mut(MAC_AT..MAC_AT + MAC_LEN) {
        field.copy_from_slice(&mac);
    }
}

impl Pending {
    /// Lets the request show a cookie. It stays the same request: the same Noise message, so the answer to either form can
    /// be read.
    ///
    /// # Errors
    /// [`CryptoError::Malformed`] if this is not the size of a request.
    pub fn with_cookie(&self, request: &mut [u8], cookie: Cookie) -> Result<(), CryptoError> {
        if request.len() != TAKEOVER_LEN {
            return Err(CryptoError::Malformed);
        }
        if let Some(field) = request.get_mut(COOKIE_AT..COOKIE_AT + COOKIE_LEN) {
            field.copy_from_slice(&cookie.0);
        }
        write_mac(&self.gateway, request);
        Ok(())
    }

    /// Reads an ACK: the epoch's secret and the payload. After an error but [`CryptoError::Repeated`] the genuine answer
    /// can still be read.
    ///
    /// # Errors
    /// [`CryptoError::Malformed`], [`CryptoError::Authentication`]; [`CryptoError::Repeated`] once an answer was read.
    pub fn read_ack(&mut self, datagram: &[u8]) -> Result<(EpochSecret, Vec<u8>), CryptoError> {
        let state = self.state.as_mut().ok_or(CryptoError::Repeated)?;
        let message = answer_body(MsgType::ReattachAck, self.client_index, datagram)?;
        set_psk(state, self.takeover.psk())?;
        let payload = noise::read(state, message)?;
        let secret = noise::finish(state)?;
        self.state = None;
        Ok((secret, payload))
    }

    /// Reads a REJECT. Only the gateway that the request was made for can have made it, and only for this request.
    ///
    /// # Errors
    /// As [`Self::read_ack`]; [`CryptoError::Malformed`] also for a reason that this version does not know.
    pub fn read_reject(&mut self, datagram: &[u8]) -> Result<Reject, CryptoError> {
        let state = self.state.as_mut().ok_or(CryptoError::Repeated)?;
        if datagram.len() != TAKEOVER_REJECT_LEN {
            return Err(CryptoError::Malformed);
        }
        let message = answer_body(MsgType::ReattachReject, self.client_index, datagram)?;
        set_psk(state, self.preshared.as_bytes())?;
        let payload = noise::read(state, message)?;
        self.state = None;
        let refusal: [u8; REFUSAL_LEN] = octets(&payload, 0).ok_or(CryptoError::Malformed)?;
        let [reason, retry_after @ ..] = refusal;
        let reason = Reason::from_number(reason).ok_or(CryptoError::Malformed)?;
        Ok(Reject { reason, retry_after_ms: u32::from_be_bytes(retry_after) })
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("client_index", &self.client_index).finish_non_exhaustive()
    }
}

/// Whether a datagram is framed as a takeover request for this gateway: size, type, kind, version and the MAC, in
/// constant time. Cheap; needs no secret, so it keeps scanners out, not attackers.
#[must_use]
pub fn request_mac_ok(gateway: &PublicKey, datagram: &[u8]) -> bool {
    let Some(client_index) = be32(datagram, INDEX_AT) else { return false };
    let Some(field) = datagram.get(MAC_AT..MAC_AT + MAC_LEN) else { return false };
    datagram.len() == TAKEOVER_LEN
        && datagram.starts_with(&header(MsgType::ReattachRequest, client_index))
        && mac::equal(field, &request_mac(gateway, datagram))
}

/// A client's request. Its static key is proven, its moment is not.
pub struct Incoming {
    /// The client's static key. Whether it is allowed is for the caller to say.
    pub peer: PublicKey,
    /// The padded payload, [`TAKEOVER_PAYLOAD_LEN`] octets.
    pub payload: Vec<u8>,
    client_index: u32,
    state: HandshakeState,
}

/// Reads a request: two Diffie-Hellman operations, and the ephemeral key of the answer is drawn.
///
/// # Errors
/// [`CryptoError::Malformed`] if [`request_mac_ok`] does not hold, [`CryptoError::Authentication`],
/// [`CryptoError::Random`].
pub fn read_request(
    rng: &mut dyn Random,
    local: &StaticSecret,
    datagram: &[u8],
) -> Result<Incoming, CryptoError> {
    if !request_mac_ok(&local.public(), datagram) {
        return Err(CryptoError::Malformed);
    }
    let client_index = be32(datagram, INDEX_AT).ok_or(CryptoError::Malformed)?;
    let message = datagram.get(NOISE_AT..).ok_or(CryptoError::Malformed)?;
    let setup = Setup { pattern: PATTERN, prologue: &PROLOGUE, local, remote: None, psk: None };
    let mut state = setup.build(Role::Responder, rng)?;
    let payload = noise::read(&mut state, message)?;
    let peer = state
        .get_remote_static()
        .and_then(|key| key.try_into().ok())
        .map(PublicKey)
        .ok_or(CryptoError::Internal("the static key of a Noise message"))?;
    Ok(Incoming { peer, payload, client_index, state })
}

/// A granted exchange, at the gateway.
#[derive(Debug)]
pub struct Answered {
    /// The ACK.
    pub datagram: Vec<u8>,
    /// The secret of the epoch that it offers.
    pub secret: EpochSecret,
    /// What the client's first CONTROL is opened with.
    pub awaited: Awaited,
}

impl Incoming {
    /// Makes the ACK, with at most [`TAKEOVER_ACK_PAYLOAD_MAX`] octets of payload: two Diffie-Hellman operations.
    /// `suite` and `slot` are those of the binding that it offers.
    ///
    /// # Errors
    /// [`CryptoError::TooLong`]; [`CryptoError::Internal`].
    pub fn answer(
        mut self,
        takeover: &TakeoverKey,
        payload: &[u8],
        suite: Suite,
        slot: SlotId,
    ) -> Result<Answered, CryptoError> {
        if payload.len() > TAKEOVER_ACK_PAYLOAD_MAX {
            return Err(CryptoError::TooLong { len: payload.len(), max: TAKEOVER_ACK_PAYLOAD_MAX });
        }
        set_psk(&mut self.state, takeover.psk())?;
        let message = noise::write(&mut self.state, payload, NOISE_ANSWER_OVERHEAD)?;
        let secret = noise::finish(&mut self.state)?;
        let mut datagram = header(MsgType::ReattachAck, self.client_index).to_vec();
        datagram.extend(message);
        let opener = ControlOpener::new(&secret, suite, Direction::ClientToGateway, slot);
        Ok(Answered { datagram, secret, awaited: Awaited { opener } })
    }

    /// Makes a REJECT of [`TAKEOVER_REJECT_LEN`] octets: two Diffie-Hellman operations.
    ///
    /// # Errors
    /// [`CryptoError::Internal`].
    pub fn refuse(
        mut self,
        preshared: &PresharedKey,
        reason: Reason,
        retry_after_ms: u32,
    ) -> Result<Vec<u8>, CryptoError> {
        set_psk(&mut self.state, preshared.as_bytes())?;
        let [a, b, c, d] = retry_after_ms.to_be_bytes();
        let refusal: [u8; REFUSAL_LEN] = [reason.number(), a, b, c, d];
        let message = noise::write(&mut self.state, &refusal, NOISE_ANSWER_OVERHEAD)?;
        let mut datagram = header(MsgType::ReattachReject, self.client_index).to_vec();
        datagram.extend(message);
        Ok(datagram)
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("peer", &self.peer)
            .field("client_index", &self.client_index)
            .finish_non_exhaustive()
    }
}

/// Opens the client's first CONTROL of the exchange, and by it proves the exchange. Made by [`Incoming::answer`] only.
#[derive(Debug)]
pub struct Awaited {
    opener: ControlOpener,
}

impl Awaited {
    /// The message, and the proof that the client is there now, with its static key and the session's secret.
    ///
    /// # Errors
    /// As [`ControlOpener::open`].
    pub fn open(&mut self, datagram: &[u8]) -> Result<(Proven, Vec<u8>), CryptoError> {
        let message = self.opener.open(datagram)?;
        Ok((Proven::mint(), message))
    }

    /// What opens the CONTROL after it; what it has opened opens no second time.
    #[must_use]
    pub fn into_opener(self) -> ControlOpener {
        self.opener
    }
}

/// The Noise message of an answer to the request with this index.
fn answer_body(kind: MsgType, client_index: u32, datagram: &[u8]) -> Result<&[u8], CryptoError> {
    if datagram.len() < ANSWER_NOISE_AT + NOISE_ANSWER_OVERHEAD || datagram.len() > TAKEOVER_LEN {
        return Err(CryptoError::Malformed);
    }
    let (head, message) = datagram.split_at_checked(ANSWER_NOISE_AT).ok_or(CryptoError::Malformed)?;
    if head == header(kind, client_index) { Ok(message) } else { Err(CryptoError::Malformed) }
}

fn set_psk(state: &mut HandshakeState, psk: &[u8; mac::SECRET_LEN]) -> Result<(), CryptoError> {
    state
        .set_psk(PSK_POSITION.into(), psk)
        .map_err(|_| CryptoError::Internal("the pre-shared key of a Noise exchange"))
}

/// The first eight octets of all three datagrams.
const fn header(kind: MsgType, client_index: u32) -> [u8; ANSWER_NOISE_AT] {
    let [a, b, c, d] = client_index.to_be_bytes();
    [kind.octet(), PROTOCOL_VERSION, KIND_TAKEOVER, 0, a, b, c, d]
}

/// As HANDSHAKE_INIT's: the type in front tells the two apart.
fn request_mac(gateway: &PublicKey, datagram: &[u8]) -> [u8; MAC_LEN] {
    let key = mac::public_key_of(b"jvpn1 init mac", &gateway.0);
    let before = datagram.get(..MAC_AT).unwrap_or_default();
    let behind = datagram.get(COOKIE_AT..).unwrap_or_default();
    mac::mac(&key, &[before, &[0; MAC_LEN], behind])
}

const _: () = assert!(MAC_AT + MAC_LEN == COOKIE_AT && INDEX_AT + 4 == MAC_AT);

#[cfg(test)]
mod tests;
