//! Queues that the kernel refuses, and queues that were named: which worker has which.

use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};

use jvpn_bench::pinned;

/// Memory of one queue's frames (dataplane/src/port).
const UMEM: u64 = 2 * FRAMES * 2_048;

/// The programs, but for a data plane that may lock no more than so many octets, as one in a container without
/// CAP_IPC_LOCK.
fn with_little_memory(real: &std::path::Path, octets: u64) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for role in [Role::Client, Role::ControlPlane] {
        symlink(real.join(role.program()), dir.path().join(role.program())).unwrap();
    }
    limit(real, dir.path(), octets);
    dir
}

/// Whether this process may give another so much memory to lock; said if not.
fn may_give(octets: u64) -> bool {
    let limit = format!("--memlock={octets}:{octets}");
    let tried = Command::new("prlimit").args([limit.as_str(), "true"]).output();
    let may = tried.is_ok_and(|output| output.status.success());
    if !may {
        jvpn_testing::left_out("needs CAP_SYS_RESOURCE, or a higher limit of locked memory");
    }
    may
}

/// From its next start on the data plane of `dir` may lock so many octets.
fn limit(real: &std::path::Path, dir: &std::path::Path, octets: u64) {
    let program = Role::DataPlane.program();
    let script = format!(
        "#!/bin/sh\nexec prlimit --memlock={octets}:{octets} setpriv --bounding-set=-ipc_lock,-sys_resource \
         '{}' \"$@\"\n",
        real.join(program).display()
    );
    let path = dir.join(program);
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A LAN whose frames come by queue 0 alone.
fn by_the_first_queue(rig: &Rig) {
    ETHTOOL.run(Some(rig.lan()), &["-L", "eth0", "tx", "1"]).unwrap();
}

/// And whose other queue is not in use.
fn one_lan_queue_in_use(rig: &Rig) {
    by_the_first_queue(rig);
    ETHTOOL.run(Some(rig.gateway()), &["-L", "lan0", "rx", "1", "tx", "1"]).unwrap();
}

/// Why the side fell, and what the system said to the refusal of queues, which must have come once.
fn refusal<'a>(status: &'a Value, side: &str) -> (Vec<&'a str>, &'a str) {
    let falls = status["ports"][side]["falls"].as_array().unwrap();
    let whys = falls.iter().map(|fall| fall["why"].as_str().unwrap()).collect();
    let mut said = falls.iter().filter(|fall| fall["why"] == "fewer_queues");
    let Some(fall) = said.next() else { return (whys, "") };
    assert!(said.next().is_none(), "once is enough: {status:#}");
    (whys, fall["said"].as_str().unwrap())
}

/// The one worker that is left, as status and kernel have it.
fn one_worker_is_left(lab: &Lab, status: &Value) {
    let workers = status["workers"].as_array().unwrap();
    let seats: Vec<_> = workers.iter().map(|worker| (&worker["queue"], &worker["cpu"])).collect();
    assert_eq!(seats, [(&Value::from(0), &Value::from(1))], "{status:#}");
    let pid = lab.deployment.pid(Role::DataPlane).unwrap();
    assert_eq!(pinned::cpus_of_workers(pid).unwrap(), ["1"]);
}

fn other_cores(role: Role, text: String) -> String {
    match role {
        Role::DataPlane => text.replace("cores = [0, 1]", "cores = [1, 0]"),
        Role::ControlPlane | Role::Client => text,
    }
}

/// R9.1, R0.2: the LAN has fewer queues in use than it was made with, so the kernel refuses the second worker's. The data
/// plane goes on with half of its workers; the one that is left serves every queue of the side that was refused nothing;
/// status and log say what, why, and what to set. Everything works, and no frame is lost.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_refused_queues_leave_half_of_the_workers() {
    let mut lab = Lab::start(one_lan_queue_in_use, other_cores);
    lab.attached();
    let status = lab.data_plane();
    one_worker_is_left(&lab, &status);
    assert_eq!(refusal(&status, "wan"), (vec!["no_zero_copy"], ""), "nothing was refused there: {status:#}");
    let (whys, said) = refusal(&status, "lan");
    assert_eq!(whys, ["fewer_queues", "no_zero_copy"], "{status:#}");
    for part in ["1 queues instead", "lan0 queue 1", "EINVAL: the interface has no such queue"] {
        assert!(said.contains(part), "'{part}' is missing: {said}");
    }
    for side in ["wan", "lan"] {
        assert_eq!(status["ports"][side]["step"], "copy", "AF_XDP all the same: {status:#}");
    }
    let log = lab.log_of_data_plane();
    for part in ["why=FewerQueues", said, "'ethtool -L lan0 rx 1 tx 1' has the device use no queue"] {
        assert!(log.contains(part), "'{part}' is missing: {log}");
    }
    for _ in 0..4 {
        // Each connection hashes to one of the WAN's queues.
        tcp(lab.rig.client(), lab.rig.lan(), LAN_SERVER).unwrap_or_else(|e| panic!("{e}\n{}", lab.words()));
    }
    let status = lab.data_plane();
    assert!(status["xdp_counters"]["no_socket"].is_null(), "a queue without a worker: {status:#}");
    lab.frames_are_conserved_of("wan", 2);
    lab.frames_are_conserved_of("lan", 1);
    lab.deployment.end_all().unwrap();
}

/// R0.2: nobody says how many workers: as many as the side with fewer queues *in use* has, whatever it was made with, so that
/// nothing is refused, and every queue of the other side is served too.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r0_2_queues_that_are_not_in_use_count_for_nothing() {
    let mut lab = Lab::start(one_lan_queue_in_use, |role, text| match role {
        Role::DataPlane => text.replace("workers = 2\ncores = [0, 1]\n", ""),
        Role::ControlPlane | Role::Client => text,
    });
    lab.attached();
    let status = lab.data_plane();
    assert_eq!(status["workers"].as_array().map(Vec::len), Some(1), "{status:#}");
    for side in ["wan", "lan"] {
        assert_eq!(refusal(&status, side), (vec!["no_zero_copy"], ""), "{status:#}");
    }
    for _ in 0..4 {
        tcp(lab.rig.client(), lab.rig.lan(), LAN_SERVER).unwrap_or_else(|e| panic!("{e}\n{}", lab.words()));
    }
    let status = lab.data_plane();
    assert!(status["xdp_counters"]["no_socket"].is_null(), "a queue without a worker: {status:#}");
    assert_eq!(status["ports"]["lan"]["queues"], 1, "those in use: {status:#}");
    let log = lab.log_of_data_plane();
    assert!(!log.contains("no socket for this queue"), "nobody asks for a queue that is not in use: {log}");
    lab.deployment.end_all().unwrap();
}

/// A gateway whose data plane may lock so much memory for frames.
fn gateway_with_memory(octets: u64, edit: fn(Role, String) -> String) -> (Lab, TempDir) {
    let mut lab = Lab::prepare(by_the_first_queue, edit);
    let bin_dir = with_little_memory(&lab.settings.bin_dir, octets);
    lab.settings.bin_dir = bin_dir.path().to_owned();
    lab.deployment = Deployment::new(&lab.settings, &lab.places);
    for role in [Role::DataPlane, Role::ControlPlane] {
        lab.deployment.launch(&lab.rig, role, &lab.interrupt).unwrap();
    }
    (lab, bin_dir)
}

/// R9.1: the kernel lets the process lock the frames of two queues. The WAN could have both, but then the LAN would have
/// none: both sides keep AF_XDP with one worker.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_memory_for_two_queues_is_one_for_each_side() {
    if !may_give(2 * UMEM) {
        return;
    }
    let (mut lab, _bin_dir) = gateway_with_memory(2 * UMEM, other_cores);
    let status = lab.data_plane();
    one_worker_is_left(&lab, &status);
    assert_eq!(refusal(&status, "wan"), (vec!["no_zero_copy"], ""), "{status:#}");
    let (whys, said) = refusal(&status, "lan");
    assert_eq!(whys, ["fewer_queues", "no_zero_copy"], "{status:#}");
    for part in ["1 queues instead", "lan0 queue 0", "RLIMIT_MEMLOCK"] {
        assert!(said.contains(part), "'{part}' is missing: {said}");
    }
    let steps = ["wan", "lan"].map(|side| &status["ports"][side]["step"]);
    assert_eq!(steps, [&Value::from("copy"), &Value::from("copy")], "{status:#}");
    lab.deployment.end_all().unwrap();
}

fn into_the_host(role: Role, text: String) -> String {
    match role {
        Role::DataPlane => other_cores(role, text).replace(
            "interface = \"lan0\"\n",
            "interface = \"jvpn-lan\"\n\n[lan.host]\ninterface = \"jvpn-host\"\naddresses = [\"10.78.0.1/32\"]\n",
        ),
        Role::ControlPlane | Role::Client => text,
    }
}

/// R9.1: the same with a LAN that is the host: its pair uses as many queues as have a worker, and all of them again when a
/// later start has the memory.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_the_pair_has_a_queue_for_each_worker_that_is_left() {
    if !may_give(4 * UMEM) {
        return;
    }
    let (mut lab, bin_dir) = gateway_with_memory(2 * UMEM, into_the_host);
    let status = lab.data_plane();
    one_worker_is_left(&lab, &status);
    assert_eq!(status["ports"]["lan"]["queues"], 1, "the host sends to no other: {status:#}");
    limit(&deployment::find_programs().unwrap(), bin_dir.path(), 4 * UMEM);
    lab.deployment.end_for_restart().unwrap();
    lab.deployment.launch(&lab.rig, Role::DataPlane, &lab.interrupt).unwrap();
    let status = lab.data_plane();
    assert_eq!(status["workers"].as_array().map(Vec::len), Some(2), "{status:#}");
    assert_eq!(status["ports"]["lan"]["queues"], 2, "{status:#}");
    assert_eq!(refusal(&status, "lan"), (vec!["no_zero_copy"], ""), "{status:#}");
    lab.deployment.end_all().unwrap();
}

/// R9.1: the kernel lets the process lock the frames of one queue. The WAN keeps AF_XDP with one worker, though the kernel
/// gives the memory of its first try back later than it says; the LAN has to do without, and both say why.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_memory_for_one_queue_is_used_for_one() {
    let (mut lab, _bin_dir) = gateway_with_memory(UMEM, other_cores);
    let status = lab.data_plane();
    one_worker_is_left(&lab, &status);
    let (whys, said) = refusal(&status, "wan");
    assert_eq!(whys, ["fewer_queues", "no_zero_copy"], "{status:#}");
    for part in ["1 queues instead", "wan0 queue 1", "RLIMIT_MEMLOCK"] {
        assert!(said.contains(part), "'{part}' is missing: {said}");
    }
    assert_eq!(refusal(&status, "lan"), (vec!["no_socket"], ""), "{status:#}");
    let steps = ["wan", "lan"].map(|side| &status["ports"][side]["step"]);
    assert_eq!(steps, [&Value::from("copy"), &Value::from("no-af-xdp")], "{status:#}");
    lab.deployment.end_all().unwrap();
}

/// R0.2: workers run on the CPUs and serve the queues that the file gives them: what comes by the first queue of the LAN is
/// handled by the second worker, whose queue it is.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r0_2_workers_have_the_queues_that_were_named() {
    let build = |rig: &Rig| {
        ETHTOOL.run(Some(rig.lan()), &["-L", "eth0", "tx", "1"]).unwrap();
    };
    let mut lab = Lab::start(build, |role, text| match role {
        Role::DataPlane => text.replace("cores = [0, 1]", "cores = [1, 0]") + "\n[tuning]\nqueues = [1, 0]\n",
        Role::ControlPlane | Role::Client => text,
    });
    lab.attached();
    let pid = lab.deployment.pid(Role::DataPlane).unwrap();
    assert_eq!(pinned::cpus_of_workers(pid).unwrap(), ["1", "0"]);
    tcp(lab.rig.client(), lab.rig.lan(), LAN_SERVER).unwrap_or_else(|e| panic!("{e}\n{}", lab.words()));
    let status = lab.data_plane();
    let of = |worker: usize, name: &str| status["workers"][worker][name].as_u64().unwrap();
    assert_eq!([0, 1].map(|worker| (of(worker, "cpu"), of(worker, "queue"))), [(1, 1), (0, 0)]);
    assert_eq!(of(0, "packets_out"), 0, "it has the queue by which nothing came: {status:#}");
    assert!(of(1, "packets_out") > 0, "{status:#}");
    assert!(status["xdp_counters"]["no_socket"].is_null(), "{status:#}");
    lab.deployment.end_all().unwrap();
}

/// R0.2: a WAN with more queues in use than anybody serves is refused, whatever its driver puts into which, and nothing stays
/// attached; with the command that is said, two workers serve 64.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r0_2_queues_that_nobody_could_serve_end_the_start() {
    let build = |rig: &Rig| {
        IP.run(Some(rig.gateway()), &["link", "delete", "wan0"]).unwrap();
        pair(80, (rig.gateway(), "wan0"), (rig.router(), "rW"));
        ip(rig.router(), "address add 198.51.100.254/24 dev rW\n");
        let way = "address add 198.51.100.1/24 dev wan0\nroute add default via 198.51.100.254 dev wan0\n";
        ip(rig.gateway(), way);
    };
    let mut lab = Lab::prepare(build, |_, text| text);
    let output = run_data_plane(&lab);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["more receive queues in use than 2 workers", "wan0 (80)", "'ethtool -L wan0 rx 64 tx 64'"] {
        assert!(said.contains(part), "'{part}' is missing: {said}");
    }
    // The kernel lets go of a link some time after its last pin is gone.
    let detached = wait::until("nothing is attached", PATIENCE, &lab.interrupt, || {
        Ok((!IP.run(Some(lab.rig.gateway()), &["link"])?.contains("xdp")).then_some(()))
    });
    detached.unwrap();
    for (namespace, name) in [(lab.rig.router(), "rW"), (lab.rig.gateway(), "wan0")] {
        ETHTOOL.run(Some(namespace), &["-L", name, "rx", "64", "tx", "64"]).unwrap();
    }
    for role in [Role::DataPlane, Role::ControlPlane, Role::Client] {
        lab.deployment.launch(&lab.rig, role, &lab.interrupt).unwrap();
    }
    lab.attached();
    tcp(lab.rig.client(), lab.rig.lan(), LAN_SERVER).unwrap_or_else(|e| panic!("{e}\n{}", lab.words()));
    let status = lab.data_plane();
    assert!(status["xdp_counters"]["no_socket"].is_null(), "a queue without a worker: {status:#}");
    lab.frames_are_conserved_of("wan", 32);
    lab.deployment.end_all().unwrap();
}
