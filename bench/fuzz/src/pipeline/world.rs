//! What an input chooses of the gateway: its clients and their paths, its policy, and both of its sides.

use super::{CLIENT, CLIENT_V6, GATEWAY, GATEWAY_V6, OTHER, OTHER_V6, SERVER, SERVER_V6};
use crate::Source;
use crate::shapes::Hosts;
use bytemuck::Zeroable;
use jvpn_abi::Endpoint;
use jvpn_abi::tables::{BindingWord, InstallEntry};
use jvpn_abi::wire::{DATA_HEADER_LEN, DataHeader, SlotId, Suite, TAG_LEN};
use jvpn_crypto::{OpenKey, SealKey};
use jvpn_dataplane::frame::{Address, Family, Mac};
use jvpn_dataplane::lan::{LanRoute, LanView};
use jvpn_dataplane::pipeline::Routes;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The octet that an input begins with if it chooses a world; the next one has the bits. An input that begins with
/// another one means what it always did.
pub(super) const CHOICE: u8 = 0xf7;

/// What is chosen, a bit each. Without any there is one client over IPv4, clients would be turned round, checksums stay
/// as they are, and each side has one interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct World(u8);

impl World {
    /// The first client's path is IPv6.
    pub(super) const FIRST_V6: u8 = 1;
    /// There is a second client.
    pub(super) const SECOND: u8 = 1 << 1;
    /// Its path is IPv6.
    pub(super) const SECOND_V6: u8 = 1 << 2;
    /// Clients do not reach each other.
    pub(super) const DENIED: u8 = 1 << 3;
    /// Senders on the LAN leave checksums to their device.
    pub(super) const UNFINISHED: u8 = 1 << 4;
    /// The WAN has several interfaces and marks what arrives.
    pub(super) const MARKED: u8 = 1 << 5;
    /// The LAN has two interfaces.
    pub(super) const TWO_LANS: u8 = 1 << 6;

    /// The world that an input chooses.
    pub(super) fn chosen(source: &mut Source<'_>) -> Self {
        let mut ahead = *source;
        if ahead.u8() != CHOICE {
            return Self::default();
        }
        let bits = ahead.u8();
        *source = ahead;
        Self(bits)
    }

    pub(super) const fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }

    /// The clients that have a binding at the beginning.
    pub(super) const fn clients(self) -> &'static [Client] {
        if self.has(Self::SECOND) { &[Client::First, Client::Second] } else { &[Client::First] }
    }

    /// The path of a client's first binding.
    pub(super) fn path(self, client: Client) -> Path {
        let bit = match client {
            Client::First => Self::FIRST_V6,
            Client::Second => Self::SECOND_V6,
        };
        client.path(if self.has(bit) { Family::V6 } else { Family::V4 })
    }

    /// The view of the LAN at the beginning.
    pub(super) const fn lan(self) -> Lan {
        if self.has(Self::TWO_LANS) { Lan::Two } else { Lan::One }
    }
}

/// Both ends of a client's way to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) remote: Endpoint,
    pub(super) local: Endpoint,
}

impl Path {
    pub(super) fn family(self) -> Family {
        if self.remote.v4_octets().is_some() { Family::V4 } else { Family::V6 }
    }
}

const REMOTE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9);
const LOCAL_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
/// The gateway's port.
const PORT: u16 = 4_500;

/// Who may have a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    First,
    Second,
}

impl Client {
    pub(super) fn slot(self) -> SlotId {
        let (index, serial) = match self {
            Self::First => (3, 2),
            Self::Second => (5, 4),
        };
        SlotId::new(index, serial).unwrap()
    }

    /// Whose slot it is.
    pub(super) fn of(slot: SlotId) -> Self {
        let mut all = [Self::First, Self::Second].into_iter();
        all.find(|client| client.slot() == slot).expect("a slot of somebody")
    }

    pub(super) fn word(self) -> BindingWord {
        BindingWord::bound(self.slot(), 1)
    }

    /// Its path over this family.
    pub(super) fn path(self, family: Family) -> Path {
        let port = match self {
            Self::First => 40_000,
            Self::Second => 40_001,
        };
        match family {
            Family::V4 => Path {
                remote: Endpoint::v4([203, 0, 113, 9], port),
                local: Endpoint::v4([198, 51, 100, 1], PORT),
            },
            Family::V6 => Path {
                remote: Endpoint { addr: REMOTE_V6.octets(), port },
                local: Endpoint { addr: LOCAL_V6.octets(), port: PORT },
            },
        }
    }

    /// The keys of this number: what opens its frames, and what seals those for it.
    pub(super) fn keys(self, number: u32) -> [[u8; 32]; 2] {
        let ways = match self {
            Self::First => [1, 2],
            Self::Second => [3, 4],
        };
        ways.map(|way: u8| {
            let mut key = [way; 32];
            key[..4].copy_from_slice(&number.to_be_bytes());
            key
        })
    }

    const fn addresses(self) -> (Ipv4Addr, Ipv6Addr) {
        match self {
            Self::First => (CLIENT, CLIENT_V6),
            Self::Second => (OTHER, OTHER_V6),
        }
    }

    /// Whom its packets are for and from: itself first, then the server. Without a second client the other's addresses
    /// are a client's that is not there, and a network that no route leads to.
    pub(super) const fn hosts(self) -> Hosts {
        let ((own_v4, own_v6), (other_v4, other_v6)) = match self {
            Self::First => (Self::First.addresses(), Self::Second.addresses()),
            Self::Second => (Self::Second.addresses(), Self::First.addresses()),
        };
        Hosts { v4: [own_v4, SERVER, GATEWAY, other_v4], v6: [own_v6, SERVER_V6, GATEWAY_V6, other_v6] }
    }

    /// The entry that is about its binding by this path.
    pub(super) fn entry(self, path: Path, op: u32) -> InstallEntry {
        let (v4, v6) = self.addresses();
        let mut prefixes = [[0; 16]; 8];
        prefixes[0] = v4.to_ipv6_mapped().octets();
        prefixes[1] = v6.octets();
        let mut prefix_lens = [0; 8];
        prefix_lens[..2].fill(128);
        let [open_key, seal_key] = self.keys(0);
        InstallEntry {
            word: self.word().0,
            op,
            slot: self.slot().0,
            suite: Suite::Aes256Gcm as u8,
            prefix_count: 2,
            remote_addr: path.remote.addr,
            local_addr: path.local.addr,
            remote_port: path.remote.port,
            local_port: path.local.port,
            open_key,
            seal_key,
            prefix_lens,
            prefixes,
            ..InstallEntry::zeroed()
        }
    }

    /// The datagram in which it sends a plaintext.
    pub(super) fn seals(self, number: u32, counter: u64, plain: &[u8]) -> Vec<u8> {
        let header = DataHeader { key_phase: number & 1 == 1, shard: 0, slot: self.slot(), counter }.encode();
        let mut datagram = [&header[..], plain, &[0; TAG_LEN]].concat();
        let [key, _] = self.keys(number);
        let key = SealKey::new(Suite::Aes256Gcm, &key);
        key.seal(counter, &header, plain, &mut datagram[DATA_HEADER_LEN..]).unwrap();
        datagram
    }

    /// The plaintext of a datagram for it, whichever of its installed keys that was sealed with.
    pub(super) fn opens(self, datagram: &[u8]) -> Option<Vec<u8>> {
        let header = DataHeader::parse(datagram)?;
        let (aad, sealed) = datagram.split_at(DATA_HEADER_LEN);
        let mut plain = vec![0; sealed.len() - TAG_LEN];
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            for number in [0, 2].map(|even| even + u32::from(header.key_phase)) {
                let [_, key] = self.keys(number);
                if OpenKey::new(suite, &key).open(header.counter, aad, sealed, &mut plain).is_ok() {
                    return Some(plain);
                }
            }
        }
        None
    }
}

/// Leads the pools to the first client, whether or not it owns what is asked for; what is the second one's to that.
#[derive(Debug)]
pub(super) struct Leads {
    pub(super) has_second: bool,
}

impl Routes for Leads {
    fn slot_of(&self, destination: Address) -> Option<u32> {
        let (v4, v6) = Client::Second.addresses();
        if self.has_second && [Address::from(v4), Address::from(v6)].contains(&destination) {
            return Some(Client::Second.slot().index());
        }
        let pool = |address: Address, octets: usize| address.0 >> (128 - 8 * octets);
        let is_in = |of: Address, octets| pool(destination, octets) == pool(of, octets);
        (is_in(CLIENT.into(), 14) || is_in(CLIENT_V6.into(), 8)).then_some(Client::First.slot().index())
    }

    fn generation(&self) -> u64 {
        0
    }
}

/// A view of the LAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lan {
    /// Everybody is behind the first interface.
    One,
    /// IPv4 is behind the second one, and behind the first at a price; IPv6 behind a router on the first.
    Two,
}

/// Link-local: the same address stands behind both interfaces.
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The server, behind this interface.
pub(super) const fn server_mac(port: u8) -> Mac {
    Mac([2, 0, 0, 0, port, 9])
}

/// The router, behind this interface.
const fn router_mac(port: u8) -> Mac {
    Mac([2, 0, 0, 0, port, 0xfe])
}

impl Lan {
    pub(super) fn view(self) -> LanView {
        let v4 = LanRoute::new(Ipv4Addr::new(192, 168, 50, 0).into(), 24, None);
        let network = IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0x50, 0, 0, 0, 0, 0));
        match self {
            Self::One => {
                let servers = [Address::from(SERVER), Address::from(SERVER_V6)];
                let neighbours = HashMap::from(servers.map(|server| (server, server_mac(0))));
                LanView::new(vec![v4, LanRoute::new(network, 64, None)], neighbours)
            }
            Self::Two => {
                let v6 = LanRoute::new(network, 64, Some(ROUTER.into()));
                let neighbours = [0, 1].map(|port| {
                    let server = (Address::from(SERVER), server_mac(port));
                    HashMap::from([server, (Address::from(ROUTER), router_mac(port))])
                });
                LanView::of_ports(vec![v4.by(0, 9), v4.by(1, 0), v6.by(0, 0), v6.by(1, 9)], neighbours.into())
            }
        }
    }

    /// The station that a packet for this destination is handed to, and its interface, said once more. `None`: none.
    pub(super) fn station(self, destination: Address) -> Option<(Mac, u8)> {
        let (v4, v6) = (Address::from(SERVER), Address::from(SERVER_V6));
        match self {
            Self::One => (destination == v4 || destination == v6).then_some((server_mac(0), 0)),
            Self::Two if destination == v4 => Some((server_mac(1), 1)),
            Self::Two => (destination.0 >> 64 == v6.0 >> 64).then_some((router_mac(0), 0)),
        }
    }

    /// The other one.
    pub(super) const fn other(self) -> Self {
        match self {
            Self::One => Self::Two,
            Self::Two => Self::One,
        }
    }
}
