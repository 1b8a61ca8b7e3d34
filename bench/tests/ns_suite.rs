//! `jvpn-bench suite`, as small as it gets: interrupted in its middle, gone on with, put beside a peer, and its report looked
//! at. Needs root and the binaries; run serially by `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

#[path = "ns_broken_off/ends.rs"]
mod ends;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ends::{interrupt, rigs_of};
use jvpn_bench::{browser, schemas};
use serde_json::Value;

fn bench(args: &[&str], out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jvpn-bench"));
    command.args(args).arg("--out").arg(out);
    command
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn result(out: &Path) -> Value {
    let result = serde_json::from_slice(&fs::read(out.join("result.json")).unwrap()).unwrap();
    schemas::check(&result).unwrap();
    result
}

fn parts(result: &Value) -> Vec<&str> {
    result["parts"].as_array().unwrap().iter().map(|part| part["name"].as_str().unwrap()).collect()
}

/// As small as it gets, on a machine that does other things, too.
const SUITE: [&str; 4] = ["suite", "--smoke", "--clients", "2"];

/// R8.1, R8.4: the suite, really run: Ctrl-C in its third part keeps the two before it and says so, another size does not go
/// on with it, `--resume` does and measures nothing again; result and pages are whole; a result of `peers --recovery` that
/// is put beside it is in its report, which opens in a browser, where one is installed.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_4_a_suite_goes_on_and_its_report_has_every_plot() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("suite");
    interrupted(&out);
    let journal = out.join("default-50/trials.jsonl");
    let before = fs::read_to_string(&journal).unwrap();
    let refused = bench(&["suite", "--quick", "--resume"], &out).output().unwrap();
    assert!(!refused.status.success() && said(&refused).contains("of size"), "{}", said(&refused));
    let resumed = bench(&SUITE, &out).arg("--resume").output().unwrap();
    assert!(resumed.status.success(), "{}", said(&resumed));
    let whole = result(&out);
    assert_eq!(
        (&whole["complete"], &whole["valid"], &whole["broken_off"]),
        (&true.into(), &true.into(), &Value::Null)
    );
    assert_eq!(parts(&whole), ["default-50", "fintech-50", "kills-50", "cost", "storm"]);
    assert_eq!(fs::read_to_string(&journal).unwrap(), before, "what was done is not done again");
    let trials = |part: usize, cause: usize| {
        let found = &whole["parts"][part]["causes"][cause];
        (
            found["cause"].as_str().unwrap(),
            found["trials"].as_u64().unwrap(),
            found["incidents"].as_u64().unwrap(),
        )
    };
    assert_eq!(trials(0, 0), ("silent_blackhole", 2, 2));
    assert_eq!(trials(0, 1), ("link_down", 2, 2));
    // Two clients are struck by one kill.
    assert_eq!(trials(2, 0), ("data_plane_kill", 2, 1));
    let aims = whole["aims"].as_array().unwrap();
    let is_judged = |what: &str| aims.iter().any(|aim| aim["what"].as_str().unwrap().contains(what));
    for what in
        ["silent_blackhole", "preset fintech", "data_plane_kill", "engine per reattach", "all ATTACHED"]
    {
        assert!(is_judged(what), "{what}: {aims:#?}");
    }
    assert!(fs::read_to_string(out.join("summary.md")).unwrap().contains("## Aims"));
    let alone = plots(&out, "suite");
    with_peers(dir.path(), &out);
    assert_eq!(plots(&out, "suite-peers"), alone + 2, "bars for two causes of the peers");
    assert_eq!(fs::read_to_string(&journal).unwrap(), before, "nothing of ours is done again");
    beside_a_peer(dir.path(), &out);
    assert_eq!(plots(&out, "suite-beside"), alone + 2, "bars for two causes of the peers");
    let compared =
        Command::new(env!("CARGO_BIN_EXE_jvpn-bench")).arg("compare").args([&out, &out]).output().unwrap();
    assert!(compared.status.success(), "{}", said(&compared));
}

/// Begins a suite and ends it by Ctrl-C in its third part.
fn interrupted(out: &Path) {
    let mut child = bench(&SUITE, out).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut before = Vec::new();
    let mut is_there = |word: &str| {
        lines.by_ref().any(|line| {
            let found = line.contains(word);
            before.push(line);
            found
        })
    };
    let is_in_it = is_there("part 3 of 5: kills-50") && is_there("data_plane_kill at 50 ms");
    assert!(is_in_it, "{before:#?}");
    interrupt(&child);
    let rest: Vec<_> = lines.collect();
    assert!(!child.wait().unwrap().success(), "{rest:#?}");
    assert!(rest.iter().any(|line| line.contains("part kills-50; go on with --resume")), "{rest:#?}");
    assert_eq!(rigs_of(child.id()), Vec::<PathBuf>::new());
    let part = result(out);
    assert_eq!((&part["complete"], &part["valid"]), (&false.into(), &true.into()));
    assert_eq!(parts(&part), ["default-50", "fintech-50"]);
    let why = part["broken_off"].as_str().unwrap();
    // Between them: what it was waiting for.
    assert!(why.starts_with("kills-50: ") && why.ends_with("interrupted"), "{why}");
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("A part of what was asked for: kills-50") && page.contains("silent_blackhole"));
    assert!(!out.join("reserve").exists());
}

/// Completes a suite by the peers that are here: one that dies is among them, and is marked; the suite is whole all the
/// same.
fn with_peers(dir: &Path, suite: &Path) {
    let bin = dir.join("bin");
    fs::create_dir(&bin).unwrap();
    let program = bin.join("gotatun");
    fs::write(&program, "#!/bin/sh\n[ \"$1\" = --version ] && echo gotatun 0.0.1 && exit 0\nexit 1\n")
        .unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = bench(&SUITE, suite);
    let completed = command.args(["--resume", "--peers"]).env("JVPN_PEERS_DIR", &bin).output().unwrap();
    assert!(completed.status.success(), "{}", said(&completed));
    assert!(said(&completed).contains("part 6 of 6: peers; about"), "{}", said(&completed));
    let whole = result(suite);
    assert_eq!((&whole["complete"], &whole["valid"]), (&true.into(), &true.into()));
    assert_eq!(parts(&whole).last(), Some(&"peers"));
    let beside = result(&suite.join("peers"));
    assert!(
        beside["failed"].as_array().unwrap().iter().any(|one| one["contender"] == "gotatun"),
        "{beside:#}"
    );
    let ours = beside["causes"].as_array().unwrap().iter().filter(|row| row["contender"] == "ours").count();
    assert_eq!((ours, &beside["asked"]["clients"]), (2, &2.into()));
    let page = fs::read_to_string(suite.join("report.html")).unwrap();
    assert!(page.contains("Beside the peers") && page.contains("gotatun: FAILED"), "{page}");
}

/// Puts two causes of ours, struck as peers are, beside the suite.
fn beside_a_peer(dir: &Path, suite: &Path) {
    let args = ["peers", "--recovery", "--contender", "ours", "--trials", "1", "--clients", "1"];
    let mut peers = bench(&args, &dir.join("peers"));
    let peers = peers.args(["--cause", "link_down,data_plane_kill", "--beside"]).arg(suite).output();
    let peers = peers.unwrap();
    assert!(peers.status.success(), "{}", said(&peers));
    let text = fs::read_to_string(suite.join("report.html")).unwrap();
    for word in
        ["Beside the peers", "<h3>link_down at 50 ms</h3><svg", "<h3>data_plane_kill at 50 ms</h3><svg"]
    {
        assert!(text.contains(word), "{word}");
    }
    let part = fs::read_to_string(suite.join("default-50/report.html")).unwrap();
    assert!(part.contains("Beside the peers"), "the part's own report has them, too");
}

/// All plots are there: outages by cause, a recovery packet by packet, memory and processor time; gives how many. A browser
/// sees as many, cut off nowhere; its pictures stay, to be looked at.
fn plots(out: &Path, name: &str) -> usize {
    let report = out.join("report.html");
    let text = fs::read_to_string(&report).unwrap();
    let count = |word: &str| text.matches(word).count();
    // Three parts of recovery, however short. The first one, which was not measured again, has kept what was seen of it.
    let all = [
        "<h3>Distribution</h3><svg",
        "packet by packet</h2>",
        "resident memory, MiB",
        "processor, % of a core",
    ];
    for word in all {
        assert_eq!(count(word), 3, "{word}");
    }
    assert!(["jvpn-dataplane", "new binding", "silent_blackhole"].iter().all(|word| count(word) > 0));
    assert!(!text.contains("NaN"), "a plot lacks a number");
    let Some(browser) = browser::find() else {
        jvpn_testing::left_out_in_part(browser::NONE);
        return count("<svg");
    };
    for width in [1_000, 1_600] {
        let picture =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join("reports").join(format!("{name}-{width}.png"));
        let seen = browser::open(&browser, &report, width, &picture).unwrap();
        seen.judge().unwrap_or_else(|error| panic!("{name}, {width} pixels wide: {error}"));
        assert_eq!(seen.plots, count("<svg") as u64);
    }
    count("<svg")
}
