//! The watchers can fail: each sees the one thing that it is there for.

use super::*;
use jvpn_abi::Reason;
use jvpn_abi::tables::{InstallEntry, InstallOp};
use jvpn_abi::wire::reattach::COOKIE_AT;
use jvpn_abi::wire::{DataHeader, SlotId};
use jvpn_controlplane::audit::{AuditEvent, AuditKind, Line};
use jvpn_session::StateVersion;

const SESSION: SessionId = SessionId([7; 16]);
const CLIENT: Endpoint = Endpoint::v4([203, 0, 113, 9], 9);

fn observer() -> Observer {
    Observer::new(2, &Policy::default(), BootTime(0))
}

fn slot(index: u32) -> SlotId {
    SlotId::new(index, 1).unwrap()
}

fn data(index: u32, counter: u64) -> Vec<u8> {
    let header = DataHeader { key_phase: false, shard: 0, slot: slot(index), counter };
    let mut datagram = header.encode().to_vec();
    datagram.resize(64, 0);
    datagram
}

fn entry(index: u32, key: u8) -> InstallEntry {
    InstallEntry {
        op: InstallOp::Install as u32,
        slot: slot(index).0,
        open_key: [key; 32],
        seal_key: [key + 100; 32],
        ..bytemuck::Zeroable::zeroed()
    }
}

fn line(version: u64, reason: Reason, kind: AuditKind) -> Line {
    let session = Some((SESSION, StateVersion(version)));
    AuditEvent { at: BootTime(version), session, reason: Some(reason), kind }.into()
}

fn change(version: u64, previous: Option<State>, new: State) -> Line {
    line(version, Reason::HandshakeStart, AuditKind::StateChange { previous, new })
}

fn born() -> Observer {
    let mut observer = observer();
    let created = AuditKind::SessionCreated { peer: String::new(), policy: String::new() };
    observer.audit(&line(0, Reason::HandshakeStart, created)).unwrap();
    observer.audit(&change(0, None, State::Birth)).unwrap();
    observer
}

fn broken(outcome: Result<(), Violation>) -> &'static str {
    outcome.expect_err("a broken invariant was not seen").invariant
}

/// I11: a counter twice, either way; a slot twice; a key in two slots.
#[test]
fn counters_slots_and_keys_that_come_again() {
    let mut observer = observer();
    let path = PathId { client: 0, uplink: UplinkId(0) };
    observer.installs(&entry(1, 1)).unwrap();
    observer.sealed_up(path, &data(1, 5)).unwrap();
    assert_eq!(broken(observer.sealed_up(path, &data(1, 5))), "I11");
    observer.proven(CLIENT);
    observer.gateway_sends(CLIENT, &data(1, 0)).unwrap();
    assert_eq!(broken(observer.gateway_sends(CLIENT, &data(1, 0))), "I11");
    assert_eq!(broken(observer.installs(&entry(1, 2))), "I11");
    assert_eq!(broken(observer.installs(&entry(2, 1))), "I11");
}

/// R1.1, I1: a slot over two paths; one that the client has left; one that the gateway has left.
#[test]
fn two_bindings_at_once() {
    let mut observer = observer();
    let path = |uplink| PathId { client: 0, uplink: UplinkId(uplink) };
    observer.sealed_up(path(0), &data(1, 0)).unwrap();
    assert_eq!(broken(observer.sealed_up(path(1), &data(1, 1))), "R1.1");
    observer.sealed_up(path(1), &data(2, 0)).unwrap();
    assert_eq!(broken(observer.sealed_up(path(0), &data(1, 2))), "R1.1");
    observer.binds(slot(1), Some(SESSION)).unwrap();
    observer.used(slot(1)).unwrap();
    observer.binds(slot(2), Some(SESSION)).unwrap();
    assert_eq!(broken(observer.used(slot(1))), "I1");
    assert_eq!(broken(observer.binds(slot(1), Some(SESSION))), "I1");
}

/// I1: a word that nobody owns; a confirmed binding in a state that has none.
#[test]
fn words_that_fit_no_state() {
    let observer = born();
    observer.bound(slot(1), Confirmation::Awaited, Some(SESSION)).unwrap();
    assert_eq!(broken(observer.bound(slot(1), Confirmation::Given, Some(SESSION))), "I1");
    assert_eq!(broken(observer.bound(slot(2), Confirmation::Awaited, None)), "I1");
}

/// I3, I4, I8: a version left out or taken twice, a state out of the chain, life after the end.
#[test]
fn logs_that_do_not_fit_together() {
    let step = |version, previous, new| born().audit(&change(version, Some(previous), new));
    step(1, State::Birth, State::Attached).unwrap();
    assert_eq!(broken(step(2, State::Birth, State::Attached)), "I3");
    assert_eq!(broken(step(0, State::Birth, State::Attached)), "I3");
    assert_eq!(broken(step(1, State::Recovering, State::Attached)), "I8");
    let mut observer = born();
    observer.audit(&change(1, Some(State::Birth), State::Terminated)).unwrap();
    assert_eq!(broken(observer.audit(&change(2, Some(State::Terminated), State::Birth))), "I4");
}

/// I6, I7: a birth without an end; a ninth switch in a minute.
#[test]
fn bounds_of_time_and_number() {
    let mut observer = born();
    observer.set_now(BootTime::from_millis(20_000));
    observer.clocks(&|_| false).unwrap();
    observer.set_now(BootTime::from_millis(200_000));
    assert_eq!(broken(observer.clocks(&|id| id == SESSION)), "I6");
    let mut observer = born();
    observer.audit(&change(1, Some(State::Birth), State::Attached)).unwrap();
    let switch = AuditKind::TransportSwitch { previous: None, new: CLIENT, switch_latency_ms: 0, epoch: 2 };
    let switch = line(1, Reason::TransportSwitchOk, switch);
    for _ in 0..Policy::default().max_switches_per_min {
        observer.audit(&switch).unwrap();
    }
    assert_eq!(broken(observer.audit(&switch)), "I7");
}

/// R3.2: more octets to a stranger than from him.
#[test]
fn amplification() {
    let mut observer = observer();
    observer.gateway_receives(CLIENT, &[0x20; 64]);
    observer.gateway_sends(CLIENT, &[0x25; 64]).unwrap();
    assert_eq!(broken(observer.gateway_sends(CLIENT, &[0x25; 1])), "R3.2");
}

/// I1, R2.2: DATA to an endpoint that has shown neither a frame nor what went there; a cookie of elsewhere is none.
#[test]
fn data_to_whom_nobody_has_proven() {
    let request = |cookie: u8| {
        let mut request = [0; 256];
        request[0] = MsgType::ReattachRequest.octet();
        request[COOKIE_AT..COOKIE_AT + 16].fill(cookie);
        request
    };
    let mut echo = [1; 44];
    echo[0] = MsgType::PathEcho.octet();
    for (brought, shown, proven) in [(1, 1, true), (1, 2, false), (1, 0, false)] {
        let mut observer = observer();
        observer.gateway_receives(CLIENT, &[0x2c; 44]);
        echo[12..28].fill(brought);
        observer.gateway_sends(CLIENT, &echo).unwrap();
        observer.gateway_receives(CLIENT, &request(shown));
        let sent = observer.gateway_sends(CLIENT, &data(1, 0));
        assert_eq!(sent.is_ok(), proven, "{brought} {shown}");
        sent.err().inspect(|violation| assert_eq!(violation.invariant, "I1"));
    }
}

/// R2.4: a packet that reaches the server twice.
#[test]
fn packets_that_come_twice() {
    let mut observer = observer();
    let source = Ipv4Addr::new(10, 77, 0, 2);
    observer.set_inner(0, source);
    let packet = Numbered { source, destination: Ipv4Addr::new(192, 168, 50, 10), number: 4 }.encode();
    observer.server_receives(&packet).unwrap();
    assert_eq!(broken(observer.server_receives(&packet).map(|_| ())), "R2.4");
}
