//! Instructions per packet of the pipeline and of the bare cipher, counted by callgrind:
//! `cargo bench -p jvpn-dataplane --bench instructions`.
//!
//! It runs itself under valgrind once per case, as many at a time as there are processors, and counts only inside of
//! [`World::run`]. The counts repeat to the instruction whatever else the machine does, so a change of the code shows where
//! time is too noisy. valgrind hides the newest vector instructions from the cipher: what counts is the difference between
//! pipeline and cipher, not the sum.

#[path = "world/mod.rs"]
mod world;

use jvpn_abi::wire::Suite;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use world::{Work, World};

/// Packets per case; one more ring would count the same.
const PACKETS: u64 = 512;
/// Octets of the inner packets.
const SIZES: [usize; 3] = [64, 512, 1_400];
const SUITES: [(Suite, &str); 2] =
    [(Suite::Aes256Gcm, "AES-256-GCM"), (Suite::ChaCha20Poly1305, "ChaCha20-Poly1305")];
/// What is counted, and how many sessions share its packets in random order. The cipher alone has one key.
const ROWS: [(Work, u32, &str); 8] = [
    (Work::Open, 1, "open alone"),
    (Work::Inbound, 1, "inbound"),
    (Work::Inbound, 1_000, "inbound"),
    (Work::Inbound, 65_536, "inbound"),
    (Work::Seal, 1, "seal alone"),
    (Work::Outbound, 1, "outbound"),
    (Work::Outbound, 1_000, "outbound"),
    (Work::Outbound, 65_536, "outbound"),
];

/// One cell of the table: places in [`SUITES`], [`ROWS`] and [`SIZES`].
type Case = [usize; 3];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let at = args.iter().position(|arg| arg == "--case");
    let case = at.and_then(|at| args.get(at + 1..at + 4));
    let outcome = match case {
        Some(places) => run_case(places),
        None => report(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// The measured process.
fn run_case(places: &[String]) -> Result<(), String> {
    let place = |n: usize| places.get(n).and_then(|text| text.parse::<usize>().ok());
    let of = || Some((SUITES.get(place(0)?)?.0, ROWS.get(place(1)?)?, *SIZES.get(place(2)?)?));
    let (suite, (work, sessions, _), size) = of().ok_or_else(|| format!("no case {places:?}"))?;
    let mut world = World::new(*sessions, suite, size);
    world.fill(*work);
    world.run(*work, usize::try_from(PACKETS).map_err(|error| error.to_string())?);
    Ok(())
}

/// Runs every case and shows the counts.
fn report() -> Result<(), String> {
    let counts = count_all()?;
    let mut out = std::io::stdout().lock();
    let mut print = |line: String| writeln!(out, "{line}").map_err(|error| error.to_string());
    print("| Suite | Instructions per packet | Sessions | 64 B | 512 B | 1,400 B |".to_owned())?;
    print("|---|---|---|---|---|---|".to_owned())?;
    for (suite, (_, suite_name)) in SUITES.iter().enumerate() {
        for (row, (_, sessions, name)) in ROWS.iter().enumerate() {
            let of_row = |(case, _): &&(Case, u64)| case[..2] == [suite, row];
            let cells: Vec<String> = counts.iter().filter(of_row).map(|(_, n)| thousands(*n)).collect();
            let sessions = thousands(u64::from(*sessions));
            print(format!("| {suite_name} | {name} | {sessions} | {} |", cells.join(" | ")))?;
        }
    }
    Ok(())
}

/// The counts of all cases, in the order of the table.
fn count_all() -> Result<Vec<(Case, u64)>, String> {
    let myself = std::env::current_exe().map_err(|error| error.to_string())?;
    let of_row = |suite, row| (0..SIZES.len()).map(move |size| [suite, row, size]);
    let of_suite = |suite| (0..ROWS.len()).flat_map(move |row| of_row(suite, row));
    let cases: Vec<Case> = (0..SUITES.len()).flat_map(of_suite).collect();
    let (next, counts) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || -> Result<(), String> {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let count = count(&myself, *case)?;
            counts.lock().unwrap_or_else(PoisonError::into_inner).push((*case, count));
        }
        Ok(())
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        running.into_iter().try_for_each(|one| one.join().map_err(|_| "a case panicked".to_owned())?)
    })?;
    let mut counts = counts.into_inner().unwrap_or_else(PoisonError::into_inner);
    counts.sort_unstable();
    Ok(counts)
}

fn count(myself: &Path, case: Case) -> Result<u64, String> {
    let places = case.map(|place| place.to_string());
    let name = places.join("-");
    let out = std::env::temp_dir().join(format!("jvpn-callgrind-{}-{name}", std::process::id()));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*World*run*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(myself)
        .arg("--case")
        .args(&places)
        .output()
        .map_err(|error| format!("valgrind: {error} (package valgrind)"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(format!("case {name}: {said}"));
    }
    let text = std::fs::read_to_string(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    std::fs::remove_file(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals:")?.trim().parse::<u64>().ok());
    total
        .filter(|total| *total > 0)
        .map(|total| total / PACKETS)
        .ok_or_else(|| format!("nothing was counted: {said}"))
}

/// 65536 as 65,536.
fn thousands(number: u64) -> String {
    match (number / 1_000, number % 1_000) {
        (0, rest) => rest.to_string(),
        (above, rest) => format!("{},{rest:03}", thousands(above)),
    }
}
