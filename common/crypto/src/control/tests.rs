use super::*;
use crate::testing::{resized, spoiled};

const SLOT: SlotId = SlotId(0x0002_0005);
const UP: Direction = Direction::ClientToGateway;
const DOWN: Direction = Direction::GatewayToClient;
const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

fn secret() -> EpochSecret {
    EpochSecret::for_test(0x21)
}

fn pair(suite: Suite, incarnation: u32) -> (ControlSealer, ControlOpener) {
    let secret = secret();
    (ControlSealer::new(&secret, suite, UP, SLOT, incarnation), ControlOpener::new(&secret, suite, UP, SLOT))
}

/// R5.1: what was sealed opens once, in any order within the window; a repetition is refused (R2.4).
#[test]
fn messages_open_once() {
    for suite in SUITES {
        let (mut sealer, mut opener) = pair(suite, 1);
        let messages: Vec<Vec<u8>> = (0..40).map(|len| vec![len; usize::from(len)]).collect();
        let datagrams: Vec<_> = messages.iter().map(|message| sealer.seal(message).unwrap()).collect();
        for (datagram, message) in datagrams.iter().zip(&messages).rev() {
            assert_eq!(opener.open(datagram).as_ref(), Ok(message));
        }
        for datagram in &datagrams {
            assert_eq!(opener.open(datagram), Err(CryptoError::Repeated));
        }
    }
}

/// R5.1: every octet counts, and a forgery leaves the genuine datagram acceptable.
#[test]
fn every_spoiled_octet_is_refused() {
    for suite in SUITES {
        let (mut sealer, mut opener) = pair(suite, 3);
        for message in [&b"first"[..], b"second, behind an incarnation that is known"] {
            let datagram = sealer.seal(message).unwrap();
            for (at, forged) in spoiled(&datagram) {
                assert!(opener.open(&forged).is_err(), "octet {at}");
            }
            for forged in resized(&datagram) {
                assert!(opener.open(&forged).is_err(), "{} octets", forged.len());
            }
            assert_eq!(opener.open(&datagram).as_deref(), Ok(message));
        }
    }
}

/// R5.1: direction, slot, epoch and suite must all be those that sealed.
#[test]
fn other_contexts_do_not_open() {
    let suite = Suite::Aes256Gcm;
    let (mut sealer, mut right) = pair(suite, 0);
    let datagram = sealer.seal(b"terminate").unwrap();
    let secret = secret();
    let refused = Err(CryptoError::Authentication);
    assert_eq!(ControlOpener::new(&secret, suite, DOWN, SLOT).open(&datagram), refused);
    assert_eq!(ControlOpener::new(&secret, suite, UP, SlotId(SLOT.0 + 1)).open(&datagram), refused);
    assert_eq!(ControlOpener::new(&EpochSecret::for_test(0x22), suite, UP, SLOT).open(&datagram), refused);
    assert_eq!(ControlOpener::new(&secret, Suite::ChaCha20Poly1305, UP, SLOT).open(&datagram), refused);
    assert!(right.open(&datagram).is_ok());
}

/// R2.4: only the highest incarnation seen is accepted, and only a message that opens raises it.
#[test]
fn incarnations_only_rise() {
    let suite = Suite::ChaCha20Poly1305;
    let (mut first, mut opener) = pair(suite, 1);
    let secret = secret();
    let mut second = ControlSealer::new(&secret, suite, UP, SLOT, 2);
    let mut last = ControlSealer::new(&secret, suite, UP, SLOT, u32::MAX);
    let (a, b) = (first.seal(b"a").unwrap(), first.seal(b"b").unwrap());
    let (c, d, e) = (second.seal(b"c").unwrap(), last.seal(b"d").unwrap(), last.seal(b"e").unwrap());

    let mut forged = a.clone();
    forged[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(opener.open(&forged), Err(CryptoError::Authentication));
    assert_eq!(opener.open(&a).as_deref(), Ok(&b"a"[..]), "a forged incarnation locks nobody out");
    assert_eq!(opener.open(&c).as_deref(), Ok(&b"c"[..]));
    assert_eq!(opener.open(&b), Err(CryptoError::Repeated), "an older incarnation");
    assert_eq!(opener.open(&c), Err(CryptoError::Repeated));
    assert_eq!(opener.open(&e).as_deref(), Ok(&b"e"[..]));
    assert_eq!(opener.open(&d).as_deref(), Ok(&b"d"[..]));
    assert_eq!(opener.open(&c), Err(CryptoError::Repeated));
}

/// R2.2: the window is bounded: what lies behind it is refused though it was never seen.
#[test]
fn old_messages_expire() {
    let (mut sealer, mut opener) = pair(Suite::Aes256Gcm, 0);
    let old = sealer.seal(b"held back").unwrap();
    for _ in 0..(WINDOW_WORDS - 1) * 64 {
        assert!(opener.open(&sealer.seal(b"").unwrap()).is_ok());
    }
    assert_eq!(opener.open(&old), Err(CryptoError::Repeated));
}

/// R5.2: a key seals and survives only so many messages.
#[test]
fn limits_end_a_key() {
    let (mut sealer, mut opener) = pair(Suite::ChaCha20Poly1305, 0);
    let good = sealer.seal(b"good").unwrap();
    sealer.counter = limits::HARD_PACKETS - 1;
    assert!(sealer.seal(b"last").is_ok());
    assert_eq!(sealer.seal(b"one more"), Err(CryptoError::Exhausted));

    let mut forged = good.clone();
    forged[30] ^= 1;
    opener.failed_opens = limits::FAILED_OPENS_CHACHA - 1;
    assert_eq!(opener.open(&forged), Err(CryptoError::Authentication));
    assert_eq!(opener.open(&good), Err(CryptoError::Exhausted));
}

#[test]
fn messages_that_do_not_fit_are_refused() {
    let (mut sealer, mut opener) = pair(Suite::Aes256Gcm, 0);
    let largest = vec![1; CONTROL_MESSAGE_MAX];
    let datagram = sealer.seal(&largest).unwrap();
    assert_eq!(datagram.len(), MAX_CONTROL_DATAGRAM);
    assert_eq!(opener.open(&datagram), Ok(largest));
    let len = CONTROL_MESSAGE_MAX + 1;
    assert_eq!(sealer.seal(&vec![1; len]), Err(CryptoError::TooLong { len, max: CONTROL_MESSAGE_MAX }));
}

/// R2.4, R7.3: an opener that was made again from what was kept opens nothing a second time, and all that is newer, in any
/// order; a sealer goes on with another key.
#[test]
fn r7_3_both_ends_go_on_from_what_was_kept() {
    for highest in [0_u8, 5, 63, 64, 200] {
        let suite = Suite::Aes256Gcm;
        let (mut sealer, mut opener) = pair(suite, 2);
        let datagrams: Vec<_> = (0..=highest).map(|octet| sealer.seal(&[octet]).unwrap()).collect();
        opener.open(datagrams.last().unwrap()).unwrap();
        let heard = opener.heard();
        assert_eq!(heard, Some(Heard { incarnation: 2, highest_counter: u64::from(highest) }));
        let mut again = ControlOpener::from_secret(opener.secret().clone(), suite, SLOT, heard);
        assert_eq!(again.heard(), heard);
        for datagram in &datagrams {
            assert_eq!(again.open(datagram), Err(CryptoError::Repeated));
        }
        let later: Vec<_> = (0..80).map(|octet| sealer.seal(&[octet]).unwrap()).collect();
        assert!(later.iter().rev().all(|datagram| again.open(datagram).is_ok()));
        let mut next =
            ControlSealer::from_secret(sealer.secret().clone(), suite, SLOT, sealer.incarnation() + 1);
        assert_eq!(again.open(&next.seal(b"next").unwrap()), Ok(b"next".to_vec()));
        assert_eq!(again.open(&sealer.seal(b"earlier life").unwrap()), Err(CryptoError::Repeated));
    }
}
