//! What the control plane may do, and who gets what the data plane hands over.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use jvpn_bench::deployment::Role;
use jvpn_tables::handover::{Connection, Hello};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::lab::Lab;

/// A user that is neither root nor the control plane's.
const STRANGER: u32 = 65_432;

/// Tells [`handover_client`] whom to be and where to go.
const HELPER_UID: &str = "JVPN_TEST_HANDOVER_UID";
const HELPER_SOCKET: &str = "JVPN_TEST_HANDOVER_SOCKET";

/// R0.3: the control plane runs as an unprivileged user without any capability, for good, and keeps keys in
/// memory that not even the kernel maps; nobody but its user gets descriptors from the data plane.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r0_3_the_control_plane_is_powerless_and_strangers_get_no_descriptors() {
    let mut lab = Lab::prepare();
    lab.launch(Role::DataPlane);
    let (nobody, _) = jvpn_host::privileges::lookup("64747").unwrap();
    let socket = lab.places.handover_socket();
    assert!(!gets_descriptors(STRANGER, &socket), "a stranger was welcome");
    lab.launch(Role::ControlPlane);
    let cursor = lab.log.end();
    lab.launch(Role::Client);
    lab.await_attached(cursor);
    assert!(!gets_descriptors(STRANGER, &socket), "a stranger was welcome beside the control plane");
    assert!(!gets_descriptors(nobody.as_raw(), &socket), "a second control plane was welcome");

    // Not where root may not lift its own limit, as in many containers; then it is told.
    let memory_locked = lab.control_plane_status()["memory_locked"].as_bool().unwrap();
    assert_ne!(memory_locked, lab.logs().contains("may reach a swap device"));
    let pid = lab.deployment.pid(Role::ControlPlane).unwrap();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let statuses: Vec<_> =
        tasks.map(|task| fs::read_to_string(task.path().join("status")).unwrap()).collect();
    assert!(statuses.len() > 1, "the audit writer has a thread of its own");
    for status in statuses {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
        };
        let uid = nobody.to_string();
        assert_eq!(field("Uid").split_whitespace().collect::<Vec<_>>(), [uid.as_str(); 4]);
        assert_eq!(field("Groups"), "");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), 0, "{set} of {status}");
        }
        assert_eq!(field("NoNewPrivs"), "1");
        // R5.3: nothing of it reaches a swap device. What is locked without that is the key mailbox.
        let locked: u64 = field("VmLck").trim_end_matches(" kB").parse().unwrap();
        assert_eq!(locked > 1_024, memory_locked, "{locked} kB are locked");
    }
    // A kernel without memfd_secret gets locked memory instead, and the data plane says so.
    let fallback = lab.logs().contains("no memfd_secret");
    let mapping = if fallback { "jvpn-keys" } else { "secretmem" };
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    assert!(maps.lines().any(|line| line.contains(mapping)), "no mapping {mapping} in\n{maps}");

    lab.end(Role::Client);
    lab.end(Role::ControlPlane);
    assert!(!gets_descriptors(STRANGER, &socket), "a stranger was welcome in the control plane's place");
    assert!(gets_descriptors(nobody.as_raw(), &socket), "without this the refusals prove nothing");
    lab.finish();
}

/// Whether a process of this user gets a WELCOME with its descriptors.
fn gets_descriptors(uid: u32, socket: &Path) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "privileges::handover_client", "--nocapture"]);
    let output = command
        .env(HELPER_UID, uid.to_string())
        .env(HELPER_SOCKET, socket)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
    match (said.contains("welcome with descriptors"), said.contains("no welcome")) {
        (true, false) => true,
        (false, true) => false,
        _ => panic!("the helper said neither: {said}"),
    }
}

#[test]
#[ignore = "helper of r0_3_the_control_plane_is_powerless_and_strangers_get_no_descriptors"]
fn handover_client() {
    let (Ok(uid), Ok(socket)) = (std::env::var(HELPER_UID), std::env::var(HELPER_SOCKET)) else { return };
    let (uid, gid) = (Uid::from_raw(uid.parse().unwrap()), Gid::from_raw(uid.parse().unwrap()));
    setgroups(&[]).unwrap();
    setresgid(gid, gid, gid).unwrap();
    setresuid(uid, uid, uid).unwrap();
    let welcome = Connection::connect(Path::new(&socket)).and_then(|connection| {
        connection.send_hello(&Hello::new(false, false, 0), &[])?;
        connection.receive_welcome()
    });
    match welcome {
        Ok((_, fds)) => eprintln!("welcome with descriptors: {}", fds.len()),
        Err(error) => eprintln!("no welcome: {error}"),
    }
}
