//! What outlives the agent: the kill switch a restart of the service, the record of the name servers a loss of power.

use super::traffic::{BESIDE, ask_from_behind, output, send_beside};
use super::{PATIENCE, Rig, echo};
use crate::config::Config;
use crate::host::record::Record;
use crate::host::{self, Found};
use nix::sys::signal::{Signal, kill};
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

const UP: fn(&serde_json::Value) -> bool = |status| status["state"] == "ATTACHED";

/// Ends the client by a signal, as a service manager does.
fn signal(rig: &mut Rig, signal: Signal) {
    let client = rig.client.take().unwrap();
    kill(nix::unistd::Pid::from_raw(client.id().cast_signed()), signal).unwrap();
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Sends without end.
pub(super) struct Talker {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Talker {
    pub(super) fn start(send: impl Fn(&UdpSocket) + Send + 'static) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, counted) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            while !ended.load(Ordering::SeqCst) {
                send(&socket);
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { stop, rounds, thread: Some(thread) }
    }

    /// Waits until it has sent some more.
    pub(super) fn goes_on(&self) {
        let until = self.rounds.load(Ordering::SeqCst) + 50;
        while self.rounds.load(Ordering::SeqCst) < until {
            std::thread::yield_now();
        }
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// Counts what leaves by the uplinks to the talker's port, behind every rule of the host.
pub(super) fn watch_uplinks() {
    let rules = "add table inet watch; add chain inet watch leaving { type filter hook postrouting priority 300; }; \
                 add rule inet watch leaving oifname { upA, upB } udp dport 7 counter";
    let status = std::process::Command::new("nft").arg(rules).status().unwrap();
    assert!(status.success());
}

pub(super) fn leaked() -> u64 {
    let rules = output("nft", "list chain inet watch leaving");
    let counted = rules.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
    counted.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{rules}"))
}

/// R7.1, R10.1: a restart of the service lets nothing out: not with SIGTERM where the kill switch is for always, not with
/// SIGUSR2 where it is on; answers are forwarded again afterwards; `jvpn down` opens the host.
#[test]
fn r7_1_a_restart_lets_nothing_out() {
    for (mode, by) in
        [("\"always\"", Signal::SIGTERM), ("\"always\"", Signal::SIGINT), ("true", Signal::SIGUSR2)]
    {
        let Some(mut rig) = Rig::new() else { return };
        rig.configure(&format!(
            "[traffic]\nfull_tunnel = true\nexclude = [\"172.31.0.0/24\"]\nkill_switch = {mode}\n"
        ));
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        watch_uplinks();
        rig.start();
        let status = rig.wait_for("the tunnel coming up", UP);
        assert_eq!(status["traffic"]["kill_switch_outlives_signals"], mode == "\"always\"");
        // To an address that only the tunnel may carry, over the host's routes and past them. Refused is as good as
        // carried; what counts is what leaves by the uplinks.
        let talker = Talker::start(|socket| {
            let _outcomes = (socket.send_to(b"leak", "203.0.113.9:7"), send_beside("10.0.2.1:7"));
        });
        for round in 0..3 {
            talker.goes_on();
            signal(&mut rig, by);
            talker.goes_on();
            assert_eq!(send_beside(BESIDE), Err(ErrorKind::PermissionDenied), "{mode} {by}: shut meanwhile");
            assert_eq!(super::rules_and_routes(), "", "the rest is taken back");
            rig.start();
            rig.wait_for("the tunnel coming up again", UP);
            assert!(echo(round), "{mode} {by}: the tunnel works");
        }
        // The talker goes on and fills the queues.
        let answered = ask_from_behind("192.168.50.1:7", PATIENCE);
        assert_eq!(answered, Ok(3), "{mode} {by}: answers are forwarded");
        talker.goes_on();
        drop(talker);
        assert_eq!(leaked(), 0, "{mode} {by}: left beside the tunnel");
        rig.stop();
        assert_eq!(send_beside("10.0.2.1:7"), Ok(()));
        assert_eq!(leaked(), 1, "the watch sees what leaves");
        assert!(!Record::path(&rig.socket()).exists());
    }
}

/// R7.1: with the kill switch on, SIGTERM is a wish to end and opens the host; after an end that left it shut `jvpn down`
/// does, also without an agent, and a configuration without one takes it away.
#[test]
fn r7_1_who_opens_the_host() {
    let Some(mut rig) = Rig::new() else { return };
    let plain = std::fs::read_to_string(rig.folder.path().join("client.toml")).unwrap();
    rig.configure("[traffic]\nkill_switch = true\n");
    rig.start();
    rig.wait_for("the tunnel coming up", UP);
    signal(&mut rig, Signal::SIGTERM);
    assert_eq!((send_beside(BESIDE), output("nft", "list tables").trim()), (Ok(()), ""));

    rig.start();
    rig.wait_for("the tunnel coming up", UP);
    signal(&mut rig, Signal::SIGUSR2);
    assert_eq!(send_beside(BESIDE), Err(ErrorKind::PermissionDenied));
    assert_eq!(
        host::restore(&rig.socket(), None),
        Ok(Found::OfThisBoot),
        "a start of the host opens nothing"
    );
    assert_eq!(send_beside(BESIDE), Err(ErrorKind::PermissionDenied));
    let done = host::undo(&rig.socket(), None).unwrap().expect("a record").join("; ");
    assert!(done.contains("kill switch"), "{done}");
    assert_eq!((send_beside(BESIDE), output("nft", "list tables").trim()), (Ok(()), ""));

    rig.start();
    rig.wait_for("the tunnel coming up", UP);
    signal(&mut rig, Signal::SIGUSR2);
    std::fs::write(rig.folder.path().join("client.toml"), plain).unwrap();
    rig.start();
    rig.wait_for("the tunnel coming up without a kill switch", UP);
    assert_eq!((send_beside(BESIDE), output("nft", "list tables").trim()), (Ok(()), ""));
    rig.stop();
}

const BEFORE: &str = "nameserver 10.0.2.53\n";

/// The host lost its power: the record is of another boot, and what the kernel held is gone.
fn lose_power(rig: &mut Rig) {
    rig.kill();
    let path = Record::path(&rig.socket());
    let record = Record::read(&path).unwrap().expect("a record");
    Record { boot: "another".to_owned(), ..record }.write(&path).unwrap();
    std::fs::remove_file(rig.socket()).unwrap();
}

/// R7.3: after a loss of power the name servers come back: by `jvpn restore`, `jvpn down` or the next `jvpn up`; and with
/// the record damaged or lost by the configuration.
#[test]
fn r7_3_name_servers_come_back_after_a_loss_of_power() {
    let Some(mut rig) = Rig::new() else { return };
    let path = rig.folder.path().join("resolv.conf");
    let text = || std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, BEFORE).unwrap();
    rig.configure(&format!("[dns]\nservers = [\"10.77.0.1\"]\nresolv_conf = \"{}\"\n", path.display()));
    let config = Config::load(&rig.folder.path().join("client.toml")).unwrap();
    let record = Record::path(&rig.socket());
    let up = |rig: &mut Rig| {
        rig.start();
        rig.wait_for("the name servers", |s| s["traffic"]["name_servers"]["in_place"] == true);
        assert!(text().contains("10.77.0.1"), "{}", text());
    };

    up(&mut rig);
    lose_power(&mut rig);
    let done = host::restore(&rig.socket(), None).unwrap();
    assert_eq!(done, Found::TakenBack(vec!["name servers restored".to_owned()]));
    assert_eq!((text().as_str(), record.exists()), (BEFORE, false));
    assert_eq!(host::restore(&rig.socket(), None), Ok(Found::Nothing));

    up(&mut rig);
    lose_power(&mut rig);
    let done = host::undo(&rig.socket(), None).unwrap().expect("a record");
    assert_eq!((done, text().as_str()), (vec!["name servers restored".to_owned()], BEFORE));

    up(&mut rig);
    lose_power(&mut rig);
    up(&mut rig);
    rig.stop();
    assert_eq!(text(), BEFORE, "the next start took it over");

    for garbage in ["", "{", "{\"first_table\": \"x\"}"] {
        up(&mut rig);
        lose_power(&mut rig);
        std::fs::write(&record, garbage).unwrap();
        let error = host::restore(&rig.socket(), None).unwrap_err();
        assert!(error.contains("agent.sock.undo") && error.contains("--config"), "{error}");
        assert!(text().contains("10.77.0.1"), "nothing is guessed");
        assert!(matches!(host::restore(&rig.socket(), Some(&config)), Ok(Found::TakenBack(_))));
        assert_eq!(text(), BEFORE);
        host::undo(&rig.socket(), Some(&config)).unwrap().expect("a damaged record");
        assert!(!record.exists());
    }

    up(&mut rig);
    lose_power(&mut rig);
    std::fs::remove_file(&record).unwrap();
    assert_eq!(host::undo(&rig.socket(), None), Ok(None));
    host::undo(&rig.socket(), Some(&config)).unwrap().expect("the file says whose it is");
    assert_eq!(text(), BEFORE);
}

/// R1.8: what cannot be written down is not done: the host keeps its name servers, and the status says why.
#[test]
fn r1_8_name_servers_are_not_set_without_a_record() {
    let Some(mut rig) = Rig::new() else { return };
    let path = rig.folder.path().join("resolv.conf");
    std::fs::write(&path, BEFORE).unwrap();
    rig.configure(&format!("[dns]\nservers = [\"10.77.0.1\"]\nresolv_conf = \"{}\"\n", path.display()));
    // A folder in its place takes no file.
    std::fs::create_dir(Record::path(&rig.socket())).unwrap();
    rig.start();
    let status = rig.wait_for("the tunnel coming up", |s| s["traffic"]["name_servers"]["error"].is_string());
    let error = status["traffic"]["name_servers"]["error"].to_string();
    assert!(error.contains("agent.sock.undo") && error.contains("put back"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), BEFORE);
    rig.stop();
}
