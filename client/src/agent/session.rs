//! A live session: its one binding, its generations, the watch over its path, and how it ends.

use super::binding::{Binding, Generation, Sending};
use super::birth::Birth;
use super::probing::Probing;
use super::reattach::Recovery;
use super::rekey::Rekeying;
use super::takeover::Taking;
use super::{Agent, Event, Phase, Suspicion, Transmit};
use crate::paths::UplinkId;
use crate::paths::campaign::Pace;
use crate::paths::monitor::{Monitor, Step, Timing};
use crate::paths::mtu::{MTU_BASE, MtuSearch};
use crate::paths::quality::PathQuality;
use jvpn_abi::wire::internal::{ProbeFrame, ProbeKind};
use jvpn_abi::{BootTime, Reason};
use jvpn_crypto::schedule::TakeoverKey;
use jvpn_session::State;
use jvpn_session::messages::{ControlMessage, HandshakeGrant, SessionId, SwitchCause};
use std::collections::BTreeMap;
use std::time::Duration;

/// A session that ended within this time of its birth makes the next handshake wait …
const SHORT_LIFE: Duration = Duration::from_secs(10);
/// … this long, so that a gateway which ends every session is not stormed.
const SHORT_LIFE_WAIT: Duration = Duration::from_secs(1);
/// Shortest transport-loss TTL that is believed; policy has its own, higher bound.
const LOSS_TTL_MIN: Duration = Duration::from_secs(1);

/// What the gateway last said about itself in sealed CONTROL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GatewayView {
    pub(super) version: u64,
    pub(super) state: State,
    pub(super) reason: Reason,
}

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) grant: Box<HandshakeGrant>,
    pub(super) started: BootTime,
    pub(super) state: State,
    pub(super) reason: Reason,
    pub(super) gateway: Option<GatewayView>,
    pub(super) binding: Binding,
    pub(super) monitor: Monitor,
    /// The generation under which a frame was opened last (at first: the birth's).
    pub(super) held: Generation,
    /// A newer one that was answered but under which nothing has been opened yet.
    pub(super) newer: Option<Generation>,
    /// The secret of the takeover exchange.
    pub(super) takeover: TakeoverKey,
    /// An offered binding that is being taken.
    pub(super) taking: Option<Taking>,
    /// The nonce of the last request. Only rises.
    pub(super) nonce: u64,
    pub(super) recovery: Option<Recovery>,
    /// New keys that were asked for.
    pub(super) rekey: Option<Rekeying>,
    pub(super) probing: Probing,
    /// Loss towards the gateway, as its probe answers tell it: {highest counter + 1, received}.
    pub(super) heard_by_gateway: Option<(u64, u64)>,
    /// How far the burst had got that led to the binding, while no answer to a probe says that the gateway hears us on it.
    pub(super) unheard: Pace,
    /// The quality of the bound path, as this end judges it.
    pub(super) quality: PathQuality,
    /// The size of inner packets on the bound path.
    pub(super) mtu: MtuSearch,
    /// What each uplink carried when it was last bound.
    pub(super) known_mtus: BTreeMap<UplinkId, u16>,
    /// What the shell was told.
    pub(super) told_mtu: u16,
}

impl Session {
    pub(super) fn new(
        grant: Box<HandshakeGrant>,
        binding: Binding,
        generation: Generation,
        takeover: TakeoverKey,
        rtt: Duration,
        patience: Duration,
        now: BootTime,
    ) -> Self {
        Self {
            id: grant.session_id,
            quality: PathQuality::new(&grant.policy),
            monitor: Monitor::new(Timing::from(&grant.policy), Some(rtt), patience, now),
            mtu: MtuSearch::new(grant.mtu, None, now),
            known_mtus: BTreeMap::new(),
            told_mtu: MTU_BASE,
            grant,
            started: now,
            state: State::Birth,
            reason: Reason::HandshakeStart,
            gateway: None,
            binding,
            held: generation,
            newer: None,
            takeover,
            taking: None,
            nonce: 0,
            recovery: None,
            rekey: None,
            probing: Probing::new(),
            heard_by_gateway: None,
            unheard: Pace::default(),
        }
    }

    /// When something is due.
    pub(super) fn next_event(&self) -> BootTime {
        let watch = match self.binding.sending {
            Sending::Allowed => self.monitor.next_event(),
            Sending::Stopped => BootTime::NEVER,
        };
        let watch = watch.min(self.mtu_event());
        match &self.recovery {
            None => watch.min(self.probing.wake).min(self.key_event()),
            Some(recovery) => {
                let taking = self.taking.as_ref().map_or(BootTime::NEVER, |taking| taking.next_at);
                watch.min(self.probing.wake).min(recovery.wake).min(self.loss_deadline(recovery)).min(taking)
            }
        }
    }

    /// When the session is over if nothing comes back.
    pub(super) fn loss_deadline(&self, recovery: &Recovery) -> BootTime {
        let ttl = Duration::from_millis(u64::from(self.grant.policy.transport_loss_ttl_ms));
        recovery.decided_at.after(ttl.max(LOSS_TTL_MIN))
    }

    /// A probe or its answer, filled in.
    pub(super) fn probe(
        &self,
        kind: ProbeKind,
        id: u32,
        sent_at_ns: u64,
        next: Duration,
        rtt_us: u32,
    ) -> ProbeFrame {
        let (received, highest_counter) = self.binding.received();
        let next_interval_ms = u32::try_from(next.as_millis()).unwrap_or(u32::MAX);
        ProbeFrame { kind, id, sent_at_ns, next_interval_ms, rtt_us, received, highest_counter }
    }
}

impl Agent {
    pub(super) fn drive_session(&mut self, now: BootTime) {
        loop {
            let Self { phase: Phase::Session(session), paths, .. } = self else { return };
            if let Some(recovery) = &session.recovery
                && now >= session.loss_deadline(recovery)
            {
                self.end_session(now, Reason::TtlTransportLossExpired);
                return;
            }
            if session.binding.sending == Sending::Stopped {
                break;
            }
            session.monitor.set_elsewhere(paths.elsewhere(now, session.binding.uplink));
            let step = session.monitor.poll(now);
            self.suspicion = match (session.monitor.missed(), self.suspicion) {
                (0, _) => Suspicion::No,
                (_, Suspicion::No) => Suspicion::Fresh,
                (_, told) => told,
            };
            match step {
                Step::Probe { id, next_within } => self.send_probe(now, id, next_within),
                // While a recovery waits for its proof, silence is one more attempt that failed.
                Step::Dead if session.recovery.is_some() => self.binding_unproven(now),
                Step::Dead => self.begin_recovery(now, SwitchCause::PathDead, None),
                Step::Unproven => self.binding_unproven(now),
                Step::Wait(_) => break,
            }
        }
        self.drive_mtu(now);
        self.drive_taking(now);
        self.drive_rekey(now);
        self.drive_recovery(now);
    }

    fn send_probe(&mut self, now: BootTime, id: u32, next_within: Duration) {
        let Phase::Session(session) = &mut self.phase else { return };
        let rtt_us = session.quality.probe_sent(id, session.binding.key_number().0);
        let frame = session.probe(ProbeKind::Probe, id, now.0, next_within, rtt_us);
        self.send_internal(now, &frame);
    }

    /// Seals an internal frame and queues it.
    pub(super) fn send_internal(&mut self, now: BootTime, frame: &ProbeFrame) {
        let Phase::Session(session) = &mut self.phase else { return };
        match session.binding.seal_new(&frame.encode()) {
            Ok(payload) => {
                let uplink = session.binding.uplink;
                self.outbox.push_back(Transmit { uplink, payload });
            }
            Err(_) => self.key_exhausted(now),
        }
    }

    /// The sending key is used up: new keys come with a new binding, over the same path if it works.
    pub(super) fn key_exhausted(&mut self, now: BootTime) {
        let Phase::Session(session) = &self.phase else { return };
        let uplink = session.binding.uplink;
        self.begin_recovery(now, SwitchCause::Rekey, Some(uplink));
    }

    /// The uplink was lost or got another address.
    pub(super) fn leave_uplink(&mut self, now: BootTime, uplink: UplinkId, cause: SwitchCause) {
        let prefer = (cause == SwitchCause::AddressChange).then_some(uplink);
        let Self { phase: Phase::Session(session), paths, .. } = self else { return };
        if let Some(recovery) = &mut session.recovery {
            if recovery.is_only_planned() {
                if uplink == recovery.target {
                    return self.stay(now, Reason::TransportDead, Duration::ZERO);
                }
                if uplink == recovery.from {
                    recovery.cause = cause;
                    recovery.campaign.at_once();
                }
            } else if cause == SwitchCause::AddressChange
                && recovery.from == uplink
                && recovery.campaign.attempts() == 0
            {
                // A new address after a moment without any: the link was there all the time.
                recovery.cause = cause;
            }
            if recovery.campaign.uplink() == Some(uplink) {
                recovery.request = None;
                session.taking = None;
                session.binding.sending = Sending::Stopped;
                match prefer {
                    Some(_) => recovery.campaign.again(now),
                    None => recovery.campaign.failed(now, paths, now),
                }
            }
        } else if session.binding.uplink == uplink {
            self.begin_recovery(now, cause, prefer);
        }
    }

    /// No frame came over the newest binding in time.
    fn binding_unproven(&mut self, now: BootTime) {
        let Self { phase: Phase::Session(session), paths, .. } = self else { return };
        match &mut session.recovery {
            None => {
                let uplink = session.binding.uplink;
                paths.mark_failed(uplink, now);
                self.end_session(now, Reason::HandshakeFail);
            }
            Some(recovery) => {
                session.binding.sending = Sending::Stopped;
                recovery.campaign.failed(now, paths, now);
            }
        }
    }

    pub(super) fn set_state(&mut self, to: State, reason: Reason) {
        let Phase::Session(session) = &mut self.phase else { return };
        let from = session.state;
        if from == to {
            return;
        }
        session.state = to;
        session.reason = reason;
        let (session, uplink) = (session.id, session.binding.uplink);
        self.push_event(Event::StateChange { session, from: Some(from), to, reason, uplink });
    }

    /// The session is over; unless another device took its place, a new one is sought.
    pub(super) fn end_session(&mut self, now: BootTime, reason: Reason) {
        self.set_state(State::Terminated, reason);
        let Phase::Session(session) = &self.phase else { return };
        let short = now.since(session.started) < SHORT_LIFE;
        let session = session.id;
        self.push_event(Event::SessionEnded { session, reason });
        self.phase = if reason == Reason::Superseded {
            Phase::Ended(reason)
        } else {
            let not_before = if short { now.after(SHORT_LIFE_WAIT) } else { now };
            Phase::Searching(Box::new(Birth::new(not_before)))
        };
    }

    /// Tells the gateway that the session ends. Unacknowledged: if it is lost, the gateway's TTL ends the session.
    pub(super) fn say_goodbye(&mut self) {
        let Phase::Session(session) = &mut self.phase else { return };
        let message = ControlMessage::Terminate { reason: Reason::PeerTerminate };
        if let Ok(payload) = session.binding.control_out.seal(&message.encode()) {
            let uplink = session.binding.uplink;
            self.outbox.push_back(Transmit { uplink, payload });
        }
    }
}
