//! RETRY: followed once, kept for its path, never a way to make the client storm or stray.

use super::gateway::{Cookies, SamePlace};
use super::world::{A, B, Way, World, usable};
use crate::agent::Counters;
use crate::paths::{LinkState, UplinkId};
use jvpn_abi::wire::MsgType;
use jvpn_crypto::cookie::{self, Cookie, Question};
use jvpn_crypto::reattach::RequestFrame;
use jvpn_session::messages::SwitchCause;

fn under_load() -> World {
    let mut world = World::new();
    world.gateway.cookies = Cookies::Yes;
    world.attach()
}

fn counters(world: &World) -> Counters {
    world.agent.status(world.now).counters
}

fn recorded(world: &World, of: Way, kind: MsgType) -> Vec<Vec<u8>> {
    let fits = |(way, _, datagram): &&(Way, UplinkId, Vec<u8>)| *way == of && datagram[0] == kind.octet();
    world.recorded.iter().filter(fits).map(|(.., datagram)| datagram.clone()).collect()
}

/// R3.1: a handshake is sent once more with the cookie, at once: one Diffie-Hellman of ours, one session.
#[test]
fn r3_1_a_handshake_follows_its_retry() {
    let world = under_load();
    let counts = counters(&world);
    assert_eq!((counts.handshakes_sent, counts.retries_followed, counts.retries_ignored), (1, 1, 0));
    let sent = recorded(&world, Way::Up, MsgType::HandshakeInit);
    assert_eq!(sent.len(), 2);
    // The same but for MAC and cookie.
    assert_eq!((&sent[0][..8], &sent[0][40..]), (&sent[1][..8], &sent[1][40..]));
    assert_eq!((world.gateway.sessions, world.agent.status(world.now).cookies), (1, 1));
}

/// The bound path fell silent, its link did not go down.
fn switch_to(world: &mut World, uplink: UplinkId) {
    world.agent.begin_recovery(world.now, SwitchCause::PathDead, Some(uplink));
    world.run(500);
    assert_eq!((world.state(), world.uplink()), ("ATTACHED", Some(uplink)));
}

/// R3.1, R2.2: a reattach follows too, as the same request with the same nonce; the cookie of a path is shown at once the
/// next time, and each path has its own.
#[test]
fn r3_1_a_reattach_follows_and_the_cookie_is_kept() {
    let mut world = under_load();
    switch_to(&mut world, B);
    let sent = recorded(&world, Way::Up, MsgType::ReattachRequest);
    let [first, second] = &sent[..] else { panic!("{} requests", sent.len()) };
    assert!(RequestFrame::parse(first).unwrap().is_same_request(second) && first != second);
    let counts = counters(&world);
    assert_eq!((counts.requests_sent, counts.retries_followed, counts.cookies_shown), (1, 2, 0));

    world.run(1_000);
    switch_to(&mut world, A);
    let counts = counters(&world);
    assert_eq!((counts.requests_sent, counts.retries_followed, counts.cookies_shown), (2, 2, 1));
    assert_eq!(world.recoveries().len(), 2);
}

/// R3.1: a rekey under load gets its keys too, and the traffic goes on.
#[test]
fn r3_1_a_rekey_follows_its_retry() {
    let mut world = World::new();
    world.gateway.same_place = SamePlace::Rekey;
    world.gateway.policy.rekey_soft_ms = 3_000;
    let mut world = world.attach();
    world.gateway.cookies = Cookies::Yes;
    world.run(3_000);
    let counts = counters(&world);
    assert_eq!((counts.rekeys, counts.retries_followed, counts.requests_repeated), (1, 1, 0));
    assert_eq!((world.state(), world.recoveries().len()), ("ATTACHED", 0));
}

/// R3.1, I13: the answer to the form without a cookie counts as well: it may have been under way already.
#[test]
fn i13_the_answer_to_the_form_before_counts() {
    let mut world = World::attached();
    world.link(A, LinkState::NoCarrier);
    // The request was answered, and now comes a RETRY for it that somebody on the path forged.
    world.run(7);
    let sent = recorded(&world, Way::Up, MsgType::ReattachRequest);
    let question = Question::of_request(&sent[0]).unwrap();
    let forged = cookie::retry(&world.gateway.secret.public(), &question, Cookie([1; 16]));
    world.inject(B, &forged);
    assert_eq!(counters(&world).retries_followed, 1);
    world.run(100);
    assert_eq!((world.state(), world.uplink()), ("ATTACHED", Some(B)));
    assert_eq!((counters(&world).requests_sent, world.gateway.asks.len()), (1, 1));
}

/// R3.1, R2.4: RETRYs that were made without seeing the request, are for another one, come over another uplink, or come
/// again do nothing.
#[test]
fn r3_1_foreign_and_repeated_retries_do_nothing() {
    let mut world = under_load();
    let old = recorded(&world, Way::Down, MsgType::Retry);
    assert_eq!(old.len(), 1);
    world.inject(A, &old[0]);
    assert_eq!(counters(&world).stale_answers, 1, "nothing is open");
    world.filter = Box::new(|way, _, d| !(way == Way::Down && d[0] != MsgType::Retry.octet()));
    world.link(A, LinkState::NoCarrier);
    world.run(20);
    let before = counters(&world);
    assert_eq!(before.retries_followed, 2);
    let sent = recorded(&world, Way::Up, MsgType::ReattachRequest);
    let genuine = recorded(&world, Way::Down, MsgType::Retry).pop().unwrap();
    world.inject(B, &genuine);
    world.inject(B, &old[0]);
    world.inject(A, &genuine);
    // The right key and echo, but not the rest of the request's MAC.
    let key = world.gateway.secret.public();
    let mut half_seen = sent.last().unwrap().clone();
    half_seen[255] ^= 1;
    world.inject(B, &cookie::retry(&key, &Question::of_request(&half_seen).unwrap(), Cookie([9; 16])));
    let counts = counters(&world);
    assert_eq!(
        (counts.unauthentic - before.unauthentic, counts.stale_answers - before.stale_answers),
        (3, 1)
    );
    // A further one for the very form that was sent last: only once per request.
    let again = cookie::retry(&key, &Question::of_request(sent.last().unwrap()).unwrap(), Cookie([9; 16]));
    world.inject(B, &again);
    assert_eq!(counters(&world).retries_ignored, before.retries_ignored + 1);
    assert_eq!(counters(&world).retries_followed, 2);
    assert_eq!(recorded(&world, Way::Up, MsgType::ReattachRequest).len(), sent.len());
}

/// R3.3: a gateway that never takes a cookie is not stormed: one RETRY per request is followed, and the client's own
/// limit holds over all.
#[test]
fn r3_3_cookies_that_are_never_good_cause_no_storm() {
    let mut world = World::new();
    world.gateway.cookies = Cookies::InVain;
    world.link(A, usable(1));
    world.link(B, usable(2));
    world.run(10_000);
    let counts = counters(&world);
    let sent = recorded(&world, Way::Up, MsgType::HandshakeInit).len() as u64;
    assert_eq!(sent, counts.handshakes_sent + counts.retries_followed);
    assert!(counts.retries_followed <= counts.handshakes_sent);
    assert!((8..=5 + 10 * 5).contains(&sent), "{sent}");
    // And it gets in as soon as cookies count.
    world.gateway.cookies = Cookies::Yes;
    let took = world.run_until(12_000, |world| world.state() == "ATTACHED");
    assert!(took.is_some());
}

/// R3.1: a cookie is shown for as long as it is certainly good, and not once the path looks different.
#[test]
fn r3_1_kept_cookies_expire() {
    let mut world = under_load();
    world.traffic_ms = 0;
    // To B and back, in one second.
    let reattach = |world: &mut World| {
        let before = counters(world);
        switch_to(world, B);
        switch_to(world, A);
        let after = counters(world);
        (after.cookies_shown - before.cookies_shown, after.retries_followed - before.retries_followed)
    };
    assert_eq!(reattach(&mut world), (1, 1), "that of A came with the handshake");
    // Long enough for both cookies, and not for the keys of the binding, which are a moment younger.
    world.run(119_300);
    assert_eq!(reattach(&mut world), (0, 2));
    world.run(5_000);
    assert_eq!(reattach(&mut world), (2, 0));
    // Another address of ours: another path.
    world.link(A, LinkState::NoCarrier);
    world.run(500);
    world.link(A, usable(9));
    world.run(5_000);
    let before = counters(&world);
    world.link(B, LinkState::NoCarrier);
    world.run(500);
    assert_eq!((world.state(), world.uplink()), ("ATTACHED", Some(A)));
    assert_eq!(counters(&world).cookies_shown, before.cookies_shown);
}
