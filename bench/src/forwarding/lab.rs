//! The network of the measurements: the rig, of which the gateway's two ports are used, and a window in which what leaves
//! at the other side is counted by the kernel.

use super::Direction;
use super::generator::{Generator, Seat};
use super::ours::Ours;
use super::plain::Plain;
use crate::environment::{Environment, Standing};
use anyhow::{Context as _, Result};
use jvpn_dataplane::tuning::Tuning;
use jvpn_rig::{Interrupt, Namespace, Rig, wait};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// Before the window begins: rings and caches are as they stay.
const WARM_UP: Duration = Duration::from_millis(300);

/// How long the first packets may take: on a machine that other work shares, a thread may wait for its CPU.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);
/// More than a stray packet of the kernel's own.
const FIRST_PACKETS: u64 = 1_000;

/// How often an interrupt is looked for.
const STEP: Duration = Duration::from_millis(100);

/// Who forwards.
#[derive(Clone, Debug)]
pub(super) enum Forwarder {
    /// Frames go from one ring to the other, with a new destination address.
    Plain,
    /// The product's worker.
    Ours(Tuning),
}

/// One measurement.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) direction: Direction,
    /// Octets of the inner packet.
    pub(super) size: usize,
    pub(super) forwarder: Forwarder,
    pub(super) worker_cpu: usize,
    pub(super) generator_cpu: usize,
    pub(super) window: Duration,
}

/// What a measurement gave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// Packets per second that came out.
    pub(super) pps: f64,
    /// CPU seconds of the worker's thread per second.
    pub(super) worker_cpu: f64,
}

/// The network.
#[derive(Debug)]
pub(super) struct Lab {
    rig: Rig,
    interrupt: Interrupt,
    /// How our worker stood on the gateway's ports, once it did.
    standing: RefCell<Vec<Standing>>,
}

/// The running forwarder.
enum Running {
    Plain(Plain),
    Ours(Box<Ours>),
}

impl Running {
    /// For a measurement in which nothing came out.
    fn shown(&self) -> String {
        match self {
            Self::Plain(_) => "plain forwarding".to_owned(),
            Self::Ours(ours) => ours.counters(),
        }
    }
}

impl Lab {
    pub(super) fn create(interrupt: Interrupt) -> Result<Self> {
        Ok(Self { rig: Rig::create()?, interrupt, standing: RefCell::default() })
    }

    /// What it runs on, with the steps and modes in which our worker ran: known once it did.
    pub(super) fn environment(&self) -> Environment {
        Environment::collect().with_ports(self.rig.gateway(), &self.standing.borrow())
    }

    /// Measures one setting.
    pub(super) fn measure(&self, setting: &Setting) -> Result<Outcome> {
        let (source, sink) = self.sides(setting.direction);
        let running = self.rig.gateway().run(|| -> Result<Running> {
            let direction = setting.direction;
            Ok(match &setting.forwarder {
                Forwarder::Plain => Running::Plain(Plain::start(direction, setting.worker_cpu)?),
                Forwarder::Ours(tuning) => {
                    Running::Ours(Box::new(Ours::start(direction, tuning, setting.worker_cpu)?))
                }
            })
        })??;
        if let Running::Ours(ours) = &running {
            self.standing.replace(ours.standing());
        }
        let port = self.gateway_port(setting.direction);
        let target = self.rig.gateway().run(|| mac(port))??;
        let (direction, size) = (setting.direction, setting.size);
        let seat = Seat { cpu: setting.generator_cpu, queue: 0, session: 0 };
        let generator = source.0.run(|| Generator::start(source.1, direction, size, target, seat))??;
        let before = received(sink)?;
        wait::until("packets come out", FIRST_PATIENCE, &self.interrupt, || {
            Ok((received(sink)? > before + FIRST_PACKETS).then_some(()))
        })
        .with_context(|| running.shown())?;
        self.rest(WARM_UP)?;
        let (packets, time, began) = (received(sink)?, cpu_time(&running)?, Instant::now());
        self.rest(setting.window)?;
        let took = began.elapsed().as_secs_f64();
        let outcome = Outcome {
            pps: (received(sink)? - packets) as f64 / took,
            worker_cpu: (cpu_time(&running)? - time).as_secs_f64() / took,
        };
        generator.stop()?;
        match running {
            Running::Plain(plain) => plain.stop(),
            Running::Ours(ours) => ours.stop(),
        }?;
        Ok(outcome)
    }

    /// Packets per second that come out of workers on these CPUs, each with a queue and a generator of its own on the same
    /// CPU. `sessions`: one for all, or one for each.
    pub(super) fn measure_pairs(
        &self,
        direction: Direction,
        size: usize,
        (cpus, sessions): (&[usize], u8),
        window: Duration,
    ) -> Result<f64> {
        let (source, sink) = self.sides(direction);
        let tuning = Tuning::default();
        let ours = self.rig.gateway().run(|| Ours::start_many(direction, &tuning, cpus, sessions))??;
        self.standing.replace(ours.standing());
        let port = self.gateway_port(direction);
        let target = self.rig.gateway().run(|| mac(port))??;
        let mut generators = Vec::new();
        for (queue, cpu) in (0..).zip(cpus) {
            let session = u8::try_from(queue)? % sessions;
            let seat = Seat { cpu: *cpu, queue, session };
            generators.push(source.0.run(|| Generator::start(source.1, direction, size, target, seat))??);
        }
        let before = received(sink)?;
        wait::until("packets come out", FIRST_PATIENCE, &self.interrupt, || {
            Ok((received(sink)? > before + FIRST_PACKETS).then_some(()))
        })
        .with_context(|| ours.counters())?;
        self.rest(WARM_UP)?;
        let (packets, began) = (received(sink)?, Instant::now());
        self.rest(window)?;
        let pps = (received(sink)? - packets) as f64 / began.elapsed().as_secs_f64();
        for generator in generators {
            generator.stop()?;
        }
        ours.stop()?;
        Ok(pps)
    }

    /// Lets time pass, which is what is measured.
    fn rest(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            std::thread::sleep(left.min(STEP));
            self.interrupt.check()?;
        }
        Ok(())
    }

    const fn gateway_port(&self, direction: Direction) -> &'static str {
        match direction {
            Direction::Decrypt => "wan0",
            Direction::Encrypt => "lan0",
        }
    }

    /// Where packets are made, and where they come out.
    fn sides(&self, direction: Direction) -> ((&Namespace, &'static str), (&Namespace, &'static str)) {
        let (router, lan) = ((self.rig.router(), "rW"), (self.rig.lan(), "eth0"));
        match direction {
            Direction::Decrypt => (router, lan),
            Direction::Encrypt => (lan, router),
        }
    }
}

fn cpu_time(running: &Running) -> Result<Duration> {
    let thread = match running {
        Running::Plain(plain) => plain.thread(),
        Running::Ours(ours) => ours.thread()?,
    };
    thread_time(thread)
}

/// CPU time of a thread of this process, ns resolution.
fn thread_time(thread: Pid) -> Result<Duration> {
    let path = format!("/proc/self/task/{thread}/schedstat");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let nanoseconds = text.split_whitespace().next().and_then(|word| word.parse().ok());
    nanoseconds.map(Duration::from_nanos).with_context(|| format!("{path}: {text}"))
}

/// Packets that an interface has received, by its kernel's counter.
fn received((namespace, interface): (&Namespace, &str)) -> Result<u64> {
    let text = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
    let line = text.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
    let packets = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    packets.with_context(|| format!("no counter of {interface}"))
}

/// Hardware address of an interface of this thread's network namespace.
pub(super) fn mac(interface: &str) -> Result<[u8; 6]> {
    Ok(jvpn_dataplane::netlink::Netlink::new()?.link(interface)?.mac.0)
}

/// Pins the calling thread.
pub(super) fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).with_context(|| format!("CPU {cpu}"))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot pin to CPU {cpu}"))
}
