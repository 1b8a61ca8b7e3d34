//! `jvpn-bench memory`: octets that a session takes in the data plane. Needs no root and no network: the tables, the
//! installer and the workers' pipelines are the product's, in this process.

use crate::environment::Environment;
use crate::result::Ending;
use crate::run_dir::RunDir;
use crate::scenarios::progress::Progress;
use crate::timeline;
use anyhow::{Context as _, Result, bail, ensure};
use bytemuck::Zeroable;
use clap::{Args, value_parser};
use jvpn_abi::Endpoint;
use jvpn_abi::edge::HandleEntry;
use jvpn_abi::tables::{
    BINDING_WORDS, BindingWord, Context, InstallEntry, InstallOp, KeyRing, ReplayWindow, Reports, RouteKey,
    context_octets,
};
use jvpn_abi::wire::reattach::HANDLE_LEN;
use jvpn_abi::wire::{SlotId, Suite};
use jvpn_dataplane::frame::Mac;
use jvpn_dataplane::pipeline::Pipeline;
use jvpn_dataplane::slots::{Installer, WorkerQueues};
use jvpn_dataplane::tables::Tables;
use jvpn_rig::{Interrupt, heap};
use jvpn_tables::keys::KeyMailbox;
use jvpn_tables::mapping::shared_memory;
use jvpn_tables::{InnerPrefix, PrefixWriter, Prefixes};
use serde::Serialize;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Octets per session that are aimed at, the replay window included.
const AIM: f64 = 2_560.0;
/// Handles of a living session: two generations.
const HANDLES_EACH: usize = 2;

/// Installs sessions as the control plane does, and shows what each takes, by malloc's and the kernel's books.
#[derive(Clone, Debug, Args)]
pub struct MemoryArgs {
    /// Sessions.
    #[arg(long, default_value_t = 65_536, value_name = "N", value_parser = value_parser!(u32).range(100..=65_536))]
    sessions: u32,
    /// Workers; each has a place per slot.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = value_parser!(u32).range(1..=8))]
    workers: u32,
    /// Prints one JSON document instead of a table.
    #[arg(long)]
    json: bool,
    /// Where result, report and summary go.
    #[arg(long, default_value = "target/memory", value_name = "DIR")]
    out: PathBuf,
}

/// Octets, per session where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Octets {
    /// Sessions that were installed.
    pub sessions: u32,
    /// Workers that hold them.
    pub workers: u32,
    /// Counters of both key sets, in shared memory.
    pub context: f64,
    /// Replay windows in use with their owners, in shared memory: one per key, so a second one during a rekey.
    pub windows: f64,
    /// The entry of BINDINGS, in a BPF map.
    pub binding: f64,
    /// Expanded keys, headers, prefixes: the data plane's heap.
    pub heap: f64,
    /// A place per slot of each worker and of the installer.
    pub places: f64,
    /// Cells of PREFIXES for each slot, in shared memory: at least four, so that searches stay short.
    pub prefixes: f64,
    /// Key and value of one inner prefix in ROUTES, without what the kernel's trie adds.
    pub routes: f64,
    /// Keys and values of two handles in HANDLES, without what the kernel's hash table adds.
    pub handles: f64,
    /// All of it per session.
    pub per_session: f64,
    /// All of it.
    pub total: u64,
    /// What is resident of it here, as the kernel counts: pages, not octets.
    pub resident: u64,
    /// What is aimed at, per session.
    pub aim: f64,
}

/// Measures and prints.
///
/// # Errors
/// No memory, an entry is refused, or interrupted: there is one measurement, and so no part of it.
pub fn run(args: &MemoryArgs, interrupt: &Interrupt) -> Result<()> {
    let mut dir = RunDir::begin(&args.out)?;
    let found = measure(args.sessions, args.workers, interrupt)?;
    let result = document(&found);
    dir.publish("Jumping VPN: what a session takes in the data plane", &result)?;
    if args.json {
        timeline::print(&serde_json::to_string_pretty(&result)?);
        return Ok(());
    }
    timeline::print("| Octets per session | |");
    timeline::print("|---|---|");
    for (what, octets) in [
        ("CONTEXT: counters of two key sets", found.context),
        ("CONTEXT: the replay window; a second one during a rekey", found.windows),
        ("BINDINGS", found.binding),
        ("heap: expanded keys, headers, prefixes", found.heap),
        ("places of workers and installer", found.places),
        ("PREFIXES", found.prefixes),
        ("ROUTES: one inner prefix, without the kernel's overhead", found.routes),
        ("HANDLES: two handles, without the kernel's overhead", found.handles),
        ("together", found.per_session),
    ] {
        timeline::print(&format!("| {what} | {octets:.0} |"));
    }
    let verdict = if found.per_session <= AIM { "met" } else { "MISS" };
    timeline::print(&format!(
        "\n{} sessions, {} workers: {:.1} MiB, resident {:.1} MiB; aim {AIM:.0} octets per session: {verdict}",
        found.sessions,
        found.workers,
        mib(found.total),
        mib(found.resident)
    ));
    Ok(())
}

/// One measurement: it is there as a whole or not at all.
fn document(found: &Octets) -> serde_json::Value {
    let Ending { complete, broken_off } = Ending::of(&Ok(()));
    serde_json::json!({
        "scenario": "memory", "valid": null, "complete": complete, "broken_off": broken_off,
        "environment": Environment::collect(), "memory": found,
    })
}

fn mib(octets: u64) -> f64 {
    octets as f64 / f64::from(1 << 20)
}

/// Installs so many sessions for so many workers and counts what that took. Whatever else allocates in this process
/// meanwhile is counted as well.
///
/// # Errors
/// The tables cannot be made, an installation is refused, or interrupted.
pub fn measure(sessions: u32, workers: u32, interrupt: &Interrupt) -> Result<Octets> {
    let slots = (sessions + 1).next_power_of_two();
    let memory = |octets| shared_memory("BENCH", c"jvpn-bench", octets);
    let (bindings, context) = (memory(slots as usize * BINDING_WORDS * 8)?, memory(context_octets(slots))?);
    let (reports, gate, keys) =
        (memory(size_of::<Reports>())?, memory(4_096)?, memory(size_of::<KeyRing>())?);
    let tables =
        Arc::new(Tables::map(slots, bindings.as_fd(), context.as_fd(), reports.as_fd(), gate.as_fd())?);
    let prefixes = memory(Prefixes::octets(slots))?;
    let mut writer = PrefixWriter::take(Prefixes::map(prefixes.as_fd(), slots)?);
    let queues: Vec<_> =
        (0..workers).map(|_| WorkerQueues::new().map(Arc::new)).collect::<std::io::Result<_>>()?;
    let empty = heap::in_use();
    let mut pipelines: Vec<Pipeline> =
        (0..workers as usize).map(|worker| super::edge::pipeline(&tables, worker, Mac::default())).collect();
    let installer = Installer::new(Arc::clone(&tables), queues.clone(), Mac::default());
    let places = heap::in_use().saturating_sub(empty);
    let mailbox = KeyMailbox::map(keys.as_fd())?;
    let (before, resident) = (heap::in_use(), resident()?);
    let (mut progress, began) = (Progress::start(), Instant::now());
    for session in 0..sessions {
        interrupt.check()?;
        progress.step("sessions", session as usize, sessions as usize, began);
        let entry = entry(session)?;
        let (Some(address), Some(len)) = (entry.prefixes.first(), entry.prefix_lens.first()) else {
            bail!("session {session} has no prefix")
        };
        let prefix = InnerPrefix::new(u128::from_be_bytes(*address), u32::from(*len)).context("prefix")?;
        writer.insert(prefix, entry.slot).context("PREFIXES")?;
        ensure!(mailbox.put(&entry), "the mailbox is full");
        ensure!(installer.run(&mailbox).refused == 0, "session {session} was refused");
        for (pipeline, queues) in pipelines.iter_mut().zip(&queues) {
            pipeline.apply(queues);
        }
    }
    let of_sessions = heap::in_use().saturating_sub(before);
    // The table of BINDINGS is not touched here: the control plane writes it.
    let resident = self::resident()?.saturating_sub(resident);
    let count = f64::from(sessions);
    let (heap, places) = (of_sessions as f64 / count, places as f64 / f64::from(slots));
    let (context, binding) = (size_of::<Context>() as f64, (BINDING_WORDS * 8) as f64);
    let window = size_of::<ReplayWindow>() + size_of::<u64>();
    let windows = (installer.windows_in_use() * window) as f64 / count;
    let prefixes = Prefixes::octets(slots) as f64 / f64::from(slots);
    let routes = (size_of::<RouteKey>() + size_of::<u32>()) as f64;
    let handles = (HANDLES_EACH * (HANDLE_LEN + size_of::<HandleEntry>())) as f64;
    let per_session = context + windows + binding + heap + places + prefixes + routes + handles;
    Ok(Octets {
        sessions,
        workers,
        context,
        windows,
        binding,
        heap,
        places,
        prefixes,
        routes,
        handles,
        per_session,
        total: (per_session * count) as u64,
        resident,
        aim: AIM,
    })
}

/// Octets of this process that are resident, shared memory included.
fn resident() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").context("/proc/self/statm")?;
    let pages: u64 = text.split_whitespace().nth(1).and_then(|word| word.parse().ok()).context("statm")?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.context("no page size")?;
    Ok(pages * u64::try_from(page)?)
}

fn entry(session: u32) -> Result<InstallEntry> {
    let slot = SlotId::new(session, 1).context("slot")?;
    let [_, a, b, c] = session.to_be_bytes();
    let (remote, local) = (Endpoint::v4([20, a, b, c], 40_000), Endpoint::v4([198, 51, 100, 1], 4_500));
    let (mut prefixes, mut prefix_lens) = ([[0; 16]; 8], [0; 8]);
    prefixes[0] = Ipv4Addr::new(10, a, b, c).to_ipv6_mapped().octets();
    prefix_lens[0] = 128;
    Ok(InstallEntry {
        seq: u64::from(session) + 1,
        word: BindingWord::bound(slot, 1).0,
        op: InstallOp::Install as u32,
        slot: slot.0,
        suite: Suite::Aes256Gcm as u8,
        prefix_count: 1,
        remote_addr: remote.addr,
        remote_port: remote.port,
        local_addr: local.addr,
        local_port: local.port,
        open_key: [1; 32],
        seal_key: [2; 32],
        prefix_lens,
        prefixes,
        ..InstallEntry::zeroed()
    })
}

#[cfg(test)]
mod tests {
    use jvpn_rig::Interrupted;

    use super::*;

    /// R8.4: Ctrl-C leaves neither the room that was kept nor anything that looks like a result.
    #[test]
    fn r8_4_an_interrupted_measurement_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("result.json"), "of an older run").unwrap();
        let interrupt = Interrupt::default();
        interrupt.set();
        let args = MemoryArgs { sessions: 100, workers: 1, json: false, out: dir.path().to_owned() };
        let error = run(&args, &interrupt).unwrap_err();
        assert!(error.is::<Interrupted>(), "{error:#}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// The result of a small run fits its schema.
    #[test]
    fn what_is_measured_fits_its_schema() {
        crate::schemas::tests::fits_tightly(&document(&measure(50, 1, &Interrupt::default()).unwrap()));
    }
}
