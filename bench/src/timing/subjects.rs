//! What is measured: the checks of the product that compare a secret with what came from outside, and two that stop at
//! the first difference.

use super::Class;
use anyhow::{Context, Result};
use jvpn_abi::wire::MAC_LEN;
use jvpn_abi::wire::handshake::{INIT_COOKIE_AT, INIT_MAC_AT};
use jvpn_abi::wire::path::PATH_PROBE_LEN;
use jvpn_abi::wire::reattach::{HANDLE_LEN, MAC_AT};
use jvpn_abi::wire::reset::ResetKind;
use jvpn_abi::{BootTime, Endpoint};
use jvpn_crypto::cookie::{Cookie, CookieJar};
use jvpn_crypto::handshake::{init_mac_ok, initiate};
use jvpn_crypto::keys::{NodeKey, PresharedKey, StaticSecret, tokens_equal};
use jvpn_crypto::path::TicketMint;
use jvpn_crypto::reattach::{RequestFrame, RequestParams, request};
use jvpn_crypto::rng::OsRandom;
use jvpn_crypto::schedule::Resume;
use std::hint::black_box;

/// What a measurement has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// Nothing.
    Constant,
    /// That it stops early.
    Leak,
}

/// One comparison.
pub(super) trait Subject {
    fn name(&self) -> &'static str;
    fn expected(&self) -> Expected;
    /// Calls per timed sample: a clock takes longer than a comparison of sixteen octets.
    fn repeats(&self) -> u32;
    /// Puts an input of this class where the check finds it.
    fn prepare(&mut self, class: Class);
    /// The check itself; `true` if it refuses what was prepared.
    fn judges_wrong(&mut self) -> bool;
    /// Whether it would take the right value.
    fn takes_the_right_value(&mut self) -> bool;
}

/// A check of octets, of which those from `at` on, so many, are compared with a secret.
struct Check<F> {
    name: &'static str,
    expected: Expected,
    repeats: u32,
    right: Vec<u8>,
    wrong: [Vec<u8>; 2],
    input: Vec<u8>,
    accepts: F,
}

impl<F: FnMut(&[u8]) -> bool + 'static> Check<F> {
    fn boxed(
        name: &'static str,
        (expected, repeats): (Expected, u32),
        right: &[u8],
        compared: std::ops::Range<usize>,
        accepts: F,
    ) -> Box<dyn Subject> {
        let spoiled = |at: usize| {
            let mut wrong = right.to_vec();
            if let Some(octet) = wrong.get_mut(at) {
                *octet ^= 1;
            }
            wrong
        };
        let wrong = [spoiled(compared.start), spoiled(compared.end.saturating_sub(1))];
        let (right, input) = (right.to_vec(), right.to_vec());
        Box::new(Self { name, expected, repeats, right, wrong, input, accepts })
    }
}

impl<F: FnMut(&[u8]) -> bool> Subject for Check<F> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn expected(&self) -> Expected {
        self.expected
    }
    fn repeats(&self) -> u32 {
        self.repeats
    }
    fn prepare(&mut self, class: Class) {
        let [first, last] = &self.wrong;
        // The same number of octets is stored for either class, all of them: a single changed octet would leave its trace
        // in how the next loads are served.
        self.input.copy_from_slice(match class {
            Class::First => first,
            Class::Last => last,
        });
        black_box(&mut self.input);
    }
    fn judges_wrong(&mut self) -> bool {
        !(self.accepts)(black_box(&self.input))
    }
    fn takes_the_right_value(&mut self) -> bool {
        (self.accepts)(&self.right)
    }
}

/// Checks that cost a hash or more, and those that are a comparison alone.
const HASHING: u32 = 1;
const BARE: u32 = 32;

/// All of them.
pub(super) fn subjects() -> Result<Vec<Box<dyn Subject>>> {
    let mut rng = OsRandom::checked()?;
    let node = NodeKey::generate(&mut rng)?;
    let token = node.reset_token(ResetKind::Slot, [7; 8]);
    let mut all = vec![reattach_mac(&mut rng)?, init_mac(&mut rng)?, cookie(&mut rng)?, ticket(&node)];
    all.push(Check::boxed("RESET token", (Expected::Constant, BARE), &token, 0..MAC_LEN, move |shown| {
        shown.first_chunk().is_some_and(|shown| tokens_equal(black_box(&token), shown))
    }));
    all.push(Box::new(Preshared::new()?));
    all.push(Check::boxed(
        "stops early: comparison alone",
        (Expected::Leak, BARE),
        &token,
        0..MAC_LEN,
        move |shown| equal_stopping_early(black_box(&token), shown),
    ));
    all.push(Check::boxed("stops early: behind a MAC", (Expected::Leak, HASHING), &token, 0..MAC_LEN, {
        move |shown| equal_stopping_early(&node.reset_token(ResetKind::Slot, [7; 8]), shown)
    }));
    Ok(all)
}

/// A right REATTACH_REQUEST; its MAC is judged before any Diffie-Hellman.
fn reattach_mac(rng: &mut OsRandom) -> Result<Box<dyn Subject>> {
    let (client, gateway) = (StaticSecret::generate(rng)?, StaticSecret::generate(rng)?);
    let resume = Resume::from_octets([0x5a; 32].into());
    let params = RequestParams {
        local: &client,
        gateway: &gateway.public(),
        resume: &resume,
        session_id: [1; 16],
        anchor_version: 3,
        nonce: 4,
        handle: [2; HANDLE_LEN],
    };
    let (datagram, _) = request(rng, &params, b"")?;
    let compared = MAC_AT..MAC_AT + MAC_LEN;
    Ok(Check::boxed(
        "REATTACH_REQUEST, MAC",
        (Expected::Constant, HASHING),
        &datagram,
        compared,
        move |shown| RequestFrame::parse(shown).is_some_and(|frame| frame.mac_ok(&resume)),
    ))
}

fn init_mac(rng: &mut OsRandom) -> Result<Box<dyn Subject>> {
    let (client, gateway) = (StaticSecret::generate(rng)?, StaticSecret::generate(rng)?.public());
    let (datagram, _) = initiate(rng, &client, &gateway, &PresharedKey::default(), 1, b"")?;
    let compared = INIT_MAC_AT..INIT_COOKIE_AT;
    Ok(Check::boxed(
        "HANDSHAKE_INIT, MAC",
        (Expected::Constant, HASHING),
        &datagram,
        compared,
        move |shown| init_mac_ok(&gateway, shown),
    ))
}

fn cookie(rng: &mut OsRandom) -> Result<Box<dyn Subject>> {
    let (now, mut jar) = (BootTime(1), CookieJar::default());
    let (remote, local) = (Endpoint::v4([203, 0, 113, 9], 4_000), Endpoint::v4([198, 51, 100, 1], 4_500));
    let Cookie(right) = jar.bake(rng, now, remote, local)?;
    Ok(Check::boxed("cookie", (Expected::Constant, HASHING), &right, 0..right.len(), move |shown| {
        shown.first_chunk().is_some_and(|shown| jar.accepts(now, remote, local, Cookie(*shown)))
    }))
}

fn ticket(node: &NodeKey) -> Box<dyn Subject> {
    let (now, mint) = (BootTime(1), TicketMint::new(node));
    let (probe, _) = mint.issue(now, [3; 8]).probe();
    let compared = PATH_PROBE_LEN - MAC_LEN..PATH_PROBE_LEN;
    Check::boxed(
        "PATH_PROBE, MAC of a ticket",
        (Expected::Constant, HASHING),
        &probe,
        compared,
        move |shown| mint.echo(now, shown, || Cookie::NONE).is_ok(),
    )
}

/// A peer's pre-shared key against the one that a reload brings.
struct Preshared {
    own: PresharedKey,
    wrong: [PresharedKey; 2],
    shown: PresharedKey,
}

impl Preshared {
    fn new() -> Result<Self> {
        // 32 octets in base64: the first octet is 0x80 in one, the last 0x04 in the other, all others are zero.
        let key = |first: char, last: char| -> Result<PresharedKey> {
            let text: String = [first].into_iter().chain(['A'; 41]).chain([last, '=']).collect();
            text.parse().context("a pre-shared key")
        };
        let own = key('A', 'A')?;
        Ok(Self { shown: own.clone(), wrong: [key('g', 'A')?, key('A', 'Q')?], own })
    }
}

impl Subject for Preshared {
    fn name(&self) -> &'static str {
        "pre-shared key, at a reload"
    }
    fn expected(&self) -> Expected {
        Expected::Constant
    }
    fn repeats(&self) -> u32 {
        BARE
    }
    fn prepare(&mut self, class: Class) {
        let [first, last] = &self.wrong;
        self.shown = match class {
            Class::First => first.clone(),
            Class::Last => last.clone(),
        };
        black_box(&mut self.shown);
    }
    fn judges_wrong(&mut self) -> bool {
        !black_box(&self.own).same_as(black_box(&self.shown))
    }
    fn takes_the_right_value(&mut self) -> bool {
        self.own.same_as(&self.own.clone())
    }
}

/// What the product must never do: whoever measures it finds a secret octet by octet.
fn equal_stopping_early(own: &[u8; MAC_LEN], shown: &[u8]) -> bool {
    if own.len() != shown.len() {
        return false;
    }
    for (a, b) in own.iter().zip(shown) {
        // Looked at one by one: the compiler would compare all of them at once, as it does for `==`.
        if black_box(*a) != black_box(*b) {
            return false;
        }
    }
    true
}
