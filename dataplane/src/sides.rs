//! Both sides of the gateway, opened as high on the ladder as the host allows.

use crate::attach::{Side, Steering};
use crate::config::Config;
use crate::frame::Mac;
use crate::host_routes::HostWay;
use crate::host_side::{Tun, VethPair, clear_pair};
use crate::ladder::{Mode, Step, Why};
use crate::lan::LanView;
use crate::pipeline::Routes;
use crate::plan::Seat;
use crate::port::plain::PlainPort;
use crate::port::tun_end::TunEnd;
use crate::port::udp_end::UdpEnd;
use crate::port::{AfXdpMode, BusyPoll, Port, PortError, PortOptions, ZeroCopy};
use crate::udp;
use anyhow::{Context as _, Result, bail};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The queues of the WAN, one per worker.
#[derive(Debug)]
pub enum Wan {
    /// AF_XDP.
    AfXdp(Vec<Port>),
    /// UDP sockets.
    Plain(Vec<PlainPort<UdpEnd>>),
}

/// The queues of the LAN, one per worker.
#[derive(Debug)]
pub enum Lan {
    /// AF_XDP.
    AfXdp(Vec<Port>),
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
    /// Modes of (WAN, LAN) sockets.
    pub modes: (AfXdpMode, AfXdpMode),
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
    /// Leaves a pair for the next process. A TUN device goes with its descriptors all the same.
    pub const fn keep(&mut self) {
        match self {
            Self::Pair(pair) => pair.keep(),
            Self::None | Self::Tun(_) => {}
        }
    }

    /// How the host reaches what is behind the tunnel, where the LAN is the host.
    #[must_use]
    pub const fn way(&self) -> Option<HostWay> {
        match self {
            Self::None => None,
            Self::Pair(pair) => Some(pair.way),
            Self::Tun(tun) => Some(tun.way),
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
    /// Opens both sides behind the programs that are attached, a queue of each for every seat.
    ///
    /// # Errors
    /// If a queue is in use, or a port would have to fall further than it may.
    pub fn open(
        config: &Config,
        steering: &mut Steering,
        mut host: HostSide,
        routes: &Arc<dyn Routes>,
        seats: &[Seat],
    ) -> Result<Self> {
        let wan = af_xdp(config, steering, Side::Wan, seats)?;
        let lan = af_xdp(config, steering, Side::Lan, seats)?;
        let mode = |ports: &Option<Vec<Port>>| ports.as_deref().map_or(AfXdpMode::None, worst_mode);
        let modes = (mode(&wan), mode(&lan));
        let open = if wan.is_some() { udp::open } else { udp::open_shared };
        let udp = match open(&config.wan.interface, config.wan.port) {
            Ok(fd) => Some(fd),
            // A control plane that outlived an earlier data plane holds it and will hand it back.
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => None,
            Err(error) => return Err(error).with_context(|| format!("UDP port {}", config.wan.port)),
        };
        let wan = match wan {
            Some(ports) => Wan::AfXdp(ports),
            None => Wan::Plain(sockets(config, steering, udp.as_ref(), seats.len())?),
        };
        let lan = match lan {
            Some(ports) => Lan::AfXdp(ports),
            None => {
                // The TUN device takes the name of the pair's end.
                drop(std::mem::replace(&mut host, HostSide::None));
                let mut tun = Tun::make(config, seats.len())?;
                let end =
                    |device| PlainPort::new(TunEnd::new(device, Arc::clone(routes)), config.tuning.batch);
                let queues = std::mem::take(&mut tun.queues).into_iter().map(end).collect();
                host = HostSide::Tun(tun);
                Lan::Plain(queues)
            }
        };
        Ok(Self { wan, lan, modes, udp, host })
    }
}

/// The AF_XDP sockets of a port. `None` if it has to do without.
fn af_xdp(config: &Config, steering: &mut Steering, side: Side, seats: &[Seat]) -> Result<Option<Vec<Port>>> {
    if !steering.is_attached(side) {
        return Ok(None);
    }
    let (interface, map, xdp) = match side {
        Side::Wan => (&config.wan.interface, "WAN_XSKS", steering.wan.xdp),
        Side::Lan => (&config.lan.interface, "LAN_XSKS", steering.lan.xdp),
    };
    let mut ports = Vec::new();
    let queues: Vec<u32> = seats.iter().map(|seat| seat.queue).collect();
    for (queue, seat) in side.queues(config, &queues).into_iter().zip(seats) {
        match Port::open_with(interface, queue, &port_options(config, seat.node, xdp)) {
            Ok(port) => {
                steering.set_socket(map, queue, port.raw_fd())?;
                ports.push(port);
            }
            Err(error @ PortError::Busy { .. }) => return Err(error.into()),
            Err(error) if config.mode == Mode::RequireNative => {
                bail!("{error}; and mode = \"require-native\" allows nothing slower")
            }
            Err(error) => {
                // A program without sockets would only drop.
                drop(ports);
                steering.detach(side)?;
                standing(steering, side).fall(interface, Step::NoAfXdp, Why::NoSocket, error.to_string());
                return Ok(None);
            }
        }
    }
    let mode = worst_mode(&ports);
    tracing::info!(interface, ?mode, queues = ports.len(), "AF_XDP sockets open");
    if Step::of(xdp, mode) == Step::Copy {
        let modes: Vec<AfXdpMode> = ports.iter().map(Port::mode).collect();
        let said = if modes.contains(&AfXdpMode::ZeroCopy) {
            format!("the driver has zero-copy for some queues only; in their order: {modes:?}")
        } else {
            "the driver has no zero-copy, or not for these queues".to_owned()
        };
        standing(steering, side).fall(interface, Step::Copy, Why::NoZeroCopy, said);
    }
    Ok(Some(ports))
}

/// A port is as slow as the slowest of its queues.
fn worst_mode(ports: &[Port]) -> AfXdpMode {
    ports.iter().map(Port::mode).max().unwrap_or(AfXdpMode::Unknown)
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
    }
}

const fn standing(steering: &mut Steering, side: Side) -> &mut crate::ladder::Standing {
    match side {
        Side::Wan => &mut steering.wan_standing,
        Side::Lan => &mut steering.lan_standing,
    }
}

/// A socket per worker beside the control plane's.
fn sockets(
    config: &Config,
    steering: &mut Steering,
    control: Option<&OwnedFd>,
    workers: usize,
) -> Result<Vec<PlainPort<UdpEnd>>> {
    let (interface, port) = (&config.wan.interface, config.wan.port);
    let open = || {
        udp::open_for_data(interface, port).with_context(|| {
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
            Ok(()) => tracing::info!(interface, port, "edge limits stand in front of the UDP socket"),
            Err(error) => tracing::warn!(
                "no edge limits and no samples of unbound DATA in front of plain sockets: {error:#}; the control plane's \
                 own limits remain"
            ),
        }
    }
    tracing::info!(interface, port, sockets = sockets.len(), "UDP sockets open for DATA");
    Ok(sockets
        .into_iter()
        .map(|socket| PlainPort::new(UdpEnd::new(socket.socket, socket.family, port), config.tuning.batch))
        .collect())
}
