//! Tickets for path probes, as sealed CONTROL carries them.

use super::{Reader, Writer};
use jvpn_abi::wire::control::CONTROL_OVERHEAD;
use jvpn_abi::wire::path::TICKET_ID_LEN;
use jvpn_crypto::path::{TICKET_KEY_LEN, Ticket};
use zeroize::Zeroizing;

/// Most tickets that one message carries.
pub const MAX_TICKETS: usize = 16;

const _: () = assert!(
    CONTROL_OVERHEAD + 8 + MAX_TICKETS * (4 + TICKET_ID_LEN + TICKET_KEY_LEN)
        <= jvpn_abi::wire::MAX_CONTROL_DATAGRAM
);

/// One ticket.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketGrant {
    bucket: u32,
    name: [u8; TICKET_ID_LEN],
    key: Zeroizing<[u8; TICKET_KEY_LEN]>,
}

impl std::fmt::Debug for TicketGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TicketGrant(..)")
    }
}

impl From<&Ticket> for TicketGrant {
    fn from(ticket: &Ticket) -> Self {
        let (bucket, name, key) = ticket.parts();
        Self { bucket, name, key: Zeroizing::new(*key) }
    }
}

impl From<TicketGrant> for Ticket {
    fn from(grant: TicketGrant) -> Self {
        Self::from_parts(grant.bucket, grant.name, *grant.key)
    }
}

/// What a gateway hands out at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketBatch {
    /// Each is good for so many seconds from now on.
    pub lifetime_s: u16,
    /// At most [`MAX_TICKETS`].
    pub tickets: Vec<TicketGrant>,
}

impl TicketBatch {
    pub(super) fn write<'w>(&self, w: &'w mut Writer) -> &'w mut Writer {
        w.u16(self.lifetime_s).list(&self.tickets, MAX_TICKETS, |w, ticket| {
            w.u32(ticket.bucket).octets(&ticket.name).octets(&*ticket.key);
        })
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            lifetime_s: r.u16()?,
            tickets: r.list(MAX_TICKETS, |r| {
                let (bucket, name, key) = (r.u32()?, r.octets()?, Zeroizing::new(r.octets()?));
                Some(TicketGrant { bucket, name, key })
            })?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::ControlMessage;
    use super::*;

    fn batch(count: usize) -> ControlMessage {
        let ticket = |n: usize| TicketGrant::from(&Ticket::from_parts(7, [n as u8; 8], [n as u8 + 1; 32]));
        ControlMessage::Tickets(TicketBatch { lifetime_s: 900, tickets: (0..count).map(ticket).collect() })
    }

    #[test]
    fn batches_come_back_whole_or_not_at_all() {
        for count in [0, 1, MAX_TICKETS] {
            let message = batch(count);
            let octets = message.encode();
            assert_eq!(ControlMessage::decode(&octets), Some(message));
            for len in 1..octets.len() {
                assert_eq!(ControlMessage::decode(&octets[..len]), None, "{count} tickets cut to {len}");
            }
        }
        let ask = ControlMessage::AskTickets;
        assert_eq!(ControlMessage::decode(&ask.encode()), Some(ask));
    }

    #[test]
    fn a_list_that_claims_more_than_may_be_is_refused() {
        let mut octets = batch(MAX_TICKETS).encode();
        octets[3] = MAX_TICKETS as u8 + 1;
        octets.resize(octets.len() + 200, 1);
        assert_eq!(ControlMessage::decode(&octets), None);
        assert!(!format!("{:?}", batch(1)).contains("[2, 2"), "no key is printed");
    }
}
