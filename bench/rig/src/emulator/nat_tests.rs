use super::*;
use crate::frame::Datagram;

fn frame(source: &str, destination: &str) -> Vec<u8> {
    let [source, destination] = [source, destination].map(|text| text.parse().unwrap());
    Datagram { source, destination, payload: b"x" }.to_frame([2; 6], [4; 6]).unwrap()
}

fn nat(ttl: u64, external: &[&str]) -> Nat {
    let external = external.iter().map(|text| text.parse().unwrap()).collect();
    Nat::new(NatSettings { ttl: Duration::from_secs(ttl), external }, 5)
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn out(nat: &mut Nat, now: Duration, source: &str) -> SocketAddr {
    let mut frame = frame(source, "198.51.100.1:4500");
    assert_eq!(nat.outward(now, &mut frame), Passage::Passes);
    packet::flow(&frame).unwrap().source
}

fn back(nat: &mut Nat, now: Duration, to: SocketAddr) -> Option<SocketAddr> {
    let mut frame = frame("198.51.100.1:4500", &to.to_string());
    (nat.inward(now, &mut frame) == Passage::Passes).then(|| packet::flow(&frame).unwrap().destination)
}

#[test]
fn r7_1_mappings_hold_expire_and_are_forgotten() {
    let mut nat = nat(30, &[]);
    let inner: SocketAddr = "10.0.1.2:40000".parse().unwrap();
    let first = out(&mut nat, s(0), "10.0.1.2:40000");
    assert_eq!((first.ip(), out(&mut nat, s(20), "10.0.1.2:40000")), (inner.ip(), first));
    assert_ne!(first.port(), 40_000);
    assert_ne!(out(&mut nat, s(20), "10.0.1.2:40001"), first, "a flow, a port");
    assert_eq!(back(&mut nat, s(45), first), Some(inner), "used at 20 s, so it holds until 50 s");
    assert_eq!(back(&mut nat, s(51), first), None, "packets from outside do not prolong it");
    let second = out(&mut nat, s(52), "10.0.1.2:40000");
    assert_ne!(second, first);
    nat.rebind();
    assert_eq!(back(&mut nat, s(53), second), None);
    let third = out(&mut nat, s(53), "10.0.1.2:40000");
    assert!(third != second && third != first);
    let NatCounters { mapped, expired, forgotten, unmapped } = nat.counters();
    assert_eq!((mapped, expired, forgotten, unmapped), (4, 1, 2, 2));
}

#[test]
fn external_addresses_take_turns_and_strangers_stay_outside() {
    let mut nat = nat(30, &["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    let ip = |nat: &mut Nat| out(nat, s(0), "10.0.1.2:40000").ip().to_string();
    assert_eq!(ip(&mut nat), "192.0.2.1");
    nat.rebind();
    assert_eq!(ip(&mut nat), "192.0.2.2");
    assert_eq!(back(&mut nat, s(1), "192.0.2.2:19999".parse().unwrap()), None);
}
