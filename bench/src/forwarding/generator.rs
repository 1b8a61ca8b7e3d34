//! Makes packets as fast as one CPU can: sealed DATA of one session, or plain packets for its client. Both forwarders get
//! the same, so that the sealing costs both alike.

use super::Direction;
use super::edge::{FAR_MAC, GATEWAY_WAN, OPEN_KEY, PEER_PORT, SERVER, client, slot};
use super::lab::pin;
use anyhow::{Context as _, Result, anyhow};
use jvpn_abi::wire::{DATA_HEADER_LEN, DataHeader, Suite, TAG_LEN};
use jvpn_crypto::aead::SealKey;
use jvpn_dataplane::frame::{fold, sum_words};
use jvpn_dataplane::port::Port;
use jvpn_rig::TUNNEL_PORT;
use jvpn_rig::topology::ROUTER_WAN;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Packets between two system calls.
const BATCH: usize = 32;
/// Octets before the sealed datagram.
const OUTER: usize = 42;

/// The counter of the next frame of a session, alone in its cache line: two generators must not wait for each other.
#[repr(align(128))]
struct Counter(AtomicU64);

/// Sessions live as long as this process, so no counter comes twice.
static COUNTERS: [Counter; SESSIONS_MAX] = [const { Counter(AtomicU64::new(0)) }; SESSIONS_MAX];

/// Sessions that there may be.
pub(super) const SESSIONS_MAX: usize = 8;

/// Where a generator runs and whose packets it makes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat {
    pub(super) cpu: usize,
    pub(super) queue: u32,
    /// Below [`SESSIONS_MAX`].
    pub(super) session: u8,
}

/// A running generator.
pub(super) struct Generator {
    thread: JoinHandle<Result<()>>,
    stop: Arc<AtomicBool>,
}

impl Generator {
    /// Starts on an interface of this thread's network namespace. `size`: octets of the inner packet.
    pub(super) fn start(
        interface: &str,
        direction: Direction,
        size: usize,
        target: [u8; 6],
        seat: Seat,
    ) -> Result<Self> {
        let port = Port::open(interface, seat.queue)?;
        let maker = Maker::new(direction, size, target, seat.session)?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                pin(seat.cpu)?;
                generate(port, maker, &stop)
            }
        });
        Ok(Self { thread, stop })
    }

    pub(super) fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().map_err(|_| anyhow!("the generator panicked"))?
    }
}

fn generate(mut port: Port, maker: Maker, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Acquire) {
        for _ in 0..BATCH {
            let Some(mut frame) = port.take_free() else { break };
            let len = maker.write(port.room(&mut frame))?;
            port.transmit(frame, len);
        }
        let _refused = port.flush();
    }
    Ok(())
}

/// Writes packets.
struct Maker {
    head: Vec<u8>,
    inner: Vec<u8>,
    seal: Option<SealKey>,
    session: u8,
}

impl Maker {
    fn new(direction: Direction, size: usize, target: [u8; 6], session: u8) -> Result<Self> {
        let mut head = target.to_vec();
        head.extend(FAR_MAC);
        head.extend([8, 0]);
        Ok(match direction {
            Direction::Encrypt => {
                Self { head, inner: packet(SERVER, client(session), size)?, seal: None, session }
            }
            Direction::Decrypt => {
                let payload = DATA_HEADER_LEN + size + TAG_LEN;
                head.extend(header(ROUTER_WAN, GATEWAY_WAN, 28 + payload)?);
                for word in [usize::from(PEER_PORT), usize::from(TUNNEL_PORT), 8 + payload, 0] {
                    head.extend(u16::try_from(word)?.to_be_bytes());
                }
                let seal = Some(SealKey::new(Suite::Aes256Gcm, &OPEN_KEY));
                Self { head, inner: packet(client(session), SERVER, size)?, seal, session }
            }
        })
    }

    /// Writes the next packet and gives its length.
    fn write(&self, room: &mut [u8]) -> Result<usize> {
        let body = room.get_mut(self.head.len()..).context("a frame is too short")?;
        let Some(seal) = &self.seal else {
            body.get_mut(..self.inner.len()).context("a frame is too short")?.copy_from_slice(&self.inner);
            room.get_mut(..self.head.len()).context("a frame is too short")?.copy_from_slice(&self.head);
            return Ok(self.head.len() + self.inner.len());
        };
        let next = COUNTERS.get(usize::from(self.session)).context("no such session")?;
        let counter = next.0.fetch_add(1, Ordering::Relaxed);
        let header = DataHeader { key_phase: false, shard: 0, slot: slot(self.session), counter }.encode();
        let sealed = DATA_HEADER_LEN..DATA_HEADER_LEN + self.inner.len() + TAG_LEN;
        let end = OUTER + sealed.end;
        body.get_mut(..DATA_HEADER_LEN).context("a frame is too short")?.copy_from_slice(&header);
        let out = body.get_mut(sealed).context("a frame is too short")?;
        seal.seal(counter, &header, &self.inner, out)?;
        room.get_mut(..self.head.len()).context("a frame is too short")?.copy_from_slice(&self.head);
        Ok(end)
    }
}

/// An IPv4 header for a packet of `len` octets.
fn header(source: Ipv4Addr, destination: Ipv4Addr, len: usize) -> Result<[u8; 20]> {
    let mut header = [0; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&u16::try_from(len)?.to_be_bytes());
    header[6] = 0x40;
    (header[8], header[9]) = (64, 17);
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&destination.octets());
    let checksum = fold(sum_words(&header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    Ok(header)
}

/// A UDP packet of `len` octets to the discard port, without a checksum (RFC 768).
fn packet(source: Ipv4Addr, destination: Ipv4Addr, len: usize) -> Result<Vec<u8>> {
    let mut packet = header(source, destination, len)?.to_vec();
    for word in [9, 9, len.checked_sub(20).context("size")?, 0] {
        packet.extend(u16::try_from(word)?.to_be_bytes());
    }
    packet.resize(len, 7);
    Ok(packet)
}
