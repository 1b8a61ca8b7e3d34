//! What is measured of one contender in one round.

use std::collections::BTreeMap;
use std::fmt;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jvpn_rig::{Interrupt, Rig};
use serde::Serialize;

use super::Kind;
use super::tunnel::{Client, Tunnel, answers};
use crate::peers::bulk::{self, Direction};
use crate::peers::{latency, search};
use crate::result::Histograms;
use crate::scenarios::throughput::cpu::Cpu;

/// How long a tunnel may take to answer between two measurements before it counts as dead.
const ALIVE_PATIENCE: Duration = Duration::from_secs(5);
/// Octets of UDP payload; the larger ones make packets of 1,400 octets, which no contender has to cut.
const PAYLOADS: [(usize, What); 2] = [(1_372, What::Udp1400), (64, What::Udp64)];
/// Numbers of TCP streams.
const STREAMS: [(usize, What); 2] = [(1, What::Tcp1), (4, What::Tcp4)];
/// Round trips under load begin when the stream beside them has got going.
const LOAD_FIRST: Duration = Duration::from_millis(500);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// One TCP stream.
    Tcp1,
    /// Four TCP streams.
    Tcp4,
    /// UDP in packets of 1,400 octets, at the highest rate that loses less than 1 %.
    Udp1400,
    /// UDP with 64 octets of payload, likewise.
    Udp64,
    /// Round trips of small datagrams while nothing else goes on.
    RttIdle,
    /// The same beside one TCP stream from client to LAN.
    RttLoad,
}

/// A figure of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Payload that arrived, Mbit/s.
    MbitS,
    /// Datagrams that arrived, 1,000 per second.
    Kpps,
    /// Half of the round trips, µs.
    RttP50Us,
    /// 99 of 100 round trips, µs.
    RttP99Us,
    /// Processor seconds of the gateway's processes per GB (10⁹ octets) of payload.
    GatewaySPerGb,
    /// Of the client's processes.
    ClientSPerGb,
    /// Of the whole machine: work in soft interrupts is charged to no process.
    MachineSPerGb,
    /// Processor time of the gateway's processes per datagram, µs.
    GatewayUsPerPacket,
    /// Of the whole machine.
    MachineUsPerPacket,
}

impl Metric {
    /// All of them, in the order of a report.
    pub const ALL: [Self; 9] = [
        Self::MbitS,
        Self::Kpps,
        Self::RttP50Us,
        Self::RttP99Us,
        Self::GatewaySPerGb,
        Self::GatewayUsPerPacket,
        Self::MachineSPerGb,
        Self::MachineUsPerPacket,
        Self::ClientSPerGb,
    ];

    /// What it is, with its unit.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::MbitS => "Throughput, Mbit/s",
            Self::Kpps => "Datagrams at < 1 % loss, kpps",
            Self::RttP50Us => "Round trip p50, µs",
            Self::RttP99Us => "Round trip p99, µs",
            Self::GatewaySPerGb => "Gateway processes, CPU s/GB",
            Self::ClientSPerGb => "Client processes, CPU s/GB",
            Self::MachineSPerGb => "Whole machine, CPU s/GB",
            Self::GatewayUsPerPacket => "Gateway processes, CPU µs per datagram",
            Self::MachineUsPerPacket => "Whole machine, CPU µs per datagram",
        }
    }

    /// Whether more of it is better.
    #[must_use]
    pub const fn is_better_high(self) -> bool {
        matches!(self, Self::MbitS | Self::Kpps)
    }

    /// How many digits a reader can use.
    #[must_use]
    pub const fn digits(self) -> usize {
        match self {
            Self::MbitS | Self::RttP50Us | Self::RttP99Us => 0,
            Self::Kpps => 1,
            Self::GatewaySPerGb
            | Self::ClientSPerGb
            | Self::MachineSPerGb
            | Self::GatewayUsPerPacket
            | Self::MachineUsPerPacket => 2,
        }
    }
}

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Client to LAN.
    Up,
    /// LAN to client.
    Down,
    /// There and back.
    Both,
}

impl From<Direction> for Way {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Up => Self::Up,
            Direction::Down => Self::Down,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Both => "both",
        })
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp1 => "TCP, 1 stream",
            Self::Tcp4 => "TCP, 4 streams",
            Self::Udp1400 => "UDP, 1,400 B",
            Self::Udp64 => "UDP, 64 B",
            Self::RttIdle => "RTT, idle",
            Self::RttLoad => "RTT, under load",
        })
    }
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Which round.
    pub round: u32,
    /// Of whom.
    pub contender: Kind,
    /// What.
    pub what: What,
    /// From where to where.
    pub way: Way,
    /// Its figures; what a contender has not is missing.
    pub figures: BTreeMap<Metric, f64>,
}

/// One contender in one round.
pub(super) struct Turn<'a> {
    pub(super) rig: &'a Rig,
    pub(super) tunnel: &'a mut dyn Tunnel,
    pub(super) client: &'a Client,
    pub(super) span: Duration,
    pub(super) round: u32,
    pub(super) contender: Kind,
    pub(super) interrupt: &'a Interrupt,
    /// Round trips, of all rounds together.
    pub(super) histograms: &'a mut Histograms,
}

impl Turn<'_> {
    /// Measures everything; each row is handed over as soon as it is known.
    pub(super) fn run(mut self, mut take: impl FnMut(Row) -> Result<()>) -> Result<()> {
        for (streams, what) in STREAMS {
            for direction in [Direction::Up, Direction::Down] {
                self.alive()?;
                take(self.tcp(what, streams, direction)?)?;
            }
        }
        for (payload, what) in PAYLOADS {
            for direction in [Direction::Up, Direction::Down] {
                self.alive()?;
                take(self.udp(what, payload, direction)?)?;
            }
        }
        self.alive()?;
        take(self.idle()?)?;
        self.alive()?;
        take(self.loaded()?)?;
        self.alive()
    }

    /// A contender that hangs would yield zeros; that it hangs is what is to be said.
    fn alive(&mut self) -> Result<()> {
        self.tunnel.check()?;
        answers(self.client, ALIVE_PATIENCE, self.interrupt)
    }

    fn look(&self) -> Result<Cpu> {
        Cpu::of(&self.tunnel.gateway_pids(), &self.tunnel.client_pids())
    }

    fn row(&self, what: What, way: Way, figures: impl IntoIterator<Item = (Metric, Option<f64>)>) -> Row {
        let figures = figures.into_iter().filter_map(|(metric, value)| Some((metric, value?)));
        Row { round: self.round, contender: self.contender, what, way, figures: figures.collect() }
    }

    /// A figure of processes, if there are any.
    fn of_processes(pids: &[u32], value: f64) -> Option<f64> {
        (!pids.is_empty()).then_some(value)
    }

    fn tcp(&self, what: What, streams: usize, direction: Direction) -> Result<Row> {
        let (transfer, before, after) =
            bulk::tcp(self.rig, direction, streams, self.span, self.interrupt, || self.look())?;
        ensure!(transfer.octets > 0, "{what} {}: nothing came through", Way::from(direction));
        let cpu = after.since(&before, transfer.octets as f64 / 1e9);
        let mbit_s = transfer.octets as f64 * 8.0 / transfer.took.as_secs_f64() / 1e6;
        let gateway = Self::of_processes(&self.tunnel.gateway_pids(), cpu.gateway_s);
        let client = Self::of_processes(&self.tunnel.client_pids(), cpu.client_s);
        Ok(self.row(
            what,
            direction.into(),
            [
                (Metric::MbitS, Some(mbit_s)),
                (Metric::GatewaySPerGb, gateway),
                (Metric::ClientSPerGb, client),
                (Metric::MachineSPerGb, Some(cpu.machine_s)),
            ],
        ))
    }

    fn udp(&self, what: What, payload: usize, direction: Direction) -> Result<Row> {
        let shot = |rate, span| {
            self.interrupt.check()?;
            bulk::udp(self.rig, direction, payload, rate, span)
        };
        let rate = search::highest_rate(|rate| shot(rate, self.span / 4))?;
        // What it costs is measured for longer, at the rate that was found.
        let before = self.look()?;
        let long = shot(Some(rate.max(1.0)), self.span)?;
        let packets = long.arrived.max(1) as f64;
        let cpu = self.look()?.since(&before, packets);
        let us = |seconds: f64| seconds * 1e6;
        let gateway = Self::of_processes(&self.tunnel.gateway_pids(), us(cpu.gateway_s));
        let is_measured = long.arrived > 0;
        Ok(self.row(
            what,
            direction.into(),
            [
                (Metric::MbitS, Some(rate * payload as f64 * 8.0 / 1e6)),
                (Metric::Kpps, Some(rate / 1e3)),
                (Metric::GatewayUsPerPacket, gateway.filter(|_| is_measured)),
                (Metric::MachineUsPerPacket, is_measured.then_some(us(cpu.machine_s))),
            ],
        ))
    }

    fn round_trips(&mut self, what: What, found: &latency::RoundTrips) -> Result<Row> {
        ensure!(!found.us.is_empty(), "{what}: none of {} came back", found.sent);
        let name = if what == What::RttIdle { "rtt-idle" } else { "rtt-load" };
        for us in &found.us {
            let trip = Duration::from_secs_f64(us / 1e6);
            self.histograms.add(&format!("{name}-{}", self.contender), trip)?;
        }
        let [p50, p99] = [0.5, 0.99].map(|share| found.quantile(share));
        Ok(self.row(what, Way::Both, [(Metric::RttP50Us, p50), (Metric::RttP99Us, p99)]))
    }

    fn idle(&mut self) -> Result<Row> {
        let found = latency::measure(self.rig, self.client.inner, self.span, self.interrupt)?;
        self.round_trips(What::RttIdle, &found)
    }

    fn loaded(&mut self) -> Result<Row> {
        let (rig, span, interrupt) = (self.rig, self.span, self.interrupt);
        let found = thread::scope(|scope| -> Result<_> {
            let load = scope.spawn(move || {
                bulk::tcp(rig, Direction::Up, 1, span + 2 * LOAD_FIRST, interrupt, || Ok(())).map(drop)
            });
            thread::sleep(LOAD_FIRST);
            let found = latency::measure(rig, self.client.inner, span, interrupt);
            load.join().map_err(|_| anyhow::anyhow!("the load's thread panicked"))?.context("the load")?;
            found
        })?;
        self.round_trips(What::RttLoad, &found)
    }
}
