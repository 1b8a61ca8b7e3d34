//! A reattach storm: all sessions lose their path at one moment, and all clients ask at once.
//!
//! One core serves them in the order in which they come; the round trip is zero and nothing is lost, so what is measured is
//! the gateway. Whoever is refused comes back exactly when it was told to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jvpn_abi::Endpoint;
use jvpn_abi::wire::MsgType;
use jvpn_session::messages::SwitchCause;
use serde::Serialize;

use super::crowd::Crowd;
use super::peer::Answer;
use super::progress::Progress;
use super::stopwatch::Stopwatch;

/// How long the gateway is busy with a datagram or a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// As long as it is: a measurement.
    Measured,
    /// Always so long: reproducible.
    Fixed(Duration),
}

/// What became of a storm.
#[derive(Clone, Debug, Serialize)]
pub struct Storm {
    /// Sessions that lost their path.
    pub sessions: usize,
    /// From the first request to the last confirmation, ms.
    pub all_attached_ms: f64,
    /// When half of them were attached, ms.
    pub half_attached_ms: f64,
    /// Time in the engine, ms.
    pub busy_ms: f64,
    /// Requests.
    pub requests: u64,
    /// Of them, those that followed a RETRY: the gateway asked for a cookie.
    pub retries: u64,
    /// Answers that refused one, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Most requests of one client.
    pub most_requests: u32,
}

impl Storm {
    /// Lines for a person.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let refused: Vec<_> =
            self.refused.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let refused = if refused.is_empty() { "none".to_owned() } else { refused.join(", ") };
        vec![
            format!(
                "  storm of {}: half attached after {:.0} ms, all after {:.0} ms, engine busy {:.0} ms",
                self.sessions, self.half_attached_ms, self.all_attached_ms, self.busy_ms
            ),
            format!(
                "  {} requests, at most {} of one client; {} asked for a cookie; refused: {refused}",
                self.requests, self.most_requests, self.retries
            ),
            String::new(),
        ]
    }
}

/// Lets the storm happen to every session of a crowd.
///
/// # Errors
/// A request met silence, a session was lost or doubled, or a version is not the expected one; Ctrl-C.
pub fn run(crowd: &mut Crowd, clock: Clock, progress: &mut Progress<'_>) -> Result<Storm> {
    let versions = versions(crowd);
    let start = crowd.gateway.now();
    let mut queue: BinaryHeap<_> = (0..crowd.len()).map(|number| Reverse((start.0, number))).collect();
    let mut asked = vec![0_u32; crowd.len()];
    let (mut attached, mut refused, mut busy) = (Vec::new(), BTreeMap::new(), Duration::ZERO);
    let mut retries = 0;
    while let Some(Reverse((at, number))) = queue.pop() {
        let now = crowd.gateway.now();
        crowd.gateway.wait(Duration::from_nanos(at.saturating_sub(now.0)));
        let peer = crowd.peers.get_mut(number).context("no such client")?;
        let count = asked.get_mut(number).context("no such client")?;
        if *count == 0 {
            peer.move_on();
        }
        *count += 1;
        let mut sent = peer.request(&crowd.gateway.public(), SwitchCause::PathDead, &mut crowd.dice)?;
        let remote = peer.remote();
        let (mut answer, time) = ask(crowd, clock, remote, &sent.datagram)?;
        busy += time;
        if answer.first() == Some(&MsgType::Retry.octet()) {
            retries += 1;
            sent.follow(&crowd.gateway.public(), &answer)?;
            let (second, time) = ask(crowd, clock, remote, &sent.datagram)?;
            (answer, busy) = (second, busy + time);
        }
        let peer = crowd.peers.get_mut(number).context("no such client")?;
        match peer.read_answer(&mut sent, &answer)? {
            Answer::Granted(slot) => {
                busy += serve(crowd, clock, |crowd| crowd.gateway.confirm(slot));
                attached.push(crowd.gateway.now().since(start));
                progress.one()?;
            }
            Answer::Rekeyed(_) => bail!("a request from elsewhere was answered with a rekey"),
            Answer::Refused(reason, wait_ms) => {
                *refused.entry(reason.name()).or_insert(0) += 1;
                let again = crowd.gateway.now().after(Duration::from_millis(u64::from(wait_ms)));
                queue.push(Reverse((again.0, number)));
            }
        }
    }
    crowd.gateway.sent.clear();
    crowd.check()?;
    let after = self::versions(crowd);
    for (id, before) in &versions {
        // RECOVERY_START and TRANSPORT_SWITCH_OK; a refusal is no transition.
        let version = after.get(id).copied();
        ensure!(version == Some(before + 2), "session {id} has version {version:?} after {before}");
    }
    let ms = |span: Option<&Duration>| span.map_or(0.0, |span| span.as_secs_f64() * 1e3);
    Ok(Storm {
        sessions: attached.len(),
        all_attached_ms: ms(attached.last()),
        half_attached_ms: ms(attached.get(attached.len() / 2)),
        busy_ms: busy.as_secs_f64() * 1e3,
        requests: asked.iter().map(|count| u64::from(*count)).sum(),
        retries,
        refused,
        most_requests: asked.into_iter().max().unwrap_or_default(),
    })
}

/// Sends a request; returns its answer and what it cost.
fn ask(crowd: &mut Crowd, clock: Clock, remote: Endpoint, request: &[u8]) -> Result<(Vec<u8>, Duration)> {
    let answers = [MsgType::ReattachAck, MsgType::ReattachReject, MsgType::Retry].map(MsgType::octet);
    let is_answer = |octets: &[u8]| octets.first().is_some_and(|first| answers.contains(first));
    crowd.gateway.sent.clear();
    let time = serve(crowd, clock, |crowd| crowd.gateway.datagram(remote, request));
    let answer = crowd.gateway.sent.drain(..).find(|sent| is_answer(&sent.payload));
    Ok((answer.context("a request met silence")?.payload, time))
}

/// The gateway does something, and time passes for as long.
fn serve(crowd: &mut Crowd, clock: Clock, what: impl FnOnce(&mut Crowd)) -> Duration {
    let start = Stopwatch::start();
    what(crowd);
    let time = match clock {
        Clock::Measured => start.elapsed(),
        Clock::Fixed(time) => time,
    };
    crowd.gateway.wait(time);
    time
}

fn versions(crowd: &Crowd) -> BTreeMap<String, u64> {
    let sessions = crowd.gateway.status().sessions;
    let live = sessions.into_iter().filter(|session| session.state != "TERMINATED");
    live.map(|session| (session.id, session.state_version)).collect()
}
