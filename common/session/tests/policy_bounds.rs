//! R1.8, R10.3: both ends of every policy field, found by asking policy itself, so that no field can be forgotten; and every
//! pair of fields that can contradict each other.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use jvpn_session::Policy;
use jvpn_session::policy::PolicyError;
use std::time::Duration;

/// The fields that a policy may have, as the reader lists them.
fn fields() -> Vec<String> {
    let said = Policy::from_toml("no_such_field = 1").unwrap_err().to_string();
    let listed = said.split_once("expected one of").unwrap().1;
    let names: Vec<String> =
        listed.split('`').skip(1).step_by(2).map(str::to_owned).filter(|name| name != "preset").collect();
    assert!(names.len() >= 28, "{said}");
    names
}

/// The bounds that a refusal of a field names. `None`: it was not the field's own bounds that refused.
fn bounds(field: &str, value: &str) -> Option<(String, String)> {
    let Err(PolicyError::OutOfBounds { field: named, bounds, .. }) =
        Policy::from_toml(&format!("{field} = {value}"))
    else {
        return None;
    };
    if named != field {
        return None;
    }
    match bounds.strip_prefix("between ") {
        Some(both) => both.split_once(" and ").map(|(least, most)| (least.to_owned(), most.to_owned())),
        None => bounds.split_once(" in this version").map(|(only, _)| (only.to_owned(), only.to_owned())),
    }
}

#[test]
fn r1_8_every_field_is_refused_just_outside_its_bounds() {
    for field in fields() {
        let is_time = bounds(&field, "\"1000years\"").is_some();
        let far = if is_time { ["\"0s\"", "\"1000years\""] } else { ["0", "4294967295"] };
        let [below, above] =
            far.map(|value| bounds(&field, value).unwrap_or_else(|| panic!("{field} takes {value}")));
        assert_eq!(below, above, "{field}");
        let (least, most) = below;
        let outside = if is_time {
            let of = |text: &str| humantime::parse_duration(text).unwrap();
            let text = |span: Duration| format!("\"{}\"", humantime::format_duration(span));
            assert!(of(&least) < of(&most), "{field}");
            [text(of(&least) - Duration::from_nanos(1)), text(of(&most) + Duration::from_nanos(1))]
        } else {
            let of = |text: &str| text.parse::<u32>().unwrap();
            [(of(&least) - 1).to_string(), (of(&most) + 1).to_string()]
        };
        for value in outside {
            assert!(bounds(&field, &value).is_some(), "{field} = {value} is outside {least} to {most}");
        }
        for value in [least, most] {
            let value = if is_time { format!("\"{value}\"") } else { value };
            // Another field may be in its way; its own bounds are not.
            assert_eq!(bounds(&field, &value), None, "{field} = {value} is within its bounds");
        }
    }
}

#[test]
fn r1_8_fields_that_contradict_each_other_are_refused() {
    let pairs = [
        ("recovery_window = \"300s\"\ntransport_loss_ttl = \"299s\"", "transport_loss_ttl"),
        ("probe_traffic = \"30s\"\nprobe_idle = \"29s\"", "probe_idle"),
        ("suspicion = \"300ms\"\nprobe_traffic = \"299ms\"", "probe_traffic"),
        ("rekey_soft = \"60s\"\nrekey_hard = \"69s\"", "rekey_hard"),
        ("rekey_soft_packets = 5000\nrekey_hard_packets = 9999", "rekey_hard_packets"),
    ];
    for (text, field) in pairs {
        for preset in ["edge", "mobile", "fintech", "satellite"] {
            let error = Policy::from_toml(&format!("preset = \"{preset}\"\n{text}")).unwrap_err();
            let PolicyError::OutOfBounds { field: named, bounds, .. } = &error else { panic!("{error}") };
            assert_eq!(*named, field, "{error}");
            assert!(bounds.starts_with("at least "), "the other field is named: {error}");
        }
    }
}

/// Text that is no policy at all is refused, whatever it is.
#[test]
fn r1_8_odd_spellings_are_refused() {
    for value in
        ["\"1e3s\"", "\"18446744073709551616s\"", "\"584554530873years\"", "\"1s2\"", "true", "[]", "1.5"]
    {
        for field in fields() {
            let taken = Policy::from_toml(&format!("{field} = {value}"));
            assert!(taken.is_err(), "{field} = {value}");
        }
    }
    assert!(Policy::from_toml("session_ttl = \"1h\"\nsession_ttl = \"2h\"").is_err(), "named twice");
}
