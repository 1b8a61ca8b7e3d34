//! One incident: from a session that works to the figures of what it lived through.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jvpn_rig::emulator::{Direction, LanePatch, Relay};
use jvpn_rig::{Interrupt, Uplink};
use serde_json::Value;

use super::cause::Cause;
use super::measure;
use super::record::Trial;
use super::script::{self, Begun, Struck};
use super::standing::Standing;
use super::tenant::{PATIENCE, Tenant, flows};
use crate::events::{Cursor, Event};
use crate::peers::probes::unix_ns;
use crate::peers::streams::{LaneRecord, Record, Streams};

/// How long a client may take to come back before the trial counts as not recovered.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(20);
/// Recording goes on for so long after traffic flows again.
const TAIL: Duration = Duration::from_millis(250);
/// How long TCP may take to deliver what it owes: its retransmission timer has doubled meanwhile.
const TCP_PATIENCE: Duration = Duration::from_secs(15);
/// Datagrams of the old binding that are held back and released after the switch.
const HELD: usize = 400;

/// What all trials of a life of the gateway share.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub(super) streams: &'a Streams,
    pub(super) rtt: Duration,
    pub(super) interrupt: &'a Interrupt,
}

/// A trial under way.
pub(super) struct Running {
    cause: Cause,
    incident: u32,
    bound: Uplink,
    session: String,
    client_from: Cursor,
    /// When it happened.
    begun: Begun,
}

/// A trial and what was recorded of it.
pub(super) struct Finished {
    pub(super) trial: Trial,
    pub(super) record: Record,
    pub(super) at_ns: u64,
}

/// Whether datagrams of the old binding are kept, to be released after the switch.
const fn holds(cause: Cause) -> bool {
    matches!(cause, Cause::SilentBlackhole | Cause::OneDirectionDead)
}

/// A path of a client that sees by itself what becomes of its link.
struct Bound<'a> {
    tenant: &'a mut Tenant,
    uplink: Uplink,
    stage: &'a Stage<'a>,
}

impl Struck for Bound<'_> {
    fn path(&self) -> &Relay {
        self.tenant.path(self.uplink)
    }

    fn set_link_down(&mut self, down: bool) -> Result<()> {
        self.path().set_link_down(down);
        Ok(())
    }

    fn change_address(&mut self) -> Result<Begun> {
        self.tenant.change_address()
    }

    fn sleep(&self, time: Duration) -> Result<()> {
        self.stage.sleep(time)
    }
}

impl Stage<'_> {
    /// Begins recording, lets it run for a moment of its own, and strikes.
    pub(super) fn strike(
        &self,
        tenant: &mut Tenant,
        (cause, incident): (Cause, u32),
        wait: Duration,
    ) -> Result<Running> {
        let (session, bound) = self.prepare(tenant, wait)?;
        if holds(cause) {
            tenant.path(bound).hold(Direction::Up, HELD);
        }
        let client_from = tenant.log.end();
        // Kills strike all clients at once: the caller does it.
        let begun = script::strike(&mut Bound { tenant, uplink: bound, stage: self }, cause, incident)?;
        Ok(Running { cause, incident, bound, session, client_from, begun })
    }

    /// The session, and the uplink that it has been bound over all the while.
    fn prepare(&self, tenant: &mut Tenant, wait: Duration) -> Result<(String, Uplink)> {
        let session = tenant.session()?;
        // From here on the trial says what became of it.
        tenant.standing = None;
        let bound = loop {
            let bound = tenant.bound()?;
            self.streams.begin(tenant.number());
            self.sleep(wait)?;
            // On a busy machine a client may leave its path by itself meanwhile: what is struck must be what it is bound to.
            if tenant.bound()? == bound {
                break bound;
            }
        };
        Ok((session, bound))
    }

    /// Waits for the end, undoes what was done, and measures.
    pub(super) fn finish(&self, tenant: &mut Tenant, running: &Running) -> Result<Finished> {
        let complete = if running.cause.must_switch() { self.await_switch(tenant, running)? } else { None };
        let recovered =
            self.await_flow(tenant, running)? && (complete.is_some() || !running.cause.must_switch());
        self.sleep(TAIL + self.rtt)?;
        let held = self.undo(tenant, running)?;
        if !held.is_empty() {
            // What was released arrives, or does not, within this.
            self.sleep(Duration::from_millis(60) + self.rtt)?;
        }
        let record = self.streams.record(tenant.number());
        let silent_until = (!recovered).then(unix_ns);
        let tcp_survived = self.tcp_goes_on(tenant)?;
        let mut trial = self.judge(tenant, running, (&record, &held), silent_until);
        (trial.recovered, trial.tcp_survived) = (recovered, tcp_survived);
        let session = tenant.session();
        trial.session_kept = session.as_ref().is_ok_and(|session| *session == running.session);
        tenant.standing =
            session.ok().filter(|_| recovered).map(|session| Standing::new(session, tcp_survived));
        tenant.note_switches(trial.switches);
        Ok(Finished { trial, record, at_ns: running.begun.unix_ns })
    }

    fn await_switch(&self, tenant: &mut Tenant, running: &Running) -> Result<Option<Event>> {
        let wanted = |event: &Event| event.text("event") == "recovery_complete";
        let result =
            tenant.await_event("a recovery", running.client_from, RECOVERY_PATIENCE, self.interrupt, wanted);
        match result {
            Ok(event) => Ok(Some(event)),
            // Not to come back is a result, and a bad one; to be interrupted, or a dead client, is none.
            Err(error) => {
                self.interrupt.check()?;
                if error.to_string().contains("not within") { Ok(None) } else { Err(error) }
            }
        }
    }

    /// Waits until probes have flowed both ways for a while.
    fn await_flow(&self, tenant: &Tenant, running: &Running) -> Result<bool> {
        let deadline = Instant::now() + RECOVERY_PATIENCE;
        let mut since = None;
        while Instant::now() < deadline {
            self.sleep(Duration::from_millis(5))?;
            let late =
                self.streams.last_arrivals(tenant.number()).into_iter().all(|at| at > running.begun.unix_ns);
            if !(late && flows(self.streams, tenant.number(), Duration::ZERO)) {
                since = None;
                continue;
            }
            let begun = *since.get_or_insert_with(Instant::now);
            // As long as the way there and back: what arrives may have been sent before the incident.
            if begun.elapsed() > Duration::from_millis(100) + self.rtt {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The network is whole again; gives the lengths of the frames that were held back and let go.
    fn undo(&self, tenant: &Tenant, running: &Running) -> Result<Vec<usize>> {
        let path = tenant.path(running.bound);
        path.change_both(&LanePatch::default());
        path.set_link_down(false);
        path.check()?;
        Ok(if holds(running.cause) { path.release(Direction::Up) } else { Vec::new() })
    }

    fn tcp_goes_on(&self, tenant: &Tenant) -> Result<bool> {
        let Ok((owed, _)) = self.streams.tcp(tenant.number()) else { return Ok(false) };
        let deadline = Instant::now() + TCP_PATIENCE;
        loop {
            match self.streams.tcp(tenant.number()) {
                Ok((_, arrived)) if arrived >= owed => return Ok(true),
                Ok(_) if Instant::now() < deadline => self.sleep(Duration::from_millis(5))?,
                Ok(_) | Err(_) => return Ok(false),
            }
        }
    }

    /// `silent_until`: it had not come back by then.
    fn judge(
        &self,
        tenant: &Tenant,
        running: &Running,
        (record, held): (&Record, &[usize]),
        silent_until: Option<u64>,
    ) -> Trial {
        let events = tenant.log.since(running.client_from);
        let named =
            |name: &str| events.iter().filter(|event| event.text("event") == name).collect::<Vec<_>>();
        let (started, complete) = (named("recovery_started"), named("recovery_complete"));
        let moment = |event: &Event| event.record.get("mono_ns").and_then(Value::as_u64);
        let decided = started.first().and_then(|event| moment(event));
        let confirmed = complete.first().and_then(|event| moment(event));
        let at_ns = running.begun.unix_ns;
        let lane = |record: &LaneRecord| match silent_until {
            Some(until) => measure::unended_lane(record, at_ns, until),
            None => measure::lane(record, at_ns),
        };
        let (up, down) = (lane(&record.up), lane(&record.down));
        let left_ns = started.first().and_then(|event| u64::try_from(event.at_ms).ok());
        let left_ns = left_ns.map_or(0, |at| at * 1_000_000);
        Trial {
            cause: running.cause,
            segment: 0,
            rtt_ms: u64::try_from(self.rtt.as_millis()).unwrap_or(u64::MAX),
            incident: running.incident,
            client: tenant.number(),
            at_ms: at_ns / 1_000_000,
            session_id: running.session.clone(),
            recovered: false,
            detect_ms: measure::span_ms(Some(running.begun.boot_ns), decided),
            reattach_ms: measure::span_ms(decided, confirmed),
            noticed_as: started.first().map(|event| event.text("cause").to_owned()),
            attempts: complete.first().and_then(|event| event.number("attempts")),
            switches: u32::try_from(complete.len()).unwrap_or(u32::MAX),
            outage_up_ms: up.outage_ms,
            outage_down_ms: down.outage_ms,
            outage_ms: up.outage_ms.max(down.outage_ms),
            lost_up: up.lost,
            lost_down: down.lost,
            tcp_stall_ms: match silent_until {
                Some(until) => measure::unended_stall(&record.tcp, at_ns, until),
                None => measure::tcp_stall(&record.tcp, at_ns),
            },
            tcp_survived: false,
            session_kept: false,
            held_released: held.len() as u64,
            stale_forwarded: measure::stale(&record.up, held, left_ns).count() as u64,
            bench_pause_ms: up.pause_ms.max(down.pause_ms),
        }
    }

    pub(super) fn sleep(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            self.interrupt.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}

/// A session that lives, for the next trial: waits for the one there is, or begins another.
pub(super) fn ready(
    stage: &Stage<'_>,
    rig: &jvpn_rig::Rig,
    tenant: &mut Tenant,
    cause: Cause,
    budget: u32,
) -> Result<()> {
    let uplinks =
        if cause.has_one_uplink() { super::tenant::Uplinks::OnlyA } else { super::tenant::Uplinks::Two };
    tenant.look(stage.streams);
    if !tenant.can_go_on(uplinks, cause.switches_max(), budget) || stage.streams.tcp(tenant.number()).is_err()
    {
        return tenant.begin(rig, uplinks, stage.streams, stage.interrupt);
    }
    let ready = tenant.await_ready(stage.streams, stage.interrupt);
    stage.interrupt.check()?;
    match ready {
        Ok(()) => Ok(()),
        // The next trial gets a session that works. That of the last one says so if it did not come back from that; what
        // has gone wrong since then nobody else would tell.
        Err(error) => {
            tenant.look(stage.streams);
            if tenant.standing.is_some() {
                tenant.complain(&format!("it had come back, and then: {error:#}"));
            }
            tenant
                .begin(rig, uplinks, stage.streams, stage.interrupt)
                .with_context(|| format!("client {} after {PATIENCE:?}", tenant.number()))
        }
    }
}
