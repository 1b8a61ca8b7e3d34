//! The socket of an uplink on a real device, in a namespace of its own. Needs root and says so when it is not.

use super::*;
use nix::sched::{CloneFlags, unshare};
use rustix::net::sockopt::{ip_mtu_discover, ipv6_mtu_discover};
use std::process::Command;

/// Octets of IP that the device carries.
const DEVICE_MTU: usize = 1_400;
/// Octets that the kernel believes the path to carry.
const BELIEVED_MTU: usize = 1_290;

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split_whitespace()).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {words}");
}

fn sent_by_device() -> u64 {
    let text = std::fs::read_to_string("/sys/class/net/upX/statistics/tx_packets").unwrap();
    text.trim().parse().unwrap()
}

/// This thread's own network: one device, and a neighbour on it that takes everything and says nothing.
fn network() -> bool {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root (network namespaces)");
        return false;
    }
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    // Of this namespace, and of this thread alone: /sys shows the network of who mounted it.
    let (none, here) = (None::<&str>, nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE);
    nix::mount::mount(none, "/", none, here, none).unwrap();
    nix::mount::mount(Some("sysfs"), "/sys", Some("sysfs"), nix::mount::MsFlags::empty(), none).unwrap();
    ip("link add upX type veth peer name farX");
    ip("link set farX addrgenmode none up");
    ip(&format!("link set upX mtu {DEVICE_MTU} addrgenmode none arp off up"));
    ip("addr add 192.0.2.2/24 dev upX");
    ip("addr add 2001:db8::2/64 dev upX nodad");
    ip(&format!("route add 198.51.100.1 via 192.0.2.1 dev upX mtu {BELIEVED_MTU}"));
    ip(&format!("route add 2001:db8:1::1 via 2001:db8::1 dev upX mtu {BELIEVED_MTU}"));
    true
}

/// DF is set in both families, the kernel's path MTU does not count, and what the device does not carry is refused, counted
/// and never a fragment; the socket goes on.
#[test]
fn datagrams_are_never_fragmented() {
    if !network() {
        return;
    }
    for (gateway, head) in [("198.51.100.1:4500", 28), ("[2001:db8:1::1]:4500", 48)] {
        let gateway: SocketAddr = gateway.parse().unwrap();
        let mut udp = Udp::open("upX", 7, true, Endpoint::from(gateway)).unwrap();
        if gateway.is_ipv4() {
            assert_eq!(ip_mtu_discover(&udp.socket).unwrap(), Ipv4PathMtuDiscovery::PROBE);
        } else {
            assert_eq!(ipv6_mtu_discover(&udp.socket).unwrap(), Ipv6PathMtuDiscovery::PROBE);
        }
        let datagram = [0; DEVICE_MTU];
        let fits = DEVICE_MTU - head;
        let before = sent_by_device();
        udp.send_one(&datagram[..=fits]);
        assert_eq!((udp.health.sent, udp.health.send_errors), (0, 1), "{gateway}: larger than the device");
        assert_eq!(udp.health.last_errno, Some(Errno::EMSGSIZE as i32));
        assert_eq!(sent_by_device(), before, "{gateway}: nothing of it left");
        udp.send_one(&datagram[..fits]);
        assert_eq!((udp.health.sent, udp.health.send_errors), (1, 1), "{gateway}: the socket goes on");
        assert_eq!(
            sent_by_device(),
            before + 1,
            "{gateway}: beyond what the kernel believes in, in one piece"
        );

        // In a batch the ones that fit go, whatever lies between them.
        for large in [true, false] {
            let (mut frames, before) = (Frames::default(), udp.health);
            udp.health.gso &= large;
            for (index, len) in [fits, fits + 1, fits + 1, fits].into_iter().enumerate() {
                frames.set_len(index, len);
            }
            udp.send(&frames, 0..4);
            let (sent, lost) = (udp.health.sent - before.sent, udp.health.send_errors - before.send_errors);
            assert_eq!((sent, lost), (2, 2), "{gateway}: joined {large}");
        }
    }
}
