//! REATTACH_REQUEST, _ACK and _REJECT: Noise_KKpsk0_25519_ChaChaPoly_BLAKE2s, which makes the secret of the
//! next epoch.
//!
//! Both static keys prove possession, both ephemeral keys give forward secrecy, the psk ties the request to
//! session and generation. SessionId is never on the wire; anchor_version and nonce are masked. The caller
//! looks the handle up, compares nonces and versions, and keeps the order of checks.

use crate::cookie::Cookie;
use crate::keys::{PublicKey, StaticSecret};
use crate::mac::{self, Secret};
use crate::noise::{self, Role, Setup};
use crate::rng::Random;
use crate::schedule::{EpochSecret, Resume};
use crate::{CryptoError, Proven};
use jvpn_abi::wire::reattach::{
    ACK_NOISE_AT, ACK_PAYLOAD_MAX, COOKIE_AT, ECHO_AT, ECHO_LEN, HANDLE_AT, HANDLE_LEN, KIND_REATTACH,
    MAC_AT, MASKED_AT, MASKED_LEN, NOISE_AT, NOISE_OVERHEAD, REJECT_LEN, REJECT_MAC_AT, REJECT_REASON_AT,
    REJECT_RETRY_AFTER_AT, REQUEST_LEN, REQUEST_PAYLOAD_LEN,
};
use jvpn_abi::wire::{COOKIE_LEN, MsgType, be32, octets};
use jvpn_abi::{PROTOCOL_VERSION, Reason};
use snow::HandshakeState;
use std::fmt;

const PATTERN: &str = "Noise_KKpsk0_25519_ChaChaPoly_BLAKE2s";
const PSK_POSITION: u8 = 0;
const LABEL: [u8; 13] = *b"jvpn reattach";
const PROLOGUE_LEN: usize = LABEL.len() + 1 + 16 + 8 + 8;

/// What a request is made from.
#[derive(Debug)]
pub struct RequestParams<'a> {
    /// The client's static key.
    pub local: &'a StaticSecret,
    /// The gateway's static key.
    pub gateway: &'a PublicKey,
    /// The secret of the generation that the client asks under.
    pub resume: &'a Resume,
    /// The session.
    pub session_id: [u8; 16],
    /// state_version in the answer that made the generation.
    pub anchor_version: u64,
    /// Higher than in any request of this session before.
    pub nonce: u64,
    /// Names session and generation to the gateway.
    pub handle: [u8; HANDLE_LEN],
}

/// anchor_version and nonce of a request. Means nothing until the request's MAC was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// state_version that the client knows its generation by.
    pub anchor_version: u64,
    /// Number of the request.
    pub nonce: u64,
}

impl Claim {
    fn from_octets(octets: [u8; MASKED_LEN]) -> Self {
        let both = u128::from_be_bytes(octets);
        Self { anchor_version: (both >> 64) as u64, nonce: both as u64 }
    }

    fn to_octets(self) -> [u8; MASKED_LEN] {
        (u128::from(self.anchor_version) << 64 | u128::from(self.nonce)).to_be_bytes()
    }

    fn prologue(self, session_id: &[u8; 16]) -> [u8; PROLOGUE_LEN] {
        let mut out = [0; PROLOGUE_LEN];
        let parts = LABEL.into_iter().chain([PROTOCOL_VERSION]).chain(*session_id).chain(self.to_octets());
        for (to, from) in out.iter_mut().zip(parts) {
            *to = from;
        }
        out
    }
}

/// The client's side of a reattach that waits for its answer.
pub struct PendingRequest {
    echo: [u8; ECHO_LEN],
    /// Of the form before a cookie was put in: either may be what the gateway answers.
    former_echo: [u8; ECHO_LEN],
    nonce: u64,
    mac_key: Secret,
    reject_key: Secret,
    /// `None` once the answer was read.
    state: Option<HandshakeState>,
}

/// Makes a REQUEST of [`REQUEST_LEN`] octets. `payload` (at most [`REQUEST_PAYLOAD_LEN`] octets) is padded
/// with zeros.
///
/// # Errors
/// [`CryptoError::TooLong`], [`CryptoError::Random`]; [`CryptoError::Authentication`] if the gateway's key is
/// no usable X25519 key.
pub fn request(
    rng: &mut dyn Random,
    params: &RequestParams<'_>,
    payload: &[u8],
) -> Result<(Vec<u8>, PendingRequest), CryptoError> {
    if payload.len() > REQUEST_PAYLOAD_LEN {
        return Err(CryptoError::TooLong { len: payload.len(), max: REQUEST_PAYLOAD_LEN });
    }
    let mut padded = payload.to_vec();
    padded.resize(REQUEST_PAYLOAD_LEN, 0);

    let claim = Claim { anchor_version: params.anchor_version, nonce: params.nonce };
    let setup = Setup {
        pattern: PATTERN,
        prologue: &claim.prologue(&params.session_id),
        local: params.local,
        remote: Some(params.gateway),
        psk: Some((PSK_POSITION, &*params.resume.psk())),
    };
    let mut state = setup.build(Role::Initiator, rng)?;
    let message = noise::write(&mut state, &padded, NOISE_OVERHEAD)?;
    let ephemeral = octets(&message, 0).ok_or(CryptoError::Internal("a Noise message without a key"))?;

    let mut datagram = Vec::with_capacity(REQUEST_LEN);
    datagram.extend([MsgType::ReattachRequest.octet(), PROTOCOL_VERSION, KIND_REATTACH, 0]);
    datagram.extend(params.handle);
    datagram.extend(xor(claim.to_octets(), params.resume.mask(&ephemeral)));
    datagram.resize(NOISE_AT, 0);
    datagram.extend(message);
    let mac_key = params.resume.mac_key();
    let mac = mac::mac(&mac_key, &[&datagram]);
    datagram.extend(mac);

    let pending = PendingRequest {
        echo: echo_of(mac),
        former_echo: echo_of(mac),
        mac_key,
        nonce: params.nonce,
        reject_key: params.resume.reject_key(),
        state: Some(state),
    };
    Ok((datagram, pending))
}

/// A gateway's authenticated refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Why.
    pub reason: Reason,
    /// Not to ask again before this many milliseconds; 0 = no statement.
    pub retry_after_ms: u32,
}

impl PendingRequest {
    /// What answers to this request carry: the first octets of its MAC.
    #[must_use]
    pub const fn echo(&self) -> [u8; ECHO_LEN] {
        self.echo
    }

    /// The request's nonce.
    #[must_use]
    pub const fn nonce(&self) -> u64 {
        self.nonce
    }

    /// Lets the request show a cookie. It stays the same request, with the same nonce and Noise message, and the answer to
    /// the form before can still be read.
    ///
    /// # Errors
    /// [`CryptoError::Malformed`] if this is not the size of a request.
    pub fn with_cookie(&mut self, request: &mut [u8], cookie: Cookie) -> Result<(), CryptoError> {
        if request.len() != REQUEST_LEN {
            return Err(CryptoError::Malformed);
        }
        if let Some(field) = request.get_mut(COOKIE_AT..COOKIE_AT + COOKIE_LEN) {
            field.copy_from_slice(&cookie.0);
        }
        let (covered, field) = request.split_at_mut_checked(MAC_AT).ok_or(CryptoError::Malformed)?;
        let mac = mac::mac(&self.mac_key, &[covered]);
        field.copy_from_slice(&mac);
        self.former_echo = std::mem::replace(&mut self.echo, echo_of(mac));
        Ok(())
    }

    /// Reads an ACK: the epoch's secret and the payload. After any error but [`CryptoError::Repeated`] the
    /// genuine answer can still be read.
    ///
    /// # Errors
    /// [`CryptoError::Malformed`]; [`CryptoError::Authentication`], also for an answer to another request;
    /// [`CryptoError::Repeated`] once it succeeded.
    pub fn read_ack(&mut self, datagram: &[u8]) -> Result<(EpochSecret, Vec<u8>), CryptoError> {
        let state = self.state.as_mut().ok_or(CryptoError::Repeated)?;
        if datagram.len() < ACK_NOISE_AT + NOISE_OVERHEAD || datagram.len() > REQUEST_LEN {
            return Err(CryptoError::Malformed);
        }
        let (head, message) = datagram.split_at_checked(ACK_NOISE_AT).ok_or(CryptoError::Malformed)?;
        let (fixed, echo) = head.split_at_checked(ECHO_AT).ok_or(CryptoError::Malformed)?;
        if fixed != [MsgType::ReattachAck.octet(), PROTOCOL_VERSION, KIND_REATTACH, 0] {
            return Err(CryptoError::Malformed);
        }
        if !is_either(echo, &self.echo, &self.former_echo) {
            return Err(CryptoError::Authentication);
        }
        let payload = noise::read(state, message)?;
        let secret = noise::finish(state)?;
        self.state = None;
        Ok((secret, payload))
    }

    /// Reads a REJECT. The request stays pending: a late ACK can still be read.
    ///
    /// # Errors
    /// [`CryptoError::Malformed`], also for a reason that this version does not know;
    /// [`CryptoError::Authentication`], also for an answer to another request.
    pub fn read_reject(&self, datagram: &[u8]) -> Result<Reject, CryptoError> {
        let datagram: &[u8; REJECT_LEN] = datagram.try_into().map_err(|_| CryptoError::Malformed)?;
        let (head, mac) = datagram.split_at_checked(REJECT_MAC_AT).ok_or(CryptoError::Malformed)?;
        if !head.starts_with(&[MsgType::ReattachReject.octet(), PROTOCOL_VERSION, KIND_REATTACH]) {
            return Err(CryptoError::Malformed);
        }
        let echo: [u8; ECHO_LEN] = octets(head, ECHO_AT).ok_or(CryptoError::Malformed)?;
        let expected = mac::mac(&self.reject_key, &[head, &self.nonce.to_be_bytes()]);
        if !(mac::equal(mac, &expected) && is_either(&echo, &self.echo, &self.former_echo)) {
            return Err(CryptoError::Authentication);
        }
        let reason = head.get(REJECT_REASON_AT).copied().and_then(Reason::from_number);
        Ok(Reject {
            reason: reason.ok_or(CryptoError::Malformed)?,
            retry_after_ms: be32(head, REJECT_RETRY_AFTER_AT).ok_or(CryptoError::Malformed)?,
        })
    }
}

impl fmt::Debug for PendingRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingRequest").field("nonce", &self.nonce).finish_non_exhaustive()
    }
}

/// A REQUEST of which only the framing was looked at.
#[derive(Clone, Copy, Debug)]
pub struct RequestFrame<'a> {
    datagram: &'a [u8],
    handle: [u8; HANDLE_LEN],
    masked: [u8; MASKED_LEN],
    ephemeral: [u8; 32],
    /// Everything that the MAC covers.
    covered: &'a [u8],
    message: &'a [u8],
    mac: &'a [u8],
}

impl<'a> RequestFrame<'a> {
    /// Size, type, version, kind and reserved octet. `None` if one is wrong.
    #[must_use]
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        if datagram.len() != REQUEST_LEN
            || !datagram.starts_with(&[MsgType::ReattachRequest.octet(), PROTOCOL_VERSION, KIND_REATTACH, 0])
        {
            return None;
        }
        let (covered, mac) = datagram.split_at_checked(MAC_AT)?;
        Some(Self {
            datagram,
            handle: octets(datagram, HANDLE_AT)?,
            masked: octets(datagram, MASKED_AT)?,
            ephemeral: octets(datagram, NOISE_AT)?,
            covered,
            message: covered.get(NOISE_AT..)?,
            mac,
        })
    }

    /// What names session and generation.
    #[must_use]
    pub const fn handle(&self) -> [u8; HANDLE_LEN] {
        self.handle
    }

    /// The whole datagram.
    #[must_use]
    pub const fn datagram(&self) -> &'a [u8] {
        self.datagram
    }

    /// Whether an earlier datagram was this very request, whatever cookie it showed: all but cookie and MAC is equal.
    /// Means something for one whose MAC holds, or is equal, too.
    #[must_use]
    pub fn is_same_request(&self, earlier: &[u8]) -> bool {
        let same = |part: std::ops::Range<usize>| self.datagram.get(part.clone()) == earlier.get(part);
        earlier.len() == REQUEST_LEN && same(0..COOKIE_AT) && same(NOISE_AT..MAC_AT)
    }

    /// anchor_version and nonce. Not authenticated until [`Self::mac_ok`] holds.
    #[must_use]
    pub fn unmask(&self, resume: &Resume) -> Claim {
        Claim::from_octets(xor(self.masked, resume.mask(&self.ephemeral)))
    }

    /// Whether who made this datagram knows `resume`. Constant time, no Diffie-Hellman.
    #[must_use]
    pub fn mac_ok(&self, resume: &Resume) -> bool {
        mac::equal(self.mac, &mac::mac(&resume.mac_key(), &[self.covered]))
    }

    /// Reads the Noise message: three Diffie-Hellman operations, and the ephemeral key of the answer is
    /// drawn.
    ///
    /// # Errors
    /// [`CryptoError::Authentication`], also if [`Self::mac_ok`] does not hold; [`CryptoError::Random`].
    pub fn read(
        &self,
        rng: &mut dyn Random,
        local: &StaticSecret,
        peer: &PublicKey,
        resume: &Resume,
        session_id: [u8; 16],
    ) -> Result<(Proven, IncomingRequest), CryptoError> {
        if !self.mac_ok(resume) {
            return Err(CryptoError::Authentication);
        }
        let setup = Setup {
            pattern: PATTERN,
            prologue: &self.unmask(resume).prologue(&session_id),
            local,
            remote: Some(peer),
            psk: Some((PSK_POSITION, &*resume.psk())),
        };
        let mut state = setup.build(Role::Responder, rng)?;
        let payload = noise::read(&mut state, self.message)?;
        Ok((Proven::mint(), IncomingRequest { payload, echo: self.echo(), state }))
    }

    fn echo(&self) -> [u8; ECHO_LEN] {
        // `parse` has seen that the MAC is there.
        octets(self.mac, 0).unwrap_or_default()
    }
}

/// A client's REQUEST that proved possession.
pub struct IncomingRequest {
    /// The padded payload, [`REQUEST_PAYLOAD_LEN`] octets.
    pub payload: Vec<u8>,
    echo: [u8; ECHO_LEN],
    state: HandshakeState,
}

impl IncomingRequest {
    /// Makes the ACK, with at most [`ACK_PAYLOAD_MAX`] octets of payload, and the epoch's secret.
    ///
    /// # Errors
    /// [`CryptoError::TooLong`]; [`CryptoError::Internal`].
    pub fn answer(mut self, payload: &[u8]) -> Result<(Vec<u8>, EpochSecret), CryptoError> {
        if payload.len() > ACK_PAYLOAD_MAX {
            return Err(CryptoError::TooLong { len: payload.len(), max: ACK_PAYLOAD_MAX });
        }
        let message = noise::write(&mut self.state, payload, NOISE_OVERHEAD)?;
        let secret = noise::finish(&mut self.state)?;
        let mut datagram = vec![MsgType::ReattachAck.octet(), PROTOCOL_VERSION, KIND_REATTACH, 0];
        datagram.extend(self.echo);
        datagram.extend(message);
        Ok((datagram, secret))
    }
}

impl fmt::Debug for IncomingRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingRequest").finish_non_exhaustive()
    }
}

/// Makes a REJECT. Only for a request whose [`RequestFrame::mac_ok`] holds: others get no answer under
/// `resume`.
#[must_use]
pub fn reject(
    resume: &Resume,
    frame: &RequestFrame<'_>,
    reason: Reason,
    retry_after_ms: u32,
) -> [u8; REJECT_LEN] {
    let fixed =
        [MsgType::ReattachReject.octet(), PROTOCOL_VERSION, KIND_REATTACH, reason.number()].into_iter();
    let mut head = [0; REJECT_MAC_AT];
    let parts = fixed.chain(frame.echo()).chain(retry_after_ms.to_be_bytes());
    for (to, from) in head.iter_mut().zip(parts) {
        *to = from;
    }
    let nonce = frame.unmask(resume).nonce;
    let mac = mac::mac(&resume.reject_key(), &[&head, &nonce.to_be_bytes()]);
    let mut datagram = [0; REJECT_LEN];
    for (to, from) in datagram.iter_mut().zip(head.into_iter().chain(mac)) {
        *to = from;
    }
    datagram
}

const fn echo_of(mac: [u8; 16]) -> [u8; ECHO_LEN] {
    let [a, b, c, d, e, f, g, h, ..] = mac;
    [a, b, c, d, e, f, g, h]
}

fn is_either(echo: &[u8], latest: &[u8; ECHO_LEN], former: &[u8; ECHO_LEN]) -> bool {
    mac::equal(echo, latest) || mac::equal(echo, former)
}

fn xor(a: [u8; MASKED_LEN], b: [u8; MASKED_LEN]) -> [u8; MASKED_LEN] {
    (u128::from_ne_bytes(a) ^ u128::from_ne_bytes(b)).to_ne_bytes()
}

const _: () = assert!(MASKED_AT == HANDLE_AT + HANDLE_LEN && COOKIE_AT == MASKED_AT + MASKED_LEN);

#[cfg(test)]
mod tests;
