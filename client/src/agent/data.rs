//! The path of every packet: sealed in place on the way out, opened in place on the way in. No allocation while a path
//! carries data.

use super::binding::{OpenError, Opened, Sending};
use super::{Agent, Phase, Transmit};
use crate::offload::too_big;
use crate::paths::UplinkId;
use jvpn_abi::BootTime;
use jvpn_abi::wire::internal::{ProbeFrame, ProbeKind, SizeFrame};
use jvpn_abi::wire::{DATA_HEADER_LEN, DATA_OVERHEAD, TAG_LEN};
use jvpn_crypto::CryptoError;
use std::net::Ipv6Addr;
use std::time::Duration;

/// Octets that a frame has beyond its inner packet: header space in front, tag space behind.
pub const FRAME_OVERHEAD: usize = DATA_OVERHEAD;
/// Largest inner packet that is sealed, octets. RFC 9001 B.1 gives the key limits for packets up to 2^11 octets.
pub const MAX_INNER_LEN: usize = 2_048 - FRAME_OVERHEAD;

/// The keys before a rekey receive for max(3 RTT, this) after the first frame under the new ones.
const OVERLAP_MIN: Duration = Duration::from_secs(1);

/// What became of an inner packet that wants out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// Sealed: the whole frame goes out over this uplink.
    Send(UplinkId),
    /// Kept until a path carries data again.
    Held,
    /// Larger than the path carries, which is this many octets. Counted; the shell cuts it, or tells its sender
    /// ([`crate::offload::too_big`]).
    TooBig(u16),
    /// Dropped and counted.
    Dropped,
}

impl Agent {
    /// An inner packet wants out. `frame` = 16 octets of space ‖ packet ‖ 16 octets of space; sealed in place.
    pub fn handle_inner_packet(&mut self, now: BootTime, frame: &mut [u8]) -> Inner {
        let end = frame.len().saturating_sub(TAG_LEN);
        let Some(packet) = frame.get(DATA_HEADER_LEN..end) else {
            self.counters.inner_malformed += 1;
            return Inner::Dropped;
        };
        let len = packet.len();
        if !is_carried(packet) {
            self.counters.inner_unsupported += 1;
            return Inner::Dropped;
        }
        let Phase::Session(session) = &mut self.phase else { return self.hold_packet(now, frame, end) };
        if session.binding.sending == Sending::Stopped {
            return self.hold_packet(now, frame, end);
        }
        let carried = session.mtu.carried().min(MAX_INNER_LEN as u16);
        if len > usize::from(carried) {
            let cut = too_big::may_be_cut(packet);
            *(if cut { &mut self.counters.inner_cut } else { &mut self.counters.inner_too_big }) += 1;
            return Inner::TooBig(carried);
        }
        session.monitor.on_sent(now, len);
        let expired = now >= session.binding.hard_limit_at();
        let sealed =
            if expired { Err(CryptoError::Exhausted) } else { session.binding.seal(frame, MAX_INNER_LEN) };
        match sealed {
            Ok(()) => {
                self.counters.packets_out += 1;
                self.counters.bytes_out += len as u64;
                Inner::Send(session.binding.uplink)
            }
            Err(CryptoError::Exhausted) => {
                self.key_exhausted(now);
                self.drive(now);
                self.hold_packet(now, frame, end)
            }
            Err(_) => {
                self.counters.seal_failed += 1;
                Inner::Dropped
            }
        }
    }

    fn hold_packet(&mut self, now: BootTime, frame: &[u8], end: usize) -> Inner {
        let held = frame.get(DATA_HEADER_LEN..end).is_some_and(|packet| self.hold.push(now, packet));
        if held { Inner::Held } else { Inner::Dropped }
    }

    /// Sends what waited, oldest first.
    pub(super) fn flush_held(&mut self, now: BootTime) {
        while let Phase::Session(session) = &mut self.phase
            && session.binding.sending == Sending::Allowed
            && let Some(packet) = self.hold.pop(now)
        {
            session.monitor.on_sent(now, packet.len());
            if let Ok(payload) = session.binding.seal_new(&packet) {
                self.counters.packets_out += 1;
                self.counters.bytes_out += packet.len() as u64;
                self.outbox.push_back(Transmit { uplink: session.binding.uplink, payload });
            } else {
                self.counters.seal_failed += 1;
            }
        }
    }

    /// DATA came. Inner packets are returned, internal frames handled.
    pub(super) fn handle_data<'d>(
        &mut self,
        now: BootTime,
        uplink: UplinkId,
        datagram: &'d mut [u8],
    ) -> Option<&'d mut [u8]> {
        let Phase::Session(session) = &mut self.phase else {
            self.counters.wrong_slot += 1;
            return None;
        };
        if session.binding.uplink != uplink {
            self.counters.wrong_slot += 1;
            return None;
        }
        let overlap = (session.monitor.rtt().smoothed().unwrap_or_default() * 3).max(OVERLAP_MIN);
        let Opened { plaintext, newest } = match session.binding.open(now, overlap, datagram) {
            Ok(opened) => opened,
            Err(error) => {
                self.count_refused(error);
                return None;
            }
        };
        // What comes under the keys before says nothing about those that wait for their proof.
        let first = newest && (!session.monitor.is_proven() || session.newer.is_some());
        let counts = newest || session.monitor.is_proven();
        let inner = plaintext.first().is_some_and(|octet| octet >> 4 != 0);
        if inner && counts {
            session.monitor.on_received(now);
        } else if counts {
            session.monitor.on_heard(now);
        }
        if first {
            self.binding_proven(now);
            self.drive(now);
        }
        if !inner {
            if counts {
                self.handle_internal(now, plaintext);
            }
            return None;
        }
        let Some(packet) = trimmed(plaintext) else {
            self.counters.inner_malformed += 1;
            return None;
        };
        self.counters.packets_in += 1;
        self.counters.bytes_in += packet.len() as u64;
        Some(packet)
    }

    fn count_refused(&mut self, error: OpenError) {
        let counter = match error {
            OpenError::Malformed => &mut self.counters.malformed,
            OpenError::WrongSlot => &mut self.counters.wrong_slot,
            OpenError::Replayed => &mut self.counters.replayed,
            OpenError::Forged => &mut self.counters.open_failed,
            OpenError::Expired => &mut self.counters.key_expired,
        };
        *counter += 1;
    }

    fn handle_internal(&mut self, now: BootTime, plaintext: &[u8]) {
        if let Some(size) = SizeFrame::parse(plaintext) {
            return self.handle_size(now, size, plaintext.len());
        }
        let Some(frame) = ProbeFrame::parse(plaintext) else {
            self.counters.inner_malformed += 1;
            return;
        };
        let Phase::Session(session) = &mut self.phase else { return };
        match frame.kind {
            ProbeKind::Probe => {
                if session.binding.sending == Sending::Allowed {
                    let next = session.monitor.announced(now);
                    let answer = session.probe(ProbeKind::ProbeAck, frame.id, frame.sent_at_ns, next, 0);
                    self.send_internal(now, &answer);
                }
            }
            ProbeKind::ProbeAck => self.take_answer(now, &frame),
        }
    }
}

/// Whether the tunnel carries this kind of packet. The host's own chatter on the device (router solicitations, multicast
/// listener reports) is from or to addresses that no router forwards, and ends here.
fn is_carried(packet: &[u8]) -> bool {
    match packet.first().map(|octet| octet >> 4) {
        Some(4) => packet.len() >= 20,
        Some(6) => {
            let address = |at| jvpn_abi::wire::octets::<16>(packet, at).map(Ipv6Addr::from);
            let (Some(source), Some(destination)) = (address(8), address(24)) else { return false };
            let stays = |ip: Ipv6Addr| ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local();
            !stays(source) && !stays(destination)
        }
        Some(_) | None => false,
    }
}

/// The packet without padding behind it, if its header makes sense.
fn trimmed(plaintext: &mut [u8]) -> Option<&mut [u8]> {
    let length = match plaintext.first()? >> 4 {
        4 => usize::from(jvpn_abi::wire::be16(plaintext, 2)?),
        6 => usize::from(jvpn_abi::wire::be16(plaintext, 4)?) + 40,
        _ => return None,
    };
    let head = if plaintext.first()? >> 4 == 4 { 20 } else { 40 };
    if length < head {
        return None;
    }
    plaintext.get_mut(..length)
}
