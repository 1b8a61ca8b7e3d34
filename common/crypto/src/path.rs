//! Tickets for path probes: made and judged by a gateway that remembers none of them.
//!
//! ```text
//! node key
//!   └ "jvpn1 path"                          → mint
//!        └ "jvpn1 ticket" ‖ bucket ‖ name   → the ticket's key
//!             ├ MAC over the head of PATH_PROBE
//!             └ MAC over the head of PATH_ECHO, cookie included
//! ```
//! Names are random and the key of each is derived, so whoever gets a ticket by sealed CONTROL can prove that, and
//! whoever only saw it on the wire cannot. The bucket is coarse time: all sessions share it, and a ticket is good for
//! [`TICKET_BUCKETS`] of them.

use crate::cookie::Cookie;
use crate::keys::NodeKey;
use crate::mac::{self, SECRET_LEN, Secret, expand};
use jvpn_abi::BootTime;
use jvpn_abi::wire::path::{PATH_ECHO_LEN, PATH_PROBE_LEN, PathEcho, PathProbe, TICKET_ID_LEN};
use jvpn_abi::wire::{COOKIE_LEN, MAC_LEN};
use std::fmt;
use std::time::Duration;

/// Octets of a ticket's key.
pub const TICKET_KEY_LEN: usize = SECRET_LEN;
/// Seconds of a bucket: coarse, so that tickets of one session cannot be told from those of another by it.
pub const BUCKET_SECONDS: u64 = 60;
/// Buckets that a ticket is good for, the one of its making included.
pub const TICKET_BUCKETS: u32 = 16;
/// How long a client may rely on a ticket: the last bucket may have been nearly over when it was made.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(BUCKET_SECONDS * (TICKET_BUCKETS as u64 - 1));

/// Why a probe is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// Not framed as PATH_PROBE.
    #[error("not framed as PATH_PROBE")]
    Malformed,
    /// Its ticket is too old, or of a clock that was set back.
    #[error("the ticket is not of this time")]
    Expired,
    /// Its MAC is wrong: another node's ticket, or not the holder's.
    #[error("the MAC is wrong")]
    Authentication,
}

/// Makes tickets and judges probes.
pub struct TicketMint(Secret);

impl TicketMint {
    /// The mint of a node.
    #[must_use]
    pub fn new(node: &NodeKey) -> Self {
        Self(expand(node.as_bytes(), &[b"jvpn1 path"]))
    }

    /// A ticket with this random name.
    #[must_use]
    pub fn issue(&self, now: BootTime, name: [u8; TICKET_ID_LEN]) -> Ticket {
        let bucket = bucket(now);
        Ticket { bucket, name, key: self.key(bucket, name) }
    }

    /// The echo for a probe. Changes nothing: the same probe gets the same echo. `cookie` makes the cookie of the endpoint
    /// that the probe came from, and is asked only for a genuine probe; [`Cookie::NONE`] if there is none.
    ///
    /// # Errors
    /// [`ProbeError`]; nothing is to be sent then.
    pub fn echo(
        &self,
        now: BootTime,
        datagram: &[u8],
        cookie: impl FnOnce() -> Cookie,
    ) -> Result<[u8; PATH_ECHO_LEN], ProbeError> {
        let probe = PathProbe::parse(datagram).ok_or(ProbeError::Malformed)?;
        let age = bucket(now).checked_sub(probe.bucket).ok_or(ProbeError::Expired)?;
        if age >= TICKET_BUCKETS {
            return Err(ProbeError::Expired);
        }
        let key = self.key(probe.bucket, probe.ticket);
        if !mac::equal(&probe_mac(&key, probe.bucket, probe.ticket), &probe.mac) {
            return Err(ProbeError::Authentication);
        }
        let Cookie(cookie) = cookie();
        let mac = echo_mac(&key, probe.ticket, cookie);
        Ok(PathEcho { ticket: probe.ticket, cookie, mac }.encode())
    }

    fn key(&self, bucket: u32, name: [u8; TICKET_ID_LEN]) -> Secret {
        expand(&self.0, &[b"jvpn1 ticket", &bucket.to_be_bytes(), &name])
    }
}

impl fmt::Debug for TicketMint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketMint(..)")
    }
}

/// The right to one probe. Using it takes it away.
pub struct Ticket {
    bucket: u32,
    name: [u8; TICKET_ID_LEN],
    key: Secret,
}

impl Ticket {
    /// A ticket as sealed CONTROL brings it.
    #[must_use]
    pub fn from_parts(bucket: u32, name: [u8; TICKET_ID_LEN], key: [u8; TICKET_KEY_LEN]) -> Self {
        Self { bucket, name, key: Secret::new(key) }
    }

    /// Bucket, name and key, for sealed CONTROL.
    #[must_use]
    pub fn parts(&self) -> (u32, [u8; TICKET_ID_LEN], &[u8; TICKET_KEY_LEN]) {
        (self.bucket, self.name, &self.key)
    }

    /// The probe, and the only echo that answers it.
    #[must_use]
    pub fn probe(self) -> ([u8; PATH_PROBE_LEN], AwaitedEcho) {
        let mac = probe_mac(&self.key, self.bucket, self.name);
        let probe = PathProbe { bucket: self.bucket, ticket: self.name, mac };
        let awaited = AwaitedEcho { ticket: self.name, key: self.key };
        (probe.encode(), awaited)
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(..)")
    }
}

/// Tells the echo of a probe that was sent.
pub struct AwaitedEcho {
    ticket: [u8; TICKET_ID_LEN],
    key: Secret,
}

impl AwaitedEcho {
    /// Whether this is the echo. Constant time in the MAC.
    #[must_use]
    pub fn matches(&self, echo: &PathEcho) -> bool {
        self.ticket == echo.ticket && mac::equal(&echo_mac(&self.key, self.ticket, echo.cookie), &echo.mac)
    }
}

impl fmt::Debug for AwaitedEcho {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AwaitedEcho(..)")
    }
}

/// The bucket of a moment, on the gateway's own clock.
fn bucket(now: BootTime) -> u32 {
    u32::try_from(now.0 / (BUCKET_SECONDS * 1_000_000_000)).unwrap_or(u32::MAX)
}

fn probe_mac(key: &[u8; SECRET_LEN], bucket: u32, name: [u8; TICKET_ID_LEN]) -> [u8; MAC_LEN] {
    mac::mac(key, &[&PathProbe::head(bucket, name)])
}

fn echo_mac(key: &[u8; SECRET_LEN], name: [u8; TICKET_ID_LEN], cookie: [u8; COOKIE_LEN]) -> [u8; MAC_LEN] {
    mac::mac(key, &[&PathEcho::head(name, cookie)])
}

#[cfg(test)]
mod tests;
