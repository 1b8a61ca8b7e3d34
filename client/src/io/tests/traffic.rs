//! What goes into the tunnel, what may leave beside it, and what is as before when the client is gone or killed.

use super::{ASK_AGAIN, PATIENCE, Rig, attached_over, echo, ip, query_within};
use crate::config::Config;
use crate::host;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub(super) fn output(program: &str, words: &str) -> String {
    let output = Command::new(program).args(words.split_whitespace()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A datagram that no tunnel carries; `Err` says how the host refused it.
pub(super) fn send_beside(to: &str) -> Result<(), ErrorKind> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::BindToDevice, &"upB".into()).unwrap();
    socket.send_to(b"leak", to).map(|_| ()).map_err(|error| error.kind())
}

/// What comes back from an address within `patience`: the tunnel's far end reflects everything, the neighbour refuses. A
/// datagram may be lost in a full queue: it is asked again.
fn answer_within(patience: Duration, to: &str) -> Result<usize, ErrorKind> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(ASK_AGAIN)).unwrap();
    let exchange = || {
        socket.connect(to)?;
        socket.send(b"ask")?;
        socket.recv(&mut [0; 16])
    };
    let start = Instant::now();
    loop {
        match exchange().map_err(|error| error.kind()) {
            Err(ErrorKind::WouldBlock) if start.elapsed() < patience => {}
            done => return done,
        }
    }
}

pub(super) fn answer(to: &str) -> Result<usize, ErrorKind> {
    answer_within(PATIENCE, to)
}

pub(super) const BESIDE: &str = "10.0.2.1:4500";
const GATEWAY: &str = "198.51.100.1:4500";

/// R7.1: under the kill switch nothing leaves beside the tunnel: not while it is up, not while it recovers, not when the
/// agent was killed, also not to the gateway itself; until `jvpn down`, which knows what a dead agent left.
#[test]
fn r7_1_the_kill_switch_outlives_the_agent() {
    let Some(mut rig) = Rig::new() else { return };
    rig.configure("[traffic]\nkill_switch = true\n");
    send_beside(BESIDE).unwrap();
    rig.start();
    let status = rig.wait_for("the tunnel coming up", |s| s["state"] == "ATTACHED");
    assert_eq!(status["traffic"]["kill_switch"], true);
    assert!(echo(1), "the tunnel works");
    let shut = || {
        assert_eq!(send_beside(BESIDE), Err(ErrorKind::PermissionDenied));
        assert_eq!(send_beside(GATEWAY), Err(ErrorKind::PermissionDenied), "without the mark");
    };
    shut();
    let other = if status["path"]["device"] == "upA" { "upB" } else { "upA" };
    let bound = usize::from(other == "upA");
    rig.far.cut[bound].store(true, Ordering::SeqCst);
    rig.wait_for("the switch", attached_over(other));
    rig.far.cut[1 - bound].store(true, Ordering::SeqCst);
    rig.wait_for("the recovery", |s| s["state"] == "RECOVERING");
    shut();
    rig.far.cut.iter().for_each(|cut| cut.store(false, Ordering::SeqCst));

    rig.kill();
    shut();
    rig.start();
    rig.wait_for("the tunnel coming up again", |s| s["state"] == "ATTACHED");
    shut();
    assert!(echo(2));
    assert_eq!(output("nft", "list tables").matches("jvpn-jvpn0").count(), 1, "taken over, not doubled");

    rig.kill();
    shut();
    let done = host::undo(&rig.socket(), None).unwrap().expect("a record");
    assert!(done.iter().any(|what| what.contains("kill switch")), "{done:?}");
    assert_eq!((send_beside(BESIDE), output("nft", "list tables").trim()), (Ok(()), ""));
    assert_eq!(super::rules_and_routes(), "", "its rules are gone as well");
    assert_eq!(host::undo(&rig.socket(), None), Ok(None), "nothing is left to take back");

    rig.start();
    rig.wait_for("the tunnel coming up after all", |s| s["state"] == "ATTACHED");
    shut();
    rig.stop();
    assert_eq!((send_beside(BESIDE), output("nft", "list tables").trim()), (Ok(()), ""));
}

/// A network behind this host, of a thread's own: its host asks `to` and hears an answer within `patience`, or not.
pub(super) fn ask_from_behind(to: &'static str, patience: Duration) -> Result<usize, ErrorKind> {
    let (tell, told) = std::sync::mpsc::channel();
    let (ready, is_ready) = std::sync::mpsc::channel::<()>();
    let (answered, is_answered) = std::sync::mpsc::channel();
    let behind = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        tell.send(nix::unistd::gettid()).unwrap();
        is_ready.recv().unwrap();
        ip("addr add 172.31.0.2/24 dev inner");
        ip("link set inner up");
        ip("route add default via 172.31.0.1");
        answered.send(answer_within(patience, to)).unwrap();
        // The network lives as long as this thread, and takes the link with it.
        is_ready.recv().unwrap();
    });
    ip(&format!("link add outer type veth peer name inner netns {}", told.recv().unwrap()));
    ip("addr add 172.31.0.1/24 dev outer");
    ip("link set outer up");
    ready.send(()).unwrap();
    let answer = is_answered.recv();
    ip("link del outer");
    ready.send(()).unwrap();
    behind.join().unwrap();
    answer.unwrap()
}

/// R7.1: who is behind this host gets answers out of the tunnel, and cannot get around it either.
#[test]
fn r7_1_the_kill_switch_forwards_answers_and_nothing_beside() {
    let Some(mut rig) = Rig::new() else { return };
    rig.configure("[traffic]\nkill_switch = true\n");
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    rig.start();
    rig.wait_for("the tunnel coming up", |s| s["state"] == "ATTACHED");
    assert_eq!(ask_from_behind("192.168.50.1:7", PATIENCE), Ok(3), "through the tunnel and back");
    let dropped = || {
        let rules = output("nft", "list chain inet jvpn-jvpn0 forward");
        let counted = rules.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        counted.parse::<u64>().unwrap()
    };
    assert_eq!(dropped(), 0);
    assert!(ask_from_behind("10.0.2.1:4500", Duration::from_secs(2)).is_err());
    assert!(dropped() > 0, "beside the tunnel");
    rig.stop();
}

/// A client that cannot start opens the host again, for nobody asked for more than it could do.
#[test]
fn a_client_that_cannot_start_leaves_no_kill_switch() {
    let Some(rig) = Rig::new() else { return };
    rig.configure("[traffic]\nkill_switch = true\n");
    ip("tuntap add dev jvpn0 mode tap");
    let output_of = rig.spawn().wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output_of.stderr).into_owned();
    assert!(!output_of.status.success() && error.contains("jvpn0"), "{error}");
    assert_eq!((send_beside(BESIDE), output("nft", "list tables").trim()), (Ok(()), ""));
    assert!(!host::record::Record::path(&rig.socket()).exists());
}

/// R7.1, R7.3: told to end while nft hangs at the start, whatever it has done by then: the client ends in order and at once,
/// and the host is open.
#[test]
fn r7_3_a_signal_while_the_kill_switch_is_set_up_is_heeded() {
    told_to_end_while_nft_hangs(|_, child| {
        let id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).unwrap();
    });
}

/// R7.1, R7.3: the same by `jvpn down`, which is answered when the host is open; who asks for the status does not end it.
#[test]
fn r7_3_a_wish_to_end_while_the_kill_switch_is_set_up_is_heeded() {
    told_to_end_while_nft_hangs(|rig, child| {
        let curious = query_within(&rig.socket(), "status", Duration::from_millis(300));
        assert!(curious.is_err() && child.try_wait().unwrap().is_none(), "it starts: {curious:?}");
        assert!(query_within(&rig.socket(), "dawn", PATIENCE).unwrap()["error"].is_string());
        assert_eq!(rig.down()["ok"], true);
        assert_eq!(send_beside(BESIDE), Ok(()), "open when it is said to be");
    });
}

fn told_to_end_while_nft_hangs(tell: impl FnOnce(&Rig, &mut std::process::Child)) {
    let Some(rig) = Rig::new() else { return };
    rig.configure("[traffic]\nkill_switch = true\n");
    let folder = rig.folder.path();
    let slow = folder.join("nft");
    let path = std::env::var("PATH").unwrap();
    let script = format!(
        "#!/bin/sh\nPATH={path}\n[ -e $0.done ] && exec nft \"$@\"\nnft \"$@\"\n: > $0.done\nexec sleep 60\n"
    );
    std::fs::write(&slow, script).unwrap();
    std::fs::set_permissions(&slow, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut child = rig.command().env("PATH", format!("{}:{path}", folder.display())).spawn().unwrap();
    let begun = Instant::now();
    while !folder.join("nft.done").exists() {
        assert!(begun.elapsed() < PATIENCE, "nft was not called");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert!(output("nft", "list tables").contains("jvpn-jvpn0"), "it is shut already");
    let told = Instant::now();
    tell(&rig, &mut child);
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
    assert_eq!((send_beside(BESIDE), output("nft", "list tables").trim()), (Ok(()), ""));
    assert!(!host::record::Record::path(&rig.socket()).exists());
}

pub(super) fn route_to(address: &str) -> String {
    output("ip", &format!("route get {address}"))
}

/// R7.1: everything goes into the tunnel, also what a longer route of the host would take, also while it recovers; IPv6 is
/// refused where the tunnel has no IPv6; what is excluded goes around it.
#[test]
fn r7_1_a_full_tunnel_leaks_nothing() {
    let Some(mut rig) = Rig::new() else { return };
    rig.configure("[traffic]\nfull_tunnel = true\nexclude = [\"198.18.0.0/15\"]\n");
    ip("-6 addr add 2001:db8:1::2/64 dev upA nodad");
    ip("-6 route add default via 2001:db8:1::1 dev upA");
    ip("route add 203.0.113.0/24 via 10.0.2.1 dev upB");
    rig.start();
    let status = rig.wait_for("the tunnel coming up", |s| s["state"] == "ATTACHED");
    assert_eq!(answer("203.0.113.9:7"), Ok(3), "a longer route of the host does not count");
    assert_eq!(answer("10.0.2.1:7"), Ok(3), "nor does the local network");
    let v6 = UdpSocket::bind("[::]:0").unwrap().connect("[2001:db8:9::1]:7").map_err(|error| error.kind());
    assert_eq!(v6, Err(ErrorKind::HostUnreachable), "no IPv6 inside: refused");
    assert!(route_to("198.18.0.1").contains("upB"), "{}", route_to("198.18.0.1"));

    let other = if status["path"]["device"] == "upA" { "upB" } else { "upA" };
    let bound = usize::from(other == "upA");
    rig.far.cut[bound].store(true, Ordering::SeqCst);
    rig.wait_for("the switch", attached_over(other));
    assert_eq!(answer("203.0.113.9:7"), Ok(3));
    rig.far.cut[1 - bound].store(true, Ordering::SeqCst);
    rig.wait_for("the recovery", |s| s["state"] == "RECOVERING");
    for address in ["203.0.113.9", "10.0.2.77", "192.0.2.1"] {
        assert!(route_to(address).contains("jvpn0"), "{}", route_to(address));
    }
    rig.far.cut.iter().for_each(|cut| cut.store(false, Ordering::SeqCst));
    rig.wait_for("the recovery's end", |s| s["state"] == "ATTACHED");
    rig.stop();
    assert!(route_to("203.0.113.9").contains("upB"));
    assert_eq!(super::rules_and_routes(), "");
    assert_eq!(output("ip", "-6 -N rule show").matches("proto 74").count(), 0);
}

/// R7.1: what could not be taken back keeps the host shut, also when the agent ends in order, and says so; `jvpn down` opens
/// it once that is mended.
#[test]
fn r7_1_what_is_left_keeps_the_host_shut() {
    let Some(mut rig) = Rig::new() else { return };
    let path = rig.folder.path().join("resolv.conf");
    let before = rig.folder.path().join("resolv.conf.before-jvpn");
    std::fs::write(&path, "nameserver 10.0.2.53\n").unwrap();
    rig.configure(&format!(
        "[traffic]\nkill_switch = true\n[dns]\nservers = [\"10.77.0.1\"]\nresolv_conf = \"{}\"\n",
        path.display()
    ));
    rig.start();
    rig.wait_for("the name servers", |s| s["traffic"]["name_servers"]["in_place"] == true);
    std::fs::rename(&before, rig.folder.path().join("away")).unwrap();
    let answer = rig.down();
    let left = answer["left"].to_string();
    assert!(
        left.contains("before-jvpn") && left.contains("held back") && left.contains("jvpn-jvpn0"),
        "{left}"
    );
    assert!(rig.client.take().unwrap().wait().unwrap().success());
    assert_eq!(send_beside(BESIDE), Err(ErrorKind::PermissionDenied));

    let still = host::undo(&rig.socket(), None).unwrap_err();
    assert!(still.contains("before-jvpn"), "{still}");
    assert_eq!(send_beside(BESIDE), Err(ErrorKind::PermissionDenied));
    std::fs::rename(rig.folder.path().join("away"), &before).unwrap();
    host::undo(&rig.socket(), None).unwrap().expect("a record");
    assert_eq!((send_beside(BESIDE), output("nft", "list tables").trim()), (Ok(()), ""));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "nameserver 10.0.2.53\n");
}

/// R7.1: with a damaged record `jvpn down` says so and goes by the configuration; so does the next start.
#[test]
fn r7_1_a_damaged_record_is_no_dead_end() {
    let Some(mut rig) = Rig::new() else { return };
    let plain = std::fs::read_to_string(rig.folder.path().join("client.toml")).unwrap();
    rig.configure("[traffic]\nkill_switch = true\n");
    let config = Config::load(&rig.folder.path().join("client.toml")).unwrap();
    let record = host::record::Record::path(&rig.socket());
    let killed_and_damaged = |rig: &mut Rig| {
        rig.start();
        rig.wait_for("the tunnel coming up", |s| s["state"] == "ATTACHED");
        rig.kill();
        std::fs::write(&record, "{").unwrap();
    };
    killed_and_damaged(&mut rig);
    let error = host::undo(&rig.socket(), None).unwrap_err();
    assert!(error.contains("agent.sock.undo") && error.contains("--config"), "{error}");
    assert_eq!(send_beside(BESIDE), Err(ErrorKind::PermissionDenied), "nothing is guessed");
    let done = host::undo(&rig.socket(), Some(&config)).unwrap().expect("a record").join("; ");
    assert!(done.contains("agent.sock.undo") && done.contains("inet jvpn-jvpn0"), "{done}");
    assert_eq!((send_beside(BESIDE), output("nft", "list tables").trim()), (Ok(()), ""));
    assert_eq!((super::rules_and_routes().as_str(), record.exists()), ("", false));

    killed_and_damaged(&mut rig);
    std::fs::write(rig.folder.path().join("client.toml"), plain).unwrap();
    rig.start();
    rig.wait_for("the tunnel coming up without a kill switch", |s| s["state"] == "ATTACHED");
    assert_eq!((send_beside(BESIDE), output("nft", "list tables").trim()), (Ok(()), ""));
    rig.stop();
}

/// Single prefixes go into the tunnel and the rest does not; the local network stays reachable if that is wanted.
#[test]
fn a_split_tunnel_takes_its_prefixes_and_spares_the_local_network() {
    let Some(mut rig) = Rig::new() else { return };
    rig.configure("[traffic]\nroutes = [\"10.0.0.0/8\", \"fd00::/8\"]\nlocal_network = true\n");
    rig.start();
    rig.wait_for("the tunnel coming up", |s| s["state"] == "ATTACHED");
    assert_eq!(answer("10.9.9.9:7"), Ok(3));
    assert_eq!(answer("10.0.2.1:7"), Err(ErrorKind::ConnectionRefused), "by the neighbour itself");
    assert!(route_to("203.0.113.9").contains("upB"));
    let v6 = UdpSocket::bind("[::]:0").unwrap().connect("[fd00::1]:7").map_err(|error| error.kind());
    assert_eq!(v6, Err(ErrorKind::HostUnreachable));
    rig.stop();
}

/// The name servers are set while the tunnel is up, restored at its end, after a kill at the next start or by `jvpn down`,
/// and somebody else's later ones stay.
#[test]
fn name_servers_are_set_and_restored() {
    const BEFORE: &str = "nameserver 10.0.2.53\n";
    let Some(mut rig) = Rig::new() else { return };
    let path = rig.folder.path().join("resolv.conf");
    let text = || std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, BEFORE).unwrap();
    rig.configure(&format!(
        "[dns]\nservers = [\"10.77.0.1\"]\nsearch = [\"corp.example\"]\nresolv_conf = \"{}\"\n",
        path.display()
    ));
    let up = |rig: &mut Rig| {
        rig.start();
        rig.wait_for("the name servers", |s| s["traffic"]["name_servers"]["in_place"] == true);
        assert!(text().contains("nameserver 10.77.0.1\nsearch corp.example\n"), "{}", text());
    };
    up(&mut rig);
    rig.stop();
    assert_eq!(text(), BEFORE);

    up(&mut rig);
    rig.kill();
    assert!(text().contains("10.77.0.1"), "a killed client takes nothing back");
    up(&mut rig);
    rig.kill();
    host::undo(&rig.socket(), None).unwrap().expect("a record");
    assert_eq!(text(), BEFORE, "two kills later the first one comes back");

    up(&mut rig);
    std::fs::write(&path, "nameserver 192.0.2.9\n").unwrap();
    rig.wait_for("the loss being told", |s| s["traffic"]["name_servers"]["in_place"] == false);
    rig.stop();
    assert_eq!(text(), "nameserver 192.0.2.9\n", "of somebody else");
}

/// With and without offloads packets go through, and `jvpn status` says which there are.
#[test]
fn offloads_are_told_and_can_be_switched_off() {
    for wanted in [true, false] {
        let Some(mut rig) = Rig::new() else { return };
        rig.configure(&format!("[offload]\ntunnel = {wanted}\nudp = {wanted}\n"));
        rig.start();
        let status = rig.wait_for("the tunnel coming up", |s| s["state"] == "ATTACHED");
        assert_eq!(status["tunnel"]["offload"]["tcp"], wanted, "{status:#?}");
        let transports = status["transports"].as_array().unwrap();
        assert!(transports.iter().all(|t| t["health"]["gso"] == wanted && t["health"]["gro"] == wanted));
        assert!(echo(1));
        let counters = rig.status().unwrap()["tunnel"]["counters"].clone();
        assert!(
            counters["packets_read"].as_u64() > Some(0) && counters["packets_written"].as_u64() > Some(0)
        );
        rig.stop();
    }
}
