//! What an incident does to a path, whoever's tunnel goes over it: ours and the peers' are struck by the same script.

use std::time::Duration;

use anyhow::Result;
use jvpn_rig::Namespace;
use jvpn_rig::emulator::{Direction, LanePatch, Relay, Share};
use jvpn_rig::tool::IP;

use super::cause::Cause;
use crate::peers::probes::unix_ns;

/// Share and length of a loss spike.
const SPIKE_PERCENT: f64 = 30.0;
const SPIKE: Duration = Duration::from_secs(3);
/// A flapping link: so often down and up, so long each.
const FLAPS: u32 = 5;
const FLAP: Duration = Duration::from_millis(300);

/// A bound path and the host at its end.
pub(super) trait Struck {
    /// The path's emulator.
    fn path(&self) -> &Relay;

    /// The link loses its carrier or gets it back, and the host does what it does then.
    ///
    /// # Errors
    /// The host cannot.
    fn set_link_down(&mut self, down: bool) -> Result<()>;

    /// The host's only uplink gets another address, and with it its route back. Gives the last moment at which the host
    /// had done nothing yet: what it needs to begin is ready by then.
    ///
    /// # Errors
    /// The host cannot.
    fn change_address(&mut self) -> Result<Begun>;

    /// Time passes.
    ///
    /// # Errors
    /// Interrupted.
    fn sleep(&self, time: Duration) -> Result<()>;
}

/// When an incident began: the last moment at which nothing had been done yet.
///
/// Whatever ends after it counts, so that no silence is left out because the bench was slow to notice that it had struck.
/// In between lies how long the bench takes to strike, which makes detection longer than it was, never shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begun {
    /// Unix ns, as probes count.
    pub(super) unix_ns: u64,
    /// Ns since boot, as the client's timeline counts.
    pub(super) boot_ns: u64,
}

/// Runs `ip` with such a batch in a namespace, and gives the last moment before the first line of it: `ip` has come up by
/// then.
///
/// # Errors
/// As `ip` says.
pub(super) fn struck_by_ip(namespace: &Namespace, batch: &str) -> Result<Begun> {
    let ip = IP.ready(Some(namespace), &["-batch", "-"], "link show dev lo\n")?;
    let begun = Begun::now();
    ip.finish(batch)?;
    Ok(begun)
}

impl Begun {
    pub(super) fn now() -> Self {
        let boot_ns = jvpn_host::clock::now().0;
        Self { unix_ns: unix_ns(), boot_ns }
    }
}

/// Which direction dies: by turns.
const fn dead_direction(incident: u32) -> Direction {
    Direction::BOTH[(incident % 2) as usize]
}

/// How long [`strike`] takes.
pub(super) fn length(cause: Cause) -> Duration {
    match cause {
        Cause::LossSpike => SPIKE,
        Cause::Flapping => 2 * FLAPS * FLAP,
        Cause::SilentBlackhole
        | Cause::LinkDown
        | Cause::NatRebinding
        | Cause::AddressChange
        | Cause::OneDirectionDead
        | Cause::ControlPlaneKill
        | Cause::DataPlaneKill => Duration::ZERO,
    }
}

/// Does what a path and its host can do, and gives when it began; a spike and a flapping link are over then. What strikes
/// the gateway is the caller's.
///
/// # Errors
/// The host cannot do its part, or interrupted.
pub(super) fn strike(struck: &mut dyn Struck, cause: Cause, incident: u32) -> Result<Begun> {
    let begun = Begun::now();
    match cause {
        Cause::SilentBlackhole => struck.path().change_both(&LanePatch::blackhole()),
        Cause::OneDirectionDead => struck.path().change(dead_direction(incident), LanePatch::blackhole()),
        Cause::LinkDown => struck.set_link_down(true)?,
        Cause::NatRebinding => struck.path().rebind_nat(),
        Cause::LossSpike => {
            let loss = Share::from_percent(SPIKE_PERCENT).unwrap_or_default();
            struck.path().change_both(&LanePatch::loss(loss));
            struck.sleep(SPIKE)?;
            struck.path().change_both(&LanePatch::default());
        }
        Cause::Flapping => {
            for down in [true, false].into_iter().cycle().take(2 * FLAPS as usize) {
                struck.set_link_down(down)?;
                struck.sleep(FLAP)?;
            }
        }
        Cause::AddressChange => return struck.change_address(),
        Cause::ControlPlaneKill | Cause::DataPlaneKill => {}
    }
    Ok(begun)
}

#[cfg(test)]
mod tests {
    use super::super::measure;
    use super::*;
    use crate::peers::probes::Arrival;
    use crate::peers::streams::LaneRecord;

    const MS: u64 = 1_000_000;

    /// A host whose traffic flows again before whoever changes its address knows that it has: its arrivals.
    #[derive(Default)]
    struct QuickHost(Vec<u64>);

    impl Struck for QuickHost {
        fn path(&self) -> &Relay {
            unreachable!("an address is the host's")
        }

        fn set_link_down(&mut self, _: bool) -> Result<()> {
            unreachable!("no link is struck")
        }

        fn change_address(&mut self) -> Result<Begun> {
            let begun = Begun::now();
            let asked = unix_ns();
            // Silent for 6 ms, of which 1 ms is behind the change's beginning; then a probe each millisecond.
            self.0 =
                [asked - 6 * MS, asked - 5 * MS].into_iter().chain((1..30).map(|n| asked + n * MS)).collect();
            while unix_ns() < asked + 3 * MS {
                std::hint::spin_loop();
            }
            Ok(begun)
        }

        fn sleep(&self, _: Duration) -> Result<()> {
            Ok(())
        }
    }

    /// R8.1: a silence that was over before the program that changed the address had ended counts, and whole: from the
    /// last probe before the change to the first after it.
    #[test]
    fn r8_1_an_outage_that_is_over_before_the_change_is_done_counts() {
        let mut host = QuickHost::default();
        let begun = strike(&mut host, Cause::AddressChange, 1).unwrap();
        let arrival = |(at, sequence): (&u64, u64)| Arrival { sequence, sent_ns: *at, arrived_ns: *at };
        let arrivals = host.0.iter().zip(0..).map(arrival).collect();
        let record = LaneRecord { first: 0, sent_ns: host.0.clone(), arrivals };
        assert_eq!(measure::lane(&record, begun.unix_ns).outage_ms, 6.0);
    }

    /// R8.1: both directions die, by turns; what lasts is known to whoever waits for it.
    #[test]
    fn r8_1_directions_die_by_turns_and_lengths_are_known() {
        assert_ne!(dead_direction(1), dead_direction(2));
        assert_eq!(dead_direction(1), dead_direction(3));
        assert_eq!(length(Cause::LossSpike), Duration::from_secs(3));
        assert_eq!(length(Cause::Flapping), Duration::from_secs(3));
        assert_eq!(length(Cause::LinkDown), Duration::ZERO);
    }
}
