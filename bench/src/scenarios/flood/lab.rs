//! Gateway, swarm and attackers in one network; rounds in which honest sessions lose their path; phases of rounds.

use std::collections::BTreeMap;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jvpn_abi::Endpoint;
use jvpn_abi::wire::MsgType;
use jvpn_crypto::keys::{PublicKey, StaticSecret};
use jvpn_crypto::rng::OsRandom;
use jvpn_host::status;
use jvpn_rig::capture::{Capture, Captured as Frame, Keep, Match};
use jvpn_rig::frame::Datagram;
use jvpn_rig::impair::{Impairment, Impairments};
use jvpn_rig::topology::GATEWAY_WAN;
use jvpn_rig::{Interrupt, Rig, TUNNEL_PORT, Uplink, wait};
use jvpn_session::State;
use serde_json::Value;

use super::Options;
use super::attack::{Ammunition, Assault, Attack, Captured, Loot};
use super::gun::{Fired, Gun};
use super::report::{Births, Honest, Phase, Processes, Sent, Tables};
use super::rogue::Rogue;
use crate::deployment::{Deployment, Places, Role};
use crate::events::unix_ms;
use crate::result::Durations;
use crate::scenarios::measure::{self, Memory, Peaks};
use crate::swarm::echo::Echo;
use crate::swarm::gateway::Peer;
use crate::swarm::network::{NOWHERE, NOWHERE_LEN};
use crate::swarm::{MemberSpec, MemberView, Swarm, SwarmSpec};

/// How long a session may take to come back before it counts as not recovered.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(8);
/// How long all sessions may take to be born.
const BIRTH_PATIENCE: Duration = Duration::from_secs(60);
/// Births per second at the start.
const BIRTHS_PER_SECOND: u32 = 200;
/// A round lasts at least so long: with one switch each, policy's 60 a minute are never used up.
const ROUND_MIN: Duration = Duration::from_millis(1_250);
/// How often members are looked at while something is waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// Honest peers that come anew, one per round.
const NEWCOMERS: usize = 4;
/// Malicious peers that flap.
const FLAPPERS: usize = 8;
/// How often they change their path, or try to.
const FLAP_INTERVAL: Duration = Duration::from_millis(50);
/// Malicious peers with a session each.
const ROGUES: usize = 3;
/// Requests and handshakes that an attacker remembers, of each kind and uplink.
const REMEMBERED: usize = 256;

/// The peers of the gateway, by number.
#[derive(Clone, Debug)]
pub(super) struct Cast {
    secrets: Vec<StaticSecret>,
    pub(super) honest: Range<usize>,
    newcomers: Range<usize>,
    flappers: Range<usize>,
    rogues: Range<usize>,
}

impl Cast {
    /// Makes the keys of all of them.
    pub(super) fn new(honest: usize) -> Result<Self> {
        let newcomers = honest..honest + NEWCOMERS;
        let flappers = newcomers.end..newcomers.end + FLAPPERS;
        let rogues = flappers.end..flappers.end + ROGUES;
        let mut random = OsRandom::checked()?;
        let secrets: Result<_, _> = (0..rogues.end).map(|_| StaticSecret::generate(&mut random)).collect();
        Ok(Self { secrets: secrets?, honest: 0..honest, newcomers, flappers, rogues })
    }

    pub(super) fn peers(&self) -> Vec<Peer> {
        let peer = |(number, secret): (usize, &StaticSecret)| Peer {
            name: format!("peer-{number}"),
            key: secret.public(),
            number,
        };
        self.secrets.iter().enumerate().map(peer).collect()
    }

    fn members(&self) -> Vec<MemberSpec> {
        let member = |(number, secret): (usize, &StaticSecret)| MemberSpec {
            secret: secret.clone(),
            number,
            prefers: if number % 2 == 0 { Uplink::A } else { Uplink::B },
        };
        self.secrets.iter().enumerate().take(self.flappers.end).map(member).collect()
    }
}

/// What an honest session loses.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// Everything over this uplink is dropped.
    Cut(Uplink),
    /// The NAT in front of it takes another port.
    Rebinding,
}

impl Loss {
    const ROUNDS: [Self; 4] = [Self::Cut(Uplink::A), Self::Rebinding, Self::Cut(Uplink::B), Self::Rebinding];
}

/// What the rounds of a phase have shown so far.
struct Tally {
    outages: Durations,
    births: Durations,
    recovered: u64,
    unrecovered: u64,
    asked: u64,
    born: u64,
}

/// Counters and processor time at one moment.
struct Snapshot {
    edge: BTreeMap<String, u64>,
    control_plane: BTreeMap<String, u64>,
    cpu: Processes<Duration>,
}

/// The running scenario.
pub(super) struct Lab<'a> {
    pub(super) rig: &'a Rig,
    pub(super) deployment: &'a mut Deployment,
    pub(super) places: &'a Places,
    interrupt: &'a Interrupt,
    options: &'a Options,
    gateway: PublicKey,
    cast: Cast,
    pub(super) swarm: Swarm,
    impairments: Impairments,
    taps: [Capture; 4],
    loot: Loot,
    round: usize,
    next_newcomer: usize,
    waiting_newcomers: [bool; NEWCOMERS],
    next_rogue: usize,
    _echo: Echo,
}

impl<'a> Lab<'a> {
    /// The gateway runs; everybody comes.
    pub(super) fn start(
        rig: &'a Rig,
        deployment: &'a mut Deployment,
        places: &'a Places,
        cast: Cast,
        gateway: PublicKey,
        options: &'a Options,
        interrupt: &'a Interrupt,
    ) -> Result<Self> {
        let tap = |uplink: Uplink, kind: MsgType| {
            let wanted = Match::arriving(TUNNEL_PORT, Some(kind.octet()));
            Capture::start(rig.router(), uplink.router_interface(), wanted, Keep::Last(REMEMBERED))
        };
        let taps = [
            tap(Uplink::A, MsgType::ReattachRequest)?,
            tap(Uplink::B, MsgType::ReattachRequest)?,
            tap(Uplink::A, MsgType::HandshakeInit)?,
            tap(Uplink::B, MsgType::HandshakeInit)?,
        ];
        let endpoint = Endpoint::v4(GATEWAY_WAN.octets(), TUNNEL_PORT);
        let spec = SwarmSpec { gateway, endpoint, marker_interval: options.marker_interval };
        let echo = Echo::start(rig)?;
        let swarm = Swarm::start(rig.client(), &spec, cast.members())?;
        let lab = Self {
            impairments: Impairments::new(rig),
            rig,
            deployment,
            places,
            interrupt,
            options,
            gateway,
            cast,
            swarm,
            taps,
            loot: Loot::default(),
            round: 0,
            next_newcomer: 0,
            waiting_newcomers: [false; NEWCOMERS],
            next_rogue: 0,
            _echo: echo,
        };
        lab.swarm.attach(0..lab.swarm.len(), BIRTHS_PER_SECOND)?;
        let patience = BIRTH_PATIENCE;
        wait::until("all members are ATTACHED and hear their markers", patience, interrupt, || {
            let views = lab.swarm.view()?;
            let connected = |view: &MemberView| view.state == Some(State::Attached) && view.replied > 0;
            Ok(views.iter().all(connected).then_some(()))
        })?;
        Ok(lab)
    }

    /// The honest members as they are now.
    pub(super) fn honest(&self) -> Result<Vec<MemberView>> {
        let mut views = self.swarm.view()?;
        views.truncate(self.cast.honest.end);
        Ok(views)
    }

    /// Process IDs of control plane and data plane.
    pub(super) fn pids(&self) -> Result<[u32; 2]> {
        let pid =
            |role: Role| self.deployment.pid(role).with_context(|| format!("{} is gone", role.program()));
        Ok([pid(Role::ControlPlane)?, pid(Role::DataPlane)?])
    }

    /// Memory of both now.
    pub(super) fn memory(&self) -> Result<Processes<Memory>> {
        let [control_plane, data_plane] = self.pids()?;
        Ok(Processes { control_plane: Memory::of(control_plane)?, data_plane: Memory::of(data_plane)? })
    }

    /// How full the gateway's tables are.
    pub(super) fn tables(&self) -> Result<Tables> {
        let status = status::query(&self.places.control_plane_socket(), "status")?;
        let field =
            |name: &str| status.get(name).and_then(Value::as_u64).with_context(|| format!("no {name}"));
        Ok(Tables { live_sessions: field("live_sessions")?, slots_in_use: field("slots_in_use")? })
    }

    /// Rounds for the time of a phase, beside an attack or in peace.
    pub(super) fn phase(&mut self, assault: Option<Assault>) -> Result<Phase> {
        let unproven = Capture::towards(self.rig.router(), "rW", TUNNEL_PORT, (NOWHERE, NOWHERE_LEN))?;
        let _forgotten = self.swarm.take_recoveries()?;
        self.loot()?;
        let gun = assault.map(|assault| self.open_fire(assault)).transpose()?.flatten();
        let peaks = Peaks::start(self.pids()?)?;
        let before = self.snapshot()?;
        let (start, from_ms) = (Instant::now(), unix_ms());
        let mut tally = Tally::new()?;
        while start.elapsed() < self.options.phase {
            let begun = Instant::now();
            self.round(&mut tally)?;
            self.newcomer(&mut tally)?;
            while begun.elapsed() < ROUND_MIN {
                self.look()?;
            }
        }
        let took = start.elapsed();
        // Who has not come in by now did not come in beside the attack.
        (0..NEWCOMERS).try_for_each(|which| self.count_newcomer(which, &mut tally))?;
        let after = self.snapshot()?;
        let fired = gun.map(Gun::stop).transpose()?;
        if assault.map(Assault::attack) == Some(Attack::Flapping) {
            self.swarm.flap(self.cast.flappers.clone(), None)?;
        }
        self.settle()?;
        let missed = unproven.complete().err().map(|error| format!("{error:#}"));
        let [control_plane, data_plane] = peaks.peaks();
        let honest = self.judge(&tally)?;
        Ok(Phase {
            name: assault.map_or_else(|| "quiet".to_owned(), Assault::name),
            from_ms,
            to_ms: unix_ms(),
            seconds: took.as_secs_f64(),
            attack: fired.map(|fired| sent(&fired, &unproven)),
            honest,
            births: Births { asked: tally.asked, born: tally.born, took: tally.births.quantiles() },
            cpu_s: Processes {
                control_plane: (after.cpu.control_plane - before.cpu.control_plane).as_secs_f64(),
                data_plane: (after.cpu.data_plane - before.cpu.data_plane).as_secs_f64(),
            },
            memory_peak: Processes { control_plane, data_plane },
            edge: risen(&before.edge, &after.edge),
            control_plane: risen(&before.control_plane, &after.control_plane),
            missed,
            hgrm: tally.outages.hgrm(),
            ..Phase::default()
        })
    }

    fn open_fire(&mut self, assault: Assault) -> Result<Option<Gun>> {
        let attack = assault.attack();
        let rogue = match attack {
            Attack::Flapping => {
                self.swarm.flap(self.cast.flappers.clone(), Some(FLAP_INTERVAL))?;
                return Ok(None);
            }
            Attack::ReattachValid | Attack::ReattachForged => Some(self.rogue()?),
            Attack::VictimSource => {
                let mut rogue = self.rogue()?;
                rogue.keep_quiet();
                Some(rogue)
            }
            Attack::ReattachReplayed
            | Attack::ReattachRandom
            | Attack::Handshakes
            | Attack::HandshakesJunk => None,
        };
        let ammunition = Ammunition::new(attack, self.options.seed, self.gateway, &self.loot, rogue)?;
        Gun::start(self.rig, attack, ammunition, assault.rate(self.options.rate)).map(Some)
    }

    /// A malicious peer who has no session yet, or whose last attack is over.
    fn rogue(&mut self) -> Result<Rogue> {
        let number = self.cast.rogues.start + self.next_rogue % ROGUES;
        self.next_rogue += 1;
        let secret = self.cast.secrets.get(number).context("no such peer")?.clone();
        Rogue::connect(self.rig, secret, self.gateway, self.interrupt)
    }

    /// All honest sessions that the loss concerns lose their path, and come back.
    fn round(&mut self, tally: &mut Tally) -> Result<()> {
        let before = self.honest()?;
        let attached = |view: &MemberView| view.state == Some(State::Attached);
        let on = |uplink| before.iter().filter(|view| attached(view) && view.uplink == Some(uplink)).count();
        let loss = match Loss::ROUNDS[self.round % Loss::ROUNDS.len()] {
            Loss::Cut(uplink) if on(uplink) == 0 => Loss::Cut(uplink.other()),
            loss @ (Loss::Cut(_) | Loss::Rebinding) => loss,
        };
        self.round += 1;
        let concerned = |view: &MemberView| match loss {
            Loss::Cut(uplink) => attached(view) && view.uplink == Some(uplink),
            Loss::Rebinding => attached(view),
        };
        self.swarm.mark()?;
        match loss {
            Loss::Cut(uplink) => self.impairments.start(uplink, Impairment::Cut)?,
            Loss::Rebinding => self.swarm.rebind(self.cast.honest.clone())?,
        }
        let after = self.await_recovery(&before, concerned)?;
        for (was, is) in before.iter().zip(&after).filter(|(was, _)| concerned(was)) {
            tally.outages.add(is.longest_gap);
            let back = is.recoveries > was.recoveries;
            tally.recovered += u64::from(back);
            tally.unrecovered += u64::from(!back);
        }
        if let Loss::Cut(uplink) = loss {
            self.impairments.stop(uplink, Impairment::Cut)?;
        }
        Ok(())
    }

    /// Waits until all that are concerned have recovered and then heard a marker; or as long as patience lasts.
    fn await_recovery(
        &mut self,
        before: &[MemberView],
        concerned: impl Fn(&MemberView) -> bool,
    ) -> Result<Vec<MemberView>> {
        let start = Instant::now();
        let mut replied_then: Vec<Option<u64>> = vec![None; before.len()];
        loop {
            self.look()?;
            let views = self.honest()?;
            for ((was, is), then) in before.iter().zip(&views).zip(&mut replied_then) {
                if then.is_none() && is.recoveries > was.recoveries {
                    *then = Some(is.replied);
                }
            }
            let heard =
                |(view, then): (&MemberView, &Option<u64>)| then.is_some_and(|then| view.replied > then);
            let mut all = before.iter().zip(views.iter().zip(&replied_then));
            let done = all.all(|(was, now)| !concerned(was) || heard(now));
            if done || start.elapsed() > RECOVERY_PATIENCE {
                return Ok(views);
            }
        }
    }

    /// A moment passes: processes are looked after, attackers learn what has been on the wire.
    fn look(&mut self) -> Result<()> {
        self.interrupt.check()?;
        self.deployment.check()?;
        self.loot()?;
        thread::sleep(LOOK_INTERVAL);
        Ok(())
    }

    fn loot(&self) -> Result<()> {
        let [requests_a, requests_b, inits_a, inits_b] = self.taps.each_ref().map(Capture::frames);
        let mut frames = [requests_a, requests_b].concat();
        frames.sort_by_key(|frame| frame.at);
        let victims = frames.iter().filter_map(|frame| Some(Datagram::parse(&frame.frame)?.source));
        let (victims, requests) = (victims.collect(), payloads(&frames));
        let inits = payloads(&[inits_a, inits_b].concat());
        self.loot.replace(Captured { requests, inits, victims });
        Ok(())
    }

    /// One of the newcomers ends its session and comes again.
    fn newcomer(&mut self, tally: &mut Tally) -> Result<()> {
        self.count_newcomer(self.next_newcomer, tally)?;
        let number = self.cast.newcomers.start + self.next_newcomer;
        self.swarm.restart(number..number + 1)?;
        tally.asked += 1;
        if let Some(waiting) = self.waiting_newcomers.get_mut(self.next_newcomer) {
            *waiting = true;
        }
        self.next_newcomer = (self.next_newcomer + 1) % NEWCOMERS;
        Ok(())
    }

    fn count_newcomer(&mut self, which: usize, tally: &mut Tally) -> Result<()> {
        let views = self.swarm.view()?;
        let Some(waiting) = self.waiting_newcomers.get_mut(which) else { return Ok(()) };
        let view = views.get(self.cast.newcomers.start + which);
        if std::mem::take(waiting)
            && let Some(birth) = view.and_then(|view| view.birth)
        {
            tally.births.add(birth);
            tally.born += 1;
        }
        Ok(())
    }

    /// After the shooting: whoever still waits for a session or a path gets it.
    fn settle(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            self.look()?;
            let back = |view: &MemberView| view.state == Some(State::Attached);
            let all = self.swarm.view()?;
            let ours = all.get(..self.cast.newcomers.end).unwrap_or_default();
            if ours.iter().all(back) || start.elapsed() > BIRTH_PATIENCE {
                return Ok(());
            }
        }
    }

    fn judge(&mut self, tally: &Tally) -> Result<Honest> {
        let (mut reattach, mut detect) = (Durations::new()?, Durations::new()?);
        let recoveries = self.swarm.take_recoveries()?;
        let honest = recoveries.iter().filter(|recovery| self.cast.honest.contains(&recovery.member));
        let (mut attempts, mut count) = (0, 0_u64);
        for recovery in honest {
            reattach.add(Duration::from_millis(recovery.report.reattach_ms));
            detect.add(Duration::from_millis(recovery.report.detect_ms));
            attempts += u64::from(recovery.report.attempts);
            count += 1;
        }
        Ok(Honest {
            recovered: tally.recovered,
            unrecovered: tally.unrecovered,
            outage: tally.outages.quantiles(),
            reattach: reattach.quantiles(),
            detect: detect.quantiles(),
            attempts_mean: attempts as f64 / count.max(1) as f64,
        })
    }

    fn snapshot(&self) -> Result<Snapshot> {
        let [control_plane, data_plane] = self.pids()?;
        let counters = |socket: &std::path::Path, field: &str| -> Result<BTreeMap<String, u64>> {
            let status = status::query(socket, "status")?;
            let counters = status.get(field).and_then(Value::as_object).cloned().unwrap_or_default();
            Ok(counters.into_iter().filter_map(|(name, count)| Some((name, count.as_u64()?))).collect())
        };
        Ok(Snapshot {
            edge: counters(&self.places.data_plane_socket(), "xdp_counters")?,
            control_plane: counters(&self.places.control_plane_socket(), "counters")?,
            cpu: Processes {
                control_plane: measure::processor_time(control_plane)?,
                data_plane: measure::processor_time(data_plane)?,
            },
        })
    }

    /// Waits until what attackers had is gone: live sessions and slots as they were.
    pub(super) fn expire(&mut self, before: Tables, patience: Duration) -> Result<Tables> {
        let start = Instant::now();
        loop {
            let now = self.tables()?;
            let gone = now.live_sessions <= before.live_sessions && now.slots_in_use <= before.slots_in_use;
            if gone || start.elapsed() > patience {
                return Ok(now);
            }
            self.look()?;
        }
    }
}

impl Tally {
    fn new() -> Result<Self> {
        let (outages, births) = (Durations::new()?, Durations::new()?);
        Ok(Self { outages, births, recovered: 0, unrecovered: 0, asked: 0, born: 0 })
    }
}

fn payloads(frames: &[Frame]) -> Vec<Vec<u8>> {
    let datagrams = frames.iter().filter_map(|frame| Datagram::parse(&frame.frame));
    datagrams.map(|datagram| datagram.payload.to_vec()).collect()
}

fn risen(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let risen =
        after.iter().map(|(name, now)| (name.clone(), now - before.get(name).copied().unwrap_or_default()));
    risen.filter(|(_, count)| *count > 0).collect()
}

/// What was sent, beside what the observer saw going to addresses where nobody is.
fn sent(fired: &Fired, unproven: &Capture) -> Sent {
    let answers = unproven.per_receiver();
    let ratio = |(address, total): (&std::net::Ipv4Addr, &jvpn_rig::capture::Total)| {
        let asked = fired.per_source.get(address).copied().unwrap_or_default();
        // An octet that nobody asked for counts as one for each: JSON has no infinity.
        total.octets as f64 / asked.max(1) as f64
    };
    Sent {
        datagrams: fired.datagrams,
        per_second: fired.datagrams as f64 / fired.took.as_secs_f64().max(1e-3),
        octets: fired.octets,
        unsent: fired.unsent,
        sources: fired.per_source.len(),
        octets_to_unproven: answers.values().map(|total| total.octets).sum(),
        datagrams_to_unproven: answers.values().map(|total| total.datagrams).sum(),
        amplification_max: answers.iter().map(ratio).fold(0.0, f64::max),
        octets_heard: fired.heard.octets,
        granted: fired.heard.granted,
    }
}

/// Honest sessions that are not what they were.
pub(super) fn lost(before: &[MemberView], after: &[MemberView]) -> Result<usize> {
    ensure!(before.len() == after.len(), "members are missing");
    let same = |(was, is): (&MemberView, &MemberView)| {
        was.session == is.session && is.session.is_some() && is.sessions == 1 && is.ended == 0
    };
    Ok(before.iter().zip(after).filter(|pair| !same(*pair)).count())
}
