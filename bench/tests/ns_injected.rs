//! INVALID, live: while a real run of the recovery bench goes on, somebody puts on its wires what a broken gateway would,
//! doubles a line of the audit log under the gateway's hands, kills a client between two trials, and takes the log away by
//! which a data plane's end is judged. The run's own observers have to see it: nothing in the
//! bench knows of this test. Needs root and the binaries; run serially by `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jvpn_abi::wire::data::DataHeader;
use jvpn_bench::schemas;
use jvpn_rig::capture::{Capture, Direction, Match, Port};
use jvpn_rig::frame::Datagram;
use jvpn_rig::inject::Wire;
use jvpn_rig::registry::REGISTRY_DIR;
use jvpn_rig::{DATA_OCTET, Interrupt, Namespace, TUNNEL_PORT, wait};
use serde_json::Value;

/// How long what is waited for may take.
const PATIENCE: Duration = Duration::from_secs(90);
/// After so long DATA of the binding before is stale, whatever a TX ring held.
const LATE: Duration = Duration::from_millis(60);
/// Stale DATA that are put on the wire.
const COPIES: u64 = 3;
/// Where the probes of the first client come out.
const PROBE_PORT: u16 = 7_300;
/// So many probes missing in a row are no accident: the path was cut, and the emulator keeps them.
const CUT: u64 = 20;

/// What is run.
const ARGS: [&str; 10] =
    ["recovery", "--clients", "1", "--cause", "silent_blackhole", "--rtt", "0", "--trials", "2", "--out"];

/// A run in progress: one client, two silent blackholes.
struct Run {
    child: Child,
    lines: std::io::Lines<BufReader<std::io::PipeReader>>,
    out: Rc<tempfile::TempDir>,
    rig: PathBuf,
}

impl Run {
    /// Starts it and waits until gateway and network stand.
    fn start() -> Self {
        let out = Rc::new(tempfile::tempdir().unwrap());
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_jvpn-bench"));
        command.args(ARGS).arg(out.path()).stdout(writer.try_clone().unwrap()).stderr(writer);
        let child = command.spawn().unwrap();
        // The command holds the pipe's other end too: the lines must end with the run.
        drop(command);
        let mut lines = BufReader::new(reader).lines();
        let mut before = Vec::new();
        let stands = lines.by_ref().map_while(Result::ok).any(|line| {
            before.push(line);
            before.last().is_some_and(|line| line.contains("silent_blackhole at 0 ms"))
        });
        assert!(stands, "{before:#?}");
        let rig = rig_of(child.id()).unwrap();
        Self { child, lines, out, rig }
    }

    fn namespace(&self, role: &str) -> Namespace {
        let id = self.rig.file_name().unwrap().to_string_lossy().into_owned();
        Namespace::open(&format!("jvpn-{id}-{role}")).unwrap()
    }

    /// Waits for something to inject.
    fn await_some<T>(&mut self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let child = &mut self.child;
        wait::until(what, PATIENCE, &Interrupt::default(), || {
            if let Some(found) = look() {
                return Ok(Some(found));
            }
            anyhow::ensure!(child.try_wait()?.is_none(), "the run has ended");
            Ok(None)
        })
        .unwrap()
    }

    /// Waits for the end, which is an error, and gives the result and what was said.
    fn end_invalid(mut self) -> (Value, String) {
        let said: Vec<_> = self.lines.by_ref().map_while(Result::ok).collect();
        let said = said.join("\n");
        assert_eq!(self.child.wait().unwrap().code(), Some(1), "{said}");
        assert!(said.contains("INVALID"), "{said}");
        let read = |name: &str| fs::read_to_string(self.out.path().join(name)).unwrap();
        let result: Value = serde_json::from_str(&read("result.json")).unwrap();
        schemas::check(&result).unwrap();
        assert_eq!((&result["valid"], &result["complete"]), (&false.into(), &true.into()), "{said}");
        // Nothing else was wrong with it: everybody came back, as in a run that is left alone.
        assert_eq!(
            (&result["causes"][0]["trials"], &result["causes"][0]["recovered"]),
            (&2.into(), &2.into()),
            "{said}"
        );
        assert!(read("report.html").contains("INVALID") && read("summary.md").contains("INVALID"));
        (result, said)
    }

    fn audit(&self) -> PathBuf {
        self.rig.join("controlplane/audit.jsonl")
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // A test that failed leaves no run behind, and the run no network.
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
            let _ = self.child.wait();
        }
    }
}

fn rig_of(owner: u32) -> Option<PathBuf> {
    let rigs = fs::read_dir(REGISTRY_DIR).ok()?.flatten().map(|rig| rig.path());
    let is_owned = |rig: &PathBuf| {
        let registry = fs::read_to_string(rig.join("registry")).unwrap_or_default();
        registry.lines().any(|line| line.starts_with(&format!("owner {owner} ")))
    };
    rigs.into_iter().find(is_owned)
}

fn problems(result: &Value) -> Vec<&str> {
    result["problems"].as_array().unwrap().iter().map(|problem| problem.as_str().unwrap()).collect()
}

/// R8.1, R8.4, I11: a line of the audit log that is there twice makes a run INVALID, though everybody came back.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_4_a_line_doubled_in_the_live_audit_log_makes_the_run_invalid() {
    let mut run = Run::start();
    let audit = run.audit();
    let line = run.await_some("a confirmed switch in the audit log", || {
        let text = fs::read_to_string(&audit).ok()?;
        let (whole, _) = text.rsplit_once('\n')?;
        whole.lines().find(|line| line.contains("TRANSPORT_SWITCH_OK")).map(str::to_owned)
    });
    let mut file = OpenOptions::new().append(true).open(&audit).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
    assert!(!run.out.path().join("audit-1.jsonl").exists(), "the run goes on");
    let (result, said) = run.end_invalid();
    let found = problems(&result);
    assert!(!found.is_empty(), "{said}");
    for problem in found {
        assert!(problem.starts_with("audit-1.jsonl breaks a rule: "), "{problem}");
        assert!(said.contains(&format!("INVALID: {problem}")), "{said}");
    }
    let life = &result["lives"][0];
    assert!(!life["audit_violations"].as_array().unwrap().is_empty() && life["stale_sent"] == 0, "{life:#}");
}

/// What is known of the bindings on the gateway's wire: of each the slot, the first moment, the latest frame.
type Bindings = Arc<Mutex<Vec<(u32, Instant, Vec<u8>)>>>;

/// I1, R1.1, R8.1: DATA of a binding that is over, sent out of the gateway's WAN port again behind DATA of the next one,
/// are seen by the observer on that wire, each of them, and make the run INVALID.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn i1_data_of_an_old_binding_on_the_gateways_wire_makes_the_run_invalid() {
    let mut run = Run::start();
    let bindings = Bindings::default();
    let wanted = Match {
        direction: Direction::Incoming,
        port: Port::Source(TUNNEL_PORT),
        first_octet: Some(DATA_OCTET),
    };
    let book = Arc::clone(&bindings);
    let capture = Capture::tap(&run.namespace("router"), "rW", wanted, move |frame| {
        let Some(datagram) = Datagram::parse(frame) else { return };
        let Some(slot) = DataHeader::parse(datagram.payload).map(|header| header.slot.0) else { return };
        let mut book = book.lock().unwrap();
        match book.iter_mut().find(|(known, ..)| *known == slot) {
            Some((_, _, latest)) => *latest = frame.to_vec(),
            None => book.push((slot, Instant::now(), frame.to_vec())),
        }
    })
    .unwrap();
    let wire = Wire::open(&run.namespace("gateway"), "wan0").unwrap();
    let stale = run.await_some("DATA of a second binding", || match bindings.lock().unwrap().as_slice() {
        [(_, _, old), (_, since, _), ..] if since.elapsed() > LATE => Some(old.clone()),
        _ => None,
    });
    for _ in 0..COPIES {
        wire.send(&stale).unwrap();
    }
    drop(capture);
    let (result, said) = run.end_invalid();
    let text = format!("at 0 ms: {COPIES} DATA of a binding that was over left the gateway");
    assert_eq!(problems(&result), [text.as_str()], "{said}");
    assert!(said.contains(&format!("INVALID: {text}")), "{said}");
    assert_eq!(result["lives"][0]["stale_sent"], COPIES);
}

/// A probe that a cut path took, as it would have come out at the LAN.
fn held_probe(frame: &[u8], sequence: u64) -> Vec<u8> {
    let datagram = Datagram::parse(frame).unwrap();
    let mut payload = datagram.payload.to_vec();
    payload[8..16].copy_from_slice(&sequence.to_be_bytes());
    // Probes go out every millisecond.
    let sent = u64::from_be_bytes(payload[16..24].try_into().unwrap()) + 1_000_000;
    payload[16..24].copy_from_slice(&sent.to_be_bytes());
    let [destination, source] = [&frame[..6], &frame[6..12]].map(|mac| mac.try_into().unwrap());
    Datagram { payload: &payload, ..datagram }.to_frame(source, destination).unwrap()
}

/// I1, R1.1, R8.1: a probe that the emulator took off the old path and that comes out of the gateway's LAN port once the
/// new binding forwards is known by its number, and makes the run INVALID.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn i1_a_held_probe_that_comes_out_at_the_lan_makes_the_run_invalid() {
    let mut run = Run::start();
    let wanted =
        Match { direction: Direction::Incoming, port: Port::Destination(PROBE_PORT), first_octet: None };
    let wire = Wire::open(&run.namespace("gateway"), "lan0").unwrap();
    // The last probe, and how many were put on the wire.
    let state = Arc::new(Mutex::new((None::<(u64, Vec<u8>)>, 0_u64)));
    let book = Arc::clone(&state);
    let capture = Capture::tap(&run.namespace("lan"), "eth0", wanted, move |frame| {
        let number = Datagram::parse(frame).and_then(|datagram| datagram.payload.get(8..16)?.try_into().ok());
        let Some(sequence) = number.map(u64::from_be_bytes) else { return };
        let (last, injected) = &mut *book.lock().unwrap();
        match last {
            // What was put on the wire comes by here too.
            Some((before, _)) if sequence <= *before => return,
            // The first one through the new binding: the one behind the last of the old binding is held since then.
            Some((before, template)) if sequence > *before + CUT => {
                wire.send(&held_probe(template, *before + 1)).unwrap();
                *injected += 1;
            }
            _ => {}
        }
        *last = Some((sequence, frame.to_vec()));
    })
    .unwrap();
    run.await_some("a cut path", || (state.lock().unwrap().1 > 0).then_some(()));
    let journal = run.out.path().join("trials.jsonl");
    run.await_some("a trial", || fs::read_to_string(&journal).ok()?.contains("{\"trial\":").then_some(()));
    drop(capture);
    let kept = Kept::of(&journal);
    let (result, said) = run.end_invalid();
    let text = "1 frames of an old binding came out at the LAN after its unbind";
    for problem in problems(&result) {
        assert!(
            problem.starts_with("silent_blackhole at 0 ms, incident ") && problem.ends_with(text),
            "{said}"
        );
        assert!(said.contains(&format!("INVALID: {problem}")), "{said}");
    }
    assert!(!problems(&result).is_empty() && kept.stale >= 1 && kept.held > 1, "{said}");
    assert_eq!(result["lives"][0]["stale_sent"], 0, "the WAN saw nothing of it");
}

/// What the journal says of the trials so far.
struct Kept {
    stale: u64,
    held: u64,
}

impl Kept {
    fn of(journal: &Path) -> Self {
        let text = fs::read_to_string(journal).unwrap();
        let trials = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let trials: Vec<_> = trials.filter(|line| line["trial"].is_object()).collect();
        let sum = |field: &str| trials.iter().map(|line| line["trial"][field].as_u64().unwrap()).sum();
        Self { stale: sum("stale_forwarded"), held: sum("held_released") }
    }
}

/// The process that was started with this configuration.
fn process_with(config: &Path) -> Option<nix::unistd::Pid> {
    let is_it = |process: &fs::DirEntry| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        line.split(|octet| *octet == 0).any(|word| word == config.as_os_str().as_encoded_bytes())
    };
    let process = fs::read_dir("/proc").unwrap().flatten().find(is_it)?;
    Some(nix::unistd::Pid::from_raw(process.file_name().to_str()?.parse().ok()?))
}

/// R8.1, R8.4: a client that dies after a trial that it came back from is no longer replaced without a word: the run is
/// INVALID.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_1_a_client_that_dies_between_two_trials_makes_the_run_invalid() {
    let mut run = Run::start();
    let journal = run.out.path().join("trials.jsonl");
    let config = run.rig.join("client0/client.toml");
    run.await_some("a trial", || fs::read_to_string(&journal).ok()?.contains("{\"trial\":").then_some(()));
    nix::sys::signal::kill(process_with(&config).unwrap(), nix::sys::signal::Signal::SIGKILL).unwrap();
    let said: Vec<_> = run.lines.by_ref().map_while(Result::ok).collect();
    assert_eq!(run.child.wait().unwrap().code(), Some(1), "{said:#?}");
    let text = fs::read_to_string(run.out.path().join("result.json")).unwrap();
    let result: Value = serde_json::from_str(&text).unwrap();
    schemas::check(&result).unwrap();
    assert_eq!(
        (&result["valid"], &result["causes"][0]["recovered"]),
        (&false.into(), &result["causes"][0]["trials"])
    );
    let died = |problem: &&str| problem.contains("client 0 has ended (signal: 9");
    assert!(problems(&result).iter().any(died), "{result:#}");
}

/// R8.4: a data plane's end that is not in order makes the run INVALID; its trials and its audit log count, and whoever
/// goes on does not get rid of it.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_4_a_bad_end_stays_in_a_run_that_goes_on() {
    let mut run = Run::start();
    let out = Rc::clone(&run.out);
    let log = out.path().join("jvpn-dataplane.log");
    run.await_some("the data plane's log", || fs::remove_file(&log).ok());
    let (result, said) = run.end_invalid();
    let found = problems(&result);
    let [problem] = found.as_slice() else { panic!("{said}") };
    assert!(problem.starts_with("life 1 of the gateway") && problem.contains("jvpn-dataplane.log"), "{said}");
    assert!(result["lives"][0]["audit_events"].as_u64().unwrap() > 0, "{result:#}");
    let mut again = Command::new(env!("CARGO_BIN_EXE_jvpn-bench"));
    let again = again.args(ARGS).arg(out.path()).arg("--resume").output().unwrap();
    assert_eq!(again.status.code(), Some(1), "{}", String::from_utf8_lossy(&again.stdout));
    let text = fs::read_to_string(out.path().join("result.json")).unwrap();
    let result: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&result["valid"], problems(&result)), (&false.into(), found), "{result:#}");
}
