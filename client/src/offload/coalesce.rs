//! Which inner TCP packets follow each other and may be handed to the host as one (GRO). Pure: finds, and changes headers
//! in place; copies no payload.
//!
//! Packets belong together if the second goes on where the first ends and nothing else differs: what the host's stack
//! does with the large one must be what it would have done with the small ones, and cutting it up again must give back
//! the small ones. A checksum is checked before its packet is joined, because the joined one's is computed anew.

/// Most packets of one batch.
pub const PACKETS_MAX: usize = 64;
/// Octets of the header in front of each packet that the tunnel device takes (`struct virtio_net_hdr`).
pub const VNET_LEN: usize = 10;
/// Largest IP packet, octets.
const LARGEST: usize = 65_535;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the transport checksum covers only the pseudo header.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV4` and `_TCPV6`.
const GSO_TCP: [u8; 2] = [1, 4];

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const TCP: u8 = 6;
const TCP_LEN: usize = 20;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// Where a packet lies in the batch's buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// First octet.
    pub at: usize,
    /// Octets.
    pub len: usize,
}

impl Place {
    fn of(self, buffer: &[u8]) -> &[u8] {
        buffer.get(self.at..).and_then(|rest| rest.get(..self.len)).unwrap_or_default()
    }
}

/// A TCP packet with data and no other business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    ip_len: usize,
    header_len: usize,
    seq: u32,
    payload: usize,
    push: bool,
}

/// Packets that become one.
#[derive(Clone, Copy, Debug)]
struct Run {
    head: usize,
    /// The packet to which the next one is linked.
    tail: usize,
    count: usize,
    total: usize,
    segment: Option<Segment>,
    next_seq: u32,
    push: bool,
    open: bool,
}

/// One batch. Used again and again: it allocates once.
#[derive(Debug, Default)]
pub struct Batch {
    packets: Vec<Place>,
    next: Vec<usize>,
    runs: Vec<Run>,
}

/// End of a chain of packets.
const NONE: usize = usize::MAX;

impl Batch {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.next.clear();
        self.runs.clear();
    }

    /// Packets in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Adds the next packet, which lies in `buffer`.
    pub fn push(&mut self, buffer: &[u8], place: Place) {
        let packet = place.of(buffer);
        let segment = segment(packet);
        let index = self.packets.len();
        self.packets.push(place);
        self.next.push(NONE);
        for run in self.runs.iter_mut().filter(|run| run.open) {
            let head = self.packets.get(run.head).copied().unwrap_or_default().of(buffer);
            if !is_same_flow(head, packet) {
                continue;
            }
            if let (Some(first), Some(new)) = (run.segment, segment)
                && run.takes(first, new)
                && has_same_headers(head, packet, first)
                && is_intact(packet, new.ip_len)
            {
                if let Some(link) = self.next.get_mut(run.tail) {
                    *link = index;
                }
                run.tail = index;
                run.count += 1;
                run.total += new.payload;
                run.next_seq = new.seq.wrapping_add(new.payload as u32);
                run.push |= new.push;
                run.open = new.payload == first.payload && !new.push;
                return;
            }
            // The order within a flow stays: what comes later does not join what came before this one.
            run.open = false;
        }
        let is_joinable = segment.is_some_and(|segment| !segment.push && is_intact(packet, segment.ip_len));
        self.runs.push(Run {
            head: index,
            tail: index,
            count: 1,
            total: place.len,
            segment,
            next_seq: segment.map_or(0, |segment| segment.seq.wrapping_add(segment.payload as u32)),
            push: false,
            open: is_joinable,
        });
    }

    /// Adds a packet that is handed over as it is.
    pub fn push_alone(&mut self, place: Place) {
        let (head, tail, total) = (self.packets.len(), self.packets.len(), place.len);
        self.packets.push(place);
        self.next.push(NONE);
        let (count, segment, next_seq, push, open) = (1, None, 0, false, false);
        self.runs.push(Run { head, tail, count, total, segment, next_seq, push, open });
    }

    /// Writes the headers of what was joined. Afterwards [`Self::for_each`] tells what to hand over.
    pub fn finish(&mut self, buffer: &mut [u8]) {
        for run in self.runs.iter().filter(|run| run.count > 1) {
            let (Some(segment), Some(head)) = (run.segment, self.packets.get(run.head)) else { continue };
            let packet = buffer.get_mut(head.at..).and_then(|rest| rest.get_mut(..head.len));
            let written = packet.and_then(|packet| rewrite(packet, segment, run.total, run.push));
            debug_assert!(written.is_some(), "a packet that was understood has its headers");
        }
    }

    /// Calls `take` for each packet to hand over, in order: the header for the tunnel device, then its parts.
    pub fn for_each<'b>(&self, buffer: &'b [u8], mut take: impl FnMut([u8; VNET_LEN], &[&'b [u8]])) {
        let mut parts: [&[u8]; PACKETS_MAX] = [&[]; PACKETS_MAX];
        for run in &self.runs {
            let mut count = 0;
            let mut index = run.head;
            while let (Some(place), Some(slot)) = (self.packets.get(index), parts.get_mut(count)) {
                let skip = if count == 0 { 0 } else { run.segment.map_or(0, |segment| segment.header_len) };
                *slot = place.of(buffer).get(skip..).unwrap_or_default();
                count += 1;
                index = self.next.get(index).copied().unwrap_or(NONE);
            }
            let header = run.segment.filter(|_| run.count > 1).map_or([0; VNET_LEN], vnet_header);
            take(header, parts.get(..count).unwrap_or_default());
        }
    }
}

impl Run {
    fn takes(&self, first: Segment, new: Segment) -> bool {
        new.seq == self.next_seq
            && new.header_len == first.header_len
            && new.payload <= first.payload
            && self.total + new.payload <= LARGEST
            && self.count < PACKETS_MAX
    }
}

/// What the packet is, if it is TCP with data, ACK, and at most PSH.
fn segment(packet: &[u8]) -> Option<Segment> {
    let octet = |at: usize| packet.get(at).copied();
    let be16 = |at: usize| jvpn_abi::wire::be16(packet, at);
    let (ip_len, protocol, whole) = match octet(0)? {
        // No options.
        0x45 => {
            // Neither a fragment nor the first of several.
            let fragment = be16(6)? & 0x3fff;
            (IPV4_LEN, octet(9)?, fragment == 0 && usize::from(be16(2)?) == packet.len())
        }
        first if first >> 4 == 6 => (IPV6_LEN, octet(6)?, usize::from(be16(4)?) + IPV6_LEN == packet.len()),
        _ => return None,
    };
    if protocol != TCP || !whole {
        return None;
    }
    let offset = octet(ip_len + 12)?;
    let flags = octet(ip_len + 13)?;
    let header_len = ip_len + usize::from(offset >> 4) * 4;
    let is_plain = offset & 0x0f == 0 && flags & !PSH == ACK && header_len >= ip_len + TCP_LEN;
    let payload = packet.len().checked_sub(header_len).filter(|payload| *payload > 0)?;
    let seq = packet.get(ip_len + 4..ip_len + 8)?.try_into().ok()?;
    let push = flags & PSH != 0;
    is_plain.then_some(Segment { ip_len, header_len, seq: u32::from_be_bytes(seq), payload, push })
}

/// Whether both go between the same addresses and, as far as there are any, the same ports.
fn is_same_flow(one: &[u8], other: &[u8]) -> bool {
    let ports = |packet: &[u8]| {
        let first = packet.first().copied().unwrap_or_default();
        let ip_len = if first >> 4 == 4 { usize::from(first & 0x0f) * 4 } else { IPV6_LEN };
        packet.get(ip_len..ip_len + 4).and_then(|ports| ports.try_into().ok()).map(u32::from_be_bytes)
    };
    addresses(one) == addresses(other) && ports(one) == ports(other)
}

/// Whether nothing differs but sequence number, lengths, identification, checksums and PSH.
fn has_same_headers(one: &[u8], other: &[u8], segment: Segment) -> bool {
    let same = |from: usize, to: usize| one.get(from..to) == other.get(from..to);
    let ip = segment.ip_len;
    let network =
        if ip == IPV4_LEN { same(0, 2) && same(6, 10) && same(12, 20) } else { same(0, 4) && same(6, 40) };
    network
        && same(ip, ip + 4)
        && same(ip + 8, ip + 13)
        && same(ip + 14, ip + 16)
        && same(ip + 18, segment.header_len)
}

/// Whether the checksums of a TCP packet are right.
fn is_intact(packet: &[u8], ip_len: usize) -> bool {
    let (network, transport) = packet.split_at_checked(ip_len).unwrap_or_default();
    let header = if ip_len == IPV4_LEN { fold(tun_rs::checksum_no_fold(network, 0)) } else { 0xffff };
    header == 0xffff && fold(tun_rs::checksum_no_fold(transport, pseudo(network, transport.len()))) == 0xffff
}

/// The sum over the pseudo header of TCP (RFC 9293 section 3.1, RFC 8200 section 8.1).
fn pseudo(network: &[u8], transport_len: usize) -> u64 {
    tun_rs::checksum_no_fold(addresses(network), u64::from(TCP) + transport_len as u64)
}

/// Both addresses of a packet.
fn addresses(packet: &[u8]) -> &[u8] {
    let place = if packet.first().is_some_and(|octet| octet >> 4 == 4) { 12..20 } else { 8..40 };
    packet.get(place).unwrap_or_default()
}

/// Sixteen bits of a sum, with the carries added (RFC 1071).
fn fold(sum: u64) -> u16 {
    let mut sum = sum;
    while let (carry @ 1.., rest) = (sum >> 16, sum & 0xffff) {
        sum = carry + rest;
    }
    sum as u16
}

/// Makes the head of a run the header of the whole.
fn rewrite(packet: &mut [u8], segment: Segment, total: usize, push: bool) -> Option<()> {
    let ip = segment.ip_len;
    let mut set = |at: usize, value: u16| {
        packet.get_mut(at..at + 2)?.copy_from_slice(&value.to_be_bytes());
        Some(())
    };
    if ip == IPV4_LEN {
        set(2, u16::try_from(total).ok()?)?;
        set(10, 0)?;
    } else {
        set(4, u16::try_from(total - IPV6_LEN).ok()?)?;
    }
    if push {
        *packet.get_mut(ip + 13)? |= PSH;
    }
    let network = packet.get(..ip)?;
    let header = (ip == IPV4_LEN).then(|| !fold(tun_rs::checksum_no_fold(network, 0)));
    let transport = fold(pseudo(network, total - ip));
    if let Some(header) = header {
        packet.get_mut(10..12)?.copy_from_slice(&header.to_be_bytes());
    }
    packet.get_mut(ip + 16..ip + 18)?.copy_from_slice(&transport.to_be_bytes());
    Some(())
}

/// What tells the tunnel device how to cut the packet up again (`struct virtio_net_hdr`, in the host's octet order).
fn vnet_header(segment: Segment) -> [u8; VNET_LEN] {
    let mut header = [0; VNET_LEN];
    let fields = [segment.header_len, segment.payload, segment.ip_len, 16].map(|field| field as u16);
    let [kind_v4, kind_v6] = GSO_TCP;
    let kind = if segment.ip_len == IPV4_LEN { kind_v4 } else { kind_v6 };
    header[0] = NEEDS_CHECKSUM;
    header[1] = kind;
    for (place, field) in header[2..].chunks_exact_mut(2).zip(fields) {
        place.copy_from_slice(&field.to_ne_bytes());
    }
    header
}

#[cfg(test)]
#[path = "coalesce_tests.rs"]
mod tests;
