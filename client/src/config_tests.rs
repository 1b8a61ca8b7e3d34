//! The configuration: a good file, and each field wrong.

use super::*;
use std::os::unix::fs::PermissionsExt;

const KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

fn good() -> String {
    format!(
        r#"
status_socket = "/run/jvpn/agent.sock"
events_file = "/var/log/jvpn.jsonl"
suites = ["chacha20-poly1305", "aes-256-gcm"]

[interface]
name = "jvpn0"
private_key_file = "client.key"
table = 19000
rule_priority = 100

[gateway]
public_key = "{KEY}"
endpoint = "198.51.100.1:4500"
preshared_key_file = "psk.key"

[[uplink]]
device = "upA"
gateway = "10.0.1.1"
priority = 7

[[uplink]]
device = "upB"
metered = true

[paths]
candidate_interval_s = 5

[traffic]
routes = ["10.0.0.0/8", "fd00::/8"]
exclude = ["192.168.0.0/16"]
kill_switch = true
mark = 77

[dns]
servers = ["10.77.0.1"]
search = ["corp.example"]
method = "file"

[offload]
udp = false
"#
    )
}

fn load(text: &str) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("client.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(&path)
}

#[test]
fn a_good_file_is_taken_over() {
    let config = load(&good()).unwrap();
    assert_eq!(config.suites(), [Suite::ChaCha20Poly1305, Suite::Aes256Gcm]);
    let specs = config.uplink_specs();
    assert_eq!((specs[0].priority, specs[1].priority), (7, 2), "without a priority the order counts");
    assert_eq!((specs[0].metered, specs[1].metered), (false, true));
    let seconds = Duration::from_secs;
    let candidates = config.candidates();
    assert_eq!((candidates.interval, candidates.fail_back_hold), (seconds(5), Some(seconds(30))));
    assert_eq!(config.gateway.endpoint, GatewayEndpoint::Address("198.51.100.1:4500".parse().unwrap()));
    let named = load(&good().replace("198.51.100.1:4500", "vpn-1.example.net:4500")).unwrap();
    let name = GatewayEndpoint::Name { host: "vpn-1.example.net".to_owned(), port: 4_500 };
    assert_eq!(named.gateway.endpoint, name);
    let never = load(&good().replace("candidate_interval_s = 5", "fail_back = false")).unwrap();
    assert_eq!(never.candidates().fail_back_hold, None);
    assert!(never.candidates().for_quality, "on unless switched off");
    let stays = load(&good().replace("candidate_interval_s = 5", "quality_switch = false")).unwrap();
    assert!(!stays.candidates().for_quality);
    assert_eq!(
        (config.traffic.routes.len(), config.traffic.mark, config.traffic.full_tunnel),
        (2, 77, false)
    );
    assert_eq!(config.traffic.kill_switch, KillSwitchMode::On);
    let always = load(&good().replace("kill_switch = true", "kill_switch = \"always\"")).unwrap();
    assert_eq!(always.traffic.kill_switch, KillSwitchMode::Always);
    let odd =
        load(&good().replace("kill_switch = true", "kill_switch = \"sometimes\"")).unwrap_err().to_string();
    assert!(odd.contains("sometimes") && odd.contains("always"), "{odd}");
    assert_eq!(
        (config.dns.method, config.offload.tunnel, config.offload.udp),
        (DnsMethod::File, true, false)
    );
    let routing = config.routing();
    assert_eq!((routing[0].table, routing[1].table), (19_000, 19_001));
    assert_eq!(routing[1].gateway, None);
}

/// Both families: two endpoints, or two paths on one device.
#[test]
fn both_families_are_named() {
    let both = good()
        .replace("preshared_key_file = \"psk.key\"", "second_endpoint = \"[2001:db8::1]:4500\"")
        .replace("device = \"upB\"", "device = \"upA\"\nfamily = \"ipv6\"")
        .replace("gateway = \"10.0.1.1\"", "gateway = \"10.0.1.1\"\nfamily = \"ipv4\"");
    let config = load(&both).unwrap();
    let addresses: Vec<_> = config.gateway.addresses().map(|address| address.to_string()).collect();
    assert_eq!(addresses, ["198.51.100.1:4500", "[2001:db8::1]:4500"]);
    let families: Vec<_> = config.routing().iter().map(|routing| routing.family).collect();
    assert_eq!(families, [Some(Family::V4), Some(Family::V6)]);
    let alone =
        load(&good().replace("198.51.100.1:4500", "[2001:db8::1]:4500").replace("10.0.1.1", "fe80::1"));
    assert!(alone.is_ok(), "{alone:?}");
}

#[test]
fn defaults_are_enough_for_a_short_file() {
    let short = format!(
        "[interface]\nprivate_key_file = \"k\"\n[gateway]\npublic_key = \"{KEY}\"\nendpoint = \"192.0.2.1:4500\"\n\
         [[uplink]]\ndevice = \"eth0\"\n"
    );
    let config = load(&short).unwrap();
    assert_eq!(config.interface.name, "jvpn0");
    assert_eq!(config.status_socket, PathBuf::from("/run/jvpn/agent.sock"));
    assert_eq!(config.suites(), [Suite::Aes256Gcm, Suite::ChaCha20Poly1305]);
    assert!(config.preshared().is_ok());
}

/// What is right, what is wrong in its place, what the message names.
const WRONG: &[(&str, &str, &str)] = &[
    (r#"name = "jvpn0""#, r#"name = "much-too-long-name""#, "name"),
    (r#"name = "jvpn0""#, r#"name = """#, "name"),
    (r#"name = "jvpn0""#, r#"name = "a/b""#, "name"),
    (r#"name = "jvpn0""#, "name = 5", "name"),
    (r#"name = "jvpn0""#, r#"naem = "jvpn0""#, "naem"),
    ("private_key_file = \"client.key\"\n", "", "private_key_file"),
    ("table = 19000", "table = 254", "table"),
    ("table = 19000", "table = 4294967295", "table"),
    ("table = 19000", "table = -1", "table"),
    ("rule_priority = 100", "rule_priority = 40000", "rule_priority"),
    ("rule_priority = 100", "rule_priority = 0", "rule_priority"),
    (KEY, "short", "public_key"),
    (KEY, "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA", "public_key"),
    ("198.51.100.1:4500", "198.51.100.1", "endpoint"),
    ("198.51.100.1:4500", "198.51.100.1:0", "endpoint"),
    ("198.51.100.1:4500", "0.0.0.0:4500", "endpoint"),
    ("198.51.100.1:4500", "224.0.0.1:4500", "endpoint"),
    ("198.51.100.1:4500", "gateway.example", "endpoint"),
    ("198.51.100.1:4500", "gateway.example:0", "endpoint"),
    ("198.51.100.1:4500", "gateway_1.example:4500", "endpoint"),
    ("198.51.100.1:4500", "198.51.100.299:4500", "endpoint"),
    ("198.51.100.1:4500", "[2001:db8::1]:4500", "gateway = '10.0.1.1'"),
    ("198.51.100.1:4500", "[::ffff:198.51.100.1]:4500", "endpoint"),
    ("preshared_key_file = \"psk.key\"", "second_endpoint = \"192.0.2.1:4500\"", "second_endpoint"),
    ("preshared_key_file = \"psk.key\"", "second_endpoint = \"[2001:db8::1]:0\"", "endpoint"),
    (r#"device = "upB""#, "device = \"upB\"\nfamily = \"ipv6\"", "family"),
    (r#"device = "upB""#, "device = \"upB\"\nfamily = \"ipx\"", "family"),
    (r#"device = "upB""#, "device = \"upA\"\nfamily = \"ipv4\"", "twice"),
    (r#"device = "upB""#, r#"device = "upA""#, "twice"),
    (r#"device = "upB""#, r#"device = "jvpn0""#, "tunnel"),
    (r#"device = "upB""#, "", "device"),
    (r#"device = "upB""#, "device = \"upB\"\nspeed = 3", "speed"),
    ("10.0.1.1", "fe80::1", "gateway"),
    ("10.0.1.1", "10.0.1.299", "gateway"),
    ("priority = 7", "priority = \"high\"", "priority"),
    ("metered = true", "metered = 1", "metered"),
    ("candidate_interval_s = 5", "candidate_interval_s = 0", "candidate_interval_s"),
    ("candidate_interval_s = 5", "metered_interval_s = 100000", "metered_interval_s"),
    ("candidate_interval_s = 5", "fail_back_hold_s = 0", "fail_back_hold_s"),
    ("candidate_interval_s = 5", "fail_back = 3", "fail_back"),
    ("candidate_interval_s = 5", "hold = 3", "hold"),
    ("\"10.0.0.0/8\"", "\"10.0.0.0\"", "10.0.0.0"),
    ("\"fd00::/8\"", "\"fd00::/129\"", "fd00::/129"),
    ("192.168.0.0/16", "0.0.0.0/0", "exclude"),
    ("mark = 77", "mark = 0", "mark"),
    ("mark = 77", "marks = 7", "marks"),
    ("rule_priority = 100", "rule_priority = 32764", "rule_priority"),
    (r#"name = "jvpn0""#, r#"name = "jvpn*""#, "kill switch"),
    ("\"10.77.0.1\"", "\"0.0.0.0\"", "servers"),
    ("\"10.77.0.1\"", "\"ns.example\"", "servers"),
    ("corp.example", "corp..example", "search"),
    ("servers = [\"10.77.0.1\"]", "", "search"),
    ("method = \"file\"", "method = \"magic\"", "method"),
    ("method = \"file\"", "resolv_conf = \"resolv.conf\"", "resolv_conf"),
    ("udp = false", "udp = 1", "udp"),
    (r#""aes-256-gcm"]"#, r#""rot13"]"#, "rot13"),
    (r#""aes-256-gcm"]"#, r#""chacha20-poly1305"]"#, "twice"),
    (r#"["chacha20-poly1305", "aes-256-gcm"]"#, "[]", "suites"),
    ("status_socket = \"/run/jvpn/agent.sock\"", "status_socket = 1", "status_socket"),
    ("events_file = \"/var/log/jvpn.jsonl\"", "events_file = []", "events_file"),
    ("[interface]", "[interfaces]", "interfaces"),
];

/// Each field wrong: refused, and the message names file and field.
#[test]
fn each_wrong_field_is_named() {
    for &(old, new, expected) in WRONG {
        let text = good();
        assert!(text.contains(old), "the case '{old}' has nothing to change");
        let error = load(&text.replacen(old, new, 1)).expect_err(new).to_string();
        assert!(error.contains(expected), "'{new}': the message does not name {expected}: {error}");
        assert!(error.contains("client.toml"), "{error}");
    }
    let none = good().split("[[uplink]]").next().unwrap().to_owned();
    assert!(load(&none).unwrap_err().to_string().contains("uplink"));
    assert!(load(&format!("uplink = []\n{none}")).unwrap_err().to_string().contains("[[uplink]]"));
    assert!(load("\u{0}\u{1}").is_err());
}

/// R5.3: a missing, world-readable or garbled key file is refused with what to do.
#[test]
fn bad_key_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("client.toml");
    std::fs::write(&path, good()).unwrap();
    let config = Config::load(&path).unwrap();
    for (file, field) in [("client.key", "private_key_file"), ("psk.key", "preshared_key_file")] {
        let read = |config: &Config| match file {
            "client.key" => config.secret().map(|_| ()),
            _ => config.preshared().map(|_| ()),
        };
        let key = folder.path().join(file);
        let missing = read(&config).unwrap_err().to_string();
        assert!(missing.contains(field) && missing.contains(file), "{missing}");
        std::fs::write(&key, KEY).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let exposed = read(&config).unwrap_err().to_string();
        assert!(exposed.contains("chmod 600"), "{exposed}");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read(&config).is_ok(), "relative to the configuration file");
        std::fs::write(&key, "not a key").unwrap();
        let garbled = read(&config).unwrap_err().to_string();
        assert!(
            garbled.contains(field) && !garbled.contains("not a key"),
            "no secret in a message: {garbled}"
        );
    }
}
