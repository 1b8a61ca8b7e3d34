//! Behind which devices a sender's checksum may be left out.

use super::ethtool::Ethtool;

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
