//! Large packets at the edges of the agent: many packets cost one pass through the host's stack instead of one each.
//!
//! Towards the gateway the tunnel device hands over TCP segments of up to 64 KiB, which are cut into packets
//! ([`crate::tun`]), sealed one by one, and leave as one datagram that the kernel cuts (UDP GSO). Back, the kernel hands
//! over many datagrams as one (UDP GRO), which are opened one by one; [`coalesce`] finds what belongs together and the
//! tunnel device takes it as one segment. Wherever the kernel refuses, packets go one by one.

pub mod coalesce;
pub mod too_big;
