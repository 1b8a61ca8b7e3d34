//! The abuse summary and its schema.

use std::collections::BTreeSet;
use std::time::Duration;

use jvpn_abi::{BootTime, Endpoint, Reason};
use jvpn_controlplane::abuse::{Abuse, AbuseSettings, FORM};
use jvpn_controlplane::load::Address;
use serde_json::Value;

use super::read;
use super::schema::fits;

const SCHEMA: &str = "docs/abuse-summary.schema.json";

/// A summary with every reason that counts as abuse, from so many prefixes.
fn summary(prefixes: u32, sources: usize) -> String {
    let mut abuse = Abuse::new(AbuseSettings { interval: Duration::from_secs(1), sources });
    for n in 0..prefixes {
        let [_, a, b, c] = n.to_be_bytes();
        let v6 = Endpoint {
            addr: [0x20, 1, 0xd, 0xb8, a, b, c, 0xff, 255, 255, 255, 255, 255, 255, 255, 255],
            port: 1,
        };
        for address in [Address::Unproven, Address::Proven] {
            for reason in Reason::ALL {
                abuse.note(BootTime(5), v6, address, *reason);
            }
        }
    }
    let summary = abuse.poll(BootTime::from_millis(10_000)).unwrap();
    summary.encode(&"n".repeat(64), 1_700_000_000_000, u64::MAX)
}

/// R3.3, R6.3: what the hook sends fits the schema, and the schema has no reason that is never told.
#[test]
fn every_abuse_summary_fits_its_schema() {
    let schema: Value = serde_json::from_str(&read(SCHEMA)).unwrap();
    let text: Value = serde_json::from_str(&summary(3, 2)).unwrap();
    fits(&schema, &schema, &text).unwrap_or_else(|why| panic!("{text}: {why}"));
    assert_eq!(schema["properties"]["form"]["const"], FORM);
    let names = |object: &Value| object.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&schema["$defs"]["reasons"]["properties"]), names(&text["reasons"]));
    for part in ["totals", "others", "sources"] {
        let mut spoiled = text.clone();
        spoiled.as_object_mut().unwrap().remove(part);
        assert!(fits(&schema, &schema, &spoiled).is_err(), "{part}");
    }
    let mut spoiled = text.clone();
    spoiled["sources"][1]["extra"] = Value::Null;
    assert!(fits(&schema, &schema, &spoiled).is_err(), "a field that no source has");
    spoiled = text;
    spoiled["reasons"]["AUTH_FAIL"] = Value::from(-1);
    assert!(fits(&schema, &schema, &spoiled).is_err(), "a count below zero");
}

/// R3.3: the largest summary that can be asked for is one datagram of a Unix socket.
#[test]
fn the_largest_summary_fits_a_datagram() {
    let most = summary(5_000, 100).len();
    assert!(most < 65_536, "{most} octets");
}
