use super::hook::AbuseHook;
use super::*;
use std::os::unix::net::UnixDatagram;

const SETTINGS: AbuseSettings = AbuseSettings { interval: Duration::from_secs(10), sources: 3 };

fn at(ms: u64) -> BootTime {
    BootTime::from_millis(1_000_000 + ms)
}

fn host(prefix: u32, last: u8) -> Endpoint {
    Endpoint::v4((0x0a00_0000 | prefix << 8 | u32::from(last)).to_be_bytes(), 4_000)
}

fn read(summary: &Summary) -> Value {
    serde_json::from_str(&summary.encode("gw1", 500, 0)).unwrap()
}

/// R3.3: refusals are summed up by prefix and reason, the heaviest first, at most once per interval, never without cause.
#[test]
fn r3_3_refusals_are_summed_up_by_prefix() {
    let mut abuse = Abuse::new(SETTINGS);
    assert_eq!(abuse.deadline(), None);
    assert!(abuse.poll(at(100_000)).is_none());
    for n in 0..4 {
        for ms in 0..=n {
            abuse.note(at(u64::from(ms)), host(n, 7), Address::Unproven, Reason::AuthFail);
        }
    }
    abuse.note(at(10), host(3, 9), Address::Proven, Reason::RateLimited);
    abuse.note(at(10), host(2, 9), Address::Unproven, Reason::SessionNotFound);
    // That a node has no room says nothing about who asked.
    abuse.note(at(10), host(9, 9), Address::Unproven, Reason::Unavailable);
    assert_eq!(abuse.deadline(), Some(at(10_000)));
    assert!(abuse.poll(at(9_999)).is_none());
    let summary = read(&abuse.poll(at(10_000)).unwrap());
    let (ts_ms, since_ms) = (1_010_500, 1_000_500);
    let source = |prefix: &str, latest: &str, (count, proven): (u64, u64), reasons: Value| {
        let mut source = json!({ "prefix": prefix, "latest": latest, "count": count, "proven": proven });
        source["reasons"] = reasons;
        source
    };
    let expected = json!({
        "form": 1, "ts_ms": ts_ms, "since_ms": since_ms, "node_id": "gw1", "dropped": 0,
        "totals": { "rejections": 1, "rate_limits": 1, "violations": 10 },
        "reasons": { "AUTH_FAIL": 10, "RATE_LIMITED": 1, "SESSION_NOT_FOUND": 1 },
        "sources": [
            source("10.0.3.0/24", "10.0.3.9", (5, 1), json!({ "AUTH_FAIL": 4, "RATE_LIMITED": 1 })),
            source("10.0.2.0/24", "10.0.2.9", (4, 0), json!({ "AUTH_FAIL": 3, "SESSION_NOT_FOUND": 1 })),
            source("10.0.1.0/24", "10.0.1.7", (2, 0), json!({ "AUTH_FAIL": 2 })),
        ],
        "others": { "prefixes": 1, "count": 1 },
    });
    assert_eq!(summary, expected);
    assert_eq!(abuse.deadline(), None, "nothing since");
    abuse.note(at(10_001), host(1, 1), Address::Unproven, Reason::Malformed);
    assert_eq!(abuse.deadline(), Some(at(20_001)));
    assert_eq!(read(&abuse.poll(at(20_001)).unwrap())["totals"]["violations"], 1);
}

/// R3.3, I10: with any number of senders the memory is bounded, every refusal is counted, and who sends most is named,
/// also if he begins when the memory is full; the same notes give the same summary.
#[test]
fn r3_3_many_senders_cost_bounded_memory() {
    let run = || {
        let mut abuse = Abuse::new(SETTINGS);
        for n in 0..20_000 {
            abuse.note(at(1), host(n + 1, 1), Address::Unproven, Reason::RateLimited);
            if n > 5_000 && n % 4 == 0 {
                abuse.note(at(1), host(0, 1), Address::Unproven, Reason::AuthFail);
            }
        }
        assert_eq!((abuse.tracked(), abuse.order.len()), (TRACKED_MAX, TRACKED_MAX));
        abuse.poll(at(60_000)).unwrap().encode("gw1", 0, 0)
    };
    let (text, again) = (run(), run());
    assert_eq!(text, again);
    let summary: Value = serde_json::from_str(&text).unwrap();
    let heavy = &summary["sources"][0];
    assert_eq!((heavy["prefix"].as_str(), heavy["count"].as_u64()), (Some("10.0.0.0/24"), Some(3_749)));
    let named: u64 =
        summary["sources"].as_array().unwrap().iter().map(|s| s["count"].as_u64().unwrap()).sum();
    assert_eq!(named + summary["others"]["count"].as_u64().unwrap(), 23_749);
    assert!(text.len() < 4_096);
}

fn summary() -> Summary {
    let mut abuse = Abuse::new(SETTINGS);
    let v6 = Endpoint { addr: [0x20, 1, 0xd, 0xb8, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], port: 9 };
    abuse.note(at(0), v6, Address::Proven, Reason::Cooldown);
    abuse.poll(at(10_000)).unwrap()
}

#[test]
fn prefixes_are_written_as_operators_write_them() {
    assert_eq!(read(&summary())["sources"][0]["prefix"], "2001:db8:0:100::/56");
    assert_eq!(read(&summary())["sources"][0]["latest"], "2001:db8:0:102:304:506:708:90a");
}

/// R3.3: a receiver that is not there, hangs or ends costs summaries, never time; what was lost is told to the next.
#[test]
fn r3_3_a_dead_or_hanging_receiver_is_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("abuse.sock");
    let mut hook = AbuseHook::new(path.clone(), "gw1".into(), 0).unwrap();
    hook.send(&summary());
    assert_eq!(hook.counts(), (0, 1), "nobody is there");

    let hanging = UnixDatagram::bind(&path).unwrap();
    for _ in 0..2_000 {
        hook.send(&summary());
    }
    let (sent, dropped) = hook.counts();
    assert!(sent >= 1 && dropped > 1 && sent + dropped == 2_001, "{sent} {dropped}");
    let mut buffer = [0; 4_096];
    let len = hanging.recv(&mut buffer).unwrap();
    let first: Value = serde_json::from_slice(&buffer[..len]).unwrap();
    assert_eq!((first["dropped"].as_u64(), first["node_id"].as_str()), (Some(1), Some("gw1")));

    drop(hanging);
    std::fs::remove_file(&path).unwrap();
    hook.send(&summary());
    let next = UnixDatagram::bind(&path).unwrap();
    hook.send(&summary());
    let len = next.recv(&mut buffer).unwrap();
    let told: Value = serde_json::from_slice(&buffer[..len]).unwrap();
    assert_eq!(told["dropped"].as_u64(), Some(dropped), "those since the last that was taken");
}
