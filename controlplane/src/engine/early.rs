//! Who may be sent DATA before his binding is confirmed: whoever has proven, in the request itself, that he receives where
//! it comes from. He shows the cookie that went to that very address, with a path echo, a path hint or a RETRY.
//!
//! "Address proven" is a property of a binding beside "confirmed" and changes nothing else: the state, the generations, the
//! budget and the unconfirmed timer wait for the first frame as ever. A cookie is up to four minutes old, so whoever showed
//! it may have left the address since, and may be asking in its name. Therefore a session gets this advance once, and again
//! only after a confirmed binding; its peer, whatever sessions it has, as often in a minute as policy lets a session switch;
//! and it is [`EARLY_PACKETS`] frames, whatever becomes of both processes.

use super::Arrival;
use super::counters::{Counter, Counters};
use super::session::Session;
use super::world::World;
use crate::load::Address;
use jvpn_abi::BootTime;
use jvpn_abi::tables::EARLY_PACKETS;
use jvpn_crypto::cookie::{Cookie, CookieJar, Question};
use jvpn_crypto::rng::Random;

/// Whether a session may still be sent something in advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advance {
    /// Its last binding was confirmed.
    Due,
    /// It had its advance, and nothing has been heard since; or nothing was ever heard.
    Taken,
}

impl World {
    /// How many frames the binding that this accepted request leads to may send before it is confirmed.
    ///
    /// The cookie is compared only now, behind the Noise proof: it costs a MAC per request that has cost three
    /// Diffie-Hellman operations. One that is not good here and now is no reason to refuse a proven request.
    pub(super) fn advance(&self, session: &Session, at: Arrival, request: &[u8]) -> u32 {
        // Of several stored sessions of a peer the first that is heard wins: until then routes move for none.
        let Some(peer) = self.peers.get(&session.peer) else { return 0 };
        let is_settled = peer.live == Some(session.id()) && !self.rivals.contains_key(&session.peer);
        // A birth is confirmed, too, and is no switch: its peer has no more for being born often.
        let is_within_budget =
            peer.advances.count(at.now) < self.settings.policy.max_switches_per_min as usize;
        if session.advance == Advance::Taken || !is_settled || !is_within_budget {
            return 0;
        }
        let shown = Question::of_request(request).map_or(Cookie::NONE, |question| question.shown());
        // Under load it was compared in front.
        let is_proven = at.address == Address::Proven
            || shown.is_some() && self.cookies.accepts(at.now, at.remote, at.local, shown);
        if is_proven { EARLY_PACKETS } else { 0 }
    }

    /// A binding is bound. If its address is proven, it sends from here on, and its client's prefixes lead to it.
    pub(super) fn send_early(&mut self, session: &mut Session, now: BootTime) {
        let Some(binding) = session.binding.as_ref().filter(|binding| binding.early_packets > 0) else {
            return;
        };
        let slot = binding.slot;
        session.advance = Advance::Taken;
        if let Some(peer) = self.peers.get_mut(&session.peer) {
            peer.advances.push(now);
        }
        self.counters.count(Counter::ReattachAddressProven);
        self.route(session, slot);
    }
}

/// Cookies for whoever is answered.
pub(super) trait Baker {
    /// The cookie for where something came from; none without randomness, and then its owner waits for his confirmation.
    fn of(&mut self, rng: &mut dyn Random, at: Arrival, counters: &mut Counters) -> Cookie;
}

impl Baker for CookieJar {
    fn of(&mut self, rng: &mut dyn Random, at: Arrival, counters: &mut Counters) -> Cookie {
        self.bake(rng, at.now, at.remote, at.local).unwrap_or_else(|_| {
            counters.count(Counter::CryptoFailed);
            Cookie::NONE
        })
    }
}
