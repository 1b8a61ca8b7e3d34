//! What `status` shows: one snapshot, ready for JSON.

use super::Engine;
use super::api::{ContextView, Traffic};
use super::retry::UnderLoad;
use super::session::Session;
use super::world::DataPlane;
use jvpn_abi::BootTime;
use jvpn_session::quality::{Loss, Measured, Thresholds};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// The control plane at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Whether a data plane is there: `never_seen`, `adopting`, `up` or `lost`.
    pub data_plane: &'static str,
    /// The policy preset.
    pub policy: String,
    /// For what cookies are asked for now.
    pub under_load: UnderLoad,
    /// Sessions that are not TERMINATED.
    pub live_sessions: usize,
    /// Sessions that are being loaded from the store.
    pub loading_sessions: usize,
    /// Slots in use.
    pub slots_in_use: usize,
    /// Every session that is still remembered.
    pub sessions: Vec<SessionStatus>,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
}

/// One session.
#[derive(Clone, Debug, Serialize)]
pub struct SessionStatus {
    /// SessionId.
    pub id: String,
    /// Name of the peer.
    pub peer: String,
    /// State.
    pub state: &'static str,
    /// Reason of the last transition.
    pub reason: &'static str,
    /// state_version.
    pub state_version: u64,
    /// Epoch of the newest binding.
    pub epoch: u64,
    /// Number of the keys in use within the epoch; counts its rekeys.
    pub key_number: Option<u32>,
    /// Their age.
    pub key_age_ms: Option<u64>,
    /// Suite.
    pub suite: &'static str,
    /// Slot of the binding.
    pub slot: Option<u32>,
    /// The client's side of the bound path.
    pub remote: Option<String>,
    /// The gateway's side of it.
    pub local: Option<String>,
    /// Quality of the bound path: `good`, `bad`, or `unknown` while its client sends too little to tell.
    pub quality: &'static str,
    /// Median round-trip time, ms, as the client measured it.
    pub rtt_ms: Option<f64>,
    /// Mean change between two probes on their way here, ms.
    pub jitter_ms: Option<f64>,
    /// Lost on the way from the client, percent.
    pub loss_in_percent: Option<f64>,
    /// Lost on the way to the client, percent.
    pub loss_out_percent: Option<f64>,
    /// Since the last authenticated frame.
    pub last_heard_ms: Option<u64>,
    /// Confirmed switches.
    pub switches: u64,
    /// Packets towards the LAN.
    pub packets_in: u64,
    /// Bytes towards the LAN.
    pub bytes_in: u64,
    /// Packets towards the client.
    pub packets_out: u64,
    /// Bytes towards the client.
    pub bytes_out: u64,
}

impl Engine {
    /// A snapshot. Reads CONTEXT of every bound slot.
    #[must_use]
    pub fn status(&self, now: BootTime, view: &dyn ContextView) -> Status {
        let sessions =
            self.sessions.values().map(|session| self.session_status(session, now, view)).collect();
        Status { sessions, ..self.summary(now) }
    }

    /// A snapshot without sessions: it costs the same whatever their number is.
    #[must_use]
    pub fn summary(&self, now: BootTime) -> Status {
        Status {
            data_plane: match self.world.data_plane {
                DataPlane::NeverSeen => "never_seen",
                DataPlane::Adopting => "adopting",
                DataPlane::Up => "up",
                DataPlane::Lost => "lost",
            },
            policy: self.world.settings.policy_name.clone(),
            under_load: self.world.under_load(now),
            live_sessions: self.world.live,
            loading_sessions: self.world.store.as_ref().map_or(0, |store| store.loads.len()),
            slots_in_use: self.world.slots.in_use(),
            sessions: Vec::new(),
            counters: self.world.counters.by_name(),
        }
    }

    pub(super) fn session_status(
        &self,
        session: &Session,
        now: BootTime,
        view: &dyn ContextView,
    ) -> SessionStatus {
        let core = &session.core;
        let binding = session.binding.as_ref();
        let index = binding.map(|binding| binding.slot.index());
        let current = index.map_or_else(Traffic::default, |index| view.traffic(index));
        let traffic = session.earlier_traffic + current;
        let heard = index.and_then(|index| view.last_heard(index));
        let thresholds = Thresholds::from(&self.world.settings.policy);
        let measured = index.map_or_else(Measured::default, |_| session.quality.measured(now, &thresholds));
        let ms = |duration: Duration| duration.as_micros() as f64 / 1_000.0;
        SessionStatus {
            id: core.id().to_string(),
            peer: self.world.peer_name(&session.peer),
            state: core.state().name(),
            reason: core.reason().name(),
            state_version: core.version().0,
            epoch: core.epoch(),
            key_number: binding.map(|binding| binding.key_number),
            key_age_ms: binding
                .map(|b| u64::try_from(now.since(b.key_since).as_millis()).unwrap_or(u64::MAX)),
            suite: session.suite.name(),
            slot: binding.map(|binding| binding.slot.0),
            remote: binding.map(|binding| binding.remote.to_string()),
            local: binding.map(|binding| binding.local.to_string()),
            quality: session.quality.level().name(),
            rtt_ms: measured.rtt.map(ms),
            jitter_ms: measured.jitter.map(ms),
            loss_in_percent: measured.loss_up.map(Loss::percent_exact),
            loss_out_percent: measured.loss_down.map(Loss::percent_exact),
            last_heard_ms: heard.map(|at| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX)),
            switches: core.total_switches(),
            packets_in: traffic.packets_in,
            bytes_in: traffic.bytes_in,
            packets_out: traffic.packets_out,
            bytes_out: traffic.bytes_out,
        }
    }
}
