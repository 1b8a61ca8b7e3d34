//! Looks after the interfaces while the data plane runs: one that goes away must not take the others with it, and must not
//! go unnoticed.

use crate::attach::Side;
use crate::hook::Hook;
use crate::lan_mtu::LanMtus;
use crate::netlink::Netlink;
use crate::port::Presence;
use anyhow::{Result, bail};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// The main thread's ear at rtnetlink.
#[derive(Debug)]
pub struct Watch {
    listen: Netlink,
    ask: Netlink,
    lan_mtus: Arc<LanMtus>,
    /// Octets: who has less on the LAN is named in the log.
    tunnel_mtu: usize,
}

impl Watch {
    /// Begins to listen.
    ///
    /// # Errors
    /// If rtnetlink cannot be reached.
    pub fn new() -> io::Result<Self> {
        let (listen, ask) = (Netlink::listening_to_links()?, Netlink::new()?);
        Ok(Self { listen, ask, lan_mtus: Arc::default(), tunnel_mtu: 0 })
    }

    /// Names in the log what takes less than the tunnel carries, octets.
    #[must_use]
    pub fn for_tunnel(mut self, mtu: u16) -> Self {
        self.tunnel_mtu = usize::from(mtu);
        self
    }

    /// What each interface of the LAN takes, as it was seen last.
    #[must_use]
    pub const fn lan_mtus(&self) -> &Arc<LanMtus> {
        &self.lan_mtus
    }

    /// Whether something changed since the last time.
    pub fn heard(&mut self) -> bool {
        self.listen.drain()
    }

    /// Looks at every interface and notes its state; where a TUN device takes the LAN's place, at that. Returns whether one
    /// has another than before.
    ///
    /// # Errors
    /// If a side has no interface left: nothing can be forwarded until somebody brings one back.
    pub fn look(&mut self, hooks: &[Hook], tun: Option<TunDevice<'_>>) -> Result<bool> {
        self.note_mtus(hooks);
        let ask = &mut self.ask;
        look_by(hooks, tun, &mut |index| presence_of(ask, index))
    }

    /// Looks for the host's end of the LAN, which may have no program.
    ///
    /// # Errors
    /// If it is gone: the LAN is.
    pub fn look_for(&mut self, device: u32) -> Result<()> {
        if matches!(presence_of(&mut self.ask, device), Ok(Presence::Gone)) {
            bail!(
                "the host's end of the LAN was deleted or moved: nothing can be forwarded (reason no_interface_left); start again"
            );
        }
        Ok(())
    }

    /// Notes what each interface of the LAN takes. One that cannot be looked at keeps what it had; where there is no
    /// program the LAN is the host, which takes everything.
    fn note_mtus(&mut self, hooks: &[Hook]) {
        for hook in hooks.iter().filter(|hook| hook.side == Side::Lan && hook.is_attached()) {
            let Ok(Some(link)) = self.ask.link_at(hook.link.index) else { continue };
            let (before, now) = self.lan_mtus.set(hook.number, link.mtu);
            say_mtu(&hook.interface, (before, now), self.tunnel_mtu);
        }
    }
}

/// The TUN device that takes the LAN's place without AF_XDP.
#[derive(Clone, Copy, Debug)]
pub struct TunDevice<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its index.
    pub index: u32,
}

/// What a side sends and receives by, of one interface of the configuration.
#[derive(Clone, Copy)]
struct Place<'a> {
    name: &'a str,
    /// Indexes of the interface, and of what the kernel's own stack has there.
    indexes: [u32; 2],
}

impl<'a> Place<'a> {
    /// Without AF_XDP the host's own stack has the LAN's interfaces, and we the TUN device.
    fn of(hook: &'a Hook, tun: Option<TunDevice<'a>>) -> Option<Self> {
        if hook.side == Side::Wan || hook.is_attached() {
            return Some(Self { name: &hook.interface, indexes: [hook.link.index, hook.kernel.index] });
        }
        tun.map(|tun| Self { name: tun.name, indexes: [tun.index; 2] })
    }

    /// Its state; where frames have a VLAN, the worse of the interface and the VLAN's device.
    fn presence(self, ask: &mut dyn FnMut(u32) -> io::Result<Presence>) -> io::Result<Presence> {
        let [own, kernel] = self.indexes;
        let itself = ask(own)?;
        if own == kernel { Ok(itself) } else { Ok(itself.worse(ask(kernel)?)) }
    }
}

fn look_by(
    hooks: &[Hook],
    tun: Option<TunDevice<'_>>,
    ask: &mut dyn FnMut(u32) -> io::Result<Presence>,
) -> Result<bool> {
    let mut changed = false;
    for hook in hooks {
        let Some(place) = Place::of(hook, tun) else { continue };
        let now = match place.presence(ask) {
            Ok(now) => now,
            Err(error) => {
                tracing::debug!(interface = %place.name, %error, "cannot look at an interface");
                continue;
            }
        };
        let before = hook.watched.set(now);
        if before != now {
            changed = true;
            say(hook.side, place.name, now);
        }
    }
    none_left(hooks, tun)?;
    Ok(changed)
}

fn presence_of(ask: &mut Netlink, index: u32) -> io::Result<Presence> {
    Ok(match ask.is_up(index)? {
        Some(true) => Presence::Up,
        Some(false) => Presence::Down,
        None => Presence::Gone,
    })
}

fn say(side: Side, interface: &str, now: Presence) {
    match now {
        Presence::Up => tracing::info!(?side, %interface, "interface is up"),
        Presence::Down => tracing::warn!(?side, %interface, "interface is down: nothing leaves by it"),
        Presence::Gone => tracing::error!(
            ?side,
            %interface,
            "interface is gone: it was deleted or moved; once it is back, restart the data plane to take it in"
        ),
    }
}

/// Says which packets an interface of the LAN begins or ceases to take.
fn say_mtu(interface: &str, (before, mtu): (usize, usize), tunnel_mtu: usize) {
    if mtu < tunnel_mtu && mtu != before {
        tracing::warn!(
            interface,
            mtu,
            tunnel_mtu,
            "the LAN takes less than tunnel.mtu: larger packets go back with 'too big', TCP keeps to the MSS; \
             'ip link set {interface} mtu {tunnel_mtu}', or a smaller tunnel.mtu in both files, spares them that"
        );
    } else if before < tunnel_mtu && mtu >= tunnel_mtu {
        tracing::info!(interface, mtu, tunnel_mtu, "the LAN takes all that the tunnel carries again");
    }
}

/// Fails closed: whoever supervises this process starts it anew, and it waits at the start until its interfaces are there.
fn none_left(hooks: &[Hook], tun: Option<TunDevice<'_>>) -> Result<()> {
    for side in [Side::Wan, Side::Lan] {
        let ours = hooks.iter().filter(|hook| hook.side == side);
        let ours: Vec<_> = ours.filter_map(|hook| Some((hook, Place::of(hook, tun)?.name))).collect();
        if !ours.is_empty() && ours.iter().all(|(hook, _)| hook.watched.presence() == Presence::Gone) {
            let names: Vec<&str> = ours.iter().map(|(_, name)| *name).collect();
            bail!(
                "no interface of the {side:?} side is left, '{}' is gone: nothing can be forwarded (reason \
                 no_interface_left); bring one back and start again; a TUN device is made by the start itself",
                names.join("', '")
            );
        }
    }
    Ok(())
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listen.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::Hold;
    use crate::hook::KernelDevice;
    use crate::ladder::Standing;
    use crate::netlink::Link;
    use crate::port::{AfXdpMode, Watched};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn hook(side: Side, interface: &str, index: u32, hold: Hold) -> Hook {
        Hook {
            side,
            number: 0,
            interface: interface.to_owned(),
            link: Link { index, ..Link::default() },
            queues: 1,
            standing: Standing::top(),
            af_xdp: AfXdpMode::None,
            watched: Arc::new(Watched::default()),
            tallies: Vec::new(),
            kernel: KernelDevice { name: interface.to_owned(), index },
            hold,
        }
    }

    /// R9.1: without AF_XDP the WAN's interface and the TUN device are watched: what is deleted does not come back by itself,
    /// and the data plane ends. The LAN's own interface is the host's then, whether it is there or not.
    #[test]
    fn r9_1_what_is_lost_without_af_xdp_is_noticed() {
        const TUN: TunDevice<'_> = TunDevice { name: "tun", index: 7 };
        let hooks = [hook(Side::Wan, "wan", 2, Hold::Nothing), hook(Side::Lan, "lan", 0, Hold::Nothing)];
        let look = |links: &[(u32, Presence)]| {
            let links: BTreeMap<u32, Presence> = links.iter().copied().collect();
            let mut ask = |index: u32| io::Result::Ok(links.get(&index).copied().unwrap_or(Presence::Gone));
            look_by(&hooks, Some(TUN), &mut ask).map_err(|error| error.to_string())
        };
        let states = || [0, 1].map(|number: usize| hooks[number].watched.presence());
        assert_eq!(look(&[(2, Presence::Up), (7, Presence::Up)]), Ok(false));
        assert_eq!(look(&[(2, Presence::Down), (7, Presence::Up)]), Ok(true));
        assert_eq!(states(), [Presence::Down, Presence::Up]);
        assert_eq!(look(&[(2, Presence::Up), (7, Presence::Down)]), Ok(true));
        assert_eq!(states(), [Presence::Up, Presence::Down]);
        // One of the same name has another index: the socket is bound to the one that was.
        let said = look(&[(3, Presence::Up), (7, Presence::Up)]).unwrap_err();
        assert!(
            said.contains("Wan") && said.contains("'wan'") && said.contains("no_interface_left"),
            "{said}"
        );
        let said = look(&[(2, Presence::Up)]).unwrap_err();
        assert!(
            said.contains("Lan") && said.contains("'tun'") && said.contains("no_interface_left"),
            "{said}"
        );
    }

    /// R0.2: with AF_XDP on both sides each interface stands for itself, and one that is left is enough.
    #[test]
    fn r0_2_one_interface_of_a_side_is_enough() {
        let attached = |side, name, index| hook(side, name, index, Hold::Pin);
        let hooks =
            [attached(Side::Wan, "wan0", 2), attached(Side::Wan, "wan1", 3), attached(Side::Lan, "lan0", 4)];
        let look = |there: &[u32]| {
            let mut ask = |index: u32| {
                io::Result::Ok(if there.contains(&index) { Presence::Up } else { Presence::Gone })
            };
            look_by(&hooks, None, &mut ask).map_err(|error| error.to_string())
        };
        assert_eq!(look(&[2, 3, 4]), Ok(false));
        assert_eq!(look(&[3, 4]), Ok(true));
        assert!(look(&[4]).unwrap_err().contains("Wan"));
        assert!(look(&[3]).unwrap_err().contains("'lan0'"));
    }
}
