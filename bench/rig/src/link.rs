//! Virtual Ethernet pairs: offloads, queues and addresses of their interfaces.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::Namespace;
use crate::tool::{ETHTOOL, IP};

/// Offloads that must be off at both ends of every pair: a veth hands frames over with unfinished checksums
/// and as 64 KiB packets unless told otherwise, and XDP would see them so (ping works then, and TCP never
/// opens).
const OFF: [&str; 6] = ["rx", "tx", "sg", "tso", "gso", "gro"];

/// The same in the kernel's words, where frames leave. GRO is not among them: XDP itself turns it on at its
/// own port.
const MUST_BE_OFF: [&str; 4] =
    ["tx-checksumming", "tcp-segmentation-offload", "generic-segmentation-offload", "tx-udp-segmentation"];

pub(crate) fn turn_offloads_off(namespace: &Namespace, interface: &str) -> Result<()> {
    let mut args = vec!["-K", interface];
    for feature in OFF {
        args.extend([feature, "off"]);
    }
    args.extend(["tx-udp-segmentation", "off"]);
    ETHTOOL.run(Some(namespace), &args)?;
    assert_offloads_off(namespace, interface)
}

/// Fails if frames could leave `interface` unfinished.
pub(crate) fn assert_offloads_off(namespace: &Namespace, interface: &str) -> Result<()> {
    let features = ETHTOOL.run(Some(namespace), &["-k", interface])?;
    for feature in MUST_BE_OFF {
        let line = features.lines().map(str::trim).find(|line| line.starts_with(&format!("{feature}:")));
        match line {
            Some(line) if line.contains(": off") => {}
            Some(line) => bail!("{interface} in namespace {}: {line}, and it must be off", namespace.name()),
            None => bail!("{interface} in namespace {}: ethtool does not name {feature}", namespace.name()),
        }
    }
    Ok(())
}

/// Hardware address of an interface.
pub(crate) fn mac(namespace: &Namespace, interface: &str) -> Result<[u8; 6]> {
    let text = IP.run(Some(namespace), &["-json", "link", "show", "dev", interface])?;
    let links: serde_json::Value = serde_json::from_str(&text).context("`ip -json link` gave no JSON")?;
    let address = links.pointer("/0/address").and_then(serde_json::Value::as_str).unwrap_or_default();
    let octets: Option<Vec<u8>> =
        address.split(':').map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    octets
        .and_then(|octets| octets.try_into().ok())
        .with_context(|| format!("{interface} in namespace {} has no hardware address", namespace.name()))
}

/// Has everything that local sockets send over `interface` use its transmit queue `queue`, whatever its flow.
pub(crate) fn pin_transmit_queue(namespace: &Namespace, interface: &str, queue: usize) -> Result<()> {
    namespace.run(|| with_sysfs(|sysfs| write_xps(sysfs, interface, queue)))?.with_context(|| {
        format!("cannot pin the transmit queue of {interface} in namespace {}", namespace.name())
    })
}

fn write_xps(sysfs: &Path, interface: &str, queue: usize) -> Result<()> {
    // The mask is written in words of 32; on a machine with more CPUs the rest still hash, only less
    // predictably.
    let cpus = std::thread::available_parallelism().map_or(1, usize::from).min(32);
    let all_cpus = format!("{:x}", (1_u64 << cpus) - 1);
    let queues = sysfs.join("class/net").join(interface).join("queues");
    for entry in fs::read_dir(&queues).with_context(|| format!("cannot read {}", queues.display()))?.flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(number) = name.strip_prefix("tx-").and_then(|n| n.parse::<usize>().ok()) else { continue };
        let path = entry.path().join("xps_cpus");
        let value = if number == queue { all_cpus.as_str() } else { "0" };
        fs::write(&path, value).with_context(|| format!("cannot write {value} to {}", path.display()))?;
    }
    Ok(())
}

/// Gives `work` a sysfs that shows the network namespace of the calling thread. The mount is seen by this
/// thread alone, which therefore must end afterwards.
fn with_sysfs<T>(work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("cannot make mounts private")?;
    let place = Path::new("/sys");
    mount(Some("sysfs"), place, Some("sysfs"), MsFlags::empty(), None::<&str>)
        .context("cannot mount sysfs")?;
    let result = work(place);
    umount2(place, MntFlags::MNT_DETACH).context("cannot unmount sysfs")?;
    result
}
