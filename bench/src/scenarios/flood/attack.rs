//! The attacks: what each of them sends, from where, and what its maker is allowed to have – datagrams captured on the
//! wire, the gateway's public key, and keys of peers of his own.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use jvpn_abi::PROTOCOL_VERSION;
use jvpn_abi::wire::handshake::{INIT_COOKIE_AT, INIT_LEN, INIT_MAC_AT, INIT_NOISE_AT};
use jvpn_abi::wire::reattach::{HANDLE_AT, HANDLE_LEN, REQUEST_LEN};
use jvpn_abi::wire::{MAC_LEN, MsgType};
use jvpn_crypto::handshake::initiate;
use jvpn_crypto::keys::{PresharedKey, PublicKey, StaticSecret};
use jvpn_crypto::rng::OsRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};

use super::rogue::Rogue;
use crate::swarm::network::{NOWHERE, NOWHERE_PREFIXES};

/// Genuine initiations of strangers that are made once and sent again and again: making one costs the attacker a
/// Diffie-Hellman, too.
const STRANGERS: usize = 64;

/// What is done to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Attack {
    /// A peer asks for reattaches of his own session as fast as he can, from ever other ports.
    ReattachValid,
    /// Captured requests of honest sessions, from everywhere.
    ReattachReplayed,
    /// Requests with random handles, from everywhere.
    ReattachRandom,
    /// Requests with handles that were seen, or the attacker's own, and a forged MAC, from everywhere.
    ReattachForged,
    /// Genuine handshakes of strangers and captured ones of honest peers, from everywhere.
    Handshakes,
    /// Initiations with a right MAC and noise behind it, from everywhere.
    HandshakesJunk,
    /// Peers that switch between two paths as fast as they are let.
    Flapping,
    /// A peer that reattaches with addresses of victims.
    VictimSource,
}

impl Attack {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::ReattachValid,
        Self::ReattachReplayed,
        Self::ReattachRandom,
        Self::ReattachForged,
        Self::Handshakes,
        Self::HandshakesJunk,
        Self::Flapping,
        Self::VictimSource,
    ];

    /// Its name on the command line and in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReattachValid => "reattach-valid",
            Self::ReattachReplayed => "reattach-replayed",
            Self::ReattachRandom => "reattach-random",
            Self::ReattachForged => "reattach-forged",
            Self::Handshakes => "handshakes",
            Self::HandshakesJunk => "handshakes-junk",
            Self::Flapping => "flapping",
            Self::VictimSource => "victim-source",
        }
    }
}

/// Datagrams per second below which the gateway takes no kind of request for load: it asks for cookies from 250
/// handshakes, 500 requests with unknown handles and 2,500 with known ones on, those of honest sessions included. So these
/// meet its MACs, its tables and its Diffie-Hellman.
const CALM_PER_SECOND: u32 = 150;

/// An attack with the pressure behind it: what a phase is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Assault {
    /// Below the threshold from which the gateway asks for cookies.
    Calm(Attack),
    /// As much as is to be sent.
    Full(Attack),
}

impl Assault {
    /// Which attack.
    pub(super) const fn attack(self) -> Attack {
        match self {
            Self::Calm(attack) | Self::Full(attack) => attack,
        }
    }

    /// Datagrams per second, `full` of them if it is not calm; `None`: as many as one thread sends.
    pub(super) fn rate(self, full: Option<u32>) -> Option<u32> {
        match self {
            Self::Calm(_) => Some(full.map_or(CALM_PER_SECOND, |full| full.min(CALM_PER_SECOND))),
            Self::Full(_) => full,
        }
    }

    /// Its name in results.
    pub(super) fn name(self) -> String {
        match self {
            Self::Calm(attack) => format!("{}-calm", attack.name()),
            Self::Full(attack) => attack.name().to_owned(),
        }
    }

    /// The phases of these attacks: first all calm ones, because load lasts for a while. Peers that flap send nothing
    /// beyond what their agents do.
    pub(super) fn phases(attacks: &[Attack]) -> Vec<Self> {
        let calm = attacks.iter().filter(|attack| **attack != Attack::Flapping).copied().map(Self::Calm);
        calm.chain(attacks.iter().copied().map(Self::Full)).collect()
    }
}

/// What has been captured on the wire, refreshed while an attack goes on.
#[derive(Clone, Debug, Default)]
pub(super) struct Loot(Arc<Mutex<Captured>>);

#[derive(Clone, Debug, Default)]
pub(super) struct Captured {
    /// REATTACH_REQUESTs of honest sessions, oldest first.
    pub(super) requests: Vec<Vec<u8>>,
    /// HANDSHAKE_INITs of honest peers.
    pub(super) inits: Vec<Vec<u8>>,
    /// Where honest sessions are.
    pub(super) victims: Vec<SocketAddrV4>,
}

impl Loot {
    pub(super) fn replace(&self, captured: Captured) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = captured;
    }

    fn get(&self) -> Captured {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Where a datagram claims to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// An address in the block in which nobody is, by the number of its /24.
    Nowhere { prefix: u32, port: u16 },
    /// Somebody's address.
    Of(SocketAddrV4),
}

impl Source {
    pub(super) fn address(self) -> SocketAddrV4 {
        match self {
            Self::Nowhere { prefix, port } => SocketAddrV4::new(nowhere(prefix), port),
            Self::Of(address) => address,
        }
    }
}

/// The one address that is used in a /24 in which nobody is.
pub(super) fn nowhere(prefix: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(NOWHERE) + ((prefix % NOWHERE_PREFIXES) << 8) + 66)
}

/// Makes the datagrams of one attack.
pub(super) struct Ammunition {
    attack: Attack,
    rng: ChaCha8Rng,
    gateway: PublicKey,
    loot: Loot,
    /// A copy of the loot, renewed now and then.
    captured: Captured,
    /// Datagrams made in advance.
    made: Vec<Vec<u8>>,
    rogue: Option<Rogue>,
    count: usize,
}

/// The loot is looked at again after so many datagrams.
const RENEWED_AFTER: usize = 4_096;

impl Ammunition {
    /// `rogue` is the attacker's own session, for the attacks that have one.
    pub(super) fn new(
        attack: Attack,
        seed: u64,
        gateway: PublicKey,
        loot: &Loot,
        rogue: Option<Rogue>,
    ) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(attack as u64);
        let made = match attack {
            Attack::Handshakes => strangers(&gateway)?,
            Attack::ReattachValid
            | Attack::ReattachReplayed
            | Attack::ReattachRandom
            | Attack::ReattachForged
            | Attack::HandshakesJunk
            | Attack::Flapping
            | Attack::VictimSource => Vec::new(),
        };
        let (loot, captured) = (loot.clone(), loot.get());
        Ok(Self { attack, rng, gateway, loot, captured, made, rogue, count: 0 })
    }

    /// The next datagram and its claimed source; `None` if there is nothing to send with yet.
    pub(super) fn next(&mut self) -> Result<Option<(Source, Vec<u8>)>> {
        self.count += 1;
        if self.count.is_multiple_of(RENEWED_AFTER) || self.captured.requests.is_empty() {
            self.captured = self.loot.get();
        }
        let payload = match self.attack {
            Attack::ReattachRandom => Some(self.request_of_noise(None)),
            Attack::ReattachReplayed => pick(&self.captured.requests, self.count),
            Attack::ReattachForged => {
                let handle = self.seen_handle()?;
                Some(self.request_of_noise(handle))
            }
            Attack::Handshakes if self.count.is_multiple_of(2) => pick(&self.captured.inits, self.count / 2),
            Attack::Handshakes => pick(&self.made, self.count / 2),
            Attack::HandshakesJunk => Some(self.junk_init()),
            Attack::ReattachValid | Attack::VictimSource => match &mut self.rogue {
                Some(rogue) => Some(rogue.request()?),
                None => None,
            },
            Attack::Flapping => None,
        };
        let source = self.source();
        Ok(payload.map(|payload| (source, payload)))
    }

    /// The attacker's own session, to hear what it is answered.
    pub(super) const fn rogue(&mut self) -> Option<&mut Rogue> {
        self.rogue.as_mut()
    }

    fn source(&mut self) -> Source {
        let victims = &self.captured.victims;
        let random = self.rng.next_u64();
        if self.attack == Attack::VictimSource
            && self.count.is_multiple_of(2)
            && let Some(victim) = victims.get(self.count / 2 % victims.len().max(1))
        {
            return Source::Of(*victim);
        }
        let port = 1_024 + (random >> 32) as u16 % 60_000;
        Source::Nowhere { prefix: random as u32 % NOWHERE_PREFIXES, port }
    }

    fn noise(&mut self, len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        self.rng.fill_bytes(&mut octets);
        octets
    }

    fn request_of_noise(&mut self, handle: Option<[u8; HANDLE_LEN]>) -> Vec<u8> {
        let mut request = self.noise(REQUEST_LEN);
        write(&mut request, 0, &[MsgType::ReattachRequest.octet(), PROTOCOL_VERSION, 0, 0]);
        if let Some(handle) = handle {
            write(&mut request, HANDLE_AT, &handle);
        }
        request
    }

    /// Alternately the attacker's own, which is certainly alive, and the latest of the honest ones.
    fn seen_handle(&mut self) -> Result<Option<[u8; HANDLE_LEN]>> {
        if self.count.is_multiple_of(2)
            && let Some(rogue) = &self.rogue
        {
            return Ok(Some(rogue.handle()));
        }
        let requests = &self.captured.requests;
        let latest = requests.len().saturating_sub(1 + self.count / 2 % requests.len().clamp(1, 100));
        let request = requests.get(latest);
        Ok(request.and_then(|request| request.get(HANDLE_AT..)?.first_chunk().copied()))
    }

    fn junk_init(&mut self) -> Vec<u8> {
        let mut init = self.noise(INIT_LEN);
        write(&mut init, 0, &[MsgType::HandshakeInit.octet(), PROTOCOL_VERSION, 0, 0]);
        write(&mut init, INIT_MAC_AT, &[0; INIT_NOISE_AT - INIT_MAC_AT]);
        let mac = init_mac(&self.gateway, &init);
        write(&mut init, INIT_MAC_AT, &mac);
        init
    }
}

fn write(datagram: &mut [u8], at: usize, octets: &[u8]) {
    for (to, from) in datagram.iter_mut().skip(at).zip(octets) {
        *to = *from;
    }
}

fn pick(from: &[Vec<u8>], number: usize) -> Option<Vec<u8>> {
    from.get(number % from.len().max(1)).cloned()
}

/// Initiations that are right in every respect, but of keys that the gateway does not know.
fn strangers(gateway: &PublicKey) -> Result<Vec<Vec<u8>>> {
    let mut random = OsRandom::checked()?;
    let one = |_| {
        let stranger = StaticSecret::generate(&mut random)?;
        let made = initiate(&mut random, &stranger, gateway, &PresharedKey::default(), 1, b"");
        Ok(made.context("a stranger's handshake")?.0)
    };
    (0..STRANGERS).map(one).collect()
}

/// The MAC of an INIT as anybody can compute it who knows the gateway's public key (docs/PROTOCOL.md): HMAC-SHA-256, cut.
/// Written down a second time on purpose: an attacker does not use our library.
fn init_mac(gateway: &PublicKey, init: &[u8]) -> [u8; MAC_LEN] {
    let key = Sha256::new().chain_update(b"jvpn1 init mac").chain_update(gateway.0).finalize();
    let pad =
        |with: u8| -> [u8; 64] { std::array::from_fn(|at| key.get(at).copied().unwrap_or_default() ^ with) };
    let before = init.get(..INIT_MAC_AT).unwrap_or_default();
    let behind = init.get(INIT_COOKIE_AT..).unwrap_or_default();
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(before).chain_update([0; MAC_LEN]);
    let inner = inner.chain_update(behind).finalize();
    let outer = Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize();
    std::array::from_fn(|at| outer.get(at).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jvpn_crypto::handshake::init_mac_ok;
    use jvpn_crypto::reattach::RequestFrame;

    fn ammunition(attack: Attack, seed: u64) -> Ammunition {
        Ammunition::new(attack, seed, PublicKey([7; 32]), &Loot::default(), None).unwrap()
    }

    /// Without this the flood of junk would be turned away by the MAC, and show nothing.
    #[test]
    fn junk_has_a_right_mac() {
        let mut ammunition = ammunition(Attack::HandshakesJunk, 1);
        for _ in 0..8 {
            let (_, init) = ammunition.next().unwrap().unwrap();
            assert!(init_mac_ok(&PublicKey([7; 32]), &init));
        }
    }

    #[test]
    fn requests_are_framed_and_follow_from_the_seed() {
        let shots = |seed| {
            let mut ammunition = ammunition(Attack::ReattachRandom, seed);
            (0..50).map(|_| ammunition.next().unwrap().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(shots(1), shots(1));
        assert_ne!(shots(1), shots(2));
        for (source, request) in shots(1) {
            assert!(RequestFrame::parse(&request).is_some());
            assert_eq!(u32::from(*source.address().ip()) & 0xff80_0000, u32::from(NOWHERE));
        }
    }

    #[test]
    fn seen_handles_are_used_and_replays_are_exact() {
        let loot = Loot::default();
        let genuine: Vec<_> = (0..3_u8).map(|number| vec![number; REQUEST_LEN]).collect();
        loot.replace(Captured { requests: genuine.clone(), ..Captured::default() });
        let made = |attack| Ammunition::new(attack, 1, PublicKey([7; 32]), &loot, None).unwrap();
        let (mut forged, mut replayed) = (made(Attack::ReattachForged), made(Attack::ReattachReplayed));
        for _ in 0..10 {
            let (_, request) = forged.next().unwrap().unwrap();
            assert!(genuine.iter().any(|genuine| genuine[4..12] == request[4..12]));
            assert!(!genuine.contains(&request));
            assert!(genuine.contains(&replayed.next().unwrap().unwrap().1));
        }
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        use clap::ValueEnum;
        for attack in Attack::ALL {
            assert_eq!(attack.to_possible_value().unwrap().get_name(), attack.name());
        }
    }
}
