//! The command: flags, output, exit code.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, value_parser};

use super::rules::PolicyNumbers;
use super::{Beginning, CutOff, Expectations, check_files};
use crate::timeline;

/// Exit code if a rule is broken.
const BROKEN: u8 = 1;
/// Exit code if the log could not be judged; also of a wrong command line.
const NOT_JUDGED: u8 = 2;

/// `jvpn-bench check-events`.
#[derive(Debug, Args)]
pub struct CheckEventsArgs {
    /// Audit logs of one node, oldest first; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The gateway's configuration, or a file that is its [policy]: numbers that differ from the preset in the log.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Switches per minute that policy allows.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=60))]
    max_switches_per_min: Option<u32>,
    /// Longest burst of attempts without a confirmed binding.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    recovery_window: Option<Duration>,
    /// Longest time without a confirmed binding.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    transport_loss_ttl: Option<Duration>,
    /// How late a timer of the gateway may fire.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    lateness: Duration,
    /// Older files are gone: sessions that began before the first line are no violation.
    #[arg(long)]
    midway: bool,
    /// A line that a crash cut off is a violation.
    #[arg(long)]
    strict: bool,
    /// Prints one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Runs the command: exit code 0 if every rule held, 1 if one is broken, 2 if the log could not be judged.
pub fn run(args: &CheckEventsArgs) -> ExitCode {
    match judge(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(BROKEN),
        Err(error) => {
            timeline::complain(&error);
            ExitCode::from(NOT_JUDGED)
        }
    }
}

fn judge(args: &CheckEventsArgs) -> Result<bool> {
    let flags = PolicyNumbers {
        preset: None,
        max_switches_per_min: args.max_switches_per_min,
        recovery_window: args.recovery_window,
        transport_loss_ttl: args.transport_loss_ttl,
    };
    let file = args.policy.as_deref().map(PolicyNumbers::load).transpose()?.unwrap_or_default();
    let expectations = Expectations {
        policy: file.overridden_by(flags),
        lateness: args.lateness,
        beginning: if args.midway { Beginning::Midway } else { Beginning::Whole },
        cut_off: if args.strict { CutOff::IsViolation } else { CutOff::IsSaid },
    };
    let findings = check_files(&args.files, &expectations)?;
    let text = if args.json {
        serde_json::to_string_pretty(&findings).context("the findings do not fit JSON")?
    } else {
        findings.text().trim_end().to_owned()
    };
    timeline::print(&text);
    Ok(findings.good)
}
