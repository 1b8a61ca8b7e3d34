//! Where the gateway's name leads. Looked up in a thread, because the host's resolver blocks: at the start, and again
//! while nothing answers.
//!
//! The host's own resolver knows the host's files, search rules and split DNS, so it is asked first while the tunnel has
//! never been up. Once the tunnel carries routes, its questions may go into the tunnel, and find nothing while that is
//! down: then the name servers from before are asked over the uplinks ([`crate::resolve`]). Nothing waits for a lookup.

use crate::agent::GatewayEndpoints;
use crate::resolve::{Lookup, Route};
use jvpn_abi::{BootTime, Endpoint};
use jvpn_crypto::rng::OsRandom;
use jvpn_host::clock;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Silence after which the gateway may have moved; also the first wait between lookups, which doubles …
pub(super) const SILENCE: Duration = Duration::from_secs(5);
/// … up to this.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Largest answer that is read, octets (RFC 1035 section 4.2.1; servers cut longer ones).
const ANSWER_MAX: usize = 1_500;
/// Port of name servers.
const PORT: u16 = super::guard::DNS_PORT;

/// How a lookup ended: addresses, and for how long they hold (the host's resolver does not say: zero).
type Found = io::Result<(Vec<SocketAddr>, Duration)>;

/// Whom a lookup asks first. The other is asked if that finds nothing, and nothing was ever found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// The host's own resolver.
    Host,
    /// Name servers over the uplinks.
    Outside,
}

/// How to ask.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) first: First,
    pub(super) routes: Vec<Route>,
    /// Mark of the questions, by which a kill switch lets them pass.
    pub(super) mark: u32,
}

/// The lookups of one name.
pub(super) struct Names {
    host: String,
    port: u16,
    running: bool,
    found: Vec<Endpoint>,
    /// Until then nobody needs to be asked again.
    fresh_until: BootTime,
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
        let (found, fresh_until) = (Vec::new(), BootTime(0));
        Ok(Self {
            host,
            port,
            running: false,
            found,
            fresh_until,
            next_at,
            wait,
            sender,
            results,
            bell,
            ringer,
        })
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

    /// Starts a lookup; while the last one's answer holds, it is the answer again.
    pub(super) fn start(&mut self, now: BootTime, ask: Ask) {
        self.next_at = now.after(self.wait);
        self.wait = (self.wait * 2).min(WAIT_MAX);
        let (host, port, sender) = (self.host.clone(), self.port, self.sender.clone());
        let ringer = self.ringer.try_clone();
        let held = (now < self.fresh_until).then(|| self.found.clone());
        let ever = !self.found.is_empty();
        let lookup = move || {
            let found = match held {
                Some(held) => Ok((held.iter().map(Endpoint::socket_addr).collect(), Duration::ZERO)),
                None => find(&host, port, &ask, ever),
            };
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
    pub(super) fn take(
        &mut self,
        now: BootTime,
        current: GatewayEndpoints,
        works: bool,
    ) -> Option<GatewayEndpoints> {
        let mut octets = [0; 16];
        // The bell only wakes; what counts is in the channel.
        let _woken = self.bell.read(&mut octets);
        let result = self.results.try_recv().ok()?;
        self.running = false;
        match result {
            Ok((found, ttl)) if !found.is_empty() => {
                self.found = found.into_iter().map(Endpoint::from).collect();
                self.fresh_until = self.fresh_until.max(now.after(ttl.min(WAIT_MAX)));
            }
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

/// Asks one after the other.
fn find(host: &str, port: u16, ask: &Ask, ever: bool) -> Found {
    let of_host = || (host, port).to_socket_addrs().map(|found| (found.collect(), Duration::ZERO));
    let outside = || ask_outside(host, port, ask);
    let is_something = |found: &Found| found.as_ref().is_ok_and(|(found, _)| !found.is_empty());
    match ask.first {
        First::Outside => {
            let found = outside();
            if is_something(&found) || ever && !ask.routes.is_empty() { found } else { of_host() }
        }
        First::Host => {
            let found = of_host();
            if is_something(&found) || ask.routes.is_empty() { found } else { outside() }
        }
    }
}

/// Asks the name servers over the uplinks.
fn ask_outside(host: &str, port: u16, ask: &Ask) -> Found {
    let open = |route: &Route| {
        let opened = open_socket(route, ask.mark);
        opened.map_err(|error| tracing::debug!(%error, ?route, "a name server cannot be asked")).ok()
    };
    let sockets: Vec<Option<Socket>> = ask.routes.iter().map(open).collect();
    let mut random = OsRandom::checked().map_err(io::Error::other)?;
    let mut lookup = Lookup::new(host, sockets.len(), &mut random, clock::now()).map_err(io::Error::other)?;
    let mut buffer = [0; ANSWER_MAX];
    while !lookup.is_over(clock::now()) {
        while let Some(transmit) = lookup.poll_transmit() {
            if let Some(Some(socket)) = sockets.get(transmit.route) {
                // No route, no carrier: another one may answer, and there is another round.
                let _refused = socket.send(&transmit.payload);
            }
        }
        let mut fds: Vec<PollFd<'_>> =
            sockets.iter().flatten().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        let wait = lookup.poll_timeout().since(clock::now()).as_millis() + 1;
        poll(&mut fds, PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX))?;
        for (route, socket) in sockets.iter().enumerate() {
            let Some(mut socket) = socket.as_ref() else { continue };
            if let Ok(length) = socket.read(&mut buffer) {
                lookup.handle_answer(clock::now(), route, buffer.get(..length).unwrap_or_default());
            }
        }
        lookup.handle_timeout(clock::now());
    }
    let found = lookup.found();
    Ok((found.addresses.iter().map(|address| SocketAddr::new(*address, port)).collect(), found.ttl))
}

/// A socket for one route: its port is the kernel's choice, and only the server's datagrams come in.
fn open_socket(route: &Route, mark: u32) -> io::Result<Socket> {
    let (domain, any) = match route.server {
        IpAddr::V4(_) => (Domain::IPV4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        IpAddr::V6(_) => (Domain::IPV6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.set_mark(mark)?;
    socket.bind_device(Some(route.device.as_bytes()))?;
    socket.bind(&SocketAddr::new(any, 0).into())?;
    socket.connect(&SocketAddr::new(route.server, PORT).into())?;
    Ok(socket)
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
        names.start(now, Ask { first: First::Host, routes: Vec::new(), mark: 1 });
        assert_eq!(names.due(None), None, "one at a time");
        names.bell.set_nonblocking(false).unwrap();
        let found = names.take(now, GatewayEndpoints::default(), false).unwrap();
        let v4 = found.of_family(Ipv4Addr::LOCALHOST.into()).unwrap();
        assert_eq!(v4, Endpoint::v4([127, 0, 0, 1], 4_500));
        assert_eq!(names.due(None), None, "while it is answered nothing is asked");
        assert_eq!(names.due(Some(now)), Some(now.after(SILENCE)));
    }
}
