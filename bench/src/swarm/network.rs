//! Where members are: addresses of their own behind the rig's two uplinks, a few members to a /24, as customers of many
//! providers would be. And a large block in which nobody is, for attackers that make their addresses up.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use jvpn_rig::tool::{IP, NFT};
use jvpn_rig::{Rig, Uplink};

/// Members that share a /24, which the gateway's edge counts as one source.
pub const MEMBERS_PER_PREFIX: usize = 8;
/// Most members: inner addresses of the pool without its network, the gateway and the last one.
pub const MEMBERS_MAX: usize = (1 << 16) - 3;

/// First address of the block behind uplink A, /11.
const BLOCK_A: u32 = u32::from_be_bytes([10, 64, 0, 0]);
/// First address of the block behind uplink B, /11.
const BLOCK_B: u32 = u32::from_be_bytes([10, 96, 0, 0]);
/// First host in a /24.
const FIRST_HOST: u32 = 10;
/// First inner address; the one before is the gateway's.
const FIRST_INNER: u32 = u32::from_be_bytes([10, 77, 0, 2]);

/// First address of the block in which nobody is.
pub const NOWHERE: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
/// Length of its prefix.
pub const NOWHERE_LEN: u8 = 9;
/// How many /24 it has.
pub const NOWHERE_PREFIXES: u32 = 1 << (24 - NOWHERE_LEN as u32);

/// The outer address of a member on an uplink.
#[must_use]
pub fn outer_address(member: usize, uplink: Uplink) -> Ipv4Addr {
    let block = match uplink {
        Uplink::A => BLOCK_A,
        Uplink::B => BLOCK_B,
    };
    let (prefix, host) = (member / MEMBERS_PER_PREFIX, member % MEMBERS_PER_PREFIX);
    // Bounded by MEMBERS_MAX: 13 bits of prefix, 3 of host.
    Ipv4Addr::from(block + ((prefix as u32) << 8) + FIRST_HOST + host as u32)
}

/// The inner address of a member.
#[must_use]
pub fn inner_address(member: usize) -> Ipv4Addr {
    Ipv4Addr::from(FIRST_INNER + member as u32)
}

/// Leads the members' addresses to the client's namespace, and lets what goes nowhere vanish without an ICMP error.
///
/// # Errors
/// `ip` refuses.
pub fn set_up(rig: &Rig) -> Result<()> {
    let [a, b] = [Uplink::A, Uplink::B].map(Uplink::client_address);
    let router = format!(
        "route add 10.64.0.0/11 via {a} dev rA\nroute add 10.96.0.0/11 via {b} dev rB\n\
         route add blackhole {NOWHERE}/{NOWHERE_LEN}\n"
    );
    // Every address of the block is the client's own, without being configured one by one.
    let client = "route add local 10.64.0.0/10 dev lo\n";
    for (namespace, batch) in [(rig.router(), router.as_str()), (rig.client(), client)] {
        IP.run_with_input(Some(namespace), &["-batch", "-"], batch).context("routes of the swarm")?;
    }
    // Nobody's NAT: hundreds of thousands of flows would fill the table of connections.
    let untracked = "table ip swarm {\n  chain prerouting {\n    type filter hook prerouting priority raw;\n    \
                     ip saddr 10.64.0.0/10 notrack\n    ip daddr 10.64.0.0/10 notrack\n  }\n}\n";
    NFT.run_with_input(Some(rig.router()), &["-f", "-"], untracked).context("flows of the swarm")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn addresses_are_distinct_and_stay_in_their_blocks() {
        let members = [0, 1, 7, 8, 2_047, 2_048, MEMBERS_MAX - 1];
        let all: BTreeSet<_> = members
            .into_iter()
            .flat_map(|member| Uplink::ALL.map(|uplink| outer_address(member, uplink)))
            .collect();
        assert_eq!(all.len(), 2 * members.len());
        assert_eq!(outer_address(0, Uplink::A), Ipv4Addr::new(10, 64, 0, 10));
        assert_eq!(outer_address(MEMBERS_MAX - 1, Uplink::A), Ipv4Addr::new(10, 95, 255, 14));
        assert_eq!(outer_address(MEMBERS_MAX - 1, Uplink::B), Ipv4Addr::new(10, 127, 255, 14));
        assert_eq!(inner_address(300), Ipv4Addr::new(10, 77, 1, 46));
    }
}
