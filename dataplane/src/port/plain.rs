//! A port without AF_XDP: buffers of our own in front of a descriptor. Slower by a system call and a copy per packet, and
//! it works wherever the kernel has sockets and TUN devices. The pipeline does not know the difference: it gets frames.

use super::{PortStatistics, QueuePort, Unseen};
use crate::gauges::RingLevels;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

/// Octets of a buffer: as much as a frame of AF_XDP has.
const BUFFER_OCTETS: usize = 2_048;

/// Where plain frames come from and go to.
pub trait End {
    /// Takes one packet into the buffer, as a frame; `None` if none waits.
    ///
    /// # Errors
    /// What the kernel says.
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<Option<Range<usize>>>;

    /// Sends one frame.
    ///
    /// # Errors
    /// What the kernel says.
    fn give(&mut self, frame: &[u8]) -> io::Result<()>;

    /// Readable when packets wait.
    fn fd(&self) -> BorrowedFd<'_>;
}

/// A buffer and where its frame lies.
#[derive(Debug)]
pub struct Buffer {
    octets: Box<[u8; BUFFER_OCTETS]>,
    frame: Range<usize>,
}

impl Buffer {
    fn new() -> Self {
        Self { octets: Box::new([0; BUFFER_OCTETS]), frame: 0..0 }
    }
}

/// A received frame.
#[derive(Debug)]
pub struct PlainRx(Buffer);

/// A frame to send with.
#[derive(Debug)]
pub struct PlainTx(Buffer);

/// One queue of a port without AF_XDP.
#[derive(Debug)]
pub struct PlainPort<E> {
    end: E,
    free_rx: Vec<Buffer>,
    free_tx: Vec<Buffer>,
    to_send: Vec<Buffer>,
    size: u32,
    total: u32,
    refused: u64,
    /// Its device was deleted: nothing comes any more, and its descriptor says "error" for ever.
    is_over: bool,
}

impl<E> PlainPort<E> {
    /// A port with buffers for batches of `batch` frames in each direction.
    #[must_use]
    pub fn new(end: E, batch: usize) -> Self {
        let buffers = |count: usize| (0..count).map(|_| Buffer::new()).collect();
        // A batch of either port may send a frame for each it got, and one is kept in hand.
        let sending = 2 * batch + 1;
        Self {
            end,
            free_rx: buffers(batch),
            free_tx: buffers(sending),
            to_send: Vec::with_capacity(sending),
            size: u32::try_from(sending).unwrap_or(u32::MAX),
            total: u32::try_from(batch + sending).unwrap_or(u32::MAX),
            refused: 0,
            is_over: false,
        }
    }
}

/// Whether an error of receiving is the end: what a queue of a TUN device says once that is deleted (drivers/net/tun.c).
fn is_end(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBADFD)
}

impl<E: End> QueuePort for PlainPort<E> {
    type Rx = PlainRx;
    type Tx = PlainTx;

    fn receive(&mut self, into: &mut Vec<PlainRx>, most: usize) {
        let mut left = if self.is_over { 0 } else { most };
        while left > 0 {
            let Some(mut buffer) = self.free_rx.pop() else { break };
            left -= 1;
            match self.end.take(&mut *buffer.octets) {
                Ok(Some(frame)) => {
                    buffer.frame = frame;
                    into.push(PlainRx(buffer));
                }
                Ok(None) => {
                    self.free_rx.push(buffer);
                    break;
                }
                Err(error) => {
                    self.free_rx.push(buffer);
                    self.is_over = is_end(&error);
                    if self.is_over {
                        tracing::error!(%error, "the device of a port was deleted: nothing comes by it any more");
                    } else {
                        tracing::debug!(%error, "receiving failed");
                    }
                    break;
                }
            }
        }
        into.reverse();
    }

    fn octets<'a>(&'a self, frame: &'a mut PlainRx) -> &'a mut [u8] {
        frame.0.octets.get_mut(frame.0.frame.clone()).unwrap_or_default()
    }

    fn peek<'a>(&'a self, frame: &'a PlainRx) -> &'a [u8] {
        frame.0.octets.get(frame.0.frame.clone()).unwrap_or_default()
    }

    fn recycle(&mut self, frame: PlainRx) {
        self.free_rx.push(frame.0);
    }

    fn take_free(&mut self) -> Option<PlainTx> {
        self.free_tx.pop().map(PlainTx)
    }

    fn put_back(&mut self, frame: PlainTx) {
        self.free_tx.push(frame.0);
    }

    fn room<'a>(&'a self, frame: &'a mut PlainTx) -> &'a mut [u8] {
        &mut *frame.0.octets
    }

    fn transmit(&mut self, mut frame: PlainTx, len: usize) {
        frame.0.frame = 0..len;
        self.to_send.push(frame.0);
    }

    fn flush(&mut self) -> usize {
        let mut refused = 0;
        for buffer in self.to_send.drain(..) {
            let frame = buffer.octets.get(buffer.frame.clone()).unwrap_or_default();
            if let Err(error) = self.end.give(frame) {
                // A full queue or a path that does not take the packet: dropped as a ring that is full drops.
                tracing::trace!(%error, "sending failed");
                refused += 1;
            }
            self.free_tx.push(buffer);
        }
        self.refused += refused as u64;
        refused
    }

    fn unsent(&mut self) -> usize {
        0
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.end.fd()
    }

    /// Whoever waited on the descriptor of a deleted device would never sleep.
    fn waits_on<'a>(&'a self, each: &mut dyn FnMut(BorrowedFd<'a>)) {
        if !self.is_over {
            each(self.fd());
        }
    }

    fn frames(&self) -> u32 {
        self.total
    }

    /// The kernel's queues are its own; these are the buffers in front of them.
    fn levels(&mut self) -> RingLevels {
        let count = |buffers: &[Buffer]| u32::try_from(buffers.len()).unwrap_or(u32::MAX);
        RingLevels {
            rx: 0,
            fill: count(&self.free_rx),
            tx: count(&self.to_send),
            completion: 0,
            free: count(&self.free_tx),
            size: self.size,
        }
    }

    fn statistics(&self) -> PortStatistics {
        PortStatistics { invalid: self.refused, ..PortStatistics::default() }
    }

    fn unseen(&self) -> Unseen {
        Unseen::AtMost(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::os::fd::AsFd as _;

    /// Gives back what it was given.
    struct Loop(VecDeque<Vec<u8>>);

    impl End for Loop {
        fn take(&mut self, buffer: &mut [u8]) -> io::Result<Option<Range<usize>>> {
            let Some(next) = self.0.pop_front() else { return Ok(None) };
            buffer[7..7 + next.len()].copy_from_slice(&next);
            Ok(Some(7..7 + next.len()))
        }
        fn give(&mut self, frame: &[u8]) -> io::Result<()> {
            if frame.is_empty() {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            self.0.push_back(frame.to_vec());
            Ok(())
        }
        fn fd(&self) -> BorrowedFd<'_> {
            unreachable!("nobody waits in this test")
        }
    }

    const BATCH: usize = 64;

    /// Frames come in order, none is lost, and every buffer comes back.
    #[test]
    fn buffers_are_conserved() {
        let mut port = PlainPort::new(Loop(VecDeque::new()), BATCH);
        let mut batch = Vec::new();
        for round in 0..5u8 {
            for n in 0..BATCH as u8 {
                let mut frame = port.take_free().unwrap();
                port.room(&mut frame)[..2].copy_from_slice(&[round, n]);
                port.transmit(frame, 2);
            }
            let odd = port.take_free().unwrap();
            port.transmit(odd, 0);
            assert_eq!(port.flush(), 1, "what is refused is counted");
            port.receive(&mut batch, BATCH);
            for n in 0..BATCH as u8 {
                let mut frame = batch.pop().unwrap();
                assert_eq!(port.octets(&mut frame), [round, n]);
                port.recycle(frame);
            }
            port.receive(&mut batch, BATCH);
            assert!(batch.is_empty());
        }
        assert_eq!((port.free_rx.len(), port.free_tx.len()), (BATCH, 2 * BATCH + 1));
        assert_eq!(port.statistics().invalid, 5);
    }

    /// What a descriptor says in place of packets, and how often it was asked.
    struct Fails {
        file: std::fs::File,
        error: i32,
        asked: usize,
    }

    impl End for Fails {
        fn take(&mut self, _buffer: &mut [u8]) -> io::Result<Option<Range<usize>>> {
            self.asked += 1;
            Err(io::Error::from_raw_os_error(self.error))
        }
        fn give(&mut self, _frame: &[u8]) -> io::Result<()> {
            Err(io::Error::from_raw_os_error(self.error))
        }
        fn fd(&self) -> BorrowedFd<'_> {
            self.file.as_fd()
        }
    }

    /// R9.1: nobody waits on a TUN device that was deleted, which would be for nothing and without sleep; an error that passes
    /// is none.
    #[test]
    fn r9_1_a_deleted_device_is_not_waited_on() {
        for (error, waits) in [(libc::EBADFD, false), (libc::EIO, true)] {
            let file = std::fs::File::open("/dev/null").unwrap();
            let mut port = PlainPort::new(Fails { file, error, asked: 0 }, BATCH);
            let mut batch = Vec::new();
            for _ in 0..3 {
                port.receive(&mut batch, BATCH);
                assert!(batch.is_empty());
            }
            let mut waited = 0;
            port.waits_on(&mut |_| waited += 1);
            assert_eq!((waited == 1, port.end.asked), (waits, if waits { 3 } else { 1 }), "{error}");
            assert_eq!(port.free_rx.len(), BATCH, "every buffer is back");
        }
    }
}
