//! What the edge refused, and what it is told of handles.

use crate::rig::{PATH_B, PATH_C, Rig};
use jvpn_abi::{Endpoint, Reason};
use jvpn_controlplane::abuse::AbuseSettings;
use jvpn_controlplane::audit::{AuditKind, LimitScope};
use jvpn_controlplane::edge::EdgeRefusals;
use jvpn_controlplane::engine::{Counter, HandleChange};
use jvpn_session::Policy;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

fn told(rig: &Rig) -> Vec<u64> {
    let edge = AuditKind::RateLimit { scope: LimitScope::Edge };
    let lines = rig.lines.iter().filter(|line| line.event.kind == edge);
    lines
        .map(|line| {
            assert_eq!((line.event.session, line.event.reason), (None, Some(Reason::RateLimited)));
            line.suppressed.unwrap()
        })
        .collect()
}

/// R3.1, R6.1: what XDP refused is a RATE_LIMIT_EVENT of scope edge, summarised, and no refusal is missing from the sum; the abuse summary names the senders.
#[test]
fn r6_1_refusals_of_the_edge_are_on_record_and_in_the_summary() {
    let mut rig = Rig::new(Policy::default());
    rig.engine.keep_abuse(AbuseSettings { interval: Duration::from_secs(5), sources: 2 });
    let source = |last: u8, times: u64| (Endpoint::v4([198, 18, last, 9], 0).addr, times);
    let sources = BTreeMap::from([source(1, 700), source(2, 200), source(3, 100)]);
    let mut refused = 0;
    for _ in 0..30 {
        let refusals = EdgeRefusals { total: 1_000, sources: sources.clone() };
        rig.engine.handle_edge(rig.now, &refusals);
        rig.pump();
        refused += 1_000;
        rig.wait(Duration::from_millis(100));
    }
    rig.wait(Duration::from_secs(5));
    let lines = told(&rig);
    assert!((3..=8).contains(&lines.len()), "{lines:?}");
    assert_eq!(lines.iter().map(|suppressed| 1 + suppressed).sum::<u64>(), refused);
    assert_eq!(rig.counter(Counter::EdgeRefused), refused);
    let summary: Value = serde_json::from_str(&rig.engine.poll_abuse().unwrap().encode("gw1", 0, 0)).unwrap();
    assert_eq!(summary["reasons"]["RATE_LIMITED"], refused);
    let named = |place: usize| {
        (summary["sources"][place]["prefix"].clone(), summary["sources"][place]["count"].clone())
    };
    assert_eq!(named(0), ("198.18.1.0/24".into(), (refused * 7 / 10).into()));
    assert_eq!(named(1), ("198.18.2.0/24".into(), (refused / 5).into()));
    assert_eq!(summary["others"]["count"], refused / 10);
    rig.engine.handle_edge(rig.now, &EdgeRefusals::default());
    assert_eq!(rig.counter(Counter::EdgeRefused), refused, "nothing is nothing");
}

/// R3.2: a handle that stood in a request is told to the edge as seen, once, and as long as it lives; the one that its client
/// has for the next request is not.
#[test]
fn r3_2_the_edge_hears_which_handles_were_seen() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    let changes = |rig: &mut Rig| std::iter::from_fn(|| rig.engine.poll_handle_change()).collect::<Vec<_>>();
    let first = match changes(&mut rig)[..] {
        [HandleChange::Known(first)] => first,
        ref other => panic!("{other:?}"),
    };
    let mut named = first;
    for path in [PATH_B(), PATH_C()] {
        client.switch(&mut rig, path);
        // The first frame of the new binding ends the generation that the request was made under.
        match changes(&mut rig)[..] {
            [HandleChange::Shown(shown), HandleChange::Known(next), HandleChange::Forgotten(gone)] => {
                assert_eq!((shown, gone), (named, named));
                named = next;
            }
            ref other => panic!("{other:?}"),
        }
    }
}
