//! The rig itself, on the real kernel: what demo, end-to-end tests and bench rely on. Needs root; run
//! serially by `cargo xtask test`. No process under test takes part: plain UDP sockets stand in for both
//! ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use jvpn_rig::capture::{Capture, Keep, Match};
use jvpn_rig::frame::Datagram;
use jvpn_rig::hold::{Holding, outer_source};
use jvpn_rig::impair::{FIRST_NAT_PORTS, Impairment, Impairments};
use jvpn_rig::inject::Injector;
use jvpn_rig::topology::{GATEWAY_WAN, LAN_SERVER, ROUTER_WAN};
use jvpn_rig::{Interrupt, Namespace, Rig, TUNNEL_PORT, Uplink, registry, tool, wait};
use nix::sys::socket::{setsockopt, sockopt};

const PATIENCE: Duration = Duration::from_secs(20);
/// What the gateway's socket may hold while nobody reads, octets: a full queue would lose what is waited for.
const QUEUE: usize = 32 << 20;
/// Long enough for a datagram to cross three veth pairs many times over.
const SILENCE: Duration = Duration::from_millis(150);

fn no_signal() -> Interrupt {
    Interrupt::default()
}

/// A client socket bound to one uplink's device, connected to the gateway.
fn client_socket(rig: &Rig, uplink: Uplink) -> UdpSocket {
    let open = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        socket.bind_device(Some(uplink.client_interface().as_bytes())).unwrap();
        UdpSocket::from(socket)
    };
    let socket = rig.client().run(open).unwrap();
    socket.connect((GATEWAY_WAN, TUNNEL_PORT)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn gateway_socket(rig: &Rig) -> UdpSocket {
    let socket = rig.gateway().run(|| UdpSocket::bind((GATEWAY_WAN, TUNNEL_PORT)).unwrap()).unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &QUEUE).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddrV4) {
    let mut buffer = [0; 2_048];
    let (len, from) = socket.recv_from(&mut buffer).expect("a datagram should have come");
    let SocketAddr::V4(from) = from else { panic!("{from} is not IPv4") };
    (buffer[..len].to_vec(), from)
}

fn nothing_comes(socket: &UdpSocket) {
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let error = socket.recv_from(&mut [0; 2_048]).expect_err("nothing should have come");
    assert!(matches!(error.kind(), std::io::ErrorKind::WouldBlock), "{error}");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
}

#[test]
#[ignore = "needs root: network namespaces"]
fn both_uplinks_reach_the_gateway_behind_their_nat_and_on_their_own_queue() {
    let rig = Rig::create().unwrap();
    rig.assert_offloads_off().unwrap();
    // The queue counters of a veth count where its NAPI runs, which GRO (like XDP) switches on.
    tool::ETHTOOL.run(Some(rig.gateway()), &["-K", "wan0", "gro", "on"]).unwrap();
    let gateway = gateway_socket(&rig);
    let mut queues_used = Vec::new();
    for uplink in Uplink::ALL {
        let before = queue_packets(rig.gateway(), "wan0");
        for _ in 0..100 {
            // A flow of its own each time: no hash decides.
            let client = client_socket(&rig, uplink);
            client.send(b"\x20hello").unwrap();
            let (payload, from) = receive(&gateway);
            assert_eq!(payload, b"\x20hello");
            assert_eq!(*from.ip(), uplink.outer_address());
            if uplink == Uplink::A {
                assert_eq!(*from.ip(), ROUTER_WAN);
                assert!(FIRST_NAT_PORTS.contains(&from.port()), "{from}");
            }
            gateway.send_to(b"\x21answer", from).unwrap();
            assert_eq!(client.recv(&mut [0; 64]).unwrap(), 7);
        }
        let after = queue_packets(rig.gateway(), "wan0");
        let busy: Vec<usize> = (0..2).filter(|queue| after[*queue] - before[*queue] >= 100).collect();
        assert_eq!(busy.len(), 1, "uplink {uplink:?}: {before:?} -> {after:?}");
        queues_used.extend(busy);
    }
    assert_ne!(queues_used[0], queues_used[1], "each uplink has a queue of its own");
    rig.remove().unwrap();
}

fn queue_packets(namespace: &Namespace, interface: &str) -> Vec<u64> {
    let text = tool::ETHTOOL.run(Some(namespace), &["-S", interface]).unwrap();
    let value = |queue: usize| {
        let name = format!("rx_queue_{queue}_xdp_packets:");
        text.lines().find_map(|line| line.trim().strip_prefix(&name)?.trim().parse().ok()).unwrap()
    };
    vec![value(0), value(1)]
}

#[test]
#[ignore = "needs root: network namespaces"]
fn lan_and_attacker_have_their_ways_and_nothing_else() {
    let rig = Rig::create().unwrap();
    let server = rig.lan().run(|| UdpSocket::bind((LAN_SERVER, 7)).unwrap()).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let from_gateway = rig.gateway().run(|| UdpSocket::bind(("192.168.50.1", 0)).unwrap()).unwrap();
    from_gateway.send_to(b"x", (LAN_SERVER, 7)).unwrap();
    receive(&server);

    let gateway = gateway_socket(&rig);
    let attacker = jvpn_rig::attacker::Attacker::new(&rig).unwrap();
    attacker.send(b"\x24forged").unwrap();
    let (payload, from) = receive(&gateway);
    assert_eq!((payload.as_slice(), from), (b"\x24forged".as_slice(), attacker.address().unwrap()));
    gateway.send_to(b"\x2a", from).unwrap();
    let answers = wait::until("an answer", PATIENCE, &no_signal(), || {
        let answers = attacker.answers();
        Ok((answers.octets > 0).then_some(answers))
    });
    assert_eq!(answers.unwrap().types, [0x2a]);
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_silent_cut_keeps_the_link_up_and_a_link_down_keeps_the_address() {
    let rig = Rig::create().unwrap();
    let impairments = Impairments::new(&rig);
    let (gateway, client) = (gateway_socket(&rig), client_socket(&rig, Uplink::A));
    client.send(b"1").unwrap();
    let (_, from) = receive(&gateway);

    impairments.start(Uplink::A, Impairment::Cut).unwrap();
    client.send(b"2").unwrap();
    nothing_comes(&gateway);
    gateway.send_to(b"3", from).unwrap();
    client.set_read_timeout(Some(SILENCE)).unwrap();
    assert!(client.recv(&mut [0; 8]).is_err());
    assert!(impairments.dropped(Uplink::A, Impairment::Cut).unwrap() >= 2);
    assert_eq!(carrier(&rig, "upA"), "1");
    // The other uplink does not notice.
    client_socket(&rig, Uplink::B).send(b"4").unwrap();
    assert_eq!(receive(&gateway).0, b"4");

    impairments.stop(Uplink::A, Impairment::Cut).unwrap();
    client.send(b"5").unwrap();
    assert_eq!(receive(&gateway).0, b"5");

    impairments.link_down(Uplink::B).unwrap();
    wait_for_carrier(&rig, "upB", "0");
    let addresses = tool::IP.run(Some(rig.client()), &["address", "show", "dev", "upB"]).unwrap();
    assert!(addresses.contains("10.0.2.2/24"), "{addresses}");
    impairments.link_up(Uplink::B).unwrap();
    wait_for_carrier(&rig, "upB", "1");
    client_socket(&rig, Uplink::B).send(b"6").unwrap();
    assert_eq!(receive(&gateway).0, b"6");
}

fn carrier(rig: &Rig, interface: &str) -> &'static str {
    let text = tool::IP.run(Some(rig.client()), &["link", "show", "dev", interface]).unwrap();
    if text.contains("LOWER_UP") { "1" } else { "0" }
}

fn wait_for_carrier(rig: &Rig, interface: &str, wanted: &str) {
    let what = format!("carrier {wanted} on {interface}");
    wait::until(&what, PATIENCE, &no_signal(), || Ok((carrier(rig, interface) == wanted).then_some(())))
        .unwrap();
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_nat_rebinding_changes_the_source_port_of_a_living_flow() {
    let rig = Rig::create().unwrap();
    let impairments = Impairments::new(&rig);
    let (gateway, client) = (gateway_socket(&rig), client_socket(&rig, Uplink::A));
    client.send(b"1").unwrap();
    let (_, before) = receive(&gateway);
    gateway.send_to(b"answer", before).unwrap();
    assert_eq!(client.recv(&mut [0; 8]).unwrap(), 6);

    impairments.rebind_nat(&(30_000..=30_099)).unwrap();
    // What the gateway still sends to the old port is lost without a word.
    gateway.send_to(b"late", before).unwrap();
    client.send(b"2").unwrap();
    let (payload, after) = receive(&gateway);
    assert_eq!(payload, b"2");
    assert!((30_000..=30_099).contains(&after.port()), "{after}");
    gateway.send_to(b"new", after).unwrap();
    assert_eq!(client.recv(&mut [0; 8]).unwrap(), 3, "only the datagram to the new port arrives");
}

#[test]
#[ignore = "needs root: network namespaces"]
fn only_the_named_message_from_the_gateway_is_lost() {
    let rig = Rig::create().unwrap();
    let impairments = Impairments::new(&rig);
    let (gateway, client) = (gateway_socket(&rig), client_socket(&rig, Uplink::B));
    client.send(b"\x24").unwrap();
    let (_, from) = receive(&gateway);
    let ack_lost = Impairment::DropFromGateway(0x25);
    impairments.start(Uplink::B, ack_lost).unwrap();
    gateway.send_to(b"\x25ack", from).unwrap();
    gateway.send_to(b"\x10data", from).unwrap();
    let mut buffer = [0; 64];
    let len = client.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"\x10data");
    assert_eq!(impairments.dropped(Uplink::B, ack_lost).unwrap(), 1);
    impairments.stop(Uplink::B, ack_lost).unwrap();
    gateway.send_to(b"\x25ack", from).unwrap();
    assert_eq!(client.recv(&mut buffer).unwrap(), 4);
}

#[test]
#[ignore = "needs root: network namespaces"]
fn held_back_data_arrives_on_release_exactly_as_the_client_sent_it() {
    let rig = Rig::create().unwrap();
    for (uplink, selective) in [(Uplink::A, false), (Uplink::B, false), (Uplink::A, true)] {
        let (gateway, client) = (gateway_socket(&rig), client_socket(&rig, uplink));
        let pump = Pump::start(client.try_clone().unwrap());
        let source = outer_source(&rig, uplink, &no_signal()).unwrap();
        let impairment = if selective { Impairment::HoldDataOfLength(9) } else { Impairment::HoldData };
        let holding = Holding::start(&rig, uplink, impairment, &no_signal()).unwrap();
        drop(pump);
        let recorded = holding.count();
        client.send(b"\x10held-00").unwrap();
        client.send(b"\x10held-001").unwrap();
        client.send(b"\x28not held").unwrap();
        holding.wait_for(recorded + 2, PATIENCE, &no_signal()).unwrap();
        let held = holding.stop().unwrap();

        drain(&gateway, b"\x28not held", &[b"\x10held-001"]);
        let injector = Injector::new(&rig).unwrap();
        let released = held.release(&injector).unwrap();
        assert_eq!(usize::try_from(released).unwrap(), held.len());
        let mut last = Vec::new();
        for _ in 0..released {
            let (payload, from) = receive(&gateway);
            assert_eq!(from, source, "the sender that the gateway knows");
            last = payload;
        }
        assert_eq!(last, b"\x10held-001");
        nothing_comes(&gateway);
        if selective {
            assert_eq!(released, 1);
        }
    }
}

/// Sends DATA until it is dropped.
struct Pump(std::sync::mpsc::Sender<()>, Option<std::thread::JoinHandle<()>>);

impl Pump {
    fn start(socket: UdpSocket) -> Self {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(Duration::from_millis(1))
                == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                socket.send(b"\x10flow").unwrap();
            }
        });
        Self(stop, Some(thread))
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        let _ = self.0.send(());
        self.1.take().map(std::thread::JoinHandle::join);
    }
}

/// Reads until `last` comes; none of `forbidden` may.
fn drain(socket: &UdpSocket, last: &[u8], forbidden: &[&[u8]]) {
    loop {
        let (payload, _) = receive(socket);
        assert!(!forbidden.contains(&payload.as_slice()), "{payload:?} was held back and yet arrived");
        if payload == last {
            return;
        }
    }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn observers_count_exactly_what_they_were_asked_for() {
    let rig = Rig::create().unwrap();
    let (gateway, client) = (gateway_socket(&rig), client_socket(&rig, Uplink::A));
    let watch = |octet| Match::arriving(TUNNEL_PORT, octet);
    let data = Capture::start(rig.gateway(), "wan0", watch(Some(0x10)), Keep::First(2)).unwrap();
    let all = Capture::start(rig.gateway(), "wan0", watch(None), Keep::Last(2)).unwrap();
    let elsewhere = Capture::start(rig.gateway(), "lan0", watch(None), Keep::Count).unwrap();
    for octet in [0x10, 0x11, 0x24, 0x10, 0x10] {
        client.send(&[octet, 1, 2, 3]).unwrap();
    }
    let mut from = None;
    for _ in 0..5 {
        from = Some(receive(&gateway).1);
    }
    gateway.send_to(&[0x10], from.unwrap()).unwrap();
    client.recv(&mut [0; 8]).unwrap();
    all.wait_for("datagrams", 5, PATIENCE, &no_signal()).unwrap();
    data.wait_for("DATA", 3, PATIENCE, &no_signal()).unwrap();
    assert_eq!((data.count(), all.count(), elsewhere.count()), (3, 5, 0));
    assert_eq!((data.frames().len(), all.frames().len()), (2, 2));
    let frames = data.frames();
    assert_eq!(Datagram::parse(&frames[0].frame).unwrap().payload, [0x10, 1, 2, 3]);
    data.complete().unwrap();
    assert!(data.wait_for("more", 4, SILENCE, &no_signal()).is_err());
}

/// R8.1: when the kernel had a frame is known, however late its observer reads it.
#[test]
#[ignore = "needs root: network namespaces"]
fn r8_1_an_observer_that_was_held_up_knows_when_frames_came() {
    const APART: Duration = Duration::from_millis(40);
    let rig = Rig::create().unwrap();
    let (gateway, client) = (gateway_socket(&rig), client_socket(&rig, Uplink::A));
    let (tell, stamps) = std::sync::mpsc::channel();
    let (let_go, hold) = std::sync::mpsc::channel::<()>();
    let wanted = Match::arriving(TUNNEL_PORT, Some(0x10));
    let capture = Capture::tap_stamped(rig.gateway(), "wan0", wanted, move |at, _| {
        tell.send(at).unwrap();
        // Every frame waits for its turn: none is read before the others have come.
        let _ = hold.recv();
    })
    .unwrap();
    let send = || {
        client.send(&[0x10]).unwrap();
        receive(&gateway);
    };
    send();
    let first = stamps.recv_timeout(PATIENCE).unwrap();
    // By then the kernel stamps frames, if nobody else had it do so.
    std::thread::sleep(APART);
    send();
    std::thread::sleep(APART);
    send();
    drop(let_go);
    let [second, third] = [(); 2].map(|()| stamps.recv_timeout(PATIENCE).unwrap());
    assert!(second >= first && third.since(second) >= APART, "{first:?} {second:?} {third:?}");
    capture.complete().unwrap();
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_rig_is_removed_with_its_processes_on_drop_and_on_panic() {
    let rig = Rig::create().unwrap();
    let id = rig.id().to_owned();
    let log = std::env::temp_dir().join(format!("jvpn-rig-test-{id}"));
    let mut process = rig.start("sleeper", rig.lan(), sleeper(), &log).unwrap();
    process.check().unwrap();
    let pid = process.pid();
    process.release();
    drop(rig);
    assert_nothing_is_left_of(&id);
    assert!(!is_running(pid), "the process was left behind");
    std::fs::remove_file(log).unwrap();

    let seen = std::sync::Mutex::new(String::new());
    let panicked = std::panic::catch_unwind(|| {
        let rig = Rig::create().unwrap();
        seen.lock().unwrap().push_str(rig.id());
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    assert!(panicked.is_err());
    assert_nothing_is_left_of(&seen.into_inner().unwrap());
}

fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("600");
    command
}

fn is_running(pid: u32) -> bool {
    registry::ProcessId::of(pid).is_ok_and(registry::ProcessId::is_alive)
}

fn assert_nothing_is_left_of(id: &str) {
    assert_eq!(namespaces_of(id), Vec::<String>::new());
    assert!(!std::path::Path::new(registry::REGISTRY_DIR).join(id).exists());
}

fn namespaces_of(id: &str) -> Vec<String> {
    let listing = std::fs::read_dir(jvpn_rig::netns::NETNS_DIR).unwrap();
    let prefix = format!("jvpn-{id}-");
    listing
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|n| n.starts_with(&prefix))
        .collect()
}

const CHILD_SAYS: &str = "rig is up: ";

/// No test of its own: the process that the next one kills.
#[test]
#[ignore = "needs root: started by the sweep test, does nothing alone"]
fn owner_that_will_be_killed() {
    if std::env::var_os("JVPN_RIG_TEST_OWNER").is_none() {
        return;
    }
    let rig = Rig::create().unwrap();
    let log = rig.dir().join("sleeper.log");
    let process = rig.start("sleeper", rig.client(), sleeper(), &log).unwrap();
    println!("{CHILD_SAYS}{} {}", rig.id(), process.pid());
    loop {
        // May return for no reason.
        std::thread::park();
    }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn what_a_killed_owner_left_is_swept_and_what_is_owned_or_kept_is_not() {
    use std::io::{BufRead, BufReader};
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner_that_will_be_killed", "--ignored", "--nocapture"])
        .env("JVPN_RIG_TEST_OWNER", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let line = lines.map_while(Result::ok).find_map(|l| Some(l.split_once(CHILD_SAYS)?.1.to_owned()));
    let line = line.expect("the owner should have built its rig");
    let (id, pid) = line.split_once(' ').unwrap();
    let pid: u32 = pid.trim().parse().unwrap();

    let swept = registry::sweep().unwrap();
    assert!(!swept.removed.contains(&id.to_owned()), "its owner lives");
    assert_eq!(namespaces_of(id).len(), 5);

    owner.kill().unwrap();
    owner.wait().unwrap();
    assert!(is_running(pid), "a killed owner cannot clean up");
    let swept = registry::sweep().unwrap();
    assert!(swept.removed.contains(&id.to_owned()));
    assert_nothing_is_left_of(id);
    assert!(!is_running(pid));
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_kept_rig_stays_until_it_is_removed_by_name() {
    let mut rig = Rig::create().unwrap();
    let id = rig.id().to_owned();
    rig.keep().unwrap();
    drop(rig);
    registry::sweep().unwrap();
    assert_eq!(namespaces_of(&id).len(), 5);
    registry::remove(&id).unwrap();
    assert_nothing_is_left_of(&id);
}
