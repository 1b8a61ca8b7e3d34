//! Restarts of the data plane whose configuration has other WAN interfaces than before.

use super::*;

const WAN: &str = "interface = \"wan0\"";

fn named(interfaces: &[&str]) -> String {
    format!("interfaces = {interfaces:?}")
}

/// Ends the data plane for a restart, and starts it with these interfaces in place of the others.
fn restart(lab: &mut Lab, before: &[&str], now: &[&str]) {
    lab.deployment.end_for_restart().unwrap();
    let path = lab.places.config_dir.join(Role::DataPlane.config_file());
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(&named(before)), "{text}");
    fs::write(&path, text.replace(&named(before), &named(now))).unwrap();
    lab.deployment.launch(&lab.rig, Role::DataPlane, &lab.interrupt).unwrap();
}

/// R1.2: interfaces are added, taken out and named in another order between two runs that keep their links: every one
/// is attached, the session goes on, and the control plane's socket, which is older, takes what comes by those of today.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r1_2_a_restart_with_other_interfaces() {
    other_interfaces("auto", "copy", "native");
}

/// R1.2: the same without AF_XDP, where the control plane's socket cannot follow the workers' and gets a successor.
#[test]
#[ignore = "needs root: network namespaces"]
fn r1_2_a_restart_with_other_interfaces_without_af_xdp() {
    other_interfaces("no-af-xdp", "no-af-xdp", "none");
}

fn other_interfaces(mode: &str, step: &str, xdp_mode: &str) {
    let mut lab = Lab::start(
        |rig| second_interfaces(rig, 2),
        |role, text| match role {
            Role::DataPlane => format!("mode = \"{mode}\"\n{}", text.replace(WAN, &named(&["wan0"]))),
            Role::ControlPlane => text,
            // Uplink B first: it is not behind the NAT, which has a mapping of its own for each way.
            Role::Client => {
                text.replace("198.51.100.1:", &format!("{GATEWAY}:")).replace("priority = 1", "priority = 3")
            }
        },
    );
    let session = lab.attached();
    let orders: [&[&str]; 5] =
        [&["wan0"], &["wan0", "wan1"], &["wan1", "wan0"], &["wan0"], &["wan0", "wan1"]];
    for turn in orders.windows(2) {
        let [before, now] = turn else { unreachable!("windows of two") };
        restart(&mut lab, before, now);
        let came = wait::until("packets pass", PATIENCE, &lab.interrupt, || {
            Ok(tcp(lab.rig.client(), lab.rig.lan(), LAN_SERVER).ok())
        });
        came.unwrap_or_else(|error| panic!("{now:?}: {error:#}\n{}", lab.words()));
        assert_eq!(lab.attached(), session, "{now:?}");
        for number in 0..now.len() {
            let port = lab.port("wan", number);
            assert_eq!((&port["step"], &port["xdp_mode"]), (&step.into(), &xdp_mode.into()), "{port:#}");
        }
    }
    // A client that is new comes by the interface that the socket was not opened on.
    lab.delete("wan0");
    lab.await_state("wan", 0, "gone");
    lab.deployment.kill(Role::Client).unwrap();
    lab.deployment.launch(&lab.rig, Role::Client, &lab.interrupt).unwrap();
    lab.attached();
    tcp(lab.rig.client(), lab.rig.lan(), LAN_SERVER).unwrap_or_else(|e| panic!("{e}\n{}", lab.words()));
}
