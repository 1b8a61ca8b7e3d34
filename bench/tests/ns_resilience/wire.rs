//! What observers recorded, as datagrams and DATA headers.

use std::collections::{BTreeMap, BTreeSet};

use jvpn_abi::wire::data::SlotId;
use jvpn_abi::wire::{DataHeader, MsgType};
use jvpn_rig::capture::{Capture, Captured, Direction, Keep, Match, Port};
use jvpn_rig::frame::Datagram;
use jvpn_rig::{Rig, TUNNEL_PORT, Uplink};

/// Both directions of DATA on one of the client's links.
pub(crate) struct Wiretap {
    pub(crate) to_gateway: Capture,
    pub(crate) to_client: Capture,
}

impl Wiretap {
    pub(crate) fn start(rig: &Rig, uplink: Uplink) -> Self {
        let octet = Some(MsgType::Data.octet());
        let interface = uplink.router_interface();
        let to_gateway = Match::arriving(TUNNEL_PORT, octet);
        let to_client =
            Match { direction: Direction::Any, port: Port::Source(TUNNEL_PORT), first_octet: octet };
        Self {
            to_gateway: Capture::start(rig.router(), interface, to_gateway, Keep::All).unwrap(),
            to_client: Capture::start(rig.router(), interface, to_client, Keep::All).unwrap(),
        }
    }

    /// No counter was used twice under one slot in one direction: no key met a nonce twice. Gives the slots.
    pub(crate) fn assert_no_nonce_twice(&self) -> BTreeSet<SlotId> {
        let mut slots = BTreeSet::new();
        for capture in [&self.to_gateway, &self.to_client] {
            capture.complete().unwrap();
            let mut seen = BTreeSet::new();
            for header in headers(&capture.frames()) {
                assert!(seen.insert((header.slot, header.counter)), "{header:?} was sealed twice");
                slots.insert(header.slot);
            }
        }
        slots
    }
}

/// Under one index of the table serials only rise, in the order in which slots were first seen.
pub(crate) fn assert_serials_rise(in_order: &[SlotId]) {
    let mut last = BTreeMap::new();
    for slot in in_order {
        if let Some(before) = last.insert(slot.index(), slot.serial()) {
            assert!(slot.serial() > before, "{slot:?} after serial {before}: {in_order:?}");
        }
    }
}

pub(crate) fn headers(frames: &[Captured]) -> Vec<DataHeader> {
    payloads(frames).iter().filter_map(|payload| DataHeader::parse(payload)).collect()
}

pub(crate) fn payloads(frames: &[Captured]) -> Vec<Vec<u8>> {
    let datagrams = frames.iter().filter_map(|captured| Datagram::parse(&captured.frame));
    datagrams.map(|datagram| datagram.payload.to_vec()).collect()
}
