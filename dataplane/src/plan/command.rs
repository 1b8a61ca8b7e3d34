//! `jvpn-dataplane plan`.

use super::decide::{Role, Wishes, decide};
use super::{probe, show};
use crate::config::Config;
use crate::ladder::Mode;
use anyhow::{Context as _, Result, bail};
use clap::Args;
use std::io::Write as _;
use std::path::PathBuf;

/// Shows what the data plane would do on this machine, and what to change first. Changes nothing.
#[derive(Clone, Debug, Args)]
pub struct Command {
    /// Configuration file (TOML); without one, every interface is looked at as a candidate
    #[arg(value_name = "CONFIG")]
    config: Option<PathBuf>,
    /// Print facts and plan as one JSON document
    #[arg(long)]
    json: bool,
}

impl Wishes {
    /// What a configuration asks for.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        // A LAN into the host's stack is made at the start, with a queue for each worker: it limits nothing.
        let lan = config.lan.interfaces().iter().filter(|_| config.lan.host.is_none());
        let wan = config.wan.interfaces().iter().map(|name| (Role::Wan, name.clone()));
        Self {
            ports: wan.chain(lan.map(|name| (Role::Lan, name.clone()))).collect(),
            generic: config.mode == Mode::Generic,
            vlan: config.wan.vlan,
            tunnel_mtu: Some(config.tunnel.mtu),
            workers: config.workers,
            cores: config.cores.clone(),
            tuning: config.tuning.clone(),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If the configuration is wrong or names an interface that does not exist.
pub fn run(command: &Command) -> Result<()> {
    let wishes = match &command.config {
        Some(path) => {
            let config: Config = jvpn_host::config::load(path)?;
            if let Err(message) = config.validate() {
                bail!("configuration {}: {message}", path.display());
            }
            Wishes::of(&config)
        }
        None => Wishes::default(),
    };
    let names: Vec<&str> = wishes.ports.iter().map(|(_, name)| name.as_str()).collect();
    let facts = probe::facts(&names).context("cannot look at the interfaces")?;
    let plan = decide(&facts, &wishes);
    let shown = if command.json {
        let mut json = serde_json::to_string_pretty(&serde_json::json!({ "facts": facts, "plan": plan }))?;
        json.push('\n');
        json
    } else {
        show::text(&facts, &plan)
    };
    std::io::stdout().write_all(shown.as_bytes()).context("standard output")
}
