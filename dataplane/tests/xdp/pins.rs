//! The interfaces of a data plane in a network of its own: what a restart finds pinned when the configuration names them in
//! another order, and what is seen of them while they are attached.

use super::*;
use jvpn_dataplane::attach::{Side, Steering};
use jvpn_dataplane::config::Config;
use jvpn_dataplane::ending::Ending;
use jvpn_dataplane::port::Presence;
use jvpn_dataplane::watch::Watch;
use std::path::{Path, PathBuf};

/// The test's own directory in the BPF file system.
struct Root(PathBuf);

impl Drop for Root {
    fn drop(&mut self) {
        // Best effort: a test that failed early has made nothing.
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

fn config(root: &Path, wan: &[&str]) -> Config {
    let text = format!(
        "workers = 1\npin_dir = \"{}\"\n[wan]\ninterfaces = {wan:?}\n[lan]\ninterface = \"jvd\"\n\
         [tunnel]\ngateway_address = \"10.77.0.1\"\npool = \"10.77.0.0/16\"\n",
        root.display()
    );
    toml::from_str(&text).unwrap()
}

/// A network with these interfaces, all of them up.
fn interfaces(names: &[&str]) {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    for name in names {
        edge::ip(&format!("link add {name} type veth peer name {name}p"));
        edge::ip(&format!("link set {name} up"));
        edge::ip(&format!("link set {name}p up"));
    }
}

/// Links that are pinned, with their directories.
fn pinned(root: &Path) -> Vec<String> {
    let dirs = std::fs::read_dir(root).unwrap().flatten();
    let mut links: Vec<String> = dirs
        .flat_map(|dir| std::fs::read_dir(dir.path()).unwrap().flatten())
        .map(|link| link.file_name().into_string().unwrap())
        .collect();
    links.sort_unstable();
    links
}

/// R1.2: interfaces that were taken out of the configuration or named in another order are attached all the same
/// after a restart that left its links, and no link of another place stays.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn r1_2_interfaces_in_another_order_are_attached_after_a_restart() {
    interfaces(&["jva", "jvb", "jvc", "jvd"]);
    let root = Root(PathBuf::from(format!("/sys/fs/bpf/jvpn-test-{}", std::process::id())));
    let orders: [&[&str]; 6] = [
        &["jva", "jvb", "jvc"],
        // One is taken out: the next has its place.
        &["jva", "jvc"],
        &["jva", "jvb", "jvc"],
        // Another one is first: another directory.
        &["jvc", "jva", "jvb"],
        &["jvb", "jvc", "jva"],
        &["jvb"],
    ];
    for wan in orders {
        let config = config(&root.0, wan);
        let mut steering =
            Steering::attach(&config, &[0]).unwrap_or_else(|error| panic!("{wan:?}: {error:#}"));
        let attached: Vec<&str> = steering
            .of(Side::Wan)
            .filter(|hook| hook.is_attached() && hook.link.xdp.is_some())
            .map(|hook| hook.interface.as_str())
            .collect();
        assert_eq!(attached, wan);
        assert!(steering.is_attached(Side::Lan));
        steering.take_over().unwrap();
        let links: Vec<String> =
            pinned(&root.0).into_iter().filter(|name| name.starts_with("link-")).collect();
        let expected = ["link-lan", "link-wan", "link-wan1", "link-wan2"];
        assert_eq!(links, expected[..=wan.len()], "{wan:?}");
        steering.end(Ending::ForNext);
    }
}

/// R9.2: what the LAN takes is known from the first look on, and followed.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn r9_2_the_mtu_of_the_lan_is_followed() {
    interfaces(&["jva", "jvd"]);
    let steering = Steering::attach(&config(Path::new(""), &["jva"]), &[0]).unwrap();
    let mut watch = Watch::new().unwrap().for_tunnel(1_280);
    for mtu in [1_500, 1_200, 1_400] {
        edge::ip(&format!("link set jvd mtu {mtu}"));
        let _changed = watch.look(steering.hooks(), None).unwrap();
        assert_eq!((watch.lan_mtus().of(0), watch.lan_mtus().least()), (mtu, mtu));
    }
    edge::ip("link set jva mtu 1000");
    let _changed = watch.look(steering.hooks(), None).unwrap();
    assert_eq!(watch.lan_mtus().least(), 1_400, "the WAN's is the client's to search");
}

/// R0.2: an interface whose frames have a VLAN is as far there as the VLAN's device is: nothing of the tunnel enters or
/// leaves the host without that.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn r0_2_a_vlan_device_is_watched_with_its_interface() {
    // Any device stands for the VLAN's here: the configuration names it.
    interfaces(&["jva", "jvb", "jvd", "jva.100", "jvb.100"]);
    let mut config = config(Path::new(""), &["jva", "jvb"]);
    config.wan.vlan = Some(100);
    config.wan.vlan_devices = Some(vec!["jva.100".to_owned(), "jvb.100".to_owned()]);
    let steering = Steering::attach(&config, &[0]).unwrap();
    let mut watch = Watch::new().unwrap();
    let mut seen = || {
        let looked = watch.look(steering.hooks(), None).map(|_| ()).map_err(|error| error.to_string());
        (steering.hooks()[0].watched.presence(), looked)
    };
    assert_eq!(seen(), (Presence::Up, Ok(())));
    edge::ip("link set jva.100 down");
    assert_eq!(seen(), (Presence::Down, Ok(())));
    edge::ip("link set jva.100 up");
    assert_eq!(seen(), (Presence::Up, Ok(())));
    edge::ip("link set jva down");
    assert_eq!(seen(), (Presence::Down, Ok(())));
    edge::ip("link delete jva.100");
    assert_eq!(seen(), (Presence::Gone, Ok(())));
    edge::ip("link delete jvb.100");
    let (_, looked) = seen();
    assert!(looked.is_err_and(|said| said.contains("no_interface_left")));
}
