//! R5.2 with the three real processes: keys are renewed every two seconds under traffic, and nothing is lost. Needs root
//! and the binaries; run serially by `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jvpn_bench::deployment::{self, Deployment, Places, Role, Settings};
use jvpn_bench::peers::heartbeat::{Heartbeat, MARKER_PORT};
use jvpn_bench::peers::tcp_echo::TcpEcho;
use jvpn_rig::topology::LAN_SERVER;
use jvpn_rig::{Interrupt, Rig, wait};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;

/// How long anything may take: waiting ends with the event.
const PATIENCE: Duration = Duration::from_secs(60);
/// Rekeys that each kind of traffic lives through.
const REKEYS: u64 = 3;
/// What a socket may hold for a thread that does not run, octets: what is lost is lost by the tunnel.
const QUEUE: usize = 8 << 20;
/// A modest rate: what is lost then is lost by the tunnel.
const MARKER_EVERY: Duration = Duration::from_millis(2);
const STREAM_PORT: u16 = 7_009;
const CHUNK: usize = 16 << 10;

/// What both ends say about the keys.
#[derive(Debug, PartialEq, Eq)]
struct Keys {
    session: String,
    slot: u64,
    epoch: u64,
    number: u64,
}

fn client_keys(places: &Places) -> anyhow::Result<Keys> {
    let status = jvpn_host::status::query(&places.client_socket(), "status")?;
    let number = |field: &str| status["path"][field].as_u64().unwrap_or(u64::MAX);
    let session = status["session_id"].as_str().unwrap_or_default().to_owned();
    Ok(Keys { session, slot: number("slot"), epoch: number("epoch"), number: number("key_number") })
}

fn gateway_session(places: &Places) -> Value {
    let status = jvpn_host::status::query(&places.control_plane_socket(), "status").unwrap();
    status["sessions"][0].clone()
}

/// Waits until the key after so many more rekeys is in use.
fn await_rekeys(places: &Places, before: &Keys) -> Keys {
    wait::until("rekeys", PATIENCE, &Interrupt::default(), || {
        Ok(Some(client_keys(places)?).filter(|keys| is_rekeyed(keys, before)))
    })
    .unwrap()
}

fn is_rekeyed(keys: &Keys, before: &Keys) -> bool {
    keys.number != u64::MAX && keys.number >= before.number + REKEYS
}

/// One TCP connection that carries numbered chunks both ways as fast as it can, each checked, until `enough` returns.
fn saturate(rig: &Rig, enough: impl FnOnce()) -> (u64, u64) {
    let stop = Arc::new(AtomicBool::new(false));
    let at = SocketAddr::from((LAN_SERVER, STREAM_PORT));
    let listener = rig.lan().run(|| TcpListener::bind(at)).unwrap().unwrap();
    let near = rig.client().run(|| TcpStream::connect(at)).unwrap().unwrap();
    let (far, _) = listener.accept().unwrap();
    let writers = [&near, &far].map(|stream| {
        let (mut stream, stop) = (stream.try_clone().unwrap(), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut number = 0u64;
            while !stop.load(Ordering::Relaxed) {
                stream.write_all(&chunk(number)).unwrap();
                number += 1;
            }
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            number
        })
    });
    let readers = [&far, &near].map(|stream| {
        let mut stream = stream.try_clone().unwrap();
        std::thread::spawn(move || {
            let (mut number, mut octets) = (0u64, vec![0; CHUNK]);
            while stream.read_exact(&mut octets).is_ok() {
                assert_eq!(octets, chunk(number), "chunk {number}");
                number += 1;
            }
            number
        })
    });
    enough();
    stop.store(true, Ordering::Relaxed);
    let written = writers.map(|writer| writer.join().unwrap());
    let read = readers.map(|reader| reader.join().unwrap());
    assert_eq!(written, read, "everything that was written came, in order");
    (read[0], read[1])
}

fn chunk(number: u64) -> Vec<u8> {
    let mut octets = vec![number.wrapping_mul(167) as u8; CHUNK];
    octets[..8].copy_from_slice(&number.to_be_bytes());
    octets
}

/// Numbered datagrams to the LAN and back until it is `enough`; the numbers that did not come back.
fn lost_markers(rig: &Rig, mut enough: impl FnMut() -> bool) -> (u64, Vec<u64>) {
    let socket = rig.client().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    socket.connect((LAN_SERVER, MARKER_PORT)).unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &QUEUE).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let receiver = socket.try_clone().unwrap();
    let last = Arc::new(AtomicU64::new(u64::MAX));
    let wanted = Arc::clone(&last);
    let receiver = std::thread::spawn(move || {
        let (mut came, mut buffer) = (BTreeSet::new(), [0; 64]);
        // Silence is the end only when there is one.
        loop {
            match receiver.recv(&mut buffer) {
                Ok(len) => {
                    let number = u64::from_be_bytes(buffer[..len].try_into().unwrap());
                    assert!(came.insert(number), "twice");
                }
                Err(_) if wanted.load(Ordering::SeqCst) != u64::MAX => return came,
                Err(_) => {}
            }
            if came.contains(&wanted.load(Ordering::SeqCst)) {
                return came;
            }
        }
    });
    let (start, mut sent) = (Instant::now(), 0u64);
    while !sent.is_multiple_of(100) || !enough() {
        socket.send(&sent.to_be_bytes()).unwrap();
        sent += 1;
        std::thread::sleep((MARKER_EVERY * sent as u32).saturating_sub(start.elapsed()));
    }
    last.store(sent - 1, Ordering::SeqCst);
    let came = receiver.join().unwrap();
    (sent, (0..sent).filter(|number| !came.contains(number)).collect())
}

/// R5.2, R1.2: at least three rekeys under full load and three more under markers: TCP intact, not one marker lost, and
/// it is the same session, slot and epoch all the time.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r5_2_rekeys_lose_nothing() {
    let out = tempfile::tempdir().unwrap();
    let bin_dir = deployment::find_programs().unwrap();
    let settings = Settings { bin_dir, out_dir: out.path().to_owned(), max_switches_per_min: None };
    let rig = Rig::create().unwrap();
    let places = deployment::prepare(&rig, &settings).unwrap();
    let config = places.config_dir.join(Role::ControlPlane.config_file());
    let text = fs::read_to_string(&config).unwrap();
    // A client that probes so rarely takes no machine that stands still for a dead path.
    let policy = "preset = \"edge\"\nprobe_traffic = \"20s\"\nrekey_soft = \"2s\"\nrekey_hard = \"12s\"\n";
    let edited = text.replace("preset = \"edge\"\n", policy);
    assert_ne!(text, edited);
    fs::write(&config, edited).unwrap();
    let interrupt = Interrupt::default();
    let mut deployment = Deployment::new(&settings, &places);
    for role in [Role::DataPlane, Role::ControlPlane, Role::Client] {
        deployment.launch(&rig, role, &interrupt).unwrap();
    }
    wait::until("a bound path", PATIENCE, &interrupt, || {
        deployment.check()?;
        Ok(client_keys(&places).ok().filter(|keys| keys.number != u64::MAX))
    })
    .unwrap();
    let echo = TcpEcho::start(&rig, PATIENCE).unwrap();
    // Its server returns our markers too.
    let heartbeat = Heartbeat::start(&rig).unwrap();
    heartbeat.wait_for_replies(20, PATIENCE, &interrupt).unwrap();

    let before = client_keys(&places).unwrap();
    let (up, down) = saturate(&rig, || drop(await_rekeys(&places, &before)));
    let loaded = client_keys(&places).unwrap();
    let start = Instant::now();
    let (sent, lost) = lost_markers(&rig, || {
        start.elapsed() > PATIENCE || client_keys(&places).is_ok_and(|keys| is_rekeyed(&keys, &loaded))
    });
    let after = client_keys(&places).unwrap();
    let said = deployment.last_words();
    println!("{up} chunks up, {down} down; {sent} markers, {} lost; {before:?} {after:?}", lost.len());
    assert!(up > 0 && down > 0);
    assert!(is_rekeyed(&loaded, &before), "{before:?} {loaded:?}\n{said}");
    assert!(is_rekeyed(&after, &loaded), "{loaded:?} {after:?}\n{said}");
    assert_eq!(lost, Vec::<u64>::new(), "of {sent}\n{said}");
    let same = |keys: &Keys| (keys.session.clone(), keys.slot, keys.epoch);
    assert_eq!(same(&before), same(&after));
    assert_eq!(echo.result().broken, None);
    let session = gateway_session(&places);
    assert_eq!(session["switches"], 0, "{session}");
    assert_eq!(session["slot"].as_u64(), Some(after.slot), "{session}");
    let rekeyed = |line: &&str| line.contains("\"REKEY_OK\"") && line.contains("\"STATE_CHANGE\"");
    // A thread of its own writes it.
    let recorded = wait::until("rekeys on record", PATIENCE, &interrupt, || {
        let audit = fs::read_to_string(places.audit_file())?;
        Ok((audit.lines().filter(rekeyed).count() as u64 >= after.number).then_some(()))
    });
    recorded.unwrap_or_else(|error| panic!("{error:#}: {:?}", fs::read_to_string(places.audit_file())));
    drop(heartbeat);
    deployment.stop().unwrap();
}
