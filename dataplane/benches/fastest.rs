//! Turns of the ring per case, in ns per packet: the median of them, and the fastest, which is what the code costs when
//! nobody disturbs it. On a machine that other work shares, medians measure the others; the fastest of some hundred turns
//! does not. Every turn is kept in `target/fastest/turns.json`.
//! `cargo bench -p jvpn-dataplane --bench fastest`; `JVPN_BENCH_SESSIONS=1,1000` measures fewer session counts.

#[path = "world/mod.rs"]
mod world;

use jvpn_abi::wire::Suite;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Instant;
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

/// ns per packet of each turn, in order.
fn turns(world: &mut World, work: Work) -> Vec<f64> {
    let turn = |_| {
        world.fill(work);
        let start = Instant::now();
        world.run(work, RING);
        start.elapsed().as_secs_f64() * 1e9 / RING as f64
    };
    (0..TURNS).map(turn).collect()
}

/// Median and least.
fn cell(turns: &[f64]) -> String {
    let mut sorted = turns.to_vec();
    sorted.sort_by(f64::total_cmp);
    let of = |at: usize| sorted.get(at).copied().unwrap_or(f64::NAN);
    format!("{:.0} / {:.0}", of(sorted.len() / 2), of(0))
}

fn sessions() -> Vec<u32> {
    std::env::var("JVPN_BENCH_SESSIONS")
        .map(|list| list.split(',').filter_map(|number| number.trim().parse().ok()).collect())
        .unwrap_or_else(|_| SESSIONS.to_vec())
}

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap_or(Path::new("target")).join("fastest");
    fs::create_dir_all(&dir)?;
    let mut kept = Vec::new();
    writeln!(out, "ns per packet, median / fastest of {TURNS} turns")?;
    writeln!(out, "| Suite | Octets | Sessions | {} |", WORKS.map(|(_, name)| name).join(" | "))?;
    writeln!(out, "|---|---|---|---|---|---|---|")?;
    for count in sessions() {
        for (suite, suite_name) in SUITES {
            for size in SIZES {
                let mut world = World::new(count, suite, size);
                let cells = WORKS.map(|(work, name)| {
                    let turns = turns(&mut world, work);
                    kept.push(serde_json::json!({
                        "suite": suite_name, "octets": size, "sessions": count, "work": name, "ns": turns,
                    }));
                    cell(&turns)
                });
                writeln!(out, "| {suite_name} | {size} | {count} | {} |", cells.join(" | "))?;
                out.flush()?;
            }
        }
    }
    let path = dir.join("turns.json");
    fs::write(&path, serde_json::to_vec(&kept)?)?;
    writeln!(out, "every turn: {}", path.display())
}
