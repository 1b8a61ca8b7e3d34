//! Steps 2 to 5: what happens to networks, and the way back.

use anyhow::{Context, Result, ensure};
use jvpn_abi::wire::MsgType;
use jvpn_rig::capture::{Capture, Direction, Keep, Match, Port};
use jvpn_rig::impair::Impairment;
use jvpn_rig::{TUNNEL_PORT, Uplink};
use serde_json::json;

use super::lab::{Incident, Lab, PATIENCE};
use crate::peers::download::Download;

/// Determines the content of the large download.
const DOWNLOAD_SEED: u64 = 0x6a75_6d70;

/// Each rebinding takes a block of ports of its own.
const NAT_BLOCK: u16 = 500;
const NAT_FIRST: u16 = 30_000;
const NAT_BLOCKS: u16 = 60;

/// How many answers are lost in step 5: the first one, and that to the identical repetition of the request.
const LOST_ANSWERS: u64 = 2;

impl Lab<'_> {
    /// Step 2: A is cut silently; the client comes back over B. A is whole again afterwards.
    pub(super) fn silent_cut(&mut self, download_octets: Option<u64>) -> Result<()> {
        let download = match download_octets {
            Some(octets) => Some(Download::start(self.rig, octets, DOWNLOAD_SEED, PATIENCE)?),
            None => None,
        };
        if let Some(download) = &download {
            download.wait_for_share(30, self.interrupt)?;
        }
        let cut = Incident { cause: "silent_cut", noticed_as: "path_dead", to: Uplink::B };
        self.recover(cut, |lab| lab.impairments.start(Uplink::A, Impairment::Cut))?;
        if let Some(download) = download {
            let result = download.finish(self.interrupt)?;
            self.report.sha256_ok = result.sha256_ok;
            let (mib, rate) = (result.octets >> 20, result.rate_mbit_s());
            let verdict = if result.sha256_ok { "checksum right" } else { "CHECKSUM WRONG" };
            self.timeline.say(&format!("download of {mib} MiB: {verdict}, {rate:.0} Mbit/s with the outage"));
            let took_ms = crate::report::millis(result.took);
            let ended = json!({ "octets": result.octets, "took_ms": took_ms, "sha256_ok": result.sha256_ok });
            self.log.note("DOWNLOAD", ended);
        }
        self.impairments.stop(Uplink::A, Impairment::Cut)
    }

    /// Step 3: B loses its carrier; the client comes back over A.
    pub(super) fn link_down(&mut self) -> Result<()> {
        let down = Incident { cause: "link_down", noticed_as: "link_down", to: Uplink::A };
        self.recover(down, |lab| lab.impairments.link_down(Uplink::B))?;
        self.impairments.link_up(Uplink::B)
    }

    /// Step 4: the NAT forgets and takes other ports; the gateway hints, the client reattaches over A.
    pub(super) fn nat_rebinding(&mut self) -> Result<()> {
        let block = self.rebindings % NAT_BLOCKS;
        self.rebindings += 1;
        let first = NAT_FIRST + block * NAT_BLOCK;
        let ports = first..=first + NAT_BLOCK - 1;
        let hints = self.count_from_gateway(MsgType::Control)?;
        let rebinding = Incident { cause: "nat_rebinding", noticed_as: "path_hint", to: Uplink::A };
        let switch = self.recover(rebinding, |lab| lab.impairments.rebind_nat(&ports))?;
        let path = switch.text("new_transport");
        let port = path.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
        let port = port.with_context(|| format!("the path {path} has no port"))?;
        ensure!(ports.contains(&port), "the path {path} is not behind the new ports {ports:?}");
        ensure!(hints.count() > 0, "no hint came from the gateway: the client found out by other means");
        Ok(())
    }

    /// Step 5: A is cut; the answers over B are lost; A works again, B does not: the client comes back over
    /// A, under the generation that it had before (I13).
    pub(super) fn lost_answer(&mut self) -> Result<()> {
        let answers_lost = Impairment::DropFromGateway(MsgType::ReattachAck.octet());
        let answers = self.count_from_gateway(MsgType::ReattachAck)?;
        let dropped_before = self.impairments.dropped(Uplink::B, answers_lost)?;
        let requests_before = self.observers.requests[0].count();
        let lost = Incident { cause: "lost_answer", noticed_as: "path_dead", to: Uplink::A };
        self.recover(lost, |lab| {
            lab.impairments.start(Uplink::B, answers_lost)?;
            lab.impairments.start(Uplink::A, Impairment::Cut)?;
            answers.wait_for("answers that get lost", LOST_ANSWERS, PATIENCE, lab.interrupt)?;
            lab.timeline.say("two answers over uplink B are lost; uplink A works again");
            lab.impairments.stop(Uplink::A, Impairment::Cut)
        })?;
        let dropped = self.impairments.dropped(Uplink::B, answers_lost)? - dropped_before;
        ensure!(dropped >= LOST_ANSWERS, "only {dropped} answers were lost");
        let requests = self.observers.requests[0].count() - requests_before;
        ensure!(requests > 0, "no request came over uplink A");
        self.impairments.stop(Uplink::B, answers_lost)
    }

    /// Counts datagrams of one kind that leave the gateway towards the client, before any impairment.
    fn count_from_gateway(&self, kind: MsgType) -> Result<Capture> {
        let wanted = Match {
            direction: Direction::Incoming,
            port: Port::Source(TUNNEL_PORT),
            first_octet: Some(kind.octet()),
        };
        Capture::start(self.rig.router(), "rW", wanted, Keep::Count)
    }
}
