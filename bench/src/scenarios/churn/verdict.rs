//! Whether a run of churn was good, and its table.

use super::{Churn, Report};
use crate::scenarios::soak::verdict::{self, Trend};

/// Reasons of transitions by which a session ends that nobody had asked to end.
pub(super) const LOSSES: [&str; 7] = [
    "RECOVERY_BOUNDS_EXCEEDED",
    "TTL_TRANSPORT_LOSS_EXPIRED",
    "TTL_SESSION_EXPIRED",
    "POLICY_TERMINATION",
    "SECURITY_VIOLATION",
    "OWNERSHIP_CONFLICT",
    "ADMIN_TERMINATE",
];
/// Longest time for which a member may hear nothing: a handshake whose answers are late three times over.
const SILENCE_MAX_S: f64 = 10.0;

impl Report {
    pub(super) fn conclude(&mut self) {
        self.trends = verdict::trends(&self.samples);
        let Churn { attached, lost, markers_wrong, longest_silence_s, recoveries, links_lost, .. } =
            self.churn;
        let total = self.sessions;
        let mut broken = Vec::new();
        let mut must = |holds: bool, text: String| {
            if !holds {
                broken.push(text);
            }
        };
        // These make it INVALID: somebody or something is not what it was.
        must(self.audit.good, format!("the audit log breaks {} rules", self.audit.violations_total));
        must(lost == 0, format!("{lost} sessions ended though nobody had asked for it"));
        must(markers_wrong == 0, format!("{markers_wrong} markers came twice or changed"));
        must(attached == total, format!("{} members are not back", total.saturating_sub(attached)));
        must(
            self.live_sessions == total as u64,
            format!("{} sessions are live, not {total}", self.live_sessions),
        );
        self.outcome.valid = broken.is_empty();
        let mut must = |holds: bool, text: String| {
            if !holds {
                broken.push(text);
            }
        };
        must(
            self.slots_in_use <= 2 * total as u64,
            format!("{} slots are in use by {total} sessions", self.slots_in_use),
        );
        must(
            longest_silence_s <= SILENCE_MAX_S,
            format!("a member heard nothing for {longest_silence_s:.1} s; {SILENCE_MAX_S} are allowed"),
        );
        // A link that is lost while its member is being born is no recovery.
        must(
            recoveries * 2 >= links_lost,
            format!("only {recoveries} recoveries of {links_lost} links that were lost"),
        );
        broken.extend(self.trends.iter().filter_map(|trend| trend.complaint.clone()));
        self.outcome.failures = broken;
    }

    pub(super) fn table(&self) -> Vec<String> {
        let Churn { links_lost, rebindings, goodbyes, vanished, births, recoveries, rekeys, .. } = self.churn;
        let mut lines = vec![format!(
            "\n  churn of {:.1} min with {} sessions: {links_lost} links lost, {rebindings} NAT rebindings, {goodbyes} \
             goodbyes, {vanished} vanished; {births} births, {recoveries} recoveries, {rekeys} rekeys",
            self.minutes, self.sessions
        )];
        let Churn { lost, attached, markers_sent, markers_back, longest_silence_s, .. } = self.churn;
        lines.push(format!(
            "  lost {lost}, back {attached} of {}; markers {markers_back} of {markers_sent}, longest silence \
             {longest_silence_s:.2} s",
            self.sessions
        ));
        for (what, of) in [("outage", self.outage), ("reattach", self.reattach)] {
            lines.push(format!(
                "  {what}: p50 {:.0}, p95 {:.0}, p99 {:.0}, max {:.0} ms",
                of.p50_ms, of.p95_ms, of.p99_ms, of.max_ms
            ));
        }
        lines.extend(self.trends.iter().map(Trend::line));
        lines.push(format!(
            "  live sessions {}, slots in use {}, audit: {} events, {} rules broken",
            self.live_sessions, self.slots_in_use, self.audit.events, self.audit.violations_total
        ));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::super::POLICY;
    use super::*;
    use crate::check_events::findings::Findings;
    use crate::result::{Ending, Environment};
    use crate::scenarios::closing::Judged;
    use crate::scenarios::sampler::{Sample, Usage};
    use crate::schemas::tests::fits_tightly;

    fn good() -> Report {
        let usage = Usage { rss_kib: 9_000, anonymous_kib: 5_000, descriptors: 20, cpu_s: 1.0 };
        let sample = |at: u32| Sample {
            at_s: f64::from(at),
            control_plane: Some(usage),
            data_plane: Some(usage),
            swarm: Some(usage),
        };
        Report {
            sessions: 10,
            live_sessions: 10,
            slots_in_use: 10,
            churn: Churn { attached: 10, links_lost: 4, recoveries: 8, ..Churn::default() },
            audit: Findings { good: true, ..Findings::default() },
            samples: (0..100).map(sample).collect(),
            ..Report::default()
        }
    }

    /// R7.4, R1.5: the verdict can fail, for each of its reasons; what was lost or doubled makes the run INVALID.
    #[test]
    fn r7_4_each_reason_fails_churn() {
        let judged = |spoil: fn(&mut Report)| {
            let mut report = good();
            spoil(&mut report);
            report.conclude();
            (report.outcome.valid, report.outcome.failures.len())
        };
        assert_eq!(judged(|_| ()), (true, 0));
        let invalid: [fn(&mut Report); 5] = [
            |report| report.audit.good = false,
            |report| report.churn.lost = 1,
            |report| report.churn.markers_wrong = 1,
            |report| report.churn.attached = 9,
            |report| report.live_sessions = 11,
        ];
        invalid.into_iter().for_each(|spoil| assert_eq!(judged(spoil), (false, 1)));
        let broken: [fn(&mut Report); 4] = [
            |report| report.slots_in_use = 21,
            |report| report.churn.longest_silence_s = 10.1,
            |report| report.churn.recoveries = 1,
            |report| {
                for sample in &mut report.samples {
                    let more = sample.at_s as u64 * 100;
                    sample.data_plane.iter_mut().for_each(|usage| usage.anonymous_kib += more);
                }
            },
        ];
        broken.into_iter().for_each(|spoil| assert_eq!(judged(spoil), (true, 1)));
    }

    /// R8.4: a judged run and one that was broken off fit the schema; the latter is not valid.
    #[test]
    fn r8_4_whole_and_part_fit_the_schema() {
        let mut report = Report {
            scenario: "churn",
            policy: POLICY.to_owned(),
            environment: Environment::collect(),
            ..good()
        };
        let mut part = report.clone();
        report.judge(good().audit);
        report.outcome.end(Ending::of(&Ok(())));
        assert!(report.outcome.valid && report.outcome.ending.complete && report.trends.len() == 6);
        assert_eq!(report.lines().len(), 11);
        fits_tightly(&report);
        part.outcome.end(Ending::of::<()>(&Err(anyhow::anyhow!("x"))));
        assert!(!part.outcome.valid && part.outcome.failures == ["not complete: x"]);
        fits_tightly(&part);
    }

    #[test]
    fn reasons_are_the_codes() {
        let known: Vec<_> = jvpn_abi::Reason::ALL.iter().map(|reason| reason.name()).collect();
        for reason in LOSSES {
            assert!(known.contains(&reason), "{reason} is no reason");
        }
    }
}
