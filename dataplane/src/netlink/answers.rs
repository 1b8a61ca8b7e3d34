//! Answers of the kernel, matched to their requests.
//!
//! A dump is several datagrams up to its end. Whoever stops before leaves the rest in the socket, where the next request
//! would take it for its own answer, and as long as a dump is not read to its end the kernel refuses another one (EBUSY).
//! So every answer is held against the number of its request, and after a failure the socket is read until it is empty.
#![allow(clippy::wildcard_enum_match_arm, reason = "the library's list of payloads is open")]

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_OVERRUN, NetlinkBuffer,
    NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::Socket;
use std::io;
use std::num::NonZeroI32;
use std::time::Duration;

/// How often a dump is asked for that the kernel calls inconsistent, because something changed while it was read.
const TRIES: usize = 8;
/// The kernel has answered before a request is sent whole; an answer that takes so long was lost.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Kernel messages come in pages; this holds several, octets.
const BUFFER: usize = 1 << 16;

/// What requests go over, and answers come back.
pub(super) trait Line {
    /// Sends one datagram.
    fn say(&mut self, datagram: &[u8]) -> io::Result<()>;
    /// Takes one datagram off, in the place of what is in `datagram`.
    fn hear(&mut self, wait: Wait, datagram: &mut Vec<u8>) -> io::Result<()>;
}

/// Whether to wait for a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// As long as the socket does.
    Yes,
    /// Only what is there.
    No,
}

impl Line for Socket {
    fn say(&mut self, datagram: &[u8]) -> io::Result<()> {
        self.send(datagram, 0).map(drop)
    }

    fn hear(&mut self, wait: Wait, datagram: &mut Vec<u8>) -> io::Result<()> {
        let flags = if wait == Wait::No { libc::MSG_DONTWAIT } else { 0 };
        loop {
            datagram.clear();
            match self.recv(datagram, flags) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                heard => return heard.map(drop),
            }
        }
    }
}

/// One question after the other over a line.
#[derive(Debug)]
pub(super) struct Dialogue<L> {
    pub(super) line: L,
    /// What was heard last.
    pub(super) datagram: Vec<u8>,
    /// Number of the last request.
    sequence: u32,
    /// Entries of answers that could not be read.
    unreadable: u64,
}

impl<L: Line> Dialogue<L> {
    pub(super) fn over(line: L) -> Self {
        Self { line, datagram: Vec::with_capacity(BUFFER), sequence: 0, unreadable: 0 }
    }

    /// Asks the kernel and takes its answers. An entry that cannot be read is passed over and counted.
    ///
    /// # Errors
    /// What it refuses with; if its answer cannot be understood or does not come; if a dump stays inconsistent.
    pub(super) fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut request = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
        request.header.flags = NLM_F_REQUEST | flags;
        for _ in 0..TRIES {
            self.sequence = self.sequence.wrapping_add(1);
            request.header.sequence_number = self.sequence;
            request.finalize();
            let mut octets = vec![0; request.buffer_len()];
            request.serialize(&mut octets);
            self.line.say(&octets)?;
            let answers = self.take_answers(Kind::of(flags)).inspect_err(|_| self.empty())?;
            self.count_unreadable(answers.unreadable);
            if answers.is_consistent {
                return Ok(answers.list);
            }
        }
        let reason = format!("what was asked for changed during each of {TRIES} dumps; try again");
        Err(io::Error::new(io::ErrorKind::ResourceBusy, reason))
    }

    fn take_answers(&mut self, kind: Kind) -> io::Result<Answers> {
        let mut answers = Answers::to(self.sequence, kind);
        loop {
            self.line.hear(Wait::Yes, &mut self.datagram).map_err(lost)?;
            if answers.take(&self.datagram)? == Progress::Complete {
                return Ok(answers);
            }
        }
    }

    /// Reads what is left of an exchange that failed. Each read makes the kernel go on with a dump, so that what is there
    /// ends with the end.
    fn empty(&mut self) {
        while self.line.hear(Wait::No, &mut self.datagram).is_ok() {}
    }

    fn count_unreadable(&mut self, unreadable: u64) {
        if unreadable > 0 && self.unreadable == 0 {
            tracing::warn!(unreadable, "entries that the kernel lists cannot be read and are passed over");
        }
        self.unreadable += unreadable;
    }
}

/// A socket that waited in vain says that it would have to wait.
fn lost(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        return io::Error::new(io::ErrorKind::TimedOut, "the kernel's answer over rtnetlink did not come");
    }
    error
}

/// What answers a request, and which is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Entries up to an end.
    Dump,
    /// Yes or no, maybe behind an entry.
    Acknowledgement,
    /// One entry, or no.
    Single,
}

impl Kind {
    const fn of(flags: u16) -> Self {
        if flags & NLM_F_ACK != 0 {
            Self::Acknowledgement
        } else if flags & NLM_F_DUMP != 0 {
            Self::Dump
        } else {
            Self::Single
        }
    }
}

/// Whether an answer of the kernel goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    Complete,
}

/// The answers to one request.
#[derive(Debug)]
pub(super) struct Answers {
    sequence: u32,
    kind: Kind,
    pub(super) list: Vec<RouteNetlinkMessage>,
    unreadable: u64,
    is_consistent: bool,
}

impl Answers {
    pub(super) const fn to(sequence: u32, kind: Kind) -> Self {
        Self { sequence, kind, list: Vec::new(), unreadable: 0, is_consistent: true }
    }

    /// Takes the answers out of one datagram of the kernel.
    pub(super) fn take(&mut self, datagram: &[u8]) -> io::Result<Progress> {
        for message in messages(datagram) {
            let message = message.map_err(unreadable)?;
            if message.sequence_number() != self.sequence {
                continue;
            }
            if self.kind == Kind::Dump && message.flags() & NLM_F_DUMP_INTR != 0 {
                self.is_consistent = false;
            }
            match NetlinkMessage::deserialize(message.buffer) {
                Ok(reply) => {
                    if self.take_one(reply.payload)? == Progress::Complete {
                        return Ok(Progress::Complete);
                    }
                }
                // Where this was the end, or the only answer, nothing more comes.
                Err(error) if self.kind == Kind::Single || message.message_type() <= NLMSG_OVERRUN => {
                    return Err(unreadable(error));
                }
                Err(error) => {
                    tracing::debug!(%error, "an entry of the kernel's answer cannot be read");
                    self.unreadable += 1;
                }
            }
        }
        Ok(Progress::More)
    }

    fn take_one(&mut self, payload: NetlinkPayload<RouteNetlinkMessage>) -> io::Result<Progress> {
        match payload {
            // A dump that fails on its way says so at its end.
            NetlinkPayload::Done(done) => outcome(done.code.min(0)),
            // Zero is an acknowledgement.
            NetlinkPayload::Error(error) => outcome(error.code.map_or(0, NonZeroI32::get)),
            NetlinkPayload::InnerMessage(inner) => {
                self.list.push(inner);
                Ok(if self.kind == Kind::Single { Progress::Complete } else { Progress::More })
            }
            // Noop, Overrun, and what later versions of the library may add.
            _ => Ok(Progress::More),
        }
    }
}

fn outcome(code: i32) -> io::Result<Progress> {
    // The library's own conversion negates, which the least number does not take.
    if code == 0 { Ok(Progress::Complete) } else { Err(io::Error::from_raw_os_error(code.saturating_abs())) }
}

fn unreadable(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// The messages of one datagram. One whose length cannot be true is the last: where the next one begins, nobody knows.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<NetlinkBuffer<&[u8]>, DecodeError>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = NetlinkBuffer::new_checked(rest);
        let len = message.as_ref().map_or(rest.len(), |message| message.length() as usize);
        // Netlink messages are padded to four octets.
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
