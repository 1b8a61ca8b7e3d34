//! `report.html` of a run beside the peers: tables, and bars of each row of throughput.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::report::{Median, Report};
use super::rows::Metric;
use super::{Failed, Kind};
use crate::page::{environment, escape, head, policy, table, verdict};
use crate::scenarios::recovery::svg::{Axis, COLOURS, Plot};

/// What bars are drawn of: more is better, and a reader looks there first.
const DRAWN: [Metric; 2] = [Metric::MbitS, Metric::Kpps];

impl Report {
    /// The page.
    pub(super) fn html(&self) -> String {
        let mut out = head("Jumping VPN: ours beside the peers");
        verdict(&mut out, self.verdict.valid, &self.verdict.problems);
        // Writing to a string cannot fail.
        if !self.ending.complete {
            let why = self.ending.broken_off.as_deref().unwrap_or("less was measured than was asked for");
            let _ = writeln!(out, "<p class=\"part\">A part of what was asked for: {}</p>", escape(why));
        }
        if !self.failed.is_empty() {
            let line = |failed: &Failed| format!("<li>{}</li>", escape(&failed.line()));
            let list: String = self.failed.iter().map(line).collect();
            let _ = writeln!(out, "<div class=\"bad\"><strong>Who failed.</strong><ul>{list}</ul></div>");
        }
        if let Some(text) = self.too_few {
            let _ = writeln!(out, "<p class=\"part\">{}</p>", escape(text));
        }
        let list: String =
            self.preamble().iter().map(|line| format!("<li>{}</li>", escape(line.trim()))).collect();
        let _ = writeln!(out, "<ul class=\"note\">{list}</ul>");
        for metric in Metric::ALL {
            let rows = self.table(metric);
            if rows.is_empty() {
                continue;
            }
            let _ = writeln!(out, "<h2>{}</h2>", escape(metric.title()));
            table(&mut out, &rows);
            if DRAWN.contains(&metric) {
                out.push_str("<p class=\"note\">Bars: the median; strokes: lowest and highest round.</p>\n");
                let drawn = self.medians.iter().filter(|median| median.metric == metric);
                drawn.for_each(|median| self.bars(&mut out, median));
            }
        }
        out.push_str("<h2>What it ran on</h2>\n");
        environment(&mut out, &serde_json::to_value(&self.environment).unwrap_or_default());
        policy(&mut out, self.policy.as_deref());
        out.push_str("</body></html>\n");
        out
    }

    /// A bar for each contender that has this figure.
    fn bars(&self, out: &mut String, median: &Median) {
        let of = |kind: Kind| {
            let rows = self
                .rows
                .iter()
                .filter(move |row| (row.contender, row.what, row.way) == (kind, median.what, median.way));
            rows.filter_map(|row| row.figures.get(&median.metric).copied())
        };
        let spread: BTreeMap<Kind, [f64; 2]> = (median.values.iter())
            .map(|(kind, value)| {
                (*kind, [of(*kind).fold(*value, f64::min), of(*kind).fold(*value, f64::max)])
            })
            .collect();
        let most = spread.values().map(|[_, high]| *high).fold(1.0, f64::max);
        let count = median.values.len();
        let size = (900.0, 70.0 + 30.0 * count as f64);
        let mut plot = Plot::new(
            size,
            Axis::linear(median.metric.title(), 0.0, most * 1.05),
            Axis::linear("", 0.0, 1.0),
        );
        for (number, (kind, value)) in median.values.iter().enumerate() {
            let colour = if *kind == Kind::Ours { COLOURS[0] } else { COLOURS[1] };
            plot.bar(
                (number, count),
                *value,
                colour,
                if kind.is_peer() || *kind == Kind::Ours { 0.85 } else { 0.35 },
            );
            plot.whisker((number, count), spread.get(kind).copied().unwrap_or([*value; 2]));
        }
        let names: Vec<_> = median.values.keys().map(ToString::to_string).collect();
        let _ = writeln!(out, "<h3>{}, {}</h3>{}", median.what, median.way, plot.finish(&names));
    }
}
