//! What must outlive the process on one node: the node key, the floor of slot serials, the last handshake
//! timestamp of each peer. Small files of mode 0600 in the state directory; nothing that depends on them
//! leaves before they are synced.

use crate::engine::Durable;
use jvpn_abi::wire::data::MAX_SLOT_SERIAL;
use jvpn_crypto::keys::{NodeKey, PublicKey};
use jvpn_crypto::rng::{Random, RandomError};
use jvpn_host::keyfile::{self, KeyFileError};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Serials that are made usable at a time: one durable write per so many uses of a slot.
pub const SERIAL_BLOCK: u32 = 64;

const NODE_FILE: &str = "node";
const HANDSHAKES_FILE: &str = "handshakes";
/// Octets of one record: public key, timestamp, check.
const RECORD_LEN: usize = 32 + 8 + 4;
/// Records of peers that came again are kept until the file is this many times as long as it must be.
const COMPACT_FACTOR: usize = 4;
/// Below this many records a file is never worth compacting.
const COMPACT_LEAST: usize = 4_096;

/// Why node state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file could not be read or written.
    #[error("node state {path}: {cause}; the state directory must exist and be writable for this user")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The secret file was refused.
    #[error(transparent)]
    Secret(#[from] KeyFileError),
    /// The content is not what this program writes.
    #[error(
        "node state {path} is damaged ({problem}); restore it, or remove it: clients then take their RESETs for \
             forged until they have made a new session"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// Every serial under this node key was handed out.
    #[error(
        "slot serials are used up under this node key; restart the control plane, it then takes a new node key"
    )]
    SerialsUsedUp,
    /// No randomness for a node key.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// The files of one node, open.
#[derive(Debug)]
pub struct NodeState {
    node_path: PathBuf,
    node_key: NodeKey,
    /// First serial that was never usable before this start.
    floor: u32,
    /// First serial that is not usable yet.
    reserved: u32,
    handshakes: HandshakeLog,
}

impl NodeState {
    /// Opens or makes the state in `directory`. Serials go on above everything that may have been used; when
    /// they are used up a new node key starts over.
    ///
    /// # Errors
    /// [`StateError`]; the control plane must not start.
    pub fn open(directory: &Path, rng: &mut dyn Random) -> Result<Self, StateError> {
        let node_path = directory.join(NODE_FILE);
        let (node_key, floor) = match load_node(&node_path)? {
            Some((key, reserved)) if reserved <= MAX_SLOT_SERIAL => (key, reserved),
            Some(_) | None => (NodeKey::generate(rng)?, 0),
        };
        let handshakes = HandshakeLog::open(directory.join(HANDSHAKES_FILE))?;
        let mut state = Self { node_path, node_key, floor, reserved: floor, handshakes };
        state.reserve_serials(floor)?;
        Ok(state)
    }

    fn store_node(&self, reserved: u32) -> Result<(), StateError> {
        let mut text = Zeroizing::new(String::from("jvpn-node 2 "));
        text.extend(self.node_key.as_bytes().iter().map(|octet| format!("{octet:02x}")));
        let check = check_of(self.node_key.as_bytes(), u64::from(reserved));
        text.push_str(&format!(" {reserved} {check:08x}\n"));
        Ok(keyfile::write_secret(&self.node_path, text.as_bytes())?)
    }
}

impl Durable for NodeState {
    fn node_key(&self) -> &NodeKey {
        &self.node_key
    }

    fn serial_floor(&self) -> u32 {
        self.floor
    }

    fn reserve_serials(&mut self, serial: u32) -> Result<u32, StateError> {
        if serial > MAX_SLOT_SERIAL {
            return Err(StateError::SerialsUsedUp);
        }
        if serial >= self.reserved {
            let reserved = serial.saturating_add(SERIAL_BLOCK).min(MAX_SLOT_SERIAL + 1);
            self.store_node(reserved)?;
            self.reserved = reserved;
        }
        Ok(self.reserved)
    }

    fn handshake_timestamp(&self, peer: &PublicKey) -> Option<u64> {
        self.handshakes.last.get(peer).copied()
    }

    fn record_handshake(&mut self, peer: &PublicKey, timestamp_ns: u64) -> Result<(), StateError> {
        self.handshakes.record(peer, timestamp_ns)
    }
}

/// Node key and reserved bound, or `None` if there is no file yet.
fn load_node(path: &Path) -> Result<Option<(NodeKey, u32)>, StateError> {
    let text = match keyfile::read_secret(path) {
        Ok(text) => text,
        Err(KeyFileError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let node = parse_node(&text);
    node.map(Some).map_err(|problem| StateError::Damaged { path: path.to_owned(), problem })
}

/// Node key and reserved bound in the text of the node file. Public for the fuzzer: what a disk gives back is input.
///
/// # Errors
/// What is wrong with it.
#[doc(hidden)]
pub fn parse_node(text: &str) -> Result<(NodeKey, u32), &'static str> {
    let mut parts = text.split_ascii_whitespace();
    match (parts.next(), parts.next()) {
        (Some("jvpn-node"), Some("2")) => {}
        (Some("jvpn-node"), Some(_)) => {
            return Err("written by another version of this program, this one reads 2");
        }
        _ => return Err("not a node file"),
    }
    let key = parts.next().and_then(key_from_hex).ok_or("the key is not 64 hexadecimal digits")?;
    let reserved = parts.next().and_then(|number| number.parse().ok()).ok_or("no serial bound")?;
    // A lower bound would let slots be used twice, another key would make every RESET a forgery: both look sound.
    let check = parts.next().and_then(|check| u32::from_str_radix(check, 16).ok()).ok_or("no check")?;
    if check != check_of(key.as_bytes(), u64::from(reserved)) {
        return Err("key and serial bound do not match their check");
    }
    if parts.next().is_some() {
        return Err("something follows the check");
    }
    Ok((key, reserved))
}

fn key_from_hex(text: &str) -> Option<NodeKey> {
    if text.len() != 64 || !text.bytes().all(|octet| octet.is_ascii_hexdigit()) {
        return None;
    }
    let mut octets = Zeroizing::new([0; 32]);
    for (octet, pair) in octets.iter_mut().zip(text.as_bytes().chunks(2)) {
        *octet = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(NodeKey::from_bytes(*octets))
}

/// Timestamps of handshakes: a log of fixed records, appended and synced, rewritten when it has grown.
#[derive(Debug)]
struct HandshakeLog {
    path: PathBuf,
    file: File,
    records: usize,
    last: BTreeMap<PublicKey, u64>,
}

impl HandshakeLog {
    fn open(path: PathBuf) -> Result<Self, StateError> {
        let io = |cause| StateError::Io { path: path.clone(), cause };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(io)?;
        let Some((last, whole)) = parse_handshakes(&content) else {
            let problem = "a record in the middle does not match its check";
            return Err(StateError::Damaged { path, problem });
        };
        let end = (whole * RECORD_LEN) as u64;
        file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end))).map_err(io)?;
        Ok(Self { path, file, records: whole, last })
    }

    fn record(&mut self, peer: &PublicKey, timestamp_ns: u64) -> Result<(), StateError> {
        if self.records >= COMPACT_LEAST.max(self.last.len().saturating_mul(COMPACT_FACTOR)) {
            self.compact()?;
        }
        let record = encode_record(peer, timestamp_ns);
        let end = (self.records * RECORD_LEN) as u64;
        // From a known place, so that a write that failed half-way is overwritten by the next.
        let written = self.file.seek(SeekFrom::Start(end)).and_then(|_| self.file.write_all(&record));
        written
            .and_then(|()| self.file.sync_data())
            .map_err(|cause| StateError::Io { path: self.path.clone(), cause })?;
        self.records += 1;
        self.last.insert(*peer, timestamp_ns);
        Ok(())
    }

    fn compact(&mut self) -> Result<(), StateError> {
        let mut content = Vec::with_capacity(self.last.len() * RECORD_LEN);
        for (peer, timestamp) in &self.last {
            content.extend(encode_record(peer, *timestamp));
        }
        keyfile::write_secret(&self.path, &content)?;
        *self = Self::open(self.path.clone())?;
        Ok(())
    }
}

/// The newest timestamp of each peer and how many whole records there are; `None` if it is damaged. Public for the
/// fuzzer, as [`parse_node`].
#[doc(hidden)]
#[must_use]
pub fn parse_handshakes(content: &[u8]) -> Option<(BTreeMap<PublicKey, u64>, usize)> {
    let mut last = BTreeMap::new();
    let mut whole = 0;
    for record in content.chunks_exact(RECORD_LEN) {
        // A record that a crash cut short is the last one, and its response never left.
        let Some((peer, timestamp)) = decode_record(record) else { break };
        let entry = last.entry(peer).or_insert(timestamp);
        *entry = timestamp.max(*entry);
        whole += 1;
    }
    (content.len() - whole * RECORD_LEN < 2 * RECORD_LEN).then_some((last, whole))
}

fn encode_record(peer: &PublicKey, timestamp_ns: u64) -> [u8; RECORD_LEN] {
    let mut record = [0; RECORD_LEN];
    let (key, rest) = record.split_at_mut(32);
    key.copy_from_slice(&peer.0);
    let (timestamp, check) = rest.split_at_mut(8);
    timestamp.copy_from_slice(&timestamp_ns.to_be_bytes());
    check.copy_from_slice(&check_of(&peer.0, timestamp_ns).to_be_bytes());
    record
}

fn decode_record(record: &[u8]) -> Option<(PublicKey, u64)> {
    let peer: [u8; 32] = record.get(..32)?.try_into().ok()?;
    let timestamp = u64::from_be_bytes(record.get(32..40)?.try_into().ok()?);
    let check = u32::from_be_bytes(record.get(40..44)?.try_into().ok()?);
    (check == check_of(&peer, timestamp)).then_some((PublicKey(peer), timestamp))
}

/// FNV-1a: tells a torn write from a whole one, no more.
fn check_of(key: &[u8; 32], number: u64) -> u32 {
    let octets = key.iter().copied().chain(number.to_be_bytes());
    octets.fold(0x811c_9dc5, |hash, octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jvpn_crypto::rng::OsRandom;
    use std::os::unix::fs::PermissionsExt;

    fn open(dir: &Path) -> Result<NodeState, StateError> {
        NodeState::open(dir, &mut OsRandom::checked().unwrap())
    }

    /// R5.1, I11: no serial is handed out twice under one node key, whenever the process dies.
    #[test]
    fn r5_1_serials_never_repeat_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let mut floor = 0;
        let mut key = None;
        for _ in 0..5 {
            let mut state = open(dir.path()).unwrap();
            assert!(state.serial_floor() >= floor);
            let used = state.serial_floor() + 100;
            assert!(state.reserve_serials(used).unwrap() > used);
            floor = used + 1;
            assert_eq!(*key.get_or_insert(*state.node_key().as_bytes()), *state.node_key().as_bytes());
        }
        let mode = std::fs::metadata(dir.path().join(NODE_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    /// I11: when serials are used up a new node key starts over, at a start only.
    #[test]
    fn used_up_serials_bring_a_new_node_key() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = open(dir.path()).unwrap();
        let old = *state.node_key().as_bytes();
        assert_eq!(state.reserve_serials(MAX_SLOT_SERIAL).unwrap(), MAX_SLOT_SERIAL + 1);
        assert!(matches!(state.reserve_serials(MAX_SLOT_SERIAL + 1), Err(StateError::SerialsUsedUp)));
        let state = open(dir.path()).unwrap();
        assert_ne!(*state.node_key().as_bytes(), old);
        assert_eq!(state.serial_floor(), 0);
    }

    /// R2.2, R1.8: timestamps survive a restart; a record that a crash cut short is forgotten, damage is
    /// refused.
    #[test]
    fn r2_2_handshake_timestamps_survive_and_damage_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (PublicKey([1; 32]), PublicKey([2; 32]));
        let mut state = open(dir.path()).unwrap();
        state.record_handshake(&a, 5).unwrap();
        state.record_handshake(&b, 6).unwrap();
        state.record_handshake(&a, 9).unwrap();
        drop(state);
        let log = dir.path().join(HANDSHAKES_FILE);
        let content = std::fs::read(&log).unwrap();
        std::fs::write(&log, [&content[..], &encode_record(&b, 99)[..20]].concat()).unwrap();
        let mut state = open(dir.path()).unwrap();
        assert_eq!((state.handshake_timestamp(&a), state.handshake_timestamp(&b)), (Some(9), Some(6)));
        state.record_handshake(&b, 7).unwrap();
        drop(state);
        let mut damaged = std::fs::read(&log).unwrap();
        damaged[33] ^= 1;
        std::fs::write(&log, damaged).unwrap();
        assert!(open(dir.path()).unwrap_err().to_string().contains("damaged"));
    }

    /// R8.2: the log of handshakes does not grow without bound.
    #[test]
    fn r8_2_the_log_is_compacted() {
        let dir = tempfile::tempdir().unwrap();
        let peer = PublicKey([3; 32]);
        let log = dir.path().join(HANDSHAKES_FILE);
        std::fs::write(&log, encode_record(&peer, 1).repeat(COMPACT_LEAST)).unwrap();
        let mut state = open(dir.path()).unwrap();
        state.record_handshake(&peer, 2).unwrap();
        assert_eq!(std::fs::metadata(&log).unwrap().len(), 2 * RECORD_LEN as u64);
        drop(state);
        assert_eq!(open(dir.path()).unwrap().handshake_timestamp(&peer), Some(2));
    }

    /// R1.8: every octet of both files counts: changed or cut off it is refused and named, or it changes nothing. Only what a
    /// crash may have cut short, the last record of the log, is forgotten.
    #[test]
    fn r1_8_every_octet_of_the_node_files_counts() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = open(dir.path()).unwrap();
        let (key, peers) = (*state.node_key().as_bytes(), [1, 2, 3].map(|peer| PublicKey([peer; 32])));
        (5..).zip(&peers).for_each(|(timestamp, peer)| state.record_handshake(peer, timestamp).unwrap());
        drop(state);
        for name in [NODE_FILE, HANDSHAKES_FILE] {
            let path = dir.path().join(name);
            let whole = std::fs::read(&path).unwrap();
            let cut = (0..whole.len()).map(|len| whole[..len].to_vec());
            let flipped = (0..whole.len()).flat_map(|at| {
                [0x01, 0x10, 0x80, 0xff].map(|bits| {
                    let mut changed = whole.clone();
                    changed[at] ^= bits;
                    changed
                })
            });
            for changed in cut.chain(flipped) {
                std::fs::write(&path, &changed).unwrap();
                match open(dir.path()) {
                    Err(error) => assert!(error.to_string().contains(name), "{error}"),
                    Ok(state) => {
                        assert_eq!(*state.node_key().as_bytes(), key, "{changed:02x?}");
                        let known = peers.map(|peer| state.handshake_timestamp(&peer));
                        let torn = changed.len() < whole.len()
                            || changed[2 * RECORD_LEN..] != whole[2 * RECORD_LEN..];
                        assert!(
                            known == [Some(5), Some(6), Some(7)] || name == HANDSHAKES_FILE && torn,
                            "{known:?}"
                        );
                        assert!(state.serial_floor() >= SERIAL_BLOCK, "{changed:02x?}");
                    }
                }
            }
            keyfile::write_secret(&path, &whole).unwrap();
        }
        std::fs::remove_file(dir.path().join(NODE_FILE)).unwrap();
        keyfile::write_secret(&dir.path().join(NODE_FILE), b"jvpn-node 3 what comes after us\n").unwrap();
        let newer = open(dir.path()).unwrap_err().to_string();
        assert!(newer.contains("another version") && newer.contains(NODE_FILE), "{newer}");
    }

    /// R7.3, R1.8: on a full disk, and on one that became read-only, nothing is acknowledged; what was is there afterwards.
    #[test]
    #[ignore = "needs root: mounts a tiny tmpfs"]
    fn r7_3_a_full_or_read_only_disk_acknowledges_nothing() {
        use nix::mount::{MsFlags, mount, umount};
        let dir = tempfile::tempdir().unwrap();
        let mounted =
            |flags, options| mount(Some("tmpfs"), dir.path(), Some("tmpfs"), flags, options).unwrap();
        mounted(MsFlags::empty(), Some("size=64k"));
        let outcome = std::panic::catch_unwind(|| {
            let peer = PublicKey([1; 32]);
            let mut state = open(dir.path()).unwrap();
            state.record_handshake(&peer, 5).unwrap();
            let filler = dir.path().join("filler");
            assert!(std::fs::write(&filler, vec![0; 1 << 20]).is_err(), "the disk is full now");
            let error =
                (6..2_000).find_map(|timestamp| state.record_handshake(&peer, timestamp).err()).unwrap();
            assert!(error.to_string().contains(HANDSHAKES_FILE), "{error}");
            let acknowledged = state.handshake_timestamp(&peer);
            assert!(state.reserve_serials(5_000).is_err(), "no room for the node file either");
            drop(state);
            std::fs::remove_file(&filler).unwrap();
            assert_eq!(open(dir.path()).unwrap().handshake_timestamp(&peer), acknowledged);
            mounted(MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None);
            let error = open(dir.path()).unwrap_err().to_string();
            assert!(error.contains("Read-only") && error.contains("writable"), "{error}");
        });
        umount(dir.path()).unwrap();
        outcome.unwrap();
    }

    #[test]
    fn a_damaged_or_exposed_node_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()).unwrap());
        let path = dir.path().join(NODE_FILE);
        for bad in ["jvpn-node 2 00 1 0", "jvpn-node 2 zz 1 0", "jvpn-node 2", "jvpn-node 3 00 1 0", "x"] {
            keyfile::write_secret(&path, bad.as_bytes()).unwrap();
            assert!(open(dir.path()).unwrap_err().to_string().contains("damaged"), "{bad}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(open(dir.path()).is_err());
        assert!(open(&dir.path().join("missing")).is_err());
    }
}
