//! `jvpn-controlplane`: owns the sessions. Runs without any privilege.

use anyhow::{Context, Result};
use clap::Parser;
use jvpn_controlplane::abuse::hook::AbuseHook;
use jvpn_controlplane::audit::{AuditWriter, DEFAULT_CAPACITY, Encoder, WriterSettings};
use jvpn_controlplane::config::{Config, read_psk};
use jvpn_controlplane::engine::{Durable, Engine};
use jvpn_controlplane::io::Shell;
use jvpn_controlplane::node_state::NodeState;
use jvpn_controlplane::store::embedded::EmbeddedStore;
use jvpn_controlplane::store::writer::StoreWriter;
use jvpn_controlplane::store::{ClosedStore, Scan, SessionStore};
use jvpn_crypto::keys::{NodeKey, StaticSecret};
use jvpn_crypto::rng::OsRandom;
use jvpn_host::memory::{self, Memory};
use jvpn_host::status::StatusListener;
use jvpn_host::{clock, keyfile, privileges, signals};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Control plane of a Jumping VPN gateway: handshakes, reattaches, policy, the state of every session, the audit log.
///
/// It needs no privilege: started as root it reads its keys and becomes `user`, without any capability. It gets the
/// shared tables and the UDP socket from jvpn-dataplane over dataplane_socket, waits for it, and outlives it.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example configuration:

  node_id = \"gw1\"
  state_dir = \"/var/lib/jvpn\"
  private_key_file = \"/etc/jvpn/gateway.key\"      # jvpn genkey > gateway.key (umask 077)
  audit_file = \"/var/log/jvpn/audit.jsonl\"        # or \"-\" for standard output
  [policy]
  preset = \"edge\"
  [tunnel]
  gateway_address = \"10.77.0.1\"
  routes = [\"192.168.50.0/24\"]
  [[peer]]
  name = \"laptop\"
  public_key = \"...\"                              # jvpn pubkey < laptop.key
  addresses = [\"10.77.0.2/32\"]

Look at it while it runs: jvpn status --socket /run/jvpn/controlplane-status.sock"
)]
struct Args {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// How long the audit sink may take for the last lines.
const AUDIT_PATIENCE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    jvpn_host::logging::init();
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<()> {
    let args = Args::parse();
    let config =
        Config::load(&args.config).with_context(|| format!("configuration {}", args.config.display()))?;
    // Before there is a key in it, and while this is still root.
    let memory = memory::lock_all().map_or_else(
        |error| {
            tracing::warn!(%error, "keys in this process's memory may reach a swap device");
            Memory::Swappable
        },
        |()| Memory::Locked,
    );
    let private_key: StaticSecret = keyfile::read_secret(&config.private_key_file)
        .context("private_key_file")?
        .parse()
        .with_context(|| format!("private_key_file {}", config.private_key_file.display()))?;
    let settings = config.settings(read_psk)?;
    let mut rng = OsRandom::checked().context("the system's randomness")?;
    let shutdown = signals::shutdown_stream().context("signal handlers")?;
    let sink = audit_sink(config.audit_file.as_deref())?;
    prepare_state_dir(&config)?;
    let status = StatusListener::bind(&config.status_socket, 0o600)
        .with_context(|| format!("status_socket {}", config.status_socket.display()))?;
    privileges::drop_to(&config.user)?;

    let state = NodeState::open(&config.state_dir, &mut rng).context("state_dir")?;
    let (store, stored) = open_store(&config.state_dir, state.node_key(), &mut rng);
    let store = StoreWriter::start(store).context("session store")?;
    let now = clock::now();
    let encoder = Encoder { node_id: config.node_id.clone(), unix_offset_ms: unix_offset_ms() };
    let writer_settings = WriterSettings { capacity: DEFAULT_CAPACITY, encoder, clock: clock::now };
    let (writer, audit) = AuditWriter::start(sink, writer_settings).context("audit writer")?;
    let mut engine = Engine::new(settings, private_key, Box::new(state), Box::new(rng), now);
    engine.keep_store(unix_offset_ms());
    let abuse = match &config.abuse {
        Some(abuse) => {
            engine.keep_abuse(abuse.settings);
            let hook = AbuseHook::new(abuse.socket.clone(), config.node_id.clone(), unix_offset_ms());
            Some(hook.context("abuse.socket")?)
        }
        None => None,
    };
    tracing::info!(node = %config.node_id, user = %config.user, peers = config.peers.len(), "control plane starts, unprivileged");
    let ended = Shell::new(engine, audit, (status, shutdown), config, memory, (store, stored), abuse).run();
    if !writer.finish(AUDIT_PATIENCE) {
        tracing::warn!("the audit sink did not take its last lines in time");
    }
    ended.context("control plane")
}

/// The session store and what is in it. If it cannot be had, sessions that live go on, no new ones are made, and nobody is
/// told that a session is over.
fn open_store(dir: &Path, node_key: &NodeKey, rng: &mut OsRandom) -> (Box<dyn SessionStore>, Option<Scan>) {
    let opened =
        EmbeddedStore::open(dir, node_key, rng).and_then(|store| store.scan().map(|scan| (store, scan)));
    match opened {
        Ok((store, scan)) => (Box::new(store), Some(scan)),
        Err(error) => {
            tracing::error!(%error, "no new sessions until this control plane is started with a store that works");
            (Box::new(ClosedStore(error)), None)
        }
    }
}

fn audit_sink(path: Option<&Path>) -> Result<Box<dyn Write + Send>> {
    let Some(path) = path else { return Ok(Box::new(io::stdout())) };
    let what = || format!("audit_file {}", path.display());
    // A FIFO without a reader must not hang the start: it is refused (ENXIO), and its reader must come first.
    let file: File = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(path)
        .with_context(what)?;
    Ok(Box::new(io::BufWriter::new(file)))
}

/// Makes the state directory, for the unprivileged user alone.
fn prepare_state_dir(config: &Config) -> Result<()> {
    let dir = &config.state_dir;
    let what = || format!("state_dir {}", dir.display());
    let is_new = !dir.exists();
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(what)?;
    if nix::unistd::Uid::effective().is_root() {
        let (uid, gid) = privileges::lookup(&config.user)?;
        let owner = std::fs::metadata(dir).with_context(what)?.uid();
        let is_empty = std::fs::read_dir(dir).with_context(what)?.next().is_none();
        if !is_new && owner != uid.as_raw() && !is_empty {
            // Somebody else's directory, named by mistake: nothing of it is touched.
            anyhow::bail!(
                "state_dir {} belongs to another user and is not empty; name a directory of its own, or give it to '{}'",
                dir.display(),
                config.user
            );
        }
        chown(dir, Some(uid.as_raw()), Some(gid.as_raw())).with_context(what)?;
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).or_else(|error| {
        // A directory that an administrator gave us need not be ours to change, as long as we can write there.
        if error.kind() == io::ErrorKind::PermissionDenied { Ok(()) } else { Err(error) }
    })?;
    Ok(())
}

/// Unix time less CLOCK_BOOTTIME, ms.
fn unix_offset_ms() -> i64 {
    let unix_ms = i64::try_from(clock::unix_ns() / 1_000_000).unwrap_or(i64::MAX);
    unix_ms.saturating_sub(i64::try_from(clock::now().as_millis()).unwrap_or(0))
}
