//! LAN to WAN: fence, mark → word, confirmed or its address proven → inner checks → counter → outer headers → sealed from the RX frame into
//! the WAN buffer. What does not fit is cut where its sender allows it; else the sender is told.

use super::{Now, Pipeline, Refused, Verdict, seal_into};
use crate::frame::{
    Cut, Inner, Mac, clamp_mss, cut, error_in_place, finish_checksum, is_answerable, write_ethernet,
};
use crate::lan::Station;
use crate::slots::SlotContext;
use jvpn_abi::DropReason;
use jvpn_abi::steer::ETHERNET_LEN;
use jvpn_abi::tables::{Context, SteeringMark};

impl Pipeline {
    /// Handles one frame from the LAN port, which XDP marked with a slot. `wan_out` is a TX frame of the WAN port,
    /// `lan_out` one of the LAN port, for an answer to the sender; an empty slice means that none is free.
    pub fn outbound(
        &mut self,
        now: Now,
        frame: &mut [u8],
        lan_out: &mut [u8],
        wan_out: &mut [u8],
    ) -> Verdict {
        let verdict = self.try_outbound(now, frame, lan_out, wan_out);
        match verdict {
            Ok(verdict) => {
                if !matches!(verdict, Verdict::ToLan(_)) {
                    self.count(DropReason::ForwardedOut);
                }
                verdict
            }
            Err(reason) => {
                self.count(reason);
                Verdict::Drop(reason)
            }
        }
    }

    fn try_outbound(
        &self,
        now: Now,
        frame: &mut [u8],
        lan_out: &mut [u8],
        wan_out: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        if self.tables.fenced(now) {
            return Err(DropReason::Fenced);
        }
        let mark = SteeringMark::decode(frame).ok_or(DropReason::NoSteeringMark)?;
        let (slot, context) = self.bound(mark.slot_index)?;
        let packet = frame.get(ETHERNET_LEN..).ok_or(DropReason::TooShort)?;
        let inner = Inner::parse(packet).ok_or(DropReason::InnerMalformed)?;
        // ROUTES is a hint; that the destination is this peer's is decided here.
        if !slot.owns(inner.destination) {
            return Err(DropReason::NoRoute);
        }
        // Inner addresses and the prefixes of sites live behind bindings, never on the LAN.
        if self.is_of_clients(inner.source) {
            return Err(DropReason::InnerSourceDenied);
        }
        if inner.hop_limit <= 1 {
            let refused = Self::refused(DropReason::TtlExpired, 0);
            return self.refuse_to_lan(now, frame, &inner, refused, lan_out);
        }
        // Before anything mends a checksum or cuts a packet.
        if let (Some(finished), Some(packet)) = (&self.finished, frame.get_mut(ETHERNET_LEN..))
            && finish_checksum(packet, &inner)
        {
            finished.add_one();
        }
        let mtu = self.path_mtu(context);
        if inner.len <= mtu {
            return self.seal_packet(slot, context, frame, &inner, wan_out).map(Verdict::ToWan);
        }
        let Some(piece) = cut(frame, &inner, mtu) else {
            let refused = Self::refused(DropReason::TooBig, mtu);
            return self.refuse_to_lan(now, frame, &inner, refused, lan_out);
        };
        self.seal_piece(slot, context, frame, piece, wan_out)
    }

    /// Seals the packet behind the Ethernet header of `frame`, one hop further.
    fn seal_packet(
        &self,
        slot: &SlotContext,
        context: &Context,
        frame: &mut [u8],
        inner: &Inner,
        wan_out: &mut [u8],
    ) -> Result<usize, DropReason> {
        let packet =
            frame.get_mut(ETHERNET_LEN..ETHERNET_LEN + inner.len).ok_or(DropReason::InnerMalformed)?;
        inner.take_hop(packet);
        // The answers come back over the LAN, by which of its interfaces nobody knows here.
        clamp_mss(packet, inner, self.path_mtu(context).min(self.lan_mtus.least()));
        let len = seal_into(slot, context, packet, inner.ecn, wan_out)?;
        self.tally.sealed(&self.tables.contexts, slot.slot.index(), inner.len);
        Ok(len)
    }

    /// Seals the first piece of a packet that was cut and names the rest.
    #[cold]
    fn seal_piece(
        &self,
        slot: &SlotContext,
        context: &Context,
        frame: &mut [u8],
        piece: Cut,
        wan_out: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let packet = frame.get(ETHERNET_LEN..).ok_or(DropReason::TooShort)?;
        let first = Inner::parse(packet).ok_or(DropReason::InnerMalformed)?;
        let len = self.seal_packet(slot, context, frame, &first, wan_out)?;
        self.count(DropReason::Fragmented);
        let rest = piece.uncover_rest(frame).ok_or(DropReason::InnerMalformed)?;
        Ok(Verdict::ToWanInPart { len, rest })
    }

    /// Where an answer to a packet from the LAN goes: back to the station that sent the frame; where the LAN has several
    /// interfaces, to wherever its sender is routed. `None`: behind which of them that station is, nobody knows yet.
    fn way_back(&self, inner: &Inner, station: Mac) -> Option<Station> {
        if self.several_lans {
            self.next_hop(inner.source).ok()
        } else {
            Some(Station { mac: station, port: 0 })
        }
    }

    /// Counts why a packet from the LAN goes nowhere and tells its sender, by the station that it came from.
    #[cold]
    fn refuse_to_lan(
        &self,
        now: Now,
        frame: &[u8],
        inner: &Inner,
        Refused { reason, error }: Refused,
        lan_out: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let Some(error) = error else { return Err(reason) };
        let Some((head, body)) = lan_out.split_at_mut_checked(ETHERNET_LEN) else { return Err(reason) };
        let packet = frame.get(ETHERNET_LEN..ETHERNET_LEN + inner.len);
        let (Some(room), Some(packet)) = (body.get_mut(..inner.len), packet) else { return Err(reason) };
        let Some(station) = jvpn_abi::wire::octets::<6>(frame, 6).map(Mac) else { return Err(reason) };
        room.copy_from_slice(packet);
        // What cannot be answered does not use up what others may be told.
        if !is_answerable(room, inner, &self.config.gateway) {
            return Err(reason);
        }
        let Some(station) = self.way_back(inner, station) else { return Err(reason) };
        if !self.may_answer(now) {
            return Err(reason);
        }
        let Some(len) = error_in_place(body, inner, error, &self.config.gateway) else { return Err(reason) };
        write_ethernet(head, station.mac, self.lan_source(station.port), inner.family).ok_or(reason)?;
        self.count(reason);
        self.count(DropReason::IcmpErrorSent);
        Ok(Verdict::ToLan(ETHERNET_LEN + len))
    }
}
