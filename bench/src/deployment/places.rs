//! Where gateway and client have their files, keys and sockets, and what stands in their configuration.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use jvpn_rig::Rig;

use super::Settings;

/// The user that the control plane becomes.
const UNPRIVILEGED_USER: &str = "64747";

/// Where the parts of a deployment are.
#[derive(Clone, Debug)]
pub struct Places {
    /// Configuration and keys.
    pub config_dir: PathBuf,
    /// The control plane's own directory: state, audit, status socket.
    control_plane_dir: PathBuf,
    /// Sockets of the others, the client's events.
    run_dir: PathBuf,
}

impl Places {
    /// Places below one directory, for tests of who reads them.
    #[cfg(test)]
    pub(crate) fn under(dir: &Path) -> Self {
        let [config_dir, control_plane_dir, run_dir] =
            ["config", "controlplane", "run"].map(|name| dir.join(name));
        Self { config_dir, control_plane_dir, run_dir }
    }

    /// Where the data plane hands its descriptors over.
    #[must_use]
    pub fn handover_socket(&self) -> PathBuf {
        self.run_dir.join("dataplane.sock")
    }

    /// Audit of the control plane, JSON lines.
    #[must_use]
    pub fn audit_file(&self) -> PathBuf {
        self.control_plane_dir.join("audit.jsonl")
    }

    /// Events of the client, JSON lines.
    #[must_use]
    pub fn client_events_file(&self) -> PathBuf {
        self.run_dir.join("client-events.jsonl")
    }

    /// Status of the control plane.
    #[must_use]
    pub fn control_plane_socket(&self) -> PathBuf {
        self.control_plane_dir.join("status.sock")
    }

    /// Status of the data plane.
    #[must_use]
    pub fn data_plane_socket(&self) -> PathBuf {
        self.run_dir.join("dataplane-status.sock")
    }

    /// Status of the client.
    #[must_use]
    pub fn client_socket(&self) -> PathBuf {
        self.run_dir.join("client-status.sock")
    }
}

/// Makes the directories, keys and configuration files; starts nothing.
///
/// # Errors
/// A file cannot be written, or `jvpn genkey` fails.
pub fn prepare(rig: &Rig, settings: &Settings) -> Result<Places> {
    let places = Places {
        config_dir: settings.out_dir.join("config"),
        control_plane_dir: rig.dir().join("controlplane"),
        run_dir: rig.dir().to_owned(),
    };
    fs::create_dir_all(&places.config_dir)
        .with_context(|| format!("cannot make {}", places.config_dir.display()))?;
    fs::create_dir_all(&places.control_plane_dir)
        .with_context(|| format!("cannot make {}", places.control_plane_dir.display()))?;
    let (uid, gid) = jvpn_host::privileges::lookup(UNPRIVILEGED_USER)?;
    chown(&places.control_plane_dir, Some(uid.as_raw()), Some(gid.as_raw())).with_context(|| {
        format!("cannot give {} to {UNPRIVILEGED_USER}", places.control_plane_dir.display())
    })?;

    let jvpn = settings.bin_dir.join("jvpn");
    let gateway_key = generate_key(&jvpn, &places.config_dir.join("gateway.key"))?;
    let client_key = generate_key(&jvpn, &places.config_dir.join("client.key"))?;
    write(&places.config_dir.join("dataplane.toml"), &data_plane_config(&places))?;
    write(
        &places.config_dir.join("controlplane.toml"),
        &control_plane_config(&places, settings, &client_key),
    )?;
    write(&places.config_dir.join("client.toml"), &client_config(&places, &gateway_key))?;
    Ok(places)
}

/// Makes a key file and gives the public key.
///
/// # Errors
/// The program fails, or the file cannot be written.
pub(crate) fn generate_key(jvpn: &Path, path: &Path) -> Result<String> {
    let secret = output(Command::new(jvpn).arg("genkey"), "")?;
    write(path, &secret)?;
    let mode = Permissions::from_mode(0o600);
    fs::set_permissions(path, mode).with_context(|| format!("cannot set the mode of {}", path.display()))?;
    Ok(output(Command::new(jvpn).arg("pubkey"), &secret)?.trim().to_owned())
}

/// What a program answers to this input.
///
/// # Errors
/// It cannot be run, or fails; the text has what it said.
pub(super) fn output(command: &mut Command, input: &str) -> Result<String> {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that reads nothing may be gone already.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| format!("cannot run {shown}"))?;
    if !output.status.success() {
        bail!("{shown} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{shown} did not answer with text"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn data_plane_config(places: &Places) -> String {
    format!(
        r#"# jvpn-dataplane of the demo: two queues on each port, one pinned worker for each.
control_socket = "{control}"
control_plane_user = "{UNPRIVILEGED_USER}"
status_socket = "{status}"
workers = 2
cores = [0, 1]

[wan]
interface = "wan0"
port = {port}

[lan]
interface = "lan0"

[tunnel]
gateway_address = "10.77.0.1"
pool = "10.77.0.0/16"
mtu = 1280
"#,
        control = places.handover_socket().display(),
        status = places.data_plane_socket().display(),
        port = jvpn_rig::TUNNEL_PORT,
    )
}

fn control_plane_config(places: &Places, settings: &Settings, client_key: &str) -> String {
    let switches = settings.max_switches_per_min.map_or(String::new(), |max| {
        let why = "# Only for the many repetitions of a measurement; the default is 8.";
        format!("{why}\nmax_switches_per_min = {max}\n")
    });
    format!(
        r#"# jvpn-controlplane of the demo. It drops to an unprivileged user and keeps no capability.
node_id = "demo-gateway"
dataplane_socket = "{data_plane}"
status_socket = "{status}"
user = "{UNPRIVILEGED_USER}"
state_dir = "{state}"
private_key_file = "{key}"
audit_file = "{audit}"

[policy]
preset = "edge"
# Quality has tests of its own; on a busy host it would come in between.
volatile_loss_percent = 100
volatile_rtt = "1min"
volatile_jitter = "1min"
{switches}
[tunnel]
gateway_address = "10.77.0.1"
pool = "10.77.0.0/16"
mtu = 1280
routes = ["192.168.50.0/24"]

[[peer]]
name = "demo-client"
public_key = "{client_key}"
addresses = ["10.77.0.2/32"]
"#,
        data_plane = places.handover_socket().display(),
        status = places.control_plane_socket().display(),
        state = places.control_plane_dir.join("state").display(),
        key = places.config_dir.join("gateway.key").display(),
        audit = places.audit_file().display(),
    )
}

fn client_config(places: &Places, gateway_key: &str) -> String {
    format!(
        r#"# jvpn of the demo: one tunnel, two uplinks.
status_socket = "{status}"
events_file = "{events}"

[interface]
name = "jvpn0"
private_key_file = "{key}"

[gateway]
public_key = "{gateway_key}"
endpoint = "198.51.100.1:{port}"

[[uplink]]
device = "upA"
gateway = "10.0.1.1"
priority = 1

[[uplink]]
device = "upB"
gateway = "10.0.2.1"
priority = 2

[paths]
# The demo says itself which path breaks when; going back on its own would come in between.
fail_back = false
quality_switch = false
"#,
        status = places.client_socket().display(),
        events = places.client_events_file().display(),
        key = places.config_dir.join("client.key").display(),
        port = jvpn_rig::TUNNEL_PORT,
    )
}
