//! The LAN without AF_XDP: a queue of a TUN device into the host's own stack, which routes from there.

use super::plain::End;
use crate::frame::{Address, Family, Inner, Mac, write_ethernet};
use crate::pipeline::Routes;
use jvpn_abi::steer::ETHERNET_LEN;
use jvpn_abi::tables::SteeringMark;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use tun_rs::SyncDevice;

/// One queue of the device.
pub struct TunEnd {
    device: SyncDevice,
    routes: Arc<dyn Routes>,
}

impl std::fmt::Debug for TunEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TunEnd")
    }
}

impl TunEnd {
    /// A non-blocking queue; `routes` says which slot an inner address leads to, as the XDP program does elsewhere.
    #[must_use]
    pub fn new(device: SyncDevice, routes: Arc<dyn Routes>) -> Self {
        Self { device, routes }
    }
}

impl End for TunEnd {
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<Option<Range<usize>>> {
        let (head, room) = buffer.split_at_mut_checked(ETHERNET_LEN).unwrap_or_default();
        let len = match nix::unistd::read(&self.device, room) {
            Ok(len) => len,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        mark(head, room.get(..len).unwrap_or_default(), &*self.routes);
        Ok(Some(0..ETHERNET_LEN + len))
    }

    fn give(&mut self, frame: &[u8]) -> io::Result<()> {
        let packet = frame.get(ETHERNET_LEN..).unwrap_or_default();
        nix::unistd::write(&self.device, packet).map(drop).map_err(Into::into)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// Writes the header that the XDP program of the LAN would leave: the mark of the destination's slot. Without a slot there
/// is no mark, and the pipeline counts that.
fn mark(head: &mut [u8], packet: &[u8], routes: &dyn Routes) {
    head.fill(0);
    let Some((family, destination)) = destination(packet) else { return };
    let _fits = write_ethernet(head, Mac::default(), Mac::default(), family);
    if let Some(slot_index) = routes.slot_of(destination)
        && let Some(place) = head.first_chunk_mut::<{ SteeringMark::LEN }>()
    {
        *place = SteeringMark { slot_index }.encode();
    }
}

fn destination(packet: &[u8]) -> Option<(Family, Address)> {
    Inner::parse(packet).map(|inner| (inner.family, inner.destination))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::samples::{v4, v6};

    struct One(Address);

    impl Routes for One {
        fn slot_of(&self, destination: Address) -> Option<u32> {
            (destination == self.0).then_some(7)
        }

        fn generation(&self) -> u64 {
            0
        }
    }

    #[test]
    fn packets_get_the_mark_of_their_slot() {
        for packet in [v4(9, 17, b"x"), v6(9, 17, b"x")] {
            let mut head = [0xff; ETHERNET_LEN];
            let to = Inner::parse(&packet).unwrap().destination;
            mark(&mut head, &packet, &One(to));
            assert_eq!(SteeringMark::decode(&head).map(|mark| mark.slot_index), Some(7));
            mark(&mut head, &packet, &One(Address(0)));
            assert_eq!(SteeringMark::decode(&head), None);
        }
        let mut head = [0xff; ETHERNET_LEN];
        mark(&mut head, &[0x45], &One(Address(0)));
        assert_eq!(head, [0; ETHERNET_LEN]);
    }
}
