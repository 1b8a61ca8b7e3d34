//! The network between clients and gateway: per path and direction loss, delay, jitter, reordering, duplication and
//! black holes; NATs that rebind; links that go down. It knows datagrams, not what is in them.

use super::dice::Dice;
use jvpn_abi::wire::MsgType;
use jvpn_abi::{BootTime, Endpoint};
use jvpn_client::paths::{LinkState, UplinkId};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// The gateway's outer endpoint.
pub const GATEWAY: Endpoint = Endpoint::v4([198, 51, 100, 1], 4_500);

/// Datagrams that the tape keeps.
const TAPE_MAX: usize = 4_096;
/// A datagram that is overtaken waits for up to this many delays more.
const REORDER_DELAYS: u32 = 3;

/// An uplink of a client, and with it the path to the gateway.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId {
    /// Number of the client.
    pub client: usize,
    /// Its uplink.
    pub uplink: UplinkId,
}

impl fmt::Debug for PathId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.client, self.uplink.0)
    }
}

/// Which way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heading {
    /// Client to gateway.
    Up,
    /// Gateway to client.
    Down,
}

/// Whether anything gets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Yes.
    Open,
    /// No: everything disappears without a word.
    Cut,
}

/// How one direction of a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// Black hole or not.
    pub flow: Flow,
    /// Datagrams lost, of a thousand.
    pub loss_per_mille: u32,
    /// Datagrams that arrive twice, of a thousand.
    pub duplicate_per_mille: u32,
    /// Datagrams that later ones overtake, of a thousand.
    pub reorder_per_mille: u32,
    /// One way.
    pub delay: Duration,
    /// Up to this much more.
    pub jitter: Duration,
}

impl Default for Weather {
    /// A good path of 10 ms.
    fn default() -> Self {
        Self {
            flow: Flow::Open,
            loss_per_mille: 0,
            duplicate_per_mille: 0,
            reorder_per_mille: 0,
            delay: Duration::from_millis(10),
            jitter: Duration::from_micros(300),
        }
    }
}

/// One path.
#[derive(Clone, Debug)]
pub struct Path {
    /// Towards the gateway.
    pub up: Weather,
    /// Towards the client.
    pub down: Weather,
    /// The client's side, as the host sees it.
    pub link: LinkState,
    /// What the NAT shows to the gateway.
    pub external: Endpoint,
    /// When the last datagram of each direction arrives: the next one comes no sooner.
    front: [BootTime; 2],
}

/// A datagram as a filter or an observer sees it.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// When it was sent.
    pub at: BootTime,
    /// Over which path.
    pub path: PathId,
    /// Which way.
    pub heading: Heading,
    /// The UDP payload.
    pub datagram: &'a [u8],
}

impl Sight<'_> {
    /// Its type.
    #[must_use]
    pub fn kind(&self) -> Option<MsgType> {
        self.datagram.first().copied().and_then(MsgType::from_octet)
    }
}

/// What a filter decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// As the weather wants.
    Pass,
    /// Lost.
    Lose,
    /// Kept on its way until [`Network::release`].
    Hold,
}

/// A datagram that was seen, or is held.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// When it was sent.
    pub at: BootTime,
    /// Over which path.
    pub path: PathId,
    /// Which way.
    pub heading: Heading,
    /// The gateway's peer: what the NAT showed then.
    pub external: Endpoint,
    /// The UDP payload.
    pub datagram: Vec<u8>,
}

/// A datagram on its way.
#[derive(Clone, Debug)]
pub struct Flight {
    /// When it arrives.
    pub at: BootTime,
    /// Over which path; `None`: from or to somebody who is no client.
    pub path: Option<PathId>,
    /// Which way.
    pub heading: Heading,
    /// The gateway's peer.
    pub external: Endpoint,
    /// The UDP payload.
    pub datagram: Vec<u8>,
}

/// A test's own will.
pub type Filter = Box<dyn FnMut(&Sight<'_>) -> Fate>;

/// All paths.
pub struct Network {
    paths: BTreeMap<PathId, Path>,
    by_external: BTreeMap<Endpoint, PathId>,
    dice: Dice,
    next_port: u16,
    /// Decides before the weather does.
    pub filter: Option<Filter>,
    /// What was sent, the newest last, while it records.
    pub tape: Option<VecDeque<Recorded>>,
    /// What is held.
    pub held: Vec<Recorded>,
    /// What the gateway sent to endpoints that lead to no client.
    pub strays: Vec<(Endpoint, Vec<u8>)>,
    digest: Sha256,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl Network {
    /// `uplinks` good paths for each of `clients`, their links down.
    #[must_use]
    pub fn new(clients: usize, uplinks: u8, dice: Dice) -> Self {
        let mut network = Self {
            paths: BTreeMap::new(),
            by_external: BTreeMap::new(),
            dice,
            next_port: 20_000,
            filter: None,
            tape: None,
            held: Vec::new(),
            strays: Vec::new(),
            digest: Sha256::new(),
        };
        for client in 0..clients {
            for uplink in (0..uplinks).map(UplinkId) {
                let id = PathId { client, uplink };
                let path = Path {
                    up: Weather::default(),
                    down: Weather::default(),
                    link: LinkState::NoCarrier,
                    external: Endpoint::default(),
                    front: [BootTime(0); 2],
                };
                network.paths.insert(id, path);
                network.rebind(id);
            }
        }
        network
    }

    /// A path.
    ///
    /// # Panics
    /// If there is none of this name: the test's own mistake.
    pub fn path(&mut self, id: PathId) -> &mut Path {
        self.paths.get_mut(&id).expect("the test names a path that it made")
    }

    /// The state of a link as the host sees it.
    #[must_use]
    pub fn link(&self, id: PathId) -> LinkState {
        self.paths.get(&id).map_or(LinkState::Missing, |path| path.link)
    }

    /// All paths.
    pub fn ids(&self) -> impl Iterator<Item = PathId> + use<'_> {
        self.paths.keys().copied()
    }

    /// The NAT in front of a path shows another port; what comes to the old one is lost.
    pub fn rebind(&mut self, id: PathId) {
        let port = self.next_port;
        self.next_port = self.next_port.checked_add(1).unwrap_or(1_024);
        let Some(path) = self.paths.get_mut(&id) else { return };
        self.by_external.remove(&path.external);
        path.external = Endpoint::v4([203, 0, 113, 10 + id.client as u8], port);
        self.by_external.insert(path.external, id);
    }

    /// The link is there, with an address of its own.
    pub fn plug(&mut self, id: PathId, address: u8) {
        let source = IpAddr::V4(Ipv4Addr::new(10, id.uplink.0, id.client as u8, address));
        self.path(id).link = LinkState::Usable { source };
    }

    /// A client sends.
    pub fn send_up(&mut self, now: BootTime, id: PathId, datagram: Vec<u8>) -> Vec<Flight> {
        let Some(path) = self.paths.get(&id) else { return Vec::new() };
        if !path.link.is_usable() {
            return Vec::new();
        }
        let external = path.external;
        self.carry(Recorded { at: now, path: id, heading: Heading::Up, external, datagram })
    }

    /// The gateway sends.
    pub fn send_down(&mut self, now: BootTime, external: Endpoint, datagram: Vec<u8>) -> Vec<Flight> {
        let Some(id) = self.by_external.get(&external).copied() else {
            self.note(now, Heading::Down, &datagram);
            self.strays.push((external, datagram));
            return Vec::new();
        };
        self.carry(Recorded { at: now, path: id, heading: Heading::Down, external, datagram })
    }

    /// Whether a flight that ends now still finds its path.
    #[must_use]
    pub fn lands(&self, flight: &Flight) -> bool {
        let Some(id) = flight.path else { return true };
        let Some(path) = self.paths.get(&id) else { return false };
        match flight.heading {
            Heading::Up => true,
            Heading::Down => path.external == flight.external && path.link.is_usable(),
        }
    }

    /// Lets everything go that is held; it arrives after the usual delay.
    pub fn release(&mut self, now: BootTime) -> Vec<Flight> {
        let held = std::mem::take(&mut self.held);
        let flight = |recorded: Recorded| Flight {
            at: now.after(Duration::from_millis(5)),
            path: Some(recorded.path),
            heading: recorded.heading,
            external: recorded.external,
            datagram: recorded.datagram,
        };
        held.into_iter().map(flight).collect()
    }

    /// A digest of everything that was sent so far: who, when, what.
    #[must_use]
    pub fn digest(&self) -> String {
        format!("{:x}", self.digest.clone().finalize())
    }

    fn note(&mut self, now: BootTime, heading: Heading, datagram: &[u8]) {
        self.digest.update(now.0.to_be_bytes());
        self.digest.update([heading as u8]);
        self.digest.update((datagram.len() as u64).to_be_bytes());
        self.digest.update(datagram);
    }

    fn carry(&mut self, recorded: Recorded) -> Vec<Flight> {
        let Recorded { at, path: id, heading, external, .. } = recorded;
        self.note(at, heading, &recorded.datagram);
        if let Some(tape) = &mut self.tape {
            if tape.len() >= TAPE_MAX {
                tape.pop_front();
            }
            tape.push_back(recorded.clone());
        }
        let sight = Sight { at, path: id, heading, datagram: &recorded.datagram };
        match self.filter.as_mut().map_or(Fate::Pass, |filter| filter(&sight)) {
            Fate::Pass => {}
            Fate::Lose => return Vec::new(),
            Fate::Hold => {
                self.held.push(recorded);
                return Vec::new();
            }
        }
        let Some(path) = self.paths.get_mut(&id) else { return Vec::new() };
        let weather = match heading {
            Heading::Up => path.up,
            Heading::Down => path.down,
        };
        if weather.flow == Flow::Cut || self.dice.chance(weather.loss_per_mille) {
            return Vec::new();
        }
        let front = &mut path.front[heading as usize];
        let copies = if self.dice.chance(weather.duplicate_per_mille) { 2 } else { 1 };
        let mut flights = Vec::with_capacity(copies);
        for _ in 0..copies {
            let due = at.after(weather.delay + self.dice.between(Duration::ZERO, weather.jitter));
            let arrives = if self.dice.chance(weather.reorder_per_mille) {
                due.after(self.dice.between(Duration::ZERO, weather.delay * REORDER_DELAYS))
            } else {
                *front = due.max(*front);
                *front
            };
            let datagram = recorded.datagram.clone();
            flights.push(Flight { at: arrives, path: Some(id), heading, external, datagram });
        }
        flights
    }
}
