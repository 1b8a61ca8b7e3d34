//! The table of settings that `jvpn-bench pinning` shows, on this machine. Needs root; run serially by `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::process::Command;

use serde_json::Value;

/// R0.4: every setting stands in the table with each of its rounds, its figure is their median, nobody used more than the
/// one CPU that he was pinned to, and what is recommended is the default or clearly faster; the NICs stand beside it.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r0_4_the_table_of_pinning_is_what_was_measured() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_jvpn-bench"));
    command.args(["pinning", "--rounds", "3", "--seconds", "1", "--json", "--out"]).arg(dir.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let written = std::fs::read_to_string(dir.path().join("result.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), result);
    jvpn_bench::schemas::check(&result).unwrap();
    let rows = result["settings"].as_array().unwrap();
    let cpus = std::thread::available_parallelism().unwrap().get();
    let setting = |row: &Value| {
        ["worker_cpu", "generator_cpu", "batch", "busy_poll"].map(|field| row[field].as_u64().unwrap())
    };
    let worker_cpus: std::collections::BTreeSet<_> = rows.iter().map(|row| setting(row)[0]).collect();
    assert_eq!(worker_cpus.len(), cpus.min(9), "every CPU that may be used was tried");
    for row in rows {
        let mut rounds: Vec<_> =
            row["rounds"].as_array().unwrap().iter().map(|round| round.as_f64().unwrap()).collect();
        rounds.sort_by(f64::total_cmp);
        assert_eq!((rounds.len(), row["pps"].as_f64()), (3, Some(rounds[1])), "{row}");
        assert!(rounds[0] > 0.0, "{row}");
        let used = row["worker_cpu_seconds"].as_f64().unwrap();
        assert!(used > 0.0 && used < 1.1, "one thread on one CPU: {row}");
    }
    let (default, best) = (&rows[0], &result["recommended"]);
    assert!(rows.iter().any(|row| setting(row) == setting(best)));
    let (default_pps, best_pps) = (default["pps"].as_f64().unwrap(), best["pps"].as_f64().unwrap());
    assert!(setting(best) == setting(default) || best_pps > default_pps * 1.03, "{best}");
    let fastest = rows.iter().map(|row| row["pps"].as_f64().unwrap()).fold(0.0, f64::max);
    assert!(best_pps * 1.031 >= fastest, "something clearly faster was not recommended");
    let ports = result["environment"]["ports"].as_array().unwrap();
    let nics: Vec<_> = ports.iter().map(|port| (port["nic"].as_str(), port["driver"].as_str())).collect();
    assert_eq!(nics, [(Some("wan0"), Some("veth")), (Some("lan0"), Some("veth"))]);
}
