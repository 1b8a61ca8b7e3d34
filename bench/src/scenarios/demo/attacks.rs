//! Steps 6 and 7: replays from elsewhere, and genuine DATA that comes late.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jvpn_abi::DropReason;
use jvpn_abi::wire::MsgType;
use jvpn_abi::wire::data::DATA_OVERHEAD;
use jvpn_rig::attacker::Attacker;
use jvpn_rig::capture::{Capture, Captured, Keep, Match};
use jvpn_rig::frame::Datagram;
use jvpn_rig::hold::Holding;
use jvpn_rig::impair::Impairment;
use jvpn_rig::inject::Injector;
use jvpn_rig::{TUNNEL_PORT, Uplink};
use serde_json::json;

use super::lab::{Incident, Lab, PATIENCE};
use crate::peers::heartbeat::{MARKER_LEN, Phase};

/// Recorded DATA that is replayed: of the first binding, and of the living one.
const DATA_REPLAYS: u64 = 100;

/// Markers that must be held before they are released.
const MARKERS_HELD: u64 = 25;

/// Replies that show that everything sent before has arrived.
const FENCE_REPLIES: usize = 50;

/// Application traffic must not even notice an attack.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Length of a DATA datagram with a marker: inner IPv4 and UDP headers around it, DATA header and tag around
/// them.
const MARKER_DATA_LEN: usize = MARKER_LEN + 28 + DATA_OVERHEAD;

impl Lab<'_> {
    /// Step 6: whatever the attacker recorded is refused and counted, and nothing changes.
    pub(super) fn replays(&mut self) -> Result<()> {
        let attacker = Attacker::new(self.rig)?;
        let requests: Vec<_> =
            self.observers.requests.iter().flat_map(|capture| payloads(&capture.frames())).collect();
        ensure!(!requests.is_empty(), "no REATTACH_REQUEST was recorded");
        let mut data = payloads(&self.observers.early_data.frames());
        let living = self.record_living_data()?;
        data.extend(living);

        let before = self.deployment.control_plane_status()?.only_session()?;
        let (cursor, start) = (self.log.end(), Instant::now());
        let requests_refused = self.replay_requests(&attacker, &requests)?;
        let data_refused = self.replay_data(&attacker, &data)?;
        let sent = (requests.len() + data.len()) as u64;
        self.report.replays_sent += sent;
        self.report.replays_rejected += requests_refused + data_refused;
        self.timeline.say(&format!(
            "{} requests and {} DATA replayed from {}: {requests_refused} and {data_refused} refused",
            requests.len(),
            data.len(),
            attacker.address()?
        ));

        let traffic = self.traffic()?;
        traffic.heartbeat.wait_for_replies(FENCE_REPLIES, PATIENCE, self.interrupt)?;
        let pause = traffic.heartbeat.longest_pause(start);
        ensure!(pause < PAUSE_MAX, "the attack interrupted traffic for {} ms", pause.as_millis());
        let after = self.deployment.control_plane_status()?.only_session()?;
        ensure!(before == after, "the attack changed the session from {before:?} to {after:?}");
        let moved = self
            .log
            .since(cursor)
            .into_iter()
            .find(|e| e.is_audit("STATE_CHANGE") || e.is_audit("TRANSPORT_SWITCH"));
        ensure!(moved.is_none(), "the attack caused {moved:?}");
        let answers = attacker.answers();
        let acked = answers.types.contains(&MsgType::ReattachAck.octet());
        ensure!(!acked, "the attacker was let in");
        let octets_sent: usize = requests.iter().chain(&data).map(Vec::len).sum();
        ensure!(
            answers.octets <= octets_sent,
            "the attacker got {} octets for {octets_sent}",
            answers.octets
        );
        self.log.note(
            "REPLAYS",
            json!({
                "requests": requests.len(), "requests_refused": requests_refused, "data": data.len(),
                "data_refused": data_refused, "answers": answers.types, "answer_octets": answers.octets
            }),
        );
        Ok(())
    }

    fn replay_requests(&mut self, attacker: &Attacker, requests: &[Vec<u8>]) -> Result<u64> {
        let refused = |lab: &crate::deployment::Deployment| -> Result<u64> {
            let data_plane = lab.data_plane_status()?;
            let limits = [DropReason::EdgeLimited, DropReason::SourceLimited];
            let at_the_edge: u64 = limits.iter().map(|reason| data_plane.xdp_counter(*reason)).sum();
            Ok(lab.control_plane_status()?.reattaches_refused() + at_the_edge)
        };
        let before = refused(self.deployment)?;
        requests.iter().try_for_each(|request| attacker.send(request))?;
        let wanted = requests.len() as u64;
        self.await_status("every replayed request is refused and counted", |deployment| {
            let count = refused(deployment)? - before;
            Ok((count >= wanted).then_some(count))
        })
        .map(|count| count.min(wanted))
    }

    fn replay_data(&mut self, attacker: &Attacker, data: &[Vec<u8>]) -> Result<u64> {
        let before = self.deployment.data_plane_status()?.unbound_data();
        data.iter().try_for_each(|datagram| attacker.send(datagram))?;
        let wanted = data.len() as u64;
        self.await_status("every replayed DATA is refused and counted", |deployment| {
            let count = deployment.data_plane_status()?.unbound_data() - before;
            Ok((count >= wanted).then_some(count))
        })
        .map(|count| count.min(wanted))
    }

    fn record_living_data(&self) -> Result<Vec<Vec<u8>>> {
        let wanted = Match::arriving(TUNNEL_PORT, Some(MsgType::Data.octet()));
        let keep = Keep::First(usize::try_from(DATA_REPLAYS)?);
        let capture = Capture::start(self.rig.router(), Uplink::A.router_interface(), wanted, keep)?;
        capture.wait_for("DATA of the living binding", DATA_REPLAYS, PATIENCE, self.interrupt)?;
        Ok(payloads(&capture.frames()))
    }

    /// Step 7: first the proof that a released datagram is as good as a punctual one while its binding lives;
    /// then the same after a switch, when none may come out at the LAN.
    pub(super) fn held_back(&mut self) -> Result<()> {
        let injector = Injector::new(self.rig)?;
        self.hold_while_bound(&injector)?;

        let holding = Holding::start(self.rig, Uplink::A, Impairment::HoldData, self.interrupt)?;
        self.traffic()?.heartbeat.set_phase(Phase::HeldForSwitch);
        let held = Incident { cause: "data_held_back", noticed_as: "path_dead", to: Uplink::B };
        self.recover(held, |lab| holding.wait_for(MARKERS_HELD, PATIENCE, lab.interrupt))?;
        self.traffic()?.heartbeat.set_phase(Phase::Ordinary);
        // What the client had queued goes over B, legitimately; from here on no marker of this phase is on
        // its way.
        self.fence()?;
        let held = holding.stop()?;
        let arrived_before = self.observers.arrived(Phase::HeldForSwitch);
        let refused_before = self.deployment.data_plane_status()?.unbound_data();
        let released = held.release(&injector)?;
        self.await_status("every released datagram is refused and counted", |deployment| {
            let count = deployment.data_plane_status()?.unbound_data() - refused_before;
            Ok((count >= released).then_some(()))
        })
        .context("held-back DATA")?;
        self.fence()?;
        let forwarded = self.observers.arrived(Phase::HeldForSwitch) - arrived_before;
        self.report.held_back_released += released;
        self.report.held_back_forwarded += forwarded;
        self.timeline.say(&format!(
            "{released} datagrams of the old binding released; {forwarded} came out at the LAN"
        ));
        self.log.note("HELD_BACK", json!({ "released": released, "forwarded": forwarded }));
        Ok(())
    }

    /// Without this the second half of the step would also hold if the injector's datagrams were simply
    /// wrong.
    fn hold_while_bound(&mut self, injector: &Injector) -> Result<()> {
        let only_markers = Impairment::HoldDataOfLength(u16::try_from(MARKER_DATA_LEN)?);
        let holding = Holding::start(self.rig, Uplink::A, only_markers, self.interrupt)?;
        self.traffic()?.heartbeat.set_phase(Phase::HeldForControl);
        holding.wait_for(holding.count() + MARKERS_HELD, PATIENCE, self.interrupt)?;
        self.traffic()?.heartbeat.set_phase(Phase::Ordinary);
        // Other traffic is recorded too, so this is more than enough for the last marker of the phase to be
        // among it.
        holding.wait_for(holding.count() + MARKERS_HELD, PATIENCE, self.interrupt)?;
        let held = holding.stop()?;
        self.fence()?;
        let before = self.observers.arrived(Phase::HeldForControl);
        let released = held.release(injector)?;
        self.fence()?;
        let arrived = self.observers.arrived(Phase::HeldForControl) - before;
        ensure!(arrived > 0, "datagrams held back and released while their binding lives did not arrive");
        self.timeline.say(&format!(
            "held back and released while bound: {released} datagrams, {arrived} markers came out at the LAN"
        ));
        self.log.note("HELD_BACK_CONTROL", json!({ "released": released, "forwarded": arrived }));
        Ok(())
    }

    /// Waits until everything that was sent before must have arrived.
    fn fence(&self) -> Result<()> {
        self.traffic()?.heartbeat.wait_for_replies(FENCE_REPLIES, PATIENCE, self.interrupt)
    }
}

fn payloads(frames: &[Captured]) -> Vec<Vec<u8>> {
    let datagrams = frames.iter().filter_map(|captured| Datagram::parse(&captured.frame));
    datagrams.map(|datagram| datagram.payload.to_vec()).collect()
}
