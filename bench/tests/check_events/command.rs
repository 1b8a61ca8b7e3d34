//! The command as its user meets it.

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::real::real_log;

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jvpn-bench"));
    command.arg("check-events").args(args);
    command
}

fn run(args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command(args).output().unwrap();
    (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

/// R6.1: exit code 0, 1 or 2; several files in order; standard input; JSON.
#[test]
fn r6_1_the_command_judges_rotated_logs_and_standard_input() {
    let (lines, _) = real_log();
    let lines: Vec<_> = lines.iter().map(|line| line.replace("\"simulated\"", "\"edge\"")).collect();
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, lines: &[String]| {
        let path = dir.path().join(name);
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (first, second) = lines.split_at(lines.len() / 2);
    let (first, second) = (file("audit.1", first), file("audit", second));
    let (code, said) = run(&[&first, &second]);
    assert!(code == Some(0) && said.contains("every rule held"), "{said}");
    let (code, said) = run(&[&second, &first]);
    assert!(code == Some(1) && said.contains("audit.1:"), "{said}");
    let (code, said) = run(&[&second]);
    assert!(code == Some(1) && said.contains("--midway"), "{said}");
    let (code, said) = run(&[&first, &second, "--max-switches-per-min", "1", "--json"]);
    let findings: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, &findings["good"], &findings["violations"][0]["check"]),
        (Some(1), &Value::Bool(false), &Value::from("switches"))
    );
    assert_eq!(findings["violations_total"], 4, "three switches each, one of them allowed");
    let (code, said) = run(&["/nonexistent/audit.jsonl"]);
    assert!(code == Some(2) && said.contains("/nonexistent/audit.jsonl"), "{said}");
    let (code, said) = run(&[&first, "--policy", &second]);
    assert!(code == Some(2) && said.contains("policy"), "{said}");
    assert_eq!(run(&[]).0, Some(2));

    let mut child = command(&["-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
}
