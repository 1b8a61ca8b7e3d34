//! WAN to WAN: a packet from one client for another, sealed for it at once. What does not fit its path is cut where its
//! sender allows it; else the sender is told.

use super::inbound::Plain;
use super::{Now, Pipeline, Verdict, seal_into};
use crate::frame::{Inner, allows_cutting, cut};
use crate::slots::SlotContext;
use crate::tables::add;
use jvpn_abi::DropReason;
use jvpn_abi::steer::ETHERNET_LEN;
use jvpn_abi::tables::{Context, SteeringMark};

impl Pipeline {
    /// A packet for another client. It lies behind the place of an Ethernet header in `lan_out`.
    pub(super) fn turn_round(
        &self,
        now: Now,
        plain: &Plain<'_>,
        slot_index: u32,
        inner: &Inner,
        lan_out: &mut [u8],
        wan_out: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let (slot, context) = self.bound(slot_index)?;
        // A table that lags behind, or a packet for the network that it comes from.
        let mtu = self.path_mtu(context);
        let refused = if slot.slot == plain.slot.slot || !slot.owns(inner.destination) {
            Some(DropReason::NoRoute)
        } else {
            (inner.len > mtu && !allows_cutting(inner)).then_some(DropReason::TooBig)
        };
        if let Some(reason) = refused {
            return self.refuse_to_client(now, plain, inner, Self::refused(reason, mtu), lan_out, wan_out);
        }
        let frame = lan_out.get_mut(..ETHERNET_LEN + inner.len).ok_or(DropReason::InnerMalformed)?;
        let packet = frame.get_mut(ETHERNET_LEN..).ok_or(DropReason::InnerMalformed)?;
        self.one_hop_further(plain, inner, packet, mtu)?;
        let verdict = self.seal_turned((slot, context), slot_index, frame, wan_out)?;
        add(&plain.context.packets_in, 1);
        add(&plain.context.bytes_in, inner.len as u64);
        self.count(DropReason::TurnedRound);
        Ok(verdict)
    }

    /// Handles what a packet that was turned round and cut has left: the part of the LAN buffer that the last verdict named.
    #[cold]
    pub fn turned_rest(&mut self, now: Now, rest: &mut [u8], wan_out: &mut [u8]) -> Verdict {
        self.try_turned_rest(now, rest, wan_out).unwrap_or_else(|reason| {
            self.count(reason);
            Verdict::Drop(reason)
        })
    }

    fn try_turned_rest(&self, now: Now, rest: &mut [u8], wan_out: &mut [u8]) -> Result<Verdict, DropReason> {
        if self.tables.fenced(now) {
            return Err(DropReason::Fenced);
        }
        let mark = SteeringMark::decode(rest).ok_or(DropReason::NoSteeringMark)?;
        let bound = self.bound(mark.slot_index)?;
        self.seal_turned(bound, mark.slot_index, rest, wan_out)
    }

    /// Seals a packet, or as much of it as fits. The rest is marked with its slot, as XDP marks what comes from the LAN.
    fn seal_turned(
        &self,
        (slot, context): (&SlotContext, &Context),
        slot_index: u32,
        frame: &mut [u8],
        wan_out: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let packet = frame.get(ETHERNET_LEN..).ok_or(DropReason::TooShort)?;
        let inner = Inner::parse(packet).ok_or(DropReason::InnerMalformed)?;
        let mtu = self.path_mtu(context);
        if inner.len <= mtu {
            let packet = packet.get(..inner.len).ok_or(DropReason::InnerMalformed)?;
            return self.seal_for(slot, context, packet, &inner, wan_out).map(Verdict::ToWan);
        }
        let mark = SteeringMark { slot_index }.encode();
        frame.get_mut(..SteeringMark::LEN).ok_or(DropReason::TooShort)?.copy_from_slice(&mark);
        let piece = cut(frame, &inner, mtu).ok_or(DropReason::TooBig)?;
        let packet = frame.get(ETHERNET_LEN..).ok_or(DropReason::TooShort)?;
        let first = Inner::parse(packet).ok_or(DropReason::InnerMalformed)?;
        let packet = packet.get(..first.len).ok_or(DropReason::InnerMalformed)?;
        let len = self.seal_for(slot, context, packet, &first, wan_out)?;
        self.count(DropReason::Fragmented);
        let rest = piece.uncover_rest(frame).ok_or(DropReason::InnerMalformed)?;
        Ok(Verdict::ToWanInPart { len, rest })
    }

    fn seal_for(
        &self,
        slot: &SlotContext,
        context: &Context,
        packet: &[u8],
        inner: &Inner,
        wan_out: &mut [u8],
    ) -> Result<usize, DropReason> {
        let len = seal_into(slot, context, packet, inner.ecn, wan_out)?;
        self.tally.sealed(&self.tables.contexts, slot.slot.index(), inner.len);
        Ok(len)
    }
}
