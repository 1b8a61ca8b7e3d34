//! A client of the run: `jvpn up` in a namespace of its own, its uplinks, its timeline.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jvpn_host::status;
use jvpn_rig::emulator::Relay;
use jvpn_rig::process::Supervised;
use jvpn_rig::site::Site;
use jvpn_rig::{Interrupt, Rig, Uplink, wait};
use serde_json::Value;

use super::pace::Pace;
use super::script::{Begun, struck_by_ip};
use super::standing::Standing;
use crate::events::{Cursor, Event, EventLog, Source, Watch};
use crate::peers::probes::unix_ns;
use crate::peers::streams::Streams;

/// How long anything may take that normally takes milliseconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// A rekey comes after two minutes; a session that is measured is younger.
const SESSION_AGE_MAX: Duration = Duration::from_secs(75);
/// Traffic flows if the last probe came not longer ago than this, and the round-trip time.
const FLOWING: Duration = Duration::from_millis(25);

/// What a client's place is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Uplinks {
    Two,
    OnlyA,
}

/// The client.
#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) site: Site,
    dir: PathBuf,
    out_dir: PathBuf,
    program: PathBuf,
    gateway_key: String,
    process: Option<Supervised>,
    /// Whether its session was ready once.
    was_ready: bool,
    /// What must still be so, if its last trial came back and no other one is under way.
    pub(super) standing: Option<Standing>,
    /// What was wrong with it outside of trials, until somebody enters that in the journal.
    pub(super) complaints: Vec<String>,
    pub(super) log: EventLog,
    uplinks: Option<Uplinks>,
    /// Confirmed switches of the session.
    pub(super) switches: u32,
    pub(super) pace: Pace,
    started: Instant,
    launches: u32,
    /// Last octet of the address on the only uplink.
    host: u8,
}

impl Tenant {
    /// Nothing runs yet. `dir` has the client's key as `client.key`.
    pub(super) fn new(
        site: Site,
        dir: &Path,
        out_dir: &Path,
        program: &Path,
        gateway_key: &str,
    ) -> Result<Self> {
        let log = EventLog::follow(&[(Source::Client, dir.join("events.jsonl"))], Box::new(|_| {}))?;
        Ok(Self {
            site,
            dir: dir.to_owned(),
            out_dir: out_dir.to_owned(),
            program: program.to_owned(),
            gateway_key: gateway_key.to_owned(),
            process: None,
            was_ready: false,
            standing: None,
            complaints: Vec::new(),
            log,
            uplinks: None,
            switches: 0,
            pace: Pace::default(),
            started: Instant::now(),
            launches: 0,
            host: 2,
        })
    }

    pub(super) fn number(&self) -> u8 {
        self.site.number()
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Supervised::pid)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("status.sock")
    }

    pub(super) fn status(&self) -> Result<Value> {
        status::query(&self.socket(), "status").context("the client does not answer")
    }

    /// Whether the session there is can take so many switches more and is young enough.
    pub(super) fn can_go_on(&self, uplinks: Uplinks, switches: u32, budget: u32) -> bool {
        self.process.is_some()
            && self.uplinks == Some(uplinks)
            && self.switches + switches <= budget
            && self.started.elapsed() < SESSION_AGE_MAX
    }

    /// A trial is over that took so many switches.
    pub(super) fn note_switches(&mut self, switches: u32) {
        self.switches += switches;
        self.pace.note(Instant::now(), switches);
    }

    /// Ends the session there is and begins another one.
    pub(super) fn begin(
        &mut self,
        rig: &Rig,
        uplinks: Uplinks,
        streams: &Streams,
        interrupt: &Interrupt,
    ) -> Result<()> {
        self.look(streams);
        self.stop();
        fs::write(self.dir.join("client.toml"), self.config(uplinks))
            .context("cannot write a client's configuration")?;
        let mut command = Command::new(&self.program);
        command.arg("up").arg("--config").arg(self.dir.join("client.toml"));
        self.launches += 1;
        // One file per client: thousands of sessions would make thousands.
        let log = self.out_dir.join(format!("client-{}.log", self.number()));
        self.process =
            Some(rig.start(&format!("client {}", self.number()), self.site.client(), command, &log)?);
        (self.uplinks, self.switches, self.started) = (Some(uplinks), 0, Instant::now());
        self.was_ready = false;
        self.await_ready(streams, interrupt)?;
        self.was_ready = true;
        streams.open_tcp(self.number(), PATIENCE)?;
        self.standing = Some(Standing::new(self.session()?, true));
        Ok(())
    }

    /// Whether the client is as its last trial has left it; what is not is complained of.
    pub(super) fn look(&mut self, streams: &Streams) {
        if let Some(Err(error)) = self.process.as_mut().map(Supervised::check) {
            self.complain(&format!("{error:#}"));
            // There is nobody left to be asked, or to be ended.
            (self.process, self.standing) = (None, None);
        }
        let Some(mut standing) = self.standing.take() else { return };
        let changes = standing.changes(self.session(), streams.tcp(self.number()).map(drop));
        self.standing = Some(standing);
        changes.iter().for_each(|change| self.complain(change));
    }

    /// Something was wrong with it outside of trials.
    pub(super) fn complain(&mut self, text: &str) {
        self.complaints.push(format!("client {}, between two trials: {text}", self.number()));
    }

    /// Waits until the session is ATTACHED, the other uplink (if there is one) answers, and probes flow.
    pub(super) fn await_ready(&mut self, streams: &Streams, interrupt: &Interrupt) -> Result<()> {
        let number = self.number();
        let (wanted, dir) = (if self.uplinks == Some(Uplinks::Two) { 1 } else { 0 }, self.socket());
        let process = self.process.as_mut().context("the client does not run")?;
        let mut last = Value::Null;
        wait::until(&format!("client {number} is ready"), PATIENCE, interrupt, || {
            process.check()?;
            let Ok(status) = status::query(&dir, "status") else { return Ok(None) };
            let attached = status.get("state").and_then(Value::as_str) == Some("ATTACHED");
            let rtt = status.pointer("/path/rtt_ms").and_then(Value::as_f64);
            let answering = candidates(&status).filter(|state| state == "answering").count();
            last = status;
            let rtt = Duration::from_secs_f64(rtt.unwrap_or(0.0) / 1e3);
            let ready = attached && answering >= wanted && flows(streams, number, rtt);
            Ok(ready.then_some(()))
        })
        .with_context(|| format!("its status: {last}\nits last words:\n{}", process.last_words()))
    }

    /// The uplink that the session is bound over.
    pub(super) fn bound(&self) -> Result<Uplink> {
        let status = self.status()?;
        let device = status.pointer("/path/device").and_then(Value::as_str);
        match device {
            Some("upA") => Ok(Uplink::A),
            Some("upB") => Ok(Uplink::B),
            other => anyhow::bail!("client {} is bound over {other:?}", self.number()),
        }
    }

    pub(super) fn session(&self) -> Result<String> {
        let status = self.status()?;
        Ok(status.get("session_id").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    pub(super) fn path(&self, uplink: Uplink) -> &Relay {
        self.site.path(uplink)
    }

    /// Waits for an event of the client.
    pub(super) fn await_event(
        &mut self,
        what: &str,
        since: Cursor,
        patience: Duration,
        interrupt: &Interrupt,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<Event> {
        let process = &mut self.process;
        let mut health = || process.as_mut().map_or(Ok(()), Supervised::check);
        let mut watch = Watch { interrupt, health: &mut health };
        self.log.wait_for(what, since, patience, &mut watch, wanted)
    }

    /// The only uplink gets another address, and its route back, which goes with the old one.
    pub(super) fn change_address(&mut self) -> Result<Begun> {
        let number = self.number();
        let old = Site::address(number, Uplink::A, self.host);
        self.host = if self.host >= 200 { 2 } else { self.host + 1 };
        let new = Site::address(number, Uplink::A, self.host);
        let hop = Site::router_address(number, Uplink::A);
        let batch = format!(
            "address del {old}/24 dev upA\naddress add {new}/24 dev upA\n\
             route replace default via {hop} dev upA metric 100\n"
        );
        struck_by_ip(self.site.client(), &batch)
    }

    /// Ends the client, if it runs; that it does so in any other way than in order is complained of.
    pub(super) fn stop(&mut self) {
        let Some(process) = self.process.take() else { return };
        self.standing = None;
        let ended = process.stop_in_order();
        // One that is still starting, as at Ctrl-C, may be ended by a signal that it does not handle yet.
        if let Err(error) = ended
            && std::mem::take(&mut self.was_ready)
        {
            self.complain(&format!("{error:#}"));
        }
    }

    fn config(&self, uplinks: Uplinks) -> String {
        let number = self.number();
        let section = |uplink: Uplink, priority: u8| {
            let (device, hop) = (uplink.client_interface(), Site::router_address(number, uplink));
            format!("\n[[uplink]]\ndevice = \"{device}\"\ngateway = \"{hop}\"\npriority = {priority}\n")
        };
        let sections = match uplinks {
            Uplinks::Two => section(Uplink::A, 1) + &section(Uplink::B, 2),
            Uplinks::OnlyA => section(Uplink::A, 1),
        };
        let dir = self.dir.display();
        format!(
            r#"# jvpn of the recovery bench.
status_socket = "{dir}/status.sock"
events_file = "{dir}/events.jsonl"

[interface]
name = "jvpn0"
private_key_file = "{dir}/client.key"

[gateway]
public_key = "{}"
endpoint = "198.51.100.1:{}"
{sections}
[paths]
# The bench says which path breaks when; going back on its own would come in between.
fail_back = false
# After each trial the other path has to be known as whole again; ten seconds would stretch the run.
candidate_interval_s = 1
"#,
            self.gateway_key,
            jvpn_rig::TUNNEL_PORT,
        )
    }
}

fn candidates(status: &Value) -> impl Iterator<Item = String> + '_ {
    let uplinks = status.get("uplinks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    uplinks.iter().filter_map(|uplink| uplink.pointer("/candidate/state")?.as_str().map(str::to_lowercase))
}

/// Whether probes arrive both ways.
pub(super) fn flows(streams: &Streams, client: u8, rtt: Duration) -> bool {
    let patience = u64::try_from((FLOWING + rtt).as_nanos()).unwrap_or(u64::MAX);
    let oldest = unix_ns().saturating_sub(patience);
    streams.last_arrivals(client).into_iter().all(|at| at >= oldest)
}

/// The inner address of a client.
pub(super) fn inner_address(number: u8) -> Ipv4Addr {
    crate::swarm::network::inner_address(usize::from(number))
}
