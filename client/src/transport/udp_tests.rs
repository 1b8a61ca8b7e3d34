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
        jvpn_testing::left_out("needs root: network namespaces");
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

/// The other end of the device, in a network and thread of its own: sends what it is told from the gateway's addresses.
fn far_end(orders: std::sync::mpsc::Receiver<(SocketAddr, Vec<(u8, u8)>)>) -> std::thread::JoinHandle<()> {
    let (tell, told) = std::sync::mpsc::channel();
    let (ready, is_ready) = std::sync::mpsc::channel::<()>();
    let far = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        tell.send(nix::unistd::gettid()).unwrap();
        is_ready.recv().unwrap();
        ip("link set lo up");
        ip("link set farX addrgenmode none up");
        ip("addr add 198.51.100.1/32 dev farX");
        ip("addr add 2001:db8:1::1/128 dev farX nodad");
        for (to, family) in [("192.0.2.2", ""), ("2001:db8::2", "-6 ")] {
            ip(&format!("{family}route add {to} dev farX"));
            ip(&format!("{family}neigh add {to} lladdr 02:00:00:00:00:01 dev farX nud permanent"));
        }
        for (to, marks) in orders {
            let from = if to.is_ipv4() { "198.51.100.1:4500" } else { "[2001:db8:1::1]:4500" };
            let socket = std::net::UdpSocket::bind(from).unwrap();
            for (number, mark) in marks {
                let mark = i32::from(mark);
                if to.is_ipv4() {
                    setsockopt(&socket, sockopt::Ipv4Tos, &mark).unwrap();
                } else {
                    setsockopt(&socket, sockopt::Ipv6TClass, &mark).unwrap();
                }
                socket.send_to(&[number; 300], to).unwrap();
            }
        }
    });
    ip(&format!("link set farX netns {}", told.recv().unwrap()));
    ready.send(()).unwrap();
    far
}

/// R9.1: a kernel that joins datagrams joins none whose congestion marks differ, in neither family: each arrives with its
/// own. (Linux before 6.10 does, unless the fix was brought back to it.)
#[test]
fn r9_1_joined_datagrams_keep_their_marks() {
    if !network() {
        return;
    }
    ip("link set upX address 02:00:00:00:00:01");
    // A veth joins nothing of a peer that hands over whole segments anyway.
    for args in [["-K", "farX", "tso", "off"], ["-K", "upX", "gro", "on"]] {
        assert!(Command::new("ethtool").args(args).status().expect("ethtool is installed").success());
    }
    // Joins what comes within 20 ms: without, a kernel on a fast host finds each datagram alone.
    std::fs::write("/sys/class/net/upX/gro_flush_timeout", "20000000").unwrap();
    std::fs::write("/sys/class/net/upX/napi_defer_hard_irqs", "10").unwrap();
    let (order, orders) = std::sync::mpsc::channel();
    let far = far_end(orders);
    for (gateway, own) in [("198.51.100.1:4500", "192.0.2.2"), ("[2001:db8:1::1]:4500", "2001:db8::2")] {
        let gateway: SocketAddr = gateway.parse().unwrap();
        let mut udp = Udp::open("upX", 7, true, Endpoint::from(gateway)).unwrap();
        assert!(udp.health.gro, "this kernel joins");
        let port = udp.socket.local_addr().unwrap().as_socket().unwrap().port();
        let marks: Vec<(u8, u8)> =
            (0..64).map(|n| (n, [2, 2, 2, 3, 0, 0, 1, 3][usize::from(n) % 8])).collect();
        let mut joined = 0;
        for _ in 0..20 {
            order.send((SocketAddr::new(own.parse().unwrap(), port), marks.clone())).unwrap();
            let mut came = 0;
            while came < marks.len() {
                let mut fds = [PollFd::new(udp.as_fd(), PollFlags::POLLIN)];
                assert_eq!(poll(&mut fds, 10_000u16).unwrap(), 1, "{gateway}: {came} came");
                let mut inbox = Inbox::default();
                udp.receive(&mut inbox).unwrap();
                for slot in 0..inbox.len() {
                    let (arrival, places) = inbox.datagrams(slot);
                    assert_eq!(arrival.from, Endpoint::from(gateway));
                    for place in places {
                        let number = inbox.octets()[place.start];
                        assert_eq!(arrival.mark.bits(), marks[usize::from(number)].1, "{gateway}: {number}");
                        came += 1;
                    }
                }
            }
            joined = udp.health.large_received;
            if joined > 8 {
                break;
            }
        }
        assert!(joined > 0, "{gateway}: nothing was joined, so nothing is shown");
        // What does not join receives marks, too.
        udp.health.gro = false;
        setsockopt(&udp.socket, sockopt::UdpGroSegment, &false).unwrap();
        order.send((SocketAddr::new(own.parse().unwrap(), port), marks.clone())).unwrap();
        let mut came = Vec::new();
        while came.len() < marks.len() {
            let mut fds = [PollFd::new(udp.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, 10_000u16).unwrap(), 1, "{gateway}, one by one");
            let mut inbox = Inbox::default();
            udp.receive(&mut inbox).unwrap();
            for slot in 0..inbox.len() {
                let (arrival, mut places) = inbox.datagrams(slot);
                came.push((inbox.octets()[places.next().unwrap().start], arrival.mark.bits()));
            }
        }
        came.sort_unstable();
        assert_eq!(came, marks, "{gateway}, one by one");
    }
    drop(order);
    far.join().unwrap();
}
