//! The page of the suite: the aims first, then every part.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

use super::{PartReport, Report, Size};
use crate::page::{self, escape, put};
use crate::scenarios::recovery::report::{aims, aims_markdown, figures_markdown};

/// Said of a run that was to show whether it works.
const SMOKE: &str =
    "One or two trials of parts of each kind: whether the bench works here. The figures say nothing.";

pub(super) fn write(dir: &Path, report: &Report) -> Result<()> {
    put(&dir.join("report.html"), &html(report))?;
    put(&dir.join("summary.md"), &markdown(report))
}

fn html(report: &Report) -> String {
    let mut out = page::head("Jumping VPN: what is aimed at, and what was seen");
    // Writing to a string cannot fail.
    if report.valid {
        out.push_str("<p class=\"good\">Valid: no rule was broken in any part.</p>\n");
    } else {
        let list: String =
            report.problems.iter().take(50).map(|text| format!("<li>{}</li>", escape(text))).collect();
        let _ = writeln!(
            out,
            "<div class=\"bad\"><strong>INVALID.</strong> These figures prove nothing:<ul>{list}</ul></div>"
        );
    }
    if !report.complete {
        let why = report.broken_off.as_deref().unwrap_or("a part is not whole");
        let _ = writeln!(out, "<p class=\"part\">A part of what was asked for: {}</p>", escape(why));
    }
    if report.size == Size::Smoke {
        let _ = writeln!(out, "<p class=\"part\">{SMOKE}</p>");
    }
    out.push_str("<h2>Aims</h2>\n");
    aims(&mut out, &report.aims);
    out.push_str(
        "<p class=\"note\">p99 of fewer than 100 trials is the longest value seen. A missed aim does not make a run \
         INVALID.</p>\n<h2>Parts</h2>\n<ul>",
    );
    for part in &report.parts {
        let PartReport { name, what, .. } = part;
        let there = if part.body.is_empty() { format!("{name}/report.html") } else { format!("#{name}") };
        let state = if part.complete { "" } else { ", not whole" };
        let _ = write!(out, "<li><a href=\"{there}\">{name}</a>: {}{state}</li>", escape(what));
    }
    let _ = writeln!(
        out,
        "</ul>\n<p class=\"note\">Seed {}, {} clients at once, {:.0} min.</p>",
        report.seed,
        report.clients,
        report.took_s / 60.0
    );
    for part in report.parts.iter().filter(|part| !part.body.is_empty()) {
        let _ = writeln!(out, "<h1 id=\"{}\">{}</h1>\n{}", part.name, escape(&part.what), part.body);
    }
    out.push_str("</body></html>\n");
    out
}

fn markdown(report: &Report) -> String {
    let mut out = "# What is aimed at, and what was seen\n".to_owned();
    if !report.valid {
        out.push_str("\n**INVALID**: these figures prove nothing.\n\n");
        report.problems.iter().take(20).for_each(|problem| {
            let _ = writeln!(out, "- {problem}");
        });
    }
    if !report.complete {
        out.push_str("\nA part of what was asked for.\n");
    }
    if report.size == Size::Smoke {
        let _ = writeln!(out, "\n{SMOKE}");
    }
    out.push_str(&aims_markdown(&report.aims));
    for part in report.parts.iter().filter(|part| !part.causes.is_empty()) {
        let _ = write!(out, "\n## Recovery, {}\n\n{}", part.what, figures_markdown(&part.causes));
    }
    let environment = serde_json::to_string_pretty(&report.environment).unwrap_or_default();
    let _ = write!(out, "\n## What it ran on\n\n```json\n{environment}\n```\n");
    out
}
