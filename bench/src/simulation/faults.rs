//! What can go wrong, one by one and in random schedules.

use super::agenda::{Actor, Happening};
use super::client::ATTACKER;
use super::dice::Dice;
use super::network::{Fate, Flow, Heading, PathId, Sight, Weather};
use super::observer::Violation;
use super::{Restart, Setup, Simulation};
use jvpn_abi::wire::{MsgType, Suite};
use jvpn_client::paths::candidates::CandidateSettings;
use jvpn_client::paths::{LinkState, UplinkId};
use jvpn_controlplane::engine::AdminCommand;
use jvpn_session::Policy;
use std::time::Duration;

/// One thing that happens to the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A direction of a path becomes a black hole.
    Cut(PathId, Heading),
    /// Both directions of a path do.
    CutBoth(PathId),
    /// A path has this weather, each way.
    Weather(PathId, Weather, Weather),
    /// A path is good again.
    Heal(PathId),
    /// A link loses its carrier; the host says so after this long.
    LinkDown(PathId, Duration),
    /// A link is back, with this last octet of its address.
    LinkUp(PathId, u8),
    /// The NAT in front of a path shows another port.
    Rebind(PathId),
    /// An actor stands still.
    Stall(Actor, Duration),
    /// A client's host is suspended: nothing runs, nothing arrives.
    Sleep(usize, Duration),
    /// The data-plane process dies.
    KillDataPlane,
    /// It starts again, if it is dead.
    StartDataPlane,
    /// The control-plane process dies.
    KillControlPlane,
    /// It dies after so many more acts: in the middle of a step, before a command, an answer or a line of the log.
    KillControlPlaneAfter(u32),
    /// It starts again, if it is dead.
    StartControlPlane,
    /// Whatever a path carries upwards is held from now on.
    Hold(PathId),
    /// Whatever of this type a path carries is lost from now on.
    LoseType(PathId, MsgType),
    /// What is held goes on, and nothing is held or picked out any more.
    Release,
    /// Recorded datagrams are sent again, from where they came from or from elsewhere.
    Replay(u32),
    /// An operator ends a client's sessions; the client comes back by itself.
    Terminate(usize),
    /// A client's process is killed and starts again without memory.
    RestartClient(usize),
    /// A client's wall clock is so many seconds off from now on; its other clocks are not.
    WallClock(usize, i64),
    /// Nothing passes over a path for this long.
    Partition(PathId, Duration),
}

impl Simulation {
    /// Lets a fault happen after `wait`.
    pub fn plan(&mut self, wait: Duration, fault: Fault) {
        self.agenda.put(self.now.after(wait), Happening::Strike(Box::new(fault)));
    }

    /// Lets a fault happen now.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub fn strike(&mut self, fault: Fault) -> Result<(), Violation> {
        self.trace(|| format!("*** {fault:?}"));
        match fault {
            Fault::Cut(path, Heading::Up) => self.network.path(path).up.flow = Flow::Cut,
            Fault::Cut(path, Heading::Down) => self.network.path(path).down.flow = Flow::Cut,
            Fault::CutBoth(path) => {
                let path = self.network.path(path);
                (path.up.flow, path.down.flow) = (Flow::Cut, Flow::Cut);
            }
            Fault::Weather(path, up, down) => {
                let path = self.network.path(path);
                (path.up, path.down) = (up, down);
            }
            Fault::Heal(path) => {
                let path = self.network.path(path);
                (path.up, path.down) = (Weather::default(), Weather::default());
            }
            Fault::LinkDown(path, news_after) => {
                self.network.path(path).link = LinkState::NoCarrier;
                self.agenda.put(self.now.after(news_after), Happening::LinkNews(path.client));
            }
            Fault::LinkUp(path, address) => {
                if self.network.link(path).is_usable() {
                    // Another address is another socket: the NAT makes a new mapping.
                    self.network.rebind(path);
                }
                self.network.plug(path, address);
                let at = self.now.after(Duration::from_millis(2));
                self.agenda.put(at, Happening::LinkNews(path.client));
            }
            Fault::Rebind(path) => self.network.rebind(path),
            Fault::Stall(actor, span) => self.stall(actor, span),
            Fault::Sleep(client, span) => {
                self.clients[client].fall_asleep(self.now);
                self.stall(Actor::Client(client), span);
                self.agenda.wake(Actor::Client(client), self.now.after(span));
            }
            Fault::Hold(path) => self.pick_out(path, Fate::Hold, |s| s.heading == Heading::Up),
            Fault::LoseType(path, kind) => self.pick_out(path, Fate::Lose, move |s| s.kind() == Some(kind)),
            Fault::Release => {
                self.network.filter = None;
                self.release();
            }
            Fault::Replay(count) => self.replay(count),
            Fault::Terminate(client) => self.admin(AdminCommand::TerminatePeer(format!("client{client}"))),
            Fault::RestartClient(client) => self.restart_client(client),
            Fault::WallClock(client, seconds) => self.clients[client].set_wall_clock(seconds),
            Fault::Partition(path, span) => {
                let until = self.now.after(span);
                let path = self.network.path(path);
                path.partitioned_until = path.partitioned_until.max(until);
            }
            Fault::KillControlPlaneAfter(acts) => self.host.fuse = Some(acts),
            Fault::KillDataPlane => {
                self.host.kill_data_plane();
                self.wake_soon(Actor::Control);
            }
            Fault::StartDataPlane => return self.start_data_plane(),
            Fault::KillControlPlane => {
                self.host.kill_control_plane();
                self.stalled.remove(&Actor::Control);
            }
            Fault::StartControlPlane => {
                self.host.start_control_plane(self.now);
                self.wake_soon(Actor::Control);
            }
        }
        Ok(())
    }

    fn start_data_plane(&mut self) -> Result<(), Violation> {
        let started = self.host.start_data_plane();
        started.map_err(|error| self.observer.violation("simulator", error))?;
        self.wake_soon(Actor::Control);
        Ok(())
    }

    /// Something other than its weather decides about a part of what a path carries.
    fn pick_out(&mut self, path: PathId, fate: Fate, is_meant: impl Fn(&Sight<'_>) -> bool + 'static) {
        self.network.filter =
            Some(Box::new(
                move |sight: &Sight<'_>| {
                    if sight.path == path && is_meant(sight) { fate } else { Fate::Pass }
                },
            ));
    }

    /// Who replays knows every datagram of the last minutes and may send from any address.
    fn replay(&mut self, count: u32) {
        for _ in 0..count {
            let Some(tape) = &self.network.tape else { return };
            let pick = self.strikes.below(tape.len() as u64) as usize;
            let Some(recorded) = tape.get(pick).cloned() else { return };
            match recorded.heading {
                Heading::Down => self.inject_down(recorded.path, recorded.datagram),
                Heading::Up => {
                    let paths: Vec<PathId> = self.network.ids().collect();
                    let other = paths[self.strikes.below(paths.len() as u64) as usize];
                    let from = match self.strikes.below(3) {
                        0 => ATTACKER,
                        1 => recorded.external,
                        _ => self.network.path(other).external,
                    };
                    self.inject(from, recorded.datagram);
                }
            }
        }
    }

    /// Everything works again: processes and hosts run, links are up, paths are good, nothing is held.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub fn heal(&mut self) -> Result<(), Violation> {
        self.strike(Fault::Release)?;
        for path in self.network.ids().collect::<Vec<_>>() {
            self.strike(Fault::Heal(path))?;
            self.network.path(path).partitioned_until = self.now;
            if !self.network.link(path).is_usable() {
                self.strike(Fault::LinkUp(path, 1))?;
            }
        }
        for client in 0..self.clients.len() {
            self.strike(Fault::WallClock(client, 0))?;
        }
        for (actor, _) in std::mem::take(&mut self.stalled) {
            self.wake_soon(actor);
        }
        self.host.fuse = None;
        self.strike(Fault::StartDataPlane)?;
        self.strike(Fault::StartControlPlane)
    }
}

/// A random world: how many clients, uplinks and workers, how large the tables, which policy, how much traffic.
#[must_use]
pub fn world(seed: u64) -> Setup {
    const STREAM: u64 = 6;
    let mut dice = Dice::new(seed, STREAM);
    let clients = dice.below(4) as usize + 1;
    let presets = ["edge", "mobile", "fintech", "satellite"];
    let preset = Policy::preset(presets[dice.below(4) as usize]).unwrap_or_default();
    let secs = Duration::from_secs;
    // Short lives meet more ends.
    let policy = if dice.chance(300) {
        Policy { transport_loss_ttl: secs(20), recovery_window: secs(5), session_ttl: secs(60), ..preset }
    } else {
        preset
    };
    let every = [Some(20), Some(60), Some(400), None][dice.below(4) as usize];
    let restart = match dice.below(10) {
        0..=5 => Restart::FromJournal,
        6..=7 => Restart::FromStore,
        _ => Restart::WithoutMemory,
    };
    let fail_back_hold = [None, Some(secs(2)), Some(secs(15))][dice.below(3) as usize];
    Setup {
        seed,
        clients,
        uplinks: dice.below(3) as u8 + 1,
        workers: dice.below(3) as usize + 1,
        slots: if dice.chance(250) { 3 * clients as u32 } else { 128 },
        policy,
        suites: vec![if dice.chance(500) { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 }],
        traffic_every: every.map(Duration::from_millis),
        restart,
        candidates: CandidateSettings { fail_back_hold, ..CandidateSettings::default() },
        ..Setup::default()
    }
}

/// A random schedule of faults over `span`, each with its end, from a stream of the setup's seed.
#[must_use]
pub fn schedule(setup: &Setup, span: Duration) -> Vec<(Duration, Fault)> {
    const STREAM: u64 = 5;
    let mut dice = Dice::new(setup.seed, STREAM);
    let mut plan = Vec::new();
    // Some seeds are calm, some are storms.
    let pause = [200, 600, 1_500, 4_000, 9_000][dice.below(5) as usize];
    let mut at = Duration::from_secs(2);
    while at < span {
        draw(setup, &mut dice, at, &mut plan);
        at += dice.between(Duration::from_millis(20), Duration::from_millis(pause * 2));
    }
    // What has not ended by then is ended by whoever heals the world.
    plan.retain(|(at, _)| *at < span);
    plan.sort_by_key(|(at, _)| *at);
    plan
}

fn draw(setup: &Setup, dice: &mut Dice, at: Duration, plan: &mut Vec<(Duration, Fault)>) {
    let ms = Duration::from_millis;
    let client = dice.below(setup.clients as u64) as usize;
    let uplink = UplinkId(dice.below(u64::from(setup.uplinks)) as u8);
    let path = PathId { client, uplink };
    let short = dice.between(ms(20), ms(800));
    let long = dice.between(ms(300), ms(12_000));
    let address = dice.below(200) as u8 + 10;
    let worker = dice.below(setup.workers as u64) as usize;
    let mut put = |after: Duration, fault: Fault| plan.push((at + after, fault));
    match dice.below(46) {
        0..=4 => {
            put(Duration::ZERO, Fault::CutBoth(path));
            put(long, Fault::Heal(path));
        }
        5..=7 => {
            let heading = if dice.chance(500) { Heading::Up } else { Heading::Down };
            put(Duration::ZERO, Fault::Cut(path, heading));
            put(long, Fault::Heal(path));
        }
        8..=14 => {
            put(Duration::ZERO, Fault::Weather(path, weather(dice), weather(dice)));
            put(long, Fault::Heal(path));
        }
        15..=18 => {
            put(Duration::ZERO, Fault::LinkDown(path, short));
            put(short + long, Fault::LinkUp(path, address));
        }
        19..=22 => put(Duration::ZERO, Fault::Rebind(path)),
        23..=24 => put(Duration::ZERO, Fault::LinkUp(path, address)),
        25..=27 => put(Duration::ZERO, Fault::Replay(dice.below(20) as u32 + 1)),
        28..=29 => {
            put(Duration::ZERO, Fault::Hold(path));
            put(long, Fault::Release);
        }
        30..=32 => put(Duration::ZERO, Fault::Stall(Actor::Worker(worker), short)),
        33..=34 => put(Duration::ZERO, Fault::Stall(Actor::Control, short)),
        35 => put(Duration::ZERO, Fault::Stall(Actor::Client(client), short)),
        36 => put(Duration::ZERO, Fault::Sleep(client, long * 2)),
        37 => {
            put(Duration::ZERO, Fault::KillDataPlane);
            put(short, Fault::StartDataPlane);
        }
        38 => {
            put(Duration::ZERO, Fault::KillControlPlane);
            put(short, Fault::StartControlPlane);
        }
        39 => put(Duration::ZERO, Fault::Terminate(client)),
        40 => put(Duration::ZERO, Fault::RestartClient(client)),
        41 => {
            put(Duration::ZERO, Fault::KillControlPlaneAfter(dice.below(30) as u32));
            put(short, Fault::StartControlPlane);
            put(long, Fault::StartControlPlane);
        }
        42..=43 => {
            // Either may be the first to be back.
            put(Duration::ZERO, Fault::KillControlPlane);
            put(Duration::ZERO, Fault::KillDataPlane);
            put(short, Fault::StartDataPlane);
            put(dice.between(ms(20), ms(800)), Fault::StartControlPlane);
        }
        _ => {
            put(Duration::ZERO, Fault::LoseType(path, picked(dice)));
            put(long, Fault::Release);
        }
    }
}

/// A type that matters to a session.
pub(super) fn picked(dice: &mut Dice) -> MsgType {
    [
        MsgType::ReattachAck,
        MsgType::ReattachRequest,
        MsgType::ReattachReject,
        MsgType::Control,
        MsgType::Data,
        MsgType::HandshakeResponse,
        MsgType::Reset,
    ][dice.below(7) as usize]
}

fn weather(dice: &mut Dice) -> Weather {
    let far = dice.below(4) as usize;
    Weather {
        flow: Flow::Open,
        loss_per_mille: [0, 10, 100, 300, 600][dice.below(5) as usize],
        burst: None,
        duplicate_per_mille: [0, 0, 50, 300][dice.below(4) as usize],
        reorder_per_mille: [0, 0, 50, 300][dice.below(4) as usize],
        delay: dice.between(Duration::from_millis(1), Duration::from_millis([250, 250, 250, 1_500][far])),
        jitter: dice.between(Duration::ZERO, Duration::from_millis(60)),
    }
}
