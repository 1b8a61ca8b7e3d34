//! A gateway of real processes and a swarm on a rig, with everything that is counted about them: what the scenarios of
//! many sessions have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use jvpn_abi::{DropReason, Endpoint};
use jvpn_crypto::keys::StaticSecret;
use jvpn_host::status;
use jvpn_rig::topology::GATEWAY_WAN;
use jvpn_rig::{Interrupt, Rig, TUNNEL_PORT, Uplink};
use serde_json::Value;

use super::progress::Progress;
use super::sampler::Pids;
use crate::account;
use crate::check_events::findings::Findings;
use crate::deployment::{self, Deployment, Places, Role, Settings};
use crate::reserve::{give_back, is_disk_full};
use crate::result::Environment;
use crate::simulation::dice::Dice;
use crate::swarm::echo::Echo;
use crate::swarm::gateway::Peer;
use crate::swarm::{Census, MemberSpec, Swarm, SwarmSpec, gateway, network};

/// How often the members are counted while something is waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Markers under way come back within this time, or are lost.
const UNDER_WAY: Duration = Duration::from_millis(500);
/// The edge lets through what comes: the storm is to meet the control plane.
const EDGE_LIMITS: &str = "\n[limits]\nknown_handles_per_second = 1_000_000\n\
                           unknown_handles_per_second = 100_000\nsession_per_second = 1_000_000\n\
                           sample_per_second = 100_000\n";

/// What is to be set up.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Peers of the gateway and members of the swarm.
    pub(super) members: usize,
    /// The lines of the `[policy]` table.
    pub(super) policy: String,
    /// A marker per member and this time.
    pub(super) marker_interval: Duration,
    /// The members' keys follow from it.
    pub(super) seed: u64,
    /// Where logs and configuration go. Absolute.
    pub(super) out_dir: PathBuf,
}

/// The control plane at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Summary {
    /// Sessions that are not TERMINATED.
    pub(super) live_sessions: u64,
    /// Slots in use.
    pub(super) slots_in_use: u64,
    /// Audit lines lost.
    pub(super) audit_dropped: u64,
    /// Counters by name.
    pub(super) counters: BTreeMap<String, u64>,
}

impl Summary {
    /// By how much counters have risen since `before`; only those that did.
    pub(super) fn risen(&self, before: &Self) -> BTreeMap<String, u64> {
        risen(&before.counters, &self.counters)
    }
}

/// By how much counters have risen; only those that did.
pub(super) fn risen(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let risen = after.iter().map(|(name, now)| {
        let then = before.get(name).copied().unwrap_or_default();
        (name.clone(), now.saturating_sub(then))
    });
    risen.filter(|(_, count)| *count > 0).collect()
}

/// Adds the numbers of a status document by their names, those of deeper levels with the names above them.
fn add_numbers(prefix: &str, value: &Value, into: &mut BTreeMap<String, u64>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                add_numbers(&format!("{prefix}.{name}"), value, into);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| add_numbers(prefix, item, into)),
        Value::Number(number) => {
            *into.entry(prefix.to_owned()).or_default() += number.as_u64().unwrap_or_default();
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// The running gateway and swarm. What runs ends with this value.
pub(super) struct Stage<'a> {
    // In this order they are dropped.
    pub(super) swarm: Swarm,
    _echo: Echo,
    pub(super) deployment: Deployment,
    pub(super) places: Places,
    pub(super) rig: Rig,
    pub(super) pids: Pids,
    plan: Plan,
    interrupt: &'a Interrupt,
}

impl<'a> Stage<'a> {
    /// Network, gateway and swarm; nobody has come yet.
    pub(super) fn set_up(plan: Plan, interrupt: &'a Interrupt, progress: &Progress) -> Result<Self> {
        let Plan { members, marker_interval, seed, .. } = plan;
        ensure!(members <= network::MEMBERS_MAX, "at most {} sessions", network::MEMBERS_MAX);
        progress.say(&format!("setting up: a gateway with {members} peers, and their agents"));
        let settings = Settings {
            bin_dir: deployment::find_programs()?,
            out_dir: plan.out_dir.clone(),
            max_switches_per_min: None,
        };
        account::begin(&plan.out_dir)?;
        let rig = Rig::create()?;
        progress.say(&format!("network namespaces jvpn-{}-*", rig.id()));
        network::set_up(&rig)?;
        let places = deployment::prepare(&rig, &settings)?;
        let mut dice = Dice::new(seed, 0);
        let secrets: Result<Vec<_>, _> = (0..members).map(|_| StaticSecret::generate(&mut dice)).collect();
        let secrets = secrets?;
        let peer = |(number, secret): (usize, &StaticSecret)| Peer {
            name: format!("peer-{number}"),
            key: secret.public(),
            number,
        };
        let peers: Vec<_> = secrets.iter().enumerate().map(peer).collect();
        gateway::configure(&places, &plan.policy, &peers)?;
        gateway::size_data_plane(&places, members, EDGE_LIMITS)?;
        let mut deployment = Deployment::new(&settings, &places);
        for role in [Role::DataPlane, Role::ControlPlane] {
            deployment.launch(&rig, role, interrupt)?;
        }
        let endpoint = Endpoint::v4(GATEWAY_WAN.octets(), TUNNEL_PORT);
        let spec = SwarmSpec { gateway: gateway::public_key(&places)?, endpoint, marker_interval };
        let echo = Echo::start(&rig)?;
        let member = |(number, secret)| MemberSpec {
            secret,
            number,
            prefers: if number % 2 == 0 { Uplink::A } else { Uplink::B },
        };
        let swarm = Swarm::start(rig.client(), &spec, secrets.into_iter().enumerate().map(member).collect())?;
        let stage =
            Self { swarm, _echo: echo, deployment, places, rig, pids: Pids::default(), plan, interrupt };
        stage.note_pids()?;
        Ok(stage)
    }

    fn note_pids(&self) -> Result<()> {
        let (control_plane, data_plane) = self.gateway_pids()?;
        self.pids.set([control_plane, data_plane, std::process::id()]);
        Ok(())
    }

    /// The processes of the gateway: control plane, data plane.
    pub(super) fn gateway_pids(&self) -> Result<(u32, u32)> {
        let pid =
            |role: Role| self.deployment.pid(role).with_context(|| format!("{} is gone", role.program()));
        Ok((pid(Role::ControlPlane)?, pid(Role::DataPlane)?))
    }

    /// What it ran on.
    pub(super) fn environment(&self) -> Environment {
        Environment::collect().with_gateway(&self.rig, &self.deployment, &self.places)
    }

    /// The control plane now.
    pub(super) fn summary(&self) -> Result<Summary> {
        let status = status::query(&self.places.control_plane_socket(), "summary")?;
        let number =
            |name: &str| status.get(name).and_then(Value::as_u64).with_context(|| format!("no {name}"));
        let counters = status.get("counters").and_then(Value::as_object).cloned().unwrap_or_default();
        Ok(Summary {
            live_sessions: number("live_sessions")?,
            slots_in_use: number("slots_in_use")?,
            audit_dropped: number("audit_dropped")?,
            counters: counters
                .into_iter()
                .filter_map(|(name, count)| Some((name, count.as_u64()?)))
                .collect(),
        })
    }

    /// The same when no more than `total` sessions live, or patience is over: a peer's old session ends with the first frame
    /// of the next, a moment after the client knows.
    pub(super) fn settled_summary(&mut self, total: usize, patience: Duration) -> Result<Summary> {
        let waiting = Instant::now();
        loop {
            let summary = self.summary()?;
            if summary.live_sessions <= total as u64 || waiting.elapsed() >= patience {
                return Ok(summary);
            }
            self.look()?;
        }
    }

    /// Counters of XDP and, added up, of the workers and their sockets.
    pub(super) fn data_plane_counters(&self) -> Result<BTreeMap<String, u64>> {
        let status = status::query(&self.places.data_plane_socket(), "status")?;
        let mut counters = BTreeMap::new();
        for (name, prefix) in [("xdp_counters", "xdp"), ("workers", "workers")] {
            add_numbers(prefix, status.get(name).unwrap_or(&Value::Null), &mut counters);
        }
        Ok(counters)
    }

    /// Packets that went from clients to the LAN, and from the LAN to clients.
    pub(super) fn forwarded(&self) -> Result<(u64, u64)> {
        let counters = self.data_plane_counters()?;
        let of = |reason: DropReason| {
            let name = format!("workers.counters.{}", reason.name());
            counters.get(&name).copied().unwrap_or_default()
        };
        Ok((of(DropReason::ForwardedIn), of(DropReason::ForwardedOut)))
    }

    /// Asks an operator's request of the control plane.
    pub(super) fn operator(&self, request: &str) -> Result<()> {
        let answer = status::query(&self.places.control_plane_socket(), request)?;
        match answer.get("error") {
            None => Ok(()),
            Some(error) => bail!("{request}: {error}"),
        }
    }

    /// A moment passes; the processes are looked after.
    pub(super) fn look(&mut self) -> Result<()> {
        self.interrupt.check()?;
        self.deployment.check()?;
        thread::sleep(LOOK_INTERVAL);
        Ok(())
    }

    /// A while passes.
    pub(super) fn pass(&mut self, time: Duration) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            self.look()?;
        }
        Ok(())
    }

    /// A while passes, and whoever waits is told of it.
    pub(super) fn pass_told(&mut self, what: &str, time: Duration, progress: &mut Progress) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            progress.span(what, start.elapsed(), time);
            self.look()?;
        }
        Ok(())
    }

    /// Counts the members until `enough` of them are as wanted, or patience is over; gives the last census.
    pub(super) fn await_members(
        &mut self,
        what: &str,
        total: usize,
        patience: Duration,
        progress: &mut Progress,
        enough: impl Fn(&Census) -> usize,
    ) -> Result<Census> {
        let start = Instant::now();
        loop {
            let census = self.swarm.census()?;
            let done = enough(&census);
            if done >= total || start.elapsed() > patience {
                return Ok(census);
            }
            progress.step(what, done, total, start);
            self.look()?;
        }
    }

    /// Holds the markers back until none is under way: the census then has what was lost. They wait until
    /// `swarm.quiet(false)`.
    pub(super) fn settle_markers(&mut self) -> Result<Census> {
        self.swarm.quiet(true)?;
        let mut last = self.swarm.census()?;
        loop {
            self.pass(UNDER_WAY)?;
            let now = self.swarm.census()?;
            if now.replied == last.replied {
                return Ok(now);
            }
            last = now;
        }
    }

    /// Kills the control plane as a crash would, and starts it again.
    pub(super) fn restart_control_plane(&mut self) -> Result<()> {
        self.deployment.kill(Role::ControlPlane)?;
        self.deployment.launch(&self.rig, Role::ControlPlane, self.interrupt)?;
        self.note_pids()
    }

    /// SessionIds of the members, how many members have none, and how many have one that another has too.
    pub(super) fn identities(&self) -> Result<(BTreeSet<[u8; 16]>, usize, usize)> {
        let views = self.swarm.view()?;
        let ids: Vec<_> = views.iter().filter_map(|view| Some(view.session?.0)).collect();
        let distinct: BTreeSet<_> = ids.iter().copied().collect();
        let doubled = ids.len() - distinct.len();
        Ok((distinct, views.len() - ids.len(), doubled))
    }

    /// Ends everything in order and has the audit log judged, which is left in the output directory. Of a run that was
    /// broken off it is only left there: what the end is needed for cannot be judged.
    ///
    /// # Errors
    /// What broke it off; something does not end by itself.
    pub(super) fn end<T>(self, measured: Result<T>, progress: &Progress) -> Result<Findings> {
        // The processes' last words and the audit log come before the result, on the same disk.
        give_back(&self.plan.out_dir);
        if let Err(error) = self.explain(measured) {
            let kept = account::keep(&self.places, &self.plan.out_dir);
            if let Err(lost) = whole_or_none(kept, &self.plan.out_dir) {
                progress.say(&format!("the gateway's audit log is not kept: {lost:#}"));
            }
            return Err(error);
        }
        let Self { swarm, mut deployment, places, rig, plan, _echo, .. } = self;
        progress.say("ending; the audit log is judged");
        let ended = deployment.end(Role::ControlPlane);
        // Goodbyes meet nobody: the log ends with every session as it was.
        let swarm = swarm.stop();
        let audit = whole_or_none(account::keep_and_judge(&places, &plan.out_dir), &plan.out_dir);
        deployment.stop().and_then(|()| rig.remove())?;
        swarm?;
        ended?;
        audit
    }

    /// Why something went wrong may stand in the last words of the processes.
    fn explain<T>(&self, result: Result<T>) -> Result<T> {
        self.deployment.explain(result, self.interrupt)
    }
}

/// A log that is too large for the disk goes: half of it proves nothing, and would leave no room for the result.
pub(super) fn whole_or_none<T>(kept: Result<T>, dir: &Path) -> Result<T> {
    kept.inspect_err(|error| {
        if is_disk_full(error) {
            // What cannot be removed stays; the error says enough.
            let _gone = account::begin(dir);
        }
    })
}

/// The lines of a `[policy]` table from a file that is one, or has one.
///
/// # Errors
/// The file cannot be read or is no TOML.
pub(super) fn policy_lines(path: &Path) -> Result<String> {
    let what = || format!("policy {}", path.display());
    let text = std::fs::read_to_string(path).with_context(what)?;
    let table: toml::Table = toml::from_str(&text).with_context(what)?;
    let table = table.get("policy").and_then(toml::Value::as_table).unwrap_or(&table);
    toml::to_string(table).with_context(what)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use anyhow::anyhow;

    use super::*;

    /// R8.4: of an audit log that the disk has no room for nothing stays, so that there is room for the result; one
    /// that cannot be judged stays, for it is needed.
    #[test]
    fn r8_4_half_an_audit_log_takes_no_room_from_the_result() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(account::EVENTS);
        fs::write(&path, "a line\n").unwrap();
        assert_eq!(whole_or_none(Ok(1), dir.path()).unwrap(), 1);
        assert!(whole_or_none::<()>(Err(anyhow!("not a single event")), dir.path()).is_err());
        assert!(path.exists());
        let full = fs::write("/dev/full", "x").context("cannot keep it");
        let error = whole_or_none(full, dir.path()).unwrap_err();
        assert!(is_disk_full(&error) && !path.exists(), "{error:#}");
    }
}
