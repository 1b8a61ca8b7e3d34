//! What both Noise exchanges share: `snow` with our source of ephemeral keys and our Diffie-Hellman.
//!
//! `snow` takes its randomness from an object that it owns. Ours holds exactly one draw, made beforehand from
//! the source that the caller handed in; a second draw fails, so no ephemeral key is ever used twice. Our
//! X25519 refuses peers whose key contributes nothing (RFC 7748, section 6.1) and wipes private keys.

use crate::CryptoError;
use crate::agreement::{Agreed, Private};
use crate::keys::{PublicKey, StaticSecret};
use crate::mac::{SECRET_LEN, Secret};
use crate::rng::Random;
use crate::schedule::EpochSecret;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash};
use snow::{Builder, Error, HandshakeState};
use std::cell::Cell;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The side that this end plays.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    Initiator,
    Responder,
}

/// What an exchange is set up from.
pub(crate) struct Setup<'a> {
    /// Full name of the Noise protocol.
    pub(crate) pattern: &'static str,
    pub(crate) prologue: &'a [u8],
    pub(crate) local: &'a StaticSecret,
    /// The peer's static key, where the pattern knows it beforehand.
    pub(crate) remote: Option<&'a PublicKey>,
    /// Position and value of the pre-shared key, where it is known beforehand.
    pub(crate) psk: Option<(u8, &'a [u8; SECRET_LEN])>,
}

impl Setup<'_> {
    /// The state before the first message. Draws the one ephemeral key from `rng`.
    pub(crate) fn build(&self, role: Role, rng: &mut dyn Random) -> Result<HandshakeState, CryptoError> {
        let mut draw = Secret::default();
        rng.fill(&mut *draw)?;
        let draw = Cell::new(Some(OneDraw(Some(draw))));
        let resolver = Resolver { draw, local: Arc::clone(self.local.key()) };
        self.start(role, resolver).map_err(|_| CryptoError::Internal("the set-up of a Noise exchange"))
    }

    fn start(&self, role: Role, resolver: Resolver) -> Result<HandshakeState, Error> {
        let mut builder = Builder::with_resolver(self.pattern.parse()?, Box::new(resolver))
            .prologue(self.prologue)?
            .local_private_key(self.local.as_bytes())?;
        if let Some(remote) = self.remote {
            builder = builder.remote_public_key(&remote.0)?;
        }
        if let Some((position, psk)) = self.psk {
            builder = builder.psk(position, psk)?;
        }
        match role {
            Role::Initiator => builder.build_initiator(),
            Role::Responder => builder.build_responder(),
        }
    }
}

/// Writes the next message; its length is the payload's plus `overhead`.
pub(crate) fn write(
    state: &mut HandshakeState,
    payload: &[u8],
    overhead: usize,
) -> Result<Vec<u8>, CryptoError> {
    const WHAT: &str = "writing a Noise message";
    let mut message = vec![0; payload.len() + overhead];
    let written = state.write_message(payload, &mut message).map_err(|error| {
        if error == Error::Dh { CryptoError::Authentication } else { CryptoError::Internal(WHAT) }
    })?;
    if written == message.len() { Ok(message) } else { Err(CryptoError::Internal(WHAT)) }
}

/// Reads the next message and returns its payload. After an error the state is as before, ready for the
/// genuine one.
pub(crate) fn read(state: &mut HandshakeState, message: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let mut payload = vec![0; message.len()];
    let len = state.read_message(message, &mut payload).map_err(|_| CryptoError::Authentication)?;
    payload.truncate(len);
    Ok(payload)
}

/// The secret of a finished exchange.
pub(crate) fn finish(state: &mut HandshakeState) -> Result<EpochSecret, CryptoError> {
    if !state.is_handshake_finished() {
        return Err(CryptoError::Internal("a Noise exchange that is not finished"));
    }
    let (first, second) = state.dangerously_get_raw_split();
    let (first, second) = (Zeroizing::new(first), Zeroizing::new(second));
    let mut split = Zeroizing::new([0; 2 * SECRET_LEN]);
    for (to, from) in split.iter_mut().zip(first.iter().chain(second.iter())) {
        *to = *from;
    }
    Ok(EpochSecret::from_noise(state.get_handshake_hash(), &split))
}

/// Gives `snow` our parts; cipher and hash are its own.
struct Resolver {
    draw: Cell<Option<OneDraw>>,
    local: Arc<Private>,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn snow::types::Random>> {
        self.draw.take().map(|draw| Box::new(draw) as Box<dyn snow::types::Random>)
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let local = Arc::clone(&self.local);
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(Agreed::new(local)) as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// Randomness for one ephemeral key.
struct OneDraw(Option<Secret>);

impl snow::types::Random for OneDraw {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Error> {
        match self.0.take() {
            Some(draw) if draw.len() == out.len() => {
                out.copy_from_slice(&*draw);
                Ok(())
            }
            Some(_) | None => Err(Error::Rng),
        }
    }
}

#[cfg(test)]
mod tests;
