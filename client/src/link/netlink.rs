//! Requests to the kernel over NETLINK_ROUTE, synchronously: one question, its answers, done.
//!
//! Only the I/O shell's set-up and link handling call this; it blocks for as long as the kernel takes to answer.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
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
/// How often a list is asked for that changed while it was read.
const TRIES: usize = 8;

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
        for _ in 0..TRIES {
            if let Some(answers) = self.exchange(what, request.clone(), NLM_F_REQUEST | NLM_F_DUMP)? {
                return Ok(answers);
            }
        }
        let reason = format!("it changed during each of {TRIES} tries");
        Err(NetlinkError::Socket { what, source: io::Error::new(io::ErrorKind::ResourceBusy, reason) })
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

    /// `None` if what was listed changed meanwhile, and the list may fit neither state.
    fn exchange(
        &mut self,
        what: &'static str,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, NetlinkError> {
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
        let mut is_consistent = true;
        loop {
            self.receive().map_err(failed)?;
            is_consistent &= !changed_meanwhile(&self.buffer, self.sequence);
            if collect(what, &self.buffer, self.sequence, &mut answers)? == Progress::Complete {
                return Ok(is_consistent.then_some(answers));
            }
        }
    }

    /// One datagram, into the buffer. A signal does not end it: the rest of the answer would stay behind.
    fn receive(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                received => return received.map(drop),
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
            // A list that the kernel had to break off says so at its end.
            NetlinkPayload::Done(done) if done.code < 0 => {
                let source = io::Error::from_raw_os_error(done.code.saturating_abs());
                return Err(NetlinkError::Refused { what, source });
            }
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

/// Whether the kernel says of its answers to request `sequence` that something changed while it gave them.
fn changed_meanwhile(datagram: &[u8], sequence: u32) -> bool {
    frames(datagram).any(|message| {
        NetlinkBuffer::new_checked(message).is_ok_and(|message| {
            message.sequence_number() == sequence && message.flags() & NLM_F_DUMP_INTR != 0
        })
    })
}

/// The messages in one datagram. One that this library cannot read is passed over only if its length is sound.
pub(super) fn messages(
    datagram: &[u8],
) -> impl Iterator<Item = Result<NetlinkMessage<RouteNetlinkMessage>, String>> {
    frames(datagram).map(|message| NetlinkMessage::deserialize(message).map_err(|error| error.to_string()))
}

/// The octets of each message in one datagram.
fn frames(datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let octets: [u8; 4] = rest.get(..4)?.try_into().ok()?;
        let length = u32::from_ne_bytes(octets) as usize;
        let message = rest.get(..length).filter(|_| length >= 16)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::{DoneMessage, NLM_F_MULTIPART};
    use proptest::prelude::*;

    /// The end of list `sequence`, as the kernel says it.
    fn end(sequence: u32, flags: u16, code: i32) -> Vec<u8> {
        let mut header = NetlinkHeader::default();
        (header.flags, header.sequence_number) = (NLM_F_MULTIPART | flags, sequence);
        let mut done = DoneMessage::default();
        done.code = code;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::<RouteNetlinkMessage>::Done(done));
        message.finalize();
        let mut octets = vec![0; message.buffer_len()];
        message.serialize(&mut octets);
        octets
    }

    /// R1.9: a list that was broken off is no short list, one that changed meanwhile is known, and the end of another one
    /// is not the end of this one.
    #[test]
    fn r1_9_only_a_whole_list_is_a_list() {
        let read = |datagram: &[u8]| collect("list", datagram, 7, &mut Vec::new());
        assert_eq!(read(&end(7, 0, 0)).unwrap(), Progress::Complete);
        assert_eq!(read(&end(6, 0, 0)).unwrap(), Progress::More);
        assert_eq!(read(&end(7, 0, -12)).unwrap_err().errno(), Some(12));
        assert!(changed_meanwhile(&end(7, NLM_F_DUMP_INTR, 0), 7));
        assert!(!changed_meanwhile(&[end(7, 0, 0), end(6, NLM_F_DUMP_INTR, 0)].concat(), 7));
    }

    proptest! {
        /// Whatever the socket delivers, reading it ends and does not panic.
        #[test]
        fn garbage_is_no_panic(datagram in proptest::collection::vec(any::<u8>(), 0..200)) {
            let count = messages(&datagram).count();
            prop_assert!(count <= datagram.len() / 16 + 1);
        }
    }
}
