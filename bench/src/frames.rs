//! Whether a data plane that ended in order has all its frames: its log has an account of each worker's ports, which is
//! added up here anew.

use anyhow::{Context, Result, bail, ensure};

/// What its lines have in common.
const ACCOUNT: &str = "frames at the end";
/// What a log has if workers ran.
const STARTED: &str = "control plane connected";
/// Frames elsewhere, where nobody can tell how many.
const UNKNOWN: &str = "-1";
/// Places that a frame can be in.
const PLACES: [&str; 5] = ["rx", "fill", "tx", "completion", "free"];

/// Judges the log of a data plane that ended in order. Gives the number of ports that were accounted for: 0 if no worker
/// ever ran.
///
/// # Errors
/// A frame is missing or in two places, or a port has no account.
pub fn judge(log: &str) -> Result<usize> {
    let (mut ports, mut workers) = (Vec::new(), 0);
    for line in log.lines().filter(|line| line.contains(ACCOUNT)) {
        let Port { worker, of, side } =
            of_line(line).with_context(|| format!("not an account of frames: {line}"))?;
        let port = (worker, side);
        ensure!(!ports.contains(&port), "two accounts of {port:?}");
        ports.push(port);
        workers = workers.max(of).max(worker + 1);
    }
    ensure!(!ports.is_empty() || !log.contains(STARTED), "the data plane says nothing about its frames");
    for port in (0..workers).flat_map(|worker| ["wan", "lan"].map(|side| (worker, side.to_owned()))) {
        ensure!(ports.contains(&port), "no account of {port:?}");
    }
    Ok(ports.len())
}

/// Whose account a line is.
struct Port {
    worker: u64,
    /// Workers that there are.
    of: u64,
    side: String,
}

/// The port of a line that adds up, or of one that nobody can add up: of a NIC that has frames in rings of its own, or of an
/// end in haste, which does not wait for what is on its way.
fn of_line(line: &str) -> Result<Port> {
    let word = |name: &str| {
        let mut words = line.split_whitespace().filter_map(|word| word.split_once('='));
        words.find(|(key, _)| *key == name).map(|(_, value)| value).with_context(|| format!("no {name}"))
    };
    let number = |name: &str| -> Result<u64> { word(name)?.parse().with_context(|| name.to_owned()) };
    let known = PLACES.into_iter().map(number).sum::<Result<u64>>()?;
    let (total, port) = (
        number("total")?,
        Port { worker: number("worker")?, of: number("workers")?, side: word("side")?.to_owned() },
    );
    let in_haste: bool = word("in_haste")?.parse().context("in_haste")?;
    if in_haste || word("unseen")? == UNKNOWN {
        return Ok(port);
    }
    match total.checked_sub(known) {
        None => bail!("{} frames are in two places", known - total),
        Some(missing) if missing > number("unseen")? => bail!("{missing} frames are missing"),
        Some(_) => Ok(port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(worker: u32, side: &str, free: u32, unseen: i32) -> String {
        format!(
            "2026-01-01T00:00:00.000000Z  INFO frames at the end worker={worker} workers=1 side={side} total=4096 rx=3 \
             fill=2045 tx=1 completion=2 free={free} elsewhere=0 unseen={unseen} in_haste=false\n"
        )
    }

    /// R0.2: an account that adds up is good; each way in which it does not is found, whatever the data plane thinks itself.
    #[test]
    fn r0_2_missing_and_doubled_frames_are_found() {
        let good = line(0, "wan", 2_045, 0) + &line(0, "lan", 2_045, 7);
        assert_eq!(judge(&good).unwrap(), 2);
        let said = |log: &str| format!("{:#}", judge(log).unwrap_err());
        let lan = line(0, "lan", 2_045, 0);
        assert!(said(&(line(0, "wan", 2_044, 0) + &lan)).contains("1 frames are missing"));
        assert!(said(&(line(0, "wan", 2_047, 0) + &lan)).contains("2 frames are in two places"));
        assert!(said(&lan).contains("no account of (0, \"wan\")"));
        // Whoever says nothing is missed, also if it is the last.
        let good_of_two = good.replace("workers=1", "workers=2");
        assert!(said(&good_of_two).contains("no account of (1, \"wan\")"));
        assert!(said(&(line(1, "wan", 2_045, 0) + &line(1, "lan", 2_045, 0))).contains("no account of (0"));
        assert!(said(&(lan.clone() + &lan)).contains("two accounts"));
        assert!(said("INFO frames at the end worker=0").contains("no rx"));
    }

    /// R0.2: the one frame that the kernel may hold after a full ring is no loss; more than that is one.
    #[test]
    fn r0_2_a_full_ring_excuses_one_frame() {
        let lan = line(0, "lan", 2_045, 0);
        assert!(judge(&(line(0, "wan", 2_044, 1) + &lan)).is_ok());
        assert!(judge(&(line(0, "wan", 2_043, 1) + &lan)).is_err());
    }

    /// R0.2: no verdict where nobody can tell: zero-copy, and an end in haste. But the account must be there.
    #[test]
    fn r0_2_what_nobody_can_see_is_not_judged() {
        let lan = line(0, "lan", 2_045, 0);
        let hasty = line(0, "wan", 1_000, 0).replace("in_haste=false", "in_haste=true");
        for wan in [line(0, "wan", 1_000, -1), line(0, "wan", 2_060, -1), hasty] {
            assert_eq!(judge(&(wan + &lan)).unwrap(), 2);
        }
        assert!(judge(&line(0, "wan", 1_000, -1)).is_err(), "the LAN says nothing");
        assert!(judge(&(line(0, "wan", 1_000, 0) + &lan)).is_err());
    }

    /// R0.2: silence is good only where no worker ran.
    #[test]
    fn r0_2_silence_is_no_account() {
        assert_eq!(judge("INFO ready, waiting for the control plane").unwrap(), 0);
        assert!(judge("INFO control plane connected pid=7").is_err());
    }
}
