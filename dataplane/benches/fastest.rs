//! The fastest turn of the ring per case, in ns per packet: what the code costs when nobody disturbs it. On a machine that
//! other work shares, medians measure the others; the fastest of some hundred turns does not.
//! `cargo bench -p jvpn-dataplane --bench fastest`; `JVPN_BENCH_SESSIONS=1,1000` measures fewer session counts.

#[path = "world/mod.rs"]
mod world;

use jvpn_abi::wire::Suite;
use std::io::Write;
use std::time::{Duration, Instant};
use world::{RING, Work, World};

const SIZES: [usize; 3] = [64, 512, 1_400];
const SESSIONS: [u32; 3] = [1, 1_000, 65_536];
const SUITES: [(Suite, &str); 2] =
    [(Suite::Aes256Gcm, "AES-256-GCM"), (Suite::ChaCha20Poly1305, "ChaCha20-Poly1305")];
const WORKS: [(Work, &str); 4] = [
    (Work::Open, "open alone"),
    (Work::Inbound, "inbound"),
    (Work::Seal, "seal alone"),
    (Work::Outbound, "outbound"),
];
/// Turns of the ring per case.
const TURNS: usize = 300;

fn fastest(world: &mut World, work: Work) -> f64 {
    let mut least = Duration::MAX;
    for _ in 0..TURNS {
        world.fill(work);
        let start = Instant::now();
        world.run(work, RING);
        least = least.min(start.elapsed());
    }
    least.as_secs_f64() * 1e9 / RING as f64
}

fn sessions() -> Vec<u32> {
    std::env::var("JVPN_BENCH_SESSIONS")
        .map(|list| list.split(',').filter_map(|number| number.trim().parse().ok()).collect())
        .unwrap_or_else(|_| SESSIONS.to_vec())
}

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "| Suite | Octets | Sessions | {} |", WORKS.map(|(_, name)| name).join(" | "))?;
    writeln!(out, "|---|---|---|---|---|---|---|")?;
    for count in sessions() {
        for (suite, suite_name) in SUITES {
            for size in SIZES {
                let mut world = World::new(count, suite, size);
                let cells = WORKS.map(|(work, _)| format!("{:.0}", fastest(&mut world, work)));
                writeln!(out, "| {suite_name} | {size} | {count} | {} |", cells.join(" | "))?;
                out.flush()?;
            }
        }
    }
    Ok(())
}
