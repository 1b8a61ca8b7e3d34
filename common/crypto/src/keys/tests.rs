use super::*;
use crate::testing::{Failing, NO_SOURCE, Seeded, hex};
use proptest::prelude::*;

/// RFC 7748, section 6.1: Alice's and Bob's key pairs.
#[test]
fn public_keys_match_rfc_7748() {
    for (secret, public) in [
        (
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
        ),
        (
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
        ),
    ] {
        let secret: StaticSecret = STANDARD.encode(hex(secret)).parse().unwrap();
        assert_eq!(secret.public().0.as_slice(), hex(public));
    }
}

#[test]
fn generated_keys_round_trip_through_text() {
    let mut rng = Seeded::new(3);
    let secret = StaticSecret::generate(&mut rng).unwrap();
    let again: StaticSecret = format!("  {}\n", &*secret.to_base64()).parse().unwrap();
    assert_eq!(again.as_bytes(), secret.as_bytes());
    assert_eq!(again.public(), secret.public());
    assert_eq!(secret.to_base64().len(), KEY_TEXT_LEN);
    assert_eq!(secret.as_bytes()[0] & 7, 0, "clamped as other tools write it");
    assert_eq!(secret.as_bytes()[31] & 0xc0, 0x40, "clamped as other tools write it");

    let public: PublicKey = secret.public().to_string().parse().unwrap();
    assert_eq!(public, secret.public());

    let psk = PresharedKey::generate(&mut rng).unwrap();
    let again: PresharedKey = psk.to_base64().parse().unwrap();
    assert_eq!(again.as_bytes(), psk.as_bytes());
    assert_eq!(PresharedKey::default().as_bytes(), &[0; 32]);

    let node = NodeKey::generate(&mut rng).unwrap();
    assert_eq!(NodeKey::from_bytes(*node.as_bytes()).as_bytes(), node.as_bytes());
    assert_ne!(NodeKey::generate(&mut rng).unwrap().as_bytes(), node.as_bytes());
}

/// R2.5: without randomness there is no key.
#[test]
fn no_key_without_randomness() {
    assert_eq!(StaticSecret::generate(&mut Failing).map(|_| ()), Err(NO_SOURCE));
    assert_eq!(PresharedKey::generate(&mut Failing).map(|_| ()), Err(NO_SOURCE));
    assert_eq!(NodeKey::generate(&mut Failing).map(|_| ()), Err(NO_SOURCE));
}

#[test]
fn bad_key_texts_are_refused_and_not_repeated() {
    let good = STANDARD.encode([0xa7; 32]);
    assert!(good.parse::<PublicKey>().is_ok());
    let cases = [
        (String::new(), KeyTextError::Length(0)),
        (" \n".to_owned(), KeyTextError::Length(0)),
        (good[..43].to_owned(), KeyTextError::Length(43)),
        (format!("{good}="), KeyTextError::Length(45)),
        (STANDARD.encode([1; 31]), KeyTextError::Encoding),
        (STANDARD.encode([1; 33]), KeyTextError::Encoding),
        (good.replace('=', "A"), KeyTextError::Encoding),
        (good.replace('p', "-"), KeyTextError::Encoding),
        (format!("{} {}", &good[..20], &good[21..]), KeyTextError::Encoding),
        (good.replace('p', "\0"), KeyTextError::Encoding),
        ("é".repeat(22), KeyTextError::Encoding),
        // Not canonical: the two bits behind the last octet are not zero.
        (good.replace("c=", "d="), KeyTextError::Encoding),
        ("a7".repeat(32), KeyTextError::Length(64)),
    ];
    for (text, expected) in cases {
        assert_ne!(text, good, "the case changes something");
        assert_eq!(text.parse::<PublicKey>(), Err(expected), "{text:?}");
        assert_eq!(text.parse::<StaticSecret>().map(|_| ()), Err(expected), "{text:?}");
        assert_eq!(text.parse::<PresharedKey>().map(|_| ()), Err(expected), "{text:?}");
        assert!(text.trim().is_empty() || !expected.to_string().contains(text.trim()));
    }
}

proptest! {
    #[test]
    fn any_text_parses_to_its_own_form_or_not_at_all(text in "\\PC{0,60}|[A-Za-z0-9+/]{42,43}=") {
        if let Ok(key) = text.parse::<PublicKey>() {
            prop_assert_eq!(key.to_string(), text.trim_ascii());
        }
    }
}

/// Values computed independently with Python's hmac.
#[test]
fn reset_tokens_match_their_definition() {
    let node = NodeKey::from_bytes([0x55; 32]);
    let value = [0, 1, 2, 3, 4, 5, 6, 7];
    let slot = node.reset_token(ResetKind::Slot, value);
    assert_eq!(slot.as_slice(), hex("0419535b94411210cdcaff5cf60ecffd"));
    let handle = node.reset_token(ResetKind::Handle, value);
    assert_eq!(handle.as_slice(), hex("3f849678c77a1081d71b33428f85dd9d"));
    assert_ne!(NodeKey::from_bytes([0x56; 32]).reset_token(ResetKind::Slot, value), slot);
}

/// R2.5: the comparison looks at every octet.
#[test]
fn tokens_differ_in_any_bit() {
    let token = [0x3c; 16];
    assert!(tokens_equal(&token, &token));
    for at in 0..128 {
        let mut other = token;
        other[at / 8] ^= 1 << (at % 8);
        assert!(!tokens_equal(&token, &other), "bit {at}");
    }
}

#[test]
fn secrets_are_not_printed() {
    let mut rng = Seeded::new(9);
    let secret = StaticSecret::generate(&mut rng).unwrap();
    assert_eq!(format!("{secret:?}"), format!("StaticSecret(of {})", secret.public()));
    assert_eq!(format!("{:?}", PresharedKey::generate(&mut rng).unwrap()), "PresharedKey(..)");
    assert_eq!(format!("{:?}", NodeKey::generate(&mut rng).unwrap()), "NodeKey(..)");
}
