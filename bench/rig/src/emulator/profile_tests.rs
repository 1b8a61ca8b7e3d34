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
    ("[nat]\nttl = \"1s\"\nexternal = [\"here\"]", &["nat.external", "here", "left out"]),
    (
        "[nat]\nttl = \"1s\"\nexternal = [\"192.0.2.1\"]",
        &["nat.external = \"192.0.2.1\"", "left out", "client's own address", "each uplink"],
    ),
    ("[nat]\nttl = \"1s\"\nexternal = [\"10.200.1.2\"]", &["nat.external = \"10.200.1.2\"", "left out"]),
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
    // Each value is right by itself, but what it needs beside it is not there.
    ("[up]\nreorder_percent = 1", &["up.reorder_percent = 1:", "reorder_by", "jitter", "at 0s"]),
    (
        "[down]\nreorder_percent = 0.07\nreorder_by = \"0ms\"\njitter = \"0s\"",
        &["down.reorder_percent = 0.07:", "set reorder_by, as \"5ms\""],
    ),
    (
        "[up]\njitter = \"1ms\"\n[[change]]\nafter = \"1s\"\nboth = { reorder_percent = 1 }",
        &["change[0].both.reorder_percent = 1:", "at 1s"],
    ),
    (
        "[up]\nreorder_percent = 1\nreorder_by = \"5ms\"\n\
         [[change]]\nafter = \"2s\"\nlasts = \"1s\"\nup = { reorder_by = \"0ms\" }",
        &["up.reorder_percent = 1:", "at 2s"],
    ),
    (
        "[up]\nreorder_percent = 1\n[[change]]\nafter = \"0s\"\nlasts = \"1s\"\nboth = { jitter = \"1ms\" }",
        &["up.reorder_percent = 1:", "at 1s"],
    ),
    (
        "repeat = \"5s\"\n[[change]]\nafter = \"3s\"\nlasts = \"2001ms\"",
        &["change[0].lasts = 2s 1ms:", "at most 2s", "repeat = 5s"],
    ),
    ("[up]\nqueue = \"300ms\"", &["up.queue = 300ms:", "rate_mbit_s", "leave it out"]),
    (
        "[up]\nrate_mbit_s = 1\n[[change]]\nafter = \"1s\"\ndown = { queue = \"5ms\" }",
        &["change[0].down.queue = 5ms:", "rate_mbit_s"],
    ),
    (
        "[[change]]\nafter = \"1s\"\nlasts = \"1s\"\nup = { rate_mbit_s = 1 }\n\
         [[change]]\nafter = \"2s\"\nup = { queue = \"5ms\" }",
        &["change[1].up.queue = 5ms:", "at the same time"],
    ),
    ("[up]\nmtu_answer = \"icmp\"", &["up.mtu_answer = \"icmp\":", "mtu is", "leave it out"]),
    ("[up]\nmtu = 1400\n[down]\nmtu_answer = \"silent\"", &["down.mtu_answer = \"silent\":", "mtu is"]),
    (
        "[[change]]\nafter = \"1s\"\nboth = { mtu_answer = \"icmp\" }",
        &["change[0].both.mtu_answer = \"icmp\":", "mtu is"],
    ),
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

/// R7.1: what a value needs may stand elsewhere, if it holds at some moment at which the value does.
#[test]
fn r7_1_a_value_may_need_what_stands_elsewhere() {
    let right = [
        "[up]\nreorder_percent = 1\njitter = \"1ms\"",
        "[down]\nreorder_by = \"1ms\"\n[[change]]\nafter = \"1s\"\ndown = { reorder_percent = 1 }",
        "[up]\nreorder_percent = 1\nreorder_by = \"1ms\"\n[[change]]\nafter = \"1s\"\n\
         up = { reorder_percent = 0, reorder_by = \"0ms\" }",
        "repeat = \"5s\"\n[[change]]\nafter = \"3s\"\nlasts = \"2s\"",
        "[[change]]\nafter = \"3s\"\nlasts = \"24h\"",
        "[up]\nrate_mbit_s = 1\n[[change]]\nafter = \"1s\"\nboth = { queue = \"5ms\" }",
        "[up]\nqueue = \"40ms\"\n[[change]]\nafter = \"1s\"\nboth = { rate_mbit_s = 1, queue = \"5ms\" }",
        "[[change]]\nafter = \"1s\"\nlasts = \"2s\"\nup = { rate_mbit_s = 1 }\n\
         [[change]]\nafter = \"0s\"\nlasts = \"1001ms\"\nup = { queue = \"5ms\" }",
        "[up]\nmtu = 1400\n[[change]]\nafter = \"1s\"\nup = { mtu_answer = \"icmp\" }",
        "[up]\nmtu_answer = \"icmp\"\n[[change]]\nafter = \"1s\"\nup = { mtu = 1400 }",
        "[nat]\nttl = \"1s\"\nexternal = []",
    ];
    for text in right {
        Profile::parse(&format!("name = \"x\"\n{text}"))
            .unwrap_or_else(|error| panic!("{text}\n  says {error}"));
    }
}

/// What the document says of profiles.
fn documented() -> &'static str {
    let document = include_str!("../../../../docs/BENCHMARKS.md");
    let (_, below) = document.split_once("\n## Profiles of paths\n").unwrap();
    below.split("\n## ").next().unwrap()
}

/// R7.1: the example of the document is a profile, and every field that a profile may have is documented.
#[test]
fn r7_1_the_format_is_documented() {
    let (_, example) = documented().split_once("\n```toml\n").unwrap();
    let (example, _) = example.split_once("\n```").unwrap();
    let profile = Profile::parse(example).unwrap();
    assert!(!Profile::names().any(|name| name == profile.name), "a file of this name would be refused");
    assert!(profile.nat.is_some() && profile.repeat.is_some() && profile.changes.len() > 1);
    let mut fields = 0;
    for place in ["", "[up]\n", "[nat]\nttl = \"1s\"\n", "[[change]]\nafter = \"1s\"\n"] {
        fields += look_up(&format!("{place}colour = 1"));
    }
    fields += look_up("[up]\nburst = { enter_percent = 1, leave_percent = 5, loss_percent = 9, colour = 1 }");
    assert_eq!(fields, 7 + 12 + 2 + 7 + 3, "of all tables");
}

/// How many fields a table may have, each of them documented: the error says what is known beside `colour`.
fn look_up(text: &str) -> usize {
    let error = Profile::parse(&format!("name = \"x\"\n{text}")).unwrap_err().to_string();
    let (_, known) = error.split_once("expected ").unwrap_or_else(|| panic!("{text}\n  says {error}"));
    let known: Vec<_> = known.split('`').skip(1).step_by(2).collect();
    for field in &known {
        let ways = [format!("`{field}`"), format!("`[{field}]`"), format!("`[[{field}]]`")];
        assert!(ways.iter().any(|way| documented().contains(way)), "{field} is not documented");
    }
    known.len()
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
