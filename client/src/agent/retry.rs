//! RETRY: a gateway under load wants to see that we receive where we send from. The request goes out once more, as it
//! was but for the cookie; and the cookie is kept for further requests over the same path.
//!
//! Followed at most once per request, so often per burst ([`crate::paths::campaign`]), and never past the client's own
//! limit. A cookie is worth nothing to anybody elsewhere, and wrong or old ones only cost one more RETRY.
//!
//! Path echoes and path hints bring cookies, too, before anybody asks: a request that shows one lets the gateway send over
//! the new path before it has heard the client there (`docs/decisions/0039-early-downlink.md`).

use super::{Agent, Phase, Transmit};
use crate::paths::{LinkState, UplinkId};
use jvpn_abi::{BootTime, Endpoint};
use jvpn_crypto::cookie::{self, COOKIE_PERIOD, Cookie, Question};
use jvpn_crypto::handshake;
use std::collections::BTreeMap;

/// Whether a request has followed its RETRY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retried {
    No,
    Yes,
}

/// The cookies that were given, at most one per uplink.
#[derive(Debug, Default)]
pub(super) struct Cookies(BTreeMap<UplinkId, Kept>);

#[derive(Debug)]
struct Kept {
    cookie: Cookie,
    since: BootTime,
    /// The path that it is for, as far as it can be seen from here.
    link: Option<LinkState>,
    gateway: Endpoint,
}

impl Cookies {
    fn keep(&mut self, now: BootTime, uplink: UplinkId, path: (Option<LinkState>, Endpoint), cookie: Cookie) {
        let (link, gateway) = path;
        self.0.insert(uplink, Kept { cookie, since: now, link, gateway });
    }

    /// The cookie of a path, while it is certain to be good.
    fn of(&self, now: BootTime, uplink: UplinkId, path: (Option<LinkState>, Endpoint)) -> Option<Cookie> {
        let kept = self.0.get(&uplink)?;
        let fits = (kept.link, kept.gateway) == path && now.since(kept.since) < COOKIE_PERIOD;
        fits.then_some(kept.cookie)
    }

    /// The path looks different from outside now, or may: what was given for it is void, and would tell an observer what it
    /// was. The link's own address does not say so: two networks give out the same one.
    pub(super) fn forget(&mut self, uplink: UplinkId) {
        self.0.remove(&uplink);
    }

    /// The same of every path: the host slept, and may have been carried elsewhere.
    pub(super) fn forget_all(&mut self) {
        self.0.clear();
    }

    /// Cookies that are kept.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Agent {
    /// The cookie to show over an uplink without being asked.
    pub(super) fn kept_cookie(&self, now: BootTime, uplink: UplinkId) -> Option<Cookie> {
        self.cookies.of(now, uplink, self.path_of(uplink))
    }

    /// Keeps what the gateway gave for an uplink as it is now.
    pub(super) fn keep_cookie(&mut self, now: BootTime, uplink: UplinkId, cookie: Cookie) {
        self.cookies.keep(now, uplink, self.path_of(uplink), cookie);
    }

    fn path_of(&self, uplink: UplinkId) -> (Option<LinkState>, Endpoint) {
        (self.paths.uplink(uplink).map(|uplink| uplink.link), self.endpoint_over(uplink))
    }

    pub(super) fn handle_retry(&mut self, now: BootTime, uplink: UplinkId, datagram: &[u8]) {
        let sent = match &self.phase {
            Phase::Searching(birth) => birth.sent(uplink).map(|(init, done)| (Question::of_init(init), done)),
            Phase::Session(session) => {
                session.sent(uplink).map(|(request, done)| (Question::of_request(request), done))
            }
            Phase::Ended(_) => None,
        };
        let Some((Some(question), retried)) = sent else {
            self.counters.stale_answers += 1;
            return;
        };
        let Ok(cookie) = cookie::read_retry(&self.config.gateway, &question, datagram) else {
            self.counters.unauthentic += 1;
            return;
        };
        if retried == Retried::Yes {
            self.counters.retries_ignored += 1;
            return;
        }
        self.keep_cookie(now, uplink, cookie);
        match self.show_cookie(now, cookie) {
            Some(payload) => {
                self.outbox.push_back(Transmit { uplink, payload });
                self.counters.retries_followed += 1;
            }
            // The next sending shows it.
            None => self.counters.retries_ignored += 1,
        }
    }

    /// Puts the cookie into the latest request. `None`: it may not be sent now.
    fn show_cookie(&mut self, now: BootTime, cookie: Cookie) -> Option<Vec<u8>> {
        let Self { phase, paths, config, .. } = self;
        match phase {
            Phase::Searching(birth) => {
                let open = birth.open.as_mut()?;
                handshake::with_cookie(&config.gateway, &mut open.datagram, cookie).ok()?;
                open.retried = Retried::Yes;
                open.sent_at = now;
                birth.campaign.retried(now, paths).then(|| open.datagram.clone())
            }
            Phase::Session(session) => {
                session.request_mut()?.show(cookie)?;
                let may_send = match (&mut session.recovery, &mut session.rekey) {
                    (Some(recovery), _) => recovery.campaign.retried(now, paths),
                    (None, Some(rekey)) => rekey.retried(now, paths),
                    (None, None) => false,
                };
                let request = session.request_mut()?;
                may_send.then(|| request.send_again())
            }
            Phase::Ended(_) => None,
        }
    }
}
