//! Further clients of a rig, each in a namespace of its own, with two uplinks that run through emulated paths.
//!
//! ```text
//!  site n                    paths                         router
//!  10.200+n.1.2  upA ── cA<n> ─ relay ─ pA<n> ── rA<n>  10.200+n.1.1
//!  10.200+n.2.2  upB ── cB<n> ─ relay ─ pB<n> ── rB<n>  10.200+n.2.1
//! ```

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use crate::emulator::{Path, Relay};
use crate::tool::IP;
use crate::{Namespace, Rig, Uplink, link};

/// Sites that the address plan holds.
pub const SITES_MAX: u8 = 32;
/// Second octet of the first site's addresses.
const FIRST_OCTET: u8 = 200;

/// Interfaces in the namespace of the paths are numbered from here on. The kernel tells of a carrier's loss at once where
/// an interface has another number than its peer, and else at most once a second on the whole host: with several clients
/// on one host, one would wait for the others' links.
const FIRST_INDEX: u32 = 1_000;

/// A client's place in the network.
#[derive(Debug)]
pub struct Site {
    number: u8,
    client: Namespace,
    paths: [Relay; 2],
}

/// The namespace in which all paths of a rig end.
#[derive(Debug)]
pub struct Paths(Namespace);

impl Paths {
    /// Makes it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn create(rig: &Rig) -> Result<Self> {
        rig.add_namespace("paths").map(Self)
    }
}

impl Site {
    /// Adds site `number`; `paths` are those of uplink A and B.
    ///
    /// # Errors
    /// The number is too large or taken, or the kernel refuses.
    pub fn create(rig: &Rig, paths: &Paths, number: u8, [a, b]: [Path; 2]) -> Result<Self> {
        ensure!(number < SITES_MAX, "site {number}: a rig holds {SITES_MAX}");
        let client = rig.add_namespace(&format!("site{number}"))?;
        let site = SiteNames { number };
        for uplink in Uplink::ALL {
            site.make_links(rig, &paths.0, &client, uplink)?;
        }
        let relay = |uplink: Uplink, path| {
            Relay::start(&paths.0, &site.client_side(uplink), &site.far_side(uplink), path)
        };
        Ok(Self { number, paths: [relay(Uplink::A, a)?, relay(Uplink::B, b)?], client })
    }

    /// Its number.
    #[must_use]
    pub const fn number(&self) -> u8 {
        self.number
    }

    /// Where its client is.
    #[must_use]
    pub const fn client(&self) -> &Namespace {
        &self.client
    }

    /// The emulated path of an uplink.
    #[must_use]
    pub const fn path(&self, uplink: Uplink) -> &Relay {
        match uplink {
            Uplink::A => &self.paths[0],
            Uplink::B => &self.paths[1],
        }
    }

    /// The client's first address on an uplink of a site; with `host` the others of its network.
    #[must_use]
    pub const fn address(number: u8, uplink: Uplink, host: u8) -> Ipv4Addr {
        let network = match uplink {
            Uplink::A => 1,
            Uplink::B => 2,
        };
        Ipv4Addr::new(10, FIRST_OCTET + number, network, host)
    }

    /// The next hop on an uplink.
    #[must_use]
    pub const fn router_address(number: u8, uplink: Uplink) -> Ipv4Addr {
        Self::address(number, uplink, 1)
    }

    /// The number of the site that an outer address belongs to.
    #[must_use]
    pub fn of_address(address: Ipv4Addr) -> Option<u8> {
        let [first, second, ..] = address.octets();
        (first == 10).then(|| second.checked_sub(FIRST_OCTET)).flatten().filter(|number| *number < SITES_MAX)
    }
}

struct SiteNames {
    number: u8,
}

impl SiteNames {
    fn client_side(&self, uplink: Uplink) -> String {
        format!("c{uplink:?}{}", self.number)
    }

    fn far_side(&self, uplink: Uplink) -> String {
        format!("p{uplink:?}{}", self.number)
    }

    fn make_links(&self, rig: &Rig, paths: &Namespace, client: &Namespace, uplink: Uplink) -> Result<()> {
        let (near, far) = (self.client_side(uplink), self.far_side(uplink));
        let (up, router_side) = (uplink.client_interface(), format!("r{uplink:?}{}", self.number));
        let index = FIRST_INDEX + 4 * u32::from(self.number) + if uplink == Uplink::A { 0 } else { 2 };
        let pair = |index: u32, (a, a_name): (&Namespace, &str), (b, b_name): (&Namespace, &str)| {
            format!(
                "link add name {a_name} index {index} netns {} mtu 1500 type veth peer name {b_name} netns {} \
                 mtu 1500\n",
                a.name(),
                b.name()
            )
        };
        let links = pair(index, (paths, &near), (client, up))
            + &pair(index + 1, (paths, &far), (rig.router(), &router_side));
        IP.run_with_input(None, &["-batch", "-"], &links)?;
        let ends = [(paths, near.as_str()), (paths, &far), (client, up), (rig.router(), &router_side)];
        for (namespace, interface) in ends {
            link::turn_offloads_off(namespace, interface)?;
        }
        let (mine, hop) = (Site::address(self.number, uplink, 2), Site::router_address(self.number, uplink));
        let metric = if uplink == Uplink::A { 100 } else { 200 };
        let batches = [
            (paths, format!("link set {near} up\nlink set {far} up\n")),
            (rig.router(), format!("address add {hop}/24 dev {router_side}\nlink set {router_side} up\n")),
            (
                client,
                format!(
                    "link set lo up\naddress add {mine}/24 dev {up}\nlink set {up} up\n\
                     route add default via {hop} dev {up} metric {metric}\n"
                ),
            ),
        ];
        for (namespace, batch) in batches {
            IP.run_with_input(Some(namespace), &["-batch", "-"], &batch)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_tell_their_site() {
        for number in [0, 1, SITES_MAX - 1] {
            for uplink in Uplink::ALL {
                assert_eq!(Site::of_address(Site::address(number, uplink, 2)), Some(number));
            }
        }
        for other in ["10.77.0.2", "192.168.50.10", "10.255.1.1", "10.0.1.2"] {
            assert_eq!(Site::of_address(other.parse().unwrap()), None);
        }
    }
}
