//! IPv6 beside the rig's IPv4: asked for by the tests that need both families.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::Result;

use crate::tool::IP;
use crate::{Namespace, Rig, Uplink};

/// The gateway's address on the WAN.
pub const GATEWAY_WAN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x57, 0, 0, 0, 0, 1);
/// The gateway's address on the LAN.
pub const GATEWAY_LAN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x50, 0, 0, 0, 0, 1);
/// The server on the LAN.
pub const LAN_SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x50, 0, 0, 0, 0, 0x10);
/// The router's address on the WAN.
const ROUTER_WAN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x57, 0, 0, 0, 0, 0xfe);
/// Inner IPv6 addresses of clients.
const POOL_V6: &str = "fd77::/64";

impl Uplink {
    const fn network_v6(self) -> u16 {
        match self {
            Self::A => 0xa,
            Self::B => 0xb,
        }
    }

    /// The client's IPv6 address on it. Both uplinks are routed plainly in this family.
    #[must_use]
    pub const fn client_address_v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, self.network_v6(), 0, 0, 0, 0, 2)
    }

    /// The IPv6 next hop on it.
    #[must_use]
    pub const fn router_address_v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, self.network_v6(), 0, 0, 0, 0, 1)
    }
}

impl Rig {
    /// Gives every namespace but the attacker's IPv6 addresses and routes beside what it has.
    ///
    /// # Errors
    /// The kernel has no IPv6, or `ip` refuses.
    pub fn add_ipv6(&self) -> Result<()> {
        for namespace in [self.client(), self.router(), self.gateway(), self.lan()] {
            for (key, value) in [
                // Addresses are there at once, and nobody asks for routers among the frames counted.
                ("net/ipv6/conf/default/accept_dad", "0"),
                ("net/ipv6/conf/all/accept_dad", "0"),
                ("net/ipv6/conf/default/accept_ra", "0"),
                ("net/ipv6/conf/default/router_solicitations", "0"),
                ("net/ipv6/conf/all/disable_ipv6", "0"),
                ("net/ipv6/conf/default/disable_ipv6", "0"),
            ] {
                namespace.sysctl(key, value)?;
            }
        }
        for namespace in [self.router(), self.gateway()] {
            namespace.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        }
        let (a, b) = (Uplink::A, Uplink::B);
        for uplink in [a, b] {
            address(self.client(), uplink.client_interface(), uplink.client_address_v6())?;
            address(self.router(), uplink.router_interface(), uplink.router_address_v6())?;
        }
        address(self.router(), "rW", ROUTER_WAN_V6)?;
        address(self.gateway(), "wan0", GATEWAY_WAN_V6)?;
        address(self.gateway(), "lan0", GATEWAY_LAN_V6)?;
        address(self.lan(), "eth0", LAN_SERVER_V6)?;
        route(self.client(), "default", a.router_address_v6(), "upA", "100")?;
        route(self.client(), "default", b.router_address_v6(), "upB", "200")?;
        route(self.gateway(), "default", ROUTER_WAN_V6, "wan0", "100")?;
        route(self.lan(), POOL_V6, GATEWAY_LAN_V6, "eth0", "100")
    }

    /// Adds or takes away one of the client's outer addresses.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn set_outer_address(&self, uplink: Uplink, address: IpAddr, present: bool) -> Result<()> {
        let (verb, len) = (if present { "add" } else { "del" }, if address.is_ipv4() { 24 } else { 64 });
        let text = format!("{address}/{len}");
        let mut args = vec!["address", verb, &text, "dev", uplink.client_interface()];
        if address.is_ipv6() && present {
            args.push("nodad");
        }
        IP.run(Some(self.client()), &args).map(drop)
    }
}

fn address(namespace: &Namespace, interface: &str, address: Ipv6Addr) -> Result<()> {
    let text = format!("{address}/64");
    IP.run(Some(namespace), &["address", "add", &text, "dev", interface, "nodad"]).map(drop)
}

fn route(namespace: &Namespace, to: &str, via: Ipv6Addr, interface: &str, metric: &str) -> Result<()> {
    let via = via.to_string();
    let args = ["-6", "route", "add", to, "via", &via, "dev", interface, "metric", metric];
    IP.run(Some(namespace), &args).map(drop)
}
