//! `jvpn-bench compare`: two results of one verb, figure by figure: better, worse, or no more than noise.
//!
//! `recovery` and `suite` have a comparison of their own, by cause. Of every other verb a table says which figures its
//! results have and what must be the same in both. A figure that was measured in rounds is judged by them: it differs if a
//! rank test says so and the median moved by more than 5 %. With five rounds on each side that means that no round of one
//! is as good as the worst of the other. Of a figure without rounds nothing tells the noise, and nothing is said of it.

mod verbs;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::page;
use crate::scenarios::recovery;
use crate::scenarios::recovery::compare::text_difference;
use crate::scenarios::recovery::stats::{mann_whitney, median};
use crate::timeline::print;
use verbs::{Table, VERBS, Verb};

/// Chance that rounds which are alike look different, for each figure. Five rounds against five that lie apart come to
/// 0.012; corrected for the number of figures, five would never be enough.
const ALPHA: f64 = 0.02;
/// A smaller shift of the median means nothing.
const LEAST_SHARE: f64 = 0.05;

/// What is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    More,
    Less,
}

/// What was measured of one thing.
#[derive(Clone, Debug, PartialEq)]
struct Figure {
    /// With its unit.
    name: String,
    better: Better,
    /// Every round; one alone if it is no matter of rounds.
    samples: Vec<f64>,
}

/// What can be said of a figure that both have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Better,
    Worse,
    Noise,
    /// Each run has one.
    Single,
    /// Too few rounds tell nothing.
    TooFew,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "WORSE",
            Self::Noise => "within noise",
            Self::Single => "one figure each: noise unknown",
            Self::TooFew => "fewer than 5 rounds: noise unknown",
        }
    }
}

/// Compares two results, each named by its file or its directory, and prints what comes of it.
///
/// # Errors
/// A file is missing, damaged, INVALID, or of a verb without comparable figures; they are of two verbs; they were measured
/// under different conditions; nothing is in both.
pub fn run(before: &Path, after: &Path) -> Result<()> {
    let (a, b) = (load(before)?, load(after)?);
    let is_apart = |result: &Value| matches!(scenario(result), "recovery" | "suite");
    if is_apart(&a) && is_apart(&b) {
        return recovery::compare::run(before, after);
    }
    let lines = compare((before, &a), (after, &b))?;
    lines.iter().for_each(|line| print(&format!("  {line}")));
    Ok(())
}

fn load(path: &Path) -> Result<Value> {
    let path = if path.is_dir() { path.join("result.json") } else { path.to_owned() };
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is no result that can be compared", path.display()))
}

fn scenario(result: &Value) -> &str {
    result.get("scenario").and_then(Value::as_str).unwrap_or("nothing that is known here")
}

/// All lines.
fn compare((one, a): (&Path, &Value), (other, b): (&Path, &Value)) -> Result<Vec<String>> {
    let (name, second) = (scenario(a), scenario(b));
    ensure!(
        name == second,
        "{} is a result of `{name}`, {} of `{second}`: two of one verb compare",
        one.display(),
        other.display()
    );
    let known = || VERBS.iter().map(|verb| verb.scenario).collect::<Vec<_>>().join(", ");
    let Some(verb) = VERBS.iter().find(|verb| verb.scenario == name) else {
        bail!("results of `{name}` have no figures to be compared; there are: recovery, suite, {}", known())
    };
    for (path, result) in [(one, a), (other, b)] {
        let is_invalid = result.get("valid").and_then(Value::as_bool) == Some(false);
        ensure!(!is_invalid, "{} is INVALID: it proves nothing", path.display());
    }
    let differences = differences(verb, a, b);
    ensure!(
        differences.is_empty(),
        "measured under different conditions, which no figure survives: {}; measure one of them again like the other",
        differences.join("; ")
    );
    let (first, then) = (figures(verb, a), figures(verb, b));
    let pairs: Vec<_> = first
        .iter()
        .filter_map(|one| Some((one, then.iter().find(|other| other.name == one.name)?)))
        .collect();
    ensure!(!pairs.is_empty(), "no figure is in both: {}", alone(&first, &then).join("; "));
    let mut lines = notes(a, b);
    lines.extend(alone(&first, &then));
    lines.extend(table(&pairs));
    lines.push(format!(
        "Medians of the rounds. Better or worse: Mann–Whitney U over the rounds of a figure, two-sided, p < {ALPHA}, and a \
         median that moved by more than {:.0} %. Two of a hundred figures that are alike may look different; what changes \
         from run to run is not in the rounds of one.",
        LEAST_SHARE * 100.0
    ));
    Ok(lines)
}

/// What of the conditions is not the same in both.
fn differences(verb: &Verb, a: &Value, b: &Value) -> Vec<String> {
    let at = |result: &Value, path: &str| match result.pointer(&format!("/{path}")) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    let difference = |path: &&str| {
        let (one, other) = (at(a, path), at(b, path));
        (one != other).then(|| format!("{} {}", path.replace(['/', '_'], " "), text_difference(&one, &other)))
    };
    verb.conditions.iter().filter_map(difference).collect()
}

/// What a reader has to know before the figures.
fn notes(a: &Value, b: &Value) -> Vec<String> {
    let text = |result: &Value, path: &str| result.pointer(path).map(Value::to_string).unwrap_or_default();
    let mut lines = Vec::new();
    for what in ["build", "cpu", "cpus", "kernel"] {
        let [one, other] = [a, b].map(|result| text(result, &format!("/environment/{what}")));
        if one != other {
            lines.push(format!("note: {what} differs: {one}, then {other}"));
        }
    }
    for (result, place) in [(a, "first"), (b, "second")] {
        if result.get("complete").and_then(Value::as_bool) == Some(false) {
            lines.push(format!("note: the {place} is a part of what was asked for"));
        }
    }
    lines
}

/// The figures that are in one of both only, a line each.
fn alone(first: &[Figure], then: &[Figure]) -> Vec<String> {
    let mut lines = Vec::new();
    for (own, there, place) in [(first, then, "first"), (then, first, "second")] {
        let alone = own.iter().filter(|one| !there.iter().any(|other| other.name == one.name));
        lines.extend(alone.map(|one| format!("not compared: {} is in the {place} only", one.name)));
    }
    lines
}

/// Every figure of a result that has a value, in its order.
fn figures(verb: &Verb, result: &Value) -> Vec<Figure> {
    let mut all: Vec<Figure> = Vec::new();
    for Table { rows, keys, figures } in verb.tables {
        let there = if rows.is_empty() { Some(result) } else { result.get(rows) };
        let rows = match there {
            Some(Value::Array(rows)) => rows.iter().collect(),
            Some(row) => vec![row],
            None => Vec::new(),
        };
        for row in rows {
            let words: Vec<_> = keys.iter().filter_map(|key| word(key, row.get(key)?)).collect();
            for (label, path, unit, better) in *figures {
                let path: Vec<_> = path.split('/').collect();
                collect(row, &path, label, &mut |label, samples| {
                    let words = words.iter().cloned().chain([label]).filter(|word| !word.is_empty());
                    let name = format!("{} [{unit}]", words.collect::<Vec<_>>().join(", "));
                    match all.iter_mut().find(|known| known.name == name) {
                        Some(known) => known.samples.extend(samples),
                        None => all.push(Figure { name, better: *better, samples }),
                    }
                });
            }
        }
    }
    all
}

/// What tells a row: a word speaks for itself, a number needs its name.
fn word(key: &str, value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(format!("{} {number}", key.replace('_', " "))),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Hands over the numbers at a path, with what the figure is called there.
fn collect(value: &Value, path: &[&str], label: &str, take: &mut impl FnMut(String, Vec<f64>)) {
    match path {
        [] => {
            let samples: Vec<_> = match value.as_array() {
                Some(rounds) => rounds.iter().filter_map(Value::as_f64).collect(),
                None => value.as_f64().into_iter().collect(),
            };
            if !samples.is_empty() {
                take(label.to_owned(), samples);
            }
        }
        ["*", rest @ ..] => {
            for (field, value) in value.as_object().into_iter().flatten() {
                let label = format!("{label} {}", field.replace('_', " "));
                collect(value, rest, label.trim_start(), take);
            }
        }
        [field, rest @ ..] => {
            if let Some(value) = value.get(field) {
                collect(value, rest, label, take);
            }
        }
    }
}

fn judge(one: &Figure, other: &Figure) -> Verdict {
    let (before, after) = (one.samples.len(), other.samples.len());
    if before == 1 && after == 1 {
        return Verdict::Single;
    }
    if page::too_few_of(before.min(after)).is_some() {
        return Verdict::TooFew;
    }
    let (from, to) = (median(&one.samples), median(&other.samples));
    let is_apart = mann_whitney(&one.samples, &other.samples) < ALPHA;
    if !is_apart || (to - from).abs() <= LEAST_SHARE * from.abs() {
        return Verdict::Noise;
    }
    match (to > from, one.better) {
        (true, Better::More) | (false, Better::Less) => Verdict::Better,
        (true, Better::Less) | (false, Better::More) => Verdict::Worse,
    }
}

fn table(pairs: &[(&Figure, &Figure)]) -> Vec<String> {
    let width = pairs.iter().map(|(one, _)| one.name.chars().count()).max().unwrap_or_default();
    let head =
        format!("{:<width$}{:>14}{:>14}{:>9}{:>11}  verdict", "figure", "first", "second", "ratio", "rounds");
    let line = |(one, other): &(&Figure, &Figure)| {
        let (from, to) = (median(&one.samples), median(&other.samples));
        let ratio = if from == 0.0 { "–".to_owned() } else { format!("{:.3}", to / from) };
        let rounds = format!("{} / {}", one.samples.len(), other.samples.len());
        let (from, to, verdict) = (shown(from), shown(to), judge(one, other).name());
        format!("{:<width$}{from:>14}{to:>14}{ratio:>9}{rounds:>11}  {verdict}", one.name)
    };
    [head].into_iter().chain(pairs.iter().map(line)).collect()
}

/// As many digits as mean something.
fn shown(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests;
