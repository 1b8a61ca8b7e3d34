//! The tunnel device in the hands of others: taken down, robbed of its addresses, deleted. Nothing goes around it.

use super::restarts::{Talker, leaked, watch_uplinks};
use super::traffic::{BESIDE, answer, output, route_to, send_beside};
use super::{PATIENCE, Rig, echo, ip, rules_and_routes};
use crate::host;
use crate::link::watch::{News, Watch};
use crate::link::{Links, TunnelSetup};
use crate::tun::Tun;
use nix::poll::{PollFd, PollFlags, poll};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Only the tunnel may carry what goes there; the host has another way for both.
const FAR: [&str; 2] = ["203.0.113.9", "2001:db8:9::1"];
/// An agent that answers its own changes with changes is never silent for so long.
const SILENCE_MS: u16 = 500;

const ATTACHED: fn(&serde_json::Value) -> bool = |status| status["state"] == "ATTACHED";

fn uplinks_with_both_families() {
    ip("-6 addr add 2001:db8:1::2/64 dev upA nodad");
    ip("-6 route add default via 2001:db8:1::1 dev upA");
}

/// How the host refuses both families, if it does.
fn refused() -> [Option<ErrorKind>; 2] {
    [("0.0.0.0:0", "203.0.113.9:7"), ("[::]:0", "[2001:db8:9::1]:7")]
        .map(|(own, far)| UdpSocket::bind(own).unwrap().connect(far).err().map(|error| error.kind()))
}

fn all_routes_and_rules() -> String {
    let (routes, rules) = ("-6 -N route show table all proto 74", "-6 -N rule show");
    let rules = output("ip", rules).lines().filter(|line| line.contains("proto 74")).collect::<String>();
    rules_and_routes() + output("ip", routes).trim() + &rules
}

/// Waits until no link, address or route changes any more.
fn settle() {
    let mut watch = Watch::open().unwrap();
    let start = Instant::now();
    while poll(&mut [PollFd::new(watch.as_fd(), PollFlags::POLLIN)], SILENCE_MS).unwrap() > 0 {
        watch.drain(&[], &BTreeSet::new()).unwrap();
        assert!(start.elapsed() < PATIENCE, "the agent never stops changing something");
    }
}

/// Waits until the agent has ended without being asked; what it said.
fn ended(rig: &mut Rig) -> String {
    let start = Instant::now();
    while rig.client.as_mut().unwrap().try_wait().unwrap().is_none() {
        assert!(start.elapsed() < PATIENCE, "it goes on without its device");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let output = rig.client.take().unwrap().wait_with_output().unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// R7.1: while the tunnel's device is down nothing goes around it, in either family; up again, or robbed of its
/// addresses, it has all that it had. Sockets that are bound to an uplink leave by it as ever.
#[test]
fn r7_1_a_tunnel_device_that_is_taken_down_lets_nothing_around() {
    let Some(mut rig) = Rig::granted(&["10.77.0.2/32", "fd77::2/128"]) else { return };
    rig.configure("[traffic]\nfull_tunnel = true\n");
    uplinks_with_both_families();
    watch_uplinks();
    rig.start();
    rig.wait_for("the tunnel coming up", |s| ATTACHED(s) && s["tunnel"]["up"] == true);
    let six = UdpSocket::bind("[::]:0").unwrap();
    let talker = Talker::start(move |four| {
        let _outcomes = (four.send_to(b"leak", "203.0.113.9:7"), six.send_to(b"leak", "[2001:db8:9::1]:7"));
    });
    let into = || FAR.iter().all(|far| route_to(far).contains("jvpn0"));
    assert!(into() && refused() == [None, None]);
    settle();

    ip("link set jvpn0 down");
    talker.goes_on();
    rig.wait_for("the loss being told", |s| s["tunnel"]["up"] == false);
    talker.goes_on();
    assert_eq!(refused(), [Some(ErrorKind::HostUnreachable); 2]);
    ip("link set jvpn0 up");
    talker.goes_on();
    rig.wait_for("the device's return", |s| s["tunnel"]["up"] == true);
    assert!(into(), "{}", all_routes_and_rules());

    ip("addr flush dev jvpn0");
    talker.goes_on();
    rig.wait_for("its addresses coming back", |_| into());
    settle();
    let addresses = output("ip", "addr show dev jvpn0");
    assert!(addresses.contains("10.77.0.2/32") && addresses.contains("fd77::2/128"), "{addresses}");
    drop(talker);
    assert!(echo(1));
    assert_eq!((answer("203.0.113.9:7"), leaked()), (Ok(3), 0), "beside the tunnel");

    assert!(route_to("203.0.113.9 oif upB").contains("via 10.0.2.1 dev upB"));
    assert!(route_to("203.0.113.9 oif upA").contains("via 10.0.1.1 dev upA"));
    assert!(route_to("2001:db8:9::1 oif upA").contains("via 2001:db8:1::1 dev upA"));
    send_beside("203.0.113.9:7").unwrap();
    assert_eq!(leaked(), 1, "the watch sees what leaves");
    rig.stop();
    assert_eq!(all_routes_and_rules(), "");
}

/// R7.1: what happens to the tunnel's device is news; in the test above the doubt about a path may be quicker.
#[test]
fn r7_1_the_tunnel_device_is_watched() {
    let Some(_rig) = Rig::new() else { return };
    let tunnel = Tun::open("jvpn0", false).unwrap();
    let mut links = Links::open(Vec::new(), Vec::new(), 18_944).unwrap();
    let addresses = vec!["10.77.0.2/32".parse().unwrap()];
    let setup = TunnelSetup { addresses, mtu: 1_280, ..TunnelSetup::default() };
    links.set_up_tunnel(tunnel.index(), &setup).unwrap();
    links.refresh().unwrap();
    let mut watch = Watch::open().unwrap();
    for (change, is_up) in
        [("link set jvpn0 down", false), ("link set jvpn0 up", true), ("addr flush dev jvpn0", true)]
    {
        ip(change);
        assert_eq!(watch.drain(&[], links.indexes()).unwrap(), News::Changed, "{change}");
        links.refresh().unwrap();
        assert_eq!(links.is_tunnel_up(), is_up, "{change}");
    }
    assert!(output("ip", "addr show dev jvpn0").contains("10.77.0.2/32"));
}

/// R7.1, R7.3: without its device, or killed, the agent is gone, and says why if it can; what was meant for the tunnel
/// is refused until the next `jvpn up` or `jvpn down`.
#[test]
fn r7_1_an_agent_without_its_device_ends_and_opens_nothing() {
    let Some(mut rig) = Rig::new() else { return };
    rig.configure("[traffic]\nfull_tunnel = true\n");
    uplinks_with_both_families();
    let up = |rig: &mut Rig| {
        rig.start();
        rig.wait_for("the tunnel coming up", ATTACHED);
    };
    let delete = |rig: &mut Rig| {
        ip("link del jvpn0");
        let said = ended(rig);
        assert!(said.contains("jvpn0 was deleted") && said.contains("jvpn down"), "{said}");
    };
    let ends: [fn(&mut Rig); 2] = [delete, Rig::kill];
    for end in ends {
        up(&mut rig);
        end(&mut rig);
        assert_eq!(refused(), [Some(ErrorKind::HostUnreachable); 2]);
        up(&mut rig);
        assert_eq!(answer("203.0.113.9:7"), Ok(3), "the next agent takes over");
        end(&mut rig);
        assert_eq!(refused(), [Some(ErrorKind::HostUnreachable); 2]);
        host::undo(&rig.socket(), None).unwrap().expect("a record");
        assert_eq!((refused(), all_routes_and_rules().as_str()), ([None, None], ""));
    }
}

/// R7.1: the kill switch stays when the device is deleted, as after a crash.
#[test]
fn r7_1_a_deleted_tunnel_device_leaves_the_kill_switch() {
    let Some(mut rig) = Rig::new() else { return };
    rig.configure("[traffic]\nkill_switch = true\n");
    rig.start();
    rig.wait_for("the tunnel coming up", ATTACHED);
    ip("link del jvpn0");
    assert!(ended(&mut rig).contains("jvpn0 was deleted"));
    assert_eq!(send_beside(BESIDE), Err(ErrorKind::PermissionDenied));
    assert_eq!(all_routes_and_rules(), "", "nothing was to be led into the tunnel");
    host::undo(&rig.socket(), None).unwrap().expect("a record");
    assert_eq!((send_beside(BESIDE), output("nft", "list tables").trim()), (Ok(()), ""));
}
