//! Rules on plain text: length, unfinished places, leaks of the workplace, requirement IDs.

use super::{Finding, at};

/// A longer file asks to be cut at a joint.
const LINES_ASKED: usize = 600;
/// A longer file is not accepted.
const LINES_MAX: usize = 900;

/// Marks of an unfinished place; written in two parts, so that this file does not find itself.
const MARKS: [&str; 5] = [
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("FIX", "ME"),
    concat!("TO", "DO"),
    concat!("XX", "X"),
];

pub(super) fn length(path: &str, text: &str) -> Option<Finding> {
    let lines = text.lines().count();
    if lines > LINES_MAX {
        Some(Finding::failure(path, format!("{lines} lines, more than {LINES_MAX}: cut it at a joint")))
    } else if lines > LINES_ASKED {
        Some(Finding::warning(
            path,
            format!("{lines} lines, more than {LINES_ASKED}: is there a joint to cut it at?"),
        ))
    } else {
        None
    }
}

pub(super) fn unfinished(path: &str, text: &str) -> Vec<Finding> {
    lines_with(text, |line| MARKS.into_iter().find(|mark| contains_word(line, mark)))
        .map(|(line, mark)| Finding::failure(at(path, line), format!("`{mark}` is an unfinished place")))
        .collect()
}

/// Paths and package hosts of the machine on which a line was written mean nothing on the next one.
pub(super) fn leaks(path: &str, text: &str) -> Vec<Finding> {
    lines_with(text, leak)
        .map(|(line, what)| {
            Finding::failure(at(path, line), format!("`{what}` belongs to one machine, not in the tree"))
        })
        .collect()
}

fn leak(line: &str) -> Option<String> {
    const TOP_DIRECTORIES: [&str; 3] = ["work", "farm", "root"];
    const HOSTS: [&str; 5] = ["deb", "index", "static", "registry", "files"];
    let path = TOP_DIRECTORIES.iter().map(|name| format!("/{name}/")).find(|needle| {
        line.match_indices(needle.as_str()).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '.')
        })
    });
    let host = || {
        HOSTS.iter().map(|name| format!("://{name}.")).find(|needle| {
            let after = |at: usize| line[at + needle.len()..].chars().next();
            line.match_indices(needle.as_str())
                .any(|(at, _)| after(at).is_some_and(|c| c.is_ascii_lowercase()))
        })
    };
    path.or_else(host)
}

/// A test that cites a requirement (`R1.1`) cites one that the traceability table has.
pub(super) fn unknown_requirements(path: &str, text: &str, traceability: &str) -> Vec<Finding> {
    let known: Vec<&str> = traceability.lines().flat_map(requirement_ids).collect();
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for id in requirement_ids(line).filter(|id| !known.contains(id)) {
            findings.push(Finding::failure(at(path, number), format!("{id} is not in docs/TRACEABILITY.md")));
        }
    }
    findings
}

/// The words of the form `R<digits>.<digits>` in a line.
fn requirement_ids(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_')).filter_map(|word| {
        let word = word.trim_end_matches('.');
        let (row, column) = word.strip_prefix('R')?.split_once('.')?;
        let number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        (number(row) && number(column)).then_some(word)
    })
}

fn lines_with<T>(text: &str, mut found: impl FnMut(&str) -> Option<T>) -> impl Iterator<Item = (usize, T)> {
    text.lines().enumerate().filter_map(move |(number, line)| found(line).map(|what| (number, what)))
}

fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let in_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !in_word(before) && (word.ends_with('(') || !in_word(after))
    })
}

#[cfg(test)]
mod tests {
    use super::super::Weight;
    use super::*;

    #[test]
    fn long_files_are_asked_about_and_longer_ones_refused() {
        assert_eq!(length("a.rs", &"x\n".repeat(600)), None);
        assert_eq!(length("a.rs", &"x\n".repeat(601)).unwrap().weight, Weight::Warning);
        assert_eq!(length("a.rs", &"x\n".repeat(901)).unwrap().weight, Weight::Failure);
    }

    #[test]
    fn unfinished_places_are_found_as_words() {
        let [to_do_macro, _, fix_me, to_do, _] = MARKS;
        let text =
            format!("fn f() {{\n    {to_do_macro}\"later\")\n}}\n// {fix_me}: later\nlet {to_do}S = 1;");
        let places: Vec<_> = unfinished("a.rs", &text).into_iter().map(|f| f.place).collect();
        assert_eq!(places, ["a.rs:2", "a.rs:4"]);
    }

    #[test]
    fn paths_and_hosts_of_a_workplace_are_leaks() {
        for name in ["work", "farm", "root"] {
            assert_eq!(leaks("a", &format!("cd /{name}/main")).len(), 1, "{name}");
            assert_eq!(leaks("a", &format!("\"$top/{name}/main\"\n")).len(), 0, "{name}");
            assert_eq!(leaks("a", &format!("../{name}/main")).len(), 0, "{name}");
        }
        assert_eq!(leaks("a", &format!("https://{}.example.org/x", "registry")).len(), 1);
        assert_eq!(leaks("a", "https://docs.rs/files.html and /usr/lib/llvm-22").len(), 0);
    }

    #[test]
    fn cited_requirements_must_exist() {
        let table = "| R1.1 | test | command |\n| R10.5 | … |";
        assert!(unknown_requirements("a.rs", "/// R1.1, R10.5.", table).is_empty());
        let findings = unknown_requirements("a.rs", "//\n/// Proves R1.2 (and R1.1)", table);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].place, "a.rs:2");
        assert!(requirement_ids("SR1.1 R1 R1.x R.1 0R1.1").next().is_none());
    }
}
