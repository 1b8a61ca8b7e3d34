//! `result.json` of the sessions, its table, and the verdict.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::check_events::findings::Findings;
use crate::result::{Environment, Quantiles};
use crate::scenarios::closing::{Judged, Outcome};
use crate::scenarios::sampler::{Sample, Usage};

/// The result.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// `sessions`.
    pub scenario: &'static str,
    /// Valid: the audit log breaks no rule, and no session was lost or doubled.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Aims on the reference machine; a missed one is no failure.
    pub aims: Vec<Aim>,
    /// The members' keys follow from it.
    pub seed: u64,
    /// Sessions.
    pub sessions: usize,
    /// A marker per session and this time.
    pub marker_interval_ms: u64,
    /// Longest time from the kill until all are adopted.
    pub adoption_bound_ms: f64,
    /// The `[policy]` table.
    pub policy: String,
    /// What it ran on.
    pub environment: Environment,
    /// Diffie-Hellman alone.
    pub bound: Bound,
    /// The gateway with no session.
    pub empty: Option<Sample>,
    /// All sessions are born.
    pub births: Births,
    /// All sessions in peace.
    pub steady: Steady,
    /// All lose their path at once.
    pub storms: Vec<StormReport>,
    /// The control plane is killed.
    pub kill: Kill,
    /// At the end.
    pub end: Option<Sample>,
    /// Live sessions of the gateway at the end.
    pub live_sessions: u64,
    /// Audit lines that were not written.
    pub audit_dropped: u64,
    /// Different SessionIds that the members hold at the end.
    pub distinct_ids: usize,
    /// Members without a session at the end.
    pub ids_missing: usize,
    /// Members that hold a SessionId of another.
    pub ids_doubled: usize,
    /// Sessions that were granted.
    pub sessions_granted: u64,
    /// Sessions that ended.
    pub sessions_ended: u64,
    /// Markers that came back twice, or changed.
    pub markers_wrong: u64,
    /// What `check-events` found in the audit log.
    pub audit: Findings,
    /// Memory, descriptors and processor time over the run.
    pub samples: Vec<Sample>,
}

/// Something that the reference machine should reach.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Aim {
    /// What.
    pub what: String,
    /// At most.
    pub at_most: f64,
    /// What was seen.
    pub seen: f64,
    /// Whether it is met.
    pub met: bool,
}

/// What X25519 alone costs.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Bound {
    /// By which crate.
    pub backend: &'static str,
    /// The operations of one reattach, on one core, µs.
    pub reattach_us: f64,
}

/// All sessions are born.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Births {
    /// Handshakes begun per second.
    pub asked_per_second: u32,
    /// Sessions that were ATTACHED.
    pub attached: usize,
    /// From the first handshake until all were, s.
    pub all_attached_s: f64,
    /// Sessions per second.
    pub per_second: f64,
    /// From a member's first handshake to ATTACHED.
    pub each: Quantiles,
    /// Counters of the control plane that rose.
    pub counters: BTreeMap<String, u64>,
}

/// All sessions in peace.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Steady {
    /// How long.
    pub seconds: f64,
    /// Markers sent.
    pub markers_sent: u64,
    /// Markers that did not come back.
    pub markers_lost: u64,
    /// Sessions that took their path for dead.
    pub recoveries: u64,
    /// Counters of the data plane that rose.
    pub data_plane: BTreeMap<String, u64>,
    /// Processor time, percent of one core.
    pub cpu: Shares,
    /// By how much each process is larger than with no session.
    pub octets_per_session: Growth,
    /// At its end.
    pub usage: Option<Sample>,
}

/// Percent of one core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Shares {
    /// `jvpn-controlplane`.
    pub control_plane: f64,
    /// `jvpn-dataplane`.
    pub data_plane: f64,
    /// The bench with the swarm.
    pub swarm: f64,
}

/// Octets of resident memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Growth {
    /// `jvpn-controlplane`, private memory.
    pub control_plane_anonymous: f64,
    /// The same with shared tables.
    pub control_plane_resident: f64,
    /// `jvpn-dataplane`, private memory.
    pub data_plane_anonymous: f64,
    /// The same with shared tables.
    pub data_plane_resident: f64,
    /// The bench: an agent, its sockets' share, its markers.
    pub swarm_resident: f64,
}

/// All lose their path at once.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StormReport {
    /// How.
    pub name: &'static str,
    /// Sessions that came back.
    pub recovered: usize,
    /// Sessions that did not.
    pub missing: usize,
    /// Until the last was ATTACHED, as its agent saw it, s.
    pub all_attached_s: f64,
    /// From the storm's beginning to a session's own recovery.
    pub each: Quantiles,
    /// Requests for each recovery.
    pub attempts_mean: f64,
    /// What X25519 of all these reattaches costs one core, s.
    pub bound_s: f64,
    /// `all_attached_s` over twice that and a second: the aim is 1 at most.
    pub of_aim: f64,
    /// Honest refusals by reason.
    pub refused: BTreeMap<String, u64>,
    /// Requests that were asked for a cookie.
    pub cookies: u64,
    /// Counters of the control plane that rose.
    pub counters: BTreeMap<String, u64>,
    /// Processor seconds.
    pub cpu_s: Shares,
}

/// The control plane is killed.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Kill {
    /// From SIGKILL until its successor had adopted all and served, ms.
    pub readopted_ms: f64,
    /// Sessions that it adopted.
    pub adopted: u64,
    /// Live sessions then.
    pub live_sessions: u64,
    /// Markers sent before, meanwhile and after.
    pub markers_sent: u64,
    /// Of them those that did not come back.
    pub markers_lost: u64,
    /// Markers that came back while no control plane was there.
    pub markers_back_meanwhile: u64,
    /// Sessions that are ATTACHED afterwards.
    pub attached: usize,
    /// Sessions that ended.
    pub sessions_ended: u64,
    /// Sessions that took their path for dead.
    pub recoveries: u64,
}

type Part = fn(&Sample) -> Option<Usage>;
const CONTROL_PLANE: Part = |sample| sample.control_plane;
const DATA_PLANE: Part = |sample| sample.data_plane;
const SWARM: Part = |sample| sample.swarm;

impl Shares {
    /// Processor seconds between two samples.
    fn seconds(from: Option<&Sample>, to: Option<&Sample>) -> Self {
        let of = |part: Part| match (from.and_then(part), to.and_then(part)) {
            (Some(from), Some(to)) => to.cpu_s - from.cpu_s,
            _ => f64::NAN,
        };
        Self { control_plane: of(CONTROL_PLANE), data_plane: of(DATA_PLANE), swarm: of(SWARM) }
    }

    /// The same as a share of time, percent of one core.
    pub(super) fn between(from: Option<&Sample>, to: Option<&Sample>, seconds: f64) -> Self {
        let Self { control_plane, data_plane, swarm } = Self::seconds(from, to);
        let share = |cpu: f64| 100.0 * cpu / seconds.max(1e-3);
        Self { control_plane: share(control_plane), data_plane: share(data_plane), swarm: share(swarm) }
    }
}

impl Growth {
    pub(super) fn between(from: Option<&Sample>, to: Option<&Sample>, sessions: usize) -> Self {
        let of = |part: Part, kib: fn(&Usage) -> u64| match (from.and_then(part), to.and_then(part)) {
            (Some(from), Some(to)) => {
                (kib(&to) as f64 - kib(&from) as f64) * 1_024.0 / sessions.max(1) as f64
            }
            _ => f64::NAN,
        };
        let anonymous = |usage: &Usage| usage.anonymous_kib;
        let resident = |usage: &Usage| usage.rss_kib;
        Self {
            control_plane_anonymous: of(CONTROL_PLANE, anonymous),
            control_plane_resident: of(CONTROL_PLANE, resident),
            data_plane_anonymous: of(DATA_PLANE, anonymous),
            data_plane_resident: of(DATA_PLANE, resident),
            swarm_resident: of(SWARM, resident),
        }
    }
}

impl StormReport {
    pub(super) fn with_counters(mut self, risen: &BTreeMap<String, u64>) -> Self {
        self.refused = risen
            .iter()
            .filter_map(|(name, count)| Some((name.strip_prefix("reattach_rejected.")?.to_owned(), *count)))
            .collect();
        self.cookies = risen.get("retry_sent").copied().unwrap_or_default();
        self.counters = risen.clone();
        self.of_aim = self.all_attached_s / (2.0 * self.bound_s + 1.0);
        self
    }

    pub(super) fn with_cpu(mut self, from: Option<&Sample>, to: Option<&Sample>) -> Self {
        self.cpu_s = Shares::seconds(from, to);
        self
    }
}

/// What it means that something does not hold.
#[derive(Clone, Copy, Debug)]
enum Grade {
    /// The run is INVALID: whole sessions are not as they must be.
    Invalid,
    /// A bound is broken.
    Bound,
}

impl Report {
    /// What must hold on every machine, and what the reference machine should reach.
    pub(super) fn conclude(&mut self) {
        let total = self.sessions as u64;
        let mut broken = Vec::new();
        let mut lost = Vec::new();
        let mut must = |holds: bool, grade: Grade, text: String| match grade {
            _ if holds => {}
            Grade::Invalid => lost.push(text),
            Grade::Bound => broken.push(text),
        };
        let audit = &self.audit;
        must(audit.good, Grade::Invalid, format!("the audit log breaks {} rules", audit.violations_total));
        must(
            audit.sessions.live == total,
            Grade::Invalid,
            format!("{} sessions live in the log", audit.sessions.live),
        );
        must(
            self.live_sessions == total,
            Grade::Invalid,
            format!("{} sessions live at the gateway", self.live_sessions),
        );
        must(
            self.distinct_ids == self.sessions && self.ids_missing == 0 && self.ids_doubled == 0,
            Grade::Invalid,
            format!("{} members have no session, {} one of another", self.ids_missing, self.ids_doubled),
        );
        must(
            self.sessions_granted == total && self.sessions_ended == 0,
            Grade::Invalid,
            format!("{} sessions were granted, {} ended", self.sessions_granted, self.sessions_ended),
        );
        must(
            self.markers_wrong == 0,
            Grade::Invalid,
            format!("{} markers came twice or changed", self.markers_wrong),
        );
        let births = self.births.attached;
        must(births == self.sessions, Grade::Bound, format!("only {births} sessions were born"));
        let steady = &self.steady;
        must(
            steady.markers_lost == 0,
            Grade::Bound,
            format!("{} markers lost in peace", steady.markers_lost),
        );
        for storm in &self.storms {
            must(storm.missing == 0, Grade::Bound, format!("{}: {} are not back", storm.name, storm.missing));
        }
        let kill = &self.kill;
        must(kill.adopted == total, Grade::Bound, format!("{} sessions were adopted", kill.adopted));
        must(
            kill.markers_lost == 0,
            Grade::Bound,
            format!("{} markers lost over the kill", kill.markers_lost),
        );
        must(
            kill.markers_back_meanwhile > 0,
            Grade::Bound,
            "nothing was forwarded while it was dead".to_owned(),
        );
        must(
            kill.readopted_ms <= self.adoption_bound_ms,
            Grade::Bound,
            format!("adopted after {:.0} ms, not {:.0}", kill.readopted_ms, self.adoption_bound_ms),
        );
        self.outcome.valid = lost.is_empty();
        self.outcome.failures = [lost, broken].concat();
        self.aims = self.storms.iter().filter(|storm| storm.name.starts_with("link-down")).map(aim).collect();
    }

    /// The table for people.
    fn table(&self) -> Vec<String> {
        let (births, steady, kill) = (&self.births, &self.steady, &self.kill);
        let Growth { control_plane_anonymous, data_plane_anonymous, .. } = steady.octets_per_session;
        let resident = |part: Part| steady.usage.as_ref().and_then(part).map_or(0, |usage| usage.rss_kib);
        let mut lines = vec![
            format!("\n  sessions {}   seed {}", self.sessions, self.seed),
            format!(
                "  births: {:.0}/s of {} asked for, all ATTACHED after {:.1} s; each p50 {:.1} ms, p99 {:.1} ms",
                births.per_second,
                births.asked_per_second,
                births.all_attached_s,
                births.each.p50_ms,
                births.each.p99_ms
            ),
            format!(
                "  steady {:.0} s: CPU of a core: control plane {:.1} %, data plane {:.1} %, swarm {:.1} %; {} of {} \
                 markers lost",
                steady.seconds,
                steady.cpu.control_plane,
                steady.cpu.data_plane,
                steady.cpu.swarm,
                steady.markers_lost,
                steady.markers_sent
            ),
            format!(
                "  memory: control plane {} KiB ({control_plane_anonymous:.0} octets per session), data plane {} KiB \
                 ({data_plane_anonymous:.0})",
                resident(CONTROL_PLANE),
                resident(DATA_PLANE)
            ),
        ];
        lines.extend(self.storms.iter().map(StormReport::line));
        lines.push(format!(
            "  control plane killed: {} adopted after {:.0} ms (bound {:.0}); {} of {} markers lost, {} came back \
             meanwhile",
            kill.adopted,
            kill.readopted_ms,
            self.adoption_bound_ms,
            kill.markers_lost,
            kill.markers_sent,
            kill.markers_back_meanwhile
        ));
        lines.push(format!(
            "  audit: {} events, {} rules broken, {} lines dropped",
            self.audit.events, self.audit.violations_total, self.audit_dropped
        ));
        for aim in &self.aims {
            let word = if aim.met { "met " } else { "MISS" };
            lines.push(format!("  aim {word}  {}: {:.2} of at most {:.2}", aim.what, aim.seen, aim.at_most));
        }
        lines
    }
}

impl Judged for Report {
    const TITLE: &'static str = "Jumping VPN: sessions in bulk";
    const BROKEN: &'static str = "bounds broken";

    fn judge(&mut self, audit: Findings) {
        self.audit = audit;
        self.conclude();
    }

    fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    fn outcome_mut(&mut self) -> &mut Outcome {
        &mut self.outcome
    }

    fn lines(&self) -> Vec<String> {
        self.table()
    }
}

fn aim(storm: &StormReport) -> Aim {
    let at_most = 2.0 * storm.bound_s + 1.0;
    Aim {
        what: format!("{}: all ATTACHED within twice the Diffie-Hellman bound and a second, s", storm.name),
        at_most,
        seen: storm.all_attached_s,
        met: storm.missing == 0 && storm.all_attached_s <= at_most,
    }
}

impl StormReport {
    fn line(&self) -> String {
        let Quantiles { p50_ms, p99_ms, max_ms, .. } = self.each;
        format!(
            "  storm {}: all after {:.3} s (Diffie-Hellman {:.3} s); each p50 {p50_ms:.0}, p99 {p99_ms:.0}, max \
             {max_ms:.0} ms; refused {:?}, cookies {}, {:.2} requests each; CPU s {:.2} / {:.2} / {:.2}",
            self.name,
            self.all_attached_s,
            self.bound_s,
            self.refused,
            self.cookies,
            self.attempts_mean,
            self.cpu_s.control_plane,
            self.cpu_s.data_plane,
            self.cpu_s.swarm
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check_events::findings::Sessions;
    use crate::result::Ending;
    use crate::scenarios::sessions::POLICY;
    use crate::schemas::tests::fits_tightly;

    fn good() -> Report {
        Report {
            sessions: 3,
            live_sessions: 3,
            distinct_ids: 3,
            sessions_granted: 3,
            adoption_bound_ms: 2_000.0,
            births: Births { attached: 3, ..Births::default() },
            kill: Kill { adopted: 3, markers_back_meanwhile: 1, readopted_ms: 2_000.0, ..Kill::default() },
            audit: Findings {
                good: true,
                sessions: Sessions { live: 3, ..Sessions::default() },
                ..Findings::default()
            },
            ..Report::default()
        }
    }

    /// R8.4: a judged run and one that was broken off fit the schema, with a process that was not there; the latter is not
    /// valid.
    #[test]
    fn r8_4_whole_and_part_fit_the_schema() {
        let mut report = Report {
            scenario: "sessions",
            policy: POLICY.to_owned(),
            environment: Environment::collect(),
            bound: Bound { backend: "one", reattach_us: 1.0 },
            storms: vec![StormReport { name: "link-down", ..StormReport::default() }],
            steady: Steady { cpu: Shares::between(None, None, 1.0), ..Steady::default() },
            samples: vec![Sample {
                at_s: 0.5,
                control_plane: Some(Usage::default()),
                data_plane: None,
                swarm: None,
            }],
            ..good()
        };
        let mut part = report.clone();
        report.judge(good().audit);
        report.outcome.end(Ending::of(&Ok(())));
        assert!(report.outcome.valid && report.outcome.ending.complete && report.outcome.failures.is_empty());
        assert_eq!((report.aims.len(), report.lines().len() > 6), (1, true));
        fits_tightly(&report);
        part.outcome.end(Ending::of::<()>(&Err(anyhow::anyhow!("x"))));
        assert!(!part.outcome.valid && part.outcome.failures == ["not complete: x"]);
        fits_tightly(&part);
    }

    /// R8.2, R7.3: the verdict can fail, for each of its reasons; those about whole sessions make the run INVALID.
    #[test]
    fn r8_2_each_reason_fails_the_run() {
        let judged = |spoil: fn(&mut Report)| {
            let mut report = good();
            spoil(&mut report);
            report.conclude();
            (report.outcome.valid, report.outcome.failures.len())
        };
        assert_eq!(judged(|_| ()), (true, 0));
        let lost: [fn(&mut Report); 7] = [
            |report| report.audit.good = false,
            |report| report.audit.sessions.live = 4,
            |report| report.live_sessions = 2,
            |report| report.ids_doubled = 1,
            |report| report.sessions_granted = 4,
            |report| report.sessions_ended = 1,
            |report| report.markers_wrong = 1,
        ];
        lost.into_iter().for_each(|spoil| assert_eq!(judged(spoil), (false, 1)));
        let broken: [fn(&mut Report); 7] = [
            |report| report.births.attached = 2,
            |report| report.steady.markers_lost = 1,
            |report| report.storms.push(StormReport { missing: 1, ..StormReport::default() }),
            |report| report.kill.adopted = 2,
            |report| report.kill.markers_lost = 1,
            |report| report.kill.markers_back_meanwhile = 0,
            |report| report.kill.readopted_ms = 2_000.1,
        ];
        broken.into_iter().for_each(|spoil| assert_eq!(judged(spoil), (true, 1)));
    }
}
