//! Where the gateway's name leads. Looked up by the host's own resolver, in a thread, because `getaddrinfo` blocks: at
//! the start, and again while nothing answers.
//!
//! The host's resolver, and not one of our own on an uplink's socket, because only it knows the host's files, search
//! rules and split DNS. What it cannot promise is to ask outside the tunnel: where the tunnel carries the way to the
//! name server, a lookup fails while the tunnel is down, and the addresses found before are tried on. Nothing waits for
//! a lookup.

use crate::agent::GatewayEndpoints;
use jvpn_abi::{BootTime, Endpoint};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Silence after which the gateway may have moved; also the first wait between lookups, which doubles …
pub(super) const SILENCE: Duration = Duration::from_secs(5);
/// … up to this.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How a lookup ended.
type Found = io::Result<Vec<SocketAddr>>;

/// The lookups of one name.
pub(super) struct Names {
    host: String,
    port: u16,
    running: bool,
    found: Vec<Endpoint>,
    next_at: BootTime,
    wait: Duration,
    sender: Sender<Found>,
    results: Receiver<Found>,
    bell: UnixStream,
    ringer: UnixStream,
}

impl AsFd for Names {
    /// Readable when a lookup has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl Names {
    /// Nothing is asked yet; the first lookup is due at once.
    pub(super) fn new(host: String, port: u16) -> io::Result<Self> {
        let (bell, ringer) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        let (next_at, wait) = (BootTime(0), SILENCE);
        let (sender, results) = channel();
        let found = Vec::new();
        Ok(Self { host, port, running: false, found, next_at, wait, sender, results, bell, ringer })
    }

    /// When a lookup may start, given since when nothing answers; `None` = not needed or one is under way.
    pub(super) fn due(&self, unanswered_since: Option<BootTime>) -> Option<BootTime> {
        if self.running {
            return None;
        }
        if self.found.is_empty() {
            return Some(self.next_at);
        }
        unanswered_since.map(|since| since.after(SILENCE).max(self.next_at))
    }

    /// Starts a lookup.
    pub(super) fn start(&mut self, now: BootTime) {
        self.next_at = now.after(self.wait);
        self.wait = (self.wait * 2).min(WAIT_MAX);
        let (host, port, sender) = (self.host.clone(), self.port, self.sender.clone());
        let ringer = self.ringer.try_clone();
        let lookup = move || {
            let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
            // Nobody listens any more when the agent ends meanwhile.
            let _gone = sender.send(found);
            let _gone = ringer.and_then(|mut ringer| ringer.write_all(&[1]));
        };
        match std::thread::Builder::new().name("names".to_owned()).spawn(lookup) {
            Ok(_) => self.running = true,
            Err(error) => tracing::warn!(%error, "no thread to look the gateway's name up; trying again"),
        }
    }

    /// Takes a result: the endpoints to use from now on, if the name leads anywhere. The resolver's order is the order of
    /// preference (RFC 6724).
    pub(super) fn take(&mut self, current: GatewayEndpoints, works: bool) -> Option<GatewayEndpoints> {
        let mut octets = [0; 16];
        // The bell only wakes; what counts is in the channel.
        let _woken = self.bell.read(&mut octets);
        let result = self.results.try_recv().ok()?;
        self.running = false;
        match result {
            Ok(found) if !found.is_empty() => self.found = found.into_iter().map(Endpoint::from).collect(),
            Ok(_) => tracing::warn!(host = self.host, "the gateway's name has no address; trying again"),
            Err(error) => {
                tracing::warn!(%error, host = self.host, "the gateway's name was not found; trying again");
            }
        }
        let (v4, v6): (Vec<Endpoint>, Vec<Endpoint>) =
            self.found.iter().partition(|endpoint| endpoint.ip().is_ipv4());
        let now = |v4: bool| current.iter().find(|endpoint| endpoint.ip().is_ipv4() == v4);
        let mut chosen = [choose(&v4, now(true), works), choose(&v6, now(false), works)];
        if self.found.first().is_some_and(|first| first.ip().is_ipv6()) {
            chosen.reverse();
        }
        let chosen = GatewayEndpoints::new(chosen.into_iter().flatten());
        if chosen != current {
            self.wait = SILENCE;
        }
        (chosen != GatewayEndpoints::default()).then_some(chosen)
    }
}

/// The current one while it works; else the one after it, so that each address of a name gets its turn.
fn choose(found: &[Endpoint], current: Option<Endpoint>, works: bool) -> Option<Endpoint> {
    let place = current.and_then(|current| found.iter().position(|one| *one == current));
    match place {
        Some(_) if works => current,
        Some(place) => found.get(place + 1).or(found.first()).copied(),
        None if works && current.is_some() => current,
        None => found.first().copied().or(current),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(last: u8) -> Endpoint {
        Endpoint::v4([192, 0, 2, last], 4_500)
    }

    /// R7.1: an address that does not answer yields to the next one of the name, and each gets its turn.
    #[test]
    fn addresses_take_turns_while_none_answers() {
        let found = [endpoint(1), endpoint(2)];
        assert_eq!(choose(&found, None, false), Some(endpoint(1)));
        assert_eq!(choose(&found, Some(endpoint(1)), false), Some(endpoint(2)));
        assert_eq!(choose(&found, Some(endpoint(2)), false), Some(endpoint(1)));
        assert_eq!(choose(&found, Some(endpoint(2)), true), Some(endpoint(2)), "what works stays");
        assert_eq!(choose(&found, Some(endpoint(9)), true), Some(endpoint(9)), "also if the name has moved");
        assert_eq!(choose(&found, Some(endpoint(9)), false), Some(endpoint(1)));
        assert_eq!(
            choose(&[], Some(endpoint(9)), false),
            Some(endpoint(9)),
            "a failed lookup takes nothing away"
        );
    }

    /// A lookup runs in its own thread, one at a time, and waits longer each time.
    #[test]
    fn lookups_are_spaced_and_end_with_a_bell() {
        let mut names = Names::new("localhost".to_owned(), 4_500).unwrap();
        let now = BootTime::from_millis(1_000);
        assert_eq!(names.due(None), Some(BootTime(0)), "the first one is due at once");
        names.start(now);
        assert_eq!(names.due(None), None, "one at a time");
        names.bell.set_nonblocking(false).unwrap();
        let found = names.take(GatewayEndpoints::default(), false).unwrap();
        let v4 = found.of_family(std::net::Ipv4Addr::LOCALHOST.into()).unwrap();
        assert_eq!(v4, Endpoint::v4([127, 0, 0, 1], 4_500));
        assert_eq!(names.due(None), None, "while it is answered nothing is asked");
        assert_eq!(names.due(Some(now)), Some(now.after(SILENCE)));
    }
}
