//! What a result looks like: lines, tables, bars, pages, and the section in the report of a recovery run.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::super::super::svg::{Axis, COLOURS, Plot};
use super::{Asked, BESIDE, Report, Row};
use crate::page::{self, put};
use crate::result::write_json;
use crate::run_dir::RunDir;
use crate::scenarios::contenders::{Kind, aligned};

const COLUMNS: [&str; 10] =
    ["cause", "who", "trials", "p50, ms", "p95", "p99", "max", "back", "TCP lived", "lost up / down"];

impl Report {
    /// An outage as a reader is to see it.
    fn outage(&self, ms: f64) -> String {
        if ms >= self.asked.cap_s * 1e3 {
            format!("> {:.0} s", self.asked.cap_s)
        } else if ms < 99.95 {
            format!("{ms:.1}")
        } else {
            format!("{ms:.0}")
        }
    }

    fn cells(&self, row: &Row) -> Vec<String> {
        let mut outages = [row.outage_p50_ms, row.outage_p95_ms, row.outage_p99_ms, row.outage_max_ms]
            .map(|ms| self.outage(ms));
        if let Some(longest) = outages.last_mut().filter(|_| row.came_back < row.trials) {
            longest.push_str(", did not come back");
        }
        let trials = match row.incidents {
            incidents if incidents == row.trials => row.trials.to_string(),
            incidents => format!("{} in {incidents}", row.trials),
        };
        let head = [row.cause.name().to_owned(), row.contender.to_string(), trials];
        let tail = [
            format!("{} of {}", row.came_back, row.trials),
            format!("{} of {}", row.tcp_survived, row.trials),
            format!("{:.0} / {:.0}", row.lost_up_mean, row.lost_down_mean),
        ];
        head.into_iter().chain(outages).chain(tail).collect()
    }

    fn table(&self) -> Vec<Vec<String>> {
        let head = COLUMNS.map(str::to_owned).to_vec();
        [head].into_iter().chain(self.causes.iter().map(|row| self.cells(row))).collect()
    }

    fn preamble(&self) -> Vec<String> {
        let Asked { trials, rtt_ms, cap_s, clients, seed, .. } = self.asked;
        let text = |value: &Value, name: &str| {
            value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let all = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let script = match self.asked.script_after_s {
            Some(after) => format!("a script moves the route after {after} s"),
            None => "nothing tells of a silent blackhole".to_owned(),
        };
        let mut lines = vec![
            format!(
                "{} build, kernel {}, {}; round-trip time {rtt_ms} ms, {trials} trials by {clients} clients at once, each \
                 capped at {cap_s} s, seed {seed}",
                text(&self.environment, "build"),
                text(&self.environment, "kernel"),
                text(&self.environment, "cpu"),
            ),
            format!("the route goes with a link that is down; {script}"),
        ];
        lines.extend(self.verdict.problems.iter().map(|problem| format!("INVALID: {problem}")));
        lines.extend(all(&self.contenders).iter().map(|one| {
            format!("{}: {}; {}", text(one, "contender"), text(one, "version"), text(one, "configuration"))
        }));
        let missing = all(&self.missing);
        lines.extend(
            missing.iter().map(|one| format!("{}: left out, {}", text(one, "contender"), text(one, "why"))),
        );
        lines.extend(self.failed.iter().map(|failed| {
            let why = failed.why.lines().next().unwrap_or_default();
            format!("{}: FAILED at {}: {why}", failed.contender, failed.cause)
        }));
        lines.extend(
            self.left_out.iter().map(|one| format!("{}: no {}: {}", one.contender, one.cause, one.why)),
        );
        if !self.complete {
            let why = self.broken_off.as_deref().unwrap_or("less was measured than was asked for");
            lines.push(format!("a part of what was asked for: {why}"));
        }
        lines
    }

    /// Lines for a person.
    pub(in crate::scenarios::recovery::beside) fn lines(&self) -> Vec<String> {
        let mut lines = self.preamble();
        lines.push(String::new());
        lines.extend(aligned(&self.table()));
        lines
    }

    pub(super) fn markdown(&self) -> String {
        let mut out = "# Recovery beside the peers\n\n".to_owned();
        for line in self.preamble() {
            let _ = writeln!(out, "- {line}");
        }
        for (number, row) in self.table().iter().enumerate() {
            let _ = match number {
                0 => writeln!(out, "\n| {} |\n|{}", row.join(" | "), "---|".repeat(row.len())),
                _ => writeln!(out, "| {} |", row.join(" | ")),
            };
        }
        out
    }

    /// Why the run fails: a peer may do what it likes, ours may not.
    pub(in crate::scenarios::recovery::beside) fn problem(&self) -> Option<String> {
        if let Err(invalid) = self.verdict.or_fail() {
            return Some(invalid.to_string());
        }
        let failed = self.failed.iter().find(|failed| failed.contender == Kind::Ours);
        if let Some(failed) = failed {
            return Some(format!("ours failed at {}: {}", failed.cause, failed.why));
        }
        let lost = self.causes.iter().find(|row| row.contender == Kind::Ours && row.came_back < row.trials);
        lost.map(|row| {
            format!("{}: ours came back in {} of {} trials only (I13)", row.cause, row.came_back, row.trials)
        })
    }

    pub(in crate::scenarios::recovery::beside) fn write(
        &self,
        dir: &mut RunDir,
        beside: Option<&Path>,
    ) -> Result<()> {
        dir.write(self)?;
        put(&dir.path().join("summary.md"), &self.markdown())?;
        put(&dir.path().join("bars.html"), &self.bars())?;
        put(&dir.path().join("report.html"), &self.html())?;
        beside.map_or(Ok(()), |beside| write_json(&beside.join(BESIDE), self))
    }

    pub(super) fn html(&self) -> String {
        let mut out = page::head("Jumping VPN: recovery beside the peers");
        // Writing to a string cannot fail.
        page::verdict(&mut out, self.verdict.valid, &self.verdict.problems);
        if let Some(problem) = self.problem().filter(|_| self.verdict.valid != Some(false)) {
            let _ = writeln!(out, "<p class=\"bad\">{}</p>", page::escape(&problem));
        }
        if !self.complete {
            let why = self.broken_off.as_deref().unwrap_or("less was measured than was asked for");
            let _ =
                writeln!(out, "<p class=\"part\">A part of what was asked for: {}</p>", page::escape(why));
        }
        out.push_str(&self.body());
        out.push_str("<h2>Figures</h2>\n");
        page::table(&mut out, &self.table());
        out.push_str("<h2>What it ran on</h2>\n");
        page::environment(&mut out, &self.environment);
        page::policy(&mut out, self.policy.as_deref());
        out.push_str("</body></html>\n");
        out
    }

    /// What was asked of whom, and the bars.
    fn body(&self) -> String {
        let line = |line: &String| format!("<li>{}</li>", page::escape(line));
        let list: String = self.preamble().iter().map(line).collect();
        format!(
            "<ul class=\"note\">{list}</ul>\n<p class=\"note\">Dark: p50; lighter: p95; stroke: the longest. A trial that \
             did not come back counts as {} s.</p>\n{}",
            self.asked.cap_s,
            self.bars()
        )
    }

    /// For each cause a bar for each contender: p50 dark, p95 lighter, the longest as a stroke.
    pub(super) fn bars(&self) -> String {
        let mut out = String::new();
        for cause in &self.asked.causes {
            let rows: Vec<_> = self.causes.iter().filter(|row| row.cause == *cause).collect();
            let longest = rows.iter().map(|row| row.outage_max_ms).fold(1.0, f64::max);
            let size = (900.0, 70.0 + 34.0 * rows.len() as f64);
            let x = Axis::log("outage, ms", 1.0, longest);
            let mut plot = Plot::new(size, x, Axis::linear("", 0.0, 1.0));
            for (number, row) in rows.iter().enumerate() {
                let colour = if row.contender == Kind::Ours { COLOURS[0] } else { COLOURS[1] };
                plot.bar((number, rows.len()), row.outage_p95_ms, colour, 0.35);
                plot.bar((number, rows.len()), row.outage_p50_ms, colour, 0.85);
                plot.whisker((number, rows.len()), [row.outage_max_ms; 2]);
            }
            let name = |row: &&Row| match row.trials - row.came_back {
                0 => row.contender.to_string(),
                gone => format!("{} ({gone} not back)", row.contender),
            };
            let names: Vec<_> = rows.iter().map(name).collect();
            if !rows.is_empty() {
                let _ = writeln!(out, "<h3>{cause} at {} ms</h3>{}", self.asked.rtt_ms, plot.finish(&names));
            }
        }
        out
    }
}

/// What is wrong with ours in the result that a directory has.
///
/// # Errors
/// It has none that can be read.
pub fn problem_of(dir: &Path) -> Result<Option<String>> {
    let path = dir.join("result.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let report: Report = serde_json::from_str(&text)
        .with_context(|| format!("{} is no result of peers --recovery", path.display()))?;
    Ok(report.problem())
}

/// A section for the report of a recovery run, if a result of peers lies in its directory.
///
/// A file that is there and cannot be read is said in the section: the report itself does not depend on it.
pub(in crate::scenarios::recovery) fn section(dir: &Path) -> String {
    let path = dir.join(BESIDE);
    let Ok(text) = fs::read_to_string(&path) else { return String::new() };
    let Ok(report) = serde_json::from_str::<Report>(&text) else {
        return format!(
            "<h2>Beside the peers</h2>\n<p class=\"bad\">{BESIDE} is damaged, or of another version of the bench.</p>\n"
        );
    };
    let mut out = format!("<h2>Beside the peers</h2>\n{}", report.body());
    page::table(&mut out, &report.table());
    out
}
