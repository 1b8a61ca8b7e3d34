use super::*;
use crate::testing::{Failing, NO_SOURCE, Seeded, resized, spoiled};

const SESSION: [u8; 16] = *b"\xa0session-id-0001";
const HANDLE: [u8; 8] = *b"\xb1handle1";
const VERSION: u64 = 0x0000_0300_0000_00c7;

struct Ends {
    rng: Seeded,
    client: StaticSecret,
    gateway: StaticSecret,
    resume: Resume,
}

impl Ends {
    fn new(seed: u64) -> Self {
        let mut rng = Seeded::new(seed);
        let client = StaticSecret::generate(&mut rng).unwrap();
        let gateway = StaticSecret::generate(&mut rng).unwrap();
        Self { rng, client, gateway, resume: Resume::for_test(0x61) }
    }

    fn request(&mut self, nonce: u64, handle: [u8; 8]) -> (Vec<u8>, PendingRequest) {
        let params = RequestParams {
            local: &self.client,
            gateway: &self.gateway.public(),
            resume: &self.resume,
            session_id: SESSION,
            anchor_version: VERSION,
            nonce,
            handle,
        };
        request(&mut self.rng, &params, b"ask").unwrap()
    }

    fn read(&mut self, datagram: &[u8]) -> Result<IncomingRequest, CryptoError> {
        let peer = self.client.public();
        let frame = RequestFrame::parse(datagram).ok_or(CryptoError::Malformed)?;
        frame
            .read(&mut self.rng, &self.gateway, &peer, &self.resume, SESSION)
            .map(|(_proven, incoming)| incoming)
    }

    fn answer(&mut self, datagram: &[u8]) -> (Vec<u8>, EpochSecret) {
        self.read(datagram).unwrap().answer(b"grant").unwrap()
    }
}

fn same(a: &EpochSecret, b: &EpochSecret) -> bool {
    let (a, b) = (a.data_keys(), b.data_keys());
    a.client_to_gateway == b.client_to_gateway && a.gateway_to_client == b.gateway_to_client
}

/// Makes the outer MAC right again, as only one who knows `resume` can.
fn with_mac(resume: &Resume, mut datagram: Vec<u8>) -> Vec<u8> {
    let mac = mac::mac(&resume.mac_key(), &[&datagram[..MAC_AT]]);
    datagram[MAC_AT..].copy_from_slice(&mac);
    datagram
}

/// R2.1 R5.1: both ends come to one fresh secret; the gateway reads handle, version and nonce before any
/// Diffie-Hellman.
#[test]
fn round_trip() {
    let mut ends = Ends::new(1);
    for (nonce, answer_len) in [(1, 0), (2, 1), (u64::MAX, ACK_PAYLOAD_MAX)] {
        let (datagram, mut pending) = ends.request(nonce, HANDLE);
        assert_eq!((datagram.len(), pending.nonce()), (REQUEST_LEN, nonce));
        assert_eq!(pending.echo().as_slice(), &datagram[MAC_AT..MAC_AT + ECHO_LEN]);
        let frame = RequestFrame::parse(&datagram).unwrap();
        assert_eq!(frame.handle(), HANDLE);
        assert_eq!(frame.datagram(), datagram);
        assert!(frame.mac_ok(&ends.resume));
        assert_eq!(frame.unmask(&ends.resume), Claim { anchor_version: VERSION, nonce });

        let incoming = ends.read(&datagram).unwrap();
        assert_eq!(incoming.payload.len(), REQUEST_PAYLOAD_LEN);
        assert!(incoming.payload.starts_with(b"ask"));
        assert!(incoming.payload[3..].iter().all(|octet| *octet == 0));
        let answer = vec![0x77; answer_len];
        let (ack, gateways) = incoming.answer(&answer).unwrap();
        assert!(ack.len() <= REQUEST_LEN, "an answer is never larger than its question");
        let (clients, payload) = pending.read_ack(&ack).unwrap();
        assert_eq!(payload, answer);
        assert!(same(&clients, &gateways));
    }
}

/// R2.1 R5.1: every octet of a REQUEST counts: by the MAC, and for one who could make that right, by Noise.
#[test]
fn every_spoiled_octet_of_a_request_is_refused() {
    let mut ends = Ends::new(2);
    let (datagram, mut pending) = ends.request(7, HANDLE);
    for (at, forged) in spoiled(&datagram) {
        if let Some(frame) = RequestFrame::parse(&forged) {
            assert!(at >= HANDLE_AT, "octet {at} is framing");
            assert!(!frame.mac_ok(&ends.resume), "octet {at}");
        }
        assert!(ends.read(&forged).is_err(), "octet {at}");
        // anchor_version and nonce are in the transcript; handle and cookie are the MAC's alone.
        if (MASKED_AT..COOKIE_AT).contains(&at) || (NOISE_AT..MAC_AT).contains(&at) {
            let forged = with_mac(&ends.resume, forged);
            assert!(RequestFrame::parse(&forged).unwrap().mac_ok(&ends.resume));
            assert_eq!(ends.read(&forged).map(|_| ()), Err(CryptoError::Authentication), "octet {at}");
        }
    }
    for forged in resized(&datagram) {
        assert!(RequestFrame::parse(&forged).is_none(), "{} octets", forged.len());
    }
    let (ack, _) = ends.answer(&datagram);
    assert!(pending.read_ack(&ack).is_ok());
}

/// R5.1: every octet of an ACK counts, and the request stays usable for the genuine one. R2.4: which it takes
/// once.
#[test]
fn every_spoiled_octet_of_an_ack_is_refused_and_the_genuine_one_taken_once() {
    let mut ends = Ends::new(3);
    let (datagram, mut pending) = ends.request(7, HANDLE);
    let (ack, secret) = ends.answer(&datagram);
    for (at, forged) in spoiled(&ack) {
        assert!(pending.read_ack(&forged).is_err(), "octet {at}");
    }
    for forged in resized(&ack) {
        assert!(pending.read_ack(&forged).is_err(), "{} octets", forged.len());
    }
    let (clients, payload) = pending.read_ack(&ack).unwrap();
    assert_eq!(payload, b"grant");
    assert!(same(&clients, &secret));
    assert_eq!(pending.read_ack(&ack).map(|_| ()), Err(CryptoError::Repeated));
}

/// R2.4: every octet of a REJECT counts: nobody else can talk a client out of its request, or give it a
/// reason.
#[test]
fn every_spoiled_octet_of_a_reject_is_refused() {
    let mut ends = Ends::new(4);
    let (datagram, mut pending) = ends.request(7, HANDLE);
    let frame = RequestFrame::parse(&datagram).unwrap();
    let genuine = reject(&ends.resume, &frame, Reason::Cooldown, 1_500);
    for (at, forged) in spoiled(&genuine) {
        assert!(pending.read_reject(&forged).is_err(), "octet {at}");
    }
    for forged in resized(&genuine) {
        assert_eq!(pending.read_reject(&forged), Err(CryptoError::Malformed));
    }
    let read = Reject { reason: Reason::Cooldown, retry_after_ms: 1_500 };
    assert_eq!(pending.read_reject(&genuine), Ok(read));
    for reason in Reason::ALL {
        let datagram = reject(&ends.resume, &frame, *reason, 0);
        assert_eq!(pending.read_reject(&datagram), Ok(Reject { reason: *reason, retry_after_ms: 0 }));
    }
    let (ack, _) = ends.answer(&datagram);
    assert!(pending.read_ack(&ack).is_ok(), "a late ACK still counts");
}

/// R2.4: a REJECT under another generation, or for another request, is ignored.
#[test]
fn rejects_belong_to_their_request() {
    let mut ends = Ends::new(5);
    let (first, pending_first) = ends.request(7, HANDLE);
    let (second, pending_second) = ends.request(8, HANDLE);
    let (first, second) = (RequestFrame::parse(&first).unwrap(), RequestFrame::parse(&second).unwrap());
    let refused = Err(CryptoError::Authentication);
    let to_first = reject(&ends.resume, &first, Reason::RateLimited, 9);
    assert_eq!(pending_second.read_reject(&to_first), refused);
    assert!(pending_first.read_reject(&to_first).is_ok());
    let other = Resume::for_test(0x62);
    assert_eq!(pending_first.read_reject(&reject(&other, &first, Reason::RateLimited, 9)), refused);

    // One nonce in two requests (a client that lost its memory): the echo tells them apart.
    let (again, pending_again) = ends.request(7, HANDLE);
    let again = RequestFrame::parse(&again).unwrap();
    let to_again = reject(&ends.resume, &again, Reason::RateLimited, 9);
    assert_eq!(pending_first.read_reject(&to_again), refused);
    assert!(pending_again.read_reject(&to_again).is_ok());

    // The right echo over another nonce: the MAC covers the nonce as well.
    let mut crossed = reject(&ends.resume, &second, Reason::RateLimited, 9);
    crossed[ECHO_AT..ECHO_AT + ECHO_LEN].copy_from_slice(&pending_first.echo());
    assert_eq!(pending_first.read_reject(&crossed), refused);
}

/// A reason of a later version, rightly authenticated, is no reason here.
#[test]
fn unknown_reasons_are_malformed() {
    let mut ends = Ends::new(6);
    let (datagram, pending) = ends.request(7, HANDLE);
    let frame = RequestFrame::parse(&datagram).unwrap();
    let mut datagram = reject(&ends.resume, &frame, Reason::Cooldown, 0);
    datagram[REJECT_REASON_AT] = 255;
    let mac = mac::mac(&ends.resume.reject_key(), &[&datagram[..REJECT_MAC_AT], &7_u64.to_be_bytes()]);
    datagram[REJECT_MAC_AT..].copy_from_slice(&mac);
    assert_eq!(pending.read_reject(&datagram), Err(CryptoError::Malformed));
}

/// R2.1: static keys, generation and session must all be right; each alone is not enough.
#[test]
fn wrong_keys_psk_and_session_are_refused() {
    let mut ends = Ends::new(7);
    let (datagram, mut pending) = ends.request(7, HANDLE);
    let frame = RequestFrame::parse(&datagram).unwrap();
    let peer = ends.client.public();
    let other = StaticSecret::generate(&mut ends.rng).unwrap();
    let other_resume = Resume::for_test(0x62);
    let refused = Err(CryptoError::Authentication);
    let mut wrong_session = SESSION;
    wrong_session[15] ^= 1;

    let rng = &mut ends.rng;
    assert_eq!(frame.read(rng, &other, &peer, &ends.resume, SESSION).map(|_| ()), refused, "gateway key");
    let read = frame.read(rng, &ends.gateway, &other.public(), &ends.resume, SESSION).map(|_| ());
    assert_eq!(read, refused, "peer key");
    let read = frame.read(rng, &ends.gateway, &peer, &ends.resume, wrong_session).map(|_| ());
    assert_eq!(read, refused, "session id");
    assert!(!frame.mac_ok(&other_resume));
    let read = frame.read(rng, &ends.gateway, &peer, &other_resume, SESSION).map(|_| ());
    assert_eq!(read, refused, "generation");
    assert_ne!(frame.unmask(&other_resume), frame.unmask(&ends.resume));

    // With mask and MAC made for the other generation, its psk alone decides.
    let claim = frame.unmask(&ends.resume);
    let mut moved = datagram.clone();
    moved[MASKED_AT..COOKIE_AT].copy_from_slice(&xor(claim.to_octets(), other_resume.mask(&frame.ephemeral)));
    let moved = with_mac(&other_resume, moved);
    let frame = RequestFrame::parse(&moved).unwrap();
    assert!(frame.mac_ok(&other_resume));
    assert_eq!(frame.unmask(&other_resume), claim);
    let read = frame.read(rng, &ends.gateway, &peer, &other_resume, SESSION).map(|_| ());
    assert_eq!(read, refused, "psk");

    let (ack, _) = ends.answer(&datagram);
    assert!(pending.read_ack(&ack).is_ok());
}

/// R2.1: a thief of the session's secret `resume` without the client's static key gets nowhere.
#[test]
fn the_generations_secret_alone_proves_nothing() {
    let mut ends = Ends::new(8);
    let thief = StaticSecret::generate(&mut ends.rng).unwrap();
    let client = std::mem::replace(&mut ends.client, thief);
    let (datagram, _) = ends.request(7, HANDLE);
    ends.client = client;
    assert!(RequestFrame::parse(&datagram).unwrap().mac_ok(&ends.resume));
    assert_eq!(ends.read(&datagram).map(|_| ()), Err(CryptoError::Authentication));
}

/// R2.2 R2.3: another anchor_version or nonce than the sealed one is refused even under the right MAC.
#[test]
fn claims_are_bound_to_the_transcript() {
    let mut ends = Ends::new(9);
    let (datagram, _) = ends.request(7, HANDLE);
    let frame = RequestFrame::parse(&datagram).unwrap();
    let mask = ends.resume.mask(&frame.ephemeral);
    for claim in [
        Claim { anchor_version: VERSION + 1, nonce: 7 },
        Claim { anchor_version: VERSION - 1, nonce: 7 },
        Claim { anchor_version: VERSION, nonce: 8 },
        Claim { anchor_version: 7, nonce: VERSION },
    ] {
        let mut forged = datagram.clone();
        forged[MASKED_AT..COOKIE_AT].copy_from_slice(&xor(claim.to_octets(), mask));
        let forged = with_mac(&ends.resume, forged);
        assert_eq!(RequestFrame::parse(&forged).unwrap().unmask(&ends.resume), claim);
        assert_eq!(ends.read(&forged).map(|_| ()), Err(CryptoError::Authentication), "{claim:?}");
    }
}

/// R2.4: an answer to an older request is ignored by the newer one, which stays usable.
#[test]
fn acks_belong_to_their_request() {
    let mut ends = Ends::new(10);
    let (older, mut pending_older) = ends.request(7, HANDLE);
    let (newer, mut pending_newer) = ends.request(8, HANDLE);
    let (to_older, a) = ends.answer(&older);
    let (to_newer, b) = ends.answer(&newer);
    assert_eq!(pending_newer.read_ack(&to_older).map(|_| ()), Err(CryptoError::Authentication));
    // With the echo made right, Noise refuses as well.
    let mut crossed = to_older.clone();
    crossed[ECHO_AT..ECHO_AT + ECHO_LEN].copy_from_slice(&pending_newer.echo());
    assert_eq!(pending_newer.read_ack(&crossed).map(|_| ()), Err(CryptoError::Authentication));
    assert!(same(&pending_newer.read_ack(&to_newer).unwrap().0, &b));
    assert!(same(&pending_older.read_ack(&to_older).unwrap().0, &a));
    assert!(!same(&a, &b), "each request has a secret of its own");
}

/// R5.1: fresh ephemeral keys on both sides: one request answered twice yields two secrets.
#[test]
fn answers_have_ephemeral_keys_of_their_own() {
    let mut ends = Ends::new(11);
    let (datagram, _) = ends.request(7, HANDLE);
    let (first, a) = ends.answer(&datagram);
    let (second, b) = ends.answer(&datagram);
    assert_ne!(first[ACK_NOISE_AT..ACK_NOISE_AT + 32], second[ACK_NOISE_AT..ACK_NOISE_AT + 32]);
    assert!(!same(&a, &b));
}

/// R2.1: two requests of one session have nothing in common that an observer could see, and what must stay
/// secret is not in them.
#[test]
fn requests_are_unlinkable() {
    let mut ends = Ends::new(12);
    let (a, pending_a) = ends.request(7, HANDLE);
    let (b, pending_b) = ends.request(8, *b"\x09other-h");
    let (c, _) = ends.request(8, *b"\x09other-h");
    assert_ne!(pending_a.echo(), pending_b.echo());
    for datagram in [&a, &b, &c] {
        for secret in [&SESSION[..], &VERSION.to_be_bytes(), &ends.client.public().0] {
            assert!(datagram.windows(secret.len()).all(|window| window != secret));
        }
    }
    let cookie = COOKIE_AT..NOISE_AT;
    for (x, y) in [(&a, &b), (&b, &c)] {
        for at in HANDLE_AT..REQUEST_LEN - 4 {
            let same_handle = std::ptr::eq(x, &raw const b) && at < MASKED_AT;
            if !cookie.contains(&at) && !same_handle {
                assert_ne!(x[at..at + 4], y[at..at + 4], "octets {at}..");
            }
        }
    }
}

/// R2.5: without randomness nothing is sent, at either end.
#[test]
fn no_reattach_without_randomness() {
    let mut ends = Ends::new(13);
    let (datagram, _) = ends.request(7, HANDLE);
    let params = RequestParams {
        local: &ends.client,
        gateway: &ends.gateway.public(),
        resume: &ends.resume,
        session_id: SESSION,
        anchor_version: VERSION,
        nonce: 1,
        handle: HANDLE,
    };
    let refused = Err(CryptoError::Random(NO_SOURCE));
    assert_eq!(request(&mut Failing, &params, b"").map(|_| ()), refused);
    let frame = RequestFrame::parse(&datagram).unwrap();
    let peer = ends.client.public();
    let read = frame.read(&mut Failing, &ends.gateway, &peer, &ends.resume, SESSION).map(|_| ());
    assert_eq!(read, refused);
}

#[test]
fn payloads_that_do_not_fit_are_refused() {
    let mut ends = Ends::new(14);
    let (datagram, _) = ends.request(7, HANDLE);
    let params = RequestParams {
        local: &ends.client,
        gateway: &ends.gateway.public(),
        resume: &ends.resume,
        session_id: SESSION,
        anchor_version: VERSION,
        nonce: 1,
        handle: HANDLE,
    };
    let (len, max) = (REQUEST_PAYLOAD_LEN + 1, REQUEST_PAYLOAD_LEN);
    let refused = request(&mut ends.rng, &params, &vec![1; len]).map(|_| ());
    assert_eq!(refused, Err(CryptoError::TooLong { len, max }));
    let (len, max) = (ACK_PAYLOAD_MAX + 1, ACK_PAYLOAD_MAX);
    let refused = ends.read(&datagram).unwrap().answer(&vec![1; len]).map(|_| ());
    assert_eq!(refused, Err(CryptoError::TooLong { len, max }));
}
