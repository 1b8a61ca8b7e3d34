//! The observer on the gateway's wire: once a binding's DATA has left for a client, none of an earlier binding may leave
//! for it any more. How late a frame was, its kernel's time stamp says: an observer that does not run for a while reads
//! what came meanwhile at once, and a frame that was late would look punctual.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use jvpn_abi::wire::MsgType;
use jvpn_abi::wire::data::DataHeader;
use jvpn_rig::capture::{Capture, Direction, Match, Port};
use jvpn_rig::frame::Datagram;
use jvpn_rig::site::Site;
use jvpn_rig::stamp::Stamp;
use jvpn_rig::{Rig, TUNNEL_PORT};

/// What a TX ring held when the binding went counts as sent.
const RING_SLACK: Duration = Duration::from_millis(12);

/// The bindings of one client, as the wire shows them.
#[derive(Debug, Default)]
struct Seen {
    current: Option<u32>,
    retired: BTreeSet<u32>,
    since: Option<Stamp>,
}

#[derive(Debug, Default)]
struct Ledger {
    clients: BTreeMap<u8, Seen>,
    frames: u64,
    stale: u64,
}

impl Ledger {
    /// A frame that the kernel had at `at`.
    fn note(&mut self, at: Stamp, frame: &[u8]) {
        let Some(datagram) = Datagram::parse(frame) else { return };
        let slot = DataHeader::parse(datagram.payload).map(|header| header.slot.0);
        if let (Some(client), Some(slot)) = (Site::of_address(*datagram.destination.ip()), slot) {
            self.data(client, slot, at);
        }
    }

    fn data(&mut self, client: u8, slot: u32, at: Stamp) {
        self.frames += 1;
        let seen = self.clients.entry(client).or_default();
        if seen.current == Some(slot) {
            return;
        }
        if seen.retired.contains(&slot) {
            let late = seen.since.is_some_and(|since| at.since(since) > RING_SLACK);
            self.stale += u64::from(late);
            return;
        }
        seen.retired.extend(seen.current.replace(slot));
        seen.since = Some(at);
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
        let capture = Capture::tap_stamped(rig.router(), "rW", wanted, move |at, frame| {
            book.lock().unwrap_or_else(PoisonError::into_inner).note(at, frame);
        })?;
        Ok(Self { capture, ledger })
    }

    /// DATA seen leaving the gateway, and how many of them belonged to a binding that was over.
    pub(super) fn totals(&self) -> (u64, u64) {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        (ledger.frames, ledger.stale)
    }

    /// Whether it has seen everything, and the clock behind the time stamps went on by itself.
    pub(super) fn complete(&self) -> Result<()> {
        self.capture.complete().context("the observer on the gateway's wire")
    }
}

#[cfg(test)]
mod tests {
    use jvpn_abi::wire::data::{DATA_OVERHEAD, SlotId};
    use jvpn_rig::Uplink;

    use super::*;

    fn at(ms: u64) -> Stamp {
        Stamp::of_unix_time(Duration::from_millis(1_000_000 + ms))
    }

    /// DATA over a slot for client 0, as it leaves the gateway.
    fn frame(slot: u32) -> Vec<u8> {
        let header = DataHeader { key_phase: false, shard: 0, slot: SlotId(slot), counter: 1 };
        let mut payload = header.encode().to_vec();
        payload.resize(DATA_OVERHEAD, 0);
        let source = "198.51.100.1:4500".parse().unwrap();
        let destination = std::net::SocketAddrV4::new(Site::address(0, Uplink::A, 2), 40_000);
        Datagram { source, destination, payload: &payload }.to_frame([2; 6], [4; 6]).unwrap()
    }

    /// I1, R1.1: a late frame is found though the observer, held up, reads it right behind the new binding's first; what
    /// left in time is not, however much later it is read.
    #[test]
    fn i1_stale_data_is_found_however_late_it_is_read() {
        let mut ledger = Ledger::default();
        for (slot, ms) in [(5, 0), (6, 100), (5, 140)] {
            ledger.note(at(ms), &frame(slot));
        }
        assert_eq!((ledger.frames, ledger.stale), (3, 1), "40 ms late, read at once");
        ledger.note(at(200), &frame(7));
        std::thread::sleep(RING_SLACK + Duration::from_millis(1));
        ledger.note(at(205), &frame(6));
        assert_eq!((ledger.frames, ledger.stale), (5, 1), "5 ms behind the new one, read later");
        ledger.note(at(206), b"no datagram");
        assert_eq!(ledger.frames, 5);
    }

    /// I1, R1.1: DATA of an old binding behind that of a new one is found; what a ring held, and other clients, are not.
    #[test]
    fn i1_stale_data_on_the_wire_is_found() {
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
