//! Getting a session: handshakes over the usable uplinks until one is granted.

use super::binding::{Binding, Generation};
use super::rekey::KeyLimits;
use super::retry::Retried;
use super::session::Session;
use super::{Agent, Event, Phase, Transmit};
use crate::paths::UplinkId;
use crate::paths::campaign::{Campaign, Repetition, Step};
use jvpn_abi::{BootTime, PROTOCOL_VERSION, Reason};
use jvpn_crypto::handshake::{self, Initiation};
use jvpn_crypto::schedule::EpochSecret;
use jvpn_session::State;
use jvpn_session::messages::{HandshakeAnswer, HandshakeGrant, HandshakeOffer};
use std::time::Duration;

/// Wait after a refusal that names no time: only a change of configuration will help, but nobody may have to restart
/// the client for it.
const REFUSED_FOR_GOOD: Duration = Duration::from_secs(60);
/// An unproven first binding is given up after this long; the gateway's BIRTH ends after 5 s.
const BIRTH_PATIENCE: Duration = Duration::from_secs(2);
/// Smallest tunnel MTU that IPv4 lets work (RFC 791).
const MTU_MIN: u16 = 576;

/// The search for a session.
#[derive(Debug)]
pub(super) struct Birth {
    pub(super) campaign: Campaign,
    pub(super) wake: BootTime,
    /// The latest initiation; answers to earlier ones are ignored.
    pub(super) open: Option<Open>,
    not_before: BootTime,
    /// When the first handshake of this search was sent.
    pub(super) asking_since: Option<BootTime>,
}

/// An initiation that waits for its answer.
#[derive(Debug)]
pub(super) struct Open {
    initiation: Initiation,
    uplink: UplinkId,
    pub(super) sent_at: BootTime,
    /// As it was sent last.
    pub(super) datagram: Vec<u8>,
    pub(super) retried: Retried,
}

impl Birth {
    /// Nothing is sent before `not_before`.
    pub(super) const fn new(not_before: BootTime) -> Self {
        let campaign = Campaign::new(Repetition::Fresh, None);
        Self { campaign, wake: not_before, open: None, not_before, asking_since: None }
    }

    /// The open initiation, if it went out over `uplink`.
    pub(super) fn sent(&self, uplink: UplinkId) -> Option<(&[u8], Retried)> {
        let open = self.open.as_ref().filter(|open| open.uplink == uplink)?;
        Some((&open.datagram, open.retried))
    }
}

impl Agent {
    pub(super) fn drive_birth(&mut self, now: BootTime) {
        loop {
            let Self { phase: Phase::Searching(birth), paths, random, .. } = self else { return };
            if now < birth.not_before {
                birth.wake = birth.not_before;
                return;
            }
            match birth.campaign.poll(now, paths, Self::jitter(random.as_mut())) {
                Step::Fresh(uplink) | Step::Repeat(uplink) => self.send_init(now, uplink),
                Step::Wait(at) => {
                    birth.wake = at;
                    return;
                }
            }
        }
    }

    fn send_init(&mut self, now: BootTime, uplink: UplinkId) {
        let stamp = self.next_timestamp(now);
        let kept = self.kept_cookie(now, uplink);
        let Self { phase: Phase::Searching(birth), config, random, .. } = self else { return };
        birth.asking_since.get_or_insert(now);
        let offer = HandshakeOffer {
            versions: vec![PROTOCOL_VERSION],
            suites: config.suites.iter().map(|suite| *suite as u8).collect(),
            timestamp_ns: stamp,
        };
        let mut index = [0; 4];
        let made = random.fill(&mut index).map_err(Into::into).and_then(|()| {
            let index = u32::from_be_bytes(index);
            let (local, gateway) = (&config.local, &config.gateway);
            handshake::initiate(random.as_mut(), local, gateway, &config.preshared, index, &offer.encode())
        });
        match made {
            Ok((mut payload, initiation)) => {
                if let Some(cookie) = kept
                    && handshake::with_cookie(&config.gateway, &mut payload, cookie).is_ok()
                {
                    self.counters.cookies_shown += 1;
                }
                let (datagram, retried) = (payload.clone(), Retried::No);
                birth.open = Some(Open { initiation, uplink, sent_at: now, datagram, retried });
                self.outbox.push_back(Transmit { uplink, payload });
                self.counters.handshakes_sent += 1;
            }
            Err(error) => {
                birth.open = None;
                self.push_event(Event::Trouble { message: format!("no handshake could be made: {error}") });
            }
        }
    }

    /// Unix time in ns, higher than in any handshake and takeover request before.
    pub(super) fn next_timestamp(&mut self, now: BootTime) -> u64 {
        let stamp = self.unix_at_boot_ns.saturating_add(now.0).max(self.last_timestamp_ns.saturating_add(1));
        self.last_timestamp_ns = stamp;
        stamp
    }

    pub(super) fn handle_response(&mut self, now: BootTime, uplink: UplinkId, datagram: &[u8]) {
        let Phase::Searching(birth) = &mut self.phase else {
            self.counters.stale_answers += 1;
            return;
        };
        let Some(open) = birth.open.as_mut().filter(|open| open.uplink == uplink) else {
            self.counters.stale_answers += 1;
            return;
        };
        let Ok((secret, payload)) = open.initiation.read_response(datagram) else {
            self.counters.unauthentic += 1;
            return;
        };
        let rtt = now.since(open.sent_at);
        match HandshakeAnswer::decode(&payload) {
            Some(HandshakeAnswer::Granted(grant)) => match acceptable(&grant, &self.config.suites) {
                Ok(()) => self.start_session(now, uplink, rtt, grant, &secret),
                Err(problem) => {
                    self.push_event(Event::Trouble { message: format!("the gateway's grant {problem}") });
                    self.refused(now, uplink, Reason::VersionUnsupported, 0);
                }
            },
            Some(HandshakeAnswer::Refused { reason, retry_after_ms }) => {
                self.refused(now, uplink, reason, retry_after_ms);
            }
            None => self.refused(now, uplink, Reason::Malformed, 0),
        }
    }

    fn refused(&mut self, now: BootTime, uplink: UplinkId, reason: Reason, retry_after_ms: u32) {
        let Phase::Searching(birth) = &mut self.phase else { return };
        birth.open = None;
        let wait = match retry_after_ms {
            0 => REFUSED_FOR_GOOD,
            ms => Duration::from_millis(u64::from(ms)),
        };
        // Whoever refuses has answered: the path works.
        birth.campaign.again(now.after(wait));
        self.counters.refusals += 1;
        self.push_event(Event::Refused { session: None, reason, retry_after_ms, uplink });
    }

    fn start_session(
        &mut self,
        now: BootTime,
        uplink: UplinkId,
        rtt: Duration,
        grant: Box<HandshakeGrant>,
        secret: &EpochSecret,
    ) {
        let limits = KeyLimits::from(&grant.policy);
        let binding = Binding::new(&grant.binding, secret, grant.suite, uplink, limits, now);
        let generation = Generation::new(&grant.binding, secret);
        self.push_event(Event::SessionStarted { grant: grant.clone() });
        self.push_event(Event::StateChange {
            session: grant.session_id,
            from: None,
            to: State::Birth,
            reason: Reason::HandshakeStart,
            uplink,
        });
        let takeover = secret.root().takeover();
        let session = Session::new(grant, binding, generation, takeover, rtt, BIRTH_PATIENCE, now);
        self.phase = Phase::Session(Box::new(session));
        self.counters.sessions += 1;
        // The probe that confirms goes first, then what waited.
        self.drive_session(now);
        self.flush_held(now);
    }
}

/// Whether the grant is one that was offered and that can be lived with.
fn acceptable(grant: &HandshakeGrant, suites: &[jvpn_abi::wire::Suite]) -> Result<(), String> {
    if grant.version != PROTOCOL_VERSION {
        return Err(format!("names protocol version {}, which was not offered", grant.version));
    }
    if !suites.contains(&grant.suite) {
        return Err(format!("names suite {}, which was not offered", grant.suite.name()));
    }
    if grant.addresses.is_empty() {
        return Err("has no inner address: check the peer's 'addresses' on the gateway".to_owned());
    }
    if grant.mtu < MTU_MIN {
        return Err(format!("has an MTU of {}; at least {MTU_MIN} is needed", grant.mtu));
    }
    Ok(())
}
