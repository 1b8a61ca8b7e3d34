//! Every verb that runs our gateway judges its audit log: a line that is no event, put there in mid-run, makes it INVALID.
//! Needs root and the binaries; run serially by `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use jvpn_bench::{raw, schemas};
use jvpn_rig::{Interrupt, wait};
use serde_json::Value;

/// What no gateway writes.
const NONSENSE: &str = "this is no event\n";

/// The audit log of the gateway in the rig of a process, once it has written something.
fn audit_of(owner: u32) -> Option<PathBuf> {
    let rigs = fs::read_dir("/run/jvpn-rig").ok()?.flatten();
    let audit = rigs.map(|rig| rig.path()).find_map(|rig| {
        let registry = fs::read_to_string(rig.join("registry")).unwrap_or_default();
        let is_owned = registry.lines().any(|line| line.starts_with(&format!("owner {owner} ")));
        is_owned.then(|| rig.join("controlplane/audit.jsonl"))
    })?;
    fs::read_to_string(&audit).is_ok_and(|text| text.contains("NODE_STARTED")).then_some(audit)
}

/// R8.4, R6.1: a gateway with nothing to do is judged.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_4_a_broken_audit_line_makes_idle_invalid() {
    is_invalid(&["idle", "--seconds", "2", "--sessions", "5"]);
}

/// R8.4, R6.1: so is one under load.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_4_a_broken_audit_line_makes_throughput_invalid() {
    is_invalid(&["throughput", "--rounds", "1", "--span-ms", "200"]);
}

/// R8.4, R6.1: so is ours beside the peers.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_4_a_broken_audit_line_makes_peers_invalid() {
    is_invalid(&["peers", "--contender", "ours", "--rounds", "1", "--span-ms", "200"]);
}

/// R8.4, R6.1: also where it is struck.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_4_a_broken_audit_line_makes_recovery_beside_the_peers_invalid() {
    let recovery = ["peers", "--recovery", "--contender", "ours", "--cause", "link_down", "--trials", "1"];
    is_invalid(&[&recovery[..], &["--clients", "1", "--rtt", "5", "--cap-s", "10"]].concat());
}

/// Result, page and exit code say that the figures prove nothing, and the line stands in the events that are kept.
fn is_invalid(args: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_jvpn-bench"));
    command.args(args).arg("--out").arg(dir.path()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let audit = wait::until("an audit log", Duration::from_secs(60), &Interrupt::default(), || {
        Ok(if child.try_wait()?.is_some() { Some(None) } else { audit_of(child.id()).map(Some) })
    });
    // Of a verb that has ended by itself its own words are told below.
    if let Some(audit) = audit.unwrap() {
        OpenOptions::new().append(true).open(audit).unwrap().write_all(NONSENSE.as_bytes()).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    assert!(said.contains("INVALID: the audit log breaks 1 rules"), "{args:?}: {said}");
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let result: Value = serde_json::from_str(&read("result.json")).unwrap();
    schemas::check(&result).unwrap();
    assert_eq!(
        (&result["valid"], &result["complete"]),
        (&false.into(), &true.into()),
        "{args:?}: {result:#}"
    );
    let problems = result["problems"].as_array().unwrap();
    let named = problems.last().and_then(Value::as_str).unwrap();
    assert!(named.contains("events.jsonl:") && named.contains("json"), "{args:?}: {named}");
    assert!(read("events.jsonl").contains(NONSENSE), "{args:?}");
    assert!(read("report.html").contains("INVALID: these figures prove nothing."), "{args:?}");
    assert!(read("summary.md").contains("INVALID"), "{args:?}");
    assert_eq!(raw::missing(dir.path(), result["scenario"].as_str().unwrap()), [""; 0], "{args:?}");
    // What it ran on is known all the same.
    let environment = &result["environment"];
    let ports = environment["ports"].as_array().unwrap();
    let has_all = |port: &Value| ["nic", "driver", "step", "xdp_mode"].iter().all(|name| port[name] != "");
    assert!(ports.len() == 2 && ports.iter().all(has_all), "{args:?}: {environment:#}");
    for program in ["jvpn", "jvpn-controlplane", "jvpn-dataplane", "jvpn-bench", "contract"] {
        assert!(environment["versions"][program].is_string(), "{args:?}: {environment:#}");
    }
    assert!(result["policy"].as_str().unwrap().starts_with("preset = \"edge\"\n"), "{args:?}: {result:#}");
}
