//! `jvpn-bench check-events`: judges audit logs by what is written about them, and by nothing else.
//!
//! It knows `docs/audit-event.schema.json`, the table of transitions and the invariants of `docs/PROTOCOL.md`, each in its
//! own words: no type, table or function of the crates that write the log. So a mistake there is not repeated here
//! (`docs/decisions/0023-check-events.md`). One pass, a bounded amount of memory per session.
//!
//! | Module | What for |
//! |---|---|
//! | `lines` | files as numbered lines: rotated, cut off, endless |
//! | `schema`, `record` | a line as the schema wants it, and what the rules need of it |
//! | `rules` | the transitions that are allowed, and the numbers of the presets |
//! | `losses` | which gaps are explained |
//! | `checker`, `trail` | the log, and one session of it |
//! | `findings` | what was found, as text and as JSON |

mod checker;
pub mod command;
pub mod findings;
mod lines;
mod losses;
mod record;
pub mod rules;
mod schema;
mod trail;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use checker::Checker;
use findings::Findings;
use lines::{Lines, Piece};
use rules::PolicyNumbers;

/// How the log is to be judged.
#[derive(Clone, Debug)]
pub struct Expectations {
    /// Numbers that differ from the preset which SESSION_CREATED names.
    pub policy: PolicyNumbers,
    /// How late a timer of the gateway may fire.
    pub lateness: Duration,
    /// Whether the log may begin in the middle of the node's life: then sessions older than it are no violation.
    pub beginning: Beginning,
    /// Whether a line that a crash cut off is a violation.
    pub cut_off: CutOff,
}

impl Default for Expectations {
    fn default() -> Self {
        Self {
            policy: PolicyNumbers::default(),
            lateness: Duration::from_secs(5),
            beginning: Beginning::Whole,
            cut_off: CutOff::IsSaid,
        }
    }
}

/// Where the first file begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// With the first line that the node ever wrote.
    Whole,
    /// Later: older files are gone.
    Midway,
}

/// What a line that was cut off is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutOff {
    /// The mark of a crash.
    IsSaid,
    /// A violation.
    IsViolation,
}

/// Judges a log that is spread over `files`, oldest first. `-` is standard input.
///
/// # Errors
/// A file cannot be read, or there is not a single event.
pub fn check_files(files: &[PathBuf], expectations: &Expectations) -> Result<Findings> {
    let mut checker = Checker::new(expectations)?;
    for path in files {
        let name = path.display().to_string();
        if path == Path::new("-") {
            feed(&mut checker, "-", std::io::stdin().lock())?;
        } else {
            let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
            feed(&mut checker, &name, file)?;
        }
    }
    checker.finish()
}

/// Judges what stands in a file behind its first `lines`: the log of another node than theirs.
///
/// # Errors
/// The file cannot be read, or there is not a single event behind them.
pub fn check_behind(path: &Path, lines: u64, expectations: &Expectations) -> Result<Findings> {
    let name = path.display().to_string();
    let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
    let mut input = Lines::new(BufReader::with_capacity(1 << 16, file));
    for _ in 0..lines {
        input.next().with_context(|| format!("cannot read {name}"))?;
    }
    let mut checker = Checker::new(expectations)?;
    checker.begin_file(&name);
    checker.pass_over(lines);
    feed_lines(&mut checker, &name, input)?;
    checker.finish()
}

/// Judges a log while it is written.
#[derive(Debug)]
pub struct Judge(Checker);

impl Judge {
    /// A judge of a log that has no line yet; `name` stands for its file.
    ///
    /// # Errors
    /// The preset of the expectations is not known.
    pub fn new(name: &str, expectations: &Expectations) -> Result<Self> {
        let mut checker = Checker::new(expectations)?;
        checker.begin_file(name);
        Ok(Self(checker))
    }

    /// The next line, without its end.
    pub fn line(&mut self, line: &str) {
        self.0.line(line.as_bytes());
    }

    /// The verdict.
    ///
    /// # Errors
    /// There was not a single event.
    pub fn finish(self) -> Result<Findings> {
        self.0.finish()
    }
}

/// Judges a log that is one text; `name` stands for its file.
///
/// # Errors
/// There is not a single event.
pub fn check_text(name: &str, text: &str, expectations: &Expectations) -> Result<Findings> {
    let mut checker = Checker::new(expectations)?;
    feed(&mut checker, name, text.as_bytes())?;
    checker.finish()
}

fn feed(checker: &mut Checker, name: &str, input: impl Read) -> Result<()> {
    checker.begin_file(name);
    feed_lines(checker, name, Lines::new(BufReader::with_capacity(1 << 16, input)))
}

fn feed_lines(checker: &mut Checker, name: &str, mut lines: Lines<impl BufRead>) -> Result<()> {
    while let Some(piece) = lines.next().with_context(|| format!("cannot read {name}"))? {
        match piece {
            Piece::Line(octets) => checker.line(octets),
            Piece::CutOff(octets) => checker.unended_line(octets),
            Piece::TooLong => checker.too_long(),
        }
    }
    Ok(())
}
