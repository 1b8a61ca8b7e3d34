//! Two clients with a site behind each, and PREFIXES that says so.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use super::common::*;
use jvpn_abi::Endpoint;
use jvpn_abi::tables::{BindingEntry, BindingWord, InstallOp};
use jvpn_abi::wire::{DATA_HEADER_LEN, DataHeader, SlotId, Suite, TAG_LEN};
use jvpn_crypto::aead::OpenKey;
use jvpn_dataplane::frame::Address;
use jvpn_dataplane::pipeline::{BetweenClients, PipelineConfig, Verdict};
use jvpn_tables::mapping::shared_memory;
use jvpn_tables::{InnerPrefix, PrefixWriter, Prefixes};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::Arc;

/// The second client, its path, and the sites.
pub(crate) const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
pub(crate) const OTHER_PORT: u16 = 41_000;
/// A host of the first client's site (10.9.0.0/16), and of the second one's (10.5.0.0/16, 2001:db8:5::/48).
pub(crate) const SITE: Ipv4Addr = Ipv4Addr::new(10, 9, 3, 4);
pub(crate) const OTHER_SITE: Ipv4Addr = Ipv4Addr::new(10, 5, 3, 4);
pub(crate) const OTHER_SITE_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, 9);

pub(crate) fn other_slot() -> SlotId {
    SlotId::new(9, 1).unwrap()
}

pub(crate) fn prefix(network: impl Into<IpAddr>, len: u32) -> InnerPrefix {
    let ip = network.into();
    let len = if ip.is_ipv4() { len + 96 } else { len };
    InnerPrefix::new(Address::from(ip).0, len).unwrap()
}

/// Both are attached, and PREFIXES leads to both.
pub(crate) fn two_sites(between_clients: BetweenClients) -> (Bench, PrefixWriter) {
    let memory = shared_memory("PREFIXES", c"jvpn-test", Prefixes::octets(SLOTS)).unwrap();
    let map = || Prefixes::map(memory.as_fd(), SLOTS).unwrap();
    let mut writer = PrefixWriter::take(map());
    let mut bench = Bench::new();
    let config = PipelineConfig { between_clients, ..config() };
    bench.pipeline = pipeline_of(&bench.tables, &bench.misses, config).with_routes(Arc::new(map()));
    assert!(bench.install(InstallOp::Install, |entry| {
        entry.prefixes[2] = SITE.to_ipv6_mapped().octets();
        (entry.prefix_lens[2], entry.prefix_count) = (112, 3);
    }));
    bench.bind(slot());
    let second = other_slot();
    assert!(bench.install(InstallOp::Install, |entry| {
        (entry.word, entry.slot) = (BindingWord::bound(second, 1).0, second.0);
        entry.prefixes[..3].copy_from_slice(&[
            OTHER.to_ipv6_mapped().octets(),
            OTHER_SITE.to_ipv6_mapped().octets(),
            OTHER_SITE_6.octets(),
        ]);
        entry.prefix_lens[..3].copy_from_slice(&[128, 112, 48]);
        (entry.prefix_count, entry.remote_port) = (3, OTHER_PORT);
    }));
    let path = BindingEntry::new(Endpoint::v4(REMOTE.0, OTHER_PORT), Endpoint::v4(LOCAL.0, LOCAL.1));
    bench.tables.bindings.bind(second.index(), &path, BindingWord::bound(second, 1));
    for (prefix, slot) in [
        (prefix(CLIENT, 32), slot()),
        (prefix(CLIENT_6, 128), slot()),
        (prefix(SITE, 16), slot()),
        (prefix(OTHER, 32), second),
        (prefix(OTHER_SITE, 16), second),
        (prefix(OTHER_SITE_6, 48), second),
    ] {
        writer.insert(prefix, slot.index()).unwrap();
    }
    let first = data_frame(0, &inner(CLIENT, SERVER, 64, b"first"));
    assert!(matches!(bench.inbound(&first), Verdict::ToLan(_)));
    assert!(matches!(bench.inbound(&other_frame(0, &inner(OTHER, SERVER, 64, b"first"))), Verdict::ToLan(_)));
    (bench, writer)
}

/// The frame in which the second client's packet comes.
pub(crate) fn other_frame(counter: u64, plaintext: &[u8]) -> Vec<u8> {
    data_frame_of(other_slot(), false, counter, plaintext, (REMOTE.0, OTHER_PORT))
}

/// Opens what lies in the WAN buffer, as whoever it is for would; it must be for `slot`.
pub(crate) fn opens(bench: &Bench, slot: SlotId, len: usize) -> Vec<u8> {
    let datagram = &bench.wan_out[42..len];
    let header = DataHeader::parse(datagram).unwrap();
    assert_eq!(header.slot, slot);
    let (aad, sealed) = datagram.split_at(DATA_HEADER_LEN);
    let mut plain = vec![0; sealed.len() - TAG_LEN];
    drop(OpenKey::new(Suite::Aes256Gcm, &SEAL_KEY).open(header.counter, aad, sealed, &mut plain).unwrap());
    plain
}
