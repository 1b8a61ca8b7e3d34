//! LAN to WAN: fence, mark → word, confirmed → inner checks → counter → outer headers → sealed from the RX frame into
//! the WAN buffer.

use super::{Now, Pipeline, Verdict, seal_into};
use crate::frame::{InnerV4, decrement_ttl};
use jvpn_abi::DropReason;
use jvpn_abi::steer::ETHERNET_LEN;
use jvpn_abi::tables::SteeringMark;

impl Pipeline {
    /// Handles one frame from the LAN port, which XDP marked with a slot. `wan_out` is a TX frame of the WAN port.
    pub fn outbound(&mut self, now: Now, frame: &mut [u8], wan_out: &mut [u8]) -> Verdict {
        match self.try_outbound(now, frame, wan_out) {
            Ok(len) => {
                self.count(DropReason::ForwardedOut);
                Verdict::ToWan(len)
            }
            Err(reason) => {
                self.count(reason);
                Verdict::Drop(reason)
            }
        }
    }

    fn try_outbound(&self, now: Now, frame: &mut [u8], wan_out: &mut [u8]) -> Result<usize, DropReason> {
        if self.tables.fenced(now) {
            return Err(DropReason::Fenced);
        }
        let mark = SteeringMark::decode(frame).ok_or(DropReason::NoSteeringMark)?;
        let (slot, context) = self.bound(mark.slot_index)?;
        let packet = frame.get_mut(ETHERNET_LEN..).ok_or(DropReason::TooShort)?;
        let inner = InnerV4::parse(packet).ok_or(DropReason::InnerMalformed)?;
        // ROUTES is a hint; that the destination is this peer's is decided here.
        if !slot.owns(inner.destination) {
            return Err(DropReason::NoRoute);
        }
        // Inner addresses live behind bindings, never on the LAN.
        if u32::from(inner.source) & self.config.pool.1 == self.config.pool.0 {
            return Err(DropReason::InnerSourceDenied);
        }
        if inner.len > self.config.mtu {
            return Err(DropReason::TooBig);
        }
        if inner.ttl <= 1 {
            return Err(DropReason::TtlExpired);
        }
        decrement_ttl(packet);
        let packet = packet.get(..inner.len).ok_or(DropReason::InnerMalformed)?;
        let len = seal_into(slot, context, packet, wan_out)?;
        self.tally.sealed(&self.tables.contexts, slot.slot.index(), inner.len);
        Ok(len)
    }
}
