//! Many frames per system call: `recvmmsg` and `sendmmsg` on AF_PACKET sockets.

use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::ptr;

use socket2::Socket;

/// Frames of one call.
pub(super) const BATCH: usize = 64;
/// Octets of the largest frame: offloads are off, so no more than a jumbo frame.
const FRAME_MAX: usize = 9_216;

/// Buffers of one receiver.
pub(super) struct Batch {
    buffers: Vec<u8>,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self { buffers: vec![0; BATCH * FRAME_MAX] }
    }

    /// Hands each waiting frame to `take`; gives how many there were. None is no error.
    pub(super) fn receive(&mut self, socket: &Socket, mut take: impl FnMut(&[u8])) -> io::Result<usize> {
        let mut vectors: [libc::iovec; BATCH] =
            [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
        for (vector, buffer) in vectors.iter_mut().zip(self.buffers.chunks_exact_mut(FRAME_MAX)) {
            *vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: FRAME_MAX };
        }
        let mut headers = headers(&mut vectors);
        // SAFETY: every header names one vector, every vector a buffer of its own of that length; all of them live on.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let count = done(count)?;
        for (header, buffer) in headers.iter().take(count).zip(self.buffers.chunks_exact(FRAME_MAX)) {
            // A frame that was cut off is longer than any that the rig sends: it is not passed on in part.
            if header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0 {
                take(buffer.get(..header.msg_len as usize).unwrap_or_default());
            }
        }
        Ok(count)
    }
}

/// Sends the frames, at most [`BATCH`]; gives how many went.
pub(super) fn send(socket: &Socket, frames: &[Vec<u8>]) -> io::Result<usize> {
    let mut vectors: [libc::iovec; BATCH] = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
    for (vector, frame) in vectors.iter_mut().zip(frames) {
        *vector = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
    }
    let mut headers = headers(&mut vectors);
    let count = frames.len().min(BATCH);
    // SAFETY: the first `count` headers name one vector each, which names a frame that lives on; sending only reads it.
    let sent = unsafe {
        libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count as libc::c_uint, libc::MSG_DONTWAIT)
    };
    done(sent)
}

fn headers(vectors: &mut [libc::iovec; BATCH]) -> [libc::mmsghdr; BATCH] {
    // SAFETY: all-zero is a valid `mmsghdr`: no name, no vectors, no control data.
    let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
    for (header, vector) in headers.iter_mut().zip(vectors) {
        header.msg_hdr.msg_iov = ptr::from_mut(vector);
        header.msg_hdr.msg_iovlen = 1;
    }
    headers
}

fn done(count: libc::c_int) -> io::Result<usize> {
    match usize::try_from(count) {
        Ok(count) => Ok(count),
        Err(_) => {
            let error = io::Error::last_os_error();
            let passing = [libc::EAGAIN, libc::EINTR, libc::ENETDOWN, libc::ENOBUFS, libc::ENXIO];
            match error.raw_os_error() {
                Some(code) if passing.contains(&code) => Ok(0),
                _ => Err(error),
            }
        }
    }
}
