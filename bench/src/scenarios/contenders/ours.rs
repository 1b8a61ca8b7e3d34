//! Jumping VPN: the three programs as a user would start them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jvpn_crypto::keys::PublicKey;
use jvpn_host::status;
use jvpn_rig::process::Supervised;
use jvpn_rig::{TUNNEL_PORT, Uplink, wait};
use serde_json::Value;

use super::Kind;
use super::ledger::Ledger;
use super::tunnel::{Client, Ground, MTU, PATIENCE, Tunnel, answers, write_private};
use crate::account;
use crate::deployment::{self, Deployment, Places, Role, Settings};
use crate::environment::Environment;
use crate::scenarios::recovery::life::supervise;
use crate::swarm::gateway::{self, Peer};

/// The gateway's policy: the default one.
const POLICY: &str = "preset = \"edge\"\n";
/// What `deployment::prepare` says about the inner MTU.
const PREPARED_MTU: &str = "mtu = 1280";
/// Switches that policy allows per minute, less one: a session that is struck has budget left.
const BUDGET: u32 = 7;
/// Before its first rekey a session is replaced where incidents are measured.
const SESSION_AGE_MAX: Duration = Duration::from_secs(75);

/// One client.
struct Agent {
    dir: PathBuf,
    process: Option<Supervised>,
    started: Instant,
    /// Switches that what struck it may have taken.
    switches: u32,
}

/// Gateway and clients.
pub(super) struct Ours {
    agents: Vec<Agent>,
    deployment: Deployment,
    places: Places,
    ledger: Ledger,
    /// Where the audit logs of all turns are kept.
    out_dir: PathBuf,
    gateway_key: PublicKey,
    program: PathBuf,
}

impl Ours {
    pub(super) fn start(ground: &Ground<'_>) -> Result<Self> {
        let out_dir = ground.dir_of(Kind::Ours)?;
        let bin_dir = deployment::find_programs()?;
        let program = bin_dir.join(Role::Client.program());
        let settings = Settings { bin_dir, out_dir, max_switches_per_min: None };
        // A gateway of an earlier turn had other keys: nothing of it may be found.
        forget(&ground.rig.dir().join("controlplane"))?;
        let places = deployment::prepare(ground.rig, &settings)?;
        let (mut agents, mut peers) = (Vec::new(), Vec::new());
        for number in 0..ground.clients.len() {
            let dir = ground.rig.dir().join(format!("ours{number}"));
            fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            let key = deployment::generate_key(&program, &dir.join("client.key"))?;
            peers.push(Peer { name: format!("client-{number}"), key: key.parse()?, number });
            agents.push(Agent { dir, process: None, started: Instant::now(), switches: 0 });
        }
        gateway::configure(&places, POLICY, &peers)?;
        larger_mtu(&places)?;
        let mut deployment = Deployment::new(&settings, &places);
        for role in [Role::DataPlane, Role::ControlPlane] {
            deployment.launch(ground.rig, role, ground.interrupt)?;
        }
        // One that never ran leaves nothing to judge.
        ground.ledger.begin();
        let gateway_key = gateway::public_key(&places)?;
        let seen = Environment::collect().with_gateway(ground.rig, &deployment, &places);
        ground.ledger.saw(seen, account::policy(&places)?);
        let (ledger, out_dir) = (ground.ledger.clone(), ground.out_dir.clone());
        let mut tunnel = Self { agents, deployment, places, ledger, out_dir, gateway_key, program };
        let started = (0..ground.clients.len()).try_for_each(|number| tunnel.start_client(ground, number));
        if let Err(error) = started {
            // Its gateway ran and is judged; why no client came up explains more than how it ended.
            drop(Box::new(tunnel).stop());
            return Err(error);
        }
        Ok(tunnel)
    }

    fn start_client(&mut self, ground: &Ground<'_>, number: usize) -> Result<()> {
        let client = ground.client(number)?;
        let agent = self.agents.get_mut(number).context("no such client")?;
        let path = agent.dir.join("client.toml");
        let text =
            client_text(&agent.dir.display().to_string(), &self.gateway_key, client, ground.is_recovery);
        write_private(&path, &text)?;
        let mut command = Command::new(&self.program);
        command.arg("up").arg("--config").arg(&path);
        let log = ground.dir_of(Kind::Ours)?.join(format!("client-{number}.log"));
        let mut process = ground.rig.start(&format!("client {number}"), &client.namespace, command, &log)?;
        let socket = agent.dir.join("status.sock");
        wait::until(&format!("client {number} is ATTACHED"), PATIENCE, ground.interrupt, || {
            process.check()?;
            let Ok(status) = status::query(&socket, "status") else { return Ok(None) };
            Ok((status.get("state").and_then(Value::as_str) == Some("ATTACHED")).then_some(()))
        })
        .with_context(|| format!("its last words:\n{}", process.last_words()))?;
        (agent.process, agent.started, agent.switches) = (Some(process), Instant::now(), 0);
        Ok(())
    }

    fn status(&self, client: usize) -> Result<Value> {
        let agent = self.agents.get(client).context("no such client")?;
        status::query(&agent.dir.join("status.sock"), "status").context("the client does not answer")
    }
}

fn forget(dir: &std::path::Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn larger_mtu(places: &Places) -> Result<()> {
    for role in [Role::DataPlane, Role::ControlPlane] {
        let path = places.config_dir.join(role.config_file());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = text.replace(PREPARED_MTU, &format!("mtu = {MTU}"));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn client_text(dir: &str, gateway_key: &PublicKey, client: &Client, is_recovery: bool) -> String {
    let mut text = format!(
        "# jvpn beside its peers.\nstatus_socket = \"{dir}/status.sock\"\nevents_file = \"{dir}/events.jsonl\"\n\n\
         [interface]\nname = \"jvpn0\"\nprivate_key_file = \"{dir}/client.key\"\n\n[gateway]\n\
         public_key = \"{gateway_key}\"\nendpoint = \"198.51.100.1:{TUNNEL_PORT}\"\n"
    );
    for (number, (uplink, hop)) in client.hops.iter().enumerate() {
        let device = uplink.client_interface();
        text +=
            &format!("\n[[uplink]]\ndevice = \"{device}\"\ngateway = \"{hop}\"\npriority = {}\n", number + 1);
    }
    if is_recovery {
        text += "\n[paths]\n# As in the recovery bench: it says itself which path breaks when, and soon again.\n\
                 fail_back = false\ncandidate_interval_s = 1\n";
    }
    text
}

impl Tunnel for Ours {
    fn gateway_pids(&self) -> Vec<u32> {
        [Role::DataPlane, Role::ControlPlane]
            .into_iter()
            .filter_map(|role| self.deployment.pid(role))
            .collect()
    }

    fn client_pids(&self) -> Vec<u32> {
        self.agents.iter().filter_map(|agent| agent.process.as_ref().map(Supervised::pid)).collect()
    }

    fn check(&mut self) -> Result<()> {
        self.deployment.check()?;
        self.agents.iter_mut().filter_map(|agent| agent.process.as_mut()).try_for_each(Supervised::check)
    }

    fn bound(&self, client: usize) -> Result<Option<Uplink>> {
        let status = self.status(client)?;
        let device = status.pointer("/path/device").and_then(Value::as_str).unwrap_or_default();
        let found = Uplink::ALL.into_iter().find(|uplink| uplink.client_interface() == device);
        Ok(Some(found.with_context(|| format!("client {client} is bound over {device:?}"))?))
    }

    fn before_incident(&mut self, ground: &Ground<'_>, client: usize, switches: u32) -> Result<bool> {
        let agent = self.agents.get(client).context("no such client")?;
        let is_spent = agent.switches + switches > BUDGET || agent.started.elapsed() > SESSION_AGE_MAX;
        if is_spent {
            self.restart_client(ground, client)?;
        }
        self.agents.get_mut(client).context("no such client")?.switches += switches;
        Ok(is_spent)
    }

    fn restart_client(&mut self, ground: &Ground<'_>, client: usize) -> Result<()> {
        let agent = self.agents.get_mut(client).context("no such client")?;
        if let Some(process) = agent.process.take() {
            process.stop()?;
        }
        self.start_client(ground, client)?;
        answers(ground.client(client)?, PATIENCE, ground.interrupt)
    }

    fn restart_gateway(&mut self, ground: &Ground<'_>, pause: Duration) -> Result<()> {
        self.deployment.kill(Role::DataPlane)?;
        thread::sleep(pause);
        supervise(&mut self.deployment, ground.rig, ground.interrupt)
    }

    fn last_words(&self) -> String {
        let agents = self.agents.iter().filter_map(|agent| agent.process.as_ref());
        let clients = agents.map(|process| format!("  {}:\n{}", process.name(), process.last_words()));
        clients.chain([self.deployment.last_words()]).collect::<Vec<_>>().join("\n")
    }

    fn stop(self: Box<Self>) -> Result<()> {
        let Self { agents, deployment, places, ledger, out_dir, .. } = *self;
        let agents = agents.into_iter().filter_map(|agent| agent.process);
        let stopped = agents.map(|one| one.stop().map(drop)).fold(Ok(()), Result::and);
        let stopped = stopped.and(deployment.stop());
        ledger.judge(&account::keep_and_judge(&places, &out_dir));
        stopped
    }
}
