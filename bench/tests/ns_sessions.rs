//! Sessions in bulk through the three real processes, small enough for every run: births, storms, the death of the control
//! plane, and a short soak. Needs root and the binaries; run serially by `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::process::Command;

use serde_json::Value;

fn run(args: &[&str]) -> (Value, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_jvpn-bench"));
    let output = command.args(args).args(["--json", "--out"]).arg(dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let written = std::fs::read_to_string(dir.path().join("result.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), result);
    jvpn_bench::schemas::check(&result).unwrap();
    (result, dir)
}

/// R7.4, R7.3, R8.2, R1.2: 400 sessions are born; all lose their path at once, by a link and by a NAT, and come back; the
/// control plane is killed and adopts all within the bound while markers go through; its successor serves a storm too.
/// No session and no marker is lost or doubled; the judge of audit logs finds nothing.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r7_4_a_storm_and_a_killed_control_plane_lose_nobody() {
    let (result, dir) =
        run(&["sessions", "--sessions", "400", "--births-per-second", "200", "--steady", "2"]);
    assert_eq!(
        (&result["valid"], &result["failures"]),
        (&Value::from(true), &Value::from(Vec::<Value>::new()))
    );
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("no number in {result:#}"));
    let storms = result["storms"].as_array().unwrap();
    let names: Vec<_> = storms.iter().map(|storm| storm["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["link-down", "rebinding", "link-down, after the kill"]);
    for storm in storms {
        assert_eq!((number(&storm["recovered"]), number(&storm["missing"])), (400.0, 0.0), "{storm:#}");
        assert_eq!(number(&storm["each"]["count"]), 400.0);
        assert!(number(&storm["counters"]["transition.TRANSPORT_SWITCH_OK"]) >= 400.0, "{storm:#}");
    }
    let kill = &result["kill"];
    assert_eq!((number(&kill["adopted"]), number(&kill["attached"])), (400.0, 400.0));
    assert!(number(&kill["markers_sent"]) >= 400.0 && number(&kill["markers_lost"]) == 0.0, "{kill:#}");
    assert!(number(&kill["readopted_ms"]) <= 2_000.0, "{kill:#}");
    assert_eq!((number(&result["live_sessions"]), number(&result["distinct_ids"])), (400.0, 400.0));
    // Every session's birth and three switches are on record, and were judged.
    assert!(number(&result["audit"]["by_type"]["TRANSPORT_SWITCH"]) >= 1_200.0);
    assert_eq!(number(&result["audit"]["by_type"]["NODE_STARTED"]), 2.0);
    assert_eq!(jvpn_bench::raw::missing(dir.path(), "sessions"), [""; 0]);
    assert!(dir.path().join("storm-3.hgrm").is_file());
}

/// R7.4, R8.2: a short soak: births, goodbyes, sessions that are superseded or ended by the operator, moves and rekeys;
/// memory and descriptors of both processes stay where they were, no session and no slot is left over.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r7_4_a_short_soak_is_flat() {
    let (result, _dir) = run(&["soak", "--minutes", "0.35", "--sessions", "60"]);
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("no number in {result:#}"));
    assert_eq!(result["failures"], Value::from(Vec::<Value>::new()));
    let churn = &result["churn"];
    for (what, least) in
        [("births", 200.0), ("ends", 60.0), ("recoveries", 60.0), ("rekeys", 20.0), ("superseded", 40.0)]
    {
        assert!(number(&churn[what]) >= least, "{what}: {churn:#}");
    }
    assert_eq!(result["trends"].as_array().unwrap().len(), 6);
}

/// R7.4, R1.5, R8.2: a short churn: links lost, NATs rebinding, goodbyes, births without one, all at once and under traffic;
/// nobody is lost, no rule broken, memory and descriptors stay where they were, and the pages are there.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r7_4_churn_loses_nobody() {
    let args = ["churn", "--minutes", "0.3", "--sessions", "60", "--moves-per-second", "20"];
    let (result, dir) = run(&[&args[..], &["--births-per-second", "4"]].concat());
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("no number in {result:#}"));
    assert_eq!(
        (&result["valid"], &result["complete"], &result["failures"]),
        (&Value::from(true), &Value::from(true), &Value::from(Vec::<Value>::new()))
    );
    let churn = &result["churn"];
    for (what, least) in [
        ("links_lost", 120.0),
        ("rebindings", 120.0),
        ("goodbyes", 24.0),
        ("vanished", 24.0),
        ("births", 108.0),
        ("recoveries", 120.0),
    ] {
        assert!(number(&churn[what]) >= least, "{what}: {churn:#}");
    }
    assert_eq!((number(&churn["lost"]), number(&churn["attached"])), (0.0, 60.0), "{churn:#}");
    assert!(number(&result["outage"]["count"]) >= 120.0);
    assert_eq!(result["environment"]["ports"].as_array().unwrap().len(), 2);
    for file in ["report.html", "summary.md", "events.jsonl", "outage.hgrm", "reattach.hgrm"] {
        assert!(dir.path().join(file).metadata().unwrap().len() > 100, "{file}");
    }
}

/// R8.2: a short search: the first number is sustained, or the machine's limit is said; the result fits its schema, and every
/// step has what it held.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_2_a_short_search_sustains_what_it_says() {
    let asked = ["sessions", "--search", "--sessions", "300", "--births-per-second", "200", "--steady", "1"];
    let (result, dir) = run(&asked);
    assert_eq!(
        (&result["scenario"], &result["valid"], &result["complete"]),
        (&"sessions-search".into(), &true.into(), &true.into())
    );
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("no number in {result:#}"));
    let steps = result["steps"].as_array().unwrap();
    assert_eq!((number(&result["searched_to"]), number(&steps[0]["sessions"])), (300, 300));
    let held: Vec<_> = steps.iter().filter(|step| step["broken"].is_null()).collect();
    for step in &held {
        assert_eq!((&step["attached"], number(&step["markers_lost"])), (&step["sessions"], 0), "{step:#}");
        assert!(
            number(&step["markers_sent"]) > 100 && number(&step["control_plane_kib"]) > 1_000,
            "{step:#}"
        );
    }
    let sustained = held.iter().map(|step| number(&step["sessions"])).max();
    assert_eq!(sustained, Some(number(&result["sustained"])), "{result:#}");
    let limit = result["limit"].as_str().unwrap();
    assert_eq!(limit.contains("no more than 300"), sustained == Some(300), "{limit}");
    let audit = std::fs::read_to_string(dir.path().join("events.jsonl")).unwrap();
    assert!(audit.matches("\"SESSION_CREATED\"").count() >= 300, "births are on record");
    for page in ["report.html", "summary.md"] {
        assert!(
            std::fs::read_to_string(dir.path().join(page)).unwrap().contains("the most sessions"),
            "{page}"
        );
    }
}
