//! Silence, deadlines, budget: how long a session may be without a path, and how often it may change it.

use crate::client::Client;
use crate::rig::{PATH_A, PATH_B, PATH_C, Rig};
use jvpn_abi::tables::ProbeSample;
use jvpn_abi::{BootTime, Reason};
use jvpn_controlplane::audit::AuditKind;
use jvpn_controlplane::engine::TableEvent;
use jvpn_session::Policy;
use jvpn_session::messages::{ControlMessage, SwitchCause};
use std::time::Duration;

/// R7.1, R1.5: three announced intervals without a frame, at least 3 s: TRANSPORT_DEAD; frames keep it alive.
#[test]
fn r7_1_a_silent_path_is_dead_after_three_intervals() {
    let mut rig = Rig::new(Policy::default());
    let client = rig.attached(0);
    for _ in 0..10 {
        rig.wait(Duration::from_millis(2_900));
        rig.frame(client.slot(), PATH_A());
    }
    assert_eq!(rig.state(&client).0, "ATTACHED");
    rig.wait(Duration::from_millis(2_999));
    assert_eq!(rig.state(&client).0, "ATTACHED");
    rig.wait(Duration::from_millis(1));
    assert_eq!(rig.state(&client), ("RECOVERING", Reason::TransportDead));
    assert!(rig.bound_slots().is_empty());
    assert_eq!(rig.tables.routes.len(), 2, "frames for it are dropped at its slot, not leaked to the kernel");
    rig.check_audit();
}

/// R7.1: a client that announces a shorter interval is taken at its word from the next look on.
#[test]
fn r7_1_a_shorter_interval_counts_soon() {
    let mut rig = Rig::new(Policy::default());
    let client = rig.attached(0);
    let index = client.slot().index();
    let set = |rig: &mut Rig, ms| rig.tables.contexts.0.get_mut(&index).unwrap().interval_ms = Some(ms);
    set(&mut rig, 25_000);
    rig.wait(Duration::from_secs(50));
    assert_eq!(rig.state(&client).0, "ATTACHED");
    set(&mut rig, 100);
    rig.wait(Duration::from_secs(3));
    assert_eq!(rig.state(&client), ("RECOVERING", Reason::TransportDead));
}

/// R1.4: hostile CONTEXT content (moments in the future, endless intervals) keeps no session alive.
#[test]
fn r1_4_hostile_context_is_bounded() {
    let mut rig = Rig::new(Policy::default());
    let client = rig.attached(0);
    let context = rig.tables.contexts.0.get_mut(&client.slot().index()).unwrap();
    context.interval_ms = Some(u32::MAX);
    rig.wait(Duration::from_secs(76));
    assert_eq!(rig.state(&client), ("RECOVERING", Reason::TransportDead));
}

/// R1.6: silence in RECOVERING is bounded by the transport-loss TTL, life by the session TTL.
#[test]
fn r1_6_both_ttls_end_a_session() {
    let mut rig = Rig::new(Policy::default());
    let client = rig.attached(0);
    rig.wait(Duration::from_secs(3));
    rig.wait(Policy::default().transport_loss_ttl - Duration::from_millis(1));
    assert_eq!(rig.state(&client).0, "RECOVERING");
    rig.wait(Duration::from_millis(1));
    assert_eq!(rig.state(&client), ("TERMINATED", Reason::TtlTransportLossExpired));
    assert!(rig.tables.routes.is_empty());

    let mut rig = Rig::new(Policy { session_ttl: Duration::from_secs(60), ..Policy::default() });
    let mut client = rig.attached(0);
    for _ in 0..59 {
        rig.wait(Duration::from_secs(1));
        rig.frame(client.slot(), PATH_A());
    }
    rig.wait(Duration::from_secs(1));
    assert_eq!(rig.state(&client), ("TERMINATED", Reason::TtlSessionExpired));
    let sent = client.request(&mut rig);
    let refusal = rig.ask(PATH_B(), &sent.datagram);
    assert_eq!(sent.reject(&refusal), (Reason::SessionExpired, 0));
    rig.check_audit();
}

/// R1.6: a burst of proven attempts that never confirms ends with the recovery window.
#[test]
fn r1_6_the_recovery_window_ends_a_burst() {
    let mut rig = Rig::new(Policy { recovery_window: Duration::from_secs(10), ..Policy::default() });
    let mut client = rig.attached(0);
    let start = rig.now;
    for n in 0..5 {
        rig.now = start;
        rig.wait(Duration::from_secs(n * 2));
        let sent = client.request(&mut rig);
        rig.ask(PATH_B(), &sent.datagram);
    }
    rig.wait(Duration::from_millis(1_999));
    assert_eq!(rig.state(&client), ("RECOVERING", Reason::BindUnconfirmed));
    rig.wait(Duration::from_millis(1));
    assert_eq!(rig.state(&client), ("TERMINATED", Reason::RecoveryBoundsExceeded));
    rig.check_audit();
}

/// R1.6: a pause ends the burst; then only the transport-loss TTL counts.
#[test]
fn r1_6_a_pause_ends_the_burst() {
    let mut rig = Rig::new(Policy { recovery_window: Duration::from_secs(10), ..Policy::default() });
    let mut client = rig.attached(0);
    for _ in 0..8 {
        let sent = client.request(&mut rig);
        rig.ask(PATH_B(), &sent.datagram);
        rig.wait(Duration::from_secs(6));
    }
    assert_eq!(rig.state(&client), ("RECOVERING", Reason::BindUnconfirmed));
    client.switch(&mut rig, PATH_C());
    assert_eq!(rig.state(&client).0, "ATTACHED");
}

/// R1.6: a repetition of the open request keeps the burst together; a recording of it does not keep it for ever.
#[test]
fn r1_6_a_repetition_is_no_pause_and_a_recording_no_burst() {
    let policy = Policy { recovery_window: Duration::from_secs(10), ..Policy::default() };
    let mut rig = Rig::new(policy.clone());
    let mut client = rig.attached(0);
    client.attempt = 8;
    let sent = client.request(&mut rig);
    rig.ask(PATH_B(), &sent.datagram);
    rig.wait(Duration::from_secs(4));
    rig.ask(PATH_B(), &sent.datagram);
    rig.wait(Duration::from_secs(4));
    let sent = client.request(&mut rig);
    rig.ask(PATH_B(), &sent.datagram);
    rig.wait(Duration::from_millis(1_999));
    assert_eq!(rig.state(&client).0, "RECOVERING");
    rig.wait(Duration::from_millis(1));
    assert_eq!(rig.state(&client), ("TERMINATED", Reason::RecoveryBoundsExceeded));
    rig.check_audit();

    let mut rig = Rig::new(policy);
    let mut client = rig.attached(0);
    client.attempt = 8;
    let sent = client.request(&mut rig);
    rig.ask(PATH_B(), &sent.datagram);
    for _ in 0..60 {
        rig.wait(Duration::from_millis(500));
        rig.datagram(PATH_B(), &sent.datagram);
    }
    assert_eq!(rig.state(&client).0, "RECOVERING", "nobody ends it by repeating what he saw");
    client.switch(&mut rig, PATH_C());
    assert_eq!(rig.state(&client).0, "ATTACHED");
}

/// R1.6: a refusal before the proof keeps no burst: its request is not burnt, so whoever recorded it may send it again, be
/// refused for the limit again, and would keep a silent client's burst until the window ends its session.
#[test]
fn r1_6_a_refusal_before_the_proof_keeps_no_burst() {
    let mut rig = Rig::new(Policy { recovery_window: Duration::from_secs(10), ..Policy::default() });
    let mut client = rig.attached(0);
    for _ in 0..5 {
        let sent = client.request(&mut rig);
        rig.ask(PATH_B(), &sent.datagram);
    }
    let sent = client.request(&mut rig);
    for _ in 0..3 {
        let refusal = rig.ask(PATH_B(), &sent.datagram);
        assert_eq!(sent.reject(&refusal), (Reason::RateLimited, 200));
    }
    // Five seconds after the last accepted request, less than five after the end of that wait.
    rig.wait(Duration::from_millis(5_100));
    let sent = client.request(&mut rig);
    rig.ask(PATH_B(), &sent.datagram);
    rig.wait(Duration::from_secs(5));
    assert_eq!(rig.state(&client).0, "RECOVERING", "one burst would have ended it by now");
    client.switch(&mut rig, PATH_C());
    assert_eq!(rig.state(&client).0, "ATTACHED");
    rig.check_audit();
}

/// R1.6, R7.3: the gateway's own outage in the middle of a burst is no attempt of the client: it keeps asking, is told
/// UNAVAILABLE, and its session outlives the window.
#[test]
fn r1_6_an_outage_of_the_data_plane_does_not_use_up_the_window() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    for _ in 0..3 {
        let sent = client.request(&mut rig);
        rig.ask(PATH_B(), &sent.datagram);
        rig.wait(Duration::from_secs(4));
    }
    rig.event(TableEvent::DataPlaneLost);
    rig.tables.restart();
    for _ in 0..60 {
        let sent = client.request(&mut rig);
        let refusal = rig.ask(PATH_B(), &sent.datagram);
        assert_eq!(sent.reject(&refusal), (Reason::Unavailable, 500));
        rig.wait(Duration::from_secs(1));
    }
    assert_eq!(rig.state(&client).0, "RECOVERING", "a minute, and the window is 30 s");
    rig.event(TableEvent::DataPlaneUp { slots: 64, context_kept: false });
    client.switch(&mut rig, PATH_B());
    assert_eq!(rig.state(&client).0, "ATTACHED");
    rig.check_audit();
}

/// I13: an unconfirmed binding is kept for max(3 RTT, 1 s), the round trip being that of the path before; one that a later
/// attempt asked for is kept longer, since the new path may be slower than anybody here knows; none is kept for ever.
#[test]
fn i13_an_unconfirmed_binding_has_three_round_trips() {
    for (rtt_ms, attempt, kept_ms) in
        [(0, 1, 1_000), (20, 1, 1_000), (600, 1, 1_800), (600, 2, 2_000), (20, 3, 3_000), (60_000, 1, 8_000)]
    {
        let mut rig = Rig::new(Policy::default());
        let mut client = rig.attached(0);
        let context = rig.tables.contexts.0.get_mut(&client.slot().index()).unwrap();
        context.probed.probes = 3;
        for (place, rtt_ms) in [rtt_ms / 2, rtt_ms, rtt_ms / 3].into_iter().enumerate() {
            context.probed.samples[place] = ProbeSample { rtt_us: rtt_ms * 1_000, change_us: 0 }.encode();
        }
        client.attempt = attempt;
        for last in [false, true] {
            let sent = client.request(&mut rig);
            rig.ask(PATH_B(), &sent.datagram);
            rig.wait(Duration::from_millis(kept_ms - 1));
            assert_eq!(rig.bound_slots().len(), 1, "{rtt_ms} ms, attempt {attempt}");
            rig.wait(Duration::from_millis(1));
            assert_eq!(rig.state(&client), ("RECOVERING", Reason::BindUnconfirmed));
            assert!(rig.bound_slots().is_empty(), "{rtt_ms} ms, attempt {attempt}, the last: {last}");
        }
    }
}

/// R1.7: the switch that uses up the budget leads into DEGRADED; then COOLDOWN with the exact time; then
/// back.
#[test]
fn r1_7_the_budget_leads_into_degraded_and_back() {
    let mut rig = Rig::new(Policy { max_switches_per_min: 3, ..Policy::default() });
    let mut client = rig.attached(0);
    let paths = [PATH_B(), PATH_C(), PATH_A()];
    for (n, path) in paths.into_iter().enumerate() {
        client.switch(&mut rig, path);
        let expected = if n < 2 { "ATTACHED" } else { "DEGRADED" };
        assert_eq!(rig.state(&client).0, expected);
        keep_alive(&mut rig, &client, path, Duration::from_secs(5));
    }
    assert_eq!(rig.state(&client), ("DEGRADED", Reason::PolicyFlapLimit));
    assert!(rig.events().contains(&"POLICY_EVENT"));
    for cause in [SwitchCause::PathDead, SwitchCause::Voluntary] {
        client.cause = cause;
        let sent = client.request(&mut rig);
        let refusal = rig.ask(PATH_B(), &sent.datagram);
        assert_eq!(sent.reject(&refusal), (Reason::Cooldown, 45_000), "first switch + 60 s");
    }
    keep_alive(&mut rig, &client, PATH_A(), Duration::from_millis(44_999));
    assert_eq!(rig.state(&client).0, "DEGRADED");
    keep_alive(&mut rig, &client, PATH_A(), Duration::from_millis(1));
    assert_eq!(rig.state(&client), ("ATTACHED", Reason::ExitDegradedMode));
    client.switch(&mut rig, PATH_B());
    rig.check_audit();
}

fn keep_alive(rig: &mut Rig, client: &Client, path: jvpn_abi::Endpoint, span: Duration) {
    let mut left = span;
    while !left.is_zero() {
        let step = left.min(Duration::from_millis(500));
        rig.wait(step);
        rig.frame(client.slot(), path);
        left -= step;
    }
}

/// R1.7: cooldown refuses voluntary switches with the time that is left; needed ones pass.
#[test]
fn r1_7_cooldown_refuses_voluntary_switches() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    client.switch(&mut rig, PATH_B());
    rig.wait(Duration::from_millis(500));
    client.cause = SwitchCause::Voluntary;
    let sent = client.request(&mut rig);
    let refusal = rig.ask(PATH_C(), &sent.datagram);
    assert_eq!(sent.reject(&refusal), (Reason::Cooldown, 1_500));
    assert_eq!(rig.state(&client).0, "ATTACHED", "the old path goes on");
    rig.wait(Duration::from_millis(1_500));
    client.switch(&mut rig, PATH_C());
    client.cause = SwitchCause::LinkDown;
    client.switch(&mut rig, PATH_A());
}

/// R6.1: what a recovery took is in the log, with the client's own detection time.
#[test]
fn r6_1_recoveries_are_measured() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    rig.wait(Duration::from_millis(900));
    let lost = client.request(&mut rig);
    rig.ask(PATH_B(), &lost.datagram);
    rig.wait(Duration::from_millis(250));
    let mut sent = client.request(&mut rig);
    let ack = rig.ask(PATH_B(), &sent.datagram);
    client.read_ack(&mut sent, &ack);
    rig.wait(Duration::from_millis(30));
    rig.frame(client.slot(), PATH_B());
    let mut kinds = rig.lines.iter().rev().map(|line| line.event.kind.clone());
    let complete = kinds.next().unwrap();
    let expected =
        AuditKind::RecoveryComplete { detect_ms: 700, reattach_ms: 280, outage_ms: 1_180, attempts: 2 };
    assert_eq!(complete, expected);
    let switch = kinds.next().unwrap();
    let (previous, new) = (Some(PATH_A()), PATH_B());
    assert_eq!(switch, AuditKind::TransportSwitch { previous, new, switch_latency_ms: 30, epoch: 3 });
}

/// Due together: the session TTL goes before a proven request.
#[test]
fn r1_4_what_is_due_together_has_an_order() {
    let mut rig = Rig::new(Policy { session_ttl: Duration::from_secs(60), ..Policy::default() });
    let mut client = rig.attached(0);
    for _ in 0..59 {
        rig.wait(Duration::from_secs(1));
        rig.frame(client.slot(), PATH_A());
    }
    let sent = client.request(&mut rig);
    // The request arrives at the very moment of the deadline, before the timer was served.
    rig.now = BootTime(rig.now.0 + 1_000_000_000);
    rig.sent.clear();
    rig.datagram(PATH_B(), &sent.datagram);
    let (told, refusal) = (rig.sent.pop_front().unwrap(), rig.sent.pop_front().unwrap());
    let message = client.open(client.newest(), &told.payload);
    assert_eq!(
        (told.remote, message),
        (PATH_A(), Some(ControlMessage::Terminate { reason: Reason::TtlSessionExpired }))
    );
    assert_eq!(sent.reject(&refusal.payload).0, Reason::SessionExpired);
    assert_eq!(rig.state(&client), ("TERMINATED", Reason::TtlSessionExpired));
}
