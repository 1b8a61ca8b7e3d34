//! What a restart finds pinned when the configuration names the interfaces in another order: in a network of its own.

use super::*;
use jvpn_dataplane::attach::{Side, Steering};
use jvpn_dataplane::config::Config;
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
        "workers = 1\npin_dir = {root:?}\n[wan]\ninterfaces = {wan:?}\n[lan]\ninterface = \"jvd\"\n\
         [tunnel]\ngateway_address = \"10.77.0.1\"\npool = \"10.77.0.0/16\"\n"
    );
    toml::from_str(&text).unwrap()
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

/// R1.2, R9.1: interfaces that were taken out of the configuration or named in another order are attached all the same
/// after a restart that left its links, and no link of another place stays.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn r1_2_interfaces_in_another_order_are_attached_after_a_restart() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    for name in ["jva", "jvb", "jvc", "jvd"] {
        edge::ip(&format!("link add {name} type veth peer name {name}p"));
        edge::ip(&format!("link set {name} up"));
        edge::ip(&format!("link set {name}p up"));
    }
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
        steering.keep();
    }
}
