//! What `cargo test` does of the fuzzer, on the stable compiler: the kept corpus again, a short seeded run of mutations, and
//! whether libFuzzer has a way to every target. R1.9.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use jvpn_fuzz::{TARGETS, Target, engine_outcome, run};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What the tree keeps: a target's files and all octets together. Replaying takes seconds, not minutes.
const FILES_MAX: usize = 64;
const CORPUS_OCTETS_MAX: u64 = 1 << 20;

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let directory = fuzz_dir().join("corpus").join(target.name);
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| {
            panic!("{}: {error}; `cargo xtask fuzz {}`", directory.display(), target.name)
        })
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// Says which input it was, should the target panic.
struct Running<'a>(&'a Target, &'a str, &'a [u8]);

impl Running<'_> {
    fn now(&self) {
        run(self.0.name, self.2);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.2.iter().map(|octet| format!("{octet:02x}")).collect();
            eprintln!("target {}, input {}: {hex}", self.0.name, self.1);
        }
    }
}

/// R1.9: every input that ever reached something new breaks nothing now.
#[test]
fn r1_9_the_kept_corpus_breaks_nothing() {
    let mut octets = 0;
    for target in &TARGETS {
        let files = corpus(target);
        assert!((1..=FILES_MAX).contains(&files.len()), "{}: {} files", target.name, files.len());
        for (name, data) in &files {
            octets += data.len() as u64;
            Running(target, name, data).now();
        }
    }
    assert!(octets <= CORPUS_OCTETS_MAX, "the corpus has {octets} octets");
}

/// R1.9: genuine inputs, and what some thousand seeded mutations make of them and of the corpus.
#[test]
fn r1_9_seeded_mutations_break_nothing() {
    for (number, target) in TARGETS.iter().enumerate() {
        let mut inputs = (target.seeds)();
        assert!(!inputs.is_empty(), "{} has no seeds", target.name);
        inputs.iter().for_each(|seed| Running(target, "seed", seed).now());
        inputs.extend(corpus(target).into_iter().map(|(_, data)| data));
        let mut random = ChaCha20Rng::seed_from_u64(number as u64);
        for round in 0..rounds(target) {
            let input = mutated(&inputs, &mut random);
            Running(target, &format!("mutation {round}"), &input).now();
        }
    }
}

/// A run of a whole world costs a thousand times what a parser costs.
fn rounds(target: &Target) -> usize {
    match target.name {
        "engine" | "agent" => 100,
        "datagrams" | "journal" | "pipeline" => 1_000,
        _ => 5_000,
    }
}

fn mutated(inputs: &[Vec<u8>], random: &mut ChaCha20Rng) -> Vec<u8> {
    let below = |random: &mut ChaCha20Rng, most: usize| random.next_u64() as usize % most.max(1);
    let mut input = inputs[below(random, inputs.len())].clone();
    for _ in 0..=below(random, 4) {
        let at = below(random, input.len());
        match below(random, 6) {
            0 => input.truncate(at),
            1 => input.insert(at.min(input.len()), random.next_u32() as u8),
            2 => {
                let other = &inputs[below(random, inputs.len())];
                input.truncate(at);
                input.extend(&other[below(random, other.len()).min(other.len())..]);
            }
            3 => {
                let odd = [0, 1, 0x7f, 0x80, 0xfe, 0xff][below(random, 6)];
                if let Some(octet) = input.get_mut(at) {
                    *octet = odd;
                }
            }
            _ => {
                if let Some(octet) = input.get_mut(at) {
                    *octet ^= 1 << below(random, 8);
                }
            }
        }
    }
    input
}

/// R1.4, I9: the same sequence says the same, octet for octet.
#[test]
fn i9_sequences_of_the_engine_are_deterministic() {
    let engine = TARGETS.iter().find(|target| target.name == "engine").unwrap();
    for input in (engine.seeds)().iter().chain(corpus(engine).iter().map(|(_, data)| data)) {
        assert_eq!(engine_outcome(input), engine_outcome(input), "{input:02x?}");
    }
}

/// Every target has its entry point for libFuzzer, and nothing else is kept or built.
#[test]
fn every_target_is_fuzzed_under_its_name() {
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names.len(), TARGETS.len());
    let listed = |directory: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(fuzz_dir().join(directory)).unwrap();
        entries.map(|e| e.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed("fuzz_targets"), names);
    assert_eq!(listed("corpus"), names);
    let manifest = std::fs::read_to_string(fuzz_dir().join("Cargo.toml")).unwrap();
    for name in &names {
        let entry = std::fs::read_to_string(fuzz_dir().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(entry.contains(&format!("run(\"{name}\", data)")), "{name}");
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
}
