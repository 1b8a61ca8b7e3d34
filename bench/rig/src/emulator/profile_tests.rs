use super::*;

#[test]
fn r7_1_the_built_in_profiles_are_whole() {
    let wanted = ["plain", "office", "mobile", "train", "satellite", "cross-border"];
    assert_eq!(Profile::names().collect::<Vec<_>>(), wanted);
    for name in wanted {
        let profile = Profile::load(name).unwrap();
        assert_eq!(profile.name, name);
        assert!(!profile.about.is_empty(), "{name} says what it stands for");
    }
    let mobile = Profile::load("mobile").unwrap();
    assert_ne!(mobile.up, mobile.down, "asymmetric");
    assert!(mobile.changes.iter().any(|change| change.rebind_nat));
    let border = Profile::load("cross-border").unwrap();
    assert_eq!((border.up.mtu, border.up.mtu_answer), (Some(1_420), MtuAnswer::Icmp));
}

/// R7.1: every field wrong in its own way: the error names field, value and what it may be.
#[test]
fn r7_1_each_wrong_field_of_a_profile_is_named() {
    let cases = [
        ("[up]\ndelay = \"61s\"", &["up.delay", "61s", "1m"][..]),
        ("[up]\ndelay = \"soon\"", &["up.delay", "soon", "25ms"]),
        ("[up]\ndelay = 5", &["delay", "5", "string"]),
        ("[down]\njitter = \"-1ms\"", &["down.jitter", "-1ms"]),
        ("[up]\nloss_percent = 101", &["loss_percent", "101"]),
        ("[up]\nloss_percent = -0.1", &["up.loss_percent", "-0.1", "0 to 100"]),
        ("[up]\nloss_percent = nan", &["up.loss_percent", "NaN", "0 to 100"]),
        (
            "[up]\nburst = { enter_percent = 1, leave_percent = 0, loss_percent = 50 }",
            &["up.burst.leave_percent", "0", "more than 0"],
        ),
        (
            "[up]\nburst = { enter_percent = 200, leave_percent = 5, loss_percent = 50 }",
            &["up.burst.enter_percent", "200", "0 to 100"],
        ),
        ("[up]\nburst = { enter_percent = 1 }", &["leave_percent"]),
        ("[up]\nreorder_percent = 1e9", &["up.reorder_percent", "0 to 100"]),
        ("[up]\nreorder_by = \"2min\"", &["up.reorder_by", "2min"]),
        ("[up]\nduplicate_percent = 100.5", &["up.duplicate_percent", "100.5"]),
        ("[up]\nrate_mbit_s = 0", &["up.rate_mbit_s", "0", "0.001 to 100000"]),
        ("[up]\nqueue = \"2min\"", &["up.queue", "2min"]),
        ("[up]\nmtu = 67", &["up.mtu", "67", "68 to 9000"]),
        ("[up]\nmtu = 70000", &["mtu", "70000"]),
        ("[up]\nmtu_answer = \"loud\"", &["up.mtu_answer", "loud", "silent", "icmp"]),
        ("[up]\nblackhole = 1", &["blackhole", "boolean"]),
        ("[up]\nspeed = 1", &["speed", "unknown field"]),
        ("[nat]\nttl = \"0s\"", &["nat.ttl", "0s", "10ms"]),
        ("[nat]\nttl = \"1s\"\nexternal = [\"here\"]", &["nat.external", "here", "192.0.2.1"]),
        ("repeat = \"0s\"", &["repeat", "0s"]),
        ("[[change]]\nafter = \"25h\"", &["change[0].after", "25h"]),
        ("[[change]]\nafter = \"1s\"\nlasts = \"0s\"", &["change[0].lasts", "0s"]),
        (
            "[[change]]\nafter = \"1s\"\nboth = { loss_percent = 300 }",
            &["change[0].both.loss_percent", "300"],
        ),
        ("[[change]]\nafter = \"1s\"\ndown = { mtu = 1 }", &["change[0].down.mtu", "1"]),
        ("repeat = \"5s\"\n[[change]]\nafter = \"5s\"", &["change[0].after", "5s", "less than repeat"]),
        ("[[change]]\nafter = \"1s\"\nrebind_nat = true", &["rebind_nat", "[nat]"]),
        ("[[change]]\nlasts = \"1s\"", &["after"]),
    ];
    for (text, wanted) in cases {
        let error = Profile::parse(&format!("name = \"x\"\n{text}")).unwrap_err().to_string();
        for part in wanted {
            assert!(error.contains(part), "{text}\n  says {error}\n  without {part}");
        }
    }
    assert!(Profile::parse("about = \"no name\"").unwrap_err().to_string().contains("name"));
    let many = "name = \"x\"\n".to_owned() + &"[[change]]\nafter = \"1s\"\n".repeat(257);
    assert!(Profile::parse(&many).unwrap_err().to_string().contains("257"));
    let missing = Profile::load("no-such-profile").unwrap_err().to_string();
    assert!(missing.contains("no-such-profile") && missing.contains("satellite"), "{missing}");
}

#[test]
fn a_round_trip_is_split_and_a_nat_is_put_in_front_once() {
    let profile = Profile::load("office").unwrap().with_round_trip(Duration::from_millis(50));
    assert_eq!(
        (profile.up.delay, profile.down.delay),
        (Duration::from_millis(25), Duration::from_millis(25))
    );
    let ttl = profile.nat.as_ref().unwrap().ttl;
    assert_eq!(profile.with_nat(Duration::from_secs(1)).nat.unwrap().ttl, ttl, "it has one already");
    assert!(Profile::load("plain").unwrap().with_nat(Duration::from_secs(1)).nat.is_some());
}
