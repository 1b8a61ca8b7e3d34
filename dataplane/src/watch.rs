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
        let (listen, ask) = (Netlink::listening()?, Netlink::new()?);
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

    /// Looks at every interface and notes its state. Returns whether one has another than before.
    ///
    /// # Errors
    /// If a side has no interface left: nothing can be forwarded until somebody brings one back.
    pub fn look(&mut self, hooks: &[Hook]) -> Result<bool> {
        self.note_mtus(hooks);
        let mut changed = false;
        for hook in hooks.iter().filter(|hook| hook.is_attached()) {
            let now = match self.presence(hook) {
                Ok(now) => now,
                Err(error) => {
                    tracing::debug!(interface = %hook.interface, %error, "cannot look at an interface");
                    continue;
                }
            };
            let before = hook.watched.set(now);
            if before != now {
                changed = true;
                say(hook, now);
            }
        }
        none_left(hooks)?;
        Ok(changed)
    }

    /// Looks for the host's end of the LAN, which may have no program.
    ///
    /// # Errors
    /// If it is gone: the LAN is.
    pub fn look_for(&mut self, device: u32) -> Result<()> {
        if matches!(self.presence_of(device), Ok(Presence::Gone)) {
            bail!(
                "the host's end of the LAN was deleted or moved: nothing can be forwarded (reason no_interface_left); start again"
            );
        }
        Ok(())
    }

    /// The state of an interface; where frames have a VLAN, the worse of it and the VLAN's device.
    fn presence(&mut self, hook: &Hook) -> io::Result<Presence> {
        let (own, kernel) = (hook.link.index, hook.kernel.index);
        let itself = self.presence_of(own)?;
        if own == kernel { Ok(itself) } else { Ok(itself.worse(self.presence_of(kernel)?)) }
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

    fn presence_of(&mut self, index: u32) -> io::Result<Presence> {
        Ok(match self.ask.is_up(index)? {
            Some(true) => Presence::Up,
            Some(false) => Presence::Down,
            None => Presence::Gone,
        })
    }
}

fn say(hook: &Hook, now: Presence) {
    let (side, interface) = (hook.side, &hook.interface);
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
fn none_left(hooks: &[Hook]) -> Result<()> {
    for side in [Side::Wan, Side::Lan] {
        let mut ours = hooks.iter().filter(|hook| hook.side == side && hook.is_attached()).peekable();
        if ours.peek().is_some() && ours.all(|hook| hook.watched.presence() == Presence::Gone) {
            bail!(
                "no interface of the {side:?} side is left: nothing can be forwarded (reason no_interface_left); bring one back and start again"
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
