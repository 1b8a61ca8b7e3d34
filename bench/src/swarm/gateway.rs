//! A gateway for a swarm: its control plane's configuration with a peer for each member, under a policy of the bench.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};
use jvpn_abi::wire::data::MAX_SLOTS;
use jvpn_crypto::keys::{PublicKey, StaticSecret};

use super::network;
use crate::deployment::{Places, Role};

/// Who may come: a name, a key, and the number from which the inner address follows.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Name in status and audit.
    pub name: String,
    /// Its key.
    pub key: PublicKey,
    /// Its number.
    pub number: usize,
}

/// The gateway's public key, from the key file that `deployment::prepare` made.
///
/// # Errors
/// The file is missing or holds no key.
pub fn public_key(places: &Places) -> Result<PublicKey> {
    let path = places.config_dir.join("gateway.key");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let secret: StaticSecret =
        text.trim().parse().with_context(|| format!("{} holds no key", path.display()))?;
    Ok(secret.public())
}

/// Replaces policy and peers in the control plane's configuration. `policy` = the lines of its `[policy]` table.
///
/// # Errors
/// The file that `deployment::prepare` made is not there or has no policy.
pub fn configure(places: &Places, policy: &str, peers: &[Peer]) -> Result<()> {
    let path = places.config_dir.join(Role::ControlPlane.config_file());
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (head, rest) = text.split_once("[policy]").context("the configuration has no [policy]")?;
    let (_, rest) = rest.split_once("[tunnel]").context("the configuration has no [tunnel]")?;
    let (tunnel, _) = rest.split_once("[[peer]]").context("the configuration has no [[peer]]")?;
    let mut config = format!("{head}[policy]\n{policy}\n[tunnel]{tunnel}");
    for Peer { name, key, number } in peers {
        let address = network::inner_address(*number);
        write!(
            config,
            "\n[[peer]]\nname = \"{name}\"\npublic_key = \"{key}\"\naddresses = [\"{address}/32\"]\n"
        )?;
    }
    fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))
}

/// Sizes the data plane's tables for so many sessions, and adds `tables` (whole TOML tables) to its configuration.
///
/// # Errors
/// The file that `deployment::prepare` made is not there.
pub fn size_data_plane(places: &Places, sessions: usize, tables: &str) -> Result<()> {
    let path = places.config_dir.join(Role::DataPlane.config_file());
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    // Twice the sessions: a switch needs a fresh slot before the old one is free.
    let slots = (2 * sessions).clamp(1_024, MAX_SLOTS as usize);
    let config = format!("slots = {slots}\n{text}{tables}");
    fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))
}
