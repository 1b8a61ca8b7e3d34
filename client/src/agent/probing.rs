//! Candidates of a live session: tickets asked for and used, probes sent, echoes judged, and the way back to a better
//! uplink.

use super::binding::Sending;
use super::{Agent, Event, Phase, Transmit};
use crate::paths::UplinkId;
use crate::paths::candidates::{Situation, Step, Urgency};
use crate::paths::monitor::Timing;
use jvpn_abi::wire::path::PathEcho;
use jvpn_abi::{BootTime, Reason};
use jvpn_crypto::cookie::Cookie;
use jvpn_crypto::path::{AwaitedEcho, Ticket};
use jvpn_session::State;
use jvpn_session::messages::{ControlMessage, SwitchCause, TicketBatch};
use std::collections::VecDeque;
use std::time::Duration;

/// Fewer tickets than this, and more are asked for: one batch lasts for the asking, another for suspicion meanwhile.
const TICKETS_LOW: usize = 24;
/// Most tickets held.
const TICKETS_MAX: usize = 64;
/// Echoes that may be awaited; the oldest are given up.
const AWAITED_MAX: usize = 64;
/// First wait for tickets, at least; it doubles with each request that brings none …
const ASK_WAIT_MIN: Duration = Duration::from_secs(1);
/// … up to this.
const ASK_WAIT_MAX: Duration = Duration::from_secs(60);
/// Longest silence before a voluntary switch, whatever the old path's round-trip time.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// After a refused voluntary switch the next one waits at least so long.
const REFUSED_WAIT: Duration = Duration::from_secs(5);

/// A probe on its way.
#[derive(Debug)]
struct Awaited {
    uplink: UplinkId,
    number: u32,
    echo: AwaitedEcho,
}

/// What a session knows about probing beside its paths.
#[derive(Debug)]
pub(super) struct Probing {
    /// With the moment at which each expires, soonest first.
    tickets: VecDeque<(BootTime, Ticket)>,
    awaited: VecDeque<Awaited>,
    /// When tickets may be asked for again, and how long the wait after that is.
    ask_at: BootTime,
    ask_wait: Duration,
    /// No voluntary switch before.
    voluntary_at: BootTime,
    /// When something is due.
    pub(super) wake: BootTime,
}

impl Probing {
    pub(super) const fn new() -> Self {
        Self {
            tickets: VecDeque::new(),
            awaited: VecDeque::new(),
            ask_at: BootTime(0),
            ask_wait: ASK_WAIT_MIN,
            voluntary_at: BootTime(0),
            wake: BootTime::NEVER,
        }
    }

    /// Tickets held.
    pub(super) fn tickets(&self) -> usize {
        self.tickets.len()
    }

    fn expire(&mut self, now: BootTime) {
        while self.tickets.front().is_some_and(|(until, _)| now >= *until) {
            self.tickets.pop_front();
        }
    }
}

impl Agent {
    /// Probes what is to be probed and goes back to a better uplink when it may.
    pub(super) fn drive_probing(&mut self, now: BootTime) {
        let Phase::Session(session) = &mut self.phase else { return };
        if session.state == State::Birth {
            session.probing.wake = BootTime::NEVER;
            return;
        }
        session.probing.expire(now);
        let mut wake = self.ask_for_tickets(now);
        loop {
            let Self { phase: Phase::Session(session), paths, random, .. } = self else { return };
            let healthy = session.recovery.is_none() && session.monitor.missed() == 0;
            let urgency = if !healthy {
                Urgency::Suspicion(Timing::from(&session.grant.policy).suspicion)
            } else if session.quality.worth_leaving_at().is_some() {
                Urgency::Compare
            } else {
                Urgency::Calm
            };
            let situation = Situation {
                active: session.binding.uplink,
                urgency,
                candidates_max: usize::from(session.grant.policy.candidates_max),
                tickets: session.probing.tickets.len(),
            };
            match paths.poll_candidates(now, &situation, Self::jitter(random.as_mut())) {
                Step::Probe { uplink, number } => self.send_path_probe(uplink, number),
                Step::Wait(at) => {
                    wake = wake.min(at);
                    break;
                }
            }
        }
        wake = wake.min(self.consider_fail_back(now));
        wake = wake.min(self.consider_better_path(now));
        if let Phase::Session(session) = &mut self.phase {
            session.probing.wake = wake;
        }
    }

    /// Asks for tickets if there is anything to probe and too few are left; returns when to look again.
    fn ask_for_tickets(&mut self, now: BootTime) -> BootTime {
        let Self { phase: Phase::Session(session), paths, .. } = self else { return BootTime::NEVER };
        let active = session.binding.uplink;
        let others = paths.iter().any(|(id, uplink)| id != active && uplink.link.is_usable());
        // Only over a path that works: on any other it would be lost, and the gateway answers over no other.
        let works = session.recovery.is_none()
            && session.binding.sending == Sending::Allowed
            && session.monitor.is_proven()
            && session.monitor.missed() == 0;
        if !others || !works || session.probing.tickets.len() >= TICKETS_LOW {
            let next = session.probing.tickets.front().map(|(until, _)| *until);
            return next.filter(|_| others && works).unwrap_or(BootTime::NEVER);
        }
        if now < session.probing.ask_at {
            return session.probing.ask_at;
        }
        let rtt = session.monitor.rtt().smoothed().unwrap_or_default();
        session.probing.ask_at = now.after(session.probing.ask_wait.max(rtt * 2));
        session.probing.ask_wait = (session.probing.ask_wait * 2).min(ASK_WAIT_MAX);
        if let Ok(payload) = session.binding.control_out.seal(&ControlMessage::AskTickets.encode()) {
            self.outbox.push_back(Transmit { uplink: active, payload });
            self.counters.tickets_asked += 1;
        }
        session.probing.ask_at
    }

    /// Tickets came.
    pub(super) fn take_tickets(&mut self, now: BootTime, batch: TicketBatch) {
        let Phase::Session(session) = &mut self.phase else { return };
        let probing = &mut session.probing;
        let until = now.after(Duration::from_secs(u64::from(batch.lifetime_s)));
        for ticket in batch.tickets {
            if probing.tickets.len() >= TICKETS_MAX {
                probing.tickets.pop_front();
            }
            probing.tickets.push_back((until, ticket.into()));
            self.counters.tickets_received += 1;
        }
        // At once if this was not enough; otherwise the wait starts anew with the next need.
        probing.ask_wait = ASK_WAIT_MIN;
        probing.ask_at = if probing.tickets.len() < TICKETS_LOW { now } else { probing.ask_at };
    }

    fn send_path_probe(&mut self, uplink: UplinkId, number: u32) {
        let Phase::Session(session) = &mut self.phase else { return };
        let Some((_, ticket)) = session.probing.tickets.pop_front() else { return };
        let (probe, echo) = ticket.probe();
        if session.probing.awaited.len() >= AWAITED_MAX {
            session.probing.awaited.pop_front();
        }
        session.probing.awaited.push_back(Awaited { uplink, number, echo });
        self.outbox.push_back(Transmit { uplink, payload: probe.to_vec() });
        self.counters.path_probes_sent += 1;
    }

    /// An echo counts once, over the uplink that its probe went out on, and with the ticket's own MAC.
    pub(super) fn handle_echo(&mut self, now: BootTime, uplink: UplinkId, datagram: &[u8]) {
        let Some(echo) = PathEcho::parse(datagram) else {
            self.counters.malformed += 1;
            return;
        };
        let Self { phase: Phase::Session(session), paths, .. } = self else {
            self.counters.unauthentic += 1;
            return;
        };
        let awaited = &mut session.probing.awaited;
        let found =
            awaited.iter().position(|awaited| awaited.uplink == uplink && awaited.echo.matches(&echo));
        let Some(found) = found.and_then(|at| awaited.remove(at)) else {
            self.counters.unauthentic += 1;
            return;
        };
        self.counters.path_echoes += 1;
        paths.candidate_answered(now, uplink, found.number);
        let cookie = Cookie(echo.cookie);
        if cookie.is_some() {
            self.keep_cookie(now, uplink, cookie);
        }
        let Self { phase: Phase::Session(session), paths, .. } = self else { return };
        // A request that was repeated without an answer yields to a path that has just given one.
        if let Some(recovery) = &mut session.recovery
            && recovery.campaign.uplink().is_some_and(|open| open != uplink)
        {
            recovery.campaign.link_gained(now, paths);
        }
    }

    /// Whether a voluntary switch is possible: the bound uplink, how long to be silent on it before, and from when on
    /// policy allows it.
    pub(super) fn free_choice(&self) -> Option<(UplinkId, Duration, BootTime)> {
        let Phase::Session(session) = &self.phase else { return None };
        // Keys that are being renewed come first: then both ends agree on what the request is made under.
        let settled = session.recovery.is_none() && session.rekey.is_none() && session.newer.is_none();
        let healthy = settled
            && session.binding.sending == Sending::Allowed
            && session.monitor.is_proven()
            && session.monitor.missed() == 0;
        // DEGRADED means: no voluntary switches.
        if !healthy || !matches!(session.state, State::Attached | State::Volatile) {
            return None;
        }
        let rtt = session.monitor.rtt().smoothed().unwrap_or_default();
        let cooldown = Duration::from_millis(u64::from(session.grant.policy.cooldown_ms));
        // The gateway counts from the confirmation, a round trip after the answer at most.
        let allowed = session.binding.since.after(cooldown + rtt * 2).max(session.probing.voluntary_at);
        // What is under way on the old path arrives before the switch: a voluntary switch loses nothing.
        Some((session.binding.uplink, rtt.min(DRAIN_MAX), allowed))
    }

    /// Goes back to a better uplink if policy and its evidence allow; returns when to look again.
    fn consider_fail_back(&mut self, now: BootTime) -> BootTime {
        let Some((active, drain, allowed)) = self.free_choice() else { return BootTime::NEVER };
        let paths = &self.paths;
        let Some(target) = paths.fail_back(now, active) else {
            let due = paths.fail_back_due(active).unwrap_or(BootTime::NEVER);
            return if due > now { due } else { BootTime::NEVER };
        };
        if now < allowed {
            return allowed;
        }
        self.begin_voluntary(now, target, drain);
        BootTime::NEVER
    }

    pub(super) fn begin_voluntary(&mut self, now: BootTime, target: UplinkId, drain: Duration) {
        self.begin_recovery(now, SwitchCause::Voluntary, Some(target));
        if let Phase::Session(session) = &mut self.phase
            && let Some(recovery) = session.recovery.take()
        {
            session.recovery = Some(recovery.starting(now.after(drain)));
        }
        self.drive_recovery(now);
    }

    /// Whether a refusal for this reason leaves the session as it was, on the binding that was not to be left.
    pub(super) fn stays(&self, reason: Reason) -> bool {
        let Phase::Session(session) = &self.phase else { return false };
        let first = session.recovery.as_ref().is_some_and(|recovery| {
            recovery.cause == SwitchCause::Voluntary && recovery.campaign.attempts() <= 1
        });
        first && matches!(reason, Reason::Cooldown | Reason::RateLimited | Reason::PolicyDeny)
    }

    /// A voluntary switch does not take place: the old binding goes on.
    pub(super) fn stay(&mut self, now: BootTime, reason: Reason, retry_after: Duration) {
        let Phase::Session(session) = &mut self.phase else { return };
        let Some(recovery) = session.recovery.take() else { return };
        session.probing.voluntary_at = now.after(retry_after.max(REFUSED_WAIT));
        session.binding.sending = Sending::Allowed;
        let id = session.id;
        self.set_state(recovery.before, reason);
        self.push_event(Event::SwitchCancelled { session: id, to: recovery.target, reason });
        self.drive_session(now);
        self.flush_held(now);
    }
}
