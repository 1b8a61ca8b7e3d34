//! Under load: cookies, who gets in with one, and what a flood cannot do.

use crate::client::{Client, Sent};
use crate::rig::{GATEWAY, PATH_A, PATH_B, PATH_C, Rig, endpoint};
use jvpn_abi::wire::MsgType;
use jvpn_abi::wire::retry::RETRY_LEN;
use jvpn_abi::{Endpoint, Reason};
use jvpn_controlplane::abuse::AbuseSettings;
use jvpn_controlplane::engine::{Counter, Transmit};
use jvpn_controlplane::limits::{HANDSHAKES_PER_SECOND, RETRIES_PER_SECOND};
use jvpn_controlplane::load::{LOAD_HOLD, PREFIX_PER_SECOND};
use jvpn_crypto::cookie::{COOKIE_PERIOD, Cookie, Question, read_retry};
use jvpn_crypto::handshake::{Initiation, initiate, with_cookie};
use jvpn_crypto::keys::{PresharedKey, StaticSecret};
use jvpn_session::Policy;
use std::time::Duration;

/// Reattach requests per second of the whole node in these tests.
const LIMIT: u32 = 100;

fn rig() -> (Rig, Client) {
    let mut rig = Rig::new(Policy { reattach_global_per_second: LIMIT, ..Policy::default() });
    let client = rig.attached(0);
    rig.wait(Duration::from_millis(1_100));
    (rig, client)
}

/// Somebody's address; no two alike, most in prefixes of their own.
fn somewhere(n: u32) -> Endpoint {
    let [_, a, b, c] = n.wrapping_mul(0x9e37).to_be_bytes();
    Endpoint::v4([45, a, b, c], 1_024 + (n % 60_000) as u16)
}

/// The same datagram from many addresses, spread over `span`. R3.2: no answer is larger than its question.
fn flood(rig: &mut Rig, datagram: &[u8], count: u32, span: Duration) -> Vec<Transmit> {
    let mut answers = Vec::new();
    for n in 0..count {
        rig.wait(span / count);
        rig.sent.clear();
        let from = somewhere(n);
        rig.datagram(from, datagram);
        assert!(rig.sent.len() <= 1);
        for answer in rig.sent.drain(..) {
            assert_eq!((answer.remote, answer.local), (from, GATEWAY));
            assert!(answer.payload.len() <= datagram.len(), "an answer larger than its question");
            answers.push(answer);
        }
    }
    answers
}

fn are_retries(answers: &[Transmit]) -> bool {
    answers.iter().all(|a| a.payload.len() == RETRY_LEN && a.payload[0] == MsgType::Retry.octet())
}

/// An INIT with a right MAC of somebody who is no peer.
fn strange_init(rig: &mut Rig) -> Vec<u8> {
    let secret = StaticSecret::generate(&mut rig.rng).unwrap();
    initiate(&mut rig.rng, &secret, &rig.gateway, &PresharedKey::default(), 1, b"let me in").unwrap().0
}

fn init_cookie(rig: &Rig, init: &[u8], retry: &[u8]) -> Cookie {
    read_retry(&rig.gateway, &Question::of_init(init).unwrap(), retry).unwrap()
}

/// A handshake that is asked for its cookie and shows it.
fn handshake(rig: &mut Rig, client: &mut Client, from: Endpoint) {
    let (mut init, initiation): (Vec<u8>, Initiation) = client.init(rig);
    let retry = rig.ask(from, &init);
    let cookie = init_cookie(rig, &init, &retry);
    with_cookie(&rig.gateway, &mut init, cookie).unwrap();
    let response = rig.ask(from, &init);
    client.read_response(initiation, &response).unwrap();
    rig.frame(client.slot(), from);
    assert_eq!(rig.state(client).0, "ATTACHED");
}

/// A request of a client whose MAC was spoiled: its handle was seen, no more.
fn forged(rig: &mut Rig, client: &mut Client) -> Vec<u8> {
    let mut forged = client.request(rig).datagram;
    *forged.last_mut().unwrap() ^= 1;
    forged
}

fn ack(rig: &mut Rig, client: &mut Client, sent: &mut Sent, from: Endpoint) {
    let ack = rig.ask(from, &sent.datagram);
    client.read_ack(sent, &ack);
    rig.frame(client.slot(), from);
    client.settle();
    assert_eq!(rig.state(client).0, "ATTACHED");
}

/// R3.1: while it is calm nobody is asked for a cookie, and one that is not good is as none.
#[test]
fn r3_1_calm_asks_for_no_cookie() {
    let (mut rig, mut client) = rig();
    for path in [PATH_B(), PATH_C(), PATH_A()] {
        client.switch(&mut rig, path);
        rig.wait(Duration::from_secs(3));
    }
    let mut odd = client.request(&mut rig);
    odd.show_octets([7; 16]);
    ack(&mut rig, &mut client, &mut odd, PATH_B());
    for counter in
        [Counter::RetrySent, Counter::CookieAccepted, Counter::CookieRefused, Counter::ReattachLoad]
    {
        assert_eq!(rig.counter(counter), 0, "{counter:?}");
    }
    let status = rig.engine.status(rig.now, &rig.tables.contexts);
    assert!(!status.under_load.handshakes && !status.under_load.reattaches);
}

/// R3.1, R3.2, I13: a flood of handshakes from many addresses: after half of the limit nothing is spent on it any more,
/// and an honest client gets its session in the middle of it, one round trip later.
#[test]
fn r3_2_a_flood_of_handshakes_keeps_nobody_out() {
    let (mut rig, _) = rig();
    let init = strange_init(&mut rig);
    let open = HANDSHAKES_PER_SECOND / 2;
    assert_eq!(flood(&mut rig, &init, open, Duration::ZERO), [], "an unknown peer meets silence");
    let answers = flood(&mut rig, &init, 3_000, Duration::from_secs(3));
    assert!(answers.len() >= 2_999 && are_retries(&answers));
    let strangers = rig.engine.counters().handshake_refusals(Reason::PolicyDeny);
    assert_eq!(strangers, u64::from(open), "the rest of the flood cost no Diffie-Hellman");
    let mut honest = Client::new(1, rig.gateway);
    handshake(&mut rig, &mut honest, PATH_C());
    assert_eq!((rig.counter(Counter::HandshakeLoad), rig.counter(Counter::CookieAccepted)), (1, 1));
    assert!(rig.events().contains(&"RATE_LIMIT_EVENT"));
    let status = rig.engine.status(rig.now, &rig.tables.contexts);
    assert!(status.under_load.handshakes && !status.under_load.reattaches, "each has its own");
    rig.wait(LOAD_HOLD);
    assert!(!rig.engine.status(rig.now, &rig.tables.contexts).under_load.handshakes);
    let mut late = Client::new(2, rig.gateway);
    late.handshake(&mut rig, PATH_B());
    rig.check_audit();
}

/// R3.1, R3.2, I13: a flood of requests with a handle that was seen and forged MACs: the session is not touched, and its
/// client reattaches in the middle of it.
#[test]
fn r3_2_a_flood_of_forged_reattaches_keeps_nobody_out() {
    let (mut rig, mut client) = rig();
    let junk = forged(&mut rig, &mut client);
    let before = rig.status(&client);
    assert_eq!(flood(&mut rig, &junk, LIMIT / 2, Duration::ZERO), [], "forgeries meet silence");
    let answers = flood(&mut rig, &junk, 2_000, Duration::from_secs(1));
    assert!(answers.len() >= 1_999 && are_retries(&answers));
    assert_eq!(rig.rejected(Reason::AuthFail), u64::from(LIMIT / 2), "no MAC was looked at under load");
    let after = rig.status(&client);
    assert_eq!(
        (after.state_version, after.epoch, after.slot),
        (before.state_version, before.epoch, before.slot)
    );
    let mut sent = client.request(&mut rig);
    let retry = rig.ask(PATH_B(), &sent.datagram);
    sent.show(&rig, &retry);
    ack(&mut rig, &mut client, &mut sent, PATH_B());
    rig.check_audit();
}

/// R3.1, R3.2: a flood of random handles uses up half of the RESETs, the rest is for those who show a cookie.
#[test]
fn r3_2_a_flood_of_unknown_handles_leaves_resets_for_others() {
    let (mut rig, mut client) = rig();
    let mut lost = client.request(&mut rig);
    let mut fresh = Rig::new(Policy::default());
    fresh.gateway = rig.gateway;
    let mut junk = lost.datagram.clone();
    junk[4] ^= 1;
    let answers = flood(&mut fresh, &junk, 2_000, Duration::from_millis(400));
    let resets = fresh.counter(Counter::HandleResetSent);
    assert!((500..=600).contains(&resets), "{resets}");
    assert!(answers.len() as u64 > resets + 1_000, "the others got a RETRY");
    let retry = fresh.ask(PATH_B(), &lost.datagram);
    // The rig's two gateways have one key pair.
    lost.show(&rig, &retry);
    let reset = fresh.ask(PATH_B(), &lost.datagram);
    assert_eq!(reset[0], MsgType::Reset.octet());
}

/// R3.2: load of requests with handles that nobody knows asks nobody for a cookie whose handle is known.
#[test]
fn r3_2_garbage_asks_nobody_else_for_a_cookie() {
    let (mut rig, mut client) = rig();
    let mut junk = client.request(&mut rig).datagram;
    junk[4] ^= 1;
    drop(flood(&mut rig, &junk, 2_000, Duration::from_millis(400)));
    let status = rig.engine.status(rig.now, &rig.tables.contexts);
    assert!(status.under_load.unknown_handles && !status.under_load.reattaches);
    let sent = client.request(&mut rig);
    assert_eq!(rig.ask(PATH_B(), &sent.datagram)[0], MsgType::ReattachAck.octet());
}

/// R3.1: a cookie is good where it was sent and nowhere else, for as long as its secret.
#[test]
fn r3_1_a_cookie_of_another_path_or_time_is_refused() {
    let (mut rig, mut client) = rig();
    let junk = forged(&mut rig, &mut client);
    let load = |rig: &mut Rig| drop(flood(rig, &junk, 60, Duration::ZERO));
    load(&mut rig);
    let mut sent = client.request(&mut rig);
    let retry = rig.ask(PATH_B(), &sent.datagram);
    sent.show(&rig, &retry);
    let elsewhere = [PATH_C(), endpoint(20, 40_002), endpoint(21, 40_001)];
    for from in elsewhere {
        let answer = rig.ask(from, &sent.datagram);
        assert_eq!(answer[0], MsgType::Retry.octet());
    }
    assert_eq!((rig.counter(Counter::CookieRefused), rig.counter(Counter::CookieAccepted)), (3, 0));
    rig.wait(COOKIE_PERIOD * 2);
    load(&mut rig);
    assert_eq!(rig.ask(PATH_B(), &sent.datagram)[0], MsgType::Retry.octet(), "expired");
    let mut again = client.request(&mut rig);
    let retry = rig.ask(PATH_B(), &again.datagram);
    again.show(&rig, &retry);
    rig.wait(COOKIE_PERIOD);
    load(&mut rig);
    // The session went on without traffic: what counts here is that the cookie is taken.
    rig.datagram(PATH_B(), &again.datagram);
    assert_eq!(rig.counter(Counter::CookieAccepted), 1);
}

/// R2.2, R3.1, I13: a request with a cookie is the same request: if the form without one was granted, the kept answer is
/// sent again, and from elsewhere it is a replay. Nobody else can make a form of it.
#[test]
fn r2_2_either_form_of_a_request_gets_the_same_answer() {
    let (mut rig, mut client) = rig();
    let mut sent = client.request(&mut rig);
    let granted = rig.ask(PATH_B(), &sent.datagram);
    let version = rig.status(&client).state_version;
    let plain = sent.datagram.clone();
    let mut other = Client::new(1, rig.gateway);
    other.handshake(&mut rig, PATH_C());
    let junk = forged(&mut rig, &mut other);
    flood(&mut rig, &junk, 60, Duration::ZERO);
    let retry = rig.ask(PATH_B(), &plain);
    assert_eq!(retry[0], MsgType::Retry.octet(), "its answer was lost; now it is asked for a cookie");
    sent.show(&rig, &retry);
    assert_eq!(rig.ask(PATH_B(), &sent.datagram), granted);
    assert_eq!(rig.status(&client).state_version, version);
    // Somebody changes MAC and cookie of the recorded request, at an address of his own.
    let rejected = rig.rejected(Reason::ReplayDetected);
    let mut altered = sent.datagram.clone();
    altered[255] ^= 1;
    rig.ask_in_vain(PATH_B(), &altered);
    assert_eq!(rig.rejected(Reason::ReplayDetected), rejected + 1);
    client.read_ack(&mut sent, &granted);
    rig.frame(client.slot(), PATH_B());
    assert_eq!(rig.state(&client).0, "ATTACHED");
}

/// R3.2: somebody with an address of his own gets a cookie, but not what is reserved for all: a part per prefix.
#[test]
fn r3_2_one_real_sender_does_not_use_up_the_reserve() {
    let (mut rig, _) = rig();
    let mut init = strange_init(&mut rig);
    flood(&mut rig, &init, HANDSHAKES_PER_SECOND, Duration::ZERO);
    let retry = rig.ask(PATH_B(), &init);
    let cookie = init_cookie(&rig, &init, &retry);
    with_cookie(&rig.gateway, &mut init, cookie).unwrap();
    let refused = rig.engine.counters().handshake_refusals(Reason::PolicyDeny);
    for _ in 0..1_000 {
        rig.ask_in_vain(PATH_B(), &init);
    }
    let proven = rig.engine.counters().handshake_refusals(Reason::PolicyDeny) - refused;
    assert_eq!(proven, u64::from(PREFIX_PER_SECOND));
    assert_eq!(rig.counter(Counter::CookiePrefixLimited), 1_000 - u64::from(PREFIX_PER_SECOND));
    let mut honest = Client::new(1, rig.gateway);
    handshake(&mut rig, &mut honest, Endpoint::v4([192, 0, 2, 1], 9));
}

/// R3.2, I13: many honest clients behind one prefix are not held to its part of the reserve while nobody else asks.
#[test]
fn r3_2_a_crowded_prefix_gets_what_nobody_wants() {
    let (mut rig, _) = rig();
    let mut init = strange_init(&mut rig);
    flood(&mut rig, &init, HANDSHAKES_PER_SECOND / 2 + 1, Duration::ZERO);
    let retry = rig.ask(PATH_B(), &init);
    let cookie = init_cookie(&rig, &init, &retry);
    with_cookie(&rig.gateway, &mut init, cookie).unwrap();
    rig.wait(Duration::from_secs(1));
    let before = rig.engine.counters().handshake_refusals(Reason::PolicyDeny);
    for _ in 0..200 {
        rig.ask_in_vain(PATH_B(), &init);
    }
    let read = rig.engine.counters().handshake_refusals(Reason::PolicyDeny) - before;
    assert_eq!(read, 200);
    assert_eq!(rig.counter(Counter::CookiePrefixLimited), 200 - u64::from(PREFIX_PER_SECOND));
}

/// R3.1: RETRYs have a limit of their own; beyond it there is silence.
#[test]
fn r3_1_retries_are_limited() {
    let (mut rig, mut client) = rig();
    let junk = forged(&mut rig, &mut client);
    let answers = flood(&mut rig, &junk, LIMIT / 2 + RETRIES_PER_SECOND + 500, Duration::ZERO);
    assert_eq!(answers.len() as u64, rig.counter(Counter::RetrySent));
    assert_eq!(answers.len(), RETRIES_PER_SECOND as usize);
    assert_eq!(rig.counter(Counter::RetryHeldBack), 500);
}

/// R3.3, I9: the same flood gives the same answers.
#[test]
fn r3_3_load_is_deterministic() {
    let run = || {
        let (mut rig, mut client) = rig();
        let junk = forged(&mut rig, &mut client);
        let init = strange_init(&mut rig);
        let mut answers = flood(&mut rig, &junk, 300, Duration::from_millis(700));
        answers.extend(flood(&mut rig, &init, 900, Duration::from_millis(900)));
        answers.extend(flood(&mut rig, &junk, 300, Duration::from_secs(9)));
        (answers, rig.engine.counters().by_name())
    };
    assert_eq!(run(), run());
}

/// R3.3: whoever floods is summed up for the operator's hook, with what he was refused; a quiet node says nothing.
#[test]
fn r3_3_a_flood_is_summed_up() {
    let (mut rig, mut client) = rig();
    rig.engine.keep_abuse(AbuseSettings { interval: Duration::from_secs(10), sources: 2 });
    client.switch(&mut rig, PATH_B());
    rig.wait(Duration::from_secs(60));
    assert!(rig.engine.poll_abuse().is_none());
    let mut sent = client.request(&mut rig);
    let junk = forged(&mut rig, &mut client);
    flood(&mut rig, &junk, 80, Duration::from_millis(100));
    let source = endpoint(66, 1_000);
    for _ in 0..300 {
        rig.datagram(source, &junk);
    }
    let retry = rig.ask(PATH_C(), &sent.datagram);
    sent.show(&rig, &retry);
    rig.datagram(PATH_C(), &sent.datagram);
    rig.wait(Duration::from_secs(9));
    assert!(rig.engine.poll_abuse().is_none());
    rig.wait(Duration::from_secs(2));
    let summary = rig.engine.poll_abuse().unwrap().encode("gw1", 0, 0);
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["totals"]["violations"], 50, "{summary}");
    assert_eq!(summary["reasons"]["AUTH_FAIL"], 50);
    assert_eq!(summary["totals"]["rate_limits"], 80 - 50 + 300 + 1);
    let first = &summary["sources"][0];
    assert_eq!((first["prefix"].as_str(), first["proven"].as_u64()), (Some("203.0.113.0/24"), Some(0)));
    assert_eq!(summary["sources"].as_array().unwrap().len(), 2);
    rig.wait(Duration::from_secs(60));
    assert!(rig.engine.poll_abuse().is_none(), "calm again");
}
