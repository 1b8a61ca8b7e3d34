//! What may be asked over the status socket, and the answers. One line in, one JSON document out.

use crate::config::Config;
use crate::engine::{AdminCommand, ContextView, Engine};
use jvpn_abi::BootTime;
use jvpn_host::memory::Memory;
use jvpn_session::messages::SessionId;
use serde_json::{Value, json};

/// What a request line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The whole status.
    Status,
    /// Sessions, without the rest.
    Sessions,
    /// One session with its timeline.
    Session(SessionId),
    /// Something changes. The text is the operator's own reason, for the process log.
    Command(AdminCommand, String),
    /// The peers file is read again.
    ReloadPeers,
}

/// The requests, for those who guess.
const KNOWN: &str = "status, sessions, session ID, terminate ID [WHY], terminate-peer NAME [WHY], \
                     revoke-peer NAME [WHY], reload-peers";

impl Request {
    /// Reads a request line.
    ///
    /// # Errors
    /// What is wrong and what would be right.
    pub fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.splitn(3, ' ').map(str::trim);
        let verb = words.next().unwrap_or_default();
        let object = words.next().unwrap_or_default();
        let why = words.next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect::<String>();
        let session = || {
            object.parse().map_err(|()| {
                format!("'{object}' is not a session ID (32 hexadecimal digits; 'sessions' lists them)")
            })
        };
        let name = || {
            if object.is_empty() {
                Err(format!("'{verb}' needs a peer's name"))
            } else {
                Ok(object.to_owned())
            }
        };
        Ok(match verb {
            "" | "status" => Self::Status,
            "sessions" => Self::Sessions,
            "session" => Self::Session(session()?),
            "terminate" => Self::Command(AdminCommand::TerminateSession(session()?), why),
            "terminate-peer" => Self::Command(AdminCommand::TerminatePeer(name()?), why),
            "revoke-peer" => Self::Command(AdminCommand::RevokePeer(name()?), why),
            "reload-peers" => Self::ReloadPeers,
            other => return Err(format!("unknown request '{other}'; known: {KNOWN}")),
        })
    }
}

/// What the shell knows and the engine does not.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Name of this node.
    pub node_id: String,
    /// Whether a data plane is connected.
    pub data_plane_connected: bool,
    /// Audit lines lost.
    pub audit_dropped: u64,
    /// Answers that the kernel did not take.
    pub datagrams_unsent: u64,
    /// Whether keys in this process's memory may reach a swap device.
    pub memory: Memory,
}

/// Answers one request line.
pub fn answer(
    line: &str,
    engine: &mut Engine,
    config: &Config,
    around: &Surroundings,
    now: BootTime,
    view: &dyn ContextView,
) -> Value {
    let request = match Request::parse(line) {
        Ok(request) => request,
        Err(message) => return json!({ "error": message }),
    };
    match request {
        Request::Status => status(engine, around, now, view),
        Request::Sessions => {
            json!({ "process": "jvpn-controlplane", "sessions": engine.status(now, view).sessions })
        }
        Request::Session(id) => engine.session_detail(id, now, view).map_or_else(
            || json!({ "error": format!("session {id} is not known here; 'sessions' lists those that are") }),
            |detail| serde_json::to_value(detail).unwrap_or(Value::Null),
        ),
        Request::Command(command, why) => {
            tracing::info!(?command, why, "operator");
            match engine.handle_admin(now, &command, view) {
                Ok(()) => json!({ "ok": true }),
                Err(error) => json!({ "error": error.to_string() }),
            }
        }
        Request::ReloadPeers => reload(engine, config, now, view),
    }
}

fn status(engine: &Engine, around: &Surroundings, now: BootTime, view: &dyn ContextView) -> Value {
    let mut document = serde_json::to_value(engine.status(now, view)).unwrap_or(Value::Null);
    if let Some(fields) = document.as_object_mut() {
        fields.insert("process".into(), json!("jvpn-controlplane"));
        fields.insert("pid".into(), json!(std::process::id()));
        fields.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
        fields.insert("node_id".into(), json!(around.node_id));
        fields.insert("data_plane_connected".into(), json!(around.data_plane_connected));
        fields.insert("audit_dropped".into(), json!(around.audit_dropped));
        fields.insert("datagrams_unsent".into(), json!(around.datagrams_unsent));
        fields.insert("memory_locked".into(), json!(around.memory == Memory::Locked));
    }
    document
}

/// A broken file changes nothing: the old list stays.
fn reload(engine: &mut Engine, config: &Config, now: BootTime, view: &dyn ContextView) -> Value {
    let peers = config.reload_peers().map_err(|error| error.to_string()).and_then(|peers| {
        crate::config::peer_settings(&peers, crate::config::read_psk).map_err(|error| error.to_string())
    });
    match peers {
        Ok(peers) => {
            let changed = engine.replace_peers(now, peers, view);
            tracing::info!(?changed, "peers reloaded");
            json!({ "ok": true, "peers": changed })
        }
        Err(message) => {
            tracing::warn!(message, "peers not reloaded, the old list stays");
            json!({ "error": format!("the old list stays: {message}") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Garbage on the admin socket gets an answer that teaches, never a panic.
    #[test]
    fn request_lines() {
        let id = "00112233445566778899aabbccddeeff";
        let parsed: SessionId = id.parse().unwrap();
        assert_eq!(Request::parse(""), Ok(Request::Status));
        assert_eq!(Request::parse(&format!("session {id}")), Ok(Request::Session(parsed)));
        let command = AdminCommand::TerminateSession(parsed);
        let why = "lost laptop, ticket 7".to_owned();
        assert_eq!(Request::parse(&format!("terminate {id} {why}")), Ok(Request::Command(command, why)));
        for bad in
            ["sesion", "session", "session xyz", "terminate", "terminate é", "revoke-peer", "\0\u{1b}[2J"]
        {
            assert!(!Request::parse(bad).unwrap_err().is_empty());
        }
    }
}
