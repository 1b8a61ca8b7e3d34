//! The observer on the gateway's wire: once a binding's DATA has left for a client, none of an earlier binding may leave
//! for it any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jvpn_abi::wire::MsgType;
use jvpn_abi::wire::data::DataHeader;
use jvpn_rig::capture::{Capture, Direction, Match, Port};
use jvpn_rig::frame::Datagram;
use jvpn_rig::site::Site;
use jvpn_rig::{Rig, TUNNEL_PORT};

/// What a TX ring held when the binding went counts as sent.
const RING_SLACK: Duration = Duration::from_millis(12);

/// The bindings of one client, as the wire shows them.
#[derive(Debug, Default)]
struct Seen {
    current: Option<u32>,
    retired: BTreeSet<u32>,
    since: Option<Instant>,
}

#[derive(Debug, Default)]
struct Ledger {
    clients: BTreeMap<u8, Seen>,
    frames: u64,
    stale: u64,
}

impl Ledger {
    fn data(&mut self, client: u8, slot: u32, now: Instant) {
        self.frames += 1;
        let seen = self.clients.entry(client).or_default();
        if seen.current == Some(slot) {
            return;
        }
        if seen.retired.contains(&slot) {
            let late = seen.since.is_some_and(|since| now.saturating_duration_since(since) > RING_SLACK);
            self.stale += u64::from(late);
            return;
        }
        seen.retired.extend(seen.current.replace(slot));
        seen.since = Some(now);
    }
}

/// The running observer.
#[derive(Debug)]
pub(super) struct Observer {
    capture: Capture,
    ledger: Arc<Mutex<Ledger>>,
}

impl Observer {
    pub(super) fn start(rig: &Rig) -> Result<Self> {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let wanted = Match {
            direction: Direction::Incoming,
            port: Port::Source(TUNNEL_PORT),
            first_octet: Some(MsgType::Data.octet()),
        };
        let book = Arc::clone(&ledger);
        let capture = Capture::tap(rig.router(), "rW", wanted, move |frame| {
            let Some(datagram) = Datagram::parse(frame) else { return };
            let slot = DataHeader::parse(datagram.payload).map(|header| header.slot.0);
            if let (Some(client), Some(slot)) = (Site::of_address(*datagram.destination.ip()), slot) {
                book.lock().unwrap_or_else(PoisonError::into_inner).data(client, slot, Instant::now());
            }
        })?;
        Ok(Self { capture, ledger })
    }

    /// DATA seen leaving the gateway, and how many of them belonged to a binding that was over.
    pub(super) fn totals(&self) -> (u64, u64) {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        (ledger.frames, ledger.stale)
    }

    /// Whether it has seen everything.
    pub(super) fn complete(&self) -> Result<()> {
        self.capture.complete().context("the observer on the gateway's wire")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// I1, R1.1: DATA of an old binding behind that of a new one is found; what a ring held, and other clients, are not.
    #[test]
    fn i1_stale_data_on_the_wire_is_found() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut ledger = Ledger::default();
        for (client, slot, ms) in
            [(0, 5, 0), (1, 9, 1), (0, 5, 2), (0, 6, 10), (0, 5, 15), (0, 6, 40), (1, 9, 50)]
        {
            ledger.data(client, slot, at(ms));
        }
        assert_eq!((ledger.frames, ledger.stale), (7, 0));
        ledger.data(0, 5, at(60));
        assert_eq!(ledger.stale, 1);
        ledger.data(0, 7, at(70));
        ledger.data(0, 6, at(90));
        assert_eq!(ledger.stale, 2);
    }
}
