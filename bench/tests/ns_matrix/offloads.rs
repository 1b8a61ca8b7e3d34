//! Senders behind the gateway whose interfaces leave checksums, and the cutting of large packets, to a device that is not
//! there: what a veth is as the kernel makes it.

use std::process::Command;

use jvpn_rig::Rig;
use jvpn_rig::tool::ETHTOOL;

use super::*;

/// As a kernel makes a veth: with all of them on.
const FEATURES: [&str; 4] = ["sg", "tx", "tso", "gso"];
/// Chance makes one true checksum in 65,536 look left out; so many of some hundred packets are none of chance.
const BY_CHANCE: u64 = 3;

/// Switches the features of an interface and gives what the kernel made of it.
fn switch(namespace: &Namespace, interface: &str, to: &str) -> String {
    let args: Vec<&str> =
        ["-K", interface].into_iter().chain(FEATURES.iter().flat_map(|feature| [*feature, to])).collect();
    ETHTOOL.run(Some(namespace), &args).unwrap();
    ETHTOOL.run(Some(namespace), &["-k", interface]).unwrap()
}

/// Whether a feature is on.
fn is_on(features: &str, name: &str) -> bool {
    let line = features.lines().map(str::trim).find(|line| line.starts_with(&format!("{name}:")));
    line.unwrap_or_else(|| panic!("ethtool does not name {name}")).contains(": on")
}

/// What senders had left out and the workers computed.
fn finished(lab: &Lab) -> u64 {
    let status = lab.data_plane();
    status["workers"].as_array().unwrap().iter().map(|one| one["checksums_finished"].as_u64().unwrap()).sum()
}

fn start(column: &Column) -> Lab {
    let mut lab = Lab::start(|role, text| column.edit(role, text));
    lab.attached("a path of IPv4", remote_is(GATEWAY_WAN.into()));
    lab
}

/// The server behind the gateway as the kernel makes it, and the same of the client's uplinks: what their stacks send comes
/// without checksums, too, and through the routers as it is.
fn with_offloads(rig: &Rig) -> String {
    for (namespace, interface) in [(rig.client(), "upA"), (rig.client(), "upB"), (rig.router(), "rW")] {
        switch(namespace, interface, "on");
    }
    let features = switch(rig.lan(), "eth0", "on");
    assert!(is_on(&features, "tx-checksumming"), "{features}");
    features
}

/// R9.1, R0.5: native XDP. The kernel cuts large packets itself in front of a port that has XDP; their checksums are
/// computed by the worker.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_tcp_of_a_server_with_offloads_arrives_by_native_xdp() {
    let column = Column { mode: "require-native", step: "copy", workers: 2, lan: Behind::Port };
    let lab = start(&column);
    column.traffic(&lab, "offloads off");
    assert!(finished(&lab) <= BY_CHANCE, "{:#}", lab.data_plane());
    let features = with_offloads(&lab.rig);
    assert!(!is_on(&features, "tcp-segmentation-offload"), "the kernel takes it off: {features}");
    let before = finished(&lab);
    column.traffic(&lab, "offloads on");
    assert!(finished(&lab) > before + 100, "{:#}", lab.data_plane());
}

/// R9.1, R0.5: generic XDP. Nobody cuts large packets there, and plan and log say by which command their sender does;
/// checksums are computed by the worker there, too.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_tcp_of_a_server_with_offloads_arrives_by_generic_xdp() {
    let column = Column { mode: "generic", step: "generic", workers: 2, lan: Behind::Port };
    let lab = start(&column);
    let features = with_offloads(&lab.rig);
    assert!(is_on(&features, "tcp-segmentation-offload"), "{features}");
    let mut plan = Command::new(deployment::find_programs().unwrap().join("jvpn-dataplane"));
    plan.arg("plan").arg(lab.places.config_dir.join(Role::DataPlane.config_file())).arg("--json");
    let plan = lab.rig.gateway().run(|| plan.output()).unwrap().unwrap();
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    let advice = plan["plan"]["advice"].as_array().unwrap();
    let commands =
        advice.iter().flat_map(|one| one["commands"].as_array().unwrap()).filter_map(Value::as_str);
    let command = commands.clone().find(|command| command.contains("gso off")).unwrap();
    assert_eq!(command, "ethtool -K <peer of lan0> tso off gso off tx-udp-segmentation off");
    let log = fs::read_to_string(lab.out.path().join("jvpn-dataplane.log")).unwrap();
    assert!(log.contains(command), "{log}");
    let words: Vec<&str> = command.split_whitespace().collect();
    let (_, features) = words.split_at(words.iter().position(|word| *word == "tso").unwrap());
    ETHTOOL.run(Some(lab.rig.lan()), &[&["-K", "eth0"], features].concat()).unwrap();
    let before = finished(&lab);
    column.traffic(&lab, "offloads on, but for what the plan names");
    assert!(finished(&lab) > before + 100, "{:#}", lab.data_plane());
}

/// R9.1, R0.5: somebody switches the offloads of the host's end on again.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_tcp_of_a_host_with_offloads_arrives() {
    let column = Column { mode: "auto", step: "copy", workers: 1, lan: Behind::Host };
    let lab = start(&column);
    let features = switch(lab.rig.gateway(), "jvpn-host", "on");
    assert!(is_on(&features, "tx-checksumming"), "{features}");
    with_offloads(&lab.rig);
    let before = finished(&lab);
    column.traffic(&lab, "offloads on");
    assert!(finished(&lab) > before + 100, "{:#}", lab.data_plane());
}

/// R9.1: without AF_XDP the kernel's own stack cuts and finishes what it routes into the TUN device.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_tcp_of_a_server_with_offloads_arrives_without_af_xdp() {
    let column = Column { mode: "no-af-xdp", step: "no-af-xdp", workers: 1, lan: Behind::Port };
    let lab = start(&column);
    with_offloads(&lab.rig);
    column.traffic(&lab, "offloads on");
    assert_eq!(finished(&lab), 0, "{:#}", lab.data_plane());
}
