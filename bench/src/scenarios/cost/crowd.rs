//! A gateway with many clients, and what happens to many of them in a row, timed on the gateway's side only.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jvpn_abi::wire::MsgType;
use jvpn_session::Policy;
use jvpn_session::messages::SwitchCause;

use super::gateway::Gateway;
use super::peer::{Answer, Peer};
use super::progress::Progress;
use super::stopwatch::Stopwatch;
use crate::simulation::dice::Dice;

/// Between two handshakes: so few that the node asks for no cookies (above half of its 500 per second).
const BIRTH_DISTANCE: Duration = Duration::from_millis(5);

/// Time on the gateway's side for a number of operations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// In the engine, with tables that answer at once.
    pub time: Duration,
    /// How many.
    pub count: u64,
}

impl Spent {
    /// Nanoseconds each.
    #[must_use]
    pub fn each_ns(self) -> f64 {
        self.time.as_secs_f64() * 1e9 / self.count.max(1) as f64
    }
}

/// The gateway and its clients.
pub struct Crowd {
    /// The gateway.
    pub gateway: Gateway,
    /// The clients, those that were born first.
    pub peers: Vec<Peer>,
    /// The clients' randomness.
    pub dice: Dice,
    born: usize,
    /// What the heap held before the first birth.
    heap_before: usize,
}

impl Crowd {
    /// A gateway that allows `most` clients and has no session.
    ///
    /// # Errors
    /// No randomness.
    pub fn new(seed: u64, policy: Policy, most: u32) -> Result<Self> {
        let peers = (0..most).map(|number| Peer::new(seed, number)).collect::<Result<Vec<_>>>()?;
        let settings = peers.iter().map(Peer::settings).collect::<Result<_>>()?;
        let mut gateway = Gateway::new(seed, policy, settings)?;
        gateway.sent.reserve(most.min(16_384) as usize * 2);
        let heap_before = jvpn_rig::heap::in_use();
        Ok(Self { gateway, peers, dice: Dice::new(seed, 3), born: 0, heap_before })
    }

    /// Sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.born
    }

    /// Whether nobody has a session yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.born == 0
    }

    /// Octets of heap per session since there was none.
    #[must_use]
    pub fn heap_per_session(&self) -> f64 {
        jvpn_rig::heap::in_use().saturating_sub(self.heap_before) as f64 / self.born.max(1) as f64
    }

    /// The next `count` clients get a session, and confirm it.
    ///
    /// # Errors
    /// One was refused, or Ctrl-C.
    pub fn births(&mut self, count: usize, progress: &mut Progress<'_>) -> Result<Spent> {
        let mut spent = Spent::default();
        for _ in 0..count {
            let number = self.born;
            spent.time += self.birth(number)?;
            spent.count += 1;
            self.born += 1;
            progress.one()?;
        }
        Ok(spent)
    }

    /// One client handshakes and confirms; an older session of it ends.
    ///
    /// # Errors
    /// It was refused.
    pub fn birth(&mut self, number: usize) -> Result<Duration> {
        self.gateway.wait(BIRTH_DISTANCE);
        let peer = self.peers.get_mut(number).context("no such client")?;
        let (init, initiation) = peer.init(&self.gateway.public(), &mut self.dice)?;
        self.gateway.sent.clear();
        let start = Stopwatch::start();
        self.gateway.datagram(peer.remote(), &init);
        let mut time = start.elapsed();
        let response = self.gateway.sent.pop_front().context("a handshake met silence")?;
        let slot = peer.read_response(initiation, &response.payload)?;
        let start = Stopwatch::start();
        self.gateway.confirm(slot);
        time += start.elapsed();
        self.gateway.sent.clear();
        Ok(time)
    }

    /// These clients move to their other path and ask, all before the first is confirmed. Returns the time of requests
    /// and of confirmations.
    ///
    /// # Errors
    /// One was not granted, or Ctrl-C.
    pub fn switches(&mut self, who: &[usize], progress: &mut Progress<'_>) -> Result<(Spent, Spent)> {
        for number in who {
            self.peers.get_mut(*number).context("no such client")?.move_on();
        }
        self.ask(who, SwitchCause::PathDead, progress)
    }

    /// These clients get new keys where they are.
    ///
    /// # Errors
    /// As [`Self::switches`].
    pub fn rekeys(&mut self, who: &[usize], progress: &mut Progress<'_>) -> Result<(Spent, Spent)> {
        self.ask(who, SwitchCause::Rekey, progress)
    }

    fn ask(
        &mut self,
        who: &[usize],
        cause: SwitchCause,
        progress: &mut Progress<'_>,
    ) -> Result<(Spent, Spent)> {
        let mut asked = Vec::with_capacity(who.len());
        for number in who {
            let peer = self.peers.get_mut(*number).context("no such client")?;
            let sent = peer.request(&self.gateway.public(), cause, &mut self.dice)?;
            asked.push((*number, peer.remote(), sent));
        }
        self.gateway.sent.clear();
        let count = who.len() as u64;
        let start = Stopwatch::start();
        for (_, remote, sent) in &asked {
            self.gateway.skip(Duration::from_micros(1));
            self.gateway.datagram(*remote, &sent.datagram);
        }
        let requests = Spent { time: start.elapsed(), count };
        let is_answer = |octet: Option<&u8>| octet == Some(&MsgType::ReattachAck.octet());
        let answers: Vec<_> =
            self.gateway.sent.drain(..).filter(|sent| is_answer(sent.payload.first())).collect();
        ensure!(answers.len() == asked.len(), "{} of {} requests were granted", answers.len(), asked.len());
        let mut granted = Vec::with_capacity(answers.len());
        for ((number, remote, sent), answer) in asked.iter_mut().zip(answers) {
            ensure!(answer.remote == *remote, "an answer to somebody else");
            let peer = self.peers.get_mut(*number).context("no such client")?;
            granted.push(peer.read_answer(sent, &answer.payload)?);
            progress.one()?;
        }
        let start = Stopwatch::start();
        for answer in granted {
            match answer {
                Answer::Granted(slot) => self.gateway.confirm(slot),
                Answer::Rekeyed(slot) => self.gateway.flip(slot),
                Answer::Refused(reason, _) => bail!("a request was refused: {}", reason.name()),
            }
        }
        let confirmations = Spent { time: start.elapsed(), count };
        self.gateway.sent.clear();
        Ok((requests, confirmations))
    }

    /// Sends datagrams, prepared beforehand, one after the other; whatever comes back is thrown away.
    pub fn receive(&mut self, distance: Duration, datagrams: &[(usize, Vec<u8>)]) -> Spent {
        let remotes: Vec<_> = datagrams
            .iter()
            .filter_map(|(number, datagram)| Some((self.peers.get(*number)?.remote(), datagram)))
            .collect();
        let start = Stopwatch::start();
        for (remote, datagram) in remotes {
            self.gateway.skip(distance);
            self.gateway.datagram(remote, datagram);
            self.gateway.sent.clear();
        }
        Spent { time: start.elapsed(), count: datagrams.len() as u64 }
    }

    /// Time passes; returns what the timers that fire meanwhile cost.
    pub fn wait(&mut self, span: Duration) -> Spent {
        let before = self.gateway.looks();
        let start = Stopwatch::start();
        self.gateway.wait(span);
        self.gateway.sent.clear();
        Spent { time: start.elapsed(), count: self.gateway.looks() - before }
    }

    /// `count` clients, spread over all that have a session; another choice for every `turn`.
    #[must_use]
    pub fn some(&self, count: usize, turn: usize) -> Vec<usize> {
        let count = count.min(self.born);
        let stride = (self.born / count.max(1)).max(1);
        (0..count).map(|n| (n * stride + turn) % self.born.max(1)).collect()
    }

    /// Every session is ATTACHED, nobody has two, no slot is left over.
    ///
    /// # Errors
    /// Naming what is not so.
    pub fn check(&self) -> Result<()> {
        let status = self.gateway.status();
        let live: Vec<_> = status.sessions.iter().filter(|session| session.state != "TERMINATED").collect();
        ensure!(live.len() == self.born, "{} sessions live, not {}", live.len(), self.born);
        if let Some(odd) = live.iter().find(|session| session.state != "ATTACHED") {
            bail!("session {} is {} ({})", odd.id, odd.state, odd.reason);
        }
        let peers: std::collections::BTreeSet<_> = live.iter().map(|session| &session.peer).collect();
        ensure!(peers.len() == self.born, "{} peers have the {} sessions", peers.len(), self.born);
        ensure!(status.slots_in_use == self.born, "{} slots are in use", status.slots_in_use);
        Ok(())
    }
}
