//! What runs two at a time: tests that mostly wait, for timers and for processes that start. One after the other they
//! would take minutes more.

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Result, anyhow, ensure};

use super::Tally;
use crate::run::{Interrupted, Runner};

/// Programs of privileged tests; the longest first, so that the last ones end together.
///
/// What stands here asserts no rate and no span of time that a neighbour can stretch, loads no core by itself, and looks
/// at nothing outside its own network namespaces. Of all of them one alone starts verbs of `jvpn-bench` that measure:
/// these keep each other away (`bench/src/lock.rs`). Within a program tests run one after the other, as everywhere.
pub(super) const PROGRAMS: [&str; 8] =
    ["ns_beside", "ns_quality", "ns_matrix", "ns_ports", "ns_edges", "ns_restart", "ns_routes", "ns_early"];

/// More would have to share cores with the data planes of the others.
const LANES_MAX: usize = 2;

/// Runs the command of each name; says which failed.
pub(super) fn run(
    runner: &Runner,
    tally: &mut Tally,
    names: &[&str],
    command: impl Fn(&str) -> Command + Sync,
) -> Result<()> {
    let lanes = thread::available_parallelism().map_or(1, usize::from).min(LANES_MAX);
    let tally = Mutex::new(tally);
    in_lanes(lanes, names, |name| {
        runner.in_one_piece(name, &mut command(name), |line| lock(&tally).read(line))
    })
}

/// Does `one` with each, so many at a time. A failure stops nobody; an interruption ends all.
fn in_lanes(lanes: usize, names: &[&str], one: impl Fn(&str) -> Result<()> + Sync) -> Result<()> {
    let waiting = Mutex::new(names.iter());
    let lane = || -> Result<Vec<String>> {
        let mut failed = Vec::new();
        loop {
            let next = lock(&waiting).next();
            let Some(name) = next else { return Ok(failed) };
            match one(name) {
                Ok(()) => {}
                Err(error) if error.is::<Interrupted>() => return Err(error),
                Err(error) => failed.push(format!("{error:#}")),
            }
        }
    };
    let ended: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        threads.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let mut failed = Vec::new();
    for lane in ended {
        failed.extend(lane.map_err(|_| anyhow!("a thread that ran test programs panicked"))??);
    }
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

/// Taken for moments only.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use anyhow::bail;

    use super::*;
    use crate::tree::Tree;

    /// Two that wait for each other get on, each runs once, and who failed is named when all have run.
    #[test]
    fn two_run_at_a_time_and_failures_stop_nobody() {
        let (meeting, runs) = (Barrier::new(2), AtomicUsize::new(0));
        let error = in_lanes(2, &["a", "b", "c", "d"], |name| {
            meeting.wait();
            runs.fetch_add(1, Ordering::Relaxed);
            if name == "a" || name == "d" { bail!("{name} failed") } else { Ok(()) }
        })
        .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("a failed") && text.contains("d failed") && !text.contains("b failed"),
            "{text}"
        );
        assert_eq!(runs.into_inner(), 4);
        in_lanes(1, &["a", "b"], |_| Ok(())).unwrap();
    }

    #[test]
    fn an_interruption_ends_all_and_is_told_as_one() {
        let runs = AtomicUsize::new(0);
        let error = in_lanes(1, &["a", "b"], |_| {
            runs.fetch_add(1, Ordering::Relaxed);
            bail!(Interrupted(2))
        })
        .unwrap_err();
        assert!(error.is::<Interrupted>(), "{error:#}");
        assert_eq!(runs.into_inner(), 1);
    }

    /// Verbs that measure keep each other away, so that the second program's would do nothing.
    #[test]
    fn one_alone_starts_verbs_of_the_bench() {
        let dir = Tree::locate().unwrap().root().join("bench/tests");
        let starts_verbs = |name: &&str| {
            let text = fs::read_to_string(dir.join(format!("{name}.rs"))).unwrap();
            let modules = text.split("#[path = \"").skip(1).filter_map(|rest| rest.split('"').next());
            let modules = modules.map(|path| fs::read_to_string(dir.join(path)).unwrap());
            std::iter::once(text.clone()).chain(modules).any(|text| text.contains("CARGO_BIN_EXE_"))
        };
        let found: Vec<_> = PROGRAMS.iter().filter(|name| starts_verbs(name)).collect();
        assert_eq!(found, [&"ns_beside"]);
    }
}
