//! What may be asked over the status socket, and the answers. One line in, one JSON document out.

use crate::config::Config;
use crate::engine::{AdminCommand, ContextView, Engine, Status};
use crate::gap::Gap;
use jvpn_abi::BootTime;
use jvpn_host::memory::Memory;
use jvpn_session::messages::SessionId;
use serde_json::{Value, json};

/// What a request line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The whole status.
    Status,
    /// The status without its sessions: an answer that does not grow with them.
    Summary,
    /// Sessions, without the rest.
    Sessions,
    /// One session with its timeline.
    Session(SessionId),
    /// Something changes. The text is the operator's own reason, for the logs.
    Command(AdminCommand, String),
    /// The peers file is read again.
    ReloadPeers,
}

/// The requests, for those who guess.
const KNOWN: &str = "status, summary, sessions, session ID, terminate ID [WHY], terminate-peer NAME [WHY], \
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
            "summary" => Self::Summary,
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
    /// Abuse summaries taken and lost, if there is a hook for them.
    pub abuse: Option<(u64, u64)>,
    /// Whether keys in this process's memory may reach a swap device.
    pub memory: Memory,
    /// Replacements of the data plane that this process saw, and the last one.
    pub gap: (u64, Option<Gap>),
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
        Request::Status => status(engine.status(now, view), around),
        Request::Summary => {
            let mut document = status(engine.summary(now), around);
            // An empty list would say that there are none.
            document.as_object_mut().map(|fields| fields.remove("sessions"));
            document
        }
        Request::Sessions => {
            json!({ "process": "jvpn-controlplane", "sessions": engine.status(now, view).sessions })
        }
        Request::Session(id) => engine.session_detail(id, now, view).map_or_else(
            || json!({ "error": format!("session {id} is not known here; 'sessions' lists those that are") }),
            |detail| serde_json::to_value(detail).unwrap_or(Value::Null),
        ),
        Request::Command(command, why) => {
            tracing::info!(?command, why, "operator");
            match engine.handle_admin_because(now, &command, &why, view) {
                Ok(()) => json!({ "ok": true }),
                Err(error) => json!({ "error": error.to_string() }),
            }
        }
        Request::ReloadPeers => reload(engine, config, now, view),
    }
}

fn status(status: Status, around: &Surroundings) -> Value {
    let mut document = serde_json::to_value(status).unwrap_or(Value::Null);
    if let Some(fields) = document.as_object_mut() {
        fields.insert("process".into(), json!("jvpn-controlplane"));
        fields.insert("pid".into(), json!(std::process::id()));
        fields.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
        fields.insert("node_id".into(), json!(around.node_id));
        fields.insert("data_plane_connected".into(), json!(around.data_plane_connected));
        fields.insert("audit_dropped".into(), json!(around.audit_dropped));
        fields.insert("datagrams_unsent".into(), json!(around.datagrams_unsent));
        if let Some((sent, dropped)) = around.abuse {
            fields.insert("abuse_summaries".into(), json!({ "sent": sent, "dropped": dropped }));
        }
        let (restarts, last) = around.gap;
        fields.insert("data_plane_restarts".into(), json!({ "count": restarts, "last": last }));
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
        assert_eq!(Request::parse("summary"), Ok(Request::Summary));
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
    /// R1.8: a peers file that is broken in any way changes nothing and is named; the mended one counts.
    #[test]
    fn r1_8_a_broken_peers_file_leaves_the_old_list() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers.toml");
        let peer = |name: &str, octet: u8| {
            let key = jvpn_crypto::keys::PublicKey([octet; 32]);
            format!(
                "[[peer]]\nname = \"{name}\"\npublic_key = \"{key}\"\naddresses = [\"10.77.0.{octet}/32\"]\n"
            )
        };
        std::fs::write(&path, peer("laptop", 2)).unwrap();
        let text = format!(
            "node_id = \"gw1\"\nstate_dir = \"/s\"\nprivate_key_file = \"/k\"\npeers_file = \"{}\"\n[tunnel]\n\
             gateway_address = \"10.77.0.1\"\n",
            path.display()
        );
        let config = Config::parse(&text).unwrap();
        let mut engine = testing::engine(config.settings(crate::config::read_psk).unwrap());
        let around = Surroundings {
            node_id: "gw1".into(),
            data_plane_connected: false,
            audit_dropped: 0,
            datagrams_unsent: 0,
            abuse: None,
            memory: Memory::Locked,
            gap: (0, None),
        };
        let mut ask = |line: &str| {
            answer(line, &mut engine, &config, &around, BootTime::from_millis(1), &testing::NoContext)
        };
        let broken: [Vec<u8>; 7] = [
            b"[[peer]\n".to_vec(),
            peer("laptop", 2).into_bytes()[..40].to_vec(),
            vec![0xff; 64],
            [peer("laptop", 2), peer("laptop", 3)].concat().into_bytes(),
            peer("laptop", 1).into_bytes(),
            format!("{}preshared_key_file = \"/nonexistent\"\n", peer("laptop", 2)).into_bytes(),
            peer("laptop", 2).replace("name", "nmae").into_bytes(),
        ];
        for content in &broken {
            std::fs::write(&path, content).unwrap();
            let said = ask("reload-peers")["error"].as_str().unwrap().to_owned();
            assert!(said.starts_with("the old list stays: ") && said.len() > 40, "{said}");
            assert_eq!(
                ask("terminate-peer laptop"),
                json!({ "ok": true }),
                "the old list is gone after {said}"
            );
        }
        std::fs::remove_file(&path).unwrap();
        assert!(ask("reload-peers")["error"].as_str().unwrap().contains("peers.toml"));
        std::fs::write(&path, [peer("laptop", 2), peer("phone", 3)].concat()).unwrap();
        assert_eq!(
            ask("reload-peers")["peers"],
            json!({ "added": 1, "removed": 0, "changed": 0, "kept": 1 })
        );
    }

    /// An engine without a data plane and without a disk.
    mod testing {
        use crate::engine::{ContextView, Durable, Engine, Probed, Settings, Traffic};
        use crate::node_state::StateError;
        use jvpn_abi::BootTime;
        use jvpn_abi::tables::BindingWord;
        use jvpn_crypto::keys::{NodeKey, PublicKey, StaticSecret};
        use jvpn_crypto::rng::OsRandom;

        struct Nothing(NodeKey);

        impl Durable for Nothing {
            fn node_key(&self) -> &NodeKey {
                &self.0
            }
            fn serial_floor(&self) -> u32 {
                0
            }
            fn reserve_serials(&mut self, _: u32) -> Result<u32, StateError> {
                Err(StateError::SerialsUsedUp)
            }
            fn handshake_timestamp(&self, _: &PublicKey) -> Option<u64> {
                None
            }
            fn record_handshake(&mut self, _: &PublicKey, _: u64) -> Result<(), StateError> {
                Err(StateError::SerialsUsedUp)
            }
        }

        pub(super) struct NoContext;

        impl ContextView for NoContext {
            fn last_heard(&self, _: u32) -> Option<BootTime> {
                None
            }
            fn peer_interval_ms(&self, _: u32) -> Option<u32> {
                None
            }
            fn confirmed(&self, _: u32, _: BindingWord) -> bool {
                false
            }
            fn highest_counter(&self, _: u32, _: u32) -> Option<u64> {
                None
            }
            fn sending_key(&self, _: u32) -> Option<u32> {
                None
            }
            fn sealed(&self, _: u32, _: u32) -> Option<u64> {
                None
            }
            fn failed_opens(&self, _: u32) -> u64 {
                0
            }
            fn traffic(&self, _: u32) -> Traffic {
                Traffic::default()
            }
            fn probed(&self, _: u32) -> Option<Probed> {
                None
            }
        }

        pub(super) fn engine(settings: Settings) -> Engine {
            let mut random = OsRandom::checked().unwrap();
            let secret = StaticSecret::generate(&mut random).unwrap();
            let nothing = Box::new(Nothing(NodeKey::from_bytes([1; 32])));
            Engine::new(settings, secret, nothing, Box::new(random), BootTime::from_millis(1))
        }
    }
}
