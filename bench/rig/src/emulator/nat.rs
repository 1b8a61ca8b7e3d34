//! A NAT: endpoint-independent mapping and filtering (RFC 4787), mappings that expire, and one that can be told to forget
//! them all.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::packet::{self, End};
use super::profile::NatSettings;

/// Ports outside, dealt out in turn: a port that was left is not taken again for long.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 40_000;

/// What the NAT did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatCounters {
    /// Mappings made.
    pub mapped: u64,
    /// Mappings that nobody used for too long.
    pub expired: u64,
    /// Mappings that it was told to forget.
    pub forgotten: u64,
    /// Packets from outside for which there was no mapping.
    pub unmapped: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Inside {
    protocol: u8,
    address: SocketAddr,
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    outside: SocketAddr,
    used: Duration,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// It goes on.
    Passes,
    /// Nobody inside asked for it.
    Dropped,
}

/// The NAT.
#[derive(Debug)]
pub struct Nat {
    settings: NatSettings,
    mappings: HashMap<Inside, Mapping>,
    inside: HashMap<(u8, SocketAddr), Inside>,
    next_port: u16,
    next_external: usize,
    counters: NatCounters,
}

impl Nat {
    /// Without a mapping yet. `seed` says where ports begin.
    #[must_use]
    pub fn new(settings: NatSettings, seed: u64) -> Self {
        Self {
            settings,
            mappings: HashMap::new(),
            inside: HashMap::new(),
            next_port: (seed % u64::from(PORTS)) as u16,
            next_external: 0,
            counters: NatCounters::default(),
        }
    }

    /// What it did.
    #[must_use]
    pub const fn counters(&self) -> NatCounters {
        self.counters
    }

    /// Forgets all mappings; the next ones have other ports, and the next external address if there are several.
    pub fn rebind(&mut self) {
        self.counters.forgotten += self.mappings.len() as u64;
        self.mappings.clear();
        self.inside.clear();
        self.next_external += 1;
    }

    /// A frame on its way out gets its outer source.
    pub fn outward(&mut self, now: Duration, frame: &mut [u8]) -> Passage {
        // What is neither UDP nor TCP has no ports: it passes as it is.
        let Some(flow) = packet::flow(frame) else { return Passage::Passes };
        let inside = Inside { protocol: flow.protocol, address: flow.source };
        self.expire(now, inside);
        let outside = match self.mappings.get_mut(&inside) {
            Some(mapping) => {
                mapping.used = now;
                mapping.outside
            }
            None => self.map(now, inside),
        };
        packet::rewrite(frame, End::Source, outside);
        Passage::Passes
    }

    /// A frame on its way in gets its inner destination, if it has one.
    pub fn inward(&mut self, now: Duration, frame: &mut [u8]) -> Passage {
        let Some(flow) = packet::flow(frame) else { return Passage::Passes };
        let Some(inside) = self.inside.get(&(flow.protocol, flow.destination)).copied() else {
            self.counters.unmapped += 1;
            return Passage::Dropped;
        };
        self.expire(now, inside);
        if !self.mappings.contains_key(&inside) {
            self.counters.unmapped += 1;
            return Passage::Dropped;
        }
        packet::rewrite(frame, End::Destination, inside.address);
        Passage::Passes
    }

    fn map(&mut self, now: Duration, inside: Inside) -> SocketAddr {
        let of_family = |ip: &&IpAddr| ip.is_ipv6() == inside.address.is_ipv6();
        let count = self.settings.external.iter().filter(of_family).count();
        let external = (count > 0)
            .then(|| self.settings.external.iter().filter(of_family).nth(self.next_external % count).copied())
            .flatten();
        let ip = external.unwrap_or(inside.address.ip());
        let mut outside = SocketAddr::new(ip, self.deal());
        // As many tries as there are ports: with all of them taken, flows share one, as a bad NAT would have it.
        for _ in 0..PORTS {
            if !self.inside.contains_key(&(inside.protocol, outside)) {
                break;
            }
            outside.set_port(self.deal());
        }
        self.counters.mapped += 1;
        self.mappings.insert(inside, Mapping { outside, used: now });
        self.inside.insert((inside.protocol, outside), inside);
        outside
    }

    const fn deal(&mut self) -> u16 {
        self.next_port = (self.next_port + 1) % PORTS;
        FIRST_PORT + self.next_port
    }

    fn expire(&mut self, now: Duration, inside: Inside) {
        let Some(mapping) = self.mappings.get(&inside) else { return };
        if now.saturating_sub(mapping.used) > self.settings.ttl {
            self.counters.expired += 1;
            self.inside.remove(&(inside.protocol, mapping.outside));
            self.mappings.remove(&inside);
        }
    }
}

#[cfg(test)]
#[path = "nat_tests.rs"]
mod tests;
