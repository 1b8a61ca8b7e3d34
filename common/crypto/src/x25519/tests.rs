use super::*;
use crate::testing::{Seeded, hex};

fn octets(text: &str) -> [u8; 32] {
    hex(text).try_into().unwrap()
}

/// R2.1: the iterated vector of RFC 7748, section 5.2.
#[test]
fn r2_1_the_published_iteration_comes_out() {
    let mut scalar = octets("0900000000000000000000000000000000000000000000000000000000000000");
    let mut point = scalar;
    for round in 0..1_000 {
        let shared = Private::new(Secret::new(scalar)).unwrap().agree(&point).unwrap();
        point = scalar;
        scalar = *shared;
        if round == 0 {
            assert_eq!(scalar, octets("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"));
        }
    }
    assert_eq!(scalar, octets("684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"));
}

/// R2.1: both backends make the same of any key and any point, also of points that are not canonical.
#[test]
fn r2_1_backends_agree_with_each_other() {
    let mut rng = Seeded::new(25_519);
    for round in 0..200 {
        let secret: [u8; 32] = rng.octets(32).try_into().unwrap();
        let mut theirs: [u8; 32] = rng.octets(32).try_into().unwrap();
        if round % 4 == 0 {
            // Above the prime, with the bit that is to be ignored.
            theirs = [0xff; 32];
            theirs[0] = 0xed + u8::try_from(round % 19).unwrap();
        }
        let ours = Private::new(Secret::new(secret)).unwrap();
        let (oracle, public) = dalek::Backend::new(&secret).unwrap();
        assert_eq!(ours.public().0, public);
        assert_eq!(ours.agree(&theirs).map(|s| *s), oracle.agree(&theirs).map(|s| *s), "{theirs:02x?}");
    }
}

/// R2.1: every point of small order is refused, canonical or not (RFC 7748, section 6.1).
#[test]
fn r2_1_points_of_small_order_are_refused() {
    let ours = Private::new(Secret::new([7; 32])).unwrap();
    let mut points = vec![
        [0; 32],
        octets("0100000000000000000000000000000000000000000000000000000000000000"),
        octets("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        octets("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    ];
    for low in [0xec, 0xed, 0xee] {
        let mut near_prime = [0xff; 32];
        (near_prime[0], near_prime[31]) = (low, 0x7f);
        points.push(near_prime);
    }
    for point in points {
        for high_bit in [0, 0x80] {
            let mut theirs = point;
            theirs[31] |= high_bit;
            assert!(ours.agree(&theirs).is_none(), "{theirs:02x?}");
        }
    }
}
