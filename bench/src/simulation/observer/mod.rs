//! Watches from outside what engine, workers and agents do, and knows nothing but the rules: wire headers, table words,
//! audit events and client events go in, the first broken invariant comes out.

mod audit;
mod numbers;
mod seals;

use super::network::PathId;
use super::packet::Numbered;
pub use audit::AuditTrail;
pub use numbers::Numbers;

use jvpn_abi::wire::path::ECHO_COOKIE_AT;
use jvpn_abi::wire::{COOKIE_LEN, MsgType, SlotId, octets};
use jvpn_abi::{BootTime, Endpoint};
use jvpn_client::agent::Event;
use jvpn_client::paths::UplinkId;
use jvpn_crypto::cookie::Question;
use jvpn_session::messages::SessionId;
use jvpn_session::{Policy, State};
use seals::Seals;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::Ipv4Addr;

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{invariant} broken at {at_ms} ms: {what}")]
pub struct Violation {
    /// Which one, as `docs/PROTOCOL.md` numbers them.
    pub invariant: &'static str,
    /// Virtual time since the start.
    pub at_ms: u64,
    /// What was seen.
    pub what: String,
}

/// All watchers.
#[derive(Debug)]
pub struct Observer {
    start: BootTime,
    now: BootTime,
    /// What the audit log says.
    pub trail: AuditTrail,
    pub(super) seals: Seals,
    clients: Vec<ClientWatch>,
    by_inner: HashMap<Ipv4Addr, usize>,
    ledger: HashMap<Endpoint, Ledger>,
}

/// What one client has shown.
#[derive(Clone, Debug, Default)]
pub struct ClientWatch {
    /// The session that it says it has.
    pub session: Option<SessionId>,
    /// The state that it shows.
    pub state: Option<State>,
    /// Every session that it had, in order.
    pub sessions: Vec<SessionId>,
    /// Every end that it reported.
    pub ends: Vec<(SessionId, jvpn_abi::Reason)>,
    /// Completed recoveries.
    pub recoveries: Vec<(BootTime, jvpn_client::agent::RecoveryReport)>,
    /// Packets that it sent and the server saw.
    pub at_server: Numbers,
    /// Echoes that came back.
    pub echoed: Numbers,
    inner: Option<Ipv4Addr>,
}

/// Octets to and from an endpoint until it was proven.
#[derive(Clone, Debug, Default)]
struct Ledger {
    received: u64,
    sent: u64,
    proven: bool,
    /// The last cookies that went there in clear.
    cookies: VecDeque<[u8; COOKIE_LEN]>,
    /// CONTROL went there; a path hint in it may have brought a cookie.
    told: bool,
}

/// Cookies that an endpoint may still show: they change every two minutes and count four.
const COOKIES: usize = 4;

impl Ledger {
    /// What the gateway sends there may bring a cookie: it lies at one place in a RETRY and an echo.
    fn note_sent(&mut self, datagram: &[u8]) {
        self.sent += datagram.len() as u64;
        match datagram.first().copied().and_then(MsgType::from_octet) {
            Some(MsgType::Control) => self.told = true,
            Some(MsgType::Retry | MsgType::PathEcho) => {
                let cookie = octets(datagram, ECHO_COOKIE_AT).filter(|cookie| !self.cookies.contains(cookie));
                self.cookies.extend(cookie);
                let old = self.cookies.len().saturating_sub(COOKIES);
                self.cookies.drain(..old);
            }
            Some(_) | None => {}
        }
    }

    /// A request that shows what went there proves that its sender receives there.
    fn note_received(&mut self, datagram: &[u8]) {
        self.received += datagram.len() as u64;
        if datagram.first() == Some(&MsgType::ReattachRequest.octet())
            && let Some(shown) = Question::of_request(datagram).map(|question| question.shown())
        {
            self.proven |= shown.is_some() && (self.told || self.cookies.contains(&shown.0));
        }
    }
}

impl Observer {
    /// Watches `clients` under this policy, from `start` on.
    #[must_use]
    pub fn new(clients: usize, policy: &Policy, start: BootTime) -> Self {
        Self {
            start,
            now: start,
            trail: AuditTrail::new(policy),
            seals: Seals::default(),
            clients: vec![ClientWatch::default(); clients],
            by_inner: HashMap::new(),
            ledger: HashMap::new(),
        }
    }

    /// Time goes on.
    pub(super) const fn set_now(&mut self, now: BootTime) {
        self.now = now;
    }

    /// A violation that is seen now.
    pub(crate) fn violation(&self, invariant: &'static str, what: impl fmt::Display) -> Violation {
        let at_ms = u64::try_from(self.now.since(self.start).as_millis()).unwrap_or(u64::MAX);
        Violation { invariant, at_ms, what: what.to_string() }
    }

    fn judge(&self, verdict: Result<(), (&'static str, String)>) -> Result<(), Violation> {
        verdict.map_err(|(invariant, what)| self.violation(invariant, what))
    }

    /// What a client has shown so far.
    ///
    /// # Panics
    /// If there is no such client: the test's own mistake.
    #[must_use]
    pub fn client(&self, client: usize) -> &ClientWatch {
        &self.clients[client]
    }

    pub(super) fn set_inner(&mut self, client: usize, inner: Ipv4Addr) {
        self.clients[client].inner = Some(inner);
        self.by_inner.insert(inner, client);
    }

    /// The control plane died in the middle of a step: what it had to log about it is lost.
    pub(super) fn control_plane_died_in_a_step(&mut self) {
        self.trail.lose_lines();
    }

    /// A line of the audit log.
    pub(super) fn audit(&mut self, line: &jvpn_controlplane::audit::Line) -> Result<(), Violation> {
        let verdict = self.trail.line(line);
        self.judge(verdict)
    }

    /// A slot is bound, and this is its owner by the engine's account.
    pub(super) fn bound(
        &self,
        slot: SlotId,
        confirmation: Confirmation,
        owner: Option<SessionId>,
    ) -> Result<(), Violation> {
        let Some(session) = owner else {
            return Err(self.violation("I1", format_args!("{slot:?} is bound, but no session has it")));
        };
        let state = self.trail.state(session);
        let fits = match state {
            Some(State::Attached | State::Volatile | State::Degraded) => true,
            Some(State::Recovering | State::Birth) => confirmation == Confirmation::Awaited,
            Some(State::Terminated) | None => false,
        } || self.trail.is_behind(session);
        if !fits {
            let text = format_args!("{slot:?} of {session} is bound, {confirmation:?}, in {state:?}");
            return Err(self.violation("I1", text));
        }
        Ok(())
    }

    /// The control plane has had its turn: nothing that it knows is in a passing state for too long.
    pub(super) fn clocks(&mut self, knows: &dyn Fn(SessionId) -> bool) -> Result<(), Violation> {
        let verdict = self.trail.clocks(self.now, knows);
        self.judge(verdict)
    }

    /// The slot that was bound last for a session, by its index.
    pub(super) fn newest_slot(&self, session: SessionId) -> Option<u32> {
        self.seals.newest_slot(session).map(SlotId::index)
    }

    /// A client's own event.
    pub(super) fn client_event(&mut self, client: usize, event: &Event) -> Result<(), Violation> {
        let watch = &mut self.clients[client];
        let broken = match event {
            Event::SessionStarted { grant } => {
                let before = watch.session.replace(grant.session_id);
                watch.sessions.push(grant.session_id);
                before.map(|id| format!("client {client}: {} without an end of {id}", grant.session_id))
            }
            Event::SessionEnded { session, reason } => {
                watch.ends.push((*session, *reason));
                let held = watch.session.take();
                (held != Some(*session)).then(|| format!("client {client} ends {session}, but had {held:?}"))
            }
            Event::StateChange { session, from, to, .. } => {
                let before = if from.is_some() { watch.state } else { None };
                watch.state = Some(*to);
                let right = watch.session == Some(*session) && *from == before;
                (!right).then(|| format!("client {client}: {from:?} to {to:?} of {session} after {before:?}"))
            }
            Event::RecoveryStarted { session, .. } => (watch.session != Some(*session))
                .then(|| format!("client {client} recovers {session}, which it does not have")),
            Event::RecoveryComplete { session, report } => {
                watch.recoveries.push((self.now, *report));
                (watch.session != Some(*session))
                    .then(|| format!("client {client} recovered {session}, which it does not have"))
            }
            Event::SwitchCancelled { session, .. } => (watch.session != Some(*session))
                .then(|| format!("client {client} stays with {session}, which it does not have")),
            Event::Refused { .. } | Event::Link { .. } | Event::MtuChanged { .. } => None,
            Event::Trouble { message } => Some(format!("client {client}: {message}")),
        };
        broken.map_or(Ok(()), |what| Err(self.violation("I2", what)))
    }

    /// A client sends DATA.
    pub(super) fn sealed_up(&mut self, path: PathId, datagram: &[u8]) -> Result<(), Violation> {
        let verdict = self.seals.up(path, datagram);
        self.judge(verdict)
    }

    /// The gateway sends a datagram: DATA and CONTROL never repeat a counter, strangers get no more than they gave, and DATA
    /// goes to nobody who is proven neither by a frame nor by a cookie.
    pub(super) fn gateway_sends(&mut self, remote: Endpoint, datagram: &[u8]) -> Result<(), Violation> {
        let verdict = self.seals.down(datagram);
        self.judge(verdict)?;
        let ledger = self.ledger.entry(remote).or_default();
        ledger.note_sent(datagram);
        if !ledger.proven && datagram.first() == Some(&MsgType::Data.octet()) {
            return Err(self.violation("I1", format_args!("DATA to {remote}, which is proven neither way")));
        }
        if !ledger.proven && ledger.sent > ledger.received {
            let (sent, received) = (ledger.sent, ledger.received);
            let what = format_args!("{sent} octets to the unproven {remote}, which sent {received}");
            return Err(self.violation("R3.2", what));
        }
        Ok(())
    }

    /// A datagram reaches the gateway.
    pub(super) fn gateway_receives(&mut self, remote: Endpoint, datagram: &[u8]) {
        self.ledger.entry(remote).or_default().note_received(datagram);
    }

    /// A worker accepted a frame from this endpoint: it is proven to be where a client is.
    pub(super) fn proven(&mut self, remote: Endpoint) {
        self.ledger.entry(remote).or_default().proven = true;
    }

    /// A worker accepted or sealed a frame of a slot.
    pub(super) fn used(&mut self, slot: SlotId) -> Result<(), Violation> {
        let verdict = self.seals.used(slot);
        self.judge(verdict)
    }

    /// The control plane hands an entry to the installer.
    pub(super) fn installs(&mut self, entry: &jvpn_abi::tables::InstallEntry) -> Result<(), Violation> {
        let verdict = self.seals.installs(entry);
        self.judge(verdict)
    }

    /// The control plane binds a slot for a session. Its answer has not left yet.
    pub(super) fn binds(&mut self, slot: SlotId, session: Option<SessionId>) -> Result<(), Violation> {
        let verdict = self.seals.binds(slot, session);
        self.judge(verdict)
    }

    /// The server gets a packet.
    pub(super) fn server_receives(&mut self, packet: &[u8]) -> Result<Numbered, Violation> {
        let Some(numbered) = Numbered::decode(packet) else {
            return Err(self.violation("R5.1", "the server got a packet that nobody sent"));
        };
        let sender = self.by_inner.get(&numbered.source).and_then(|client| self.clients.get_mut(*client));
        let Some(sender) = sender else {
            let what = format_args!("the server got a packet from {}", numbered.source);
            return Err(self.violation("R5.1", what));
        };
        if !sender.at_server.insert(numbered.number) {
            let what = format_args!("packet {} of {} came twice", numbered.number, numbered.source);
            return Err(self.violation("R2.4", what));
        }
        Ok(numbered)
    }

    /// A client's tunnel device gets a packet.
    pub(super) fn client_receives(&mut self, client: usize, packet: &[u8]) -> Result<(), Violation> {
        let Some(numbered) = Numbered::decode(packet) else {
            return Err(self.violation("R5.1", "a client got a packet that nobody sent"));
        };
        let watch = &mut self.clients[client];
        let own = watch.inner == Some(numbered.destination) && watch.at_server.contains(numbered.number);
        let fresh = watch.echoed.insert(numbered.number);
        if !own || !fresh {
            let text = format_args!("client {client}: packet {numbered:?}, own {own}, fresh {fresh}");
            return Err(self.violation("R2.4", text));
        }
        Ok(())
    }

    /// A client's agent started anew, without memory.
    pub(super) fn client_restarted(&mut self, client: usize) {
        let watch = &mut self.clients[client];
        watch.session = None;
        watch.state = None;
    }

    /// The uplink over which a client's newest binding was seen to send.
    #[must_use]
    pub fn uplink_of(&self, client: usize) -> Option<UplinkId> {
        self.seals.uplink_of(client)
    }
}

/// Whether a worker has opened a first frame under a bound slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmation {
    /// Yes.
    Given,
    /// No.
    Awaited,
}

#[cfg(test)]
mod tests;
