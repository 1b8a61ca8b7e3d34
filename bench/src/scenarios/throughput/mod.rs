//! How much goes through one tunnel and what it costs, with the client's offloads on and off, turn by turn in one run.

pub(super) mod cpu;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jvpn_rig::tool::ETHTOOL;
use jvpn_rig::{Interrupt, Rig, wait};
use serde::Serialize;

use super::progress::Progress;
use crate::account::{self, Verdict};
use crate::deployment::{self, Deployment, Places, Role, Settings};
use crate::page;
use crate::peers::bulk::{self, Direction};
use crate::peers::search;
use crate::result::{Ending, Environment, write_json};
use crate::run_dir::RunDir;
use crate::timeline;
use cpu::Cpu;

/// What the deployment's files say about the inner MTU, and what is measured with: 1,400 octets of UDP payload fit.
const MTU: (&str, &str) = ("mtu = 1280", "mtu = 1440");
/// How long a client may take to attach.
const PATIENCE: Duration = Duration::from_secs(15);
/// Payloads of UDP, octets.
const PAYLOADS: [usize; 2] = [1_400, 64];
/// Numbers of TCP streams.
const STREAMS: [usize; 2] = [1, 4];

/// Measurements of a round: with offloads and without, each up and down.
const EACH_ROUND: usize = 2 * 2 * (PAYLOADS.len() + STREAMS.len());

/// What a run differs in.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rounds; the median counts.
    pub rounds: u32,
    /// Span of one TCP measurement.
    pub span: Duration,
    /// Where configuration and logs go. Absolute.
    pub out_dir: PathBuf,
    /// Where result and every round go.
    pub json: Option<PathBuf>,
}

/// The client's offloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Offload {
    /// As by default.
    On,
    /// `[offload]` all false.
    Off,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which round.
    pub round: u32,
    /// The client's offloads.
    pub offload: Offload,
    /// What: `tcp_1`, `udp_64`, …
    pub what: String,
    /// From where to where.
    pub direction: Direction,
    /// Payload that arrived, Mbit/s.
    pub mbit_s: f64,
    /// Datagrams per second that arrived, of UDP.
    pub packets_s: Option<f64>,
    /// Processor time per GB (10⁹ octets) of payload, of TCP.
    pub cpu_per_gb: Option<Cpu>,
}

/// Medians of one kind of measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Median {
    /// What, and in which direction.
    pub what: String,
    /// From where to where.
    pub direction: Direction,
    /// The client's offloads.
    pub offload: Offload,
    /// Mbit/s.
    pub mbit_s: f64,
    /// Datagrams per second.
    pub packets_s: Option<f64>,
    /// Processor time per GB.
    pub cpu_per_gb: Option<Cpu>,
}

/// A run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// `throughput`.
    pub scenario: &'static str,
    /// Whether the gateway's audit log broke no rule.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Whole or broken off.
    #[serde(flatten)]
    pub ending: Ending,
    /// The gateway's `[policy]` table.
    pub policy: String,
    /// Rounds; the median counts.
    pub rounds: u32,
    /// Said of a run of fewer rounds than make a result.
    pub too_few: Option<&'static str>,
    /// Span of one TCP measurement, ms.
    pub span_ms: u64,
    /// Machine and versions.
    pub environment: Environment,
    /// What the client said of its offloads when they were on.
    pub offload: serde_json::Value,
    /// Medians.
    pub medians: Vec<Median>,
    /// Every measurement.
    pub rows: Vec<Row>,
}

/// Measures and prints.
///
/// # Errors
/// A part could not be set up, or interrupted; what was measured is kept.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<()> {
    let mut dir = RunDir::begin(&options.out_dir)?;
    let settings = Settings {
        bin_dir: deployment::find_programs()?,
        out_dir: options.out_dir.clone(),
        max_switches_per_min: None,
    };
    let rig = Rig::create()?;
    let places = deployment::prepare(&rig, &settings)?;
    large_mtu(&places)?;
    offloading_uplink(&rig)?;
    account::begin(&options.out_dir)?;
    let mut deployment = Deployment::new(&settings, &places);
    let mut report = Report::new(options, account::policy(&places)?);
    let mut progress = Progress::start();
    let measured = (|| {
        deployment.launch(&rig, Role::DataPlane, interrupt)?;
        deployment.launch(&rig, Role::ControlPlane, interrupt)?;
        report.environment = Environment::collect().with_gateway(&rig, &deployment, &places);
        let ground = Ground { rig: &rig, places: &places, options, interrupt };
        let measured = measure(ground, &mut deployment, &mut report, &mut progress);
        deployment.explain(measured, interrupt)
    })();
    let stopped = deployment.stop();
    report.judge(&measured, &places, &options.out_dir);
    let measured = measured.and(stopped).and(rig.remove());
    report.conclude(&measured);
    dir.conclude("Jumping VPN: throughput of one tunnel", &report, measured)?;
    for line in report.lines() {
        timeline::print(&line);
    }
    timeline::print(&format!("\n  result: {}/result.json", options.out_dir.display()));
    options.json.as_ref().map_or(Ok(()), |path| write_json(path, &report))?;
    report.verdict.or_fail()
}

fn large_mtu(places: &Places) -> Result<()> {
    for role in [Role::DataPlane, Role::ControlPlane] {
        let path = places.config_dir.join(role.config_file());
        let text = std::fs::read_to_string(&path)?;
        std::fs::write(&path, text.replace(MTU.0, MTU.1))?;
    }
    Ok(())
}

/// The client's uplink as a network card: it takes large packets and unfinished checksums, and joins what comes. The
/// router's links finish them before they reach the gateway.
fn offloading_uplink(rig: &Rig) -> Result<()> {
    let features =
        ["rx", "on", "tx", "on", "sg", "on", "gso", "on", "tx-udp-segmentation", "on", "gro", "on"];
    let args: Vec<&str> = ["-K", "upA"].into_iter().chain(features).collect();
    ETHTOOL.run(Some(rig.client()), &args).map(drop)
}

/// Where it is measured.
#[derive(Clone, Copy)]
struct Ground<'a> {
    rig: &'a Rig,
    places: &'a Places,
    options: &'a Options,
    interrupt: &'a Interrupt,
}

fn measure(
    ground: Ground<'_>,
    deployment: &mut Deployment,
    report: &mut Report,
    progress: &mut Progress,
) -> Result<()> {
    let Ground { rig, places, options, interrupt } = ground;
    let path = places.config_dir.join(Role::Client.config_file());
    let text = std::fs::read_to_string(&path)?;
    let began = Instant::now();
    for round in 1..=options.rounds {
        // Turn by turn, and the other way round in every other round: neither always meets the warmer machine.
        let order = if round % 2 == 1 { [Offload::On, Offload::Off] } else { [Offload::Off, Offload::On] };
        for offload in order {
            let on = offload == Offload::On;
            std::fs::write(&path, format!("{text}\n[offload]\ntunnel = {on}\nudp = {on}\n"))?;
            deployment.launch(rig, Role::Client, interrupt)?;
            let status = wait::until("the session is ATTACHED", PATIENCE, interrupt, || {
                let status = jvpn_host::status::query(&places.client_socket(), "status")?;
                Ok((status.get("state") == Some(&"ATTACHED".into())).then_some(status))
            })?;
            if on {
                report.offload = serde_json::json!({
                    "tunnel": status.pointer("/tunnel/offload"), "transports": status.get("transports"),
                });
            }
            let data_plane = deployment.data_plane_status()?;
            report.environment.xdp_mode = data_plane.xdp_mode();
            report.environment.af_xdp_mode = data_plane.af_xdp_mode();
            let rows = &mut report.rows;
            let mut turn =
                Turn { rig, deployment, options, interrupt, round, offload, rows, progress, began };
            turn.tcp()?;
            turn.udp()?;
            deployment.end(Role::Client)?;
        }
    }
    Ok(())
}

/// One client, from its start to its end.
struct Turn<'a> {
    rig: &'a Rig,
    deployment: &'a Deployment,
    options: &'a Options,
    interrupt: &'a Interrupt,
    round: u32,
    offload: Offload,
    rows: &'a mut Vec<Row>,
    progress: &'a mut Progress,
    began: Instant,
}

impl Turn<'_> {
    fn tcp(&mut self) -> Result<()> {
        let pid = |role| self.deployment.pid(role).context("a process does not run");
        let (gateway, client) = (pid(Role::DataPlane)?, pid(Role::Client)?);
        for streams in STREAMS {
            for direction in [Direction::Up, Direction::Down] {
                let look = || Cpu::look(gateway, client);
                let (transfer, before, after) =
                    bulk::tcp(self.rig, direction, streams, self.options.span, self.interrupt, look)?;
                let cpu = after.since(&before, transfer.octets as f64 / 1e9);
                let mbit_s = transfer.octets as f64 * 8.0 / transfer.took.as_secs_f64() / 1e6;
                self.note(format!("tcp_{streams}"), direction, mbit_s, None, Some(cpu));
            }
        }
        Ok(())
    }

    fn udp(&mut self) -> Result<()> {
        for payload in PAYLOADS {
            for direction in [Direction::Up, Direction::Down] {
                let rate = self.highest_rate(direction, payload)?;
                let mbit_s = rate * payload as f64 * 8.0 / 1e6;
                self.note(format!("udp_{payload}"), direction, mbit_s, Some(rate), None);
            }
        }
        Ok(())
    }

    /// The highest rate at which next to nothing is lost.
    fn highest_rate(&self, direction: Direction, payload: usize) -> Result<f64> {
        let span = self.options.span / 4;
        search::highest_rate(|rate| {
            self.interrupt.check()?;
            bulk::udp(self.rig, direction, payload, rate, span)
        })
    }

    fn note(
        &mut self,
        what: String,
        direction: Direction,
        mbit_s: f64,
        packets_s: Option<f64>,
        cpu: Option<Cpu>,
    ) {
        let (round, offload) = (self.round, self.offload);
        self.rows.push(Row { round, offload, what, direction, mbit_s, packets_s, cpu_per_gb: cpu });
        let total = self.options.rounds as usize * EACH_ROUND;
        self.progress.step("measurements", self.rows.len(), total, self.began);
    }
}

fn medians(rows: &[Row]) -> Vec<Median> {
    let mut kinds: BTreeMap<(&str, Direction, Offload), Vec<&Row>> = BTreeMap::new();
    for row in rows {
        kinds.entry((&row.what, row.direction, row.offload)).or_default().push(row);
    }
    let middle = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    let one = |((what, direction, offload), rows): ((&str, Direction, Offload), Vec<&Row>)| {
        let cpu = |part: fn(&Cpu) -> f64| {
            middle(rows.iter().filter_map(|r| r.cpu_per_gb.as_ref().map(part)).collect())
        };
        Median {
            what: what.to_owned(),
            direction,
            offload,
            mbit_s: middle(rows.iter().map(|row| row.mbit_s).collect()).unwrap_or_default(),
            packets_s: middle(rows.iter().filter_map(|row| row.packets_s).collect()),
            cpu_per_gb: cpu(|cpu| cpu.gateway_s).map(|gateway_s| Cpu {
                gateway_s,
                client_s: cpu(|cpu| cpu.client_s).unwrap_or_default(),
                machine_s: cpu(|cpu| cpu.machine_s).unwrap_or_default(),
            }),
        }
    };
    kinds.into_iter().map(one).collect()
}

impl Report {
    fn new(options: &Options, policy: String) -> Self {
        Self {
            scenario: "throughput",
            verdict: Verdict::default(),
            policy,
            ending: Ending::default(),
            rounds: options.rounds,
            too_few: None,
            span_ms: u64::try_from(options.span.as_millis()).unwrap_or(u64::MAX),
            environment: Environment::collect(),
            offload: serde_json::Value::Null,
            medians: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// Judges the gateway, also that of a run that was broken off: whole rounds of it count. Before the first figure it may
    /// have been ended without a line of its audit log: then nothing is there to judge, nor anything to be believed.
    fn judge(&mut self, measured: &Result<()>, places: &Places, dir: &Path) {
        let is_early = measured.is_err() && self.rows.is_empty();
        if !is_early || account::has_a_line(places) {
            self.verdict.add(&account::keep_and_judge(places, dir));
        }
    }

    /// What the rows amount to. Of the round that was broken off, rows may be missing.
    fn conclude(&mut self, measured: &Result<()>) {
        self.ending = Ending::of(measured);
        self.medians = medians(&self.rows);
        let last = self.rows.iter().map(|row| row.round).max().unwrap_or_default();
        let whole = if measured.is_ok() { self.rounds } else { last.saturating_sub(1) };
        self.too_few = page::too_few(whole);
    }

    /// Lines for a person.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{} build, kernel {}, {} processors, XDP {}, AF_XDP {}",
            self.environment.build,
            self.environment.kernel,
            self.environment.cpus,
            self.environment.xdp_mode,
            self.environment.af_xdp_mode
        )];
        lines.extend(self.too_few.map(str::to_owned));
        lines.extend(self.verdict.problems.iter().map(|problem| format!("INVALID: {problem}")));
        lines.push(format!(
            "{:<10}{:<6}{:>9}{:>11}{:>10}{:>14}{:>13}{:>14}",
            "what", "way", "offloads", "Mbit/s", "kpps", "gateway s/GB", "client s/GB", "machine s/GB"
        ));
        for median in &self.medians {
            let way = if median.direction == Direction::Up { "up" } else { "down" };
            let offload = if median.offload == Offload::On { "on" } else { "off" };
            let number = |value: Option<f64>, digits: usize| {
                value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
            };
            let cpu = |part: fn(&Cpu) -> f64| number(median.cpu_per_gb.as_ref().map(part), 2);
            lines.push(format!(
                "{:<10}{way:<6}{offload:>9}{:>11.0}{:>10}{:>14}{:>13}{:>14}",
                median.what,
                median.mbit_s,
                number(median.packets_s.map(|rate| rate / 1e3), 1),
                cpu(|cpu| cpu.gateway_s),
                cpu(|cpu| cpu.client_s),
                cpu(|cpu| cpu.machine_s),
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schemas::tests::fits_tightly;
    use anyhow::anyhow;

    fn row(round: u32, mbit_s: f64) -> Row {
        let cpu_per_gb = Some(Cpu { gateway_s: mbit_s / 10.0, client_s: 1.0, machine_s: 2.0 });
        let (what, direction) = ("tcp_1".to_owned(), Direction::Up);
        Row { round, offload: Offload::On, what, direction, mbit_s, packets_s: None, cpu_per_gb }
    }

    /// R8.4: a run that is broken off before the first session is a part and not INVALID: its gateway has no line to judge.
    /// A gateway that has one is judged, and one without any after a figure has lost its log.
    #[test]
    fn r8_4_nothing_to_judge_is_not_invalid() {
        let dir = tempfile::tempdir().unwrap();
        let (places, out) = (Places::under(dir.path()), dir.path().join("out"));
        let log = places.audit_file();
        for made in [&out, &places.config_dir, log.parent().unwrap()] {
            std::fs::create_dir_all(made).unwrap();
        }
        let config = places.config_dir.join(Role::ControlPlane.config_file());
        std::fs::write(config, "node_id = \"n\"\n\n[policy]\npreset = \"edge\"\n").unwrap();
        let options = Options { rounds: 9, span: Duration::ZERO, out_dir: out.clone(), json: None };
        let judged = |rows: &[Row], measured: Result<()>| {
            let rows = rows.to_vec();
            let mut report = Report { rows, ..Report::new(&options, "preset = \"edge\"\n".to_owned()) };
            report.judge(&measured, &places, &out);
            report.conclude(&measured);
            fits_tightly(&report);
            (report.verdict.valid, report.ending.complete)
        };
        let interrupted = || Err(anyhow!("interrupted"));
        assert_eq!(judged(&[], interrupted()), (None, false), "no log");
        assert_eq!(judged(&[row(1, 1.0)], interrupted()), (Some(false), false), "a session without a log");
        assert_eq!(judged(&[], Ok(())), (Some(false), true));
        std::fs::write(&log, "").unwrap();
        assert_eq!(judged(&[], interrupted()), (None, false), "an empty log");
        std::fs::write(&log, "nonsense\n").unwrap();
        assert_eq!(judged(&[], interrupted()), (Some(false), false), "a line that breaks a rule");
    }

    #[test]
    fn the_middle_of_each_kind_counts() {
        let rows = [row(1, 30.0), row(2, 10.0), Row { offload: Offload::Off, ..row(3, 1.0) }, row(3, 20.0)];
        let out_dir = PathBuf::new();
        let options = Options { rounds: 3, span: Duration::ZERO, out_dir, json: None };
        let new = || Report::new(&options, "preset = \"edge\"\n".to_owned());
        let mut report = Report { rows: rows.into(), ..new() };
        report.verdict.valid = Some(true);
        report.conclude(&Ok(()));
        let medians = &report.medians;
        assert_eq!(medians.len(), 2);
        let on = medians.iter().find(|median| median.offload == Offload::On).unwrap();
        assert_eq!((on.mbit_s, on.cpu_per_gb.unwrap().gateway_s, on.packets_s), (20.0, 2.0, None));
        fits_tightly(&report);
        // A round that was broken off does not count.
        for (last, is_said) in [(5, true), (6, false)] {
            let mut part = Report { rounds: 9, rows: vec![row(last, 1.0)], ..new() };
            part.conclude(&Err(anyhow!("interrupted")));
            assert!(!part.ending.complete && part.too_few.is_some() == is_said, "{last}");
            fits_tightly(&part);
        }
        assert_eq!(report.lines().len(), 5);
        assert!(report.lines()[1].contains("not a result"));
    }
}
