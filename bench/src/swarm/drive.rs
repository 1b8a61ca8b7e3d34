//! The swarm's thread: one `epoll` for all sockets, one ordered set for all timers, commands in between.

use std::collections::BTreeSet;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::Duration;

use anyhow::{Context, Result};
use jvpn_abi::BootTime;
use jvpn_host::clock;
use jvpn_rig::Uplink;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::member::Member;
use super::network::MEMBERS_MAX;
use super::{MemberRecovery, MemberSpec, MemberView, SwarmSpec};

/// The bell's place in `epoll`; members' sockets have two places each from 0 on.
const BELL: u64 = u64::MAX;
/// Longest wait: nothing may be missed for longer, whatever went wrong with a timer.
const LONGEST_WAIT_MS: u128 = 1_000;

/// What the thread is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    Attach { members: Range<usize>, per_second: u32 },
    Restart { members: Range<usize> },
    Rebind { members: Range<usize> },
    Flap { members: Range<usize>, interval: Option<Duration> },
    Mark { answer: Sender<()> },
    View { answer: Sender<Vec<MemberView>> },
    TakeRecoveries { answer: Sender<Vec<MemberRecovery>> },
    Stop,
}

/// The thread's own.
pub(super) struct Drive {
    members: Vec<Member>,
    /// Each member with its next moment, as `scheduled` has it.
    timers: BTreeSet<(BootTime, usize)>,
    scheduled: Vec<BootTime>,
    epoll: Epoll,
    commands: Receiver<Command>,
    bell: Arc<EventFd>,
    recoveries: Vec<MemberRecovery>,
    buffer: Box<[u8; 2_048]>,
}

/// Descriptors that this process needs for everything but members' sockets: observers, logs, namespaces.
const DESCRIPTORS_OF_OTHERS: u64 = 256;

/// Two sockets per member soon pass the soft limit of 1,024; the hard one may be taken without asking.
fn allow_descriptors(needed: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of descriptors")?;
    anyhow::ensure!(
        needed <= hard,
        "{needed} descriptors are needed, and {hard} allowed: raise `ulimit -Hn`"
    );
    if needed > soft {
        setrlimit(Resource::RLIMIT_NOFILE, needed, hard).context("cannot raise the limit of descriptors")?;
    }
    Ok(())
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
        allow_descriptors(members.len() as u64 * 2 + DESCRIPTORS_OF_OTHERS)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("cannot make an epoll descriptor")?;
        epoll.add(bell.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
        let mut drive = Self {
            scheduled: vec![BootTime::NEVER; members.len()],
            members: Vec::with_capacity(members.len()),
            timers: BTreeSet::new(),
            epoll,
            commands,
            bell,
            recoveries: Vec::new(),
            buffer: Box::new([0; 2_048]),
        };
        for (number, member) in members.into_iter().enumerate() {
            let member = Member::new(number, member, &spec).context("a member's sockets or randomness")?;
            for uplink in Uplink::ALL {
                drive.register(number, uplink, &member)?;
            }
            drive.members.push(member);
        }
        Ok(drive)
    }

    fn register(&self, number: usize, uplink: Uplink, member: &Member) -> Result<()> {
        let place = number as u64 * 2 + uplink as u64;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, place);
        self.epoll.add(member.socket(uplink).as_fd(), event).context("a member's socket")
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
        let uplink = if place & 1 == 0 { Uplink::A } else { Uplink::B };
        let Ok(number) = usize::try_from(place / 2) else { return };
        if let Some(member) = self.members.get_mut(number) {
            member.receive(uplink, &mut *self.buffer, &mut self.recoveries);
        }
        self.schedule(number);
    }

    fn timers(&mut self) {
        let now = clock::now();
        while let Some((at, number)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
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
            let now = clock::now();
            match command {
                Command::Attach { members, per_second } => {
                    let gap = Duration::from_secs(1) / per_second.max(1);
                    let mut at = now;
                    self.each(members, |member, _| {
                        member.starts_at = Some(at);
                        at = at.after(gap);
                        Ok(())
                    })?;
                }
                Command::Restart { members } => {
                    self.each(members, |member, recoveries| member.restart(now, recoveries))?;
                }
                Command::Rebind { members } => {
                    for number in members {
                        let Some(member) = self.members.get_mut(number) else { continue };
                        let uplink = member.rebind().context("a member's new port")?;
                        if let Some(member) = self.members.get(number) {
                            self.register(number, uplink, member)?;
                        }
                    }
                }
                Command::Flap { members, interval } => self.each(members, |member, _| {
                    member.flap(now, interval);
                    Ok(())
                })?,
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
        }
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
