//! Ports without AF_XDP that are lost: nothing stays silently dead.

use super::*;

/// Waits until the data plane has ended by itself; what it had said.
fn words_of_the_end(lab: &mut Lab, log: &str) -> String {
    let ended = wait::until("the data plane ends", PATIENCE, &lab.interrupt, || {
        Ok(lab.deployment.check().is_err().then_some(()))
    });
    ended.unwrap_or_else(|error| panic!("{error:#}\n{}", lab.words()));
    let status = lab.deployment.ended(Role::DataPlane).unwrap();
    assert_eq!(status.code(), Some(1), "{status}");
    fs::read_to_string(lab.settings.out_dir.join(log)).unwrap()
}

/// The data plane is started anew, and the session goes on.
fn goes_on(lab: &mut Lab, session: &str) {
    lab.deployment.launch(&lab.rig, Role::DataPlane, &lab.interrupt).unwrap();
    let came = wait::until("packets pass", PATIENCE, &lab.interrupt, || {
        Ok(tcp(lab.rig.client(), lab.rig.lan(), LAN_SERVER).ok())
    });
    came.unwrap_or_else(|error| panic!("{error:#}\n{}", lab.words()));
    assert_eq!(lab.attached(), session);
}

/// R9.1: without AF_XDP, too, the data plane ends when a side is lost, says which, and goes on at the next start: a TUN device
/// that was deleted is made anew, and a WAN interface that was deleted and made again is not left with sockets on the old one.
#[test]
#[ignore = "needs root: network namespaces"]
fn r9_1_a_side_that_is_lost_without_af_xdp_ends_the_data_plane() {
    let mut lab = Lab::start(
        |_| (),
        |role, text| match role {
            Role::DataPlane => format!("mode = \"no-af-xdp\"\n{text}"),
            Role::ControlPlane | Role::Client => text,
        },
    );
    let session = lab.attached();
    tcp(lab.rig.client(), lab.rig.lan(), LAN_SERVER).unwrap_or_else(|e| panic!("{e}\n{}", lab.words()));
    lab.delete("jvpn-tun");
    let said = words_of_the_end(&mut lab, "jvpn-dataplane.log");
    assert!(said.contains("no_interface_left") && said.contains("'jvpn-tun' is gone"), "{said}");
    goes_on(&mut lab, &session);

    // Its other end goes with it.
    lab.delete("wan0");
    pair(2, (lab.rig.gateway(), "wan0"), (lab.rig.router(), "rW"));
    ip(lab.rig.router(), "address add 198.51.100.254/24 dev rW\n");
    ip(
        lab.rig.gateway(),
        "address add 198.51.100.1/24 dev wan0\nroute add default via 198.51.100.254 dev wan0\n",
    );
    let said = words_of_the_end(&mut lab, "jvpn-dataplane-2.log");
    assert!(said.contains("no_interface_left") && said.contains("'wan0' is gone"), "{said}");
    goes_on(&mut lab, &session);
    lab.deployment.end_all().unwrap();
}
