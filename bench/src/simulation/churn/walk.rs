//! A host's walk from place to place, as the faults that make each.

use super::super::dice::Dice;
use super::super::faults::Fault;
use super::super::network::{Burst, Flow, Heading, PathId, Weather};
use super::profile::Profile;
use jvpn_client::paths::UplinkId;
use std::time::Duration;

/// The uplinks of a host.
const WIFI: u8 = 0;
const CELLULAR: u8 = 1;
const SECOND_SIM: u8 = 2;

const fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

/// Where a host can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Wi-Fi and cellular, both good.
    Home,
    /// Cellular; the Wi-Fi fades and is gone.
    Street,
    /// Wi-Fi that just about works: bursts of loss, reordering, duplicates, worse one way than the other.
    Fringe,
    /// Another Wi-Fi: another address, another NAT.
    NextDoor,
    /// Cellular with changing distance; the NAT rebinds, the address changes.
    Train,
    /// Nothing at all.
    DeadSpot,
    /// One direction of what is there is a black hole.
    OneWay,
    /// The host sleeps; the NAT forgets it; its wall clock may be wrong afterwards.
    Pocket,
}

/// One host's walk.
pub(super) struct Walker {
    client: usize,
    uplinks: u8,
    dice: Dice,
    up: [bool; 3],
    /// Its wall clock was ahead: a process that starts anew would not know how far.
    was_ahead: bool,
}

/// What happens at the next place, and how long the host stays there.
pub(super) struct Stop {
    pub(super) faults: Vec<(Duration, Fault)>,
    pub(super) stay: Duration,
}

impl Walker {
    pub(super) fn new(client: usize, uplinks: u8, dice: Dice) -> Self {
        Self { client, uplinks, dice, up: [false; 3], was_ahead: false }
    }

    /// How long until the host is switched on.
    pub(super) fn begins_after(&mut self, within: Duration) -> Duration {
        self.dice.between(Duration::ZERO, within)
    }

    pub(super) const fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    /// Goes to the next place.
    pub(super) fn next(&mut self, profile: &Profile) -> Stop {
        let mut faults = Vec::new();
        let stay = self.dice.between(profile.stay.0, profile.stay.1);
        if !self.up[usize::from(CELLULAR)] {
            self.plug(CELLULAR, Duration::ZERO, &mut faults);
        }
        // Every other host has a second SIM, in and out of reach.
        if self.uplinks > SECOND_SIM && self.client.is_multiple_of(2) && self.dice.chance(300) {
            if self.up[usize::from(SECOND_SIM)] {
                self.unplug(SECOND_SIM, Duration::ZERO, &mut faults);
            } else {
                self.plug(SECOND_SIM, Duration::ZERO, &mut faults);
            }
        }
        faults.push((Duration::ZERO, Fault::WallClock(self.client, 0)));
        match self.choose(profile) {
            Place::Home => self.home(&mut faults),
            Place::Street => self.street(&mut faults),
            Place::Fringe => self.fringe(&mut faults),
            Place::NextDoor => self.next_door(&mut faults),
            Place::Train => self.train(stay, &mut faults),
            Place::DeadSpot => self.dead_spot(stay, &mut faults),
            Place::OneWay => self.one_way(&mut faults),
            Place::Pocket => self.pocket(stay, &mut faults),
        }
        if !self.was_ahead && self.dice.below(u64::from(profile.restart_in)) == 0 {
            faults.push((Duration::ZERO, Fault::RestartClient(self.client)));
        }
        Stop { faults, stay }
    }

    fn choose(&mut self, profile: &Profile) -> Place {
        let all: u32 = profile.places.iter().map(|(_, weight)| weight).sum();
        let mut pick = self.dice.below(u64::from(all)) as u32;
        for (place, weight) in profile.places {
            match pick.checked_sub(*weight) {
                Some(rest) => pick = rest,
                None => return *place,
            }
        }
        Place::Home
    }

    const fn path(&self, uplink: u8) -> PathId {
        PathId { client: self.client, uplink: UplinkId(uplink) }
    }

    fn home(&mut self, faults: &mut Vec<(Duration, Fault)>) {
        if !self.up[usize::from(WIFI)] {
            self.plug(WIFI, Duration::ZERO, faults);
        }
        let (up, down) = (self.good_wifi(), self.good_wifi());
        faults.push((Duration::ZERO, Fault::Weather(self.path(WIFI), up, down)));
        self.good_cellular(faults);
    }

    fn street(&mut self, faults: &mut Vec<(Duration, Fault)>) {
        self.good_cellular(faults);
        if self.up[usize::from(WIFI)] {
            let fading = Weather { loss_per_mille: 300, ..self.bursts(200, 80, 900) };
            faults.push((Duration::ZERO, Fault::Weather(self.path(WIFI), fading, fading)));
            let gone = self.dice.between(ms(200), ms(3_000));
            self.unplug(WIFI, gone, faults);
        }
    }

    fn fringe(&mut self, faults: &mut Vec<(Duration, Fault)>) {
        if !self.up[usize::from(WIFI)] {
            self.plug(WIFI, Duration::ZERO, faults);
        }
        let up = Weather {
            loss_per_mille: [10, 50, 150][self.dice.below(3) as usize],
            reorder_per_mille: 60,
            duplicate_per_mille: 20,
            ..self.bursts(60, 250, 800)
        };
        let down = self.bursts(20, 300, 700);
        faults.push((Duration::ZERO, Fault::Weather(self.path(WIFI), up, down)));
        self.good_cellular(faults);
    }

    fn next_door(&mut self, faults: &mut Vec<(Duration, Fault)>) {
        self.plug(WIFI, Duration::ZERO, faults);
        let (up, down) = (self.good_wifi(), self.good_wifi());
        faults.push((Duration::ZERO, Fault::Weather(self.path(WIFI), up, down)));
        self.good_cellular(faults);
    }

    fn train(&mut self, stay: Duration, faults: &mut Vec<(Duration, Fault)>) {
        if self.up[usize::from(WIFI)] {
            self.unplug(WIFI, Duration::ZERO, faults);
        }
        let legs = self.dice.below(3) as u32 + 1;
        for leg in 0..legs {
            let at = stay.min(ms(30_000)) / legs * leg;
            let far = self.dice.between(ms(25), ms(350));
            let weather = Weather { delay: far, jitter: far / 3, ..self.bursts(15, 200, 900) };
            faults.push((at, Fault::Weather(self.path(CELLULAR), weather, weather)));
            match self.dice.below(3) {
                0 => faults.push((at, Fault::Rebind(self.path(CELLULAR)))),
                1 => self.plug(CELLULAR, at, faults),
                _ => {}
            }
        }
    }

    fn dead_spot(&mut self, stay: Duration, faults: &mut Vec<(Duration, Fault)>) {
        let span = self.dice.between(ms(800), ms(40_000)).min(stay);
        for uplink in 0..self.uplinks {
            faults.push((Duration::ZERO, Fault::Partition(self.path(uplink), span)));
        }
        self.good_cellular(faults);
    }

    fn one_way(&mut self, faults: &mut Vec<(Duration, Fault)>) {
        self.good_cellular(faults);
        let heading = if self.dice.chance(500) { Heading::Up } else { Heading::Down };
        let uplink = if self.up[usize::from(WIFI)] { WIFI } else { CELLULAR };
        faults.push((Duration::ZERO, Fault::Cut(self.path(uplink), heading)));
        let back = self.dice.between(ms(500), ms(9_000));
        faults.push((back, Fault::Heal(self.path(uplink))));
    }

    fn pocket(&mut self, stay: Duration, faults: &mut Vec<(Duration, Fault)>) {
        let span = self.dice.between(ms(2_000), stay.max(ms(2_001)));
        faults.push((Duration::ZERO, Fault::Sleep(self.client, span)));
        if self.dice.chance(700) {
            for uplink in 0..self.uplinks {
                faults.push((Duration::ZERO, Fault::Rebind(self.path(uplink))));
            }
        }
        if self.dice.chance(250) {
            let off = self.dice.below(1_200) as i64 - 600;
            self.was_ahead |= off > 0;
            faults.push((Duration::ZERO, Fault::WallClock(self.client, off)));
        }
    }

    /// The link comes up, or is another one from now on.
    fn plug(&mut self, uplink: u8, at: Duration, faults: &mut Vec<(Duration, Fault)>) {
        self.up[usize::from(uplink)] = true;
        let address = self.dice.below(240) as u8 + 10;
        faults.push((at, Fault::LinkUp(self.path(uplink), address)));
    }

    fn unplug(&mut self, uplink: u8, at: Duration, faults: &mut Vec<(Duration, Fault)>) {
        self.up[usize::from(uplink)] = false;
        let news_after = self.dice.between(ms(1), ms(1_200));
        faults.push((at, Fault::LinkDown(self.path(uplink), news_after)));
    }

    fn good_wifi(&mut self) -> Weather {
        Weather {
            delay: self.dice.between(ms(4), ms(18)),
            jitter: self.dice.between(ms(0), ms(4)),
            ..Weather::default()
        }
    }

    fn good_cellular(&mut self, faults: &mut Vec<(Duration, Fault)>) {
        let mut way = || Weather {
            delay: self.dice.between(ms(20), ms(60)),
            jitter: self.dice.between(ms(1), ms(15)),
            loss_per_mille: 2,
            ..Weather::default()
        };
        let (up, down) = (way(), way());
        for uplink in CELLULAR..self.uplinks {
            faults.push((Duration::ZERO, Fault::Weather(self.path(uplink), up, down)));
        }
    }

    fn bursts(&mut self, enter: u32, leave: u32, loss: u32) -> Weather {
        Weather {
            flow: Flow::Open,
            burst: Some(Burst { enter_per_mille: enter, leave_per_mille: leave, loss_per_mille: loss }),
            delay: self.dice.between(ms(6), ms(40)),
            jitter: self.dice.between(ms(1), ms(30)),
            ..Weather::default()
        }
    }
}
