//! Looking a name up without the host's resolver: questions go to given name servers over given uplinks, so that an
//! answer can come while the tunnel, through which the host's resolver would ask, is down. Pure: no sockets, no clock.
//!
//! Each server is asked over each uplink, for A and for AAAA, each with an identifier of its own; the shell gives each
//! pair of uplink and server a socket, and so a port, of its own (RFC 5452). What does not answer exactly one open
//! question is passed over.

pub mod message;

use jvpn_abi::BootTime;
use jvpn_crypto::rng::{Random, RandomError};
use message::{Kind, Verdict};
use std::net::IpAddr;
use std::time::Duration;

/// Most pairs of uplink and server that are asked.
pub const ROUTES_MAX: usize = 32;
/// When all questions without an answer are asked, counted from the start.
const ROUNDS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(700), Duration::from_millis(2_000)];
/// When a lookup ends with what it has.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the other family's answer is waited for once one has come (RFC 8305 section 3 waits 50 ms).
const GRACE: Duration = Duration::from_millis(100);
/// An answer is believed at least …
const TTL_MIN: Duration = Duration::from_secs(5);
/// … and at most so long.
const TTL_MAX: Duration = Duration::from_secs(3_600);
/// Most addresses that are taken over.
const ADDRESSES_MAX: usize = 16;

/// One way to a server: the position tells which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Uplink device.
    pub device: String,
    /// Name server.
    pub server: IpAddr,
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Position of the route.
    pub route: usize,
    /// The message.
    pub payload: Vec<u8>,
}

/// What a lookup found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Addresses, IPv4 first, in the order of the answers.
    pub addresses: Vec<IpAddr>,
    /// For how long they hold.
    pub ttl: Duration,
}

#[derive(Debug)]
struct Open {
    route: usize,
    id: u16,
    kind: Kind,
    answered: bool,
}

/// One lookup.
#[derive(Debug)]
pub struct Lookup {
    host: String,
    open: Vec<Open>,
    found: [Option<(Vec<IpAddr>, Duration)>; 2],
    start: BootTime,
    round: usize,
    first_at: Option<BootTime>,
    outbox: Vec<Transmit>,
}

impl Lookup {
    /// Begins to ask for `host` over as many routes.
    ///
    /// # Errors
    /// Without randomness there are no identifiers that nobody can guess.
    pub fn new(
        host: &str,
        routes: usize,
        random: &mut dyn Random,
        now: BootTime,
    ) -> Result<Self, RandomError> {
        let mut open = Vec::new();
        for route in 0..routes.min(ROUTES_MAX) {
            for kind in [Kind::V4, Kind::V6] {
                let mut id = [0; 2];
                random.fill(&mut id)?;
                open.push(Open { route, id: u16::from_be_bytes(id), kind, answered: false });
            }
        }
        let (host, found) = (host.to_owned(), [None, None]);
        let mut lookup = Self { host, open, found, start: now, round: 0, first_at: None, outbox: Vec::new() };
        lookup.handle_timeout(now);
        Ok(lookup)
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: BootTime) {
        while let Some(after) = ROUNDS.get(self.round)
            && now >= self.start.after(*after)
        {
            self.round += 1;
            let still = |open: &&Open| !open.answered && self.found.get(open.kind as usize) == Some(&None);
            let ask = |open: &Open| {
                let payload = message::query(open.id, &self.host, open.kind)?;
                Some(Transmit { route: open.route, payload })
            };
            self.outbox = self.open.iter().filter(still).filter_map(ask).collect();
        }
    }

    /// A datagram came from the server of `route`.
    pub fn handle_answer(&mut self, now: BootTime, route: usize, datagram: &[u8]) {
        for open in self.open.iter_mut().filter(|open| open.route == route && !open.answered) {
            match message::answer(open.id, &self.host, open.kind, datagram) {
                Verdict::Foreign => continue,
                Verdict::Nothing => open.answered = true,
                Verdict::Addresses { mut addresses, ttl } => {
                    open.answered = true;
                    addresses.truncate(ADDRESSES_MAX);
                    if let Some(slot @ None) = self.found.get_mut(open.kind as usize) {
                        *slot = Some((addresses, ttl));
                        self.first_at.get_or_insert(now);
                    }
                }
            }
            return;
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outbox.pop()
    }

    /// When [`Self::handle_timeout`] and [`Self::is_over`] are to be asked again.
    #[must_use]
    pub fn poll_timeout(&self) -> BootTime {
        let round = ROUNDS.get(self.round).map_or(BootTime::NEVER, |after| self.start.after(*after));
        let grace = self.first_at.map_or(BootTime::NEVER, |first| first.after(GRACE));
        round.min(grace).min(self.start.after(PATIENCE))
    }

    /// Whether all is known that is waited for.
    #[must_use]
    pub fn is_over(&self, now: BootTime) -> bool {
        let known = |kind: Kind| {
            let open = || self.open.iter().filter(|open| open.kind as usize == kind as usize);
            self.found.get(kind as usize).is_some_and(Option::is_some) || open().all(|open| open.answered)
        };
        known(Kind::V4) && known(Kind::V6)
            || self.first_at.is_some_and(|first| now >= first.after(GRACE))
            || now >= self.start.after(PATIENCE)
    }

    /// What was found.
    #[must_use]
    pub fn found(&self) -> Found {
        let each = || self.found.iter().flatten();
        let ttl = each().map(|(_, ttl)| *ttl).min().unwrap_or_default();
        Found {
            addresses: each().flat_map(|(addresses, _)| addresses.iter().copied()).collect(),
            ttl: ttl.clamp(TTL_MIN, TTL_MAX),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
