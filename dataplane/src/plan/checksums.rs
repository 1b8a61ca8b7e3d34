//! Behind which devices a sender's checksum may be left out, and large packets may be left whole.

use super::advice::{Advice, Urgency};
use super::drivers::{XdpSupport, driver_notes};
use super::ethtool::Ethtool;
use super::facts::{Interface, Senders};
use super::probe;

/// Drivers of cards of a guest, which hang on a bus though other guests and the host send by them without a wire between:
/// `vif` is Xen's.
const GUESTS: [&str; 4] = ["virtio_net", "vif", "hv_netvsc", "vmxnet3"];
/// Devices through which goes what those below them bring, and nothing else. Not so a bridge, whose ports come and go, and
/// which carries what the host's guests send; nor a macvlan, whose siblings hand packets to each other.
const STACKED: [&str; 3] = ["802.1Q VLAN Support", "bonding", "team"];
/// Devices above each other that are looked at.
const DEPTH: usize = 8;
/// What software says of its bus.
const NO_BUS: [&str; 3] = ["N/A", "tun", "tap"];

/// A device as far as it matters here.
struct Device {
    driver: Option<String>,
    bus: Option<String>,
    /// Those below it in this network namespace.
    lower: Vec<String>,
}

/// Who sends what arrives by this interface.
pub(super) fn senders(ethtool: &Ethtool, name: &str) -> Senders {
    let ask = |name: &str| Device {
        driver: ethtool.driver(name),
        bus: ethtool.bus(name),
        lower: probe::lower_devices(name),
    };
    judge(name, &ask, DEPTH)
}

/// The answer of the lowest devices where they can be seen. What is not known for a card is taken for software: to compare
/// costs little.
fn judge(name: &str, ask: &dyn Fn(&str) -> Device, depth: usize) -> Senders {
    let Device { driver, bus, lower } = ask(name);
    let is = |names: &[&str]| driver.as_deref().is_some_and(|driver| names.contains(&driver));
    let is_card = if is(&STACKED) && !lower.is_empty() && depth > 0 {
        lower.iter().all(|below| judge(below, ask, depth - 1) == Senders::Wire)
    } else {
        bus.is_some_and(|bus| !NO_BUS.contains(&bus.as_str())) && !is(&GUESTS)
    };
    if is_card { Senders::Wire } else { Senders::Software }
}

/// Whether frames that arrive by one of these interfaces may lack checksums. One that is missing brings none.
#[must_use]
pub fn leave_checksums(interfaces: &[String]) -> bool {
    let Ok(ethtool) = Ethtool::open() else { return true };
    let is_there =
        |name: &str| crate::netlink::Netlink::new().is_ok_and(|mut netlink| netlink.link(name).is_ok());
    interfaces.iter().any(|name| is_there(name) && senders(&ethtool, name) == Senders::Software)
}

/// What whoever sends from the other end of a LAN's interface should change there: whether it is so is not visible from
/// here. On the WAN nothing depends on it: DATA is authenticated, and the rest is the kernel's.
pub(super) fn advice(interface: &Interface, generic: bool) -> Vec<Advice> {
    let name = &interface.name;
    let large = large(name, interface.driver.as_deref(), interface.senders, generic);
    let mut all: Vec<Advice> = large.into_iter().collect();
    if interface.driver.as_deref() == Some("veth") {
        all.push(Advice::new(
            Urgency::May,
            format!(
                "where the *peer* of {name} leaves checksums out, the data plane computes those of TCP and UDP, which \
                 costs time for each octet; those of SCTP and inside of other tunnels nobody computes"
            ),
            [format!("ethtool -K <peer of {name}> tx off")],
        ));
    }
    all
}

/// Large packets that nobody cuts. In front of native XDP the kernel cuts those of a veth's peer; what a guest puts into a
/// tap it never cuts.
fn large(name: &str, driver: Option<&str>, senders: Senders, generic: bool) -> Option<Advice> {
    let switches = "tso off gso off tx-udp-segmentation off";
    let (what, sender) = match driver {
        Some("veth") if generic => (
            format!(
                "generic XDP: the *peer* of {name} must cut large packets itself, else they are dropped, and TCP crawls \
                 (in front of native XDP the kernel cuts them)"
            ),
            format!("peer of {name}"),
        ),
        Some("tun") => (
            format!(
                "{name} is a tap: a guest behind it must cut large packets itself, else they are dropped, and TCP crawls \
                 (or its card is made without host_tso4, host_tso6 and host_ufo)"
            ),
            format!("card of the guest behind {name}"),
        ),
        // A guest's card has its own setting for what it merges: lro.
        Some(driver) if generic && senders == Senders::Software && !GUESTS.contains(&driver) => (
            format!(
                "generic XDP: guests, containers and processes of this host that send by {name} must cut large packets \
                 themselves, else they are dropped, and TCP crawls"
            ),
            format!("each interface that sends by {name}"),
        ),
        _ => return None,
    };
    Some(Advice::new(Urgency::Must, what, [format!("ethtool -K <{sender}> {switches}")]))
}

/// The same of an interface that generic XDP is attached to, though nobody asked for it. Of a tap, and of what has no other
/// XDP, the plan has spoken.
pub fn warn_of_generic(interface: &str) {
    let Ok(ethtool) = Ethtool::open() else { return };
    let is_news =
        |driver: &String| driver != "tun" && driver_notes(Some(driver.as_str())).xdp == XdpSupport::Native;
    let driver = ethtool.driver(interface).filter(is_news);
    if let Some(advice) = large(interface, driver.as_deref(), senders(&ethtool, interface), true) {
        tracing::warn!(interface, commands = ?advice.commands, "{}", advice.what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R0.5: a card finishes what it sends, and so does what stands on cards alone; whatever is software anywhere below, or
    /// cannot be seen, may have left checksums out.
    #[test]
    fn r0_5_the_lowest_device_decides() {
        let ask = |name: &str| {
            let (driver, bus, lower): (_, _, &[&str]) = match name {
                "eth0" | "eth1" => (Some("ixgbe"), Some("0000:03:00.0"), &[]),
                "veth0" => (Some("veth"), None, &[]),
                "netkit0" => (Some("netkit"), None, &[]),
                "tap0" => (Some("tun"), Some("tap"), &[]),
                "guest0" => (Some("virtio_net"), Some("0000:00:03.0"), &[]),
                "vlan.eth" => (Some("802.1Q VLAN Support"), None, &["eth0"]),
                "vlan.veth" => (Some("802.1Q VLAN Support"), None, &["veth0"]),
                "vlan.elsewhere" => (Some("802.1Q VLAN Support"), None, &[]),
                "bond0" => (Some("bonding"), None, &["eth0", "eth1"]),
                "bond1" => (Some("bonding"), None, &["eth0", "guest0"]),
                "vlan.bond1" => (Some("802.1Q VLAN Support"), None, &["bond1"]),
                "vlan.bond0" => (Some("802.1Q VLAN Support"), None, &["bond0"]),
                "br0" => (Some("bridge"), Some("N/A"), &["eth0"]),
                "macvlan0" => (Some("macvlan"), None, &["eth0"]),
                "itself" => (Some("team"), None, &["itself"]),
                _ => (None, None, &[]),
            };
            Device {
                driver: driver.map(str::to_owned),
                bus: bus.map(str::to_owned),
                lower: lower.iter().map(|name| (*name).to_owned()).collect(),
            }
        };
        for card in ["eth0", "vlan.eth", "bond0", "vlan.bond0"] {
            assert_eq!(judge(card, &ask, DEPTH), Senders::Wire, "{card}");
        }
        for software in [
            "veth0",
            "netkit0",
            "tap0",
            "guest0",
            "vlan.veth",
            "vlan.elsewhere",
            "bond1",
            "vlan.bond1",
            "br0",
            "macvlan0",
            "itself",
            "unknown",
        ] {
            assert_eq!(judge(software, &ask, DEPTH), Senders::Software, "{software}");
        }
        assert!(!leave_checksums(&["no-such-device".to_owned()]));
    }

    /// R0.5: who sends large packets by what nobody cuts is told; behind native XDP only a tap's guest.
    #[test]
    fn r0_5_large_packets_that_nobody_cuts() {
        let command = |driver, senders, generic| {
            large("lan0", Some(driver), senders, generic).map(|advice| advice.commands.concat())
        };
        let off = "tso off gso off tx-udp-segmentation off";
        let of = |sender: &str| Some(format!("ethtool -K <{sender}> {off}"));
        for generic in [false, true] {
            assert_eq!(command("tun", Senders::Software, generic), of("card of the guest behind lan0"));
            assert_eq!(command("ixgbe", Senders::Wire, generic), None);
            assert_eq!(command("virtio_net", Senders::Software, generic), None);
        }
        assert_eq!(command("veth", Senders::Software, true), of("peer of lan0"));
        assert_eq!(command("bridge", Senders::Software, true), of("each interface that sends by lan0"));
        for driver in ["veth", "bridge"] {
            assert_eq!(command(driver, Senders::Software, false), None, "{driver}");
        }
    }
}
