//! A life of the gateway: its network, its clients, all trials at one round-trip time, and its audit log.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use jvpn_rig::emulator::{Path as EmulatedPath, Profile};
use jvpn_rig::site::{Paths, Site};
use jvpn_rig::{Interrupt, Rig, Uplink};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use super::cause::Cause;
use super::paths::PathSeen;
use super::record::Journal;
use super::recorded::Recorded;
use super::tenant::{Tenant, Uplinks, inner_address};
use super::trial::{Finished, Stage, ready};
use super::usage::Usage;
use super::watch::Observer;
use super::{Options, Progress, is_nobodys_fault};
use crate::check_events::rules::PolicyNumbers;
use crate::check_events::{Expectations, check_files};
use crate::deployment::{self, Deployment, Places, Role, Settings};
use crate::peers::streams::Streams;
use crate::reserve::is_disk_full;
use crate::result::Environment;
use crate::swarm::gateway::{self, Peer};

/// Mappings of the NATs in front of the clients: none expires within a trial.
const NAT_TTL: Duration = Duration::from_secs(120);
/// Between death and new start of a gateway's process: what systemd waits where nothing else is said (RestartSec).
pub(super) const SUPERVISOR: Duration = Duration::from_millis(100);
/// How a process ends that is killed.
const SIGKILL: i32 = nix::sys::signal::Signal::SIGKILL as i32;
/// How often a client that waits for its turn looks whether there is one.
const LOOK: Duration = Duration::from_millis(200);
/// A trial strikes after so long at least, and up to so much later: timers of the client are in any phase.
const SETTLE: (u64, u64) = (150, 250);

/// What a life of the gateway leaves beside its trials.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LifeReport {
    /// Its audit log is `audit-<segment>.jsonl`.
    pub segment: u32,
    /// Emulated round-trip time, ms.
    pub rtt_ms: u64,
    /// Events of the gateway's audit that were judged.
    pub audit_events: u64,
    /// What `check-events` found.
    pub audit_violations: Vec<String>,
    /// DATA that the observer saw leaving the gateway.
    pub data_seen: u64,
    /// DATA of a binding that was over among it.
    pub stale_sent: u64,
    /// Why the observer has not seen everything, if so.
    pub observer_missed: Option<String>,
    /// Frames that left the emulator more than a millisecond late.
    pub emulator_late: u64,
    /// Frames that went through the emulated paths.
    pub emulator_frames: u64,
    /// The latest of them, µs.
    pub emulator_late_max_us: u64,
    /// Frames that it could not handle.
    pub emulator_dropped: u64,
    /// How XDP was attached, and how AF_XDP got at the frames.
    pub modes: String,
    /// What the emulated paths did.
    #[serde(default)]
    pub paths: Vec<PathSeen>,
}

/// What is there when a life of the gateway is over.
pub(super) struct Ended {
    /// An error: its audit log could not be kept or judged.
    pub(super) report: Result<LifeReport>,
    /// What did not end in order.
    pub(super) problems: Vec<String>,
}

/// Network, gateway, clients.
pub(super) struct Life<'a> {
    options: &'a Options,
    rtt_ms: u64,
    rig: &'a Rig,
    places: Places,
    deployment: Mutex<Deployment>,
    tenants: Vec<Tenant>,
    streams: Streams,
    observer: Observer,
    interrupt: &'a Interrupt,
    usage: &'a Usage,
}

/// What is still to be done of one cause.
struct Work<'w, 'j> {
    cause: Cause,
    /// Incidents to come.
    left: AtomicU32,
    next: AtomicU32,
    stop: AtomicBool,
    journal: &'w Mutex<&'j mut Journal>,
    slowest: &'w Mutex<BTreeMap<(Cause, u64), Recorded>>,
    progress: &'w Progress,
    usage: &'w Usage,
}

impl<'a> Life<'a> {
    /// Builds the network and starts the gateway; no client runs yet.
    pub(super) fn start(
        options: &'a Options,
        rtt_ms: u64,
        rig: &'a Rig,
        interrupt: &'a Interrupt,
        usage: &'a Usage,
    ) -> Result<Self> {
        let settings = Settings {
            bin_dir: deployment::find_programs()?,
            out_dir: options.out_dir.clone(),
            max_switches_per_min: None,
        };
        let places = deployment::prepare(rig, &settings)?;
        let profile = path_profile(options, rtt_ms);
        let paths = Paths::create(rig)?;
        let (mut peers, mut tenants) = (Vec::new(), Vec::new());
        let gateway_key = gateway::public_key(&places)?.to_string();
        for number in 0..options.clients {
            let seed = options.seed.wrapping_mul(1_000) + u64::from(number) * 2;
            let pair = [EmulatedPath::new(&profile, seed), EmulatedPath::a_third_ahead(&profile, seed + 1)];
            let site = Site::create(rig, &paths, number, pair)?;
            let dir = rig.dir().join(format!("client{number}"));
            fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            let program = settings.bin_dir.join(Role::Client.program());
            let key = deployment::generate_key(&program, &dir.join("client.key"))?;
            let name = format!("client-{number}");
            peers.push(Peer { name, key: key.parse()?, number: usize::from(number) });
            tenants.push(Tenant::new(site, &dir, &options.out_dir, &program, &gateway_key)?);
        }
        gateway::configure(&places, &options.policy, &peers)?;
        let observer = Observer::start(rig)?;
        let mut deployment = Deployment::new(&settings, &places);
        for role in [Role::DataPlane, Role::ControlPlane] {
            deployment.launch(rig, role, interrupt)?;
        }
        let clients: Vec<_> = tenants
            .iter()
            .map(|tenant| (tenant.site.client().clone(), inner_address(tenant.number())))
            .collect();
        let streams = Streams::start(rig, &clients)?;
        let deployment = Mutex::new(deployment);
        Ok(Self { options, rtt_ms, rig, places, deployment, tenants, streams, observer, interrupt, usage })
    }

    /// What it runs on.
    pub(super) fn environment(&self, machine: &Environment) -> Environment {
        let deployment = self.deployment.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        machine.clone().with_gateway(self.rig, &deployment, &self.places)
    }

    /// Does the incidents that are left of one cause.
    pub(super) fn run(
        &mut self,
        cause: Cause,
        journal: &Mutex<&mut Journal>,
        slowest: &Mutex<BTreeMap<(Cause, u64), Recorded>>,
        progress: &Progress,
    ) -> Result<()> {
        let (left, next) = {
            let journal = journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let done = journal.entries.trials.iter().filter(|t| t.cause == cause && t.rtt_ms == self.rtt_ms);
            let last = done.clone().map(|trial| trial.incident).max().unwrap_or(0);
            let mut incidents: Vec<_> = done.map(|trial| trial.incident).collect();
            incidents.dedup();
            let done = u32::try_from(incidents.len()).unwrap_or(u32::MAX);
            (self.options.trials.saturating_sub(done), last + 1)
        };
        if left == 0 {
            return Ok(());
        }
        let (left, next) = (AtomicU32::new(left), AtomicU32::new(next));
        let stop = AtomicBool::new(false);
        let work = Work { cause, left, next, stop, journal, slowest, progress, usage: self.usage };
        if cause.is_common() { self.strike_all(&work) } else { self.strike_each(&work) }?;
        self.look(journal)
    }

    /// Nothing strikes now, so everybody runs and is as its last trial left it.
    fn look(&mut self, journal: &Mutex<&mut Journal>) -> Result<()> {
        for tenant in &mut self.tenants {
            tenant.look(&self.streams);
            note(journal, tenant)?;
        }
        self.deployment.lock().unwrap_or_else(std::sync::PoisonError::into_inner).check()
    }

    fn stage(&self) -> Stage<'_> {
        Stage { streams: &self.streams, rtt: Duration::from_millis(self.rtt_ms), interrupt: self.interrupt }
    }

    fn strike_each(&mut self, work: &Work<'_, '_>) -> Result<()> {
        let mut tenants = std::mem::take(&mut self.tenants);
        self.watch(&tenants);
        let (stage, rig, options) = (self.stage(), self.rig, self.options);
        let results: Vec<Result<()>> = thread::scope(|scope| {
            let threads: Vec<_> = tenants
                .iter_mut()
                .map(|tenant| {
                    let stage = &stage;
                    scope.spawn(move || {
                        let result = strike_one(stage, rig, tenant, options, work);
                        if result.is_err() {
                            work.stop.store(true, Ordering::Relaxed);
                        }
                        result
                    })
                })
                .collect();
            let join = |thread: thread::ScopedJoinHandle<'_, Result<()>>| {
                thread.join().unwrap_or_else(|_| Err(anyhow!("a client's thread panicked")))
            };
            threads.into_iter().map(join).collect()
        });
        self.tenants = tenants;
        self.watch(&self.tenants);
        // Of several errors the one that says most.
        let mut errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
        errors.sort_by_key(is_nobodys_fault);
        errors.into_iter().next().map_or(Ok(()), Err)
    }

    fn watch(&self, tenants: &[Tenant]) {
        let deployment = self.deployment.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let gateway = [Role::ControlPlane, Role::DataPlane]
            .into_iter()
            .filter_map(|role| Some((role.program().to_owned(), deployment.pid(role)?)));
        // One client stands for all: the others are alike.
        let client =
            tenants.first().and_then(Tenant::pid).map(|pid| (Role::Client.program().to_owned(), pid));
        let bench = ("jvpn-bench".to_owned(), std::process::id());
        self.usage.set(gateway.chain(client).chain([bench]).collect());
    }

    /// All clients at once: a process of the gateway is killed and, as by a supervisor, started again.
    fn strike_all(&mut self, work: &Work<'_, '_>) -> Result<()> {
        let role = if work.cause == Cause::DataPlaneKill { Role::DataPlane } else { Role::ControlPlane };
        while work.left.load(Ordering::Relaxed) > 0 {
            self.interrupt.check()?;
            work.left.fetch_sub(1, Ordering::Relaxed);
            let incident = work.next.fetch_add(1, Ordering::Relaxed);
            let mut tenants = std::mem::take(&mut self.tenants);
            let stage = self.stage();
            let wait = settle(self.options.seed, work.cause, incident, 0);
            let result = (|| -> Result<Vec<Finished>> {
                for tenant in &mut tenants {
                    ready(&stage, self.rig, tenant, work.cause, self.options.budget())?;
                    note(work.journal, tenant)?;
                }
                self.watch(&tenants);
                let mut running = Vec::new();
                for tenant in &mut tenants {
                    // They wait together: only the first one for long.
                    let wait = if running.is_empty() { wait } else { Duration::ZERO };
                    running.push(stage.strike(tenant, (work.cause, incident), wait)?);
                }
                let mut deployment =
                    self.deployment.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                // One that has died by itself is not taken for the one that is killed here.
                deployment.check()?;
                deployment.kill(role)?;
                thread::sleep(SUPERVISOR);
                supervise(&mut deployment, self.rig, self.interrupt)?;
                drop(deployment);
                let pairs = tenants.iter_mut().zip(&running);
                pairs.map(|(tenant, running)| stage.finish(tenant, running)).collect()
            })();
            self.tenants = tenants;
            self.watch(&self.tenants);
            for finished in result? {
                keep(work, finished)?;
            }
            work.progress.done(1);
        }
        Ok(())
    }

    /// Ends it, keeps its audit log as `audit-<segment>.jsonl`, and judges that. Whoever ends badly does not keep the others
    /// from being judged: that is when it is needed.
    pub(super) fn end(mut self, segment: u32, progress: &Progress) -> Ended {
        self.watch(&self.tenants);
        let data_plane = {
            let deployment = self.deployment.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            deployment.data_plane_status()
        };
        let modes =
            data_plane.map_or_else(|_| String::new(), |s| format!("{} / {}", s.xdp_mode(), s.af_xdp_mode()));
        let mut problems = Vec::new();
        for tenant in &mut self.tenants {
            tenant.look(&self.streams);
            tenant.stop();
            problems.append(&mut tenant.complaints);
        }
        drop(self.streams);
        let observer_missed = self.observer.complete().err().map(|error| format!("{error:#}"));
        let (data_seen, stale_sent) = self.observer.totals();
        let mut report = LifeReport {
            segment,
            rtt_ms: self.rtt_ms,
            data_seen,
            stale_sent,
            observer_missed,
            modes,
            ..LifeReport::default()
        };
        let paths = self.tenants.iter().flat_map(|tenant| Uplink::ALL.map(|uplink| (tenant, uplink)));
        for (tenant, uplink) in paths {
            let path = tenant.path(uplink);
            report.paths.push(PathSeen::new(tenant.number(), uplink, path.counters()));
            let lateness = path.lateness();
            report.emulator_frames += lateness.frames;
            report.emulator_late += lateness.over_1_ms;
            report.emulator_late_max_us = report.emulator_late_max_us.max(lateness.max_us);
            report.emulator_dropped += lateness.dropped;
        }
        let mut deployment = self.deployment.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let running = Role::ALL.into_iter().filter(|role| deployment.pid(*role).is_some());
        for role in running.collect::<Vec<_>>() {
            problems.extend(deployment.end(role).err().map(|error| format!("{error:#}")));
        }
        let out = &self.options.out_dir;
        let audit = Log { from: self.places.audit_file(), to: out.join(format!("audit-{segment}.jsonl")) };
        let timelines = self.tenants.iter().map(|tenant| Log::of_client(tenant, segment, self.rig, out));
        let logs = keep_logs(&audit, &timelines.collect::<Vec<_>>());
        if let Ok(Some(lost)) = &logs {
            progress.say(&format!("the clients' timelines are not kept, the disk is full: {lost:#}"));
        }
        let judged = logs.and_then(|_| judge(&audit.to, &self.options.policy_numbers));
        // The error may be hidden by another one that came before it.
        let lost = judged.as_ref().err().filter(|error| !is_nobodys_fault(error));
        problems.extend(lost.map(|error| format!("{error:#}")));
        let at = format!("life {segment} of the gateway, at {} ms", self.rtt_ms);
        let report = judged.map(|judged| {
            (report.audit_events, report.audit_violations) = judged;
            report
        });
        Ended { report, problems: problems.iter().map(|problem| format!("{at}: {problem}")).collect() }
    }
}

/// Enters in the journal what was wrong with a client outside of trials.
fn note(journal: &Mutex<&mut Journal>, tenant: &mut Tenant) -> Result<()> {
    let mut journal = journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    tenant.complaints.drain(..).try_for_each(|text| journal.note(&text))
}

/// Starts what does not run. On a busy machine the control plane may end too: when the data plane's connection is closed
/// and its process still seems to be there, it ends by itself and leaves the new start to its supervisor.
pub(in crate::scenarios) fn supervise(
    deployment: &mut Deployment,
    rig: &Rig,
    interrupt: &Interrupt,
) -> Result<()> {
    let start = |deployment: &mut Deployment| {
        [Role::DataPlane, Role::ControlPlane].into_iter().try_for_each(|role| match deployment.pid(role) {
            Some(_) => Ok(()),
            None => deployment.launch(rig, role, interrupt),
        })
    };
    let Err(first) = start(deployment) else { return Ok(()) };
    interrupt.check()?;
    for role in [Role::ControlPlane, Role::DataPlane] {
        if deployment.pid(role).is_some() {
            let status = deployment.kill(role)?;
            // One that ends by itself says why, and by an exit code. One that crashed is not replaced without a word.
            let in_order = status.code() == Some(1) || status.signal() == Some(SIGKILL);
            ensure!(in_order, "{} crashed ({status}); at first: {first:#}", role.program());
        }
    }
    start(deployment).with_context(|| format!("even when both were started again; at first: {first:#}"))
}

/// Judges an audit log: events, violations.
pub(super) fn judge(audit: &Path, policy: &PolicyNumbers) -> Result<(u64, Vec<String>)> {
    let expectations = Expectations { policy: policy.clone(), ..Expectations::default() };
    let findings = check_files(&[audit.to_owned()], &expectations)?;
    Ok((findings.events, findings.violations.iter().map(ToString::to_string).collect()))
}

/// The paths of a run: the profile, with the round-trip time that was asked for unless its own is to be kept, behind NATs.
fn path_profile(options: &Options, rtt_ms: u64) -> Profile {
    options.delays.apply(options.profile.clone().with_nat(NAT_TTL), rtt_ms)
}

/// A log, and where it is kept.
struct Log {
    from: PathBuf,
    to: PathBuf,
}

impl Log {
    /// A client's timeline.
    fn of_client(tenant: &Tenant, segment: u32, rig: &Rig, out: &Path) -> Self {
        let number = tenant.number();
        let from = rig.dir().join(format!("client{number}")).join("events.jsonl");
        Self { from, to: out.join(format!("client-{number}-{segment}.jsonl")) }
    }

    /// Keeps it; of one that the disk has no room for nothing stays.
    fn keep(&self) -> Result<()> {
        let Self { from, to } = self;
        let copied = fs::copy(from, to).map(drop);
        let copied = copied.with_context(|| format!("cannot keep {} as {}", from.display(), to.display()));
        copied.inspect_err(|error| {
            if is_disk_full(error) {
                self.forget();
            }
        })
    }

    /// Gives its room to what is still to be written.
    fn forget(&self) {
        // There may be none.
        let _gone = fs::remove_file(&self.to);
    }
}

/// Keeps the logs of a life: that of the gateway, by which the life is judged, and the timelines of its clients. Where
/// the disk has no room for all of these there are none, and nothing is lost that anybody judges: their room is the
/// result's. Gives why.
fn keep_logs(audit: &Log, timelines: &[Log]) -> Result<Option<anyhow::Error>> {
    audit.keep()?;
    // A client that was never started has none.
    match timelines.iter().filter(|log| log.from.exists()).try_for_each(Log::keep) {
        Err(error) if is_disk_full(&error) => {
            timelines.iter().for_each(Log::forget);
            Ok(Some(error))
        }
        kept => kept.map(|()| None),
    }
}

fn strike_one(
    stage: &Stage<'_>,
    rig: &Rig,
    tenant: &mut Tenant,
    options: &Options,
    work: &Work<'_, '_>,
) -> Result<()> {
    // Clients do not begin in step.
    thread::sleep(Duration::from_millis(37) * u32::from(tenant.number()));
    loop {
        stage.interrupt.check()?;
        if work.cause.is_paced() {
            // Not more often than policy lets the gateway send early: a client that fails a hundred times a minute is
            // another question. Those who need not wait take what is left meanwhile.
            let pause = tenant.pace.pause(Instant::now(), options.budget());
            let done = || work.stop.load(Ordering::Relaxed) || work.left.load(Ordering::Relaxed) == 0;
            let end = Instant::now() + pause;
            while Instant::now() < end && !done() {
                stage.sleep(end.saturating_duration_since(Instant::now()).min(LOOK))?;
            }
        }
        let take = |left: u32| left.checked_sub(1);
        if work.stop.load(Ordering::Relaxed)
            || work.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err()
        {
            return Ok(());
        }
        let incident = work.next.fetch_add(1, Ordering::Relaxed);
        ready(stage, rig, tenant, work.cause, options.budget())?;
        note(work.journal, tenant)?;
        // It stands for all, and may have been started just now.
        if let Some(pid) = tenant.pid().filter(|_| tenant.number() == 0) {
            work.usage.add(Role::Client.program(), pid);
        }
        let wait = settle(options.seed, work.cause, incident, tenant.number());
        let running = stage.strike(tenant, (work.cause, incident), wait)?;
        let finished = stage.finish(tenant, &running)?;
        let recovered = finished.trial.recovered;
        keep(work, finished)?;
        work.progress.done(1);
        if !recovered {
            let uplinks = if work.cause.has_one_uplink() { Uplinks::OnlyA } else { Uplinks::Two };
            tenant.begin(rig, uplinks, stage.streams, stage.interrupt)?;
        }
    }
}

fn settle(seed: u64, cause: Cause, incident: u32, client: u8) -> Duration {
    let mix = seed ^ (cause as u64) << 40 ^ u64::from(client) << 32 ^ u64::from(incident);
    let (least, spread) = SETTLE;
    let more = ChaCha8Rng::seed_from_u64(mix).next_u64() % (spread * 1_000);
    Duration::from_millis(least) + Duration::from_micros(more)
}

fn keep(work: &Work<'_, '_>, finished: Finished) -> Result<()> {
    let Finished { trial, record, at_ns } = finished;
    {
        let mut slowest = work.slowest.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let slower = slowest
            .get(&(trial.cause, trial.rtt_ms))
            .is_none_or(|known: &Recorded| known.outage_ms < trial.outage_ms);
        if slower {
            slowest.insert((trial.cause, trial.rtt_ms), Recorded::new(&trial, &record, at_ns));
        }
    }
    let mut journal = work.journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    journal.add(trial)
}

/// How long a run may take: for the ETA before anything is known, and for the documents.
pub(super) fn estimate(cause: Cause, rtt_ms: u64, incidents: u32, (clients, budget): (u8, u32)) -> Duration {
    let each = match cause {
        Cause::LossSpike => 6.0,
        Cause::Flapping => 8.0,
        Cause::ControlPlaneKill | Cause::DataPlaneKill => 4.0,
        Cause::SilentBlackhole
        | Cause::LinkDown
        | Cause::NatRebinding
        | Cause::AddressChange
        | Cause::OneDirectionDead => 3.0,
    };
    let together = if cause.is_common() { 1.0 } else { f64::from(clients) };
    let all = (each + rtt_ms as f64 / 100.0) * f64::from(incidents) / together;
    let paced = if cause.is_paced() {
        let per_minute = f64::from(budget.max(1)) * together;
        f64::from(incidents) / per_minute * 60.0
    } else {
        0.0
    };
    Duration::from_secs_f64(all.max(paced))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// R8.4: a life is judged by the gateway's log; timelines of clients that find no room are left out, all of them,
    /// and give theirs to the result. Of a log of the gateway that finds none nothing stays, and whoever ends the run
    /// is told why.
    #[test]
    fn r8_4_a_life_without_room_for_timelines_is_judged() {
        let dir = tempfile::tempdir().unwrap();
        let log = |name: &str| {
            let log = Log { from: dir.path().join(name), to: dir.path().join(format!("{name}-1")) };
            fs::write(&log.from, "a line\n").unwrap();
            log
        };
        let (audit, one, two) = (log("audit"), log("one"), log("two"));
        let gone = Log { from: dir.path().join("never"), to: dir.path().join("never-1") };
        let all = [one, two, gone];
        assert!(keep_logs(&audit, &all).unwrap().is_none());
        let kept = || [&audit, &all[0], &all[1]].map(|log| log.to.is_symlink() || log.to.exists());
        assert_eq!(kept(), [true; 3]);
        // What is written there finds no room.
        let fill = |log: &Log| {
            fs::remove_file(&log.to).unwrap();
            symlink("/dev/full", &log.to).unwrap();
        };
        fill(&all[1]);
        let lost = keep_logs(&audit, &all).unwrap().unwrap();
        assert!(is_nobodys_fault(&lost) && lost.to_string().contains("two-1"), "{lost:#}");
        assert_eq!(kept(), [true, false, false]);
        fill(&audit);
        let error = keep_logs(&audit, &all).unwrap_err();
        assert!(is_nobodys_fault(&error) && error.to_string().contains("audit-1"), "{error:#}");
        assert_eq!(kept(), [false; 3]);
        fs::remove_file(&audit.from).unwrap();
        let error = keep_logs(&audit, &all).unwrap_err();
        assert!(!is_nobodys_fault(&error), "a gateway that left none: {error:#}");
    }
}
