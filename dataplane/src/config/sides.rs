//! The `[wan]` and `[lan]` tables: which interfaces a side consists of.

use super::{HostPort, default_port, default_tun};
use jvpn_abi::ports::MAX_PORTS;
use serde::Deserialize;

/// Longest interface name (IFNAMSIZ - 1, linux/if.h).
const MAX_INTERFACE_NAME: usize = 15;
/// VLANs that frames can be of (IEEE 802.1Q: 0 is a priority without a VLAN, 4095 is reserved).
const VLANS: std::ops::RangeInclusive<u16> = 1..=4_094;

/// The WAN side.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WanPort {
    /// The one interface of the side.
    interface: Option<String>,
    /// Its interfaces, if they are several.
    interfaces: Option<Vec<String>>,
    /// UDP port.
    #[serde(default = "default_port")]
    pub port: u16,
    /// The 802.1Q VLAN of the tunnel's frames on every interface of the side; absent = frames have no tag.
    pub vlan: Option<u16>,
    /// Names of the host's devices for that VLAN, one per interface: there the control plane's socket is, and from there the
    /// kernel answers ARP and routes. Absent = the device of that VLAN that the kernel has on the interface.
    pub vlan_devices: Option<Vec<String>>,
}

/// The LAN side.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LanPort {
    /// The one interface of the side. With [`Self::host`] it is made here.
    interface: Option<String>,
    /// Its interfaces, if they are several.
    interfaces: Option<Vec<String>>,
    /// The port leads into the host's own stack.
    pub host: Option<HostPort>,
    /// Name of the TUN device that takes the port's place where there is no AF_XDP.
    #[serde(default = "default_tun")]
    pub tun: String,
}

/// No name, for a configuration that was not checked.
static NO_NAME: String = String::new();

/// The names that one or the other key gives.
fn names<'a>(interface: &'a Option<String>, interfaces: &'a Option<Vec<String>>) -> &'a [String] {
    match (interface, interfaces) {
        (Some(one), _) => std::slice::from_ref(one),
        (None, Some(several)) => several,
        (None, None) => &[],
    }
}

impl WanPort {
    /// Its interfaces, the first first; at least one in a configuration that was checked.
    #[must_use]
    pub fn interfaces(&self) -> &[String] {
        names(&self.interface, &self.interfaces)
    }

    /// The first interface.
    #[must_use]
    pub fn interface(&self) -> &String {
        self.interfaces().first().unwrap_or(&NO_NAME)
    }

    /// Names of the configured VLAN devices by interface number.
    #[must_use]
    pub fn vlan_device(&self, number: usize) -> Option<&str> {
        self.vlan_devices.as_ref()?.get(number).map(String::as_str)
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        validate("wan", &self.interface, &self.interfaces)?;
        if self.port == 0 {
            return Err("wan.port = 0 must be 1 to 65535".to_owned());
        }
        if let Some(vlan) = self.vlan.filter(|vlan| !VLANS.contains(vlan)) {
            return Err(format!("wan.vlan = {vlan} must be {} to {}", VLANS.start(), VLANS.end()));
        }
        let Some(devices) = &self.vlan_devices else { return Ok(()) };
        if self.vlan.is_none() {
            return Err("wan.vlan_devices needs wan.vlan beside it".to_owned());
        }
        if devices.len() != self.interfaces().len() {
            return Err(format!(
                "wan.vlan_devices names {} devices for {} interfaces; give one for each",
                devices.len(),
                self.interfaces().len()
            ));
        }
        devices.iter().try_for_each(|name| interface_name("wan.vlan_devices", name))
    }
}

impl LanPort {
    /// Its interfaces, the first first; at least one in a configuration that was checked.
    #[must_use]
    pub fn interfaces(&self) -> &[String] {
        names(&self.interface, &self.interfaces)
    }

    /// The first interface.
    #[must_use]
    pub fn interface(&self) -> &String {
        self.interfaces().first().unwrap_or(&NO_NAME)
    }

    pub(super) fn validate(&self, wan: &WanPort) -> Result<(), String> {
        validate("lan", &self.interface, &self.interfaces)?;
        interface_name("lan.tun", &self.tun)?;
        if let Some(shared) = self.interfaces().iter().find(|name| wan.interfaces().contains(name)) {
            return Err(format!("wan.interface and lan.interface are both '{shared}'"));
        }
        if self.host.is_some() && self.interfaces().len() > 1 {
            return Err("lan.host makes one interface, but lan.interfaces names several".to_owned());
        }
        Ok(())
    }
}

fn validate(side: &str, interface: &Option<String>, interfaces: &Option<Vec<String>>) -> Result<(), String> {
    if interface.is_some() && interfaces.is_some() {
        return Err(format!("{side}.interface and {side}.interfaces are both given; give one of them"));
    }
    let key = if interfaces.is_some() { "interfaces" } else { "interface" };
    let names = names(interface, interfaces);
    if names.is_empty() || names.len() > MAX_PORTS {
        let count = names.len();
        return Err(format!("{side}.{key} names {count} interfaces; it must be 1 to {MAX_PORTS}"));
    }
    for (number, name) in names.iter().enumerate() {
        interface_name(&format!("{side}.{key}"), name)?;
        if names.iter().take(number).any(|before| before == name) {
            return Err(format!("{side}.{key} names '{name}' twice"));
        }
    }
    Ok(())
}

/// Whether the kernel could have an interface of this name.
pub(super) fn interface_name(key: &str, name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_INTERFACE_NAME || name.contains(['/', '\0', ' ']) {
        return Err(format!("{key} = '{name}' is not an interface name"));
    }
    Ok(())
}
