//! What the kernel's 8021q module does, for kernels without it: a device of a VLAN on another interface. Frames that arrive
//! there with the VLAN's tag come out of the device without it, and what is sent by the device leaves with it.
//!
//! The device is one end of a veth pair; two threads carry frames between the other end and the interface.

use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use socket2::Socket;

use crate::packet_socket::{self, Direction};
use crate::tool::IP;
use crate::{Namespace, link};

/// How long a thread waits for a frame before it looks whether it is to end.
const TICK: Duration = Duration::from_millis(20);
/// Octets of a frame's two addresses.
const ADDRESSES_LEN: usize = 12;
/// EtherTypes of an 802.1Q tag and of IPv4.
const TPID: [u8; 2] = [0x81, 0x00];
const IPV4: [u8; 2] = [0x08, 0x00];

/// A device of a VLAN. Its threads end with this value; the pair stays with its namespace.
#[derive(Debug)]
pub struct VlanDevice {
    stop: Arc<AtomicBool>,
    untagged: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<Result<()>>>,
}

impl VlanDevice {
    /// Makes `name` in `namespace` for `vlan` on `trunk`, with the same hardware address, and up.
    ///
    /// # Errors
    /// The kernel refuses a part.
    pub fn create(namespace: &Namespace, trunk: &str, name: &str, vlan: u16) -> Result<Self> {
        let far = format!("{name}x");
        let address = link::mac(namespace, trunk)?.map(|octet| format!("{octet:02x}")).join(":");
        let batch = format!(
            "link add name {name} address {address} type veth peer name {far}\nlink set {name} up\nlink set {far} up\n"
        );
        IP.run_with_input(Some(namespace), &["-batch", "-"], &batch)?;
        link::turn_offloads_off(namespace, name)?;
        link::turn_offloads_off(namespace, &far)?;
        let open = |interface: &str| -> Result<Socket> {
            let socket = packet_socket::open(namespace, interface, &[], Direction::Incoming)?;
            packet_socket::tell_tags(&socket).context("cannot ask for tags")?;
            socket.set_read_timeout(Some(TICK))?;
            Ok(socket)
        };
        let (outside, inside) = (open(trunk)?, open(&far)?);
        let (stop, untagged): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let threads = vec![
            carry(&stop, outside.try_clone()?, inside.try_clone()?, {
                let untagged = Arc::clone(&untagged);
                move |frame, tag| {
                    if tag.is_none() && frame.get(ADDRESSES_LEN..ADDRESSES_LEN + 2) == Some(&IPV4) {
                        untagged.fetch_add(1, Ordering::Relaxed);
                    }
                    (tag == Some(vlan)).then(|| frame.to_vec())
                }
            })?,
            carry(&stop, inside, outside, move |frame, _| {
                let (addresses, rest) = frame.split_at_checked(ADDRESSES_LEN)?;
                Some([addresses, &TPID, &vlan.to_be_bytes(), rest].concat())
            })?,
        ];
        Ok(Self { stop, untagged, threads })
    }

    /// IPv4 frames that arrived at the interface without any tag.
    #[must_use]
    pub fn untagged(&self) -> u64 {
        self.untagged.load(Ordering::Relaxed)
    }
}

impl Drop for VlanDevice {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

/// A thread that sends by one socket what it makes of the frames of another.
fn carry(
    stop: &Arc<AtomicBool>,
    from: Socket,
    to: Socket,
    make: impl Fn(&[u8], Option<u16>) -> Option<Vec<u8>> + Send + 'static,
) -> Result<std::thread::JoinHandle<Result<()>>> {
    let stop = Arc::clone(stop);
    let thread = std::thread::Builder::new().name("rig-vlan".to_owned());
    let work = move || {
        let mut buffer = [0; 2_048];
        while !stop.load(Ordering::Relaxed) {
            let Some((len, tag)) = receive(&from, &mut buffer)? else { continue };
            if let Some(frame) = make(buffer.get(..len).unwrap_or_default(), tag) {
                // A full queue or an interface that is down drops it, as any switch would.
                let _dropped = to.send(&frame);
            }
        }
        Ok(())
    };
    thread.spawn(work).context("cannot start a thread")
}

/// A frame and the VLAN of the tag that the kernel has taken off it; `None` if none came in time.
fn receive(socket: &Socket, buffer: &mut [u8]) -> Result<Option<(usize, Option<u16>)>> {
    /// TP_STATUS_VLAN_VALID (linux/if_packet.h).
    const VLAN_VALID: u32 = 1 << 4;
    /// Where status and tag stand in `struct tpacket_auxdata`.
    const TAG_AT: usize = 16;
    let mut space = cmsg_space!(libc::tpacket_auxdata);
    let mut parts = [IoSliceMut::new(buffer)];
    let received = match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty()) {
        Ok(received) => received,
        Err(nix::Error::EAGAIN | nix::Error::EINTR | nix::Error::ENETDOWN) => return Ok(None),
        Err(error) => return Err(error).context("cannot receive from an AF_PACKET socket"),
    };
    let tag = received.cmsgs()?.find_map(|message| {
        let ControlMessageOwned::Unknown(unknown) = message else { return None };
        let octets = unknown.data_bytes;
        let status = u32::from_ne_bytes(*octets.first_chunk()?);
        let tag = u16::from_ne_bytes(*octets.get(TAG_AT..)?.first_chunk()?);
        (status & VLAN_VALID != 0).then_some(tag & 0x0fff)
    });
    Ok(Some((received.bytes, tag)))
}
