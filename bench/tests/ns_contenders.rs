//! `jvpn-bench throughput`, and `jvpn-bench peers`: real contenders where they are installed, programs that hang, die or
//! talk nonsense in the place of others, an interruption, and a second run at once; their recovery is in `ns_beside.rs`.
//! Needs root and the binaries; run serially by `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

#[path = "ns_contenders/lab.rs"]
mod lab;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use jvpn_rig::{Interrupt, wait};
use jvpn_testing::{left_out, left_out_in_part};
use serde_json::Value;

use lab::{SAYS_ITS_VERSION, fake, peers, result, said, wireguard_go};

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|one| one["contender"].as_str().unwrap()).collect()
}

/// R8.1: ours and wireguard-go, where that is not installed plain routing, are measured in turns, all rows of each.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_1_contenders_are_measured_in_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let has_peer = wireguard_go(left_out_in_part).is_some();
    let contenders = if has_peer { "ours,wireguard-go" } else { "ours,plain" };
    let args = ["--contender", contenders, "--rounds", "2", "--span-ms", "200"];
    let output = peers(&args, dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let found = result(dir.path());
    assert_eq!(
        (&found["complete"], &found["failed"]),
        (&Value::from(true), &Value::from(Vec::<Value>::new()))
    );
    // Two rounds of two; four rows of TCP, four of UDP, two of round trips.
    assert_eq!(found["rows"].as_array().unwrap().len(), 2 * 2 * 10);
    let raw = fs::read_to_string(dir.path().join("rows.jsonl")).unwrap();
    assert_eq!(raw.lines().count(), 2 * 2 * 10);
    for row in found["rows"].as_array().unwrap() {
        let figures = row["figures"].as_object().unwrap();
        assert!(figures.values().all(|value| value.as_f64().unwrap() >= 0.0), "{row}");
        let has_cost = row["what"] == "tcp1" && row["contender"] != "plain";
        assert_eq!(has_cost, figures.contains_key("gateway_s_per_gb") && row["what"] == "tcp1", "{row}");
    }
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("TCP, 4 streams, down"), "{page}");
    assert_eq!((&found["valid"], jvpn_bench::raw::missing(dir.path(), "peers")), (&true.into(), vec![]));
    let judged = found["medians"].as_array().unwrap().iter().filter(|one| !one["aim_met"].is_null()).count();
    assert_eq!(judged > 0, has_peer, "without a peer there is nobody to compare with");
}

/// R8.4: throughput of one tunnel, with offloads and without: all rows and medians of both, with their costs, in a result
/// that fits its schema and in the file that was asked for.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_4_throughput_has_every_row_with_and_without_offloads() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_jvpn-bench"));
    command.args(["throughput", "--rounds", "1", "--span-ms", "200", "--json"]).arg(&copy);
    let output = command.arg("--out").arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let found = result(dir.path());
    assert_eq!((&found["scenario"], &found["complete"]), (&"throughput".into(), &true.into()));
    assert_eq!(found, serde_json::from_slice::<Value>(&fs::read(copy).unwrap()).unwrap());
    assert!(found["too_few"].as_str().unwrap().contains("not a result"), "one round");
    assert!(
        !found["offload"]["tunnel"].is_null() && !found["environment"]["xdp_mode"].is_null(),
        "{found:#}"
    );
    let rows = found["rows"].as_array().unwrap();
    for offload in ["on", "off"] {
        for what in ["tcp_1", "tcp_4", "udp_1400", "udp_64"] {
            for direction in ["up", "down"] {
                let is_it = |row: &&Value| {
                    row["what"] == what && row["direction"] == direction && row["offload"] == offload
                };
                let all: Vec<_> = rows.iter().filter(is_it).collect();
                let [row] = all.as_slice() else { panic!("{offload} {what} {direction}: {all:?}") };
                let number = |value: &Value| value.as_f64().unwrap_or(-1.0);
                let is_tcp = what.starts_with("tcp");
                assert!(number(&row["mbit_s"]) > if is_tcp { 1.0 } else { -0.5 }, "{row}");
                assert_eq!(
                    (row["packets_s"].is_null(), row["cpu_per_gb"].is_null()),
                    (is_tcp, !is_tcp),
                    "{row}"
                );
                assert!(!is_tcp || number(&row["cpu_per_gb"]["gateway_s"]) > 0.0, "{row}");
            }
        }
    }
    // One round is its own median.
    assert_eq!((rows.len(), found["medians"].as_array().unwrap().len()), (16, 16));
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.contains("udp_1400") && page.contains("What it ran on"), "{page}");
}

/// R8.1: a peer that dies, one that hangs and one that talks nonsense are marked, and the run goes on with the others.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_1_a_peer_that_hangs_or_dies_is_marked_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    fake(&bin, "wireguard-go", &format!("{SAYS_ITS_VERSION}\necho never; exec sleep 600"));
    fake(&bin, "boringtun-cli", &format!("{SAYS_ITS_VERSION}\necho 'no such device' >&2; exit 3"));
    fake(&bin, "gotatun", "printf '\\001\\002\\033[2J'; exit 1");
    fake(&bin, "openvpn", &format!("{SAYS_ITS_VERSION}\nexec sleep 600"));
    let all = "wireguard-go,gotatun,boringtun,openvpn,plain";
    let args = ["--contender", all, "--rounds", "1", "--span-ms", "200", "--patience-s", "4"];
    let output = peers(&args, &dir.path().join("out")).env("JVPN_PEERS_DIR", &bin).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let found = result(&dir.path().join("out"));
    assert_eq!(names(&found["missing"]), ["gotatun"], "{}", found["missing"]);
    assert_eq!(names(&found["failed"]), ["wireguard-go", "boringtun", "openvpn"], "{}", found["failed"]);
    let why = |number: usize| found["failed"][number]["why"].as_str().unwrap().to_owned();
    assert!(why(0).contains("not within") && why(0).contains("never"), "{}", why(0));
    assert!(why(1).contains("has ended") && why(1).contains("no such device"), "{}", why(1));
    assert!(why(2).contains("nothing comes through") || why(2).contains("openssl"), "{}", why(2));
    let rows = found["rows"].as_array().unwrap();
    assert!(rows.len() == 10 && rows.iter().all(|row| row["contender"] == "plain"), "{rows:?}");
    // Where the kernel does the work there is no process that it could be charged to.
    assert!(rows.iter().all(|row| row["figures"]["gateway_s_per_gb"].is_null()), "{rows:?}");
    assert_eq!((&found["complete"], &found["valid"]), (&false.into(), &Value::Null), "ours was not there");
}

/// R8.1: a peer that stops in the middle of a measurement holds nobody up.
#[test]
#[ignore = "needs root: network namespaces, TUN"]
fn r8_1_a_peer_that_stops_in_the_middle_is_marked() {
    let Some(real) = wireguard_go(left_out) else { return };
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let script = format!("(sleep 2; kill -STOP $$) >/dev/null 2>&1 &\nexec {} \"$@\"", real.display());
    fake(&bin, "wireguard-go", &script);
    let args = ["--contender", "wireguard-go,plain", "--rounds", "1", "--span-ms", "300"];
    let output = peers(&args, &dir.path().join("out")).env("JVPN_PEERS_DIR", &bin).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let found = result(&dir.path().join("out"));
    assert_eq!(names(&found["failed"]), ["wireguard-go"], "{}", said(&output));
    let plain = found["rows"].as_array().unwrap().iter().filter(|row| row["contender"] == "plain");
    assert_eq!(plain.count(), 10);
}

/// The rig that a process owns.
fn rig_of(owner: u32) -> Option<String> {
    let rigs = fs::read_dir("/run/jvpn-rig").ok()?.flatten().find(|rig| {
        let registry = fs::read_to_string(rig.path().join("registry")).unwrap_or_default();
        registry.lines().any(|line| line.starts_with(&format!("owner {owner} ")))
    });
    rigs.map(|rig| rig.file_name().to_string_lossy().into_owned())
}

/// R8.4: an interrupted run leaves no namespace, process or socket behind, and marks what it has; two at once do not go.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_4_an_interrupted_run_cleans_up_and_two_at_once_do_not_go() {
    let dir = tempfile::tempdir().unwrap();
    let kind = if wireguard_go(left_out_in_part).is_some() { "wireguard-go" } else { "ours" };
    let args = ["--contender", kind, "--rounds", "50"];
    let mut child = peers(&args, dir.path()).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    lines.find(|line| line.as_ref().unwrap().contains("round 1 of 50")).unwrap().unwrap();
    let rig = rig_of(child.id()).unwrap();
    let other = peers(&["--contender", "plain"], &dir.path().join("other")).output().unwrap();
    assert!(!other.status.success() && said(&other).contains("in progress"), "{}", said(&other));
    // Into a measurement: its first rows are there.
    let raw = dir.path().join("rows.jsonl");
    wait::until("a row", Duration::from_secs(60), &Interrupt::default(), || {
        Ok(fs::metadata(&raw).is_ok_and(|file| file.len() > 0).then_some(()))
    })
    .unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()),
        nix::sys::signal::Signal::SIGINT,
    )
    .unwrap();
    let said: Vec<_> = lines.map(|line| line.unwrap()).collect();
    assert!(!child.wait().unwrap().success(), "{said:?}");
    let found = result(dir.path());
    assert_eq!(
        (&found["complete"], &found["broken_off"]),
        (&Value::from(false), &Value::from("interrupted"))
    );
    assert!(!found["rows"].as_array().unwrap().is_empty());
    assert!(!Path::new("/run/jvpn-rig").join(&rig).exists(), "the rig's directory is gone");
    let left = |place: &str| {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().contains(&rig)).count()
    };
    assert_eq!([left("/run/netns"), left("/var/run/wireguard")], [0, 0]);
}
