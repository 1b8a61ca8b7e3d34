//! Loads the XDP object, sizes and fills its tables, attaches both programs, and says how they are really attached.

use crate::config::{Config, Limits};
use crate::ending::Ending;
use crate::frame::Mac;
use crate::hook::{Hook, PROGRAMS, write_plain_ports, write_ports};
use crate::ladder::{Mode, Standing, Step, Why};
use crate::netlink::{Link, Netlink};
use crate::pins::{self, LOG, Pins, TABLES};
use crate::shares;
use anyhow::{Context as _, Result, anyhow, bail};
use aya::maps::{Array, Map, MapData, PerCpuArray, XskMap};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpLinkId};
use aya::programs::{Program, ReusePortSocketFilter, SocketFilter, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use jvpn_abi::limit::Rate;
use jvpn_abi::ports::PortEntry;
use jvpn_abi::tables::{EDGE_CLASSES, Gate};
use jvpn_abi::{CONTRACT_VERSION, DropReason};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// The XDP object, built by this crate's build script.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("JVPN_XDP_OBJECT"));

/// The loaded and attached XDP programs with their tables.
pub struct Steering {
    bpf: Ebpf,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    /// The interfaces, those of the WAN first.
    hooks: Vec<Hook>,
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
    /// The link of at least one port is that of an earlier process; its program was replaced in one step.
    Replaced,
}

/// What holds the program of a port at its interface.
#[derive(Debug)]
pub(crate) enum Hold {
    /// Nothing does: the port is without one.
    Nothing,
    /// This process.
    Process(XdpLinkId),
    /// Its pin.
    Pin,
    /// The pin of an earlier process, whose program is still there.
    Left(PinnedLink),
    /// The same, on a port that is to be without one.
    Unwanted,
}

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
        f.debug_struct("Steering").field("hooks", &self.hooks).finish_non_exhaustive()
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
    /// Loads, fills GATE, attaches to both ports as the configuration and the host allow it. `queues` are those of the
    /// workers.
    ///
    /// # Errors
    /// If an interface or a queue is missing, the kernel refuses the tables, or a port would have to fall further than it
    /// may.
    pub fn attach(config: &Config, queues: &[u32]) -> Result<Self> {
        let mut bpf = load(config.slots)?;
        let mut netlink = Netlink::new().context("rtnetlink")?;
        let mut hooks = Hook::all(config, &mut netlink)?;
        write_gate(&mut bpf, config)?;
        write_ports(&mut bpf, &hooks, config.wan.vlan)?;
        let wan = hooks.iter().filter(|hook| hook.side == Side::Wan).map(|hook| hook.kernel.index);
        write_plain_ports(&mut bpf, &wan.collect::<Vec<_>>())?;
        let logger =
            if config.xdp_log { Some(EbpfLogger::init(&mut bpf).context("XDP log ring")?) } else { None };
        let mut pins = pins(config, hooks.first().map_or(0, |hook| hook.link.index));
        let own: Vec<_> = hooks.iter().map(|hook| (hook.program(), hook.link.index)).collect();
        pins.iter().for_each(|pins| pins.release(&own));
        for hook in &mut hooks {
            let link = Some(&hook.link).filter(|link| link.index != 0);
            let left = left(pins.as_mut(), hook.program(), link);
            let port = Port { name: hook.program(), interface: &hook.interface, mode: config.mode };
            hook.hold = port.attach(&mut bpf, pins.as_ref(), left, &mut hook.standing)?;
        }
        let is_left = |hook: &Hook| matches!(hook.hold, Hold::Left(_));
        let attachment = if hooks.iter().any(is_left) { Attachment::Replaced } else { Attachment::Attached };
        for hook in &mut hooks {
            // What is on an interface without our program is not ours, or will not stay.
            hook.link.xdp = if hook.is_attached() { netlink.link(&hook.interface)?.xdp } else { None };
        }
        let mut steering = Self { bpf, logger, hooks, attachment, pins };
        for side in [Side::Wan, Side::Lan] {
            steering.stand_together(side)?;
        }
        steering.check_queues(config, queues)?;
        Ok(steering)
    }

    /// A side has AF_XDP on all its interfaces or on none: the kernel's own sockets take what comes by any of them.
    fn stand_together(&mut self, side: Side) -> Result<()> {
        let without = self.of(side).find(|hook| !hook.is_attached()).map(|hook| hook.interface.clone());
        match without {
            Some(without) if self.of(side).any(Hook::is_attached) => {
                self.detach(side, Why::Together, &format!("{without} has none"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the kernel shows what was attached, and each port has a queue per worker.
    fn check_queues(&self, config: &Config, queues: &[u32]) -> Result<()> {
        for hook in self.hooks.iter().filter(|hook| hook.is_attached()) {
            let (name, link) = (&hook.interface, &hook.link);
            let Some(mode) = link.xdp else {
                bail!("the kernel does not show an XDP program on {name} after attaching one")
            };
            tracing::info!(interface = %name, mode, mac = ?link.mac, queues = hook.queues, "XDP attached");
            // Of one that was asked for the plan has spoken; our own pair has its offloads off at both ends.
            let is_fallen = mode == "generic" && config.mode != Mode::Generic;
            if is_fallen && hook.side == Side::Lan && config.lan.host.is_none() {
                crate::plan::warn_of_generic(name);
            }
            hook.check_queues(&hook.side.queues(config, queues))?;
        }
        // Who names the queues says that nothing comes by the others.
        let sides = [Side::Wan, Side::Lan].into_iter().filter(|side| self.is_attached(*side));
        for side in sides.filter(|_| config.tuning.queues.is_empty()) {
            shares::check(self.of(side), queues.len())?;
        }
        Ok(())
    }

    /// The interfaces, those of the WAN first.
    #[must_use]
    pub fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    /// The interfaces of a side.
    pub fn of(&self, side: Side) -> impl Iterator<Item = &Hook> {
        self.hooks.iter().filter(move |hook| hook.side == side)
    }

    /// The interfaces of a side, to note things about them.
    pub fn of_mut(&mut self, side: Side) -> impl Iterator<Item = &mut Hook> {
        self.hooks.iter_mut().filter(move |hook| hook.side == side)
    }

    /// Address of the first interface of a side.
    #[must_use]
    pub fn mac(&self, side: Side) -> Mac {
        self.of(side).next().map_or_else(Mac::default, |hook| hook.link.mac)
    }

    /// Whether programs steer frames of this side into sockets.
    #[must_use]
    pub fn is_attached(&self, side: Side) -> bool {
        self.of(side).any(Hook::is_attached)
    }

    /// Takes the programs of a side away: what has no sockets must not steer.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn detach(&mut self, side: Side, why: Why, said: &str) -> Result<()> {
        for hook in self.hooks.iter_mut().filter(|hook| hook.side == side && hook.is_attached()) {
            let name = hook.program();
            match std::mem::replace(&mut hook.hold, Hold::Nothing) {
                Hold::Nothing => {}
                Hold::Process(link) => {
                    let program: &mut Xdp = program(&mut self.bpf, name)?;
                    program.detach(link).with_context(|| format!("taking the XDP program '{name}' away"))?;
                }
                Hold::Pin | Hold::Left(_) | Hold::Unwanted => {
                    self.pins.iter().for_each(|pins| pins.unpin(name));
                }
            }
            hook.link.xdp = None;
            hook.standing.fall(&hook.interface, Step::NoAfXdp, why, said);
        }
        Ok(())
    }

    /// Puts these programs into the place of those that an earlier process left, in one step each, and pins their tables.
    /// Call it once the sockets are open: until then another process might own them, and nothing has been changed.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn take_over(&mut self) -> Result<()> {
        for hook in &mut self.hooks {
            let (name, hold) = (hook.program(), &mut hook.hold);
            match std::mem::replace(hold, Hold::Nothing) {
                Hold::Left(link) => {
                    let program: &mut Xdp = program(&mut self.bpf, name)?;
                    let link = XdpLink::try_from(FdLink::from(link))?;
                    program.attach_to_link(link).with_context(|| format!("link of the {name} port"))?;
                    *hold = Hold::Pin;
                    tracing::info!(
                        port = name,
                        "the program of an earlier process was replaced; the link stayed up"
                    );
                }
                Hold::Unwanted => self.pins.iter().for_each(|pins| pins.unpin(name)),
                own @ (Hold::Nothing | Hold::Process(_) | Hold::Pin) => *hold = own,
            }
        }
        let Some(pins) = &mut self.pins else { return Ok(()) };
        for name in PROGRAMS.into_iter().flatten() {
            // Of an interface that the configuration does not name any more, or that is gone.
            if pins.has_link(name) && !self.hooks.iter().any(|hook| hook.program() == name) {
                pins.unpin(name);
            }
        }
        pins.own();
        let dir = pins.clear_tables(CONTRACT_VERSION)?;
        for name in TABLES {
            let map = self.bpf.map(name).ok_or_else(|| anyhow!("the XDP object has no map {name}"))?;
            map.pin(dir.join(name)).with_context(|| format!("cannot pin table {name}"))?;
        }
        pins::pin_log(&dir, self.log_fd(), self.bpf.map(LOG))
    }

    /// Whether the programs stay attached if this process dies.
    #[must_use]
    pub const fn is_pinned(&self) -> bool {
        self.pins.is_some()
    }

    /// What dropping this does: the programs stay attached for the next process, or go, whoever attached them.
    pub fn end(&mut self, ending: Ending) {
        self.pins.iter_mut().for_each(|pins| pins.end(ending));
    }

    /// Puts a socket into the XSKMAP of a side, at the place of its interface and queue
    /// ([`jvpn_abi::ports::socket_place`]).
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn set_socket(&mut self, map: &str, queue: u32, socket: RawFd) -> Result<()> {
        let map = self.bpf.map_mut(map).ok_or_else(|| anyhow!("the XDP object has no map {map}"))?;
        XskMap::try_from(map)?.set(queue, Fd(socket), 0).with_context(|| format!("socket of queue {queue}"))
    }

    /// As [`guard_plain`], by the programs of these tables.
    ///
    /// # Errors
    /// As there.
    pub fn guard_plain(&mut self, control: Option<&OwnedFd>, worker: &OwnedFd, workers: u32) -> Result<()> {
        guard_plain(&mut self.bpf, control, worker, workers)
    }

    /// As [`guard_control`], by the programs of these tables.
    ///
    /// # Errors
    /// As there.
    pub fn guard_control(&mut self, control: &OwnedFd) -> Result<()> {
        guard_control(&mut self.bpf, control)
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

fn write_gate(bpf: &mut Ebpf, config: &Config) -> Result<()> {
    let cpus =
        u32::try_from(aya::util::nr_cpus().map_err(|(path, error)| anyhow!("{path}: {error}"))?).unwrap_or(1);
    let limits = &config.limits;
    let gate = Gate {
        contract_version: CONTRACT_VERSION,
        port: config.wan.port,
        log: u16::from(config.xdp_log),
        reserved: [0; 8],
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

/// A [`PortEntry`] is plain data of this contract.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PortValue(PortEntry);

// SAFETY: `PortEntry` is `bytemuck::Pod`: plain integers without padding.
unsafe impl aya::Pod for PortValue {}

/// Stores one entry of PORTS.
///
/// # Errors
/// If the kernel refuses.
pub fn set_port(bpf: &mut Ebpf, place: u32, entry: PortEntry) -> Result<()> {
    let map = bpf.map_mut("PORTS").ok_or_else(|| anyhow!("the XDP object has no map PORTS"))?;
    let mut table: Array<_, PortValue> = Array::try_from(map)?;
    table.set(place, PortValue(entry), 0).context("PORTS")
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

/// The link that an earlier process left on a port, and how its program is attached.
fn left(
    pins: Option<&mut Pins>,
    name: &str,
    link: Option<&Link>,
) -> Option<(PinnedLink, Option<&'static str>)> {
    let (pins, link) = (pins?, link?);
    let left = pins.link(name, link.index)?;
    // Not ours yet: if this start fails, whoever runs there goes on.
    pins.keep();
    Some((left, link.xdp))
}

/// Puts the filters that stand in for XDP in front of plain sockets: `spread` chooses among the group of `workers` sockets that
/// `worker` is one of, and `edge` stands in front of the control plane's, if it is there.
///
/// # Errors
/// If the kernel refuses; then the group is split as before, without limits and samples.
pub fn guard_plain(bpf: &mut Ebpf, control: Option<&OwnedFd>, worker: &OwnedFd, workers: u32) -> Result<()> {
    let map = bpf.map_mut("PLAIN").ok_or_else(|| anyhow!("the XDP object has no map PLAIN"))?;
    let mut table: Array<_, u32> = Array::try_from(map)?;
    table.set(0, workers, 0).context("PLAIN")?;
    if let Some(control) = control {
        guard_control(bpf, control)?;
    }
    let spread: &mut ReusePortSocketFilter = named(bpf, "spread")?.try_into()?;
    spread.load().context("the kernel refused the program 'spread'")?;
    spread.attach(worker).context("choosing a socket by 'spread' (SO_ATTACH_REUSEPORT_EBPF)")
}

/// Puts `edge` in front of the control plane's socket.
///
/// # Errors
/// If the kernel refuses.
pub fn guard_control(bpf: &mut Ebpf, control: &OwnedFd) -> Result<()> {
    let edge: &mut SocketFilter = named(bpf, "edge")?.try_into()?;
    if edge.fd().is_err() {
        edge.load().context("the kernel refused the program 'edge'")?;
    }
    edge.attach(control).context("the filter 'edge' (SO_ATTACH_BPF)")
}

fn named<'a>(bpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    bpf.program_mut(name).ok_or_else(|| anyhow!("the XDP object has no program {name}"))
}

fn program<'a>(bpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program: &mut Xdp = named(bpf, name)?.try_into()?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("the kernel's verifier refused the XDP program '{name}'"))?;
    }
    Ok(program)
}

/// A port that is to get its program.
struct Port<'a> {
    name: &'static str,
    interface: &'a str,
    mode: Mode,
}

impl Port<'_> {
    /// Attaches the program as high on the ladder as it goes, or stays where an earlier process left it, if that is where
    /// the configuration allows it.
    fn attach(
        &self,
        bpf: &mut Ebpf,
        pins: Option<&Pins>,
        left: Option<(PinnedLink, Option<&'static str>)>,
        standing: &mut Standing,
    ) -> Result<Hold> {
        let (interface, generic) = (self.interface, Some("generic"));
        match self.mode {
            Mode::NoAfXdp => {
                standing.fall(interface, Step::NoAfXdp, Why::Configured, "mode = \"no-af-xdp\"");
                return Ok(if left.is_some() { Hold::Unwanted } else { Hold::Nothing });
            }
            Mode::Generic => standing.fall(interface, Step::Generic, Why::Configured, "mode = \"generic\""),
            Mode::Auto | Mode::RequireNative => {}
        }
        match left {
            Some((link, xdp)) if xdp == generic && self.mode == Mode::Auto => {
                let said = "an earlier process left it so; stop the data plane (SIGTERM) before a start to try again";
                standing.fall(interface, Step::Generic, Why::LeftGeneric, said);
                return Ok(Hold::Left(link));
            }
            Some((link, Some(xdp))) if (Some(xdp) == generic) == (self.mode == Mode::Generic) => {
                return Ok(Hold::Left(link));
            }
            // A link keeps its mode: another one takes another link.
            Some((link, _)) => {
                tracing::info!(
                    interface,
                    "the link of an earlier process is of another mode: attaching anew"
                );
                pins.into_iter().for_each(|pins| pins.unpin(self.name));
                drop(link);
            }
            None => {}
        }
        let Some(link) = self.attach_anew(program(bpf, self.name)?, standing)? else {
            return Ok(Hold::Nothing);
        };
        let Some(pins) = pins else { return Ok(Hold::Process(link)) };
        // aya falls back silently to an attachment without a link, which cannot be pinned.
        let link: FdLink = program(bpf, self.name)?
            .take_link(link)?
            .try_into()
            .with_context(|| format!("the kernel gave no BPF link for {interface}; set pin_dir = \"\""))?;
        let path = pins.link_path(self.name);
        link.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
        Ok(Hold::Pin)
    }

    /// `None` if the port has to do without.
    fn attach_anew(&self, steer: &mut Xdp, standing: &mut Standing) -> Result<Option<XdpLinkId>> {
        let interface = self.interface;
        if self.mode != Mode::Generic {
            let (why, native) = match steer.attach(interface, XdpMode::Driver) {
                Ok(link) => return Ok(Some(link)),
                Err(error) => {
                    let why = Why::of_attaching(&error, Why::NoNativeXdp);
                    (why, format!("{}{}", chain(&error), why.advice()))
                }
            };
            if self.mode == Mode::RequireNative {
                bail!(
                    "{interface} takes no native XDP program ({native}), and mode = \"require-native\" allows nothing \
                     slower: use another NIC or driver, or mode = \"auto\""
                );
            }
            standing.fall(interface, Step::Generic, why, native);
        }
        match steer.attach(interface, XdpMode::Skb) {
            Ok(link) => Ok(Some(link)),
            Err(error) => {
                let why = Why::of_attaching(&error, Why::NoXdp);
                let said = format!("{}{}", chain(&error), why.advice());
                standing.fall(interface, Step::NoAfXdp, why, said);
                Ok(None)
            }
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", chain(source)))
}
