//! A malicious peer: he has a key that the gateway knows and a session of his own, and no client's limits or manners.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{SocketAddrV4, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jvpn_abi::PROTOCOL_VERSION;
use jvpn_abi::wire::internal::{ProbeFrame, ProbeKind};
use jvpn_abi::wire::reattach::HANDLE_LEN;
use jvpn_abi::wire::{DATA_HEADER_LEN, DATA_OVERHEAD, DataHeader, Suite};
use jvpn_crypto::SealKey;
use jvpn_crypto::handshake::{Initiation, initiate};
use jvpn_crypto::keys::{PresharedKey, PublicKey, StaticSecret};
use jvpn_crypto::reattach::{PendingRequest, RequestParams, request};
use jvpn_crypto::rng::OsRandom;
use jvpn_crypto::schedule::{EpochSecret, Resume};
use jvpn_host::clock;
use jvpn_rig::topology::{ATTACKER, GATEWAY_WAN};
use jvpn_rig::{Interrupt, Rig, TUNNEL_PORT};
use jvpn_session::messages::{
    BindingGrant, HandshakeAnswer, HandshakeGrant, HandshakeOffer, ReattachAsk, ReattachGrant, SwitchCause,
};

/// Ports that he sends from in turn.
const PORTS: usize = 32;
/// Requests whose answer he can still read.
const PENDING_MAX: usize = 128;
/// How long he tries to get his session.
const BIRTH_PATIENCE: Duration = Duration::from_secs(15);
/// How long he waits for each answer to a handshake.
const ANSWER_PATIENCE: Duration = Duration::from_millis(300);
/// How often he probes, so that his binding stays while he attacks; afterwards the gateway soon misses him.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// What names and proves his session in the next request.
struct Generation {
    anchor_version: u64,
    resume: Resume,
    handle: [u8; HANDLE_LEN],
}

impl Generation {
    fn new(grant: &BindingGrant, secret: &EpochSecret) -> Self {
        Self { anchor_version: grant.anchor_version, resume: secret.resume(), handle: grant.handle.0 }
    }
}

/// The binding that he confirmed last.
struct Bound {
    key: SealKey,
    grant: BindingGrant,
    counter: u64,
    socket: usize,
    probed_at: Instant,
}

/// Answers that he got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) datagrams: u64,
    pub(super) octets: u64,
    pub(super) granted: u64,
}

/// The peer.
pub(super) struct Rogue {
    secret: StaticSecret,
    gateway: PublicKey,
    random: OsRandom,
    sockets: Vec<UdpSocket>,
    next_socket: usize,
    session_id: [u8; 16],
    suite: Suite,
    generation: Generation,
    nonce: u64,
    pending: VecDeque<(usize, PendingRequest)>,
    heard: Heard,
    bound: Option<Bound>,
    /// He answers what he is granted with the frame that confirms it.
    confirms: bool,
}

impl Rogue {
    /// Gets himself a session from the attacker's address.
    ///
    /// # Errors
    /// The gateway gives him none.
    pub(super) fn connect(
        rig: &Rig,
        secret: StaticSecret,
        gateway: PublicKey,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let open = || -> std::io::Result<UdpSocket> {
            let socket = UdpSocket::bind((ATTACKER, 0))?;
            socket.connect((GATEWAY_WAN, TUNNEL_PORT))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let sockets: std::io::Result<Vec<_>> = rig.attacker().run(|| (0..PORTS).map(|_| open()).collect())?;
        let sockets = sockets.context("cannot open the rogue's sockets")?;
        let mut random = OsRandom::checked()?;
        let first = sockets.first().context("the rogue has no socket")?;
        let (grant, epoch) = handshake(&mut random, first, &secret, &gateway, interrupt)?;
        let mut rogue = Self {
            secret,
            gateway,
            random,
            next_socket: 0,
            session_id: grant.session_id.0,
            suite: grant.suite,
            generation: Generation::new(&grant.binding, &epoch),
            nonce: 0,
            pending: VecDeque::new(),
            heard: Heard::default(),
            bound: None,
            confirms: true,
            sockets,
        };
        rogue.confirm(0, &grant.binding, &epoch)?;
        Ok(rogue)
    }

    /// Never confirms what he is granted from here on.
    pub(super) const fn keep_quiet(&mut self) {
        self.confirms = false;
    }

    /// The handle that names his session now.
    pub(super) const fn handle(&self) -> [u8; HANDLE_LEN] {
        self.generation.handle
    }

    /// What he was answered since this was last asked.
    pub(super) fn take_heard(&mut self) -> Heard {
        std::mem::take(&mut self.heard)
    }

    /// A fresh request, proven and right in every respect.
    pub(super) fn request(&mut self) -> Result<Vec<u8>> {
        self.nonce += 1;
        let params = RequestParams {
            local: &self.secret,
            gateway: &self.gateway,
            resume: &self.generation.resume,
            session_id: self.session_id,
            anchor_version: self.generation.anchor_version,
            nonce: self.nonce,
            handle: self.generation.handle,
        };
        let ask = ReattachAsk { cause: SwitchCause::PathDead, detect_ms: 0, attempt: 1 };
        let (datagram, pending) = request(&mut self.random, &params, &ask.encode())?;
        self.next_socket = (self.next_socket + 1) % self.sockets.len().max(1);
        if self.pending.len() >= PENDING_MAX {
            self.pending.pop_front();
        }
        self.pending.push_back((self.next_socket, pending));
        Ok(datagram)
    }

    /// Sends the latest request from its own port.
    pub(super) fn send(&self, datagram: &[u8]) -> bool {
        self.sockets.get(self.next_socket).is_some_and(|socket| socket.send(datagram).is_ok())
    }

    /// Where his requests come from.
    pub(super) fn address(&self) -> Option<SocketAddrV4> {
        match self.sockets.get(self.next_socket)?.local_addr().ok()? {
            std::net::SocketAddr::V4(address) => Some(address),
            std::net::SocketAddr::V6(_) => None,
        }
    }

    /// Reads what came, takes what he is granted, and confirms it at once.
    pub(super) fn listen(&mut self) -> Result<()> {
        let mut buffer = [0; 2_048];
        for number in 0..self.sockets.len() {
            while let Some(len) = self.sockets.get(number).and_then(|socket| receive(socket, &mut buffer)) {
                self.heard.datagrams += 1;
                self.heard.octets += len as u64;
                self.take(number, buffer.get(..len).unwrap_or_default())?;
            }
        }
        match &mut self.bound {
            Some(bound) if self.confirms && bound.probed_at.elapsed() >= PROBE_INTERVAL => {
                bound.probe(&self.sockets)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn take(&mut self, number: usize, datagram: &[u8]) -> Result<()> {
        let granted = self.pending.iter_mut().rev().find_map(|(asked, pending)| {
            (*asked == number).then(|| pending.read_ack(datagram).ok()).flatten()
        });
        let Some((secret, payload)) = granted else { return Ok(()) };
        let Some(grant) = ReattachGrant::decode(&payload) else { return Ok(()) };
        self.heard.granted += 1;
        self.generation = Generation::new(&grant.binding, &secret);
        self.pending.clear();
        if self.confirms && !grant.rekey { self.confirm(number, &grant.binding, &secret) } else { Ok(()) }
    }

    /// The first frame under a new binding: from then on it is confirmed.
    fn confirm(&mut self, socket: usize, grant: &BindingGrant, secret: &EpochSecret) -> Result<()> {
        let key = SealKey::new(self.suite, &secret.data_keys().client_to_gateway);
        let bound = Bound { key, grant: grant.clone(), counter: 0, socket, probed_at: Instant::now() };
        self.bound.insert(bound).probe(&self.sockets)
    }
}

impl Bound {
    fn probe(&mut self, sockets: &[UdpSocket]) -> Result<()> {
        self.probed_at = Instant::now();
        let counter = self.counter;
        self.counter += 1;
        let probe = ProbeFrame {
            kind: ProbeKind::Probe,
            id: u32::try_from(self.counter).unwrap_or_default(),
            sent_at_ns: clock::now().0,
            next_interval_ms: u32::try_from(PROBE_INTERVAL.as_millis()).unwrap_or(u32::MAX),
            received: 0,
            rtt_us: 0,
            highest_counter: 0,
        };
        let (shard, slot) = (self.grant.shard, self.grant.slot);
        let header = DataHeader { key_phase: false, shard, slot, counter }.encode();
        let mut frame = [&header[..], &probe.encode()].concat();
        frame.resize(frame.len() + DATA_OVERHEAD - DATA_HEADER_LEN, 0);
        let (_, body) = frame.split_at_mut_checked(DATA_HEADER_LEN).context("a probe is too short")?;
        self.key.seal_in_place(counter, &header, body).context("cannot seal a probe")?;
        if let Some(socket) = sockets.get(self.socket) {
            // Lost like any datagram: then the binding stays unconfirmed and is removed.
            let _sent = socket.send(&frame);
        }
        Ok(())
    }
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Option<usize> {
    match socket.recv(buffer) {
        Ok(len) => Some(len),
        // An ICMP error answers nothing, but something may wait behind it.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Some(0),
        Err(_) => None,
    }
}

fn handshake(
    random: &mut OsRandom,
    socket: &UdpSocket,
    secret: &StaticSecret,
    gateway: &PublicKey,
    interrupt: &Interrupt,
) -> Result<(Box<HandshakeGrant>, EpochSecret)> {
    let start = Instant::now();
    while start.elapsed() < BIRTH_PATIENCE {
        interrupt.check()?;
        let offer = HandshakeOffer {
            versions: vec![PROTOCOL_VERSION],
            suites: vec![Suite::Aes256Gcm as u8, Suite::ChaCha20Poly1305 as u8],
            timestamp_ns: clock::unix_ns(),
        };
        let psk = PresharedKey::default();
        let (init, mut initiation) = initiate(random, secret, gateway, &psk, 1, &offer.encode())?;
        // Refused by an ICMP error of before, or taken: the wait below is the same.
        let _sent = socket.send(&init);
        if let Some(granted) = await_grant(socket, &mut initiation)? {
            return Ok(granted);
        }
    }
    bail!("the gateway gives the malicious peer no session within {} s", BIRTH_PATIENCE.as_secs())
}

fn await_grant(
    socket: &UdpSocket,
    initiation: &mut Initiation,
) -> Result<Option<(Box<HandshakeGrant>, EpochSecret)>> {
    let (start, mut buffer) = (Instant::now(), [0; 2_048]);
    while start.elapsed() < ANSWER_PATIENCE {
        let Some(len) = receive(socket, &mut buffer) else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        let Ok((secret, payload)) = initiation.read_response(buffer.get(..len).unwrap_or_default()) else {
            continue;
        };
        match HandshakeAnswer::decode(&payload) {
            Some(HandshakeAnswer::Granted(grant)) => return Ok(Some((grant, secret))),
            Some(HandshakeAnswer::Refused { reason, .. }) => {
                bail!("the gateway refuses the malicious peer: {}", reason.name())
            }
            None => bail!("the gateway's answer makes no sense"),
        }
    }
    Ok(None)
}
