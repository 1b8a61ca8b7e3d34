use super::*;
use crate::testing::hex;

/// RFC 4231, test case 1 (its 20-octet key padded with zeros, which HMAC does anyway) and case 2, cut to 16
/// octets.
#[test]
fn mac_matches_rfc_4231() {
    let padded = |key: &[u8]| {
        let mut full = [0; 32];
        full[..key.len()].copy_from_slice(key);
        full
    };
    let cut = mac(&padded(&[0x0b; 20]), &[b"Hi ", b"There"]);
    assert_eq!(cut.as_slice(), hex("b0344c61d8db38535ca8afceaf0bf12b"));
    let cut = mac(&padded(b"Jefe"), &[b"what do ya want ", b"", b"for nothing?"]);
    assert_eq!(cut.as_slice(), hex("5bdcc146bf60754e6a042426089575c7"));
}

/// RFC 5869, test case 1: the whole of Extract and the first block of Expand.
#[test]
fn key_derivation_matches_rfc_5869() {
    let prk = extract(&hex("000102030405060708090a0b0c"), &[0x0b; 22]);
    assert_eq!(prk.as_slice(), hex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"));
    let info = hex("f0f1f2f3f4f5f6f7f8f9");
    let expected = hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf");
    assert_eq!(expand::<32>(&prk, &[&info]).as_slice(), expected);
    let (first, rest) = info.split_at(3);
    assert_eq!(expand::<16>(&prk, &[first, rest]).as_slice(), &expected[..16]);
}
