//! A large download through the tunnel, with a checksum on both sides.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use jvpn_rig::topology::LAN_SERVER;
use jvpn_rig::{Interrupt, Rig, wait};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};

use super::{connect, listen};

const DOWNLOAD_PORT: u16 = 7_002;
const CHUNK_OCTETS: usize = 256 << 10;

/// A download that stalls for so long has failed: longer than any recovery that a step allows.
const STALL_MAX: Duration = Duration::from_secs(20);

type Sum = [u8; 32];

/// What arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DownloadResult {
    /// Octets that arrived.
    pub octets: u64,
    /// From connecting to the last octet.
    pub took: Duration,
    /// Whether what arrived is what was sent.
    pub sha256_ok: bool,
}

impl DownloadResult {
    /// Rate, Mbit/s.
    #[must_use]
    pub fn rate_mbit_s(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
        let bits = self.octets as f64 * 8.0;
        bits / self.took.as_secs_f64().max(1e-9) / 1e6
    }
}

/// A running download.
#[derive(Debug)]
pub struct Download {
    wanted: u64,
    started: Instant,
    arrived: Arc<AtomicU64>,
    stream: TcpStream,
    server: JoinHandle<std::io::Result<std::io::Result<Sum>>>,
    client: JoinHandle<std::io::Result<std::io::Result<Sum>>>,
}

impl Download {
    /// Starts a download of `octets` of a stream that `seed` determines.
    ///
    /// # Errors
    /// The connection cannot be opened within `patience`.
    pub fn start(rig: &Rig, octets: u64, seed: u64, patience: Duration) -> Result<Self> {
        let listener = listen(rig.lan(), LAN_SERVER, DOWNLOAD_PORT)?;
        let server = rig.lan().spawn("download-server", move || {
            let (stream, _) = listener.accept()?;
            serve(stream, octets, seed)
        })?;
        let started = Instant::now();
        let stream = connect(rig.client(), LAN_SERVER, DOWNLOAD_PORT, patience)?;
        let arrived = Arc::new(AtomicU64::new(0));
        let client = rig.client().spawn("download-client", {
            let (stream, arrived) = (stream.try_clone()?, Arc::clone(&arrived));
            move || fetch(stream, octets, &arrived)
        })?;
        Ok(Self { wanted: octets, started, arrived, stream, server, client })
    }

    /// Waits until this share of the download has arrived.
    ///
    /// # Errors
    /// It stalls or ends early; or interrupted.
    pub fn wait_for_share(&self, percent: u64, interrupt: &Interrupt) -> Result<()> {
        let wanted = self.wanted / 100 * percent;
        let mut last = (self.arrived.load(Ordering::Relaxed), Instant::now());
        wait::until("the download", Duration::MAX, interrupt, || {
            let arrived = self.arrived.load(Ordering::Relaxed);
            if arrived >= wanted {
                return Ok(Some(()));
            }
            if arrived != last.0 {
                last = (arrived, Instant::now());
            }
            if last.1.elapsed() > STALL_MAX || self.client.is_finished() {
                bail!("the download stopped after {arrived} of {} octets", self.wanted);
            }
            Ok(None)
        })
    }

    /// Waits for the end and compares the checksums.
    ///
    /// # Errors
    /// It stalls or breaks; or interrupted.
    pub fn finish(self, interrupt: &Interrupt) -> Result<DownloadResult> {
        if let Err(error) = self.wait_for_share(100, interrupt) {
            // Unblocks both threads.
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
            return Err(error);
        }
        let received = join(self.client).context("the download broke")?;
        let took = self.started.elapsed();
        let sent = join(self.server).context("the server of the download broke")?;
        Ok(DownloadResult { octets: self.arrived.load(Ordering::Relaxed), took, sha256_ok: received == sent })
    }
}

fn join(thread: JoinHandle<std::io::Result<std::io::Result<Sum>>>) -> Result<Sum> {
    Ok(thread.join().map_err(|_| anyhow!("its thread panicked"))???)
}

fn serve(mut stream: TcpStream, octets: u64, seed: u64) -> std::io::Result<Sum> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_OCTETS];
    let mut left = octets;
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(CHUNK_OCTETS).min(CHUNK_OCTETS);
        let part = chunk.get_mut(..len).unwrap_or_default();
        random.fill_bytes(part);
        hash.update(&*part);
        stream.write_all(part)?;
        left -= len as u64;
    }
    Ok(hash.finalize().into())
}

fn fetch(mut stream: TcpStream, octets: u64, arrived: &AtomicU64) -> std::io::Result<Sum> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_OCTETS];
    let mut total = 0;
    while total < octets {
        let len = stream.read(&mut chunk)?;
        if len == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        hash.update(chunk.get(..len).unwrap_or_default());
        total += len as u64;
        arrived.store(total, Ordering::Relaxed);
    }
    Ok(hash.finalize().into())
}
