use super::*;
use crate::ik::{PATTERN, PSK_POSITION, request_mac};
use crate::noise::{Role, Setup};
use crate::testing::{Failing, NO_SOURCE, Seeded, resized, spoiled};
use jvpn_abi::wire::Suite;
use jvpn_abi::wire::handshake::{
    INIT_COOKIE_AT, INIT_MAC_AT, INIT_NOISE_AT, NOISE_INIT_OVERHEAD, RESPONSE_NOISE_AT,
};

const INDEX: u32 = 0x0102_0304;

struct Ends {
    rng: Seeded,
    client: StaticSecret,
    gateway: StaticSecret,
    psk: PresharedKey,
}

impl Ends {
    fn new(seed: u64) -> Self {
        let mut rng = Seeded::new(seed);
        let client = StaticSecret::generate(&mut rng).unwrap();
        let gateway = StaticSecret::generate(&mut rng).unwrap();
        let psk = PresharedKey::generate(&mut rng).unwrap();
        Self { rng, client, gateway, psk }
    }

    fn initiate(&mut self, payload: &[u8]) -> (Vec<u8>, Initiation) {
        let gateway = self.gateway.public();
        initiate(&mut self.rng, &self.client, &gateway, &self.psk, INDEX, payload).unwrap()
    }

    fn read(&mut self, datagram: &[u8]) -> Result<IncomingInit, CryptoError> {
        read_init(&mut self.rng, &self.gateway, datagram).map(|(_proven, incoming)| incoming)
    }

    fn respond(&mut self, init: &[u8], payload: &[u8]) -> (Vec<u8>, EpochSecret) {
        let psk = self.psk.clone();
        self.read(init).unwrap().respond(&psk, payload).unwrap()
    }
}

fn same(a: &EpochSecret, b: &EpochSecret) -> bool {
    let (a, b) = (a.data_keys(), b.data_keys());
    a.client_to_gateway == b.client_to_gateway && a.gateway_to_client == b.gateway_to_client
}

/// Somebody on the path knows the gateway's public key and can make the outer MAC right again.
fn with_mac(gateway: &StaticSecret, mut datagram: Vec<u8>) -> Vec<u8> {
    let mac = request_mac(&gateway.public(), &datagram);
    datagram[INIT_MAC_AT..INIT_COOKIE_AT].copy_from_slice(&mac);
    datagram
}

/// R5.1 R2.1: both ends come to one secret, each learns the other's payload, the gateway learns who it is.
#[test]
fn round_trip() {
    let mut ends = Ends::new(1);
    for psk in [PresharedKey::default(), ends.psk.clone()] {
        ends.psk = psk;
        for answer_len in [0, 1, 300, RESPONSE_PAYLOAD_MAX] {
            let (init, mut initiation) = ends.initiate(b"offer");
            assert_eq!((init.len(), initiation.client_index()), (INIT_LEN, INDEX));
            assert!(init_mac_ok(&ends.gateway.public(), &init));
            let incoming = ends.read(&init).unwrap();
            assert_eq!((incoming.peer, incoming.client_index), (ends.client.public(), INDEX));
            assert_eq!(incoming.payload.len(), INIT_PAYLOAD_LEN);
            assert!(incoming.payload.starts_with(b"offer"));
            assert!(incoming.payload[5..].iter().all(|octet| *octet == 0));

            let answer = vec![0x77; answer_len];
            let (response, gateways) = incoming.respond(&ends.psk, &answer).unwrap();
            assert!(response.len() <= init.len(), "an answer is never larger than its question");
            let (clients, payload) = initiation.read_response(&response).unwrap();
            assert_eq!(payload, answer);
            assert!(same(&clients, &gateways));
            assert!(!same(&clients, &EpochSecret::for_test(0)));
        }
    }
}

/// R5.1: every octet of an INIT counts; a forgery leaves nothing behind that would hurt the genuine one.
#[test]
fn every_spoiled_octet_of_an_init_is_refused() {
    let mut ends = Ends::new(2);
    let (init, mut initiation) = ends.initiate(b"offer");
    for (at, forged) in spoiled(&init) {
        assert!(!init_mac_ok(&ends.gateway.public(), &forged), "octet {at}");
        assert_eq!(ends.read(&forged).map(|_| ()), Err(CryptoError::Malformed), "octet {at}");
        // With the MAC made right again the Noise message must hold on its own.
        if at >= INIT_NOISE_AT {
            let forged = with_mac(&ends.gateway, forged);
            assert!(init_mac_ok(&ends.gateway.public(), &forged));
            assert_eq!(ends.read(&forged).map(|_| ()), Err(CryptoError::Authentication), "octet {at}");
        }
    }
    let (response, _) = ends.respond(&init, b"grant");
    assert!(initiation.read_response(&response).is_ok());
}

/// R5.1: every octet of a RESPONSE counts, and the initiation stays usable for the genuine one. R2.4: which
/// it then takes exactly once.
#[test]
fn every_spoiled_octet_of_a_response_is_refused_and_the_genuine_one_taken_once() {
    let mut ends = Ends::new(3);
    let (init, mut initiation) = ends.initiate(b"offer");
    let (response, secret) = ends.respond(&init, b"grant");
    for (at, forged) in spoiled(&response) {
        assert!(initiation.read_response(&forged).is_err(), "octet {at}");
    }
    for forged in resized(&response) {
        assert!(initiation.read_response(&forged).is_err(), "{} octets", forged.len());
    }
    let (clients, payload) = initiation.read_response(&response).unwrap();
    assert_eq!(payload, b"grant");
    assert!(same(&clients, &secret));
    assert_eq!(initiation.read_response(&response).map(|_| ()), Err(CryptoError::Repeated));
}

#[test]
fn truncated_and_oversized_inits_are_refused() {
    let mut ends = Ends::new(4);
    let (init, _) = ends.initiate(b"");
    for forged in resized(&init) {
        assert!(!init_mac_ok(&ends.gateway.public(), &forged));
        assert_eq!(ends.read(&forged).map(|_| ()), Err(CryptoError::Malformed));
    }
}

/// R2.1: without the right keys there is no session: gateway's, client's, pre-shared.
#[test]
fn wrong_keys_are_refused() {
    let mut ends = Ends::new(5);
    let (init, mut initiation) = ends.initiate(b"offer");

    let other = StaticSecret::generate(&mut ends.rng).unwrap();
    assert!(!init_mac_ok(&other.public(), &init));
    let refused = read_init(&mut ends.rng, &other, &init).map(|_| ());
    assert_eq!(refused, Err(CryptoError::Malformed), "the MAC names the gateway");
    let refused = read_init(&mut ends.rng, &other, &with_mac(&other, init.clone())).map(|_| ());
    assert_eq!(refused, Err(CryptoError::Authentication), "and Noise is for the gateway");

    let wrong = PresharedKey::generate(&mut ends.rng).unwrap();
    for psk in [wrong, PresharedKey::default()] {
        let (response, _) = ends.read(&init).unwrap().respond(&psk, b"grant").unwrap();
        let refused = initiation.read_response(&response).map(|_| ());
        assert_eq!(refused, Err(CryptoError::Authentication));
    }
    // A gateway that is not the one asked, but saw the exchange, cannot answer for it.
    let (foreign_init, _) = Ends { gateway: other.clone(), ..Ends::new(5) }.initiate(b"offer");
    let (_, incoming) = read_init(&mut ends.rng, &other, &foreign_init).unwrap();
    let (response, _) = incoming.respond(&ends.psk, b"grant").unwrap();
    assert!(initiation.read_response(&response).is_err());

    let (response, _) = ends.respond(&init, b"grant");
    assert!(initiation.read_response(&response).is_ok(), "the genuine response still counts");
}

/// R5.1 (downgrade): a suite turned to nothing inside the sealed offer, with all that the path can compute
/// made right, breaks the exchange. The cipher alone would let it through: the change decrypts to a valid
/// offer.
#[test]
fn a_stripped_suite_breaks_the_handshake() {
    let mut ends = Ends::new(6);
    let offer = [1, 1, 2, Suite::Aes256Gcm as u8, Suite::ChaCha20Poly1305 as u8];
    let (init, mut initiation) = ends.initiate(&offer);
    // Noise message 1: ephemeral (32), sealed static key (48), sealed payload.
    let payload_at = INIT_NOISE_AT + NOISE_INIT_OVERHEAD - 16;
    for (at, to) in [(3, Suite::ChaCha20Poly1305 as u8), (4, 0), (2, 1), (1, 0)] {
        let mut stripped = init.clone();
        stripped[payload_at + at] ^= offer[at] ^ to;
        let refused = ends.read(&with_mac(&ends.gateway, stripped)).map(|_| ());
        assert_eq!(refused, Err(CryptoError::Authentication), "offer octet {at}");
    }
    let chosen = [Suite::Aes256Gcm as u8];
    let (response, _) = ends.respond(&init, &chosen);
    let mut changed = response.clone();
    changed[RESPONSE_NOISE_AT + 32] ^= Suite::Aes256Gcm as u8 ^ Suite::ChaCha20Poly1305 as u8;
    assert_eq!(initiation.read_response(&changed).map(|_| ()), Err(CryptoError::Authentication));
    assert_eq!(initiation.read_response(&response).unwrap().1, chosen);
}

/// R5.1 (downgrade): the protocol version is part of the transcript.
#[test]
fn another_version_in_the_transcript_breaks_the_handshake() {
    let mut ends = Ends::new(7);
    let remote = ends.gateway.public();
    let setup = Setup {
        pattern: PATTERN,
        prologue: b"jvpn handshake\x02",
        local: &ends.client,
        remote: Some(&remote),
        psk: Some((PSK_POSITION, ends.psk.as_bytes())),
    };
    let mut state = setup.build(Role::Initiator, &mut ends.rng).unwrap();
    let message = noise::write(&mut state, &[0; INIT_PAYLOAD_LEN], NOISE_INIT_OVERHEAD).unwrap();
    let (mut init, _) = ends.initiate(b"");
    init[INIT_NOISE_AT..].copy_from_slice(&message);
    let refused = ends.read(&with_mac(&ends.gateway, init)).map(|_| ());
    assert_eq!(refused, Err(CryptoError::Authentication));
}

/// R2.4: a response to another initiation is refused, even of the same client with the same index.
#[test]
fn responses_belong_to_their_initiation() {
    let mut ends = Ends::new(8);
    let (first_init, mut first) = ends.initiate(b"offer");
    let (second_init, mut second) = ends.initiate(b"offer");
    assert_ne!(first_init[INIT_NOISE_AT..INIT_NOISE_AT + 32], second_init[INIT_NOISE_AT..INIT_NOISE_AT + 32]);
    let (to_first, _) = ends.respond(&first_init, b"grant");
    let (to_second, _) = ends.respond(&second_init, b"grant");
    assert_eq!(first.read_response(&to_second).map(|_| ()), Err(CryptoError::Authentication));
    assert_eq!(second.read_response(&to_first).map(|_| ()), Err(CryptoError::Authentication));
    let (a, _) = first.read_response(&to_first).unwrap();
    let (b, _) = second.read_response(&to_second).unwrap();
    assert!(!same(&a, &b), "each exchange has a secret of its own");
}

/// R5.1: an INIT read twice is answered with two ephemeral keys and two secrets.
#[test]
fn a_replayed_init_yields_another_secret() {
    let mut ends = Ends::new(9);
    let (init, _) = ends.initiate(b"offer");
    let (first, a) = ends.respond(&init, b"grant");
    let (second, b) = ends.respond(&init, b"grant");
    assert_ne!(first[RESPONSE_NOISE_AT..RESPONSE_NOISE_AT + 32], second[RESPONSE_NOISE_AT..][..32]);
    assert!(!same(&a, &b));
}

/// R2.1: keys that contribute nothing are refused at both ends.
#[test]
fn keys_of_small_order_are_refused() {
    let mut ends = Ends::new(10);
    let zero = PublicKey([0; 32]);
    let refused = initiate(&mut ends.rng, &ends.client, &zero, &ends.psk, 1, b"").map(|_| ());
    assert_eq!(refused, Err(CryptoError::Authentication));
    let (mut init, mut initiation) = ends.initiate(b"");
    let (mut response, _) = ends.respond(&init, b"");
    init[INIT_NOISE_AT..][..32].fill(0);
    let init = with_mac(&ends.gateway, init);
    assert_eq!(ends.read(&init).map(|_| ()), Err(CryptoError::Authentication));
    response[RESPONSE_NOISE_AT..][..32].fill(0);
    assert_eq!(initiation.read_response(&response).map(|_| ()), Err(CryptoError::Authentication));
}

/// R2.5: without randomness nothing is sent, at either end.
#[test]
fn no_handshake_without_randomness() {
    let mut ends = Ends::new(11);
    let (init, _) = ends.initiate(b"");
    let gateway = ends.gateway.public();
    let refused = initiate(&mut Failing, &ends.client, &gateway, &ends.psk, 1, b"").map(|_| ());
    assert_eq!(refused, Err(CryptoError::Random(NO_SOURCE)));
    let refused = read_init(&mut Failing, &ends.gateway, &init).map(|_| ());
    assert_eq!(refused, Err(CryptoError::Random(NO_SOURCE)));
}

#[test]
fn payloads_that_do_not_fit_are_refused() {
    let mut ends = Ends::new(12);
    let gateway = ends.gateway.public();
    let (len, max) = (INIT_PAYLOAD_LEN + 1, INIT_PAYLOAD_LEN);
    let refused = initiate(&mut ends.rng, &ends.client, &gateway, &ends.psk, 1, &vec![1; len]).map(|_| ());
    assert_eq!(refused, Err(CryptoError::TooLong { len, max }));
    let (init, _) = ends.initiate(&[1; INIT_PAYLOAD_LEN]);
    let (len, max) = (RESPONSE_PAYLOAD_MAX + 1, RESPONSE_PAYLOAD_MAX);
    let refused = ends.read(&init).unwrap().respond(&ends.psk, &vec![1; len]).map(|_| ());
    assert_eq!(refused, Err(CryptoError::TooLong { len, max }));
}

#[test]
fn nothing_secret_is_printed() {
    let mut ends = Ends::new(13);
    let (init, initiation) = ends.initiate(b"");
    assert_eq!(format!("{initiation:?}"), "Initiation { client_index: 16909060, .. }");
    let incoming = ends.read(&init).unwrap();
    let expected = format!("IncomingInit {{ peer: {:?}, client_index: 16909060, .. }}", ends.client.public());
    assert_eq!(format!("{incoming:?}"), expected);
}
