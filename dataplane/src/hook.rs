//! One interface of a side: its program, where it stands on the ladder, and whether it is there.

use crate::attach::{Hold, Side, set_port};
use crate::config::Config;
use crate::frame::Mac;
use crate::ladder::{Mode, Standing};
use crate::netlink::{Link, Netlink};
use crate::plan::{self, Setting};
use crate::port::{AfXdpMode, PortTally, PortTraffic, Presence, Watched};
use anyhow::{Context as _, Result, bail};
use aya::Ebpf;
use aya::maps::Array;
use jvpn_abi::ports::{MAX_PORTS, PortEntry, lan_place, wan_place};
use serde_json::{Value, json};
use std::sync::Arc;

/// Names of the programs, by side and number. Pins have the same.
pub(crate) const PROGRAMS: [[&str; MAX_PORTS]; 2] =
    [["wan", "wan1", "wan2", "wan3"], ["lan", "lan1", "lan2", "lan3"]];

/// An interface that the configuration names.
#[derive(Debug)]
pub struct Hook {
    /// Its side.
    pub side: Side,
    /// Its number there, in the order of the configuration.
    pub number: usize,
    /// Its name.
    pub interface: String,
    /// What the kernel says about it.
    pub link: Link,
    /// Its receive queues that are in use: the kernel takes a socket for no other.
    pub queues: u32,
    /// Where it stands on the ladder.
    pub standing: Standing,
    /// How its sockets work.
    pub af_xdp: AfXdpMode,
    /// Whether it is there.
    pub watched: Arc<Watched>,
    /// What each worker sends and receives by it; empty where the side has one queue per worker and nothing else.
    pub tallies: Vec<Arc<PortTally>>,
    /// The device that the kernel's own stack has for the tunnel's frames: this one, or that of the VLAN.
    pub kernel: KernelDevice,
    pub(crate) hold: Hold,
}

/// A device by name and index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelDevice {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
}

impl Hook {
    /// Looks at every interface of the configuration. Of several on one side those that are missing are left out; the
    /// first must be there.
    ///
    /// # Errors
    /// If an interface or its VLAN device is missing.
    pub(crate) fn all(config: &Config, netlink: &mut Netlink) -> Result<Vec<Self>> {
        let mut hooks = Vec::new();
        let sides = [(Side::Wan, config.wan.interfaces()), (Side::Lan, config.lan.interfaces())];
        for (side, (number, interface)) in
            sides.into_iter().flat_map(|(side, names)| names.iter().enumerate().map(move |name| (side, name)))
        {
            let link = match netlink.link(interface) {
                Ok(link) => link,
                // Its end of the pair, or the TUN device in its place, is nobody's business before it is there.
                Err(_) if config.mode == Mode::NoAfXdp && side == Side::Lan => Link::default(),
                Err(error) if number > 0 => {
                    tracing::error!(?side, %interface, "interface is missing, the others do without: {error}");
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let kernel = match config.wan.vlan.filter(|_| side == Side::Wan) {
                Some(vlan) => vlan_device(config, netlink, (number, interface, link.index), vlan)?,
                None => KernelDevice { name: interface.clone(), index: link.index },
            };
            let watched = Arc::new(Watched::default());
            watched.set(if link.up { Presence::Up } else { Presence::Down });
            let queues = plan::queues_in_use(interface, &link);
            hooks.push(Self {
                side,
                number,
                interface: interface.clone(),
                link,
                queues,
                standing: Standing::top(),
                af_xdp: AfXdpMode::None,
                watched,
                tallies: Vec::new(),
                kernel,
                hold: Hold::Nothing,
            });
        }
        Ok(hooks)
    }

    /// Name of its program.
    #[must_use]
    pub fn program(&self) -> &'static str {
        let of_side = &PROGRAMS[self.side as usize];
        // Numbers are below MAX_PORTS by configuration.
        of_side.get(self.number).copied().unwrap_or(of_side[0])
    }

    /// Whether a program steers its frames into sockets.
    #[must_use]
    pub const fn is_attached(&self) -> bool {
        !matches!(self.hold, Hold::Nothing | Hold::Unwanted)
    }

    /// Counts its queues again: a setting may have changed them.
    pub(crate) fn count_queues(&mut self) {
        self.queues = plan::queues_in_use(&self.interface, &self.link);
    }

    /// Whether workers can have these queues, or the first of them may: the others are done without, if the kernel refuses
    /// them.
    ///
    /// # Errors
    /// Names the queue that cannot be had, and what to do.
    pub(crate) fn check_queues(&self, queues: &[u32]) -> Result<()> {
        let Some(queue) = lacking(queues, self.link.rx_queues, self.queues) else { return Ok(()) };
        let name = &self.interface;
        let commands = plan::channels([name.as_str()], queue + 1);
        let command = commands.first().map(Setting::command).unwrap_or_default();
        bail!(
            "{name} has {} receive queues in use ({} at most) for {} workers, one of which is to serve queue {queue}: \
             fewer workers, other tuning.queues, or more queues by '{command}'",
            self.queues,
            self.link.rx_queues,
            queues.len()
        )
    }

    /// What all workers sent and received by it.
    fn traffic(&self) -> Option<PortTraffic> {
        self.tallies.iter().map(|tally| tally.shown()).reduce(|sum, one| sum + one)
    }

    /// What the status shows of it.
    #[must_use]
    pub fn shown(&self) -> Value {
        json!({
            "interface": self.interface,
            "state": self.watched.presence(),
            "xdp_mode": self.link.xdp.unwrap_or("none"),
            "af_xdp_mode": self.af_xdp,
            "queues": self.queues,
            "step": self.standing.step,
            "falls": self.standing.falls,
            "traffic": self.traffic(),
        })
    }

    fn entry(&self, vlan: Option<u16>) -> (u32, PortEntry) {
        let Mac(mac) = self.link.mac;
        let is_itself = self.kernel.index == self.link.index;
        let kernel_index = if is_itself { 0 } else { self.kernel.index };
        match self.side {
            Side::Wan => (wan_place(self.number), PortEntry { mac, vlan: vlan.unwrap_or(0), kernel_index }),
            Side::Lan => (lan_place(self.number), PortEntry { mac, vlan: 0, kernel_index }),
        }
    }
}

/// The queue that keeps workers from an interface that was made with so many queues, of which so many are in use.
fn lacking(queues: &[u32], made: u32, used: u32) -> Option<u32> {
    let never = queues.iter().copied().max().filter(|queue| *queue >= made);
    never.or_else(|| queues.first().copied().filter(|queue| *queue >= used))
}

/// The host's device for a VLAN on an interface.
fn vlan_device(
    config: &Config,
    netlink: &mut Netlink,
    (number, interface, index): (usize, &str, u32),
    vlan: u16,
) -> Result<KernelDevice> {
    if let Some(name) = config.wan.vlan_device(number) {
        return Ok(KernelDevice { name: name.to_owned(), index: netlink.link(name)?.index });
    }
    let found = netlink.vlan_device(index, vlan).context("looking for VLAN devices")?;
    let Some((name, index)) = found else {
        bail!(
            "{interface} has no device for VLAN {vlan}: 'ip link add link {interface} name {interface}.{vlan} type vlan id {vlan}' \
             makes it, its address and routes go there; or name it in wan.vlan_devices"
        );
    };
    Ok(KernelDevice { name, index })
}

/// Fills PORTS.
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn write_ports(bpf: &mut Ebpf, hooks: &[Hook], vlan: Option<u16>) -> Result<()> {
    hooks.iter().map(|hook| hook.entry(vlan)).try_for_each(|(place, entry)| set_port(bpf, place, entry))
}

/// Tells the filter in front of a plain control socket which devices the kernel has for the WAN. Of one there is nothing to
/// tell: the socket is bound to it.
///
/// # Errors
/// If the kernel refuses.
pub fn write_plain_ports(bpf: &mut Ebpf, devices: &[u32]) -> Result<()> {
    let told = if devices.len() > 1 { devices } else { &[] };
    let map = bpf.map_mut("PLAIN_PORTS").context("the XDP object has no map PLAIN_PORTS")?;
    let mut table: Array<_, u32> = Array::try_from(map)?;
    for number in 0..MAX_PORTS {
        let index = told.get(number).copied().unwrap_or(0);
        table.set(u32::try_from(number).unwrap_or(0), index, 0).context("PLAIN_PORTS")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R9.1: a queue that cannot be had ends the start, and so does the first worker's that is not in use, since nothing is
    /// left then; of the others half are done without.
    #[test]
    fn r9_1_queues_that_nobody_can_have_end_the_start() {
        assert_eq!(lacking(&[0, 1, 2, 3], 8, 4), None);
        assert_eq!(lacking(&[0, 1, 2, 3], 8, 2), None, "half of them will do");
        assert_eq!(lacking(&[0, 8], 8, 4), Some(8));
        assert_eq!(
            lacking(&[4, 5], 8, 4),
            Some(4),
            "an interface without a queue would fall to plain sockets"
        );
        assert_eq!(lacking(&[0], 1, 0), Some(0));
    }
}
