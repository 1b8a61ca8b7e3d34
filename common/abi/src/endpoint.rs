//! A transport address in one shape for both families.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An IP address and UDP port. IPv4 is stored IPv4-mapped (RFC 4291 §2.5.5.2), so one comparison serves both families.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address octets in network order; IPv4 as `::ffff:a.b.c.d`.
    pub addr: [u8; 16],
    /// UDP port in host order.
    pub port: u16,
}

/// The first 12 octets of an IPv4-mapped address.
const V4_PREFIX: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

impl Endpoint {
    /// From the octets of an IPv4 header.
    #[must_use]
    #[inline(always)]
    pub const fn v4(octets: [u8; 4], port: u16) -> Self {
        let [a, b, c, d] = octets;
        Self { addr: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d], port }
    }

    /// The address as the standard library shows it (an IPv4-mapped one as IPv4).
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        let v6 = Ipv6Addr::from(self.addr);
        v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
    }

    /// The IPv4 octets, if this is an IPv4 endpoint.
    #[must_use]
    pub fn v4_octets(&self) -> Option<[u8; 4]> {
        let (prefix, rest) = self.addr.split_at(12);
        if prefix != V4_PREFIX {
            return None;
        }
        rest.try_into().ok()
    }

    /// As a socket address.
    #[must_use]
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.ip(), self.port)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(value: SocketAddr) -> Self {
        let addr = match value.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Self { addr, port: value.port() }
    }
}

impl From<(Ipv4Addr, u16)> for Endpoint {
    fn from((ip, port): (Ipv4Addr, u16)) -> Self {
        Self::v4(ip.octets(), port)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.socket_addr(), f)
    }
}
