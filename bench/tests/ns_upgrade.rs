//! Upgrade and restart of the data plane under traffic, with the three real processes in real namespaces. Needs root and
//! the binaries; run serially by `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

#[allow(dead_code, reason = "shared with the tests of resilience")]
#[path = "ns_resilience/lab.rs"]
mod lab;

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use jvpn_bench::deployment::{self, Deployment, Role, Settings};
use jvpn_rig::tool::IP;
use jvpn_rig::topology::GATEWAY_WAN;
use jvpn_rig::{DATA_OCTET, TUNNEL_PORT, wait};

use lab::{Lab, PATIENCE, report_gap};

/// Where data planes pin what outlives them.
const PINS: &str = "/sys/fs/bpf/jvpn";
/// A client that probes so rarely does not notice a restart.
const PATIENT: &str = "preset = \"edge\"\nprobe_traffic = \"20s\"";
/// Replacements under traffic.
const REPLACEMENTS: usize = 20;

fn replace_program(lab: &Lab) -> Output {
    let mut command = Command::new(deployment::find_programs().unwrap().join("jvpn-dataplane"));
    command.args(["replace-program", "--config"]);
    command.arg(lab.places.config_dir.join(Role::DataPlane.config_file()));
    lab.rig.gateway().run(|| command.output()).unwrap().unwrap()
}

/// The pins of this lab's data plane.
fn pins(lab: &Lab) -> PathBuf {
    let namespace = lab
        .rig
        .gateway()
        .run(|| std::os::unix::fs::MetadataExt::ino(&fs::metadata("/proc/thread-self/ns/net").unwrap()))
        .unwrap();
    let mine =
        |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(&format!("{namespace}-"));
    let found: Vec<PathBuf> =
        fs::read_dir(PINS).unwrap().flatten().map(|entry| entry.path()).filter(mine).collect();
    let [dir] = found.as_slice() else { panic!("not one directory of pins: {found:?}") };
    dir.clone()
}

/// ID of the program on the gateway's WAN interface, as the kernel shows it.
fn program_id(lab: &Lab) -> String {
    let shown = IP.run(Some(lab.rig.gateway()), &["link", "show", "dev", "wan0"]).unwrap();
    let (_, rest) = shown.split_once("prog/xdp id ").unwrap_or_else(|| panic!("no program: {shown}"));
    rest.split_whitespace().next().unwrap().to_owned()
}

fn is_empty_or_gone(dir: &Path) -> bool {
    !dir.exists()
}

/// R0.5, R1.2: twenty replacements of the XDP programs under traffic: another program each time, not one packet lost,
/// nothing happens to the session. A table of another contract version is refused, with both versions named.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r0_5_a_program_is_replaced_without_losing_a_packet() {
    let lab = Lab::attached();
    let heartbeat = lab.heartbeat();
    let (before, missing_before) = (lab.snapshot(), heartbeat.missing());
    let mut ids = vec![program_id(&lab)];
    for _ in 0..REPLACEMENTS {
        let output = replace_program(&lab);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        ids.push(program_id(&lab));
    }
    lab.await_replies(&heartbeat, 100);
    ids.dedup();
    assert_eq!(ids.len(), REPLACEMENTS + 1, "each replacement is another program");
    assert_eq!(heartbeat.missing(), missing_before, "markers were lost");
    assert_eq!(lab.snapshot(), before);

    let dir = pins(&lab);
    let ours = jvpn_abi::CONTRACT_VERSION;
    fs::rename(dir.join(format!("v{ours}")), dir.join("v9999")).unwrap();
    let output = replace_program(&lab);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("version 9999") && said.contains(&format!("of {ours};")), "{said}");
    assert_eq!(program_id(&lab), *ids.last().unwrap(), "nothing was changed");
    fs::rename(dir.join("v9999"), dir.join(format!("v{ours}"))).unwrap();
    lab.await_replies(&heartbeat, 50);
    drop(heartbeat);
    lab.finish();
    assert!(is_empty_or_gone(&dir), "an ordered end leaves nothing pinned");
}

/// R0.5: a program that has taken another's place logs where that one did, and the running data plane tells it.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r0_5_a_program_that_replaced_another_is_heard() {
    let mut lab = Lab::prepare();
    let (real, bin, out) =
        (deployment::find_programs().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // What XDP logs is of level debug.
    let (name, told) = (Role::DataPlane.program(), "JVPN_LOG=debug");
    let script = format!("#!/bin/sh\n{told} exec '{}' \"$@\"\n", real.join(name).display());
    fs::write(bin.path().join(name), script).unwrap();
    fs::set_permissions(bin.path().join(name), fs::Permissions::from_mode(0o755)).unwrap();
    let (bin_dir, out_dir) = (bin.path().to_owned(), out.path().to_owned());
    let settings = Settings { bin_dir, out_dir, max_switches_per_min: None };
    lab.deployment = Deployment::new(&settings, &lab.places);
    lab.edit(Role::DataPlane, "workers = 2", "xdp_log = true\nworkers = 2");
    lab.launch(Role::DataPlane);

    let log = out.path().join(format!("{name}.log"));
    let heard = || fs::read_to_string(&log).unwrap().matches("unbound DATA").count();
    let nobodys = [&[DATA_OCTET, 0, 0, 0, 0, 0, 0, 9][..], &[7; 40]].concat();
    let is_heard = |when: &str| {
        let before = heard();
        let sent = || -> std::io::Result<usize> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.send_to(&nobodys, (GATEWAY_WAN, TUNNEL_PORT))
        };
        wait::until(when, PATIENCE, &lab.interrupt, || {
            lab.rig.attacker().run(sent)??;
            Ok((heard() > before).then_some(()))
        })
        .unwrap();
    };
    is_heard("the first program is heard");
    let first = program_id(&lab);
    let output = replace_program(&lab);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_ne!(program_id(&lab), first);
    is_heard("the program in its place is heard");
    lab.finish();
}

/// R1.2, R7.3: a restart by SIGUSR2 and one by SIGKILL under traffic: the link stays attached, the next process replaces
/// its program, the session goes on, and the control plane reports the gap. A second data plane on the same interfaces
/// changes nothing for the first.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r1_2_a_restart_keeps_link_and_session_and_reports_its_gap() {
    let mut lab = Lab::prepare();
    lab.edit(Role::ControlPlane, "preset = \"edge\"", PATIENT);
    lab.launch_all();
    let heartbeat = lab.heartbeat();
    let before = lab.snapshot();
    assert_eq!(lab.data_plane_status()["xdp_attachment"], "attached");
    assert_eq!(lab.data_plane_status()["xdp_pinned"], true);
    for (round, kills) in [(1, false), (2, true)] {
        let (program, from) = (program_id(&lab), Instant::now());
        if kills {
            lab.kill(Role::DataPlane);
        } else {
            lab.deployment.end_for_restart().unwrap();
        }
        assert_eq!(program_id(&lab), program, "the program stays attached without its process");
        lab.launch(Role::DataPlane);
        lab.await_replies(&heartbeat, 50);
        report_gap(if kills { "killed" } else { "SIGUSR2" }, &heartbeat, from);
        assert_ne!(program_id(&lab), program);
        assert_eq!(lab.data_plane_status()["xdp_attachment"], "replaced");
        assert_eq!(lab.snapshot(), before, "nothing happened to the session");
        let reported = lab.control_plane_status()["data_plane_restarts"].clone();
        eprintln!("  reported: {reported}");
        assert_eq!(reported["count"], round);
        assert_eq!(reported["last"]["bindings_kept"], 1);
        let gap = Duration::from_millis(reported["last"]["gap_ms"].as_u64().unwrap());
        assert!(
            gap < from.elapsed() && reported["last"]["away_ms"].as_u64().unwrap() <= gap.as_millis() as u64
        );
    }

    second_data_plane_is_refused(&lab);
    lab.await_replies(&heartbeat, 50);
    assert_eq!(lab.snapshot(), before);
    let dir = pins(&lab);
    drop(heartbeat);
    lab.finish();
    assert!(is_empty_or_gone(&dir));
}

/// How the gateway's WAN port is attached, as the kernel shows it: `xdp` is native.
fn kernel_mode(lab: &Lab) -> &'static str {
    let shown = IP.run(Some(lab.rig.gateway()), &["link", "show", "dev", "wan0"]).unwrap();
    match (shown.contains("prog/xdp id "), shown.contains("xdpgeneric")) {
        (true, true) => "generic",
        (true, false) => "native",
        (false, _) => "none",
    }
}

/// R1.2, R8.1: a data plane that was killed has left its links; the next one, under another `mode`, takes over what fits
/// and attaches the rest anew. A port without AF_XDP keeps no link.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r1_2_a_restart_in_another_mode_leaves_no_link_behind() {
    let mut lab = Lab::prepare();
    lab.edit(Role::ControlPlane, "preset = \"edge\"", PATIENT);
    lab.edit(Role::DataPlane, "workers = 2", "mode = \"auto\"\nworkers = 2");
    lab.launch_all();
    let heartbeat = lab.heartbeat();
    let before = lab.snapshot();
    // As configured, as the kernel shows it, as the link came about.
    let turns = [
        ("generic", "generic", "attached"),
        ("auto", "generic", "replaced"),
        ("require-native", "native", "attached"),
        ("auto", "native", "replaced"),
    ];
    let mut mode = "auto";
    for (next, shown, attachment) in turns {
        lab.kill(Role::DataPlane);
        lab.edit(Role::DataPlane, &format!("mode = \"{mode}\""), &format!("mode = \"{next}\""));
        mode = next;
        lab.launch(Role::DataPlane);
        lab.await_replies(&heartbeat, 50);
        let status = lab.data_plane_status();
        assert_eq!(kernel_mode(&lab), shown, "{next}");
        assert_eq!(
            (&status["xdp_mode"], &status["xdp_attachment"]),
            (&shown.into(), &attachment.into()),
            "{next}"
        );
        assert_eq!(lab.snapshot(), before, "nothing happened to the session");
        let output = replace_program(&lab);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let dir = pins(&lab);
    drop(heartbeat);
    // The control plane's socket is not shared under AF_XDP.
    lab.kill(Role::DataPlane);
    lab.kill(Role::ControlPlane);
    lab.edit(Role::DataPlane, &format!("mode = \"{mode}\""), "mode = \"no-af-xdp\"");
    lab.launch(Role::DataPlane);
    assert_eq!((kernel_mode(&lab), &lab.data_plane_status()["xdp_mode"]), ("none", &"none".into()));
    assert!(!dir.join("link-wan").exists() && !dir.join("link-lan").exists());
    let output = replace_program(&lab);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("no XDP program on either port"), "{said}");
    lab.launch(Role::ControlPlane);
    lab.finish();
    assert!(is_empty_or_gone(&dir));
}

/// It is told who is there before it has touched anything.
fn second_data_plane_is_refused(lab: &Lab) {
    let file = lab.places.config_dir.join(Role::DataPlane.config_file());
    let text = fs::read_to_string(&file).unwrap().replace(".sock\"", "-2.sock\"");
    let second = file.with_file_name("second.toml");
    fs::write(&second, text).unwrap();
    let program = program_id(lab);
    let mut command = Command::new(deployment::find_programs().unwrap().join("jvpn-dataplane"));
    command.arg("--config").arg(second);
    let output = lab.rig.gateway().run(|| command.output()).unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("belongs to another data plane, process "), "{said}");
    assert_eq!(program_id(lab), program, "the first one's program is in place");
}

/// CPU ticks that a process has used (fields 14 and 15 of /proc/PID/stat, 100 per second).
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// R0.5: with a session and no traffic the three processes together use less than 1 % of a CPU, busy polling configured.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r0_5_an_idle_gateway_rests() {
    const IDLE: Duration = Duration::from_secs(10);
    let mut lab = Lab::prepare();
    lab.edit(Role::DataPlane, "[wan]", "[tuning]\nbusy_poll = 50\n\n[wan]");
    lab.launch_all();
    let pids = Role::ALL.map(|role| lab.deployment.pid(role).unwrap());
    let before = pids.map(ticks);
    // Time without events is what is measured.
    std::thread::sleep(IDLE);
    let used: Vec<u64> = pids.into_iter().zip(before).map(|(pid, before)| ticks(pid) - before).collect();
    eprintln!("  ticks of 10 ms in 10 s: {used:?}");
    assert!(used.iter().sum::<u64>() < 10, "1 % of ten seconds are 10 ticks: {used:?}");
    lab.finish();
}
