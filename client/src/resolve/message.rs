//! DNS messages (RFC 1035): one question out, the addresses of one answer in.

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Most records of an answer that are read: an honest one of 512 octets has at most 40.
const RECORDS_MAX: u16 = 64;
/// Most aliases in a row that are followed.
const ALIASES_MAX: usize = 8;

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A.
    V4 = 0,
    /// AAAA.
    V6 = 1,
}

impl Kind {
    const fn record(self) -> TYPE {
        match self {
            Self::V4 => TYPE::A,
            Self::V6 => TYPE::AAAA,
        }
    }
}

/// What a datagram says to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does not answer the question, or not in a way that can be read.
    Foreign,
    /// There is no such address, or the server does not say.
    Nothing,
    /// Addresses, at least one.
    Addresses {
        /// In the order of the answer.
        addresses: Vec<IpAddr>,
        /// The shortest life among the records that led to them.
        ttl: Duration,
    },
}

/// The question for the addresses of `host`; `None` if that is no name.
#[must_use]
pub fn query(id: u16, host: &str, kind: Kind) -> Option<Vec<u8>> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(host).ok()?;
    packet.questions.push(Question::new(name, QTYPE::TYPE(kind.record()), QCLASS::CLASS(CLASS::IN), false));
    packet.build_bytes_vec().ok()
}

/// What `datagram` says to the question that [`query`] made.
#[must_use]
pub fn answer(id: u16, host: &str, kind: Kind, datagram: &[u8]) -> Verdict {
    // Before anything is allocated for it: who answers, and how much it claims to hold.
    let count = |at| jvpn_abi::wire::be16(datagram, at).unwrap_or(u16::MAX);
    let claimed = [6, 8, 10].map(count);
    if count(0) != id || count(4) != 1 || claimed.iter().any(|claim| *claim > RECORDS_MAX) {
        return Verdict::Foreign;
    }
    let Ok(packet) = Packet::parse(datagram) else { return Verdict::Foreign };
    let asked = |question: &Question<'_>| {
        is_same(&question.qname, host) && question.qtype == QTYPE::TYPE(kind.record())
    };
    if !packet.has_flags(PacketFlag::RESPONSE) || !packet.questions.iter().all(asked) {
        return Verdict::Foreign;
    }
    if packet.rcode() != RCODE::NoError {
        return Verdict::Nothing;
    }
    let mut name = host.to_owned();
    let mut ttl = u32::MAX;
    for _ in 0..=ALIASES_MAX {
        let mut addresses = Vec::new();
        let mut alias = None;
        for record in packet.answers.iter().filter(|r| r.class == CLASS::IN && is_same(&r.name, &name)) {
            if let (RData::A(a), Kind::V4) = (&record.rdata, kind) {
                addresses.push(IpAddr::from(Ipv4Addr::from_bits(a.address)));
            } else if let (RData::AAAA(a), Kind::V6) = (&record.rdata, kind) {
                addresses.push(IpAddr::from(Ipv6Addr::from_bits(a.address)));
            } else if let RData::CNAME(to) = &record.rdata {
                alias = Some(to.0.to_string());
            } else {
                continue;
            }
            ttl = ttl.min(record.ttl);
        }
        addresses.retain(|address| !address.is_unspecified() && !address.is_multicast());
        if !addresses.is_empty() {
            return Verdict::Addresses { addresses, ttl: Duration::from_secs(ttl.into()) };
        }
        let Some(alias) = alias else { break };
        name = alias;
    }
    Verdict::Nothing
}

/// Names do not differ by case (RFC 4343).
fn is_same(name: &Name<'_>, host: &str) -> bool {
    name.to_string().eq_ignore_ascii_case(host)
}
