//! Loads the XDP object, sizes and fills its tables, attaches both programs, and says how they are really attached.

use crate::config::{Config, Limits};
use crate::frame::Mac;
use crate::ladder::{Mode, Standing, Step, Why};
use crate::netlink::{Link, Netlink};
use anyhow::{Context as _, Result, anyhow, bail};
use aya::maps::{Array, Map, MapData, PerCpuArray, XskMap};
use aya::programs::xdp::XdpLinkId;
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use jvpn_abi::limit::Rate;
use jvpn_abi::tables::{EDGE_CLASSES, Gate};
use jvpn_abi::{CONTRACT_VERSION, DropReason};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// The XDP object, built by this crate's build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("JVPN_XDP_OBJECT"));

/// The loaded and attached XDP programs with their tables.
pub struct Steering {
    bpf: Ebpf,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    attached: [Option<XdpLinkId>; 2],
    /// The WAN interface.
    pub wan: Link,
    /// Where the WAN port stands.
    pub wan_standing: Standing,
    /// The LAN interface.
    pub lan: Link,
    /// Where the LAN port stands.
    pub lan_standing: Standing,
}

/// Names of the programs, by port.
const PROGRAMS: [&str; 2] = ["wan", "lan"];

/// A port by the side that it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Towards the clients.
    Wan = 0,
    /// Towards the protected network.
    Lan = 1,
}

impl Side {
    /// The queue of each worker on this port. A LAN that is made here has one per worker, whatever the device of the WAN
    /// has.
    #[must_use]
    pub fn queues(self, config: &Config, queues: &[u32]) -> Vec<u32> {
        match (self, &config.lan.host) {
            (Self::Lan, Some(_)) => (0..).zip(queues).map(|(index, _)| index).collect(),
            (Self::Wan, _) | (Self::Lan, None) => queues.to_vec(),
        }
    }
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
    /// Loads, fills GATE, attaches to both ports as the configuration and the host allow it. `queues` are those of the workers.
    ///
    /// # Errors
    /// If an interface or a queue is missing, the kernel refuses the tables, or a port would have to fall further than it
    /// may.
    pub fn attach(config: &Config, queues: &[u32]) -> Result<Self> {
        let mut bpf = load(config.slots)?;
        let mut netlink = Netlink::new().context("rtnetlink")?;
        let lan_mac = match netlink.link(&config.lan.interface) {
            Ok(link) => link.mac,
            // A TUN device takes its place.
            Err(_) if config.mode == Mode::NoAfXdp && config.lan.host.is_some() => Mac::default(),
            Err(error) => return Err(error.into()),
        };
        write_gate(&mut bpf, config, lan_mac)?;
        let logger =
            if config.xdp_log { Some(EbpfLogger::init(&mut bpf).context("XDP log ring")?) } else { None };
        let interfaces = [&config.wan.interface, &config.lan.interface];
        let mut attached = [None, None];
        let mut standings = [Standing::top(), Standing::top()];
        for (side, ((place, standing), interface)) in
            attached.iter_mut().zip(&mut standings).zip(interfaces).enumerate()
        {
            if config.mode != Mode::NoAfXdp {
                netlink.link(interface)?;
            }
            *place = attach(&mut bpf, PROGRAMS[side], interface, config.mode, standing)?;
        }
        let [wan, lan] = interfaces.map(|name| netlink.link(name));
        let [wan_standing, lan_standing] = standings;
        let nothing = |_| Link { index: 0, mac: Mac::default(), rx_queues: 0, mtu: 0, xdp: None };
        let steering = Self {
            bpf,
            logger,
            attached,
            wan: wan?,
            wan_standing,
            lan: if config.mode == Mode::NoAfXdp { lan.unwrap_or_else(nothing) } else { lan? },
            lan_standing,
        };
        steering.check_queues(config, queues)?;
        Ok(steering)
    }

    /// Whether the kernel shows what was attached, and each port has a queue per worker.
    fn check_queues(&self, config: &Config, queues: &[u32]) -> Result<()> {
        let ports =
            [(Side::Wan, &config.wan.interface, &self.wan), (Side::Lan, &config.lan.interface, &self.lan)];
        for (side, name, link) in ports {
            if !self.is_attached(side) {
                continue;
            }
            let highest = side.queues(config, queues).into_iter().max().unwrap_or(0);
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
        Ok(())
    }

    /// Whether a program steers frames of this port into sockets.
    #[must_use]
    pub fn is_attached(&self, side: Side) -> bool {
        self.attached[side as usize].is_some()
    }

    /// Takes the program of a port away: a port without sockets must not steer.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn detach(&mut self, side: Side) -> Result<()> {
        let Some(link) = self.attached[side as usize].take() else { return Ok(()) };
        let name = PROGRAMS[side as usize];
        let program: &mut Xdp = self
            .bpf
            .program_mut(name)
            .ok_or_else(|| anyhow!("the XDP object has no program {name}"))?
            .try_into()?;
        program.detach(link).with_context(|| format!("taking the XDP program '{name}' away"))?;
        let shown = if side == Side::Wan { &mut self.wan } else { &mut self.lan };
        shown.xdp = None;
        Ok(())
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
    let (Map::Array(data) | Map::LpmTrie(data) | Map::HashMap(data) | Map::PerCpuArray(data)) = map else {
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
        // One bucket for all CPUs.
        handle: Rate {
            per_second: limits.handle_per_second,
            burst: limits.handle_per_second.saturating_mul(2),
        },
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

/// Attaches a program as high on the ladder as it goes. `None` if the port has to do without.
fn attach(
    bpf: &mut Ebpf,
    program: &str,
    interface: &str,
    mode: Mode,
    standing: &mut Standing,
) -> Result<Option<XdpLinkId>> {
    if mode == Mode::NoAfXdp {
        standing.fall(interface, Step::NoAfXdp, Why::Configured, "mode = \"no-af-xdp\"");
        return Ok(None);
    }
    let steer: &mut Xdp = bpf
        .program_mut(program)
        .ok_or_else(|| anyhow!("the XDP object has no program {program}"))?
        .try_into()?;
    steer.load().with_context(|| format!("the kernel's verifier refused the XDP program '{program}'"))?;
    if mode == Mode::Generic {
        standing.fall(interface, Step::Generic, Why::Configured, "mode = \"generic\"");
    } else {
        let native = match steer.attach(interface, XdpMode::Driver) {
            Ok(link) => return Ok(Some(link)),
            Err(error) => chain(&error),
        };
        if mode == Mode::RequireNative {
            bail!(
                "{interface} takes no native XDP program ({native}), and mode = \"require-native\" allows nothing \
                 slower: use another NIC or driver, or mode = \"auto\""
            );
        }
        standing.fall(interface, Step::Generic, Why::NoNativeXdp, native);
    }
    match steer.attach(interface, XdpMode::Skb) {
        Ok(link) => Ok(Some(link)),
        Err(error) => {
            standing.fall(interface, Step::NoAfXdp, Why::NoXdp, chain(&error));
            Ok(None)
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", chain(source)))
}
