//! A data plane that a test forgets to end is ended and judged all the same.

use super::*;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The gateway runs; gives the process ID of its data plane.
fn launched(lab: &mut Lab) -> i32 {
    for role in [Role::DataPlane, Role::ControlPlane] {
        lab.deployment.launch(&lab.rig, role, &lab.interrupt).unwrap();
    }
    i32::try_from(lab.deployment.pid(Role::DataPlane).unwrap()).unwrap()
}

/// Lets go of the deployment. Gives what it panicked with.
fn let_go(lab: &mut Lab) -> Option<String> {
    let left = std::mem::replace(&mut lab.deployment, Deployment::new(&lab.settings, &lab.places));
    let fallen = catch_unwind(AssertUnwindSafe(|| drop(left))).err()?;
    Some(fallen.downcast_ref::<String>().cloned().unwrap_or_default())
}

/// R0.2: a deployment that nobody ended ends its data plane in order and reads its account: silently if it is good; with a
/// panic if a frame is missing, or if the data plane ended otherwise.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r0_2_a_data_plane_that_is_let_go_is_judged() {
    let mut lab = Lab::prepare(|_| (), |_, text| text);
    let pid = launched(&mut lab);
    assert_eq!(let_go(&mut lab), None);
    assert!(lab.log_of_data_plane().contains("frames at the end worker=1 workers=2 side=lan"));
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "it has ended");

    launched(&mut lab);
    // A third worker, behind everything that the data plane has still to write.
    let log =
        fs::OpenOptions::new().write(true).open(lab.settings.out_dir.join("jvpn-dataplane.log")).unwrap();
    let account = "\nINFO frames at the end worker=2 workers=2 side=wan total=4096 rx=0 fill=2048 tx=0 \
                   completion=0 free=2047 elsewhere=1 unseen=0 in_haste=false\n";
    log.write_all_at(account.as_bytes(), 1 << 20).unwrap();
    let said = let_go(&mut lab).expect("a frame is missing");
    assert!(said.contains("1 frames are missing"), "{said}");

    let pid = launched(&mut lab);
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let said = let_go(&mut lab).expect("a data plane that was killed by somebody else has no account");
    assert!(said.contains("signal: 9"), "{said}");
}
