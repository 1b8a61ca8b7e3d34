//! WAN to LAN: fence, word, endpoint → header → window check → open from the RX frame into the LAN buffer → window
//! commit → confirmation → inner checks → Ethernet header. Every exit is a counted reason.

use super::{Now, Pipeline, Verdict, seal_into};
use crate::frame::{InnerV4, Mac, OUTER_V4_LEN, answer_echo, decrement_ttl, write_ethernet};
use crate::slots::{KeySet, SlotContext, confirm, flip, is_confirmed, key_state};
use crate::tables::add;
use jvpn_abi::DropReason;
use jvpn_abi::steer::{ETHERNET_LEN, WanClass, classify_wan};
use jvpn_abi::tables::{Context, KeyState, NEXT_HOP_KNOWN, PROBE_SAMPLES, ProbeSample};
use jvpn_abi::wire::internal::{PROBE_LEN, ProbeFrame, ProbeKind};
use jvpn_abi::wire::{DATA_HEADER_LEN, DATA_OVERHEAD, DataHeader, TAG_LEN};
use jvpn_crypto::window::{Window, WindowError};
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;

/// An opened frame: where its plaintext is and whose it was.
struct Plain<'a> {
    slot: &'a SlotContext,
    context: &'a Context,
    keys: &'a KeySet,
    len: usize,
}

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
            Verdict::ToWan(_) => {}
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
        let plain = self.open(now, frame, lan_out)?;
        let body =
            lan_out.get_mut(ETHERNET_LEN..ETHERNET_LEN + plain.len).ok_or(DropReason::InnerMalformed)?;
        match body.first().map(|octet| octet >> 4) {
            Some(4) => self.forward(&plain, lan_out, wan_out),
            Some(0) => self.internal_frame(now, &plain, body, wan_out),
            Some(_) | None => Err(DropReason::InnerMalformed),
        }
    }

    /// Authenticates a frame; its plaintext lies behind the place of the LAN's Ethernet header afterwards.
    fn open(&self, now: Now, frame: &[u8], lan_out: &mut [u8]) -> Result<Plain<'_>, DropReason> {
        if self.tables.fenced(now) {
            return Err(DropReason::Fenced);
        }
        // The same classification as in XDP; the port is the binding's, so ask the frame's own.
        let port = jvpn_abi::wire::be16(frame, ETHERNET_LEN + 20 + 2).ok_or(DropReason::TooShort)?;
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
        let datagram = udp_payload(frame, data.payload_at)?;
        let header = DataHeader::parse(datagram).ok_or(DropReason::TooShort)?;
        let keys = slot.keys(header.key_phase).ok_or(DropReason::OpenFailed)?;
        if header.counter >= keys.hard_packets {
            return Err(DropReason::KeyExhausted);
        }
        let state = key_state(context, keys.number);
        let window = Window::new(state);
        window.check(header.counter).map_err(window_reason)?;
        let (aad, sealed) = datagram.split_at(DATA_HEADER_LEN);
        let len = sealed.len() - TAG_LEN;
        let out = lan_out.get_mut(ETHERNET_LEN..ETHERNET_LEN + len).ok_or(DropReason::NoTxFrame)?;
        let opened = keys.open.open(header.counter, aad, sealed, out).map_err(|_| failed_open(context))?;
        window.commit(opened).map_err(window_reason)?;
        if note_heard(now, slot, context, frame) || flip(context, keys) {
            self.push_confirmed(slot_index);
        }
        Ok(Plain { slot, context, keys, len })
    }

    /// An inner IPv4 packet: to the LAN, or an answer to an echo for the gateway itself.
    fn forward(
        &self,
        plain: &Plain<'_>,
        lan_out: &mut [u8],
        wan_out: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let packet =
            lan_out.get_mut(ETHERNET_LEN..ETHERNET_LEN + plain.len).ok_or(DropReason::InnerMalformed)?;
        let inner = InnerV4::parse(packet).ok_or(DropReason::InnerMalformed)?;
        if !plain.slot.owns(inner.source) {
            return Err(DropReason::InnerSourceDenied);
        }
        if inner.destination == self.config.gateway_address {
            return self.echo(plain, packet, &inner, wan_out);
        }
        if inner.len > self.config.mtu {
            return Err(DropReason::TooBig);
        }
        if inner.ttl <= 1 {
            return Err(DropReason::TtlExpired);
        }
        if u32::from(inner.destination) & self.config.pool.1 == self.config.pool.0 {
            return Err(DropReason::ClientToClientDenied);
        }
        if is_not_unicast(inner.destination) {
            return Err(DropReason::NoRoute);
        }
        let next_hop = self.next_hop(inner.destination)?;
        decrement_ttl(packet);
        write_ethernet(lan_out, next_hop, self.config.lan_mac).ok_or(DropReason::NoTxFrame)?;
        add(&plain.context.packets_in, 1);
        add(&plain.context.bytes_in, inner.len as u64);
        Ok(Verdict::ToLan(ETHERNET_LEN + inner.len))
    }

    fn echo(
        &self,
        plain: &Plain<'_>,
        packet: &mut [u8],
        inner: &InnerV4,
        wan_out: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        answer_echo(packet, inner).ok_or(DropReason::NoRoute)?;
        let reply = packet.get(..inner.len).ok_or(DropReason::InnerMalformed)?;
        let len = seal_into(plain.slot, plain.context, reply, wan_out)?;
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
        let len = seal_into(plain.slot, plain.context, &ack, wan_out)?;
        self.count(DropReason::ProbeAnswered);
        Ok(Verdict::ToWan(len))
    }
}

/// The UDP payload that the headers announce; Ethernet may pad the frame behind it.
fn udp_payload(frame: &[u8], payload_at: usize) -> Result<&[u8], DropReason> {
    let udp_len = usize::from(jvpn_abi::wire::be16(frame, payload_at - 4).ok_or(DropReason::TooShort)?);
    let end = payload_at - 8 + udp_len;
    let datagram = frame.get(payload_at..end).ok_or(DropReason::TooShort)?;
    if datagram.len() < DATA_OVERHEAD { Err(DropReason::TooShort) } else { Ok(datagram) }
}

/// Notes that the peer was heard, learns the way back, confirms the binding. `true` if this frame confirmed it.
fn note_heard(now: Now, slot: &SlotContext, context: &Context, frame: &[u8]) -> bool {
    context.last_heard_ns.store(now.0, Ordering::Relaxed);
    if let Some(source) = jvpn_abi::wire::octets::<6>(frame, 6) {
        let bits = Mac(source).to_bits() | NEXT_HOP_KNOWN;
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
fn note_probe(now: Now, context: &Context, state: &KeyState, probe: &ProbeFrame) {
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

fn is_not_unicast(destination: Ipv4Addr) -> bool {
    destination.is_multicast()
        || destination.is_broadcast()
        || destination.is_unspecified()
        || destination.is_loopback()
}

fn window_reason(error: WindowError) -> DropReason {
    match error {
        WindowError::Busy => DropReason::WindowBusy,
        WindowError::Replayed | WindowError::TooOld => DropReason::Replayed,
    }
}

const _: () = assert!(OUTER_V4_LEN == 42);
