//! Verbs that measure: one at a time on a machine, and a directory of each. Needs root and the binaries; run serially by
//! `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::path::Path;
use std::process::{Command, Output};

use jvpn_bench::browser;
use jvpn_bench::lock::RunLock;
use jvpn_bench::raw;
use jvpn_rig::registry::REGISTRY_DIR;
use serde_json::Value;

fn run(args: &[&str], out: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jvpn-bench"));
    command.args(args).arg("--out").arg(out).output().unwrap()
}

/// R8.4: every verb that measures on the machine keeps off while another one does, and says which.
#[test]
#[ignore = "needs root: network namespaces, the rigs' directory"]
fn r8_4_a_second_run_of_any_verb_names_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let _lock = RunLock::take(Path::new(REGISTRY_DIR), "a test").unwrap();
    let verbs = [
        "recovery",
        "suite",
        "sessions",
        "soak",
        "churn",
        "flood",
        "throughput",
        "peers",
        "l2fwd",
        "pinning",
        "scaling",
        "idle",
        "memory",
        "cost",
        "timing",
    ];
    for verb in verbs {
        let output = run(&[verb], dir.path());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{verb}");
        let owner = format!("(`a test`, process {})", std::process::id());
        assert!(said.contains("in progress") && said.contains(&owner), "{verb}: {said}");
        assert!(said.contains(&format!("`{verb}` has done nothing")), "{said}");
    }
    // The demo measures when it repeats.
    let output = run(&["demo", "--repeat", "2"], dir.path());
    assert!(String::from_utf8_lossy(&output.stderr).contains("`demo` has done nothing"), "{output:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was written");
}

/// R8.4: result with environment, report and summary of the short verbs; what they found is not judged here.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_4_short_verbs_leave_a_directory() {
    let scaling = ["scaling", "--workers", "1", "--rounds", "3", "--window-ms", "100", "--sizes", "64"];
    let all: [&[&str]; 4] = [
        &scaling,
        &["memory", "--sessions", "100"],
        &["timing", "--samples", "1000"],
        &["idle", "--seconds", "1", "--sessions", "5"],
    ];
    for args in all {
        let dir = tempfile::tempdir().unwrap();
        let output = run(args, dir.path());
        let read = |name: &str| {
            let said = String::from_utf8_lossy(&output.stderr);
            let text = std::fs::read_to_string(dir.path().join(name));
            text.unwrap_or_else(|error| panic!("{args:?}, {name}: {error}; {said}"))
        };
        let result: Value = serde_json::from_str(&read("result.json")).unwrap();
        assert_eq!(result["scenario"], args[0]);
        jvpn_bench::schemas::check(&result).unwrap();
        assert_eq!(result["complete"], true, "{args:?}");
        assert_eq!(raw::missing(dir.path(), args[0]), [""; 0], "{args:?}");
        // Where no gateway ran, nobody has judged one.
        let judged = "there was no event log to judge";
        assert_eq!(read("report.html").contains(judged), result["valid"].is_null(), "{args:?}: {result:#}");
        assert_eq!(
            result["valid"].is_null(),
            ["scaling", "memory"].contains(&args[0]),
            "{args:?}: {result:#}"
        );
        if ["scaling", "idle"].contains(&args[0]) {
            let wan = &result["environment"]["ports"][0];
            assert!(
                wan["step"] != "" && wan["xdp_mode"] != "" && wan["driver"] != "",
                "{args:?}: {result:#}"
            );
        }
        assert!(!result["environment"]["kernel"].as_str().unwrap().is_empty(), "{args:?}");
        assert!(read("report.html").contains("What it ran on"), "{args:?}");
        assert!(read("summary.md").contains("## What it ran on"), "{args:?}");
        let Some(browser) = browser::find() else {
            jvpn_testing::left_out_in_part(browser::NONE);
            continue;
        };
        let (page, picture) = (dir.path().join("report.html"), dir.path().join("page.png"));
        browser::open(&browser, &page, 1_000, &picture).unwrap().judge().unwrap();
    }
}
