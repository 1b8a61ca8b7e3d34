//! A router that holds back genuine datagrams and lets them go later, exactly as they would have arrived.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::capture::{Capture, Captured, Keep, Match};
use crate::frame::Datagram;
use crate::impair::{Impairment, Impairments};
use crate::inject::Injector;
use crate::topology::{Rig, Uplink};
use crate::{DATA_OCTET, Interrupt, TUNNEL_PORT};

/// DATA of one uplink being held back.
#[derive(Debug)]
pub struct Holding {
    impairments: Impairments,
    uplink: Uplink,
    impairment: Impairment,
    capture: Capture,
    /// What the gateway knows as the sender of this uplink's datagrams.
    source: SocketAddrV4,
}

/// Datagrams that never reached the gateway.
#[derive(Debug)]
pub struct Held {
    source: SocketAddrV4,
    payloads: Vec<Vec<u8>>,
}

impl Holding {
    /// Holds back all DATA of `uplink`, or that of one length. Traffic must be flowing: the source that the
    /// gateway knows is learned from it first.
    ///
    /// # Errors
    /// No DATA passes, or the rig refuses.
    pub fn start(rig: &Rig, uplink: Uplink, impairment: Impairment, interrupt: &Interrupt) -> Result<Self> {
        let source = outer_source(rig, uplink, interrupt)?;
        let impairments = Impairments::new(rig);
        // First the rule, then the recording: whatever is recorded was not forwarded.
        impairments.start(uplink, impairment)?;
        let wanted = Match::arriving(TUNNEL_PORT, Some(DATA_OCTET));
        let capture = Capture::start(rig.router(), uplink.router_interface(), wanted, Keep::All)?;
        Ok(Self { impairments, uplink, impairment, capture, source })
    }

    /// Datagrams recorded so far (those of another length than the held one included).
    #[must_use]
    pub fn count(&self) -> u64 {
        self.capture.count()
    }

    /// Waits until `count` datagrams are recorded.
    ///
    /// # Errors
    /// Fewer within `patience`, or interrupted.
    pub fn wait_for(&self, count: u64, patience: Duration, interrupt: &Interrupt) -> Result<()> {
        self.capture.wait_for("datagrams held back", count, patience, interrupt)
    }

    /// Ends the holding; what was held stays held until it is released.
    ///
    /// # Errors
    /// Frames were missed, or the rig refuses.
    pub fn stop(self) -> Result<Held> {
        self.capture.complete()?;
        let frames = self.capture.frames();
        // First the recording, then the rule.
        drop(self.capture);
        self.impairments.stop(self.uplink, self.impairment)?;
        let only = match self.impairment {
            Impairment::HoldDataOfLength(octets) => Some(usize::from(octets)),
            Impairment::HoldData
            | Impairment::Cut
            | Impairment::DropFromGateway(_)
            | Impairment::LoseFromClient(_)
            | Impairment::LoseToClient(_) => None,
        };
        let payloads: Vec<_> = frames
            .iter()
            .filter_map(|captured: &Captured| Datagram::parse(&captured.frame))
            .filter(|datagram| only.is_none_or(|octets| datagram.payload.len() == octets))
            .map(|datagram| datagram.payload.to_vec())
            .collect();
        if payloads.is_empty() {
            bail!("no DATA was held back on uplink {:?}", self.uplink);
        }
        Ok(Held { source: self.source, payloads })
    }
}

impl Held {
    /// How many datagrams are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.payloads.len()
    }

    /// Whether none are; a value of this type is made with at least one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.payloads.is_empty()
    }

    /// Puts them on the gateway's link as if they had only been slow; gives their number.
    ///
    /// # Errors
    /// The injector cannot send.
    pub fn release(&self, injector: &Injector) -> Result<u64> {
        for payload in &self.payloads {
            injector.send(self.source, payload)?;
        }
        u64::try_from(self.payloads.len()).context("more datagrams than a counter holds")
    }
}

/// Address and port under which the gateway sees the DATA of `uplink`, learned from a datagram that passes.
///
/// # Errors
/// No DATA passes within a few seconds.
pub fn outer_source(rig: &Rig, uplink: Uplink, interrupt: &Interrupt) -> Result<SocketAddrV4> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let wanted = Match::arriving(TUNNEL_PORT, Some(DATA_OCTET));
    let capture = Capture::start(rig.router(), "rW", wanted.both_ways(), Keep::Last(1))?;
    let source = crate::wait::until("DATA on its way to the gateway", PATIENCE, interrupt, || {
        Ok(capture
            .frames()
            .iter()
            .filter_map(|captured| Some(Datagram::parse(&captured.frame)?.source))
            .find(|source| *source.ip() == uplink.outer_address()))
    })?;
    Ok(source)
}
