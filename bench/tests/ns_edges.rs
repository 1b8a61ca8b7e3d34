//! What the edges do with headers, outside IPv4 and IPv6, inside both, both directions, with AF_XDP and with plain sockets:
//! congestion marks (RFC 6040), fragments inside and outside, and packets that a small path does not carry. Needs root
//! and the binaries; run serially by `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::fs;
use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use jvpn_bench::deployment::{self, Deployment, Places, Role, Settings};
use jvpn_rig::dual::{GATEWAY_WAN_V6, LAN_SERVER_V6};
use jvpn_rig::impair::Impairments;
use jvpn_rig::tool::{IP, NFT};
use jvpn_rig::topology::{GATEWAY_WAN, LAN_SERVER};
use jvpn_rig::{Interrupt, Namespace, Rig, TUNNEL_PORT, Uplink, wait};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);
/// How long a packet through the tunnel may take.
const ARRIVAL: Duration = Duration::from_secs(2);
/// After how long a packet that may be lost to an unknown neighbour is sent again.
const AGAIN: Duration = Duration::from_millis(200);
/// How long a packet that was counted as lost is waited for all the same.
const AFTERWARDS: Duration = Duration::from_millis(100);
const CLIENT: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2)), IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2))];
const SERVER: [IpAddr; 2] = [IpAddr::V4(LAN_SERVER), IpAddr::V6(LAN_SERVER_V6)];

/// The two bits (RFC 3168 §5).
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

struct Lab {
    deployment: Deployment,
    rig: Rig,
    places: Places,
    interrupt: Interrupt,
    _out: TempDir,
}

impl Lab {
    fn start(mode: &str) -> Self {
        Self::start_over(mode, |_| {})
    }

    /// `prepare` changes the network before anything runs in it.
    fn start_over(mode: &str, prepare: impl FnOnce(&Rig)) -> Self {
        let out = tempfile::tempdir().unwrap();
        let bin_dir = deployment::find_programs().unwrap();
        let settings = Settings { bin_dir, out_dir: out.path().to_owned(), max_switches_per_min: Some(60) };
        let rig = Rig::create().unwrap();
        rig.add_ipv6().unwrap();
        prepare(&rig);
        let places = deployment::prepare(&rig, &settings).unwrap();
        for role in Role::ALL {
            let path = places.config_dir.join(role.config_file());
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, edited(role, text, mode)).unwrap();
        }
        let deployment = Deployment::new(&settings, &places);
        let mut lab = Self { deployment, rig, places, interrupt: Interrupt::default(), _out: out };
        for role in [Role::DataPlane, Role::ControlPlane, Role::Client] {
            lab.deployment.launch(&lab.rig, role, &lab.interrupt).unwrap();
        }
        lab.attached(GATEWAY_WAN.into());
        lab
    }

    fn client(&self) -> Value {
        jvpn_host::status::query(&self.places.client_socket(), "status").unwrap()
    }

    fn data_plane(&self) -> Value {
        jvpn_host::status::query(&self.places.data_plane_socket(), "status").unwrap()
    }

    fn attached(&mut self, gateway: IpAddr) {
        let remote = SocketAddr::new(gateway, TUNNEL_PORT).to_string();
        let Self { deployment, places, interrupt, .. } = &mut *self;
        let found = wait::until("a path to the gateway", PATIENCE, interrupt, || {
            deployment.check()?;
            let status = jvpn_host::status::query(&places.client_socket(), "status")?;
            let good = status["state"] == "ATTACHED"
                && status["path"]["remote"] == remote.as_str()
                && status["path"]["proven"] == true;
            Ok(good.then_some(()))
        });
        found.unwrap_or_else(|error| {
            panic!("{error:#}\n{:#}\n{}", self.client(), self.deployment.last_words())
        });
    }

    /// What the router does to the mark of what it forwards of the tunnel: a rule for each family, e.g. `ecn set ce`.
    fn path(&self, rules: &[&str]) {
        let mut text = "table inet marks {}\ndelete table inet marks\n".to_owned();
        text += "table inet marks {\n  chain forward {\n    type filter hook forward priority 10;\n";
        for rule in rules {
            for family in ["ip", "ip6"] {
                let rule = rule.replace("ecn", &format!("{family} ecn"));
                let version = if family == "ip" { "ipv4" } else { "ipv6" };
                for way in ["dport", "sport"] {
                    text += &format!("    meta nfproto {version} udp {way} {TUNNEL_PORT} {rule}\n");
                }
            }
        }
        text += "  }\n}\n";
        NFT.run_with_input(Some(self.rig.router()), &["-f", "-"], &text).unwrap();
    }

    /// Sends a packet with this mark through the tunnel; the mark that it arrives with, if it does.
    fn carried(&self, way: Way, family: usize, mark: u8) -> Option<u8> {
        received(&self.sent(way, family, mark))
    }

    /// Sends a packet with this mark through the tunnel; where it should arrive.
    fn sent(&self, way: Way, family: usize, mark: u8) -> UdpSocket {
        let (client, lan) = (self.rig.client(), self.rig.lan());
        let (from, to, source, target) = match way {
            Way::Up => (client, lan, CLIENT[family], SERVER[family]),
            Way::Down => (lan, client, SERVER[family], CLIENT[family]),
        };
        let receiver = bound(to, target);
        let sender = bound(from, source);
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        set_mark(&sender, mark);
        sender.send(&[0; 600]).unwrap();
        receiver
    }

    /// Waits until something is counted that is on its way.
    fn counted(&self, what: &str, is_counted: impl Fn() -> bool) {
        let waited = wait::until(what, PATIENCE, &self.interrupt, || Ok(is_counted().then_some(())));
        waited.unwrap_or_else(|error| panic!("{error:#}\n{:#}\n{:#}", self.client(), self.data_plane()));
    }

    /// Sends a packet with so many octets of payload through the tunnel; whether it arrives whole.
    fn carries(&self, way: Way, family: usize, payload: usize, discovery: Ipv4PathMtuDiscovery) -> bool {
        self.sized(way, family, payload, discovery).arrives()
    }

    /// Sends a packet with so many octets of payload through the tunnel.
    fn sized(&self, way: Way, family: usize, payload: usize, discovery: Ipv4PathMtuDiscovery) -> OfSize {
        let (client, lan) = (self.rig.client(), self.rig.lan());
        let (from, to, source, target) = match way {
            Way::Up => (client, lan, CLIENT[family], SERVER[family]),
            Way::Down => (lan, client, SERVER[family], CLIENT[family]),
        };
        let receiver = bound(to, target);
        let sender = bound(from, source);
        if family == 0 {
            set_ip_mtu_discover(&sender, discovery).unwrap();
        }
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        let octets: Vec<u8> = (0..payload).map(|at| at as u8).collect();
        // Refused at once where the host has learned what fits.
        let _told = sender.send(&octets);
        OfSize { _sender: sender, receiver, octets }
    }

    fn counter(&self, name: &str) -> u64 {
        self.client()["counters"][name].as_u64().unwrap()
    }

    /// Waits until the client's path carries packets of so many octets.
    fn carries_at_most(&mut self, octets: u64) {
        let Self { deployment, places, interrupt, .. } = &mut *self;
        let found = wait::until("the size of the path", PATIENCE, interrupt, || {
            deployment.check()?;
            let status = jvpn_host::status::query(&places.client_socket(), "status")?;
            Ok((status["mtu"] == octets).then_some(()))
        });
        found.unwrap_or_else(|error| panic!("{error:#}\n{:#}", self.client()));
    }

    /// Ends everything in order: the data plane has all its frames.
    fn finish(mut self) {
        self.deployment.end_all().unwrap();
    }

    /// Until every neighbour on the way is known: the first packets to one may be lost.
    fn warm_up(&self) {
        every_way(|way, family| {
            let came = (0..50).any(|_| {
                let receiver = self.sent(way, family, NOT_ECT);
                receiver.set_read_timeout(Some(AGAIN)).unwrap();
                received(&receiver).is_some()
            });
            assert!(came, "{way:?}, inner {family}: nothing gets through\n{:#}", self.data_plane());
        });
    }

    /// Sum of what both ends dropped because the path was congested and the packet could not say so.
    fn lost(&self, way: Way) -> u64 {
        match way {
            Way::Down => self.client()["counters"]["congestion_lost"].as_u64().unwrap(),
            Way::Up => self.of_workers("congestion_lost"),
        }
    }

    /// The sum of a counter of all workers.
    fn of_workers(&self, counter: &str) -> u64 {
        let status = self.data_plane();
        let workers = status["workers"].as_array().unwrap();
        workers.iter().map(|worker| worker["counters"][counter].as_u64().unwrap_or(0)).sum()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // It may have ended already.
            let client = jvpn_host::status::query(&self.places.client_socket(), "status").unwrap_or_default();
            eprintln!("{client:#}\n{}", self.deployment.last_words());
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// A packet that was sent, and where it should arrive.
struct OfSize {
    /// Who hears what does not fit.
    _sender: UdpSocket,
    receiver: UdpSocket,
    octets: Vec<u8>,
}

impl OfSize {
    /// Whether it arrives whole.
    fn arrives(&self) -> bool {
        let mut buffer = vec![0; 1 << 16];
        self.receiver.recv(&mut buffer).is_ok_and(|len| buffer[..len] == self.octets)
    }

    /// Whether it does so after it was counted as lost.
    fn arrives_late(&self) -> bool {
        self.receiver.set_read_timeout(Some(AFTERWARDS)).unwrap();
        self.arrives()
    }
}

fn bound(namespace: &Namespace, address: IpAddr) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind((address, 0))).unwrap().unwrap();
    if address.is_ipv4() {
        setsockopt(&socket, sockopt::IpRecvTos, &true).unwrap();
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvTClass, &true).unwrap();
    }
    socket.set_read_timeout(Some(ARRIVAL)).unwrap();
    socket
}

fn set_mark(socket: &UdpSocket, mark: u8) {
    let value = i32::from(mark);
    if socket.local_addr().unwrap().is_ipv4() {
        setsockopt(socket, sockopt::Ipv4Tos, &value).unwrap();
    } else {
        setsockopt(socket, sockopt::Ipv6TClass, &value).unwrap();
    }
}

/// The mark of the next packet, if one comes in time.
fn received(socket: &UdpSocket) -> Option<u8> {
    let (mut buffer, mut space) = ([0; 2_048], nix::cmsg_space!(i32));
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let got = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty()).ok()?;
    let mark = got.cmsgs().unwrap().find_map(|message| {
        if let ControlMessageOwned::Ipv4Tos(tos) = message {
            Some(tos & 3)
        } else if let ControlMessageOwned::Ipv6TClass(class) = message {
            Some(class as u8 & 3)
        } else {
            None
        }
    });
    Some(mark.expect("a mark was asked for"))
}

fn edited(role: Role, text: String, mode: &str) -> String {
    let v6 = "[tunnel]\ngateway_address_v6 = \"fd77::1\"\npool_v6 = \"fd77::/64\"\n";
    match role {
        Role::DataPlane => {
            text.replace("[tunnel]\n", v6).replace("workers = 2", &format!("workers = 2\nmode = \"{mode}\""))
        }
        Role::ControlPlane => text
            .replace("[tunnel]\n", v6)
            .replace("routes = [\"192.168.50.0/24\"]", "routes = [\"192.168.50.0/24\", \"2001:db8:50::/64\"]")
            .replace("addresses = [\"10.77.0.2/32\"]", "addresses = [\"10.77.0.2/32\", \"fd77::2/128\"]"),
        Role::Client => text.replace(
            "\n[[uplink]]\ndevice = \"upA\"",
            &format!(
                "second_endpoint = \"[{GATEWAY_WAN_V6}]:{TUNNEL_PORT}\"\n\n[[uplink]]\ndevice = \"upA\""
            ),
        ),
    }
}

fn every_way(mut check: impl FnMut(Way, usize)) {
    for way in [Way::Up, Way::Down] {
        for family in 0..2 {
            check(way, family);
        }
    }
}

/// All that RFC 6040 asks of the path that is bound now.
fn check(lab: &Lab, outside: &str) {
    lab.path(&[]);
    lab.warm_up();
    every_way(|way, family| {
        for mark in [NOT_ECT, ECT_1, ECT_0, CE] {
            let what = format!("{outside}, {way:?}, inner {family}: nothing marks");
            assert_eq!(lab.carried(way, family, mark), Some(mark), "{what}");
        }
    });
    // As a router does that marks instead of dropping: only what says outside that it understands.
    lab.path(&["ecn != not-ect ecn set ce"]);
    every_way(|way, family| {
        let what = format!("{outside}, {way:?}, inner {family}: the path marks");
        for (mark, arrives) in [(NOT_ECT, NOT_ECT), (ECT_1, CE), (ECT_0, CE), (CE, CE)] {
            assert_eq!(lab.carried(way, family, mark), Some(arrives), "{what}");
        }
    });
    // One that marks whatever comes: what cannot say so is dropped, as by a congested router, and counted.
    lab.path(&["ecn set ce"]);
    every_way(|way, family| {
        let what = format!("{outside}, {way:?}, inner {family}: everything is marked");
        let before = lab.lost(way);
        assert_eq!(lab.carried(way, family, ECT_0), Some(CE), "{what}");
        let receiver = lab.sent(way, family, NOT_ECT);
        lab.counted(&format!("{what}: counted"), || lab.lost(way) > before);
        receiver.set_read_timeout(Some(AFTERWARDS)).unwrap();
        assert_eq!(received(&receiver), None, "{what}");
    });
    lab.path(&[]);
}

fn both_families_outside(mode: &str) {
    let mut lab = Lab::start(mode);
    check(&lab, &format!("{mode}, IPv4"));
    for uplink in Uplink::ALL {
        lab.rig.set_outer_address(uplink, uplink.client_address().into(), false).unwrap();
    }
    lab.attached(GATEWAY_WAN_V6.into());
    check(&lab, &format!("{mode}, IPv6"));
    lab.finish();
}

/// R9.1, R7.1: marks of the path arrive inside, those of the inner packet outside: gateway on AF_XDP.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_congestion_marks_cross_the_tunnel() {
    both_families_outside("require-native");
}

/// R9.1, R7.1: the same with plain sockets at the gateway.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_congestion_marks_cross_plain_sockets() {
    both_families_outside("no-af-xdp");
}

/// Datagrams of the tunnel in fragments, or such that routers may cut, which the router has seen since this was asked first.
fn outer_fragments(lab: &Lab) -> u64 {
    let list = NFT.run(Some(lab.rig.router()), &["list", "ruleset"]).unwrap();
    if !list.contains("table inet whole") {
        let rules = format!(
            "table inet whole {{\nchain seen {{\ntype filter hook prerouting priority -450;\n\
             iifname {{ rA, rB, rW }} ip frag-off & 0x3fff != 0 counter\n\
             iifname {{ rA, rB, rW }} ip frag-off & 0x4000 == 0 udp dport {TUNNEL_PORT} counter\n\
             iifname {{ rA, rB, rW }} ip frag-off & 0x4000 == 0 udp sport {TUNNEL_PORT} counter\n\
             iifname {{ rA, rB, rW }} exthdr frag exists counter\n}}\n}}\n"
        );
        NFT.run_with_input(Some(lab.rig.router()), &["-f", "-"], &rules).unwrap();
        return 0;
    }
    let list = NFT.run(Some(lab.rig.router()), &["list", "table", "inet", "whole"]).unwrap();
    let counts =
        list.split("counter packets ").skip(1).filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    counts.sum()
}

/// A datagram of so many octets to the gateway's port, which leaves in fragments; its first octet is a type.
fn strike(lab: &Lab, to: IpAddr, kind: u8, octets: usize) {
    let from: IpAddr =
        if to.is_ipv4() { Uplink::B.client_address().into() } else { Uplink::B.client_address_v6().into() };
    let socket = lab.rig.client().run(|| UdpSocket::bind((from, 0))).unwrap().unwrap();
    socket.send_to(&vec![kind; octets], (to, TUNNEL_PORT)).unwrap();
}

fn fragments(mode: &str) {
    let mut lab = Lab::start(mode);
    lab.warm_up();
    assert_eq!(outer_fragments(&lab), 0);
    // Inside: fragments of hosts are packets like others, both ways and in both families.
    every_way(|way, family| {
        let what = format!("{mode}, {way:?}, inner {family}");
        let came = (0..5).any(|_| lab.carries(way, family, 4_000, Ipv4PathMtuDiscovery::DONT));
        assert!(came, "{what}: a datagram of 4,000 octets in fragments");
    });
    assert_eq!(outer_fragments(&lab), 0, "{mode}: no fragment outside, and none that a router may make");

    // Outside: nobody of ours sends them.
    let refused = |lab: &Lab| lab.data_plane()["xdp_counters"]["odd_headers"].as_u64().unwrap_or(0);
    let before = (lab.client()["session_id"].clone(), refused(&lab));
    let mut sent = 0;
    for to in [IpAddr::from(GATEWAY_WAN), GATEWAY_WAN_V6.into()] {
        for kind in [0x10, 0x20, 0x24, 0x28, 0x2c] {
            for octets in [1_600, 9_000] {
                strike(&lab, to, kind, octets);
                sent += 1;
            }
        }
    }
    if mode != "no-af-xdp" {
        let Lab { places, interrupt, .. } = &mut lab;
        wait::until("every first fragment being refused", PATIENCE, interrupt, || {
            let status = jvpn_host::status::query(&places.data_plane_socket(), "status")?;
            let count = status["xdp_counters"]["odd_headers"].as_u64().unwrap_or(0);
            Ok((count >= before.1 + sent).then_some(()))
        })
        .unwrap();
        assert_eq!(refused(&lab), before.1 + sent, "{mode}: one for each datagram, in both families");
    }
    lab.warm_up();
    assert_eq!(lab.client()["session_id"], before.0, "{mode}: the session does not mind");
    lab.finish();
}

/// R0.5, R3.2: fragments at the gateway: those inside are carried, those outside refused by XDP and counted.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r0_5_fragments_inside_pass_and_outside_are_refused() {
    fragments("require-native");
}

/// R0.5, R3.2: the same with plain sockets, where the kernel puts the outer ones together and the pipeline drops them.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r0_5_fragments_pass_plain_sockets_inside_only() {
    fragments("no-af-xdp");
}

/// R9.2: on a path of 1,280 octets, what fits 1,280 inside but not the path: IPv4 is cut where its sender allows it, and
/// otherwise its sender hears what fits and sends that; IPv6 senders are told, too. Everything is counted.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_2_what_a_small_path_does_not_carry_is_cut_or_told() {
    let mut lab = Lab::start_over("require-native", |rig| {
        for device in ["rA", "rB"] {
            IP.run(Some(rig.router()), &["link", "set", device, "mtu", "1280"]).unwrap();
        }
    });
    lab.carries_at_most(1_220);
    lab.warm_up();
    // 1,268 octets with their headers.
    const PAYLOAD: usize = 1_240;
    let cut = lab.counter("inner_cut");
    assert!(lab.carries(Way::Up, 0, PAYLOAD, Ipv4PathMtuDiscovery::DONT), "in pieces");
    assert_eq!(lab.counter("inner_cut"), cut + 1);

    let lost = lab.counter("inner_too_big");
    let first = lab.sized(Way::Up, 0, PAYLOAD, Ipv4PathMtuDiscovery::WANT);
    lab.counted("the first one is lost and its sender told", || {
        lab.counter("inner_too_big") > lost && lab.counter("too_big_told") > 0
    });
    assert!(!first.arrives_late());
    assert!(
        lab.carries(Way::Up, 0, PAYLOAD, Ipv4PathMtuDiscovery::WANT),
        "the host was told and cuts itself"
    );

    let lost = (lab.counter("inner_too_big"), lab.counter("too_big_told"));
    let first = lab.sized(Way::Up, 1, PAYLOAD - 20, Ipv4PathMtuDiscovery::WANT);
    lab.counted("IPv6 is not carried, and its sender told", || {
        lab.counter("inner_too_big") > lost.0 && lab.counter("too_big_told") > lost.1
    });
    assert!(!first.arrives_late());

    assert!(lab.carries(Way::Down, 0, PAYLOAD, Ipv4PathMtuDiscovery::DONT), "the gateway cuts as well");
    assert!((0..3).any(|_| lab.carries(Way::Down, 0, PAYLOAD, Ipv4PathMtuDiscovery::WANT)), "or tells");
    lab.finish();
}

/// R9.2: a LAN takes less than the tunnel carries from one moment to the next: the client's host hears what fits and sends
/// that.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_2_what_a_small_lan_does_not_take_is_told() {
    let lab = Lab::start("require-native");
    lab.warm_up();
    // 1,268 octets with their headers.
    const PAYLOAD: usize = 1_240;
    assert!(lab.carries(Way::Up, 0, PAYLOAD, Ipv4PathMtuDiscovery::WANT));
    let told = || lab.of_workers("icmp_error_sent");
    let before = told();
    IP.run(Some(lab.rig.gateway()), &["link", "set", "lan0", "mtu", "1200"]).unwrap();
    // Until the data plane has heard of it packets pass: the other end of a veth takes what its own MTU says.
    lab.counted("the first one that the LAN does not take", || {
        drop(lab.sized(Way::Up, 0, PAYLOAD, Ipv4PathMtuDiscovery::WANT));
        told() > before
    });
    let again = told();
    let arrived = (0..5).any(|_| lab.carries(Way::Up, 0, PAYLOAD, Ipv4PathMtuDiscovery::WANT));
    assert!(arrived, "the host was told and cuts itself");
    assert!(told() <= again + 1, "what fits is not refused");
    lab.finish();
}

/// R7.1, R3.1: with plain sockets a client behind a NAT that has changed its mind gets a path hint, as with XDP.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r7_1_plain_sockets_bring_a_hint() {
    let mut lab = Lab::start("no-af-xdp");
    lab.warm_up();
    let hints = lab.counter("path_hints");
    let session = lab.client()["session_id"].clone();
    Impairments::new(&lab.rig).rebind_nat(&(30_000..=30_099)).unwrap();
    // What is sent now comes from a port that no binding knows.
    for _ in 0..5 {
        let _lost = lab.carried(Way::Up, 0, NOT_ECT);
    }
    lab.counted("a path hint", || lab.counter("path_hints") > hints);
    lab.attached(GATEWAY_WAN.into());
    assert!(lab.data_plane()["xdp_counters"]["unbound_sampled"].as_u64().unwrap() > 0);
    assert_eq!(lab.client()["session_id"], session, "R1.2");
    assert!(lab.carried(Way::Up, 0, NOT_ECT).is_some());
    lab.finish();
}
