//! What is aimed at, held against what was seen: one row for each bound, met or missed.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cause::Aim;
use super::result::CauseResult;

/// One bound and what was seen of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AimRow {
    /// What was done, and under which conditions.
    pub what: String,
    /// What of it was measured, with its unit.
    pub measure: String,
    /// At most so much is aimed at.
    pub at_most: f64,
    /// So much was seen.
    pub seen: f64,
    /// Whether the aim is met.
    pub met: bool,
    /// How often it was tried; absent where one run is one value.
    pub trials: Option<u64>,
}

impl AimRow {
    /// For a person.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { what, measure, at_most, seen, .. } = self;
        let trials = self.trials.map_or_else(String::new, |trials| format!(", {trials} trials"));
        format!("aim {:<6}  {what}: {measure} {seen:.1} of at most {at_most:.1}{trials}", self.word())
    }

    /// The verdict in one word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        if self.met { "met" } else { "MISSED" }
    }
}

/// The rows of all causes that something is aimed at for.
pub(super) fn rows(causes: &[CauseResult], preset: &str) -> Vec<AimRow> {
    causes.iter().flat_map(|one| of(one, preset)).collect()
}

fn of(one: &CauseResult, preset: &str) -> Vec<AimRow> {
    let Some(Aim { p50_ms, p99_ms, lost_max }) = one.cause.aim(one.rtt_ms, preset) else {
        return Vec::new();
    };
    let bounds = [
        ("outage p50, ms", p50_ms, one.outage_p50_ms),
        ("outage p99, ms", p99_ms, one.outage_p99_ms),
        ("packets lost at most", lost_max.map(|most| most as f64), one.lost_max as f64),
    ];
    let what = format!("{}, round-trip time {} ms, preset {preset}", one.cause, one.rtt_ms);
    let row = |(measure, at_most, seen): (&str, Option<f64>, f64)| {
        let at_most = at_most?;
        let (what, measure) = (what.clone(), measure.to_owned());
        Some(AimRow { what, measure, at_most, seen, met: seen <= at_most, trials: Some(one.trials) })
    };
    bounds.into_iter().filter_map(row).collect()
}

/// Rows that another scenario wrote as `aims` into its result, with what it was about.
#[must_use]
pub fn taken_over(result: &Value) -> Vec<AimRow> {
    let rows = result.get("aims").and_then(Value::as_array).into_iter().flatten();
    rows.filter_map(|row| {
        let number = |name: &str| row.get(name).and_then(Value::as_f64);
        let what = row.get("what")?.as_str()?;
        let (what, measure) = what.rsplit_once(", ").unwrap_or((what, ""));
        Some(AimRow {
            what: what.to_owned(),
            measure: measure.to_owned(),
            at_most: number("at_most")?,
            seen: number("seen")?,
            met: row.get("met")?.as_bool()?,
            trials: None,
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Cause;
    use super::super::record::tests::trial;
    use super::super::result::summarise;
    use super::*;

    fn judged(cause: Cause, preset: &str, rtt_ms: u64, outage_ms: f64) -> Vec<AimRow> {
        let mut one = trial(cause, 1, outage_ms);
        one.rtt_ms = rtt_ms;
        rows(&[summarise(&[&one], preset, 1).unwrap()], preset)
    }

    /// R8.1: each row of the table of aims is judged, the blackhole by the preset that was run.
    #[test]
    fn r8_1_each_aim_is_met_or_missed() {
        let verdict = |cause, preset, rtt_ms, outage_ms| {
            judged(cause, preset, rtt_ms, outage_ms).iter().map(|row| row.met).collect::<Vec<_>>()
        };
        use Cause::{
            AddressChange, ControlPlaneKill, DataPlaneKill, LinkDown, NatRebinding, SilentBlackhole,
        };
        assert_eq!(verdict(SilentBlackhole, "edge", 50, 400.0), [true]);
        assert_eq!(verdict(SilentBlackhole, "fintech", 50, 400.0), [false]);
        assert_eq!(verdict(SilentBlackhole, "fintech", 50, 300.0), [true]);
        assert_eq!(verdict(SilentBlackhole, "edge", 0, 401.0), [false]);
        assert!(verdict(SilentBlackhole, "edge", 150, 1.0).is_empty(), "nothing is aimed at beyond 50 ms");
        assert!(verdict(SilentBlackhole, "satellite", 50, 1.0).is_empty(), "slow by choice");
        assert_eq!(verdict(LinkDown, "edge", 50, 105.0), [true]);
        assert_eq!(verdict(NatRebinding, "edge", 50, 151.0), [false]);
        assert_eq!(verdict(AddressChange, "edge", 150, 275.0), [true]);
        for cause in [LinkDown, NatRebinding, AddressChange] {
            assert_eq!(verdict(cause, "edge", 0, 20.0), [false, true], "p50 5, p99 30");
        }
        assert_eq!(verdict(DataPlaneKill, "edge", 50, 1_000.5), [false]);
        assert_eq!(verdict(ControlPlaneKill, "edge", 50, 1.0), [false], "its trial lost three");
    }

    #[test]
    fn aims_of_other_scenarios_are_taken_over() {
        let result = serde_json::json!({"aims": [
            {"what": "link-down: all ATTACHED within twice the bound and a second, s", "at_most": 2.5, "seen": 2.0, "met": true},
            {"what": "no numbers"},
        ]});
        let rows = taken_over(&result);
        assert_eq!((rows.len(), rows[0].measure.as_str(), rows[0].met), (1, "s", true));
        assert!(rows[0].line().contains("met"));
    }
}
