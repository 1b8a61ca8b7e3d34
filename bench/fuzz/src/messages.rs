//! Target `messages`: what stands in sealed payloads, once the seal is off. All readers see every input.

use crate::Source;
use jvpn_abi::wire::handshake::{INIT_PAYLOAD_LEN, RESPONSE_PAYLOAD_MAX};
use jvpn_abi::wire::reattach::{ACK_PAYLOAD_MAX, REQUEST_PAYLOAD_LEN};
use jvpn_abi::wire::takeover::TAKEOVER_PAYLOAD_LEN;
use jvpn_abi::wire::{SlotId, Suite};
use jvpn_abi::{Endpoint, Reason};
use jvpn_crypto::control::CONTROL_MESSAGE_MAX;
use jvpn_crypto::path::Ticket;
use jvpn_session::Policy;
use jvpn_session::messages::{
    BindingGrant, ControlMessage, Handle, HandshakeAnswer, HandshakeGrant, HandshakeOffer, MAX_TICKETS,
    ReattachAsk, ReattachGrant, SessionId, SwitchCause, TakeoverAsk, TicketBatch, TicketGrant,
};

pub(crate) fn run(data: &[u8]) {
    if let Some(offer) = HandshakeOffer::decode(data) {
        again(data, &offer.encode(), INIT_PAYLOAD_LEN);
        assert_eq!(HandshakeOffer::decode(&offer.encode()), Some(offer));
    }
    if let Some(answer) = HandshakeAnswer::decode(data) {
        again(&[], &answer.encode(), RESPONSE_PAYLOAD_MAX);
        assert_eq!(HandshakeAnswer::decode(&answer.encode()), Some(answer));
    }
    if let Some(ask) = ReattachAsk::decode(data) {
        again(data, &ask.encode(), REQUEST_PAYLOAD_LEN);
        assert_eq!(ReattachAsk::decode(&ask.encode()), Some(ask));
    }
    if let Some(ask) = TakeoverAsk::decode(data) {
        again(data, &ask.encode(), TAKEOVER_PAYLOAD_LEN);
        assert_eq!(TakeoverAsk::decode(&ask.encode()), Some(ask));
    }
    if let Some(grant) = ReattachGrant::decode(data) {
        again(data, &grant.encode(), ACK_PAYLOAD_MAX);
        assert_eq!(ReattachGrant::decode(&grant.encode()), Some(grant));
    }
    if let Some(message) = ControlMessage::decode(data) {
        again(data, &message.encode(), CONTROL_MESSAGE_MAX);
        assert!(!format!("{message:?}").is_empty());
        assert_eq!(ControlMessage::decode(&message.encode()), Some(message));
    }
}

/// Written again it fits where it came from, and is what stood there, padding apart.
fn again(data: &[u8], written: &[u8], room: usize) {
    assert!(written.len() <= room, "{} octets do not fit {room}", written.len());
    assert!(data.is_empty() || data.starts_with(written), "{written:x?} was read from {data:x?}");
}

/// A grant of a binding.
pub(crate) fn binding() -> BindingGrant {
    BindingGrant {
        slot: SlotId::new(7, 3).unwrap(),
        shard: 1,
        epoch: 4,
        anchor_version: 1 << 40 | 5,
        handle: Handle([6; 8]),
        slot_token: [7; 16],
        handle_token: [8; 16],
    }
}

/// A grant of a session.
pub(crate) fn grant() -> HandshakeGrant {
    HandshakeGrant {
        version: 1,
        suite: Suite::Aes256Gcm,
        session_id: SessionId([5; 16]),
        binding: binding(),
        mtu: 1_280,
        addresses: vec!["10.77.0.2/32".parse().unwrap(), "fd00::2/128".parse().unwrap()],
        gateway_addresses: vec![[10, 77, 0, 1].into(), [0xfd77, 0, 0, 0, 0, 0, 0, 1].into()],
        routes: vec!["192.168.50.0/24".parse().unwrap(), "fd01::/64".parse().unwrap()],
        dns: vec![[10, 77, 0, 1].into()],
        policy: Policy::default().client_policy(),
    }
}

/// What a takeover request says.
pub(crate) fn takeover_ask() -> TakeoverAsk {
    TakeoverAsk {
        session_id: SessionId([5; 16]),
        timestamp_ns: 1 << 60,
        cause: SwitchCause::SlotReset,
        detect_ms: 700,
        attempt: 1,
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let ticket = |n: u8| TicketGrant::from(&Ticket::from_parts(7, [n; 8], [n; 32]));
    let tickets = (0..MAX_TICKETS as u8).map(ticket).collect();
    let offer = HandshakeOffer { versions: vec![1, 2], suites: vec![2, 1], timestamp_ns: 1 << 60 };
    let refused = HandshakeAnswer::Refused { reason: Reason::Unavailable, retry_after_ms: 1_000 };
    let ask = ReattachAsk { cause: SwitchCause::PathDead, detect_ms: 700, attempt: 1 };
    vec![
        offer.encode(),
        HandshakeAnswer::Granted(Box::new(grant())).encode(),
        refused.encode(),
        ask.encode(),
        ReattachGrant { rekey: false, key_number: 0, binding: binding() }.encode(),
        ReattachGrant { rekey: true, key_number: 7, binding: binding() }.encode(),
        ControlMessage::Terminate { reason: Reason::PeerTerminate }.encode(),
        ControlMessage::PathHint { observed: Endpoint::v4([203, 0, 113, 9], 40_000), cookie: [0; 16] }
            .encode(),
        ControlMessage::PathHint { observed: Endpoint::v4([203, 0, 113, 9], 40_000), cookie: [7; 16] }
            .encode(),
        ControlMessage::State { version: 9, state: 2, reason: Reason::HandshakeOk }.encode(),
        ControlMessage::AskTickets.encode(),
        ControlMessage::Tickets(TicketBatch { lifetime_s: 900, tickets }).encode(),
        Source::new(&[0; 64]).rest().to_vec(),
        takeover_ask().encode(),
        ControlMessage::TakeOver { epoch: 4, version: 1 << 40 | 5 }.encode(),
    ]
}
