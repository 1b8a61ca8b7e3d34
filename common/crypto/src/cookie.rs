//! Cookies: under load, a request must show that its sender receives at the address that it came from.
//!
//! ```text
//! cookie = MAC(secret of the node, "jvpn1 cookie" ‖ remote ‖ local)            remote, local: address (16) ‖ port (2)
//! RETRY's MAC = MAC(SHA-256("jvpn1 retry mac" ‖ gateway's public key), octets 0..28 ‖ the request's whole MAC)
//! ```
//! The gateway remembers nothing: it makes the cookie again and compares. The secret is random, and replaced every
//! [`COOKIE_PERIOD`]; the one before still counts. A RETRY cannot be made by somebody who did not see the request that it
//! answers, for half of the request's MAC is never repeated. Nothing here costs a Diffie-Hellman operation.

use crate::CryptoError;
use crate::keys::PublicKey;
use crate::mac::{self, SECRET_LEN, Secret};
use crate::rng::{Random, RandomError};
use jvpn_abi::wire::handshake::{INIT_COOKIE_AT, INIT_LEN, INIT_MAC_AT};
use jvpn_abi::wire::reattach::{COOKIE_AT, ECHO_LEN, KIND_AT, KIND_TAKEOVER, MAC_AT, REQUEST_LEN};
use jvpn_abi::wire::retry::{RETRY_LEN, RETRY_MAC_AT, Retry};
use jvpn_abi::wire::takeover::{self, TAKEOVER_LEN};
use jvpn_abi::wire::{COOKIE_LEN, MAC_LEN, MsgType, octets};
use jvpn_abi::{BootTime, Endpoint};
use std::fmt;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long a secret makes cookies. It counts as long again, so a cookie is good for one to two of these.
pub const COOKIE_PERIOD: Duration = Duration::from_secs(120);

/// What a request shows under load. All zero: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cookie(pub [u8; COOKIE_LEN]);

impl Cookie {
    /// None is shown.
    pub const NONE: Self = Self([0; COOKIE_LEN]);

    /// Whether one is shown.
    #[must_use]
    pub fn is_some(&self) -> bool {
        *self != Self::NONE
    }
}

/// Makes cookies and judges them.
#[derive(Default)]
pub struct CookieJar(Option<Secrets>);

struct Secrets {
    /// Number of the period in which `current` was drawn.
    period: u64,
    current: Secret,
    previous: Option<Secret>,
}

impl CookieJar {
    /// The cookie of a path. Draws a new secret if it is time for one.
    ///
    /// # Errors
    /// [`RandomError`] of the source: there is no cookie then, and whoever needs one is not served.
    pub fn bake(
        &mut self,
        rng: &mut dyn Random,
        now: BootTime,
        remote: Endpoint,
        local: Endpoint,
    ) -> Result<Cookie, RandomError> {
        let period = period(now);
        let age = self.0.as_ref().map_or(u64::MAX, |secrets| period.saturating_sub(secrets.period));
        if age > 0 {
            let mut current = Zeroizing::new([0; SECRET_LEN]);
            rng.fill(&mut *current)?;
            let before = self.0.take().filter(|_| age == 1);
            let previous = before.map(|secrets| secrets.current);
            self.0 = Some(Secrets { period, current, previous });
        }
        Ok(self.0.as_ref().map_or(Cookie::NONE, |secrets| cookie(&secrets.current, remote, local)))
    }

    /// Whether this is a cookie of this path and time. Constant time for each secret (R2.5).
    #[must_use]
    pub fn accepts(&self, now: BootTime, remote: Endpoint, local: Endpoint, shown: Cookie) -> bool {
        let Some(secrets) = &self.0 else { return false };
        let fits = |secret: &Secret| mac::equal(&cookie(secret, remote, local).0, &shown.0);
        match period(now).saturating_sub(secrets.period) {
            0 => fits(&secrets.current) || secrets.previous.as_ref().is_some_and(fits),
            1 => fits(&secrets.current),
            _ => false,
        }
    }
}

impl fmt::Debug for CookieJar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CookieJar").finish_non_exhaustive()
    }
}

const fn period(now: BootTime) -> u64 {
    now.0 / COOKIE_PERIOD.as_nanos() as u64
}

fn cookie(secret: &Secret, remote: Endpoint, local: Endpoint) -> Cookie {
    let (remote_port, local_port) = (remote.port.to_be_bytes(), local.port.to_be_bytes());
    Cookie(mac::mac(secret, &[b"jvpn1 cookie", &remote.addr, &remote_port, &local.addr, &local_port]))
}

/// What a RETRY answers: any request that has a MAC and a field for a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    about: MsgType,
    kind: u8,
    mac: [u8; MAC_LEN],
    shown: Cookie,
}

impl Question {
    /// A request of this type and kind (0 if its type has none), with its whole MAC and what its cookie field shows.
    #[must_use]
    pub const fn new(about: MsgType, kind: u8, mac: [u8; MAC_LEN], shown: Cookie) -> Self {
        Self { about, kind, mac, shown }
    }

    /// A HANDSHAKE_INIT. Looks at its size only.
    #[must_use]
    pub fn of_init(datagram: &[u8]) -> Option<Self> {
        let (mac, shown) = (octets(datagram, INIT_MAC_AT)?, octets(datagram, INIT_COOKIE_AT)?);
        let question = Self::new(MsgType::HandshakeInit, 0, mac, Cookie(shown));
        (datagram.len() == INIT_LEN).then_some(question)
    }

    /// A REATTACH_REQUEST of either kind. Looks at its size and its kind only.
    #[must_use]
    pub fn of_request(datagram: &[u8]) -> Option<Self> {
        let [kind] = octets(datagram, KIND_AT)?;
        let (len, mac_at, cookie_at) = match kind {
            KIND_TAKEOVER => (TAKEOVER_LEN, takeover::MAC_AT, takeover::COOKIE_AT),
            _ => (REQUEST_LEN, MAC_AT, COOKIE_AT),
        };
        let (mac, shown) = (octets(datagram, mac_at)?, octets(datagram, cookie_at)?);
        let question = Self::new(MsgType::ReattachRequest, kind, mac, Cookie(shown));
        (datagram.len() == len).then_some(question)
    }

    /// What its cookie field shows.
    #[must_use]
    pub const fn shown(&self) -> Cookie {
        self.shown
    }

    fn echo(&self) -> [u8; ECHO_LEN] {
        let [a, b, c, d, e, f, g, h, ..] = self.mac;
        [a, b, c, d, e, f, g, h]
    }
}

/// Makes the RETRY for a request.
#[must_use]
pub fn retry(gateway: &PublicKey, question: &Question, cookie: Cookie) -> [u8; RETRY_LEN] {
    let mut retry = Retry {
        about: question.about.octet(),
        kind: question.kind,
        echo: question.echo(),
        cookie: cookie.0,
        mac: [0; MAC_LEN],
    };
    retry.mac = retry_mac(gateway, &retry.encode(), question);
    retry.encode()
}

/// Reads a RETRY for the request that was sent: the cookie to show.
///
/// # Errors
/// [`CryptoError::Malformed`], also if it holds no cookie; [`CryptoError::Authentication`], also for an answer to
/// another request.
pub fn read_retry(gateway: &PublicKey, sent: &Question, datagram: &[u8]) -> Result<Cookie, CryptoError> {
    let retry = Retry::parse(datagram).ok_or(CryptoError::Malformed)?;
    let is_about = (retry.about, retry.kind) == (sent.about.octet(), sent.kind);
    let genuine = mac::equal(&retry.mac, &retry_mac(gateway, datagram, sent));
    if !(is_about && mac::equal(&retry.echo, &sent.echo()) && genuine) {
        return Err(CryptoError::Authentication);
    }
    Some(Cookie(retry.cookie)).filter(Cookie::is_some).ok_or(CryptoError::Malformed)
}

/// The MAC over a RETRY without its MAC field.
fn retry_mac(gateway: &PublicKey, datagram: &[u8], question: &Question) -> [u8; MAC_LEN] {
    let key = mac::public_key_of(b"jvpn1 retry mac", &gateway.0);
    mac::mac(&key, &[datagram.get(..RETRY_MAC_AT).unwrap_or_default(), &question.mac])
}

#[cfg(test)]
mod tests;
