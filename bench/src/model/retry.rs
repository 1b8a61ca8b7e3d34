//! Cookies: what both ends do while the gateway is under load (`docs/decisions/0017`). When it is, is nobody's choice: in
//! scopes with load it is unless something says otherwise, so that I13 asks for a way back in that shows cookies. And what a
//! cookie is worth while it is calm (`docs/decisions/0039`); in warm scopes the client has one for each path.

use super::mutant::Mutant;
use super::state::{About, Bind, Cookie, Message, Phase, Place, SessionNo};
use super::step::Step;

impl Step<'_> {
    /// `retry::World::pass`, before handle, MAC and Noise message: whether a request goes on.
    pub(super) fn pass(&mut self, about: About, at: Place, shown: Option<Cookie>) -> bool {
        if !self.under_load {
            return true;
        }
        let life = self.life();
        let genuine = Cookie { place: at, life };
        let anywhere = self.is(Mutant::CookieFromElsewhere) && shown.is_some_and(|shown| shown.life == life);
        if shown == Some(genuine) || anywhere {
            if self.world.seen.asked & 1 << at == 0 {
                self.breaks("R3.2: under load, work is done for an address to which no cookie ever went");
            }
            return true;
        }
        self.world.seen.asked |= 1 << at;
        self.world.net.send(Message::Retry { about, cookie: genuine });
        false
    }

    /// `early::World::advance`: whether the binding that an accepted request leads to may send unheard.
    pub(super) fn advance(&self, number: SessionNo, at: Place, shown: Option<Cookie>) -> bool {
        let Some(shown) = shown.filter(|shown| shown.life == self.life()) else { return false };
        let is_due = self.session_ref(number).is_some_and(|session| session.advance);
        let is_good = shown.place == at || self.is(Mutant::CookieOfAnotherAddressSends);
        is_good && (is_due || self.is(Mutant::AdvanceWithoutEnd))
    }

    /// `early::World::send_early`.
    pub(super) fn send_early(&mut self, number: SessionNo, bind: Bind) {
        let early = self.world.slots[usize::from(bind)].early;
        if let Some(session) = self.session(number) {
            session.advance &= !early;
        }
    }

    /// Which life of the control plane this is: the secret of its cookies dies with it.
    fn life(&self) -> u8 {
        self.scope.control_plane_crashes - self.world.left.control_plane_crashes
    }

    /// `retry::Agent::handle_retry`, `show_cookie`: the latest request goes out once more, the same but for the cookie.
    pub(super) fn retried(&mut self, about: About, cookie: Cookie) {
        let shown = Some(cookie);
        let client = &mut self.world.client;
        if client.retried {
            return;
        }
        let (again, path) = match (&client.phase, about) {
            (Phase::Searching { open: Some((stamp, path)) }, About::Init { stamp: asked })
                if *stamp == asked =>
            {
                (Message::Init { stamp: *stamp, path: *path, shown }, *path)
            }
            (Phase::Session(held), About::Request { nonce }) => {
                let Some(recovery) = held.recovery else { return };
                let Some(open) = recovery.open.filter(|open| open.nonce == nonce) else { return };
                let (under, path, voluntary) = (open.under, open.path, recovery.voluntary);
                let again = if recovery.takeover {
                    Message::TakeAsk { nonce, session: held.session, path, shown }
                } else {
                    Message::Request { nonce, under, path, voluntary, shown }
                };
                (again, path)
            }
            (Phase::Searching { .. } | Phase::Session(_) | Phase::Crashed | Phase::Ended, _) => return,
        };
        client.retried = true;
        if let Some(kept) = client.cookies.get_mut(usize::from(path)) {
            *kept = shown;
        }
        self.world.net.send(again);
    }

    /// `retry::Agent::kept_cookie`: what a fresh request over a path shows. It has not been retried yet.
    pub(super) fn kept_cookie(&mut self, path: Place) -> Option<Cookie> {
        self.world.client.retried = false;
        self.world.client.cookies.get(usize::from(path)).copied().flatten()
    }
}
