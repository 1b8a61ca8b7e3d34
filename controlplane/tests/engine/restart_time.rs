//! How long a restarted control plane takes. Prints, and judges nothing but the outcome. The time of 10,000 sessions:
//! `JVPN_ADOPT_SESSIONS=10000 cargo test --release -p jvpn-controlplane --test engine time_to_adopt -- --nocapture`,
//! on a quiet machine.

use crate::client::Client;
use crate::rig::{JOURNAL_CAPACITY, PATH_A, Rig, Seeded};
use jvpn_abi::tables::{BindingWord, JOURNAL_RECORD_LEN, JournalRecord};
use jvpn_abi::wire::Suite;
use jvpn_abi::{BootTime, Endpoint};
use jvpn_controlplane::engine::{PeerSettings, TableCommand, TableEvent};
use jvpn_controlplane::journal::Journal;
use jvpn_crypto::keys::{PresharedKey, StaticSecret};
use jvpn_session::Policy;
use jvpn_tables::mapping::shared_memory;
use std::time::{Duration, Instant};

/// Enough to see that it works.
const SESSIONS: u32 = 200;

fn sessions() -> u32 {
    let asked = std::env::var("JVPN_ADOPT_SESSIONS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(SESSIONS)
}

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

/// R7.3: from an empty process to one that serves all sessions.
#[test]
fn r7_3_time_to_adopt() {
    let sessions = sessions();
    let secrets: Vec<StaticSecret> = (0..sessions)
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
        // Below what a node takes without asking for cookies.
        rig.now = rig.now.after(Duration::from_millis(5));
        rig.lines.clear();
    }
    assert_eq!(rig.tables.journal.len(), sessions as usize);

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
    let each = writing.elapsed() / sessions;
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
    assert_eq!((kept.words.len(), engine.live_sessions()), (sessions as usize, sessions as usize));
    eprintln!(
        "{sessions} sessions: read {} ms, adopted after {} ms; a record takes {JOURNAL_RECORD_LEN} octets and {} ns to write",
        read.as_millis(),
        total.as_millis(),
        each.as_nanos()
    );
}
