//! What the path says about packets beside carrying them: congestion marks that it put on a datagram reach the packet
//! inside it (RFC 6040), and who sent what it does not carry is told.

use super::Agent;
use jvpn_abi::Ecn;

impl Agent {
    /// The sender of a packet that was too big was told.
    pub const fn told_too_big(&mut self) {
        self.counters.too_big_told += 1;
    }

    /// Passes the mark of a datagram on to the inner packet that [`Agent::handle_datagram`] opened out of it. `false`: the
    /// packet is dropped and counted, because the path saw congestion and the packet cannot say so.
    pub fn pass_mark_on(&mut self, packet: &mut [u8], outer: Ecn) -> bool {
        let inner = Ecn::of(packet);
        match inner.leaving(outer) {
            Some(mark) => {
                if mark != inner {
                    mark.write(packet);
                }
                true
            }
            None => {
                // It was counted as delivered when it was opened.
                let counters = &mut self.counters;
                counters.packets_in = counters.packets_in.saturating_sub(1);
                counters.bytes_in = counters.bytes_in.saturating_sub(packet.len() as u64);
                counters.congestion_lost += 1;
                false
            }
        }
    }
}
