//! Medians, who is first, what is aimed at, and tables of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::programs::{Found, Missing};
use super::rows::{Metric, Row, Way, What};
use super::{Failed, Kind};
use crate::account::Verdict;
use crate::result::{Ending, Environment};

/// Ours may use so much of the gateway's processor time of the peer that uses least.
const CPU_SHARE_MAX: f64 = 1.0 / 3.0;

/// The middle of the rounds of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Median {
    /// What.
    pub what: What,
    /// From where to where.
    pub way: Way,
    /// Which figure.
    pub metric: Metric,
    /// Of each contender that has it.
    pub values: BTreeMap<Kind, f64>,
    /// The best peer, if there is one.
    pub best_peer: Option<Kind>,
    /// Ours divided by the best peer's.
    pub ratio: Option<f64>,
    /// What is aimed at, if anything is.
    pub aim: Option<&'static str>,
    /// Whether it is met; absent where it cannot be judged.
    pub aim_met: Option<bool>,
}

/// A run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `peers`.
    pub scenario: &'static str,
    /// Layout of this file.
    pub form: u32,
    /// Whether the audit logs of all our gateways broke no rule.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Whole, or broken off. Not whole either: a contender has failed.
    #[serde(flatten)]
    pub ending: Ending,
    /// The `[policy]` table of ours.
    pub policy: Option<String>,
    /// Machine and versions.
    pub environment: Environment,
    /// What holds for all.
    pub conditions: Vec<String>,
    /// Rounds asked for; the median counts.
    pub rounds: u32,
    /// Said of a run of fewer rounds than make a result.
    pub too_few: Option<&'static str>,
    /// Span of one measurement, ms.
    pub span_ms: u64,
    /// Who took part.
    pub contenders: Vec<Found>,
    /// Who could not.
    pub missing: Vec<Missing>,
    /// Who hung, died or let nothing through.
    pub failed: Vec<Failed>,
    /// Medians.
    pub medians: Vec<Median>,
    /// Every measurement.
    pub rows: Vec<Row>,
}

fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Medians of all rows, each judged.
pub(super) fn medians(rows: &[Row]) -> Vec<Median> {
    let mut kinds: BTreeMap<(Metric, What, Way), BTreeMap<Kind, Vec<f64>>> = BTreeMap::new();
    for row in rows {
        for (metric, value) in &row.figures {
            let contenders = kinds.entry((*metric, row.what, row.way)).or_default();
            contenders.entry(row.contender).or_default().push(*value);
        }
    }
    let mut medians: Vec<_> = kinds
        .into_iter()
        .map(|((metric, what, way), all)| {
            let values = all.into_iter().filter_map(|(kind, values)| Some((kind, middle(values)?)));
            judge(what, way, metric, values.collect())
        })
        .collect();
    let place = |metric| Metric::ALL.iter().position(|one| *one == metric);
    medians.sort_by_key(|median| (place(median.metric), median.what, median.way));
    medians
}

fn judge(what: What, way: Way, metric: Metric, values: BTreeMap<Kind, f64>) -> Median {
    let peers = values.iter().filter(|(kind, _)| kind.is_peer());
    let order = |a: &(&Kind, &f64), b: &(&Kind, &f64)| {
        if metric.is_better_high() { b.1.total_cmp(a.1) } else { a.1.total_cmp(b.1) }
    };
    let best = peers.min_by(order).map(|(kind, value)| (*kind, *value));
    let ours = values.get(&Kind::Ours).copied();
    let ratio = best.zip(ours).filter(|((_, best), _)| *best > 0.0).map(|((_, best), ours)| ours / best);
    let (aim, holds): (Option<&'static str>, fn(f64) -> bool) = match metric {
        // Of UDP the datagrams say it already.
        Metric::MbitS if matches!(what, What::Udp1400 | What::Udp64) => (None, |_| true),
        Metric::MbitS | Metric::Kpps => (Some("first"), |ratio| ratio >= 1.0),
        Metric::RttP50Us | Metric::RttP99Us => (Some("first"), |ratio| ratio <= 1.0),
        Metric::GatewaySPerGb | Metric::GatewayUsPerPacket => {
            (Some("≤ 1/3"), |ratio| ratio <= CPU_SHARE_MAX)
        }
        Metric::ClientSPerGb | Metric::MachineSPerGb | Metric::MachineUsPerPacket => (None, |_| true),
    };
    let aim_met = aim.and(ratio).map(holds);
    Median { what, way, metric, values, best_peer: best.map(|(kind, _)| kind), ratio, aim, aim_met }
}

impl Report {
    /// Contenders that have a figure, in their order.
    fn columns(&self) -> Vec<Kind> {
        let has = |kind: &Kind| self.medians.iter().any(|median| median.values.contains_key(kind));
        Kind::ALL.into_iter().filter(has).collect()
    }

    /// Header and rows of the table of one figure; empty if nobody has it.
    pub(super) fn table(&self, metric: Metric) -> Vec<Vec<String>> {
        let columns = self.columns();
        let medians: Vec<_> = self.medians.iter().filter(|median| median.metric == metric).collect();
        if medians.is_empty() {
            return Vec::new();
        }
        let head = [metric.title().to_owned(), "way".to_owned()];
        let names = columns.iter().map(|kind| kind.name().to_owned());
        let tail = ["ours ÷ best peer".to_owned(), "aim".to_owned()];
        let mut table = vec![head.into_iter().chain(names).chain(tail).collect::<Vec<_>>()];
        for median in medians {
            let digits = metric.digits();
            let value = |kind: &Kind| {
                median.values.get(kind).map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
            };
            let mut row = vec![median.what.to_string(), median.way.to_string()];
            row.extend(columns.iter().map(value));
            row.push(match (median.ratio, median.best_peer) {
                (Some(ratio), Some(peer)) => format!("{ratio:.2} ({peer})"),
                _ => "–".to_owned(),
            });
            row.push(match (median.aim, median.aim_met) {
                (Some(aim), Some(true)) => format!("{aim}: met"),
                (Some(aim), Some(false)) => format!("{aim}: missed"),
                _ => "–".to_owned(),
            });
            table.push(row);
        }
        table
    }

    /// Lines for a person.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.preamble();
        for metric in Metric::ALL {
            let table = self.table(metric);
            lines.extend((!table.is_empty()).then(String::new));
            lines.extend(aligned(&table));
        }
        lines
    }

    /// The same for a file.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut out = "# Ours beside the peers\n\n".to_owned();
        for line in self.preamble() {
            let _ = writeln!(out, "- {}", line.trim());
        }
        for metric in Metric::ALL {
            for (number, row) in self.table(metric).iter().enumerate() {
                let _ = match number {
                    0 => writeln!(out, "\n| {} |\n|{}", row.join(" | "), "---|".repeat(row.len())),
                    _ => writeln!(out, "| {} |", row.join(" | ")),
                };
            }
        }
        out
    }

    pub(super) fn preamble(&self) -> Vec<String> {
        let machine = &self.environment;
        let mut lines = vec![format!(
            "{} build, kernel {}, {} × {}; medians of {} rounds, spans of {} ms",
            machine.build, machine.kernel, machine.cpus, machine.cpu, self.rounds, self.span_ms
        )];
        lines.extend(self.verdict.problems.iter().map(|problem| format!("INVALID: {problem}")));
        lines.extend(self.too_few.map(str::to_owned));
        lines.extend(self.conditions.iter().cloned());
        let found =
            |found: &Found| format!("{}: {}; {}", found.contender, found.version, found.configuration);
        lines.extend(self.contenders.iter().map(found));
        lines.extend(self.missing.iter().map(|one| format!("{}: left out, {}", one.contender, one.why)));
        lines.extend(self.failed.iter().map(Failed::line));
        if !self.ending.complete {
            let why = self.ending.broken_off.as_deref().unwrap_or("less was measured than was asked for");
            lines.push(format!("a part of what was asked for: {why}"));
        }
        lines
    }
}

/// Columns in line, the first two to the left.
pub(in crate::scenarios) fn aligned(table: &[Vec<String>]) -> Vec<String> {
    let columns = table.iter().map(Vec::len).max().unwrap_or_default();
    let len = |cell: &String| cell.chars().count();
    let widths: Vec<_> = (0..columns)
        .map(|column| table.iter().filter_map(|row| row.get(column)).map(len).max().unwrap_or_default())
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    table.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::too_few;

    fn row(contender: Kind, what: What, metric: Metric, value: f64) -> Row {
        Row { round: 1, contender, what, way: Way::Up, figures: [(metric, value)].into() }
    }

    fn one(rows: &[(Kind, f64)], what: What, metric: Metric) -> Median {
        let rows: Vec<_> = rows.iter().map(|(kind, value)| row(*kind, what, metric, *value)).collect();
        let mut medians = medians(&rows);
        assert_eq!(medians.len(), 1);
        medians.remove(0)
    }

    /// R8.1: ours is held against the best of the others, whoever that is in that row, and the reference is no peer.
    #[test]
    fn r8_1_ours_is_judged_beside_the_best_peer() {
        use Kind::{Boringtun, Openvpn, Ours, Plain};
        let speed = |ours| {
            one(
                &[(Ours, ours), (Plain, 4000.0), (Boringtun, 700.0), (Openvpn, 650.0)],
                What::Tcp1,
                Metric::MbitS,
            )
        };
        assert_eq!((speed(1400.0).ratio, speed(1400.0).best_peer), (Some(2.0), Some(Boringtun)));
        assert_eq!((speed(1400.0).aim_met, speed(699.0).aim_met), (Some(true), Some(false)));
        let cost =
            |ours| one(&[(Ours, ours), (Boringtun, 6.0), (Openvpn, 9.0)], What::Tcp1, Metric::GatewaySPerGb);
        assert_eq!(
            (cost(2.0).aim_met, cost(2.1).aim_met, cost(2.1).aim),
            (Some(true), Some(false), Some("≤ 1/3"))
        );
        let rtt = |ours| one(&[(Ours, ours), (Openvpn, 90.0)], What::RttIdle, Metric::RttP99Us);
        assert_eq!((rtt(80.0).aim_met, rtt(91.0).aim_met), (Some(true), Some(false)));
        let alone = one(&[(Ours, 5.0), (Plain, 9.0)], What::Tcp1, Metric::MbitS);
        assert_eq!(
            (alone.ratio, alone.aim_met, alone.best_peer),
            (None, None, None),
            "nobody to compare with"
        );
        let dead = one(&[(Ours, 5.0), (Openvpn, 0.0)], What::Udp64, Metric::Kpps);
        assert_eq!(dead.ratio, None, "no division by nothing");
    }

    #[test]
    fn the_middle_round_counts_and_tables_are_whole() {
        let rows = [30.0, 10.0, 20.0].map(|value| row(Kind::Ours, What::Tcp1, Metric::MbitS, value));
        let medians = medians(&rows);
        assert_eq!(medians.first().and_then(|median| median.values.get(&Kind::Ours)), Some(&20.0));
        let report = Report {
            scenario: "peers",
            form: 1,
            verdict: Verdict { valid: Some(false), problems: vec!["a rule is <broken>".to_owned()] },
            policy: Some("preset = \"edge\"".to_owned()),
            ending: Ending::of::<()>(&Err(anyhow::anyhow!("interrupted"))),
            environment: Environment::collect(),
            conditions: vec!["the same links for all".to_owned()],
            rounds: 3,
            too_few: too_few(3),
            span_ms: 100,
            contenders: Vec::new(),
            missing: vec![Missing { contender: Kind::Gotatun, why: "not there".to_owned() }],
            failed: vec![Failed { contender: Kind::Openvpn, round: 2, why: "died".to_owned() }],
            medians,
            rows: rows.into(),
        };
        crate::schemas::tests::fits_tightly(&report);
        let text = report.markdown();
        for part in [
            "INVALID: a rule is <broken>",
            "fewer than 5 rounds: not a result",
            "| TCP, 1 stream | up | 20 | – | – |",
            "gotatun: left out, not there",
            "interrupted",
            "openvpn",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(report.lines().len() >= 7);
        let html = report.html();
        for part in [
            "INVALID: these figures prove nothing.</strong><ul><li>a rule is &lt;broken&gt;",
            "<pre>preset = &quot;edge&quot;</pre>",
            "interrupted",
            "openvpn: FAILED in round 2",
            "<svg",
            "<h3>TCP, 1 stream, up</h3>",
            "What it ran on",
        ] {
            assert!(html.contains(part), "{part} in {html}");
        }
        crate::browser::tests::open_and_judge(&html, 1);
        assert!(serde_json::to_string(&report).unwrap().contains("\"mbit_s\":20.0"));
    }
}
