//! The recovery bench, short: the emulator against itself, three trials of each cause, and what becomes of a run whose raw
//! files break a rule. Needs root and the binaries; run serially by `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

#[path = "ns_broken_off/disk.rs"]
mod disk;
#[path = "ns_broken_off/ends.rs"]
mod ends;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use disk::Disk;
use ends::{interrupt, rigs_of};
use jvpn_bench::browser;
use jvpn_bench::deployment::find_programs;
use jvpn_bench::scenarios::recovery::Cause;
use jvpn_bench::schemas;
use serde_json::Value;

fn bench(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jvpn-bench"));
    command.args(args);
    command
}

fn recovery(args: &[&str], out: &Path) -> Command {
    let mut command = bench(&["recovery", "--clients", "3", "--out"]);
    command.arg(out).args(args);
    command
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn result(out: &Path) -> Value {
    let value = serde_json::from_slice(&fs::read(out.join("result.json")).unwrap()).unwrap();
    schemas::check(&value).unwrap();
    value
}

/// What a path can be told that is the same both ways, and what is not of a way.
const BOTH_WAYS: [&str; 13] = [
    "delay",
    "jitter",
    "loss",
    "bursts",
    "reordering 5",
    "reordering by",
    "duplication",
    "asymmetry",
    "rate",
    "queue",
    "blackhole",
    "link down",
    "MTU",
];
const ANY_WAY: [&str; 4] = ["capacity", "link up again", "NAT", "script"];

/// R8.4, R7.1: everything that a path can be told is what was asked, each way, on real interfaces; and the run leaves a
/// directory like every other.
#[test]
#[ignore = "needs root: network namespaces, AF_PACKET"]
fn r8_4_the_emulator_is_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let output = bench(&["emulator", "--self-test", "--out"]).arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let found = result(dir.path());
    assert_eq!((&found["valid"], &found["complete"]), (&Value::from(true), &Value::from(true)));
    let checks = found["checks"].as_array().unwrap();
    let names: Vec<_> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    let is_there = |what: &str, way: &str| {
        let is_it = |name: &&&str| name.starts_with(what) && name.split([' ', ',']).any(|word| word == way);
        names.iter().any(|name| is_it(&name))
    };
    for what in BOTH_WAYS {
        // In "link down" is a "down" that is no way.
        let there = is_there(what, "up") && (is_there(what, "down") || what == "link down");
        assert!(there, "{what} is not measured both ways: {names:?}");
    }
    for what in ANY_WAY {
        assert!(names.iter().any(|name| name.starts_with(what)), "{what} is not measured: {names:?}");
    }
    for file in ["report.html", "summary.md"] {
        assert!(dir.path().join(file).metadata().unwrap().len() > 1_000, "{file}");
    }
}

/// R8.1, R7.1, R1.1: every cause is recovered from, three times and more, under the judge of the audit log and both
/// observers of stale frames; the raw files are judged again with the same verdict, and with INVALID once a line of them
/// is doubled, or a frame of an old binding came out.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_1_every_cause_is_recovered_from_and_a_broken_rule_makes_a_run_invalid() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path();
    let output = recovery(&["--rtt", "5", "--trials", "3"], out).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let found = result(out);
    assert_eq!((&found["valid"], &found["complete"]), (&Value::from(true), &Value::from(true)));
    let causes = found["causes"].as_array().unwrap();
    let names: Vec<_> = causes.iter().map(|one| one["cause"].as_str().unwrap()).collect();
    assert_eq!(names, Cause::ALL.map(Cause::name));
    for one in causes {
        assert_eq!(one["incidents"], 3, "{one}");
        assert_eq!(one["recovered"], one["trials"], "{one}");
        assert!(one["outage_max_ms"].as_f64().unwrap() >= 1.0, "{one}");
    }
    let environment = &found["environment"];
    let ports = environment["ports"].as_array().unwrap();
    let shown = |field: &str| ports.iter().map(|port| port[field].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!((shown("nic"), shown("driver")), (vec!["wan0", "lan0"], vec!["veth", "veth"]));
    assert!(shown("af_xdp_mode").iter().all(|mode| !mode.is_empty()), "{environment:#}");
    assert!(environment["versions"]["jvpn-controlplane"].is_string(), "{environment:#}");
    let aims = found["aims"].as_array().unwrap();
    assert_eq!(aims.len(), 6, "every aim at 5 ms is met or missed: {aims:?}");
    let lost = |one: &Value| one["goodput_lost_octets_max"].as_u64().unwrap();
    assert!(causes.iter().all(|one| lost(one) == one["lost_max"].as_u64().unwrap() * 32));
    let trials = fs::read_to_string(out.join("trials.jsonl")).unwrap();
    let held: u64 = trials
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["trial"]["held_released"].as_u64())
        .sum();
    assert!(held > 100, "frames of old bindings were held back and released: {held}");
    for file in ["report.html", "summary.md", "run.json", "events.jsonl", "outage-link_down-5.hgrm"] {
        assert!(out.join(file).metadata().unwrap().len() > 100, "{file}");
    }
    judge(out);
    look_at(&out.join("report.html"), "recovery");
}

/// The INVALID path, from raw files.
fn judge(out: &Path) {
    let again = |valid: bool| {
        let output = bench(&["recovery", "--judge"]).arg(out).output().unwrap();
        assert_eq!(output.status.success(), valid, "{}", said(&output));
        let found = result(out);
        assert_eq!(found["valid"], valid);
        found["problems"].to_string()
    };
    assert_eq!(again(true), "[]");
    let audit = out.join("audit-1.jsonl");
    let genuine = fs::read_to_string(&audit).unwrap();
    let doubled = genuine.lines().find(|line| line.contains("TRANSPORT_SWITCH_OK")).unwrap();
    fs::write(&audit, genuine.replacen(doubled, &format!("{doubled}\n{doubled}"), 1)).unwrap();
    let problems = again(false);
    assert!(problems.contains("audit-1.jsonl breaks a rule"), "{problems}");
    let lost: Vec<_> = genuine.lines().filter(|line| *line != doubled).collect();
    fs::write(&audit, lost.join("\n") + "\n").unwrap();
    assert!(again(false).contains("audit-1.jsonl breaks a rule"), "an unexplained gap");
    fs::write(&audit, genuine).unwrap();
    let journal = out.join("trials.jsonl");
    let genuine = fs::read_to_string(&journal).unwrap();
    fs::write(&journal, genuine.replacen("\"stale_forwarded\":0", "\"stale_forwarded\":1", 1)).unwrap();
    assert!(again(false).contains("old binding came out"), "a forwarded stale frame");
    // A run that is at work there has written half a line: it stays, and is nothing yet.
    let under_way = format!("{genuine}{{\"trial\":{{\"cause\":");
    fs::write(&journal, &under_way).unwrap();
    assert_eq!(again(true), "[]");
    assert_eq!(fs::read_to_string(&journal).unwrap(), under_way);
    fs::write(&journal, genuine).unwrap();
    assert_eq!(again(true), "[]");
}

/// The report opens in a browser, is cut off nowhere and not empty, where a browser is installed. The pictures stay, to be
/// looked at.
fn look_at(report: &Path, name: &str) {
    let Some(browser) = browser::find() else {
        jvpn_testing::left_out_in_part(browser::NONE);
        return;
    };
    let text = fs::read_to_string(report).unwrap();
    assert!(text.contains("silent_blackhole") && !text.contains("NaN"), "a plot lacks a number");
    for width in [1_000, 1_600] {
        let picture =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join("reports").join(format!("{name}-{width}.png"));
        let seen = browser::open(&browser, report, width, &picture).unwrap();
        seen.judge().unwrap_or_else(|error| panic!("{name}, {width} pixels wide: {error}"));
        assert!(seen.plots >= 4, "{seen:?}");
    }
}

/// R8.4: a disk that gets full in mid-run ends it with a word about it; what was measured is kept, judged and marked as a
/// part, and goes on when there is room again.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP, a tmpfs"]
fn r8_4_a_full_disk_in_mid_run_loses_nothing() {
    let disk = Disk::mount("40m");
    let out = disk.path().join("out");
    let args = ["--cause", "link_down", "--rtt", "0", "--clients", "2"];
    let start = |more: &[&str]| {
        let mut command = bench(&["recovery", "--out"]);
        command.arg(&out).args(args).args(more);
        command
    };
    let child = start(&["--trials", "2000"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    let done =
        || fs::read_to_string(out.join("trials.jsonl")).unwrap_or_default().matches("\"trial\"").count();
    while done() < 2 {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::yield_now();
    }
    disk.fill("filler");
    let ended = child.wait_with_output().unwrap();
    assert!(!ended.status.success() && said(&ended).contains("the disk is full"), "{}", said(&ended));
    let part = result(&out);
    assert_eq!((&part["complete"], &part["valid"]), (&Value::from(false), &Value::from(true)), "{part:#}");
    assert!(part["broken_off"].as_str().unwrap().contains("disk is full"));
    let kept = part["causes"][0]["incidents"].as_u64().unwrap();
    assert!(kept >= 2 && !out.join("reserve").exists());
    disk.clear("filler");
    let more = (kept + 2).to_string();
    let resumed = start(&["--resume", "--trials", &more]).output().unwrap();
    assert!(resumed.status.success(), "{}", said(&resumed));
    let whole = result(&out);
    assert_eq!(
        (&whole["complete"], &whole["causes"][0]["incidents"]),
        (&Value::from(true), &Value::from(kept + 2))
    );
}

/// The programs once more, the client with an octet behind its last one: another one of the same commit.
fn client_built_anew(dir: &Path) -> &Path {
    let programs = find_programs().unwrap();
    for program in ["jvpn-controlplane", "jvpn-dataplane"] {
        symlink(programs.join(program), dir.join(program)).unwrap();
    }
    let mut client = fs::read(programs.join("jvpn")).unwrap();
    client.push(0);
    fs::write(dir.join("jvpn"), client).unwrap();
    dir
}

/// R8.4: Ctrl-C keeps what was measured, says that it is a part, leaves nothing behind; `--resume` goes on; a second run
/// at the same time is refused; so is another question, and so are other programs.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_4_an_interrupted_run_goes_on_and_two_at_once_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--cause", "link_down,nat_rebinding", "--rtt", "0", "--trials", "6", "--clients", "2"];
    let start = |more: &[&str]| {
        let mut command = bench(&["recovery", "--out"]);
        command.arg(dir.path()).args(args).args(more);
        command
    };
    let mut child = start(&[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("link_down at 0 ms")));
    let other = tempfile::tempdir().unwrap();
    let output = recovery(&["--trials", "1"], other.path()).output().unwrap();
    assert!(!output.status.success() && said(&output).contains("in progress"), "{}", said(&output));
    while fs::read_to_string(dir.path().join("trials.jsonl")).unwrap().matches("\"trial\"").count() < 2 {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::yield_now();
    }
    interrupt(&child);
    for _ in lines {}
    assert!(!child.wait().unwrap().success());
    assert_eq!(rigs_of(child.id()), Vec::<PathBuf>::new());
    let part = result(dir.path());
    assert_eq!((&part["complete"], &part["valid"]), (&Value::from(false), &Value::from(true)));
    assert!(part["broken_off"].as_str().unwrap().contains("interrupted"));

    let refused = start(&[]).output().unwrap();
    assert!(said(&refused).contains("--resume"), "{}", said(&refused));
    let refused = start(&["--resume", "--seed", "2"]).output().unwrap();
    assert!(said(&refused).contains("another run"), "{}", said(&refused));
    let refused = start(&["--resume"]).env("JVPN_BIN_DIR", client_built_anew(other.path())).output().unwrap();
    assert!(!refused.status.success() && said(&refused).contains("program jvpn: "), "{}", said(&refused));
    let resumed = start(&["--resume"]).output().unwrap();
    assert!(resumed.status.success(), "{}", said(&resumed));
    let whole = result(dir.path());
    assert_eq!(whole["complete"], true);
    assert!(whole["causes"].as_array().unwrap().iter().all(|one| one["incidents"] == 6), "{whole}");
    assert!(whole["lives"].as_array().unwrap().len() >= 2, "each part had a gateway of its own");

    let output = bench(&["compare"]).arg(dir.path()).arg(dir.path()).output().unwrap();
    assert!(output.status.success() && said(&output).contains("within noise"), "{}", said(&output));
}

/// R8.4: a bench that is killed loses the life of the gateway that it was in, and no other: `--resume` goes on behind those
/// that are whole.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_4_a_killed_run_keeps_the_lives_that_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let start = |more: &[&str]| {
        let mut command = bench(&["recovery", "--cause", "link_down", "--rtt", "0,5", "--trials", "2"]);
        command.args(["--clients", "1", "--out"]).arg(dir.path()).args(more);
        command
    };
    let mut child = start(&[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("at a round-trip time of 5 ms")));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!dir.path().join("result.json").exists(), "nothing was judged");
    let output = bench(&["recovery", "--judge"]).arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let part = result(dir.path());
    assert_eq!((&part["complete"], &part["causes"][0]["incidents"]), (&Value::from(false), &Value::from(2)));
    assert!(part["broken_off"].as_str().unwrap().contains("killed"), "{part:#}");
    let resumed = start(&["--resume"]).output().unwrap();
    assert!(resumed.status.success(), "{}", said(&resumed));
    let whole = result(dir.path());
    assert_eq!((&whole["complete"], &whole["broken_off"]), (&Value::from(true), &Value::Null));
    let trials = fs::read_to_string(dir.path().join("trials.jsonl")).unwrap();
    assert_eq!(trials.matches("\"rtt_ms\":0,").count(), 2, "what was whole was not done again: {trials}");
}
