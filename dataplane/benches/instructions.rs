//! Instructions per packet of the pipeline and of the bare cipher, counted by callgrind:
//! `cargo bench -p jvpn-dataplane --bench instructions`.
//!
//! It runs itself under valgrind once per case and counts only inside of [`World::run`]. The counts repeat to the
//! instruction, so a change of the code shows where time is too noisy. valgrind hides the newest vector instructions from
//! the cipher: what counts is the difference between pipeline and cipher, not the sum.

#[path = "world/mod.rs"]
mod world;

use jvpn_abi::wire::Suite;
use std::io::Write;
use std::process::{Command, ExitCode};
use world::{Work, World};

/// Packets per case; one more ring would count the same.
const PACKETS: u64 = 512;
const SESSIONS: u32 = 64;
const CASES: [(Work, &str); 4] = [
    (Work::Open, "open alone"),
    (Work::Inbound, "inbound"),
    (Work::Seal, "seal alone"),
    (Work::Outbound, "outbound"),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let at = args.iter().position(|arg| arg == "--case");
    let case = at.and_then(|at| args.get(at + 1..at + 3));
    let outcome = match case {
        Some([case, size]) => run_case(case, size),
        _ => report(),
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
fn run_case(case: &str, size: &str) -> Result<(), String> {
    let number: usize = case.parse().map_err(|_| format!("no case {case}"))?;
    let (work, _) = CASES.get(number).ok_or_else(|| format!("no case {case}"))?;
    let size = size.parse().map_err(|_| format!("no size {size}"))?;
    let mut world = World::new(SESSIONS, Suite::Aes256Gcm, size);
    world.fill(*work);
    world.run(*work, usize::try_from(PACKETS).map_err(|error| error.to_string())?);
    Ok(())
}

/// Runs every case and shows the counts.
fn report() -> Result<(), String> {
    let myself = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut out = std::io::stdout().lock();
    let mut print = |line: String| writeln!(out, "{line}").map_err(|error| error.to_string());
    print("| AES-256-GCM, instructions per packet | 64 B | 512 B | 1,400 B |".to_owned())?;
    print("|---|---|---|---|".to_owned())?;
    for (number, (_, name)) in CASES.iter().enumerate() {
        let mut cells = Vec::new();
        for size in [64_usize, 512, 1_400] {
            cells.push(count(&myself, number, size)?.to_string());
        }
        print(format!("| {name} | {} |", cells.join(" | ")))?;
    }
    Ok(())
}

fn count(myself: &std::path::Path, case: usize, size: usize) -> Result<u64, String> {
    let out = std::env::temp_dir().join(format!("jvpn-callgrind-{}-{case}-{size}", std::process::id()));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*World*run*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(myself)
        .args(["--case", &case.to_string(), &size.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error} (package valgrind)"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(format!("case {case}: {said}"));
    }
    let text = std::fs::read_to_string(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    std::fs::remove_file(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals:")?.trim().parse::<u64>().ok());
    total
        .filter(|total| *total > 0)
        .map(|total| total / PACKETS)
        .ok_or_else(|| format!("nothing was counted: {said}"))
}
