//! What the tests of this crate share: proofs minted by the real cryptography, and a session to drive.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "test code: a failure is the message")]

use jvpn_abi::BootTime;
use jvpn_crypto::Proven;
use jvpn_crypto::handshake::{initiate, read_init};
use jvpn_crypto::keys::{PresharedKey, StaticSecret};
use jvpn_crypto::rng::{Random, RandomError};
use jvpn_session::messages::SessionId;
use jvpn_session::{
    BindingPhase, Event, Generation, Policy, ReattachClaim, Rejection, SessionCore, Transition, birth,
    transition,
};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::time::Duration;

struct Seeded(ChaCha20Rng);

impl Random for Seeded {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), RandomError> {
        self.0.fill_bytes(out);
        Ok(())
    }
}

/// A proof can only come from a real exchange, in tests too.
pub(crate) fn proof() -> Proven {
    let mut rng = Seeded(ChaCha20Rng::seed_from_u64(7));
    let gateway = StaticSecret::generate(&mut rng).unwrap();
    let client = StaticSecret::generate(&mut rng).unwrap();
    let (init, _) = initiate(&mut rng, &client, &gateway.public(), &PresharedKey::default(), 1, b"").unwrap();
    read_init(&mut rng, &gateway, &init).unwrap().0
}

pub(crate) const ID: SessionId = SessionId([7; 16]);

/// A session and its moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Drive {
    pub(crate) core: SessionCore,
    pub(crate) now: BootTime,
    pub(crate) policy: Policy,
}

impl Drive {
    /// In BIRTH, installing.
    pub(crate) fn born(policy: Policy) -> Self {
        let now = BootTime::from_millis(1_000_000);
        Self { core: birth(proof(), ID, 0, now).core, now, policy }
    }

    /// In ATTACHED, never switched.
    pub(crate) fn attached(policy: Policy) -> Self {
        let mut drive = Self::born(policy);
        drive.install();
        drive.must(Event::BindingConfirmed { epoch: 1 });
        drive
    }

    pub(crate) fn after(mut self, wait: Duration) -> Self {
        self.now = self.now.after(wait);
        self
    }

    /// The installation succeeds.
    pub(crate) fn install(&mut self) {
        let epoch = self.core.epoch();
        assert!(self.core.binding_installed(epoch));
        assert_eq!(self.core.phase(), BindingPhase::Unconfirmed);
    }

    pub(crate) fn decide(&self, event: Event) -> Result<Transition, Rejection> {
        transition(&self.core, event, self.now, &self.policy)
    }

    /// An event that must lead to a transition.
    pub(crate) fn must(&mut self, event: Event) -> Transition {
        let name = event.name();
        let next = self.decide(event).unwrap_or_else(|rejection| panic!("{name}: {rejection:?}"));
        self.core = next.core.clone();
        assert_eq!(self.core.broken_invariant(&self.policy), None, "after {name}");
        next
    }

    pub(crate) fn request(&self, under: Generation, voluntary: bool) -> Event {
        let anchor = match under {
            Generation::Confirmed => self.core.confirmed(),
            Generation::Pending => self.core.pending(),
        };
        let anchor_version = anchor.map_or(0, |anchor| anchor.version.0);
        Event::ReattachProven(proof(), ReattachClaim { under, anchor_version, voluntary })
    }

    /// A whole needed switch, confirmed.
    pub(crate) fn switch(&mut self) -> Transition {
        self.must(self.request(Generation::Confirmed, false));
        self.install();
        let epoch = self.core.epoch();
        self.must(Event::BindingConfirmed { epoch })
    }
}
