//! `result.json` of the flood, and its table.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::account::Verdict;
use crate::check_events::findings::Findings;
use crate::result::{Ending, Environment, Quantiles};
use crate::scenarios::measure::Memory;
use crate::timeline::print;

/// The result.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// `flood`.
    pub scenario: &'static str,
    /// `false`: an observer was not whole, or the audit log breaks a rule, so the figures prove nothing.
    pub valid: bool,
    /// Whole or broken off.
    #[serde(flatten)]
    pub ending: Ending,
    /// Bounds that did not hold; empty in a good run.
    pub failures: Vec<String>,
    /// Determines what the attackers send.
    pub seed: u64,
    /// Honest sessions.
    pub sessions: usize,
    /// A marker per session and this time: the resolution of outages.
    pub marker_interval_ms: u64,
    /// Seconds per phase.
    pub seconds: u64,
    /// Datagrams per second that an attacker may send; `None` = as many as one thread can.
    pub rate: Option<u32>,
    /// The `[policy]` table.
    pub policy: String,
    /// What it ran on.
    pub environment: Environment,
    /// The quiet run first, then each attack.
    pub phases: Vec<Phase>,
    /// Memory when all sessions were there and had recovered a few times.
    pub memory_before: Processes<Memory>,
    /// The highest that was seen afterwards.
    pub memory_peak: Processes<Memory>,
    /// After the last attack, when everything that may expire had expired.
    pub memory_after: Processes<Memory>,
    /// Live sessions and slots in use before the first attack.
    pub tables_before: Tables,
    /// The same at the end.
    pub tables_after: Tables,
    /// Most confirmed switches of one session within 60 s.
    pub switches_max: u64,
    /// What policy allows.
    pub switches_limit: u64,
    /// Most audit lines of one kind and session within one second.
    pub flood_lines_max: u64,
    /// Honest sessions that ended or became another one.
    pub sessions_lost: usize,
    /// Markers that came back twice, or changed.
    pub markers_wrong: u64,
}

/// One value for each of the gateway's processes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Processes<T> {
    /// Of `jvpn-controlplane`.
    pub control_plane: T,
    /// Of `jvpn-dataplane`.
    pub data_plane: T,
}

/// How full the gateway's tables are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tables {
    /// Sessions that are not TERMINATED.
    pub live_sessions: u64,
    /// Slots in use.
    pub slots_in_use: u64,
}

/// A stretch of the run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Phase {
    /// `quiet`, the attack, or the attack with `-calm`: below the threshold from which cookies are asked for.
    pub name: String,
    /// When it began, Unix ms.
    pub from_ms: i64,
    /// When everybody was back, Unix ms.
    pub to_ms: i64,
    /// How long it was.
    pub seconds: f64,
    /// What the attacker sent.
    pub attack: Option<Sent>,
    /// What became of honest sessions.
    pub honest: Honest,
    /// Honest peers that came anew.
    pub births: Births,
    /// Processor seconds.
    pub cpu_s: Processes<f64>,
    /// Highest memory.
    pub memory_peak: Processes<Memory>,
    /// Audit lines.
    pub audit: AuditLines,
    /// By how much counters of XDP rose.
    pub edge: BTreeMap<String, u64>,
    /// By how much counters of the control plane rose.
    pub control_plane: BTreeMap<String, u64>,
    /// What the observer of unproven addresses did not see, if anything.
    pub missed: Option<String>,
    /// The distribution of outages; a file of its own.
    #[serde(skip)]
    pub hgrm: String,
}

/// What an attacker sent and was answered.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Sent {
    /// Datagrams.
    pub datagrams: u64,
    /// Of them per second.
    pub per_second: f64,
    /// Octets of UDP payload.
    pub octets: u64,
    /// Datagrams that the attacker's own host did not take.
    pub unsent: u64,
    /// Addresses that were claimed.
    pub sources: usize,
    /// Octets that went to claimed addresses, where nobody is.
    pub octets_to_unproven: u64,
    /// Datagrams that went there.
    pub datagrams_to_unproven: u64,
    /// Octets out over octets in, of the address for which it is the highest.
    pub amplification_max: f64,
    /// Octets that came back to the attacker's own sockets.
    pub octets_heard: u64,
    /// Reattaches that he was granted.
    pub granted: u64,
}

/// What became of honest sessions.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Honest {
    /// Sessions whose path was broken and that came back in time, once per break.
    pub recovered: u64,
    /// That did not come back within the patience.
    pub unrecovered: u64,
    /// Longest time without a marker coming back, per break.
    pub outage: Quantiles,
    /// From the decision to leave the path to the first frame over the new one, by the agents' own clock.
    pub reattach: Quantiles,
    /// From the last frame on the old path to that decision.
    pub detect: Quantiles,
    /// Requests for each completed recovery.
    pub attempts_mean: f64,
}

/// Honest peers that came anew.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Births {
    /// How many tried.
    pub asked: u64,
    /// How many were ATTACHED a few seconds later.
    pub born: u64,
    /// How long it took those.
    pub took: Quantiles,
}

/// Audit lines.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct AuditLines {
    /// All.
    pub lines: u64,
    /// About what an attacker could cause at will.
    pub flood_lines: u64,
    /// The latter per second.
    pub flood_lines_per_s: f64,
}

impl Report {
    /// Notes what the gateway's audit log says of it: a broken rule makes it INVALID.
    ///
    /// # Errors
    /// The log could not be judged.
    pub(super) fn judge(&mut self, judged: &Result<Findings>) -> Result<()> {
        let verdict = Verdict::of(judged);
        if let Err(error) = judged {
            bail!("the audit log was not judged: {error:#}");
        }
        self.valid &= verdict.problems.is_empty();
        self.failures.extend(verdict.problems);
        Ok(())
    }

    /// Notes how it ended. What was broken off was not judged: its figures prove nothing yet.
    pub(super) fn close(&mut self, measured: &Result<()>) {
        self.ending = Ending::of(measured);
        if let Some(why) = &self.ending.broken_off {
            self.valid = false;
            self.failures.push(format!("not complete: {why}"));
        }
    }

    /// The table for people.
    pub fn print(&self) {
        print("");
        let head = [
            "attack", "sent/s", "n", "lost", "out. p50", "p95", "p99", "max ms", "births", "cp s", "dp s",
            "ampl",
        ];
        row(head.map(str::to_owned));
        for phase in &self.phases {
            let ms = |value: f64| format!("{value:.0}");
            let (outage, attack) = (&phase.honest.outage, phase.attack.unwrap_or_default());
            row([
                phase.name.clone(),
                format!("{:.0}", attack.per_second),
                phase.honest.recovered.to_string(),
                phase.honest.unrecovered.to_string(),
                ms(outage.p50_ms),
                ms(outage.p95_ms),
                ms(outage.p99_ms),
                ms(outage.max_ms),
                format!("{}/{}", phase.births.born, phase.births.asked),
                format!("{:.1}", phase.cpu_s.control_plane),
                format!("{:.1}", phase.cpu_s.data_plane),
                format!("{:.2}", attack.amplification_max),
            ]);
        }
        let memory = |name: &str, of: fn(&Processes<Memory>) -> Memory| {
            let [before, peak, after] =
                [&self.memory_before, &self.memory_peak, &self.memory_after].map(|memory| of(memory).rss_kib);
            print(&format!("  {name}: resident {before} KiB before, {peak} at most, {after} afterwards"));
        };
        print("");
        memory("jvpn-controlplane", |processes| processes.control_plane);
        memory("jvpn-dataplane", |processes| processes.data_plane);
        print(&format!(
            "  switches of one session in 60 s: at most {} of {}; audit lines of one kind and session in 1 s: at most {}; \
             sessions lost: {}",
            self.switches_max, self.switches_limit, self.flood_lines_max, self.sessions_lost
        ));
        for failure in &self.failures {
            print(&format!("  BROKEN  {failure}"));
        }
    }
}

fn row(cells: [String; 12]) {
    let [name, rest @ ..] = cells;
    let rest: String = rest.iter().map(|cell| format!("{cell:>10}")).collect();
    print(&format!("  {name:<23}{rest}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schemas::tests::fits_tightly;

    /// R8.4: a whole run and one that was broken off fit the schema; the latter is not valid.
    #[test]
    fn r8_4_whole_and_part_fit_the_schema() {
        let phase = |attack| Phase {
            name: "quiet".to_owned(),
            attack,
            edge: [("edge_limited".to_owned(), 1)].into(),
            ..Phase::default()
        };
        let mut report = Report {
            scenario: "flood",
            valid: true,
            policy: "preset = \"edge\"".to_owned(),
            environment: Environment::collect(),
            phases: vec![phase(None), phase(Some(Sent::default()))],
            ..Report::default()
        };
        report.judge(&Ok(Findings { good: true, ..Findings::default() })).unwrap();
        let mut broken = report.clone();
        broken.judge(&Ok(Findings { violations_total: 2, ..Findings::default() })).unwrap();
        assert_eq!(
            (broken.valid, broken.failures.as_slice()),
            (false, ["the audit log breaks 2 rules".to_owned()].as_slice())
        );
        assert!(report.judge(&Err(anyhow::anyhow!("no log"))).is_err());
        report.close(&Ok(()));
        assert!(report.valid && report.ending.complete && report.failures.is_empty());
        fits_tightly(&report);
        report.close(&Err(anyhow::anyhow!("interrupted")));
        assert!(!report.valid && !report.ending.complete);
        assert_eq!(report.failures, ["not complete: interrupted"]);
        fits_tightly(&report);
    }
}
