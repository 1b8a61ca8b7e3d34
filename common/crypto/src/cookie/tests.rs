use super::*;
use crate::handshake::{init_mac_ok, initiate, read_init, with_cookie};
use crate::keys::{PresharedKey, StaticSecret};
use crate::reattach::{PendingRequest, RequestFrame, RequestParams, reject, request};
use crate::schedule::Resume;
use crate::testing::{Failing, NO_SOURCE, Seeded, resized, spoiled};
use jvpn_abi::Reason;

const START: BootTime = BootTime(1_000 * COOKIE_PERIOD.as_nanos() as u64);
const LOCAL: Endpoint = Endpoint::v4([198, 51, 100, 1], 4_500);
const SESSION: [u8; 16] = [3; 16];

fn remote(port: u16) -> Endpoint {
    Endpoint::v4([203, 0, 113, 7], port)
}

fn later(periods: u64) -> BootTime {
    START.after(COOKIE_PERIOD * u32::try_from(periods).unwrap())
}

struct Ends {
    rng: Seeded,
    client: StaticSecret,
    gateway: StaticSecret,
    resume: Resume,
}

impl Ends {
    fn new() -> Self {
        let mut rng = Seeded::new(9);
        let client = StaticSecret::generate(&mut rng).unwrap();
        let gateway = StaticSecret::generate(&mut rng).unwrap();
        Self { rng, client, gateway, resume: Resume::for_test(7) }
    }

    fn request(&mut self) -> (Vec<u8>, PendingRequest) {
        let params = RequestParams {
            local: &self.client,
            gateway: &self.gateway.public(),
            resume: &self.resume,
            session_id: SESSION,
            anchor_version: 1,
            nonce: 5,
            handle: [9; 8],
        };
        request(&mut self.rng, &params, b"ask").unwrap()
    }
}

/// R3.1: a cookie is good for its path alone: not from another address or port, nor at another local endpoint.
#[test]
fn r3_1_a_cookie_is_bound_to_its_path() {
    let (mut jar, mut rng) = (CookieJar::default(), Seeded::new(1));
    let cookie = jar.bake(&mut rng, START, remote(40_000), LOCAL).unwrap();
    assert!(jar.accepts(START, remote(40_000), LOCAL, cookie));
    let elsewhere = [
        (remote(40_001), LOCAL),
        (Endpoint::v4([203, 0, 113, 8], 40_000), LOCAL),
        (remote(40_000), Endpoint::v4([198, 51, 100, 1], 4_501)),
        (remote(40_000), Endpoint::v4([198, 51, 100, 2], 4_500)),
        (LOCAL, remote(40_000)),
    ];
    for (from, to) in elsewhere {
        assert!(!jar.accepts(START, from, to, cookie), "{from} → {to}");
    }
    for (at, forged) in spoiled(&cookie.0) {
        let forged = Cookie(forged.try_into().unwrap());
        assert!(!jar.accepts(START, remote(40_000), LOCAL, forged), "octet {at}");
    }
    assert!(!jar.accepts(START, remote(40_000), LOCAL, Cookie::NONE));
}

/// R3.1: a cookie lives through the next period and not beyond; a jar that was never used, or has another secret, knows
/// none; without randomness there is none.
#[test]
fn r3_1_cookies_expire() {
    let (mut jar, mut rng) = (CookieJar::default(), Seeded::new(1));
    let path = (remote(1), LOCAL);
    let cookie = jar.bake(&mut rng, START, path.0, path.1).unwrap();
    let last_moment = BootTime(later(1).0 - 1);
    assert_eq!(jar.bake(&mut rng, last_moment, path.0, path.1), Ok(cookie), "one secret per period");
    assert!(
        jar.accepts(BootTime(later(2).0 - 1), path.0, path.1, cookie),
        "whether or not a new one was drawn"
    );
    assert!(!jar.accepts(later(2), path.0, path.1, cookie));

    let next = jar.bake(&mut rng, later(1), path.0, path.1).unwrap();
    assert_ne!(next, cookie);
    let last_moment = BootTime(later(2).0 - 1);
    assert!(
        jar.accepts(last_moment, path.0, path.1, cookie) && jar.accepts(last_moment, path.0, path.1, next)
    );
    assert!(!jar.accepts(later(2), path.0, path.1, cookie), "expired");
    assert!(jar.accepts(later(2), path.0, path.1, next));
    // After a long pause nothing of before counts.
    let much_later = jar.bake(&mut rng, later(50), path.0, path.1).unwrap();
    assert!(jar.accepts(later(50), path.0, path.1, much_later));
    assert!(!jar.accepts(later(50), path.0, path.1, next));
    // A clock that steps back keeps the secret.
    assert_eq!(jar.bake(&mut rng, later(49), path.0, path.1), Ok(much_later));

    assert!(!CookieJar::default().accepts(START, path.0, path.1, cookie));
    assert_eq!(CookieJar::default().bake(&mut Failing, START, path.0, path.1), Err(NO_SOURCE));
}

/// R3.1: a RETRY holds only for the very request that it answers, under the key of the gateway that was asked.
#[test]
fn r3_1_a_retry_is_for_its_request_only() {
    let mut ends = Ends::new();
    let gateway = ends.gateway.public();
    let cookie = Cookie([0x5a; COOKIE_LEN]);
    let psk = PresharedKey::default();
    let (init, _) = initiate(&mut ends.rng, &ends.client, &gateway, &psk, 7, b"offer").unwrap();
    let (other_init, _) = initiate(&mut ends.rng, &ends.client, &gateway, &psk, 7, b"offer").unwrap();
    let (ask, _) = ends.request();
    let (other_ask, _) = ends.request();
    let questions = [Question::of_init(&init), Question::of_request(&ask)].map(Option::unwrap);
    let others = [Question::of_init(&other_init), Question::of_request(&other_ask)].map(Option::unwrap);
    for (question, other) in questions.iter().zip(&others) {
        assert!(!question.shown().is_some());
        let answer = retry(&gateway, question, cookie);
        assert!(answer.len() < ask.len(), "an answer is never larger than its question");
        assert_eq!(read_retry(&gateway, question, &answer), Ok(cookie));
        for wrong in questions.iter().chain(&others).filter(|wrong| *wrong != question) {
            assert_eq!(read_retry(&gateway, wrong, &answer), Err(CryptoError::Authentication));
        }
        assert_eq!(read_retry(&ends.client.public(), question, &answer), Err(CryptoError::Authentication));
        for (at, forged) in spoiled(&answer) {
            assert!(read_retry(&gateway, question, &forged).is_err(), "octet {at}");
        }
        for forged in resized(&answer) {
            assert_eq!(read_retry(&gateway, question, &forged), Err(CryptoError::Malformed));
        }
        // Who knows the gateway's key and the echo, but has not seen the request's whole MAC, cannot make one.
        let mut half_seen = *question;
        half_seen.mac[ECHO_LEN..].copy_from_slice(&other.mac[ECHO_LEN..]);
        let forged = retry(&gateway, &half_seen, cookie);
        assert_eq!(forged[..RETRY_MAC_AT], answer[..RETRY_MAC_AT]);
        assert_eq!(read_retry(&gateway, question, &forged), Err(CryptoError::Authentication));
        assert_eq!(
            read_retry(&gateway, question, &retry(&gateway, question, Cookie::NONE)),
            Err(CryptoError::Malformed)
        );
    }
}

/// R3.1: an INIT with a cookie is the same INIT: its MAC is right, and the response to either form is read.
#[test]
fn r3_1_an_init_with_a_cookie_is_the_same_init() {
    let mut ends = Ends::new();
    let (gateway, psk) = (ends.gateway.public(), PresharedKey::default());
    let (init, mut initiation) = initiate(&mut ends.rng, &ends.client, &gateway, &psk, 7, b"offer").unwrap();
    let mut shown = init.clone();
    with_cookie(&gateway, &mut shown, Cookie([4; COOKIE_LEN])).unwrap();
    assert!(init_mac_ok(&gateway, &shown));
    assert_eq!(Question::of_init(&shown).unwrap().shown(), Cookie([4; COOKIE_LEN]));
    assert_eq!(shown[INIT_COOKIE_AT + COOKIE_LEN..], init[INIT_COOKIE_AT + COOKIE_LEN..]);
    let (_, incoming) = read_init(&mut ends.rng, &ends.gateway, &shown).unwrap();
    let (response, _) = incoming.respond(&psk, b"grant").unwrap();
    assert_eq!(initiation.read_response(&response).unwrap().1, b"grant");
    assert_eq!(with_cookie(&gateway, &mut shown[1..], Cookie::NONE), Err(CryptoError::Malformed));
}

/// R3.1: a request with a cookie is the same request: same nonce, same Noise message; answers to either form are read,
/// and nobody without the generation's secret can put a cookie in.
#[test]
fn r3_1_a_request_with_a_cookie_is_the_same_request() {
    for answer_to in 0..2 {
        let mut ends = Ends::new();
        let (plain, mut pending) = ends.request();
        let mut shown = plain.clone();
        pending.with_cookie(&mut shown, Cookie([4; COOKIE_LEN])).unwrap();
        let forms = [RequestFrame::parse(&plain).unwrap(), RequestFrame::parse(&shown).unwrap()];
        assert!(forms[0].is_same_request(&shown) && forms[1].is_same_request(&plain));
        assert_eq!(forms[0].unmask(&ends.resume), forms[1].unmask(&ends.resume));
        assert!(forms.iter().all(|form| form.mac_ok(&ends.resume)));
        assert_eq!(Question::of_request(&shown).unwrap().shown(), Cookie([4; COOKIE_LEN]));
        assert!(!forms[1].is_same_request(&ends.request().0));

        let refusal = reject(&ends.resume, &forms[answer_to], Reason::Cooldown, 5);
        assert_eq!(pending.read_reject(&refusal).unwrap().reason, Reason::Cooldown);
        let peer = ends.client.public();
        let read = forms[answer_to].read(&mut ends.rng, &ends.gateway, &peer, &ends.resume, SESSION);
        let (ack, _) = read.unwrap().1.answer(b"grant").unwrap();
        assert_eq!(pending.read_ack(&ack).unwrap().1, b"grant");

        let mut forged = plain.clone();
        forged[COOKIE_AT] ^= 1;
        assert!(!RequestFrame::parse(&forged).unwrap().mac_ok(&ends.resume));
        assert_eq!(pending.with_cookie(&mut forged[1..], Cookie::NONE), Err(CryptoError::Malformed));
    }
}

#[test]
fn nothing_secret_is_printed() {
    let (mut jar, mut rng) = (CookieJar::default(), Seeded::new(1));
    jar.bake(&mut rng, START, remote(1), LOCAL).unwrap();
    assert_eq!(format!("{jar:?}"), "CookieJar { .. }");
}
