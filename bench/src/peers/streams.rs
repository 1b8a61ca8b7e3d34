//! What the recovery bench sends through the tunnels of many clients: a thousand probes per second each way and one TCP
//! stream each. Two threads serve all clients; connections to the LAN have one more each.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jvpn_rig::topology::LAN_SERVER;
use jvpn_rig::{Namespace, Rig, priority};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::probes::{Arrival, PROBE_LEN, ProbeSocket, unix_ns};
use super::{SLICE, connect, listen};

/// Between two probes of one direction: the resolution of outages.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(1);
/// Rounds of probes between two pieces of the TCP stream.
const ROUNDS_PER_PIECE: u64 = 10;
/// Octets of a piece: 1 Mbit/s.
const PIECE_OCTETS: usize = 1_250;
/// What the TCP stream writes, octets per second.
pub const TCP_OCTETS_PER_S: f64 =
    PIECE_OCTETS as f64 * 1e3 / (ROUNDS_PER_PIECE as f64 * PROBE_INTERVAL.as_millis() as f64);
const CLIENT_PORT: u16 = 7_200;
const FIRST_PROBE_PORT: u16 = 7_300;
const FIRST_TCP_PORT: u16 = 7_400;

/// One direction since recording began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneRecord {
    /// Number of the first probe sent since.
    pub first: u64,
    /// When each probe was sent, from the first on, Unix ns.
    pub sent_ns: Vec<u64>,
    /// What arrived, in the order of arrival; probes of before among it.
    pub arrivals: Vec<Arrival>,
}

/// The TCP stream since recording began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpRecord {
    /// Octets that the client has written since it was opened.
    pub written: u64,
    /// When octets arrived (Unix ns), and how many in all by then.
    pub arrived: Vec<(u64, u64)>,
    /// Why the connection is not what it was.
    pub broken: Option<String>,
}

/// All that was recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// From client to LAN.
    pub up: LaneRecord,
    /// From LAN to client.
    pub down: LaneRecord,
    /// From client to LAN.
    pub tcp: TcpRecord,
}

#[derive(Debug, Default)]
struct Lane {
    next: u64,
    record: LaneRecord,
    last_arrival_ns: u64,
}

#[derive(Debug, Default)]
struct Tcp {
    stream: Option<TcpStream>,
    /// Counts connections, so that what an old one still delivers is not taken for the new one's.
    connection: u64,
    total: u64,
    record: TcpRecord,
}

#[derive(Debug, Default)]
struct State {
    up: Lane,
    down: Lane,
    tcp: Tcp,
}

#[derive(Debug)]
struct Stream {
    number: u8,
    client: Namespace,
    inner: Ipv4Addr,
    near: ProbeSocket,
    far: ProbeSocket,
    state: Mutex<State>,
}

impl Stream {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Shared {
    streams: Vec<Arc<Stream>>,
    stop: AtomicBool,
}

/// The traffic of all clients. Ends with its value.
#[derive(Debug)]
pub struct Streams {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Streams {
    /// Starts sending for clients (their namespaces and inner addresses). What has no way yet is lost.
    ///
    /// # Errors
    /// A socket or thread cannot be made.
    pub fn start(rig: &Rig, clients: &[(Namespace, Ipv4Addr)]) -> Result<Self> {
        let mut streams = Vec::new();
        let mut listeners = Vec::new();
        for (number, (client, inner)) in clients.iter().enumerate() {
            let number = u8::try_from(number).context("too many clients")?;
            let port = FIRST_PROBE_PORT + u16::from(number);
            let stream = Arc::new(Stream {
                number,
                client: client.clone(),
                inner: *inner,
                near: ProbeSocket::open(client, Ipv4Addr::UNSPECIFIED, CLIENT_PORT)?,
                far: ProbeSocket::open(rig.lan(), LAN_SERVER, port)?,
                state: Mutex::default(),
            });
            let listener = listen(rig.lan(), LAN_SERVER, FIRST_TCP_PORT + u16::from(number))?;
            listeners.push((listener, Arc::clone(&stream)));
            streams.push(stream);
        }
        let shared = Arc::new(Shared { streams, stop: AtomicBool::new(false) });
        let mut threads = Vec::new();
        let mut spawn = |name: &str, work: Box<dyn FnOnce(&Shared) + Send>| -> Result<()> {
            let shared = Arc::clone(&shared);
            let thread = thread::Builder::new().name(name.to_owned()).spawn(move || work(&shared));
            threads.push(thread.context("cannot start a thread")?);
            Ok(())
        };
        spawn("probe-sender", Box::new(send))?;
        spawn("probe-receiver", Box::new(receive))?;
        for (listener, stream) in listeners {
            spawn("tcp-server", Box::new(move |shared| accept(&listener, &stream, shared)))?;
        }
        Ok(Self { shared, threads })
    }

    fn state(&self, client: u8) -> Option<MutexGuard<'_, State>> {
        self.shared.streams.get(usize::from(client)).map(|stream| stream.lock())
    }

    /// Opens the TCP stream of a client, anew if there was one.
    ///
    /// # Errors
    /// It cannot be opened within `patience`.
    pub fn open_tcp(&self, client: u8, patience: Duration) -> Result<()> {
        let stream = self.shared.streams.get(usize::from(client)).context("no such client")?;
        {
            let mut state = stream.lock();
            state.tcp = Tcp { connection: state.tcp.connection + 1, ..Tcp::default() };
        }
        let port = FIRST_TCP_PORT + u16::from(stream.number);
        let tcp = connect(&stream.client, LAN_SERVER, port, patience)?;
        tcp.set_nonblocking(true).context("cannot make a TCP socket non-blocking")?;
        tcp.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        stream.lock().tcp.stream = Some(tcp);
        Ok(())
    }

    /// Forgets what was recorded of a client and begins anew.
    pub fn begin(&self, client: u8) {
        let Some(mut state) = self.state(client) else { return };
        let State { up, down, tcp } = &mut *state;
        for lane in [up, down] {
            lane.record = LaneRecord { first: lane.next, ..LaneRecord::default() };
        }
        tcp.record.arrived.clear();
    }

    /// What was recorded of a client so far.
    #[must_use]
    pub fn record(&self, client: u8) -> Record {
        let Some(state) = self.state(client) else { return Record::default() };
        Record { up: state.up.record.clone(), down: state.down.record.clone(), tcp: state.tcp.record.clone() }
    }

    /// When something last arrived: from the client, at the client. Unix ns.
    #[must_use]
    pub fn last_arrivals(&self, client: u8) -> [u64; 2] {
        self.state(client).map_or([0; 2], |state| [state.up.last_arrival_ns, state.down.last_arrival_ns])
    }

    /// Octets of the TCP stream: written, and arrived; an error if it broke.
    ///
    /// # Errors
    /// It broke.
    pub fn tcp(&self, client: u8) -> Result<(u64, u64)> {
        let Some(state) = self.state(client) else { anyhow::bail!("no such client") };
        match &state.tcp.record.broken {
            Some(why) => anyhow::bail!("the TCP stream broke: {why}"),
            None => Ok((state.tcp.record.written, state.tcp.total)),
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn send(shared: &Shared) {
    // What measures must not wait for what is measured; where that is not allowed, pauses are recorded.
    let _ = priority::raise();
    let mut next = Instant::now();
    for round in 0_u64.. {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        for stream in &shared.streams {
            let port = FIRST_PROBE_PORT + u16::from(stream.number);
            let targets = [SocketAddrV4::new(LAN_SERVER, port), SocketAddrV4::new(stream.inner, CLIENT_PORT)];
            let mut state = stream.lock();
            let State { up, down, tcp } = &mut *state;
            for ((lane, socket), target) in [(up, &stream.near), (down, &stream.far)].into_iter().zip(targets)
            {
                // Refused while there is no way: then it is lost, as any packet would be.
                let sent_ns = socket.send(target, lane.next, PROBE_LEN).unwrap_or_else(unix_ns);
                lane.next += 1;
                lane.record.sent_ns.push(sent_ns);
            }
            if round % ROUNDS_PER_PIECE == 0 {
                tcp.write_piece();
            }
        }
        next += PROBE_INTERVAL;
        let now = Instant::now();
        // After a pause it does not catch up in a burst: that would look like traffic of nobody.
        next = next.max(now.checked_sub(PROBE_INTERVAL * 5).unwrap_or(now));
        thread::sleep(next.saturating_duration_since(now));
    }
}

impl Tcp {
    fn write_piece(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        match stream.write(&[0x5a; PIECE_OCTETS]) {
            Ok(len) => self.record.written += len as u64,
            // The window is closed: an outage. What an application would have sent waits in it.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => {
                self.record.broken.get_or_insert_with(|| error.to_string());
                self.stream = None;
            }
        }
    }
}

fn receive(shared: &Shared) {
    let _ = priority::raise();
    while !shared.stop.load(Ordering::Relaxed) {
        let readable = |socket| PollFd::new(socket, PollFlags::POLLIN);
        let mut fds: Vec<_> = shared
            .streams
            .iter()
            .flat_map(|stream| [readable(stream.far.as_fd()), readable(stream.near.as_fd())])
            .collect();
        let _ = poll(&mut fds, PollTimeout::from(50_u8));
        for (stream, ready) in shared.streams.iter().zip(fds.chunks_exact(2)) {
            for (at_client, fd) in ready.iter().enumerate() {
                if fd.any() != Some(true) {
                    continue;
                }
                let socket = if at_client == 0 { &stream.far } else { &stream.near };
                socket.receive(|arrival| {
                    let mut state = stream.lock();
                    let lane = if at_client == 0 { &mut state.up } else { &mut state.down };
                    lane.last_arrival_ns = arrival.arrived_ns;
                    lane.record.arrivals.push(arrival);
                });
            }
        }
    }
}

fn accept(listener: &TcpListener, stream: &Arc<Stream>, shared: &Shared) {
    let _ = listener.set_nonblocking(true);
    thread::scope(|scope| {
        while !shared.stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((connection, _)) => {
                    let number = stream.lock().tcp.connection;
                    scope.spawn(move || read(connection, number, stream, shared));
                }
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
    });
}

fn read(mut connection: TcpStream, number: u64, stream: &Stream, shared: &Shared) {
    let _ = connection.set_nonblocking(false);
    let _ = connection.set_read_timeout(Some(SLICE));
    let mut octets = vec![0; 64 << 10];
    while !shared.stop.load(Ordering::Relaxed) {
        let result = connection.read(&mut octets);
        let mut state = stream.lock();
        if state.tcp.connection != number {
            return;
        }
        match result {
            Ok(0) => {
                state.tcp.record.broken.get_or_insert_with(|| "closed by the client's end".to_owned());
                return;
            }
            Ok(len) => {
                state.tcp.total += len as u64;
                let arrived = (unix_ns(), state.tcp.total);
                state.tcp.record.arrived.push(arrived);
            }
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(error) => {
                state.tcp.record.broken.get_or_insert_with(|| error.to_string());
                return;
            }
        }
    }
}
