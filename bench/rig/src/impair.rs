//! What goes wrong on the way: nftables rules and NAT in the router's namespace.
//!
//! Each impairment owns one chain per uplink and replaces its rules in one transaction, so impairments
//! combine freely and undoing one touches no other.

use std::fmt::Write;
use std::ops::RangeInclusive;

use anyhow::{Context, Result};

use crate::tool::{CONNTRACK, IP, NFT};
use crate::topology::{Rig, Uplink};
use crate::{DATA_OCTET, Namespace, TUNNEL_PORT};

/// What the router does to traffic that it forwards over an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Impairment {
    /// Drops everything both ways; the link stays up and nobody is told.
    Cut,
    /// Drops datagrams from the gateway that start with this octet.
    DropFromGateway(u8),
    /// Drops DATA from the client.
    HoldData,
    /// Drops those DATA datagrams from the client that have this many octets of UDP payload.
    HoldDataOfLength(u16),
    /// Loses so many percent of what comes from the client, at random.
    LoseFromClient(u8),
    /// Loses so many percent of what goes to the client, at random.
    LoseToClient(u8),
}

impl Impairment {
    const CHAINS: [&'static str; 5] = ["cut", "from_gateway", "hold", "lose_up", "lose_down"];

    const fn chain(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::DropFromGateway(_) => "from_gateway",
            Self::HoldData | Self::HoldDataOfLength(_) => "hold",
            Self::LoseFromClient(_) => "lose_up",
            Self::LoseToClient(_) => "lose_down",
        }
    }

    /// The rules' conditions.
    fn conditions(self, interface: &str) -> Vec<String> {
        match self {
            Self::Cut => vec![format!("iifname {interface}"), format!("oifname {interface}")],
            Self::DropFromGateway(octet) => {
                vec![format!("oifname {interface} udp sport {TUNNEL_PORT} @th,64,8 {octet:#x}")]
            }
            Self::HoldData => {
                vec![format!("iifname {interface} udp dport {TUNNEL_PORT} @th,64,8 {DATA_OCTET:#x}")]
            }
            Self::LoseFromClient(percent) => {
                vec![format!("iifname {interface} numgen random mod 100 < {percent}")]
            }
            Self::LoseToClient(percent) => {
                vec![format!("oifname {interface} numgen random mod 100 < {percent}")]
            }
            Self::HoldDataOfLength(octets) => {
                // `udp length` counts the header of 8 octets too.
                let length = octets.saturating_add(8);
                vec![format!(
                    "iifname {interface} udp dport {TUNNEL_PORT} udp length {length} @th,64,8 {DATA_OCTET:#x}"
                )]
            }
        }
    }
}

/// The router's impairments.
#[derive(Clone, Debug)]
pub struct Impairments {
    router: Namespace,
}

/// Source ports of the NAT before the first rebinding.
pub const FIRST_NAT_PORTS: RangeInclusive<u16> = 20_000..=20_999;

impl Impairments {
    /// Those of a rig.
    #[must_use]
    pub fn new(rig: &Rig) -> Self {
        Self { router: rig.router().clone() }
    }

    pub(crate) fn set_up(&self) -> Result<()> {
        let mut rules = String::from("table inet rig {\n");
        let mut jumps = String::new();
        for uplink in Uplink::ALL {
            for chain in Impairment::CHAINS {
                let name = chain_name(chain, uplink);
                writeln!(rules, "  counter {name} {{ }}\n  chain {name} {{ }}")?;
                writeln!(jumps, "    jump {name}")?;
            }
        }
        writeln!(rules, "  chain forward {{\n    type filter hook forward priority 0;\n{jumps}  }}")?;
        // A NAT that lost its mapping is silent; the router's own stack would answer "port unreachable".
        writeln!(
            rules,
            "  chain input {{\n    type filter hook input priority 0;\n    \
             iifname rW udp sport {TUNNEL_PORT} drop\n  }}\n}}"
        )?;
        writeln!(
            rules,
            "table ip rig_nat {{\n  chain uplink_a {{ }}\n  chain postrouting {{\n    \
             type nat hook postrouting priority 100;\n    jump uplink_a\n  }}\n}}"
        )?;
        self.apply(&rules)?;
        self.set_nat_ports(&FIRST_NAT_PORTS)
    }

    /// Starts an impairment; one of the same kind on this uplink is replaced.
    ///
    /// # Errors
    /// nft refuses.
    pub fn start(&self, uplink: Uplink, impairment: Impairment) -> Result<()> {
        let chain = chain_name(impairment.chain(), uplink);
        let mut rules = format!("flush chain inet rig {chain}\n");
        for condition in impairment.conditions(uplink.router_interface()) {
            writeln!(rules, "add rule inet rig {chain} {condition} counter name {chain} drop")?;
        }
        self.apply(&rules)
    }

    /// Ends an impairment, whatever its parameters were.
    ///
    /// # Errors
    /// nft refuses.
    pub fn stop(&self, uplink: Uplink, impairment: Impairment) -> Result<()> {
        self.apply(&format!("flush chain inet rig {}\n", chain_name(impairment.chain(), uplink)))
    }

    /// Packets that this kind of impairment has dropped on this uplink since the rig was built.
    ///
    /// # Errors
    /// nft refuses.
    pub fn dropped(&self, uplink: Uplink, impairment: Impairment) -> Result<u64> {
        let chain = chain_name(impairment.chain(), uplink);
        let text = NFT.run(Some(&self.router), &["-j", "list", "counter", "inet", "rig", &chain])?;
        let listing: serde_json::Value = serde_json::from_str(&text).context("nft gave no JSON")?;
        listing
            .get("nftables")
            .and_then(|items| items.as_array())
            .and_then(|items| items.iter().find_map(|item| item.pointer("/counter/packets")?.as_u64()))
            .with_context(|| format!("nft does not show the counter {chain}"))
    }

    /// Takes the link down from the router's side: the client loses carrier and keeps its addresses.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn link_down(&self, uplink: Uplink) -> Result<()> {
        IP.run(Some(&self.router), &["link", "set", uplink.router_interface(), "down"]).map(drop)
    }

    /// Brings the link back.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn link_up(&self, uplink: Uplink) -> Result<()> {
        IP.run(Some(&self.router), &["link", "set", uplink.router_interface(), "up"]).map(drop)
    }

    /// The NAT in front of uplink A forgets its mappings and takes other source ports from now on.
    ///
    /// # Errors
    /// nft or conntrack refuse.
    pub fn rebind_nat(&self, ports: &RangeInclusive<u16>) -> Result<()> {
        self.set_nat_ports(ports)?;
        // Without this, flows that are known keep their port; with this alone, they would get it again.
        CONNTRACK.run(Some(&self.router), &["-F"]).map(drop)
    }

    fn set_nat_ports(&self, ports: &RangeInclusive<u16>) -> Result<()> {
        let from_a = "oifname rW ip saddr 10.0.1.0/24";
        self.apply(&format!(
            "flush chain ip rig_nat uplink_a\n\
             add rule ip rig_nat uplink_a {from_a} meta l4proto udp masquerade to :{}-{}\n\
             add rule ip rig_nat uplink_a {from_a} masquerade\n",
            ports.start(),
            ports.end()
        ))
    }

    fn apply(&self, rules: &str) -> Result<()> {
        NFT.run_with_input(Some(&self.router), &["-f", "-"], rules).map(drop)
    }
}

fn chain_name(chain: &str, uplink: Uplink) -> String {
    match uplink {
        Uplink::A => format!("{chain}_a"),
        Uplink::B => format!("{chain}_b"),
    }
}
