//! What a run ran on: machine, kernel, network cards with their drivers and modes, versions, commit.
//!
//! What the machine does not say stays empty; nothing here fails a run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use jvpn_dataplane::ladder::Step;
use jvpn_dataplane::port::AfXdpMode;
use jvpn_rig::tool::ETHTOOL;
use jvpn_rig::{Namespace, Rig};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::deployment::{Deployment, Places};
use crate::origin;
use crate::status::DataPlaneStatus;

/// The gateway's interfaces in a rig, by port.
const GATEWAY_INTERFACES: [(&str, &str); 2] = [("wan", "wan0"), ("lan", "lan0")];

/// What a run ran on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Environment {
    /// Version of the bench.
    pub version: String,
    /// Whether the bench and, where they were built with it, the programs are optimised.
    pub build: &'static str,
    /// Hash of the source tree's commit: as it was built in, or of the tree that the run was started in.
    pub commit: Option<String>,
    /// Whether the tree had changes that are in no commit; absent where there is no tree.
    pub changed: Option<bool>,
    /// Kernel release.
    pub kernel: String,
    /// Processor.
    pub cpu: String,
    /// Processors that this process may use.
    pub cpus: usize,
    /// Processes that could run, over the last minute before the run: what else this machine did.
    pub load_percent: u64,
    /// Memory of the machine, KiB.
    pub memory_kib: u64,
    /// How XDP is attached to the WAN port.
    pub xdp_mode: String,
    /// How AF_XDP gets at the frames of the WAN port.
    pub af_xdp_mode: String,
    /// The gateway's ports, as its data plane reports them.
    pub ports: Vec<Port>,
    /// Versions of the programs that ran, and of the contract between the two of the gateway.
    pub versions: BTreeMap<String, String>,
    /// SHA-256 of the bench and of the programs that it starts, those of them that are here.
    pub programs: BTreeMap<String, String>,
}

/// A port of the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// `wan` or `lan`.
    pub port: String,
    /// Its network interface.
    pub nic: String,
    /// The interface's driver, as ethtool names it.
    pub driver: String,
    /// The driver's version, as ethtool names it.
    pub driver_version: String,
    /// The step of the ladder that it stands on.
    pub step: String,
    /// How XDP is attached.
    pub xdp_mode: String,
    /// How AF_XDP gets at the frames.
    pub af_xdp_mode: String,
    /// Receive queues.
    pub queues: u64,
}

/// How a worker stands on a port: what a data plane says of itself in its status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    port: &'static str,
    step: String,
    xdp_mode: String,
    af_xdp_mode: String,
    queues: u64,
}

impl Standing {
    /// On one port, in the data plane's own words.
    #[must_use]
    pub fn new(port: &'static str, step: Step, xdp_mode: &str, mode: AfXdpMode, queues: u64) -> Self {
        let word = |value: serde_json::Result<Value>| shown(value.ok().as_ref());
        let (step, af_xdp_mode) = (word(serde_json::to_value(step)), word(serde_json::to_value(mode)));
        Self { port, step, xdp_mode: xdp_mode.to_owned(), af_xdp_mode, queues }
    }
}

impl Environment {
    /// Looks at the machine; no gateway runs.
    #[must_use]
    pub fn collect() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let (commit, changed) = commit();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self {
            versions: BTreeMap::from([("jvpn-bench".to_owned(), version.clone())]),
            version,
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            commit,
            changed,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            load_percent: load_percent(&read("/proc/loadavg")),
            programs: origin::programs(),
            memory_kib: memory.split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or_default(),
            ..Self::default()
        }
    }

    /// Adds the gateway's ports of a rig in which no gateway runs, but a worker alone, and how that stands on them.
    #[must_use]
    pub fn with_ports(mut self, gateway: &Namespace, standing: &[Standing]) -> Self {
        self.add_ports(standing, |nic| driver(gateway, nic));
        self
    }

    fn add_ports(&mut self, standing: &[Standing], driver: impl Fn(&str) -> [String; 2]) {
        let port = |(port, nic): (&str, &str)| {
            let [driver, driver_version] = driver(nic);
            let stands = standing.iter().find(|one| one.port == port).cloned().unwrap_or_default();
            let Standing { step, xdp_mode, af_xdp_mode, queues, .. } = stands;
            let (port, nic) = (port.to_owned(), nic.to_owned());
            Port { port, nic, driver, driver_version, step, xdp_mode, af_xdp_mode, queues }
        };
        self.ports = GATEWAY_INTERFACES.into_iter().map(port).collect();
        if let Some(wan) = self.ports.iter().find(|port| port.port == "wan") {
            (self.xdp_mode, self.af_xdp_mode) = (wan.xdp_mode.clone(), wan.af_xdp_mode.clone());
        }
    }

    /// Takes over what was seen of a gateway, which came up after this machine was looked at.
    pub fn take_gateway(&mut self, seen: &Self) {
        (self.xdp_mode, self.af_xdp_mode) = (seen.xdp_mode.clone(), seen.af_xdp_mode.clone());
        self.ports.clone_from(&seen.ports);
        self.versions.extend(seen.versions.clone());
    }

    /// Adds what the gateway of a rig says of itself, and what the kernel says of its ports.
    #[must_use]
    pub fn with_gateway(mut self, rig: &Rig, deployment: &Deployment, places: &Places) -> Self {
        let Ok(data_plane) = deployment.data_plane_status() else { return self };
        self.add_data_plane(&data_plane, |nic| driver(rig.gateway(), nic));
        if let Ok(control_plane) = jvpn_host::status::query(&places.control_plane_socket(), "summary") {
            self.versions.extend(version_of("jvpn-controlplane", &control_plane, "version"));
        }
        self.versions.extend(deployment.client_version().map(|version| ("jvpn".to_owned(), version)));
        self
    }

    fn add_data_plane(&mut self, status: &DataPlaneStatus, driver: impl Fn(&str) -> [String; 2]) {
        (self.xdp_mode, self.af_xdp_mode) = (status.xdp_mode(), status.af_xdp_mode());
        self.ports = GATEWAY_INTERFACES
            .into_iter()
            .filter_map(|(port, nic)| {
                let [driver, driver_version] = driver(nic);
                let seen = status.document().get("ports")?.get(port)?;
                let text = |name: &str| shown(seen.get(name));
                Some(Port {
                    port: port.to_owned(),
                    nic: nic.to_owned(),
                    driver,
                    driver_version,
                    step: text("step"),
                    xdp_mode: text("xdp_mode"),
                    af_xdp_mode: text("af_xdp_mode"),
                    queues: seen.get("queues").and_then(Value::as_u64).unwrap_or_default(),
                })
            })
            .collect();
        self.versions.extend(version_of("jvpn-dataplane", status.document(), "version"));
        self.versions.extend(version_of("contract", status.document(), "contract_version"));
    }
}

/// Completes the environment of a suite, which runs no gateway itself, by what its parts say of theirs: ports and modes of
/// the first part that has some, the versions of all.
pub fn take_parts<'a>(own: &mut Value, dir: &Path, parts: impl Iterator<Item = &'a str>) {
    let read = |part: &str| -> Option<Value> {
        let text = fs::read_to_string(dir.join(part).join("result.json")).ok()?;
        serde_json::from_str::<Value>(&text).ok()?.get("environment").cloned()
    };
    let has_ports =
        |value: &Value| value.get("ports").and_then(Value::as_array).is_some_and(|all| !all.is_empty());
    for part in parts.filter_map(read) {
        if has_ports(&part) && !has_ports(own) {
            for name in ["ports", "xdp_mode", "af_xdp_mode"] {
                if let (Some(own), Some(seen)) = (own.get_mut(name), part.get(name)) {
                    *own = seen.clone();
                }
            }
        }
        let versions = own.get_mut("versions").and_then(Value::as_object_mut);
        if let (Some(own), Some(Value::Object(seen))) = (versions, part.get("versions")) {
            own.extend(seen.clone());
        }
    }
}

fn version_of(program: &str, status: &Value, field: &str) -> Option<(String, String)> {
    status.get(field).map(|version| (program.to_owned(), shown(Some(version))))
}

/// A value of an environment as text; nothing of what is not there.
pub(crate) fn shown(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

/// Name and version of an interface's driver.
fn driver(namespace: &Namespace, nic: &str) -> [String; 2] {
    let said = ETHTOOL.run(Some(namespace), &["-i", nic]).unwrap_or_default();
    let field = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned()).unwrap_or_default()
    };
    [field("driver"), field("version")]
}

fn load_percent(loadavg: &str) -> u64 {
    let load = loadavg.split(' ').next().and_then(|load| load.parse::<f64>().ok());
    load.map_or(0, |load| (load * 100.0).round() as u64)
}

/// The commit, and whether the tree differs from it.
fn commit() -> (Option<String>, Option<bool>) {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    // A bench that was built for release says what it was built from, wherever it runs.
    if let Some(built) = option_env!("JVPN_COMMIT").filter(|commit| !commit.is_empty()) {
        let (commit, changed) = built.strip_suffix("-changed").map_or((built, false), |hash| (hash, true));
        return (Some(commit.to_owned()), Some(changed));
    }
    let hash = git(&["rev-parse", "--short=12", "HEAD"]).filter(|hash| !hash.is_empty());
    let changed = hash.is_some().then(|| git(&["status", "--porcelain"])).flatten();
    (hash, changed.map(|changed| !changed.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// R8.4: every port with its interface, driver and modes, as the data plane reports them.
    #[test]
    fn r8_4_every_port_stands_in_the_environment() {
        let port = |mode: &str| {
            json!({"xdp_mode": "native", "af_xdp_mode": mode, "queues": 2, "step": "native_copy",
                   "falls": ["zero-copy: no"]})
        };
        let status = DataPlaneStatus::from_document(json!({
            "version": "1.2.3", "contract_version": 4, "xdp_mode": "native", "af_xdp_mode": "copy",
            "ports": {"wan": port("copy"), "lan": port("zero-copy")}
        }));
        let mut environment = Environment::collect();
        environment.add_data_plane(&status, |nic| [format!("driver of {nic}"), "7".to_owned()]);
        let [wan, lan] = environment.ports.as_slice() else { panic!("two ports") };
        assert_eq!((wan.nic.as_str(), wan.driver.as_str()), ("wan0", "driver of wan0"));
        assert_eq!(
            (lan.af_xdp_mode.as_str(), lan.queues, lan.step.as_str()),
            ("zero-copy", 2, "native_copy")
        );
        assert_eq!(environment.versions["jvpn-dataplane"], "1.2.3");
        assert_eq!(environment.versions["contract"], "4");
        assert!(!environment.kernel.is_empty() && environment.memory_kib > 0 && environment.cpus > 0);
    }

    /// R8.4: a worker without a data plane says the same of its ports; what came up later is taken over.
    #[test]
    fn r8_4_a_worker_alone_says_how_it_stands() {
        let standing = [
            Standing::new("wan", Step::Copy, "native", AfXdpMode::Copy, 1),
            Standing::new("lan", Step::ZeroCopy, "native", AfXdpMode::ZeroCopy, 1),
        ];
        let mut seen = Environment::collect();
        seen.add_ports(&standing, |nic| [format!("driver of {nic}"), String::new()]);
        seen.versions.insert("jvpn".to_owned(), "9".to_owned());
        let mut environment = Environment::collect();
        environment.take_gateway(&seen);
        let [wan, lan] = environment.ports.as_slice() else { panic!("two ports") };
        assert_eq!((wan.step.as_str(), wan.driver.as_str(), wan.queues), ("copy", "driver of wan0", 1));
        assert_eq!((lan.step.as_str(), lan.af_xdp_mode.as_str()), ("zero-copy", "zero-copy"));
        assert_eq!((environment.xdp_mode.as_str(), environment.af_xdp_mode.as_str()), ("native", "copy"));
        assert_eq!((environment.versions["jvpn"].as_str(), environment.versions.len()), ("9", 2));
    }

    /// R8.4: a suite says what its parts ran on.
    #[test]
    fn r8_4_a_suite_says_what_its_parts_ran_on() {
        let dir = tempfile::tempdir().unwrap();
        let part = |name: &str, environment: Value| {
            fs::create_dir(dir.path().join(name)).unwrap();
            let text = json!({ "environment": environment }).to_string();
            fs::write(dir.path().join(name).join("result.json"), text).unwrap();
        };
        part("cost", json!(Environment::collect()));
        part("a", json!({"ports": [{"port": "wan"}], "xdp_mode": "native", "versions": {"jvpn": "1"}}));
        part("b", json!({"ports": [{"port": "lan"}], "xdp_mode": "generic", "versions": {"contract": "6"}}));
        let mut own = json!(Environment::collect());
        take_parts(&mut own, dir.path(), ["cost", "not-there", "a", "b"].into_iter());
        assert_eq!((&own["ports"], &own["xdp_mode"]), (&json!([{"port": "wan"}]), &json!("native")));
        assert_eq!((&own["versions"]["jvpn"], &own["versions"]["contract"]), (&json!("1"), &json!("6")));
        assert!(!own["kernel"].as_str().unwrap().is_empty());
    }

    #[test]
    fn the_load_is_that_of_the_last_minute() {
        assert_eq!(load_percent("1.25 0.50 0.25 1/200 4711\n"), 125);
        assert_eq!(load_percent(""), 0);
    }
}
