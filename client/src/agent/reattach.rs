//! Recovery: leaving a path, asking for a new binding, taking the answer, and measuring how long it took.

use super::binding::{Binding, Generation, Sending};
use super::rekey::KeyLimits;
use super::retry::Retried;
use super::session::Session;
use super::takeover::Taking;
use super::{Agent, Event, Phase, RecoveryReport, Transmit};
use crate::paths::UplinkId;
use crate::paths::campaign::{Campaign, Repetition, Step};
use crate::paths::monitor::{Monitor, Timing};
use crate::paths::quality::PathQuality;
use jvpn_abi::{BootTime, Reason};
use jvpn_crypto::CryptoError;
use jvpn_crypto::cookie::Cookie;
use jvpn_crypto::reattach::{self, PendingRequest, Reject, RequestParams};
use jvpn_crypto::schedule::EpochSecret;
use jvpn_crypto::takeover;
use jvpn_session::State;
use jvpn_session::messages::{Handle, ReattachAsk, ReattachGrant, SwitchCause};
use std::time::Duration;

/// Longest retry_after that is believed: the gateway's own recovery window is shorter.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Wait after a refusal that names no time and leaves hope.
const REFUSED_PAUSE: Duration = Duration::from_millis(250);

/// A recovery under way.
#[derive(Debug)]
pub(super) struct Recovery {
    pub(super) campaign: Campaign,
    pub(super) cause: SwitchCause,
    pub(super) decided_at: BootTime,
    pub(super) wake: BootTime,
    /// The latest request, until it is answered. Answers to earlier ones are ignored.
    pub(super) request: Option<Request>,
    pub(super) from: UplinkId,
    /// The uplink that was chosen with the decision.
    pub(super) target: UplinkId,
    /// The state that a voluntary switch comes back to if it does not take place.
    pub(super) before: State,
    last_heard: BootTime,
    exchange: Exchange,
}

/// How a recovery asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exchange {
    Reattach,
    Takeover,
}

impl Recovery {
    /// The gateway has forgotten the session: from here on it is asked by the takeover exchange.
    pub(super) fn take_over(&mut self) {
        self.exchange = Exchange::Takeover;
        self.campaign.never_repeat();
    }

    /// Its first request was answered before the recovery began.
    pub(super) fn granted(&mut self, uplink: UplinkId) {
        self.campaign = Campaign::granted(uplink);
    }

    /// Nothing is asked before `not_before`.
    pub(super) fn starting(self, not_before: BootTime) -> Self {
        Self { campaign: self.campaign.starting(not_before), ..self }
    }

    /// A voluntary switch that nobody has been told of: the old path can simply go on.
    pub(super) fn is_only_planned(&self) -> bool {
        self.cause == SwitchCause::Voluntary && self.campaign.attempts() == 0
    }
}

/// The latest request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) uplink: UplinkId,
    /// That of a reattach.
    pub(super) handle: Option<Handle>,
    pending: Pending,
    datagram: Vec<u8>,
    under: Under,
    sent_at: BootTime,
    repeated: Repeated,
    retried: Retried,
}

/// What reads the answer.
#[derive(Debug)]
pub(super) enum Pending {
    Reattach(PendingRequest),
    Takeover(takeover::Pending),
}

impl Pending {
    fn with_cookie(&mut self, request: &mut [u8], cookie: Cookie) -> Result<(), CryptoError> {
        match self {
            Self::Reattach(pending) => pending.with_cookie(request, cookie),
            Self::Takeover(pending) => pending.with_cookie(request, cookie),
        }
    }

    fn read_ack(&mut self, datagram: &[u8]) -> Result<(EpochSecret, Vec<u8>), CryptoError> {
        match self {
            Self::Reattach(pending) => pending.read_ack(datagram),
            Self::Takeover(pending) => pending.read_ack(datagram),
        }
    }

    fn read_reject(&mut self, datagram: &[u8]) -> Result<Reject, CryptoError> {
        match self {
            Self::Reattach(pending) => pending.read_reject(datagram),
            Self::Takeover(pending) => pending.read_reject(datagram),
        }
    }
}

/// Which generation a request was made under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Under {
    Held,
    Newer,
}

/// Whether an answer can be matched to one sending (Karn's rule for round-trip samples).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeated {
    No,
    Yes,
}

impl Request {
    /// One that was sent now, under the generation that is held.
    pub(super) const fn new(
        uplink: UplinkId,
        handle: Option<Handle>,
        pending: Pending,
        datagram: Vec<u8>,
        now: BootTime,
    ) -> Self {
        let (under, repeated) = (Under::Held, Repeated::No);
        Self { uplink, handle, pending, datagram, under, sent_at: now, repeated, retried: Retried::No }
    }

    /// The same datagram again.
    pub(super) fn send_again(&mut self) -> Vec<u8> {
        self.repeated = Repeated::Yes;
        self.datagram.clone()
    }

    /// From now on it shows a cookie that was asked for.
    pub(super) fn show(&mut self, cookie: Cookie) -> Option<()> {
        self.pending.with_cookie(&mut self.datagram, cookie).ok()?;
        self.retried = Retried::Yes;
        Some(())
    }
}

impl Agent {
    /// Leaves the bound path. During a birth there is nothing to reattach: it starts again instead.
    pub(super) fn begin_recovery(&mut self, now: BootTime, cause: SwitchCause, prefer: Option<UplinkId>) {
        let Self { phase: Phase::Session(session), paths, cookies, .. } = self else { return };
        if session.recovery.is_some() {
            return;
        }
        let from = session.binding.uplink;
        if cause == SwitchCause::PathHint {
            cookies.forget(from);
        }
        if prefer != Some(from) && !cause.is_voluntary() {
            paths.mark_failed(from, now);
        }
        if session.state == State::Birth {
            return self.end_session(now, Reason::HandshakeFail);
        }
        let last_heard = session.monitor.last_heard();
        session.rekey = None;
        session.binding.sending = Sending::Stopped;
        session.recovery = Some(Recovery {
            campaign: Campaign::new(Repetition::Identical, prefer).going_on(session.unheard),
            cause,
            decided_at: now,
            wake: now,
            request: None,
            from,
            target: prefer.unwrap_or(from),
            before: session.state,
            last_heard,
            exchange: Exchange::Reattach,
        });
        let session = session.id;
        let detect_ms = millis(now.since(last_heard));
        self.push_event(Event::RecoveryStarted { session, cause, from, detect_ms });
        if cause.is_voluntary() {
            // The old path still carries the session; the state follows the first request.
            return;
        }
        let reason = match cause {
            SwitchCause::LinkDown | SwitchCause::PathDead => Reason::TransportDead,
            SwitchCause::Voluntary
            | SwitchCause::PathHint
            | SwitchCause::SlotReset
            | SwitchCause::AddressChange
            | SwitchCause::Wake
            | SwitchCause::Retry
            | SwitchCause::Rekey => Reason::RecoveryStart,
        };
        self.set_state(State::Recovering, reason);
    }

    pub(super) fn drive_recovery(&mut self, now: BootTime) {
        loop {
            let Self { phase: Phase::Session(session), paths, random, .. } = self else { return };
            let Some(recovery) = &mut session.recovery else { return };
            match recovery.campaign.poll(now, paths, Self::jitter(random.as_mut())) {
                Step::Fresh(uplink) => {
                    self.set_state(State::Recovering, Reason::RecoveryStart);
                    self.send_request(now, uplink);
                }
                Step::Repeat(uplink) => {
                    if let Some(request) = &mut recovery.request {
                        let payload = request.send_again();
                        self.outbox.push_back(Transmit { uplink, payload });
                        self.counters.requests_repeated += 1;
                    }
                }
                Step::Wait(at) => {
                    recovery.wake = at;
                    return;
                }
            }
        }
    }

    /// A new request of the recovery.
    fn send_request(&mut self, now: BootTime, uplink: UplinkId) {
        let Phase::Session(session) = &mut self.phase else { return };
        let Some(recovery) = &mut session.recovery else { return };
        let ask = ReattachAsk {
            // Once an answer is overdue the old path may be gone, and no cooldown may keep the session from a new one.
            cause: if recovery.cause.is_voluntary() && recovery.campaign.attempts() > 1 {
                SwitchCause::Retry
            } else {
                recovery.cause
            },
            detect_ms: u32::try_from(millis(recovery.decided_at.since(recovery.last_heard)))
                .unwrap_or(u32::MAX),
            attempt: recovery.campaign.number(),
        };
        let request = match recovery.exchange {
            Exchange::Reattach => self.make_request(now, uplink, ask),
            Exchange::Takeover => self.make_takeover(now, uplink, ask),
        };
        if let Phase::Session(session) = &mut self.phase
            && let Some(recovery) = &mut session.recovery
        {
            recovery.request = request;
        }
    }

    /// Makes a request under the newest generation that is held, and sends it.
    pub(super) fn make_request(
        &mut self,
        now: BootTime,
        uplink: UplinkId,
        ask: ReattachAsk,
    ) -> Option<Request> {
        let kept = self.kept_cookie(now, uplink);
        let Self { phase: Phase::Session(session), config, random, .. } = self else { return None };
        let (generation, under) =
            session.newer.as_ref().map_or((&session.held, Under::Held), |newer| (newer, Under::Newer));
        session.nonce += 1;
        let params = RequestParams {
            local: &config.local,
            gateway: &config.gateway,
            resume: &generation.resume,
            session_id: session.id.0,
            anchor_version: generation.anchor_version,
            nonce: session.nonce,
            handle: generation.handle.0,
        };
        let handle = generation.handle;
        match reattach::request(random.as_mut(), &params, &ask.encode()) {
            Ok((mut datagram, mut pending)) => {
                if let Some(cookie) = kept
                    && pending.with_cookie(&mut datagram, cookie).is_ok()
                {
                    self.counters.cookies_shown += 1;
                }
                let payload = datagram.clone();
                self.outbox.push_back(Transmit { uplink, payload });
                self.counters.requests_sent += 1;
                let pending = Pending::Reattach(pending);
                Some(Request { under, ..Request::new(uplink, Some(handle), pending, datagram, now) })
            }
            Err(error) => {
                let message = format!("no reattach request could be made: {error}");
                self.push_event(Event::Trouble { message });
                None
            }
        }
    }

    pub(super) fn handle_ack(&mut self, now: BootTime, uplink: UplinkId, datagram: &[u8]) {
        let Some(request) = self.latest_request(uplink) else {
            self.counters.stale_answers += 1;
            return;
        };
        let Ok((secret, payload)) = request.pending.read_ack(datagram) else {
            self.counters.unauthentic += 1;
            return;
        };
        let under = request.under;
        let offered = matches!(request.pending, Pending::Takeover(_));
        let rtt = (request.repeated == Repeated::No).then(|| now.since(request.sent_at));
        self.close_request();
        match ReattachGrant::decode(&payload) {
            Some(grant) if offered => self.take_offer(now, uplink, rtt, &grant, &secret),
            Some(grant) => self.take_grant(now, uplink, under, rtt, &grant, &secret),
            None => self.attempt_refused(now, Reason::Malformed, 0),
        }
    }

    /// The new binding takes over: from here on nothing is sealed or opened under the old one.
    fn take_grant(
        &mut self,
        now: BootTime,
        uplink: UplinkId,
        under: Under,
        rtt: Option<Duration>,
        grant: &ReattachGrant,
        secret: &EpochSecret,
    ) {
        let Phase::Session(session) = &mut self.phase else { return };
        if grant.rekey && !session.binding.takes_keys(&grant.binding, grant.key_number) {
            let message = "the gateway's rekey names keys that do not follow ours".to_owned();
            self.push_event(Event::Trouble { message });
            return self.attempt_refused(now, Reason::Malformed, 0);
        }
        let generation = Generation::new(&grant.binding, secret);
        // A request proves to the gateway that the generation it was made under arrived.
        if under == Under::Newer
            && let Some(newer) = session.newer.take()
        {
            session.held = newer;
        }
        session.newer = Some(generation);
        let recovering = session.recovery.is_some();
        if grant.rekey {
            self.take_keys(now, grant, secret);
            if !recovering {
                return self.drive_session(now);
            }
        } else if !recovering {
            self.rekey_became_switch(now, uplink);
        }
        let Self { phase: Phase::Session(session), paths, .. } = self else { return };
        if !grant.rekey {
            let limits = KeyLimits::from(&session.grant.policy);
            session.binding = Binding::new(&grant.binding, secret, session.grant.suite, uplink, limits, now);
            session.search_mtu(now, uplink);
        }
        let rtt = rtt.or_else(|| paths.uplink(uplink).and_then(|uplink| uplink.srtt));
        let timing = Timing::from(&session.grant.policy);
        session.monitor = Monitor::new(timing, rtt, Duration::ZERO, now);
        session.quality = PathQuality::new(&session.grant.policy);
        session.heard_by_gateway = None;
        if let Some(recovery) = &mut session.recovery {
            recovery.campaign.answered();
        }
        // The probe that confirms goes first, then what waited.
        self.drive_session(now);
        self.flush_held(now);
    }

    /// The gateway offers a binding: it is taken by CONTROL under it, and nothing else is sent until the gateway says that
    /// it is there.
    fn take_offer(
        &mut self,
        now: BootTime,
        uplink: UplinkId,
        rtt: Option<Duration>,
        grant: &ReattachGrant,
        secret: &EpochSecret,
    ) {
        if grant.rekey {
            let message = "the gateway's answer to a takeover request is a rekey".to_owned();
            self.push_event(Event::Trouble { message });
            return self.attempt_refused(now, Reason::Malformed, 0);
        }
        let Phase::Session(session) = &mut self.phase else { return };
        let limits = KeyLimits::from(&session.grant.policy);
        session.newer = Some(Generation::new(&grant.binding, secret));
        session.binding = Binding::new(&grant.binding, secret, session.grant.suite, uplink, limits, now);
        session.binding.sending = Sending::Stopped;
        session.heard_by_gateway = None;
        session.taking = Some(Taking::new(&grant.binding, rtt, now));
        if let Some(recovery) = &mut session.recovery {
            recovery.campaign.answered();
        }
    }

    /// The first frame opened under the newest keys: both ends have them.
    pub(super) fn binding_proven(&mut self, now: BootTime) {
        let Self { phase: Phase::Session(session), paths, .. } = self else { return };
        if let Some(newer) = session.newer.take() {
            session.held = newer;
        }
        if session.binding.sending == Sending::Stopped {
            // It came too late: a newer request is under way and will replace this binding.
            return;
        }
        paths.mark_good(session.binding.uplink, session.monitor.rtt().smoothed());
        let Some(recovery) = session.recovery.take() else {
            if session.state == State::Birth {
                self.set_state(State::Attached, Reason::HandshakeOk);
            }
            return;
        };
        // The gateway may have sent before it has heard us, and may give the binding up before it does.
        session.unheard = recovery.campaign.pace();
        let report = RecoveryReport {
            cause: recovery.cause,
            from: recovery.from,
            to: session.binding.uplink,
            detect_ms: millis(recovery.decided_at.since(recovery.last_heard)),
            reattach_ms: millis(now.since(recovery.decided_at)),
            outage_ms: millis(now.since(recovery.last_heard)),
            attempts: recovery.campaign.attempts(),
        };
        // The gateway may have said already what it made of this binding: its budget used up, its quality.
        let told = session
            .gateway
            .filter(|view| view.version >= session.held.anchor_version && view.state.is_bound());
        let (state, reason) =
            told.map_or((State::Attached, Reason::TransportSwitchOk), |view| (view.state, view.reason));
        let session = session.id;
        self.recoveries += 1;
        self.last_recovery = Some(report);
        self.set_state(state, reason);
        self.watch_as(now, state);
        self.push_event(Event::RecoveryComplete { session, report });
    }

    pub(super) fn handle_reject(&mut self, now: BootTime, uplink: UplinkId, datagram: &[u8]) {
        let Some(request) = self.latest_request(uplink) else {
            self.counters.stale_answers += 1;
            return;
        };
        let Ok(reject) = request.pending.read_reject(datagram) else {
            self.counters.unauthentic += 1;
            return;
        };
        let under = request.under;
        self.close_request();
        let (reason, retry_after_ms) = (reject.reason, reject.retry_after_ms);
        let session = self.session_id();
        self.counters.refusals += 1;
        self.push_event(Event::Refused { session, reason, retry_after_ms, uplink });
        if is_final(reason) {
            return self.end_session(now, reason);
        }
        if matches!(reason, Reason::StaleVersion | Reason::VersionAhead) && !self.drop_newer(under) {
            // The gateway knows this generation under another version than ours: no request of ours will ever match.
            return self.end_session(now, reason);
        }
        if self.stays(reason) {
            return self.stay(
                now,
                reason,
                Duration::from_millis(u64::from(retry_after_ms)).min(RETRY_AFTER_MAX),
            );
        }
        self.attempt_refused(now, reason, retry_after_ms);
    }

    /// The generation under which a request failed is forgotten if an older one is left. `false`: there is none.
    fn drop_newer(&mut self, under: Under) -> bool {
        let Phase::Session(session) = &mut self.phase else { return false };
        under == Under::Newer && session.newer.take().is_some()
    }

    /// The path works, the gateway said no: the next request goes the same way, when it may.
    fn attempt_refused(&mut self, now: BootTime, reason: Reason, retry_after_ms: u32) {
        let wait = match (retry_after_ms, reason) {
            // Only this nonce or datagram was at fault.
            (0, Reason::ReplayDetected) => Duration::ZERO,
            (0, _) => REFUSED_PAUSE,
            (ms, _) => Duration::from_millis(u64::from(ms)).min(RETRY_AFTER_MAX),
        };
        let Phase::Session(session) = &mut self.phase else { return };
        match &mut session.recovery {
            Some(recovery) => recovery.campaign.again(now.after(wait)),
            None => self.rekey_refused(now, reason, wait),
        }
    }

    /// The gateway does not know the handle of the latest request, and its token says that it is the gateway.
    pub(super) fn handle_unknown(&mut self, now: BootTime, uplink: UplinkId) {
        let Phase::Session(session) = &mut self.phase else { return };
        let Some(request) = session.take_request() else { return };
        match (&mut session.recovery, &mut session.rekey) {
            (Some(recovery), _) => recovery.campaign.again(now),
            (None, Some(rekey)) => rekey.wake = now,
            (None, None) => {}
        }
        if !self.drop_newer(request.under) {
            self.begin_takeover(now, uplink);
        }
    }

    /// The token that a RESET for `handle` must carry: only for the latest request.
    pub(super) fn expected_handle_token(&self, handle: Handle) -> Option<[u8; 16]> {
        let Phase::Session(session) = &self.phase else { return None };
        let request = session.request().filter(|request| request.handle == Some(handle))?;
        match request.under {
            Under::Held => Some(session.held.handle_token),
            Under::Newer => session.newer.as_ref().map(|newer| newer.handle_token),
        }
    }

    /// The latest request, if it went out over `uplink` and is still open.
    fn latest_request(&mut self, uplink: UplinkId) -> Option<&mut Request> {
        let Phase::Session(session) = &mut self.phase else { return None };
        session.request_mut().filter(|request| request.uplink == uplink)
    }

    /// The latest request is answered.
    fn close_request(&mut self) {
        if let Phase::Session(session) = &mut self.phase {
            let _answered = session.take_request();
        }
    }
}

impl Session {
    /// The latest request, that of a recovery or that of a rekey: never both are there.
    fn request(&self) -> Option<&Request> {
        match (&self.recovery, &self.rekey) {
            (Some(recovery), _) => recovery.request.as_ref(),
            (None, Some(rekey)) => rekey.request.as_ref(),
            (None, None) => None,
        }
    }

    /// The latest request, if it went out over `uplink`.
    pub(super) fn sent(&self, uplink: UplinkId) -> Option<(&[u8], Retried)> {
        let request = self.request().filter(|request| request.uplink == uplink)?;
        Some((&request.datagram, request.retried))
    }

    pub(super) fn request_mut(&mut self) -> Option<&mut Request> {
        match (&mut self.recovery, &mut self.rekey) {
            (Some(recovery), _) => recovery.request.as_mut(),
            (None, Some(rekey)) => rekey.request.as_mut(),
            (None, None) => None,
        }
    }

    fn take_request(&mut self) -> Option<Request> {
        match (&mut self.recovery, &mut self.rekey) {
            (Some(recovery), _) => recovery.request.take(),
            (None, Some(rekey)) => rekey.request.take(),
            (None, None) => None,
        }
    }
}

/// Whether a refusal ends the session: no later request can be accepted.
const fn is_final(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::SessionNotFound
            | Reason::SessionExpired
            | Reason::SessionTerminated
            | Reason::TtlSessionExpired
            | Reason::TtlTransportLossExpired
            | Reason::RecoveryBoundsExceeded
            | Reason::PolicyTermination
            | Reason::AdminTerminate
            | Reason::KeyRevoked
            | Reason::Superseded
    )
}

/// Whole milliseconds.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
