//! A status document as text for people. Works for any process: what stands out is named first, the rest is listed.

use serde_json::{Map, Value};
use std::fmt::Write;
use std::path::Path;

/// Fields that are shown first, in this order, under these names.
const FIRST: [(&str, &str); 10] = [
    ("state", "state"),
    ("reason", "reason"),
    ("session_id", "session"),
    ("interface", "interface"),
    ("addresses", "addresses"),
    ("routes", "routes"),
    ("suite", "suite"),
    ("mtu", "mtu"),
    ("xdp_mode", "XDP mode"),
    ("af_xdp_mode", "AF_XDP mode"),
];
/// Deepest nesting that is shown; deeper values appear as JSON.
const DEPTH_MAX: usize = 4;

/// The document from `socket` as text.
#[must_use]
pub fn text(socket: &Path, document: &Value) -> String {
    let mut out = String::new();
    let process = document.get("process").and_then(Value::as_str).unwrap_or("process");
    let heading = writeln!(out, "{process} ({})", socket.display());
    debug_assert!(heading.is_ok(), "writing to a string does not fail");
    let Value::Object(fields) = document else {
        line(&mut out, 1, "answer", &document.to_string());
        return out;
    };
    for (key, name) in FIRST {
        if let Some(value) = fields.get(key).filter(|value| !value.is_null()) {
            entry(&mut out, 1, name, value);
        }
    }
    let rest = |key: &str| key != "process" && !FIRST.iter().any(|(first, _)| *first == key);
    for (key, value) in fields.iter().filter(|(key, value)| rest(key) && !value.is_null()) {
        entry(&mut out, 1, &key.replace('_', " "), value);
    }
    out
}

fn entry(out: &mut String, depth: usize, name: &str, value: &Value) {
    match value {
        Value::Object(fields) if depth < DEPTH_MAX => object(out, depth, name, fields),
        Value::Array(items)
            if items.iter().any(|item| item.is_object() || item.is_array()) && depth < DEPTH_MAX =>
        {
            for item in items {
                entry(out, depth, name, item);
            }
        }
        Value::Array(items) => {
            let words: Vec<String> = items.iter().map(plain).collect();
            line(out, depth, name, &words.join(", "));
        }
        Value::Object(_) | Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null => {
            line(out, depth, name, &plain(value));
        }
    }
}

/// Counters that are zero say nothing and are left out.
fn object(out: &mut String, depth: usize, name: &str, fields: &Map<String, Value>) {
    line(out, depth, name, "");
    let counters = name == "counters";
    for (key, value) in fields {
        if value.is_null() || counters && value.as_u64() == Some(0) {
            continue;
        }
        entry(out, depth + 1, &key.replace('_', " "), value);
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().filter(|c| !c.is_control()).collect(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Null => "–".to_owned(),
        Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn line(out: &mut String, depth: usize, name: &str, value: &str) {
    let indent = depth * 2;
    let written = if value.is_empty() {
        writeln!(out, "{:indent$}{name}:", "")
    } else {
        writeln!(out, "{:indent$}{:<22}{value}", "", format!("{name}:"))
    };
    debug_assert!(written.is_ok(), "writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_matters_comes_first_and_zeros_are_left_out() {
        let document = json!({
            "process": "jvpn", "counters": { "packets_in": 5, "replayed": 0 }, "state": "ATTACHED",
            "path": { "device": "upA", "rtt_ms": 1.25, "sending": true }, "gateway": null,
            "uplinks": [{ "device": "upA", "link": "usable" }, { "device": "upB", "link": "no_carrier" }],
        });
        let text = text(Path::new("/run/x.sock"), &document);
        assert!(text.starts_with("jvpn (/run/x.sock)\n  state:                ATTACHED\n"), "{text}");
        assert!(text.contains("rtt ms:") && text.contains("1.25") && text.contains("no_carrier"), "{text}");
        assert!(!text.contains("replayed") && !text.contains("gateway"), "{text}");
    }

    #[test]
    fn any_json_can_be_shown() {
        for odd in [
            json!(null),
            json!([1, [2, { "a": [{}] }]]),
            json!({ "a": { "b": { "c": { "d": { "e": 1 } } } } }),
        ] {
            assert!(!text(Path::new("s"), &odd).is_empty());
        }
        let colour = text(Path::new("s"), &json!({ "state": "\u{1b}[31mred" }));
        assert!(!colour.contains('\u{1b}'), "no terminal escapes from a document");
    }
}
