//! The emulator measured by its own yardstick: what was asked of a path against what probes see of it, both ways, through
//! the same interfaces and threads that the recovery bench uses.

mod ends;
mod floor;
mod lanes;
mod link;
mod nat;
mod script;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jvpn_rig::emulator::{Direction, LanePatch, Path, Profile, Relay};
use jvpn_rig::site::{Paths, Site};
use jvpn_rig::{Interrupt, Rig, Uplink};
use serde::Serialize;

use self::ends::{Ends, Seen, Volley};
use super::progress::Progress;
use crate::result::{Ending, Environment};
use crate::run_dir::RunDir;
use crate::timeline::print;

/// Error of clocks, timers and two extra hops, ms.
const CLOCK_MS: f64 = 0.3;

/// One question put to the emulator.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What is measured.
    pub name: String,
    /// What was asked for.
    pub asked: f64,
    /// What was seen.
    pub measured: f64,
    /// How far they may be apart.
    pub tolerance: f64,
    /// Unit of all three.
    pub unit: &'static str,
    /// Probes behind it.
    pub samples: usize,
    /// Whether it is within the tolerance; for a capacity: at least what was asked.
    pub holds: bool,
    /// Why the tolerance is what it is.
    pub because: &'static str,
    /// What else was seen.
    pub note: String,
}

impl Check {
    /// Holds where asked and measured are no further apart than the tolerance.
    fn near(
        name: impl Into<String>,
        unit: &'static str,
        (asked, measured): (f64, f64),
        (tolerance, because): (f64, &'static str),
        samples: usize,
    ) -> Self {
        let holds = (measured - asked).abs() <= tolerance;
        let name = name.into();
        Self { name, asked, measured, tolerance, unit, samples, holds, because, note: String::new() }
    }

    /// Holds where both are the same number.
    fn same(
        name: impl Into<String>,
        unit: &'static str,
        (asked, measured): (f64, f64),
        samples: usize,
    ) -> Self {
        Self::near(name, unit, (asked, measured), (0.0, "nothing of it is chance"), samples)
    }

    fn noting(self, note: String) -> Self {
        Self { note, ..self }
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Determines all chance.
    pub seed: u64,
    /// Where result, report and summary go.
    pub out_dir: PathBuf,
}

/// The result.
#[derive(Clone, Debug, Serialize)]
pub struct SelfTest {
    /// `emulator`.
    pub scenario: &'static str,
    /// Whether every check was made and holds.
    pub valid: bool,
    /// How it ended.
    #[serde(flatten)]
    pub ending: Ending,
    /// Checks that do not hold.
    pub failures: Vec<String>,
    /// Determines all chance.
    pub seed: u64,
    /// What it ran on.
    pub environment: Environment,
    /// The checks.
    pub checks: Vec<Check>,
}

/// Two clients: one with plain paths, which are changed by hand, and one behind a NAT and a path that follows a script.
struct Lab<'a> {
    rig: &'a Rig,
    plain: Site,
    other: Site,
    ends: Ends,
    interrupt: &'a Interrupt,
}

impl<'a> Lab<'a> {
    fn create(rig: &'a Rig, paths: &Paths, seed: u64, interrupt: &'a Interrupt) -> Result<Self> {
        let plain = Profile::load("plain")?;
        let path = |profile: &Profile, number: u64| Path::new(profile, seed.wrapping_add(number));
        let first = Site::create(rig, paths, 0, [path(&plain, 0), path(&plain, 1)])?;
        let behind_nat = plain.with_nat(nat::TTL);
        let scripted = Profile::parse(script::PROFILE)?;
        let second = Site::create(rig, paths, 1, [path(&behind_nat, 2), path(&scripted, 3)])?;
        Ok(Self { rig, ends: Ends::open(rig, &first, Uplink::A)?, plain: first, other: second, interrupt })
    }

    /// The path that is changed by hand.
    const fn relay(&self) -> &Relay {
        self.plain.path(Uplink::A)
    }

    /// Fires both ways over a path that is like the patches say, up and down.
    fn fire(&self, patches: [LanePatch; 2], volleys: [Option<Volley>; 2]) -> Result<[Seen; 2]> {
        self.interrupt.check()?;
        let relay = self.relay();
        Direction::BOTH.into_iter().zip(patches).for_each(|(way, patch)| relay.change(way, patch));
        let seen = self.ends.fire(volleys);
        relay.change_both(&LanePatch::default());
        relay.check()?;
        seen
    }

    /// Fires the same volley both ways over a path that is the same both ways.
    fn fire_same(&self, patch: &LanePatch, volley: Volley) -> Result<[(Direction, Seen); 2]> {
        let [up, down] = self.fire([patch.clone(), patch.clone()], [Some(volley), Some(volley)])?;
        Ok([(Direction::Up, up), (Direction::Down, down)])
    }
}

/// Runs the self-test, prints it, and leaves it in a directory.
///
/// # Errors
/// A part could not be set up, or a check does not hold; what was measured until then is kept.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<()> {
    let mut dir = RunDir::begin(&options.out_dir)?;
    let mut checks = Vec::new();
    let measured = measure(options.seed, &mut checks, interrupt);
    let failures: Vec<String> = checks.iter().filter(|check| !check.holds).map(complaint).collect();
    let result = SelfTest {
        scenario: "emulator",
        valid: failures.is_empty() && measured.is_ok(),
        ending: Ending::of(&measured),
        failures,
        seed: options.seed,
        environment: Environment::collect(),
        checks,
    };
    show(&result);
    dir.conclude("Jumping VPN: the path emulator against itself", &result, measured)?;
    if !result.valid {
        bail!(
            "the emulator is not what was asked for: figures made with it would prove nothing: {}",
            result.failures.join("; ")
        );
    }
    Ok(())
}

fn complaint(check: &Check) -> String {
    let Check { name, asked, measured, tolerance, unit, .. } = check;
    format!("{name}: asked {asked:.3} {unit}, measured {measured:.3}, tolerance {tolerance:.3}")
}

/// A group of checks.
type Part = fn(&Lab<'_>) -> Result<Vec<Check>>;

fn measure(seed: u64, checks: &mut Vec<Check>, interrupt: &Interrupt) -> Result<()> {
    let rig = Rig::create()?;
    let paths = Paths::create(&rig)?;
    let lab = Lab::create(&rig, &paths, seed, interrupt)?;
    // Neighbours learn each other's addresses before anything is measured.
    lab.fire_same(&LanePatch::default(), Volley::new(20, Duration::from_millis(5)))?;
    let progress = Progress::start();
    progress.say("lanes, both ways, take the most of it; about half a minute in all");
    lanes::measure(&lab, checks)?;
    let parts: [(&str, Part); 4] = [
        ("a link that is down", link::measure),
        ("MTU floor", floor::measure),
        ("NAT", nat::measure),
        ("a script", script::measure),
    ];
    for (name, part) in parts {
        interrupt.check()?;
        progress.say(&format!("{name}; {} checks are behind", checks.len()));
        checks.extend(part(&lab)?);
    }
    drop(lab);
    rig.remove().context("the rig is not removed")
}

fn show(result: &SelfTest) {
    print(&format!(
        "  {:<38}{:>12}{:>12}{:>10}  {:<8}{:>8}",
        "check", "asked", "measured", "±", "unit", "samples"
    ));
    for check in &result.checks {
        let Check { name, asked, measured, tolerance, unit, samples, holds, note, .. } = check;
        let verdict = if *holds { "" } else { "  FAILED" };
        print(&format!(
            "  {name:<38}{asked:>12.3}{measured:>12.3}{tolerance:>10.3}  {unit:<8}{samples:>8}  {note}{verdict}"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R8.4: the result fits its schema, as does a part of one; a check that is off by more than its tolerance fails.
    #[test]
    fn r8_4_a_self_test_fits_its_schema() {
        let good =
            Check::near("delay", "ms", (5.0, 5.2), (CLOCK_MS, "the clock"), 10).noting("p99".to_owned());
        let bad = Check::same("blackhole", "frames", (0.0, 1.0), 10);
        assert!(good.holds && !bad.holds);
        assert_eq!(complaint(&bad), "blackhole: asked 0.000 frames, measured 1.000, tolerance 0.000");
        let measured: Result<()> = Err(anyhow::anyhow!("interrupted"));
        let result = SelfTest {
            scenario: "emulator",
            valid: false,
            ending: Ending::of(&measured),
            failures: vec![complaint(&bad)],
            seed: 1,
            environment: Environment::collect(),
            checks: vec![good, bad],
        };
        crate::schemas::tests::fits_tightly(&result);
    }
}
