//! What a worker needs of a port's queue, whichever way frames come: AF_XDP rings, or plain descriptors of the kernel.

use super::account::Unseen;
use super::{AfXdpMode, Port, PortStatistics, RxFrame, TxFrame};
use crate::gauges::RingLevels;
use std::os::fd::BorrowedFd;

/// One queue of a port. Frames are linear tokens: what is received is recycled, what is taken is transmitted or put back.
pub trait QueuePort {
    /// A received frame.
    type Rx;
    /// A frame to send with.
    type Tx;

    /// Takes up to `most` received frames into `into`, which is empty, the oldest last.
    fn receive(&mut self, into: &mut Vec<Self::Rx>, most: usize);
    /// The octets of a received frame.
    fn octets<'a>(&'a self, frame: &'a mut Self::Rx) -> &'a mut [u8];
    /// The octets of a received frame, to look at.
    fn peek<'a>(&'a self, frame: &'a Self::Rx) -> &'a [u8];
    /// Gives a received frame back.
    fn recycle(&mut self, frame: Self::Rx);
    /// A free frame to send with.
    fn take_free(&mut self) -> Option<Self::Tx>;
    /// Puts an unused frame back.
    fn put_back(&mut self, frame: Self::Tx);
    /// The whole room of a free frame.
    fn room<'a>(&'a self, frame: &'a mut Self::Tx) -> &'a mut [u8];
    /// Sends the first `len` octets of a frame at the next [`Self::flush`].
    fn transmit(&mut self, frame: Self::Tx, len: usize);
    /// Hands over what was collected. Returns how many frames were refused.
    fn flush(&mut self) -> usize;
    /// Frames that the kernel has not looked at yet.
    fn unsent(&mut self) -> usize;
    /// Readable when frames wait.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Everything that is readable when frames wait.
    fn waits_on<'a>(&'a self, each: &mut dyn FnMut(BorrowedFd<'a>)) {
        each(self.fd());
    }
    /// All frames that it owns, wherever they are.
    fn frames(&self) -> u32;
    /// Frames in each ring, now.
    fn levels(&mut self) -> RingLevels;
    /// Counters that the kernel keeps for this queue.
    fn statistics(&self) -> PortStatistics;
    /// What of its frames may lie where nobody can see it, with nothing on its way.
    fn unseen(&self) -> Unseen;
}

impl QueuePort for Port {
    type Rx = RxFrame;
    type Tx = TxFrame;

    #[inline]
    fn receive(&mut self, into: &mut Vec<RxFrame>, most: usize) {
        Self::receive(self, into, most);
    }
    #[inline]
    fn octets<'a>(&'a self, frame: &'a mut RxFrame) -> &'a mut [u8] {
        Self::octets(self, frame)
    }
    #[inline]
    fn peek<'a>(&'a self, frame: &'a RxFrame) -> &'a [u8] {
        Self::peek(self, frame)
    }
    #[inline]
    fn recycle(&mut self, frame: RxFrame) {
        Self::recycle(self, frame);
    }
    #[inline]
    fn take_free(&mut self) -> Option<TxFrame> {
        Self::take_free(self)
    }
    #[inline]
    fn put_back(&mut self, frame: TxFrame) {
        Self::put_back(self, frame);
    }
    #[inline]
    fn room<'a>(&'a self, frame: &'a mut TxFrame) -> &'a mut [u8] {
        Self::room(self, frame)
    }
    #[inline]
    fn transmit(&mut self, frame: TxFrame, len: usize) {
        Self::transmit(self, frame, len);
    }
    #[inline]
    fn flush(&mut self) -> usize {
        Self::flush(self)
    }
    #[inline]
    fn unsent(&mut self) -> usize {
        Self::unsent(self)
    }
    fn fd(&self) -> BorrowedFd<'_> {
        Self::fd(self)
    }
    fn frames(&self) -> u32 {
        Self::frames(self)
    }
    fn levels(&mut self) -> RingLevels {
        Self::levels(self)
    }
    fn statistics(&self) -> PortStatistics {
        Self::statistics(self).unwrap_or_default()
    }
    fn unseen(&self) -> Unseen {
        match self.mode() {
            // A packet that finds the RX ring full leaves its frame with the kernel, which takes that one for the next packet
            // before it asks the fill ring again: never two (net/xdp/xsk_buff_pool.c, xp_free and xp_alloc).
            AfXdpMode::Copy => {
                Unseen::AtMost(u32::from(Self::statistics(self).unwrap_or_default().rx_ring_full > 0))
            }
            AfXdpMode::ZeroCopy | AfXdpMode::Unknown | AfXdpMode::None => Unseen::Unknown,
        }
    }
}
