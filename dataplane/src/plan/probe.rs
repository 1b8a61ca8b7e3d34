//! Reads the facts: sysfs, procfs, ethtool's ioctl, rtnetlink. What cannot be read stays unknown; nothing is changed.

use super::checksums;
use super::cpus::parse_cpu_list;
use super::ethtool::Ethtool;
use super::facts::{BusyPollSettings, Channels, Cpus, Facts, HugePagePool, Interface, Irq, MemoryLock, Node};
use crate::netlink::{Link, Netlink};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{FsType, statfs};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;

/// BPF_FS_MAGIC (linux/magic.h).
const BPF_FS: FsType = FsType(0xcafe_4a11);
/// CAP_IPC_LOCK (linux/capability.h).
const CAP_IPC_LOCK: u32 = 14;
/// The size that the kernel uses unless told otherwise, KiB (x86_64).
const HUGE_PAGE_KIB: u64 = 2_048;

/// Looks at this machine and at the named interfaces; with none named, at each one that is not a loopback.
///
/// # Errors
/// If a named interface does not exist.
pub fn facts(names: &[&str]) -> io::Result<Facts> {
    let all = if names.is_empty() { every_interface()? } else { Vec::new() };
    let ethtool = Ethtool::open()?;
    let names = names.iter().copied().chain(all.iter().map(String::as_str));
    let interfaces = names.map(|name| interface(&ethtool, name)).collect::<io::Result<_>>()?;
    Ok(Facts {
        kernel: text("/proc/sys/kernel/osrelease").unwrap_or_default(),
        cpus: cpus(),
        huge_pages: huge_pages(),
        memory_lock: memory_lock(),
        busy_poll: BusyPollSettings {
            busy_poll: number("/proc/sys/net/core/busy_poll"),
            busy_read: number("/proc/sys/net/core/busy_read"),
        },
        bpffs: statfs("/sys/fs/bpf").is_ok_and(|found| found.filesystem_type() == BPF_FS),
        interfaces,
    })
}

fn text(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn number<N: FromStr>(path: impl AsRef<Path>) -> Option<N> {
    text(path)?.parse().ok()
}

fn every_interface() -> io::Result<Vec<String>> {
    /// ARPHRD_LOOPBACK (linux/if_arp.h).
    const LOOPBACK: u32 = 772;
    let mut names = Vec::new();
    for entry in fs::read_dir("/sys/class/net")? {
        let entry = entry?;
        let kind: Option<u32> = number(entry.path().join("type"));
        if kind.is_some_and(|kind| kind != LOOPBACK)
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn cpus() -> Cpus {
    let base = Path::new("/sys/devices/system");
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_else(|_| CpuSet::new());
    let allowed: Vec<usize> = (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect();
    let list = |path: &Path| text(path).map(|text| parse_cpu_list(&text)).unwrap_or_default();
    let node_ids = list(&base.join("node/online"));
    let nodes = node_ids
        .into_iter()
        .map(|id| Node { id, cpus: list(&base.join(format!("node/node{id}/cpulist"))) })
        .collect();
    let mut siblings: Vec<Vec<usize>> = allowed
        .iter()
        .map(|cpu| list(&base.join(format!("cpu/cpu{cpu}/topology/thread_siblings_list"))))
        .filter(|threads| threads.len() > 1)
        .collect();
    siblings.sort();
    siblings.dedup();
    Cpus { allowed, isolated: list(&base.join("cpu/isolated")), nodes, siblings }
}

fn huge_pages() -> Option<HugePagePool> {
    let pool = format!("/sys/kernel/mm/hugepages/hugepages-{HUGE_PAGE_KIB}kB");
    let pool = Path::new(&pool);
    Some(HugePagePool {
        size_kib: HUGE_PAGE_KIB,
        total: number(pool.join("nr_hugepages"))?,
        free: number(pool.join("free_hugepages"))?,
    })
}

fn memory_lock() -> MemoryLock {
    let limit_octets = getrlimit(Resource::RLIMIT_MEMLOCK)
        .ok()
        .map(|(soft, _)| soft)
        .filter(|&soft| soft != libc::RLIM_INFINITY);
    let effective = text("/proc/self/status")
        .and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .unwrap_or(0);
    MemoryLock { limit_octets, cap_ipc_lock: effective & (1 << CAP_IPC_LOCK) != 0 }
}

/// Receive queues of an interface that are in use: the kernel takes a socket for no other (net/xdp/xsk.c,
/// xsk_reg_pool_at_qid).
#[must_use]
pub fn queues_in_use(name: &str, link: &Link) -> u32 {
    let channels = Ethtool::open().ok().and_then(|ethtool| ethtool.channels(name));
    in_use(present(name, link), channels)
}

/// Receive queues that sysfs has, which are those in use, where it shows this very device: it shows the network namespace
/// that it was mounted in. Else those that the device was made with, which is what netlink says.
fn present(name: &str, link: &Link) -> u32 {
    let base = Path::new("/sys/class/net").join(name);
    let shown = Shown { index: number(base.join("ifindex")), queues: count_queues(&base, "rx-") };
    shown.or_made(link)
}

/// What sysfs has of a device of this name.
struct Shown {
    index: Option<u32>,
    queues: u32,
}

impl Shown {
    fn or_made(&self, link: &Link) -> u32 {
        if self.index == Some(link.index) && self.queues > 0 { self.queues } else { link.rx_queues }
    }
}

/// The devices below this one in the same network namespace, as sysfs has them where it shows that one.
pub(super) fn lower_devices(name: &str) -> Vec<String> {
    let base = Path::new("/sys/class/net").join(name);
    let link = Netlink::new().and_then(|mut netlink| netlink.link(name));
    if !link.is_ok_and(|link| number(base.join("ifindex")) == Some(link.index)) {
        return Vec::new();
    }
    let entries = fs::read_dir(base).map(|found| found.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let lower = |entry: &fs::DirEntry| Some(entry.file_name().to_str()?.strip_prefix("lower_")?.to_owned());
    entries.iter().filter_map(lower).collect()
}

fn count_queues(base: &Path, kind: &str) -> u32 {
    fs::read_dir(base.join("queues"))
        .map(|found| {
            let ours = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(kind);
            found.flatten().filter(ours).count()
        })
        .map_or(0, |count| u32::try_from(count).unwrap_or(u32::MAX))
}

/// Those that ethtool says are in use, of so many.
fn in_use(made: u32, channels: Option<Channels>) -> u32 {
    let used = channels.map_or(0, |of| of.combined.saturating_add(of.rx));
    if used > 0 { made.min(used) } else { made }
}

fn interface(ethtool: &Ethtool, name: &str) -> io::Result<Interface> {
    let base = Path::new("/sys/class/net").join(name);
    let link = Netlink::new()?.link(name)?;
    let followed = |path: &str| fs::read_link(base.join(path)).ok()?.file_name()?.to_str().map(str::to_owned);
    let channels = ethtool.channels(name);
    Ok(Interface {
        name: name.to_owned(),
        driver: ethtool.driver(name).or_else(|| followed("device/driver")),
        mtu: link.mtu,
        rx_queues: in_use(present(name, &link), channels),
        tx_queues: count_queues(&base, "tx-"),
        channels,
        rss: ethtool.rss(name),
        irqs: irqs(&base, name, followed("device").as_deref()),
        numa_node: number::<i64>(base.join("device/numa_node")).and_then(|node| usize::try_from(node).ok()),
        offloads: ethtool.offloads(name),
        napi_defer_hard_irqs: number(base.join("napi_defer_hard_irqs")),
        gro_flush_timeout_ns: number(base.join("gro_flush_timeout")),
        xdp: link.xdp.map(str::to_owned),
        master: followed("master"),
        senders: checksums::senders(ethtool, name),
    })
}

/// Interrupts of a device: those that PCI lists for it, else those that are named after it or its parent.
fn irqs(base: &Path, name: &str, device: Option<&str>) -> Vec<Irq> {
    let listed: Vec<u32> = fs::read_dir(base.join("device/msi_irqs"))
        .map(|found| found.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
        .unwrap_or_default();
    let table = text("/proc/interrupts").unwrap_or_default();
    let mut irqs: Vec<Irq> = table
        .lines()
        .filter_map(|line| {
            let (number, rest) = line.split_once(':')?;
            let number: u32 = number.trim().parse().ok()?;
            let label = rest.split_whitespace().last()?;
            let named = label.contains(name) || device.is_some_and(|device| label.starts_with(device));
            (listed.contains(&number) || listed.is_empty() && named).then(|| Irq {
                number,
                name: label.to_owned(),
                affinity: text(format!("/proc/irq/{number}/smp_affinity_list"))
                    .map(|text| parse_cpu_list(&text))
                    .unwrap_or_default(),
            })
        })
        .collect();
    irqs.sort_by_key(|irq| irq.number);
    irqs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R0.2: as many queues as channels are in use, of either kind; all that there are where the driver does not say.
    #[test]
    fn r0_2_queues_in_use() {
        let of = |combined, rx| Some(Channels { combined, rx, max_combined: 64, max_rx: 64 });
        assert_eq!([None, of(0, 0)].map(|channels| in_use(16, channels)), [16, 16]);
        assert_eq!([of(6, 0), of(0, 1), of(4, 2)].map(|channels| in_use(16, channels)), [6, 1, 6]);
        assert_eq!(in_use(8, of(64, 0)), 8, "no more than there are");
    }

    /// R0.2: a tap is made with 256 queues and has one; the device of another network namespace says nothing.
    #[test]
    fn r0_2_sysfs_counts_the_queues_of_this_very_device() {
        let link = Link { index: 7, rx_queues: 256, ..Link::default() };
        let shown = |index, queues| Shown { index, queues }.or_made(&link);
        assert_eq!(shown(Some(7), 1), 1);
        assert_eq!([shown(Some(8), 1), shown(None, 0), shown(Some(7), 0)], [256; 3]);
    }
}
