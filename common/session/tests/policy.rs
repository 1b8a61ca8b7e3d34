//! R10.3, R1.7: policy changes numbers, never rules; every bad value is named with what is allowed.

use jvpn_session::Policy;
use jvpn_session::policy::PolicyError;
use std::time::Duration;

#[test]
fn r10_3_presets_are_valid_and_differ_in_numbers_only() {
    for name in ["mobile", "fintech", "edge", "satellite"] {
        let policy = Policy::preset(name).unwrap();
        policy.check().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(Policy::from_toml(&format!("preset = \"{name}\"")).unwrap(), policy);
    }
    assert_eq!(Policy::preset("edge").unwrap(), Policy::default());
    assert_eq!(Policy::preset("fintech").unwrap().probe_traffic, Duration::from_millis(50));
    assert_eq!(Policy::from_toml("").unwrap(), Policy::default());
}

#[test]
fn defaults_are_those_of_the_design() {
    let policy = Policy::default();
    let client = policy.client_policy();
    assert_eq!((client.probe_traffic_ms, client.probe_idle_ms, client.suspicion_ms), (200, 25_000, 25));
    assert_eq!((client.cooldown_ms, client.recovery_window_ms), (2_000, 30_000));
    assert_eq!(client.transport_loss_ttl_ms, 900_000);
    assert_eq!((policy.max_switches_per_min, policy.max_sessions), (8, 65_536));
    assert_eq!((client.rekey_soft_ms, client.rekey_hard_ms), (120_000, 180_000));
    assert_eq!((client.rekey_soft_packets, client.rekey_hard_packets), (1 << 26, 1 << 28));
}

/// R5.2: the limits of keys can be lowered, in their order.
#[test]
fn r5_2_key_limits_are_tunable_downwards() {
    let text =
        "rekey_soft = \"2s\"\nrekey_hard = \"12s\"\nrekey_soft_packets = 1000\nrekey_hard_packets = 4000";
    let client = Policy::from_toml(text).unwrap().client_policy();
    assert_eq!((client.rekey_soft_ms, client.rekey_hard_ms), (2_000, 12_000));
    assert_eq!((client.rekey_soft_packets, client.rekey_hard_packets), (1_000, 4_000));
}

#[test]
fn overrides_replace_what_the_preset_says() {
    let policy =
        Policy::from_toml("preset = \"mobile\"\nrecovery_window = \"45s\"\nmax_sessions = 10").unwrap();
    assert_eq!(policy.recovery_window, Duration::from_secs(45));
    assert_eq!(policy.max_sessions, 10);
    assert_eq!(policy.max_switches_per_min, 12);
}

/// Each field below and above its bounds, and of the wrong shape.
#[test]
fn each_bad_value_is_named_with_what_is_allowed() {
    let out_of_bounds = [
        ("session_ttl", "\"59s\""),
        ("session_ttl", "\"31days\""),
        ("transport_loss_ttl", "\"20s\""),
        ("transport_loss_ttl", "\"31days\""),
        ("recovery_window", "\"900ms\""),
        ("recovery_window", "\"301s\""),
        ("probe_traffic", "\"9ms\""),
        ("probe_traffic", "\"30s\""),
        ("probe_idle", "\"301s\""),
        ("suspicion", "\"4ms\""),
        ("suspicion", "\"300ms\""),
        ("dead_after_missed", "0"),
        ("dead_after_intervals", "11"),
        ("dead_after_min", "\"2s\""),
        ("max_switches_per_min", "0"),
        ("max_switches_per_min", "61"),
        ("cooldown_after_switch", "\"61s\""),
        ("cooldown_after_switch", "\"0s\""),
        ("volatile_loss_percent", "101"),
        ("volatile_rtt", "\"0s\""),
        ("volatile_jitter", "\"61s\""),
        ("quality_span", "\"99ms\""),
        ("stability_window", "\"301s\""),
        ("volatile_max", "\"2h\""),
        ("degraded_max", "\"2days\""),
        ("reattach_per_second", "0"),
        ("reattach_burst", "1001"),
        ("reattach_global_per_second", "0"),
        ("replay_window_packets", "4096"),
        ("replay_window_packets", "8191"),
        ("rekey_soft", "\"121s\""),
        ("rekey_hard", "\"181s\""),
        ("rekey_hard", "\"125s\""),
        ("rekey_soft", "\"1s\""),
        ("rekey_hard", "\"11s\""),
        ("rekey_soft_packets", "999"),
        ("rekey_soft_packets", "67108865"),
        ("rekey_hard_packets", "3999"),
        ("rekey_hard_packets", "268435457"),
        ("rekey_hard_packets", "100000"),
        ("candidates_max", "17"),
        ("max_sessions", "65537"),
        ("max_sessions", "0"),
    ];
    for (field, value) in out_of_bounds {
        let error = Policy::from_toml(&format!("{field} = {value}")).expect_err(field);
        let text = error.to_string();
        assert!(matches!(error, PolicyError::OutOfBounds { .. }), "{field} = {value}: {text}");
        assert!(text.contains("policy.") && text.contains("must be"), "{text}");
        // A relation between two fields is reported at the one that breaks it.
        assert!(text.contains(field) || field == "suspicion" || field == "probe_traffic", "{text}");
    }
    for bad in ["\"5\"", "\"soon\"", "\"-3s\"", "\"\""] {
        let error = Policy::from_toml(&format!("recovery_window = {bad}")).unwrap_err();
        assert!(
            matches!(error, PolicyError::NotADuration { field: "recovery_window", .. }),
            "{bad}: {error}"
        );
    }
    for bad in [
        "recovery_windw = \"3s\"",
        "recovery_window = 3",
        "max_sessions = -1",
        "max_sessions = \"many\"",
        "x",
    ] {
        assert!(matches!(Policy::from_toml(bad), Err(PolicyError::Syntax(_))), "{bad}");
    }
    assert!(matches!(Policy::preset("bank"), Err(PolicyError::UnknownPreset(_))));
}

/// R1.6: a peer cannot buy patience by announcing a long interval.
#[test]
fn r1_6_announced_intervals_are_bounded() {
    let policy = Policy::default();
    assert_eq!(policy.dead_after(Some(Duration::from_millis(200))), Duration::from_secs(3));
    assert_eq!(policy.dead_after(Some(Duration::from_secs(5))), Duration::from_secs(15));
    assert_eq!(policy.dead_after(Some(Duration::from_secs(4_000_000))), Duration::from_secs(75));
    assert_eq!(policy.dead_after(None), Duration::from_secs(75));
}
