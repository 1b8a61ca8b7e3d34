//! The running demo: network, processes, traffic, observers and log in one place, and what every step needs
//! of them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jvpn_abi::wire::MsgType;
use jvpn_rig::capture::{Capture, Keep, Match};
use jvpn_rig::frame::Datagram;
use jvpn_rig::impair::Impairments;
use jvpn_rig::topology::LAN_SERVER;
use jvpn_rig::{Interrupt, Rig, TUNNEL_PORT, Uplink, wait};
use serde_json::json;

use crate::deployment::{Deployment, Places};
use crate::events::{Cursor, Event, EventLog, Source, Watch};
use crate::peers::download::Download;
use crate::peers::heartbeat::{Heartbeat, MARKER_PORT, Marker, Phase};
use crate::peers::icmp::ping;
use crate::peers::tcp_echo::TcpEcho;
use crate::report::{Recovery, Report, TransitionRow, millis};
use crate::timeline::Timeline;

/// How long anything may take that normally takes milliseconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// The gateway's own address inside the tunnel.
const GATEWAY_INNER: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 77, 0, 1);

/// Octets of the download that only shows the rate.
const RATE_DOWNLOAD_OCTETS: u64 = 64 << 20;

/// The budget of switches is a log of the last minute; a little more, since clocks are read at different
/// moments.
const BUDGET_SPAN: Duration = Duration::from_millis(60_500);

/// Who watches from outside, from before the first packet to after the last.
#[derive(Debug)]
pub(super) struct Observers {
    /// DATA that XDP passed to the gateway's kernel.
    kernel_data: Capture,
    /// Markers that come out at the LAN.
    pub(super) lan_markers: Capture,
    /// Everything that asks for a reattach, as it leaves the client over A and B.
    pub(super) requests: [Capture; 2],
    /// The first DATA of the session.
    pub(super) early_data: Capture,
}

impl Observers {
    pub(super) fn start(rig: &Rig) -> Result<Self> {
        let octet = |kind: MsgType| Match::arriving(TUNNEL_PORT, Some(kind.octet()));
        let requests = |uplink: Uplink| {
            let wanted = octet(MsgType::ReattachRequest);
            Capture::start(rig.router(), uplink.router_interface(), wanted, Keep::First(1_000))
        };
        let markers = Match::arriving(MARKER_PORT, None);
        Ok(Self {
            kernel_data: Capture::start(rig.gateway(), "wan0", octet(MsgType::Data), Keep::First(16))?,
            lan_markers: Capture::start(rig.lan(), "eth0", markers, Keep::All)?,
            requests: [requests(Uplink::A)?, requests(Uplink::B)?],
            early_data: Capture::start(rig.router(), "rA", octet(MsgType::Data), Keep::First(100))?,
        })
    }

    /// Markers of a phase that came out at the LAN.
    pub(super) fn arrived(&self, phase: Phase) -> u64 {
        let frames = self.lan_markers.frames();
        let markers =
            frames.iter().filter_map(|captured| Marker::decode(Datagram::parse(&captured.frame)?.payload));
        markers.filter(|marker| marker.phase == phase).count() as u64
    }
}

/// Starts reading what the processes will write.
pub(super) fn follow(places: &Places, timeline: Timeline) -> Result<EventLog> {
    let files = [(Source::ControlPlane, places.audit_file()), (Source::Client, places.client_events_file())];
    EventLog::follow(&files, Box::new(move |event| timeline.show(event)))
}

/// What the steps work with.
#[derive(Debug)]
pub(super) struct Lab<'a> {
    pub(super) rig: &'a Rig,
    pub(super) deployment: &'a mut Deployment,
    pub(super) log: EventLog,
    pub(super) observers: Observers,
    pub(super) timeline: Timeline,
    pub(super) interrupt: &'a Interrupt,
    pub(super) impairments: Impairments,
    pub(super) report: Report,
    traffic: Option<Traffic>,
    switches_per_minute: u32,
    switches: VecDeque<Instant>,
    /// NAT rebindings so far: each takes ports of its own.
    pub(super) rebindings: u16,
}

/// Something that is done to the network, and what is to come of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Incident {
    /// As the report calls it.
    pub(super) cause: &'static str,
    /// As the client calls it.
    pub(super) noticed_as: &'static str,
    /// Where the session is afterwards.
    pub(super) to: Uplink,
}

/// Traffic that runs through the whole demo.
#[derive(Debug)]
pub(super) struct Traffic {
    pub(super) heartbeat: Heartbeat,
    pub(super) echo: TcpEcho,
}

impl<'a> Lab<'a> {
    pub(super) fn new(
        rig: &'a Rig,
        deployment: &'a mut Deployment,
        log: EventLog,
        observers: Observers,
        timeline: Timeline,
        interrupt: &'a Interrupt,
        switches_per_minute: u32,
    ) -> Self {
        Self {
            rig,
            deployment,
            log,
            observers,
            timeline,
            interrupt,
            impairments: Impairments::new(rig),
            report: Report::default(),
            traffic: None,
            switches_per_minute,
            switches: VecDeque::new(),
            rebindings: 0,
        }
    }

    /// Step 1.
    pub(super) fn come_up(&mut self) -> Result<()> {
        let attached = self.await_event("the session is ATTACHED", Cursor::default(), PATIENCE, |event| {
            event.is_audit("STATE_CHANGE") && event.text("new_state") == "ATTACHED"
        })?;
        self.report.session_id = attached.text("session_id").to_owned();
        self.rig.assert_offloads_off()?;
        let client = self.rig.client();
        let first =
            |to| ping(client, to, 1, PATIENCE, self.interrupt).with_context(|| format!("no echo from {to}"));
        first(LAN_SERVER)?;
        first(GATEWAY_INNER)?;
        for (name, to) in [("LAN server", LAN_SERVER), ("gateway's inner address", GATEWAY_INNER)] {
            let mut times = ping(client, to, 20, PATIENCE, self.interrupt)?;
            times.sort_unstable();
            let median = times.get(times.len() / 2).copied().unwrap_or_default();
            self.timeline.say(&format!("ICMP echo, {name}: {:.2} ms", median.as_secs_f64() * 1e3));
        }
        let rate = Download::start(self.rig, RATE_DOWNLOAD_OCTETS, 1, PATIENCE)?.finish(self.interrupt)?;
        ensure!(rate.sha256_ok, "the checksum of the first download is wrong");
        self.timeline.say(&format!("TCP download: {:.0} Mbit/s", rate.rate_mbit_s()));
        let heartbeat = Heartbeat::start(self.rig)?;
        let echo = TcpEcho::start(self.rig, PATIENCE)?;
        heartbeat.wait_for_replies(20, PATIENCE, self.interrupt)?;
        echo.wait_for_echoes(20, PATIENCE, self.interrupt)?;
        self.traffic = Some(Traffic { heartbeat, echo });
        Ok(())
    }

    pub(super) fn traffic(&self) -> Result<&Traffic> {
        self.traffic.as_ref().context("traffic starts in the first step")
    }

    /// Waits for an event of the processes.
    pub(super) fn await_event(
        &mut self,
        what: &str,
        since: Cursor,
        patience: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<Event> {
        let deployment = &mut *self.deployment;
        let mut health = || deployment.check();
        let mut watch = Watch { interrupt: self.interrupt, health: &mut health };
        self.log.wait_for(what, since, patience, &mut watch, wanted)
    }

    /// Waits until a status, asked again and again, says what is wanted.
    pub(super) fn await_status<T>(
        &mut self,
        what: &str,
        probe: impl Fn(&Deployment) -> Result<Option<T>>,
    ) -> Result<T> {
        wait::until(what, PATIENCE, self.interrupt, || {
            self.deployment.check()?;
            probe(self.deployment)
        })
    }

    /// Does something to the network and waits until the session is back over `to`, with all traffic flowing.
    pub(super) fn recover(
        &mut self,
        Incident { cause, noticed_as, to }: Incident,
        break_it: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Event> {
        self.respect_the_budget()?;
        let cursor = self.log.end();
        let start = Instant::now();
        self.log.note("IMPAIRMENT", json!({ "cause": cause }));
        break_it(self)?;
        let switch =
            self.await_event("a confirmed binding", cursor, PATIENCE, |e| e.is_audit("TRANSPORT_SWITCH"))?;
        let path = switch.text("new_transport").to_owned();
        let expected = to.outer_address().to_string();
        ensure!(path.contains(&expected), "the client came back over {path}; it was expected at {expected}");
        self.await_event("the end of the recovery", cursor, PATIENCE, |e| e.is_audit("RECOVERY_COMPLETE"))?;
        self.await_event("the session is ATTACHED again", cursor, PATIENCE, |event| {
            event.is_audit("STATE_CHANGE")
                && event.text("new_state") == "ATTACHED"
                && event.text("reason_code") == "TRANSPORT_SWITCH_OK"
        })?;
        self.same_session(&switch)?;
        let complete = self.await_event("the client's report", cursor, PATIENCE, |event| {
            event.source == Source::Client && event.text("event") == "recovery_complete"
        })?;
        let cause_seen = complete.text("cause");
        ensure!(
            cause_seen == noticed_as,
            "the client noticed {cause_seen}; it was expected to notice {noticed_as}"
        );
        let traffic = self.traffic()?;
        traffic.heartbeat.wait_for_replies(25, PATIENCE, self.interrupt)?;
        let outage = traffic.heartbeat.longest_pause(start);
        traffic.echo.wait_for_echoes(10, PATIENCE, self.interrupt)?;
        self.switches.push_back(Instant::now());
        let recovery = Recovery {
            cause,
            detect_ms: complete.number("detect_ms").unwrap_or_default(),
            reattach_ms: complete.number("reattach_ms").unwrap_or_default(),
            outage_ms: millis(outage),
        };
        self.timeline.recovered(&recovery);
        let (detect_ms, reattach_ms, outage_ms) =
            (recovery.detect_ms, recovery.reattach_ms, recovery.outage_ms);
        let measured = json!({
            "cause": cause, "detect_ms": detect_ms, "reattach_ms": reattach_ms, "outage_ms": outage_ms,
            "path": path
        });
        self.log.note("RECOVERY_MEASURED", measured);
        self.report.recoveries.push(recovery);
        Ok(switch)
    }

    fn same_session(&self, event: &Event) -> Result<()> {
        let (was, is) = (&self.report.session_id, event.text("session_id"));
        ensure!(was == is, "the session changed from {was} to {is}");
        Ok(())
    }

    /// Policy bounds the switches per minute, and refusing them is not what is measured here: wait until
    /// there is room.
    fn respect_the_budget(&mut self) -> Result<()> {
        let most = self.switches_per_minute.saturating_sub(1);
        let spent =
            |switches: &VecDeque<Instant>| switches.len() >= usize::try_from(most).unwrap_or(usize::MAX);
        if spent(&self.switches) {
            self.timeline.say("waiting until policy allows another switch");
        }
        wait::until("room in the budget of switches", BUDGET_SPAN * 2, self.interrupt, || {
            while self.switches.front().is_some_and(|at| at.elapsed() > BUDGET_SPAN) {
                self.switches.pop_front();
            }
            Ok((!spent(&self.switches)).then_some(()))
        })
    }

    /// The report, after the last step.
    pub(super) fn report(mut self) -> Result<Report> {
        let echo = self.traffic()?.echo.result();
        self.log.note(
            "TCP_ECHO",
            json!({
                "sent": echo.sent, "echoed": echo.echoed, "median_us": echo.median.as_micros(),
                "longest_pause_ms": millis(echo.longest_pause), "broken": echo.broken
            }),
        );
        self.timeline.say(&format!(
            "TCP echo: {} of {} came back, median {:.2} ms, longest pause {} ms",
            echo.echoed,
            echo.sent,
            echo.median.as_secs_f64() * 1e3,
            millis(echo.longest_pause)
        ));
        self.observers.kernel_data.complete().context("the observer of the gateway's kernel")?;
        self.observers.lan_markers.complete().context("the observer on the LAN")?;
        let data_plane = self.deployment.data_plane_status()?;
        let control_plane = self.deployment.control_plane_status()?;
        let session = control_plane.only_session()?;
        ensure!(session.session_id == self.report.session_id, "the session is another one at the end");
        self.report.tcp_survived = echo.broken.is_none() && echo.echoed > 0;
        // The observer sees everything that the kernel got; the control plane counts what reached its socket.
        self.report.kernel_socket_bound_data =
            self.observers.kernel_data.count().max(control_plane.kernel_socket_bound_data());
        self.report.xdp_mode = data_plane.xdp_mode();
        self.report.af_xdp_mode = data_plane.af_xdp_mode();
        self.report.workers = data_plane.workers();
        self.report.transitions = self.transitions();
        Ok(self.report)
    }

    fn transitions(&self) -> Vec<TransitionRow> {
        let changes = self.log.since(Cursor::default());
        changes
            .iter()
            .filter(|event| event.is_audit("STATE_CHANGE"))
            .map(|event| TransitionRow {
                ts_ms: event.at_ms,
                from: Some(event.text("previous_state").to_owned()).filter(|state| !state.is_empty()),
                to: event.text("new_state").to_owned(),
                reason: event.text("reason_code").to_owned(),
                state_version: event.number("state_version").unwrap_or_default(),
            })
            .collect()
    }
}
