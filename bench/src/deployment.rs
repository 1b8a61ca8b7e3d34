//! The three processes as a user would start them: keys by `jvpn genkey`, ordinary TOML files, one command
//! each.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jvpn_rig::process::Supervised;
use jvpn_rig::{Interrupt, Rig, wait};

use crate::status::{ControlPlaneStatus, DataPlaneStatus};

/// How long a process may take until it answers on its status socket.
const START_PATIENCE: Duration = Duration::from_secs(15);

/// The user that the control plane becomes.
const UNPRIVILEGED_USER: &str = "nobody";

/// What a run differs in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of `jvpn`, `jvpn-controlplane` and `jvpn-dataplane`.
    pub bin_dir: PathBuf,
    /// Where configuration and logs are left for the user to read. Absolute.
    pub out_dir: PathBuf,
    /// Switches per minute that policy allows; `None` = the preset's.
    pub max_switches_per_min: Option<u32>,
}

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

/// Gateway and client, running. They end with this value, the client first.
#[derive(Debug)]
pub struct Deployment {
    // In this order they are dropped.
    client: Option<Supervised>,
    control_plane: Supervised,
    data_plane: Supervised,
    settings: Settings,
    places: Places,
}

/// Names of the programs.
const PROGRAMS: [&str; 3] = ["jvpn", "jvpn-controlplane", "jvpn-dataplane"];

/// The directory that has the programs: `JVPN_BIN_DIR`, else where this program is.
///
/// # Errors
/// One of them is not there.
pub fn find_programs() -> Result<PathBuf> {
    let dir = match std::env::var_os("JVPN_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let own = std::env::current_exe().context("cannot tell where this program is")?;
            own.parent().context("this program has no directory")?.to_owned()
        }
    };
    for program in PROGRAMS {
        if !dir.join(program).is_file() {
            bail!(
                "{program} is not in {}: build it (cargo xtask build), or name the directory in JVPN_BIN_DIR",
                dir.display()
            );
        }
    }
    Ok(dir)
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

impl Deployment {
    /// Starts gateway and client.
    ///
    /// # Errors
    /// One of them ends or does not answer; the text has its last words.
    pub fn start(rig: &Rig, settings: &Settings, places: &Places, interrupt: &Interrupt) -> Result<Self> {
        let start = |program: &str, namespace, args: &[&str], config: &str| -> Result<Supervised> {
            let mut command = Command::new(settings.bin_dir.join(program));
            command.args(args).arg("--config").arg(places.config_dir.join(config));
            rig.start(program, namespace, command, &settings.out_dir.join(format!("{program}.log")))
        };
        let mut data_plane = start("jvpn-dataplane", rig.gateway(), &[], "dataplane.toml")?;
        wait::until("jvpn-dataplane answers", START_PATIENCE, interrupt, || {
            data_plane.check()?;
            Ok(DataPlaneStatus::query(&places.data_plane_socket()).ok())
        })
        .with_context(|| format!("its last words:\n{}", data_plane.last_words()))?;
        let mut control_plane = start("jvpn-controlplane", rig.gateway(), &[], "controlplane.toml")?;
        wait::until("jvpn-controlplane answers", START_PATIENCE, interrupt, || {
            data_plane.check()?;
            control_plane.check()?;
            Ok(ControlPlaneStatus::query(&places.control_plane_socket()).ok())
        })
        .with_context(|| format!("its last words:\n{}", control_plane.last_words()))?;
        let client = Some(start("jvpn", rig.client(), &["up"], "client.toml")?);
        Ok(Self { client, control_plane, data_plane, settings: settings.clone(), places: places.clone() })
    }

    /// Whether all of them run.
    ///
    /// # Errors
    /// One has ended.
    pub fn check(&mut self) -> Result<()> {
        self.data_plane.check()?;
        self.control_plane.check()?;
        self.client.as_mut().map_or(Ok(()), Supervised::check)
    }

    /// The last words of all of them, for an error that none of them explains.
    #[must_use]
    pub fn last_words(&self) -> String {
        let all = [self.client.as_ref(), Some(&self.control_plane), Some(&self.data_plane)];
        all.into_iter()
            .flatten()
            .map(|process| format!("  {}:\n{}", process.name(), process.last_words()))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// What the gateway's control plane says.
    ///
    /// # Errors
    /// It does not answer.
    pub fn control_plane_status(&self) -> Result<ControlPlaneStatus> {
        ControlPlaneStatus::query(&self.places.control_plane_socket())
    }

    /// What the gateway's data plane says.
    ///
    /// # Errors
    /// It does not answer.
    pub fn data_plane_status(&self) -> Result<DataPlaneStatus> {
        DataPlaneStatus::query(&self.places.data_plane_socket())
    }

    /// Ends all of them, the client first.
    ///
    /// # Errors
    /// One could not be ended.
    pub fn stop(mut self) -> Result<()> {
        if let Some(client) = self.client.take() {
            client.stop()?;
        }
        self.control_plane.stop()?;
        self.data_plane.stop().map(drop)
    }

    /// They go on when this value goes; gives the commands to look at them.
    #[must_use]
    pub fn release(mut self, rig: &Rig) -> String {
        let bin = self.settings.bin_dir.join("jvpn");
        let status = |socket: PathBuf| format!("  {} status --socket {}", bin.display(), socket.display());
        let enter = |namespace: &jvpn_rig::Namespace| {
            format!("  nsenter --net={}/{}", jvpn_rig::netns::NETNS_DIR, namespace.name())
        };
        let lines = [
            "The network stands. To look at the processes:".to_owned(),
            status(self.places.client_socket()),
            status(self.places.control_plane_socket()),
            status(self.places.data_plane_socket()),
            "To enter client, router, gateway, LAN and attacker:".to_owned(),
            enter(rig.client()),
            enter(rig.router()),
            enter(rig.gateway()),
            enter(rig.lan()),
            enter(rig.attacker()),
            "To remove it all:".to_owned(),
            "  cargo xtask demo --down".to_owned(),
        ];
        if let Some(client) = self.client.take() {
            client.release();
        }
        self.control_plane.release();
        self.data_plane.release();
        lines.join("\n")
    }
}

/// Makes a key file and gives the public key.
fn generate_key(jvpn: &Path, path: &Path) -> Result<String> {
    let secret = output(Command::new(jvpn).arg("genkey"), "")?;
    write(path, &secret)?;
    let mode = Permissions::from_mode(0o600);
    fs::set_permissions(path, mode).with_context(|| format!("cannot set the mode of {}", path.display()))?;
    Ok(output(Command::new(jvpn).arg("pubkey"), &secret)?.trim().to_owned())
}

fn output(command: &mut Command, input: &str) -> Result<String> {
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
        control = places.run_dir.join("dataplane.sock").display(),
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
        data_plane = places.run_dir.join("dataplane.sock").display(),
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
"#,
        status = places.client_socket().display(),
        events = places.client_events_file().display(),
        key = places.config_dir.join("client.key").display(),
        port = jvpn_rig::TUNNEL_PORT,
    )
}
