//! A swarm: many production agents in one process, each with addresses of its own on both uplinks, driven by one thread.
//!
//! No tunnel device: the swarm makes the inner packets (numbered markers to an echo on the LAN behind the gateway) and
//! checks what comes back, so outages are measured where an application would feel them. The agents are those of
//! `jvpn-client`, with its cryptography and its path logic; only the shell around them is another one.
//!
//! | Module | What for |
//! |---|---|
//! | [`network`] | addresses of the members and the routes that lead to them |
//! | [`gateway`] | a gateway's configuration with a peer for each member |
//! | [`echo`] | the server on the LAN that sends markers back |
//! | `ports` | the sockets, shared by all members |
//! | `member` | one agent, its addresses and ports, its markers |
//! | `drive` | the thread: `epoll`, timers, commands |

mod drive;
pub mod echo;
pub mod gateway;
mod marker;
mod member;
pub mod network;
mod ports;

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use jvpn_abi::{BootTime, Endpoint};
use jvpn_client::agent::RecoveryReport;
use jvpn_crypto::keys::{PublicKey, StaticSecret};
use jvpn_rig::{Namespace, Uplink};
use jvpn_session::State;
use jvpn_session::messages::SessionId;
use nix::sys::eventfd::EventFd;

use drive::{Command, Drive};

/// How long the swarm's thread may take to answer: it answers between two rounds of its loop.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);

/// A member before it starts.
#[derive(Clone, Debug)]
pub struct MemberSpec {
    /// Its static key.
    pub secret: StaticSecret,
    /// Its number, from which its addresses follow.
    pub number: usize,
    /// The uplink that it takes if both work.
    pub prefers: Uplink,
}

/// What the members have in common.
#[derive(Clone, Debug)]
pub struct SwarmSpec {
    /// The gateway's static key.
    pub gateway: PublicKey,
    /// Its outer endpoint.
    pub endpoint: Endpoint,
    /// A marker per member and this time, once it is ATTACHED.
    pub marker_interval: Duration,
}

/// One member at one moment. Counts are since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberView {
    /// The session, while there is one.
    pub session: Option<SessionId>,
    /// As the agent sees it; `None` = no session.
    pub state: Option<State>,
    /// The bound uplink, or the one that was bound last.
    pub uplink: Option<Uplink>,
    /// Sessions that were granted.
    pub sessions: u64,
    /// Sessions that ended.
    pub ended: u64,
    /// Sessions that were left without a goodbye.
    pub vanished: u64,
    /// Recoveries that were completed.
    pub recoveries: u64,
    /// Refusals that authenticated.
    pub refusals: u64,
    /// Markers sent.
    pub sent: u64,
    /// Markers that came back.
    pub replied: u64,
    /// Markers that came back twice.
    pub doubled: u64,
    /// Inner packets that are no marker of this member.
    pub damaged: u64,
    /// Longest time without a marker coming back since [`Swarm::mark`], the running one included.
    pub longest_gap: Duration,
    /// From the first handshake to ATTACHED, of the latest session.
    pub birth: Option<Duration>,
}

/// All members at one moment, counted. Sums are since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Members that are ATTACHED.
    pub attached: usize,
    /// Of them those that have heard a marker.
    pub heard: usize,
    /// Members that have recovered since [`Swarm::mark`].
    pub recovered: usize,
    /// Sessions that were granted.
    pub sessions: u64,
    /// Sessions that ended.
    pub ended: u64,
    /// Recoveries that were completed.
    pub recoveries: u64,
    /// Refusals that authenticated.
    pub refusals: u64,
    /// Markers sent.
    pub sent: u64,
    /// Markers that came back.
    pub replied: u64,
    /// Markers that came back twice.
    pub doubled: u64,
    /// Inner packets that are no marker of their member.
    pub damaged: u64,
}

/// A recovery of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberRecovery {
    /// Which member.
    pub member: usize,
    /// When it was complete.
    pub at: BootTime,
    /// As its agent measured it.
    pub report: RecoveryReport,
}

/// The running swarm. Its sessions end with its value.
#[derive(Debug)]
pub struct Swarm {
    commands: Sender<Command>,
    bell: Arc<EventFd>,
    thread: Option<JoinHandle<std::io::Result<Result<()>>>>,
    members: usize,
}

impl Swarm {
    /// Opens the sockets of all members in `namespace`; nothing is sent before [`Self::attach`].
    ///
    /// # Errors
    /// No thread, or no descriptors for all of the sockets.
    pub fn start(namespace: &Namespace, spec: &SwarmSpec, members: Vec<MemberSpec>) -> Result<Self> {
        let (commands, orders) = channel();
        let bell = Arc::new(EventFd::from_value_and_flags(0, nix::sys::eventfd::EfdFlags::EFD_NONBLOCK)?);
        let count = members.len();
        let (ready, started): (Sender<Result<()>>, Receiver<_>) = channel();
        let thread = {
            let (bell, spec) = (Arc::clone(&bell), spec.clone());
            namespace.spawn("swarm", move || match Drive::new(spec, members, orders, bell) {
                Ok(drive) => {
                    let _waiting = ready.send(Ok(()));
                    drive.run()
                }
                Err(error) => {
                    let _waiting = ready.send(Err(error));
                    Ok(())
                }
            })?
        };
        started.recv().context("the swarm's thread has ended")??;
        Ok(Self { commands, bell, thread: Some(thread), members: count })
    }

    /// How many members it has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.members
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.members == 0
    }

    /// Has the members find their links usable, so many of them per second: they handshake.
    ///
    /// # Errors
    /// The swarm's thread has ended.
    pub fn attach(&self, members: Range<usize>, per_second: u32) -> Result<()> {
        self.order(Command::Attach { members, per_second })
    }

    /// Ends the sessions of members and has them come again as new processes would.
    ///
    /// # Errors
    /// The swarm's thread has ended.
    pub fn restart(&self, members: Range<usize>) -> Result<()> {
        self.order(Command::Restart { members })
    }

    /// Gives the bound uplink of each member another port, as a NAT in front of it would; no agent is told.
    ///
    /// # Errors
    /// The swarm's thread has ended.
    pub fn rebind(&self, members: Range<usize>) -> Result<()> {
        self.order(Command::Rebind { members })
    }

    /// Has members lose the link that they are bound to, all at the same moment; their agents are told. Links lost before
    /// are there again. Gives that moment.
    ///
    /// # Errors
    /// The swarm's thread has ended.
    pub fn fail(&self, members: Range<usize>) -> Result<BootTime> {
        self.ask(|answer| Command::Fail { members, answer })
    }

    /// Has members find the links again that [`Self::fail`] took.
    ///
    /// # Errors
    /// The swarm's thread has ended.
    pub fn heal(&self, members: Range<usize>) -> Result<()> {
        self.order(Command::Heal { members })
    }

    /// Has members come again as new processes would, without a goodbye of the old ones.
    ///
    /// # Errors
    /// The swarm's thread has ended.
    pub fn vanish(&self, members: Range<usize>) -> Result<()> {
        self.order(Command::Vanish { members })
    }

    /// Ends the sessions of members; they do not come again.
    ///
    /// # Errors
    /// The swarm's thread has ended.
    pub fn end_sessions(&self, members: Range<usize>) -> Result<()> {
        self.order(Command::Terminate { members })
    }

    /// Holds the markers of all members back, or lets them go on.
    ///
    /// # Errors
    /// The swarm's thread has ended.
    pub fn quiet(&self, quiet: bool) -> Result<()> {
        self.ask(|answer| Command::Quiet { quiet, answer })
    }

    /// All members as they are now, counted.
    ///
    /// # Errors
    /// The swarm's thread has ended.
    pub fn census(&self) -> Result<Census> {
        self.ask(|answer| Command::Census { answer })
    }

    /// Has members lose the link that they are bound to, and find the other one, again and again at this interval.
    ///
    /// # Errors
    /// The swarm's thread has ended.
    pub fn flap(&self, members: Range<usize>, interval: Option<Duration>) -> Result<()> {
        self.order(Command::Flap { members, interval })
    }

    /// From now on the longest gaps are looked for.
    ///
    /// # Errors
    /// The swarm's thread has ended.
    pub fn mark(&self) -> Result<()> {
        self.ask(|answer| Command::Mark { answer })
    }

    /// All members as they are now.
    ///
    /// # Errors
    /// The swarm's thread has ended.
    pub fn view(&self) -> Result<Vec<MemberView>> {
        self.ask(|answer| Command::View { answer })
    }

    /// The recoveries completed since this was last asked.
    ///
    /// # Errors
    /// The swarm's thread has ended.
    pub fn take_recoveries(&self) -> Result<Vec<MemberRecovery>> {
        self.ask(|answer| Command::TakeRecoveries { answer })
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Result<T> {
        let (answer, answered) = channel();
        self.order(command(answer))?;
        answered.recv_timeout(ANSWER_PATIENCE).map_err(|_| anyhow!("the swarm's thread does not answer"))
    }

    fn order(&self, command: Command) -> Result<()> {
        self.commands.send(command).map_err(|_| anyhow!("the swarm's thread has ended"))?;
        self.bell.write(1).context("the swarm's thread cannot be woken")?;
        Ok(())
    }

    /// Ends all sessions and the thread.
    ///
    /// # Errors
    /// Why the thread had ended before.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        // Fails if the thread has ended already; why is what its join says.
        let _gone = self.order(Command::Stop);
        thread.join().map_err(|_| anyhow!("the swarm's thread panicked"))?.context("the swarm's namespace")?
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        // Whoever wants to know how it ended calls `stop`.
        let _ended = self.end();
    }
}
