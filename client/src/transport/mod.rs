//! How datagrams reach the gateway over one uplink. The agent does not know which transport it is.

mod pieces;
pub mod udp;

use crate::io::frames::{Frames, Inbox};
use serde::Serialize;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

/// What a transport has seen since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TransportHealth {
    /// Datagrams sent.
    pub sent: u64,
    /// Their octets.
    pub sent_bytes: u64,
    /// Datagrams received.
    pub received: u64,
    /// Their octets.
    pub received_bytes: u64,
    /// Datagrams that the host did not take: no route, link down. A hint about the path, never a proof.
    pub send_errors: u64,
    /// Datagrams dropped because the host's queue stayed full.
    pub queue_full: u64,
    /// Datagrams cut off because they were larger than a frame.
    pub truncated: u64,
    /// Whether several datagrams leave as one that the kernel cuts (UDP GSO).
    pub gso: bool,
    /// Whether several that came are received as one (UDP GRO).
    pub gro: bool,
    /// Calls that sent several as one.
    pub large_sent: u64,
    /// Calls that received several as one.
    pub large_received: u64,
    /// The last error, by errno.
    pub last_errno: Option<i32>,
}

/// One way of carrying datagrams to the gateway. Its descriptor becomes readable when datagrams wait.
pub trait Transport: AsFd {
    /// The name that logs and status use.
    fn name(&self) -> &'static str;

    /// Sends the frames in `range`, in order; empty ones are none. What the host refuses is counted and dropped.
    fn send(&mut self, frames: &Frames, range: Range<usize>);

    /// Sends one datagram.
    fn send_one(&mut self, payload: &[u8]);

    /// Receives what waits, at most as much as the inbox takes; whether more may wait.
    ///
    /// # Errors
    /// If the transport is broken; nothing waiting is not an error.
    fn receive(&mut self, inbox: &mut Inbox) -> io::Result<bool>;

    /// Telemetry.
    fn health(&self) -> TransportHealth;
}
