//! WAN to LAN: fence, word, endpoint → header → window check → open from the RX frame into the LAN buffer → window
//! commit → confirmation → inner checks → Ethernet header. Every exit is a counted reason.

use super::plain_v4::PlainV4;
use super::{BetweenClients, Now, Pipeline, Refused, Verdict, seal_into};
use crate::frame::{
    Ecn, Inner, Mac, answer_echo, clamp_mss, error_in_place, is_answerable, outer_ecn, write_ethernet,
};
use crate::lan::Station;
use crate::slots::{KeySet, SlotContext, confirm, flip, is_confirmed, key_state};
use crate::tables::add;
use jvpn_abi::ports::PortMark;
use jvpn_abi::steer::{ETHERNET_LEN, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN, WanClass, classify_wan};
use jvpn_abi::tables::{Context, KeyState, NEXT_HOP_KNOWN, PROBE_SAMPLES, ProbeSample};
use jvpn_abi::wire::internal::{PROBE_LEN, ProbeFrame, ProbeKind, SizeFrame, SizeKind};
use jvpn_abi::wire::{DATA_HEADER_LEN, DATA_OVERHEAD, DataHeader, TAG_LEN};
use jvpn_abi::{DropReason, Word};
use jvpn_crypto::window::{Window, WindowError};
use std::sync::atomic::Ordering;

/// An opened frame: where its plaintext is and whose it was.
pub(super) struct Plain<'a> {
    pub(super) slot: &'a SlotContext,
    pub(super) context: &'a Context,
    keys: &'a KeySet,
    len: usize,
    /// What the outer header said.
    ecn: Ecn,
}

/// The slot's index, its binding, its CONTEXT, and the datagram.
type Bound<'p, 'f> = (u32, &'p SlotContext, &'p Context, &'f [u8]);

impl Pipeline {
    /// Handles one frame from the WAN port. `lan_out` and `wan_out` are TX frames of the two ports; an empty slice
    /// means that none is free. The verdict says which one was filled.
    pub fn inbound(&mut self, now: Now, frame: &[u8], lan_out: &mut [u8], wan_out: &mut [u8]) -> Verdict {
        let verdict = match self.try_inbound(now, frame, lan_out, wan_out) {
            Ok(verdict) => verdict,
            Err(reason) => Verdict::Drop(reason),
        };
        match verdict {
            Verdict::ToLan(_) => self.count(DropReason::ForwardedIn),
            Verdict::ToWan(_) | Verdict::ToWanInPart { .. } => {}
            Verdict::Drop(reason) => self.count(reason),
        }
        verdict
    }

    fn try_inbound(
        &self,
        now: Now,
        frame: &[u8],
        lan_out: &mut [u8],
        wan_out: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        if lan_out.is_empty() {
            return self.without_room(now, frame, wan_out);
        }
        let plain = self.open(now, frame, lan_out)?;
        let body =
            lan_out.get_mut(ETHERNET_LEN..ETHERNET_LEN + plain.len).ok_or(DropReason::InnerMalformed)?;
        match body.first().map(|octet| octet >> 4) {
            Some(4 | 6) => self.forward(now, &plain, lan_out, wan_out),
            Some(0) => match SizeFrame::parse(body) {
                Some(size) => self.answer_size(&plain, body, size, wan_out),
                None => self.internal_frame(now, &plain, body, wan_out),
            },
            Some(_) | None => Err(DropReason::InnerMalformed),
        }
    }

    /// No frame of the LAN port is free. A probe needs none: whether a path lives must not hang on how busy the LAN is.
    /// Anything else is lost, as it would be anyhow.
    #[cold]
    fn without_room(&self, now: Now, frame: &[u8], wan_out: &mut [u8]) -> Result<Verdict, DropReason> {
        let mut room = [0; ETHERNET_LEN + PROBE_LEN];
        let plain = self.open(now, frame, &mut room)?;
        let body = room.get(ETHERNET_LEN..ETHERNET_LEN + plain.len).ok_or(DropReason::InnerMalformed)?;
        match ProbeFrame::parse(body) {
            Some(_) => self.internal_frame(now, &plain, body, wan_out),
            None => Err(DropReason::NoTxFrame),
        }
    }

    /// Authenticates a frame; its plaintext lies behind the place of the LAN's Ethernet header afterwards.
    fn open(&self, now: Now, frame: &[u8], lan_out: &mut [u8]) -> Result<Plain<'_>, DropReason> {
        if self.tables.fenced(now) {
            return Err(DropReason::Fenced);
        }
        let (slot_index, slot, context, datagram) = match PlainV4::read(frame) {
            Some(plain) => self.bound_v4(&plain)?,
            None => self.bound_slowly(frame)?,
        };
        let header = DataHeader::parse(datagram).ok_or(DropReason::TooShort)?;
        let keys = slot.keys(header.key_phase).ok_or(DropReason::OpenFailed)?;
        if header.counter >= keys.hard_packets {
            return Err(DropReason::KeyExhausted);
        }
        let state = key_state(context, keys.number);
        let bits = self.tables.window(keys.window()).ok_or(DropReason::SlotUnbound)?;
        let window = Window::new(state, bits);
        window.check(header.counter).map_err(window_reason)?;
        let (aad, sealed) = datagram.split_at(DATA_HEADER_LEN);
        let len = sealed.len() - TAG_LEN;
        let out = lan_out.get_mut(ETHERNET_LEN..ETHERNET_LEN + len).ok_or(DropReason::NoTxFrame)?;
        let opened = keys.open.open(header.counter, aad, sealed, out).map_err(|_| failed_open(context))?;
        window.commit(opened).map_err(window_reason)?;
        if note_heard(now, slot, context, (frame, self.arrived_by(frame))) || flip(context, keys) {
            self.push_confirmed(slot_index);
        }
        Ok(Plain { slot, context, keys, len, ecn: outer_ecn(frame) })
    }

    /// Whose a frame is, if it came by the binding's path.
    #[inline]
    fn bound_v4<'a>(&self, frame: &PlainV4<'a>) -> Result<Bound<'_, 'a>, DropReason> {
        let slot_index = frame.slot.index();
        let (slot, context) = self.bound(slot_index)?;
        if slot.slot != frame.slot {
            return Err(DropReason::SlotUnbound);
        }
        if slot.path_v4.as_ref() != Some(frame.path) {
            return Err(DropReason::EndpointMismatch);
        }
        Ok((slot_index, slot, context, frame.datagram))
    }

    /// The same of every other frame: over IPv6, or none of ours.
    #[inline(never)]
    fn bound_slowly<'a>(&self, frame: &'a [u8]) -> Result<Bound<'_, 'a>, DropReason> {
        // The same classification as in XDP; the port is the binding's, so ask the frame's own.
        let port = jvpn_abi::wire::be16(frame, port_at(frame)).ok_or(DropReason::TooShort)?;
        let data = match classify_wan(frame, port) {
            WanClass::Data(data) => data,
            WanClass::Refused(reason) => return Err(reason),
            WanClass::Kernel | WanClass::Control(_) => return Err(DropReason::UnknownType),
        };
        let slot_index = data.slot.index();
        let (slot, context) = self.bound(slot_index)?;
        if slot.slot != data.slot {
            return Err(DropReason::SlotUnbound);
        }
        if slot.remote != data.remote || slot.local != data.local {
            return Err(DropReason::EndpointMismatch);
        }
        Ok((slot_index, slot, context, udp_payload(frame, data.payload_at)?))
    }

    /// An inner packet: to the LAN, to another client, or an answer to the sender.
    fn forward(
        &self,
        now: Now,
        plain: &Plain<'_>,
        lan_out: &mut [u8],
        wan_out: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let packet =
            lan_out.get_mut(ETHERNET_LEN..ETHERNET_LEN + plain.len).ok_or(DropReason::InnerMalformed)?;
        let inner = Inner::parse(packet).ok_or(DropReason::InnerMalformed)?;
        if !plain.slot.owns(inner.source) {
            return Err(DropReason::InnerSourceDenied);
        }
        if self.config.gateway.contains(inner.destination) {
            return self.echo(plain, packet, &inner, wan_out);
        }
        let next_hop = match self.way_on(plain.slot, &inner) {
            Ok(WayOn::Lan(next_hop)) => next_hop,
            Ok(WayOn::Client(slot_index)) => {
                return self.turn_round(now, plain, slot_index, &inner, lan_out, wan_out);
            }
            Err(reason) => {
                let refused = Self::refused(reason, self.config.mtu);
                return self.refuse_to_client(now, plain, &inner, refused, lan_out, wan_out);
            }
        };
        let mtu = self.lan_mtus.of(next_hop.port);
        if inner.len > mtu {
            let refused = Self::refused(DropReason::TooBig, mtu);
            return self.refuse_to_client(now, plain, &inner, refused, lan_out, wan_out);
        }
        let packet = lan_out.get_mut(ETHERNET_LEN..).ok_or(DropReason::InnerMalformed)?;
        self.one_hop_further(plain, &inner, packet, mtu)?;
        let source = self.lan_source(next_hop.port);
        write_ethernet(lan_out, next_hop.mac, source, inner.family).ok_or(DropReason::NoTxFrame)?;
        add(&plain.context.packets_in, 1);
        add(&plain.context.bytes_in, inner.len as u64);
        Ok(Verdict::ToLan(ETHERNET_LEN + inner.len))
    }

    /// Where a packet goes on to. What a bound client has – its address, a prefix of its site – is never looked for on the
    /// LAN, whichever prefix of the LAN is longer: XDP steers by the same rule.
    fn way_on(&self, from: &SlotContext, inner: &Inner) -> Result<WayOn, DropReason> {
        if inner.hop_limit <= 1 {
            return Err(DropReason::TtlExpired);
        }
        if inner.len > self.config.mtu {
            return Err(DropReason::TooBig);
        }
        // Looked up before, and nobody's prefix has come or gone since.
        if let Some(station) = self.next_hops.find(inner.destination, self.generation()) {
            return Ok(WayOn::Lan(station));
        }
        let client = self.client_of(inner.destination);
        if let Some(slot_index) = client {
            return match self.config.between_clients {
                BetweenClients::TurnedRound => Ok(WayOn::Client(slot_index)),
                BetweenClients::Denied if from.owns(inner.destination) => Err(DropReason::NoRoute),
                BetweenClients::Denied => Err(DropReason::ClientToClientDenied),
            };
        }
        if self.config.pools.contains(inner.destination) {
            return Err(match self.config.between_clients {
                BetweenClients::Denied => DropReason::ClientToClientDenied,
                BetweenClients::TurnedRound => DropReason::NoRoute,
            });
        }
        if !inner.destination.is_routable() {
            return Err(DropReason::NoRoute);
        }
        let station = self.next_hop(inner.destination)?;
        self.next_hops.keep(inner.destination, station);
        Ok(WayOn::Lan(station))
    }

    /// Hop limit, congestion mark and MSS of a packet that goes on, by a way that carries `onward` octets at most.
    pub(super) fn one_hop_further(
        &self,
        plain: &Plain<'_>,
        inner: &Inner,
        packet: &mut [u8],
        onward: usize,
    ) -> Result<(), DropReason> {
        let ecn = inner.ecn.leaving(plain.ecn).ok_or(DropReason::CongestionLost)?;
        if ecn != inner.ecn {
            inner.mark(packet, ecn);
        }
        inner.take_hop(packet);
        clamp_mss(packet, inner, self.path_mtu(plain.context).min(onward));
        Ok(())
    }

    /// Counts why a client's packet goes nowhere and tells the client.
    #[cold]
    pub(super) fn refuse_to_client(
        &self,
        now: Now,
        plain: &Plain<'_>,
        inner: &Inner,
        Refused { reason, error }: Refused,
        lan_out: &mut [u8],
        wan_out: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let Some(error) = error else { return Err(reason) };
        let Some(body) = lan_out.get_mut(ETHERNET_LEN..) else { return Err(reason) };
        // What cannot be answered does not use up what others may be told.
        let can_tell = !wan_out.is_empty() && is_answerable(body, inner, &self.config.gateway);
        if !can_tell || !self.may_answer(now) {
            return Err(reason);
        }
        let Some(len) = error_in_place(body, inner, error, &self.config.gateway) else { return Err(reason) };
        let answer = body.get(..len).ok_or(reason)?;
        let len = seal_into(plain.slot, plain.context, answer, Ecn::NOT_ECT, wan_out)?;
        self.count(reason);
        self.count(DropReason::IcmpErrorSent);
        Ok(Verdict::ToWan(len))
    }

    fn echo(
        &self,
        plain: &Plain<'_>,
        packet: &mut [u8],
        inner: &Inner,
        wan_out: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        answer_echo(packet, inner).ok_or(DropReason::NoRoute)?;
        let reply = packet.get(..inner.len).ok_or(DropReason::InnerMalformed)?;
        let len = seal_into(plain.slot, plain.context, reply, Ecn::NOT_ECT, wan_out)?;
        self.count(DropReason::EchoAnswered);
        Ok(Verdict::ToWan(len))
    }

    /// PROBE is answered here, without the control plane; PROBE_ACK is only noted.
    fn internal_frame(
        &self,
        now: Now,
        plain: &Plain<'_>,
        body: &[u8],
        wan_out: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let probe = ProbeFrame::parse(body).ok_or(DropReason::UnknownInternalFrame)?;
        plain.context.peer_interval_ms.store(u64::from(probe.next_interval_ms), Ordering::Relaxed);
        if probe.kind == ProbeKind::ProbeAck {
            return Err(DropReason::ProbeAnswered);
        }
        let state = key_state(plain.context, plain.keys.number);
        note_probe(now, plain.context, state, &probe);
        let ack: [u8; PROBE_LEN] = ProbeFrame {
            kind: ProbeKind::ProbeAck,
            next_interval_ms: 0,
            rtt_us: 0,
            received: state.received.load(Ordering::Relaxed),
            highest_counter: state.window_end.load(Ordering::Relaxed).saturating_sub(1),
            ..probe
        }
        .encode();
        let len = seal_into(plain.slot, plain.context, &ack, Ecn::NOT_ECT, wan_out)?;
        self.count(DropReason::ProbeAnswered);
        Ok(Verdict::ToWan(len))
    }
}

impl Pipeline {
    /// SIZE_ASK: notes what the client says about its path, and goes back as long as it came. One about a size beyond what
    /// the client uses says nothing yet: who took that size for an answer would tell senders of a bound that is gone a round
    /// trip later, and that they remember for ten minutes.
    #[cold]
    fn answer_size(
        &self,
        plain: &Plain<'_>,
        body: &mut [u8],
        asked: SizeFrame,
        wan_out: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        if asked.kind == SizeKind::Answer {
            return Err(DropReason::ProbeAnswered);
        }
        if body.len() <= usize::from(asked.carried) {
            plain.context.path_mtu.store(u64::from(asked.carried), Ordering::Relaxed);
        }
        SizeFrame { kind: SizeKind::Answer, ..asked }.write(body).ok_or(DropReason::UnknownInternalFrame)?;
        let len = seal_into(plain.slot, plain.context, body, Ecn::NOT_ECT, wan_out)?;
        self.count(DropReason::ProbeAnswered);
        Ok(Verdict::ToWan(len))
    }
}

/// Where a packet goes on to.
enum WayOn {
    /// By the LAN port, to this station.
    Lan(Station),
    /// To the client that is bound to this slot.
    Client(u32),
}

/// Where the destination port of the frame's UDP header stands, if it is plain.
fn port_at(frame: &[u8]) -> usize {
    let ip_len = if frame.get(12..14) == Some(&ETHERTYPE_IPV6[..]) { IPV6_LEN } else { IPV4_LEN };
    ETHERNET_LEN + ip_len + 2
}

/// The UDP payload that the headers announce; Ethernet may pad the frame behind it.
fn udp_payload(frame: &[u8], payload_at: usize) -> Result<&[u8], DropReason> {
    let udp_len = usize::from(jvpn_abi::wire::be16(frame, payload_at - 4).ok_or(DropReason::TooShort)?);
    let end = payload_at - 8 + udp_len;
    let datagram = frame.get(payload_at..end).ok_or(DropReason::TooShort)?;
    if datagram.len() < DATA_OVERHEAD { Err(DropReason::TooShort) } else { Ok(datagram) }
}

/// Notes that the peer was heard, learns the way back, confirms the binding. `true` if this frame confirmed it.
fn note_heard(now: Now, slot: &SlotContext, context: &Context, (frame, by): (&[u8], PortMark)) -> bool {
    context.last_heard_ns.store(now.0, Ordering::Relaxed);
    if let Some(source) = jvpn_abi::wire::octets::<6>(frame, 6) {
        let bits = Mac(source).to_bits() | by.to_next_hop() | NEXT_HOP_KNOWN;
        // Stored only when it differs: the line is read by every worker that seals.
        if context.next_hop_mac.load(Ordering::Relaxed) != bits {
            context.next_hop_mac.store(bits, Ordering::Release);
        }
    }
    !is_confirmed(context, slot.word) && confirm(context, slot.word, now)
}

/// Writes what a PROBE tells about quality into CONTEXT, for the control plane to judge. All of it is the client's word or
/// depends on its clock, and judges its own session only. Relaxed, the count last: a reader that sees half of two probes
/// misjudges one sample.
pub fn note_probe<A: Word>(now: Now, context: &Context<A>, state: &KeyState<A>, probe: &ProbeFrame) {
    let end = if probe.received == 0 { 0 } else { probe.highest_counter.saturating_add(1) };
    state.peer_received.store(probe.received, Ordering::Relaxed);
    state.peer_end.store(end, Ordering::Relaxed);
    let transit = now.0.wrapping_sub(probe.sent_at_ns);
    let before = context.probe_transit_ns.load(Ordering::Relaxed);
    context.probe_transit_ns.store(transit, Ordering::Relaxed);
    let probes = context.probes.load(Ordering::Relaxed);
    // RFC 3550 section 6.4.1: D(i, i-1), of which the sender's clock drops out.
    let change_ns = (transit.wrapping_sub(before) as i64).unsigned_abs();
    let change_us = if probes == 0 {
        ProbeSample::NO_CHANGE
    } else {
        u32::try_from(change_ns / 1_000).unwrap_or(u32::MAX).min(ProbeSample::NO_CHANGE - 1)
    };
    let sample = ProbeSample { rtt_us: probe.rtt_us, change_us };
    context.samples[probes as usize % PROBE_SAMPLES].store(sample.encode(), Ordering::Relaxed);
    context.probes.store(probes.wrapping_add(1), Ordering::Release);
}

/// Counts a frame that did not open. Several workers may, and none of it is the packet path of honest traffic.
#[cold]
fn failed_open(context: &Context) -> DropReason {
    context.failed_opens.fetch_add(1, Ordering::Relaxed);
    DropReason::OpenFailed
}

fn window_reason(error: WindowError) -> DropReason {
    match error {
        WindowError::Busy => DropReason::WindowBusy,
        WindowError::Replayed | WindowError::TooOld => DropReason::Replayed,
    }
}
