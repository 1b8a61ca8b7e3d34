//! Target `text`: what people write: configurations, policies, request lines, and the documents that answer them.

use crate::Source;
use jvpn_controlplane::admin::Request;
use jvpn_crypto::keys::PresharedKey;
use jvpn_session::Policy;
use std::path::Path;

/// Nothing is read from it.
const PATH: &str = "/nonexistent/jvpn.toml";

pub(crate) fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let kind = source.u8() % 6;
    let Ok(text) = std::str::from_utf8(source.rest()) else { return };
    match kind {
        0 => control_plane(text),
        1 => policy(text),
        2 => data_plane(text),
        3 => client(text),
        4 => request(text),
        _ => document(text),
    }
}

/// A refusal says something, and no key is in it.
fn refused(message: &str) {
    assert!(message.len() > 10, "{message}");
}

fn control_plane(text: &str) {
    // A peers file is read from the disk.
    if text.contains("peers_file") {
        return;
    }
    match jvpn_controlplane::config::Config::parse(text) {
        Err(error) => refused(&error.to_string()),
        Ok(config) => {
            config.policy.check().unwrap();
            let settings = config.settings(|_| Ok::<_, ()>(PresharedKey::default())).unwrap();
            assert!(!settings.suites.is_empty());
            for peer in &settings.peers {
                assert!(!peer.addresses.is_empty() && peer.prefixes.len() <= 8, "{peer:?}");
                for own in &settings.tunnel.gateway_addresses {
                    assert!(!peer.prefixes.iter().any(|prefix| prefix.contains(*own)));
                }
            }
        }
    }
}

/// What is taken is within its bounds, also as clients get it.
fn policy(text: &str) {
    match Policy::from_toml(text) {
        Err(error) => refused(&error.to_string()),
        Ok(policy) => {
            policy.check().unwrap();
            let client = policy.client_policy();
            assert!(client.rekey_soft_ms < client.rekey_hard_ms && client.suspicion_ms > 0);
            assert!(client.recovery_window_ms <= client.transport_loss_ttl_ms);
            assert!(policy.dead_after(None) >= policy.dead_after_min);
        }
    }
}

fn data_plane(text: &str) {
    use jvpn_dataplane::config::Config;
    match jvpn_host::config::parse::<Config>(Path::new(PATH), text) {
        Err(error) => refused(&error.to_string()),
        Ok(config) => match config.validate() {
            Err(message) => refused(&message),
            Ok(()) => {
                assert!(config.workers <= jvpn_abi::tables::MAX_WORKERS && config.tunnel.pools().is_ok());
            }
        },
    }
}

fn client(text: &str) {
    match jvpn_client::config::Config::parse(Path::new(PATH), text) {
        Err(error) => refused(&error.to_string()),
        Ok(config) => {
            assert!(!config.suites().is_empty() && !config.uplink_specs().is_empty());
            assert_eq!(config.uplink_specs().len(), config.routing().len());
            let _settings = config.candidates();
        }
    }
}

/// A request line is understood or answered with what would be right.
fn request(line: &str) {
    match Request::parse(line) {
        Err(message) => refused(&message),
        Ok(Request::Command(_, why)) => assert!(!why.chars().any(char::is_control), "{why:?}"),
        Ok(
            Request::Status
            | Request::Summary
            | Request::Sessions
            | Request::Session(_)
            | Request::ReloadPeers,
        ) => {}
    }
}

/// Any document becomes text.
fn document(text: &str) {
    if let Ok(document) = serde_json::from_str(text) {
        assert!(!jvpn_client::show::text(Path::new(PATH), &document).is_empty());
    }
}

const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let control = format!(
        "node_id = \"gw1\"\nstate_dir = \"/var/lib/jvpn\"\nprivate_key_file = \"/etc/jvpn/gateway.key\"\n\
         suites = [\"aes-256-gcm\"]\n[policy]\npreset = \"fintech\"\nrecovery_window = \"12s\"\n[tunnel]\n\
         gateway_address = \"10.77.0.1\"\npool = \"10.77.0.0/24\"\nmtu = 1280\nroutes = [\"192.168.50.0/24\"]\n\
         dns = [\"10.77.0.1\"]\n[[peer]]\nname = \"laptop\"\npublic_key = \"{KEY}\"\n\
         addresses = [\"10.77.0.2/32\", \"fd00::2/128\"]\nroutes = [\"172.16.5.0/24\"]\n"
    );
    let policy = "preset = \"mobile\"\nsession_ttl = \"1h\"\ntransport_loss_ttl = \"10min\"\nrecovery_window = \"45s\"\n\
                  probe_traffic = \"200ms\"\nprobe_idle = \"25s\"\nsuspicion = \"25ms\"\ndead_after_missed = 3\n\
                  max_switches_per_min = 8\nrekey_soft = \"2s\"\nrekey_hard = \"12s\"\nreplay_window_packets = 8192\n";
    let data = "workers = 2\ncores = [0, 1]\nslots = 1024\n[wan]\ninterface = \"wan0\"\nport = 4500\n[lan]\n\
                interface = \"lan0\"\n[tunnel]\ngateway_address = \"10.77.0.1\"\npool = \"10.77.0.0/16\"\nmtu = 1280\n\
                [limits]\nsample_per_second = 100\n";
    let client = format!(
        "suites = [\"aes-256-gcm\"]\n[interface]\nname = \"jvpn0\"\nprivate_key_file = \"client.key\"\ntable = 19000\n\
         [gateway]\npublic_key = \"{KEY}\"\nendpoint = \"198.51.100.1:4500\"\n[[uplink]]\ndevice = \"upA\"\n\
         gateway = \"10.0.1.1\"\npriority = 7\n[[uplink]]\ndevice = \"upB\"\nmetered = true\n[paths]\n\
         candidate_interval_s = 5\n"
    );
    let id = "00112233445566778899aabbccddeeff";
    let mut seeds: Vec<Vec<u8>> = [control.as_str(), policy, data, client.as_str()]
        .into_iter()
        .enumerate()
        .map(|(kind, text)| [vec![kind as u8], text.as_bytes().to_vec()].concat())
        .collect();
    let terminate = format!("terminate {id} why");
    for line in ["status", "sessions", "reload-peers", "revoke-peer laptop lost it", terminate.as_str()] {
        seeds.push([&[4][..], line.as_bytes()].concat());
    }
    let status = format!(
        "{{\"process\":\"jvpn\",\"state\":\"ATTACHED\",\"session_id\":\"{id}\",\"mtu\":1280,\"up\":[{{\"a\":[1,2,null]}}],\
         \"path\":{{\"rtt_ms\":1.5,\"x\":{{\"y\":{{\"z\":{{\"w\":true}}}}}}}}}}"
    );
    seeds.push([&[5][..], status.as_bytes()].concat());
    seeds
}
