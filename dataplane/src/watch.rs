//! Looks after the interfaces while the data plane runs: one that goes away must not take the others with it, and must not
//! go unnoticed.

use crate::attach::Side;
use crate::hook::Hook;
use crate::netlink::Netlink;
use crate::port::Presence;
use anyhow::{Result, bail};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// The main thread's ear at rtnetlink.
#[derive(Debug)]
pub struct Watch {
    listen: Netlink,
    ask: Netlink,
}

impl Watch {
    /// Begins to listen.
    ///
    /// # Errors
    /// If rtnetlink cannot be reached.
    pub fn new() -> io::Result<Self> {
        Ok(Self { listen: Netlink::listening()?, ask: Netlink::new()? })
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

    /// The state of an interface; where frames have a VLAN, the worse of it and the VLAN's device.
    fn presence(&mut self, hook: &Hook) -> io::Result<Presence> {
        let (own, kernel) = (hook.link.index, hook.kernel.index);
        let itself = self.presence_of(own)?;
        if own == kernel { Ok(itself) } else { Ok(itself.worse(self.presence_of(kernel)?)) }
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
