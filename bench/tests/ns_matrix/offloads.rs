//! Senders behind the gateway whose interfaces leave checksums, and the cutting of large packets, to a device that is not
//! there: what a veth is as the kernel makes it.

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

/// The peers of both ports, as the kernel makes them.
fn with_offloads(rig: &Rig) -> String {
    switch(rig.router(), "rW", "on");
    let features = switch(rig.lan(), "eth0", "on");
    assert!(is_on(&features, "tx-checksumming"), "{features}");
    features
}

/// R9.1, R1.8: native XDP. The kernel cuts large packets itself in front of a port that has XDP; their checksums are
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
