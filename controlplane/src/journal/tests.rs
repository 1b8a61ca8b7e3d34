//! JOURNAL torn, damaged, foreign: what is whole is read, the rest is named, nothing is guessed.

use super::*;
use jvpn_crypto::rng::OsRandom;
use jvpn_tables::mapping::shared_memory;
use proptest::prelude::*;

const ELEMENTS: u32 = 9;

fn node_key() -> NodeKey {
    NodeKey::from_bytes([5; 32])
}

fn memory() -> OwnedFd {
    shared_memory("JOURNAL", c"jvpn-test", ELEMENTS as usize * size_of::<JournalRecord>()).unwrap()
}

fn open(fd: &OwnedFd, key: &NodeKey, at_ns: u64) -> Journal {
    let mut rng = OsRandom::checked().unwrap();
    Journal::open(fd.try_clone().unwrap(), ELEMENTS, key, &mut rng, BootTime(at_ns)).unwrap()
}

fn snapshot(octet: u8) -> Snapshot {
    Snapshot::from_octets(Zeroizing::new([octet; JOURNAL_PLAIN_LEN]))
}

/// First octets of what is whole, and what is damaged.
fn contents(fd: &OwnedFd) -> (Vec<(u32, u8)>, Vec<u32>) {
    let contents = open(fd, &node_key(), 9).read(&node_key()).unwrap();
    (contents.snapshots.iter().map(|(index, s)| (*index, s.octets()[0])).collect(), contents.damaged)
}

fn begun() -> (OwnedFd, Journal) {
    let fd = memory();
    let mut journal = open(&fd, &node_key(), 1_000);
    journal.begin(&node_key());
    (fd, journal)
}

/// Makes one copy of a record unreadable.
fn damage(journal: &Journal, index: u32, copy: usize) {
    journal.copies(index).unwrap()[copy][50].fetch_xor(1 << 17, Ordering::Relaxed);
}

/// R7.3: what was written last is read by the next process, and by the one after it; what was freed is gone.
#[test]
fn r7_3_records_outlive_their_writer() {
    let (fd, mut first) = begun();
    for index in [0, 3, 7] {
        first.write(index, &snapshot(1));
    }
    first.write(3, &snapshot(2));
    first.clear(7);
    drop(first);
    assert_eq!(contents(&fd), (vec![(0, 1), (3, 2)], vec![]));
    let mut second = open(&fd, &node_key(), 2_000);
    assert_eq!(second.read(&node_key()).unwrap().snapshots.len(), 2);
    second.write(0, &snapshot(8));
    assert_eq!(contents(&fd), (vec![(0, 8), (3, 2)], vec![]));
    assert_eq!((second.capacity(), second.elements()), (8, 9));
}

/// R7.3: one damaged copy costs nothing; two cost that session alone.
#[test]
fn r7_3_a_damaged_copy_falls_back_to_the_other() {
    let (fd, mut journal) = begun();
    for index in 0..3 {
        journal.write(index, &snapshot(index as u8));
    }
    damage(&journal, 0, 0);
    damage(&journal, 1, 1);
    damage(&journal, 2, 0);
    damage(&journal, 2, 1);
    assert_eq!(contents(&fd), (vec![(0, 0), (1, 1)], vec![2]));
}

/// R7.3: a process that dies anywhere within a write leaves the new record or the one before.
#[test]
fn r7_3_a_torn_write_leaves_one_whole_copy() {
    for was_there in [true, false] {
        let words = 2 * JOURNAL_COPY_WORDS;
        for cut in 0..=words {
            let (fd, mut journal) = begun();
            journal.write(1, &snapshot(9));
            journal.clear(1);
            if was_there {
                journal.write(1, &snapshot(1));
            }
            let cells = || journal.copies(1).into_iter().flatten().flatten();
            let before: Vec<u64> = cells().map(|cell| cell.load(Ordering::Relaxed)).collect();
            let mut journal = open(&fd, &node_key(), 2_000);
            journal.used = 2;
            journal.write(1, &snapshot(2));
            let cells = || journal.copies(1).into_iter().flatten().flatten();
            for (cell, old) in cells().zip(&before).skip(cut) {
                cell.store(*old, Ordering::Relaxed);
            }
            let (whole, damaged) = contents(&fd);
            let expected: &[(u32, u8)] = match (cut, was_there) {
                (JOURNAL_COPY_WORDS.., _) => &[(1, 2)],
                (_, true) => &[(1, 1)],
                (_, false) => &[],
            };
            assert_eq!(whole, expected, "cut after {cut} words");
            // A birth that was never written whole has not left; it is named all the same.
            assert_eq!(damaged.is_empty(), was_there || cut == 0 || cut >= JOURNAL_COPY_WORDS);
        }
    }
}

/// R7.3: it is incomplete until its writer says otherwise, and again when a record is found damaged: also for whoever
/// comes after the one who freed that record.
#[test]
fn r7_3_an_incomplete_journal_stays_incomplete_until_all_is_loaded() {
    let read = |fd: &OwnedFd| open(fd, &node_key(), 9).read(&node_key()).unwrap().completeness;
    let (fd, mut journal) = begun();
    journal.write(0, &snapshot(1));
    assert_eq!(read(&fd), Completeness::Incomplete);
    journal.mark(Completeness::Complete);
    assert_eq!((read(&fd), read(&fd)), (Completeness::Complete, Completeness::Complete));
    damage(&journal, 0, 0);
    assert_eq!(read(&fd), Completeness::Complete, "one copy is whole");
    damage(&journal, 0, 1);
    let mut next = open(&fd, &node_key(), 5_000);
    let contents = next.read(&node_key()).unwrap();
    assert_eq!((contents.damaged, contents.completeness), (vec![0], Completeness::Incomplete));
    next.clear(0);
    assert_eq!(read(&fd), Completeness::Incomplete, "the record is gone, the session may be stored");
    next.mark(Completeness::Complete);
    assert_eq!(read(&fd), Completeness::Complete);
    next.begin(&node_key());
    assert_eq!(read(&fd), Completeness::Incomplete);
}

/// R7.3: another version, another node key and no JOURNAL at all are told apart, and start over empty.
#[test]
fn r7_3_a_foreign_journal_is_refused_and_made_anew() {
    let (fd, mut journal) = begun();
    journal.write(0, &snapshot(1));
    let other = NodeKey::from_bytes([6; 32]);
    assert_eq!(open(&fd, &other, 5).read(&other).unwrap_err(), Unusable::OtherKey);
    journal.set_head(JournalWord::Version, JOURNAL_VERSION + 1);
    let newer = journal.read(&node_key()).unwrap_err();
    assert_eq!(newer, Unusable::Version(JOURNAL_VERSION + 1));
    assert!(newer.to_string().contains(&JOURNAL_VERSION.to_string()));
    journal.set_head(JournalWord::Magic, 0);
    assert_eq!(journal.read(&node_key()).unwrap_err(), Unusable::NoHead);
    journal.begin(&node_key());
    assert_eq!(contents(&fd), (vec![], vec![]));
}

/// R2.5: neither the secrets nor equal content can be seen from outside; a record in another place does not open.
#[test]
fn r2_5_records_are_sealed_to_their_place() {
    let (fd, mut journal) = begun();
    journal.write(0, &snapshot(0x41));
    journal.write(1, &snapshot(0x41));
    let octets = |index| load(&journal.copies(index).unwrap()[0]);
    let (a, b) = (octets(0), octets(1));
    assert!(!a.windows(8).any(|window| window == [0x41; 8]));
    assert_ne!(a[JOURNAL_HEAD_LEN..], b[JOURNAL_HEAD_LEN..]);
    for copy in journal.copies(1).unwrap() {
        for (cell, word) in copy.iter().zip(a.chunks_exact(8)) {
            cell.store(u64::from_ne_bytes(word.try_into().unwrap()), Ordering::Relaxed);
        }
    }
    assert_eq!(contents(&fd), (vec![(0, 0x41)], vec![1]));
}

proptest! {
    /// R1.8: whatever stands in the memory, reading it ends, and yields at most what was sealed.
    #[test]
    fn r1_8_hostile_memory(words in proptest::collection::vec(any::<u64>(), 16), at: usize, keeps_head: bool) {
        let (fd, mut journal) = begun();
        journal.write(2, &snapshot(7));
        let all: Vec<&AtomicU64> = journal.map.iter().flat_map(|record| &record.copies).flatten().collect();
        for (n, word) in words.iter().enumerate() {
            let index = at.wrapping_add(n * 131) % all.len();
            if index >= 3 || !keeps_head {
                all[index].store(*word, Ordering::Relaxed);
            }
        }
        if let Ok(contents) = open(&fd, &node_key(), 9).read(&node_key()) {
            prop_assert!(contents.snapshots.len() <= 1 && contents.damaged.len() <= ELEMENTS as usize);
        }
    }
}
