//! The swarm's thread: one `epoll` for all sockets, one ordered set for all timers, commands in between.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::Range;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::Duration;

use anyhow::{Context, Result};
use jvpn_abi::BootTime;
use jvpn_host::clock;
use jvpn_rig::Uplink;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;

use super::member::Member;
use super::network::{self, MEMBERS_MAX};
use super::ports::{PORTS, Ports};
use super::{Census, MemberRecovery, MemberSpec, MemberView, SwarmSpec};

/// Datagrams taken from one socket before the others have their turn.
const DATAGRAMS_PER_TURN: usize = 256;
/// Timers served before the sockets have theirs: one of them may cost two Diffie-Hellman operations.
const TIMERS_PER_TURN: usize = 64;
/// The bell's place in `epoll`; the ports of the uplinks have theirs from 0 on.
const BELL: u64 = u64::MAX;
/// Longest wait: nothing may be missed for longer, whatever went wrong with a timer.
const LONGEST_WAIT_MS: u128 = 1_000;

/// What the thread is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    Attach { members: Range<usize>, per_second: u32 },
    Restart { members: Range<usize> },
    Rebind { members: Range<usize> },
    Fail { members: Range<usize>, answer: Sender<BootTime> },
    Heal { members: Range<usize> },
    Vanish { members: Range<usize> },
    Terminate { members: Range<usize> },
    Quiet { quiet: bool, answer: Sender<()> },
    Census { answer: Sender<Census> },
    Flap { members: Range<usize>, interval: Option<Duration> },
    Mark { answer: Sender<()> },
    View { answer: Sender<Vec<MemberView>> },
    TakeRecoveries { answer: Sender<Vec<MemberRecovery>> },
    Stop,
}

/// The thread's own.
pub(super) struct Drive {
    members: Vec<Member>,
    ports: Rc<Ports>,
    /// The member at each outer address.
    places: BTreeMap<Ipv4Addr, usize>,
    /// Each member with its next moment, as `scheduled` has it.
    timers: BTreeSet<(BootTime, usize)>,
    scheduled: Vec<BootTime>,
    epoll: Epoll,
    commands: Receiver<Command>,
    bell: Arc<EventFd>,
    recoveries: Vec<MemberRecovery>,
    buffer: Box<[u8; 2_048]>,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Running {
    Yes,
    No,
}

impl Drive {
    pub(super) fn new(
        spec: SwarmSpec,
        members: Vec<MemberSpec>,
        commands: Receiver<Command>,
        bell: Arc<EventFd>,
    ) -> Result<Self> {
        anyhow::ensure!(members.len() <= MEMBERS_MAX, "a swarm has at most {MEMBERS_MAX} members");
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("cannot make an epoll descriptor")?;
        epoll.add(bell.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
        let ports = Rc::new(Ports::open().context("the swarm's sockets")?);
        for uplink in Uplink::ALL {
            for port in 0..PORTS {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, (uplink as usize * PORTS + port) as u64);
                epoll.add(ports.fd(uplink, port)?, event).context("a socket of the swarm")?;
            }
        }
        let mut drive = Self {
            scheduled: vec![BootTime::NEVER; members.len()],
            members: Vec::with_capacity(members.len()),
            places: BTreeMap::new(),
            ports: Rc::clone(&ports),
            timers: BTreeSet::new(),
            epoll,
            commands,
            bell,
            recoveries: Vec::new(),
            buffer: Box::new([0; 2_048]),
        };
        for (number, member) in members.into_iter().enumerate() {
            for uplink in Uplink::ALL {
                drive.places.insert(network::outer_address(member.number, uplink), number);
            }
            let member = Member::new(number, member, &spec, &ports).context("a member's randomness")?;
            drive.members.push(member);
        }
        Ok(drive)
    }

    pub(super) fn run(mut self) -> Result<()> {
        let mut ready = [EpollEvent::empty(); 256];
        loop {
            let count = match self.epoll.wait(&mut ready, self.timeout()) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(errno) => return Err(errno).context("waiting for events failed"),
            };
            // Sockets first: what has been answered must not be seen as silence by the timers.
            for event in ready.iter().take(count) {
                self.take(event.data());
            }
            self.timers();
            if self.commands()? == Running::No {
                return Ok(());
            }
        }
    }

    fn timeout(&self) -> EpollTimeout {
        let first = self.timers.first().map_or(BootTime::NEVER, |(at, _)| *at);
        // Rounded up so that the moment has really come.
        let ms = first.since(clock::now()).as_nanos().div_ceil(1_000_000).min(LONGEST_WAIT_MS);
        i32::try_from(ms).ok().and_then(|ms| EpollTimeout::try_from(ms).ok()).unwrap_or(EpollTimeout::ZERO)
    }

    fn take(&mut self, place: u64) {
        if place == BELL {
            // Non-blocking: a bell that somebody else silenced is no error.
            let _rang = self.bell.read();
            return;
        }
        let Ok(place) = usize::try_from(place) else { return };
        let (uplink, port) = (if place < PORTS { Uplink::A } else { Uplink::B }, place % PORTS);
        let ports = Rc::clone(&self.ports);
        for _ in 0..DATAGRAMS_PER_TURN {
            let Ok(Some(got)) = ports.receive(uplink, port, &mut *self.buffer) else { return };
            let to = got.local.v4_octets().map(Ipv4Addr::from);
            let Some(number) = to.and_then(|to| self.places.get(&to)).copied() else { continue };
            let datagram = self.buffer.get_mut(..got.len).unwrap_or_default();
            if let Some(member) = self.members.get_mut(number) {
                member.receive((uplink, port), got.remote, datagram, &mut self.recoveries);
            }
            self.schedule(number);
        }
    }

    fn timers(&mut self) {
        let now = clock::now();
        for _ in 0..TIMERS_PER_TURN {
            let Some((at, number)) = self.timers.first().copied().filter(|(at, _)| *at <= now) else {
                return;
            };
            self.timers.remove(&(at, number));
            if let (Some(member), Some(place)) =
                (self.members.get_mut(number), self.scheduled.get_mut(number))
            {
                *place = BootTime::NEVER;
                member.due(now, &mut self.recoveries);
            }
            self.schedule(number);
        }
    }

    fn schedule(&mut self, number: usize) {
        let (Some(member), Some(place)) = (self.members.get(number), self.scheduled.get_mut(number)) else {
            return;
        };
        let next = member.next();
        if next == *place {
            return;
        }
        self.timers.remove(&(*place, number));
        *place = next;
        if next != BootTime::NEVER {
            self.timers.insert((next, number));
        }
    }

    fn commands(&mut self) -> Result<Running> {
        loop {
            let command = match self.commands.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Empty) => return Ok(Running::Yes),
                Err(TryRecvError::Disconnected) => Command::Stop,
            };
            if self.obey(clock::now(), command)? == Running::No {
                return Ok(Running::No);
            }
        }
    }

    fn obey(&mut self, now: BootTime, command: Command) -> Result<Running> {
        match command {
            Command::Attach { members, per_second } => self.attach(now, members, per_second)?,
            Command::Restart { members } => {
                self.each(members, |member, recoveries| member.restart(now, recoveries))?;
            }
            Command::Rebind { members } => self.each_plainly(members, Member::rebind)?,
            Command::Fail { members, answer } => {
                // By timers, so that first answers are taken while the last ones ask.
                self.each_plainly(members, |member| member.fails_at = Some(now))?;
                let _waits = answer.send(now);
            }
            Command::Heal { members } => self.each_plainly(members, |member| member.heal(now))?,
            Command::Vanish { members } => self.each(members, |member, _| member.vanish(now))?,
            Command::Terminate { members } => {
                self.each(members, |member, recoveries| member.leave(now, recoveries))?;
            }
            Command::Quiet { quiet, answer } => {
                let total = self.members.len();
                self.each_plainly(0..total, |member| {
                    member.quiet(now, quiet, member.number() as f64 / total as f64);
                })?;
                let _waits = answer.send(());
            }
            Command::Census { answer } => {
                let mut census = Census::default();
                self.members.iter().for_each(|member| member.count(&mut census));
                let _waits = answer.send(census);
            }
            Command::Flap { members, interval } => {
                self.each_plainly(members, |member| member.flap(now, interval))?;
            }
            Command::Mark { answer } => {
                self.members.iter_mut().for_each(|member| member.mark(now));
                let _waits = answer.send(());
            }
            Command::View { answer } => {
                let _waits = answer.send(self.members.iter().map(|member| member.view(now)).collect());
            }
            Command::TakeRecoveries { answer } => {
                let _waits = answer.send(std::mem::take(&mut self.recoveries));
            }
            Command::Stop => {
                let Self { members, recoveries, .. } = self;
                members.iter_mut().for_each(|member| member.terminate(now, recoveries));
                return Ok(Running::No);
            }
        }
        Ok(Running::Yes)
    }

    fn attach(&mut self, now: BootTime, members: Range<usize>, per_second: u32) -> Result<()> {
        let gap = Duration::from_secs(1) / per_second.max(1);
        let mut at = now;
        self.each_plainly(members, |member| {
            member.starts_at = Some(at);
            at = at.after(gap);
        })
    }

    fn each_plainly(&mut self, members: Range<usize>, mut what: impl FnMut(&mut Member)) -> Result<()> {
        self.each(members, |member, _| {
            what(member);
            Ok(())
        })
    }

    fn each(
        &mut self,
        members: Range<usize>,
        mut what: impl FnMut(&mut Member, &mut Vec<MemberRecovery>) -> Result<()>,
    ) -> Result<()> {
        for number in members {
            if let Some(member) = self.members.get_mut(number) {
                what(member, &mut self.recoveries)?;
            }
            self.schedule(number);
        }
        Ok(())
    }
}
