//! The gateway has forgotten the session: it knows no generation that we hold, and proved that it is the gateway. The
//! session goes on by the takeover exchange over the same path; only its authenticated refusal ends it.
//!
//! Request → ACK, which offers a binding → TAKE_OVER in sealed CONTROL, repeated until the gateway says that the binding
//! is there (any CONTROL under it does) → the probe that confirms. Until then nothing is sent: it would be lost.

use super::binding::Sending;
use super::reattach::{Pending, Request};
use super::session::Session;
use super::{Agent, Event, Phase, Transmit};
use crate::paths::UplinkId;
use crate::paths::monitor::{Monitor, Timing};
use jvpn_abi::BootTime;
use jvpn_crypto::takeover::{self, RequestParams};
use jvpn_session::messages::{BindingGrant, ControlMessage, ReattachAsk, SwitchCause, TakeoverAsk};
use std::time::Duration;

/// TAKE_OVER is repeated after max(RTT, this), and each time after twice as long.
const REPEAT_MIN: Duration = Duration::from_millis(250);
/// Sendings of TAKE_OVER before the exchange begins anew.
const SENDINGS: u8 = 3;

/// An offered binding that is being taken.
#[derive(Debug)]
pub(super) struct Taking {
    message: ControlMessage,
    rtt: Option<Duration>,
    sendings: u8,
    wait: Duration,
    pub(super) next_at: BootTime,
}

impl Taking {
    pub(super) fn new(grant: &BindingGrant, rtt: Option<Duration>, now: BootTime) -> Self {
        Self {
            message: ControlMessage::TakeOver { epoch: grant.epoch, version: grant.anchor_version },
            rtt,
            sendings: 0,
            wait: rtt.unwrap_or_default().max(REPEAT_MIN),
            next_at: now,
        }
    }
}

impl Agent {
    /// From here on the recovery asks by the takeover exchange.
    pub(super) fn begin_takeover(&mut self, now: BootTime, uplink: UplinkId) {
        let Phase::Session(session) = &self.phase else { return };
        if session.recovery.is_none() {
            // A rekey met a gateway without memory: the binding is gone with it.
            self.begin_recovery(now, SwitchCause::SlotReset, Some(uplink));
        }
        let Phase::Session(session) = &mut self.phase else { return };
        let Session { recovery: Some(recovery), id, .. } = &mut **session else { return };
        tracing::info!(session = %id, "the gateway has forgotten the session; asking for it by a takeover exchange");
        recovery.take_over();
    }

    /// Makes a takeover request, and sends it.
    pub(super) fn make_takeover(
        &mut self,
        now: BootTime,
        uplink: UplinkId,
        ask: ReattachAsk,
    ) -> Option<Request> {
        let timestamp_ns = self.next_timestamp(now);
        let kept = self.kept_cookie(now, uplink);
        let Self { phase: Phase::Session(session), config, random, .. } = self else { return None };
        session.taking = None;
        let ReattachAsk { cause, detect_ms, attempt } = ask;
        let ask = TakeoverAsk { session_id: session.id, timestamp_ns, cause, detect_ms, attempt };
        let mut index = [0; 4];
        let made = random.fill(&mut index).map_err(Into::into).and_then(|()| {
            let params = RequestParams {
                local: &config.local,
                gateway: &config.gateway,
                takeover: &session.takeover,
                preshared: &config.preshared,
                client_index: u32::from_be_bytes(index),
            };
            takeover::request(random.as_mut(), &params, &ask.encode())
        });
        match made {
            Ok((mut payload, pending)) => {
                // Every request of this exchange is a fresh one: without it each would cost a RETRY under load.
                if kept.is_some_and(|cookie| pending.with_cookie(&mut payload, cookie).is_ok()) {
                    self.counters.cookies_shown += 1;
                }
                self.outbox.push_back(Transmit { uplink, payload: payload.clone() });
                self.counters.takeovers_sent += 1;
                Some(Request::new(uplink, None, Pending::Takeover(pending), payload, now))
            }
            Err(error) => {
                let message = format!("no takeover request could be made: {error}");
                self.push_event(Event::Trouble { message });
                None
            }
        }
    }

    /// Sends TAKE_OVER when it is due, or gives the offer up.
    pub(super) fn drive_taking(&mut self, now: BootTime) {
        let Self { phase: Phase::Session(session), paths, .. } = self else { return };
        let Some(taking) = session.taking.as_mut().filter(|taking| now >= taking.next_at) else { return };
        if taking.sendings >= SENDINGS {
            session.taking = None;
            if let Some(recovery) = &mut session.recovery {
                recovery.campaign.failed(now, paths, now);
            }
            return;
        }
        taking.sendings += 1;
        taking.next_at = now.after(taking.wait);
        taking.wait *= 2;
        let message = taking.message.encode();
        let uplink = session.binding.uplink;
        if let Ok(payload) = session.binding.control_out.seal(&message) {
            self.outbox.push_back(Transmit { uplink, payload });
        }
    }

    /// The gateway spoke under the binding that we take: it is there, and its first frame may come.
    pub(super) fn taken(&mut self, now: BootTime) {
        let Phase::Session(session) = &mut self.phase else { return };
        let Some(taking) = session.taking.take() else { return };
        session.monitor = Monitor::new(Timing::from(&session.grant.policy), taking.rtt, Duration::ZERO, now);
        session.binding.sending = Sending::Allowed;
        self.drive_session(now);
        self.flush_held(now);
    }
}
