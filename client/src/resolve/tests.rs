//! Lookups on virtual time, against answers that are right, wrong, forged and garbled.

use super::message::{Kind, Verdict, answer, query};
use super::*;
use crate::agent::tests::Seeded;
use proptest::prelude::*;
use simple_dns::rdata::{A, AAAA, CNAME, RData};
use simple_dns::{CLASS, Name, Packet, RCODE, ResourceRecord};
use std::net::{Ipv4Addr, Ipv6Addr};

const HOST: &str = "vpn.example";
const NOW: BootTime = BootTime(1_000_000_000_000);

/// The answer to `question` with these records: name, TTL, data.
pub(crate) fn reply(question: &[u8], records: Vec<(&str, u32, RData<'static>)>) -> Vec<u8> {
    let mut packet = Packet::parse(question).unwrap().into_reply();
    for (name, ttl, data) in records {
        packet.answers.push(ResourceRecord::new(Name::new(name).unwrap(), CLASS::IN, ttl, data));
    }
    packet.build_bytes_vec_compressed().unwrap()
}

pub(crate) fn v4(text: &str) -> RData<'static> {
    RData::A(A { address: text.parse::<Ipv4Addr>().unwrap().to_bits() })
}

fn v6(text: &str) -> RData<'static> {
    RData::AAAA(AAAA { address: text.parse::<Ipv6Addr>().unwrap().to_bits() })
}

fn alias(to: &'static str) -> RData<'static> {
    RData::CNAME(CNAME(Name::new(to).unwrap()))
}

fn lookup(routes: usize) -> (Lookup, Vec<Transmit>) {
    let mut lookup = Lookup::new(HOST, routes, &mut Seeded::new(7), NOW).unwrap();
    let sent = sent(&mut lookup);
    (lookup, sent)
}

fn sent(lookup: &mut Lookup) -> Vec<Transmit> {
    std::iter::from_fn(|| lookup.poll_transmit()).collect()
}

/// Which kind a question asks for: its type is the third octet from behind.
fn asks(transmit: &Transmit) -> Kind {
    if transmit.payload[transmit.payload.len() - 3] == 1 { Kind::V4 } else { Kind::V6 }
}

/// R7.1: A and AAAA are asked over every route, aliases are followed, and the shortest life counts.
#[test]
fn r7_1_both_families_are_found_over_any_route() {
    let (mut lookup, questions) = lookup(2);
    assert_eq!(questions.len(), 4);
    for question in questions.iter().filter(|question| question.route == 1) {
        assert!(!lookup.is_over(NOW));
        let records = match asks(question) {
            Kind::V4 => vec![
                ("VPN.example", 300, alias("gw.example")),
                ("other.example", 1, v4("192.0.2.66")),
                ("gw.example", 60, v4("192.0.2.1")),
                ("gw.example", 90, v4("192.0.2.2")),
            ],
            Kind::V6 => vec![(HOST, 900, v6("2001:db8::1"))],
        };
        lookup.handle_answer(NOW, 1, &reply(&question.payload, records));
    }
    assert!(lookup.is_over(NOW));
    let found = lookup.found();
    assert_eq!(
        found.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
    );
    assert_eq!(found.ttl, Duration::from_secs(60));
}

/// One family is enough after a moment; without any answer it ends in bounded time and has asked thrice.
#[test]
fn a_lookup_ends() {
    let (mut one, questions) = lookup(1);
    let question = questions.iter().find(|question| asks(question) == Kind::V4).unwrap();
    one.handle_answer(NOW, 0, &reply(&question.payload, vec![(HOST, 0, v4("192.0.2.1"))]));
    assert!(!one.is_over(NOW));
    assert!(one.is_over(one.poll_timeout()));
    assert_eq!(one.found().ttl, TTL_MIN, "a life of 0 must not make a storm");

    let (mut silent, mut questions) = lookup(3);
    let mut now = NOW;
    while !silent.is_over(now) {
        assert!(silent.poll_timeout() > now, "time goes on");
        now = silent.poll_timeout();
        silent.handle_timeout(now);
        questions.extend(sent(&mut silent));
    }
    assert_eq!((questions.len(), now), (3 * 6, NOW.after(PATIENCE)));
    assert!(silent.found().addresses.is_empty());
    assert_eq!(lookup(1_000).1.len(), 2 * ROUTES_MAX);
}

/// A refusal ends nothing while another server may know; when all have refused it is over.
#[test]
fn refusals_are_outvoted() {
    let (mut lookup, questions) = lookup(2);
    let refuse = |question: &Transmit| {
        let mut packet = Packet::parse(&question.payload).unwrap().into_reply();
        *packet.rcode_mut() = RCODE::NameError;
        packet.build_bytes_vec().unwrap()
    };
    for (done, question) in questions.iter().enumerate() {
        assert!(!lookup.is_over(NOW), "after {done} refusals");
        lookup.handle_answer(NOW, question.route, &refuse(question));
    }
    assert!(lookup.is_over(NOW) && lookup.found().addresses.is_empty());
}

/// R1.8: what another route, another question or a guesser says is nothing.
#[test]
fn r1_8_foreign_answers_are_passed_over() {
    let (mut lookup, questions) = lookup(2);
    let question = questions.iter().find(|q| asks(q) == Kind::V4 && q.route == 0).unwrap();
    let good = reply(&question.payload, vec![(HOST, 60, v4("192.0.2.1"))]);
    lookup.handle_answer(NOW, 1, &good);
    for (at, what) in [(0, "identifier"), (2, "response bit"), (13, "name"), (5, "count")] {
        let mut forged = good.clone();
        forged[at] ^= 0x81;
        lookup.handle_answer(NOW, 0, &forged);
        assert!(lookup.found().addresses.is_empty(), "{what}");
    }
    lookup.handle_answer(NOW, 0, &good);
    assert_eq!(lookup.found().addresses.len(), 1);
    let loop_of_aliases = vec![(HOST, 1, alias("b.example")), ("b.example", 1, alias(HOST))];
    let id = u16::from_be_bytes([question.payload[0], question.payload[1]]);
    let bad = reply(&question.payload, loop_of_aliases);
    assert_eq!(answer(id, HOST, Kind::V4, &bad), Verdict::Nothing);
    let useless = reply(&question.payload, vec![(HOST, 1, v4("0.0.0.0")), (HOST, 1, v4("224.0.0.1"))]);
    assert_eq!(answer(id, HOST, Kind::V4, &useless), Verdict::Nothing);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// R1.8: no datagram makes it panic or allocate without bound.
    #[test]
    fn garbage_is_no_panic(datagram in proptest::collection::vec(any::<u8>(), 0..600)) {
        let id = datagram.get(..2).map_or(0, |id| u16::from_be_bytes([id[0], id[1]]));
        let _verdict = answer(id, HOST, Kind::V4, &datagram);
    }

    /// R1.8: nor does an answer with some octets turned over, which gets past the first looks.
    #[test]
    fn damaged_answers_are_no_panic(damage in proptest::collection::vec((12usize..200, any::<u8>()), 1..6), cut in 0usize..200) {
        let question = query(7, HOST, Kind::V6).unwrap();
        let records = vec![(HOST, 60, alias("gw.example")), ("gw.example", 60, v6("2001:db8::1")), (HOST, 5, v4("192.0.2.1"))];
        let mut datagram = reply(&question, records);
        for (at, octet) in damage {
            if let Some(place) = datagram.get_mut(at) {
                *place = octet;
            }
        }
        let kept = datagram.len().saturating_sub(cut / 4);
        let _verdict = answer(7, HOST, Kind::V6, &datagram[..kept]);
    }
}
