//! Further comparisons of the documents with the code: sizes of shared tables and payloads, requests, counters, shape.

use std::collections::BTreeSet;
use std::path::Path;

use jvpn_abi::tables;
use jvpn_abi::wire::{SlotId, Suite};
use jvpn_abi::{CONTRACT_VERSION, DropReason};
use jvpn_client::agent::Counters as ClientCounters;
use jvpn_controlplane::admin::Request;
use jvpn_controlplane::engine::Counters;
use jvpn_session::Policy;
use jvpn_session::messages::{
    BindingGrant, Handle, HandshakeAnswer, HandshakeGrant, ReattachGrant, SessionId,
};

use super::{OPERATING, PROTOCOL, ROOT, files, read, table, unwrapped};

const ARCHITECTURE: &str = "docs/ARCHITECTURE.md";

/// R8.2: octets and bounds of the shared tables.
#[test]
fn shared_tables_are_the_codes() {
    let sizes = [
        ("BINDINGS", size_of::<tables::BindingEntry>().to_string()),
        ("ROUTES", format!("{} + 4", size_of::<tables::RouteKey>())),
        ("GATE", size_of::<tables::Gate>().to_string()),
        ("LIMITS", size_of::<tables::EdgeBuckets>().to_string()),
        ("HANDLES", format!("8 + {}", size_of::<jvpn_abi::edge::HandleEntry>())),
        ("EDGE", thousands(size_of::<jvpn_abi::edge::EdgeLedger>())),
        ("SOURCES", format!("{} + 16", size_of::<tables::SourceKey>())),
        ("KEYS", size_of::<tables::InstallEntry>().to_string()),
        ("CONTEXT", thousands(size_of::<tables::Context>())),
        (
            "its windows, owners",
            format!(
                "{} + {}",
                thousands(size_of::<tables::ReplayWindow>()),
                per_window(tables::window_owners_at)
            ),
        ),
        ("REPORTS", thousands(size_of::<tables::WorkerReport>())),
        ("JOURNAL", thousands(tables::JOURNAL_RECORD_LEN)),
    ];
    let rows = table(ARCHITECTURE, "## The shared tables");
    for (name, octets) in sizes {
        let row = rows.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("{name} has no row"));
        assert_eq!(row[5], octets, "{name}");
    }
    let windows = rows.iter().find(|row| row[0] == "its windows, owners").unwrap();
    assert_eq!(windows[4], format!("{} × `slots`", tables::WINDOWS_PER_SLOT));
    let counters = rows.iter().find(|row| row[0] == "COUNTERS").unwrap();
    assert_eq!(counters[4], format!("{} per CPU", tables::COUNTERS_LEN));
    let text = unwrapped(&read(ARCHITECTURE));
    let copies = format!("two equal copies of {} octets", tables::JOURNAL_COPY_LEN);
    let contract = format!("`CONTRACT_VERSION` {CONTRACT_VERSION}");
    for sentence in [copies, contract] {
        assert!(text.contains(&sentence), "{ARCHITECTURE} does not say '{sentence}'");
    }
}

/// Octets of each window in what lies behind `from` in the memory of CONTEXT.
fn per_window(from: fn(u32) -> usize) -> usize {
    const SLOTS: u32 = 1 << 16;
    (tables::context_octets(SLOTS) - from(SLOTS)) / (SLOTS * tables::WINDOWS_PER_SLOT) as usize
}

/// `2496` as the document writes it.
fn thousands(number: usize) -> String {
    if number < 1_000 { number.to_string() } else { format!("{},{:03}", number / 1_000, number % 1_000) }
}

/// Octets of what grants carry.
#[test]
fn payload_sizes_are_the_codes() {
    let binding = BindingGrant {
        slot: SlotId(0),
        shard: 0,
        epoch: 0,
        anchor_version: 0,
        handle: Handle([0; 8]),
        slot_token: [0; 16],
        handle_token: [0; 16],
    };
    let reattach = ReattachGrant { rekey: true, key_number: 1, binding: binding.clone() }.encode();
    assert_eq!(reattach[..5], [2, 0, 0, 0, 1], "kind and key number come first");
    let binding_len = reattach.len() - 5;
    let grant = HandshakeGrant {
        version: 1,
        suite: Suite::Aes256Gcm,
        session_id: SessionId([0; 16]),
        binding,
        mtu: 1_280,
        addresses: Vec::new(),
        gateway_addresses: Vec::new(),
        routes: Vec::new(),
        dns: Vec::new(),
        policy: Policy::default().client_policy(),
    };
    // Outcome, version, suite, SessionId, binding, MTU, four counts.
    let before = 1 + 1 + 1 + 16 + binding_len + 2 + 4;
    let policy_len = HandshakeAnswer::Granted(Box::new(grant)).encode().len() - before;
    let text = read(PROTOCOL);
    for sentence in
        [format!("**binding** ({binding_len} octets)"), format!("**policy** ({policy_len} octets)")]
    {
        assert!(text.contains(&sentence), "{PROTOCOL} does not say '{sentence}'");
    }
}

/// R10.1: the requests that the reference names are taken by the socket's own parser.
#[test]
fn requests_are_taken() {
    let id = "00112233445566778899aabbccddeeff";
    for row in table(OPERATING, "### Operator commands").iter().filter(|row| row[2] != "–") {
        let line = row[2].trim_matches('`').replace("ID", id);
        let request = Request::parse(&line);
        assert!(request.is_ok_and(|request| request != Request::Status), "{line}");
    }
}

/// R10.1: each counter that the reference names is one of its process.
#[test]
fn counters_exist() {
    let control_plane: BTreeSet<_> = Counters::default().by_name().into_keys().collect();
    let client = serde_json::to_value(ClientCounters::default()).unwrap();
    for row in table(OPERATING, "### Counters of the newer parts") {
        for name in row[0].split('`').skip(1).step_by(2) {
            let exists = match row[1].as_str() {
                "control plane" => control_plane.contains(name),
                "client" => client.get(name).is_some(),
                "data plane (XDP)" => DropReason::ALL.iter().any(|reason| reason.name() == name),
                other => panic!("no process '{other}'"),
            };
            assert!(exists, "{}: no counter {name}", row[1]);
        }
    }
}

#[test]
fn documents_are_in_shape() {
    for path in files(".md").iter().filter(|path| !path.contains("transition_table")) {
        let text = read(path);
        for (number, line) in text.lines().enumerate() {
            assert!(line.chars().count() <= 120, "{path}:{}: longer than 120 columns", number + 1);
        }
        let dir = Path::new(ROOT).join(path).parent().unwrap().to_owned();
        let inline = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let named =
            text.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: ").map(|(_, to)| to));
        for target in inline.chain(named).filter(|target| !target.contains("://")) {
            assert!(dir.join(target).exists(), "{path}: the link to {target} leads nowhere");
        }
    }
}
