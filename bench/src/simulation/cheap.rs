//! A Diffie-Hellman that costs next to nothing: powers modulo the prime 2^61 - 1. Whoever sees a public key can find the
//! private one, which nobody in a simulation does; everything that the two ends of an exchange can get right or wrong is
//! as with X25519.

use jvpn_crypto::agreement::Agreement;

/// The prime.
const P: u64 = (1 << 61) - 1;
/// A generator of the whole group.
const G: u64 = 37;

/// The group of the numbers from 1 to `P` - 1.
pub(super) struct CheapGroup;

impl Agreement for CheapGroup {
    fn public(&self, private: &[u8; 32]) -> [u8; 32] {
        spread(power(G, exponent(private)))
    }

    fn agree(&self, private: &[u8; 32], theirs: &[u8; 32], shared: &mut [u8; 32]) -> bool {
        let base = first(theirs);
        // Not spread by us, or of an order that tells nothing of the private key.
        if spread(base) != *theirs || !(2..P - 1).contains(&base) {
            return false;
        }
        *shared = spread(power(base, exponent(private)));
        true
    }
}

fn first(octets: &[u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *octets;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// All 32 octets count, as in a real key: 2 and more, whatever they say.
fn exponent(private: &[u8; 32]) -> u64 {
    let folded = private
        .chunks_exact(8)
        .map(|chunk| chunk.iter().fold(0, |word: u64, octet| word << 8 | u64::from(*octet)))
        .fold(0_u64, |sum, word| sum.rotate_left(17) ^ word);
    folded % (P - 3) + 2
}

/// A number as a key: itself, and what follows from it.
fn spread(number: u64) -> [u8; 32] {
    let mut octets = [0; 32];
    let mut word = number;
    for chunk in octets.chunks_exact_mut(8) {
        chunk.copy_from_slice(&word.to_be_bytes());
        word = (word ^ word >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    octets
}

fn power(mut base: u64, mut exponent: u64) -> u64 {
    let mut result = 1;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = times(result, base);
        }
        base = times(base, base);
        exponent >>= 1;
    }
    result
}

fn times(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let sum = (product as u64 & P) + (product >> 61) as u64;
    if sum >= P { sum - P } else { sum }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::dice::Dice;
    use jvpn_crypto::handshake::{initiate, read_init};
    use jvpn_crypto::keys::{PresharedKey, StaticSecret};

    fn key(dice: &mut Dice) -> StaticSecret {
        StaticSecret::simulated(dice, &CheapGroup).unwrap()
    }

    /// R2.1: both ends agree, a third one does not, and an X25519 key is worth nothing here.
    #[test]
    fn both_ends_agree_and_others_do_not() {
        let mut dice = Dice::new(1, 1);
        let psk = PresharedKey::default();
        for round in 0..50 {
            let (client, gateway, other) = (key(&mut dice), key(&mut dice), key(&mut dice));
            let (init, mut initiation) =
                initiate(&mut dice, &client, &gateway.public(), &psk, round, b"offer").unwrap();
            assert!(read_init(&mut dice, &other, &init).is_err());
            let (_, incoming) = read_init(&mut dice, &gateway, &init).unwrap();
            assert_eq!(incoming.peer, client.public());
            let (response, at_gateway) = incoming.respond(&psk, b"grant").unwrap();
            let (at_client, _) = initiation.read_response(&response).unwrap();
            assert_eq!(at_client.data_keys().client_to_gateway, at_gateway.data_keys().client_to_gateway);
            let real = StaticSecret::generate(&mut dice).unwrap();
            assert!(initiate(&mut dice, &client, &real.public(), &psk, round, b"offer").is_err());
        }
    }

    /// R2.1: keys that contribute nothing are refused, as X25519 refuses them.
    #[test]
    fn keys_that_contribute_nothing_are_refused() {
        for weak in [0, 1, P - 1, P, u64::MAX] {
            assert!(!CheapGroup.agree(&[7; 32], &spread(weak), &mut [0; 32]), "{weak}");
        }
        assert!(!CheapGroup.agree(&[7; 32], &[9; 32], &mut [0; 32]));
        assert!(CheapGroup.agree(&[7; 32], &CheapGroup.public(&[8; 32]), &mut [0; 32]));
    }
}
