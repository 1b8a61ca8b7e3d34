//! The emulator measured by its own yardstick: what was asked of a path against what probes see of it, through the same
//! interfaces and threads that the recovery bench uses.

mod checks;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jvpn_rig::emulator::{Direction, LanePatch, Path, Profile};
use jvpn_rig::site::{Paths, Site};
use jvpn_rig::{Interrupt, Rig, Uplink, priority};
use serde::Serialize;

use super::progress::Progress;
use crate::peers::probes::{Arrival, PROBE_LEN, ProbeSocket};
use crate::result::{Environment, write_json};
use crate::timeline::print;

const PORT: u16 = 7_100;
/// What is on its way when the last probe was sent has arrived by then.
const LAST_WAIT: Duration = Duration::from_millis(400);

/// One question put to the emulator.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What is measured.
    pub name: String,
    /// What was asked for.
    pub asked: f64,
    /// What was seen.
    pub measured: f64,
    /// How far they may be apart: of chance alone by more than four standard deviations, plus the clock's error.
    pub tolerance: f64,
    /// Unit of all three.
    pub unit: &'static str,
    /// Probes behind it.
    pub samples: usize,
    /// Whether it is within the tolerance; for a capacity: at least what was asked.
    pub holds: bool,
    /// What else was seen.
    pub note: String,
}

/// The result.
#[derive(Clone, Debug, Serialize)]
pub struct SelfTest {
    /// `emulator`.
    pub scenario: &'static str,
    /// Whether every check holds.
    pub valid: bool,
    /// Determines all chance.
    pub seed: u64,
    /// What it ran on.
    pub environment: Environment,
    /// The checks.
    pub checks: Vec<Check>,
}

/// A path, and probes over it.
struct Lab<'a> {
    site: Site,
    near: ProbeSocket,
    far: ProbeSocket,
    target: SocketAddrV4,
    interrupt: &'a Interrupt,
}

/// Probes to be sent.
#[derive(Clone, Copy, Debug)]
struct Volley {
    count: u64,
    interval: Duration,
    len: usize,
}

impl Volley {
    const fn new(count: u64, interval: Duration) -> Self {
        Self { count, interval, len: PROBE_LEN }
    }
}

/// What came of them.
struct Seen {
    sent: u64,
    arrivals: Vec<Arrival>,
}

impl Lab<'_> {
    /// Sends up a path that is like `patch` says.
    fn fire(&self, patch: LanePatch, volley: Volley) -> Result<Seen> {
        self.interrupt.check()?;
        let relay = self.site.path(Uplink::A);
        relay.change(Direction::Up, patch);
        self.far.receive(|_| {});
        let done = &std::sync::atomic::AtomicBool::new(false);
        let arrivals = thread::scope(|scope| -> Result<(u64, Vec<Arrival>)> {
            let collector = scope.spawn(move || {
                // It must keep up with a capacity test, on a busy machine too.
                let _ = priority::raise();
                let mut arrivals = Vec::new();
                let mut end = None;
                while end.is_none_or(|end| Instant::now() < end) {
                    self.far.receive(|arrival| arrivals.push(arrival));
                    if end.is_none() && done.load(std::sync::atomic::Ordering::Relaxed) {
                        end = Some(Instant::now() + LAST_WAIT);
                    }
                    thread::sleep(Duration::from_micros(500));
                }
                arrivals
            });
            let sent = self.send(volley);
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            let arrivals = collector.join().map_err(|_| anyhow::anyhow!("the collector panicked"))?;
            Ok((sent, arrivals))
        });
        relay.change(Direction::Up, LanePatch::default());
        relay.check()?;
        let (sent, arrivals) = arrivals?;
        Ok(Seen { sent, arrivals })
    }

    fn send(&self, volley: Volley) -> u64 {
        let start = Instant::now();
        let mut sent = 0;
        for sequence in 0..volley.count {
            let at = start + volley.interval * u32::try_from(sequence).unwrap_or(u32::MAX);
            thread::sleep(at.saturating_duration_since(Instant::now()));
            sent += u64::from(self.near.send(self.target, sequence, volley.len).is_some());
        }
        sent
    }
}

/// Runs the self-test, prints it and writes it to `json`.
///
/// # Errors
/// A part could not be set up, or a check does not hold.
pub fn run(seed: u64, json: Option<&PathBuf>, interrupt: &Interrupt) -> Result<()> {
    let rig = Rig::create()?;
    let paths = Paths::create(&rig)?;
    let profile = Profile::load("plain")?;
    let site = Site::create(&rig, &paths, 0, [Path::new(&profile, seed), Path::new(&profile, seed + 1)])?;
    let hop = Site::router_address(0, Uplink::A);
    let lab = Lab {
        near: ProbeSocket::open(site.client(), Ipv4Addr::UNSPECIFIED, PORT)?,
        far: ProbeSocket::open(rig.router(), hop, PORT)?,
        target: SocketAddrV4::new(hop, PORT),
        site,
        interrupt,
    };
    // Neighbours learn each other's addresses before anything is measured.
    lab.fire(LanePatch::default(), Volley::new(20, Duration::from_millis(5)))?;
    let checks = checks::all(&lab, &mut Progress::start())?;
    let valid = checks.iter().all(|check| check.holds);
    let result = SelfTest { scenario: "emulator", valid, seed, environment: Environment::collect(), checks };
    show(&result);
    if let Some(path) = json {
        write_json(path, &result)?;
    }
    drop(lab);
    rig.remove().context("the rig is not removed")?;
    if !valid {
        bail!("the emulator is not what was asked for: figures made with it would prove nothing");
    }
    Ok(())
}

fn show(result: &SelfTest) {
    print(&format!(
        "  {:<34}{:>12}{:>12}{:>10}  {:<8}{:>8}",
        "check", "asked", "measured", "±", "unit", "samples"
    ));
    for check in &result.checks {
        let Check { name, asked, measured, tolerance, unit, samples, holds, note } = check;
        let verdict = if *holds { "" } else { "  FAILED" };
        print(&format!(
            "  {name:<34}{asked:>12.3}{measured:>12.3}{tolerance:>10.3}  {unit:<8}{samples:>8}  {note}{verdict}"
        ));
    }
}
