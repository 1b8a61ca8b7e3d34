//! Inner packets of the simulation: numbered, so that the far end can tell loss, repetition and damage apart.

use jvpn_dataplane::frame::{Inner, fold, sum_words};
use std::net::{IpAddr, Ipv4Addr};

/// Octets of IPv4 and UDP in front of the number.
const HEAD: usize = 28;
/// Octets of a packet: the size of small interactive traffic.
const LEN: usize = 96;
/// UDP.
const PROTOCOL: u8 = 17;
const TTL: u8 = 64;

/// A numbered packet from one inner address to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// From.
    pub source: Ipv4Addr,
    /// To.
    pub destination: Ipv4Addr,
    /// Which one of its sender.
    pub number: u64,
}

impl Numbered {
    /// The octets.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut packet = vec![0; LEN];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(LEN as u16).to_be_bytes());
        packet[8] = TTL;
        packet[9] = PROTOCOL;
        packet[12..16].copy_from_slice(&self.source.octets());
        packet[16..20].copy_from_slice(&self.destination.octets());
        let checksum = fold(sum_words(&packet[..20]));
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet[HEAD..HEAD + 8].copy_from_slice(&self.number.to_be_bytes());
        for (index, octet) in packet.iter_mut().enumerate().skip(HEAD + 8) {
            *octet = filling(self.number, index);
        }
        packet
    }

    /// Reads a packet that went through the tunnel; `None` if anything but the hop limit was changed on its way.
    #[must_use]
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let inner = Inner::parse(packet)?;
        let number = jvpn_abi::wire::be64(packet, HEAD)?;
        let intact = packet.len() == LEN
            && inner.len == LEN
            && inner.protocol == PROTOCOL
            && fold(sum_words(packet.get(..20)?)) == 0
            && packet.get(20..HEAD)?.iter().all(|octet| *octet == 0)
            && packet
                .iter()
                .enumerate()
                .skip(HEAD + 8)
                .all(|(index, octet)| *octet == filling(number, index));
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (inner.source.ip(), inner.destination.ip())
        else {
            return None;
        };
        intact.then_some(Self { source, destination, number })
    }

    /// What the server answers.
    #[must_use]
    pub const fn echo(&self) -> Self {
        Self { source: self.destination, destination: self.source, number: self.number }
    }
}

const fn filling(number: u64, index: usize) -> u8 {
    (number as u8).wrapping_mul(31).wrapping_add(index as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_comes_back_as_it_was_or_not_at_all() {
        let packet = Numbered {
            source: Ipv4Addr::new(10, 77, 0, 2),
            destination: Ipv4Addr::new(192, 168, 50, 10),
            number: 77,
        };
        let octets = packet.encode();
        assert_eq!(Numbered::decode(&octets), Some(packet));
        for index in 0..octets.len() {
            let mut damaged = octets.clone();
            damaged[index] ^= 0x20;
            assert_ne!(Numbered::decode(&damaged), Some(packet), "octet {index}");
        }
    }
}
