//! PATH_PROBE and PATH_ECHO: a client measures a path that carries no data, with a ticket that it uses once.
//!
//! ```text
//! PROBE  0 type | 1 version | 2..4 zero | 4..8 bucket | 8..16 ticket | 16..28 zero | 28..44 MAC
//! ECHO   0 type | 1 version | 2..4 zero | 4..12 ticket | 12..28 cookie | 28..44 MAC
//! ```
//! The cookie is for the endpoint that the probe came from; the zeros make the question as large as its answer.
//! Bucket and ticket come from sealed CONTROL. Both MACs are made with the ticket's own key, over everything before
//! them, and cover the whole datagram. A ticket says nothing about its session: two paths cannot be linked by it.

use super::{COOKIE_LEN, MAC_LEN, MsgType, be32, octets, put};

/// Octets of a ticket's name.
pub const TICKET_ID_LEN: usize = 8;
/// Octets of every PATH_PROBE.
pub const PATH_PROBE_LEN: usize = PROBE_MAC_AT + MAC_LEN;
/// Octets of every PATH_ECHO.
pub const PATH_ECHO_LEN: usize = ECHO_MAC_AT + MAC_LEN;
/// Position of the MAC in a PATH_PROBE; what is before it is what the MAC covers.
pub const PROBE_MAC_AT: usize = 28;
/// Position of the cookie in a PATH_ECHO.
pub const ECHO_COOKIE_AT: usize = 12;
/// Position of the MAC in a PATH_ECHO.
pub const ECHO_MAC_AT: usize = ECHO_COOKIE_AT + COOKIE_LEN;
/// Position of the padding in a PATH_PROBE.
const PROBE_PADDING_AT: usize = 16;

const _: () = assert!(PATH_ECHO_LEN <= PATH_PROBE_LEN, "an answer is never larger than its question");
const _: () = assert!(PATH_PROBE_LEN <= super::MAX_CONTROL_DATAGRAM);

/// A parsed PATH_PROBE. Means nothing until its MAC was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathProbe {
    /// When the ticket was made, in the gateway's own coarse time.
    pub bucket: u32,
    /// The ticket.
    pub ticket: [u8; TICKET_ID_LEN],
    /// Made with the ticket's key.
    pub mac: [u8; MAC_LEN],
}

impl PathProbe {
    /// Reads a datagram of exactly [`PATH_PROBE_LEN`] octets.
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        framed(datagram, MsgType::PathProbe, PATH_PROBE_LEN)?;
        let padding = datagram.get(PROBE_PADDING_AT..PROBE_MAC_AT)?;
        padding.iter().all(|octet| *octet == 0).then_some(())?;
        Some(Self {
            bucket: be32(datagram, 4)?,
            ticket: octets(datagram, 8)?,
            mac: octets(datagram, PROBE_MAC_AT)?,
        })
    }

    /// What the MAC of a probe covers.
    #[must_use]
    pub fn head(bucket: u32, ticket: [u8; TICKET_ID_LEN]) -> [u8; PROBE_MAC_AT] {
        let mut out = [0; PROBE_MAC_AT];
        out[0] = MsgType::PathProbe.octet();
        out[1] = crate::PROTOCOL_VERSION;
        let fits = put(&mut out, 4, &bucket.to_be_bytes()).and(put(&mut out, 8, &ticket));
        debug_assert!(fits.is_some(), "the head holds bucket and ticket");
        out
    }

    /// The octets on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; PATH_PROBE_LEN] {
        let mut out = [0; PATH_PROBE_LEN];
        let head = Self::head(self.bucket, self.ticket);
        let fits = put(&mut out, 0, &head).and(put(&mut out, PROBE_MAC_AT, &self.mac));
        debug_assert!(fits.is_some(), "PATH_PROBE_LEN holds head and MAC");
        out
    }
}

/// A parsed PATH_ECHO. Means nothing until its MAC was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathEcho {
    /// The ticket of the probe that it answers.
    pub ticket: [u8; TICKET_ID_LEN],
    /// Shows, in a request, that its sender receives where the probe came from. All zero: the gateway has none.
    pub cookie: [u8; COOKIE_LEN],
    /// Made with the ticket's key.
    pub mac: [u8; MAC_LEN],
}

impl PathEcho {
    /// Reads a datagram of exactly [`PATH_ECHO_LEN`] octets.
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        framed(datagram, MsgType::PathEcho, PATH_ECHO_LEN)?;
        Some(Self {
            ticket: octets(datagram, 4)?,
            cookie: octets(datagram, ECHO_COOKIE_AT)?,
            mac: octets(datagram, ECHO_MAC_AT)?,
        })
    }

    /// What the MAC of an echo covers.
    #[must_use]
    pub fn head(ticket: [u8; TICKET_ID_LEN], cookie: [u8; COOKIE_LEN]) -> [u8; ECHO_MAC_AT] {
        let mut out = [0; ECHO_MAC_AT];
        out[0] = MsgType::PathEcho.octet();
        out[1] = crate::PROTOCOL_VERSION;
        let fits = put(&mut out, 4, &ticket).and(put(&mut out, ECHO_COOKIE_AT, &cookie));
        debug_assert!(fits.is_some(), "the head holds ticket and cookie");
        out
    }

    /// The octets on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; PATH_ECHO_LEN] {
        let mut out = [0; PATH_ECHO_LEN];
        let head = Self::head(self.ticket, self.cookie);
        let fits = put(&mut out, 0, &head).and(put(&mut out, ECHO_MAC_AT, &self.mac));
        debug_assert!(fits.is_some(), "PATH_ECHO_LEN holds head and MAC");
        out
    }
}

fn framed(datagram: &[u8], kind: MsgType, len: usize) -> Option<()> {
    let head = octets::<4>(datagram, 0)?;
    (datagram.len() == len && head == [kind.octet(), crate::PROTOCOL_VERSION, 0, 0]).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_and_echo_come_back_as_they_were_and_nothing_else_does() {
        let probe = PathProbe { bucket: 0x0102_0304, ticket: [5; 8], mac: [6; 16] };
        let echo = PathEcho { ticket: [7; 8], cookie: [9; 16], mac: [8; 16] };
        let (probe_octets, echo_octets) = (probe.encode(), echo.encode());
        assert_eq!(PathProbe::parse(&probe_octets), Some(probe));
        assert_eq!(PathEcho::parse(&echo_octets), Some(echo));
        assert_eq!(PathProbe::parse(&echo_octets), None);
        assert_eq!(PathEcho::parse(&probe_octets), None);
        for at in (0..4).chain(16..28) {
            let mut odd = probe_octets;
            odd[at] ^= 1;
            assert_eq!(PathProbe::parse(&odd), None, "octet {at}");
        }
        for len in 0..PATH_PROBE_LEN {
            assert_eq!(PathProbe::parse(&probe_octets[..len]), None);
        }
        assert_eq!(PathProbe::parse(&[&probe_octets[..], &[0]].concat()), None);
    }
}
