//! What the fuzzer runs: a target per family of parsers, and the sequences of events of engine and agent.
//!
//! A target takes any octets and panics if the product breaks a promise: it must not panic itself, what it reads it must
//! write again the same, what was changed on the way it must refuse, and the invariants hold. Three callers share these
//! bodies: libFuzzer (`fuzz/`, `cargo xtask fuzz`), the replay of the kept corpus and a short seeded mutation run
//! (`tests/`, part of every `cargo test`), and whoever looks into a finding: `cargo run -p jvpn-fuzz -- run TARGET FILE`.
//!
//! A new datagram or parser: its genuine form goes into `seeds` of its target, so that the fuzzer starts behind the
//! framing; its reader into the target's `run`.
#![allow(clippy::unwrap_used, reason = "a target that cannot go on has found something")]

mod agent;
mod datagrams;
mod engine;
mod files;
mod gateway;
mod journal;
mod messages;
mod netlink;
mod pipeline;
mod plane;
mod ports;
mod random;
mod shapes;
mod source;
mod text;
mod wire;
mod world;

pub use source::Source;

/// Something to fuzz.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name of the target and of its directory in `fuzz/corpus`.
    pub name: &'static str,
    /// Takes one input. Panics if a promise is broken.
    pub run: fn(&[u8]),
    /// Genuine inputs, made by the product's own writers.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [Target; 10] = [
    Target { name: "wire", run: wire::run, seeds: wire::seeds },
    Target { name: "messages", run: messages::run, seeds: messages::seeds },
    Target { name: "datagrams", run: datagrams::run, seeds: datagrams::seeds },
    Target { name: "pipeline", run: pipeline::run, seeds: pipeline::seeds },
    Target { name: "netlink", run: netlink::run, seeds: netlink::seeds },
    Target { name: "journal", run: journal::run, seeds: journal::seeds },
    Target { name: "files", run: files::run, seeds: files::seeds },
    Target { name: "text", run: text::run, seeds: text::seeds },
    Target { name: "engine", run: engine::run, seeds: engine::seeds },
    Target { name: "agent", run: agent::run, seeds: agent::seeds },
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Runs a target on one input.
///
/// # Panics
/// If there is no such target, or the product broke a promise.
pub fn run(name: &str, data: &[u8]) {
    let target = target(name).unwrap_or_else(|| panic!("there is no target '{name}'"));
    (target.run)(data);
}

/// Everything that gateway and clients said in a run of target `engine`, in one number: the same for the same input (I9).
#[must_use]
pub fn engine_outcome(data: &[u8]) -> u64 {
    engine::outcome(data)
}
