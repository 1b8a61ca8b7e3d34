//! The server on the LAN that sends every datagram back.

use std::net::{SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use jvpn_rig::Rig;
use jvpn_rig::topology::LAN_SERVER;
use nix::sys::socket::{setsockopt, sockopt};

/// Where it listens.
pub const ECHO: SocketAddrV4 = SocketAddrV4::new(LAN_SERVER, 7_005);
/// Octets of its buffers: on a busy machine markers of many members may come before it runs.
const BUFFER: usize = 16 << 20;
/// How long a receive waits before it looks whether it is to end.
const SLICE: Duration = Duration::from_millis(50);

/// The running echo. Ends with its value.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Echo {
    /// Starts it.
    ///
    /// # Errors
    /// The port is taken, or no thread can be made.
    pub fn start(rig: &Rig) -> Result<Self> {
        let socket = rig.lan().run(|| UdpSocket::bind(ECHO))?.context("cannot open the echo's socket")?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).context("cannot set the echo's buffer")?;
        setsockopt(&socket, sockopt::SndBufForce, &BUFFER).context("cannot set the echo's buffer")?;
        socket.set_read_timeout(Some(SLICE)).context("cannot set a timeout")?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let stop = Arc::clone(&stop);
            rig.lan().spawn("echo", move || {
                let mut buffer = [0; 2_048];
                while !stop.load(Ordering::Relaxed) {
                    // An error is a timeout, or an ICMP error for a member that has moved: neither ends the echo.
                    if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                        let _sent = socket.send_to(buffer.get(..len).unwrap_or_default(), from);
                    }
                }
            })?
        };
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}
