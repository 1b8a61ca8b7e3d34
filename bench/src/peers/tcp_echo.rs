//! One TCP connection through the tunnel that echoes 100 times a second and is never opened again.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jvpn_rig::topology::LAN_SERVER;
use jvpn_rig::{Interrupt, Rig, wait};

use super::{SLICE, connect, listen};

const ECHO_PORT: u16 = 7_001;
const INTERVAL: Duration = Duration::from_millis(10);
const MESSAGE_LEN: usize = 16;

#[derive(Debug, Default)]
struct State {
    sent: Vec<Instant>,
    round_trips: Vec<Duration>,
    last_echo: Option<Instant>,
    longest_pause: Duration,
    /// Why the connection is not what it was.
    broken: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn broke(&self, why: impl std::fmt::Display) {
        if !self.stopped() {
            self.state().broken.get_or_insert_with(|| why.to_string());
        }
    }
}

/// What the connection lived through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EchoResult {
    /// Messages sent.
    pub sent: usize,
    /// Messages that came back, in order.
    pub echoed: usize,
    /// Median round-trip time.
    pub median: Duration,
    /// Longest time without an echo.
    pub longest_pause: Duration,
    /// Why the connection broke; `None` if it lives.
    pub broken: Option<String>,
}

/// The running connection. Ends with its value.
#[derive(Debug)]
pub struct TcpEcho {
    shared: Arc<Shared>,
    stream: TcpStream,
    threads: Vec<JoinHandle<std::io::Result<()>>>,
}

impl TcpEcho {
    /// Starts the server on the LAN and opens the connection from the client, once.
    ///
    /// # Errors
    /// The connection cannot be opened within `patience`.
    pub fn start(rig: &Rig, patience: Duration) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let listener = listen(rig.lan(), LAN_SERVER, ECHO_PORT)?;
        let server = rig.lan().spawn("tcp-echo-server", move || {
            // Accepts once: a second connection would not be answered.
            if let Ok((stream, _)) = listener.accept() {
                echo(stream);
            }
        })?;
        let stream = connect(rig.client(), LAN_SERVER, ECHO_PORT, patience)?;
        stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        stream.set_read_timeout(Some(SLICE)).context("cannot set a timeout")?;
        let (writer, reader) = (stream.try_clone()?, stream.try_clone()?);
        let sender = rig.client().spawn("tcp-echo-sender", {
            let shared = Arc::clone(&shared);
            move || send(writer, &shared)
        })?;
        let receiver = rig.client().spawn("tcp-echo-receiver", {
            let shared = Arc::clone(&shared);
            move || receive(reader, &shared)
        })?;
        Ok(Self { shared, stream, threads: vec![server, sender, receiver] })
    }

    /// Waits until `count` more messages have come back.
    ///
    /// # Errors
    /// The connection broke, or fewer within `patience`, or interrupted.
    pub fn wait_for_echoes(&self, count: usize, patience: Duration, interrupt: &Interrupt) -> Result<()> {
        let before = self.shared.state().round_trips.len();
        wait::until("the TCP connection goes on", patience, interrupt, || {
            let state = self.shared.state();
            if let Some(why) = &state.broken {
                anyhow::bail!("the TCP connection broke: {why}");
            }
            Ok((state.round_trips.len() >= before + count).then_some(()))
        })
    }

    /// How it has been so far.
    #[must_use]
    pub fn result(&self) -> EchoResult {
        let state = self.shared.state();
        let mut sorted = state.round_trips.clone();
        sorted.sort_unstable();
        EchoResult {
            sent: state.sent.len(),
            echoed: state.round_trips.len(),
            median: sorted.get(sorted.len() / 2).copied().unwrap_or_default(),
            longest_pause: state.longest_pause,
            broken: state.broken.clone(),
        }
    }
}

impl Drop for TcpEcho {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = self.stream.shutdown(Shutdown::Both);
        // The server's end may never hear of it when the tunnel is gone; it goes with its thread and the
        // process.
        for thread in self.threads.drain(1..) {
            let _ = thread.join();
        }
    }
}

fn echo(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut buffer = [0; 4_096];
    while let Ok(len) = stream.read(&mut buffer) {
        if len == 0 || stream.write_all(buffer.get(..len).unwrap_or_default()).is_err() {
            return;
        }
    }
}

fn message(number: usize) -> [u8; MESSAGE_LEN] {
    let mut message = *b"jvpn-ech\0\0\0\0\0\0\0\0";
    for (place, octet) in message.iter_mut().rev().zip(number.to_le_bytes()) {
        *place = octet;
    }
    message
}

fn send(mut stream: TcpStream, shared: &Shared) {
    let mut next = Instant::now();
    for number in 0.. {
        if shared.stopped() {
            return;
        }
        shared.state().sent.push(Instant::now());
        if let Err(error) = stream.write_all(&message(number)) {
            return shared.broke(error);
        }
        next += INTERVAL;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn receive(mut stream: TcpStream, shared: &Shared) {
    let mut pending: Vec<u8> = Vec::new();
    let mut buffer = [0; 4_096];
    while !shared.stopped() {
        match stream.read(&mut buffer) {
            Ok(0) => return shared.broke("closed by the other end"),
            Ok(len) => pending.extend(buffer.get(..len).unwrap_or_default()),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                continue;
            }
            Err(error) => return shared.broke(error),
        }
        let mut state = shared.state();
        let now = Instant::now();
        while let Some((first, rest)) = pending.split_first_chunk::<MESSAGE_LEN>() {
            let number = state.round_trips.len();
            if *first != message(number) {
                drop(state);
                return shared.broke(format!("message {number} came back changed"));
            }
            let sent_at = state.sent.get(number).copied().unwrap_or(now);
            state.round_trips.push(now.saturating_duration_since(sent_at));
            if let Some(last) = state.last_echo.replace(now) {
                state.longest_pause = state.longest_pause.max(now.saturating_duration_since(last));
            }
            pending = rest.to_vec();
        }
    }
}
