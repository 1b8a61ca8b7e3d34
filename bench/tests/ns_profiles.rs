//! The recovery bench over the paths of profiles: what a profile says happens to real frames, counted by the emulator and
//! kept in the result, its own delays each way among it; and a run knows which profile it had. Needs root and the
//! binaries; run serially by `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use jvpn_bench::schemas;
use jvpn_rig::emulator::{Change, LanePatch, LaneSettings, Profile};
use serde_json::Value;

/// So many expected, or so many bursts of them, and none seen, is no chance.
const CERTAIN: f64 = 15.0;
/// What a way may take beyond delay and jitter, ms: processes of a busy machine.
const SLOW_MS: f64 = 30.0;

fn bench(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jvpn-bench"));
    command.args(args);
    command
}

fn recovery(profile: &str, trials: &str, out: &Path) -> Command {
    let mut command = bench(&["recovery", "--cause", "link_down", "--rtt", "profile", "--clients", "2"]);
    // A script breaks paths too: policy must let a client switch more often than trials do.
    command.args(["--preset", "mobile"]);
    command.args(["--profile", profile, "--trials", trials, "--out"]).arg(out);
    command
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Runs it; everybody has to come back.
fn run(profile: &str, trials: &str, out: &Path) -> Value {
    let output = recovery(profile, trials, out).output().unwrap();
    assert!(output.status.success(), "{profile}: {}", said(&output));
    let result = json(&out.join("result.json"));
    schemas::check(&result).unwrap();
    assert_eq!((&result["valid"], &result["complete"]), (&true.into(), &true.into()), "{profile}");
    assert_eq!(
        result["lives"][0]["paths"].as_array().unwrap().len(),
        4,
        "{profile}: two clients, two paths each"
    );
    result
}

/// Sum of a counter over all paths.
fn sum(result: &Value, pointer: &str) -> u64 {
    let paths = result["lives"][0]["paths"].as_array().unwrap();
    paths.iter().map(|path| path.pointer(pointer).unwrap().as_u64().unwrap()).sum()
}

/// What of a share is looked at: its counter, the share, whether a change of the script has one.
type Share = (&'static str, fn(&LaneSettings) -> f64, fn(&LanePatch) -> bool);

const SHARES: [Share; 4] = [
    ("lost", |lane| lane.loss.fraction(), |patch| patch.loss.is_some()),
    (
        "lost_in_burst",
        |lane| lane.burst.map_or(0.0, |burst| burst.mean_loss()),
        |patch| patch.burst.is_some(),
    ),
    ("reordered", |lane| lane.reorder.fraction(), |patch| patch.reorder.is_some()),
    ("duplicated", |lane| lane.duplicate.fraction(), |patch| patch.duplicate.is_some()),
];

/// Frames are lost, doubled and held up as often as the profile says, and not where it says nothing.
fn judge_shares(profile: &Profile, result: &Value) {
    for (way, settings) in [("up", &profile.up), ("down", &profile.down)] {
        let patch = |change: &Change| if way == "up" { change.up.clone() } else { change.down.clone() };
        let counted = |field: &str| sum(result, &format!("/{way}/{field}")) as f64;
        let reached = counted("offered") - counted("blackholed");
        assert!(reached > 1_000.0, "{}, {way}: {reached}", profile.name);
        for (field, share, changes) in SHARES {
            let (seen, expected) = (counted(field), reached * share(settings));
            // Bursts come one by one, what they take comes in clumps.
            let in_clumps = settings.burst.filter(|_| field == "lost_in_burst");
            let clump = in_clumps.map_or(1.0, |burst| burst.loss.fraction() / burst.leave.fraction());
            let allowed =
                5.0 * (2.0 * expected * clump).sqrt() + if expected > 0.0 { 5.0 * clump } else { 0.0 };
            let what = format!(
                "{}, {way}: {seen} {field} of {reached}, expected {expected:.1} ± {allowed:.1}",
                profile.name
            );
            if expected / clump > CERTAIN {
                assert!(seen > 0.0, "{what}");
            }
            if !profile.changes.iter().any(|change| changes(&patch(change))) {
                assert!((seen - expected).abs() <= allowed, "{what}");
            }
        }
    }
}

/// The fastest probe each way took the profile's delay, and hardly more than its jitter beyond, unless the script makes the
/// line slower or narrower: its slowest trial may lie in there.
fn judge_delays(profile: &Profile, out: &Path) {
    let run = json(&out.join("run.json"));
    let timeline = &run["timelines"][0];
    for (way, settings) in [("up", &profile.up), ("down", &profile.down)] {
        let probes = timeline[way].as_array().unwrap().iter();
        let ways = probes.filter_map(|probe| Some(probe[1].as_f64()? - probe[0].as_f64()?));
        let shortest = ways.fold(f64::MAX, f64::min);
        let (delay, jitter) = (settings.delay.as_secs_f64() * 1e3, settings.jitter.as_secs_f64() * 1e3);
        let slows =
            |patch: &LanePatch| patch.delay.is_some() || patch.jitter.is_some() || patch.rate_bit_s.is_some();
        let is_steady = !profile.changes.iter().any(|change| slows(&change.up) || slows(&change.down));
        let longest = if is_steady { delay + jitter + SLOW_MS } else { f64::MAX };
        assert!(
            (delay..longest).contains(&shortest),
            "{}, {way}: {shortest:.1} ms, not {delay} and up to {jitter}",
            profile.name
        );
    }
}

/// R7.1, R8.4: over each built-in profile with its own delays clients come back, frames are delayed, lost one by one and in
/// bursts, held up and doubled as it says, and its text stands in the result.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r7_1_each_built_in_profile_happens_to_real_frames() {
    for name in Profile::names().filter(|name| *name != "plain") {
        let dir = tempfile::tempdir().unwrap();
        let profile = Profile::load(name).unwrap();
        // There and back takes it so long that few trials are many frames.
        let trials = if name == "satellite" { "2" } else { "6" };
        let result = run(name, trials, dir.path());
        let rtt_ms = u64::try_from(profile.round_trip().as_millis()).unwrap();
        assert_eq!((&result["profile"], &result["delays"]), (&name.into(), &"profile".into()));
        assert_eq!(result["profile_text"], profile.text);
        assert_eq!(result["causes"][0]["rtt_ms"], rtt_ms);
        judge_shares(&profile, &result);
        judge_delays(&profile, dir.path());
        for path in result["lives"][0]["paths"].as_array().unwrap() {
            assert!(path["nat"]["mapped"].as_u64() > Some(0), "{name}: {path}");
            assert!(
                path["up"]["delivered"].as_u64() > Some(0) && path["down"]["delivered"].as_u64() > Some(0)
            );
        }
        let summary = fs::read_to_string(dir.path().join("summary.md")).unwrap();
        assert!(
            summary.contains("What the emulated paths did") && summary.contains(" offered, "),
            "{summary}"
        );
        eprintln!(
            "{name}: {}",
            summary.lines().filter(|line| line.starts_with("- at")).collect::<Vec<_>>().join("; ")
        );
    }
}

/// Everything that a profile can say, within a few seconds.
const EVERYTHING: &str = r#"
name = "everything"
repeat = "4s"

[up]
delay = "8ms"
loss_percent = 0.5
burst = { enter_percent = 0.5, leave_percent = 25, loss_percent = 60 }
reorder_percent = 1
reorder_by = "2ms"
duplicate_percent = 1
queue = "40ms"

[down]
delay = "3ms"
loss_percent = 0.5
duplicate_percent = 1

[nat]
ttl = "30s"

[[change]]
after = "1s"
lasts = "60ms"
both = { blackhole = true }

[[change]]
after = "2400ms"
lasts = "200ms"
both = { rate_mbit_s = 0.05, queue = "5ms" }

[[change]]
after = "3200ms"
rebind_nat = true
"#;

/// R7.1, R8.4: a profile of a file with all that there is: every counter of the result moves; `--resume` refuses another
/// file of the same name and says what differs; `compare` refuses it, too.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_4_a_profile_of_a_file_happens_and_is_kept_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("everything.toml"), dir.path().join("out"));
    fs::write(&file, EVERYTHING).unwrap();
    let name = file.to_str().unwrap();
    let result = run(name, "8", &out);
    assert_eq!((&result["profile"], &result["profile_text"]), (&"everything".into(), &EVERYTHING.into()));
    let profile = Profile::load(name).unwrap();
    judge_shares(&profile, &result);
    judge_delays(&profile, &out);
    for pointer in
        ["/up/blackholed", "/down/blackholed", "/up/queue_full", "/down/queue_full", "/nat/forgotten"]
    {
        assert!(sum(&result, pointer) > 0, "{pointer}: {:#}", result["lives"][0]["paths"]);
    }
    let html = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(
        html.contains("beyond the queue") && html.contains("reorder_by"),
        "the paths stand in the report"
    );

    fs::write(&file, EVERYTHING.replace("\"8ms\"", "\"9ms\"").replace("\"3ms\"", "\"2ms\"")).unwrap();
    let refused = recovery(name, "9", &out).arg("--resume").output().unwrap();
    let word = said(&refused);
    assert!(!refused.status.success() && word.contains("another run"), "{word}");
    assert!(
        word.contains("content of the profile") && word.contains("8ms") && word.contains("9ms"),
        "{word}"
    );

    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    let mut changed = result.clone();
    changed["profile_text"] = fs::read_to_string(&file).unwrap().into();
    fs::write(other.join("result.json"), changed.to_string()).unwrap();
    let compared = bench(&["compare"]).arg(&out).arg(&other).output().unwrap();
    let word = said(&compared);
    assert!(!compared.status.success() && word.contains("conditions"), "{word}");
    assert!(word.contains("content of the profile: ") && word.contains("9ms"), "{word}");
}
