//! The network between clients and gateway: per path and direction loss, delay, jitter, reordering, duplication and
//! black holes; NATs that rebind; links that go down. It knows datagrams, not what is in them.

use super::dice::Dice;
use jvpn_abi::wire::MsgType;
use jvpn_abi::{BootTime, Endpoint};
use jvpn_client::paths::{LinkState, UplinkId};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// The gateway's outer endpoint.
pub const GATEWAY: Endpoint = Endpoint::v4([198, 51, 100, 1], 4_500);

/// Datagrams that the tape keeps.
const TAPE_MAX: usize = 4_096;
/// Datagrams to endpoints that lead to no client, as far as they are kept.
const STRAYS_MAX: usize = 1_024;
/// The first address of the NATs; each client has one of its own.
const NAT_ADDRESS: u32 = u32::from_be_bytes([203, 0, 113, 10]);
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

/// Loss that comes in bursts: two states, and a chance to go from one to the other with each datagram (Gilbert and
/// Elliott).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// Chance that a burst begins, of a thousand.
    pub enter_per_mille: u32,
    /// Chance that it ends, of a thousand.
    pub leave_per_mille: u32,
    /// Datagrams lost within it, of a thousand.
    pub loss_per_mille: u32,
}

/// How one direction of a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// Black hole or not.
    pub flow: Flow,
    /// Datagrams lost, of a thousand.
    pub loss_per_mille: u32,
    /// Losses in bursts, beside those.
    pub burst: Option<Burst>,
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
            burst: None,
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
    /// Nothing gets through before this moment, whatever the weather.
    pub partitioned_until: BootTime,
    /// When the last datagram of each direction arrives: the next one comes no sooner.
    front: [BootTime; 2],
    /// Whether each direction is in a burst of losses.
    bursting: [bool; 2],
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
    /// By client, then by uplink.
    paths: Vec<Path>,
    uplinks: u8,
    by_external: HashMap<Endpoint, PathId>,
    dice: Dice,
    next_port: u16,
    /// Decides before the weather does.
    pub filter: Option<Filter>,
    /// What was sent, the newest last, while it records.
    pub tape: Option<VecDeque<Recorded>>,
    /// Of how many datagrams the tape keeps one.
    pub tape_step: u64,
    /// Datagrams that were sent.
    pub sent: u64,
    /// What is held.
    pub held: Vec<Recorded>,
    /// What the gateway sent to endpoints that lead to no client: the first of it.
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
        let path = Path {
            up: Weather::default(),
            down: Weather::default(),
            link: LinkState::NoCarrier,
            external: Endpoint::default(),
            partitioned_until: BootTime(0),
            front: [BootTime(0); 2],
            bursting: [false; 2],
        };
        let mut network = Self {
            paths: vec![path; clients * usize::from(uplinks)],
            uplinks,
            by_external: HashMap::new(),
            dice,
            next_port: 20_000,
            filter: None,
            tape: None,
            tape_step: 1,
            sent: 0,
            held: Vec::new(),
            strays: Vec::new(),
            digest: Sha256::new(),
        };
        for id in network.ids().collect::<Vec<_>>() {
            network.rebind(id);
        }
        network
    }

    fn index(&self, id: PathId) -> Option<usize> {
        (id.uplink.0 < self.uplinks).then(|| id.client * usize::from(self.uplinks) + id.uplink.index())
    }

    fn place(&self, id: PathId) -> Option<&Path> {
        self.paths.get(self.index(id)?)
    }

    fn place_mut(&mut self, id: PathId) -> Option<&mut Path> {
        let index = self.index(id)?;
        self.paths.get_mut(index)
    }

    /// A path.
    ///
    /// # Panics
    /// If there is none of this name: the test's own mistake.
    pub fn path(&mut self, id: PathId) -> &mut Path {
        self.place_mut(id).expect("the test names a path that it made")
    }

    /// The state of a link as the host sees it.
    #[must_use]
    pub fn link(&self, id: PathId) -> LinkState {
        self.place(id).map_or(LinkState::Missing, |path| path.link)
    }

    /// All paths.
    pub fn ids(&self) -> impl Iterator<Item = PathId> + use<> {
        let uplinks = self.uplinks;
        let clients = self.paths.len() / usize::from(uplinks).max(1);
        (0..clients).flat_map(move |client| Self::paths_of(client, uplinks))
    }

    /// The paths of a client.
    pub fn ids_of(&self, client: usize) -> impl Iterator<Item = PathId> + use<> {
        Self::paths_of(client, self.uplinks)
    }

    fn paths_of(client: usize, uplinks: u8) -> impl Iterator<Item = PathId> {
        (0..uplinks).map(move |uplink| PathId { client, uplink: UplinkId(uplink) })
    }

    /// The NAT in front of a path shows another port; what comes to the old one is lost.
    pub fn rebind(&mut self, id: PathId) {
        let address = NAT_ADDRESS.wrapping_add(id.client as u32).to_be_bytes();
        let external = loop {
            let external = Endpoint::v4(address, self.next_port);
            self.next_port = self.next_port.checked_add(1).unwrap_or(1_024);
            if !self.by_external.contains_key(&external) {
                break external;
            }
        };
        let Some(path) = self.place_mut(id) else { return };
        let before = std::mem::replace(&mut path.external, external);
        self.by_external.remove(&before);
        self.by_external.insert(external, id);
    }

    /// The link is there, with an address of its own.
    pub fn plug(&mut self, id: PathId, address: u8) {
        let source = IpAddr::V4(Ipv4Addr::new(10, id.uplink.0, id.client as u8, address));
        self.path(id).link = LinkState::Usable { source };
    }

    /// A client sends.
    pub fn send_up(&mut self, now: BootTime, id: PathId, datagram: Vec<u8>) -> Vec<Flight> {
        let Some(path) = self.place(id) else { return Vec::new() };
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
            if self.strays.len() < STRAYS_MAX {
                self.strays.push((external, datagram));
            }
            return Vec::new();
        };
        self.carry(Recorded { at: now, path: id, heading: Heading::Down, external, datagram })
    }

    /// Whether a flight that ends now still finds its path.
    #[must_use]
    pub fn lands(&self, flight: &Flight) -> bool {
        let Some(id) = flight.path else { return true };
        let Some(path) = self.place(id) else { return false };
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
        self.sent += 1;
        let head = u128::from(now.0) << 64 | (datagram.len() as u128) << 8 | heading as u128;
        self.digest.update(head.to_be_bytes());
        self.digest.update(datagram);
    }

    fn carry(&mut self, mut recorded: Recorded) -> Vec<Flight> {
        let Recorded { at, path: id, heading, external, .. } = recorded;
        self.note(at, heading, &recorded.datagram);
        if let Some(tape) = self.tape.as_mut().filter(|_| self.sent.is_multiple_of(self.tape_step)) {
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
        let Some(path) = self.index(id).and_then(|index| self.paths.get_mut(index)) else {
            return Vec::new();
        };
        let weather = match heading {
            Heading::Up => path.up,
            Heading::Down => path.down,
        };
        if weather.flow == Flow::Cut || at < path.partitioned_until {
            return Vec::new();
        }
        if let Some(burst) = weather.burst {
            let bursting = &mut path.bursting[heading as usize];
            let change = if *bursting { burst.leave_per_mille } else { burst.enter_per_mille };
            *bursting ^= self.dice.chance(change);
            if *bursting && self.dice.chance(burst.loss_per_mille) {
                return Vec::new();
            }
        }
        if self.dice.chance(weather.loss_per_mille) {
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
            // The last copy takes the octets themselves.
            let last = flights.len() + 1 == copies;
            let datagram =
                if last { std::mem::take(&mut recorded.datagram) } else { recorded.datagram.clone() };
            flights.push(Flight { at: arrives, path: Some(id), heading, external, datagram });
        }
        flights
    }
}
