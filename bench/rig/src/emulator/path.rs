//! A path: two lanes, a NAT in front of the client, and what changes of them, by script and by hand.
//!
//! # Contract
//! After [`Path::handle_frame`] and [`Path::handle_timeout`] ask [`Path::poll_frame`] until it is empty, then
//! [`Path::poll_timeout`] for the moment of the next [`Path::handle_timeout`]. Moments count from the path's beginning
//! and never go back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::lane::{Held, Lane, LaneCounters};
use super::nat::{Nat, NatCounters, Passage};
use super::packet;
use super::profile::{Change, LanePatch, LaneSettings, MtuAnswer, Profile};

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client.
    Up,
    /// To the client.
    Down,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Up, Self::Down];

    const fn index(self) -> usize {
        match self {
            Self::Up => 0,
            Self::Down => 1,
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }
}

/// What became of the frames of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathCounters {
    /// From the client.
    pub up: LaneCounters,
    /// To the client.
    pub down: LaneCounters,
    /// The NAT, if there is one.
    pub nat: Option<NatCounters>,
}

/// What is done by hand, above profile and script.
#[derive(Clone, Debug, Default)]
struct ByHand {
    patches: [LanePatch; 2],
    link_down: bool,
}

/// The path.
#[derive(Debug)]
pub struct Path {
    profile: Profile,
    lanes: [Lane; 2],
    nat: Option<Nat>,
    by_hand: ByHand,
    link_down: bool,
    /// The script is so far ahead of the path's own time.
    ahead: Duration,
    /// Up to here the script has been followed.
    at: Option<Duration>,
    next_change: Option<Duration>,
}

impl Path {
    /// A path like `profile`; all chance follows from `seed`.
    #[must_use]
    pub fn new(profile: &Profile, seed: u64) -> Self {
        Self::ahead(profile, seed, Duration::ZERO)
    }

    /// The same, its script a third of a round ahead: two paths of one client that were struck at the same moments would be no
    /// two paths. A script that does not repeat begins at its beginning.
    #[must_use]
    pub fn a_third_ahead(profile: &Profile, seed: u64) -> Self {
        Self::ahead(profile, seed, profile.repeat.unwrap_or_default() / 3)
    }

    fn ahead(profile: &Profile, seed: u64, ahead: Duration) -> Self {
        // Two lanes must not draw the same numbers.
        let lane = |settings: &LaneSettings, number: u64| {
            Lane::new(settings.clone(), seed.wrapping_mul(2).wrapping_add(number))
        };
        let mut path = Self {
            lanes: [lane(&profile.up, 0), lane(&profile.down, 1)],
            nat: profile.nat.as_ref().map(|settings| Nat::new(settings.clone(), seed)),
            profile: profile.clone(),
            by_hand: ByHand::default(),
            link_down: false,
            ahead,
            at: None,
            next_change: None,
        };
        path.handle_timeout(Duration::ZERO);
        path
    }

    /// A frame that was sent into the path, `direction` saying by whom.
    pub fn handle_frame(&mut self, now: Duration, direction: Direction, mut frame: Vec<u8>) {
        self.handle_timeout(now);
        let lane = &mut self.lanes[direction.index()];
        if self.link_down {
            return;
        }
        if !packet::is_ip(&frame) {
            return lane.pass(now, frame);
        }
        let settings = lane.settings();
        if let Some(mtu) = settings.mtu.filter(|mtu| packet::ip_len(&frame) > usize::from(*mtu)) {
            let answer = settings.mtu_answer;
            lane.count_too_big();
            if answer == MtuAnswer::Icmp
                && let Some(back) = packet::too_big(&frame, mtu)
            {
                self.lanes[direction.other().index()].pass(now, back);
            }
            return;
        }
        // Outward the NAT is the first hop, so what it dropped never loads the path; inward it is the last.
        if let (Direction::Up, Some(nat)) = (direction, &mut self.nat) {
            nat.outward(now, &mut frame);
        }
        lane.offer(now, frame);
    }

    /// The script may go on.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.at.is_some() && self.next_change.is_none_or(|next| now < next) {
            return;
        }
        self.forget_if_due(now);
        self.at = Some(now);
        self.refresh(now);
    }

    /// A frame that arrives at the end of the lane `direction`, and when it was due.
    pub fn poll_frame(&mut self, now: Duration) -> Option<(Direction, Duration, Vec<u8>)> {
        if let Some((due, frame)) = self.lanes[0].poll(now) {
            return Some((Direction::Up, due, frame));
        }
        while let Some((due, mut frame)) = self.lanes[1].poll(now) {
            let passage = self.nat.as_mut().map_or(Passage::Passes, |nat| nat.inward(now, &mut frame));
            if passage == Passage::Passes {
                return Some((Direction::Down, due, frame));
            }
        }
        None
    }

    /// When something is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let frames = self.lanes.iter().filter_map(Lane::next_due).min();
        frames.into_iter().chain(self.next_change).min()
    }

    /// Whether there is no carrier.
    #[must_use]
    pub const fn is_link_down(&self) -> bool {
        self.link_down
    }

    /// What became of its frames.
    #[must_use]
    pub fn counters(&self) -> PathCounters {
        let [up, down] = [&self.lanes[0], &self.lanes[1]].map(Lane::counters);
        PathCounters { up, down, nat: self.nat.as_ref().map(Nat::counters) }
    }

    /// Changes one direction by hand; it takes the place of what was changed by hand before.
    pub fn change(&mut self, now: Duration, direction: Direction, patch: LanePatch) {
        self.by_hand.patches[direction.index()] = patch;
        self.refresh(now);
    }

    /// Takes the link down or up by hand.
    pub fn set_link_down(&mut self, now: Duration, down: bool) {
        self.by_hand.link_down = down;
        self.refresh(now);
    }

    /// The NAT forgets. Nothing where there is none.
    pub fn rebind_nat(&mut self) {
        if let Some(nat) = &mut self.nat {
            nat.rebind();
        }
    }

    /// Keeps up to `limit` frames that a blackhole takes in this direction.
    pub fn hold(&mut self, direction: Direction, limit: usize) {
        self.lanes[direction.index()].hold(limit);
    }

    /// Lets the frames go that were kept, as if they had only been slow; gives their lengths.
    pub fn release(&mut self, now: Duration, direction: Direction) -> Vec<usize> {
        let lane = &mut self.lanes[direction.index()];
        let Held(frames) = lane.take_held();
        let lengths = frames.iter().map(Vec::len).collect();
        let due = now + lane.settings().delay;
        frames.into_iter().for_each(|frame| lane.pass(due, frame));
        lengths
    }

    fn refresh(&mut self, now: Duration) {
        let script = Script { profile: &self.profile };
        let mut settings = [self.profile.up.clone(), self.profile.down.clone()];
        let mut link_down = self.by_hand.link_down;
        for change in script.active(now + self.ahead) {
            settings[0].apply(&change.up);
            settings[1].apply(&change.down);
            link_down |= change.link_down;
        }
        for (settings, patch) in settings.iter_mut().zip(&self.by_hand.patches) {
            settings.apply(patch);
        }
        for (lane, settings) in self.lanes.iter_mut().zip(settings) {
            lane.set(settings);
            if link_down && !self.link_down {
                lane.flush();
            }
        }
        self.link_down = link_down;
        self.next_change = script.next_edge(now + self.ahead).map(|edge| edge.saturating_sub(self.ahead));
    }

    fn forget_if_due(&mut self, now: Duration) {
        let script = Script { profile: &self.profile };
        let rebinds = self.profile.changes.iter().filter(|change| change.rebind_nat);
        let since = self.at.map(|at| at + self.ahead);
        if rebinds.into_iter().any(|change| script.began(change, since, now + self.ahead)) {
            self.rebind_nat();
        }
    }
}

/// When the changes of a profile hold.
struct Script<'a> {
    profile: &'a Profile,
}

impl<'a> Script<'a> {
    /// The moment within the script.
    fn phase(&self, now: Duration) -> Duration {
        match self.profile.repeat.map(|repeat| repeat.as_nanos()).filter(|repeat| *repeat > 0) {
            Some(repeat) => Duration::from_nanos(u64::try_from(now.as_nanos() % repeat).unwrap_or_default()),
            None => now,
        }
    }

    fn active(&self, now: Duration) -> impl Iterator<Item = &'a Change> + use<'a> {
        let phase = self.phase(now);
        self.profile.changes.iter().filter(move |change| {
            let ends = change.lasts.map(|lasts| change.after + lasts);
            change.after <= phase && ends.is_none_or(|ends| phase < ends)
        })
    }

    /// Whether a change has begun after `since`, up to `now`.
    fn began(&self, change: &Change, since: Option<Duration>, now: Duration) -> bool {
        let Some(since) = since else { return change.after.is_zero() };
        let round = self.profile.repeat;
        let count = |moment: Duration| match round.map(|round| round.as_nanos()).filter(|round| *round > 0) {
            Some(round) => (moment.as_nanos() + round).saturating_sub(change.after.as_nanos()) / round,
            None => u128::from(moment >= change.after),
        };
        count(now) > count(since)
    }

    /// When a change begins or ends next.
    fn next_edge(&self, now: Duration) -> Option<Duration> {
        let phase = self.phase(now);
        let edges = self
            .profile
            .changes
            .iter()
            .flat_map(|change| [Some(change.after), change.lasts.map(|lasts| change.after + lasts)])
            .flatten()
            // What would go on beyond the end of the script ends with it.
            .chain(self.profile.repeat);
        edges.filter(|edge| *edge > phase).min().map(|edge| now - phase + edge)
    }
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "built_in_tests.rs"]
mod built_in_tests;
