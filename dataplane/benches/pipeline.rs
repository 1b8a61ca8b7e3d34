//! Time per packet of the pipeline against the bare cipher: `cargo bench -p jvpn-dataplane --bench pipeline`.
//!
//! `JVPN_BENCH_SESSIONS=1,1000` measures fewer session counts.

#[path = "world/mod.rs"]
mod world;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jvpn_abi::wire::Suite;
use std::time::{Duration, Instant};
use world::{RING, Work, World};

const SIZES: [usize; 3] = [64, 512, 1_400];
const SESSIONS: [u32; 3] = [1, 1_000, 65_536];
/// Octets of one batch of a worker.
const BATCH: usize = 64;

fn measure(world: &mut World, work: Work, packets: u64) -> Duration {
    let mut took = Duration::ZERO;
    let mut left = usize::try_from(packets).unwrap_or(usize::MAX);
    while left > 0 {
        // Frames are fresh for each turn, as a device delivers them: a counter is accepted once.
        world.fill(work);
        let count = left.min(RING).next_multiple_of(BATCH).min(RING);
        let start = Instant::now();
        world.run(work, count);
        took += start.elapsed().mul_f64(left.min(RING) as f64 / count as f64);
        left -= left.min(RING);
    }
    took
}

fn sessions() -> Vec<u32> {
    std::env::var("JVPN_BENCH_SESSIONS")
        .map(|list| list.split(',').filter_map(|number| number.trim().parse().ok()).collect())
        .unwrap_or_else(|_| SESSIONS.to_vec())
}

fn pipeline(criterion: &mut Criterion) {
    for (suite, suite_name) in
        [(Suite::Aes256Gcm, "aes256gcm"), (Suite::ChaCha20Poly1305, "chacha20poly1305")]
    {
        for size in SIZES {
            let mut group = criterion.benchmark_group(format!("{suite_name}/{size}"));
            group.throughput(Throughput::Elements(1));
            for count in sessions() {
                let mut world = World::new(count, suite, size);
                let works: &[(Work, &str)] = if count == 1 {
                    &[
                        (Work::Open, "open alone"),
                        (Work::Seal, "seal alone"),
                        (Work::Inbound, "inbound"),
                        (Work::Outbound, "outbound"),
                    ]
                } else {
                    &[(Work::Inbound, "inbound"), (Work::Outbound, "outbound")]
                };
                for (work, name) in works {
                    group.bench_function(format!("{name}, {count}"), |bencher| {
                        bencher.iter_custom(|packets| measure(&mut world, *work, packets));
                    });
                }
            }
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1));
    targets = pipeline
}
criterion_main!(benches);
