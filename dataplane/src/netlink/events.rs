//! What changes are about, without reading them whole: they come as fast as somebody on a link makes up addresses.

use super::answers::messages;

/// The changes that name their interface, in the second four octets: `struct ifinfomsg` and `struct ndmsg`
/// (linux/rtnetlink.h, linux/neighbour.h).
const OF_AN_INTERFACE: [u16; 4] =
    [libc::RTM_NEWLINK, libc::RTM_DELLINK, libc::RTM_NEWNEIGH, libc::RTM_DELNEIGH];

/// Whether changes may concern one of the interfaces that `is_ours` names by their index. What cannot be read might; so
/// might every route and next hop, whichever interface it names: one that takes the place of ours comes without a word
/// about ours, and one that has several next hops, or refuses, names none of them.
pub(super) fn concerns(datagram: &[u8], is_ours: impl Fn(u32) -> bool) -> bool {
    messages(datagram).any(|message| {
        let Ok(message) = message else { return true };
        !OF_AN_INTERFACE.contains(&message.message_type()) || index(message.payload()).is_none_or(&is_ours)
    })
}

fn index(payload: &[u8]) -> Option<u32> {
    payload.get(4..8)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: u16, payload: &[u8]) -> Vec<u8> {
        let len = 16 + payload.len() as u32;
        let head = [len.to_ne_bytes().as_slice(), &kind.to_ne_bytes(), &[0; 10]].concat();
        [&head, payload].concat()
    }

    fn of(kind: u16, index: u32) -> Vec<u8> {
        change(kind, &[[0; 4], index.to_ne_bytes(), [0; 4]].concat())
    }

    /// R3.2: neighbours that come and go on another interface are no reason to look at this one's.
    #[test]
    fn r3_2_neighbours_of_other_interfaces_do_not_count() {
        let ours = |datagram: &[u8]| concerns(datagram, |index| [3, 4].contains(&index));
        for kind in OF_AN_INTERFACE {
            assert!(!ours(&of(kind, 2)), "{kind}");
            assert!(ours(&of(kind, 4)), "{kind}");
            assert!(ours(&[of(kind, 2), of(kind, 3)].concat()), "the second of a datagram");
        }
        for kind in [libc::RTM_NEWROUTE, libc::RTM_DELROUTE] {
            assert!(ours(&of(kind, 2)), "a route of another interface may replace one of ours");
        }
        // `unreachable` of IPv4 in the main table: a `struct rtmsg` without an interface.
        let refusing = [2, 8, 0, 0, 254, 3, 0, 7, 0, 0, 0, 0];
        assert!(ours(&change(libc::RTM_NEWROUTE, &refusing)) && ours(&change(libc::RTM_DELROUTE, &refusing)));
        // RTM_DELNEXTHOP.
        assert!(ours(&change(105, &[0; 8])), "the routes of a next hop go with it");
        assert!(ours(&change(libc::RTM_NEWNEIGH, &[0; 4])), "what cannot be read might matter");
        assert!(ours(&of(libc::RTM_NEWNEIGH, 2)[..20]), "nor what is cut");
        assert!(!ours(&[]));
    }
}
