//! `jvpn-dataplane replace-program`: puts this binary's XDP programs into the place of the running ones.
//!
//! The new programs use the tables and the log of the running data plane, and each link goes from the old program to the
//! new one in one step of the kernel: between two packets. The data plane goes on and learns nothing of it.

use crate::attach::OBJECT;
use crate::config::Config;
use crate::hook::PROGRAMS;
use crate::netlink::Netlink;
use crate::pins::{LOG, Pins, TABLES};
use anyhow::{Context as _, Result, anyhow, bail};
use aya::EbpfLoader;
use aya::programs::Xdp;
use aya::programs::links::FdLink;
use aya::programs::xdp::XdpLink;
use jvpn_abi::CONTRACT_VERSION;
use std::path::PathBuf;

/// Replaces the XDP programs of the running data plane by those of this binary, without losing a packet.
///
/// Tables, log, sockets and sessions stay. The running data plane must be of the same contract version; otherwise restart
/// data plane and control plane together.
#[derive(Clone, Debug, clap::Args)]
pub struct Command {
    /// Configuration file (TOML) of the running data plane
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Does it. Returns the ports whose program was replaced.
///
/// # Errors
/// If no data plane runs there, or one of another contract version; then nothing was changed.
pub fn replace(config: &Config) -> Result<Vec<&'static str>> {
    let mut netlink = Netlink::new().context("rtnetlink")?;
    let wan = netlink.link(config.wan.interface())?.index;
    let pins = Pins::of_running(&config.pin_dir, wan)?;
    let versions = pins.versions();
    if versions != [CONTRACT_VERSION] {
        let theirs: Vec<String> = versions.iter().map(u32::to_string).collect();
        bail!(
            "the running data plane has tables of contract version {}, this program is of {CONTRACT_VERSION}; restart data plane and control plane of one release",
            if theirs.is_empty() { "none".to_owned() } else { theirs.join(", ") }
        );
    }
    let tables = pins.tables_dir(CONTRACT_VERSION);
    let mut loader = EbpfLoader::new();
    // The ring of the log, too: the running data plane reads no other one.
    for name in TABLES.into_iter().chain([LOG]) {
        let path = tables.join(name);
        if !path.exists() {
            bail!("{} is not there; restart the data plane", path.display());
        }
        loader.map_pin_path(name, path);
    }
    let mut bpf = loader.load(OBJECT).context("the kernel refused the XDP object")?;
    // A port that does without AF_XDP has no program.
    let mut ports = Vec::new();
    for (programs, interfaces) in PROGRAMS.iter().zip([config.wan.interfaces(), config.lan.interfaces()]) {
        for (port, interface) in programs.iter().zip(interfaces) {
            // Nor has an interface that went away while the others live.
            if pins.has_link(port)
                && let Ok(link) = netlink.link(interface)
                && pins.is_on(port, link.index)
            {
                ports.push((*port, link.index));
            }
        }
    }
    if ports.is_empty() {
        bail!("the running data plane has no XDP program on either port; there is nothing to replace");
    }
    // First everything that can fail, then the two steps that change something.
    let mut links = Vec::new();
    for (port, index) in ports {
        let program: &mut Xdp = bpf
            .program_mut(port)
            .ok_or_else(|| anyhow!("the XDP object has no program {port}"))?
            .try_into()?;
        program.load().with_context(|| format!("the kernel's verifier refused the XDP program '{port}'"))?;
        let link = pins.link(port, index).ok_or_else(|| {
            anyhow!("{} is not there; restart the data plane", pins.link_path(port).display())
        })?;
        links.push((port, XdpLink::try_from(FdLink::from(link))?));
    }
    let mut replaced = Vec::new();
    for (port, link) in links {
        let program: &mut Xdp = bpf
            .program_mut(port)
            .ok_or_else(|| anyhow!("the XDP object has no program {port}"))?
            .try_into()?;
        program.attach_to_link(link).with_context(|| format!("link of port {port}"))?;
        replaced.push(port);
    }
    Ok(replaced)
}
