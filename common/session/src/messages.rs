//! The messages inside sealed payloads: what handshake, reattach and CONTROL carry once the cryptography is off.
//!
//! Fixed-order fields, big-endian, bounded lists, no self-description; trailing zeros are padding. Decoding never
//! panics: `None` is a malformed payload.

mod client_policy;
mod takeover;
mod tickets;

pub use client_policy::ClientPolicy;
pub use takeover::TakeoverAsk;
pub use tickets::{MAX_TICKETS, TicketBatch, TicketGrant};

use jvpn_abi::wire::{COOKIE_LEN, MAC_LEN, SlotId, Suite, reattach::HANDLE_LEN};
use jvpn_abi::{Endpoint, Reason};
use std::net::{IpAddr, Ipv6Addr};

/// Most routes that a grant carries.
pub const MAX_GRANT_ROUTES: usize = 16;
/// Most DNS servers that a grant carries.
pub const MAX_GRANT_DNS: usize = 4;
/// Most versions or suites that an offer carries.
pub const MAX_OFFERS: usize = 8;

/// The 128-bit anchor: minted once by the gateway, constant until TERMINATED.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub [u8; 16]);

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl std::fmt::Debug for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for SessionId {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        if text.len() != 32 || !text.bytes().all(|octet| octet.is_ascii_hexdigit()) {
            return Err(());
        }
        let mut id = [0; 16];
        for (octet, pair) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| ())?;
            *octet = u8::from_str_radix(pair, 16).map_err(|_| ())?;
        }
        Ok(Self(id))
    }
}

/// Names session and generation in the next reattach; new each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub [u8; HANDLE_LEN]);

/// An inner prefix: address and length in bits of its own family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// Network address (host bits may be set when it is an interface address).
    pub addr: IpAddr,
    /// Prefix length in bits.
    pub len: u8,
}

impl Prefix {
    /// Address and length as the shared tables hold them: IPv4-mapped.
    #[must_use]
    pub fn mapped(&self) -> ([u8; 16], u8) {
        match self.addr {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().octets(), self.len + 96),
            IpAddr::V6(v6) => (v6.octets(), self.len),
        }
    }

    /// Whether `addr` lies inside.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        let (own, len) = self.mapped();
        let (other, _) = Self { addr, len: 0 }.mapped();
        if addr.is_ipv4() != self.addr.is_ipv4() {
            return false;
        }
        let own = u128::from_be_bytes(own);
        let other = u128::from_be_bytes(other);
        len == 0 || (own ^ other) >> (128 - u32::from(len)) == 0
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl std::str::FromStr for Prefix {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not a prefix like 10.77.0.2/32 or fd00::2/128");
        let (addr, len) = text.split_once('/').ok_or_else(wrong)?;
        let addr: IpAddr = addr.parse().map_err(|_| wrong())?;
        let len: u8 = len.parse().map_err(|_| wrong())?;
        let max = if addr.is_ipv4() { 32 } else { 128 };
        if len > max {
            return Err(format!(
                "'{text}': a prefix length of {} is at most {max}",
                if max == 32 { "IPv4" } else { "IPv6" }
            ));
        }
        Ok(Self { addr, len })
    }
}

/// What the client offers in HANDSHAKE_INIT. Bound into the transcript: stripping an entry breaks the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeOffer {
    /// Protocol versions, best first.
    pub versions: Vec<u8>,
    /// Suites by number, best first. Unknown numbers are kept, so that the transcript stays the client's.
    pub suites: Vec<u8>,
    /// Unix time in ns; must rise with each handshake of a peer.
    pub timestamp_ns: u64,
}

/// What a new binding brings with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingGrant {
    /// Slot to write into DATA.
    pub slot: SlotId,
    /// Shard to write into DATA.
    pub shard: u16,
    /// Rises by one per binding.
    pub epoch: u64,
    /// The state_version that the next reattach under this generation names.
    pub anchor_version: u64,
    /// Names this generation in the next reattach.
    pub handle: Handle,
    /// Expected token of a RESET for the slot.
    pub slot_token: [u8; MAC_LEN],
    /// Expected token of a RESET for the handle.
    pub handle_token: [u8; MAC_LEN],
}

/// What HANDSHAKE_RESPONSE grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeGrant {
    /// Chosen protocol version.
    pub version: u8,
    /// Chosen suite.
    pub suite: Suite,
    /// The anchor.
    pub session_id: SessionId,
    /// The first binding.
    pub binding: BindingGrant,
    /// MTU of the tunnel interface, octets.
    pub mtu: u16,
    /// The client's inner addresses (one per family at most).
    pub addresses: Vec<Prefix>,
    /// The gateway's own inner addresses (one per family at most); they answer echo.
    pub gateway_addresses: Vec<IpAddr>,
    /// Prefixes to route into the tunnel.
    pub routes: Vec<Prefix>,
    /// DNS servers inside the tunnel.
    pub dns: Vec<IpAddr>,
    /// Numbers to live by.
    pub policy: ClientPolicy,
}

/// The answer to a proven handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandshakeAnswer {
    /// A session is born.
    Granted(Box<HandshakeGrant>),
    /// Refused, authenticated.
    Refused {
        /// Why.
        reason: Reason,
        /// Ask again after this many ms; 0 = not at all without a change.
        retry_after_ms: u32,
    },
}

/// Why the client asks for a new binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SwitchCause {
    /// The operator or a fail-back asks for it; the old path works.
    Voluntary = 0,
    /// The bound link or route went away.
    LinkDown = 1,
    /// The bound path is silent.
    PathDead = 2,
    /// The gateway saw our DATA from another endpoint.
    PathHint = 3,
    /// The gateway does not know our slot.
    SlotReset = 4,
    /// The address of the uplink changed.
    AddressChange = 5,
    /// The host slept.
    Wake = 6,
    /// An earlier answer did not come.
    Retry = 7,
    /// The key in use has reached a limit; the path works.
    Rekey = 8,
}

impl SwitchCause {
    /// The cause with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Voluntary,
            1 => Self::LinkDown,
            2 => Self::PathDead,
            3 => Self::PathHint,
            4 => Self::SlotReset,
            5 => Self::AddressChange,
            6 => Self::Wake,
            7 => Self::Retry,
            8 => Self::Rekey,
            _ => return None,
        })
    }

    /// Whether the old path could go on: only such a switch is refused by cooldown.
    #[must_use]
    pub const fn is_voluntary(self) -> bool {
        matches!(self, Self::Voluntary)
    }

    /// The name that logs use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Voluntary => "voluntary",
            Self::LinkDown => "link_down",
            Self::PathDead => "path_dead",
            Self::PathHint => "path_hint",
            Self::SlotReset => "slot_reset",
            Self::AddressChange => "address_change",
            Self::Wake => "wake",
            Self::Retry => "retry",
            Self::Rekey => "rekey",
        }
    }
}

/// What REATTACH_REQUEST says beyond its proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReattachAsk {
    /// Why.
    pub cause: SwitchCause,
    /// From the last frame heard on the old path to the decision to leave it, ms.
    pub detect_ms: u32,
    /// Requests sent in this burst, this one included.
    pub attempt: u16,
}

/// What REATTACH_ACK grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReattachGrant {
    /// `true`: same endpoint, only the keys change. `false`: stop using the old binding.
    pub rekey: bool,
    /// Number of the new keys within their epoch; its lowest bit is the key phase.
    pub key_number: u32,
    /// The new binding.
    pub binding: BindingGrant,
}

/// What CONTROL carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlMessage {
    /// The session ends.
    Terminate {
        /// Why.
        reason: Reason,
    },
    /// Gateway to client: your DATA came from `observed`, which is not the bound endpoint; reattach.
    PathHint {
        /// Where it came from.
        observed: Endpoint,
        /// Shows, in a request from there, that its sender receives there. All zero, and then not on the wire: there is
        /// none.
        cookie: [u8; COOKIE_LEN],
    },
    /// Gateway to client: the state that the gateway is in.
    State {
        /// state_version.
        version: u64,
        /// State by number.
        state: u8,
        /// Why it was entered.
        reason: Reason,
    },
    /// Client to gateway: my tickets for path probes run out.
    AskTickets,
    /// Gateway to client: tickets for path probes.
    Tickets(TicketBatch),
    /// Client to gateway: I take the binding that the answer to my takeover request offers. Not smaller than a `State`,
    /// which answers it.
    TakeOver {
        /// Its epoch.
        epoch: u64,
        /// Its anchor_version.
        version: u64,
    },
}

// ------------------------------------------------------------------------------------------------------- codec

/// Appends fields to a payload.
#[derive(Debug, Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }
    fn u16(&mut self, value: u16) -> &mut Self {
        self.octets(&value.to_be_bytes())
    }
    fn u32(&mut self, value: u32) -> &mut Self {
        self.octets(&value.to_be_bytes())
    }
    fn u64(&mut self, value: u64) -> &mut Self {
        self.octets(&value.to_be_bytes())
    }
    fn octets(&mut self, value: &[u8]) -> &mut Self {
        self.0.extend_from_slice(value);
        self
    }
    fn ip(&mut self, value: IpAddr) -> &mut Self {
        let (addr, _) = Prefix { addr: value, len: 0 }.mapped();
        self.octets(&addr)
    }
    fn prefix(&mut self, value: &Prefix) -> &mut Self {
        let (addr, len) = value.mapped();
        self.octets(&addr).u8(len)
    }
    /// A list of at most `max` items; longer ones are cut (configuration checks the bound earlier).
    fn list<T>(&mut self, items: &[T], max: usize, mut each: impl FnMut(&mut Self, &T)) -> &mut Self {
        debug_assert!(items.len() <= max, "list longer than its bound");
        let items = items.get(..max).unwrap_or(items);
        self.u8(u8::try_from(items.len()).unwrap_or(0));
        items.iter().for_each(|item| each(self, item));
        self
    }
}

/// Takes fields from a payload.
#[derive(Debug)]
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn octets<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_at_checked(N)?;
        self.0 = rest;
        head.try_into().ok()
    }
    fn u8(&mut self) -> Option<u8> {
        self.octets::<1>().map(|[octet]| octet)
    }
    fn u16(&mut self) -> Option<u16> {
        self.octets().map(u16::from_be_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.octets().map(u32::from_be_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.octets().map(u64::from_be_bytes)
    }
    fn ip(&mut self) -> Option<IpAddr> {
        let v6 = Ipv6Addr::from(self.octets::<16>()?);
        Some(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4))
    }
    fn prefix(&mut self) -> Option<Prefix> {
        let addr = self.ip()?;
        let len = self.u8()?;
        let len = if addr.is_ipv4() { len.checked_sub(96)? } else { len };
        (len <= if addr.is_ipv4() { 32 } else { 128 }).then_some(Prefix { addr, len })
    }
    fn reason(&mut self) -> Option<Reason> {
        Reason::from_number(self.u8()?)
    }
    fn list<T>(&mut self, max: usize, mut each: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = usize::from(self.u8()?);
        if count > max {
            return None;
        }
        (0..count).map(|_| each(self)).collect()
    }
    /// Only padding may be left.
    fn finish(self) -> Option<()> {
        self.0.iter().all(|octet| *octet == 0).then_some(())
    }
}

impl BindingGrant {
    fn write(&self, w: &mut Writer) {
        w.u32(self.slot.0).u16(self.shard).u64(self.epoch).u64(self.anchor_version);
        w.octets(&self.handle.0).octets(&self.slot_token).octets(&self.handle_token);
    }
    fn read(r: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            slot: SlotId(r.u32()?),
            shard: r.u16()?,
            epoch: r.u64()?,
            anchor_version: r.u64()?,
            handle: Handle(r.octets()?),
            slot_token: r.octets()?,
            handle_token: r.octets()?,
        })
    }
}

impl HandshakeOffer {
    /// The payload octets (unpadded).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.list(&self.versions, MAX_OFFERS, |w, v| {
            w.u8(*v);
        });
        w.list(&self.suites, MAX_OFFERS, |w, s| {
            w.u8(*s);
        });
        w.u64(self.timestamp_ns);
        w.0
    }

    /// Reads a payload.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut r = Reader(payload);
        let versions = r.list(MAX_OFFERS, Reader::u8)?;
        let suites = r.list(MAX_OFFERS, Reader::u8)?;
        let timestamp_ns = r.u64()?;
        r.finish()?;
        Some(Self { versions, suites, timestamp_ns })
    }
}

impl HandshakeAnswer {
    /// The payload octets.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            Self::Refused { reason, retry_after_ms } => {
                w.u8(reason.number()).u32(*retry_after_ms);
            }
            Self::Granted(grant) => {
                w.u8(0).u8(grant.version).u8(grant.suite as u8).octets(&grant.session_id.0);
                grant.binding.write(&mut w);
                w.u16(grant.mtu);
                w.list(&grant.gateway_addresses, 2, |w, a| {
                    w.ip(*a);
                });
                w.list(&grant.addresses, 2, |w, p| {
                    w.prefix(p);
                });
                w.list(&grant.routes, MAX_GRANT_ROUTES, |w, p| {
                    w.prefix(p);
                });
                w.list(&grant.dns, MAX_GRANT_DNS, |w, a| {
                    w.ip(*a);
                });
                grant.policy.write(&mut w);
            }
        }
        w.0
    }

    /// Reads a payload.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut r = Reader(payload);
        let outcome = r.u8()?;
        if outcome != 0 {
            let answer = Self::Refused { reason: Reason::from_number(outcome)?, retry_after_ms: r.u32()? };
            return r.finish().map(|()| answer);
        }
        let grant = HandshakeGrant {
            version: r.u8()?,
            suite: Suite::from_number(r.u8()?)?,
            session_id: SessionId(r.octets()?),
            binding: BindingGrant::read(&mut r)?,
            mtu: r.u16()?,
            gateway_addresses: r.list(2, Reader::ip)?,
            addresses: r.list(2, Reader::prefix)?,
            routes: r.list(MAX_GRANT_ROUTES, Reader::prefix)?,
            dns: r.list(MAX_GRANT_DNS, Reader::ip)?,
            policy: ClientPolicy::read(&mut r)?,
        };
        r.finish()?;
        Some(Self::Granted(Box::new(grant)))
    }
}

impl ReattachAsk {
    /// The payload octets (unpadded).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u8(self.cause as u8).u32(self.detect_ms).u16(self.attempt);
        w.0
    }

    /// Reads a payload.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut r = Reader(payload);
        let ask = Self { cause: SwitchCause::from_number(r.u8()?)?, detect_ms: r.u32()?, attempt: r.u16()? };
        r.finish()?;
        Some(ask)
    }
}

impl ReattachGrant {
    /// The payload octets.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u8(if self.rekey { 2 } else { 1 }).u32(self.key_number);
        self.binding.write(&mut w);
        w.0
    }

    /// Reads a payload.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut r = Reader(payload);
        let rekey = match r.u8()? {
            1 => false,
            2 => true,
            _ => return None,
        };
        let key_number = r.u32()?;
        let binding = BindingGrant::read(&mut r)?;
        r.finish()?;
        Some(Self { rekey, key_number, binding })
    }
}

impl ControlMessage {
    /// The message octets.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            Self::Terminate { reason } => w.u8(1).u8(reason.number()),
            Self::PathHint { observed, cookie } => {
                let cookie = if *cookie == [0; COOKIE_LEN] { &cookie[..0] } else { &cookie[..] };
                w.u8(2).octets(&observed.addr).u16(observed.port).octets(cookie)
            }
            Self::State { version, state, reason } => w.u8(3).u64(*version).u8(*state).u8(reason.number()),
            Self::AskTickets => w.u8(4),
            Self::Tickets(batch) => batch.write(w.u8(5)),
            Self::TakeOver { epoch, version } => w.u8(6).u64(*epoch).u64(*version),
        };
        w.0
    }

    /// Reads a message.
    #[must_use]
    pub fn decode(message: &[u8]) -> Option<Self> {
        let mut r = Reader(message);
        let message = match r.u8()? {
            1 => Self::Terminate { reason: r.reason()? },
            2 => Self::PathHint {
                observed: Endpoint { addr: r.octets()?, port: r.u16()? },
                cookie: r.octets().unwrap_or_default(),
            },
            3 => Self::State { version: r.u64()?, state: r.u8()?, reason: r.reason()? },
            4 => Self::AskTickets,
            5 => Self::Tickets(TicketBatch::read(&mut r)?),
            6 => Self::TakeOver { epoch: r.u64()?, version: r.u64()? },
            _ => return None,
        };
        r.finish()?;
        Some(message)
    }
}
