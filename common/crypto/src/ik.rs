//! What handshake and takeover share: the framing of Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s. Request and answer name the
//! client's index in front of the Noise message; a request also has a MAC under the gateway's public key, and a cookie.
//!
//! The pre-shared key enters with the second message, so the gateway reads who asks before it needs to know which.

use crate::CryptoError;
use crate::cookie::Cookie;
use crate::keys::{PublicKey, StaticSecret};
use crate::mac::{self, SECRET_LEN};
use crate::noise::{self, Role, Setup};
use crate::rng::Random;
use jvpn_abi::PROTOCOL_VERSION;
use jvpn_abi::wire::handshake::{
    CLIENT_INDEX_AT as INDEX_AT, INIT_COOKIE_AT as COOKIE_AT, INIT_MAC_AT as MAC_AT,
    INIT_NOISE_AT as NOISE_AT, NOISE_INIT_OVERHEAD, NOISE_RESPONSE_OVERHEAD,
    RESPONSE_NOISE_AT as ANSWER_NOISE_AT,
};
use jvpn_abi::wire::{COOKIE_LEN, MAC_LEN, MsgType, be32, takeover};
use snow::HandshakeState;

pub(crate) const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
pub(crate) const PSK_POSITION: u8 = 2;

/// What tells the two exchanges apart.
pub(crate) struct Exchange {
    pub(crate) prologue: &'static [u8],
    pub(crate) request: MsgType,
    /// The octet behind the version.
    pub(crate) kind: u8,
    /// Octets of a request; no answer has more.
    pub(crate) len: usize,
    /// Octets of a request's payload, which is padded with zeros.
    pub(crate) payload_len: usize,
}

/// A request that proved its client's static key.
pub(crate) struct Asked {
    pub(crate) peer: PublicKey,
    pub(crate) payload: Vec<u8>,
    pub(crate) client_index: u32,
    pub(crate) state: HandshakeState,
}

impl Exchange {
    /// A request, and what reads its answer. `psk` may be replaced before that by [`set_psk`].
    pub(crate) fn ask(
        &self,
        rng: &mut dyn Random,
        (local, gateway): (&StaticSecret, &PublicKey),
        psk: &[u8; SECRET_LEN],
        client_index: u32,
        payload: &[u8],
    ) -> Result<(Vec<u8>, HandshakeState), CryptoError> {
        if payload.len() > self.payload_len {
            return Err(CryptoError::TooLong { len: payload.len(), max: self.payload_len });
        }
        let mut padded = payload.to_vec();
        padded.resize(self.payload_len, 0);
        let psk = Some((PSK_POSITION, psk));
        let mut state = self.setup(local, Some(gateway), psk).build(Role::Initiator, rng)?;
        let message = noise::write(&mut state, &padded, NOISE_INIT_OVERHEAD)?;

        let mut datagram = Vec::with_capacity(self.len);
        datagram.extend(self.head(self.request, client_index));
        datagram.resize(NOISE_AT, 0);
        datagram.extend(message);
        write_mac(gateway, &mut datagram);
        Ok((datagram, state))
    }

    /// Lets a request show a cookie. It stays the same request: the same Noise message, so the answer to either form can be
    /// read.
    pub(crate) fn show(
        &self,
        gateway: &PublicKey,
        request: &mut [u8],
        cookie: Cookie,
    ) -> Result<(), CryptoError> {
        if request.len() != self.len {
            return Err(CryptoError::Malformed);
        }
        if let Some(field) = request.get_mut(COOKIE_AT..COOKIE_AT + COOKIE_LEN) {
            field.copy_from_slice(&cookie.0);
        }
        write_mac(gateway, request);
        Ok(())
    }

    /// Whether a datagram is framed as a request for this gateway: size, type, kind, version and the MAC, in constant time.
    pub(crate) fn is_asked(&self, gateway: &PublicKey, datagram: &[u8]) -> bool {
        let Some(client_index) = be32(datagram, INDEX_AT) else { return false };
        let Some(field) = datagram.get(MAC_AT..MAC_AT + MAC_LEN) else { return false };
        datagram.len() == self.len
            && datagram.starts_with(&self.head(self.request, client_index))
            && mac::equal(field, &request_mac(gateway, datagram))
    }

    /// Reads a request: two Diffie-Hellman operations, and the ephemeral key of the answer is drawn.
    pub(crate) fn read(
        &self,
        rng: &mut dyn Random,
        local: &StaticSecret,
        datagram: &[u8],
    ) -> Result<Asked, CryptoError> {
        if !self.is_asked(&local.public(), datagram) {
            return Err(CryptoError::Malformed);
        }
        let client_index = be32(datagram, INDEX_AT).ok_or(CryptoError::Malformed)?;
        let message = datagram.get(NOISE_AT..).ok_or(CryptoError::Malformed)?;
        let mut state = self.setup(local, None, None).build(Role::Responder, rng)?;
        let payload = noise::read(&mut state, message)?;
        let peer = state
            .get_remote_static()
            .and_then(|key| key.try_into().ok())
            .map(PublicKey)
            .ok_or(CryptoError::Internal("the static key of a Noise message"))?;
        Ok(Asked { peer, payload, client_index, state })
    }

    /// An answer to the request with this index, under this pre-shared key.
    pub(crate) fn answer(
        &self,
        kind: MsgType,
        client_index: u32,
        state: &mut HandshakeState,
        psk: &[u8; SECRET_LEN],
        payload: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        set_psk(state, psk)?;
        let message = noise::write(state, payload, NOISE_RESPONSE_OVERHEAD)?;
        let mut datagram = self.head(kind, client_index).to_vec();
        datagram.extend(message);
        Ok(datagram)
    }

    /// The Noise message of an answer to the request with this index.
    pub(crate) fn answer_body<'a>(
        &self,
        kind: MsgType,
        client_index: u32,
        datagram: &'a [u8],
    ) -> Result<&'a [u8], CryptoError> {
        if datagram.len() < ANSWER_NOISE_AT + NOISE_RESPONSE_OVERHEAD || datagram.len() > self.len {
            return Err(CryptoError::Malformed);
        }
        let (head, message) = datagram.split_at_checked(ANSWER_NOISE_AT).ok_or(CryptoError::Malformed)?;
        if head == self.head(kind, client_index) { Ok(message) } else { Err(CryptoError::Malformed) }
    }

    const fn setup<'a>(
        &'a self,
        local: &'a StaticSecret,
        remote: Option<&'a PublicKey>,
        psk: Option<(u8, &'a [u8; SECRET_LEN])>,
    ) -> Setup<'a> {
        Setup { pattern: PATTERN, prologue: self.prologue, local, remote, psk }
    }

    /// The first eight octets of each datagram of the exchange.
    const fn head(&self, kind: MsgType, client_index: u32) -> [u8; ANSWER_NOISE_AT] {
        let [a, b, c, d] = client_index.to_be_bytes();
        [kind.octet(), PROTOCOL_VERSION, self.kind, 0, a, b, c, d]
    }
}

/// Replaces the pre-shared key that the second message enters with.
pub(crate) fn set_psk(state: &mut HandshakeState, psk: &[u8; SECRET_LEN]) -> Result<(), CryptoError> {
    state
        .set_psk(PSK_POSITION.into(), psk)
        .map_err(|_| CryptoError::Internal("the pre-shared key of a Noise exchange"))
}

fn write_mac(gateway: &PublicKey, request: &mut [u8]) {
    let mac = request_mac(gateway, request);
    if let Some(field) = request.get_mut(MAC_AT..MAC_AT + MAC_LEN) {
        field.copy_from_slice(&mac);
    }
}

/// The MAC over a request with its MAC field taken as zero. The type in front tells the exchanges apart.
pub(crate) fn request_mac(gateway: &PublicKey, datagram: &[u8]) -> [u8; MAC_LEN] {
    let key = mac::public_key_of(b"jvpn1 init mac", &gateway.0);
    let before = datagram.get(..MAC_AT).unwrap_or_default();
    let behind = datagram.get(COOKIE_AT..).unwrap_or_default();
    mac::mac(&key, &[before, &[0; MAC_LEN], behind])
}

const _: () = assert!(MAC_AT + MAC_LEN == COOKIE_AT && INDEX_AT + 4 == MAC_AT);
const _: () = assert!(takeover::INDEX_AT == INDEX_AT && takeover::MAC_AT == MAC_AT);
const _: () = assert!(takeover::COOKIE_AT == COOKIE_AT && takeover::NOISE_AT == NOISE_AT);
const _: () = assert!(takeover::ANSWER_NOISE_AT == ANSWER_NOISE_AT);
const _: () = assert!(takeover::NOISE_OVERHEAD == NOISE_INIT_OVERHEAD);
const _: () = assert!(takeover::NOISE_ANSWER_OVERHEAD == NOISE_RESPONSE_OVERHEAD);
