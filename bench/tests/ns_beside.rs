//! `jvpn-bench peers --recovery`: ours and real peers struck by the same causes, and programs that hang, die or stop in the
//! place of peers. Needs root and the binaries; run by `cargo xtask test` beside another program: it mostly waits.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

#[path = "ns_contenders/lab.rs"]
mod lab;

use std::fs;
use std::path::Path;

use jvpn_testing::left_out_in_part;
use serde_json::Value;

use lab::{SAYS_ITS_VERSION, fake, peers, result, said, wireguard_go};

/// What a trial of the recovery bench is capped at, s: ours is back long before, also on a slow machine.
const CAP_S: u32 = 10;
/// All but a silent blackhole: one silent cause, from which a peer may never come back, is enough.
const BESIDE: &str = "link_down,nat_rebinding,address_change,loss_spike,one_direction_dead,data_plane_kill";

/// R8.1: the recovery bench beside a peer: ours comes back from each of six causes; of the peer it is counted what it did, since
/// that differs between releases and kernels (`docs/BENCHMARKS.md`, "Beside the peers"); a recovery report takes the bars.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_1_recovery_stands_beside_a_peer() {
    let dir = tempfile::tempdir().unwrap();
    let has_peer = wireguard_go(left_out_in_part).is_some();
    let contenders = if has_peer { "ours,wireguard-go" } else { "ours" };
    let cap = CAP_S.to_string();
    let mut args = vec!["--recovery", "--contender", contenders, "--trials", "2", "--clients", "2"];
    args.extend(["--cause", BESIDE, "--rtt", "5", "--cap-s", &cap]);
    let output = peers(&args, dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let found = result(dir.path());
    let causes = found["asked"]["causes"].as_array().unwrap();
    // A peer that hung is on record, and nothing else leaves anything out.
    let failed = found["failed"].as_array().unwrap();
    assert!(failed.iter().all(|one| one["contender"] != "ours"), "{failed:?}");
    assert_eq!(found["complete"], failed.is_empty(), "{}", said(&output));
    let summary = fs::read_to_string(dir.path().join("summary.md")).unwrap();
    let trials = fs::read_to_string(dir.path().join("trials.jsonl")).unwrap();
    let trials: Vec<Value> = trials.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rows = found["causes"].as_array().unwrap();
    let of = |contender: &str| rows.iter().filter(|row| row["contender"] == contender).count();
    assert_eq!((causes.len(), of("ours")), (6, 6));
    if has_peer && failed.is_empty() {
        assert_eq!(of("wireguard-go"), 6);
    }
    for row in rows {
        let is_of = |trial: &&Value| ["contender", "cause"].iter().all(|field| trial[field] == row[field]);
        let trials: Vec<_> = trials.iter().filter(is_of).collect();
        judge_row(row, &trials, &summary);
    }
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("one_direction_dead"), "{page}");
}

/// A row says what its trials were, the summary what the row is, and ours comes back.
fn judge_row(row: &Value, trials: &[&Value], summary: &str) {
    let count = |field: &str| trials.iter().filter(|trial| trial[field] == true).count() as u64;
    let back = count("came_back");
    assert_eq!(row["trials"], trials.len(), "{row}");
    // A killed process strikes both clients, twice.
    assert_eq!(trials.len(), if row["cause"] == "data_plane_kill" { 4 } else { 2 }, "{row}");
    assert_eq!(row["incidents"], 2, "{row}");
    assert_eq!((&row["came_back"], &row["tcp_survived"]), (&back.into(), &count("tcp_survived").into()));
    for trial in trials {
        let (came_back, outage) = (trial["came_back"] == true, trial["outage_ms"].as_f64().unwrap());
        assert!(outage > 1.0, "{trial}");
        assert!(
            came_back || outage == f64::from(CAP_S) * 1e3,
            "one that is not back counts as the cap: {trial}"
        );
        assert!(came_back || trial["tcp_survived"] == false, "TCP lives in no tunnel that is dead: {trial}");
    }
    let (cause, contender) = (row["cause"].as_str().unwrap(), row["contender"].as_str().unwrap());
    let line = summary.lines().find(|line| line.starts_with(&format!("| {cause} | {contender} |"))).unwrap();
    assert!(line.contains(&format!("| {back} of {} |", trials.len())), "{line}");
    let is_lost = back < trials.len() as u64;
    assert_eq!(line.contains(&format!("> {CAP_S} s, did not come back")), is_lost, "{line}");
    // WireGuard's gateway takes the source of what it has authenticated for the client's endpoint: the bench has to see
    // that. All else of a peer is its own affair.
    if contender == "ours" {
        assert_eq!(back, trials.len() as u64, "{row}");
    }
    assert!(cause != "nat_rebinding" || !is_lost, "{row}");
}

/// The real wireguard-go in the place of another program, whose gateway gets a signal after a while.
fn befalls_its_gateway(real: &Path, signal: &str) -> String {
    format!(
        "{SAYS_ITS_VERSION}\nfor name; do :; done\ncase \"$name\" in *g) (sleep 3; kill -{signal} $$) >/dev/null 2>&1 &;; esac\n\
         export WG_PROCESS_FOREGROUND=1\nexec {} -f \"$name\"",
        real.display()
    )
}

/// R8.1: where recovery is measured, a peer that never opens its socket, one that dies and one that stops in the middle are
/// marked, get a second chance with the next cause and no third one; what they did before counts, and ours goes on.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_1_recovery_goes_on_without_peers_that_hang_die_or_stop() {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    fake(&bin, "wireguard-go", &format!("{SAYS_ITS_VERSION}\necho never; exec sleep 600"));
    let mut bad = vec![("wireguard-go", "not within")];
    if let Some(real) = wireguard_go(left_out_in_part) {
        fake(&bin, "boringtun-cli", &befalls_its_gateway(&real, "KILL"));
        fake(&bin, "gotatun", &befalls_its_gateway(&real, "STOP"));
        bad.extend([("boringtun", "has ended"), ("gotatun", "nothing flows")]);
    }
    let names: Vec<_> = bad.iter().map(|(name, _)| *name).chain(["ours"]).collect();
    let causes = ["link_down", "nat_rebinding", "address_change"];
    let args =
        ["--recovery", "--trials", "4", "--clients", "1", "--cap-s", "2", "--patience-s", "5", "--rtt", "0"];
    let mut command = peers(&args, &dir.path().join("out"));
    command
        .args(["--contender", &names.join(",")])
        .args(["--cause", &causes.join(",")])
        .env("JVPN_PEERS_DIR", &bin);
    let output = command.output().unwrap();
    assert!(output.status.success(), "a peer may do what it likes: {}", said(&output));
    let found = result(&dir.path().join("out"));
    let failed = found["failed"].as_array().unwrap();
    for (name, why) in &bad {
        let of: Vec<_> = failed.iter().filter(|one| one["contender"] == *name).collect();
        let at: Vec<_> = of.iter().map(|one| one["cause"].as_str().unwrap()).collect();
        assert_eq!(at, causes[..2], "{name} is out after the second failure: {failed:?}");
        assert!(of.iter().all(|one| one["why"].as_str().unwrap().contains(why)), "{name}, {why}: {of:?}");
    }
    assert_eq!(failed.len(), 2 * bad.len(), "{failed:?}");
    let rows = found["causes"].as_array().unwrap();
    for row in rows {
        let (contender, cause) = (row["contender"].as_str().unwrap(), row["cause"].as_str().unwrap());
        let trials = row["trials"].as_u64().unwrap();
        assert!(contender == "ours" || (cause != "address_change" && trials < 4), "{row}");
        assert!(contender != "ours" || (trials, &row["came_back"]) == (4, &4.into()), "{row}");
    }
    assert_eq!(rows.iter().filter(|row| row["contender"] == "ours").count(), causes.len());
    assert_eq!((&found["complete"], &found["broken_off"]), (&false.into(), &Value::Null));
    for page in ["summary.md", "report.html"] {
        let text = fs::read_to_string(dir.path().join("out").join(page)).unwrap();
        assert!(text.contains("wireguard-go: FAILED at link_down"), "{page}: {text}");
    }
}
