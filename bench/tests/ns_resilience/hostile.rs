//! Datagrams that nobody should send, at both ends: from a stranger's address, and with the address of the
//! other end.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use jvpn_abi::PROTOCOL_VERSION;
use jvpn_abi::wire::control::ControlHeader;
use jvpn_abi::wire::data::SlotId;
use jvpn_abi::wire::handshake::INIT_LEN;
use jvpn_abi::wire::reattach::REQUEST_LEN;
use jvpn_abi::wire::reset::{RESET_LEN, Reset, ResetKind};
use jvpn_abi::wire::{DATA_OVERHEAD, DataHeader, MsgType};
use jvpn_bench::deployment::Role;
use jvpn_crypto::handshake::initiate;
use jvpn_crypto::keys::{PresharedKey, PublicKey, StaticSecret};
use jvpn_crypto::rng::OsRandom;
use jvpn_rig::attacker::Attacker;
use jvpn_rig::capture::{Capture, Direction, Keep, Match, Port};
use jvpn_rig::frame::Datagram;
use jvpn_rig::hold::outer_source;
use jvpn_rig::inject::Injector;
use jvpn_rig::topology::GATEWAY_WAN;
use jvpn_rig::{TUNNEL_PORT, Uplink, wait};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::Value;

use crate::lab::{Lab, PATIENCE, worker_counter};
use crate::wire::{Wiretap, payloads};

/// What is random here is the same in every run.
const SEED: u64 = 0x6a76_706e;

const TYPES: [MsgType; 12] = [
    MsgType::Data,
    MsgType::UnboundSample,
    MsgType::HandshakeInit,
    MsgType::HandshakeResponse,
    MsgType::Retry,
    MsgType::ReattachRequest,
    MsgType::ReattachAck,
    MsgType::ReattachReject,
    MsgType::Control,
    MsgType::Reset,
    MsgType::PathProbe,
    MsgType::PathEcho,
];

/// Largest UDP payload that a link with an MTU of 1,500 takes in one piece.
const LARGEST_WHOLE: usize = 1_472;
/// Payloads that arrive in fragments, up to the largest that UDP over IPv4 has.
const FRAGMENTED: [usize; 3] = [LARGEST_WHOLE + 1, 9_000, 65_507];
/// Genuine frames that are replayed, cut and changed.
const GENUINE: u64 = 20;

/// Makes hostile datagrams.
struct Forge {
    rng: ChaCha20Rng,
    /// Slot of the living binding.
    slot: SlotId,
}

impl Forge {
    fn new(slot: u64) -> Self {
        Self { rng: ChaCha20Rng::seed_from_u64(SEED), slot: SlotId(u32::try_from(slot).unwrap()) }
    }

    fn noise(&mut self, len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        self.rng.fill_bytes(&mut octets);
        octets
    }

    /// Noise behind what a header of this type begins with.
    fn of_type(&mut self, kind: MsgType, version: u8, len: usize) -> Vec<u8> {
        let mut datagram = self.noise(len);
        for (place, octet) in datagram.iter_mut().zip([kind.octet(), version, 0, 0]) {
            *place = octet;
        }
        datagram
    }

    /// Every type at every length that its header may end at, and every first octet.
    fn framings(&mut self) -> Vec<Vec<u8>> {
        let mut all: Vec<_> = (0..=64)
            .flat_map(|len| TYPES.map(|kind| (kind, len)))
            .map(|(kind, len)| self.of_type(kind, PROTOCOL_VERSION, len))
            .collect();
        for first in 0..=u8::MAX {
            let mut datagram = self.noise(100);
            datagram[0] = first;
            all.push(datagram);
        }
        all
    }

    /// Each type in a length that is right for it, in versions that nobody speaks, and in the right one.
    fn versions(&mut self) -> Vec<Vec<u8>> {
        let lengths = [(MsgType::HandshakeInit, INIT_LEN), (MsgType::ReattachRequest, REQUEST_LEN)];
        let all = TYPES.map(|kind| (kind, 100)).into_iter().chain(lengths);
        let versions = [0, PROTOCOL_VERSION + 1, u8::MAX, PROTOCOL_VERSION];
        all.flat_map(|(kind, len)| versions.map(|version| (kind, version, len)))
            .map(|(kind, version, len)| self.of_type(kind, version, len))
            .collect()
    }

    /// Well-framed DATA, CONTROL and RESET for the living slot and for others, without the keys.
    fn without_keys(&mut self) -> Vec<Vec<u8>> {
        let other = |slot: SlotId| SlotId::new(slot.index(), slot.serial() + 1).unwrap();
        let beyond = SlotId::new(jvpn_abi::wire::data::MAX_SLOTS - 1, 0).unwrap();
        let mut all = Vec::new();
        for slot in [self.slot, other(self.slot), beyond] {
            for counter in [0, 1, 1 << 20, u64::MAX] {
                let header = DataHeader { key_phase: false, shard: 0, slot, counter };
                all.push([header.encode().to_vec(), self.noise(84)].concat());
                let header = DataHeader { key_phase: true, ..header };
                all.push([header.encode().to_vec(), self.noise(84)].concat());
                let header = ControlHeader { slot, incarnation: 0, counter };
                all.push([header.encode().to_vec(), self.noise(60)].concat());
            }
            for (kind, value) in [
                (ResetKind::Slot, Reset::slot_value(slot)),
                (ResetKind::Handle, self.noise(8).try_into().unwrap()),
            ] {
                let token = self.noise(16).try_into().unwrap();
                all.push(Reset { kind, value, token }.encode().to_vec());
            }
        }
        all
    }

    fn random(&mut self, count: usize) -> Vec<Vec<u8>> {
        (0..count)
            .map(|_| {
                let len = self.rng.next_u32() as usize % LARGEST_WHOLE + 1;
                self.noise(len)
            })
            .collect()
    }

    fn everything(&mut self) -> Vec<Vec<u8>> {
        let framings = self.framings();
        let versions = self.versions();
        let without_keys = self.without_keys();
        let random = self.random(1_000);
        let large = TYPES.map(|kind| self.of_type(kind, PROTOCOL_VERSION, LARGEST_WHOLE));
        [framings, versions, without_keys, random, large.to_vec()].concat()
    }

    /// Genuine datagrams, each cut at some place, and each with one octet changed.
    fn damaged(&mut self, genuine: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for datagram in genuine {
            let at = self.rng.next_u32() as usize % datagram.len();
            all.push(datagram[..at].to_vec());
            let mut changed = datagram.clone();
            changed[at] ^= 1 << (self.rng.next_u32() % 8);
            all.push(changed);
        }
        all
    }
}

/// An initiation for `gateway` by somebody who has a key, but not one that is known.
fn strangers_init(gateway: &PublicKey) -> Vec<u8> {
    let mut random = OsRandom::checked().unwrap();
    let stranger = StaticSecret::generate(&mut random).unwrap();
    let (datagram, _) = initiate(&mut random, &stranger, gateway, &PresharedKey::default(), 1, b"").unwrap();
    datagram
}

/// The gateway's key, as the client's configuration names it.
fn gateway_key(lab: &Lab) -> PublicKey {
    let path = lab.places.config_dir.join(Role::Client.config_file());
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find(|line| line.starts_with("public_key")).unwrap();
    line.split('"').nth(1).unwrap().parse().unwrap()
}

type Counts = BTreeMap<String, u64>;

/// All counters of both processes of the gateway by name; those of XDP and of the workers have prefixes.
fn gateway_counters(lab: &Lab) -> Counts {
    let (control, data) = (lab.control_plane_status(), lab.data_plane_status());
    let named = |counters: &Value, prefix: &str| -> Counts {
        let counters = counters.as_object().cloned().unwrap_or_default();
        counters
            .into_iter()
            .filter_map(|(name, count)| Some((format!("{prefix}{name}"), count.as_u64()?)))
            .collect()
    };
    let mut all = named(&control["counters"], "");
    all.extend(named(&data["xdp_counters"], "xdp."));
    for name in ["replayed", "open_failed", "too_short"] {
        all.insert(format!("worker.{name}"), worker_counter(&data, name));
    }
    all
}

fn client_counters(lab: &Lab) -> Counts {
    let counters = lab.client_status()["counters"].as_object().cloned().unwrap_or_default();
    counters.into_iter().filter_map(|(name, count)| Some((name, count.as_u64()?))).collect()
}

fn assert_rose(before: &Counts, after: &Counts, names: &[&str]) {
    let of = |counts: &Counts, name: &str| counts.get(name).copied().unwrap_or_default();
    for name in names {
        assert!(of(after, name) > of(before, name), "{name} did not rise: {before:?} -> {after:?}");
    }
}

/// R1.4, R2.3, R2.4, R3.2: whatever a stranger sends to the gateway is counted; nothing crashes, nothing
/// changes, and he never gets more octets than he sent, nor an answer longer than a question.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r2_4_a_stranger_changes_nothing_and_is_never_amplified() {
    let mut lab = Lab::prepare();
    let first = |kind: MsgType| {
        let wanted = Match::arriving(TUNNEL_PORT, Some(kind.octet()));
        Capture::start(lab.rig.router(), "rA", wanted, Keep::First(GENUINE as usize)).unwrap()
    };
    let (inits, data) = (first(MsgType::HandshakeInit), first(MsgType::Data));
    lab.launch_all();
    let heartbeat = lab.heartbeat();
    data.wait_for("genuine DATA", GENUINE, PATIENCE, &lab.interrupt).unwrap();
    let genuine = [payloads(&inits.frames()), payloads(&data.frames())].concat();
    let before = (lab.snapshot(), gateway_counters(&lab), lab.log.end());

    let questions = Match::arriving(TUNNEL_PORT, None);
    let answers = Match { direction: Direction::Any, port: Port::Source(TUNNEL_PORT), first_octet: None };
    let questions = Capture::start(lab.rig.router(), "rX", questions, Keep::All).unwrap();
    let answers = Capture::start(lab.rig.router(), "rX", answers, Keep::All).unwrap();
    let attacker = Attacker::new(&lab.rig).unwrap();
    let mut forge = Forge::new(before.0.slot);
    let mut hostile = forge.everything();
    hostile.extend(forge.damaged(&genuine));
    hostile.extend(genuine);
    for (kind, len) in TYPES.into_iter().flat_map(|kind| FRAGMENTED.map(|len| (kind, len))) {
        hostile.push(forge.of_type(kind, PROTOCOL_VERSION, len));
    }
    hostile.iter().for_each(|datagram| attacker.send(datagram).unwrap());

    // Sent until they get through the edge limits: whoever floods waits. Counted in order, so everything that
    // was passed before has been seen by then.
    let key = gateway_key(&lab);
    let replayed_init = payloads(&inits.frames()).swap_remove(0);
    let last = [
        "handshake_refused.POLICY_DENY",
        "handshake_refused.REPLAY_DETECTED",
        "handshake_mac_wrong",
        "reattach_rejected.SESSION_NOT_FOUND",
    ];
    let of = |counts: &Counts| last.map(|name| counts.get(name).copied().unwrap_or_default());
    wait::until("the last datagrams are refused and counted", PATIENCE, &lab.interrupt, || {
        attacker.send(&strangers_init(&key))?;
        attacker.send(&replayed_init)?;
        attacker.send(&strangers_init(&PublicKey([9; 32])))?;
        attacker.send(&forge.of_type(MsgType::ReattachRequest, PROTOCOL_VERSION, REQUEST_LEN))?;
        let risen = of(&gateway_counters(&lab)).into_iter().zip(of(&before.1)).all(|(now, was)| now > was);
        Ok(risen.then_some(()))
    })
    .unwrap();
    lab.await_replies(&heartbeat, 50);

    assert_eq!(lab.snapshot(), before.0);
    let moved = lab.log.since(before.2).into_iter().find(|event| event.is_audit("STATE_CHANGE"));
    assert_eq!(moved, None);
    let expected = [
        "xdp.unknown_type",
        "xdp.too_short",
        "xdp.slot_unbound",
        "xdp.slot_out_of_range",
        "xdp.endpoint_mismatch",
        "sample_auth_fail",
        "sample_replayed",
        "control_refused",
        "control_unknown_slot",
        "reattach_rejected.MALFORMED",
    ];
    assert_rose(&before.1, &gateway_counters(&lab), &expected);
    assert_not_amplified(&questions, &answers);
    assert_eq!(attacker.answers().types.iter().find(|kind| **kind != MsgType::Reset.octet()), None);
    drop(heartbeat);
    lab.finish();
}

/// Every answer is a RESET, which is shorter than the shortest datagram that causes one, and there are no
/// more answers than such datagrams.
fn assert_not_amplified(questions: &Capture, answers: &Capture) {
    questions.complete().unwrap();
    answers.complete().unwrap();
    let (questions, answers) = (payloads(&questions.frames()), payloads(&answers.frames()));
    let octets = |datagrams: &[Vec<u8>]| datagrams.iter().map(Vec::len).sum::<usize>();
    let (asked, answered) = (octets(&questions), octets(&answers));
    eprintln!(
        "  {} questions, {asked} octets; {} answers, {answered} octets",
        questions.len(),
        answers.len()
    );
    assert!(!answers.is_empty(), "nothing was answered, so nothing is shown");
    assert!(answered <= asked, "{answered} octets for {asked}");
    let may_be_answered = questions.iter().filter(|question| question.len() >= DATA_OVERHEAD).count();
    assert!(answers.len() <= may_be_answered);
    for answer in answers {
        assert_eq!((answer.len(), answer[0]), (RESET_LEN, MsgType::Reset.octet()));
    }
}

/// R1.4, R2.4: the same with the client's own address, by somebody on the path who lacks the keys.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r2_4_the_clients_address_alone_opens_nothing() {
    let mut lab = Lab::prepare();
    let data = Match::arriving(TUNNEL_PORT, Some(MsgType::Data.octet()));
    let data = Capture::start(lab.rig.router(), "rA", data, Keep::First(GENUINE as usize)).unwrap();
    lab.launch_all();
    let heartbeat = lab.heartbeat();
    data.wait_for("genuine DATA", GENUINE, PATIENCE, &lab.interrupt).unwrap();
    let source = outer_source(&lab.rig, Uplink::A, &lab.interrupt).unwrap();
    let before = (lab.snapshot(), gateway_counters(&lab), lab.log.end());
    let injector = Injector::new(&lab.rig).unwrap();
    let mut forge = Forge::new(before.0.slot);
    let genuine = payloads(&data.frames());
    let hostile = [forge.everything(), forge.damaged(&genuine), genuine].concat();
    hostile.iter().for_each(|datagram| injector.send(source, datagram).unwrap());
    lab.await_replies(&heartbeat, 50);
    assert_eq!(lab.snapshot(), before.0);
    let moved = lab.log.since(before.2).into_iter().find(|event| event.is_audit("STATE_CHANGE"));
    assert_eq!(moved, None);
    let expected = [
        "xdp.unknown_type",
        "xdp.too_short",
        "xdp.slot_unbound",
        "worker.open_failed",
        "worker.replayed",
        "control_refused",
    ];
    assert_rose(&before.1, &gateway_counters(&lab), &expected);
    drop(heartbeat);
    lab.finish();
}

/// R1.4, R2.4: the gateway's address alone moves no client: forged, cut, replayed and foreign datagrams are
/// counted, and the client neither recovers nor asks for anything.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r2_4_the_gateways_address_alone_moves_no_client() {
    let lab = Lab::attached();
    let heartbeat = lab.heartbeat();
    let tap = Wiretap::start(&lab.rig, Uplink::A);
    for capture in [&tap.to_gateway, &tap.to_client] {
        capture.wait_for("genuine DATA", GENUINE, PATIENCE, &lab.interrupt).unwrap();
    }
    let frames = tap.to_gateway.frames();
    let client: SocketAddrV4 = Datagram::parse(&frames[0].frame).unwrap().source;
    let genuine = payloads(&tap.to_client.frames());
    drop(tap);
    let before = (lab.snapshot(), client_counters(&lab), lab.log.end());
    let injector = Injector::towards_client(&lab.rig, Uplink::A).unwrap();
    let gateway = SocketAddrV4::new(GATEWAY_WAN, TUNNEL_PORT);
    let mut forge = Forge::new(before.0.slot);
    let from_a_client = payloads(&frames);
    let hostile = [forge.everything(), forge.damaged(&genuine), genuine, from_a_client].concat();
    for batch in hostile.chunks(64) {
        // Paced by traffic, so that the socket's buffer holds them all.
        batch.iter().for_each(|datagram| injector.send_to(gateway, client, datagram).unwrap());
        lab.await_replies(&heartbeat, 2);
    }
    lab.await_replies(&heartbeat, 50);
    assert_eq!(lab.snapshot(), before.0);
    let after = client_counters(&lab);
    for unchanged in ["handshakes_sent", "requests_sent", "sessions", "resets", "control_received"] {
        assert_eq!(after[unchanged], before.1[unchanged], "{unchanged}");
    }
    assert_eq!(lab.client_status()["recoveries"], 0);
    assert_eq!(lab.log.since(before.2), [], "nobody has anything to tell");
    let expected = [
        "malformed",
        "wrong_slot",
        "open_failed",
        "replayed",
        "unauthentic",
        "stale_answers",
        "reset_refused",
    ];
    assert_rose(&before.1, &after, &expected);
    drop(heartbeat);
    lab.finish();
}
