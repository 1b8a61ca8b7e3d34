//! A result for people: `report.html` and `summary.md` beside `result.json` in the directory of a run.
//!
//! The pages are made from the result's JSON alone, whatever scenario it is of: verdict first, then tables, memory and
//! processor time over the run, and what it ran on. `recovery` and `suite` have pages of their own and share style and
//! plots. No script, no other file: a page can be sent by mail.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::scenarios::recovery::svg::{Axis, COLOURS, Plot};

/// Rows of a table that are shown; all are in `result.json`.
const ROWS_SHOWN: usize = 400;

/// From so many rounds on a median is a result.
const ROUNDS_LEAST: u32 = 5;
/// What is said of fewer.
const TOO_FEW: &str = "fewer than 5 rounds: not a result";

/// What a page says where no gateway of ours ran.
const NOT_JUDGED: &str = "No gateway of ours ran, or none for long: there was no event log to judge.";

/// What a page says instead of plots of memory and processor time.
pub(crate) const NO_LINES: &str =
    "Nothing to plot: it was over before a process could be looked at twice, a tenth of a second apart.";

/// What a result of so many rounds has to say in its field `too_few`; nothing where there are enough.
#[must_use]
pub const fn too_few(rounds: u32) -> Option<&'static str> {
    if rounds < ROUNDS_LEAST { Some(TOO_FEW) } else { None }
}

/// The same of rounds that were counted.
#[must_use]
pub fn too_few_of(rounds: usize) -> Option<&'static str> {
    too_few(u32::try_from(rounds).unwrap_or(u32::MAX))
}

/// What every page looks like. Tables wrap, and scroll where even that is too wide.
pub(crate) const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;max-width:1180px;margin:2em auto;\
    padding:0 1em}h1{font-size:1.6em;margin-bottom:.1em}h2{margin-top:2em;border-bottom:1px solid #ddd}\
    table{border-collapse:collapse;width:100%;font-size:12px;font-variant-numeric:tabular-nums}\
    td,th{padding:3px 5px;text-align:right;vertical-align:top;border-bottom:1px solid #e4e4e4}\
    th{overflow-wrap:break-word}td:first-child,th:first-child{text-align:left}\
    td small{color:#666;font-size:10px;white-space:nowrap}\
    svg{width:100%;height:auto;display:block}svg text{font-size:12px;fill:#333}svg .axis{font-weight:600}\
    svg .grid{stroke:#e6e6e6}svg .mark{stroke:#555;stroke-dasharray:4 3}svg .word{font-size:11px;fill:#222}\
    .legend span{margin-right:1.1em;white-space:nowrap;font-size:13px}.legend i{display:inline-block;width:.9em;\
    height:.9em;margin-right:.35em;vertical-align:-1px;border-radius:2px}.bad{background:#fdecea;border-left:5px solid \
    #c0392b;padding:.6em 1em}.good{background:#eaf6ee;border-left:5px solid #1e8449;padding:.6em 1em}.part{background:\
    #fff6e0;border-left:5px solid #b9770e;padding:.6em 1em}.met{color:#1e8449}.missed{color:#c0392b;font-weight:600}\
    .note{color:#555;font-size:13px}pre{background:#f6f6f6;padding:.7em;overflow:auto;font-size:12px}\
    td.env{text-align:left;overflow-wrap:anywhere}.wide{overflow-x:auto;max-width:100%}";

/// The beginning of a page.
pub(crate) fn head(title: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><link rel=\"icon\" href=\"data:,\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{0}</title><style>{STYLE}</style></head><body>\n\
         <h1>{0}</h1>\n",
        escape(title)
    )
}

/// Text as HTML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Writes `report.html` and `summary.md` of a result.
///
/// # Errors
/// A file cannot be written.
pub fn pages(dir: &Path, title: &str, result: &impl Serialize) -> Result<()> {
    let value = serde_json::to_value(result).context("a result is no JSON")?;
    let sections = sections(&value);
    put(&dir.join("report.html"), &html(title, &value, &sections))?;
    put(&dir.join("summary.md"), &markdown(title, &value, &sections))
}

/// Writes a text file; the error names it.
///
/// # Errors
/// It cannot be written.
pub(crate) fn put(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// A table whose first row is its head.
pub(crate) fn table(out: &mut String, rows: &[Vec<String>]) {
    out.push_str("<div class=\"wide\"><table>");
    for (number, row) in rows.iter().enumerate() {
        let tag = if number == 0 { "th" } else { "td" };
        let cells: String = row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "<tr>{cells}</tr>");
    }
    out.push_str("</table></div>\n");
}

/// A table of a page.
#[derive(Clone, Debug, PartialEq)]
struct Section {
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Rows that are not shown.
    more: usize,
}

/// Fields that have a place of their own on a page.
const APART: [&str; 8] =
    ["environment", "samples", "policy", "failures", "problems", "scenario", "too_few", "broken_off"];

fn sections(result: &Value) -> Vec<Section> {
    let Value::Object(fields) = result else { return Vec::new() };
    let of_their_own = |name: &&String| !APART.contains(&name.as_str());
    let plain: Vec<_> = fields
        .iter()
        .filter(|(name, value)| of_their_own(name) && !value.is_object() && !is_table(value))
        .map(|(name, value)| vec![name.replace('_', " "), shown(value)])
        .collect();
    let columns = vec!["what".to_owned(), "value".to_owned()];
    let mut found = vec![Section { title: "In short".to_owned(), columns, rows: plain, more: 0 }];
    for (name, value) in fields.iter().filter(|(name, _)| of_their_own(name)) {
        let title = name.replace('_', " ");
        match value {
            Value::Object(_) => {
                let mut rows = Vec::new();
                flatten("", value, &mut |name, value| rows.push(vec![name, shown(value)]));
                let columns = vec!["what".to_owned(), "value".to_owned()];
                found.push(Section { title, columns, rows, more: 0 });
            }
            Value::Array(rows) if is_table(value) => found.push(section(title, rows)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {}
        }
    }
    found.retain(|section| !section.rows.is_empty());
    found
}

fn is_table(value: &Value) -> bool {
    value.as_array().is_some_and(|rows| rows.first().is_some_and(Value::is_object))
}

/// A table whose columns are the fields that any of its rows has.
fn section(title: String, objects: &[Value]) -> Section {
    let mut columns: Vec<String> = Vec::new();
    let mut cells: Vec<BTreeMap<String, String>> = Vec::new();
    for object in objects.iter().take(ROWS_SHOWN) {
        let mut row = BTreeMap::new();
        flatten("", object, &mut |name, value| {
            if !columns.contains(&name) {
                columns.push(name.clone());
            }
            row.insert(name, shown(value));
        });
        cells.push(row);
    }
    let row = |row: &BTreeMap<String, String>| {
        columns.iter().map(|column| row.get(column).cloned().unwrap_or_default()).collect()
    };
    let rows = cells.iter().map(row).collect();
    Section { title, columns, rows, more: objects.len().saturating_sub(ROWS_SHOWN) }
}

/// The values of an object by their names, those of deeper levels with the names above them; lists of objects are left out.
fn flatten(prefix: &str, value: &Value, into: &mut impl FnMut(String, &Value)) {
    if let Value::Object(fields) = value {
        for (name, value) in fields {
            let name = name.replace('_', " ");
            let name = if prefix.is_empty() { name } else { format!("{prefix} {name}") };
            flatten(&name, value, into);
        }
    } else if !is_table(value) {
        into(prefix.to_owned(), value);
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (None, Some(number)) => {
                let text = format!("{number:.3}");
                text.trim_end_matches('0').trim_end_matches('.').to_owned()
            }
            _ => number.to_string(),
        },
        Value::Array(values) if values.len() > 12 => format!("{} values", values.len()),
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(", "),
        Value::Bool(_) | Value::Object(_) => value.to_string(),
    }
}

fn texts<'a>(result: &'a Value, fields: [&str; 2]) -> Vec<&'a str> {
    let of = |name: &str| result.get(name).and_then(Value::as_array).into_iter().flatten();
    fields.into_iter().flat_map(of).filter_map(Value::as_str).collect()
}

/// What is said of a result that is not whole.
fn part(result: &Value) -> Option<String> {
    let is_part = result.get("complete").and_then(Value::as_bool) == Some(false);
    let why = result.get("broken_off").and_then(Value::as_str).unwrap_or("it ended before its time");
    is_part.then(|| format!("A part of what was asked for: {why}"))
}

fn html(title: &str, result: &Value, sections: &[Section]) -> String {
    let mut out = head(title);
    let flag = |name: &str| result.get(name).and_then(Value::as_bool);
    verdict(&mut out, flag("valid"), &texts(result, ["failures", "problems"]));
    if let Some(part) = part(result) {
        let _ = writeln!(out, "<p class=\"part\">{}</p>", escape(&part));
    }
    if let Some(text) = result.get("too_few").and_then(Value::as_str) {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "<p class=\"part\">{}</p>", escape(text));
    }
    for section in sections {
        let _ = write!(out, "<h2>{}</h2>\n<div class=\"wide\"><table><tr>", escape(&section.title));
        section.columns.iter().for_each(|name| {
            let _ = write!(out, "<th>{}</th>", escape(name));
        });
        out.push_str("</tr>\n");
        for row in &section.rows {
            let cells: String = row.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
            let _ = writeln!(out, "<tr>{cells}</tr>");
        }
        out.push_str("</table></div>\n");
        if section.more > 0 {
            let _ = writeln!(out, "<p class=\"note\">{} rows more are in result.json.</p>", section.more);
        }
    }
    usage(&mut out, result);
    out.push_str("<h2>What it ran on</h2>\n");
    environment(&mut out, result.get("environment").unwrap_or(&Value::Null));
    policy(&mut out, result.get("policy").and_then(Value::as_str));
    out.push_str("</body></html>\n");
    out
}

/// The policy of our gateway, if one ran.
pub(crate) fn policy(out: &mut String, policy: Option<&str>) {
    if let Some(policy) = policy {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "<p>Policy of the gateway:</p><pre>{}</pre>", escape(policy));
    }
}

/// Whether the figures mean something. `None`: no gateway of ours ran, and nobody has looked for broken rules.
pub(crate) fn verdict(out: &mut String, valid: Option<bool>, complaints: &[impl AsRef<str>]) {
    // Writing to a string cannot fail.
    let _ = match (valid, complaints) {
        (Some(true), []) => writeln!(out, "<p class=\"good\">No rule and no bound was broken.</p>"),
        (None, []) => writeln!(out, "<p class=\"note\">{NOT_JUDGED}</p>"),
        (valid, complaints) => {
            let word = if valid == Some(false) { "INVALID: these figures prove nothing." } else { "Failed." };
            let item = |text: &dyn AsRef<str>| format!("<li>{}</li>", escape(text.as_ref()));
            let list: String = complaints.iter().map(|text| item(text)).collect();
            writeln!(out, "<div class=\"bad\"><strong>{word}</strong><ul>{list}</ul></div>")
        }
    };
}

/// The environment as a table.
pub(crate) fn environment(out: &mut String, environment: &Value) {
    out.push_str("<table>");
    let mut rows = Vec::new();
    let fields = environment.as_object().cloned().unwrap_or_else(Map::new);
    for (name, value) in &fields {
        let Value::Array(items) = value else {
            flatten(name, value, &mut |name, value| rows.push((name, shown(value))));
            continue;
        };
        for item in items {
            let of = |field: &str| shown(item.get(field).unwrap_or(&Value::Null));
            let text = ["nic", "driver", "step", "xdp_mode", "af_xdp_mode", "queues"]
                .map(|field| format!("{}: {}", field.replace('_', " "), of(field)))
                .join("; ");
            rows.push((format!("port {}", of("port")), text));
        }
    }
    for (name, text) in rows {
        let _ = writeln!(out, "<tr><td>{}</td><td class=\"env\">{}</td></tr>", escape(&name), escape(&text));
    }
    out.push_str("</table>\n");
}

/// A line for each process.
type Lines = Vec<Vec<(f64, f64)>>;

/// Memory and processor time over the run, if its samples are in the result.
fn usage(out: &mut String, result: &Value) {
    let samples = result.get("samples").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let processes = ["control_plane", "data_plane", "swarm"];
    let read = |process: &str, field: &str| -> Vec<(f64, f64)> {
        let point = |sample: &Value| {
            Some((sample.get("at_s")?.as_f64()?, sample.get(process)?.get(field)?.as_f64()?))
        };
        samples.iter().filter_map(point).collect()
    };
    if !result.get("samples").is_some_and(Value::is_array) {
        return;
    }
    out.push_str("<h2>Memory and processor time</h2>\n");
    if samples.len() < 2 {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "<p class=\"note\">{NO_LINES}</p>");
        return;
    }
    let percent = |points: Vec<(f64, f64)>| -> Vec<(f64, f64)> {
        let share = |pair: &[(f64, f64)]| {
            let [(from, before), (to, after)] = pair else { return None };
            (to > from).then(|| (*to, ((after - before) / (to - from) * 100.0).max(0.0)))
        };
        points.windows(2).filter_map(share).collect()
    };
    let mib = |points: Vec<(f64, f64)>| points.into_iter().map(|(at, kib)| (at, kib / 1_024.0)).collect();
    let plots: [(&'static str, Lines); 3] = [
        ("private memory, MiB", processes.map(|process| mib(read(process, "anonymous_kib"))).into()),
        ("processor, % of a core", processes.map(|process| percent(read(process, "cpu_s"))).into()),
        ("descriptors", processes.map(|process| read(process, "descriptors")).into()),
    ];
    for (label, lines) in plots {
        let all = || lines.iter().flatten();
        let (end, most) = all().fold((0.1_f64, 1.0_f64), |(t, v), (at, value)| (t.max(*at), v.max(*value)));
        let axes = (Axis::linear("s from the beginning", 0.0, end), Axis::linear(label, 0.0, most * 1.05));
        let mut plot = Plot::new((900.0, 230.0), axes.0, axes.1);
        for ((process, points), colour) in processes.iter().zip(&lines).zip(COLOURS) {
            plot.line(points, colour, false);
            plot.name(process.replace('_', " "), colour);
        }
        out.push_str(&plot.finish(&[]));
    }
}

fn markdown(title: &str, result: &Value, sections: &[Section]) -> String {
    let mut out = format!("# {title}\n\n");
    let flag = |name: &str| result.get(name).and_then(Value::as_bool);
    match flag("valid") {
        Some(true) => {}
        Some(false) => out.push_str("**INVALID**: these figures prove nothing.\n\n"),
        None => {
            let _ = writeln!(out, "{NOT_JUDGED}\n");
        }
    }
    if let Some(part) = part(result) {
        let _ = writeln!(out, "{part}\n");
    }
    if let Some(text) = result.get("too_few").and_then(Value::as_str) {
        let _ = writeln!(out, "**{text}**\n");
    }
    for complaint in texts(result, ["failures", "problems"]) {
        let _ = writeln!(out, "- {complaint}");
    }
    for section in sections {
        let _ = write!(out, "\n## {}\n\n| {} |\n", section.title, section.columns.join(" | "));
        let _ = writeln!(out, "|{}", "---|".repeat(section.columns.len()));
        for row in &section.rows {
            let cells: Vec<_> = row.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
            let _ = writeln!(out, "| {} |", cells.join(" | "));
        }
    }
    let fields = result.get("environment").cloned().unwrap_or_default();
    let _ = write!(out, "\n## What it ran on\n\n```json\n{fields:#}\n```\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// R8.4: too few rounds are said in the result, on its page and in its summary, and enough are not.
    #[test]
    fn r8_4_too_few_rounds_are_no_result() {
        assert_eq!((too_few(5), too_few(101)), (None, None));
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        for (rounds, is_said) in [(4, true), (5, false)] {
            pages(dir.path(), "x", &json!({"rounds": rounds, "too_few": too_few(rounds)})).unwrap();
            for file in ["report.html", "summary.md"] {
                assert_eq!(read(file).contains(TOO_FEW), is_said, "{file} of {rounds} rounds");
            }
        }
    }

    /// R8.4: a page praises nothing that nobody has judged.
    #[test]
    fn r8_4_a_page_says_what_was_judged() {
        let said = |valid: Value, problems: &[&str]| {
            let result = json!({"valid": valid, "problems": problems, "too_few": null});
            html("x", &result, &[])
        };
        let good = "No rule and no bound was broken.";
        assert!(said(json!(true), &[]).contains(good));
        for unknown in [said(json!(null), &[]), html("x", &json!({}), &[])] {
            assert!(unknown.contains(NOT_JUDGED) && !unknown.contains(good), "{unknown}");
        }
        assert!(said(json!(null), &["y"]).contains("Failed.</strong><ul><li>y"));
        assert!(said(json!(true), &["y"]).contains("Failed."));
        assert!(
            said(json!(false), &["y"]).contains("INVALID: these figures prove nothing.</strong><ul><li>y")
        );
    }

    /// R8.4: where a plot is missing a page says why; where none belongs it says nothing.
    #[test]
    fn r8_4_a_missing_plot_has_a_reason() {
        let one =
            json!({"at_s": 0.0, "control_plane": {"anonymous_kib": 1024, "cpu_s": 0.0, "descriptors": 5}});
        for samples in [json!([]), json!([one])] {
            assert!(html("x", &json!({"samples": samples}), &[]).contains(NO_LINES));
        }
        assert!(!html("x", &json!({}), &[]).contains("Memory and processor time"));
    }

    /// R8.4: every run leaves result, page and summary with verdict, figures and environment in one directory.
    #[test]
    fn r8_4_every_result_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let result = json!({
            "scenario": "x", "valid": false, "complete": false, "failures": ["a < b"], "minutes": 1.5,
            "churn": {"births": 3, "inner": {"deep": 1.25}},
            "phases": [{"name": "quiet", "each": {"p99_ms": 2.0}}, {"name": "loud|er", "extra": 1}],
            "samples": [
                {"at_s": 0.0, "control_plane": {"anonymous_kib": 1024, "cpu_s": 0.0, "descriptors": 5}},
                {"at_s": 1.0, "control_plane": {"anonymous_kib": 2048, "cpu_s": 0.5, "descriptors": 5}}
            ],
            "environment": {"kernel": "k", "ports": [{"port": "wan", "nic": "wan0", "driver": "veth"}]},
            "policy": "preset = \"edge\"",
        });
        pages(dir.path(), "A title", &result).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let html = read("report.html");
        for part in
            ["INVALID", "a &lt; b", "A part", "inner deep", "each p99 ms", "<svg", "driver: veth", "preset ="]
        {
            assert!(html.contains(part), "{part} is not in {html}");
        }
        assert!(!html.contains("NaN") && !html.contains("<script"));
        if let Some(browser) = crate::browser::find() {
            let picture = dir.path().join("page.png");
            let seen =
                crate::browser::open(&browser, &dir.path().join("report.html"), 1_000, &picture).unwrap();
            seen.judge().unwrap();
            assert_eq!(seen.plots, 3);
        }
        let summary = read("summary.md");
        assert!(
            summary.contains("**INVALID**") && summary.contains("| 1.25 |") && summary.contains("loud\\|er")
        );
    }
}
