//! The few settings of a device that the data plane makes itself at its start. [`settings`] decides, without looking at the
//! system; [`settle`] does it, and says the command where the driver refuses.

use super::decide::{Plan, Role, Wishes};
use super::drivers::driver_notes;
use super::ethtool::{Ethtool, Flow};
use super::facts::{ChannelKind, Facts, Interface};
use super::{Urgency, decide};
use crate::tuning::{Channels, FlowHash};
use serde::Serialize;
use std::io;

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "set")]
pub enum Setting {
    /// UDP is spread over the queues by addresses and ports.
    FlowHash {
        /// Of this interface.
        interface: String,
        /// `udp4` or `udp6`.
        flow: Flow,
    },
    /// As many channels as there are workers.
    Channels {
        /// Of this interface.
        interface: String,
        /// Channels.
        count: u32,
        /// Of this kind.
        kind: ChannelKind,
    },
}

impl Setting {
    /// As many channels of an interface as that.
    pub(super) fn of_channels(interface: &Interface, count: u32) -> Self {
        let kind = interface.channels.unwrap_or_default().kind();
        Self::Channels { interface: interface.name.clone(), count, kind }
    }

    /// The same by hand.
    #[must_use]
    pub fn command(&self) -> String {
        match self {
            Self::FlowHash { interface, flow } => {
                format!("ethtool -N {interface} rx-flow-hash {} sdfn", flow.name())
            }
            Self::Channels { interface, count, kind: ChannelKind::Combined } => {
                format!("ethtool -L {interface} combined {count}")
            }
            Self::Channels { interface, count, kind: ChannelKind::Separate } => {
                format!("ethtool -L {interface} rx {count} tx {count}")
            }
        }
    }

    fn make(&self, ethtool: &Ethtool) -> io::Result<()> {
        match self {
            Self::FlowHash { interface, flow } => ethtool.spread_by_ports(interface, *flow),
            Self::Channels { interface, count, .. } => ethtool.set_channels(interface, *count),
        }
    }
}

/// What is to be set. Spreading by ports harms nobody, so it is done unless it is forbidden; channels are taken from other
/// software, so they are set only when asked for.
#[must_use]
pub fn settings(facts: &Facts, wishes: &Wishes) -> Vec<Setting> {
    let mut all = Vec::new();
    for interface in &facts.interfaces {
        let role = wishes.ports.iter().find(|(_, name)| *name == interface.name).map(|(role, _)| *role);
        let count = u32::try_from(wishes.workers).unwrap_or(0).min(most_with_xdp(interface));
        if wishes.tuning.channels == Channels::Set && role.is_some() && differs(interface, count) {
            all.push(Setting::of_channels(interface, count));
        }
        if wishes.tuning.flow_hash == FlowHash::Set && role == Some(Role::Wan) && interface.rx_queues > 1 {
            let known = [(Flow::Udp4, interface.rss.udp4_ports), (Flow::Udp6, interface.rss.udp6_ports)];
            let wrong = known.into_iter().filter(|(_, has_ports)| *has_ports == Some(false));
            let name = &interface.name;
            all.extend(wrong.map(|(flow, _)| Setting::FlowHash { interface: name.clone(), flow }));
        }
    }
    all
}

/// The setting of so many channels on each of these interfaces, by what their drivers count.
#[must_use]
pub fn channels<'a>(interfaces: impl IntoIterator<Item = &'a str>, count: u32) -> Vec<Setting> {
    let ethtool = Ethtool::open().ok();
    let kind =
        |name: &str| ethtool.as_ref().and_then(|ethtool| ethtool.channels(name)).unwrap_or_default().kind();
    let of = |name: &str| Setting::Channels { interface: name.to_owned(), count, kind: kind(name) };
    interfaces.into_iter().map(of).collect()
}

/// Channels that leave the driver those that native XDP takes for itself.
fn most_with_xdp(interface: &Interface) -> u32 {
    let most = interface.channels.unwrap_or_default().max_combined;
    if driver_notes(interface.driver.as_deref()).halves_channels && most > 0 {
        (most / 2).max(1)
    } else {
        u32::MAX
    }
}

fn differs(interface: &Interface, count: u32) -> bool {
    let of = interface.channels.unwrap_or_default();
    let used = if of.max_combined > 0 { of.combined } else { of.rx };
    count > 0 && used != count
}

/// Makes the settings. What the driver refuses is a line in the log with the command, and no reason not to start. Returns
/// whether the number of queues may be another now.
///
/// # Errors
/// If the system gives no socket to ask by.
pub fn settle(settings: &[Setting]) -> io::Result<bool> {
    let ethtool = Ethtool::open()?;
    let mut requeued = false;
    for setting in settings {
        let command = setting.command();
        match setting.make(&ethtool) {
            Ok(()) => {
                tracing::info!("set, as '{command}' would");
                requeued |= matches!(setting, Setting::Channels { .. });
            }
            Err(error) => tracing::warn!("not set ({error}): see whether the driver takes '{command}'"),
        }
    }
    Ok(requeued)
}

/// Says in the log what the plan holds for indispensable.
pub fn warn(facts: &Facts, wishes: &Wishes) {
    let Plan { advice, .. } = decide(facts, wishes);
    for advice in advice.iter().filter(|advice| advice.urgency == Urgency::Must) {
        tracing::warn!(commands = ?advice.commands, "{}", advice.what);
    }
}
