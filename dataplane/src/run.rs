//! The process: attaches, opens ports, waits for the control plane, starts the threads, and ends them.

use crate::attach::{Side, Steering};
use crate::claim::{self, Claims};
use crate::config::Config;
use crate::crew::{Bells, Crew, Threads, install_loop, named};
use crate::ending::{Ending, Stops};
use crate::frame::Mac;
use crate::handed::{self, Journal, Writes};
use crate::hearing::Hearing;
use crate::hops::{HopWatch, WanHops};
use crate::host_guards;
use crate::host_links;
use crate::host_routes::HostRoutes;
use crate::ladder::Mode;
use crate::lan::LanView;
use crate::neighbours::Neighbours;
use crate::netlink::Netlink;
use crate::pipeline::{BetweenClients, PipelineConfig, Pools, Routes};
use crate::plan::{self, Seat, Wishes};
use crate::port::{Patience, PortError, Settling};
use crate::sides::{self, HostSide, Lan, Sides, Wan};
use crate::slots::Installer;
use crate::status::{StatusSource, starting, status};
use crate::tables::Tables;
use crate::udp;
use crate::watch::{TunDevice, Watch};
use anyhow::{Context as _, Result, anyhow, bail};
use crossbeam_queue::ArrayQueue;
use jvpn_abi::tables::{KeyRing, Reports};
use jvpn_host::status::StatusListener;
use jvpn_host::{clock, signals};
use jvpn_tables::handover::{Connection, HandoverListener, Hello, Welcome};
use jvpn_tables::keys::KeyMailbox;
use jvpn_tables::mapping::{Secrecy, is_same_memory, secret_memory, shared_memory};
use jvpn_tables::{Doorbell, Prefixes};
use nix::poll::{PollFd, PollFlags, poll};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// LAN neighbours that may wait to be resolved.
const MISSES: usize = 256;
/// How long a control plane may take to say HELLO, s.
const HELLO_PATIENCE_S: u16 = 2;

/// Runs the data plane until it is told to end.
///
/// # Errors
/// If something it needs is missing; the message says what to do.
pub fn run(config: &Config) -> Result<()> {
    let shutdown = signals::shutdown_stream().context("signal handlers")?;
    let restart = signals::restart_stream().context("signal handlers")?;
    let claims = claim(config)?;
    let (allowed, _) = jvpn_host::privileges::lookup(&config.control_plane_user)?;
    let listener = HandoverListener::bind(&config.control_socket, allowed.as_raw())?;
    let status_listener = StatusListener::bind(&config.status_socket, 0o600)
        .with_context(|| format!("status socket {}", config.status_socket.display()))?;
    let seats = seats(config)?;
    let stops = Stops { in_order: shutdown.as_fd(), for_next: restart.as_fd() };
    let stop_fds = stops.fds();
    let answer =
        |interface: &str, queue: u32| status_listener.serve_waiting(|_request| starting(interface, queue));
    let patience = Patience::new(&stop_fds).answering(status_listener.listener().as_fd(), &answer);
    let mut gateway = match Gateway::prepare(config, seats, &patience, stops) {
        Err(error) if is_stopped(&error) => {
            tracing::info!("ended before the queues were free");
            if stops.told() != Some(Ending::ForNext) {
                host_guards::sweep();
            }
            return Ok(());
        }
        prepared => prepared?,
    };
    if gateway.host.way().is_none() {
        // What a data plane has left whose LAN was the host.
        host_guards::sweep();
    }
    // Only now: a greeting that waits is one that its sender may give up.
    listener.listen()?;
    tracing::info!(socket = %config.control_socket.display(), "ready, waiting for the control plane");
    let outcome = gateway.serve(&listener, &status_listener, stops, (allowed.as_raw(), &claims));
    if let Some(threads) = gateway.threads.take() {
        threads.stop(*outcome.as_ref().unwrap_or(&Settling::Patient));
    }
    drop(gateway);
    if matches!(outcome, Ok(Settling::Patient)) {
        host_guards::sweep();
    }
    // Last: what a successor may claim is no longer touched.
    drop(claims);
    outcome.map(drop)
}

/// Whether a start has failed because this process was told to end.
fn is_stopped(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(PortError::Stopped))
}

/// Sees to it that what is to stay stays, and the rest goes with these values.
fn leave(steering: &mut Steering, host: &mut HostSide, ending: Ending) {
    match ending {
        Ending::ForNext => tracing::info!("ending for a restart: XDP stays attached"),
        Ending::InOrder => tracing::info!("ending: detaching XDP and closing sockets"),
    }
    steering.end(ending);
    host.end(ending);
}

/// Claims every interface that this data plane has or makes, before anything is touched, and removes what dead ones left.
fn claim(config: &Config) -> Result<Claims> {
    let of_both = config.wan.interfaces().iter().chain(config.lan.interfaces());
    let mut names: Vec<&str> = of_both.map(String::as_str).collect();
    if config.lan.host.is_some() || config.mode == Mode::NoAfXdp {
        names.push(config.tun_name());
    }
    let mut claims = Claims::take(Path::new(claim::LOCKS), names.iter().copied())?;
    host_links::sweep(&mut claims, &names);
    Ok(claims)
}

/// Where the workers run: the plan's answer for this machine.
fn seats(config: &Config) -> Result<Vec<Seat>> {
    let mut wishes = Wishes::of(config);
    // Of several interfaces those that are missing are left out; whether a side has one at all is seen when it is attached.
    let mut netlink = Netlink::new().context("rtnetlink")?;
    let first = [config.wan.interface(), config.lan.interface()];
    wishes.ports.retain(|(_, name)| first.contains(&name) || netlink.link(name).is_ok());
    let names: Vec<&str> = wishes.ports.iter().map(|(_, name)| name.as_str()).collect();
    let look = || plan::facts(&names).context("cannot look at the interfaces");
    let mut facts = look()?;
    if plan::settle(&plan::settings(&facts, &wishes)).context("cannot ask drivers")? {
        facts = look()?;
    }
    plan::warn(&facts, &wishes);
    let seats = plan::seats(&facts, &wishes);
    if seats.is_empty() {
        bail!("the kernel names no CPU that this process may use; give 'cores' in the configuration");
    }
    Ok(seats)
}

/// What the poll loop woke up for.
#[derive(Debug, Default)]
struct Rang {
    listener: bool,
    status: bool,
    told: bool,
    links: bool,
    connection_closed: bool,
}

/// The data plane between two turns of its loop.
struct Gateway<'a> {
    config: &'a Config,
    steering: Steering,
    /// Until the workers have them.
    ports: Option<(Wan, Lan)>,
    routes: Arc<dyn Routes>,
    /// PREFIXES: what `routes` reads and the control plane writes.
    prefixes: Arc<Prefixes>,
    prefixes_fd: OwnedFd,
    host: HostSide,
    udp: Option<OwnedFd>,
    shared: Option<SharedMemory>,
    threads: Option<Threads>,
    connection: Option<Connection>,
    hearing: Hearing,
    seats: Vec<Seat>,
    watch: Watch,
}

/// Descriptors of the memory that both processes hold.
struct SharedMemory {
    context: OwnedFd,
    context_kept: bool,
    reports: OwnedFd,
    keys: OwnedFd,
    journal: Journal,
    tables: Arc<Tables>,
}

impl<'a> Gateway<'a> {
    /// Attaches XDP, then opens the sockets (attach before bind).
    fn prepare(
        config: &'a Config,
        seats: Vec<Seat>,
        patience: &Patience<'_>,
        stops: Stops<'_>,
    ) -> Result<Self> {
        let queues: Vec<u32> = seats.iter().map(|seat| seat.queue).collect();
        let watch = Watch::new().context("rtnetlink")?.for_tunnel(config.tunnel.mtu);
        let mut host = sides::make_pair(config, seats.len())?;
        let mut steering = Steering::attach(config, &queues)?;
        let prefixes_fd = shared_memory("PREFIXES", c"jvpn-prefixes", Prefixes::octets(config.slots))?;
        let prefixes = Arc::new(Prefixes::map(prefixes_fd.as_fd(), config.slots)?);
        let routes: Arc<dyn Routes> = Arc::<Prefixes>::clone(&prefixes);
        let opened = Sides::open(config, &mut steering, &mut host, &routes, &seats, patience);
        if opened.as_ref().err().is_some_and(is_stopped) {
            leave(&mut steering, &mut host, stops.told().unwrap_or(Ending::InOrder));
        }
        let Sides { wan, lan, seats, udp, host } = opened?;
        steering.take_over()?;
        Ok(Self {
            config,
            steering,
            ports: Some((wan, lan)),
            routes,
            prefixes,
            prefixes_fd,
            host,
            udp,
            shared: None,
            threads: None,
            connection: None,
            hearing: Hearing::default(),
            seats,
            watch,
        })
    }

    /// Serves until it is told to end, and in which way.
    fn serve(
        &mut self,
        listener: &HandoverListener,
        status_listener: &StatusListener,
        stops: Stops<'_>,
        (allowed_uid, claims): (u32, &Claims),
    ) -> Result<Settling> {
        // What changed before anybody listened.
        self.look_at_links()?;
        loop {
            let rang = self.wait(listener, status_listener, stops);
            if rang.told
                && let Some(ending) = stops.told()
            {
                leave(&mut self.steering, &mut self.host, ending);
                return Ok(ending.settling());
            }
            if rang.connection_closed {
                tracing::warn!("the control plane is gone; forwarding goes on with what is bound");
                self.connection = None;
            }
            if rang.links && self.watch.heard() {
                self.look_at_links()?;
            }
            if rang.listener {
                self.accept(listener, allowed_uid)?;
            }
            if rang.status {
                status_listener.serve_waiting(|_request| self.status());
            }
            self.steering.flush_log();
            claims.take_askers_off();
        }
    }

    fn look_at_links(&mut self) -> Result<()> {
        let tun = self.host.tun().map(|index| TunDevice { name: self.config.tun_name(), index });
        let changed = self.watch.look(self.steering.hooks(), tun)?;
        if let Some((way, _)) = self.host.way() {
            self.watch.look_for(way.device)?;
        }
        if changed && let Some(threads) = &self.threads {
            // Routes out of an interface that is down do not count.
            threads.bells.neighbours.ring();
        }
        Ok(())
    }

    fn wait(&self, listener: &HandoverListener, status: &StatusListener, stops: Stops<'_>) -> Rang {
        let (wish, at_most) = self.hearing.wish(clock::now());
        let mut fds = vec![
            PollFd::new(listener.as_fd(), wish),
            PollFd::new(status.listener().as_fd(), PollFlags::POLLIN),
            PollFd::new(stops.in_order, PollFlags::POLLIN),
            PollFd::new(stops.for_next, PollFlags::POLLIN),
            PollFd::new(self.watch.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(connection) = &self.connection {
            fds.push(PollFd::new(connection.as_fd(), PollFlags::POLLIN));
        }
        if let Some(log) = self.steering.log_fd() {
            fds.push(PollFd::new(log, PollFlags::POLLIN));
        }
        if poll(&mut fds, at_most).is_err() {
            return Rang::default();
        }
        let any = |index: usize| fds.get(index).is_some_and(|fd| fd.any().unwrap_or(false));
        // After its HELLO a control plane sends nothing more: anything on the connection is its end.
        let connection_closed = self.connection.is_some() && any(5);
        let links = any(4);
        Rang { listener: any(0), status: any(1), told: any(2) || any(3), links, connection_closed }
    }

    fn accept(&mut self, listener: &HandoverListener, allowed_uid: u32) -> Result<()> {
        let accepted = match listener.accept() {
            Err(error) if error.is_shortage() => {
                self.hearing.rest(clock::now(), &error);
                return Ok(());
            }
            accepted => accepted?,
        };
        let Some((connection, who)) = accepted else { return Ok(()) };
        self.hearing.took_one();
        if who.uid() != allowed_uid && who.uid() != 0 {
            tracing::warn!(
                uid = who.uid(),
                pid = who.pid(),
                allowed_uid,
                "refused: not the control plane's user"
            );
            return Ok(());
        }
        if self.connection.is_some() {
            tracing::warn!(pid = who.pid(), "refused: a control plane is connected already");
            return Ok(());
        }
        if connection.is_hung_up() {
            tracing::info!(pid = who.pid(), "a control plane has gone before it was welcomed");
            return Ok(());
        }
        match self.welcome(&connection) {
            Ok(()) => {
                tracing::info!(pid = who.pid(), "control plane connected");
                self.connection = Some(connection);
                Ok(())
            }
            // Some workers run and others do not, and none of them can be asked for its queues.
            Err(error) if self.ports.is_none() && self.threads.is_none() => Err(error.context(
                "the workers could not be started; ending, so that the next start has their queues",
            )),
            // Whatever a control plane says or hands over, it cannot end the data plane.
            Err(error) => {
                tracing::warn!("control plane refused: {error:#}");
                Ok(())
            }
        }
    }

    fn welcome(&mut self, connection: &Connection) -> Result<()> {
        connection.set_patience(HELLO_PATIENCE_S)?;
        let (hello, mut fds) = connection.receive_hello()?;
        let writes = if hello.has_journal != 0 { Writes::ItsOwn } else { Writes::Ours };
        let journal = if hello.has_journal != 0 { fds.pop() } else { None };
        let udp = if hello.has_udp != 0 { fds.pop() } else { None };
        let context = if hello.has_context != 0 { fds.pop() } else { None };
        // Only the living start anything: what one that has given up brought, the next one brings too.
        if connection.is_hung_up() {
            bail!("it has gone before it was welcomed");
        }
        self.take_udp(udp)?;
        if self.threads.is_none() {
            self.start(&hello, context, journal)?;
        } else if let Some(shared) = &mut self.shared {
            // A control plane that restarted brings none: whether its memory goes on is its own knowledge, ours did. One
            // that gave up before our answer came brings again what the workers have been started with.
            let is_ours = |fd: &OwnedFd| is_same_memory(fd.as_fd(), shared.context.as_fd());
            shared.context_kept = context.as_ref().is_some_and(is_ours);
            if let Some(journal) = journal {
                // It is written to by whoever brings it, and is for the next.
                shared.journal = Journal::take(Some(journal), hello.journal_records)?;
            }
        }
        let (Some(shared), Some(threads), Some(udp)) = (&self.shared, &self.threads, &self.udp) else {
            bail!("data plane is not complete");
        };
        let tables = ["BINDINGS", "ROUTES", "GATE", "HANDLES"].map(|name| self.steering.table(name));
        let [bindings, routes, gate, handles] = tables;
        let (bindings, routes, gate, handles) = (bindings?, routes?, gate?, handles?);
        let edge = self.steering.table("EDGE")?;
        let mut send = vec![
            bindings.as_fd(),
            routes.as_fd(),
            gate.as_fd(),
            shared.keys.as_fd(),
            shared.context.as_fd(),
            shared.reports.as_fd(),
            udp.as_fd(),
            threads.bells.installer.as_fd(),
            threads.bells.report.as_fd(),
            handles.as_fd(),
            shared.journal.fd.as_fd(),
            edge.as_fd(),
            self.prefixes_fd.as_fd(),
        ];
        send.extend(threads.links.iter().map(|links| links.queues.bell.as_fd()));
        let workers = u32::try_from(threads.links.len()).unwrap_or(0);
        let welcome = Welcome::new(self.config.slots, workers, shared.context_kept, self.config.wan.port)
            .with_journal(shared.journal.kept, shared.journal.records);
        connection.send_welcome(&welcome, &send)?;
        drop(send);
        if let Some(shared) = &mut self.shared {
            shared.journal.handed_out(writes);
        }
        Ok(())
    }

    /// The devices that the kernel's stack has for the WAN.
    fn wan_devices(&self) -> Vec<&str> {
        self.steering.of(Side::Wan).map(|hook| hook.kernel.name.as_str()).collect()
    }

    fn take_udp(&mut self, handed: Option<OwnedFd>) -> Result<()> {
        match (handed, &self.udp) {
            (Some(fd), None) if udp::is_on_port(&fd, self.config.wan.port) => {
                // What stands in front of it is that of the data plane before.
                if self.steering.is_attached(Side::Wan) {
                    udp::put_on(&fd, &self.wan_devices())
                        .context("putting the control plane's socket on the WAN's interfaces of today")?;
                } else {
                    udp::filter_on(&fd, &self.wan_devices())
                        .context("the filter of today's interfaces in front of the control plane's socket")?;
                    if let Err(error) = self.steering.guard_control(&fd) {
                        tracing::warn!("no edge limits in front of the control plane's socket: {error:#}");
                    }
                }
                self.udp = Some(fd);
            }
            // Ours is open, so the one handed over is another or the same socket.
            (Some(_) | None, Some(_)) => {}
            (Some(_), None) => {
                bail!("the control plane handed over a socket on another port than {}", self.config.wan.port)
            }
            // The place in front of the workers' sockets cannot be taken any more.
            (None, None) if !self.steering.is_attached(Side::Wan) => {
                bail!(
                    "without AF_XDP, UDP port {} goes with a control plane that held it and is gone: restart the data plane",
                    self.config.wan.port
                )
            }
            (None, None) => {
                let opened = udp::open_on(&self.wan_devices(), self.config.wan.port).with_context(|| {
                    format!(
                        "UDP port {} is taken by another process ('ss -lunp' shows it)",
                        self.config.wan.port
                    )
                })?;
                self.udp = Some(opened);
            }
        }
        Ok(())
    }

    /// Makes or adopts the shared memory and starts every thread.
    fn start(&mut self, hello: &Hello, context: Option<OwnedFd>, journal: Option<OwnedFd>) -> Result<()> {
        let slots = self.config.slots;
        let (context, context_kept) = handed::context(context, hello.context_slots, slots)?;
        let reports = shared_memory("REPORTS", c"jvpn-reports", size_of::<Reports>())?;
        let (keys, secrecy) = secret_memory("KEYS", c"jvpn-keys", size_of::<KeyRing>())?;
        let mailbox = KeyMailbox::map(keys.as_fd())?;
        if secrecy == Secrecy::Locked {
            tracing::warn!("no memfd_secret on this kernel: keys in transit lie in locked memory instead");
            mailbox.lock()?;
        }
        let tables = Arc::new(Tables::map(
            slots,
            self.steering.table("BINDINGS")?.as_fd(),
            context.as_fd(),
            reports.as_fd(),
            self.steering.table("GATE")?.as_fd(),
        )?);
        let journal = Journal::take(journal, hello.journal_records)?;
        // Last: what fails before it is tried again with the next greeting.
        self.threads = Some(self.spawn(&tables, mailbox)?);
        self.shared = Some(SharedMemory { context, context_kept, reports, keys, journal, tables });
        Ok(())
    }

    fn spawn(&mut self, tables: &Arc<Tables>, mailbox: KeyMailbox) -> Result<Threads> {
        let bells = Bells::new()?;
        let misses = Arc::new(ArrayQueue::new(MISSES));
        let stop = Arc::new(AtomicBool::new(false));
        let pipeline_config = PipelineConfig {
            gateway: self.config.tunnel.gateway(),
            pools: self.config.tunnel.pools().map_err(|message| anyhow!(message))?,
            mtu: usize::from(self.config.tunnel.mtu),
            lan_mac: self.steering.mac(Side::Lan),
            between_clients: if self.config.tunnel.client_to_client {
                BetweenClients::TurnedRound
            } else {
                BetweenClients::Denied
            },
        };
        tables.reports().workers.store(self.seats.len() as u64, Ordering::Release);
        let crew = Crew {
            config: self.config,
            seats: &self.seats,
            tables,
            pipeline_config,
            routes: &self.routes,
            misses: &misses,
            bells: &bells,
            lan_mtus: self.watch.lan_mtus(),
            // Without AF_XDP the kernel finishes what it hands over.
            unfinished_checksums: self.steering.is_attached(Side::Lan)
                && plan::leave_checksums(self.config.lan.interfaces()),
        };
        let ports = self.ports.take().context("the ports are in use")?;
        // A socket finds the way by itself.
        let finds_its_way = matches!(ports, (Wan::Plain(_), _));
        let (links, mut handles) = match ports {
            (Wan::AfXdp(wan), lan) => crew.start_with(wan, lan)?,
            (Wan::Groups(wan), lan) => crew.start_with(wan, lan)?,
            (Wan::Plain(wan), lan) => crew.start_with(wan, lan)?,
        };
        if let Some(view) = self.host.view() {
            for links in &links {
                drop(links.lan_views.force_push(Arc::new(view.clone())));
                links.queues.bell.ring();
            }
        } else {
            let bell = bells.neighbours.try_clone()?;
            let ports = self.steering.of(Side::Lan).filter_map(|hook| {
                Some((u8::try_from(hook.number).ok()?, hook.link.index, Arc::clone(&hook.watched)))
            });
            let mut neighbours = Neighbours::new(ports, links.clone(), misses, bell).context("rtnetlink")?;
            neighbours.begin();
            handles.push(named("neighbours", {
                let stop = Arc::clone(&stop);
                move || neighbours.run(&stop)
            })?);
        }
        handles.extend(self.follow_routes(pipeline_config.pools, &bells, &stop)?);
        let queues = links.iter().map(|links| Arc::clone(&links.queues)).collect();
        let hops = if finds_its_way {
            Arc::new(WanHops::new(vec![(0, LanView::point_to_point(Mac::default()))]))
        } else {
            self.watch_hops(&bells.hops, &stop, &mut handles)?
        };
        let installer = Installer::new(Arc::clone(tables), queues, self.wan_mac())
            .with_hops(hops)
            .with_wan_numbers(self.steering.of(Side::Wan).map(|hook| hook.number));
        handles.push(named("installer", {
            let (stop, bell) = (Arc::clone(&stop), bells.installer.try_clone()?);
            let host_routes = bells.host_routes.try_clone()?;
            move || install_loop(&installer, &mailbox, [&bell, &host_routes], &stop)
        })?);
        Ok(Threads { links, handles, bells, stop })
    }

    /// Starts the thread that knows the way to clients on the WAN.
    fn watch_hops(
        &self,
        bell: &Doorbell,
        stop: &Arc<AtomicBool>,
        handles: &mut Vec<JoinHandle<()>>,
    ) -> Result<Arc<WanHops>> {
        let ports = self
            .steering
            .of(Side::Wan)
            .filter_map(|hook| Some((u8::try_from(hook.number).ok()?, hook.kernel.index)));
        let watch = HopWatch::new(ports, bell.try_clone()?).context("rtnetlink")?;
        let (hops, stop) = (watch.hops(), Arc::clone(stop));
        handles.push(named("wan-hops", move || watch.run(&stop))?);
        Ok(hops)
    }

    /// Where the LAN is the host: keeps its routes to clients and sites.
    fn follow_routes(
        &self,
        pools: Pools,
        bells: &Bells,
        stop: &Arc<AtomicBool>,
    ) -> Result<Option<JoinHandle<()>>> {
        let Some((way, belongings)) = self.host.way() else { return Ok(None) };
        let (prefixes, bell) = (Arc::clone(&self.prefixes), bells.host_routes.try_clone()?);
        let routes =
            HostRoutes::new(prefixes, pools, (way, belongings.clone()), bell).context("rtnetlink")?;
        let stop = Arc::clone(stop);
        named("host-routes", move || routes.run(&stop)).map(Some)
    }

    fn wan_mac(&self) -> Mac {
        self.steering.mac(Side::Wan)
    }

    fn status(&self) -> serde_json::Value {
        status(&StatusSource {
            steering: &self.steering,
            tables: self.shared.as_ref().map(|shared| &*shared.tables),
            links: self.threads.as_ref().map_or(&[][..], |threads| &threads.links),
            control_plane: self.connection.is_some(),
            seats: &self.seats,
        })
    }
}
