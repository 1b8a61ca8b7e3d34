//! The same admission in front of plain sockets: on the loopback device of a network of its own, in both families.

use super::*;
use jvpn_dataplane::{hook, udp};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

const WORKERS: u32 = 2;
/// Nothing comes back to a bucket while a test runs.
const FEW: Rate = Rate { per_second: 1, burst: 4 };
/// Datagrams of a flood.
const FLOOD: usize = 400;

/// A group of sockets on one port, and who sends to it.
struct Group {
    x: Loaded,
    control: UdpSocket,
    workers: Vec<UdpSocket>,
    clients: [UdpSocket; 2],
}

fn socket(fd: &OwnedFd) -> UdpSocket {
    fd.as_fd().try_clone_to_owned().unwrap().into()
}

impl Group {
    fn new(class: [Rate; EDGE_CLASSES], source: [Rate; EDGE_CLASSES], sample: Rate) -> Self {
        let mut x = loaded_with(class, source, sample);
        let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        assert!(up.success());
        let control = udp::open_shared(&["lo"], PORT).unwrap();
        let workers: Vec<_> = (0..WORKERS).map(|_| udp::open_for_data(&["lo"], PORT).unwrap()).collect();
        udp::steer(&workers[0], WORKERS).unwrap();
        attach::guard_plain(&mut x.bpf, Some(&control), &workers[0].socket, WORKERS).unwrap();
        let clients = ["127.0.0.1", "::1"].map(|ip| {
            let client = UdpSocket::bind((ip, 0)).unwrap();
            client.connect((ip, PORT)).unwrap();
            client
        });
        let workers = workers.iter().map(|worker| socket(&worker.socket)).collect();
        Self { x, control: socket(&control), workers, clients }
    }

    /// Sends a datagram from each client.
    fn send(&self, datagram: &[u8]) {
        for client in &self.clients {
            // Nobody listens is what an earlier refusal would say.
            client.send(datagram).unwrap();
        }
    }

    /// First octets of what the control plane got, and how many datagrams the workers got.
    fn came(&self) -> (Vec<u8>, usize) {
        let drain = |socket: &UdpSocket| {
            let mut buffer = [0; 2_048];
            let next = || socket.recv(&mut buffer).ok().map(|_| buffer[0]);
            std::iter::from_fn(next).collect::<Vec<u8>>()
        };
        let control = drain(&self.control);
        (control, self.workers.iter().map(|worker| drain(worker).len()).sum())
    }

    fn counted(&self, reason: DropReason) -> usize {
        self.x.counters().get(&reason).copied().unwrap_or(0) as usize
    }

    fn bind(&self, slot: SlotId, client: usize) {
        let address = |socket: SocketAddr| Endpoint::from(socket);
        let remote = address(self.clients[client].local_addr().unwrap());
        let local = address(self.clients[client].peer_addr().unwrap());
        let entry = BindingEntry::new(remote, local);
        self.x.bindings.bind(slot.index(), &entry, BindingWord::bound(slot, 1));
    }
}

/// What a bucket per CPU lets through at least and at most, for some seconds.
fn is_share(count: usize) -> bool {
    let cpus = aya::util::nr_cpus().unwrap();
    (FEW.burst as usize..=(FEW.burst as usize + 5) * cpus).contains(&count) && count < FLOOD
}

/// R3.1: handshakes in a flood get their share and no more, other classes are not touched by that, and what is none of the
/// control plane's types never reaches it.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn r3_1_plain_sockets_have_the_edge_limits() {
    let group = Group::new([PLENTY, PLENTY, FEW, PLENTY], [PLENTY; EDGE_CLASSES], PLENTY);
    for _ in 0..FLOOD / 2 {
        group.send(&[0x20; 300]);
    }
    let (control, workers) = group.came();
    assert!(is_share(control.len()), "{}", control.len());
    assert_eq!(workers, 0);
    assert_eq!(group.counted(DropReason::EdgeLimited), FLOOD - control.len());
    for kind in [0x24, 0x28, 0x2c] {
        group.send(&[kind; 300]);
        assert_eq!(group.came(), (vec![kind; 2], 0), "{kind:#x} has a share of its own");
    }
    for kind in [0x00, 0x11, 0x21, 0x2a, 0xff] {
        group.send(&[kind; 300]);
    }
    group.send(&[]);
    group.send(&[0x10; 9]);
    assert_eq!(group.came(), (vec![], 0), "nobody gets what makes no sense");
    assert_eq!(group.counted(DropReason::UnknownType), 10);
    assert_eq!(group.counted(DropReason::TooShort), 4);
}

/// R3.1: one source prefix cannot use up a class; a handle that is known has its own class.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn r3_1_plain_sockets_limit_each_source() {
    let mut group = Group::new([PLENTY; EDGE_CLASSES], [PLENTY, FEW, FEW, FEW], PLENTY);
    for _ in 0..FLOOD / 2 {
        group.send(&[0x20; 300]);
    }
    let (control, _) = group.came();
    // Two prefixes: one of each family.
    assert!(is_share(control.len() / 2) && control.len() < FLOOD / 2, "{}", control.len());
    assert_eq!(group.counted(DropReason::SourceLimited), FLOOD - control.len());

    let mut request = [0x24; 256];
    request[2] = 0;
    for _ in 0..FLOOD / 2 {
        group.send(&request);
    }
    let (unknown, _) = group.came();
    assert!(unknown.len() < FLOOD / 2, "handles that nobody knows: {}", unknown.len());
    let mut handles: HashMap<_, [u8; 8], [u64; 3]> =
        HashMap::try_from(group.x.bpf.map_mut("HANDLES").unwrap()).unwrap();
    handles.insert([0x24; 8], FRESH, 0).unwrap();
    for _ in 0..100 {
        group.send(&request);
    }
    assert_eq!(group.came().0.len(), 200, "a known handle is not kept back by the others");
}

/// R0.1, R7.1: DATA of a bound slot goes to a worker; of unbound DATA a share goes to the control plane, which can hint or
/// reset, and the rest to a worker, which drops and counts it.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn r7_1_plain_sockets_sample_unbound_data() {
    let group = Group::new([PLENTY; EDGE_CLASSES], [PLENTY; EDGE_CLASSES], FEW);
    let slots = [SlotId::new(7, 3).unwrap(), SlotId::new(8, 1).unwrap()];
    for (client, slot) in slots.into_iter().enumerate() {
        group.bind(slot, client);
        for counter in 0..20 {
            group.clients[client].send(&data(slot, counter)).unwrap();
        }
        assert_eq!(group.came(), (vec![], 20), "client {client}");
        // From somewhere else: a NAT that has changed its mind.
        group.clients[1 - client].send(&data(slot, 30)).unwrap();
        let (control, workers) = group.came();
        assert_eq!((control, workers), (vec![0x10], 0), "client {client}: a sample");
    }
    let stale = data(SlotId::new(7, 2).unwrap(), 0);
    for _ in 0..FLOOD / 2 {
        group.send(&stale);
    }
    let (control, workers) = group.came();
    assert!(control.len() < FLOOD / 2 && control.iter().all(|kind| *kind == 0x10), "{}", control.len());
    assert_eq!(control.len() + workers, FLOOD, "none is lost on the way to being counted");
    assert_eq!(group.counted(DropReason::UnboundSampled), control.len() + 2);
}

/// R1.8: after the fence nothing is sampled; workers refuse it themselves.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn r1_8_a_fenced_node_samples_nothing() {
    let mut group = Group::new([PLENTY; EDGE_CLASSES], [PLENTY; EDGE_CLASSES], PLENTY);
    group.x.fence(1);
    group.send(&data(SlotId::new(7, 2).unwrap(), 0));
    assert_eq!(group.came(), (vec![], 2));
}

/// First octets of what comes of a request and DATA that arrive by the loopback device.
fn came_by_lo(control: &OwnedFd) -> Vec<u8> {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for octet in [0x24, 0x10] {
        client.send_to(&[octet; 300], ("127.0.0.1", PORT)).unwrap();
    }
    let socket = socket(control);
    let mut buffer = [0; 2_048];
    std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|_| buffer[0])).collect()
}

/// R1.2, R3.1: a socket that is handed back by the control plane takes what comes by the interfaces of today and by no other,
/// whatever it was opened on: one, several, or behind the limits of plain sockets.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn r1_2_a_socket_handed_back_is_put_on_the_interfaces_of_today() {
    let mut x = loaded(PLENTY, PLENTY);
    for command in ["link set lo up", "link add jvd0 type veth peer name jvd1"] {
        edge::ip(command);
    }
    let here = ["lo", "jvd0"];
    let elsewhere = ["jvd0", "jvd1"];
    let control = udp::open_on(&["jvd0"], PORT).unwrap();
    assert_eq!(came_by_lo(&control), [0; 0], "it is bound to another interface");
    let turns: [(&[&str], &[u8]); 5] =
        [(&here, &[0x24]), (&elsewhere, &[]), (&["lo"], &[0x24]), (&["jvd1"], &[]), (&here, &[0x24])];
    for (interfaces, came) in turns {
        udp::put_on(&control, interfaces).unwrap();
        assert_eq!(came_by_lo(&control), came, "{interfaces:?}");
    }
    // The limits of a data plane without XDP, which is gone.
    attach::guard_control(&mut x.bpf, &control).unwrap();
    let before = x.counters();
    assert_eq!(came_by_lo(&control), [0x24, 0x10], "DATA is for 'spread' to keep away");
    let counted = x.counters();
    assert_ne!(counted, before);
    udp::put_on(&control, &here).unwrap();
    assert_eq!(came_by_lo(&control), [0x24]);
    assert_eq!(x.counters(), counted, "that data plane's tables are not asked any more");
}

/// R3.1: with several WAN interfaces and no XDP the control plane's socket takes what comes by them and by no other.
#[test]
#[ignore = "needs root: loads XDP programs"]
fn r3_1_plain_sockets_of_several_interfaces_know_strangers() {
    let mut x = loaded(PLENTY, PLENTY);
    for command in ["link set lo up", "link add jvd0 type veth peer name jvd1"] {
        edge::ip(command);
    }
    let index = |name: &str| nix::net::if_::if_nametoindex(name).unwrap();
    let [lo, first, second] = ["lo", "jvd0", "jvd1"].map(index);
    let control = udp::open_on(&["lo", "jvd0"], PORT).unwrap();
    attach::guard_control(&mut x.bpf, &control).unwrap();
    let turns: [(&[u32], bool); 5] = [
        (&[first, second], false),
        (&[first, lo], true),
        (&[lo, second, first], true),
        (&[second, first], false),
        // The socket is bound to it, or it is the kernel's to say.
        (&[first], true),
    ];
    for (devices, is_taken) in turns {
        hook::write_plain_ports(&mut x.bpf, devices).unwrap();
        assert_eq!(came_by_lo(&control).first(), is_taken.then_some(&0x24), "{devices:?} of {lo}");
    }
}
