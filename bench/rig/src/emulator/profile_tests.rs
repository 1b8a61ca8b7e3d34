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

/// Behind a name: what is wrong, and what the error has to say of it.
const WRONG: &[(&str, &[&str])] = &[
    ("[up]\ndelay = \"61s\"", &["up.delay", "61s", "1m"]),
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
    ("about = 5", &["about", "5", "string"]),
    ("up = 5", &["up", "5"]),
    ("nat = true", &["nat", "true"]),
    ("repeat = 5", &["repeat", "5", "string"]),
    ("change = 5", &["change", "5", "sequence"]),
    ("colour = 5", &["colour", "unknown field"]),
    ("[up]\njitter = 5", &["jitter", "5", "string"]),
    ("[up]\nloss_percent = \"much\"", &["loss_percent", "much"]),
    ("[up]\nreorder_percent = \"some\"", &["reorder_percent", "some"]),
    ("[up]\nreorder_by = 5", &["reorder_by", "5", "string"]),
    ("[up]\nduplicate_percent = true", &["duplicate_percent", "true"]),
    ("[up]\nrate_mbit_s = \"fast\"", &["rate_mbit_s", "fast"]),
    ("[up]\nrate_mbit_s = -1", &["up.rate_mbit_s", "-1", "0.001 to 100000"]),
    ("[up]\nqueue = 5", &["queue", "5", "string"]),
    ("[up]\nmtu = \"small\"", &["mtu", "small"]),
    ("[up]\nmtu = 1.5", &["mtu", "1.5"]),
    ("[up]\nmtu = 9001", &["up.mtu", "9001", "68 to 9000"]),
    ("[up]\nmtu_answer = 5", &["mtu_answer", "5", "string"]),
    ("[up]\nburst = 5", &["burst", "5"]),
    (
        "[up]\nburst = { enter_percent = 1, leave_percent = 5, loss_percent = 101 }",
        &["up.burst.loss_percent", "101", "0 to 100"],
    ),
    (
        "[down]\nburst = { enter_percent = 1, leave_percent = 5, loss_percent = \"all\" }",
        &["loss_percent", "all"],
    ),
    (
        "[up]\nburst = { enter_percent = 1, leave_percent = 5, loss_percent = 9, colour = 1 }",
        &["colour", "unknown field"],
    ),
    ("[up]\nspeed = 1", &["speed", "unknown field"]),
    ("[nat]\nttl = \"0s\"", &["nat.ttl", "0s", "10ms"]),
    ("[nat]\nttl = \"1s\"\nexternal = [\"here\"]", &["nat.external", "here", "192.0.2.1"]),
    ("[nat]\nttl = 5", &["ttl", "5", "string"]),
    ("[nat]\nexternal = []", &["ttl"]),
    ("[nat]\nttl = \"1s\"\nexternal = \"192.0.2.1\"", &["external", "sequence"]),
    ("[nat]\nttl = \"1s\"\nexternal = [5]", &["external", "5", "string"]),
    ("[nat]\nttl = \"1s\"\ncolour = 1", &["colour", "unknown field"]),
    ("repeat = \"0s\"", &["repeat", "0s"]),
    ("[[change]]\nafter = \"25h\"", &["change[0].after", "25h"]),
    ("[[change]]\nafter = \"1s\"\nlasts = \"0s\"", &["change[0].lasts", "0s"]),
    ("[[change]]\nafter = \"1s\"\nboth = { loss_percent = 300 }", &["change[0].both.loss_percent", "300"]),
    ("[[change]]\nafter = \"1s\"\ndown = { mtu = 1 }", &["change[0].down.mtu", "1"]),
    ("repeat = \"5s\"\n[[change]]\nafter = \"5s\"", &["change[0].after", "5s", "less than repeat"]),
    ("[[change]]\nafter = \"1s\"\nrebind_nat = true", &["rebind_nat", "[nat]"]),
    ("[[change]]\nlasts = \"1s\"", &["after"]),
    ("[[change]]\nafter = 1", &["after", "1", "string"]),
    ("[[change]]\nafter = \"1s\"\nlasts = 1", &["lasts", "1", "string"]),
    ("[[change]]\nafter = \"1s\"\nlink_down = 1", &["link_down", "1", "boolean"]),
    ("[nat]\nttl = \"1s\"\n[[change]]\nafter = \"1s\"\nrebind_nat = 1", &["rebind_nat", "boolean"]),
    ("[[change]]\nafter = \"1s\"\ncolour = 1", &["colour", "unknown field"]),
    ("[[change]]\nafter = \"1s\"\nup = 5", &["up", "5"]),
    ("[[change]]\nafter = \"1s\"\nup = { delay = \"61s\" }", &["change[0].up.delay", "61s", "1m"]),
    (
        "[[change]]\nafter = \"1s\"\n[[change]]\nafter = \"2s\"\nup = { jitter = \"never\" }",
        &["change[1].up.jitter", "never"],
    ),
    (
        "[[change]]\nafter = \"1s\"\nup = { burst = { enter_percent = 1, leave_percent = 0, loss_percent = 9 } }",
        &["change[0].up.burst.leave_percent", "more than 0"],
    ),
    ("[[change]]\nafter = \"1s\"\nup = { colour = 1 }", &["colour", "unknown field"]),
    ("[[change]]\nafter = \"1s\"\nboth = { colour = 1 }", &["colour", "unknown field"]),
    ("[[change]]\nafter = \"1s\"\nboth = { mtu = true }", &["mtu", "true"]),
];

/// R7.1: every field wrong in its own way: the error names field, value and what it may be.
#[test]
fn r7_1_each_wrong_field_of_a_profile_is_named() {
    for (text, wanted) in WRONG {
        let error = Profile::parse(&format!("name = \"x\"\n{text}")).unwrap_err().to_string();
        for part in *wanted {
            assert!(error.contains(part), "{text}\n  says {error}\n  without {part}");
        }
    }
    assert!(Profile::parse("about = \"no name\"").unwrap_err().to_string().contains("name"));
    let long = format!("name = \"{}\"", "x".repeat(65));
    for text in ["name = \"\"", "name = \" \"", "name = \"a\\nb\"", "name = 5", &long] {
        assert!(Profile::parse(text).unwrap_err().to_string().contains("name"), "{text}");
    }
    let many = "name = \"x\"\n".to_owned() + &"[[change]]\nafter = \"1s\"\n".repeat(257);
    assert!(Profile::parse(&many).unwrap_err().to_string().contains("257"));
    let missing = Profile::load("no-such-profile").unwrap_err().to_string();
    assert!(missing.contains("no-such-profile") && missing.contains("satellite"), "{missing}");
}

/// R8.4: a file says whose it is: a profile that is not built in has no built-in one's name, and all of it is kept.
#[test]
fn r8_4_a_file_has_a_name_of_its_own_and_its_text_is_kept() {
    let file = std::env::temp_dir().join(format!("jvpn-profile-{}.toml", std::process::id()));
    let load = |text: &str| {
        std::fs::write(&file, text).unwrap();
        Profile::load(file.to_str().unwrap())
    };
    let taken = load("name = \"satellite\"").map_err(|error| error.to_string());
    let own = load("name = \"rain\"\n# heavy");
    std::fs::remove_file(&file).unwrap();
    let error = taken.unwrap_err();
    assert!(error.contains("\"satellite\"") && error.contains("built-in"), "{error}");
    assert_eq!(own.unwrap().text, "name = \"rain\"\n# heavy");
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
