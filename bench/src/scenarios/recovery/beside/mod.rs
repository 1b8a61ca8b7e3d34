//! `jvpn-bench peers --recovery`: how the tunnels of others come back, beside ours, over the same emulated paths, struck by
//! the same causes and measured in the same way: silence of probes inside the tunnel, and whether TCP goes on.
//!
//! | Module | What for |
//! |---|---|
//! | `incident` | a trial: what is done, who is told of it, what was seen |
//! | `neighbour` | a recovery run or a suite that gets the result beside its own |
//! | `result` | quantiles, `result.json`, tables, bars |
//!
//! The reasons are in `docs/decisions/0043-beside-the-peers.md`.

mod incident;
mod neighbour;
mod result;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use jvpn_rig::emulator::{Path as EmulatedPath, Profile};
use jvpn_rig::site::{Paths, Site};
use jvpn_rig::{Interrupt, Rig, Uplink};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};

use super::cause::Cause;
use super::script;
use crate::account;
use crate::peers::streams::Streams;
use crate::reserve::is_disk_full;
use crate::result::Environment;
use crate::run_dir::RunDir;
use crate::scenarios::contenders::ledger::Ledger;
use crate::scenarios::contenders::tunnel::{self, Client, Ground, Tunnel};
use crate::scenarios::contenders::{Found, Kind, muster, own_failure, with_last_words};
use crate::scenarios::progress::Progress;
use crate::swarm::network::inner_address;
use crate::timeline;
use incident::{Place, Stage};
use neighbour::Neighbour;
pub use result::problem_of;
pub(super) use result::section;
use result::{Asked, Run, Trial};

/// The causes that mean something to a tunnel, whoever's. A control plane beside a data plane only ours has: of the others
/// one process is the gateway, and its death is [`Cause::DataPlaneKill`].
pub const CAUSES: [Cause; 8] = [
    Cause::SilentBlackhole,
    Cause::LinkDown,
    Cause::NatRebinding,
    Cause::AddressChange,
    Cause::LossSpike,
    Cause::Flapping,
    Cause::OneDirectionDead,
    Cause::DataPlaneKill,
];

/// Why a cause means nothing to this contender.
const fn reason_against(cause: Cause, contender: Kind) -> Option<&'static str> {
    match (cause, contender) {
        (Cause::DataPlaneKill, Kind::KernelWireguard) => {
            Some("the kernel does its work, and there is no process to kill")
        }
        _ => None,
    }
}

/// Whether a second path works and nobody says that the first does not.
const fn is_silent(cause: Cause) -> bool {
    matches!(cause, Cause::SilentBlackhole | Cause::OneDirectionDead)
}

/// Mappings of the NATs in front of the clients: none expires within a trial.
const NAT_TTL: Duration = Duration::from_secs(600);
/// What a trial takes beside the outage, start and end of the contender included.
const TRIAL: Duration = Duration::from_secs(3);
/// What clients of a peer may take to notice that their gateway has begun anew; for the ETA alone.
const PEER_RESTART: Duration = Duration::from_secs(30);
/// Name of the result that is put beside that of a recovery run.
const BESIDE: &str = "peers.json";
/// A trial strikes after so long at least, and up to so much later, ms: timers are in any phase.
const SETTLE_MS: (u64, u64) = (150, 250);

/// What a run differs in.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who is to take part, in this order.
    pub contenders: Vec<Kind>,
    /// Causes, in this order.
    pub causes: Vec<Cause>,
    /// Trials per cause and contender.
    pub trials: u32,
    /// Emulated round-trip time.
    pub rtt: Duration,
    /// After so long a trial counts as one that did not come back.
    pub cap: Duration,
    /// How long a contender may take to come up; after that it hangs.
    pub patience: Duration,
    /// A script moves the route away from a silent path after so long.
    pub script_after: Option<Duration>,
    /// Clients of each contender at once.
    pub clients: u8,
    /// Determines all chance of the bench.
    pub seed: u64,
    /// A recovery run, a suite or a part of one that gets the result put beside its own.
    pub beside: Option<PathBuf>,
    /// Where everything goes. Absolute.
    pub out_dir: PathBuf,
}

/// Measures and prints for the command line.
///
/// # Errors
/// As [`run`]; or ours failed, did not come back, or is INVALID.
pub fn run_and_fail(options: &Options, interrupt: &Interrupt) -> Result<()> {
    run(options, interrupt)?.map_or(Ok(()), |problem| bail!(problem))
}

/// Measures and prints; gives what is wrong with ours, if anything is.
///
/// # Errors
/// The network cannot be set up, or interrupted; what was measured is kept.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<Option<String>> {
    let beside = options.beside.as_deref().map(Neighbour::find).transpose()?;
    let mut dir = RunDir::begin(&options.out_dir)?;
    let progress = Progress::start();
    account::begin(&options.out_dir)?;
    let rig = Rig::create()?;
    // Nobody recovers without a tunnel: the addresses are the uplink's own.
    let wanted: Vec<_> = options.contenders.iter().copied().filter(|kind| *kind != Kind::Plain).collect();
    let (found, missing) = muster(&wanted, &rig, &progress);
    let mut run = Run::new(Asked::of(options), Environment::collect(), found, missing);
    let result = measure(&rig, options, (&mut run, &mut dir), &progress, interrupt);
    // Distributions come before the result, on the same disk.
    dir.release();
    let result = result.and(rig.remove()).and(run.write_histograms(&options.out_dir));
    run.settle();
    let report = run.conclude(result.as_ref().err());
    let place = beside.as_ref().map(|beside| beside.run.as_path());
    let taken = place.filter(|place| may_replace(&json!(report), place));
    if place != taken {
        progress.say("the result that lies beside has more of what was asked for than this one, and stays");
    }
    let written = report.write(&mut dir, taken);
    report.lines().iter().for_each(|line| timeline::print(line));
    let result = dir.after(result, written);
    if let Some(beside) = beside.filter(|_| result.is_ok()) {
        beside.show()?;
    }
    result?;
    Ok(report.problem())
}

/// How much of what was asked for a result has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Extent {
    /// The run was broken off.
    Part,
    /// All that the contenders let: one hung or died.
    Failed,
    /// All of it.
    Whole,
}

impl Extent {
    fn of(result: &Value) -> Self {
        if result.get("complete") == Some(&Value::Bool(true)) {
            Self::Whole
        } else if result.get("broken_off") == Some(&Value::Null) {
            Self::Failed
        } else {
            Self::Part
        }
    }
}

/// Whether a result may take the place of the one that lies in a directory: one that has less may not.
fn may_replace(result: &Value, dir: &Path) -> bool {
    let text = fs::read_to_string(dir.join(BESIDE)).unwrap_or_default();
    // What is damaged is worth less than anything.
    let there = serde_json::from_str(&text).ok();
    there.is_none_or(|there: Value| Extent::of(result) >= Extent::of(&there))
}

/// How long a run with these contenders may take.
#[must_use]
pub fn estimate(options: &Options, contenders: &[Kind]) -> Duration {
    let each = |cause: &Cause| contenders.iter().map(|kind| takes(options, *cause, *kind)).sum::<Duration>();
    options.causes.iter().map(each).sum()
}

fn measure(
    rig: &Rig,
    options: &Options,
    (run, dir): (&mut Run, &mut RunDir),
    progress: &Progress,
    interrupt: &Interrupt,
) -> Result<()> {
    let paths = Paths::create(rig)?;
    let profile = Profile::load("plain")?.with_nat(NAT_TTL).with_round_trip(options.rtt);
    let mut places = Vec::new();
    for number in 0..options.clients {
        let seed = options.seed.wrapping_mul(1_000) + u64::from(number) * 2;
        let pair = [seed, seed + 1].map(|seed| EmulatedPath::new(&profile, seed));
        places.push(Place::new(Site::create(rig, &paths, number, pair)?));
    }
    let inner = |number: u8| inner_address(usize::from(number));
    let clients: Vec<_> =
        places.iter().map(|place| (place.site.client().clone(), inner(place.site.number()))).collect();
    let streams = Streams::start(rig, &clients)?;
    let path = options.out_dir.join("trials.jsonl");
    let mut raw = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let ledger = run.ledger.clone();
    for cause in options.causes.iter().copied() {
        for found in run.found.clone() {
            interrupt.check()?;
            if run.is_out(found.contender) {
                continue;
            }
            if let Some(why) = reason_against(cause, found.contender) {
                progress.say(&format!("{cause}: {} left out, {why}", found.contender));
                run.leave_out(found.contender, cause, why);
                continue;
            }
            let left = rest(options, run, cause, found.contender).as_secs();
            progress.say(&format!(
                "{cause}: {} ({} trials), about {left} s left in all",
                found.contender, options.trials
            ));
            let mut keep = |trial: Trial| {
                progress.say(&trial.line());
                let line = serde_json::to_string(&trial).context("a trial is no JSON")?;
                writeln!(raw, "{line}").with_context(|| format!("cannot write {}", path.display()))?;
                run.trials.push(trial);
                Ok(())
            };
            let work =
                Work { rig, options, streams: &streams, cause, found: &found, ledger: &ledger, interrupt };
            dir.keep_room()?;
            let result = work.run(&mut places, dir, &mut keep);
            interrupt.check()?;
            if let Some(error) = own_failure(result)? {
                progress.say(&format!("{}: FAILED: {error:#}", found.contender));
                run.fail(found.contender, cause, &error);
            }
            // Whatever it left undone would meet the next one.
            places.iter_mut().try_for_each(Place::mend)?;
        }
    }
    Ok(())
}

/// What is still to come from this contender and cause on: for the ETA.
fn rest(options: &Options, run: &Run, cause: Cause, contender: Kind) -> Duration {
    let order =
        options.causes.iter().flat_map(|cause| run.found.iter().map(|found| (*cause, found.contender)));
    let rest = order.skip_while(|pair| *pair != (cause, contender)).filter(|(_, kind)| !run.is_out(*kind));
    rest.map(|(cause, kind)| takes(options, cause, kind)).sum()
}

/// What one contender and one cause may take: for the ETA. Of a peer on a silent path the worst is expected.
fn takes(options: &Options, cause: Cause, kind: Kind) -> Duration {
    if reason_against(cause, kind).is_some() {
        return Duration::ZERO;
    }
    let silence = match (is_silent(cause) && kind.is_peer(), options.script_after) {
        (true, None) => options.cap,
        (true, Some(after)) => after,
        // Its clients find out by their own timers.
        (false, _) if cause.is_common() && kind.is_peer() => options.cap.min(PEER_RESTART),
        (false, _) => Duration::ZERO,
    };
    let rounds = if cause.is_common() {
        incidents(options, cause)
    } else {
        options.trials.div_ceil(u32::from(options.clients).max(1))
    };
    (silence + script::length(cause) + TRIAL) * rounds
}

/// Incidents that make up the trials: one that strikes all clients is a trial of each. Three at least, else its interval
/// would be one of two values.
fn incidents(options: &Options, cause: Cause) -> u32 {
    if cause.is_common() {
        options.trials.div_ceil(u32::from(options.clients).max(1)).max(options.trials.min(3))
    } else {
        options.trials
    }
}

/// One contender and one cause.
struct Work<'a> {
    rig: &'a Rig,
    options: &'a Options,
    streams: &'a Streams,
    cause: Cause,
    found: &'a Found,
    ledger: &'a Ledger,
    interrupt: &'a Interrupt,
}

/// Taken for moments only, except while a client is started again.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Work<'_> {
    fn run(
        &self,
        places: &mut [Place],
        dir: &mut RunDir,
        keep: &mut (dyn FnMut(Trial) -> Result<()> + Send),
    ) -> Result<()> {
        places.iter_mut().try_for_each(|place| place.begin(self.cause))?;
        let client = |place: &Place| Client {
            namespace: place.site.client().clone(),
            inner: inner_address(usize::from(place.site.number())),
            hops: place.hops(self.cause),
        };
        let ground = Ground {
            rig: self.rig,
            clients: places.iter().map(client).collect(),
            out_dir: self.options.out_dir.clone(),
            interrupt: self.interrupt,
            patience: self.options.patience,
            is_recovery: true,
            ledger: self.ledger,
        };
        let tunnel = Mutex::new(tunnel::start(self.found, &ground)?);
        let result = self.strike_all(places, &ground, &tunnel, keep);
        let tunnel = tunnel.into_inner().unwrap_or_else(PoisonError::into_inner);
        let words = tunnel.last_words();
        if self.found.contender == Kind::Ours {
            // The log that is kept and judged is written in the room that was kept.
            dir.release();
        }
        let stopped = tunnel.stop();
        with_last_words(result, &words)?;
        stopped
    }

    /// All clients at once, each with its own incidents, until there are enough.
    fn strike_all(
        &self,
        places: &mut [Place],
        ground: &Ground<'_>,
        tunnel: &Mutex<Box<dyn Tunnel>>,
        keep: &mut (dyn FnMut(Trial) -> Result<()> + Send),
    ) -> Result<()> {
        let stage = Stage {
            streams: self.streams,
            ground,
            tunnel,
            contender: self.found.contender,
            cause: self.cause,
            rtt: self.options.rtt,
            cap: self.options.cap,
            script_after: self.options.script_after,
        };
        if self.cause.is_common() {
            for incident in 1..=incidents(self.options, self.cause) {
                let settle = settle(self.options.seed, self.cause, incident, 0);
                stage.common_trial(places, incident, settle)?.into_iter().try_for_each(&mut *keep)?;
            }
            return Ok(());
        }
        let (keep, next) = (Mutex::new(keep), Mutex::new(0_u32));
        let one = |place: &mut Place| -> Result<()> {
            loop {
                let incident = {
                    let mut next = lock(&next);
                    if *next >= self.options.trials {
                        return Ok(());
                    }
                    *next += 1;
                    *next
                };
                let settle = settle(self.options.seed, self.cause, incident, place.site.number());
                let trial = stage.trial(place, incident, settle);
                let kept = trial.and_then(|trial| (lock(&keep))(trial));
                if kept.is_err() {
                    // The others end with what they are at.
                    *lock(&next) = self.options.trials;
                }
                kept?;
            }
        };
        together(places, &one).map(drop)
    }
}

/// All clients at once, each in a thread of its own.
fn together<T: Send>(
    places: &mut [Place],
    one: &(impl Fn(&mut Place) -> Result<T> + Sync),
) -> Result<Vec<T>> {
    let results: Vec<Result<T>> = thread::scope(|scope| {
        let threads: Vec<_> = places
            .iter_mut()
            .enumerate()
            .map(|(number, place)| {
                scope.spawn(move || {
                    // Clients do not begin in step.
                    thread::sleep(Duration::from_millis(37) * u32::try_from(number).unwrap_or(0));
                    one(place)
                })
            })
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<T>>| {
            thread.join().unwrap_or_else(|_| Err(anyhow!("a client's thread panicked")))
        };
        threads.into_iter().map(join).collect()
    });
    joined(results)
}

/// All that was done, or why not all of it: of several errors a full disk explains the others.
fn joined<T>(mut results: Vec<Result<T>>) -> Result<Vec<T>> {
    let is_full = |result: &Result<T>| result.as_ref().is_err_and(is_disk_full);
    if let Some(at) = results.iter().position(is_full) {
        results.swap(0, at);
    }
    results.into_iter().collect()
}

fn settle(seed: u64, cause: Cause, incident: u32, client: u8) -> Duration {
    let mix = seed ^ (cause as u64) << 40 ^ u64::from(client) << 32 ^ u64::from(incident);
    let (least, spread) = SETTLE_MS;
    let more = ChaCha8Rng::seed_from_u64(mix).next_u64() % (spread * 1_000);
    Duration::from_millis(least) + Duration::from_micros(more)
}

/// Sleeps in slices that see an interruption.
fn sleep(time: Duration, interrupt: &Interrupt) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        interrupt.check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(50)));
    }
}

/// The uplinks of a client for a cause.
fn uplinks(cause: Cause) -> &'static [Uplink] {
    if cause.has_one_uplink() { &[Uplink::A] } else { &Uplink::ALL }
}

#[cfg(test)]
mod tests {
    use super::result::tests::report;
    use super::*;

    /// R8.4: of several clients that failed, the full disk is what ended the run.
    #[test]
    fn r8_4_a_full_disk_explains_what_else_went_wrong() {
        let full = || fs::write("/dev/full", "x").context("cannot write trials.jsonl").map(|()| 3);
        let error = joined(vec![Ok(1), Err(anyhow!("it has ended")), full()]).unwrap_err();
        assert!(is_disk_full(&error), "{error:#}");
        assert!(own_failure(Err(error)).is_err());
        let error = joined(vec![Ok(1), Err(anyhow!("first")), Err(anyhow!("second"))]).unwrap_err();
        assert_eq!(error.to_string(), "first");
        assert_eq!(joined(vec![Ok(1), Ok(2)]).unwrap(), [1, 2]);
    }

    /// R8.1, R8.4: what lies beside a recovery run is replaced by as much as it has and by more, not by less.
    #[test]
    fn r8_4_a_part_does_not_take_the_place_of_a_whole_result() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let ours = [300.0, 310.0, 320.0];
        let whole = report(&ours, &[400.0, 400.0, 2_000.0]);
        let failed = json!(report(&ours, &[400.0]));
        let mut part = failed.clone();
        part["broken_off"] = json!("interrupted");
        let all = [part, failed, json!(whole)];
        let may = || all.each_ref().map(|one| may_replace(one, dir));
        assert_eq!(may(), [true; 3], "nothing lies there");
        let mut run = RunDir::begin(&dir.join("peers")).unwrap();
        whole.write(&mut run, Some(dir)).unwrap();
        assert_eq!(may(), [false, false, true]);
        let lie = |text: String| fs::write(dir.join(BESIDE), text).unwrap();
        lie(all[1].to_string());
        assert_eq!(may(), [false, true, true]);
        lie(all[0].to_string());
        assert_eq!(may(), [true; 3]);
        lie("{\"scenario\":".to_owned());
        assert_eq!(may(), [true; 3], "it is damaged");
    }
}
