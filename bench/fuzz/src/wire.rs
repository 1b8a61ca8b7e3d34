//! Target `wire`: every header that is read before any key is known, and the steering that XDP runs.

use jvpn_abi::steer::{self, ETHERNET_LEN, IPV4_LEN, IPV6_LEN, UDP_LEN, WanClass};
use jvpn_abi::tables::{BindingEntry, BindingWord, EdgeClass, SteeringMark};
use jvpn_abi::wire::control::ControlHeader;
use jvpn_abi::wire::internal::{ProbeFrame, ProbeKind};
use jvpn_abi::wire::path::{PathEcho, PathProbe};
use jvpn_abi::wire::reattach::{HANDLE_AT, KIND_AT, KIND_TAKEOVER};
use jvpn_abi::wire::reset::{Reset, ResetKind};
use jvpn_abi::wire::retry::Retry;
use jvpn_abi::wire::{DataHeader, MsgType, SlotId, Suite};
use jvpn_abi::{DropReason, Endpoint, Reason};

/// The port that frames are steered by.
const PORT: u16 = 4_500;

pub(crate) fn run(data: &[u8]) {
    headers(data);
    numbers(data);
    wan(data);
    if let Some(address) = steer::inner_destination(data) {
        assert!(data.len() >= ETHERNET_LEN + IPV4_LEN, "{address:?} from a frame without a header");
    }
    if let Some(mark) = SteeringMark::decode(data) {
        assert_eq!(SteeringMark::decode(&mark.encode()), Some(mark));
    }
}

/// What was read is what stood there.
fn headers(data: &[u8]) {
    if let Some(header) = DataHeader::parse(data) {
        assert!(data.starts_with(&header.encode()), "{header:?}");
        assert_eq!(SlotId::new(header.slot.index(), header.slot.serial()), Some(header.slot));
    }
    if let Some(header) = ControlHeader::parse(data) {
        assert!(data.starts_with(&header.encode()), "{header:?}");
    }
    if let Some(reset) = Reset::parse(data) {
        assert_eq!(data, reset.encode());
    }
    if let Some(probe) = PathProbe::parse(data) {
        assert_eq!(data, probe.encode());
    }
    if let Some(echo) = PathEcho::parse(data) {
        assert_eq!(data, echo.encode());
    }
    if let Some(retry) = Retry::parse(data) {
        assert_eq!(data, retry.encode());
    }
    // Zero octets and padding of a frame that authenticated are not looked at.
    if let Some(frame) = ProbeFrame::parse(data) {
        assert_eq!(ProbeFrame::parse(&frame.encode()), Some(frame));
    }
}

fn numbers(data: &[u8]) {
    let Some(octet) = data.first().copied() else { return };
    assert!(MsgType::from_octet(octet).is_none_or(|kind| kind.octet() == octet && octet < 0x40));
    assert!(Suite::from_number(octet).is_none_or(|suite| suite as u8 == octet));
    assert!(Reason::from_number(octet).is_none_or(|reason| reason.number() == octet));
}

fn wan(frame: &[u8]) {
    match steer::classify_wan(frame, PORT) {
        WanClass::Kernel => {}
        WanClass::Refused(reason) => {
            let known = [DropReason::TooShort, DropReason::UnknownType, DropReason::OddHeaders];
            assert!(known.contains(&reason), "{reason:?}");
        }
        WanClass::Data(found) => {
            let payload = &frame[found.payload_at..];
            assert_eq!((payload[0], found.local.port), (MsgType::Data.octet(), PORT));
            if let Some(header) = DataHeader::parse(payload) {
                assert_eq!(header.slot, found.slot);
            }
            // Bound to exactly this path it is admitted, bound to another one it is not.
            let mut entry = BindingEntry::new(found.remote, found.local);
            entry.word = BindingWord::bound(found.slot, 1).0;
            assert_eq!(steer::admit(&found, &entry), Ok(()));
            entry.remote_port = entry.remote_port.wrapping_add(1);
            assert_eq!(steer::admit(&found, &entry), Err(DropReason::EndpointMismatch));
            entry.word = BindingWord::UNBOUND.0;
            assert_eq!(steer::admit(&found, &entry), Err(DropReason::SlotUnbound));
            marking(payload);
        }
        WanClass::Control(found) => {
            assert_eq!(frame[found.payload_at], found.kind.octet());
            assert!(found.kind.is_control_to_gateway());
            let class = found.class(frame, |_| true);
            let has_handle = frame.len() >= found.payload_at + HANDLE_AT + 8;
            // A takeover request names no handle: it has the share of handshakes.
            let is_takeover = frame.get(found.payload_at + KIND_AT) == Some(&KIND_TAKEOVER);
            let is_reattach = found.kind == MsgType::ReattachRequest && !is_takeover;
            assert_eq!(class == EdgeClass::KnownHandle, is_reattach && has_handle, "{class:?}");
            let prefix = steer::source_prefix(&found.remote);
            let again = Endpoint { addr: prefix, port: found.remote.port };
            assert_eq!(steer::source_prefix(&again), prefix);
        }
    }
}

/// RFC 1624 against a sum from scratch, over the payload alone.
fn marking(payload: &[u8]) {
    let sum = |payload: &[u8]| {
        let words =
            payload.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b)));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    };
    let mut marked = payload.to_vec();
    marked[0] = MsgType::UnboundSample.octet();
    let (before, after) = (sum(payload), sum(&marked));
    if before != 0 {
        let updated = steer::checksum_after_marking(before);
        assert!(updated == after || after == 0 && updated == 0xffff, "{before:#x} {updated:#x} {after:#x}");
    }
}

/// An Ethernet frame with this UDP payload.
pub(crate) fn frame_v4(payload: &[u8], options: &[u8], flags: u16) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend(steer::ETHERTYPE_IPV4);
    let header_len = IPV4_LEN + options.len();
    frame.extend([0x40 | (header_len / 4) as u8, 0]);
    frame.extend(((header_len + UDP_LEN + payload.len()) as u16).to_be_bytes());
    frame.extend([0, 1]);
    frame.extend(flags.to_be_bytes());
    frame.extend([64, 17, 0, 0, 203, 0, 113, 9, 198, 51, 100, 1]);
    frame.extend(options);
    udp(&mut frame, payload);
    frame
}

fn frame_v6(next_header: u8, extension: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend(steer::ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(((extension.len() + UDP_LEN + payload.len()) as u16).to_be_bytes());
    frame.extend([next_header, 64]);
    frame.extend([0xfd; 32]);
    debug_assert_eq!(frame.len(), ETHERNET_LEN + IPV6_LEN);
    frame.extend(extension);
    udp(&mut frame, payload);
    frame
}

fn udp(frame: &mut Vec<u8>, payload: &[u8]) {
    frame.extend(40_000_u16.to_be_bytes());
    frame.extend(PORT.to_be_bytes());
    frame.extend(((UDP_LEN + payload.len()) as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let slot = SlotId::new(7, 3).unwrap();
    let mut data = DataHeader { key_phase: true, shard: 1, slot, counter: 9 }.encode().to_vec();
    data.resize(60, 0x5a);
    let mut control = ControlHeader { slot, incarnation: 2, counter: 9 }.encode().to_vec();
    control.resize(60, 0x5a);
    let reset = Reset { kind: ResetKind::Slot, value: Reset::slot_value(slot), token: [7; 16] }.encode();
    let probe = PathProbe { bucket: 5, ticket: [1; 8], mac: [2; 16] }.encode();
    let echo = PathEcho { ticket: [1; 8], cookie: [3; 16], mac: [2; 16] }.encode();
    let frame = ProbeFrame {
        kind: ProbeKind::ProbeAck,
        id: 1,
        sent_at_ns: 2,
        next_interval_ms: 200,
        received: 4,
        highest_counter: 5,
        rtt_us: 6,
    };
    let request = [&[MsgType::ReattachRequest.octet(), 1, 0, 0][..], &[9; 60]].concat();
    let takeover = [&[MsgType::ReattachRequest.octet(), 1, 1, 0][..], &[9; 252]].concat();
    let about = MsgType::ReattachRequest.octet();
    let retry = Retry { about, kind: 1, echo: [3; 8], cookie: [4; 16], mac: [5; 16] }.encode();
    let mut seeds = vec![
        retry.to_vec(),
        data.clone(),
        control.clone(),
        reset.to_vec(),
        probe.to_vec(),
        echo.to_vec(),
        frame.encode().to_vec(),
        SteeringMark { slot_index: 5 }.encode().to_vec(),
        frame_v4(&data, &[1; 4], 0),
        frame_v4(&data, &[], 0x2000),
        frame_v6(44, &[17, 0, 0, 1, 0, 0, 0, 9], &data),
    ];
    for payload in [&data[..], &control, &probe, &request, &takeover, &[0x20; 64], &[0x41; 40]] {
        seeds.push(frame_v4(payload, &[], 0x4000));
        seeds.push(frame_v6(17, &[], payload));
    }
    seeds
}
