//! What is known of a machine. Everything that the kernel may not tell is an `Option`: unknown is not zero.

use serde::{Deserialize, Serialize};

/// A machine, as far as packets care.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Facts {
    /// Kernel release.
    pub kernel: String,
    /// The processors.
    pub cpus: Cpus,
    /// Huge pages of the default size.
    pub huge_pages: Option<HugePagePool>,
    /// What may be locked in memory.
    pub memory_lock: MemoryLock,
    /// net.core's busy poll settings.
    pub busy_poll: BusyPollSettings,
    /// Whether /sys/fs/bpf is a BPF file system: without one nothing can be pinned.
    pub bpffs: bool,
    /// The interfaces that were asked for.
    pub interfaces: Vec<Interface>,
}

/// Processors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cpus {
    /// Those that this process may run on.
    pub allowed: Vec<usize>,
    /// Those that the scheduler leaves alone (`isolcpus`).
    pub isolated: Vec<usize>,
    /// NUMA nodes; empty if the kernel knows none.
    pub nodes: Vec<Node>,
    /// Threads that share a core; a core with one thread need not be listed.
    pub siblings: Vec<Vec<usize>>,
}

/// A NUMA node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// Its number.
    pub id: usize,
    /// Its processors.
    pub cpus: Vec<usize>,
}

/// Huge pages of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HugePagePool {
    /// Size of a page, KiB.
    pub size_kib: u64,
    /// Pages in the pool.
    pub total: u64,
    /// Pages that nobody uses.
    pub free: u64,
}

/// What this process may lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryLock {
    /// RLIMIT_MEMLOCK, octets; `None` = unlimited.
    pub limit_octets: Option<u64>,
    /// CAP_IPC_LOCK: the limit does not apply.
    pub cap_ipc_lock: bool,
}

/// net.core's settings, µs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BusyPollSettings {
    /// net.core.busy_poll.
    pub busy_poll: Option<u32>,
    /// net.core.busy_read.
    pub busy_read: Option<u32>,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its driver; `None` if the kernel does not name one.
    pub driver: Option<String>,
    /// MTU, octets.
    pub mtu: u32,
    /// Receive queues in use.
    pub rx_queues: u32,
    /// Transmit queues in use.
    pub tx_queues: u32,
    /// What `ethtool -l` says.
    pub channels: Option<Channels>,
    /// What UDP is hashed by.
    pub rss: Rss,
    /// Interrupts, in the order of their names.
    pub irqs: Vec<Irq>,
    /// NUMA node; `None` for none or one.
    pub numa_node: Option<usize>,
    /// Offloads that matter.
    pub offloads: Offloads,
    /// napi_defer_hard_irqs.
    pub napi_defer_hard_irqs: Option<u32>,
    /// gro_flush_timeout, ns.
    pub gro_flush_timeout_ns: Option<u64>,
    /// How an XDP program is attached now.
    pub xdp: Option<String>,
    /// The bond or bridge that it belongs to.
    pub master: Option<String>,
    /// Who sends what arrives by it.
    pub senders: Senders,
}

/// Who sends what arrives by an interface: whether there is a device behind it that finishes checksums and cuts packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Senders {
    /// Nobody looked.
    #[default]
    Unknown,
    /// Stations behind a card.
    Wire,
    /// Software on the same machine: another namespace, a guest, the host of a guest; or nobody knows.
    Software,
}

/// `ethtool -l`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Channels {
    /// Most combined channels.
    pub max_combined: u32,
    /// Combined channels in use.
    pub combined: u32,
    /// Most receive channels.
    pub max_rx: u32,
    /// Receive channels in use.
    pub rx: u32,
}

/// What a device counts its queues by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelKind {
    /// Channels of both directions, as cards have them.
    #[default]
    Combined,
    /// Each direction by itself: veth has no others.
    Separate,
}

impl Channels {
    /// What is to be set.
    #[must_use]
    pub const fn kind(self) -> ChannelKind {
        if self.max_combined == 0 && self.max_rx > 0 { ChannelKind::Separate } else { ChannelKind::Combined }
    }
}

/// Whether UDP flows are spread by ports; `None` if the driver does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rss {
    /// UDP over IPv4.
    pub udp4_ports: Option<bool>,
    /// UDP over IPv6.
    pub udp6_ports: Option<bool>,
}

/// An interrupt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Irq {
    /// Its number.
    pub number: u32,
    /// What the driver calls it.
    pub name: String,
    /// CPUs that may serve it.
    pub affinity: Vec<usize>,
}

/// Offloads; `None` if the driver does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Offloads {
    /// Large receive offload.
    pub lro: Option<bool>,
    /// VLAN tags are taken off before XDP sees them.
    pub rx_vlan: Option<bool>,
    /// Checksums are left unfinished for the device.
    pub tx_checksum: Option<bool>,
}
