//! Levels of quality: what probes leave in CONTEXT, judged, and what becomes of the session.

use crate::client::Client;
use crate::rig::{PATH_A, PATH_B, Rig};
use jvpn_abi::Reason;
use jvpn_abi::tables::{PROBE_SAMPLES, ProbeSample};
use jvpn_controlplane::audit::{AuditKind, Line};
use jvpn_session::Policy;
use jvpn_session::messages::ControlMessage;
use jvpn_session::quality::Counts;
use std::time::Duration;

/// How a path is while a client probes it.
#[derive(Clone, Copy)]
struct Path {
    /// Of ten packets each way, so many are lost on the way to the gateway, …
    up: u64,
    /// … and so many on the way from it.
    down: u64,
    rtt_ms: u32,
    change_ms: u32,
}

const GOOD: Path = Path { up: 0, down: 0, rtt_ms: 20, change_ms: 1 };
const LOSSY: Path = Path { up: 3, ..GOOD };

const STEP: Duration = Duration::from_millis(200);

/// Ten packets each way and a probe, every 200 ms.
fn traffic(rig: &mut Rig, client: &Client, path: Path, span: Duration) {
    let slot = client.slot();
    let remote = *rig.tables.bound.get(&slot.index()).map(|(_, remote, _)| remote).unwrap();
    let end = rig.now.after(span);
    while rig.now < end {
        rig.frame(slot, remote);
        let context = rig.tables.contexts.0.get_mut(&slot.index()).unwrap();
        let probed = &mut context.probed;
        for (place, lost) in [(&mut probed.up, path.up), (&mut probed.down, path.down)] {
            let counts = place[0].get_or_insert(Counts::default());
            counts.end += 10;
            counts.received += 10 - lost;
        }
        let sample = ProbeSample { rtt_us: path.rtt_ms * 1_000, change_us: path.change_ms * 1_000 };
        probed.samples[probed.probes as usize % PROBE_SAMPLES] = sample.encode();
        probed.probes += 1;
        rig.wait(STEP);
    }
}

/// One probe each 25 s, as of an idle client; every other one is lost.
fn idle(rig: &mut Rig, client: &Client, probes: u32) {
    for _ in 0..probes {
        traffic(rig, client, Path { up: 5, ..GOOD }, STEP);
        rig.tables.contexts.0.get_mut(&client.slot().index()).unwrap().interval_ms = Some(25_000);
        rig.wait(Duration::from_secs(25));
    }
}

/// Field, threshold and observed value of the policy events so far, with their reasons.
fn policies(rig: &Rig) -> Vec<(&'static str, u64, u64, Reason)> {
    let policy = |line: &Line| {
        let AuditKind::Policy { name, threshold, observed } = line.event.kind else { return None };
        Some((name, threshold, observed, line.event.reason?))
    };
    rig.lines.iter().filter_map(policy).collect()
}

/// States told to the client since the last call.
fn told(rig: &mut Rig, client: &Client) -> Vec<Reason> {
    let reason = |payload: &[u8]| {
        let Some(ControlMessage::State { reason, .. }) = client.open(client.newest(), payload) else {
            return None;
        };
        Some(reason)
    };
    rig.sent.drain(..).filter_map(|transmit| reason(&transmit.payload)).collect()
}

/// R1.7, R6.1, R7.1: 30 % loss for three seconds, in either direction: VOLATILE within two seconds, ATTACHED again when it
/// has been good for the stability window; both are in the log with threshold and observed value, and told to the client.
#[test]
fn r1_7_a_loss_spike_is_volatile_and_passes() {
    for bad in [LOSSY, Path { down: 3, ..GOOD }] {
        let mut rig = Rig::new(Policy::default());
        let client = rig.attached(0);
        traffic(&mut rig, &client, GOOD, Duration::from_secs(5));
        assert_eq!((rig.status(&client).quality, rig.state(&client).0), ("good", "ATTACHED"));
        rig.sent.clear();
        traffic(&mut rig, &client, bad, Duration::from_secs(2));
        assert_eq!(rig.state(&client), ("VOLATILE", Reason::VolatilitySignal));
        traffic(&mut rig, &client, bad, Duration::from_secs(1));
        traffic(&mut rig, &client, GOOD, Duration::from_secs(4));
        assert_eq!(rig.state(&client).0, "VOLATILE", "good again, but not for long enough");
        traffic(&mut rig, &client, GOOD, Duration::from_secs(4));
        assert_eq!(rig.state(&client), ("ATTACHED", Reason::HealthRecovered));
        let status = rig.status(&client);
        assert_eq!((status.quality, status.rtt_ms, status.jitter_ms), ("good", Some(20.0), Some(1.0)));
        assert_eq!((status.loss_in_percent, status.loss_out_percent), (Some(0.0), Some(0.0)));
        let policies = policies(&rig);
        let [(name, 5, loss, Reason::VolatilitySignal), (window, 3_000, good, Reason::HealthRecovered)] =
            policies.as_slice()
        else {
            panic!("{policies:?}")
        };
        assert_eq!((*name, *window), ("volatile_loss_percent", "stability_window"));
        assert!((6..=30).contains(loss) && *good >= 3_000, "{policies:?}");
        assert_eq!(told(&mut rig, &client), [Reason::VolatilitySignal, Reason::HealthRecovered]);
        rig.check_audit();
    }
}

/// R1.7: round-trip time and jitter have thresholds of their own.
#[test]
fn r1_7_late_and_unsteady_paths_are_volatile() {
    let cases = [
        (Path { rtt_ms: 600, ..GOOD }, ("volatile_rtt", 400, 600)),
        (Path { change_ms: 150, ..GOOD }, ("volatile_jitter", 100, 150)),
    ];
    for (path, (name, threshold, observed)) in cases {
        let mut rig = Rig::new(Policy::default());
        let client = rig.attached(0);
        traffic(&mut rig, &client, path, Duration::from_secs(5));
        assert_eq!(rig.state(&client), ("VOLATILE", Reason::VolatilitySignal));
        assert_eq!(policies(&rig)[0], (name, threshold, observed, Reason::VolatilitySignal));
    }
}

/// R1.7: bad for long: DEGRADED after `volatile_max`, TERMINATED after `degraded_max`, each with its reason and threshold.
#[test]
fn r1_7_a_path_that_stays_bad_is_degraded_and_then_ends() {
    let policy = Policy { degraded_max: Duration::from_secs(60), ..Policy::default() };
    let mut rig = Rig::new(policy);
    let client = rig.attached(0);
    traffic(&mut rig, &client, LOSSY, Duration::from_secs(30));
    assert_eq!(rig.state(&client).0, "VOLATILE");
    traffic(&mut rig, &client, LOSSY, Duration::from_secs(4));
    assert_eq!(rig.state(&client), ("DEGRADED", Reason::QualityFloorViolation));
    traffic(&mut rig, &client, LOSSY, Duration::from_secs(56));
    assert_eq!(rig.state(&client).0, "DEGRADED");
    let span = Duration::from_secs(10);
    let (slot, end) = (client.slot().index(), rig.now.after(span));
    while rig.now < end && rig.tables.bound.contains_key(&slot) {
        traffic(&mut rig, &client, LOSSY, STEP);
    }
    assert_eq!(rig.state(&client), ("TERMINATED", Reason::PolicyTermination));
    let reasons: Vec<_> =
        policies(&rig).into_iter().map(|(name, threshold, _, reason)| (name, threshold, reason)).collect();
    let expected = [
        ("volatile_loss_percent", 5, Reason::VolatilitySignal),
        ("volatile_max", 30_000, Reason::QualityFloorViolation),
        ("degraded_max", 60_000, Reason::PolicyTermination),
    ];
    assert_eq!(reasons, expected);
    rig.check_audit();
}

/// R1.7: DEGRADED by quality ends when quality has been good for the stability window.
#[test]
fn r1_7_a_degraded_session_recovers() {
    let mut rig = Rig::new(Policy::default());
    let client = rig.attached(0);
    traffic(&mut rig, &client, LOSSY, Duration::from_secs(35));
    assert_eq!(rig.state(&client).0, "DEGRADED");
    traffic(&mut rig, &client, GOOD, Duration::from_secs(4));
    assert_eq!(rig.state(&client).0, "DEGRADED");
    traffic(&mut rig, &client, GOOD, Duration::from_secs(4));
    assert_eq!(rig.state(&client), ("ATTACHED", Reason::ExitDegradedMode));
    rig.check_audit();
}

/// R1.7: DEGRADED by flapping is not ended by `degraded_max` while quality is good, nor by silence about quality; it ends
/// when the budget is free. Bad quality keeps it.
#[test]
fn r1_7_degraded_by_flapping_stays_distinct() {
    let policy =
        Policy { max_switches_per_min: 1, degraded_max: Duration::from_secs(20), ..Policy::default() };
    let mut rig = Rig::new(policy.clone());
    let mut client = rig.attached(0);
    client.switch(&mut rig, PATH_B());
    assert_eq!(rig.state(&client), ("DEGRADED", Reason::PolicyFlapLimit));
    traffic(&mut rig, &client, GOOD, Duration::from_secs(55));
    assert_eq!(rig.state(&client).0, "DEGRADED", "longer than degraded_max, but not bad");
    traffic(&mut rig, &client, GOOD, Duration::from_secs(6));
    assert_eq!(rig.state(&client), ("ATTACHED", Reason::ExitDegradedMode));

    let mut rig = Rig::new(Policy { degraded_max: Duration::from_secs(600), ..policy });
    let mut client = rig.attached(0);
    client.switch(&mut rig, PATH_B());
    traffic(&mut rig, &client, LOSSY, Duration::from_secs(70));
    assert_eq!(rig.state(&client).0, "DEGRADED", "the budget is free, but quality is bad");
    traffic(&mut rig, &client, GOOD, Duration::from_secs(8));
    assert_eq!(rig.state(&client).0, "ATTACHED");
}

/// R1.7, R7.3: a control plane that was away for longer than VOLATILE and DEGRADED may last: nobody judged, so nothing got
/// worse. What was bad before counts, and goes on when it is back.
#[test]
fn r7_3_absence_of_the_control_plane_is_no_bad_quality() {
    let rekey_hard = Duration::from_secs(24 * 3_600);
    let policy = Policy { degraded_max: Duration::from_secs(60), rekey_hard, ..Policy::default() };
    let away = Duration::from_secs(90);
    let mut rig = Rig::new(policy);
    let client = rig.attached(0);
    traffic(&mut rig, &client, LOSSY, Duration::from_secs(12));
    assert_eq!(rig.state(&client).0, "VOLATILE");
    rig.now = rig.now.after(away);
    rig.restart();
    traffic(&mut rig, &client, LOSSY, Duration::from_secs(18));
    assert_eq!(rig.state(&client).0, "VOLATILE", "about 28 s of 30");
    traffic(&mut rig, &client, LOSSY, Duration::from_secs(6));
    assert_eq!(rig.state(&client), ("DEGRADED", Reason::QualityFloorViolation));
    rig.now = rig.now.after(away);
    rig.restart();
    traffic(&mut rig, &client, LOSSY, Duration::from_secs(30));
    rig.now = rig.now.after(away);
    rig.restart();
    traffic(&mut rig, &client, LOSSY, Duration::from_secs(22));
    assert_eq!(rig.state(&client).0, "DEGRADED", "about 56 s of 60, in three lives");
    let (slot, end) = (client.slot().index(), rig.now.after(Duration::from_secs(12)));
    while rig.now < end && rig.tables.bound.contains_key(&slot) {
        traffic(&mut rig, &client, LOSSY, STEP);
    }
    assert_eq!(rig.state(&client), ("TERMINATED", Reason::PolicyTermination));
    rig.check_audit();
}

/// R1.7: no evidence, no change: an idle client's few probes say nothing, and time without them makes nothing worse.
#[test]
fn r1_7_without_evidence_nothing_changes() {
    let rekey_hard = Duration::from_secs(24 * 3_600);
    let policy = Policy { degraded_max: Duration::from_secs(60), rekey_hard, ..Policy::default() };
    let mut rig = Rig::new(policy);
    let client = rig.attached(0);
    idle(&mut rig, &client, 10);
    assert_eq!((rig.state(&client).0, rig.status(&client).quality), ("ATTACHED", "unknown"));
    traffic(&mut rig, &client, LOSSY, Duration::from_secs(5));
    idle(&mut rig, &client, 10);
    assert_eq!(rig.state(&client).0, "VOLATILE", "volatile_max needs evidence");
    traffic(&mut rig, &client, LOSSY, Duration::from_secs(7));
    assert_eq!(rig.state(&client).0, "DEGRADED");
    idle(&mut rig, &client, 10);
    traffic(&mut rig, &client, LOSSY, Duration::from_secs(7));
    assert_eq!(rig.state(&client).0, "DEGRADED", "four minutes of silence are no bad quality");
    rig.check_audit();
}

/// R1.7: the quality of one path says nothing about the next.
#[test]
fn r1_7_a_new_binding_starts_without_judgement() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    traffic(&mut rig, &client, LOSSY, Duration::from_secs(5));
    assert_eq!(rig.state(&client).0, "VOLATILE");
    client.switch(&mut rig, PATH_B());
    assert_eq!((rig.state(&client).0, rig.status(&client).quality), ("ATTACHED", "unknown"));
    traffic(&mut rig, &client, GOOD, Duration::from_secs(5));
    client.switch(&mut rig, PATH_A());
    assert_eq!((rig.state(&client).0, policies(&rig).len()), ("ATTACHED", 1));
}

/// R7.3, R1.7: a control plane that is killed keeps the deadlines: the end comes when it would have come, and a session that
/// is DEGRADED for its quality does not leave that state because nothing is known yet.
#[test]
fn r7_3_a_restart_keeps_the_deadlines_of_quality() {
    let policy = Policy { degraded_max: Duration::from_secs(60), ..Policy::default() };
    let ended_at = |restarts: bool| {
        let mut rig = Rig::new(policy.clone());
        let client = rig.attached(0);
        let slot = client.slot().index();
        while rig.tables.bound.contains_key(&slot) {
            traffic(&mut rig, &client, LOSSY, STEP);
            let since = rig.now.as_millis() - 5_000_000;
            assert!(since < 200_000, "it never ends: {:?}", rig.state(&client));
            if restarts && [10_000, 50_000, 70_000].iter().any(|at| since.abs_diff(*at) < 100) {
                let before = rig.state(&client).0;
                rig.restart();
                rig.wait(Duration::from_secs(2));
                assert_eq!(rig.state(&client).0, before, "at {since} ms");
            }
        }
        assert_eq!(rig.state(&client), ("TERMINATED", Reason::PolicyTermination));
        rig.now.as_millis()
    };
    let (alone, restarted) = (ended_at(false), ended_at(true));
    // A record says for how long in whole seconds, and the first look comes after half of one.
    assert!((alone..=alone + 5_000).contains(&restarted), "{alone} {restarted}");
}

/// R1.4: a client that lies in its probes judges its own session and no other, and breaks nothing.
#[test]
fn r1_4_a_lying_client_harms_only_itself() {
    let mut rig = Rig::new(Policy::default());
    let (honest, liar) = (rig.attached(0), rig.attached(1));
    let lies = [0, 1, u64::MAX, u64::MAX / 2, 1 << 33, 7];
    for n in 0..200_usize {
        let context = rig.tables.contexts.0.get_mut(&liar.slot().index()).unwrap();
        let lie = |k: usize| lies[(n * k + n / 7 + k) % lies.len()];
        context.probed.probes = lie(1);
        context.probed.up = [Some(Counts { key: lie(2) as u32, end: lie(3), received: lie(4) }), None];
        context.probed.down = [None, Some(Counts { key: lie(5) as u32, end: lie(1), received: lie(2) })];
        context.probed.samples = [lie(3); PROBE_SAMPLES];
        rig.frame(liar.slot(), PATH_A());
        traffic(&mut rig, &honest, GOOD, STEP);
    }
    assert_eq!((rig.state(&honest).0, rig.status(&honest).quality), ("ATTACHED", "good"));
    rig.check_audit();
}
