use super::rustcrypto::Key as Oracle;
use super::*;
use crate::testing::{Seeded, hex, resized, spoiled};
use proptest::prelude::*;

const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

struct Vector {
    suite: Suite,
    key: &'static str,
    nonce: &'static str,
    aad: &'static str,
    plaintext: Vec<u8>,
    ciphertext: &'static str,
    tag: &'static str,
}

/// The GCM specification's test case 16 (also in the NIST set) and RFC 8439, section 2.8.2.
fn vectors() -> [Vector; 2] {
    [
        Vector {
            suite: Suite::Aes256Gcm,
            key: "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
            nonce: "cafebabefacedbaddecaf888",
            aad: "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            plaintext: hex(concat!(
                "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72",
                "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
            )),
            ciphertext: concat!(
                "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa",
                "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
            ),
            tag: "76fc6ece0f4e1768cddf8853bb2d551b",
        },
        Vector {
            suite: Suite::ChaCha20Poly1305,
            key: "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
            nonce: "070000004041424344454647",
            aad: "50515253c0c1c2c3c4c5c6c7",
            plaintext: b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for \
                the future, sunscreen would be it."
                .to_vec(),
            ciphertext: concat!(
                "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6",
                "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36",
                "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc",
                "3ff4def08e4b7a9de576d26586cec64b6116"
            ),
            tag: "1ae10b594f09e26a7e902ecbd0600691",
        },
    ]
}

/// Runs `$body` with `$new` making a key of each backend in this build.
macro_rules! for_each_backend {
    ($new:ident => $body:block) => {
        #[cfg(feature = "aws-lc")]
        {
            let $new = Key::new;
            $body
        }
        {
            let $new = Oracle::new;
            $body
        }
    };
}

/// R5.1: each backend against the published vectors.
#[test]
fn backends_match_published_vectors() {
    for vector in vectors() {
        let key: [u8; 32] = hex(vector.key).try_into().unwrap();
        let nonce: [u8; 12] = hex(vector.nonce).try_into().unwrap();
        let aad = hex(vector.aad);
        for_each_backend!(new => {
            let key = new(vector.suite, &key);
            let mut body = vec![0; vector.plaintext.len()];
            let mut tag = [0; TAG_LEN];
            assert!(key.seal(nonce, &aad, &vector.plaintext, &mut body, &mut tag).is_ok());
            assert_eq!((body.as_slice(), tag.as_slice()), (&*hex(vector.ciphertext), &*hex(vector.tag)));
            let mut out = vec![0; body.len()];
            assert!(key.open(nonce, &aad, &body, &tag, &mut out).is_ok());
            assert_eq!(out, vector.plaintext);
        });
    }
}

/// The nonce on the wire: four zero octets, then the counter, big-endian.
#[test]
fn nonce_is_zero_and_big_endian_counter() {
    assert_eq!(nonce(0x0102_0304_0506_0708), [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(nonce(1)[11], 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// R5.1: this build's backend (aws-lc but for feature `rustcrypto` alone) and RustCrypto make the same
    /// octets and open each other's, in place and out of place.
    #[test]
    fn backends_agree(
        seed in any::<u64>(),
        counter in any::<u64>(),
        len in 0_usize..=1_500,
        aad_len in 0_usize..=64,
        aes in any::<bool>(),
        spoil in any::<proptest::sample::Index>(),
    ) {
        let suite = if aes { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 };
        let mut rng = Seeded::new(seed);
        let key: [u8; 32] = rng.octets(32).try_into().unwrap();
        let (aad, plaintext) = (rng.octets(aad_len), rng.octets(len));
        let (ours, oracle) = (Key::new(suite, &key), Oracle::new(suite, &key));
        let nonce = nonce(counter);

        let mut body = vec![0; len];
        let mut tag = [0; TAG_LEN];
        prop_assert!(ours.seal(nonce, &aad, &plaintext, &mut body, &mut tag).is_ok());
        let mut oracle_body = vec![0; len];
        let mut oracle_tag = [0; TAG_LEN];
        prop_assert!(oracle.seal(nonce, &aad, &plaintext, &mut oracle_body, &mut oracle_tag).is_ok());
        prop_assert_eq!((&body, tag), (&oracle_body, oracle_tag));

        let mut in_place = plaintext.clone();
        let mut in_place_tag = [0; TAG_LEN];
        prop_assert!(ours.seal_in_place(nonce, &aad, &mut in_place, &mut in_place_tag).is_ok());
        prop_assert_eq!((&in_place, in_place_tag), (&body, tag));

        let mut out = vec![0; len];
        prop_assert!(oracle.open(nonce, &aad, &body, &tag, &mut out).is_ok());
        prop_assert_eq!(&out, &plaintext);
        out.fill(0);
        prop_assert!(ours.open(nonce, &aad, &oracle_body, &oracle_tag, &mut out).is_ok());
        prop_assert_eq!(&out, &plaintext);
        prop_assert!(ours.open_in_place(nonce, &aad, &mut in_place, &tag).is_ok());
        prop_assert_eq!(&in_place, &plaintext);

        // Both refuse the same, and neither leaves plain text behind.
        let at = spoil.index(len + TAG_LEN);
        if at < len { body[at] ^= 0x10 } else { tag[at - len] ^= 0x10 }
        for refused in [
            ours.open(nonce, &aad, &body, &tag, &mut out).is_err(),
            oracle.open(nonce, &aad, &body, &tag, &mut oracle_body).is_err(),
            ours.open_in_place(nonce, &aad, &mut body.clone(), &tag).is_err(),
            oracle.open_in_place(nonce, &aad, &mut body.clone(), &tag).is_err(),
        ] {
            prop_assert!(refused);
        }
        prop_assert!(out.iter().chain(&oracle_body).all(|octet| *octet == 0));
    }
}

fn sealed(suite: Suite, plaintext: &[u8]) -> (OpenKey, Vec<u8>) {
    let key = [0x42; 32];
    let mut out = vec![0; plaintext.len() + TAG_LEN];
    SealKey::new(suite, &key).seal(77, b"header", plaintext, &mut out).unwrap();
    (OpenKey::new(suite, &key), out)
}

/// R5.1: what was sealed opens, out of place and in place, and the proof names its counter.
#[test]
fn sealed_text_opens() {
    for suite in SUITES {
        for plaintext in [&b""[..], b"x", &[7; 1_400]] {
            let (key, mut datagram) = sealed(suite, plaintext);
            let mut out = vec![0; plaintext.len()];
            let opened = key.open(77, b"header", &datagram, &mut out).unwrap();
            assert_eq!((opened.counter(), &*out), (77, plaintext));

            let mut in_place = plaintext.to_vec();
            in_place.resize(plaintext.len() + TAG_LEN, 0xee);
            SealKey::new(suite, &[0x42; 32]).seal_in_place(77, b"header", &mut in_place).unwrap();
            assert_eq!(in_place, datagram);
            let (opened, text) = key.open_in_place(77, b"header", &mut datagram).unwrap();
            assert_eq!((opened.counter(), &*text), (77, plaintext));
        }
    }
}

/// R5.1: any octet, the counter, the header, the key, the suite: each must be the one that sealed.
#[test]
fn changed_text_does_not_open() {
    for suite in SUITES {
        let (key, datagram) = sealed(suite, b"inner packet");
        let mut out = [0; 12];
        let refused = Err(AeadError::Authentication);
        for (at, changed) in spoiled(&datagram) {
            out.fill(0xaa);
            assert_eq!(key.open(77, b"header", &changed, &mut out), refused, "octet {at}");
            assert_eq!(out, [0; 12], "nothing is left of a refused text");
            let mut changed = changed;
            assert!(key.open_in_place(77, b"header", &mut changed).is_err());
            assert_eq!(changed[..12], [0; 12]);
        }
        assert_eq!(key.open(78, b"header", &datagram, &mut out), refused);
        assert_eq!(key.open(77, b"Header", &datagram, &mut out), refused);
        assert_eq!(key.open(77, b"", &datagram, &mut out), refused);
        let other = OpenKey::new(suite, &[0x43; 32]);
        assert_eq!(other.open(77, b"header", &datagram, &mut out), refused);
        let [a, b] = SUITES;
        let other = OpenKey::new(if suite == a { b } else { a }, &[0x42; 32]);
        assert_eq!(other.open(77, b"header", &datagram, &mut out), refused);
        assert!(key.open(77, b"header", &datagram, &mut out).is_ok(), "the genuine one still opens");
    }
}

#[test]
fn buffers_that_do_not_fit_are_refused() {
    for suite in SUITES {
        let (key, datagram) = sealed(suite, b"inner packet");
        for resized in resized(&datagram) {
            let mut out = [0; 12];
            assert_eq!(key.open(77, b"header", &resized, &mut out), Err(AeadError::Length));
            let mut out = vec![0; resized.len().saturating_sub(TAG_LEN)];
            assert!(key.open(77, b"header", &resized, &mut out).is_err());
            assert!(key.open_in_place(77, b"header", &mut resized.clone()).is_err());
        }
        let seal = SealKey::new(suite, &[1; 32]);
        for len in (0..40).filter(|len| *len != 12 + TAG_LEN) {
            assert_eq!(seal.seal(1, b"", b"inner packet", &mut vec![0; len]), Err(AeadError::Length));
        }
        for len in 0..TAG_LEN {
            assert_eq!(seal.seal_in_place(1, b"", &mut vec![0; len]), Err(AeadError::Length));
        }
    }
}

/// Workers on several threads share keys.
#[test]
fn keys_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<SealKey>();
    crosses::<OpenKey>();
}
