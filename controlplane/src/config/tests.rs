//! Every field of the configuration, right and wrong.

use super::*;

const KEY_A: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const KEY_B: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

/// 108 octets.
const LONG_PATH: &str = "/run/3456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345";

fn good() -> String {
    format!(
        r#"
node_id = "gw1"
dataplane_socket = "/run/jvpn/dataplane.sock"
status_socket = "/run/jvpn/status.sock"
user = "jvpn"
state_dir = "/var/lib/jvpn"
private_key_file = "/etc/jvpn/gateway.key"
audit_file = "-"
suites = ["chacha20-poly1305", "aes-256-gcm"]

[policy]
preset = "fintech"
recovery_window = "12s"

[tunnel]
gateway_address = "10.77.0.1"
pool = "10.77.0.0/24"
mtu = 1280
routes = ["192.168.50.0/24"]
dns = ["10.77.0.1"]

[abuse]
socket = "/run/abuse.sock"
interval_s = 30
sources = 5

[[peer]]
name = "laptop"
public_key = "{KEY_A}"
preshared_key_file = "/etc/jvpn/laptop.psk"
addresses = ["10.77.0.2/32"]
routes = ["172.16.5.0/24"]

[[peer]]
name = "phone"
public_key = "{KEY_B}"
addresses = ["10.77.0.3/32"]
"#
    )
}

#[test]
fn a_good_file_is_taken_as_it_is() {
    let config = Config::parse(&good()).unwrap();
    assert_eq!(config.suites, [Suite::ChaCha20Poly1305, Suite::Aes256Gcm]);
    assert_eq!(config.policy_name, "fintech");
    assert_eq!(config.policy.recovery_window.as_secs(), 12);
    assert_eq!(config.policy.probe_traffic.as_millis(), 50);
    assert_eq!(config.audit_file, None);
    let abuse = config.abuse.as_ref().unwrap();
    assert_eq!(abuse.socket, Path::new("/run/abuse.sock"));
    assert_eq!((abuse.settings.interval, abuse.settings.sources), (Duration::from_secs(30), 5));
    assert_eq!(config.peers.len(), 2);
    assert_eq!(config.peers[0].prefixes.len(), 2);
    let settings = config.settings(|path| {
        assert_eq!(path, Path::new("/etc/jvpn/laptop.psk"));
        Ok::<_, ()>(PresharedKey::default())
    });
    assert_eq!(settings.unwrap().peers.len(), 2);
}

#[test]
fn defaults_fill_a_small_file() {
    let text = format!(
        "node_id = \"n\"\nstate_dir = \"/s\"\nprivate_key_file = \"/k\"\n[tunnel]\ngateway_address = \"10.0.0.1\"\n\
         [[peer]]\nname = \"a\"\npublic_key = \"{KEY_A}\"\naddresses = [\"10.0.0.2/32\"]\n"
    );
    let config = Config::parse(&text).unwrap();
    assert_eq!((config.user.as_str(), config.tunnel.mtu), ("jvpn", 1_280));
    assert_eq!(config.policy, Policy::default());
    assert_eq!(config.abuse, None);
    assert_eq!(config.suites, [Suite::Aes256Gcm, Suite::ChaCha20Poly1305]);
}

/// Each field wrong: the error names the field and what to do.
#[test]
fn each_wrong_field_is_named() {
    let cases = [
        ("node_id = \"gw1\"", "node_id = \"\"", "node_id"),
        ("node_id = \"gw1\"", "node_id = \"a b\"", "node_id"),
        ("node_id = \"gw1\"", "nodeid = \"gw1\"", "nodeid"),
        ("node_id = \"gw1\"", "node_id = 1", "node_id"),
        ("\"/run/jvpn/dataplane.sock\"", "\"dataplane.sock\"", "dataplane_socket"),
        ("\"/run/jvpn/status.sock\"", "\"status.sock\"", "status_socket"),
        ("user = \"jvpn\"", "user = \"root\"", "user"),
        ("user = \"jvpn\"", "user = \"\"", "user"),
        ("\"/var/lib/jvpn\"", "\"lib\"", "state_dir"),
        ("\"/etc/jvpn/gateway.key\"", "\"gateway.key\"", "private_key_file"),
        ("audit_file = \"-\"", "audit_file = \"x.jsonl\"", "audit_file"),
        ("\"chacha20-poly1305\"", "\"rot13\"", "suites"),
        ("\"chacha20-poly1305\"", "\"aes-256-gcm\"", "suites"),
        ("suites = [\"chacha20-poly1305\", \"aes-256-gcm\"]", "suites = []", "suites"),
        ("preset = \"fintech\"", "preset = \"bank\"", "policy.preset"),
        ("recovery_window = \"12s\"", "recovery_window = \"12\"", "policy.recovery_window"),
        ("recovery_window = \"12s\"", "recovery_window = \"301s\"", "policy.recovery_window"),
        ("recovery_window = \"12s\"", "recovery_windw = \"12s\"", "recovery_windw"),
        ("gateway_address = \"10.77.0.1\"", "gateway_address = \"10.77.0\"", "gateway_address"),
        ("gateway_address = \"10.77.0.1\"", "gateway_address = \"0.0.0.0\"", "gateway_address"),
        ("\"10.77.0.0/24\"", "\"10.77.0.9/24\"", "tunnel.pool"),
        ("mtu = 1280", "mtu = 1279", "tunnel.mtu"),
        ("mtu = 1280", "mtu = 9000", "tunnel.mtu"),
        ("\"192.168.50.0/24\"", "\"192.168.50.0/33\"", "tunnel.routes"),
        ("\"192.168.50.0/24\"", "\"192.168.50.1/24\"", "tunnel.routes"),
        ("dns = [\"10.77.0.1\"]", "dns = [\"x\"]", "dns"),
        (
            "dns = [\"10.77.0.1\"]",
            "dns = [\"1.1.1.1\", \"1.1.1.2\", \"1.1.1.3\", \"1.1.1.4\", \"1.1.1.5\"]",
            "tunnel.dns",
        ),
        ("\"/run/abuse.sock\"", "\"abuse.sock\"", "abuse.socket"),
        ("/run/abuse.sock", LONG_PATH, "abuse.socket"),
        ("socket = \"/run/abuse.sock\"", "command = \"/bin/ban\"", "command"),
        ("socket = \"/run/abuse.sock\"", "", "socket"),
        ("interval_s = 30", "interval_s = 0", "abuse.interval_s"),
        ("interval_s = 30", "interval_s = 3601", "abuse.interval_s"),
        ("interval_s = 30", "interval_s = -1", "interval_s"),
        ("sources = 5", "sources = 0", "abuse.sources"),
        ("sources = 5", "sources = 101", "abuse.sources"),
        ("name = \"phone\"", "name = \"laptop\"", "peer.name"),
        ("name = \"phone\"", "name = \"\"", "peer.name"),
        (KEY_B, KEY_A, "public_key"),
        (KEY_B, "AgIC", "public_key"),
        (KEY_B, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "public_key"),
        ("\"/etc/jvpn/laptop.psk\"", "\"laptop.psk\"", "preshared_key_file"),
        ("\"10.77.0.3/32\"", "\"10.77.0.0/31\"", "'phone' addresses"),
        ("\"10.77.0.3/32\"", "\"10.77.0.2/32\"", "peer 'laptop'"),
        ("\"10.77.0.3/32\"", "\"10.77.0.1/32\"", "'phone' addresses"),
        ("\"10.77.0.3/32\"", "\"10.78.0.3/32\"", "tunnel.pool"),
        ("\"10.77.0.3/32\"", "\"10.77.0.3/32\", \"10.77.0.4/32\"", "'phone' addresses"),
        ("[\"10.77.0.3/32\"]", "[]", "'phone' addresses"),
        ("\"172.16.5.0/24\"", "\"10.77.0.0/24\"", "'laptop' routes"),
        ("\"172.16.5.0/24\"", "\"172.16.5.0\"", "'laptop' routes"),
        ("\"172.16.5.0/24\"", "\"::/0\"", "'laptop' routes"),
        ("pool = ", "gateway_address_v6 = \"ff02::1\"\npool = ", "tunnel.gateway_address_v6"),
        ("pool = ", "gateway_address_v6 = \"10.77.0.1\"\npool = ", "gateway_address_v6"),
        ("pool = ", "gateway_address_v6 = \"::ffff:10.77.0.1\"\npool = ", "tunnel.gateway_address_v6"),
        ("pool = ", "pool_v6 = \"10.78.0.0/16\"\npool = ", "tunnel.pool_v6"),
        ("pool = ", "pool_v6 = \"fd77::1/64\"\npool = ", "tunnel.pool_v6"),
        ("\"10.77.0.0/24\"", "\"fd77::/64\"\npool_v6 = \"fd78::/64\"", "tunnel.pool_v6"),
    ];
    for (from, to, named) in cases {
        let text = good().replacen(from, to, 1);
        assert_ne!(text, good(), "{from}");
        let error = Config::parse(&text).expect_err(to).to_string();
        assert!(error.contains(named), "{to}: {error}");
    }
}

/// Both families inside: each peer's addresses lie in the pool of their family and are not the gateway's.
#[test]
fn both_families_are_given() {
    let both = good()
        .replace("pool = ", "gateway_address_v6 = \"fd77::1\"\npool_v6 = \"fd77::/64\"\npool = ")
        .replace("\"10.77.0.3/32\"", "\"10.77.0.3/32\", \"fd77::3/128\"")
        .replace("\"172.16.5.0/24\"", "\"172.16.5.0/24\", \"2001:db8:5::/48\"");
    let config = Config::parse(&both).unwrap();
    let gateway: Vec<String> = config.tunnel.gateway_addresses.iter().map(ToString::to_string).collect();
    assert_eq!(gateway, ["10.77.0.1", "fd77::1"]);
    assert_eq!((config.peers[0].prefixes.len(), config.peers[1].addresses.len()), (3, 2));
    for (wrong, named) in
        [("fd77::1/128", "gateway"), ("fd78::3/128", "tunnel.pool_v6"), ("fd77::/127", "addresses")]
    {
        let error = Config::parse(&both.replace("fd77::3/128", wrong)).unwrap_err().to_string();
        assert!(error.contains("'phone' addresses") && error.contains(named), "{wrong}: {error}");
    }
    let error = Config::parse(&both.replace("2001:db8:5::/48", "fd77::/64")).unwrap_err().to_string();
    assert!(error.contains("'laptop' routes"), "{error}");
}

#[test]
fn too_many_prefixes_and_routes_are_refused() {
    let many: Vec<_> = (0..17).map(|n| format!("\"192.168.{n}.0/24\"")).collect();
    let text = good().replace("\"192.168.50.0/24\"", &many.join(","));
    assert!(Config::parse(&text).unwrap_err().to_string().contains("tunnel.routes"));
    let text = good().replace("\"172.16.5.0/24\"", &many[..8].join(","));
    assert!(Config::parse(&text).unwrap_err().to_string().contains("at most 8"));
}

#[test]
fn overlapping_prefixes_of_two_peers_are_refused_in_either_order() {
    for (mine, theirs) in [("172.16.5.128/25", "172.16.5.0/24"), ("172.16.0.0/16", "172.16.5.0/24")] {
        let addresses = "addresses = [\"10.77.0.3/32\"]";
        let text = good().replace("172.16.5.0/24", mine);
        let text = text.replace(addresses, &format!("{addresses}\nroutes = [\"{theirs}\"]"));
        let error = Config::parse(&text).unwrap_err().to_string();
        assert!(error.contains("overlaps") && error.contains("laptop"), "{error}");
    }
}

/// Files are named, with the line.
#[test]
fn a_file_that_is_missing_or_broken_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("controlplane.toml");
    assert!(Config::load(&path).unwrap_err().to_string().contains("controlplane.toml"));
    std::fs::write(&path, "node_id = ").unwrap();
    let error = Config::load(&path).unwrap_err().to_string();
    assert!(error.contains("controlplane.toml") && error.contains("line 1"), "{error}");
    std::fs::write(&path, good()).unwrap();
    Config::load(&path).unwrap();
}
