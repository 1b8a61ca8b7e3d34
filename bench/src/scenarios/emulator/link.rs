//! A link that goes down: what is on its way is lost, the client's interface loses its carrier, nothing passes, and all
//! comes back with the link.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jvpn_rig::Uplink;
use jvpn_rig::emulator::{Direction, LanePatch};
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;

use super::ends::word;
use super::{Check, Lab, Volley};
use crate::peers::probes::unix_ns;

/// Probes of each part.
const PROBES: u64 = 100;
/// Longer than the sending of all of them takes, on a busy machine too.
const DELAY: Duration = Duration::from_millis(250);
/// How long the kernel may take to tell of a carrier, ms: it does so from a queue of work.
const TOLD_MS: f64 = 100.0;
const BECAUSE_TOLD: &str = "the kernel tells from a queue of work";

pub(super) fn measure(lab: &Lab<'_>) -> Result<Vec<Check>> {
    let relay = lab.relay();
    let mut checks = Vec::new();
    relay.change_both(&LanePatch { delay: Some(DELAY), ..LanePatch::default() });
    let mut sent = [0, 0];
    for sequence in 0..PROBES {
        for (way, sent) in Direction::BOTH.into_iter().zip(&mut sent) {
            *sent += u64::from(lab.ends.send(way, sequence));
        }
    }
    relay.set_link_down(true);
    checks.push(told(lab, "link down, carrier lost", false)?);
    thread::sleep(2 * DELAY);
    relay.change_both(&LanePatch::default());
    for (way, sent) in Direction::BOTH.into_iter().zip(sent) {
        let name = format!("link down, frames on their way {}", word(way));
        let arrived = lab.ends.arrived(way) as f64;
        checks.push(Check::same(name, "frames", (0.0, arrived), usize::try_from(sent)?));
    }
    let volley = Volley::new(PROBES, Duration::from_micros(200));
    for (way, seen) in lab.fire_same(&LanePatch::default(), volley)? {
        let name = format!("link down, later frames {}", word(way));
        checks.push(Check::same(name, "frames", (0.0, seen.arrived()), usize::try_from(PROBES)?));
    }
    relay.set_link_down(false);
    checks.push(told(lab, "link up again, carrier back", true)?);
    // The client's kernel has asked for its next hop in vain, and asks again after a second. It kept what was sent before.
    let (since, volley) = (unix_ns(), Volley { wait: Duration::from_millis(1_300), ..volley });
    for (way, seen) in lab.fire_same(&LanePatch::default(), volley)? {
        let arrived = seen.arrivals.iter().filter(|arrival| arrival.sent_ns >= since).count() as f64;
        let name = format!("link up again, frames {}", word(way));
        checks.push(Check::same(name, "frames", (PROBES as f64, arrived), usize::try_from(PROBES)?));
    }
    Ok(checks)
}

/// How long it takes until the client's interface is told of its carrier.
fn told(lab: &Lab<'_>, name: &str, wanted: bool) -> Result<Check> {
    let start = Instant::now();
    let mut looks = 0;
    let measured = loop {
        looks += 1;
        let (running, waited) = (is_running(lab)?, start.elapsed().as_secs_f64() * 1e3);
        // Beyond that it fails whatever comes.
        if running == wanted || waited > 10.0 * TOLD_MS {
            break waited;
        }
        lab.interrupt.check()?;
        thread::sleep(Duration::from_millis(1));
    };
    Ok(Check::near(name, "ms", (0.0, measured), (TOLD_MS, BECAUSE_TOLD), looks))
}

/// What programs of the client see of the interface.
fn is_running(lab: &Lab<'_>) -> Result<bool> {
    let name = Uplink::A.client_interface();
    let look = || {
        let is_it = |one: &InterfaceAddress| one.interface_name == name;
        let mut all = getifaddrs()?.filter(is_it);
        Ok::<_, nix::Error>(all.any(|one| one.flags.contains(InterfaceFlags::IFF_RUNNING)))
    };
    lab.plain.client().run(look)?.context("the kernel does not list the client's interfaces")
}
