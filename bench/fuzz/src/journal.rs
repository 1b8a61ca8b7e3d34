//! Target `journal`: the memory that a control plane goes on from. Any image of it, records changed behind their writer's
//! back, and the plain text of records, with an engine that adopts them.

use crate::Source;
use crate::gateway::{Gateway, JOURNAL_RECORDS};
use crate::random::Seeded;
use crate::world::World;
use jvpn_abi::BootTime;
use jvpn_abi::tables::{JOURNAL_PLAIN_LEN, JournalRecord};
use jvpn_controlplane::engine::Snapshot;
use jvpn_controlplane::journal::{Contents, Journal};
use jvpn_crypto::keys::NodeKey;
use jvpn_tables::mapping::shared_memory;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use zeroize::Zeroizing;

/// Elements of the memory, the head included.
const ELEMENTS: u32 = 5;
const LEN: usize = ELEMENTS as usize * size_of::<JournalRecord>();

pub(crate) fn run(data: &[u8]) {
    let mut source = Source::new(data);
    match source.u8() % 3 {
        0 => image(source.rest()),
        1 => records(&mut source),
        _ => adopt(&mut source),
    }
}

fn node_key() -> NodeKey {
    NodeKey::from_bytes([9; 32])
}

fn memory() -> (OwnedFd, File) {
    let fd = shared_memory("FUZZ", c"jvpn-fuzz", LEN).unwrap();
    let file = File::from(fd.try_clone().unwrap());
    (fd, file)
}

fn open(fd: &OwnedFd, at: u64) -> Journal {
    Journal::open(fd.try_clone().unwrap(), ELEMENTS, &node_key(), &mut Seeded::new(at), BootTime(at)).unwrap()
}

fn snapshot(octets: &[u8]) -> Snapshot {
    let mut plain = Zeroizing::new([0; JOURNAL_PLAIN_LEN]);
    for (to, from) in plain.iter_mut().zip(octets) {
        *to = *from;
    }
    Snapshot::from_octets(plain)
}

/// Octets by record; reading is within bounds and names a record once.
fn by_index(contents: &Contents) -> BTreeMap<u32, Vec<u8>> {
    let found: BTreeMap<u32, Vec<u8>> =
        contents.snapshots.iter().map(|(index, snapshot)| (*index, snapshot.octets().to_vec())).collect();
    assert_eq!(found.len(), contents.snapshots.len());
    assert!(found.keys().chain(&contents.damaged).all(|index| *index < ELEMENTS - 1));
    found
}

/// Whatever stands there: nothing of it opens without the node's key, and a new journal can be begun over it.
fn image(octets: &[u8]) {
    let (fd, file) = memory();
    file.write_all_at(octets.get(..LEN).unwrap_or(octets), 0).unwrap();
    let mut journal = open(&fd, 7);
    if let Ok(contents) = journal.read(&node_key()) {
        assert!(contents.snapshots.is_empty(), "a record was forged");
    }
    journal.begin(&node_key());
    journal.write(0, &snapshot(b"new"));
    let contents = open(&fd, 8).read(&node_key()).unwrap();
    assert!(contents.damaged.is_empty() && by_index(&contents).len() == 1);
}

/// Records that were written are read as they were, or are damaged, or are an older state of the same record.
fn records(source: &mut Source<'_>) {
    let (fd, file) = memory();
    let mut journal = open(&fd, 1_000);
    journal.begin(&node_key());
    let mut written: BTreeMap<u32, Vec<Vec<u8>>> = BTreeMap::new();
    for _ in 0..source.u8() % 8 {
        let index = u32::from(source.u8()) % (ELEMENTS - 1);
        if source.u8().is_multiple_of(4) {
            journal.clear(index);
        } else {
            let snapshot = snapshot(source.chunk());
            journal.write(index, &snapshot);
            written.entry(index).or_default().push(snapshot.octets().to_vec());
        }
    }
    let mut before = vec![0; LEN];
    file.read_exact_at(&mut before, 0).unwrap();
    let mut after = source.spoil(&before);
    after.resize(LEN, 0);
    file.write_all_at(&after, 0).unwrap();
    if let Ok(contents) = open(&fd, 2_000).read(&node_key()) {
        for (index, octets) in by_index(&contents) {
            assert!(
                written.get(&index).is_some_and(|all| all.contains(&octets)),
                "record {index} was forged"
            );
        }
    }
}

/// Records with any plain text: what cannot be is refused, with what is left the engine goes on.
fn adopt(source: &mut Source<'_>) {
    let mut records = Vec::new();
    for _ in 0..1 + source.u8() % 3 {
        let index = u32::from(source.u8()) % JOURNAL_RECORDS;
        if records.iter().all(|(other, _)| *other != index) {
            records.push((index, Box::new(snapshot(source.chunk()))));
        }
    }
    Gateway::adopting(records).live_on(source);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let chunk = |octets: &[u8]| [&(octets.len() as u16).to_be_bytes()[..], octets].concat();
    let (fd, file) = memory();
    let mut journal = open(&fd, 1_000);
    journal.begin(&node_key());
    journal.write(1, &snapshot(b"one"));
    let mut image = vec![0; LEN];
    file.read_exact_at(&mut image, 0).unwrap();
    // Sealed under this very key it would be no forgery.
    image[size_of::<JournalRecord>() * 2 + 100..].fill(0x5a);
    let mut seeds = vec![
        [vec![0], image].concat(),
        [vec![1, 3, 1, 1], chunk(b"one"), vec![1, 1], chunk(b"two"), vec![2, 0, 1, 13, 200, 9]].concat(),
    ];
    for snapshot in World::snapshots() {
        seeds.push([vec![2, 0, 3], chunk(&snapshot), vec![0, 9, 1, 1, 0]].concat());
    }
    seeds
}
