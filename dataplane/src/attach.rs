//! Loads the XDP object, sizes and fills its tables, attaches both programs, and says how they are really attached.

use crate::config::{Config, Limits};
use crate::frame::Mac;
use crate::netlink::{Link, Netlink};
use crate::pins::{Pins, TABLES};
use anyhow::{Context as _, Result, anyhow, bail};
use aya::maps::{Array, Map, MapData, PerCpuArray, XskMap};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use jvpn_abi::tables::{EDGE_CLASSES, Gate};
use jvpn_abi::{CONTRACT_VERSION, DropReason};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// The XDP object, built by this crate's build script.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("JVPN_XDP_OBJECT"));

/// The loaded and attached XDP programs with their tables.
pub struct Steering {
    bpf: Ebpf,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    /// The WAN interface.
    pub wan: Link,
    /// The LAN interface.
    pub lan: Link,
    /// Links that an earlier process left attached, by port: their programs are still its.
    left: Vec<(&'static str, PinnedLink)>,
    /// How the links came about.
    pub attachment: Attachment,
    /// `None`: nothing is pinned, the programs go with the process.
    pins: Option<Pins>,
}

/// How the programs came to their interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attachment {
    /// Attached by this process.
    Attached,
    /// The link is that of an earlier process; its program was replaced in one step.
    Replaced,
}

impl std::fmt::Debug for Steering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steering").field("wan", &self.wan).field("lan", &self.lan).finish_non_exhaustive()
    }
}

/// GATE is plain data of this contract.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct GateValue(Gate);

// SAFETY: `Gate` is `bytemuck::Pod`: plain integers without padding.
unsafe impl aya::Pod for GateValue {}

/// Loads the object with a binding table of `slots` entries, attaches nothing.
///
/// # Errors
/// If the kernel refuses object or maps; the message says which capability may be missing.
pub fn load(slots: u32) -> Result<Ebpf> {
    EbpfLoader::new()
        .map_max_entries("BINDINGS", slots)
        .map_max_entries("ROUTES", slots.saturating_mul(2))
        .load(OBJECT)
        .context("the kernel refused the XDP object; it needs root (CAP_BPF, CAP_NET_ADMIN), BTF and Linux 5.10 or newer, and lockdown off")
}

impl Steering {
    /// Loads, fills GATE, attaches to both ports, each of which must have the receive queues `queues`.
    ///
    /// # Errors
    /// If an interface or a queue is missing or the kernel refuses.
    pub fn attach(config: &Config, queues: &[u32]) -> Result<Self> {
        let highest = queues.iter().copied().max().unwrap_or(0);
        let mut bpf = load(config.slots)?;
        let mut netlink = Netlink::new().context("rtnetlink")?;
        let lan_mac = netlink.link(&config.lan.interface)?.mac;
        write_gate(&mut bpf, config, lan_mac)?;
        let logger =
            if config.xdp_log { Some(EbpfLogger::init(&mut bpf).context("XDP log ring")?) } else { None };
        let mut pins = pins(config, netlink.link(&config.wan.interface)?.index);
        let mut left = Vec::new();
        for (program, interface) in [("wan", &config.wan.interface), ("lan", &config.lan.interface)] {
            let index = netlink.link(interface)?.index;
            match pins.as_ref().and_then(|pins| pins.link(program, index)) {
                Some(link) => {
                    left.push((program, link));
                    // Not ours yet: if this start fails, whoever runs there goes on.
                    pins.as_mut().into_iter().for_each(Pins::keep);
                }
                None => attach(&mut bpf, program, interface, pins.as_ref())?,
            }
        }
        let wan = netlink.link(&config.wan.interface)?;
        let lan = netlink.link(&config.lan.interface)?;
        for (name, link) in [(&config.wan.interface, &wan), (&config.lan.interface, &lan)] {
            let Some(mode) = link.xdp else {
                bail!("the kernel does not show an XDP program on {name} after attaching one")
            };
            tracing::info!(interface = %name, mode, mac = ?link.mac, queues = link.rx_queues, "XDP attached");
            if link.rx_queues <= highest {
                bail!(
                    "{name} has {} receive queues for {} workers up to queue {highest}; set workers = {} or raise them with 'ethtool -L {name} combined {}'",
                    link.rx_queues,
                    queues.len(),
                    link.rx_queues,
                    highest + 1
                );
            }
        }
        let attachment = if left.is_empty() { Attachment::Attached } else { Attachment::Replaced };
        Ok(Self { bpf, logger, wan, lan, left, attachment, pins })
    }

    /// Puts these programs into the place of those that an earlier process left, in one step each, and pins their tables.
    /// Call it once the sockets are open: until then another process might own them, and nothing has been changed.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn take_over(&mut self) -> Result<()> {
        for (name, link) in std::mem::take(&mut self.left) {
            let program: &mut Xdp = program(&mut self.bpf, name)?;
            let link = XdpLink::try_from(FdLink::from(link))?;
            program.attach_to_link(link).with_context(|| format!("link of the {name} port"))?;
            tracing::info!(port = name, "the program of an earlier process was replaced; the link stayed up");
        }
        let Some(pins) = &mut self.pins else { return Ok(()) };
        pins.own();
        let dir = pins.clear_tables(CONTRACT_VERSION)?;
        for name in TABLES {
            let map = self.bpf.map(name).ok_or_else(|| anyhow!("the XDP object has no map {name}"))?;
            map.pin(dir.join(name)).with_context(|| format!("cannot pin table {name}"))?;
        }
        Ok(())
    }

    /// Whether the programs stay attached if this process dies.
    #[must_use]
    pub const fn is_pinned(&self) -> bool {
        self.pins.is_some()
    }

    /// Leaves the programs attached when this is dropped, for the next process.
    pub const fn keep(&mut self) {
        if let Some(pins) = &mut self.pins {
            pins.keep();
        }
    }

    /// Puts a socket into the XSKMAP of a port.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn set_socket(&mut self, map: &str, queue: u32, socket: RawFd) -> Result<()> {
        let map = self.bpf.map_mut(map).ok_or_else(|| anyhow!("the XDP object has no map {map}"))?;
        XskMap::try_from(map)?.set(queue, Fd(socket), 0).with_context(|| format!("socket of queue {queue}"))
    }

    /// A descriptor of a table, for mapping and for the control plane.
    ///
    /// # Errors
    /// If the object has no such map.
    pub fn table(&self, name: &str) -> Result<OwnedFd> {
        table_fd(&self.bpf, name)?.try_clone_to_owned().with_context(|| format!("table {name}"))
    }

    /// Packet counters of the XDP programs by reason, summed over CPUs.
    ///
    /// # Errors
    /// If the kernel does not give them.
    pub fn counters(&self) -> Result<Vec<(DropReason, u64)>> {
        counters(&self.bpf)
    }

    /// Descriptor that becomes readable when the XDP programs logged something, if they may.
    #[must_use]
    pub fn log_fd(&self) -> Option<BorrowedFd<'_>> {
        self.logger.as_ref().map(AsFd::as_fd)
    }

    /// Writes waiting log lines of the XDP programs to the process log.
    pub fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }
}

/// A bare descriptor for aya.
struct Fd(RawFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// Sums the COUNTERS of a loaded object over CPUs.
///
/// # Errors
/// If the kernel does not give them.
pub fn counters(bpf: &Ebpf) -> Result<Vec<(DropReason, u64)>> {
    let map = bpf.map("COUNTERS").ok_or_else(|| anyhow!("the XDP object has no map COUNTERS"))?;
    let counters: PerCpuArray<_, u64> = PerCpuArray::try_from(map)?;
    DropReason::ALL
        .iter()
        .map(|reason| Ok((*reason, counters.get(&reason.number(), 0)?.iter().sum())))
        .collect()
}

/// A descriptor of a map of a loaded object.
///
/// # Errors
/// If there is no such map.
pub fn table_fd<'a>(bpf: &'a Ebpf, name: &str) -> Result<BorrowedFd<'a>> {
    let map = bpf.map(name).ok_or_else(|| anyhow!("the XDP object has no map {name}"))?;
    let (Map::Array(data) | Map::LpmTrie(data) | Map::HashMap(data)) = map else {
        bail!("map {name} has an unexpected type")
    };
    let data: &MapData = data;
    Ok(data.fd().as_fd())
}

fn write_gate(bpf: &mut Ebpf, config: &Config, lan_mac: Mac) -> Result<()> {
    let cpus =
        u32::try_from(aya::util::nr_cpus().map_err(|(path, error)| anyhow!("{path}: {error}"))?).unwrap_or(1);
    let limits = &config.limits;
    let gate = Gate {
        contract_version: CONTRACT_VERSION,
        port: config.wan.port,
        log: u16::from(config.xdp_log),
        lan_mac: lan_mac.0,
        reserved: [0; 2],
        // One node owns all its sessions: no lease, no fence.
        fence_deadline_ns: u64::MAX,
        class: [
            Limits::per_cpu(limits.known_handles_per_second, cpus),
            Limits::per_cpu(limits.unknown_handles_per_second, cpus),
            Limits::per_cpu(limits.handshakes_per_second, cpus),
            Limits::per_cpu(limits.session_per_second, cpus),
        ],
        // One source mostly hashes to one CPU, so its limit is not divided: it is a bound, not a share.
        source: [Limits::per_cpu(limits.source_per_second, 1); EDGE_CLASSES],
        sample: Limits::per_cpu(limits.sample_per_second, cpus),
    };
    set_gate(bpf, gate)
}

/// Stores GATE.
///
/// # Errors
/// If the kernel refuses.
pub fn set_gate(bpf: &mut Ebpf, gate: Gate) -> Result<()> {
    let map = bpf.map_mut("GATE").ok_or_else(|| anyhow!("the XDP object has no map GATE"))?;
    let mut table: Array<_, GateValue> = Array::try_from(map)?;
    table.set(0, GateValue(gate), 0).context("GATE")
}

/// Pins are worth having, not worth refusing to start.
fn pins(config: &Config, wan_index: u32) -> Option<Pins> {
    if config.pin_dir.as_os_str().is_empty() {
        return None;
    }
    match Pins::make(&config.pin_dir, wan_index) {
        Ok(pins) => Some(pins),
        Err(error) => {
            tracing::warn!("XDP goes with this process, a restart attaches it anew: {error:#}");
            None
        }
    }
}

fn program<'a>(bpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program: &mut Xdp =
        bpf.program_mut(name).ok_or_else(|| anyhow!("the XDP object has no program {name}"))?.try_into()?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("the kernel's verifier refused the XDP program '{name}'"))?;
    }
    Ok(program)
}

fn attach(bpf: &mut Ebpf, name: &str, interface: &str, pins: Option<&Pins>) -> Result<()> {
    let steer = program(bpf, name)?;
    let link = match steer.attach(interface, XdpMode::Driver) {
        Ok(link) => link,
        Err(native) => {
            tracing::warn!(interface, error = %chain(&native), "no native XDP here, falling back to generic XDP (slower)");
            steer.attach(interface, XdpMode::Skb).with_context(|| {
                format!("no XDP program can be attached to {interface} (native: {})", chain(&native))
            })?
        }
    };
    let Some(pins) = pins else { return Ok(()) };
    // aya falls back silently to an attachment without a link, which cannot be pinned.
    let link: FdLink = steer
        .take_link(link)?
        .try_into()
        .with_context(|| format!("the kernel gave no BPF link for {interface}; set pin_dir = \"\""))?;
    let path = pins.link_path(name);
    link.pin(&path).map(drop).with_context(|| format!("cannot pin {}", path.display()))
}

fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", chain(source)))
}
