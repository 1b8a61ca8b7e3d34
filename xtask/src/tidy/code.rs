//! Rules on code: where `unsafe` may stand, and what `#[ignore]` may mean.

use super::{Finding, at};

/// Where memory is mapped, rings are worked and the kernel is called by number; everything else is safe Rust.
const UNSAFE_ISLANDS: [&str; 12] = [
    "bench/loom/src/guarded.rs",
    "bench/rig/",
    "common/crypto/tests/no_allocation.rs",
    "common/tables/",
    "dataplane/src/attach",
    "dataplane/src/pins.rs",
    "dataplane/src/pipeline/look_ahead.rs",
    "dataplane/src/plan/ethtool.rs",
    "dataplane/src/port",
    "dataplane/tests/no_allocation.rs",
    "dataplane/tests/window_pool/stores.rs",
    "xdp-ebpf/",
];

/// The only reasons for which a test may be left out of a plain `cargo test`: it needs privilege, or it is a process
/// that another test starts and does nothing otherwise.
const IGNORE_REASONS: [&str; 2] = ["needs root", "helper of"];

/// Where keys of another Diffie-Hellman than X25519 may be made: where they are defined, and where worlds are simulated.
const SIMULATED_KEYS: [&str; 2] = ["common/crypto/src/", "bench/src/simulation/"];

/// A simulated key anywhere else would be one in a product (docs/decisions/0020). `code` is the text without comments and
/// strings.
pub(super) fn simulated_keys(path: &str, code: &str) -> Vec<Finding> {
    const NAMES: [&str; 2] = ["simulated", "Agreement"];
    if SIMULATED_KEYS.iter().any(|place| path.starts_with(place)) {
        return Vec::new();
    }
    code.lines()
        .enumerate()
        .filter(|(_, line)| words(line).any(|word| NAMES.contains(&word)))
        .map(|(number, _)| {
            let text = "keys of another Diffie-Hellman are for the simulation (xtask/src/tidy/code.rs)";
            Finding::failure(at(path, number), text)
        })
        .collect()
}

/// `code` is the text without comments and strings.
pub(super) fn unsafe_outside_islands(path: &str, code: &str) -> Vec<Finding> {
    if UNSAFE_ISLANDS.iter().any(|island| path.starts_with(island)) {
        return Vec::new();
    }
    code.lines()
        .enumerate()
        .filter(|(_, line)| words(line).any(|word| word == "unsafe"))
        .map(|(number, _)| {
            Finding::failure(
                at(path, number),
                "unsafe outside its islands (xtask/src/tidy/code.rs names them)",
            )
        })
        .collect()
}

/// `cargo xtask test` runs ignored tests as root, one at a time: an ignored test is one that needs that, and a namespace
/// test (in a file `ns_*.rs`) is one of them.
pub(super) fn ignored_tests(path: &str, text: &str) -> Vec<Finding> {
    let namespace_test =
        path.contains("/tests/") && path.rsplit('/').next().is_some_and(|name| name.starts_with("ns_"));
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let reasoned =
        |line: &str| IGNORE_REASONS.iter().any(|why| line.starts_with(&format!("#[ignore = \"{why}")));
    let mut findings = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        if line.starts_with("#[ignore") && !reasoned(line) {
            let text = format!("#[ignore] gives a reason that begins with one of {IGNORE_REASONS:?}");
            findings.push(Finding::failure(at(path, number), text));
        }
        if namespace_test && *line == "#[test]" && !has_attribute(&lines, number, "#[ignore") {
            let text = format!("a namespace test is marked #[ignore = \"{}…\"]", IGNORE_REASONS[0]);
            findings.push(Finding::failure(at(path, number), text));
        }
    }
    findings
}

/// Whether the run of attributes around line `at` has one that begins with `attribute`.
fn has_attribute(lines: &[&str], at: usize, attribute: &str) -> bool {
    let is_attribute = |line: &&&str| line.starts_with("#[") || line.starts_with("//");
    let above = lines[..at].iter().rev().take_while(is_attribute);
    let below = lines[at..].iter().take_while(is_attribute);
    above.chain(below).any(|line| line.starts_with(attribute))
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_alphanumeric() || c == '_'))
}

/// The text with comments and the contents of strings and characters blanked; lines stay where they are.
pub(super) fn without_comments_and_strings(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut previous = ' ';
    while let Some(first) = rest.chars().next() {
        let length = blank_length(rest, previous);
        let (taken, left) = rest.split_at(length.unwrap_or(first.len_utf8()));
        if length.is_some() {
            out.extend(taken.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        } else {
            out.push(first);
        }
        previous = first;
        rest = left;
    }
    out
}

/// Length of the comment, string or character that `rest` begins with, if it begins with one.
fn blank_length(rest: &str, previous: char) -> Option<usize> {
    let in_word = previous.is_alphanumeric() || previous == '_';
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment_length(rest));
    }
    if rest.starts_with('"') {
        return Some(quoted_length(rest, '"'));
    }
    if rest.starts_with('\'') && is_character(rest) {
        return Some(quoted_length(rest, '\''));
    }
    let raw = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r')).filter(|_| !in_word)?;
    let hashes = raw.bytes().take_while(|b| *b == b'#').count();
    if !raw[hashes..].starts_with('"') {
        return None;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let start = rest.len() - raw.len() + hashes + 1;
    Some(rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len()))
}

/// A quote that opens a character, and not a lifetime.
fn is_character(rest: &str) -> bool {
    let mut chars = rest.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) => true,
        (Some(_), Some(second)) => second == '\'',
        _ => false,
    }
}

fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return at + c.len_utf8();
        }
    }
    rest.len()
}

fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        let tail = &rest.as_bytes()[at..];
        if tail.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if tail.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_are_blanked() {
        let text = "let a = \"un\\\"safe\"; // unsafe\nlet b = r#\"un\"safe\"#; /* a /* b */ unsafe */ let c = '\"'; x::<'a>(y);";
        let code = without_comments_and_strings(text);
        assert!(!code.contains("safe"), "{code}");
        assert!(
            code.contains("let b =") && code.contains("let c =") && code.contains("x::<'a>(y);"),
            "{code}"
        );
        assert_eq!(code.lines().count(), 2);
        assert_eq!(without_comments_and_strings("a\n/* ä\n */ b '\\'' c"), "a\n    \n    b      c");
        assert_eq!(without_comments_and_strings("\"open"), "     ");
    }

    #[test]
    fn unsafe_is_for_the_islands() {
        let code = "#![forbid(unsafe_code)]\nfn f() { unsafe { g() } }\n";
        assert_eq!(
            unsafe_outside_islands("dataplane/src/worker.rs", code)[0].place,
            "dataplane/src/worker.rs:2"
        );
        assert!(unsafe_outside_islands("dataplane/src/port/ring.rs", code).is_empty());
        assert!(unsafe_outside_islands("dataplane/src/attach.rs", code).is_empty());
        assert!(unsafe_outside_islands("common/abi/src/lib.rs", "#![forbid(unsafe_code)]").is_empty());
    }

    /// R5.1: no product makes keys of a cheap Diffie-Hellman.
    #[test]
    fn simulated_keys_are_for_the_simulation() {
        let code = "let key = StaticSecret::simulated(rng, &Cheap)?;\nimpl Agreement for Cheap {}\n";
        for path in ["controlplane/src/main.rs", "client/src/cli.rs", "bench/src/cli.rs", "bench/tests/a.rs"]
        {
            assert_eq!(simulated_keys(path, code).len(), 2, "{path}");
        }
        assert!(simulated_keys("bench/src/simulation/cheap.rs", code).is_empty());
        assert!(simulated_keys("client/src/cli.rs", "let simulated_key = 1;").is_empty());
    }

    #[test]
    fn ignore_means_root() {
        assert!(
            ignored_tests("a.rs", "#[test]\n#[ignore = \"needs root: makes namespaces\"]\nfn f() {}")
                .is_empty()
        );
        assert_eq!(ignored_tests("a.rs", "#[test]\n#[ignore]\nfn f() {}").len(), 1);
        assert_eq!(ignored_tests("a.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}").len(), 1);
    }

    #[test]
    fn namespace_tests_are_ignored_tests() {
        let marked = "/// R1.1\n#[ignore = \"needs root\"]\n#[test]\nfn f() {}\n\n#[test]\n#[ignore = \"needs root\"]\nfn g() {}";
        assert!(ignored_tests("bench/tests/ns_demo.rs", marked).is_empty());
        let unmarked = "#[ignore = \"needs root\"]\n#[test]\nfn f() {}\n#[test]\nfn g() {}";
        assert_eq!(ignored_tests("bench/tests/ns_demo.rs", unmarked)[0].place, "bench/tests/ns_demo.rs:4");
        assert!(ignored_tests("bench/tests/report.rs", unmarked).is_empty());
    }
}
