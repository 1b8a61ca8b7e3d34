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
use crate::ik::{self, Exchange};
use crate::keys::{PresharedKey, PublicKey, StaticSecret};
use crate::noise;
use crate::reattach::Reject;
use crate::rng::Random;
use crate::schedule::{EpochSecret, TakeoverKey};
use crate::{CryptoError, Proven};
use jvpn_abi::wire::reattach::KIND_TAKEOVER;
use jvpn_abi::wire::takeover::{
    REFUSAL_LEN, TAKEOVER_ACK_PAYLOAD_MAX, TAKEOVER_LEN, TAKEOVER_PAYLOAD_LEN, TAKEOVER_REJECT_LEN,
};
use jvpn_abi::wire::{Direction, MsgType, SlotId, Suite, octets};
use jvpn_abi::{PROTOCOL_VERSION, Reason};
use snow::HandshakeState;
use std::fmt;

const PROLOGUE: [u8; 14] = *b"jvpn takeover\x01";

const _: () = assert!(PROLOGUE[13] == PROTOCOL_VERSION);

const EXCHANGE: Exchange = Exchange {
    prologue: &PROLOGUE,
    request: MsgType::ReattachRequest,
    kind: KIND_TAKEOVER,
    len: TAKEOVER_LEN,
    payload_len: TAKEOVER_PAYLOAD_LEN,
};

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
    let ends = (params.local, params.gateway);
    let (datagram, state) = EXCHANGE.ask(rng, ends, params.takeover.psk(), params.client_index, payload)?;
    let pending = Pending {
        client_index: params.client_index,
        gateway: *params.gateway,
        takeover: params.takeover.clone(),
        preshared: params.preshared.clone(),
        state: Some(state),
    };
    Ok((datagram, pending))
}

impl Pending {
    /// Lets the request show a cookie. It stays the same request: the same Noise message, so the answer to either form can
    /// be read.
    ///
    /// # Errors
    /// [`CryptoError::Malformed`] if this is not the size of a request.
    pub fn with_cookie(&self, request: &mut [u8], cookie: Cookie) -> Result<(), CryptoError> {
        EXCHANGE.show(&self.gateway, request, cookie)
    }

    /// Reads an ACK: the epoch's secret and the payload. After an error but [`CryptoError::Repeated`] the genuine answer
    /// can still be read.
    ///
    /// # Errors
    /// [`CryptoError::Malformed`], [`CryptoError::Authentication`]; [`CryptoError::Repeated`] once an answer was read.
    pub fn read_ack(&mut self, datagram: &[u8]) -> Result<(EpochSecret, Vec<u8>), CryptoError> {
        let state = self.state.as_mut().ok_or(CryptoError::Repeated)?;
        let message = EXCHANGE.answer_body(MsgType::ReattachAck, self.client_index, datagram)?;
        ik::set_psk(state, self.takeover.psk())?;
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
        let message = EXCHANGE.answer_body(MsgType::ReattachReject, self.client_index, datagram)?;
        ik::set_psk(state, self.preshared.as_bytes())?;
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
    EXCHANGE.is_asked(gateway, datagram)
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
    let ik::Asked { peer, payload, client_index, state } = EXCHANGE.read(rng, local, datagram)?;
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
        let (index, psk) = (self.client_index, takeover.psk());
        let datagram = EXCHANGE.answer(MsgType::ReattachAck, index, &mut self.state, psk, payload)?;
        let secret = noise::finish(&mut self.state)?;
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
        let [a, b, c, d] = retry_after_ms.to_be_bytes();
        let refusal: [u8; REFUSAL_LEN] = [reason.number(), a, b, c, d];
        let (index, psk) = (self.client_index, preshared.as_bytes());
        EXCHANGE.answer(MsgType::ReattachReject, index, &mut self.state, psk, &refusal)
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

#[cfg(test)]
mod tests;
