//! `ethtool`'s questions, by ioctl (linux/ethtool.h). One unsafe call.

use super::facts::{Channels, Offloads, Rss};
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GRXFH: u32 = 0x29;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
const ETH_FLAG_LRO: u32 = 1 << 15;
const UDP_V4_FLOW: u32 = 0x02;
const UDP_V6_FLOW: u32 = 0x06;
/// RXH_L4_B_0_1 and RXH_L4_B_2_3: source and destination port.
const RXH_PORTS: u32 = (1 << 6) | (1 << 7);
/// Words of a question: more than the longest answer that is asked for (`struct ethtool_drvinfo`, 196 octets).
const WORDS: usize = 64;

/// A socket to ask by.
#[derive(Debug)]
pub(super) struct Ethtool(OwnedFd);

impl Ethtool {
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
        Ok(Self(socket.into()))
    }

    /// `None` if the driver does not answer this question.
    fn ask(&self, name: &str, mut words: [u32; WORDS]) -> Option<[u32; WORDS]> {
        // SAFETY: `ifreq` is plain data, all zero is a valid value of it.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        let room = request.ifr_name.len().checked_sub(1)?;
        if name.len() > room {
            return None;
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
        // SAFETY: both structures are valid for the call, and `words` is longer than the answer to any question here.
        let outcome = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        (outcome == 0).then_some(words)
    }

    fn value(&self, name: &str, command: u32) -> Option<u32> {
        let mut words = [0; WORDS];
        words[0] = command;
        self.ask(name, words).map(|answer| answer[1])
    }

    pub(super) fn driver(&self, name: &str) -> Option<String> {
        let mut words = [0; WORDS];
        words[0] = ETHTOOL_GDRVINFO;
        let answer = self.ask(name, words)?;
        let octets: Vec<u8> = answer.iter().skip(1).take(8).flat_map(|word| word.to_ne_bytes()).collect();
        let text = octets.split(|&octet| octet == 0).next().unwrap_or_default();
        Some(String::from_utf8_lossy(text).into_owned()).filter(|text| !text.is_empty())
    }

    pub(super) fn channels(&self, name: &str) -> Option<Channels> {
        let mut words = [0; WORDS];
        words[0] = ETHTOOL_GCHANNELS;
        let [_, max_rx, _, _, max_combined, rx, _, _, combined, ..] = self.ask(name, words)?;
        Some(Channels { max_combined, combined, max_rx, rx })
    }

    pub(super) fn rss(&self, name: &str) -> Rss {
        let ports = |flow: u32| {
            let mut words = [0; WORDS];
            (words[0], words[1]) = (ETHTOOL_GRXFH, flow);
            // The fields are the low word of a u64: all of them are below bit 32.
            let [_, _, low, high, ..] = self.ask(name, words)?;
            let fields = if cfg!(target_endian = "little") { low } else { high };
            Some(fields & RXH_PORTS == RXH_PORTS)
        };
        Rss { udp4_ports: ports(UDP_V4_FLOW), udp6_ports: ports(UDP_V6_FLOW) }
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
