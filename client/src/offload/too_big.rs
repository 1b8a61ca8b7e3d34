//! What becomes of an inner packet that the path does not carry in one piece. One of IPv4 whose sender allows it is cut
//! (RFC 791 §3.2); the sender of any other is told which size fits (RFC 1191 §4, RFC 4443 §3.2). Pure.
//!
//! An IPv6 packet of up to 1,280 octets should be carried by every link (RFC 8200 §5); on a path that carries less its
//! sender may ignore what it is told (RFC 8201 §4), and the packet is lost (`docs/decisions/0044-client-edges-and-plain-sockets.md`).

use jvpn_abi::BootTime;
use jvpn_abi::limit::{Bucket, Rate};

/// Largest answer, octets: as much of the packet as fits 576 octets (RFC 1812 §4.3.2.3), in IPv6 more than is needed.
pub const ANSWER_MAX: usize = 576;
/// Answers per second; what senders do with them needs few (RFC 4443 §2.4(f)).
const RATE: Rate = Rate { per_second: 100, burst: 50 };

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const ICMP_LEN: usize = 8;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;
/// Hop limit of what is made here.
const HOPS: u8 = 64;

/// Whether the packet may be cut: IPv4 without DF, and without options, whose copying is another matter.
#[must_use]
pub fn may_be_cut(packet: &[u8]) -> bool {
    matches!(packet, [0x45, _, _, _, _, _, flags, ..] if flags & 0x40 == 0)
}

/// The pieces of a packet that may be cut.
#[derive(Debug)]
pub struct Pieces<'p> {
    packet: &'p [u8],
    fits: usize,
    /// Octets of the payload that are in pieces already.
    at: usize,
}

impl<'p> Pieces<'p> {
    /// Pieces of at most `fits` octets.
    #[must_use]
    pub fn new(packet: &'p [u8], fits: usize) -> Self {
        let len = jvpn_abi::wire::be16(packet, 2).map_or(0, usize::from);
        Self { packet: packet.get(..len).unwrap_or_default(), fits, at: 0 }
    }

    /// Writes the next piece to `out`; its length. `None` when all are written, or where there is nothing to cut.
    pub fn next(&mut self, out: &mut [u8]) -> Option<usize> {
        let (head, payload) = self.packet.split_first_chunk::<IPV4_LEN>()?;
        let rest = payload.get(self.at..).filter(|rest| !rest.is_empty())?;
        // Offsets count eights of octets.
        let most = self.fits.checked_sub(IPV4_LEN)? & !7;
        if most == 0 {
            return None;
        }
        let count = rest.len().min(most);
        let field = u16::from_be_bytes([head[6], head[7]]);
        let offset = (field & 0x1fff).checked_add(u16::try_from(self.at / 8).ok()?)?;
        let more = if count < rest.len() { 0x2000 } else { field & 0x2000 };
        let len = IPV4_LEN + count;
        let (mine, body) = out.get_mut(..len)?.split_first_chunk_mut::<IPV4_LEN>()?;
        *mine = *head;
        mine[2..4].copy_from_slice(&u16::try_from(len).ok()?.to_be_bytes());
        mine[6..8].copy_from_slice(&(offset & 0x1fff | more | field & 0x8000).to_be_bytes());
        mine[10..12].fill(0);
        let checksum = sum(mine, 0);
        mine[10..12].copy_from_slice(&checksum.to_be_bytes());
        body.copy_from_slice(rest.get(..count)?);
        self.at += count;
        Some(len)
    }
}

/// Tells senders, not more often than they need it.
#[derive(Debug, Default)]
pub struct Teller {
    bucket: Bucket,
}

impl Teller {
    /// Writes the answer to the sender of `packet`: `fits` octets are what is carried. Its length; `None` if none is sent: an
    /// error is not answered with an error, nor is a fragment but the first, and the rate is bounded.
    pub fn tell(
        &mut self,
        now: BootTime,
        packet: &[u8],
        fits: u16,
        out: &mut [u8; ANSWER_MAX],
    ) -> Option<usize> {
        if !may_be_answered(packet) || !self.bucket.take(now, RATE) {
            return None;
        }
        if packet.first()? >> 4 == 4 { answer_v4(packet, fits, out) } else { answer_v6(packet, fits, out) }
    }
}

/// RFC 1122 §3.2.2, RFC 4443 §2.4(e).
fn may_be_answered(packet: &[u8]) -> bool {
    let octet = |at: usize| packet.get(at).copied().unwrap_or_default();
    match octet(0) >> 4 {
        4 => {
            let head = usize::from(octet(0) & 0x0f) * 4;
            let is_later = (octet(6) & 0x1f) | octet(7) != 0;
            let is_query = matches!(octet(head), 0 | 8 | 13 | 14);
            let to_many = octet(16) >> 4 == 0xe || octet(16) == 0xff;
            head >= IPV4_LEN && !is_later && !to_many && (octet(9) != ICMP || is_query)
        }
        6 => {
            // Behind the header of a first fragment stands the start of what was cut; of a later one it is not known.
            let is_first = octet(6) == FRAGMENT && octet(IPV6_LEN + 2) | (octet(IPV6_LEN + 3) & 0xf8) == 0;
            let (next, at) = if is_first { (octet(IPV6_LEN), IPV6_LEN + 8) } else { (octet(6), IPV6_LEN) };
            let is_known = next != FRAGMENT && (next != ICMPV6 || octet(at) >= 128);
            packet.len() >= IPV6_LEN && is_known
        }
        _ => false,
    }
}

/// As if from where the packet was going: that address is reached through the tunnel, so the host believes it.
fn answer_v4(packet: &[u8], fits: u16, out: &mut [u8; ANSWER_MAX]) -> Option<usize> {
    let head = packet.first_chunk::<IPV4_LEN>()?;
    let quoted = packet.len().min(ANSWER_MAX - IPV4_LEN - ICMP_LEN);
    let len = IPV4_LEN + ICMP_LEN + quoted;
    let (ip, icmp) = out.get_mut(..len)?.split_first_chunk_mut::<IPV4_LEN>()?;
    *ip = [0x45, 0xc0, 0, 0, 0, 0, 0, 0, HOPS, ICMP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    ip[2..4].copy_from_slice(&u16::try_from(len).ok()?.to_be_bytes());
    ip[12..16].copy_from_slice(&head[16..20]);
    ip[16..20].copy_from_slice(&head[12..16]);
    let checksum = sum(ip, 0);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    // Destination unreachable, fragmentation needed.
    let [high, low] = fits.to_be_bytes();
    fill(icmp, [3, 4, 0, 0, 0, 0, high, low], packet.get(..quoted)?, 0)?;
    Some(len)
}

fn answer_v6(packet: &[u8], fits: u16, out: &mut [u8; ANSWER_MAX]) -> Option<usize> {
    let head = packet.first_chunk::<IPV6_LEN>()?;
    let quoted = packet.len().min(ANSWER_MAX - IPV6_LEN - ICMP_LEN);
    let len = IPV6_LEN + ICMP_LEN + quoted;
    let payload = u16::try_from(ICMP_LEN + quoted).ok()?;
    let (ip, icmp) = out.get_mut(..len)?.split_first_chunk_mut::<IPV6_LEN>()?;
    ip.fill(0);
    ip[0] = 0x60;
    ip[4..6].copy_from_slice(&payload.to_be_bytes());
    (ip[6], ip[7]) = (ICMPV6, HOPS);
    ip[8..24].copy_from_slice(&head[24..40]);
    ip[24..40].copy_from_slice(&head[8..24]);
    let pseudo = tun_rs::checksum_no_fold(&ip[8..40], u64::from(payload) + u64::from(ICMPV6));
    // Packet too big.
    let [high, low] = fits.to_be_bytes();
    fill(icmp, [2, 0, 0, 0, 0, 0, high, low], packet.get(..quoted)?, pseudo)?;
    Some(len)
}

fn fill(icmp: &mut [u8], head: [u8; ICMP_LEN], quoted: &[u8], pseudo: u64) -> Option<()> {
    icmp.first_chunk_mut::<ICMP_LEN>()?.copy_from_slice(&head);
    icmp.get_mut(ICMP_LEN..)?.copy_from_slice(quoted);
    let checksum = sum(icmp, pseudo);
    icmp.get_mut(2..4)?.copy_from_slice(&checksum.to_be_bytes());
    Some(())
}

/// The Internet checksum (RFC 1071) over octets whose checksum field is zero, behind what is summed already.
fn sum(octets: &[u8], before: u64) -> u16 {
    let mut sum = tun_rs::checksum_no_fold(octets, before);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0x12, 0x34, flags, 0, 64, 17, 0, 0, 10, 77, 0, 2, 192, 0, 2, 9];
        packet[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
        let checksum = sum(&packet, 0);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        [packet, payload.to_vec()].concat()
    }

    fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        packet.extend([0xfd; 16]);
        packet.extend([0xfc; 16]);
        [packet, payload.to_vec()].concat()
    }

    fn pieces(packet: &[u8], fits: usize) -> Vec<Vec<u8>> {
        let mut pieces = Pieces::new(packet, fits);
        let mut out = [0; 2_048];
        std::iter::from_fn(|| pieces.next(&mut out).map(|len| out[..len].to_vec())).collect()
    }

    proptest! {
        /// Every piece fits and has a true header, and together they are the packet, whichever part of one it was.
        #[test]
        fn r9_2_pieces_make_the_packet(
            payload in proptest::collection::vec(any::<u8>(), 1..1_500), fits in 28usize..1_400, more: bool
        ) {
            let packet = v4(if more { 0x20 } else { 0 }, &payload);
            prop_assert!(may_be_cut(&packet));
            let all = pieces(&packet, fits);
            let mut again = Vec::new();
            for (index, piece) in all.iter().enumerate() {
                prop_assert!(piece.len() <= fits.max(20 + 8));
                prop_assert_eq!(usize::from(u16::from_be_bytes([piece[2], piece[3]])), piece.len());
                prop_assert_eq!(sum(&piece[..20], 0), 0);
                let field = u16::from_be_bytes([piece[6], piece[7]]);
                prop_assert_eq!(usize::from(field & 0x1fff) * 8, again.len());
                prop_assert_eq!(field & 0x2000 != 0, more || index + 1 < all.len());
                prop_assert_eq!(&piece[12..20], &packet[12..20]);
                again.extend_from_slice(&piece[20..]);
            }
            prop_assert_eq!(again, payload);
        }

        /// R1.8: garbage is neither cut beyond its end nor answered beyond the limit.
        #[test]
        fn r1_8_garbage_is_harmless(packet in proptest::collection::vec(any::<u8>(), 0..700), fits: u16) {
            let _count = pieces(&packet, usize::from(fits)).len();
            let len = Teller::default().tell(BootTime(1), &packet, fits, &mut [0; ANSWER_MAX]);
            prop_assert!(len.is_none_or(|len| len <= ANSWER_MAX));
        }
    }

    /// R9.2: the sender hears the size that fits, with enough of its packet to know which it was, in both families.
    #[test]
    fn r9_2_the_sender_is_told() {
        let mut out = [0; ANSWER_MAX];
        let packet = v4(0x40, &[7; 1_240]);
        assert!(!may_be_cut(&packet));
        let len = Teller::default().tell(BootTime(1), &packet, 1_220, &mut out).unwrap();
        assert_eq!((len, sum(&out[..20], 0), sum(&out[20..len], 0)), (ANSWER_MAX, 0, 0));
        assert_eq!((&out[12..20], &out[20..22]), (&[192, 0, 2, 9, 10, 77, 0, 2][..], &[3, 4][..]));
        assert_eq!((&out[26..28], &out[28..len]), (&1_220u16.to_be_bytes()[..], &packet[..len - 28]));

        let packet = v6(17, &[7; 1_220]);
        let len = Teller::default().tell(BootTime(1), &packet, 1_200, &mut out).unwrap();
        let pseudo = tun_rs::checksum_no_fold(&out[8..40], (len - 40) as u64 + 58);
        assert_eq!((len, sum(&out[40..len], pseudo)), (ANSWER_MAX, 0));
        assert_eq!(
            (&out[8..24], &out[24..40], &out[40..42]),
            (&[0xfc; 16][..], &[0xfd; 16][..], &[2, 0][..])
        );
        assert_eq!((&out[44..48], &out[48..len]), (&1_200u32.to_be_bytes()[..], &packet[..len - 48]));
    }

    /// R3.3: no error for an error, none for a later fragment, none to many, and not without end.
    #[test]
    fn r3_3_what_is_not_answered() {
        let mut out = [0; ANSWER_MAX];
        let mut asked =
            |packet: &[u8]| Teller::default().tell(BootTime(1), packet, 1_200, &mut out).is_some();
        let mut icmp = v4(0x40, &[3; 1_240]);
        assert!(asked(&icmp));
        icmp[9] = ICMP;
        assert!(!asked(&icmp));
        icmp[20] = 8;
        assert!(asked(&icmp), "a question is no error");
        let mut later = v4(0x40, &[0; 1_240]);
        later[7] = 9;
        assert!(!asked(&later));
        let mut to_many = v4(0x40, &[0; 1_240]);
        to_many[16] = 224;
        assert!(!asked(&to_many));
        let mut fragment = v6(FRAGMENT, &[0; 1_220]);
        fragment[40] = 17;
        assert!(asked(&fragment));
        fragment[40] = ICMPV6;
        assert!(!asked(&fragment), "an error that was cut");
        (fragment[40], fragment[43]) = (17, 8);
        assert!(!asked(&fragment));
        assert!(!asked(&v6(ICMPV6, &[1; 1_220])) && asked(&v6(ICMPV6, &[128; 1_220])));
        let mut teller = Teller::default();
        let packet = v4(0x40, &[7; 1_240]);
        let told = (0..200).filter(|_| teller.tell(BootTime(1), &packet, 1_220, &mut out).is_some()).count();
        assert_eq!(told, RATE.burst as usize);
    }
}
