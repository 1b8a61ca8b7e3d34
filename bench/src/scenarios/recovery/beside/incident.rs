//! One trial of one contender: what is done to its path, who is told of it, and what was seen.

use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jvpn_rig::emulator::{LanePatch, Relay};
use jvpn_rig::site::Site;
use jvpn_rig::tool::IP;
use jvpn_rig::{Interrupt, Uplink};

use super::super::cause::Cause;
use super::super::life::SUPERVISOR;
use super::super::measure;
use super::super::script::{self, Begun, Struck, struck_by_ip};
use super::super::tenant::flows;
use super::result::Trial;
use super::{is_silent, lock, sleep, together, uplinks};
use crate::peers::probes::unix_ns;
use crate::peers::streams::{LaneRecord, Record, Streams};
use crate::scenarios::contenders::Kind;
use crate::scenarios::contenders::tunnel::{Ground, Tunnel};

/// Recording goes on for so long after traffic flows again.
const TAIL: Duration = Duration::from_millis(250);
/// How long TCP may take to deliver what it owes: its retransmission timer has doubled meanwhile, up to two minutes.
const TCP_PATIENCE: Duration = Duration::from_secs(15);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(5);

/// A client's place, with what was done to it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) site: Site,
    /// Last octet of the address on uplink A.
    host: u8,
    /// Which default routes are there.
    routes: Vec<Uplink>,
    /// Whether the TCP stream is one of this contender's that works.
    has_stream: bool,
}

impl Place {
    pub(super) fn new(site: Site) -> Self {
        Self { site, host: 2, routes: Uplink::ALL.to_vec(), has_stream: false }
    }

    /// The next hops that a contender may use.
    pub(super) fn hops(&self, cause: Cause) -> Vec<(Uplink, Ipv4Addr)> {
        let hop = |uplink: &Uplink| (*uplink, Site::router_address(self.site.number(), *uplink));
        uplinks(cause).iter().map(hop).collect()
    }

    /// Another contender begins: its TCP stream is not the one before's.
    pub(super) fn begin(&mut self, cause: Cause) -> Result<()> {
        self.has_stream = false;
        self.prepare(cause)
    }

    /// The network as it is to be before a trial.
    fn prepare(&mut self, cause: Cause) -> Result<()> {
        self.mend()?;
        if cause.has_one_uplink() { self.remove_route(Uplink::B) } else { Ok(()) }
    }

    /// All paths and routes are whole again.
    pub(super) fn mend(&mut self) -> Result<()> {
        for uplink in Uplink::ALL {
            let path = self.site.path(uplink);
            path.change_both(&LanePatch::default());
            path.set_link_down(false);
            path.check()?;
            self.add_route(uplink)?;
        }
        Ok(())
    }

    fn ip(&self, batch: &str) -> Result<()> {
        IP.run_with_input(Some(self.site.client()), &["-batch", "-"], batch).map(drop)
    }

    /// A default route as the host's network management has it: A before B.
    fn route(&self, uplink: Uplink) -> String {
        let hop = Site::router_address(self.site.number(), uplink);
        let metric = if uplink == Uplink::A { 100 } else { 200 };
        format!("default via {hop} dev {} metric {metric}", uplink.client_interface())
    }

    fn add_route(&mut self, uplink: Uplink) -> Result<()> {
        if !self.routes.contains(&uplink) {
            self.ip(&format!("route add {}\n", self.route(uplink)))?;
            self.routes.push(uplink);
        }
        Ok(())
    }

    fn remove_route(&mut self, uplink: Uplink) -> Result<()> {
        if self.routes.contains(&uplink) {
            self.ip(&format!("route del {}\n", self.route(uplink)))?;
            self.routes.retain(|one| *one != uplink);
        }
        Ok(())
    }

    /// Uplink A gets another address, and its route back, which goes with the old one.
    fn change_address(&mut self) -> Result<Begun> {
        let (number, device) = (self.site.number(), Uplink::A.client_interface());
        let old = Site::address(number, Uplink::A, self.host);
        self.host = if self.host >= 200 { 2 } else { self.host + 1 };
        let new = Site::address(number, Uplink::A, self.host);
        let batch = format!(
            "address del {old}/24 dev {device}\naddress add {new}/24 dev {device}\nroute replace {}\n",
            self.route(Uplink::A)
        );
        struck_by_ip(self.site.client(), &batch)
    }
}

/// A client's path with the host's network management: it takes the default route away with the carrier, and brings it
/// back.
struct Managed<'a> {
    place: &'a mut Place,
    bound: Uplink,
    interrupt: &'a Interrupt,
}

impl Struck for Managed<'_> {
    fn path(&self) -> &Relay {
        self.place.site.path(self.bound)
    }

    fn set_link_down(&mut self, down: bool) -> Result<()> {
        self.path().set_link_down(down);
        if down { self.place.remove_route(self.bound) } else { self.place.add_route(self.bound) }
    }

    fn change_address(&mut self) -> Result<Begun> {
        self.place.change_address()
    }

    fn sleep(&self, time: Duration) -> Result<()> {
        sleep(time, self.interrupt)
    }
}

/// What all trials of a contender and a cause share.
pub(super) struct Stage<'a> {
    pub(super) streams: &'a Streams,
    pub(super) ground: &'a Ground<'a>,
    pub(super) tunnel: &'a Mutex<Box<dyn Tunnel>>,
    pub(super) contender: Kind,
    pub(super) cause: Cause,
    pub(super) rtt: Duration,
    pub(super) cap: Duration,
    pub(super) script_after: Option<Duration>,
}

impl Stage<'_> {
    /// A client's own incident.
    pub(super) fn trial(&self, place: &mut Place, incident: u32, settle: Duration) -> Result<Trial> {
        self.make_ready(place)?;
        let number = place.site.number();
        let bound = lock(self.tunnel).bound(usize::from(number))?;
        // A tunnel that follows the routes goes over A.
        let bound = bound.unwrap_or(Uplink::A);
        self.streams.begin(number);
        sleep(settle, self.ground.interrupt)?;
        let at_ns = self.strike(place, bound, incident)?;
        self.finish(place, (incident, bound), at_ns)
    }

    /// An incident of all clients: the gateway's process dies, and is started again as by a supervisor.
    pub(super) fn common_trial(
        &self,
        places: &mut [Place],
        incident: u32,
        settle: Duration,
    ) -> Result<Vec<Trial>> {
        together(places, &|place| self.make_ready(place))?;
        places.iter().for_each(|place| self.streams.begin(place.site.number()));
        sleep(settle, self.ground.interrupt)?;
        let at_ns = unix_ns();
        lock(self.tunnel).restart_gateway(self.ground, SUPERVISOR)?;
        // No path is struck, so it does not matter which one is bound.
        together(places, &|place| self.finish(place, (incident, Uplink::A), at_ns))
    }

    /// Waits until it is over, and says what was seen.
    fn finish(&self, place: &mut Place, (incident, bound): (u32, Uplink), at_ns: u64) -> Result<Trial> {
        let number = place.site.number();
        let came_back = self.await_flow(place, bound, at_ns)?;
        sleep(TAIL + self.rtt, self.ground.interrupt)?;
        let record = self.streams.record(number);
        let tcp_survived = came_back && self.tcp_goes_on(number)?;
        place.has_stream = tcp_survived;
        let has_ended = lock(self.tunnel).check();
        place.prepare(self.cause)?;
        has_ended.context("in a trial")?;
        Ok(self.judge((number, incident), at_ns, &record, (came_back, tcp_survived)))
    }

    /// A tunnel that is whole, over paths that are, with a TCP stream in it.
    fn make_ready(&self, place: &mut Place) -> Result<()> {
        let number = place.site.number();
        let client = usize::from(number);
        let is_new = lock(self.tunnel).before_incident(self.ground, client, self.cause.switches_max())?;
        let patience = self.ground.patience;
        // Half of it for coming back between two trials, then its client is started again.
        if is_new || !self.await_whole(number, patience / 2)? {
            if !is_new {
                // Whoever has died says more than silence.
                lock(self.tunnel).check().context("before a trial")?;
                lock(self.tunnel).restart_client(self.ground, client)?;
            }
            let is_whole = self.await_whole(number, patience)?;
            ensure!(is_whole, "client {number}: nothing flows {patience:?} after a new start");
            place.has_stream = false;
        }
        if !place.has_stream || self.streams.tcp(number).is_err() {
            self.streams.open_tcp(number, patience)?;
            place.has_stream = true;
            // Something is to have gone through it before the trial.
            sleep(TAIL + self.rtt, self.ground.interrupt)?;
        }
        Ok(())
    }

    /// What happens, and what a system would do at once that notices it by itself; gives when it began, Unix ns.
    fn strike(&self, place: &mut Place, bound: Uplink, incident: u32) -> Result<u64> {
        ensure!(!self.cause.is_common(), "{} strikes no client alone", self.cause);
        let mut managed = Managed { place, bound, interrupt: self.ground.interrupt };
        Ok(script::strike(&mut managed, self.cause, incident)?.unix_ns)
    }

    /// Waits until probes have flowed both ways for a while; a script may move the route meanwhile.
    fn await_flow(&self, place: &mut Place, bound: Uplink, at_ns: u64) -> Result<bool> {
        let begun = Instant::now();
        let (mut since, mut script) = (None, self.script_after.filter(|_| is_silent(self.cause)));
        while begun.elapsed() < self.cap {
            sleep(LOOK, self.ground.interrupt)?;
            let number = place.site.number();
            let is_later = self.streams.last_arrivals(number).into_iter().all(|at| at > at_ns);
            if is_later && flows(self.streams, number, Duration::ZERO) {
                // As long as the way there and back: what arrives may have been sent before the incident.
                let flowing = *since.get_or_insert_with(Instant::now);
                if flowing.elapsed() > Duration::from_millis(100) + self.rtt {
                    return Ok(true);
                }
                continue;
            }
            since = None;
            if script.is_some_and(|after| begun.elapsed() >= after) {
                place.remove_route(bound)?;
                script = None;
            }
        }
        Ok(false)
    }

    fn await_whole(&self, number: u8, patience: Duration) -> Result<bool> {
        let deadline = Instant::now() + patience;
        let mut since = None;
        while Instant::now() < deadline {
            sleep(LOOK, self.ground.interrupt)?;
            if !flows(self.streams, number, self.rtt) {
                since = None;
                continue;
            }
            let flowing = *since.get_or_insert_with(Instant::now);
            if flowing.elapsed() > Duration::from_millis(500) + self.rtt {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn tcp_goes_on(&self, number: u8) -> Result<bool> {
        let Ok((owed, _)) = self.streams.tcp(number) else { return Ok(false) };
        let deadline = Instant::now() + TCP_PATIENCE;
        loop {
            match self.streams.tcp(number) {
                Ok((_, arrived)) if arrived >= owed => return Ok(true),
                Ok(_) if Instant::now() < deadline => sleep(LOOK, self.ground.interrupt)?,
                Ok(_) | Err(_) => return Ok(false),
            }
        }
    }

    fn judge(
        &self,
        (client, incident): (u8, u32),
        at_ns: u64,
        record: &Record,
        (came_back, tcp_survived): (bool, bool),
    ) -> Trial {
        // Of one that did not come back only the least is known: it was silent for the whole of its time.
        let cap_ns = u64::try_from(self.cap.as_nanos()).unwrap_or(u64::MAX);
        let lane = |record: &LaneRecord| {
            if came_back {
                measure::lane(record, at_ns)
            } else {
                measure::unended_lane(record, at_ns, at_ns.saturating_add(cap_ns))
            }
        };
        let (up, down) = (lane(&record.up), lane(&record.down));
        let seen = up.outage_ms.max(down.outage_ms);
        Trial {
            contender: self.contender,
            cause: self.cause,
            incident,
            client,
            at_ms: at_ns / 1_000_000,
            came_back,
            outage_ms: if came_back { seen } else { self.cap.as_secs_f64() * 1e3 },
            lost_up: up.lost,
            lost_down: down.lost,
            tcp_survived,
            tcp_stall_ms: measure::tcp_stall(&record.tcp, at_ns),
            bench_pause_ms: up.pause_ms.max(down.pause_ms),
        }
    }
}
