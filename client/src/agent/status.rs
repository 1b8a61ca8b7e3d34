//! What `jvpn status` shows of the agent: a snapshot, never a secret.

use super::binding::Sending;
use super::{Agent, Phase, RecoveryReport};
use crate::paths::candidates::Evidence;
use crate::paths::{LinkState, UplinkId};
use jvpn_abi::BootTime;
use jvpn_session::quality::Loss;
use serde::Serialize;
use std::time::Duration;

/// Counts since the start of the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Inner packets delivered to the host.
    pub packets_in: u64,
    /// Their octets.
    pub bytes_in: u64,
    /// Inner packets sealed and sent.
    pub packets_out: u64,
    /// Their octets.
    pub bytes_out: u64,
    /// Sessions granted.
    pub sessions: u64,
    /// Handshakes sent.
    pub handshakes_sent: u64,
    /// Reattach requests made.
    pub requests_sent: u64,
    /// Reattach requests repeated identically.
    pub requests_repeated: u64,
    /// Requests sent once more with the cookie of a RETRY.
    pub retries_followed: u64,
    /// RETRYs for a request that had followed one already, or over the client's own limit.
    pub retries_ignored: u64,
    /// Requests that showed a kept cookie from the start.
    pub cookies_shown: u64,
    /// Takeover requests made: the gateway had forgotten the session.
    pub takeovers_sent: u64,
    /// Authenticated refusals.
    pub refusals: u64,
    /// Answers to a request that is not the latest one.
    pub stale_answers: u64,
    /// CONTROL messages that opened.
    pub control_received: u64,
    /// Path hints among them.
    pub path_hints: u64,
    /// Requests for path tickets.
    pub tickets_asked: u64,
    /// Path tickets received.
    pub tickets_received: u64,
    /// Path probes sent.
    pub path_probes_sent: u64,
    /// Their echoes.
    pub path_echoes: u64,
    /// RESETs with the right token.
    pub resets: u64,
    /// RESETs with a wrong token, or about nothing of ours.
    pub reset_refused: u64,
    /// Handshake, reattach and CONTROL datagrams that did not authenticate.
    pub unauthentic: u64,
    /// Datagrams from elsewhere than the gateway.
    pub foreign_source: u64,
    /// Datagrams that are not framed as the protocol says.
    pub malformed: u64,
    /// DATA for another slot or over another uplink than the bound one.
    pub wrong_slot: u64,
    /// DATA with a counter seen before, or too old.
    pub replayed: u64,
    /// DATA that did not authenticate.
    pub open_failed: u64,
    /// DATA under a key past its hard limit.
    pub key_expired: u64,
    /// Rekeys: new keys for the binding that was there.
    pub rekeys: u64,
    /// Inner packets or frames that make no sense.
    pub inner_malformed: u64,
    /// Inner packets of a kind that the tunnel does not carry.
    pub inner_unsupported: u64,
    /// Inner packets that came in datagrams marked "congestion experienced" and whose sender does not speak ECN: dropped, so
    /// that it hears of the congestion (RFC 6040 §4.2).
    pub congestion_lost: u64,
    /// Inner packets larger than the path carries that must not be cut: lost.
    pub inner_too_big: u64,
    /// Of these, those whose sender was told the size that fits.
    pub too_big_told: u64,
    /// Inner packets larger than the path carries that left in pieces (IPv4 without DF).
    pub inner_cut: u64,
    /// Inner packets that could not be sealed.
    pub seal_failed: u64,
    /// Events that nobody took.
    pub events_dropped: u64,
}

/// The agent at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct AgentStatus {
    /// `SEARCHING` (no session yet), a session state, or `TERMINATED`.
    pub state: &'static str,
    /// Why it is in this state.
    pub reason: Option<&'static str>,
    /// The anchor.
    pub session_id: Option<String>,
    /// What the gateway last said about itself.
    pub gateway: Option<GatewayStatus>,
    /// The bound path.
    pub path: Option<PathStatus>,
    /// All uplinks.
    pub uplinks: Vec<UplinkStatus>,
    /// Path tickets held.
    pub tickets: usize,
    /// Cookies kept, at most one per uplink.
    pub cookies: usize,
    /// Inner addresses.
    pub addresses: Vec<String>,
    /// Prefixes routed into the tunnel.
    pub routes: Vec<String>,
    /// Tunnel MTU, octets.
    pub mtu: Option<u16>,
    /// AEAD suite.
    pub suite: Option<&'static str>,
    /// Age of the session, ms.
    pub session_age_ms: Option<u64>,
    /// Completed recoveries since the start.
    pub recoveries: u64,
    /// The last one.
    pub last_recovery: Option<RecoveryReport>,
    /// Packets that wait for a path.
    pub held: usize,
    /// Packets that waited too long or found the queue full.
    pub held_dropped: u64,
    /// Counts.
    pub counters: Counters,
}

/// The gateway's own view.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct GatewayStatus {
    /// `state_version`.
    pub state_version: u64,
    /// State name.
    pub state: &'static str,
    /// Reason name.
    pub reason: &'static str,
}

/// The bound path.
#[derive(Clone, Debug, Serialize)]
pub struct PathStatus {
    /// Number of the uplink.
    pub uplink: UplinkId,
    /// Its device.
    pub device: String,
    /// The gateway's endpoint.
    pub remote: String,
    /// Rises by one per binding.
    pub epoch: u64,
    /// Slot in DATA.
    pub slot: u32,
    /// Number of the keys in use within the epoch.
    pub key_number: u32,
    /// Their age, ms.
    pub key_age_ms: u64,
    /// Whether DATA leaves over it now.
    pub sending: bool,
    /// Whether a frame has come over it.
    pub proven: bool,
    /// Smoothed round-trip time, ms.
    pub rtt_ms: Option<f64>,
    /// Its smoothed deviation, ms.
    pub rtt_variation_ms: f64,
    /// Probes missed in a row.
    pub probes_missed: u32,
    /// Since the last frame heard, ms.
    pub silent_ms: u64,
    /// Age of the binding, ms.
    pub age_ms: u64,
    /// Lost on the way to the gateway, percent of this binding's DATA.
    pub loss_out_percent: Option<f64>,
    /// Lost on the way from the gateway, percent of this binding's DATA.
    pub loss_in_percent: Option<f64>,
}

/// One uplink.
#[derive(Clone, Debug, Serialize)]
pub struct UplinkStatus {
    /// Number of the uplink.
    pub uplink: UplinkId,
    /// Its device.
    pub device: String,
    /// Smaller is preferred.
    pub priority: u32,
    /// How the host sees it.
    #[serde(flatten)]
    pub link: LinkState,
    /// Last round-trip time over it, ms.
    pub rtt_ms: Option<f64>,
    /// Costs by volume.
    pub metered: bool,
    /// Quality of the path over it, while it is bound.
    pub quality: Option<QualityStatus>,
    /// What probes say about it, while it is not bound.
    pub candidate: Option<CandidateStatus>,
}

/// Quality over the last seconds, as this end judges it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct QualityStatus {
    /// `good`, `bad`, or `unknown` while too little is sent to tell.
    pub level: &'static str,
    /// Lost on the way to the gateway, percent.
    pub loss_out_percent: Option<f64>,
    /// Lost on the way from the gateway, percent.
    pub loss_in_percent: Option<f64>,
    /// Median round-trip time, ms.
    pub rtt_ms: Option<f64>,
    /// Mean change between two round trips, ms.
    pub jitter_ms: Option<f64>,
}

/// A path that could be switched to.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CandidateStatus {
    /// In one word.
    pub state: Evidence,
    /// Since its last answer, ms.
    pub answered_ms: Option<u64>,
    /// Without loss for so long, ms.
    pub stable_ms: Option<u64>,
    /// Lost among the last probes, percent, either way.
    pub loss_percent: Option<f64>,
    /// Smoothed deviation of its round trips, ms.
    pub jitter_ms: Option<f64>,
}

impl Agent {
    /// A snapshot.
    #[must_use]
    pub fn status(&self, now: BootTime) -> AgentStatus {
        let session = match &self.phase {
            Phase::Session(session) => Some(session),
            Phase::Searching(_) | Phase::Ended(_) => None,
        };
        let (state, reason) = match &self.phase {
            Phase::Searching(_) => ("SEARCHING", None),
            Phase::Session(session) => (session.state.name(), Some(session.reason.name())),
            Phase::Ended(reason) => ("TERMINATED", Some(reason.name())),
        };
        let grant = session.map(|session| &session.grant);
        AgentStatus {
            state,
            reason,
            session_id: session.map(|session| session.id.to_string()),
            gateway: session.and_then(|session| session.gateway).map(|view| GatewayStatus {
                state_version: view.version,
                state: view.state.name(),
                reason: view.reason.name(),
            }),
            path: self.path_status(now),
            uplinks: self.uplink_status(now),
            tickets: session.map_or(0, |session| session.probing.tickets()),
            cookies: self.cookies.len(),
            addresses: grant.map_or_else(Vec::new, |g| g.addresses.iter().map(ToString::to_string).collect()),
            routes: grant.map_or_else(Vec::new, |g| g.routes.iter().map(ToString::to_string).collect()),
            mtu: session.map(|session| session.mtu.carried()),
            suite: grant.map(|grant| grant.suite.name()),
            session_age_ms: session.map(|session| whole_ms(now.since(session.started))),
            recoveries: self.recoveries,
            last_recovery: self.last_recovery,
            held: self.hold.len(),
            held_dropped: self.hold.dropped(),
            counters: self.counters,
        }
    }

    fn path_status(&self, now: BootTime) -> Option<PathStatus> {
        let Phase::Session(session) = &self.phase else { return None };
        let (binding, monitor) = (&session.binding, &session.monitor);
        let (received, highest) = binding.received();
        let (key_number, key_since) = binding.key_number();
        Some(PathStatus {
            uplink: binding.uplink,
            device: self.paths.device(binding.uplink).to_owned(),
            remote: self.endpoint_over(binding.uplink).to_string(),
            epoch: binding.epoch,
            slot: binding.slot.0,
            key_number,
            key_age_ms: whole_ms(now.since(key_since)),
            sending: binding.sending == Sending::Allowed,
            proven: monitor.is_proven(),
            rtt_ms: monitor.rtt().smoothed().map(ms),
            rtt_variation_ms: ms(monitor.rtt().variation()),
            probes_missed: monitor.missed(),
            silent_ms: whole_ms(now.since(monitor.last_heard())),
            age_ms: whole_ms(now.since(binding.since)),
            loss_out_percent: session.heard_by_gateway.map(|(sent, received)| loss(sent, received)),
            loss_in_percent: (received > 0).then(|| loss(highest.saturating_add(1), received)),
        })
    }

    fn uplink_status(&self, now: BootTime) -> Vec<UplinkStatus> {
        let bound = match &self.phase {
            Phase::Session(session) => Some(session.binding.uplink),
            Phase::Searching(_) | Phase::Ended(_) => None,
        };
        let quality = |uplink: UplinkId| {
            let Phase::Session(session) = &self.phase else { return None };
            let measured = session.quality.measured(now);
            (session.binding.uplink == uplink).then(|| QualityStatus {
                level: session.quality.level().name(),
                loss_out_percent: measured.loss_up.map(Loss::percent_exact),
                loss_in_percent: measured.loss_down.map(Loss::percent_exact),
                rtt_ms: measured.rtt.map(ms),
                jitter_ms: measured.jitter.map(ms),
            })
        };
        let candidate = |uplink: UplinkId| {
            let usable = self.paths.is_usable(uplink) && bound.is_some_and(|bound| bound != uplink);
            let view = self.paths.candidate(uplink, now).filter(|_| usable)?;
            Some(CandidateStatus {
                state: view.evidence,
                answered_ms: view.answered_ago.map(whole_ms),
                stable_ms: view.stable_for.map(whole_ms),
                loss_percent: view.loss_percent,
                jitter_ms: view.variation.map(ms),
            })
        };
        let one = |(uplink, about): (UplinkId, &crate::paths::Uplink)| UplinkStatus {
            uplink,
            device: about.spec.device.clone(),
            priority: about.spec.priority,
            link: about.link,
            rtt_ms: about.srtt.map(ms),
            metered: about.spec.metered,
            quality: quality(uplink),
            candidate: candidate(uplink),
        };
        self.paths.iter().map(one).collect()
    }
}

/// Percent of `sent` that is not among `received`, to a hundredth.
fn loss(sent: u64, received: u64) -> f64 {
    if sent == 0 {
        return 0.0;
    }
    let lost = sent.saturating_sub(received) as f64;
    (lost * 10_000.0 / sent as f64).round() / 100.0
}

/// Milliseconds to a thousandth.
fn ms(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1_000.0
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
