use super::*;
use crate::aead::OpenKey;
use crate::rng::RandomError;
use crate::testing::{Failing, NO_SOURCE, hex};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jvpn_abi::wire::Suite;

/// One published test vector; static keys, ephemeral keys, psk and prologue are the same in all of them.
struct Vector {
    pattern: &'static str,
    psk_position: u8,
    initiator_known: bool,
    handshake_hash: &'static str,
    /// Handshake messages 1 and 2, then the first transport message of each side.
    messages: [&'static str; 4],
}

const PROLOGUE: &[u8] = b"John Galt";
const PSK: &[u8; 32] = b"This is my Austrian perspective!";
const INITIATOR: &str = "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1";
const INITIATOR_EPHEMERAL: &str = "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a";
const RESPONDER: &str = "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893";
const RESPONDER_EPHEMERAL: &str = "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b";
const PAYLOADS: [&[u8]; 4] = [b"Ludwig von Mises", b"Murray Rothbard", b"F. A. Hayek", b"Carl Menger"];

/// From the cacophony vectors of the Noise community.
const VECTORS: [Vector; 2] = [
    Vector {
        pattern: "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s",
        psk_position: 2,
        initiator_known: false,
        handshake_hash: "f5191b875290abcd41347ac3622d9679688a7e980229cb937ef748336cfde0e5",
        messages: [
            concat!(
                "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944001e21de9f98ddd8",
                "e2ad57527207feb56253c9c94a9e496782ecfcb2a75fbcaf1b52948cc48daefe660c62119ab50009",
                "80c84831215f2441eba616548e832985464cf17e51ee93109008399a21f7e13f"
            ),
            concat!(
                "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843cb765f2caef0751b",
                "8f007572dab0322217755c0632f365717edbf34d33e87a"
            ),
            "8153ca9833bc3c1b91a7e66e5f4d4f5b59bf9e64c2f20d15f0bba7",
            "07af0c9c86e1b4e80f36b04ff7688d51141af3debd0332f0a705ef",
        ],
    },
    Vector {
        pattern: "Noise_KKpsk0_25519_ChaChaPoly_BLAKE2s",
        psk_position: 0,
        initiator_known: true,
        handshake_hash: "cb6446644ec2b5f98feac9826aadfc558ed504e3c4b44395b7ad37c773962a96",
        messages: [
            concat!(
                "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c794416088e45dd5bcdb9",
                "bee7037e09be96e5c9750d48aded34648f0663750995e4fa"
            ),
            concat!(
                "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843fcf5c1d990871f22",
                "4ffe090498a03bd50db64dcf448db09194f5a93e1aa73b"
            ),
            "4703888dd8d47d781af6a5c61ba22562e2f657883f13d29817d1b6",
            "930c11f54ccb098a7f851e6026aaab4c56ec9100f356d95a9543cd",
        ],
    },
];

/// Hands out one ephemeral key.
struct Fixed(Vec<u8>);

impl Random for Fixed {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), RandomError> {
        out.copy_from_slice(&self.0);
        Ok(())
    }
}

fn static_secret(text: &str) -> StaticSecret {
    STANDARD.encode(hex(text)).parse().unwrap()
}

/// R5.1: both exchanges produce the octets, the handshake hash and the transport keys of the published
/// vectors. The ephemeral keys come from the source that was handed in: otherwise nothing here would match.
#[test]
fn exchanges_match_published_vectors() {
    let (initiator, responder) = (static_secret(INITIATOR), static_secret(RESPONDER));
    for vector in VECTORS {
        let setup = |local, remote| Setup {
            pattern: vector.pattern,
            prologue: PROLOGUE,
            local,
            remote,
            psk: Some((vector.psk_position, PSK)),
        };
        let (initiator_public, responder_public) = (initiator.public(), responder.public());
        let mut client = setup(&initiator, Some(&responder_public))
            .build(Role::Initiator, &mut Fixed(hex(INITIATOR_EPHEMERAL)))
            .unwrap();
        let mut gateway = setup(&responder, vector.initiator_known.then_some(&initiator_public))
            .build(Role::Responder, &mut Fixed(hex(RESPONDER_EPHEMERAL)))
            .unwrap();

        let [first, second, from_client, from_gateway] = vector.messages.map(hex);
        let [first_payload, second_payload, client_payload, gateway_payload] = PAYLOADS;
        let message = write(&mut client, first_payload, first.len() - first_payload.len()).unwrap();
        assert_eq!(message, first, "{}", vector.pattern);
        assert_eq!(read(&mut gateway, &message).unwrap(), first_payload);
        let message = write(&mut gateway, second_payload, second.len() - second_payload.len()).unwrap();
        assert_eq!(message, second, "{}", vector.pattern);
        assert_eq!(read(&mut client, &message).unwrap(), second_payload);

        for end in [&mut client, &mut gateway] {
            assert_eq!(end.get_handshake_hash(), hex(vector.handshake_hash), "{}", vector.pattern);
            let (to_gateway, to_client) = end.dangerously_get_raw_split();
            for (key, sealed, payload) in
                [(to_gateway, &from_client, client_payload), (to_client, &from_gateway, gateway_payload)]
            {
                // Noise counts in another octet order, which for counter 0 is no difference.
                let mut out = vec![0; payload.len()];
                let key = OpenKey::new(Suite::ChaCha20Poly1305, &key);
                assert!(key.open(0, &[], sealed, &mut out).is_ok());
                assert_eq!(out, payload, "{}", vector.pattern);
            }
        }
        assert!(finish(&mut client).is_ok() && finish(&mut gateway).is_ok());
    }
}

fn fresh(rng: &mut dyn Random) -> Result<HandshakeState, CryptoError> {
    let local = static_secret(INITIATOR);
    let remote = static_secret(RESPONDER).public();
    let [vector, _] = VECTORS;
    Setup {
        pattern: vector.pattern,
        prologue: PROLOGUE,
        local: &local,
        remote: Some(&remote),
        psk: Some((vector.psk_position, PSK)),
    }
    .build(Role::Initiator, rng)
}

/// R2.5: a source that fails stops the exchange.
#[test]
fn no_exchange_without_randomness() {
    assert_eq!(fresh(&mut Failing).map(|_| ()), Err(CryptoError::Random(NO_SOURCE)));
}

#[test]
fn an_unfinished_exchange_has_no_secret() {
    let mut state = fresh(&mut Fixed(hex(INITIATOR_EPHEMERAL))).unwrap();
    assert!(matches!(finish(&mut state), Err(CryptoError::Internal(_))));
}

/// R5.1: one draw is one ephemeral key; there is never a second from the same draw.
#[test]
fn a_draw_serves_once() {
    let mut draw = OneDraw(Some(Zeroizing::new([7; 32])));
    let mut out = [0; 32];
    assert!(snow::types::Random::try_fill_bytes(&mut draw, &mut out).is_ok());
    assert_eq!(out, [7; 32]);
    assert_eq!(snow::types::Random::try_fill_bytes(&mut draw, &mut out), Err(Error::Rng));
    let mut draw = OneDraw(Some(Zeroizing::new([7; 32])));
    assert_eq!(snow::types::Random::try_fill_bytes(&mut draw, &mut [0; 16]), Err(Error::Rng));
}

/// R2.1: points of small order contribute nothing and are refused (RFC 7748, section 6.1).
#[test]
fn keys_that_contribute_nothing_are_refused() {
    let secret = StaticSecret::generate(&mut Fixed(hex(INITIATOR))).unwrap();
    let mut ours = Agreed::new(Arc::clone(secret.key()));
    ours.set(&hex(INITIATOR));
    let mut order_eight = hex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800");
    let mut one = vec![0; 32];
    one[0] = 1;
    for theirs in [vec![0; 32], one, order_eight.clone()] {
        assert_eq!(ours.dh(&theirs, &mut [0; 56]), Err(Error::Dh), "{theirs:02x?}");
    }
    order_eight[0] ^= 1;
    assert_eq!(ours.dh(&order_eight, &mut [0; 56]), Ok(()));
    assert_eq!(ours.dh(&[9; 31], &mut [0; 56]), Err(Error::Dh), "too short");
}
