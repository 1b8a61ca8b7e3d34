//! What thousands of mobile hosts go through by themselves: each walks from place to place and talks now and then; now
//! and then something befalls the gateway or a whole region. One entry of the agenda per host and kind: a host that does
//! nothing costs nothing.

mod profile;
mod walk;

pub use profile::Profile;

use super::agenda::{Actor, Happening};
use super::dice::Dice;
use super::faults::{Fault, picked};
use super::network::PathId;
use super::observer::Violation;
use super::{KeyKind, SERVER, Setup, Simulation, stream};
use jvpn_client::paths::UplinkId;
use jvpn_client::paths::candidates::CandidateSettings;
use jvpn_session::Policy;
use std::time::Duration;
use walk::{Stop, Walker};

/// Hosts are switched on within this time, and first talk within it.
const BEGIN_WITHIN: Duration = Duration::from_secs(10);
/// Uplinks of each host: Wi-Fi, cellular, and for every other one a second SIM.
const UPLINKS: u8 = 3;
/// Regions that can be cut off.
const REGIONS: u64 = 8;
/// Of how many datagrams whoever replays has kept one.
const TAPE_STEP: u64 = 16;
/// A process that died by itself is started again after this time.
const SUPERVISED_AFTER: Duration = Duration::from_millis(700);
/// The longest that one fault of a walk or a misfortune is planned ahead.
pub const AHEAD_MAX: Duration = Duration::from_secs(30);

const fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

/// The walks of a world.
pub(super) struct Churn {
    profile: Profile,
    walkers: Vec<Walker>,
    misfortunes: Dice,
    ended: bool,
}

impl Churn {
    pub(super) fn new(profile: Profile, setup: &Setup) -> Self {
        let walker = |client| {
            let dice = Dice::new(setup.seed, stream::WALKS + client as u64);
            Walker::new(client, setup.uplinks, dice)
        };
        Self {
            profile,
            walkers: (0..setup.clients).map(walker).collect(),
            misfortunes: Dice::new(setup.seed, stream::MISFORTUNES),
            ended: false,
        }
    }
}

/// The world of a seed: so many hosts that live like this.
#[must_use]
pub fn world(seed: u64, clients: usize, profile: Profile, keys: KeyKind) -> Setup {
    const STREAM: u64 = 8;
    let mut dice = Dice::new(seed, STREAM);
    let preset = Policy::preset(profile.preset).unwrap_or_default();
    let secs = Duration::from_secs;
    // In one world of four sessions are short-lived, so that every end is met.
    let policy = if dice.chance(250) {
        Policy { transport_loss_ttl: secs(45), recovery_window: secs(20), session_ttl: secs(240), ..preset }
    } else {
        preset
    };
    let hold = [10, 30][dice.below(2) as usize];
    Setup {
        seed,
        clients,
        uplinks: UPLINKS,
        workers: dice.below(2) as usize + 1,
        slots: clients as u32 * 5 / 4 + 64,
        policy,
        traffic_every: None,
        candidates: CandidateSettings { fail_back_hold: Some(secs(hold)), ..CandidateSettings::default() },
        keys,
        churn: Some(profile),
        ..Setup::default()
    }
}

impl Simulation {
    pub(super) fn begin_churn(&mut self) {
        let Some(churn) = &mut self.churn else { return };
        self.observer.trail.history = false;
        self.network.tape = Some(std::collections::VecDeque::new());
        self.network.tape_step = TAPE_STEP;
        for (client, walker) in churn.walkers.iter_mut().enumerate() {
            let on = walker.begins_after(BEGIN_WITHIN);
            let talks = walker.begins_after(BEGIN_WITHIN);
            self.agenda.put(self.now.after(on), Happening::Walk(client));
            self.agenda.put(self.now.after(on + talks), Happening::Talk(client, 0));
        }
        if let Some((least, most)) = churn.profile.misfortunes {
            let wait = churn.misfortunes.between(least, most);
            self.agenda.put(self.now.after(wait), Happening::Misfortune);
        }
    }

    /// In a world that lives by itself somebody starts a process again that died by itself.
    pub(super) fn supervise(&mut self) {
        if self.churn.is_some() {
            self.plan(SUPERVISED_AFTER, Fault::StartControlPlane);
        }
    }

    /// Everybody stays where he is, and nothing befalls the gateway any more. What is planned happens within
    /// [`AHEAD_MAX`].
    pub fn end_churn(&mut self) {
        if let Some(churn) = &mut self.churn {
            churn.ended = true;
        }
    }

    /// A host goes on to its next place.
    pub(super) fn walk(&mut self, client: usize) -> Result<(), Violation> {
        let Some(churn) = self.churn.as_mut().filter(|churn| !churn.ended) else { return Ok(()) };
        let Some(walker) = churn.walkers.get_mut(client) else { return Ok(()) };
        let Stop { faults, stay } = walker.next(&churn.profile);
        for (after, fault) in faults {
            if after.is_zero() {
                self.strike(fault)?;
            } else {
                self.plan(after, fault);
            }
        }
        self.agenda.put(self.now.after(stay), Happening::Walk(client));
        Ok(())
    }

    /// The application of a host says something, if the host is awake.
    pub(super) fn talk(&mut self, client: usize, left: u32) {
        let Some(churn) = self.churn.as_mut().filter(|churn| !churn.ended) else { return };
        let profile = churn.profile;
        let Some(walker) = churn.walkers.get_mut(client) else { return };
        let dice = walker.dice();
        let (least, most) = profile.packets;
        let left = if left == 0 { least + dice.below(u64::from(most - least) + 1) as u32 } else { left };
        let (least, most) = if left > 1 { profile.spacing } else { profile.silence };
        let at = self.now.after(dice.between(least, most));
        self.agenda.put(at, Happening::Talk(client, left - 1));
        let host = &mut self.clients[client];
        if !host.asleep {
            host.application_sends(SERVER);
            self.wake_soon(Actor::Client(client));
        }
    }

    /// Something befalls the gateway, or a region.
    pub(super) fn misfortune(&mut self) -> Result<(), Violation> {
        let Some(churn) = self.churn.as_mut().filter(|churn| !churn.ended) else { return Ok(()) };
        let Some((least, most)) = churn.profile.misfortunes else { return Ok(()) };
        let wait = churn.misfortunes.between(least, most);
        let mut dice = churn.misfortunes.clone();
        let outcome = self.befall(&mut dice);
        if let Some(churn) = &mut self.churn {
            churn.misfortunes = dice;
        }
        self.agenda.put(self.now.after(wait), Happening::Misfortune);
        outcome
    }

    fn befall(&mut self, dice: &mut Dice) -> Result<(), Violation> {
        let soon = dice.between(ms(30), ms(4_000));
        let brief = dice.between(ms(20), ms(800));
        let worker = dice.below(self.host.workers() as u64) as usize;
        match dice.below(24) {
            0..=3 => return self.cut_off(dice, REGIONS),
            4..=5 => return self.cut_off(dice, 1),
            6..=7 => {
                self.strike(Fault::KillDataPlane)?;
                self.plan(soon, Fault::StartDataPlane);
            }
            8..=9 => {
                self.strike(Fault::KillControlPlane)?;
                self.plan(soon, Fault::StartControlPlane);
            }
            10..=11 => {
                self.strike(Fault::KillControlPlaneAfter(dice.below(60) as u32))?;
                self.plan(soon, Fault::StartControlPlane);
                self.plan(soon + ms(3_000), Fault::StartControlPlane);
            }
            12 => {
                self.strike(Fault::KillControlPlane)?;
                self.strike(Fault::KillDataPlane)?;
                self.plan(soon, Fault::StartDataPlane);
                self.plan(soon + brief, Fault::StartControlPlane);
            }
            13 => self.stall(Actor::Control, brief * 2),
            14 => self.stall(Actor::Worker(worker), brief),
            15 => self.stall(Actor::Installer, brief),
            16..=17 => {
                let client = dice.below(self.clients() as u64) as usize;
                self.strike(Fault::Terminate(client))?;
            }
            18..=19 => self.strike(Fault::Replay(dice.below(60) as u32 + 4))?,
            // What was held arrives when its binding may be long gone.
            fate => {
                let client = dice.below(self.clients() as u64) as usize;
                let path = PathId { client, uplink: UplinkId(dice.below(2) as u8) };
                let kind = picked(dice);
                self.strike(if fate < 22 { Fault::Hold(path) } else { Fault::LoseType(path, kind) })?;
                self.plan(soon * 2, Fault::Release);
            }
        }
        Ok(())
    }

    /// One of so many regions is cut off, over one uplink or over all, and comes back at once.
    fn cut_off(&mut self, dice: &mut Dice, regions: u64) -> Result<(), Violation> {
        let region = dice.below(regions) as usize;
        let span = dice.between(ms(300), ms(25_000));
        let over_all = dice.chance(500);
        let only = dice.below(u64::from(UPLINKS)) as u8;
        for path in self.network.ids().collect::<Vec<_>>() {
            let meant = path.client % regions as usize == region && (over_all || path.uplink.0 == only);
            if meant {
                self.strike(Fault::Partition(path, span))?;
            }
        }
        Ok(())
    }
}
