//! `report.html`: one file with everything in it, to be read by a person; and `summary.md`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::aims::AimRow;
use super::beside;
use super::delays::Delays;
use super::paths;
use super::recorded::Recorded;
use super::result::{CauseResult, Report, Run};
use super::svg::{Axis, COLOURS, Plot};
use super::usage::Sample;
use crate::page::{self, escape, put};

pub(super) fn write(dir: &Path, report: &Report, run: &Run) -> Result<()> {
    put(&dir.join("report.html"), &html(report, run, &beside::section(dir)))?;
    put(&dir.join("summary.md"), &markdown(report))
}

fn html(report: &Report, run: &Run, beside: &str) -> String {
    let mut out = page::head("Jumping VPN: recovery of sessions");
    body(&mut out, report, run, beside);
    out.push_str("</body></html>\n");
    out
}

/// Everything of a page about one run but its head.
pub(super) fn body(out: &mut String, report: &Report, run: &Run, beside: &str) {
    verdict(out, report);
    if !report.aims.is_empty() {
        out.push_str("<h2>Aims</h2>\n");
        aims(out, &report.aims);
    }
    out.push_str("<h2>Figures</h2>\n");
    table(out, report);
    for rtt in rtts(report) {
        let ours: Vec<_> = report.causes.iter().filter(|one| one.rtt_ms == rtt).collect();
        let _ = write!(
            out,
            "<h2>Outages at a round-trip time of {rtt} ms</h2>\n<h3>Distribution</h3>{}",
            cdf(&ours)
        );
        let _ = writeln!(
            out,
            "<h3>p50, p95, p99 and longest</h3>{}<p class=\"note\">Dark: p50; lighter: p95, p99; thin line: the \
             longest; whisker: 95 % confidence interval of p99; orange: what is aimed at for p99.</p>",
            bars(&ours)
        );
    }
    out.push_str(beside);
    out.push_str(
        "<h2>The slowest recovery of each cause, packet by packet</h2>\n<p class=\"note\">Each dot is a probe: when it \
         was sent, and how long it was on its way. Probes that the client held while it had no path lie on a slope. Red \
         strokes are probes that were lost.</p>\n",
    );
    let mut timelines: Vec<_> = run.timelines.iter().collect();
    timelines.sort_by_key(|one| (one.rtt_ms, one.cause));
    timelines.into_iter().for_each(|one| packets(out, one));
    out.push_str("<h2>Memory and processor time</h2>\n");
    usage(out, &run.usage);
    environment(out, report);
}

/// The table of aims.
pub(crate) fn aims(out: &mut String, aims: &[AimRow]) {
    out.push_str(
        "<div class=\"wide\"><table><tr><th>what</th><th>measured</th><th>at most</th><th>seen</th><th>trials</th>\
         <th>verdict</th></tr>\n",
    );
    for row in aims {
        let class = if row.met { "met" } else { "missed" };
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"{class}\">{}</td></tr>",
            escape(&row.what),
            escape(&row.measure),
            ms(row.at_most),
            ms(row.seen),
            row.trials.map_or("–".to_owned(), |trials| trials.to_string()),
            row.word()
        );
    }
    out.push_str("</table></div>\n");
}

fn verdict(out: &mut String, report: &Report) {
    if report.valid {
        let _ = writeln!(
            out,
            "<p class=\"good\">Valid: lives of the gateway: {}; {} audit events judged, {} frames watched on its wire; \
             no rule broken, no frame of an old binding behind its unbind, everybody came back.</p>",
            report.lives.len(),
            report.lives.iter().map(|life| life.audit_events).sum::<u64>(),
            report.lives.iter().map(|life| life.data_seen).sum::<u64>()
        );
    } else {
        out.push_str("<div class=\"bad\"><strong>INVALID.</strong> These figures prove nothing:<ul>");
        for problem in report.problems.iter().take(50) {
            let _ = write!(out, "<li>{}</li>", escape(problem));
        }
        out.push_str("</ul></div>\n");
    }
    if !report.complete {
        let why = report.broken_off.as_deref().unwrap_or("less was run than asked for");
        let _ = writeln!(out, "<p class=\"part\">A part of what was asked for: {}</p>", escape(why));
    }
}

fn rtts(report: &Report) -> Vec<u64> {
    let mut rtts: Vec<_> = report.causes.iter().map(|one| one.rtt_ms).collect();
    rtts.dedup();
    rtts
}

const COLUMNS: [&str; 14] = [
    "cause",
    "RTT",
    "trials",
    "detect",
    "reattach",
    "p50",
    "p95",
    "p99",
    "max",
    "TCP lived",
    "TCP stall",
    "lost",
    "octets lost",
    "aim",
];

fn cells(one: &CauseResult) -> [String; 14] {
    let maybe = |value: Option<f64>| value.map_or("–".to_owned(), ms);
    let with = |value: f64, [low, high]: [f64; 2]| format!("{} [{}–{}]", ms(value), ms(low), ms(high));
    [
        one.cause.name().to_owned(),
        one.rtt_ms.to_string(),
        if u64::from(one.incidents) == one.trials {
            one.trials.to_string()
        } else {
            format!("{} in {}", one.trials, one.incidents)
        },
        maybe(one.detect_p50_ms),
        maybe(one.reattach_p50_ms),
        with(one.outage_p50_ms, one.outage_p50_ci95_ms),
        with(one.outage_p95_ms, one.outage_p95_ci95_ms),
        with(one.outage_p99_ms, one.outage_p99_ci95_ms),
        ms(one.outage_max_ms),
        format!("{} of {}", one.tcp_survived, one.trials),
        ms(one.tcp_stall_p50_ms),
        format!("{:.0} / {:.0}", one.lost_up_mean, one.lost_down_mean),
        format!("{:.0}", one.goodput_lost_octets_mean),
        aim(one),
    ]
}

/// As exact as a reader can use it.
fn ms(value: f64) -> String {
    if value < 99.95 { format!("{value:.1}") } else { format!("{value:.0}") }
}

fn aim(one: &CauseResult) -> String {
    let Some(aim) = &one.aim else { return "–".to_owned() };
    let number = |field: &str| aim.get(field).and_then(Value::as_f64);
    let mut parts = Vec::new();
    parts.extend(number("p50_ms").map(|most| format!("p50 ≤ {most:.0}")));
    parts.extend(number("p99_ms").map(|most| format!("p99 ≤ {most:.0}")));
    parts.extend(number("lost_max").map(|most| format!("lost ≤ {most:.0}")));
    let verdict = if one.aim_met == Some(true) { "met" } else { "missed" };
    format!("{}: {verdict}", parts.join(", "))
}

fn table(out: &mut String, report: &Report) {
    out.push_str("<div class=\"wide\"><table><tr>");
    COLUMNS.iter().for_each(|name| {
        let _ = write!(out, "<th>{name}</th>");
    });
    out.push_str("</tr>\n");
    for one in &report.causes {
        out.push_str("<tr>");
        let class = match one.aim_met {
            Some(true) => " class=\"met\"",
            Some(false) => " class=\"missed\"",
            None => "",
        };
        for (index, cell) in cells(one).iter().enumerate() {
            let class = if index + 1 == COLUMNS.len() { class } else { "" };
            // An interval goes below its value: side by side they would not fit.
            let cell = escape(cell).replace(" [", "<br><small>[").replace(']', "]</small>");
            let _ = write!(out, "<td{class}>{cell}</td>");
        }
        out.push_str("</tr>\n");
    }
    out.push_str(
        "</table></div>\n<p class=\"note\">ms. Outage: longest silence of a 1 kHz stream of probes, the worse of both \
         directions. Detect, reattach and TCP stall: medians. \
         Trials: so many in so many incidents, where one strikes all clients. In brackets: 95 % confidence intervals, bootstrap over incidents; an interval of p99 that ends at the \
         longest value says that there were too few trials to know more. TCP lived: the stream went on and delivered \
         everything. Lost: probes per trial, up / down, each a millisecond of goodput; octets lost: \
         their payload, both ways. Every probe has 32 octets, TCP loses none but delivers later.</p>\n",
    );
}

fn cdf(causes: &[&CauseResult]) -> String {
    let longest = causes.iter().map(|one| one.outage_max_ms).fold(1.0, f64::max);
    let x = Axis::log("outage, ms", 1.0, longest);
    let mut plot = Plot::new((900.0, 340.0), x.clone(), Axis::linear("share of trials", 0.0, 1.0));
    for (one, colour) in causes.iter().zip(COLOURS.iter().cycle()) {
        let mut values = one.outages_ms.clone();
        values.sort_by(f64::total_cmp);
        let count = values.len() as f64;
        let mut points = vec![(x.min, 0.0)];
        points.extend(values.iter().enumerate().map(|(rank, value)| (*value, (rank + 1) as f64 / count)));
        points.push((x.max, 1.0));
        plot.line(&points, colour, true);
        plot.name(one.cause.name(), colour);
    }
    plot.finish(&[])
}

fn bars(causes: &[&CauseResult]) -> String {
    let aim = |one: &CauseResult| one.aim.as_ref().and_then(|aim| aim.get("p99_ms")).and_then(Value::as_f64);
    let longest = causes.iter().map(|one| one.outage_max_ms.max(aim(one).unwrap_or(0.0))).fold(1.0, f64::max);
    let rows = causes.len();
    let size = (900.0, 70.0 + 34.0 * rows as f64);
    let mut plot = Plot::new(size, Axis::log("outage, ms", 1.0, longest), Axis::linear("", 0.0, 1.0));
    for (row, one) in causes.iter().enumerate() {
        for (value, opacity) in
            [(one.outage_p99_ms, 0.25), (one.outage_p95_ms, 0.4), (one.outage_p50_ms, 0.85)]
        {
            plot.bar((row, rows), value, "#0072b2", opacity);
        }
        plot.whisker((row, rows), [one.outage_max_ms; 2]);
        plot.whisker((row, rows), one.outage_p99_ci95_ms);
        if let Some(aim) = aim(one) {
            plot.tick((row, rows), aim, "#e67e00");
        }
    }
    let names: Vec<_> = causes.iter().map(|one| one.cause.name().to_owned()).collect();
    plot.finish(&names)
}

fn packets(out: &mut String, one: &Recorded) {
    let _ = writeln!(
        out,
        "<h3>{} at {} ms: {:.1} ms of silence (incident {}, client {})</h3>",
        one.cause, one.rtt_ms, one.outage_ms, one.incident, one.client
    );
    for (name, lane, colour) in
        [("client to LAN", &one.up, COLOURS[0]), ("LAN to client", &one.down, COLOURS[2])]
    {
        let points: Vec<_> =
            lane.iter().filter_map(|(sent, arrived)| Some((*sent, (*arrived)? - sent))).collect();
        let lost: Vec<_> =
            lane.iter().filter(|(_, arrived)| arrived.is_none()).map(|(sent, _)| *sent).collect();
        let from = lane.first().map_or(0.0, |(sent, _)| *sent);
        let to = lane.last().map_or(1.0, |(sent, _)| *sent);
        let slowest = points.iter().map(|(_, way)| *way).fold(1.0, f64::max);
        let mut plot = Plot::new(
            (900.0, 190.0),
            Axis::linear("sent, ms from the incident", from, to),
            Axis::linear("on its way, ms", 0.0, slowest * 1.15),
        );
        plot.strokes(&lost, "#c0392b");
        plot.dots(&points, colour);
        plot.upright(0.0, "incident", 0);
        if let Some(detect) = one.detect_ms {
            plot.upright(detect, "decision", 1);
            if let Some(reattach) = one.reattach_ms {
                plot.upright(detect + reattach, "new binding", 2);
            }
        }
        plot.name(format!("{name}: {} arrived", points.len()), colour);
        plot.name(format!("{} lost", lost.len()), "#c0392b");
        out.push_str(&plot.finish(&[]));
        out.push('\n');
    }
}

/// What of a sample is plotted.
type Reading = fn(&Sample) -> f64;

fn usage(out: &mut String, samples: &[Sample]) {
    let mut by_process: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        by_process.entry(&sample.process).or_default().push(sample);
    }
    if !by_process.values().any(|looks| looks.len() > 1) {
        let _ = writeln!(out, "<p class=\"note\">{}</p>", page::NO_LINES);
        return;
    }
    let end = samples.iter().map(|sample| sample.at_s).fold(0.1, f64::max);
    let most = |value: fn(&Sample) -> f64| samples.iter().map(value).fold(1.0, f64::max) * 1.05;
    let memory: Reading = |sample| sample.rss_kib as f64 / 1_024.0;
    let plots = [("resident memory, MiB", memory), ("processor, % of a core", |sample| sample.cpu_percent)];
    for (label, value) in plots {
        let axes = (Axis::linear("s from the beginning", 0.0, end), Axis::linear(label, 0.0, most(value)));
        let mut plot = Plot::new((900.0, 230.0), axes.0, axes.1);
        for ((process, samples), colour) in by_process.iter().zip(COLOURS.iter().cycle()) {
            let points: Vec<_> = samples.iter().map(|sample| (sample.at_s, value(sample))).collect();
            plot.line(&points, colour, false);
            plot.name((*process).to_owned(), colour);
        }
        out.push_str(&plot.finish(&[]));
    }
    out.push_str(
        "<p class=\"note\">jvpn: one client of several. jvpn-bench: emulator, probes and TCP streams of all clients.</p>\n",
    );
}

fn environment(out: &mut String, report: &Report) {
    out.push_str("<h2>What it ran on</h2>\n");
    page::environment(out, &report.environment);
    out.push_str("<table>");
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(out, "<tr><td>{name}</td><td class=\"env\">{}</td></tr>", escape(value));
    };
    row("profile", &report.profile);
    row("delays", delays_word(report));
    row("seed", &report.seed.to_string());
    row("clients at once", &report.clients.to_string());
    row("took", &format!("{:.0} s", report.took_s));
    for life in &report.lives {
        let late = life.emulator_late as f64 / life.emulator_frames.max(1) as f64 * 1e2;
        row(
            &format!("emulator at {} ms", life.rtt_ms),
            &format!(
                "{} frames, {late:.3} % left more than 1 ms late, the latest by {:.1} ms",
                life.emulator_frames,
                life.emulator_late_max_us as f64 / 1e3
            ),
        );
        for (what, text) in paths::sums(&life.paths) {
            row(&format!("paths at {} ms, {what}", life.rtt_ms), &text);
        }
    }
    let _ = write!(out, "</table>\n<p>Policy of the gateway:</p><pre>{}</pre>\n", escape(&report.policy));
    let _ = writeln!(out, "<p>Profile of the paths:</p><pre>{}</pre>", escape(&report.profile_text));
}

const fn delays_word(report: &Report) -> &'static str {
    match report.delays {
        Delays::Asked => "as asked for, half of the round-trip time each way",
        Delays::Profile => "the profile's own",
    }
}

fn markdown(report: &Report) -> String {
    let mut out = "# Recovery of sessions\n\n".to_owned();
    if !report.valid {
        out.push_str("**INVALID**: these figures prove nothing.\n\n");
        report.problems.iter().take(20).for_each(|problem| {
            let _ = writeln!(out, "- {problem}");
        });
        out.push('\n');
    }
    if !report.complete {
        out.push_str("A part of what was asked for.\n\n");
    }
    let _ = writeln!(
        out,
        "Profile {} (delays: {}), preset {}, seed {}, {} clients at once; ms, 95 % confidence intervals in brackets.\n",
        report.profile,
        delays_word(report),
        report.preset,
        report.seed,
        report.clients
    );
    out.push_str(&figures_markdown(&report.causes));
    out.push_str(&aims_markdown(&report.aims));
    out.push_str("\n## What the emulated paths did\n\nFrames; what incidents took is among it.\n\n");
    for life in &report.lives {
        for (what, text) in paths::sums(&life.paths) {
            let _ = writeln!(out, "- at {} ms, {what}: {text}", life.rtt_ms);
        }
    }
    let _ = write!(out, "\n## What it ran on\n\n```json\n{:#}\n```\n", report.environment);
    out
}

/// The figures as Markdown.
pub(crate) fn figures_markdown(causes: &[CauseResult]) -> String {
    let mut out = format!("| {} |\n|{}\n", COLUMNS.join(" | "), "---|".repeat(COLUMNS.len()));
    for one in causes {
        let _ = writeln!(out, "| {} |", cells(one).join(" | "));
    }
    out
}

/// The table of aims as Markdown; nothing if there are none.
pub(crate) fn aims_markdown(aims: &[AimRow]) -> String {
    if aims.is_empty() {
        return String::new();
    }
    let mut out =
        "\n## Aims\n\n| what | measured | at most | seen | trials | verdict |\n|---|---|---|---|---|---|\n"
            .to_owned();
    for row in aims {
        let trials = row.trials.map_or("–".to_owned(), |trials| trials.to_string());
        let (most, seen) = (ms(row.at_most), ms(row.seen));
        let _ =
            writeln!(out, "| {} | {} | {most} | {seen} | {trials} | {} |", row.what, row.measure, row.word());
    }
    out
}
