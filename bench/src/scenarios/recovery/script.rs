//! What an incident does to a path, whoever's tunnel goes over it: ours and the peers' are struck by the same script.

use std::time::Duration;

use anyhow::Result;
use jvpn_rig::emulator::{Direction, LanePatch, Relay, Share};

use super::cause::Cause;

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

    /// Time passes.
    ///
    /// # Errors
    /// Interrupted.
    fn sleep(&self, time: Duration) -> Result<()>;
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

/// Does what a path can do; a spike and a flapping link are over then. What strikes a host or the gateway is the caller's.
///
/// # Errors
/// The host cannot do its part, or interrupted.
pub(super) fn strike(struck: &mut dyn Struck, cause: Cause, incident: u32) -> Result<()> {
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
        Cause::AddressChange | Cause::ControlPlaneKill | Cause::DataPlaneKill => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
