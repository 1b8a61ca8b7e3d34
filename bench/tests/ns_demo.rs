//! The demo as its user runs it, with a smaller download: R0.1, R0.2, R0.3, R1.1, R1.2, R1.5, R2.1, R2.4,
//! R5.1, R7.1. Needs root and the binaries; run serially by `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use jvpn_rig::registry;
use serde_json::Value;

fn demo(out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jvpn-bench"));
    command.args(["demo", "--download-mib", "96", "--out"]).arg(out);
    command
}

fn out_dir(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("jvpn-demo-{name}-{}", std::process::id()))
}

/// Everything that the demo claims, by its own report and exit code.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn the_session_lives_through_all_seven_steps() {
    let out = out_dir("whole");
    let output = demo(&out).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap();
    for (field, wanted) in [("tcp_survived", true), ("sha256_ok", true)] {
        assert_eq!(report[field], wanted, "{field}: {said}");
    }
    for field in ["held_back_forwarded", "kernel_socket_bound_data"] {
        assert_eq!(report[field], 0, "{field}: {said}");
    }
    assert!(report["held_back_released"].as_u64().unwrap() > 0);
    assert_eq!(report["replays_sent"], report["replays_rejected"]);
    let causes: Vec<_> =
        report["recoveries"].as_array().unwrap().iter().map(|r| r["cause"].clone()).collect();
    assert_eq!(causes, ["silent_cut", "link_down", "nat_rebinding", "lost_answer", "data_held_back"]);
    let events = std::fs::read_to_string(out.join("events.jsonl")).unwrap();
    assert!(events.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    for source in ["client", "controlplane", "demo"] {
        let mark = format!("\"source\":\"{source}\"");
        assert!(events.contains(&mark), "no event of {source}");
    }
    std::fs::remove_dir_all(out).unwrap();
}

/// Ctrl-C in the middle: everything is removed, nothing is left for a sweep.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn an_interrupted_demo_leaves_nothing() {
    let out = out_dir("interrupted");
    let mut child = demo(&out).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let name = lines.find_map(|line| Some(line.split_once("jvpn-")?.1.get(..6)?.to_owned())).unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    for _ in lines {}
    assert!(!child.wait().unwrap().success());
    let left = std::fs::read_dir(jvpn_rig::netns::NETNS_DIR).unwrap().flatten();
    let left: Vec<_> =
        left.map(|e| e.file_name().to_string_lossy().into_owned()).filter(|n| n.contains(&name)).collect();
    assert_eq!(left, Vec::<String>::new());
    assert!(!Path::new(registry::REGISTRY_DIR).join(&name).exists());
    std::fs::remove_dir_all(out).unwrap();
}
