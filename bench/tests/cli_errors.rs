//! Wrong configurations and key files, as their user meets them: each process ends at once with an exit code
//! other than 0 and an error that names file and key. R1.8, R5.3.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use jvpn_bench::deployment::{Role, find_programs};
use jvpn_crypto::keys::StaticSecret;
use jvpn_crypto::rng::OsRandom;
use jvpn_rig::{Interrupt, wait};
use tempfile::TempDir;

/// A process that has not ended by then has taken the configuration.
const PATIENCE: Duration = Duration::from_secs(10);

/// A directory with three configurations in which nothing is wrong, except that no such devices exist: should
/// one of them be taken, nothing of this host is touched.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        let (gateway, client) = (place.key("gateway.key"), place.key("client.key"));
        place.key("peer.psk");
        let dir = place.dir.path().display();
        place.write(
            Role::DataPlane,
            &format!(
                r#"control_socket = "{dir}/dataplane.sock"
status_socket = "{dir}/status.sock"
workers = 1
[wan]
interface = "jvpnt-wan"
port = 4500
[lan]
interface = "jvpnt-lan"
[tunnel]
gateway_address = "10.77.0.1"
pool = "10.77.0.0/16"
mtu = 1280
[limits]
sample_per_second = 100
"#
            ),
        );
        place.write(
            Role::ControlPlane,
            &format!(
                r#"node_id = "test"
dataplane_socket = "{dir}/dataplane.sock"
status_socket = "{dir}/status.sock"
state_dir = "{dir}/state"
private_key_file = "{dir}/gateway.key"
audit_file = "{dir}/audit.jsonl"
[policy]
preset = "edge"
[tunnel]
gateway_address = "10.77.0.1"
mtu = 1280
[[peer]]
name = "one"
public_key = "{client}"
preshared_key_file = "{dir}/peer.psk"
addresses = ["10.77.0.2/32"]
"#
            ),
        );
        place.write(
            Role::Client,
            &format!(
                r#"status_socket = "{dir}/status.sock"
suites = ["aes-256-gcm"]
[interface]
name = "jvpnt0"
private_key_file = "client.key"
[gateway]
public_key = "{gateway}"
endpoint = "192.0.2.1:4500"
preshared_key_file = "peer.psk"
[[uplink]]
device = "jvpnt-up"
"#
            ),
        );
        place
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, role: Role, text: &str) {
        fs::write(self.path(role.config_file()), text).unwrap();
    }

    /// Makes a key file and gives the public key.
    fn key(&self, name: &str) -> String {
        let secret = StaticSecret::generate(&mut OsRandom::checked().unwrap()).unwrap();
        fs::write(self.path(name), secret.to_base64().as_bytes()).unwrap();
        fs::set_permissions(self.path(name), Permissions::from_mode(0o600)).unwrap();
        secret.public().to_string()
    }

    /// Starts the process with `from` replaced by `to` in its configuration; it must refuse and name all of
    /// `named`.
    fn refuses(&self, role: Role, from: &str, to: &str, named: &[&str]) {
        let path = self.path(role.config_file());
        let good = fs::read_to_string(&path).unwrap();
        assert!(good.contains(from), "{} has no {from}", path.display());
        fs::write(&path, good.replacen(from, to, 1)).unwrap();
        let said = run_to_its_refusal(role, &path);
        fs::write(&path, good).unwrap();
        for name in named {
            assert!(
                said.contains(name),
                "{} with {to}: the error does not name {name}: {said}",
                role.program()
            );
        }
    }
}

/// Gives what the process said.
fn run_to_its_refusal(role: Role, config: &Path) -> String {
    let mut command = Command::new(find_programs().unwrap().join(role.program()));
    if role == Role::Client {
        command.arg("up");
    }
    command.arg("--config").arg(config).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let ended = wait::until("end", PATIENCE, &Interrupt::default(), || Ok(child.try_wait()?));
    if ended.is_err() {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|octets| String::from_utf8_lossy(&octets).into_owned());
    assert!(ended.is_ok(), "{} took {}: {said:?}", role.program(), config.display());
    assert!(!output.status.success(), "{} ended well: {said:?}", role.program());
    let said = said.concat();
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// R1.8: one wrong field in each section of each configuration.
#[test]
fn r1_8_a_wrong_field_of_any_section_is_named_with_its_file() {
    let place = Place::new();
    let cases = [
        (Role::DataPlane, "workers = 1", "workers = 65", "workers"),
        (Role::DataPlane, "workers = 1", "wrokers = 1", "wrokers"),
        (
            Role::DataPlane,
            "interface = \"jvpnt-wan\"",
            "interface = \"a-name-that-is-too-long\"",
            "wan.interface",
        ),
        (Role::DataPlane, "port = 4500", "port = 0", "wan.port"),
        (Role::DataPlane, "interface = \"jvpnt-lan\"", "interface = \"\"", "lan.interface"),
        (Role::DataPlane, "mtu = 1280", "mtu = 100", "tunnel.mtu"),
        (Role::DataPlane, "pool = \"10.77.0.0/16\"", "pool = \"10.78.0.0/16\"", "tunnel.pool"),
        (Role::DataPlane, "sample_per_second = 100", "sample_per_second = -1", "sample_per_second"),
        (Role::ControlPlane, "node_id = \"test\"", "node_id = \"a b\"", "node_id"),
        (Role::ControlPlane, "node_id = \"test\"", "node_id = \"test\"\nuser = \"root\"", "user"),
        (Role::ControlPlane, "preset = \"edge\"", "preset = \"bank\"", "policy.preset"),
        (Role::ControlPlane, "preset = \"edge\"", "recovery_window = \"1h\"", "policy.recovery_window"),
        (Role::ControlPlane, "mtu = 1280", "mtu = 9000", "tunnel.mtu"),
        (Role::ControlPlane, "\"10.77.0.2/32\"", "\"10.77.0.2/24\"", "addresses"),
        (Role::ControlPlane, "public_key = \"", "public_key = \"x", "public_key"),
        (Role::Client, "\"aes-256-gcm\"", "\"rot13\"", "suites"),
        (Role::Client, "name = \"jvpnt0\"", "name = \"a/b\"", "[interface] name"),
        (Role::Client, "public_key = \"", "public_key = \"x", "public_key"),
        (Role::Client, "192.0.2.1:4500", "192.0.2.1:0", "[gateway] endpoint"),
        (Role::Client, "device = \"jvpnt-up\"", "device = \"jvpnt0\"", "[[uplink]] device"),
        (Role::Client, "device = \"jvpnt-up\"", "speed = 3", "speed"),
    ];
    for (role, from, to, named) in cases {
        let file = place.path(role.config_file());
        place.refuses(role, from, to, &[named, file.to_str().unwrap()]);
    }
}

/// R1.8: a configuration that is missing or no TOML is named.
#[test]
fn r1_8_a_missing_or_garbled_configuration_is_named() {
    let place = Place::new();
    for role in Role::ALL {
        let path = place.path(role.config_file());
        fs::write(&path, "[[[").unwrap();
        let said = run_to_its_refusal(role, &path);
        assert!(said.contains(path.to_str().unwrap()) && said.contains("line 1"), "{said}");
        fs::remove_file(&path).unwrap();
        let said = run_to_its_refusal(role, &path);
        assert!(said.contains(path.to_str().unwrap()) && said.contains("--config"), "{said}");
    }
}

/// R5.3: a key file that is missing, that others may read, or that holds no key is refused and named, before
/// anything of the host is touched.
#[test]
fn r5_3_bad_key_files_are_named_with_what_to_do() {
    let mut cases = vec![
        (Role::ControlPlane, "gateway.key", "private_key_file"),
        (Role::ControlPlane, "peer.psk", "preshared_key_file"),
    ];
    if nix::unistd::geteuid().is_root() {
        cases.push((Role::Client, "client.key", "private_key_file"));
        cases.push((Role::Client, "peer.psk", "preshared_key_file"));
    } else {
        jvpn_testing::left_out_in_part("the client wants to be root before it looks at its keys");
    }
    for (role, file, field) in cases {
        let place = Place::new();
        let path = place.path(file);
        let shown = path.to_str().unwrap();
        let refuses = |what_to_do| place.refuses(role, "", "", &[shown, field, what_to_do]);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        refuses("chmod 600");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "no key\n").unwrap();
        refuses("");
        fs::write(&path, "").unwrap();
        refuses("jvpn genkey");
        fs::remove_file(&path).unwrap();
        refuses("No such file");
        let made: Vec<_> = fs::read_dir(place.dir.path()).unwrap().flatten().map(|f| f.file_name()).collect();
        assert_eq!(made.len(), 5, "something was made before the keys were looked at: {made:?}");
    }
}

/// R8.4, R7.1: a wrong profile, and delays that contradict each other, are refused by the verb itself, with file, field and
/// value, before anything is set up or written. Needs no root.
#[test]
fn r8_4_recovery_refuses_a_wrong_profile() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("profile.toml"), dir.path().join("out"));
    let refused = |text: &str, rtt: &str| {
        fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_jvpn-bench"));
        command.args(["recovery", "--trials", "1", "--rtt", rtt, "--profile"]).arg(&file);
        let output = command.arg("--out").arg(&out).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && !out.exists(), "{said}");
        said
    };
    let cases: [(&str, &[&str]); 6] = [
        ("name = \"\"", &["name = \"\"", "64"]),
        ("name = \"train\"", &["\"train\"", "built-in"]),
        ("name = \"x\"\n[up]\nloss_percent = 101", &["up.loss_percent = 101", "0 to 100"]),
        ("name = \"x\"\n[up]\ndelay = 5", &["delay = 5", "string"]),
        ("name = \"x\"\n[[change]]\nafter = \"1s\"\nup = { colour = 1 }", &["unknown field", "colour"]),
        ("name = ", &["name"]),
    ];
    for (text, wanted) in cases {
        let said = refused(text, "5");
        for part in wanted.iter().copied().chain(["profile.toml"]) {
            assert!(said.contains(part), "{text}\n  says {said}\n  without {part}");
        }
    }
    let good = "name = \"x\"\n[up]\ndelay = \"2s\"\n[down]\ndelay = \"1ms\"";
    assert!(refused(good, "profile").contains("2001 ms"), "too long");
    assert!(refused(good, "5,profile").contains("stands alone"));
    assert!(refused(good, "2001").contains("`profile`"), "what it may be");
}
