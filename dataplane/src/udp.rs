//! The UDP socket on the gateway's port: opened here, handed to the control plane. A socket filter keeps stray DATA out
//! (XDP marks the samples that may pass), and while no control plane is there the open socket keeps the kernel from
//! answering with ICMP port-unreachable.

use crate::frame::Family;
use crate::port::sockopt as raw_sockopt;
use jvpn_abi::wire::MsgType;
use nix::sys::socket::{SockaddrStorage, getsockname, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

/// Kernel buffers for bursts of handshakes, octets.
const BUFFER: usize = 4 << 20;

/// Who shares the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    /// Nobody: DATA comes by AF_XDP.
    Alone,
    /// Sockets of workers, which take DATA ([`open_for_data`]).
    WithWorkers,
}

/// Opens the control plane's socket on `interface` and `port`: one for both families, or for IPv4 alone on a host without
/// IPv6.
///
/// # Errors
/// If the port is taken or the system refuses.
pub fn open(interface: &str, port: u16) -> io::Result<OwnedFd> {
    open_on(&[interface], port)
}

/// As [`open`], on several interfaces: datagrams that came by another one are not taken, and the kernel's routes say by
/// which one answers leave.
///
/// # Errors
/// As [`open`].
pub fn open_on(interfaces: &[&str], port: u16) -> io::Result<OwnedFd> {
    let opened = open_either(interfaces, port, Sharing::Alone)?;
    opened.socket.attach_filter(&refuse_data(strangers(interfaces)?))?;
    Ok(opened.socket.into())
}

/// As [`open`], for a port that workers share. To be opened before theirs: the first of the group gets what is not DATA.
///
/// # Errors
/// As [`open`]: a control plane that outlived an earlier data plane holds the port, on these very interfaces.
pub fn open_shared(interfaces: &[&str], port: u16) -> io::Result<OwnedFd> {
    // Who shares may join a group that is there already. Whether there is one is asked for alone.
    match open_on(interfaces, port) {
        // Sockets of one group are on the same device, and one that is put on another leaves its group for good: the workers'
        // could not be with that of the control plane, which gets another one in its place.
        Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) && is_elsewhere(interfaces, port) => {
            tracing::info!(
                ?interfaces,
                port,
                "the socket of the control plane is on other interfaces: a new one"
            );
        }
        alone => drop(alone?),
    }
    let opened = open_either(interfaces, port, Sharing::WithWorkers)?;
    opened.socket.attach_filter(&refuse_data(strangers(interfaces)?))?;
    Ok(opened.socket.into())
}

/// Whether the socket that holds the port is on a device where sockets on `interfaces` are on none, or the other way round. On
/// another device than theirs it would not be in the way. Sockets on a device that is none of theirs tell: they are refused
/// beside one that is on none.
fn is_elsewhere(interfaces: &[&str], port: u16) -> bool {
    const ANOTHER: &str = "lo";
    let is_on_none = match open_either(&[ANOTHER], port, Sharing::Alone) {
        Ok(_) => false,
        Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => true,
        Err(_) => return false,
    };
    !interfaces.contains(&ANOTHER) && is_on_none == (interfaces.len() == 1)
}

/// Puts the filter of these interfaces in front of a control plane's socket that shares its port. It stays on its device.
///
/// # Errors
/// If an interface is gone or the system refuses.
pub fn filter_on(fd: &OwnedFd, interfaces: &[&str]) -> io::Result<()> {
    SockRef::from(fd).attach_filter(&refuse_data(strangers(interfaces)?))
}

/// A worker's socket on a shared port.
#[derive(Debug)]
pub struct DataSocket {
    /// The socket.
    pub socket: OwnedFd,
    /// IPv6 for both families, or IPv4 alone.
    pub family: Family,
}

/// Opens a worker's socket on a port that [`open_shared`] has opened.
///
/// # Errors
/// If the port is not shared or the system refuses.
pub fn open_for_data(interfaces: &[&str], port: u16) -> io::Result<DataSocket> {
    let Opened { socket, family } = open_either(interfaces, port, Sharing::WithWorkers)?;
    let mut filter = strangers(interfaces)?;
    filter.push(accept());
    socket.attach_filter(&filter)?;
    let _limited = setsockopt(&socket, sockopt::IpRecvTos, &true);
    if family == Family::V6 {
        setsockopt(&socket, sockopt::Ipv6RecvTClass, &true)?;
        raw_sockopt::set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
    }
    // DF, whatever somebody says about the path (RFC 8899 §4.6.1).
    raw_sockopt::set(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
    Ok(DataSocket { socket: socket.into(), family })
}

/// Has the kernel give DATA to the sockets of `workers` workers and the rest to the control plane's. `socket` is any of
/// them.
///
/// # Errors
/// If the system refuses.
pub fn steer(socket: &DataSocket, workers: u32) -> io::Result<()> {
    raw_sockopt::split_port(&socket.socket, &mut split(workers))
}

/// The port that a socket is bound to.
#[must_use]
pub fn port_of(fd: &OwnedFd) -> Option<u16> {
    let address = getsockname::<SockaddrStorage>(fd.as_raw_fd()).ok()?;
    let v4 = address.as_sockaddr_in().map(|v4| v4.port());
    v4.or(address.as_sockaddr_in6().map(|v6| v6.port()))
}

struct Opened {
    socket: Socket,
    family: Family,
}

fn open_either(interfaces: &[&str], port: u16, sharing: Sharing) -> io::Result<Opened> {
    match open_for(Domain::IPV6, interfaces, (Ipv6Addr::UNSPECIFIED, port).into(), sharing) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            tracing::warn!("this host has no IPv6: only IPv4 paths are served");
            let socket = open_for(Domain::IPV4, interfaces, (Ipv4Addr::UNSPECIFIED, port).into(), sharing)?;
            Ok(Opened { socket, family: Family::V4 })
        }
        opened => Ok(Opened { socket: opened?, family: Family::V6 }),
    }
}

fn open_for(
    domain: Domain,
    interfaces: &[&str],
    address: SocketAddr,
    sharing: Sharing,
) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    // The kernel binds a socket to one device; of several the filter lets nothing else pass.
    if let [interface] = interfaces {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    if sharing == Sharing::WithWorkers {
        socket.set_reuse_port(true)?;
    }
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    // Refused by a system limit is no reason to stop: the buffers are then as large as it allows.
    let _limited = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &BUFFER));
    let _limited = setsockopt(&socket, sockopt::SndBufForce, &BUFFER)
        .or_else(|_| setsockopt(&socket, sockopt::SndBuf, &BUFFER));
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Puts a socket that an earlier data plane opened on these interfaces, as [`open_on`] would have: its device and its filter
/// are those of the interfaces that were there then.
///
/// # Errors
/// If an interface is gone or the system refuses.
pub fn put_on(fd: &OwnedFd, interfaces: &[&str]) -> io::Result<()> {
    let socket = SockRef::from(fd);
    let filter = refuse_data(strangers(interfaces)?);
    // In an order that leaves no moment in which another interface's datagrams pass.
    if let [interface] = interfaces {
        socket.bind_device(Some(interface.as_bytes()))?;
        return socket.attach_filter(&filter);
    }
    socket.attach_filter(&filter)?;
    socket.bind_device(None)
}

/// Whether a socket that came from a control plane is the one on this port.
#[must_use]
pub fn is_on_port(fd: &OwnedFd, port: u16) -> bool {
    port_of(fd) == Some(port)
}

/// Classic BPF that names the socket of a group, by the octets behind the UDP header: 0 for what is not DATA, else one of
/// the workers', by the flow's hash.
fn split(workers: u32) -> [SockFilter; 7] {
    let flow_hash = (libc::SKF_AD_OFF + libc::SKF_AD_RXHASH) as u32;
    [
        // A datagram without payload has no octet 0: the load fails, which is a return of 0.
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 4, u32::from(MsgType::Data.octet())),
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, flow_hash),
        instruction(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, 0, workers.max(1)),
        instruction(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K, 0, 0, 1),
        instruction(libc::BPF_RET | libc::BPF_A, 0, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

fn instruction(code: u32, jump_true: u8, jump_false: u8, k: u32) -> SockFilter {
    SockFilter::new(code as u16, jump_true, jump_false, k)
}

fn accept() -> SockFilter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX)
}

fn refuse() -> SockFilter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0)
}

/// Classic BPF (linux/filter.h): drop what came by none of several interfaces; what follows looks at the rest. Nothing for
/// one interface, to which the socket is bound.
fn strangers(interfaces: &[&str]) -> io::Result<Vec<SockFilter>> {
    if interfaces.len() == 1 {
        return Ok(Vec::new());
    }
    let mut netlink = crate::netlink::Netlink::new()?;
    let arrived_by = (libc::SKF_AD_OFF + libc::SKF_AD_IFINDEX) as u32;
    let mut program = vec![instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, arrived_by)];
    // One jump each, over those that follow and the refusal; there are a handful at most.
    let left = (0..=u8::try_from(interfaces.len()).unwrap_or(u8::MAX)).rev().skip(1);
    for (interface, left) in interfaces.iter().zip(left) {
        let index = netlink.link(interface)?.index;
        program.push(instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, left + 1, 0, index));
    }
    program.push(refuse());
    Ok(program)
}

/// Classic BPF (linux/filter.h): drop what starts with the DATA octet behind the UDP header, and what came in IPv6 with an
/// extension header in front of UDP: XDP leaves such packets to the kernel, which would put them past the edge limits.
fn refuse_data(mut program: Vec<SockFilter>) -> Vec<SockFilter> {
    let network = |at: i32| (libc::SKF_NET_OFF + at) as u32;
    let load = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    program.extend([
        // A datagram without payload has no octet 8: the load fails and the filter drops it.
        instruction(load, 0, 0, 8),
        instruction(equal, 5, 0, u32::from(MsgType::Data.octet())),
        instruction(load, 0, 0, network(0)),
        instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, 0xf0),
        instruction(equal, 0, 3, 0x60),
        instruction(load, 0, 0, network(6)),
        instruction(equal, 1, 0, 17),
        refuse(),
        accept(),
    ]);
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use jvpn_testing::unless_denied;
    use nix::sched::{CloneFlags, unshare};
    use std::net::UdpSocket;
    use std::time::Duration;

    const DENIED: &str = "SO_BINDTODEVICE needs CAP_NET_RAW here";

    /// On a shared port workers get DATA and the control plane the rest.
    #[test]
    fn a_shared_port_is_split_by_the_first_octet() {
        let Some(fd) = unless_denied(open_shared(&["lo"], 0), DENIED) else { return };
        let control = UdpSocket::from(fd);
        let port = control.local_addr().unwrap().port();
        let workers = [(), ()].map(|()| open_for_data(&["lo"], port).unwrap());
        steer(&workers[0], 2).unwrap();
        let workers = workers.map(|worker| UdpSocket::from(worker.socket));
        let senders: Vec<_> = (0..8).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        for sender in &senders {
            for octet in [0x10, 0x20, 0x24, 0x11] {
                sender.send_to(&[octet; 40], ("127.0.0.1", port)).unwrap();
            }
        }
        let drain = |socket: &UdpSocket| {
            let mut buffer = [0; 64];
            std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|_| buffer[0])).collect::<Vec<u8>>()
        };
        let rest = drain(&control);
        assert_eq!((rest.len(), rest.contains(&0x10)), (3 * senders.len(), false));
        let data: Vec<u8> = workers.iter().flat_map(drain).collect();
        assert_eq!(data, vec![0x10; senders.len()]);
        let taken = open("lo", port).unwrap_err();
        assert_eq!(taken.raw_os_error(), Some(libc::EADDRINUSE), "a group is no place for another gateway");
        assert!(open_shared(&["lo"], port).is_err());
    }

    /// R1.2: a control plane's socket that is on another interface than the workers' is no part of their group: it is replaced,
    /// whichever of the two was on one device. Where both are on the same the old one is kept.
    #[test]
    fn r1_2_a_shared_socket_follows_the_interfaces() {
        let follows = || {
            let alone = unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
            if unless_denied(alone, "a network namespace of its own needs CAP_SYS_ADMIN").is_none() {
                return;
            }
            ip(&["link", "add", "name", "a", "type", "veth", "peer", "name", "b"]);
            ["a", "b", "lo"].into_iter().for_each(|name| ip(&["link", "set", "dev", name, "up"]));
            let in_use =
                |opened: io::Result<OwnedFd>| opened.unwrap_err().raw_os_error() == Some(libc::EADDRINUSE);
            for (before, now) in
                [(&["a"][..], &["a", "b"][..]), (&["a", "b"][..], &["a"][..]), (&["a"][..], &["b"][..])]
            {
                let old = open_shared(before, 0).unwrap();
                let port = port_of(&old).unwrap();
                let workers = open_for_data(before, port).unwrap();
                assert!(in_use(open_shared(before, port)), "{before:?} again");
                drop(workers);
                let new =
                    open_shared(now, port).unwrap_or_else(|error| panic!("{before:?} to {now:?}: {error}"));
                drop(old);
                assert!(port_of(&new) == Some(port) && in_use(open_shared(now, port)), "{now:?} again");
            }
            let old = open_shared(&["a", "b"], 0).unwrap();
            assert!(in_use(open_shared(&["b", "a"], port_of(&old).unwrap())), "in another order");
        };
        // The namespace is that of a thread of its own, whose name is who leaves a test out.
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        std::thread::Builder::new().name(name).spawn(follows).unwrap().join().unwrap();
    }

    fn ip(args: &[&str]) {
        let output = std::process::Command::new("ip").args(args).output().unwrap();
        assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// DATA never reaches the control plane's socket; its marked samples and control datagrams do.
    #[test]
    fn the_filter_drops_data_only() {
        let Some(fd) = unless_denied(open("lo", 0), DENIED) else { return };
        let receiver = UdpSocket::from(fd);
        receiver.set_nonblocking(false).unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let port = receiver.local_addr().unwrap().port();
        assert!(is_on_port(&receiver.try_clone().unwrap().into(), port));
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for octet in [0x10, 0x11, 0x24] {
            sender.send_to(&[octet; 40], ("127.0.0.1", port)).unwrap();
        }
        let mut first = [0; 64];
        let mut seen = Vec::new();
        for _ in 0..2 {
            let _len = receiver.recv(&mut first).unwrap();
            seen.push(first[0]);
        }
        assert_eq!(seen, [0x11, 0x24]);
    }

    /// R3.1: options in front of UDP lead nobody past the edge limits: XDP leaves such packets to the kernel.
    #[test]
    fn r3_1_extension_headers_do_not_reach_the_control_plane() {
        let Some(fd) = unless_denied(open("lo", 0), DENIED) else { return };
        let receiver = UdpSocket::from(fd);
        let port = receiver.local_addr().unwrap().port();
        let Ok(sender) = UdpSocket::bind("[::1]:0") else {
            jvpn_testing::left_out("no IPv6 here");
            return;
        };
        let received = |receiver: &UdpSocket| receiver.recv(&mut [0; 64]).map_err(|error| error.kind());
        sender.send_to(&[0x20; 40], ("::1", port)).unwrap();
        assert_eq!(received(&receiver), Ok(40));
        // Destination options: six octets of padding (RFC 8200 section 4.2).
        let options: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
        raw_sockopt::set_octets(&sender, libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, &options).unwrap();
        sender.send_to(&[0x20; 40], ("::1", port)).unwrap();
        assert_eq!(received(&receiver), Err(io::ErrorKind::WouldBlock));
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(&[0x20; 40], ("127.0.0.1", port)).unwrap();
        assert_eq!(received(&receiver), Ok(40), "IPv4 is not touched");
    }
}
