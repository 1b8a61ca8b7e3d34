//! Verbs that end before their time: by Ctrl-C, and by a disk that has no room. What was measured is kept and marked, or
//! nothing is there that looks like a result. Needs root and the binaries; run serially by `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

#[path = "ns_broken_off/disk.rs"]
mod disk;
#[path = "ns_broken_off/ends.rs"]
mod ends;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Instant;

use disk::Disk;
use ends::{interrupt, rigs_of};
use jvpn_bench::schemas;
use serde_json::Value;

/// What a verb says, on either output.
type Lines = std::io::Lines<BufReader<std::io::PipeReader>>;

fn start(args: &[&str], out: &Path) -> (Child, Lines) {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_jvpn-bench"));
    command.args(args).arg("--out").arg(out).stdout(writer.try_clone().unwrap()).stderr(writer);
    (command.spawn().unwrap(), BufReader::new(reader).lines())
}

/// Waits for the process to end by an error, not by a signal; gives what it said until then.
fn ended(mut child: Child, lines: Lines) -> String {
    let said: Vec<_> = lines.map_while(Result::ok).collect();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said:?}");
    said.join("\n")
}

fn result(out: &Path) -> Value {
    let result = serde_json::from_slice(&fs::read(out.join("result.json")).unwrap()).unwrap();
    schemas::check(&result).unwrap();
    result
}

/// A verb with its arguments, what it says when something is measured, and where that stands in its result. Each has more to
/// do than is waited for.
const CASES: [(&str, &str, &str); 12] = [
    ("l2fwd --rounds 101 --window-ms 100 --sizes 64", "measurements: 1 of", "ratios"),
    ("pinning --rounds 101", "measurements: 1 of", "settings"),
    ("scaling --rounds 101 --window-ms 100 --workers 1", "measurements: 1 of", "scaling"),
    ("idle --seconds 1 --sessions 10000", "births", "measured"),
    ("flood --sessions 3 --seconds 2 --marker-ms 50", "(2 of", "phases"),
    ("cost --sessions 100,20000 --rounds 5 --per-round 10", "20000 sessions", "sizes"),
    ("soak --sessions 24 --minutes 30", "seconds of churn", "samples"),
    ("churn --sessions 24 --minutes 30 --moves-per-second 4", "seconds of churn", "samples"),
    ("sessions --sessions 40 --steady 1", "all attached after", "storms"),
    ("sessions --search --sessions 4000 --steady 1", "1000 sessions: born", "steps"),
    ("throughput --rounds 101 --span-ms 200", "measurements: ", "rows"),
    ("peers --recovery --contender ours --cause link_down --rtt 0 --trials 999", "of client", "causes"),
];

/// R8.4: Ctrl-C leaves of each verb what was measured until then, marked as a part with the reason, in a result that fits
/// its schema and in its pages; and nothing else.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_4_an_interrupted_verb_keeps_its_part() {
    for (line, word, field) in CASES {
        let args: Vec<_> = line.split(' ').collect();
        let (dir, begun) = (tempfile::tempdir().unwrap(), Instant::now());
        let (child, mut lines) = start(&args, dir.path());
        let mut before = Vec::new();
        let is_there = lines.by_ref().map_while(Result::ok).any(|line| {
            let found = line.contains(word);
            before.push(line);
            found
        });
        assert!(is_there, "{line}: {before:?}");
        let owner = child.id();
        assert!(dir.path().join("reserve").exists(), "{line}: room is kept for the end");
        interrupt(&child);
        let said = ended(child, lines);
        assert!(said.contains("interrupted") && said.contains("result.json"), "{line}: {said}");
        let part = result(dir.path());
        assert_eq!(
            (&part["scenario"], &part["complete"]),
            (&scenario(&args).into(), &false.into()),
            "{part:#}"
        );
        assert!(part["broken_off"].as_str().unwrap().contains("interrupted"), "{line}: {part:#}");
        assert!(!part[field].as_array().unwrap().is_empty(), "{line}: {part:#}");
        for page in ["report.html", "summary.md"] {
            let text = fs::read_to_string(dir.path().join(page)).unwrap().to_lowercase();
            assert!(text.contains("a part of what was asked for: "), "{line}, {page}");
        }
        assert!(!dir.path().join("reserve").exists(), "{line}");
        assert_eq!(rigs_of(owner), Vec::<PathBuf>::new(), "{line}");
        eprintln!("{line}: {:?}", begun.elapsed());
    }
}

/// What the result of a verb is called.
fn scenario(args: &[&str]) -> String {
    match args {
        ["sessions", "--search", ..] => "sessions-search".to_owned(),
        ["peers", "--recovery", ..] => "peers-recovery".to_owned(),
        [verb, ..] => (*verb).to_owned(),
        [] => String::new(),
    }
}

/// R8.4: a disk that gets full in mid-run: the room that was kept takes result and pages. One that is full at the beginning
/// is said before anything is measured. One that has no room for the result even so leaves none, nor that of an older run.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP, a tmpfs"]
fn r8_4_a_full_disk_leaves_a_whole_result_or_none() {
    let disk = Disk::mount("24m");
    let out = disk.path().join("out");
    let args = ["scaling", "--rounds", "3", "--window-ms", "100", "--workers", "1", "--sizes", "64"];
    let (mut child, mut lines) = start(&args, &out);
    assert!(lines.any(|line| line.unwrap().contains("measurements: 1 of")));
    disk.fill("filler");
    let said: Vec<_> = lines.map_while(Result::ok).collect();
    assert!(child.wait().unwrap().success(), "{said:?}");
    let whole = fs::read(out.join("result.json")).unwrap();
    assert_eq!((result(&out)["complete"].clone(), out.join("reserve").exists()), (true.into(), false));
    assert!(out.join("report.html").metadata().unwrap().len() > 1_000);

    let (child, lines) = start(&args, &out);
    let said = ended(child, lines);
    disk.clear("filler");
    assert!(said.contains("has no 16 MiB") && said.contains("--out"), "{said}");
    assert_eq!(fs::read(out.join("result.json")).unwrap(), whole, "what was there is there");

    // Somebody takes the room that is given back, before the result is written.
    let (child, mut lines) = start(&args, &out);
    assert!(lines.any(|line| line.unwrap().contains("measurements: 1 of")));
    fs::remove_file(out.join("reserve")).unwrap();
    disk.fill("filler");
    let said = ended(child, lines);
    assert!(said.contains("the disk is full") && said.contains("result.json"), "{said}");
    assert!(!out.join("result.json").exists(), "that of an older run does not stand for this one");
    let left: Vec<_> = fs::read_dir(&out).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name == "result.json.next" || name == "reserve"), "{left:?}");
}

/// R8.4: a disk that is full when a gateway ends: its last words, its audit log, the verdict and the pages are written
/// in the room that was kept.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP, a tmpfs"]
fn r8_4_a_full_disk_leaves_the_audit_log_and_the_verdict() {
    let disk = Disk::mount("40m");
    let out = disk.path().join("out");
    let (mut child, mut lines) = start(&["soak", "--sessions", "24", "--minutes", "0.2"], &out);
    assert!(lines.any(|line| line.unwrap().contains("seconds of churn")));
    disk.fill("filler");
    let said: Vec<_> = lines.map_while(Result::ok).collect();
    // A soak that is so short fails for that, and is judged all the same.
    child.wait().unwrap();
    let whole = result(&out);
    assert_eq!((&whole["complete"], &whole["valid"]), (&true.into(), &true.into()), "{said:?}: {whole:#}");
    assert!(whole["audit"]["events"].as_u64().unwrap() > 24, "{whole:#}");
    for file in ["events.jsonl", "report.html", "summary.md"] {
        assert!(out.join(file).metadata().unwrap().len() > 1_000, "{file}");
    }
    assert!(!out.join("reserve").exists());
}

/// R8.4: a disk that gets full beside the peers is nobody's failure: it ends the run, which keeps what it had and is
/// marked.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP, a tmpfs"]
fn r8_4_a_full_disk_beside_the_peers_ends_the_run() {
    let disk = Disk::mount("40m");
    let out = disk.path().join("out");
    let line = "peers --recovery --contender ours --cause link_down,nat_rebinding --rtt 0 --trials 999";
    let (child, mut lines) = start(&line.split(' ').collect::<Vec<_>>(), &out);
    // When the second is told of, the first is kept.
    assert!(lines.by_ref().filter(|line| line.as_ref().unwrap().contains("of client")).nth(1).is_some());
    disk.fill("filler");
    let said = ended(child, lines);
    assert!(said.contains("the disk is full") && !said.contains("FAILED"), "{said}");
    let part = result(&out);
    assert_eq!((&part["complete"], &part["valid"]), (&false.into(), &true.into()), "{said}: {part:#}");
    assert!(part["broken_off"].as_str().unwrap().contains("No space left"), "{part:#}");
    assert_eq!(part["failed"], Value::Array(Vec::new()), "{part:#}");
    assert!(part["causes"][0]["trials"].as_u64().unwrap() >= 1, "{part:#}");
    assert!(!out.join("reserve").exists());
}

/// R8.4: Ctrl-C of what measures once leaves no part, and nothing else either.
#[test]
#[ignore = "needs root: the lock of the machine"]
fn r8_4_an_interrupted_memory_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let (mut child, lines) = start(&["memory", "--workers", "8"], &out);
    while !out.join("reserve").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::yield_now();
    }
    interrupt(&child);
    let said = ended(child, lines);
    assert!(said.contains("interrupted"), "{said}");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}
