//! One world from its beginning to its end.

use super::events::{EventFile, EventFiles};
use super::{Options, Totals};
use crate::check_events::findings::Findings;
use crate::simulation::churn::{AHEAD_MAX, world};
use crate::simulation::observer::Violation;
use crate::simulation::{Setup, Simulation};
use anyhow::{Context, Result};
use jvpn_rig::Interrupt;
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Virtual time between two looks at what is outside: interruption, file of events.
const CHUNK: Duration = Duration::from_millis(500);
/// Applications send this often while it is judged who is back.
const ROLL_CALL: Duration = Duration::from_millis(400);
/// Echoes that prove it.
const ECHOES: usize = 3;

/// How a world ended.
pub(super) enum Ending {
    Good { fingerprint: String },
    Broken(String),
    Interrupted,
}

/// Why a world does not go on.
enum Stop {
    Broken(Violation),
    Interrupted,
    Error(anyhow::Error),
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Self {
        Self::Broken(violation)
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Error(error)
    }
}

/// Lives through a seed.
pub(super) fn live_through(
    options: &Options,
    seed: u64,
    interrupt: &Interrupt,
    files: &EventFiles,
    virtual_ms: &AtomicU64,
) -> Result<(Totals, Ending)> {
    let setup = world(seed, options.sessions, options.profile, options.keys);
    let mut sim = Simulation::new(&setup).context("the world cannot be set up")?;
    sim.traced = options.traced;
    let log = files.open(seed, &setup)?;
    let mut life = Life { options, setup, sim, interrupt, log, virtual_ms };
    let outcome = life.go();
    let totals = Totals::of(&life.sim, options.minutes);
    let Life { sim, mut log, .. } = life;
    match outcome {
        Ok(()) => {
            let findings = log.finish()?;
            let totals = Totals { judged_lines: findings.events, ..totals };
            Ok((totals, judged(&findings, fingerprint(&sim))))
        }
        Err(Stop::Broken(violation)) => {
            // The lines up to the violation help to find out why.
            let mut lines = sim.audit;
            log.take(&mut lines)?;
            // What broke ends the world; what the judge of logs thinks of the rest is not asked.
            let _findings = log.finish()?;
            Ok((totals, Ending::Broken(violation.to_string())))
        }
        Err(Stop::Interrupted) => {
            log.discard();
            Ok((totals, Ending::Interrupted))
        }
        Err(Stop::Error(error)) => Err(error),
    }
}

/// A world that ended well has a log in which every rule holds, too.
fn judged(findings: &Findings, fingerprint: String) -> Ending {
    match findings.violations.first() {
        None => Ending::Good { fingerprint },
        Some(first) => {
            Ending::Broken(format!("its audit log has {} violation(s): {first}", findings.violations_total))
        }
    }
}

/// Everything that was sent and logged, in a few characters.
fn fingerprint(sim: &Simulation) -> String {
    let (datagrams, audit) = sim.digests();
    let digest = Sha256::new().chain_update(datagrams).chain_update(audit).finalize();
    digest.iter().take(8).map(|octet| format!("{octet:02x}")).collect()
}

struct Life<'a> {
    options: &'a Options,
    setup: Setup,
    sim: Simulation,
    interrupt: &'a Interrupt,
    log: EventFile,
    virtual_ms: &'a AtomicU64,
}

impl Life<'_> {
    fn go(&mut self) -> Result<(), Stop> {
        for _ in 0..self.options.minutes * 60_000 / CHUNK.as_millis() as u64 {
            self.pass(CHUNK)?;
            self.virtual_ms.fetch_add(CHUNK.as_millis() as u64, Ordering::Relaxed);
        }
        self.sim.end_churn();
        self.pass_long(AHEAD_MAX)?;
        self.sim.heal()?;
        self.roll_call()?;
        self.sim.judge_all()?;
        self.nothing_is_left_over()
    }

    fn pass(&mut self, span: Duration) -> Result<(), Stop> {
        self.sim.run(span)?;
        self.log.take(&mut self.sim.audit)?;
        if self.interrupt.is_set() { Err(Stop::Interrupted) } else { Ok(()) }
    }

    fn pass_long(&mut self, span: Duration) -> Result<(), Stop> {
        (0..span.as_millis() / CHUNK.as_millis()).try_for_each(|_| self.pass(CHUNK))
    }

    /// I13: every client is back, and its packets go both ways.
    fn roll_call(&mut self) -> Result<(), Stop> {
        let echoed = |sim: &Simulation, client: usize| sim.observer.client(client).echoed.len();
        let mut missing: Vec<(usize, usize)> =
            (0..self.sim.clients()).map(|client| (client, echoed(&self.sim, client))).collect();
        for (client, _) in &missing {
            self.sim.set_traffic(*client, Some(ROLL_CALL));
        }
        let mut waited = Duration::ZERO;
        while !missing.is_empty() {
            if waited > self.options.back_within {
                return Err(Stop::Broken(self.not_back(&missing)));
            }
            self.pass(CHUNK)?;
            waited += CHUNK;
            let sim = &mut self.sim;
            missing.retain(|(client, before)| {
                let is_back = echoed(sim, *client) >= before + ECHOES && sim.is_client_settled(*client);
                if is_back {
                    sim.set_traffic(*client, None);
                }
                !is_back
            });
        }
        Ok(())
    }

    fn not_back(&self, missing: &[(usize, usize)]) -> Violation {
        let some: Vec<String> = missing
            .iter()
            .take(5)
            .map(|(client, _)| format!("client {client} {}", self.sim.client(*client).state))
            .collect();
        self.sim.observer.violation(
            "I13",
            format_args!(
                "{} not back after {:?}: {}",
                missing.len(),
                self.options.back_within,
                some.join(", ")
            ),
        )
    }

    /// I10: without trouble nothing stays in memory that nobody needs.
    fn nothing_is_left_over(&mut self) -> Result<(), Stop> {
        self.pass_long(Duration::from_secs(3))?;
        let Some((live, slots)) = self.sim.live_sessions_and_slots() else { return Ok(()) };
        let clients = self.sim.clients();
        // Short-lived sessions end and begin all the time, and one that switches just now has two slots.
        let room = if self.setup.policy.session_ttl < Duration::from_secs(600) { clients / 4 + 4 } else { 0 };
        if live > clients + room || slots > clients + clients / 4 + 4 {
            let what = format_args!("{live} live sessions and {slots} slots of {clients} clients");
            return Err(Stop::Broken(self.sim.observer.violation("I10", what)));
        }
        Ok(())
    }
}
