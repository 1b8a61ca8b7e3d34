//! `ethtool`'s questions, by ioctl (linux/ethtool.h). One unsafe call.

use super::facts::{ChannelKind, Channels, Offloads, Rss};
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GRXFH: u32 = 0x29;
const ETHTOOL_SRXFH: u32 = 0x2a;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_SCHANNELS: u32 = 0x3d;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
const ETH_FLAG_LRO: u32 = 1 << 15;
const UDP_V4_FLOW: u32 = 0x02;
const UDP_V6_FLOW: u32 = 0x06;
/// RXH_L4_B_0_1 and RXH_L4_B_2_3: source and destination port.
const RXH_PORTS: u32 = (1 << 6) | (1 << 7);
/// RXH_IP_SRC and RXH_IP_DST.
const RXH_ADDRESSES: u32 = (1 << 4) | (1 << 5);
/// Words of a question: more than the longest answer that is asked for (`struct ethtool_drvinfo`, 196 octets).
const WORDS: usize = 64;

/// Words in front of two fields of `struct ethtool_drvinfo`, which have 32 octets each.
const DRIVER_AT: usize = 1;
const BUS_AT: usize = 25;

/// A kind of flow that devices spread over their queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flow {
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
}

impl Flow {
    /// As `ethtool` calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp4 => "udp4",
            Self::Udp6 => "udp6",
        }
    }

    const fn number(self) -> u32 {
        match self {
            Self::Udp4 => UDP_V4_FLOW,
            Self::Udp6 => UDP_V6_FLOW,
        }
    }
}

/// `struct ethtool_channels`.
const fn in_use(answer: &[u32; WORDS]) -> Channels {
    let [_, max_rx, _, _, max_combined, rx, _, _, combined, ..] = *answer;
    Channels { max_combined, combined, max_rx, rx }
}

/// A socket to ask by.
#[derive(Debug)]
pub(super) struct Ethtool(OwnedFd);

impl Ethtool {
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
        Ok(Self(socket.into()))
    }

    /// `None` if the driver does not answer this question.
    fn ask(&self, name: &str, words: [u32; WORDS]) -> Option<[u32; WORDS]> {
        self.call(name, words).ok()
    }

    fn call(&self, name: &str, mut words: [u32; WORDS]) -> io::Result<[u32; WORDS]> {
        // SAFETY: `ifreq` is plain data, all zero is a valid value of it.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if name.len() >= request.ifr_name.len() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
        // SAFETY: both structures are valid for the call, and `words` is longer than the answer to any question here.
        let outcome = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        if outcome == 0 { Ok(words) } else { Err(io::Error::last_os_error()) }
    }

    fn value(&self, name: &str, command: u32) -> Option<u32> {
        let mut words = [0; WORDS];
        words[0] = command;
        self.ask(name, words).map(|answer| answer[1])
    }

    pub(super) fn driver(&self, name: &str) -> Option<String> {
        self.driver_info(name, DRIVER_AT)
    }

    /// Where a device hangs: the address on its bus. Devices that are software have none, or a word in its place.
    pub(super) fn bus(&self, name: &str) -> Option<String> {
        self.driver_info(name, BUS_AT)
    }

    fn driver_info(&self, name: &str, at: usize) -> Option<String> {
        let mut words = [0; WORDS];
        words[0] = ETHTOOL_GDRVINFO;
        let answer = self.ask(name, words)?;
        let octets: Vec<u8> = answer.iter().skip(at).take(8).flat_map(|word| word.to_ne_bytes()).collect();
        let text = octets.split(|&octet| octet == 0).next().unwrap_or_default();
        Some(String::from_utf8_lossy(text).into_owned()).filter(|text| !text.is_empty())
    }

    pub(super) fn channels(&self, name: &str) -> Option<Channels> {
        let mut words = [0; WORDS];
        words[0] = ETHTOOL_GCHANNELS;
        self.ask(name, words).map(|answer| in_use(&answer))
    }

    /// Has a device spread a kind of flow by addresses and ports.
    pub(super) fn spread_by_ports(&self, name: &str, flow: Flow) -> io::Result<()> {
        let mut words = [0; WORDS];
        (words[0], words[1]) = (ETHTOOL_SRXFH, flow.number());
        // The fields are the low word of a u64.
        words[if cfg!(target_endian = "little") { 2 } else { 3 }] = RXH_ADDRESSES | RXH_PORTS;
        self.call(name, words).map(drop)
    }

    /// Sets how many channels a device uses: combined ones, or as many in each direction where it has no others.
    pub(super) fn set_channels(&self, name: &str, count: u32) -> io::Result<()> {
        let mut words = [0; WORDS];
        words[0] = ETHTOOL_GCHANNELS;
        let mut words = self.call(name, words)?;
        words[0] = ETHTOOL_SCHANNELS;
        let used = match in_use(&words).kind() {
            ChannelKind::Combined => &mut words[8..9],
            ChannelKind::Separate => &mut words[5..7],
        };
        used.fill(count);
        self.call(name, words).map(drop)
    }

    pub(super) fn rss(&self, name: &str) -> Rss {
        let ports = |flow: Flow| {
            let mut words = [0; WORDS];
            (words[0], words[1]) = (ETHTOOL_GRXFH, flow.number());
            // The fields are the low word of a u64: all of them are below bit 32.
            let [_, _, low, high, ..] = self.ask(name, words)?;
            let fields = if cfg!(target_endian = "little") { low } else { high };
            Some(fields & RXH_PORTS == RXH_PORTS)
        };
        Rss { udp4_ports: ports(Flow::Udp4), udp6_ports: ports(Flow::Udp6) }
    }

    pub(super) fn offloads(&self, name: &str) -> Offloads {
        let flags = self.value(name, ETHTOOL_GFLAGS);
        Offloads {
            lro: flags.map(|flags| flags & ETH_FLAG_LRO != 0),
            rx_vlan: flags.map(|flags| flags & ETH_FLAG_RXVLAN != 0),
            tx_checksum: self.value(name, ETHTOOL_GTXCSUM).map(|value| value != 0),
        }
    }
}
