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
use crate::ik::{Asked, Exchange};
use crate::keys::{PresharedKey, PublicKey, StaticSecret};
use crate::noise;
use crate::rng::Random;
use crate::schedule::EpochSecret;
use crate::{CryptoError, Proven};
use jvpn_abi::PROTOCOL_VERSION;
use jvpn_abi::wire::MsgType;
use jvpn_abi::wire::handshake::{INIT_LEN, INIT_PAYLOAD_LEN, RESPONSE_PAYLOAD_MAX};
use snow::HandshakeState;
use std::fmt;

const PROLOGUE: [u8; 15] = *b"jvpn handshake\x01";

const _: () = assert!(PROLOGUE[14] == PROTOCOL_VERSION);

const EXCHANGE: Exchange = Exchange {
    prologue: &PROLOGUE,
    request: MsgType::HandshakeInit,
    kind: 0,
    len: INIT_LEN,
    payload_len: INIT_PAYLOAD_LEN,
};

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
    let (datagram, state) = EXCHANGE.ask(rng, (local, gateway), psk.as_bytes(), client_index, payload)?;
    Ok((datagram, Initiation { client_index, state: Some(state) }))
}

/// Lets an INIT show a cookie. It stays the same INIT: the same Noise message, so the response to either form can be
/// read.
///
/// # Errors
/// [`CryptoError::Malformed`] if this is not the size of an INIT.
pub fn with_cookie(gateway: &PublicKey, init: &mut [u8], cookie: Cookie) -> Result<(), CryptoError> {
    EXCHANGE.show(gateway, init, cookie)
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
        let message = EXCHANGE.answer_body(MsgType::HandshakeResponse, self.client_index, datagram)?;
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
    EXCHANGE.is_asked(gateway, datagram)
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
    let Asked { peer, payload, client_index, state } = EXCHANGE.read(rng, local, datagram)?;
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
        let (index, psk) = (self.client_index, psk.as_bytes());
        let datagram = EXCHANGE.answer(MsgType::HandshakeResponse, index, &mut self.state, psk, payload)?;
        let secret = noise::finish(&mut self.state)?;
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

#[cfg(test)]
mod tests;
