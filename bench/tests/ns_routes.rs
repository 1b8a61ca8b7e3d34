//! Sites behind clients, policy between them, the host's routes, its stack as LAN, and what a data plane leaves alone:
//! with the real processes in real namespaces. Needs root and the binaries; run serially by `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

#[allow(dead_code, reason = "shared with the tests of resilience")]
#[path = "ns_resilience/lab.rs"]
mod lab;
#[path = "ns_routes/sites.rs"]
mod sites;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use jvpn_bench::deployment::{self, Role};
use jvpn_rig::tool::{IP, NFT};
use jvpn_rig::topology::{GATEWAY_LAN, LAN_SERVER};
use jvpn_rig::{Rig, wait};
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};

use lab::{Lab, PATIENCE, worker_counter};
use sites::{
    FIRST, FIRST_SITE, LAN_TO_SITES, SECOND, SECOND_SITE, Sites, Stream, bind, carries, denied, tcp_carries,
};

/// Where clients reach the gateway host itself.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
/// The LAN into the host's own stack, masqueraded.
const HOST_LAN: &str = "interface = \"jvpn-lan\"\n\n[lan.host]\ninterface = \"jvpn-host\"\n\
                        addresses = [\"10.78.0.1/32\"]\nmasquerade = true\n";

/// What the host's routing table has of ours.
fn site_routes(rig: &Rig) -> String {
    IP.run(Some(rig.gateway()), &["route", "show", "proto", "74"]).unwrap()
}

fn links(rig: &Rig) -> Vec<String> {
    let shown = IP.run(Some(rig.gateway()), &["-brief", "link"]).unwrap();
    let ours = shown.lines().filter(|line| line.starts_with("jvpn"));
    ours.map(|line| line.split_whitespace().next().unwrap_or_default().to_owned()).collect()
}

/// Nothing of a data plane is left in the gateway's namespace.
fn nothing_is_left(rig: &Rig) {
    assert_eq!(links(rig), Vec::<String>::new());
    assert_eq!(site_routes(rig), "");
    let tables = NFT.run(Some(rig.gateway()), &["list", "tables"]).unwrap();
    assert!(!tables.contains("jvpn"), "{tables}");
    let wan = IP.run(Some(rig.gateway()), &["link", "show", "dev", "wan0"]).unwrap();
    assert!(!wan.contains("prog/xdp"), "{wan}");
}

/// Every frame of every port is in its rings once the worker rests: none was lost by a verdict. Two may be in its hand.
fn assert_frames_are_conserved(lab: &Lab) {
    lab.deployment_rests(|status| {
        status["workers"].as_array().unwrap().iter().all(|worker| {
            ["wan", "lan"].iter().all(|side| {
                let rings = &worker["rings"][side];
                let of = |key: &str| rings[key].as_u64().unwrap();
                of("free") + of("tx") + of("completion") + 2 >= of("size")
                    && of("fill") + of("rx") == of("size")
            })
        })
    });
}

impl Lab {
    /// Waits until the data plane's status is as wanted.
    fn deployment_rests(&self, wanted: impl Fn(&serde_json::Value) -> bool) {
        let rests = wait::until("every frame is in a ring", PATIENCE, &self.interrupt, || {
            Ok(wanted(&self.data_plane_status()).then_some(()))
        });
        rests.unwrap_or_else(|error| panic!("{error:#}\n{:#}", self.data_plane_status()));
    }

    /// Runs a data plane that is to refuse, with the configuration changed.
    fn refused_data_plane(&self, edit: impl Fn(String) -> String) -> String {
        let file = self.places.config_dir.join(Role::DataPlane.config_file());
        let text = edit(fs::read_to_string(&file).unwrap().replace(".sock\"", "-2.sock\""));
        let second = file.with_file_name("second.toml");
        fs::write(&second, text).unwrap();
        let mut command = Command::new(deployment::find_programs().unwrap().join("jvpn-dataplane"));
        command.arg("--config").arg(second);
        let Output { status, stderr, .. } = self.rig.gateway().run(|| command.output()).unwrap().unwrap();
        let said = String::from_utf8_lossy(&stderr).into_owned();
        assert!(!status.success(), "{said}");
        said
    }

    /// Sends what a client has for a host until the gateway answers that there is no route.
    fn await_no_route(&self, host: Ipv4Addr) {
        let counted = || worker_counter(&self.data_plane_status(), "no_route");
        let before = counted();
        let near = bind(self.rig.client(), FIRST);
        // Who asks for it hears what a connection would survive, too.
        setsockopt(&near, sockopt::Ipv4RecvErr, &true).unwrap();
        near.connect((host, 9)).unwrap();
        let told = wait::until("the client is told", PATIENCE, &self.interrupt, || {
            // While there is a way it arrives, and nobody is at that port.
            let _told_of_the_last = near.send(b"is there a way?");
            let said = near.recv(&mut [0; 64]).err().and_then(|error| error.raw_os_error());
            Ok((said == Some(nix::libc::ENETUNREACH)).then_some(()))
        });
        told.unwrap_or_else(|error| panic!("{host}: {error:#}\n{:#}", self.data_plane_status()));
        assert!(counted() > before, "{host}: told by somebody else");
    }

    fn signal(&mut self, signal: Signal) {
        if signal == Signal::SIGKILL {
            self.kill(Role::DataPlane);
        } else {
            self.deployment.end_for_restart().unwrap();
        }
    }
}

/// R0.2: two sites behind two clients reach each other through the gateway where policy allows it, by TCP and UDP, long
/// packets too, without a turn over the LAN.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r0_2_sites_reach_each_other_through_the_gateway() {
    let sites = Sites::attached(|lab| {
        lab.edit(Role::DataPlane, "[tunnel]\n", "[tunnel]\nclient_to_client = true\n");
    });
    let (first, second) = (sites.lab.rig.client(), &sites.second);
    for (from, to) in [
        ((first, FIRST), (second, SECOND)),
        ((first, FIRST_SITE), (second, SECOND_SITE)),
        ((second, SECOND_SITE), (first, FIRST_SITE)),
        ((second, SECOND), (first, FIRST_SITE)),
    ] {
        carries(from, to);
        tcp_carries(from, to);
    }
    let status = sites.lab.data_plane_status();
    assert!(worker_counter(&status, "turned_round") > 100, "{status:#}");
    assert_eq!(worker_counter(&status, "client_to_client_denied"), 0);
    assert_frames_are_conserved(&sites.lab);
    sites.finish();
}

/// R0.2: where policy denies it, neither a client nor its site is reached, not even by a LAN that sends a site's packets
/// back to the gateway; the sender is told. A host of the LAN cannot send as a site.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r0_2_sites_are_denied_over_the_lan_too() {
    let sites = Sites::attached(|_| ());
    let (rig, first, second) = (&sites.lab.rig, sites.lab.rig.client(), &sites.second);
    // The round trip: the gateway's LAN has a router for everything, which sends sites back.
    for network in LAN_TO_SITES {
        IP.run(Some(rig.gateway()), &["route", "add", network, "via", "192.168.50.10", "dev", "lan0"])
            .unwrap();
        IP.run(Some(rig.lan()), &["route", "add", network, "via", "192.168.50.1", "dev", "eth0"]).unwrap();
    }
    for (from, to) in [
        ((first, FIRST), (second, SECOND)),
        ((first, FIRST), (second, SECOND_SITE)),
        ((second, SECOND_SITE), (first, FIRST_SITE)),
    ] {
        denied(from, to);
    }
    carries((first, FIRST), (rig.lan(), LAN_SERVER));
    carries((second, SECOND_SITE), (rig.lan(), LAN_SERVER));

    // As a site, from the LAN: the client hears the honest one only.
    IP.run(Some(rig.lan()), &["address", "add", "10.5.0.9/32", "dev", "lo"]).unwrap();
    let ear = bind(first, FIRST);
    let spoofer = bind(rig.lan(), Ipv4Addr::new(10, 5, 0, 9));
    let honest = bind(rig.lan(), LAN_SERVER);
    let before = worker_counter(&sites.lab.data_plane_status(), "inner_source_denied");
    for _ in 0..20 {
        spoofer.send_to(b"spoofed", ear.local_addr().unwrap()).unwrap();
        honest.send_to(b"honest", ear.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 64];
        let (len, from) = ear.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from.ip()), (&b"honest"[..], IpAddr::V4(LAN_SERVER)));
    }
    let status = sites.lab.data_plane_status();
    assert_eq!(worker_counter(&status, "inner_source_denied") - before, 20, "{status:#}");
    assert!(worker_counter(&status, "client_to_client_denied") > 0);
    assert_eq!(worker_counter(&status, "turned_round"), 0);
    assert_frames_are_conserved(&sites.lab);
    sites.finish();
}

/// R0.2: packets for the LAN follow the main table as it changes. A multipath route leads by its first next hop; what
/// is refused under a default route goes nowhere, unless a cheaper route leads there; IPv4 goes by a router of IPv6.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r0_2_the_lan_is_routed_as_the_main_table_says() {
    let mut lab = Lab::prepare();
    lab.rig.add_ipv6().unwrap();
    lab.edit(Role::ControlPlane, "routes = [", "routes = [\"172.16.0.0/12\", ");
    let [plain, refused, by_ipv6] = [16, 17, 18].map(|network| Ipv4Addr::new(172, network, 0, 1));
    for host in [plain, refused, by_ipv6] {
        IP.run(Some(lab.rig.lan()), &["address", "add", &format!("{host}/32"), "dev", "lo"]).unwrap();
    }
    // They are reached by a router alone: nobody answers ARP for them.
    lab.rig.lan().sysctl("net/ipv4/conf/all/arp_ignore", "1").unwrap();
    lab.launch_all();
    let reaches = |host| carries((lab.rig.client(), FIRST), (lab.rig.lan(), host));
    let route = |line: &str| {
        let words: Vec<&str> = ["route"].into_iter().chain(line.split(' ')).collect();
        IP.run(Some(lab.rig.gateway()), &words).unwrap();
    };
    // The default route by the WAN is none for the LAN. Nobody is at the second next hop.
    lab.await_no_route(plain);
    route("add default metric 500 nexthop via 192.168.50.10 dev lan0 nexthop via 192.168.50.11 dev lan0");
    reaches(plain);
    reaches(refused);
    route("add unreachable 172.17.0.0/16 metric 100");
    lab.await_no_route(refused);
    reaches(plain);
    route("add 172.17.0.0/16 via 192.168.50.10 dev lan0 metric 50");
    reaches(refused);
    route("delete 172.17.0.0/16 metric 50");
    lab.await_no_route(refused);
    route("delete unreachable 172.17.0.0/16 metric 100");
    reaches(refused);
    route("delete default metric 500");
    lab.await_no_route(plain);
    route("add 172.18.0.0/16 via inet6 2001:db8:50::10 dev lan0");
    reaches(by_ipv6);
    lab.await_no_route(plain);
    assert_frames_are_conserved(&lab);
    lab.finish();
}

/// R9.1, R1.2: the host's own stack as LAN: it reaches sites as long as ROUTES has them, whoever leaves it is masqueraded, a
/// restart keeps the pair and the host's connections, a crash leaves nothing that the next start does not mend.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_the_host_reaches_sites_and_keeps_its_pair_over_restarts() {
    let mut sites = Sites::attached(|lab| {
        lab.edit(Role::DataPlane, "interface = \"lan0\"\n", HOST_LAN);
        lab.edit(Role::ControlPlane, "routes = [", "routes = [\"10.78.0.1/32\", ");
        // Nobody notices a restart.
        lab.edit(Role::ControlPlane, "preset = \"edge\"", "preset = \"edge\"\nprobe_traffic = \"20s\"");
        // Without masquerading nothing would come back.
        IP.run(Some(lab.rig.lan()), &["route", "delete", "10.77.0.0/16"]).unwrap();
    });
    sites.await_route("a site's route", |shown| shown.contains("10.5.0.0/16"));
    let routes = site_routes(&sites.lab.rig);
    assert!(routes.contains("10.77.0.0/16") && !routes.contains("10.77.0.3"), "{routes}");
    {
        let (rig, second) = (&sites.lab.rig, &sites.second);
        let (first, host) = (rig.client(), (rig.gateway(), HOST));
        carries((first, FIRST), host);
        carries(host, (second, SECOND_SITE));
        tcp_carries(host, (second, SECOND_SITE));
        for from in [(first, FIRST), (second, SECOND_SITE)] {
            let seen = carries(from, (rig.lan(), LAN_SERVER));
            assert_eq!(seen, IpAddr::V4(GATEWAY_LAN), "masqueraded");
        }
    }
    // A route that is the operator's stays, and goes first.
    IP.run(Some(sites.lab.rig.gateway()), &["route", "add", "10.6.0.0/16", "via", "192.168.50.10"]).unwrap();
    let index =
        || IP.run(Some(sites.lab.rig.gateway()), &["-o", "link", "show", "dev", "jvpn-host"]).unwrap();
    let before = index().split(':').next().unwrap().to_owned();
    let mut stream = Stream::open((sites.lab.rig.gateway(), HOST), (&sites.second, SECOND_SITE));
    stream.says("before");
    for signal in [Signal::SIGUSR2, Signal::SIGKILL] {
        sites.lab.signal(signal);
        assert_eq!(links(&sites.lab.rig).len(), 2, "the pair stays: {signal}");
        sites.lab.launch(Role::DataPlane);
        let index =
            IP.run(Some(sites.lab.rig.gateway()), &["-o", "link", "show", "dev", "jvpn-host"]).unwrap();
        assert_eq!(index.split(':').next().unwrap(), before, "the very same pair after {signal}");
        stream.says("after a restart");
        sites.await_route("a site's route", |shown| shown.contains("10.5.0.0/16"));
    }
    // The peer gets another site: one route goes, the other comes.
    sites.write_peer("10.6.0.0/16");
    sites.reload_peers();
    sites.await_route("the new site's route", |shown| {
        shown.contains("10.6.0.0/16") && !shown.contains("10.5.0.0/16")
    });
    let operators = IP.run(Some(sites.lab.rig.gateway()), &["route", "show", "10.6.0.0/16"]).unwrap();
    assert!(operators.lines().next().unwrap().contains("192.168.50.10"), "{operators}");
    // A session that ends takes its site along.
    sites.end_second();
    sites.await_route("no site", |shown| !shown.contains("10.6.0.0/16"));
    assert_frames_are_conserved(&sites.lab);

    // What a killed one left is removed by the next one, though that has no such pair.
    sites.lab.signal(Signal::SIGKILL);
    sites.lab.edit(Role::DataPlane, HOST_LAN, "interface = \"lan0\"\n");
    sites.lab.launch(Role::DataPlane);
    assert_eq!(links(&sites.lab.rig), Vec::<String>::new());
    sites.finish();
}

/// R9.1: somebody switches the host's end off and on, or deletes a route of ours: it is back within a second, with its
/// neighbour, and traffic flows. Meanwhile nothing for clients and sites leaves by the host's other routes. A data plane
/// that has another LAN takes back what a killed one left.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_routes_of_the_hosts_end_come_back() {
    let mut sites = Sites::attached(|lab| {
        lab.edit(Role::DataPlane, "interface = \"lan0\"\n", HOST_LAN);
        lab.edit(Role::ControlPlane, "routes = [", "routes = [\"10.78.0.1/32\", ");
    });
    let ours = |shown: &str| {
        let lines = shown.lines().filter(|line| line.contains("jvpn-host"));
        lines.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect::<Vec<_>>()
    };
    let all = ["10.5.0.0/16", "10.9.0.0/16", "10.77.0.0/16"];
    let are_there = |shown: &str| all.iter().all(|network| ours(shown).iter().any(|one| one == network));
    sites.await_route("every route", are_there);
    let host = |words: &[&str]| IP.run(Some(sites.lab.rig.gateway()), words);
    let default = host(&["route", "show", "default"]).unwrap();
    assert!(default.contains("wan0"), "where replies would go in clear: {default}");
    for turn in 0..3 {
        host(&["link", "set", "jvpn-host", "down"]).unwrap();
        assert_eq!(ours(&site_routes(&sites.lab.rig)), Vec::<String>::new(), "the kernel forgets them");
        for address in [FIRST, SECOND_SITE] {
            let way = host(&["route", "get", &address.to_string()]);
            assert!(way.is_err(), "in clear: {way:?}");
        }
        let started = Instant::now();
        host(&["link", "set", "jvpn-host", "up"]).unwrap();
        sites.await_route("every route again", are_there);
        assert!(started.elapsed() < Duration::from_secs(1), "turn {turn}: {:?}", started.elapsed());
    }
    host(&["route", "delete", "10.5.0.0/16", "metric", "1024"]).unwrap();
    sites.await_route("a route that was deleted", are_there);
    let here = (sites.lab.rig.gateway(), HOST);
    carries((sites.lab.rig.client(), FIRST), here);
    tcp_carries(here, (&sites.second, SECOND_SITE));
    assert!(sites.lab.logs().contains("they are back"), "{}", sites.lab.logs());

    // Guards come and go with ROUTES; what a killed data plane left of them goes with the next one.
    sites.end_second();
    sites.await_route("no site", |shown| !shown.contains("10.5.0.0/16"));
    sites.lab.signal(Signal::SIGKILL);
    assert!(site_routes(&sites.lab.rig).contains("unreachable 10.77.0.0/16"));
    sites.lab.edit(Role::DataPlane, HOST_LAN, "interface = \"lan0\"\n");
    sites.lab.launch(Role::DataPlane);
    assert_eq!(site_routes(&sites.lab.rig), "");
    sites.finish();
}

/// R9.1: without AF_XDP the LAN is a TUN device. Where that is deleted its routes cannot come back: the data plane ends, and
/// until the next one is there nothing leaves in clear.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_a_data_plane_whose_tun_is_deleted_ends() {
    let mut lab = Lab::prepare();
    lab.edit(Role::DataPlane, "interface = \"lan0\"\n", HOST_LAN);
    lab.edit(Role::DataPlane, "workers = 2\n", "workers = 2\nmode = \"no-af-xdp\"\n");
    lab.launch_all();
    IP.run(Some(lab.rig.gateway()), &["link", "delete", "jvpn-host"]).unwrap();
    let ended = wait::until("the data plane ends", PATIENCE, &lab.interrupt, || {
        Ok(lab.deployment.check().is_err().then_some(()))
    });
    ended.unwrap();
    let status = lab.deployment.ended(Role::DataPlane).unwrap();
    assert_eq!(status.code(), Some(1), "{status}");
    assert!(lab.logs().contains("no_interface_left"), "{}", lab.logs());
    let left = site_routes(&lab.rig);
    assert!(left.contains("unreachable 10.77.0.0/16") && left.lines().count() == 1, "{left}");
    lab.launch(Role::DataPlane);
    lab.end_all();
    nothing_is_left(&lab.rig);
}

/// R0.5: whoever comes second, whatever its mode and LAN, is told who is there and touches nothing: markers and TCP of the
/// first go on. An interface of somebody else is not removed.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r0_5_a_second_data_plane_and_foreign_interfaces_are_left_alone() {
    let mut lab = Lab::attached();
    let heartbeat = lab.heartbeat();
    let before = lab.snapshot();
    let pid = lab.deployment.pid(Role::DataPlane).unwrap();
    let xdp = |lab: &Lab| IP.run(Some(lab.rig.gateway()), &["-o", "link"]).unwrap();
    let shown = xdp(&lab);
    let server = LAN_SERVER;
    let mut stream = Stream::open((lab.rig.client(), FIRST), (lab.rig.lan(), server));
    for edit in [
        |text: String| text,
        |text: String| format!("mode = \"generic\"\n{text}"),
        |text: String| format!("mode = \"no-af-xdp\"\n{text}"),
        |text: String| text.replace("interface = \"lan0\"\n", HOST_LAN),
        |text: String| text.replace("port = 4500", "port = 4501"),
    ] {
        let said = lab.refused_data_plane(edit);
        assert!(said.contains("wan0") && said.contains(&format!("process {pid} ")), "{said}");
        stream.says("still here");
    }
    assert_eq!(xdp(&lab), shown, "not one interface was touched");
    lab.await_replies(&heartbeat, 50);
    assert_eq!(lab.snapshot(), before);
    drop(heartbeat);
    lab.kill(Role::Client);
    lab.end(Role::DataPlane);

    // A veth of somebody else under the name that the pair is to get; then one under the name of its other end.
    let taken = [("jvpn-lan", "somebodys"), ("somebodys", "jvpn-host")];
    for (name, peer) in taken {
        let gateway = lab.rig.gateway();
        IP.run(Some(gateway), &["link", "add", "name", name, "type", "veth", "peer", "name", peer]).unwrap();
        let said = lab.refused_data_plane(|text| text.replace("interface = \"lan0\"\n", HOST_LAN));
        assert!(said.contains("no data plane made") && said.contains("ip link delete"), "{said}");
        let still = IP.run(Some(gateway), &["-o", "link", "show", "dev", name]).unwrap();
        assert!(still.contains(name), "{still}");
        IP.run(Some(gateway), &["link", "delete", name]).unwrap();
    }
    nothing_is_left(&lab.rig);
    lab.launch(Role::DataPlane);
    lab.finish();
}

/// How long a denial may take to be told.
pub(crate) const TOLD: Duration = Duration::from_secs(5);
