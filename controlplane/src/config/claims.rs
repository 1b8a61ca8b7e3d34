//! Which prefix leads to which peer: each to one only.

use jvpn_session::messages::Prefix;
use std::collections::BTreeMap;

/// Prefixes that lead to peers, in the order of their addresses: overlapping ones are neighbours.
#[derive(Default)]
pub(super) struct Claims(BTreeMap<(u128, u8), String>);

impl Claims {
    /// Claims a prefix, or names the one in the way and its owner.
    pub(super) fn claim(&mut self, prefix: Prefix, owner: &str) -> Option<(Prefix, String)> {
        let (addr, len) = prefix.mapped();
        let start = u128::from_be_bytes(addr);
        let last = start | u128::MAX.checked_shr(u32::from(len)).unwrap_or(0);
        // Claimed prefixes are disjoint: only the nearest from below can hold this one, only those inside can
        // be held.
        let below = self.0.range(..=(start, u8::MAX)).next_back().filter(|((other, other_len), _)| {
            start <= other | u128::MAX.checked_shr(u32::from(*other_len)).unwrap_or(0)
        });
        let inside = || self.0.range((start, 0)..=(last, u8::MAX)).next();
        if let Some(((other, other_len), other_owner)) = below.or_else(inside) {
            return Some((unmapped(*other, *other_len), other_owner.clone()));
        }
        self.0.insert((start, len), owner.to_owned());
        None
    }
}

fn unmapped(addr: u128, len: u8) -> Prefix {
    let v6 = std::net::Ipv6Addr::from_bits(addr);
    match v6.to_ipv4_mapped() {
        Some(v4) if len >= 96 => Prefix { addr: v4.into(), len: len - 96 },
        Some(_) | None => Prefix { addr: v6.into(), len },
    }
}
