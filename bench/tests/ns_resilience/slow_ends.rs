//! A data plane whose end, or whose successor's start, takes long: nobody stands still meanwhile, and nothing is forgotten.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use jvpn_bench::deployment::Role;
use jvpn_dataplane::port::Port;
use jvpn_rig::tool::IP;
use jvpn_tables::handover::{Connection, Hello};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, getrlimit, pidfd_getfd, pidfd_open, prlimit,
};

use crate::crash_data_plane::PATIENT;
use crate::lab::Lab;

/// Longer than a control plane has ever waited for a greeting to be answered.
const HELD: Duration = Duration::from_secs(5);
/// How often the control plane is asked meanwhile.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How soon it must answer, on a busy machine too.
const PROMPT: Duration = Duration::from_secs(1);

/// How long the control plane takes to answer, at worst, for as long as `HELD`.
fn slowest_answer(socket: &Path) -> Duration {
    let (_never, over) = mpsc::channel::<()>();
    let (begun, mut slowest) = (Instant::now(), Duration::ZERO);
    while begun.elapsed() < HELD {
        let asked = Instant::now();
        let answer = jvpn_host::status::query(socket, "status");
        slowest = slowest.max(if answer.is_ok() { asked.elapsed() } else { Duration::MAX });
        let _pause = over.recv_timeout(ASK_EVERY);
    }
    slowest
}

/// R1.2, R7.3: the queues of a killed data plane are free only after five seconds. Its successor waits for them and says so,
/// the control plane goes on meanwhile, and then every session has its binding as before: nobody reattaches.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r7_3_a_queue_that_is_free_late_costs_no_binding() {
    let mut lab = Lab::prepare();
    lab.edit(Role::ControlPlane, "preset = \"edge\"", PATIENT);
    lab.launch_all();
    let heartbeat = lab.heartbeat();
    let (before, requests) = (lab.snapshot(), lab.client_status()["counters"]["requests_sent"].clone());
    lab.kill(Role::DataPlane);
    let held = lab.rig.gateway().run(|| Port::open("wan0", 0).unwrap()).unwrap();
    let socket = lab.places.control_plane_socket();
    let slowest = std::thread::scope(|scope| {
        let asker = scope.spawn(move || {
            let slowest = slowest_answer(&socket);
            drop(held);
            slowest
        });
        lab.launch(Role::DataPlane);
        asker.join().unwrap()
    });
    lab.await_replies(&heartbeat, 50);
    assert!(slowest < PROMPT, "the control plane stood still for {slowest:?}");
    assert_eq!(lab.snapshot(), before, "nothing happened to the session");
    assert_eq!(lab.client_status()["counters"]["requests_sent"], requests, "nobody reattached");
    assert_eq!(lab.control_plane_status()["data_plane_restarts"]["last"]["bindings_kept"], 1);
    let logs = lab.logs();
    assert!(logs.contains("this queue is still in use") && logs.contains("ss --xdp"), "{logs}");
    drop(heartbeat);
    lab.finish();
}

/// R7.3, R1.2: a data plane that waits for a queue says so to whoever asks, and ends at once when it is told to, as one
/// that forwards: SIGUSR2 leaves XDP attached for the next one, SIGTERM leaves nothing, whoever attached it.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r7_3_a_start_that_waits_for_a_queue_heeds_a_signal() {
    let lab = Lab::prepare();
    let _held = lab.rig.gateway().run(|| Port::open("wan0", 0).unwrap()).unwrap();
    for (signal, stays) in [(Signal::SIGTERM, false), (Signal::SIGUSR2, true), (Signal::SIGTERM, false)] {
        stop_while_it_waits(&lab, signal);
        await_attachment(&lab, stays);
    }
}

/// Waits until a program is on the gateway's WAN interface, or none. The kernel may take one away some time after its last
/// holder is gone.
fn await_attachment(lab: &Lab, wanted: bool) {
    jvpn_rig::wait::until("XDP is as it should be", crate::lab::PATIENCE, &lab.interrupt, || {
        let shown = IP.run(Some(lab.rig.gateway()), &["link", "show", "dev", "wan0"])?;
        Ok((shown.contains("prog/xdp id ") == wanted).then_some(()))
    })
    .unwrap();
}

/// Starts a data plane whose queue is held, asks it, and ends it with `signal`.
fn stop_while_it_waits(lab: &Lab, signal: Signal) {
    let mut command = lab.program(Role::DataPlane);
    let out = tempfile::tempdir().unwrap();
    let log = out.path().join("log");
    let file = fs::File::create(&log).unwrap();
    let mut child = lab.start(command.stdout(file.try_clone().unwrap()).stderr(file));
    let said = || fs::read_to_string(&log).unwrap();
    let waits =
        jvpn_rig::wait::until("it says what it waits for", crate::lab::PATIENCE, &lab.interrupt, || {
            Ok(said().contains("this queue is still in use").then_some(()))
        });
    let status = jvpn_host::status::query(&lab.places.data_plane_socket(), "status");
    let told = Instant::now();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, signal).unwrap();
    let ended = child.wait().unwrap();
    waits.unwrap_or_else(|error| panic!("{error:#}\n{}", said()));
    assert_eq!(status.unwrap()["starting"], "waits for queue 0 of wan0");
    assert!(ended.success() && told.elapsed() < 5 * PROMPT, "{ended} after {:?}\n{}", told.elapsed(), said());
}

/// CPU ticks that a process has used (fields 14 and 15 of /proc/PID/stat, 100 per second).
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// A process whose descriptors the test limits.
struct Limited {
    process: Pid,
    /// The lowest number that is free.
    first_free: u64,
    before: Rlimit,
}

impl Limited {
    /// Without a free descriptor.
    fn to_what_is_open(pid: u32) -> Self {
        let process = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        let is_open = |number: &u64| fs::symlink_metadata(format!("/proc/{pid}/fd/{number}")).is_ok();
        let first_free = (0..).find(|number| !is_open(number)).unwrap();
        assert!(first_free > 8, "what it waits for must still fit: {first_free}");
        let none = Rlimit { current: Some(first_free), ..getrlimit(Resource::Nofile) };
        let before = prlimit(Some(process), Resource::Nofile, none).unwrap();
        Self { process, first_free, before }
    }

    /// With numbers up to this one.
    fn raise(&self, current: u64) {
        // It may have ended meanwhile.
        let _gone =
            prlimit(Some(self.process), Resource::Nofile, Rlimit { current: Some(current), ..self.before });
    }

    fn let_go(&self) {
        prlimit(Some(self.process), Resource::Nofile, self.before).unwrap();
    }
}

/// R7.3: a data plane without a free descriptor cannot take a control plane in. It goes on and does not turn for nothing, and
/// when it has descriptors again, whoever waits is let in.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r7_3_out_of_descriptors_a_data_plane_lets_callers_wait() {
    let mut lab = Lab::prepare();
    lab.launch(Role::DataPlane);
    let pid = lab.deployment.pid(Role::DataPlane).unwrap();
    let limited = Limited::to_what_is_open(pid);
    let caller = Connection::connect(&lab.places.handover_socket()).unwrap();
    caller.send_hello(&Hello::new(false, false, 0), &[]).unwrap();
    let (used, (_never, over)) = (ticks(pid), mpsc::channel::<()>());
    // Time in which nothing happens is what is measured.
    let _pause = over.recv_timeout(Duration::from_secs(2));
    let used = ticks(pid) - used;
    lab.deployment.check().unwrap();
    assert!(caller.try_receive_welcome().unwrap().is_none(), "it has no descriptor for that");
    assert!(used < 20, "it turned for nothing: {used} of 200 ticks");
    limited.let_go();
    caller.set_patience(10).unwrap();
    caller.receive_welcome().unwrap();
    drop(caller);
    assert!(lab.logs().contains("a control plane has to wait"));
    lab.finish();
}

/// R1.8, R7.3: what a start lacks before its workers are started is a refusal, and the next greeting tries again; workers of
/// which some were started and others could not be end the data plane, with nothing left attached.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r1_8_a_data_plane_with_half_its_workers_ends() {
    let mut lab = Lab::prepare();
    lab.launch(Role::DataPlane);
    let limited = Limited::to_what_is_open(lab.deployment.pid(Role::DataPlane).unwrap());
    let socket = lab.places.handover_socket();
    // Every start fails a little later than the one before, until one fails among its workers.
    let ended = (limited.first_free + 1..limited.first_free + 100).find(|most| {
        limited.raise(*most);
        let Ok(caller) = Connection::connect(&socket) else { return true };
        caller.set_patience(10).unwrap();
        let greeted = caller.send_hello(&Hello::new(false, false, 0), &[]);
        assert!(greeted.is_err() || caller.receive_welcome().is_err(), "it has all that it needs");
        false
    });
    assert!(ended.is_some(), "it never ended");
    let status = lab.deployment.ended(Role::DataPlane).unwrap();
    assert!(!status.success(), "{status}");
    await_attachment(&lab, false);
    let logs = lab.logs();
    assert!(
        logs.contains("control plane refused") && logs.contains("the workers could not be started"),
        "{logs}"
    );
    lab.finish();
}

/// R7.3: a data plane that stands still answers no greeting. The control plane that greeted it answers for itself all the
/// while, and ends when it is told to.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r7_3_a_data_plane_that_stands_still_holds_up_nobody() {
    let mut lab = Lab::prepare();
    lab.launch(Role::DataPlane);
    let data_plane =
        nix::unistd::Pid::from_raw(i32::try_from(lab.deployment.pid(Role::DataPlane).unwrap()).unwrap());
    let mut command = lab.program(Role::ControlPlane);
    kill(data_plane, Signal::SIGSTOP).unwrap();
    let mut child = lab.start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    let socket = lab.places.control_plane_socket();
    let answers = jvpn_rig::wait::until("it answers", crate::lab::PATIENCE, &lab.interrupt, || {
        Ok(jvpn_host::status::query(&socket, "status").ok())
    });
    let slowest = slowest_answer(&socket);
    let told = Instant::now();
    kill(nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let status = child.wait().unwrap();
    let ended = told.elapsed();
    kill(data_plane, Signal::SIGCONT).unwrap();
    assert_eq!(answers.unwrap()["data_plane"], "never_seen");
    assert!(slowest < PROMPT, "the control plane stood still for {slowest:?}");
    assert!(status.success() && ended < 5 * PROMPT, "{status} after {ended:?}");
    // The greeting that nobody waits for any more changes nothing for the next one.
    lab.launch(Role::ControlPlane);
    lab.finish();
}

/// The data plane's end of the handover connection.
fn connection_of(pid: u32) -> OwnedFd {
    let process = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let process = pidfd_open(process, PidfdFlags::empty()).unwrap();
    let numbers = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let copies = numbers.filter_map(|number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok());
    let mut connections = copies.filter(|fd| {
        getsockopt(fd, sockopt::SockType).is_ok_and(|kind| kind == SockType::SeqPacket)
            && getsockopt(fd, sockopt::AcceptConn).is_ok_and(|listens| !listens)
    });
    connections.next().expect("a handover connection")
}

/// R7.3: a data plane that has closed its connection and does not end yet is gone to the sessions, and holds up nothing
/// else: status answers at once. When it has ended, its successor goes on with the same binding.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r7_3_a_data_plane_that_ends_slowly_holds_up_nobody() {
    let mut lab = Lab::prepare();
    lab.edit(Role::ControlPlane, "preset = \"edge\"", PATIENT);
    lab.launch_all();
    let heartbeat = lab.heartbeat();
    let before = lab.snapshot();
    let connection = connection_of(lab.deployment.pid(Role::DataPlane).unwrap());
    rustix::net::shutdown(&connection, rustix::net::Shutdown::Both).unwrap();
    drop(connection);
    let socket = lab.places.control_plane_socket();
    lab.await_status("the data plane is gone to the control plane", &socket, |status| {
        (status["data_plane"] == "lost" && status["data_plane_connected"] == false).then_some(())
    });
    let slowest = slowest_answer(&socket);
    assert!(slowest < PROMPT, "the control plane stood still for {slowest:?}");
    assert_eq!(lab.control_plane_status()["data_plane"], "lost", "it is not greeted again");
    lab.kill(Role::DataPlane);
    lab.launch(Role::DataPlane);
    lab.await_replies(&heartbeat, 50);
    assert_eq!(lab.snapshot(), before, "nothing happened to the session");
    drop(heartbeat);
    lab.finish();
}
