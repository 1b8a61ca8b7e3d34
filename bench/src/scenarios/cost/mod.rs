//! What sessions cost the control plane: the production engine with real cryptography, on one core, without I/O.
//!
//! Timed, in time on the processor, is the gateway's side alone: the engine and tables that answer at once. Not in the
//! figures are sockets, the durable write of a handshake and the sealing of JOURNAL records.

pub mod bound;
pub mod crowd;
pub mod gateway;
pub mod peer;
pub mod progress;
pub mod report;
pub mod stopwatch;
pub mod storm;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jvpn_abi::wire::reattach::HANDLE_AT;
use jvpn_controlplane::engine::Counter;
use jvpn_crypto::rng::Random;
use jvpn_rig::Interrupt;
use jvpn_session::Policy;
use jvpn_session::messages::SwitchCause;

use crate::result::Ending;
use crate::run_dir::RunDir;
use crate::simulation::dice::Dice;
use crate::timeline;
use crowd::{Crowd, Spent};
use progress::Progress;
use report::{Figure, Report, Size};
use storm::{Clock, Storm};

/// Everything random follows from it.
const SEED: u64 = 1;
/// Cheap events of one kind in one round.
const CHEAP: usize = 2_000;
/// Clients that cheap events come from.
const CHEAP_PEERS: usize = 400;
/// Switches after which a session's history is full, and up to which crowd it is filled.
const HISTORY_SWITCHES: usize = 20;
const HISTORY_SESSIONS: usize = 1_000;
/// So long a rekey's old key is kept, and a little more.
const REKEY_OVER: Duration = Duration::from_millis(1_200);
/// Rounds are so far apart that no session's own limit stands in the way.
const ROUND_DISTANCE: Duration = Duration::from_secs(10);
const POLICY: &str = "edge, but 60 switches per minute, 1,000,000 reattaches per second, rekey_hard 24 h";

/// What a run differs in.
#[derive(Clone, Debug)]
pub struct Options {
    /// Numbers of sessions to measure with.
    pub sessions: Vec<u32>,
    /// Rounds of each measurement.
    pub rounds: u32,
    /// Births, reattaches and rekeys in one round.
    pub per_round: u32,
    /// Sessions of the storm; 0: none.
    pub storm: u32,
    /// Where everything goes as JSON, too.
    pub json: Option<PathBuf>,
    /// Where result, report and summary go.
    pub out_dir: PathBuf,
}

/// Measures and prints.
///
/// # Errors
/// Something did not come out as it must, the file cannot be written, or Ctrl-C; what was measured is kept. An aim that is
/// missed is no error.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<()> {
    let mut dir = RunDir::begin(&options.out_dir)?;
    let mut dice = Dice::new(SEED, 0);
    timeline::print("X25519 alone");
    let x25519 = bound::measure(options.rounds, &mut dice)?;
    let backend = jvpn_crypto::x25519::BACKEND;
    let bound =
        x25519.iter().find(|one| one.name == backend).context("the backend was not measured")?.clone();
    let mut report = Report {
        scenario: "cost",
        valid: None,
        ending: Ending::default(),
        environment: report::environment(),
        seed: SEED,
        policy: POLICY,
        backend,
        x25519,
        sizes: Vec::new(),
        storm: None,
    };
    let measured = measure_all(options, bound.reattach_ns, &mut report, interrupt);
    report.ending = Ending::of(&measured);
    dir.conclude("Jumping VPN: what sessions cost", &report, measured)?;
    for line in report.lines() {
        timeline::print(&line);
    }
    timeline::print(&format!("\n  result: {}/result.json", options.out_dir.display()));
    if let Some(path) = &options.json {
        report.write_to(path)?;
        timeline::print(&format!("\n  everything: {}", path.display()));
    }
    Ok(())
}

fn measure_all(options: &Options, bound_ns: f64, report: &mut Report, interrupt: &Interrupt) -> Result<()> {
    for sessions in &options.sessions {
        timeline::print(&format!("{sessions} sessions"));
        report.sizes.push(measure(options, *sessions, bound_ns, interrupt)?);
    }
    report.storm = (options.storm > 0).then(|| storm_of(options.storm, interrupt)).transpose()?;
    Ok(())
}

fn storm_of(sessions: u32, interrupt: &Interrupt) -> Result<Storm> {
    timeline::print(&format!("storm of {sessions} sessions"));
    let mut crowd = Crowd::new(SEED, Policy::default(), sessions)?;
    crowd.births(sessions as usize, &mut Progress::new(interrupt, "births", sessions as usize))?;
    // The births' own tokens are back.
    crowd.wait(ROUND_DISTANCE);
    storm::run(
        &mut crowd,
        Clock::Measured,
        &mut Progress::new(interrupt, "attached again", sessions as usize),
    )
}

/// The policy of a measurement: no limit stands in its way.
#[must_use]
pub fn lifted_policy() -> Policy {
    Policy {
        max_switches_per_min: 60,
        reattach_global_per_second: 1_000_000,
        rekey_hard: Duration::from_secs(24 * 3_600),
        ..Policy::default()
    }
}

/// One number of sessions being measured.
struct Measuring<'a> {
    crowd: Crowd,
    options: &'a Options,
    interrupt: &'a Interrupt,
    rounds: BTreeMap<&'static str, Vec<f64>>,
    octets: BTreeMap<&'static str, f64>,
}

fn measure(options: &Options, sessions: u32, bound_ns: f64, interrupt: &Interrupt) -> Result<Size> {
    let crowd = Crowd::new(SEED, lifted_policy(), sessions)?;
    let mut measuring =
        Measuring { crowd, options, interrupt, rounds: BTreeMap::new(), octets: BTreeMap::new() };
    measuring.births(sessions as usize)?;
    measuring.timers();
    let journal_writes_per_reattach = measuring.switches()?;
    measuring.cheap()?;
    measuring.rekeys()?;
    measuring.history()?;
    measuring.crowd.check()?;
    let ns: BTreeMap<_, _> =
        measuring.rounds.into_iter().map(|(name, rounds)| (name, Figure::of(rounds))).collect();
    let median = |name: &str| ns.get(name).map_or(f64::NAN, |figure| figure.median);
    let reattach_ns = median(REATTACH);
    Ok(Size {
        sessions: measuring.crowd.len(),
        births_per_s: 1e9 / median(BIRTH),
        reattaches_per_s: 1e9 / reattach_ns,
        bound_percent: 100.0 * bound_ns / reattach_ns,
        journal_writes_per_reattach,
        octets_per_session: measuring.octets,
        ns,
    })
}

const BIRTH: &str = "birth";
const REATTACH: &str = "reattach";

impl Measuring<'_> {
    fn note(&mut self, what: &'static str, spent: Spent) {
        self.rounds.entry(what).or_default().push(spent.each_ns());
    }

    fn per_round(&self) -> usize {
        self.options.per_round as usize
    }

    /// The last births of the fill are the measured ones.
    fn births(&mut self, sessions: usize) -> Result<()> {
        let mut progress = Progress::new(self.interrupt, "births", sessions);
        let rounds = self.options.rounds as usize;
        let each = self.per_round().min(sessions / rounds);
        ensure!(each > 0, "{sessions} sessions are too few for {rounds} rounds");
        self.crowd.births(sessions - each * rounds, &mut progress)?;
        for _ in 0..rounds {
            let spent = self.crowd.births(each, &mut progress)?;
            self.note(BIRTH, spent);
        }
        self.octets.insert("born", self.crowd.heap_per_session());
        Ok(())
    }

    fn timers(&mut self) {
        for _ in 0..self.options.rounds {
            let spent = self.crowd.wait(Duration::from_secs(3));
            self.note("timer that fires", spent);
        }
    }

    fn switches(&mut self) -> Result<f64> {
        let mut progress =
            Progress::new(self.interrupt, "reattaches", self.per_round() * self.options.rounds as usize);
        let writes = self.crowd.gateway.journal_writes;
        let mut count = 0;
        for round in 0..self.options.rounds {
            let who = self.crowd.some(self.per_round(), round as usize);
            let (requests, confirmations) = self.crowd.switches(&who, &mut progress)?;
            self.note("reattach: request to answer", requests);
            self.note("reattach: confirmation", confirmations);
            let both = Spent { time: requests.time + confirmations.time, count: requests.count };
            self.note(REATTACH, both);
            count += both.count;
            self.crowd.wait(ROUND_DISTANCE);
        }
        let accepted = self.crowd.gateway.engine().counters().single(Counter::ReattachAccepted);
        ensure!(accepted == count, "{accepted} of {count} reattaches were accepted");
        Ok((self.crowd.gateway.journal_writes - writes) as f64 / count as f64)
    }

    /// What proves nothing must cost little.
    fn cheap(&mut self) -> Result<()> {
        let who = self.crowd.some(CHEAP_PEERS, 0);
        let spoil = |datagrams: &[(usize, Vec<u8>)], how: &mut dyn FnMut(&mut [u8])| {
            let mut spoiled = datagrams.to_vec();
            for (_, datagram) in &mut spoiled {
                how(datagram);
            }
            spoiled
        };
        for _ in 0..self.options.rounds {
            let mut genuine = Vec::with_capacity(who.len());
            for number in &who {
                let peer = self.crowd.peers.get_mut(*number).context("no such client")?;
                let public = self.crowd.gateway.public();
                let sent = peer.request(&public, SwitchCause::PathDead, &mut self.crowd.dice)?;
                genuine.push((*number, sent.datagram));
            }
            let forged = spoil(&genuine, &mut |datagram| {
                if let Some(last) = datagram.last_mut() {
                    *last ^= 1;
                }
            });
            self.repeated("forged MAC", &forged, Duration::from_micros(1));
            let dice = &mut self.crowd.dice.clone();
            let mut unknown = spoil(&genuine, &mut |_| {});
            for (_, datagram) in &mut unknown {
                dice.fill(datagram.get_mut(HANDLE_AT..HANDLE_AT + 8).context("a handle")?)?;
            }
            self.repeated("unknown handle", &unknown, Duration::from_micros(1));
            // That was load, for which cookies are asked for.
            self.crowd.wait(ROUND_DISTANCE);
            let mut samples = Vec::with_capacity(who.len());
            for number in &who {
                let peer = self.crowd.peers.get_mut(*number).context("no such client")?;
                let sample = peer.sample(1)?;
                samples.push((*number, sample));
            }
            // Their limit is 5,000 per second for the node.
            for number in &who {
                self.crowd.peers.get_mut(*number).context("no such client")?.move_on();
            }
            self.repeated("sample from elsewhere", &samples, Duration::from_micros(250));
            self.crowd.wait(ROUND_DISTANCE);
            self.leave(&who)?;
            // Their generation is erased now.
            self.repeated("replayed request", &genuine, Duration::from_micros(1));
            self.crowd.wait(ROUND_DISTANCE);
        }
        Ok(())
    }

    /// These clients switch to where they are already.
    fn leave(&mut self, who: &[usize]) -> Result<()> {
        for number in who {
            self.crowd.peers.get_mut(*number).context("no such client")?.move_on();
        }
        let mut progress = Progress::new(self.interrupt, "reattaches", who.len());
        self.crowd.switches(who, &mut progress)?;
        Ok(())
    }

    fn repeated(&mut self, what: &'static str, datagrams: &[(usize, Vec<u8>)], distance: Duration) {
        let mut spent = Spent::default();
        while spent.count < CHEAP as u64 && !datagrams.is_empty() {
            let more = self.crowd.receive(distance, datagrams);
            spent.time += more.time;
            spent.count += more.count;
        }
        self.note(what, spent);
    }

    fn rekeys(&mut self) -> Result<()> {
        let mut progress =
            Progress::new(self.interrupt, "rekeys", self.per_round() * self.options.rounds as usize);
        for round in 0..self.options.rounds {
            let who = self.crowd.some(self.per_round(), round as usize);
            let (requests, flips) = self.crowd.rekeys(&who, &mut progress)?;
            let both = Spent { time: requests.time + flips.time, count: requests.count };
            self.note("rekey", both);
            self.crowd.wait(REKEY_OVER);
            self.crowd.wait(ROUND_DISTANCE);
        }
        Ok(())
    }

    /// What a session takes that has been through everything that it remembers.
    fn history(&mut self) -> Result<()> {
        if self.crowd.len() > HISTORY_SESSIONS {
            return Ok(());
        }
        let who: Vec<usize> = (0..self.crowd.len()).collect();
        let mut progress = Progress::new(self.interrupt, "history", who.len() * HISTORY_SWITCHES);
        for switch in 0..HISTORY_SWITCHES {
            self.crowd.switches(&who, &mut progress)?;
            self.crowd.wait(ROUND_DISTANCE);
            if switch == 0 {
                self.octets.insert("after a switch", self.crowd.heap_per_session());
            }
        }
        self.octets.insert("with a full history", self.crowd.heap_per_session());
        // Until all that is kept of a path's quality is there.
        self.crowd.gateway.probe();
        self.crowd.wait(ROUND_DISTANCE);
        self.octets.insert("with a full history and quality", self.crowd.heap_per_session());
        Ok(())
    }
}
