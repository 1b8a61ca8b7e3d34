//! How long a restarted control plane takes with 10,000 sessions. Prints, and judges nothing: run it by hand, in a release
//! build, on a quiet machine.

use crate::client::Client;
use crate::rig::{GATEWAY, JOURNAL_CAPACITY, PATH_A, Rig, Seeded};
use jvpn_abi::tables::{BindingWord, JOURNAL_RECORD_LEN, JournalRecord};
use jvpn_abi::wire::Suite;
use jvpn_abi::{BootTime, Endpoint};
use jvpn_controlplane::engine::{PeerSettings, TableCommand, TableEvent};
use jvpn_controlplane::journal::Journal;
use jvpn_crypto::keys::{PresharedKey, StaticSecret};
use jvpn_session::Policy;
use jvpn_tables::mapping::shared_memory;
use std::time::{Duration, Instant};

const SESSIONS: u32 = 10_000;

fn peer(number: u32, secret: &StaticSecret) -> PeerSettings {
    let [_, _, high, low] = number.to_be_bytes();
    let address = format!("10.78.{high}.{low}/32").parse().unwrap();
    PeerSettings {
        name: format!("peer{number}"),
        public_key: secret.public(),
        preshared_key: PresharedKey::default(),
        addresses: vec![address],
        prefixes: vec![address],
    }
}

/// R7.2: 10,000 ATTACHED sessions: from an empty process to one that serves them all.
#[test]
#[ignore = "prints a time; takes a minute in a debug build"]
fn r7_2_time_to_adopt_10_000_sessions() {
    let secrets: Vec<StaticSecret> = (0..SESSIONS)
        .map(|n| StaticSecret::generate(&mut Seeded::new(10_000 + u64::from(n))).unwrap())
        .collect();
    let peers = secrets.iter().zip(0..).map(|(secret, n)| peer(n, secret)).collect();
    let mut rig = Rig::with_peers(Policy::default(), vec![Suite::Aes256Gcm], peers);
    rig.event(TableEvent::DataPlaneUp { slots: 1 << 16, context_kept: false });
    for (n, secret) in secrets.into_iter().enumerate() {
        let mut client = Client::new(0, rig.gateway);
        client.secret = secret;
        let from = Endpoint::v4([100, 64, (n >> 8) as u8, n as u8], PATH_A().port);
        client.handshake(&mut rig, from);
        rig.frame(client.slot(), from);
        rig.now = rig.now.after(Duration::from_millis(3));
        rig.lines.clear();
        assert_eq!(GATEWAY.port, 4500);
    }
    assert_eq!(rig.tables.journal.len(), SESSIONS as usize);

    let elements = JOURNAL_CAPACITY + 1;
    let memory =
        shared_memory("JOURNAL", c"jvpn-test", elements as usize * size_of::<JournalRecord>()).unwrap();
    let mut rng = Seeded::new(7);
    let node_key = jvpn_crypto::keys::NodeKey::from_bytes([9; 32]);
    let mut open =
        |at| Journal::open(memory.try_clone().unwrap(), elements, &node_key, &mut rng, BootTime(at)).unwrap();
    let mut before = open(1);
    before.begin(&node_key);
    let writing = Instant::now();
    for (index, snapshot) in &rig.tables.journal {
        before.write(*index, snapshot);
    }
    let each = writing.elapsed() / SESSIONS;
    rig.now = rig.now.after(Duration::from_millis(1));
    let mut engine = rig.successor();

    let start = Instant::now();
    let mut journal = open(1 << 50);
    let contents = journal.read(&node_key).unwrap();
    let read = start.elapsed();
    let bound = |index: u32| rig.tables.bound.get(&index).map_or(BindingWord::UNBOUND, |bound| bound.0);
    let kept = engine.adopt(rig.now, journal.capacity(), contents.snapshots, &contents.damaged, &bound);
    let mut carry_out = |engine: &mut jvpn_controlplane::engine::Engine| {
        while let Some(command) = engine.poll_command() {
            if let TableCommand::Journal { index, snapshot: Some(snapshot) } = command {
                journal.write(index, &snapshot);
            }
        }
    };
    carry_out(&mut engine);
    engine.handle_table_event(rig.now, TableEvent::Adopted { slots: 1 << 16 }, &rig.tables.contexts);
    carry_out(&mut engine);
    let total = start.elapsed();
    assert_eq!((kept.words.len(), engine.live_sessions()), (SESSIONS as usize, SESSIONS as usize));
    eprintln!(
        "{SESSIONS} sessions: read {} ms, adopted after {} ms; a record takes {JOURNAL_RECORD_LEN} octets and {} ns to write",
        read.as_millis(),
        total.as_millis(),
        each.as_nanos()
    );
}
