//! Both sides of the gateway, opened as high on the ladder as the host allows.

use crate::attach::{Side, Steering};
use crate::config::Config;
use crate::ending::Ending;
use crate::frame::Mac;
use crate::halving::{Both, Lack, Opener, Outcome, Refusal, Spare, Taken, open_both};
use crate::hook::Hook;
use crate::host_end::Belongings;
use crate::host_routes::HostWay;
use crate::host_side::{self, Tun, VethPair, clear_pair};
use crate::ladder::{Mode, Step, Why};
use crate::lan::LanView;
use crate::pipeline::Routes;
use crate::plan::{self, Seat, Setting};
use crate::port::plain::PlainPort;
use crate::port::tun_end::TunEnd;
use crate::port::udp_end::UdpEnd;
use crate::port::{
    AfXdpMode, Arrivals, BusyPoll, Group, Member, Patience, Port, PortError, PortOptions, ZeroCopy,
};
use crate::shares::{self, Wanted};
use crate::tuning::Channels;
use crate::udp;
use anyhow::{Context as _, Result, bail};
use jvpn_abi::ports::socket_place;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// How long memory is waited for that sockets held which are closed, of a try with more or of a data plane that was killed:
/// the kernel takes it back in the background (net/xdp/xsk_buff_pool.c, xp_release_deferred), and meanwhile it counts
/// towards RLIMIT_MEMLOCK.
const MEMORY_PATIENCE: Duration = Duration::from_secs(3);

/// The queues of the WAN, by worker.
#[derive(Debug)]
pub enum Wan {
    /// AF_XDP, one queue each.
    AfXdp(Vec<Port>),
    /// AF_XDP: several interfaces, more queues than workers, or a VLAN.
    Groups(Vec<Group<Port>>),
    /// UDP sockets.
    Plain(Vec<PlainPort<UdpEnd>>),
}

/// The queues of the LAN, by worker.
#[derive(Debug)]
pub enum Lan {
    /// AF_XDP, one queue each.
    AfXdp(Vec<Port>),
    /// AF_XDP: several interfaces, or more queues than workers.
    Groups(Vec<Group<Port>>),
    /// Queues of a TUN device.
    Plain(Vec<PlainPort<TunEnd>>),
}

/// What was opened.
#[derive(Debug)]
pub struct Sides {
    /// Towards the clients.
    pub wan: Wan,
    /// Towards the protected network.
    pub lan: Lan,
    /// The workers that have their queues: those that were asked for, or half of them as often as it took.
    pub seats: Vec<Seat>,
    /// The control plane's socket, unless a control plane that outlived an earlier data plane holds it.
    pub udp: Option<OwnedFd>,
    /// The host's end of the LAN, where it is ours.
    pub host: HostSide,
}

/// The host's end of the LAN.
#[derive(Debug)]
pub enum HostSide {
    /// The LAN is a network of its own.
    None,
    /// A pair of virtual interfaces.
    Pair(VethPair),
    /// A TUN device.
    Tun(Tun),
}

impl HostSide {
    /// Whether a pair stays for the next process. A TUN device goes with its descriptors all the same.
    pub const fn end(&mut self, ending: Ending) {
        match self {
            Self::Pair(pair) => pair.end(ending),
            Self::None | Self::Tun(_) => {}
        }
    }

    /// How the host reaches what is behind the tunnel and what belongs to its end, where the LAN is the host.
    #[must_use]
    pub const fn way(&self) -> Option<(HostWay, &Belongings)> {
        match self {
            Self::None => None,
            Self::Pair(pair) => Some((pair.way, &pair.belongings)),
            Self::Tun(tun) => Some((tun.way, &tun.belongings)),
        }
    }

    /// Index of the TUN device, where one takes the LAN's place.
    #[must_use]
    pub const fn tun(&self) -> Option<u32> {
        match self {
            Self::Tun(tun) => Some(tun.way.device),
            Self::None | Self::Pair(_) => None,
        }
    }

    /// What workers see of a LAN that is the host: everything goes to its end. `None`: routes and neighbours say where.
    #[must_use]
    pub fn view(&self) -> Option<LanView> {
        match self {
            Self::None => None,
            Self::Pair(pair) => Some(LanView::point_to_point(pair.host_mac)),
            Self::Tun(_) => Some(LanView::point_to_point(Mac::default())),
        }
    }
}

/// The pair into the host's stack, if the configuration asks for one, with a queue per worker. Made before anything is attached to it.
///
/// # Errors
/// If it cannot be made.
pub fn make_pair(config: &Config, workers: usize) -> Result<HostSide> {
    match &config.lan.host {
        Some(host) if config.mode != Mode::NoAfXdp => {
            VethPair::make(config, host, workers).map(HostSide::Pair)
        }
        Some(host) => clear_pair(config, host).map(|()| HostSide::None),
        None => Ok(HostSide::None),
    }
}

impl Sides {
    /// Opens both sides behind the programs that are attached, a queue of each interface for every seat. Where the kernel
    /// refuses some of them, spare queues are left and half as many seats are tried before a side goes without AF_XDP.
    /// `host` is taken when they are open.
    ///
    /// # Errors
    /// If a queue stays in use beyond `patience`, or a port would have to fall further than it may.
    pub fn open(
        config: &Config,
        steering: &mut Steering,
        host: &mut HostSide,
        routes: &Arc<dyn Routes>,
        seats: &[Seat],
        patience: &Patience<'_>,
    ) -> Result<Self> {
        let Both { wan, lan, seats } = open_both(&mut Kernel { config, steering, patience }, seats)?;
        let devices: Vec<String> = steering.of(Side::Wan).map(|hook| hook.kernel.name.clone()).collect();
        let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
        let open = if wan.is_some() { udp::open_on } else { udp::open_shared };
        let udp = match open(&devices, config.wan.port) {
            Ok(fd) => Some(fd),
            // A control plane that outlived an earlier data plane holds it and will hand it back.
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => None,
            Err(error) => return Err(error).with_context(|| format!("UDP port {}", config.wan.port)),
        };
        let wan = match wan {
            Some(members) => {
                match singles(members, config.wan.interfaces().len() > 1 || config.wan.vlan.is_some()) {
                    Ok(ports) => Wan::AfXdp(ports),
                    Err(members) => Wan::Groups(grouped(config, steering, Side::Wan, members)),
                }
            }
            None => Wan::Plain(sockets(config, steering, (&devices, udp.as_ref()), seats.len())?),
        };
        let lan = match lan {
            Some(members) => match singles(members, config.lan.interfaces().len() > 1) {
                Ok(ports) => Lan::AfXdp(ports),
                Err(members) => Lan::Groups(grouped(config, steering, Side::Lan, members)),
            },
            None => {
                // The TUN device takes the name of the pair's end.
                drop(std::mem::replace(host, HostSide::None));
                let mut tun = Tun::make(config, seats.len())?;
                let end =
                    |device| PlainPort::new(TunEnd::new(device, Arc::clone(routes)), config.tuning.batch);
                let queues = std::mem::take(&mut tun.queues).into_iter().map(end).collect();
                *host = HostSide::Tun(tun);
                Lan::Plain(queues)
            }
        };
        Ok(Self { wan, lan, seats, udp, host: std::mem::replace(host, HostSide::None) })
    }
}

/// The sockets of a side, by worker.
type Sockets = Vec<Vec<Member<Port>>>;

/// Opens AF_XDP sockets.
struct Kernel<'a, 'b> {
    config: &'a Config,
    steering: &'a mut Steering,
    patience: &'a Patience<'b>,
}

impl Opener for Kernel<'_, '_> {
    type Sockets = Sockets;

    fn open(&mut self, side: Side, seats: &[Seat], spare: Spare) -> Result<Outcome<Sockets>> {
        af_xdp(self.config, self.steering, side, (seats, spare), self.patience)
    }

    /// What the device puts into the other queues is dropped there, so it is told, if it may be, to use no more; else the
    /// command is. Our own pair asks nobody.
    fn take_fewer(&mut self, side: Side, queues: usize, said: &str) {
        let said = format!("{queues} queues instead: {said}");
        let count = u32::try_from(queues).unwrap_or(1);
        let pair = self.config.lan.host.as_ref();
        if let Some(host) = pair {
            host_side::use_queues([&host.interface, self.config.lan.interface()], count);
        }
        let others = self.steering.hooks().iter().filter(|hook| hook.side == Side::Wan || pair.is_none());
        let names = others.map(|hook| hook.interface.as_str());
        let settings = plan::channels(names, count);
        let is_asked = self.config.tuning.channels == Channels::Set;
        if !is_asked || plan::settle(&settings).is_err() {
            for setting in settings {
                tracing::warn!("'{}' has the device use no queue that nobody serves", setting.command());
            }
        }
        for side in [Side::Wan, Side::Lan] {
            self.steering.of_mut(side).for_each(Hook::count_queues);
        }
        for hook in self.steering.of_mut(side) {
            let step = hook.standing.step;
            hook.standing.fall(&hook.interface, step, Why::FewerQueues, said.clone());
        }
    }

    fn go_without(&mut self, side: Side, said: &str) -> Result<()> {
        if self.config.mode == Mode::RequireNative {
            bail!("{said}; and mode = \"require-native\" allows nothing slower");
        }
        // A program without sockets would only drop.
        self.steering.detach(side, Why::NoSocket, said)
    }
}

/// Opens the AF_XDP sockets of a side and puts them into its XSKMAP.
fn af_xdp(
    config: &Config,
    steering: &mut Steering,
    side: Side,
    (seats, spare): (&[Seat], Spare),
    patience: &Patience<'_>,
) -> Result<Outcome<Sockets>> {
    if !steering.is_attached(side) {
        return Ok(Outcome::Without);
    }
    let map = match side {
        Side::Wan => "WAN_XSKS",
        Side::Lan => "LAN_XSKS",
    };
    let of_seats = side.queues(config, &seats.iter().map(|seat| seat.queue).collect::<Vec<_>>());
    let in_use: Vec<u32> = steering.of(side).map(|hook| hook.queues).collect();
    // Queues that were named are all that is wanted.
    let spare = if config.tuning.queues.is_empty() { spare } else { Spare::Left };
    let (mut workers, mut spares) = (Vec::new(), 0);
    for (worker, (seat, queue)) in seats.iter().zip(&of_seats).enumerate() {
        let wanted = shares::wanted(&in_use, (worker, seats.len(), *queue), spare);
        let mut members = Vec::new();
        for Wanted { hook, queue, is_spare } in wanted {
            let Some(of) = steering.of(side).nth(hook) else { continue };
            let mut options = port_options(config, seat.node, of.link.xdp);
            // A spare queue is not worth a wait.
            options.memory_patience = if is_spare { Duration::ZERO } else { MEMORY_PATIENCE };
            match Port::open_patiently(&of.interface, queue, &options, patience) {
                Ok(port) => {
                    let place = socket_place(of.number, queue).context("a queue beyond the table")?;
                    let (number, mac, watched) = (of.number, of.link.mac, Arc::clone(&of.watched));
                    steering.set_socket(map, place, port.raw_fd())?;
                    spares += usize::from(is_spare);
                    members.push(Member { port, number, mac, watched, tally: Arc::default() });
                }
                Err(error @ (PortError::Busy { .. } | PortError::Stopped)) => return Err(error.into()),
                Err(error) if is_spare => {
                    let fewer =
                        plan::channels([of.interface.as_str()], u32::try_from(seats.len()).unwrap_or(1));
                    let commands: Vec<String> = fewer.iter().map(Setting::command).collect();
                    let interface = &of.interface;
                    tracing::warn!(%interface, queue, ?commands, "no socket for this queue, whose frames are lost: {error}");
                }
                Err(error) => {
                    let lack = if error.is_shortage() { Lack::Memory } else { Lack::Queue };
                    return Ok(Outcome::Refused(Refusal { worker, spares, lack, said: error.to_string() }));
                }
            }
        }
        workers.push(members);
    }
    note_modes(steering, side, &workers);
    Ok(Outcome::Taken(Taken { sockets: workers, spares }))
}

/// Notes how the sockets of each interface work.
fn note_modes(steering: &mut Steering, side: Side, workers: &[Vec<Member<Port>>]) {
    for hook in steering.of_mut(side) {
        let ours = || workers.iter().flatten().filter(|member| member.number == hook.number);
        let modes: Vec<AfXdpMode> = ours().map(|member| member.port.mode()).collect();
        let mode = worst_mode(&modes);
        let count = modes.len();
        hook.af_xdp = mode;
        tracing::info!(interface = %hook.interface, ?mode, queues = count, "AF_XDP sockets open");
        let is_said = hook.standing.falls.iter().any(|fall| fall.why == Why::NoZeroCopy);
        if Step::of(hook.link.xdp, mode) == Step::Copy && !is_said {
            let said = if modes.contains(&AfXdpMode::ZeroCopy) {
                format!("the driver has zero-copy for some queues only; in their order: {modes:?}")
            } else {
                "the driver has no zero-copy, or not for these queues".to_owned()
            };
            hook.standing.fall(&hook.interface, Step::Copy, Why::NoZeroCopy, said);
        }
    }
}

/// One bare queue per worker, where that is all there is and nothing has to be written into frames.
fn singles(members: Vec<Vec<Member<Port>>>, writes: bool) -> Result<Vec<Port>, Vec<Vec<Member<Port>>>> {
    if writes || members.iter().any(|of| of.len() != 1) {
        return Err(members);
    }
    Ok(members.into_iter().flatten().map(|member| member.port).collect())
}

fn grouped(
    config: &Config,
    steering: &mut Steering,
    side: Side,
    members: Vec<Vec<Member<Port>>>,
) -> Vec<Group<Port>> {
    for hook in steering.of_mut(side) {
        let ours = members.iter().flatten().filter(|member| member.number == hook.number);
        hook.tallies = ours.map(|member| Arc::clone(&member.tally)).collect();
    }
    let (arrivals, vlan) = match side {
        Side::Wan => (Arrivals::Marked, config.wan.vlan),
        Side::Lan => (Arrivals::AsTheyAre, None),
    };
    members.into_iter().map(|of| Group::new(of, arrivals, vlan, config.tuning.batch)).collect()
}

/// A port is as slow as the slowest of its queues.
fn worst_mode(modes: &[AfXdpMode]) -> AfXdpMode {
    modes.iter().copied().max().unwrap_or(AfXdpMode::Unknown)
}

fn port_options(config: &Config, node: Option<usize>, xdp: Option<&str>) -> PortOptions {
    let tuning = &config.tuning;
    let polls = tuning.busy_poll > 0;
    PortOptions {
        huge_pages: tuning.huge_pages,
        node,
        busy_poll: polls
            .then_some(BusyPoll { microseconds: tuning.busy_poll, budget: tuning.busy_poll_budget }),
        // Zero-copy goes past generic XDP.
        zero_copy: if xdp == Some("generic") { ZeroCopy::Never } else { ZeroCopy::IfPossible },
        memory_patience: Duration::ZERO,
    }
}

/// A socket per worker beside the control plane's.
fn sockets(
    config: &Config,
    steering: &mut Steering,
    (devices, control): (&[&str], Option<&OwnedFd>),
    workers: usize,
) -> Result<Vec<PlainPort<UdpEnd>>> {
    let port = config.wan.port;
    let open = || {
        udp::open_for_data(devices, port).with_context(|| {
            format!(
                "UDP port {port} is not shared: another process holds it ('ss -lunp' shows it), or a control plane that \
                 was started under AF_XDP; restart that"
            )
        })
    };
    let sockets: Vec<udp::DataSocket> = (0..workers).map(|_| open()).collect::<Result<_>>()?;
    if let Some(first) = sockets.first() {
        let workers = u32::try_from(sockets.len()).unwrap_or(1);
        udp::steer(first, workers).context("splitting the UDP port (SO_ATTACH_REUSEPORT_CBPF)")?;
        match steering.guard_plain(control, &first.socket, workers) {
            Ok(()) => tracing::info!(?devices, port, "edge limits stand in front of the UDP socket"),
            Err(error) => tracing::warn!(
                "no edge limits and no samples of unbound DATA in front of plain sockets: {error:#}; the control plane's \
                 own limits remain"
            ),
        }
    }
    tracing::info!(?devices, port, sockets = sockets.len(), "UDP sockets open for DATA");
    Ok(sockets
        .into_iter()
        .map(|socket| PlainPort::new(UdpEnd::new(socket.socket, socket.family, port), config.tuning.batch))
        .collect())
}
