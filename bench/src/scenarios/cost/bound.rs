//! What the Diffie-Hellman alone would cost: X25519 by both crates, in the same run.

use std::hint::black_box;

use anyhow::{Result, anyhow};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use jvpn_crypto::rng::Random;
use serde::Serialize;

use super::report::Figure;
use super::stopwatch::Stopwatch;
use crate::simulation::dice::Dice;

/// New keys that the gateway makes for one reattach (Noise KKpsk0, responder): its ephemeral one.
pub const NEW_KEYS: u32 = 1;
/// Agreements: es and ss in the request, ee and se in the answer.
pub const AGREEMENTS: u32 = 4;
/// Operations of each kind in one round.
const OPERATIONS: u32 = 400;

/// X25519 by one crate.
#[derive(Clone, Debug, Serialize)]
pub struct Backend {
    /// The crate.
    pub name: &'static str,
    /// A private key made ready, its public half computed, ns.
    pub new_key_ns: Figure,
    /// One agreement, ns.
    pub agreement_ns: Figure,
    /// What [`NEW_KEYS`] and [`AGREEMENTS`] of them cost, ns.
    pub reattach_ns: f64,
}

/// Measures both crates, in turn.
///
/// # Errors
/// One of them refuses a key.
pub fn measure(rounds: u32, dice: &mut Dice) -> Result<Vec<Backend>> {
    let (mut aws_lc, mut dalek) = (Rounds::default(), Rounds::default());
    for _ in 0..rounds {
        let (mut ours, mut theirs) = ([0; 32], [0; 32]);
        dice.fill(&mut ours)?;
        dice.fill(&mut theirs)?;
        aws_lc.push(aws_lc_round(&ours, &theirs)?);
        dalek.push(dalek_round(&ours, &theirs));
    }
    Ok(vec![aws_lc.backend("aws-lc-rs"), dalek.backend("x25519-dalek")])
}

/// Rounds of one crate, ns.
#[derive(Default)]
struct Rounds {
    new_keys: Vec<f64>,
    agreements: Vec<f64>,
}

impl Rounds {
    fn push(&mut self, (new_key, agreement): (f64, f64)) {
        self.new_keys.push(new_key);
        self.agreements.push(agreement);
    }

    fn backend(self, name: &'static str) -> Backend {
        let (new_key_ns, agreement_ns) = (Figure::of(self.new_keys), Figure::of(self.agreements));
        let reattach_ns =
            f64::from(NEW_KEYS) * new_key_ns.median + f64::from(AGREEMENTS) * agreement_ns.median;
        Backend { name, new_key_ns, agreement_ns, reattach_ns }
    }
}

fn each(start: Stopwatch) -> f64 {
    start.elapsed().as_secs_f64() * 1e9 / f64::from(OPERATIONS)
}

fn aws_lc_round(ours: &[u8; 32], theirs: &[u8; 32]) -> Result<(f64, f64)> {
    let refused = |_| anyhow!("aws-lc-rs refuses a key");
    let new_key = || {
        let key = PrivateKey::from_private_key(&X25519, black_box(ours)).map_err(refused)?;
        let public = key.compute_public_key().map_err(|_| anyhow!("aws-lc-rs has no public key"))?;
        anyhow::Ok((key, public))
    };
    let start = Stopwatch::start();
    for _ in 0..OPERATIONS {
        black_box(new_key()?);
    }
    let new_keys = each(start);
    let (key, _) = new_key()?;
    let start = Stopwatch::start();
    for _ in 0..OPERATIONS {
        let theirs = UnparsedPublicKey::new(&X25519, black_box(theirs));
        let shared = agree(&key, theirs, (), |shared| <[u8; 32]>::try_from(shared).map_err(|_| ()));
        black_box(shared.map_err(|()| anyhow!("aws-lc-rs refuses a key"))?);
    }
    Ok((new_keys, each(start)))
}

fn dalek_round(ours: &[u8; 32], theirs: &[u8; 32]) -> (f64, f64) {
    let start = Stopwatch::start();
    for _ in 0..OPERATIONS {
        let secret = x25519_dalek::StaticSecret::from(*black_box(ours));
        black_box(x25519_dalek::PublicKey::from(&secret));
    }
    let new_keys = each(start);
    let secret = x25519_dalek::StaticSecret::from(*ours);
    let start = Stopwatch::start();
    for _ in 0..OPERATIONS {
        black_box(secret.diffie_hellman(&x25519_dalek::PublicKey::from(*black_box(theirs))));
    }
    (new_keys, each(start))
}
