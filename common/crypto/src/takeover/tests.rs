use super::*;
use crate::control::ControlSealer;
use crate::ik::request_mac;
use crate::schedule::Root;
use crate::testing::{Failing, NO_SOURCE, Seeded, resized, spoiled};
use jvpn_abi::wire::takeover::{COOKIE_AT, MAC_AT, NOISE_AT};

const INDEX: u32 = 0x0102_0304;
const SUITE: Suite = Suite::ChaCha20Poly1305;
const SLOT: SlotId = SlotId(77);

struct Ends {
    rng: Seeded,
    client: StaticSecret,
    gateway: StaticSecret,
    takeover: TakeoverKey,
    preshared: PresharedKey,
}

impl Ends {
    fn new(seed: u64) -> Self {
        let mut rng = Seeded::new(seed);
        let client = StaticSecret::generate(&mut rng).unwrap();
        let gateway = StaticSecret::generate(&mut rng).unwrap();
        let preshared = PresharedKey::generate(&mut rng).unwrap();
        Self { rng, client, gateway, takeover: Root::from_octets([5; 32]).takeover(), preshared }
    }

    fn request(&mut self, payload: &[u8]) -> (Vec<u8>, Pending) {
        let params = RequestParams {
            local: &self.client,
            gateway: &self.gateway.public(),
            takeover: &self.takeover,
            preshared: &self.preshared,
            client_index: INDEX,
        };
        request(&mut self.rng, &params, payload).unwrap()
    }

    fn read(&mut self, datagram: &[u8]) -> Result<Incoming, CryptoError> {
        read_request(&mut self.rng, &self.gateway, datagram)
    }

    fn answer(&mut self, request: &[u8], payload: &[u8]) -> Answered {
        let takeover = self.takeover.clone();
        self.read(request).unwrap().answer(&takeover, payload, SUITE, SLOT).unwrap()
    }

    fn refuse(&mut self, request: &[u8], reason: Reason, retry_after_ms: u32) -> Vec<u8> {
        let preshared = self.preshared.clone();
        self.read(request).unwrap().refuse(&preshared, reason, retry_after_ms).unwrap()
    }
}

fn sealer(secret: &EpochSecret) -> ControlSealer {
    ControlSealer::new(secret, SUITE, Direction::ClientToGateway, SLOT, 0)
}

/// Somebody on the path knows the gateway's public key and can make the outer MAC right again.
fn with_mac(gateway: &StaticSecret, mut datagram: Vec<u8>) -> Vec<u8> {
    let mac = request_mac(&gateway.public(), &datagram);
    datagram[MAC_AT..COOKIE_AT].copy_from_slice(&mac);
    datagram
}

/// R2.1, R7.3: the gateway learns who asks and for which session, both ends come to one secret, the first CONTROL proves
/// it, and nothing is larger than its question.
#[test]
fn r7_3_round_trip() {
    let mut ends = Ends::new(1);
    for answer_len in [0, 1, 67, TAKEOVER_ACK_PAYLOAD_MAX] {
        let (datagram, mut pending) = ends.request(b"session");
        assert_eq!(datagram.len(), TAKEOVER_LEN);
        assert!(request_mac_ok(&ends.gateway.public(), &datagram));
        let incoming = ends.read(&datagram).unwrap();
        assert_eq!(incoming.peer, ends.client.public());
        assert!(incoming.payload.starts_with(b"session") && incoming.payload.len() == TAKEOVER_PAYLOAD_LEN);
        let grant = vec![0x77; answer_len];
        let mut answered = incoming.answer(&ends.takeover, &grant, SUITE, SLOT).unwrap();
        assert!(answered.datagram.len() <= datagram.len());
        let (secret, payload) = pending.read_ack(&answered.datagram).unwrap();
        assert_eq!(payload, grant);
        assert_eq!(secret.data_keys().client_to_gateway, answered.secret.data_keys().client_to_gateway);
        let control = sealer(&secret).seal(b"take").unwrap();
        let (_proof, message) = answered.awaited.open(&control).unwrap();
        assert_eq!(message, b"take");
        assert_eq!(answered.awaited.open(&control).map(|_| ()), Err(CryptoError::Repeated));
        let mut opener = answered.awaited.into_opener();
        assert_eq!(opener.open(&control), Err(CryptoError::Repeated), "not after the takeover either");
        assert_eq!(pending.read_ack(&answered.datagram).map(|_| ()), Err(CryptoError::Repeated));
    }
}

/// R5.1: every octet of a request counts; sizes are exact.
#[test]
fn r5_1_every_spoiled_octet_of_a_request_is_refused() {
    let mut ends = Ends::new(2);
    let (datagram, _) = ends.request(b"session");
    for (at, forged) in spoiled(&datagram) {
        assert!(!request_mac_ok(&ends.gateway.public(), &forged), "octet {at}");
        assert_eq!(ends.read(&forged).map(|_| ()), Err(CryptoError::Malformed), "octet {at}");
        if at >= NOISE_AT {
            let forged = with_mac(&ends.gateway, forged);
            assert_eq!(ends.read(&forged).map(|_| ()), Err(CryptoError::Authentication), "octet {at}");
        }
    }
    for forged in resized(&datagram) {
        assert!(!request_mac_ok(&ends.gateway.public(), &forged), "{} octets", forged.len());
    }
    assert!(ends.read(&datagram).is_ok());
}

/// R5.1, R2.4: every octet of an answer counts, the genuine one is taken once, and only for its own request.
#[test]
fn r5_1_spoiled_and_foreign_answers_are_refused() {
    let mut ends = Ends::new(3);
    let (datagram, mut pending) = ends.request(b"session");
    let (_, mut other) = ends.request(b"session");
    let answered = ends.answer(&datagram, b"grant");
    for (at, forged) in spoiled(&answered.datagram) {
        assert!(pending.read_ack(&forged).is_err(), "octet {at}");
        assert!(pending.read_reject(&forged).is_err(), "octet {at}");
    }
    for forged in resized(&answered.datagram) {
        assert!(pending.read_ack(&forged).is_err(), "{} octets", forged.len());
    }
    assert_eq!(other.read_ack(&answered.datagram).map(|_| ()), Err(CryptoError::Authentication));
    assert!(pending.read_ack(&answered.datagram).is_ok());
}

/// R2.1: without the session's secret there is no answer that the client takes, and no CONTROL that the gateway takes;
/// neither with another client's or gateway's static key.
#[test]
fn r2_1_wrong_keys_prove_nothing() {
    let mut ends = Ends::new(4);
    let (datagram, mut pending) = ends.request(b"session");
    let wrong = Root::from_octets([6; 32]).takeover();
    let answered = ends.read(&datagram).unwrap().answer(&wrong, b"grant", SUITE, SLOT).unwrap();
    assert_eq!(pending.read_ack(&answered.datagram).map(|_| ()), Err(CryptoError::Authentication));
    let mut genuine = ends.answer(&datagram, b"grant");
    let forged = sealer(&answered.secret).seal(b"take").unwrap();
    assert_eq!(genuine.awaited.open(&forged).map(|_| ()), Err(CryptoError::Authentication));

    let stranger = StaticSecret::generate(&mut ends.rng).unwrap();
    let own = std::mem::replace(&mut ends.gateway, stranger);
    assert_eq!(ends.read(&datagram).map(|_| ()), Err(CryptoError::Malformed), "made for another gateway");
    let forged = with_mac(&ends.gateway, datagram.clone());
    assert_eq!(ends.read(&forged).map(|_| ()), Err(CryptoError::Authentication));
    ends.gateway = own;
    let (secret, _) = pending.read_ack(&genuine.datagram).unwrap();
    assert!(genuine.awaited.open(&sealer(&secret).seal(b"take").unwrap()).is_ok());
}

/// R2.4: a captured request answered again gives a secret that its sender cannot compute: no CONTROL of any earlier
/// exchange proves it.
#[test]
fn r2_4_a_replayed_request_proves_nothing() {
    let mut ends = Ends::new(5);
    let (datagram, mut pending) = ends.request(b"session");
    let first = ends.answer(&datagram, b"grant");
    let (secret, _) = pending.read_ack(&first.datagram).unwrap();
    let control = sealer(&secret).seal(b"take").unwrap();
    let mut second = ends.answer(&datagram, b"grant");
    assert_eq!(second.awaited.open(&control).map(|_| ()), Err(CryptoError::Authentication));
}

/// R5.1: a refusal is the gateway's own, for this request, and cannot be made of or taken for a grant.
#[test]
fn r5_1_a_refusal_is_authenticated_by_the_gateway() {
    let mut ends = Ends::new(6);
    let (datagram, mut pending) = ends.request(b"session");
    let (_, mut other) = ends.request(b"session");
    let refusal = ends.refuse(&datagram, Reason::SessionNotFound, 700);
    assert_eq!(refusal.len(), TAKEOVER_REJECT_LEN);
    for (at, forged) in spoiled(&refusal) {
        assert!(pending.read_reject(&forged).is_err(), "octet {at}");
    }
    for forged in resized(&refusal) {
        assert!(pending.read_reject(&forged).is_err(), "{} octets", forged.len());
    }
    assert!(other.read_reject(&refusal).is_err(), "of another request");
    let mut as_ack = refusal.clone();
    as_ack[0] = MsgType::ReattachAck.octet();
    assert!(pending.read_ack(&as_ack).is_err());

    // Who knows all public keys and the pre-shared key still lacks the gateway's private one.
    let gateway = ends.gateway.public();
    let stranger = StaticSecret::generate(&mut ends.rng).unwrap();
    let own = std::mem::replace(&mut ends.gateway, stranger);
    let (foreign, _) = ends.request(b"session");
    let forged = ends.refuse(&foreign, Reason::SessionNotFound, 0);
    ends.gateway = own;
    assert_eq!(ends.gateway.public(), gateway);
    assert!(pending.read_reject(&forged).is_err());

    let refused = pending.read_reject(&refusal).unwrap();
    assert_eq!(refused, Reject { reason: Reason::SessionNotFound, retry_after_ms: 700 });
    assert_eq!(pending.read_reject(&refusal).map(|_| ()), Err(CryptoError::Repeated));
}

/// R1.8: what does not fit, and a source that fails, are errors.
#[test]
fn r1_8_what_cannot_be_made_is_an_error() {
    let mut ends = Ends::new(7);
    let params = RequestParams {
        local: &ends.client,
        gateway: &ends.gateway.public(),
        takeover: &ends.takeover,
        preshared: &ends.preshared,
        client_index: INDEX,
    };
    let long = vec![0; TAKEOVER_PAYLOAD_LEN + 1];
    let too_long = CryptoError::TooLong { len: long.len(), max: TAKEOVER_PAYLOAD_LEN };
    assert_eq!(request(&mut ends.rng, &params, &long).map(|_| ()), Err(too_long));
    assert_eq!(request(&mut Failing, &params, b"").map(|_| ()), Err(CryptoError::Random(NO_SOURCE)));
    let (datagram, _) = ends.request(b"");
    assert_eq!(
        read_request(&mut Failing, &ends.gateway, &datagram).map(|_| ()),
        Err(CryptoError::Random(NO_SOURCE))
    );
    let long = vec![0; TAKEOVER_ACK_PAYLOAD_MAX + 1];
    let answer = ends.read(&datagram).unwrap().answer(&ends.takeover, &long, SUITE, SLOT);
    let too_long = CryptoError::TooLong { len: long.len(), max: TAKEOVER_ACK_PAYLOAD_MAX };
    assert_eq!(answer.map(|_| ()), Err(too_long));
}
