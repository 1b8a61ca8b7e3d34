//! Target `files`: what a disk gives back: node file, handshake log, records of the session store, keys as text.

use crate::Source;
use crate::random::Seeded;
use jvpn_abi::wire::{Suite, TAG_LEN};
use jvpn_controlplane::engine::Durable;
use jvpn_controlplane::node_state::{NodeState, parse_handshakes, parse_node};
use jvpn_controlplane::store::embedded::unseal;
use jvpn_crypto::SealKey;
use jvpn_crypto::keys::{NodeKey, PresharedKey, PublicKey, SealPurpose, StaticSecret};
use jvpn_session::messages::{Prefix, SessionId};

const ID: SessionId = SessionId([5; 16]);
const SALT: [u8; 16] = [3; 16];
/// Layout of a record.
const LAYOUT: u8 = 3;
/// Layout, version, key name, salt and counter of a record.
const HEAD_LEN: usize = 1 + 8 + 8 + 16 + 8;
/// Octets of the sealed part before the addresses; the last two are suite and number of addresses.
const FIXED_LEN: usize = 86;

pub(crate) fn run(data: &[u8]) {
    let mut source = Source::new(data);
    match source.u8() % 5 {
        0 => node(source.rest()),
        1 => handshakes(source.rest()),
        2 => assert!(unseal(&node_key(), ID, source.rest()).is_none(), "a record was forged"),
        3 => {
            let plain = source.chunk();
            let record = record(plain);
            if let Some(found) = unseal(&node_key(), ID, &record) {
                assert_eq!(found.session.addresses.len() * 17 + FIXED_LEN, plain.len(), "{found:?}");
                found.session.addresses.iter().for_each(address);
            }
            let spoiled = source.spoil(&record);
            assert!(
                spoiled == record || unseal(&node_key(), ID, &spoiled).is_none(),
                "a changed record opens"
            );
        }
        _ => texts(source.rest()),
    }
}

fn node_key() -> NodeKey {
    NodeKey::from_bytes([9; 32])
}

/// A file that is taken says exactly one key and one number.
fn node(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok((key, reserved)) = parse_node(text) {
        let key: String = key.as_bytes().iter().map(|octet| format!("{octet:02x}")).collect();
        let words: Vec<_> = text.split_ascii_whitespace().collect();
        assert_eq!(words[2].to_ascii_lowercase(), key);
        assert_eq!(words[3].parse(), Ok(reserved));
    }
}

fn handshakes(data: &[u8]) {
    if let Some((last, whole)) = parse_handshakes(data) {
        assert!(last.len() <= whole && whole * 44 <= data.len());
        assert!(data.len() - whole * 44 < 88, "more than one torn record was taken for the end");
        // What was read is read again from as much as was whole.
        assert_eq!(parse_handshakes(&data[..whole * 44]), Some((last, whole)));
    }
}

/// Keys, names and prefixes: what is read is written again the same.
fn texts(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_string(), text.trim_ascii());
    }
    if let Ok(key) = text.parse::<StaticSecret>() {
        assert_eq!(*key.to_base64(), text.trim_ascii());
    }
    if let Ok(key) = text.parse::<PresharedKey>() {
        assert_eq!(*key.to_base64(), text.trim_ascii());
    }
    if let Ok(id) = text.parse::<SessionId>() {
        assert_eq!(id.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(prefix) = text.parse::<Prefix>() {
        address(&prefix);
        assert_eq!(prefix.to_string().parse(), Ok(prefix));
    }
}

fn address(prefix: &Prefix) {
    let (_, len) = prefix.mapped();
    assert!(len <= 128, "{prefix}");
    assert!(prefix.contains(prefix.addr));
}

fn record(plain: &[u8]) -> Vec<u8> {
    let mut record = vec![LAYOUT];
    record.extend(7_u64.to_be_bytes());
    record.extend(node_key().name().to_be_bytes());
    record.extend(SALT);
    record.extend(1_u64.to_be_bytes());
    let aad = [&ID.0[..], &record].concat();
    record.resize(HEAD_LEN + plain.len() + TAG_LEN, 0);
    let key = SealKey::new(Suite::Aes256Gcm, &node_key().sealing_key(SealPurpose::Store, &SALT));
    key.seal(1, &aad, plain, &mut record[HEAD_LEN..]).unwrap();
    record
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let directory = tempfile::tempdir().unwrap();
    let mut state = NodeState::open(directory.path(), &mut Seeded::new(1)).unwrap();
    for (peer, timestamp) in [(1, 5), (2, 6), (1, 9)] {
        state.record_handshake(&PublicKey([peer; 32]), timestamp).unwrap();
    }
    drop(state);
    let content = |name: &str| std::fs::read(directory.path().join(name)).unwrap();
    let key = StaticSecret::generate(&mut Seeded::new(2)).unwrap();
    let texts =
        [key.to_base64().as_bytes(), key.public().to_string().as_bytes(), b"10.77.0.2/32", b"fd00::2/128"]
            .map(<[u8]>::to_vec);
    let mut plain = [[1; 32], [2; 32]].concat();
    plain.extend([0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 77]);
    plain.extend(1_700_000_000_000_u64.to_be_bytes());
    plain.extend([Suite::Aes256Gcm as u8, 2]);
    for (address, len) in [("::ffff:10.77.0.2", 128), ("fd00::2", 128)] {
        plain.extend(address.parse::<std::net::Ipv6Addr>().unwrap().octets());
        plain.push(len);
    }
    let mut forged = record(&plain);
    // Sealed it would be no forgery.
    forged[HEAD_LEN..].fill(0x5a);
    let mut seeds = vec![
        [vec![0], content("node")].concat(),
        [vec![1], content("handshakes")].concat(),
        [vec![2], forged].concat(),
        [vec![3], (plain.len() as u16).to_be_bytes().to_vec(), plain, vec![1, 0, 40, 0x80]].concat(),
        [vec![4], ID.to_string().into_bytes()].concat(),
    ];
    seeds.extend(texts.map(|text| [vec![4], text].concat()));
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R1.9: a record as this target makes them is one that the store reads; otherwise it would fuzz nothing.
    #[test]
    fn r1_9_the_store_reads_a_record_of_the_fuzzer() {
        let mut plain = [0; FIXED_LEN];
        plain[FIXED_LEN - 2] = Suite::Aes256Gcm as u8;
        assert!(unseal(&node_key(), ID, &record(&plain)).is_some());
    }
}
