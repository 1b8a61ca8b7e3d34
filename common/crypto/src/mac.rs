//! Keyed MACs and key derivation: HMAC-SHA-256 and HKDF-SHA-256 (RFC 2104, RFC 5869), nothing of our own.

#[cfg(feature = "handshake")]
use hkdf::Hkdf;
use hkdf::hmac::{Hmac, Mac};
use jvpn_abi::wire::MAC_LEN;
#[cfg(feature = "handshake")]
use sha2::Digest;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Octets of every secret and of a SHA-256 digest.
pub(crate) const SECRET_LEN: usize = 32;

/// A secret of full size that is wiped when dropped.
pub(crate) type Secret = Zeroizing<[u8; SECRET_LEN]>;

/// HMAC-SHA-256 over the concatenation of `parts`, cut to its first [`MAC_LEN`] octets (RFC 2104, section 5).
pub(crate) fn mac(key: &[u8; SECRET_LEN], parts: &[&[u8]]) -> [u8; MAC_LEN] {
    // HMAC pads a short key with zeros to the block of the hash; doing it here makes the length a fact of the
    // type.
    let mut block = Zeroizing::new([0_u8; 64]);
    for (to, from) in block.iter_mut().zip(key) {
        *to = *from;
    }
    let mut hmac = <Hmac<Sha256> as Mac>::new((&*block).into());
    for part in parts {
        hmac.update(part);
    }
    let full: [u8; 32] = hmac.finalize().into_bytes().into();
    let mut cut = [0; MAC_LEN];
    for (to, from) in cut.iter_mut().zip(full) {
        *to = from;
    }
    cut
}

/// Whether two MACs are equal, in constant time (R2.5).
pub(crate) fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// SHA-256 of `label ‖ value`: a key that everybody who knows `value` can compute.
#[cfg(feature = "handshake")]
pub(crate) fn public_key_of(label: &[u8], value: &[u8]) -> [u8; SECRET_LEN] {
    Sha256::new().chain_update(label).chain_update(value).finalize().into()
}

/// HKDF-Extract.
#[cfg(feature = "handshake")]
pub(crate) fn extract(salt: &[u8], key_material: &[u8]) -> Secret {
    let (prk, _) = Hkdf::<Sha256>::extract(Some(salt), key_material);
    Zeroizing::new(prk.into())
}

/// HKDF-Expand of at most one block, with `info` = the concatenation of `parts`.
#[cfg(feature = "handshake")]
pub(crate) fn expand<const N: usize>(prk: &[u8; SECRET_LEN], parts: &[&[u8]]) -> Zeroizing<[u8; N]> {
    const { assert!(N <= 32, "one block of HKDF-SHA-256") };
    let mut out = Zeroizing::new([0; N]);
    // Both calls fail on lengths only, and both lengths are fixed by types.
    Hkdf::<Sha256>::from_prk(prk)
        .expect("a 32-octet secret is a pseudorandom key for HKDF-SHA-256")
        .expand_multi_info(parts, &mut *out)
        .expect("one block is below the limit of HKDF-Expand");
    out
}

#[cfg(all(test, feature = "handshake"))]
mod tests;
