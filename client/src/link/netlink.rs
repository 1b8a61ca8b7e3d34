//! Requests to the kernel over NETLINK_ROUTE, synchronously: one question, its answers, done.
//!
//! Only the I/O shell's set-up and link handling call this; it blocks for as long as the kernel takes to answer.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket failed.
    #[error("netlink, while trying to {what}: {source}")]
    Socket {
        /// What was asked for.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("the kernel refused to {what}: {source}{hint}", hint = hint(source))]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// Its errno.
        source: io::Error,
    },
}

impl NetlinkError {
    /// The errno with which the kernel refused, if it did.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            Self::Socket { .. } => None,
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    if denied { "; CAP_NET_ADMIN is needed: run as root" } else { "" }
}

/// How a request treats what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Make it new; refuse if it exists.
    Create,
    /// Put it in the place of what exists, in one step.
    Replace,
    /// Change or remove what exists.
    Change,
}

/// Octets for one batch of answers; the kernel fills at most 32 KiB per read of a dump.
const RECEIVE_OCTETS: usize = 64 << 10;

/// A socket for requests.
#[derive(Debug)]
pub struct Requests {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Requests {
    /// Opens the socket.
    ///
    /// # Errors
    /// If the kernel does not allow it.
    pub fn open() -> Result<Self, NetlinkError> {
        let failed = |source| NetlinkError::Socket { what: "open a socket", source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        // Filters in dump requests are then honoured instead of ignored (Linux 4.20).
        socket.set_netlink_get_strict_chk(true).map_err(failed)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE_OCTETS) })
    }

    /// Lists what matches `request`.
    ///
    /// # Errors
    /// If the kernel refuses or cannot be understood.
    pub fn dump(
        &mut self,
        what: &'static str,
        request: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.exchange(what, request, NLM_F_REQUEST | NLM_F_DUMP)
    }

    /// Carries out one change.
    ///
    /// # Errors
    /// If the kernel refuses or cannot be understood.
    pub fn change(
        &mut self,
        what: &'static str,
        request: RouteNetlinkMessage,
        mode: Mode,
    ) -> Result<(), NetlinkError> {
        let extra = match mode {
            Mode::Create => NLM_F_CREATE | NLM_F_EXCL,
            Mode::Replace => NLM_F_CREATE | NLM_F_REPLACE,
            Mode::Change => 0,
        };
        self.exchange(what, request, NLM_F_REQUEST | NLM_F_ACK | extra).map(|_| ())
    }

    fn exchange(
        &mut self,
        what: &'static str,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut out = vec![0; message.buffer_len()];
        message.serialize(&mut out);
        let failed = |source| NetlinkError::Socket { what, source };
        self.socket.send(&out, 0).map_err(failed)?;
        let mut answers = Vec::new();
        loop {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0).map_err(failed)?;
            if collect(what, &self.buffer, self.sequence, &mut answers)? == Progress::Complete {
                return Ok(answers);
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    Complete,
}

/// Takes the answers to request `sequence` out of one datagram.
#[allow(clippy::wildcard_enum_match_arm, reason = "the library's list of payloads is open")]
pub(super) fn collect(
    what: &'static str,
    datagram: &[u8],
    sequence: u32,
    answers: &mut Vec<RouteNetlinkMessage>,
) -> Result<Progress, NetlinkError> {
    for message in messages(datagram) {
        let message = match message {
            Ok(message) => message,
            // One exotic device must not hide all the others.
            Err(problem) => {
                tracing::debug!(what, problem, "an unreadable answer is passed over");
                continue;
            }
        };
        if message.header.sequence_number != sequence {
            continue;
        }
        match message.payload {
            NetlinkPayload::InnerMessage(answer) => answers.push(answer),
            NetlinkPayload::Done(_) => return Ok(Progress::Complete),
            NetlinkPayload::Error(error) => {
                let Some(code) = error.code else { return Ok(Progress::Complete) };
                let source = io::Error::from_raw_os_error(code.get().saturating_abs());
                return Err(NetlinkError::Refused { what, source });
            }
            // Noop, Overrun, and what later versions of the library may add.
            _ => {}
        }
    }
    Ok(Progress::More)
}

/// The messages in one datagram. One that this library cannot read is passed over only if its length is sound.
pub(super) fn messages(
    datagram: &[u8],
) -> impl Iterator<Item = Result<NetlinkMessage<RouteNetlinkMessage>, String>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let octets: [u8; 4] = rest.get(..4)?.try_into().ok()?;
        let length = u32::from_ne_bytes(octets) as usize;
        let message = rest.get(..length).filter(|_| length >= 16)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(NetlinkMessage::deserialize(message).map_err(|error| error.to_string()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the socket delivers, reading it ends and does not panic.
        #[test]
        fn garbage_is_no_panic(datagram in proptest::collection::vec(any::<u8>(), 0..200)) {
            let count = messages(&datagram).count();
            prop_assert!(count <= datagram.len() / 16 + 1);
        }
    }
}
