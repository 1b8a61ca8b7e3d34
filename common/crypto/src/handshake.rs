//! HANDSHAKE_INIT and HANDSHAKE_RESPONSE: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, which makes a session's
//! first secret.
//!
//! The payloads are the caller's; here they are octets. Both are part of the transcript, so whoever strips an
//! offer breaks the exchange (R5.1). Freshness of an INIT is the caller's too: its payload carries the
//! timestamp.
//!
//! ```
//! use jvpn_crypto::handshake::{init_mac_ok, initiate, read_init};
//! use jvpn_crypto::keys::{PresharedKey, StaticSecret};
//! use jvpn_crypto::rng::OsRandom;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut rng = OsRandom::checked()?;
//! let (client, gateway) = (StaticSecret::generate(&mut rng)?, StaticSecret::generate(&mut rng)?);
//! let psk = PresharedKey::default();
//!
//! let (init, mut initiation) = initiate(&mut rng, &client, &gateway.public(), &psk, 7, b"offer")?;
//! // At the gateway: the cheap check first, then the Diffie-Hellman.
//! assert!(init_mac_ok(&gateway.public(), &init));
//! let (proven, incoming) = read_init(&mut rng, &gateway, &init)?;
//! assert_eq!(incoming.peer, client.public());
//! let (response, at_gateway) = incoming.respond(&psk, b"grant")?;
//! // Back at the client.
//! let (at_client, payload) = initiation.read_response(&response)?;
//! assert_eq!(payload, b"grant");
//! assert_eq!(at_client.data_keys().client_to_gateway, at_gateway.data_keys().client_to_gateway);
//! # drop(proven);
//! # Ok(())
//! # }
//! ```

use crate::cookie::Cookie;
use crate::keys::{PresharedKey, PublicKey, StaticSecret};
use crate::mac;
use crate::noise::{self, Role, Setup};
use crate::rng::Random;
use crate::schedule::EpochSecret;
use crate::{CryptoError, Proven};
use jvpn_abi::PROTOCOL_VERSION;
use jvpn_abi::wire::handshake::{
    CLIENT_INDEX_AT, INIT_COOKIE_AT, INIT_LEN, INIT_MAC_AT, INIT_NOISE_AT, INIT_PAYLOAD_LEN,
    NOISE_INIT_OVERHEAD, NOISE_RESPONSE_OVERHEAD, RESPONSE_NOISE_AT, RESPONSE_PAYLOAD_MAX,
};
use jvpn_abi::wire::{COOKIE_LEN, MAC_LEN, MsgType, be32};
use snow::HandshakeState;
use std::fmt;

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PSK_POSITION: u8 = 2;
const PROLOGUE: [u8; 15] = *b"jvpn handshake\x01";

const _: () = assert!(PROLOGUE[14] == PROTOCOL_VERSION);

/// The client's side of a handshake that waits for its response.
pub struct Initiation {
    client_index: u32,
    /// `None` once the response was read.
    state: Option<HandshakeState>,
}

/// Makes an INIT of [`INIT_LEN`] octets. `payload` (at most [`INIT_PAYLOAD_LEN`] octets) is padded with
/// zeros.
///
/// # Errors
/// [`CryptoError::TooLong`], [`CryptoError::Random`]; [`CryptoError::Authentication`] if the gateway's key is
/// no usable X25519 key.
pub fn initiate(
    rng: &mut dyn Random,
    local: &StaticSecret,
    gateway: &PublicKey,
    psk: &PresharedKey,
    client_index: u32,
    payload: &[u8],
) -> Result<(Vec<u8>, Initiation), CryptoError> {
    if payload.len() > INIT_PAYLOAD_LEN {
        return Err(CryptoError::TooLong { len: payload.len(), max: INIT_PAYLOAD_LEN });
    }
    let mut padded = payload.to_vec();
    padded.resize(INIT_PAYLOAD_LEN, 0);

    let psk = Some((PSK_POSITION, psk.as_bytes()));
    let setup = Setup { pattern: PATTERN, prologue: &PROLOGUE, local, remote: Some(gateway), psk };
    let mut state = setup.build(Role::Initiator, rng)?;
    let message = noise::write(&mut state, &padded, NOISE_INIT_OVERHEAD)?;

    let mut datagram = Vec::with_capacity(INIT_LEN);
    datagram.extend(header(MsgType::HandshakeInit, client_index));
    datagram.resize(INIT_NOISE_AT, 0);
    datagram.extend(message);
    write_mac(gateway, &mut datagram);
    Ok((datagram, Initiation { client_index, state: Some(state) }))
}

/// Lets an INIT show a cookie. It stays the same INIT: the same Noise message, so the response to either form can be
/// read.
///
/// # Errors
/// [`CryptoError::Malformed`] if this is not the size of an INIT.
pub fn with_cookie(gateway: &PublicKey, init: &mut [u8], cookie: Cookie) -> Result<(), CryptoError> {
    if init.len() != INIT_LEN {
        return Err(CryptoError::Malformed);
    }
    if let Some(field) = init.get_mut(INIT_COOKIE_AT..INIT_COOKIE_AT + COOKIE_LEN) {
        field.copy_from_slice(&cookie.0);
    }
    write_mac(gateway, init);
    Ok(())
}

fn write_mac(gateway: &PublicKey, init: &mut [u8]) {
    let mac = init_mac(gateway, init);
    if let Some(field) = init.get_mut(INIT_MAC_AT..INIT_MAC_AT + MAC_LEN) {
        field.copy_from_slice(&mac);
    }
}

impl Initiation {
    /// The index that the response repeats.
    #[must_use]
    pub const fn client_index(&self) -> u32 {
        self.client_index
    }

    /// Reads the gateway's response: the epoch's secret and the response's payload. After any error but
    /// [`CryptoError::Repeated`] the genuine response can still be read.
    ///
    /// # Errors
    /// [`CryptoError::Malformed`], [`CryptoError::Authentication`]; [`CryptoError::Repeated`] once it
    /// succeeded.
    pub fn read_response(&mut self, datagram: &[u8]) -> Result<(EpochSecret, Vec<u8>), CryptoError> {
        let state = self.state.as_mut().ok_or(CryptoError::Repeated)?;
        if datagram.len() < RESPONSE_NOISE_AT + NOISE_RESPONSE_OVERHEAD || datagram.len() > INIT_LEN {
            return Err(CryptoError::Malformed);
        }
        let (head, message) = datagram.split_at_checked(RESPONSE_NOISE_AT).ok_or(CryptoError::Malformed)?;
        if head != header(MsgType::HandshakeResponse, self.client_index) {
            return Err(CryptoError::Malformed);
        }
        let payload = noise::read(state, message)?;
        let secret = noise::finish(state)?;
        self.state = None;
        Ok((secret, payload))
    }
}

impl fmt::Debug for Initiation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Initiation").field("client_index", &self.client_index).finish_non_exhaustive()
    }
}

/// Whether a datagram is framed as an INIT for this gateway: size, type, version and the MAC, in constant
/// time. Cheap; needs no secret, so it keeps scanners out, not attackers.
#[must_use]
pub fn init_mac_ok(gateway: &PublicKey, datagram: &[u8]) -> bool {
    let Some(client_index) = be32(datagram, CLIENT_INDEX_AT) else { return false };
    let Some(field) = datagram.get(INIT_MAC_AT..INIT_MAC_AT + MAC_LEN) else { return false };
    datagram.len() == INIT_LEN
        && datagram.starts_with(&header(MsgType::HandshakeInit, client_index))
        && mac::equal(field, &init_mac(gateway, datagram))
}

/// A client's INIT that proved its static key. What it asks for is in the payload.
pub struct IncomingInit {
    /// The client's static key. Whether it is allowed is for the caller to say.
    pub peer: PublicKey,
    /// The padded payload, [`INIT_PAYLOAD_LEN`] octets.
    pub payload: Vec<u8>,
    /// What the response repeats.
    pub client_index: u32,
    state: HandshakeState,
}

/// Reads an INIT. Costs two Diffie-Hellman operations and draws the ephemeral key of the response.
///
/// The proof says that the peer made this message, not that it made it now: an INIT can be replayed. Compare
/// the timestamp in the payload before anything moves.
///
/// # Errors
/// [`CryptoError::Malformed`] if [`init_mac_ok`] does not hold, [`CryptoError::Authentication`],
/// [`CryptoError::Random`].
pub fn read_init(
    rng: &mut dyn Random,
    local: &StaticSecret,
    datagram: &[u8],
) -> Result<(Proven, IncomingInit), CryptoError> {
    if !init_mac_ok(&local.public(), datagram) {
        return Err(CryptoError::Malformed);
    }
    let client_index = be32(datagram, CLIENT_INDEX_AT).ok_or(CryptoError::Malformed)?;
    let message = datagram.get(INIT_NOISE_AT..).ok_or(CryptoError::Malformed)?;

    let setup = Setup { pattern: PATTERN, prologue: &PROLOGUE, local, remote: None, psk: None };
    let mut state = setup.build(Role::Responder, rng)?;
    let payload = noise::read(&mut state, message)?;
    let peer = state
        .get_remote_static()
        .and_then(|key| key.try_into().ok())
        .map(PublicKey)
        .ok_or(CryptoError::Internal("the static key of a Noise message"))?;
    Ok((Proven::mint(), IncomingInit { peer, payload, client_index, state }))
}

impl IncomingInit {
    /// Makes the RESPONSE, with at most [`RESPONSE_PAYLOAD_MAX`] octets of payload, and the epoch's secret.
    ///
    /// # Errors
    /// [`CryptoError::TooLong`]; [`CryptoError::Internal`].
    pub fn respond(
        mut self,
        psk: &PresharedKey,
        payload: &[u8],
    ) -> Result<(Vec<u8>, EpochSecret), CryptoError> {
        if payload.len() > RESPONSE_PAYLOAD_MAX {
            return Err(CryptoError::TooLong { len: payload.len(), max: RESPONSE_PAYLOAD_MAX });
        }
        self.state
            .set_psk(PSK_POSITION.into(), psk.as_bytes())
            .map_err(|_| CryptoError::Internal("the pre-shared key of a Noise exchange"))?;
        let message = noise::write(&mut self.state, payload, NOISE_RESPONSE_OVERHEAD)?;
        let secret = noise::finish(&mut self.state)?;
        let mut datagram = header(MsgType::HandshakeResponse, self.client_index).to_vec();
        datagram.extend(message);
        Ok((datagram, secret))
    }
}

impl fmt::Debug for IncomingInit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingInit")
            .field("peer", &self.peer)
            .field("client_index", &self.client_index)
            .finish_non_exhaustive()
    }
}

/// The first eight octets of both datagrams.
const fn header(kind: MsgType, client_index: u32) -> [u8; RESPONSE_NOISE_AT] {
    let [a, b, c, d] = client_index.to_be_bytes();
    [kind.octet(), PROTOCOL_VERSION, 0, 0, a, b, c, d]
}

/// The MAC over an INIT with its MAC field taken as zero.
fn init_mac(gateway: &PublicKey, datagram: &[u8]) -> [u8; MAC_LEN] {
    let key = mac::public_key_of(b"jvpn1 init mac", &gateway.0);
    let before = datagram.get(..INIT_MAC_AT).unwrap_or_default();
    let behind = datagram.get(INIT_COOKIE_AT..).unwrap_or_default();
    mac::mac(&key, &[before, &[0; MAC_LEN], behind])
}

const _: () = assert!(INIT_MAC_AT + MAC_LEN == INIT_COOKIE_AT && CLIENT_INDEX_AT + 4 == INIT_MAC_AT);

#[cfg(test)]
mod tests;
