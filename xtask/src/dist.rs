//! The verb `dist`: what is released, in one archive with its checksums, and in it the bench's report, which is too large for
//! the tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::binaries;
use crate::run::{Runner, interrupted};
use crate::tree::Tree;

/// Where `cargo xtask bench` leaves its report.
const SUITE: &str = "bench";
/// The suite's part that has a result of peers beside it, once they were measured, and that result.
const BARS: &str = "default-50/peers.json";
/// What of a report is carried; raw files of its parts stay where they are.
const REPORT_FILES: [&str; 3] = ["report.html", "result.json", "summary.md"];
/// Documents at the top.
const DOCUMENTS: [&str; 3] = ["README.md", "CHANGELOG.md", "LICENSE"];

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) report: Report,
}

/// Where the report comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// It is there.
    Dir(PathBuf),
    /// That of the last `cargo xtask bench`.
    Last,
    /// It is made now, with few trials.
    Quick,
}

impl Asked {
    pub(crate) fn parse(args: &[&str]) -> Option<Self> {
        let report = match args {
            [] => Report::Last,
            ["--quick-report"] => Report::Quick,
            ["--report", dir] => Report::Dir(PathBuf::from(dir)),
            _ => return None,
        };
        Some(Self { report })
    }
}

pub(crate) fn dist(tree: &Tree, runner: &Runner, asked: &Asked) -> Result<()> {
    // A report that cannot be taken is said before minutes of building.
    let dir = match &asked.report {
        Report::Dir(dir) => dir.clone(),
        Report::Last => tree.target().join(SUITE),
        Report::Quick => tree.target().join("dist-report"),
    };
    let commit = binaries::commit(tree);
    if asked.report == Report::Quick {
        may_be_measured(commit.as_deref())?;
    }
    if asked.report != Report::Quick {
        judge(&dir, commit.as_deref())?;
        println!("report of {}: {}", dir.display(), bars(&dir, commit.as_deref())?);
    }
    let bench = binaries::build_for_rig(tree, runner, "the release's bench")?;
    if asked.report == Report::Quick {
        make_report(runner, &bench, &dir)?;
        judge(&dir, commit.as_deref())?;
        println!("report of {}: {}", dir.display(), bars(&dir, commit.as_deref())?);
    }
    pack(tree, runner, &dir)
}

fn make_report(runner: &Runner, bench: &Path, dir: &Path) -> Result<()> {
    binaries::self_test(runner, bench, &binaries::of_emulator(dir))?;
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    let mut command = Command::new(bench);
    // Peers take part as far as they are here; the suite itself says which are not.
    runner.logged("suite, quick", command.args(["suite", "--quick", "--peers", "--out"]).arg(dir))?;
    Ok(())
}

/// Whether a report of this tree could be released: said before it is made.
fn may_be_measured(commit: Option<&str>) -> Result<()> {
    ensure!(
        !commit.is_some_and(|commit| commit.ends_with("-changed")),
        "this tree has changes that are in no commit, and nobody could measure them again: commit them before \
         --quick-report"
    );
    Ok(())
}

/// Whether a report may be released: valid, whole, and of this commit without changes.
fn judge(dir: &Path, commit: Option<&str>) -> Result<()> {
    let path = dir.join("result.json");
    let again = "`cargo xtask bench` makes one, `--quick-report` a short one, `--report DIR` takes another";
    let text =
        fs::read_to_string(&path).with_context(|| format!("no report at {}: {again}", path.display()))?;
    for (field, wanted, word) in
        [("valid", "true", "INVALID"), ("complete", "true", "a part of what was asked for")]
    {
        ensure!(top_field(&text, field) == Some(wanted), "{} is {word}: {again}", path.display());
    }
    ensure!(
        top_field(&text, "size") != Some("\"smoke\""),
        "{} says whether the bench works, and nothing else: {again}",
        path.display()
    );
    match other_source(&text, commit) {
        Some(why) => bail!("{} {why}: {again}", path.display()),
        None => Ok(()),
    }
}

/// What to say of a result that was not measured with the tree's commit as it is, if that is known.
fn other_source(text: &str, commit: Option<&str>) -> Option<String> {
    let first = |field| text.lines().find_map(|line| value_of(line.trim(), field));
    let found = first("commit").unwrap_or_default();
    if first("changed") == Some("true") {
        return Some(format!("was measured with changes to commit {found} that are in none"));
    }
    let commit = commit?;
    let is_same = found.trim_matches('"') == commit.trim_end_matches("-changed");
    (!is_same).then(|| format!("was measured with commit {found}, this tree is {commit}"))
}

/// Whether the report has bars beside peers: said, and no reason to refuse a report that has none. Bars of another commit
/// are one: a reader takes both for one run.
fn bars(dir: &Path, commit: Option<&str>) -> Result<String> {
    let path = dir.join(BARS);
    let Ok(text) = fs::read_to_string(&path) else {
        let add = "`cargo xtask bench --peers --resume` measures those that are here and puts them in";
        return Ok(format!("no bars beside peers; {add}"));
    };
    if let Some(why) = other_source(&text, commit) {
        bail!(
            "{} {why}: measure the peers again, or remove it and run the suite with --resume",
            path.display()
        );
    }
    let is_whole = top_field(&text, "complete") == Some("true");
    let part = if is_whole { "" } else { ", which are not whole: its list says who failed" };
    Ok(format!("bars beside peers{part}"))
}

/// A field of the outermost object, as `jvpn-bench` writes it: two spaces in front. This program needs no parser for it.
fn top_field<'a>(text: &'a str, field: &str) -> Option<&'a str> {
    text.lines().filter_map(|line| line.strip_prefix("  ")).find_map(|line| value_of(line, field))
}

fn value_of<'a>(line: &'a str, field: &str) -> Option<&'a str> {
    let rest = line.strip_prefix('"')?.strip_prefix(field)?.strip_prefix("\": ")?;
    Some(rest.trim_end_matches(','))
}

/// Puts everything together and writes archive and checksums.
fn pack(tree: &Tree, runner: &Runner, report: &Path) -> Result<()> {
    let version = version(tree)?;
    let name = format!("jumping-vpn-{version}-{}", std::env::consts::ARCH);
    let dist = tree.target().join("dist");
    let stage = dist.join(&name);
    if stage.exists() {
        fs::remove_dir_all(&stage).with_context(|| format!("cannot remove {}", stage.display()))?;
    }
    for program in binaries::DEMO_BINARIES {
        copy(&tree.bin_dir(true).join(program), &stage.join("bin").join(program))?;
    }
    for document in DOCUMENTS {
        copy(&tree.root().join(document), &stage.join(document))?;
    }
    copy_tree(&tree.root().join("docs"), &stage.join("docs"))?;
    for file in REPORT_FILES {
        copy(&report.join(file), &stage.join("bench").join(file))?;
    }
    let page = report.join("report.html");
    let html = fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    for part in linked_pages(&html) {
        copy(&report.join(part), &stage.join("bench").join(part))?;
    }
    if let Some(signal) = interrupted() {
        bail!(signal);
    }
    let archive = format!("{name}.tar.gz");
    let mut tar = Command::new("tar");
    tar.current_dir(&dist).args(["--owner=0", "--group=0", "--numeric-owner", "-czf", &archive, &name]);
    runner.logged("archive", &mut tar)?;
    let sums = runner.logged("checksums", Command::new("sha256sum").current_dir(&dist).arg(&archive))?;
    let path = dist.join("SHA256SUMS");
    fs::write(&path, sums).with_context(|| format!("cannot write {}", path.display()))?;
    println!(
        "release: {}\nreport:  {}",
        dist.join(&archive).display(),
        stage.join("bench/report.html").display()
    );
    Ok(())
}

/// Pages of parts that a page leads to: `PART/report.html` below it.
fn linked_pages(html: &str) -> Vec<&str> {
    let targets = html.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let is_below =
        |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    targets.filter(|target| target.strip_suffix("/report.html").is_some_and(is_below)).collect()
}

/// The version of the workspace.
fn version(tree: &Tree) -> Result<String> {
    let path = tree.root().join("Cargo.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (_, package) =
        text.split_once("[workspace.package]").context("Cargo.toml has no [workspace.package]")?;
    let line = package.lines().find_map(|line| line.strip_prefix("version = \""));
    Ok(line.and_then(|line| line.split('"').next()).context("the workspace has no version")?.to_owned())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let entries = fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", from.display()))?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() { copy_tree(&path, &target) } else { copy(&path, &target) }?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bars are told of, missing ones as well; those of another commit are refused.
    #[test]
    fn bars_beside_peers_are_of_the_same_commit_or_not_there() {
        let dir = std::env::temp_dir().join(format!("jvpn-dist-bars-{}", std::process::id()));
        let path = dir.join(BARS);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let said = |commit: &str| bars(&dir, Some(commit)).map_err(|error| format!("{error:#}"));
        assert!(said("abc").unwrap().contains("cargo xtask bench --peers --resume"));
        let result = |complete: bool| {
            let text = format!(
                "{{\n  \"complete\": {complete},\n  \"environment\": {{\n    \"commit\": \"abc\"\n  }}\n}}\n"
            );
            fs::write(&path, text).unwrap();
        };
        result(true);
        assert_eq!(said("abc-changed").unwrap(), "bars beside peers");
        assert!(said("def").is_err_and(|e| e.contains("abc") && e.contains("def") && e.contains("again")));
        result(false);
        assert!(said("abc").unwrap().contains("not whole"));
        fs::remove_dir_all(&dir).unwrap();
    }

    /// R8.4: no link of a released page leads nowhere, and none leads out of the report.
    #[test]
    fn r8_4_pages_of_parts_are_released_with_the_page_that_links_them() {
        let html = "<a href=\"#default-50\">x</a> <a href=\"cost/report.html\">y</a> \
                    <a href=\"../report.html\">z</a><a href=\"/etc/report.html\"><a href=\"peers/report.html\">";
        assert_eq!(linked_pages(html), ["cost/report.html", "peers/report.html"]);
    }

    /// R8.4: what was measured with changes that are in no commit is released by nobody as of that commit, neither report
    /// nor bars; and a quick report of a changed tree is not even made.
    #[test]
    fn r8_4_a_report_of_a_changed_tree_is_not_released() {
        let dir = std::env::temp_dir().join(format!("jvpn-dist-changed-{}", std::process::id()));
        fs::create_dir_all(dir.join(BARS).parent().unwrap()).unwrap();
        let put = |changed: &str| {
            let text = format!(
                "{{\n  \"complete\": true,\n  \"environment\": {{\n    \"changed\": {changed},\n    \"commit\": \"abc\"\n  }},\n  \
                 \"valid\": true\n}}\n"
            );
            fs::write(dir.join("result.json"), &text).unwrap();
            fs::write(dir.join(BARS), text).unwrap();
            [judge(&dir, Some("abc")), bars(&dir, Some("abc")).map(drop)]
                .map(|said| said.map_err(|e| e.to_string()))
        };
        assert_eq!(put("false"), [Ok(()), Ok(())]);
        assert_eq!(put("null"), [Ok(()), Ok(())]);
        for said in put("true") {
            assert!(said.as_ref().is_err_and(|e| e.contains("changes to commit \"abc\"")), "{said:?}");
        }
        assert!(judge(&dir, None).is_err(), "wherever it is packed");
        fs::remove_dir_all(&dir).unwrap();
        let refused = may_be_measured(Some("abc-changed")).unwrap_err().to_string();
        assert!(refused.contains("in no commit") && refused.contains("commit them"), "{refused}");
        may_be_measured(Some("abc")).unwrap();
        may_be_measured(None).unwrap();
    }

    #[test]
    fn only_a_valid_whole_report_of_this_commit_is_released() {
        let dir = std::env::temp_dir().join(format!("jvpn-dist-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let result = |valid: bool, complete: bool| {
            let text = format!(
                "{{\n  \"complete\": {complete},\n  \"environment\": {{\n    \"commit\": \"abc\"\n  }},\n  \
                 \"parts\": [\n    {{\n      \"valid\": true\n    }}\n  ],\n  \"valid\": {valid}\n}}\n"
            );
            fs::write(dir.join("result.json"), text).unwrap();
            |commit: Option<&str>| judge(&dir, commit).map_err(|error| format!("{error:#}"))
        };
        assert_eq!(result(true, true)(Some("abc-changed")), Ok(()));
        assert_eq!(result(true, true)(None), Ok(()));
        assert!(result(false, true)(None).is_err_and(|e| e.contains("INVALID")));
        assert!(result(true, false)(None).is_err_and(|e| e.contains("a part")));
        let smoke = "{\n  \"complete\": true,\n  \"size\": \"smoke\",\n  \"valid\": true\n}\n";
        fs::write(dir.join("result.json"), smoke).unwrap();
        assert!(judge(&dir, None).is_err_and(|e| e.to_string().contains("nothing else")));
        assert!(result(true, true)(Some("def")).is_err_and(|e| e.contains("abc") && e.contains("def")));
        fs::remove_dir_all(&dir).unwrap();
        assert!(judge(&dir, None).is_err_and(|e| e.to_string().contains("cargo xtask bench")));
    }
}
