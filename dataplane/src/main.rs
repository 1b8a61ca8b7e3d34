//! `jvpn-dataplane`: steers and forwards. Run it as root; the control plane connects to its socket.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use jvpn_dataplane::config::Config;
use jvpn_dataplane::{plan, replace, run};
use std::path::PathBuf;
use std::process::ExitCode;

/// Data plane of a Jumping VPN gateway: attaches XDP programs to the interfaces of a WAN and a LAN side, takes tunnel
/// packets into AF_XDP sockets and forwards them on pinned workers.
///
/// It needs root (CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW, CAP_IPC_LOCK). jvpn-controlplane gets its descriptors over
/// control_socket, waits for it, and needs no privilege at all. Ending it (Ctrl-C) detaches everything;
/// SIGUSR2 ends it for a restart: XDP stays attached, and the next process takes it over.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Example configuration:

  workers = 2
  cores = [0, 1]
  [wan]
  interface = \"wan0\"
  port = 4500
  [lan]
  interface = \"lan0\"
  [tunnel]
  gateway_address = \"10.77.0.1\"
  pool = \"10.77.0.0/16\"

Ask first what this machine will give: jvpn-dataplane plan CONFIG
Look at it while it runs: jvpn status --socket /run/jvpn/dataplane-status.sock"
)]
struct Args {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Plan(plan::Command),
    ReplaceProgram(replace::Command),
}

fn main() -> ExitCode {
    jvpn_host::logging::init();
    // A worker that panicked cannot be trusted with what it shares: end at once, the supervisor starts anew.
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default_hook(info);
        std::process::abort();
    }));
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
    let (file, replaces) = match (args.command, args.config) {
        (Some(Command::Plan(command)), _) => return plan::run(&command),
        (Some(Command::ReplaceProgram(command)), _) => (command.config, true),
        (None, Some(file)) => (file, false),
        (None, None) => bail!("--config FILE is missing"),
    };
    let config: Config = jvpn_host::config::load(&file)?;
    if let Err(message) = config.validate() {
        bail!("configuration {}: {message}", file.display());
    }
    if !nix::unistd::Uid::effective().is_root() {
        bail!(
            "must be started as root: loading XDP programs needs CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW and CAP_IPC_LOCK"
        );
    }
    if replaces {
        let ports = replace::replace(&config).context("the programs stay as they are")?;
        tracing::info!(?ports, "XDP programs replaced");
        return Ok(());
    }
    run::run(&config).context("data plane")
}
