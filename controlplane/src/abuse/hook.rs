//! Where abuse summaries go: a Unix datagram socket of the operator's own tool, one summary per datagram.
//!
//! Sending never waits: the queue is the receiver's own, which the kernel bounds, and what does not fit there, or finds
//! nobody, is dropped and counted; the next summary that arrives tells how many. A receiver may come, go and hang as it
//! likes. (`docs/decisions/0017-retry-cookies.md` says why it is not a command.)

use super::Summary;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

/// The way to the receiver.
#[derive(Debug)]
pub struct AbuseHook {
    socket: UnixDatagram,
    path: PathBuf,
    node_id: String,
    /// Unix time less `CLOCK_BOOTTIME`, ms.
    unix_offset_ms: i64,
    sent: u64,
    dropped: u64,
    /// Of `dropped`, what the receiver was told of.
    told: u64,
}

impl AbuseHook {
    /// A way to the socket at `path`, which need not exist yet.
    ///
    /// # Errors
    /// If the host gives no socket.
    pub fn new(path: PathBuf, node_id: String, unix_offset_ms: i64) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path, node_id, unix_offset_ms, sent: 0, dropped: 0, told: 0 })
    }

    /// Hands a summary over, or counts it as dropped. Never blocks, never fails.
    pub fn send(&mut self, summary: &Summary) {
        let text = summary.encode(&self.node_id, self.unix_offset_ms, self.dropped - self.told);
        match self.socket.send_to(text.as_bytes(), &self.path) {
            Ok(_) => {
                self.sent += 1;
                self.told = self.dropped;
            }
            Err(error) => {
                if self.dropped == self.told {
                    let path = self.path.display();
                    tracing::warn!(%path, %error, "nobody takes abuse summaries; is the receiver of abuse.socket there?");
                }
                self.dropped += 1;
            }
        }
    }

    /// Summaries taken, and lost.
    #[must_use]
    pub const fn counts(&self) -> (u64, u64) {
        (self.sent, self.dropped)
    }
}
