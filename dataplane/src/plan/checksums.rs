//! Behind which devices a sender's checksum may be left out.

use super::advice::{Advice, Urgency};
use super::ethtool::Ethtool;
use super::facts::Interface;

/// Drivers whose other end is software on the same host, which may leave checksums to a device that is not there: another
/// namespace, a guest, the host of a guest. `vif` is Xen's network front end.
const SOFTWARE: [&str; 4] = ["veth", "virtio_net", "tun", "vif"];

/// Whether frames that arrive by such a device may lack checksums.
pub(super) fn may_be_left_out(driver: Option<&str>) -> bool {
    driver.is_some_and(|name| SOFTWARE.contains(&name))
}

/// Whether frames that arrive by one of these interfaces may lack checksums. One that is missing brings none.
#[must_use]
pub fn leave_checksums(interfaces: &[String]) -> bool {
    let Ok(ethtool) = Ethtool::open() else { return false };
    interfaces.iter().any(|name| may_be_left_out(ethtool.driver(name).as_deref()))
}

/// What whoever sends from the other end of a veth on the LAN should change there: whether it is so is not visible from
/// here. On the WAN nothing depends on it: DATA is authenticated, and the rest is the kernel's.
pub(super) fn advice(interface: &Interface, generic: bool) -> Vec<Advice> {
    let name = &interface.name;
    if interface.driver.as_deref() != Some("veth") {
        return Vec::new();
    }
    let checksums = Advice::new(
        Urgency::May,
        format!(
            "where the *peer* of {name} leaves checksums out, the data plane computes those of TCP and UDP, which costs \
             time for each octet; those of SCTP and inside of other tunnels nobody computes"
        ),
        [format!("ethtool -K <peer of {name}> tx off")],
    );
    let large = Advice::new(
        Urgency::Must,
        format!(
            "generic XDP: the *peer* of {name} must cut large packets itself, else they are dropped, and TCP crawls \
             (in front of native XDP the kernel cuts them)"
        ),
        [format!("ethtool -K <peer of {name}> tso off gso off tx-udp-segmentation off")],
    );
    if generic { vec![large, checksums] } else { vec![checksums] }
}

/// The same of an interface that generic XDP is attached to, whether that was asked for or not.
pub fn warn_of_generic(interface: &str) {
    let Ok(ethtool) = Ethtool::open() else { return };
    if ethtool.driver(interface).as_deref() == Some("veth") {
        tracing::warn!(
            interface,
            "generic XDP on a veth: 'ethtool -K <peer of {interface}> tso off gso off tx-udp-segmentation off', else what its peer sends by TCP crawls"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_finish_what_they_send() {
        for (driver, left_out) in
            [(Some("veth"), true), (Some("virtio_net"), true), (Some("ixgbe"), false), (None, false)]
        {
            assert_eq!(may_be_left_out(driver), left_out, "{driver:?}");
        }
        assert!(!leave_checksums(&["no-such-device".to_owned()]));
    }
}
