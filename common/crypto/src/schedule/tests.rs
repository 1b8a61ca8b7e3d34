use super::*;
use crate::testing::hex;
use std::collections::BTreeSet;

fn epoch() -> EpochSecret {
    let mut split = [0x22; 64];
    split[32..].fill(0x33);
    EpochSecret::from_noise(&[0x11; 32], &split)
}

/// R5.1: every value of the schedule, computed independently with Python's hmac. A change here is a change of
/// the protocol.
#[test]
fn schedule_matches_its_definition() {
    use Direction::{ClientToGateway, GatewayToClient};
    let epoch = epoch();
    let resume = epoch.resume();
    let data = epoch.data_keys();
    for (name, actual, expected) in [
        (
            "data, client to gateway",
            data.client_to_gateway.to_vec(),
            "5df6d62c4636944fea6df053d8fafb24345d1ceb92b59c9281c7d3f82f0561bd",
        ),
        (
            "data, gateway to client",
            data.gateway_to_client.to_vec(),
            "794a44c01321369b213d72146013460c6e64791d963360c0dbff7c784d7349e2",
        ),
        (
            "control, client to gateway, 7",
            epoch.control_key(ClientToGateway, 7).as_bytes().to_vec(),
            "8c61efb73b9b0ec33b6cb0d07e3b84e8823a5b06bb26716962d3c903e5d032c9",
        ),
        (
            "control, gateway to client, 0",
            epoch.control_key(GatewayToClient, 0).as_bytes().to_vec(),
            "f716cc8616b3eef5f18b638ef76f874c24214fe0bd6a6489345b5961f7dd5d44",
        ),
        ("psk", resume.psk().to_vec(), "9e107b98a0ccd7ebc58633a59969bfcd225dcbd4638c48d803eb0b5a9b1f887c"),
        ("mask", resume.mask(&[0x44; 32]).to_vec(), "813230ecd8f2d3c5252faf251e3c59a8"),
        (
            "mac",
            resume.mac_key().to_vec(),
            "005d59b22acc375976925af4c320c5a0dfa9770c8c3bd6fa34e192360db921b5",
        ),
        (
            "reject",
            resume.reject_key().to_vec(),
            "b764557ca25904bcc14286f5782e9ef099fff406603104afdaedc4c58e56c892",
        ),
        ("root", epoch.root().0.to_vec(), "944556d6c9ac77747ac60ecc8ac3808bd65e58a7b83bfd62b84f6f557534bbe9"),
        (
            "takeover",
            epoch.root().takeover().psk().to_vec(),
            "37e7c10984c3a5353d93bfe299812a121dbbd4b5538687335cf38ab2a064ce03",
        ),
    ] {
        assert_eq!(actual, hex(expected), "{name}");
    }
}

/// R5.1: no two keys of an epoch are equal, whatever they are for.
#[test]
fn no_key_serves_two_purposes() {
    let epoch = epoch();
    let resume = epoch.resume();
    let data = epoch.data_keys();
    let mut seen = BTreeSet::from([
        *epoch.0,
        data.client_to_gateway,
        data.gateway_to_client,
        *resume.0,
        *resume.psk(),
        *resume.mac_key(),
        *resume.reject_key(),
        epoch.root().0,
        *epoch.root().takeover().0,
    ]);
    let fixed = seen.len();
    assert_eq!(fixed, 9);
    for direction in [Direction::ClientToGateway, Direction::GatewayToClient] {
        seen.insert(*epoch.control_secret(direction).0);
        for incarnation in [0, 1, 2, 256, u32::MAX] {
            seen.insert(*epoch.control_key(direction, incarnation).as_bytes());
        }
    }
    assert_eq!(seen.len(), fixed + 2 * 6);
}

/// R5.1: the secret depends on the transcript and on both halves of the split.
#[test]
fn epochs_differ_by_transcript_and_by_split() {
    let base = *epoch().0;
    let mut split = [0x22; 64];
    split[32..].fill(0x33);
    assert_ne!(*EpochSecret::from_noise(&[0x12; 32], &split).0, base);
    for at in [0, 31, 32, 63] {
        let mut other = split;
        other[at] ^= 1;
        assert_ne!(*EpochSecret::from_noise(&[0x11; 32], &other).0, base);
    }
}

#[test]
fn secrets_are_not_printed() {
    let epoch = epoch();
    let direction = Direction::ClientToGateway;
    assert_eq!(format!("{epoch:?}"), "EpochSecret(..)");
    assert_eq!(format!("{:?}", epoch.data_keys()), "DataKeys(..)");
    assert_eq!(format!("{:?}", epoch.control_key(direction, 1)), "ControlKey(..)");
    assert_eq!(format!("{:?}", epoch.control_secret(direction)), "ControlSecret(..)");
    assert_eq!(format!("{:?}", epoch.resume()), "Resume(..)");
    assert_eq!(format!("{:?}", epoch.root()), "Root(..)");
    assert_eq!(format!("{:?}", epoch.root().takeover()), "TakeoverKey(..)");
}
