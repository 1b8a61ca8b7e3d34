//! The documents say what the code says: tables, sizes, numbers, names, examples, and the tests that a requirement
//! cites. What cannot be compared by a machine is left to the reader. R6.1, R10.1, R10.3.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jvpn_abi::wire::{
    self, MsgType, Suite, control, data, handshake, internal, path, reattach, reset, retry,
};
use jvpn_abi::{BootTime, DropReason, Endpoint, PROTOCOL_VERSION, Reason};
use jvpn_controlplane::audit::{AuditEvent, AuditKind, Decision, Encoder, LimitScope, Line, Violation, note};
use jvpn_controlplane::store::Unreadable;
use jvpn_crypto::{limits, window};
use jvpn_session::messages::{ControlMessage, SessionId, SwitchCause, TicketBatch};
use jvpn_session::{Policy, State, StateVersion};
use schema::fits;
use serde_json::Value;

#[path = "docs/abuse.rs"]
mod abuse;
#[path = "docs/results.rs"]
mod results;
#[path = "docs/schema.rs"]
mod schema;
#[path = "docs/tables.rs"]
mod tables;
#[path = "docs/takeover.rs"]
mod takeover;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Files of the tree with this ending, relative to its root.
fn files(ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut queue = vec![PathBuf::from(ROOT)];
    while let Some(dir) = queue.pop() {
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().unwrap().is_dir() {
                if name != "target" && name != ".git" {
                    queue.push(path);
                }
            } else if name.ends_with(ending) {
                found.push(path.strip_prefix(ROOT).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no {ending}");
    found
}

/// The rows of the first table under a heading, without its head; cells without blanks around them.
fn table(path: &str, heading: &str) -> Vec<Vec<String>> {
    let text = read(path);
    let (_, below) =
        text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{path}: no {heading}"));
    let rows =
        below.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let rows: Vec<_> = rows.skip(2).map(cells).collect();
    assert!(!rows.is_empty(), "{path}: no table under {heading}");
    rows
}

fn cells(line: &str) -> Vec<String> {
    let line = line.trim().trim_start_matches('|').trim_end_matches('|').replace("\\|", "/");
    line.split('|').map(|cell| cell.trim().to_owned()).collect()
}

/// (first cell, second cell) of each row.
fn pairs(path: &str, heading: &str) -> Vec<(String, String)> {
    let rows = table(path, heading);
    rows.into_iter().map(|row| (row[0].trim_matches('`').to_owned(), row[1].clone())).collect()
}

fn owned<A: ToString, B: ToString>(pairs: impl IntoIterator<Item = (A, B)>) -> Vec<(String, String)> {
    pairs.into_iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
}

const PROTOCOL: &str = "docs/PROTOCOL.md";
const OPERATING: &str = "docs/OPERATING.md";

/// R1.4, R1.5: the normative table is the code's, but for the rows that say IGNORED, which it leaves out by its own rule.
#[test]
fn transitions_are_the_codes() {
    let live: Vec<_> = State::ALL.iter().filter(|state| state.is_live()).map(|state| state.name()).collect();
    let expand = |row: &Vec<String>| -> Vec<Vec<String>> {
        let from = row[0].replace("live", &live.join(", "));
        let rest = row[1..].to_vec();
        from.split(", ").map(|from| [vec![from.to_owned()], rest.clone()].concat()).collect()
    };
    let documented = table(PROTOCOL, "## Transitions");
    let documented: Vec<_> = documented.iter().flat_map(expand).collect();
    let golden = read("common/session/tests/transition_table.md");
    let golden: Vec<_> = golden.lines().skip(2).map(cells).filter(|row| row[3] != "IGNORED").collect();
    let set = |rows: &[Vec<String>]| rows.iter().cloned().collect::<BTreeSet<_>>();
    let (ours, theirs) = (set(&documented), set(&golden));
    assert_eq!(ours.difference(&theirs).collect::<Vec<_>>(), Vec::<&Vec<String>>::new(), "not in the code");
    assert_eq!(
        theirs.difference(&ours).collect::<Vec<_>>(),
        Vec::<&Vec<String>>::new(),
        "not in the document"
    );
    assert_eq!(documented.len(), ours.len(), "a row stands twice");
}

/// `HandshakeInit` as the document writes it.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_uppercase());
    }
    out
}

#[test]
fn datagram_types_are_the_codes() {
    let types = (0..=u8::MAX).filter_map(MsgType::from_octet);
    let expected = types.map(|kind| (format!("0x{:02x}", kind.octet()), snake(&format!("{kind:?}"))));
    assert_eq!(pairs(PROTOCOL, "### Datagram types"), owned(expected));
}

#[test]
fn sizes_and_limits_are_the_codes() {
    let sizes = [
        ("PROTOCOL_VERSION", usize::from(PROTOCOL_VERSION)),
        ("MAX_CONTROL_DATAGRAM", wire::MAX_CONTROL_DATAGRAM),
        ("TAG_LEN", wire::TAG_LEN),
        ("MAC_LEN", wire::MAC_LEN),
        ("COOKIE_LEN", wire::COOKIE_LEN),
        ("DATA_HEADER_LEN", data::DATA_HEADER_LEN),
        ("DATA_OVERHEAD", data::DATA_OVERHEAD),
        ("SLOT_INDEX_BITS", data::SLOT_INDEX_BITS as usize),
        ("SLOT_SERIAL_BITS", data::SLOT_SERIAL_BITS as usize),
        ("PROBE_LEN", internal::PROBE_LEN),
        ("INIT_LEN", handshake::INIT_LEN),
        ("INIT_PAYLOAD_LEN", handshake::INIT_PAYLOAD_LEN),
        ("RESPONSE_PAYLOAD_MAX", handshake::RESPONSE_PAYLOAD_MAX),
        ("REQUEST_LEN", reattach::REQUEST_LEN),
        ("REQUEST_PAYLOAD_LEN", reattach::REQUEST_PAYLOAD_LEN),
        ("HANDLE_LEN", reattach::HANDLE_LEN),
        ("ECHO_LEN", reattach::ECHO_LEN),
        ("ACK_PAYLOAD_MAX", reattach::ACK_PAYLOAD_MAX),
        ("REJECT_LEN", reattach::REJECT_LEN),
        ("CONTROL_HEADER_LEN", control::CONTROL_HEADER_LEN),
        ("CONTROL_OVERHEAD", control::CONTROL_OVERHEAD),
        ("RESET_LEN", reset::RESET_LEN),
        ("RETRY_LEN", retry::RETRY_LEN),
        ("TICKET_ID_LEN", path::TICKET_ID_LEN),
        ("TICKET_KEY_LEN", jvpn_crypto::path::TICKET_KEY_LEN),
        ("PATH_PROBE_LEN", path::PATH_PROBE_LEN),
        ("PATH_ECHO_LEN", path::PATH_ECHO_LEN),
        ("WINDOW_LEN", usize::try_from(window::WINDOW_LEN).unwrap()),
    ];
    assert_eq!(pairs(PROTOCOL, "### Sizes"), owned(sizes));
    let keys = [
        ("REKEY_SOFT_PACKETS", limits::REKEY_SOFT_PACKETS),
        ("HARD_PACKETS", limits::HARD_PACKETS),
        ("HARD_PACKETS_LARGE", limits::HARD_PACKETS_LARGE),
        ("FAILED_OPENS_AES_GCM", limits::FAILED_OPENS_AES_GCM),
        ("FAILED_OPENS_CHACHA", limits::FAILED_OPENS_CHACHA),
    ];
    let times = [("REKEY_SOFT_TIME", limits::REKEY_SOFT_TIME), ("HARD_TIME", limits::HARD_TIME)];
    let times = times.map(|(name, time)| (name.to_owned(), format!("{} s", time.as_secs())));
    assert_eq!(pairs(PROTOCOL, "## Limits of keys"), [owned(keys), times.to_vec()].concat());
}

/// Name and position.
type Field = (&'static str, usize);

/// The byte tables are without gaps, begin with their type and have each field where the code has it.
#[test]
fn byte_tables_are_the_codes() {
    let to_end = usize::MAX;
    let layouts: [(&str, usize, &[Field]); 12] = [
        ("DATA", to_end, &[("body", data::DATA_HEADER_LEN)]),
        ("Internal frames", internal::PROBE_LEN, &[("highest", 32)]),
        (
            "HANDSHAKE_INIT",
            handshake::INIT_LEN,
            &[
                ("client index", handshake::CLIENT_INDEX_AT),
                ("MAC", handshake::INIT_MAC_AT),
                ("cookie", handshake::INIT_COOKIE_AT),
                ("Noise message 1", handshake::INIT_NOISE_AT),
            ],
        ),
        ("HANDSHAKE_RESPONSE", to_end, &[("Noise message 2", handshake::RESPONSE_NOISE_AT)]),
        (
            "REATTACH_REQUEST",
            reattach::REQUEST_LEN,
            &[
                ("kind", reattach::KIND_AT),
                ("handle", reattach::HANDLE_AT),
                ("masked", reattach::MASKED_AT),
                ("cookie", reattach::COOKIE_AT),
                ("Noise message 1", reattach::NOISE_AT),
                ("MAC", reattach::MAC_AT),
            ],
        ),
        ("REATTACH_ACK", to_end, &[("echo", reattach::ECHO_AT), ("Noise message 2", reattach::ACK_NOISE_AT)]),
        (
            "REATTACH_REJECT",
            reattach::REJECT_LEN,
            &[
                ("reason", reattach::REJECT_REASON_AT),
                ("retry_after", reattach::REJECT_RETRY_AFTER_AT),
                ("MAC", reattach::REJECT_MAC_AT),
            ],
        ),
        ("CONTROL", to_end, &[("body", control::CONTROL_HEADER_LEN)]),
        ("RESET", reset::RESET_LEN, &[("token", 12)]),
        (
            "RETRY",
            retry::RETRY_LEN,
            &[
                ("about", retry::RETRY_ABOUT_AT),
                ("kind", retry::RETRY_KIND_AT),
                ("echo", retry::RETRY_ECHO_AT),
                ("cookie", retry::RETRY_COOKIE_AT),
                ("MAC", retry::RETRY_MAC_AT),
            ],
        ),
        ("PATH_PROBE", path::PATH_PROBE_LEN, &[("MAC", path::PROBE_MAC_AT)]),
        ("PATH_ECHO", path::PATH_ECHO_LEN, &[("MAC", path::ECHO_MAC_AT)]),
    ];
    for (name, len, fields) in layouts {
        let mut next = 0;
        for row in table(PROTOCOL, &format!("### {name}")) {
            let (first, last) = row[0].split_once('–').unwrap_or((&row[0], &row[0]));
            assert_eq!(first.parse::<usize>().unwrap(), next, "{name}: a gap before {}", row[1]);
            next = if last.is_empty() { to_end } else { last.parse::<usize>().unwrap() + 1 };
            if let Some((_, at)) = fields.iter().find(|(field, _)| *field == row[1]) {
                assert_eq!(first.parse::<usize>().unwrap(), *at, "{name}: {}", row[1]);
            }
        }
        assert_eq!(next, len, "{name} ends elsewhere");
        for (field, _) in fields {
            let found = table(PROTOCOL, &format!("### {name}")).iter().any(|row| row[1] == *field);
            assert!(found, "{name} has no {field}");
        }
    }
}

#[test]
fn numbers_and_names_are_the_codes() {
    let reasons = Reason::ALL.iter().map(|reason| (reason.number(), reason.name()));
    assert_eq!(pairs(PROTOCOL, "### Reasons of transitions and rejections"), owned(reasons));
    let drops = DropReason::ALL.iter().map(|reason| (reason.number(), reason.name()));
    assert_eq!(pairs(PROTOCOL, "### Reasons of the packet path"), owned(drops));
    let suites = (0..=u8::MAX).filter_map(Suite::from_number).map(|suite| (suite as u8, suite.name()));
    assert_eq!(pairs(PROTOCOL, "### Suites"), owned(suites));
    let causes = (0..=u8::MAX).filter_map(SwitchCause::from_number);
    assert_eq!(
        pairs(PROTOCOL, "### Causes of a reattach"),
        owned(causes.map(|cause| (cause as u8, cause.name())))
    );
    let reason = Reason::PeerTerminate;
    let messages = [
        ("TERMINATE", ControlMessage::Terminate { reason }),
        ("PATH_HINT", ControlMessage::PathHint { observed: Endpoint::v4([10, 0, 0, 1], 9), cookie: [0; 16] }),
        ("STATE", ControlMessage::State { version: 1, state: State::Attached.number(), reason }),
        ("ASK_TICKETS", ControlMessage::AskTickets),
        ("TICKETS", ControlMessage::Tickets(TicketBatch { lifetime_s: 1, tickets: Vec::new() })),
        ("TAKE_OVER", ControlMessage::TakeOver { epoch: 1, version: 2 }),
    ];
    let messages = messages.map(|(name, message)| (message.encode()[0], name));
    assert_eq!(pairs(PROTOCOL, "### CONTROL messages"), owned(messages));
    let states: Vec<_> = State::ALL.iter().map(|state| format!("{state} {}", state.number())).collect();
    let sentence = format!("States on the wire: {}.", states.join(", "));
    assert!(unwrapped(&read(PROTOCOL)).contains(&sentence), "{sentence}");
}

/// Line ends as blanks.
fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Every test that the table of requirements names is where it says, and the table has every ID that a test cites.
#[test]
fn cited_tests_and_requirements_exist() {
    let text = read("docs/TRACEABILITY.md");
    let ids: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("### ")?.split(' ').next()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "an ID stands twice");
    let mut named = 0;
    for item in text.split("\n- ").skip(1) {
        let item = item.split("\n\n").next().unwrap();
        let quoted: Vec<_> = item.split('`').skip(1).step_by(2).collect();
        let (path, tests) = quoted.split_first().unwrap();
        let source = read(path);
        for test in tests {
            assert!(source.contains(&format!("fn {test}(")), "{path} has no test {test}");
            named += 1;
        }
    }
    assert!(named > 100, "only {named} tests are named");
    for path in files(".rs").iter().filter(|path| !path.starts_with("xtask/")) {
        let source = read(path);
        let comments = source.lines().filter(|line| line.trim_start().starts_with("//"));
        let unknown: Vec<_> = comments.flat_map(requirement_ids).filter(|id| !ids.contains(id)).collect();
        assert!(unknown.is_empty(), "{path}: {unknown:?} are not in docs/TRACEABILITY.md");
    }
}

fn requirement_ids(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_')).filter_map(|word| {
        let word = word.trim_end_matches('.');
        let (row, column) = word.strip_prefix('R')?.split_once('.')?;
        let number = |text: &str| !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
        (number(row) && number(column)).then_some(word)
    })
}

/// Every test that another document quotes by its name exists somewhere.
#[test]
fn quoted_tests_exist() {
    let sources: String = files(".rs").iter().map(|path| read(path)).collect();
    for path in files(".md").iter().filter(|path| path.starts_with("docs/") || *path == "README.md") {
        let text = read(path);
        for parenthesis in text.split('(').skip(1).filter_map(|rest| rest.split(')').next()) {
            let quoted = parenthesis.split('`').skip(1).step_by(2);
            let looks_like_a_test = |name: &&str| name.matches('_').count() > 1 && is_lower(name);
            for name in quoted.filter(looks_like_a_test) {
                let known = sources.contains(&format!("fn {name}(")) || sources.contains(&format!("{name}:"));
                assert!(known || sources.contains(&format!("\"{name}\"")), "{path} quotes `{name}`");
            }
        }
    }
}

fn is_lower(name: &str) -> bool {
    name.bytes().all(|octet| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'_')
}

/// One of each kind. A new kind does not compile here until it has a sample.
fn samples() -> Vec<AuditKind> {
    let remote = Endpoint::v4([198, 51, 100, 7], 4_242);
    let kinds = vec![
        AuditKind::NodeStarted,
        AuditKind::SessionCreated { peer: "laptop".into(), policy: "edge".into() },
        AuditKind::StateChange { previous: None, new: State::Birth },
        AuditKind::StateChange { previous: Some(State::Attached), new: State::Terminated },
        AuditKind::TransportSwitch { previous: None, new: remote, switch_latency_ms: 2, epoch: 3 },
        AuditKind::TransportSwitch { previous: Some(remote), new: remote, switch_latency_ms: 0, epoch: 3 },
        AuditKind::RecoveryComplete { detect_ms: 1, reattach_ms: 2, outage_ms: 3, attempts: 4 },
        AuditKind::ReattachReject { remote, retry_after_ms: 0 },
        AuditKind::Policy { name: "max_switches_per_min", threshold: 8, observed: 9 },
        AuditKind::StoreRecords {
            problem: Unreadable::NewerLayout,
            decision: Decision::Kept,
            sessions: vec![SessionId([7; 16])],
        },
        AuditKind::Termination { total_lifetime_ms: u64::MAX, total_switches: 0, note: None },
        AuditKind::Termination { total_lifetime_ms: 1, total_switches: 0, note: note(&"ä\n\"".repeat(200)) },
        AuditKind::OwnerAcquired { term: 1 },
        AuditKind::OwnerTransferred { term: 1 },
        AuditKind::TelemetryDegraded { dropped: 1 },
    ];
    let violations = [Violation::ReplayDetected, Violation::AuthFail, Violation::UnknownPeer];
    let violations = violations.map(|violation| AuditKind::Security { violation });
    let limits = [LimitScope::Session, LimitScope::Global, LimitScope::Edge]
        .map(|scope| AuditKind::RateLimit { scope });
    kinds.into_iter().chain(violations).chain(limits).collect()
}

/// Whether lines of a kind are summarised, and whether they belong to a session, to the node, or to either.
fn placement(kind: &AuditKind) -> (bool, &'static [bool]) {
    match kind {
        AuditKind::NodeStarted | AuditKind::StoreRecords { .. } | AuditKind::TelemetryDegraded { .. } => {
            (false, &[false])
        }
        AuditKind::SessionCreated { .. }
        | AuditKind::StateChange { .. }
        | AuditKind::TransportSwitch { .. }
        | AuditKind::RecoveryComplete { .. }
        | AuditKind::Termination { .. }
        | AuditKind::OwnerAcquired { .. }
        | AuditKind::OwnerTransferred { .. } => (false, &[true]),
        AuditKind::ReattachReject { .. } => (true, &[true]),
        AuditKind::Security { .. } | AuditKind::RateLimit { .. } | AuditKind::Policy { .. } => {
            (true, &[true, false])
        }
    }
}

/// R6.1: what the encoder emits for every kind fits the schema, and the schema has nothing that is never emitted.
#[test]
fn every_audit_event_fits_its_schema() {
    let schema: Value = serde_json::from_str(&read("docs/audit-event.schema.json")).unwrap();
    let encoder = Encoder { node_id: "gw1".into(), unix_offset_ms: 1_700_000_000_000 };
    let mut seen = BTreeSet::new();
    for kind in samples() {
        let (summarised, belongs) = placement(&kind);
        for in_session in belongs {
            let session = in_session.then_some((SessionId([7; 16]), StateVersion(9)));
            let reason = (*in_session || summarised).then_some(Reason::RecoveryStart);
            let event = AuditEvent { at: BootTime(5), session, reason, kind: kind.clone() };
            let line = Line { event, suppressed: summarised.then_some(3) };
            let line: Value = serde_json::from_str(&encoder.encode(&line)).unwrap();
            fits(&schema, &schema, &line).unwrap_or_else(|why| panic!("{line}: {why}"));
            seen.insert(line["event_type"].as_str().unwrap().to_owned());
            let mut spoiled = line.clone();
            spoiled["extra"] = Value::Null;
            assert!(fits(&schema, &schema, &spoiled).is_err(), "a field that no kind has");
            spoiled = line.clone();
            spoiled.as_object_mut().unwrap().remove("node_id");
            assert!(fits(&schema, &schema, &spoiled).is_err(), "a field that all kinds have");
        }
    }
    let of_schema = schema["$defs"].as_object().unwrap().values();
    let of_schema = of_schema.filter_map(|def| def["properties"]["event_type"]["const"].as_str());
    assert_eq!(of_schema.map(str::to_owned).collect::<BTreeSet<_>>(), seen);
    assert_eq!(
        pairs(PROTOCOL, "## Audit events").into_iter().map(|row| row.0).collect::<BTreeSet<_>>(),
        seen
    );
    let names = |list: &Value| -> BTreeSet<String> {
        list.as_array().unwrap().iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let defs = &schema["$defs"];
    let reasons = Reason::ALL.iter().map(|reason| reason.name().to_owned());
    assert_eq!(names(&defs["reason"]["enum"]), reasons.collect());
    let states = State::ALL.iter().map(|state| state.name().to_owned());
    assert_eq!(names(&defs["state"]["enum"]), states.collect());
    let source = read("controlplane/src/audit/event.rs");
    let (_, violations) = source.split_once("impl Violation {").unwrap();
    let violations = violations.split("\n}\n").next().unwrap().split('"').skip(1).step_by(2);
    let documented = &defs["security_event"]["properties"]["violation_type"]["enum"];
    assert_eq!(names(documented), violations.map(str::to_owned).collect());
}

/// R10.1: `cargo xtask <verb>` in any document is a verb of xtask.
#[test]
fn commands_are_verbs_of_xtask() {
    let source = read("xtask/src/main.rs");
    let (_, list) = source.split_once("const VERB_HELP").unwrap();
    let (list, _) = list.split_once("];").unwrap();
    let verbs: BTreeSet<_> =
        list.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.split('"').next()).collect();
    for path in files(".md") {
        for rest in read(&path).split("cargo xtask ").skip(1) {
            let verb: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            assert!(verbs.contains(verb.as_str()), "{path}: `cargo xtask {verb}`");
        }
    }
    for verb in ["demo", "test"] {
        assert!(read("README.md").contains(&format!("cargo xtask {verb} ")), "README does not name {verb}");
    }
}

/// R10.1: the examples of README are taken by the very parsers of the three processes.
#[test]
fn examples_are_accepted() {
    let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let readme = read("README.md");
    let example = |name: &str| {
        let (_, rest) = readme.split_once(&format!("```toml\n# {name}")).unwrap();
        let (text, _) = rest.split_once("\n```").unwrap();
        let (_, text) = text.split_once('\n').unwrap();
        let with_key = |line: &str| {
            if line.contains("\"<") { format!("public_key = \"{key}\"") } else { line.to_owned() }
        };
        text.lines().map(with_key).collect::<Vec<_>>().join("\n")
    };
    let data_plane: jvpn_dataplane::config::Config = toml::from_str(&example("dataplane.toml")).unwrap();
    data_plane.validate().unwrap();
    jvpn_controlplane::config::Config::parse(&example("controlplane.toml")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let client = dir.path().join("client.toml");
    fs::write(&client, example("client.toml")).unwrap();
    jvpn_client::config::Config::load(&client).unwrap();
}

/// R10.1: every key that a configuration file may have is in the reference, and no other.
#[test]
fn every_configuration_key_is_documented() {
    let processes = [
        ("### jvpn-dataplane", "dataplane/src/config.rs"),
        ("### jvpn-controlplane", "controlplane/src/config.rs"),
        ("### jvpn up", "client/src/config.rs"),
    ];
    for (heading, path) in processes {
        let documented = pairs(OPERATING, heading).into_iter();
        let documented =
            documented.map(|(key, _)| key.rsplit('.').next().unwrap().to_owned()).collect::<BTreeSet<_>>();
        let mut keys = keys_of(&read(path));
        if path.starts_with("dataplane") {
            keys.extend(keys_of(&read("dataplane/src/tuning.rs")));
            keys.extend(keys_of(&read("dataplane/src/config/sides.rs")));
        }
        // The names of tables; `preset` stands for the whole of [policy], which has a table of its own.
        for table in [
            "wan",
            "lan",
            "tunnel",
            "limits",
            "tuning",
            "abuse",
            "peer",
            "interface",
            "gateway",
            "uplink",
            "policy",
            "paths",
            "traffic",
            "offload",
        ] {
            keys.remove(table);
        }
        if heading == "### jvpn up" {
            keys.remove("dns");
            keys.extend(keys_of(&read("client/src/config/traffic.rs")));
        }
        let is_table = |key: &String| ["interface", "gateway", "preset"].contains(&key.as_str());
        let missing: Vec<_> = keys.difference(&documented).filter(|key| !is_table(key)).collect();
        let extra: Vec<_> = documented.difference(&keys).filter(|key| !is_table(key)).collect();
        assert!(
            missing.is_empty() && extra.is_empty(),
            "{path}: not documented {missing:?}, no such key {extra:?}"
        );
    }
    let policy = pairs(OPERATING, "### Policy").into_iter();
    let policy: BTreeSet<_> =
        policy.map(|(key, _)| key.trim_end_matches(" *").trim_matches('`').to_owned()).collect();
    let mut keys = keys_of(&read("common/session/src/policy.rs"));
    keys.remove("preset");
    assert_eq!(policy, keys);
}

/// Field names, as the file writes them, of the structs that refuse unknown fields.
fn keys_of(source: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for part in source.split("deny_unknown_fields").skip(1) {
        let (_, body) = part.split_once("{\n").unwrap();
        let mut renamed = None;
        for line in body.lines().take_while(|line| !line.starts_with('}')) {
            let line = line.trim();
            if line.starts_with("#[serde(skip") {
                renamed = Some("");
            } else if let Some((_, name)) = line.split_once("rename = \"") {
                renamed = name.split('"').next();
            } else if !line.starts_with('#')
                && !line.starts_with("//")
                && let Some((name, _)) = line.split_once(':')
            {
                let name = name.rsplit(' ').next().unwrap();
                keys.insert(renamed.take().unwrap_or(name).to_owned());
            }
        }
    }
    keys.remove("");
    keys
}

/// R10.3: the numbers of the presets.
#[test]
fn presets_are_documented() {
    let names = ["edge", "mobile", "fintech", "satellite"];
    let presets = names.map(|name| format!("{:?}", Policy::preset(name).unwrap()));
    for row in table(OPERATING, "### Policy") {
        let key = row[0].trim_end_matches(" *").trim_matches('`');
        for (preset, cell) in presets.iter().zip(&row[2..]) {
            let (_, rest) = preset.split_once(&format!("{key}: ")).unwrap();
            let value = rest.split([',', ' ']).next().unwrap();
            let expected =
                cell.parse::<u32>().map_or_else(|_| format!("{:?}", duration(cell)), |n| n.to_string());
            assert_eq!(value, expected, "{key}: {cell}");
        }
    }
}

fn duration(text: &str) -> Duration {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap();
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().unwrap();
    match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "min" => Duration::from_secs(number * 60),
        "h" => Duration::from_secs(number * 3_600),
        other => panic!("'{text}': no unit {other}"),
    }
}
