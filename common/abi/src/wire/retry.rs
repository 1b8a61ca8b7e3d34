//! RETRY: under load, a gateway answers a request with a cookie and remembers nothing of it.
//!
//! ```text
//! 0 type | 1 version | 2 type of the request | 3 its kind | 4..12 echo (first 8 octets of the request's MAC)
//!        | 12..28 cookie | 28..44 MAC
//! ```
//! The MAC also covers the whole MAC of the request, of which the echo shows one half only: who did not see the request
//! cannot make a RETRY for it.

use super::reattach::ECHO_LEN;
use super::{COOKIE_LEN, MAC_LEN, MsgType, octets, put};

/// Position of the request's type.
pub const RETRY_ABOUT_AT: usize = 2;
/// Position of the request's kind.
pub const RETRY_KIND_AT: usize = 3;
/// Position of the echo.
pub const RETRY_ECHO_AT: usize = 4;
/// Position of the cookie.
pub const RETRY_COOKIE_AT: usize = RETRY_ECHO_AT + ECHO_LEN;
/// Position of the MAC.
pub const RETRY_MAC_AT: usize = RETRY_COOKIE_AT + COOKIE_LEN;
/// Octets of a RETRY.
pub const RETRY_LEN: usize = RETRY_MAC_AT + MAC_LEN;

const _: () = assert!(RETRY_LEN < super::reattach::REQUEST_LEN && RETRY_LEN < super::handshake::INIT_LEN);

/// A parsed RETRY. Means nothing until its MAC was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// First octet of the request that this answers.
    pub about: u8,
    /// Kind octet of that request; 0 if its type has none.
    pub kind: u8,
    /// First octets of that request's MAC.
    pub echo: [u8; ECHO_LEN],
    /// What the request is to be sent again with.
    pub cookie: [u8; COOKIE_LEN],
    /// MAC over everything before it and the request's MAC.
    pub mac: [u8; MAC_LEN],
}

impl Retry {
    /// Reads a RETRY of exactly [`RETRY_LEN`] octets.
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let [msg_type, version, about, kind] = octets::<4>(datagram, 0)?;
        if datagram.len() != RETRY_LEN
            || msg_type != MsgType::Retry.octet()
            || version != crate::PROTOCOL_VERSION
        {
            return None;
        }
        Some(Self {
            about,
            kind,
            echo: octets(datagram, RETRY_ECHO_AT)?,
            cookie: octets(datagram, RETRY_COOKIE_AT)?,
            mac: octets(datagram, RETRY_MAC_AT)?,
        })
    }

    /// The octets on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; RETRY_LEN] {
        let mut out = [0; RETRY_LEN];
        out[0] = MsgType::Retry.octet();
        out[1] = crate::PROTOCOL_VERSION;
        out[RETRY_ABOUT_AT] = self.about;
        out[RETRY_KIND_AT] = self.kind;
        let fits = put(&mut out, RETRY_ECHO_AT, &self.echo)
            .and(put(&mut out, RETRY_COOKIE_AT, &self.cookie))
            .and(put(&mut out, RETRY_MAC_AT, &self.mac));
        debug_assert!(fits.is_some(), "RETRY_LEN holds echo, cookie and MAC");
        out
    }
}
