//! What the processes say about themselves on their status sockets, as far as the bench judges by it.

use std::path::Path;

use anyhow::{Context, Result};
use jvpn_abi::DropReason;
use serde_json::Value;

use crate::report::WorkerRow;

/// Answer of `jvpn-controlplane`.
#[derive(Clone, Debug)]
pub struct ControlPlaneStatus(Value);

/// Answer of `jvpn-dataplane`.
#[derive(Clone, Debug)]
pub struct DataPlaneStatus(Value);

/// A session as the gateway sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// The anchor.
    pub session_id: String,
    /// State by name.
    pub state: String,
    /// Number of the last transition.
    pub state_version: u64,
    /// Where the client is.
    pub remote: String,
}

impl ControlPlaneStatus {
    /// Asks.
    ///
    /// # Errors
    /// Nobody answers, or not with a status.
    pub fn query(socket: &Path) -> Result<Self> {
        Ok(Self(jvpn_host::status::query(socket, "status")?))
    }

    /// The only session.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn only_session(&self) -> Result<SessionView> {
        let sessions = self.0.get("sessions").and_then(Value::as_array).context("status has no sessions")?;
        let live: Vec<_> = sessions.iter().filter(|session| text(session, "state") != "TERMINATED").collect();
        let [session] = live.as_slice() else {
            anyhow::bail!("{} live sessions where one is expected", live.len())
        };
        Ok(SessionView {
            session_id: text(session, "id"),
            state: text(session, "state"),
            state_version: session
                .get("state_version")
                .and_then(Value::as_u64)
                .context("a session without state_version")?,
            remote: text(session, "remote"),
        })
    }

    /// Reattach requests refused so far, whatever the reason.
    #[must_use]
    pub fn reattaches_refused(&self) -> u64 {
        let counters = self.0.get("counters").and_then(Value::as_object);
        counters
            .into_iter()
            .flatten()
            .filter(|(name, _)| name.starts_with("reattach_rejected."))
            .filter_map(|(_, count)| count.as_u64())
            .sum()
    }

    /// Bindings to addresses that their requests had proven.
    #[must_use]
    pub fn addresses_proven(&self) -> u64 {
        counter(&self.0, "counters", "reattach_address_proven")
    }

    /// DATA of bound paths that the control plane itself found in its socket.
    #[must_use]
    pub fn kernel_socket_bound_data(&self) -> u64 {
        counter(&self.0, "counters", "kernel_socket_bound_data")
    }
}

impl DataPlaneStatus {
    /// Asks.
    ///
    /// # Errors
    /// Nobody answers, or not with a status.
    pub fn query(socket: &Path) -> Result<Self> {
        Ok(Self(jvpn_host::status::query(socket, "status")?))
    }

    /// A status as a document.
    #[must_use]
    pub const fn from_document(document: Value) -> Self {
        Self(document)
    }

    /// All that it says.
    #[must_use]
    pub const fn document(&self) -> &Value {
        &self.0
    }

    /// What XDP did with packets, for one reason.
    #[must_use]
    pub fn xdp_counter(&self, reason: DropReason) -> u64 {
        counter(&self.0, "xdp_counters", reason.name())
    }

    /// DATA that neither went to a worker nor may have reached one.
    #[must_use]
    pub fn unbound_data(&self) -> u64 {
        [DropReason::SlotUnbound, DropReason::EndpointMismatch, DropReason::SlotOutOfRange]
            .into_iter()
            .map(|reason| self.xdp_counter(reason))
            .sum()
    }

    /// How XDP is attached.
    #[must_use]
    pub fn xdp_mode(&self) -> String {
        text(&self.0, "xdp_mode")
    }

    /// How AF_XDP gets at the frames.
    #[must_use]
    pub fn af_xdp_mode(&self) -> String {
        text(&self.0, "af_xdp_mode")
    }

    /// The workers.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerRow> {
        let workers = self.0.get("workers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let number = |worker: &Value, field| worker.get(field).and_then(Value::as_u64);
        workers
            .iter()
            .map(|worker| WorkerRow {
                cpu: number(worker, "cpu"),
                packets_in: number(worker, "packets_in").unwrap_or_default(),
                packets_out: number(worker, "packets_out").unwrap_or_default(),
            })
            .collect()
    }
}

fn text(value: &Value, field: &str) -> String {
    match value.get(field) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

fn counter(value: &Value, group: &str, name: &str) -> u64 {
    value.get(group).and_then(|group| group.get(name)).and_then(Value::as_u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn refusals_are_summed_and_transitions_are_not() {
        let status = ControlPlaneStatus(json!({
            "counters": {
                "reattach_rejected.REPLAY_DETECTED": 2, "reattach_rejected.SESSION_NOT_FOUND": 3,
                "transition.TRANSPORT_SWITCH_OK": 40, "reattach_received": 50
            }
        }));
        assert_eq!(status.reattaches_refused(), 5);
    }

    #[test]
    fn only_one_live_session_is_taken() {
        let session =
            |id: &str, state: &str| json!({"id": id, "state": state, "state_version": 7, "remote": "r"});
        let status = |sessions| ControlPlaneStatus(json!({ "sessions": sessions }));
        let one =
            status(json!([session("a", "TERMINATED"), session("b", "ATTACHED")])).only_session().unwrap();
        assert_eq!((one.session_id.as_str(), one.state_version), ("b", 7));
        assert!(status(json!([])).only_session().is_err());
        assert!(status(json!([session("a", "ATTACHED"), session("b", "ATTACHED")])).only_session().is_err());
    }

    #[test]
    fn workers_and_counters_are_read() {
        let status = DataPlaneStatus(json!({
            "xdp_mode": "native", "af_xdp_mode": "copy",
            "workers": [{"cpu": 1, "packets_in": 5, "packets_out": 6}],
            "xdp_counters": {"slot_unbound": 3, "endpoint_mismatch": 4, "steered": 100}
        }));
        assert_eq!(status.unbound_data(), 7);
        assert_eq!(status.workers(), [WorkerRow { cpu: Some(1), packets_in: 5, packets_out: 6 }]);
        assert_eq!((status.xdp_mode().as_str(), status.af_xdp_mode().as_str()), ("native", "copy"));
    }
}
