//! WireGuard of the kernel, where its module is. No process does its work, so its processor time shows in the whole
//! machine's alone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jvpn_rig::tool::IP;
use jvpn_rig::topology::GATEWAY_WAN;
use jvpn_rig::{Namespace, Rig, TUNNEL_PORT};

use super::Kind;
use super::programs;
use super::tunnel::{Client, GATEWAY_INNER, Ground, LAN, PATIENCE, Tunnel, write_private};
use super::wireguard::{KEEPALIVE_S, Keys, client_network, gateway_network, interface};

/// Whether this kernel can make such an interface.
///
/// # Errors
/// It cannot: what `ip` says.
pub(super) fn probe(rig: &Rig) -> Result<()> {
    let name = format!("jw{}p", rig.id());
    IP.run(Some(rig.client()), &["link", "add", "dev", &name, "type", "wireguard"])?;
    IP.run(Some(rig.client()), &["link", "delete", "dev", &name]).map(drop)
}

fn gateway_text(keys: &Keys, clients: &[(&Keys, &Client)]) -> String {
    let mut text = format!("[Interface]\nPrivateKey = {}\nListenPort = {TUNNEL_PORT}\n", keys.secret_text());
    for (keys, client) in clients {
        text += &format!("\n[Peer]\nPublicKey = {}\nAllowedIPs = {}/32\n", keys.public_text(), client.inner);
    }
    text
}

fn client_text(keys: &Keys, gateway: &Keys) -> String {
    format!(
        "[Interface]\nPrivateKey = {}\n\n[Peer]\nPublicKey = {}\nEndpoint = {GATEWAY_WAN}:{TUNNEL_PORT}\n\
         AllowedIPs = {LAN}, {GATEWAY_INNER}/32\nPersistentKeepalive = {KEEPALIVE_S}\n",
        keys.secret_text(),
        gateway.public_text()
    )
}

/// Interfaces at both ends; they go with their value.
pub(super) struct Kernel {
    made: Vec<(Namespace, String)>,
    program: PathBuf,
    gateway: Keys,
    clients: Vec<Keys>,
}

impl Kernel {
    pub(super) fn start(ground: &Ground<'_>, program: &Path) -> Result<Self> {
        let clients = ground.clients.iter().map(|_| Keys::generate()).collect::<Result<Vec<_>>>()?;
        let mut tunnel =
            Self { made: Vec::new(), program: program.to_owned(), gateway: Keys::generate()?, clients };
        let known: Vec<_> = tunnel.clients.iter().zip(&ground.clients).collect();
        let text = gateway_text(&tunnel.gateway, &known);
        let name = interface(ground, None);
        let network = gateway_network(&name, &ground.clients);
        tunnel.make(ground, (ground.rig.gateway(), &name), &text, &network)?;
        (0..ground.clients.len()).try_for_each(|number| tunnel.make_client(ground, number))?;
        Ok(tunnel)
    }

    fn make_client(&mut self, ground: &Ground<'_>, number: usize) -> Result<()> {
        let (client, name) = (ground.client(number)?, interface(ground, Some(number)));
        let text = client_text(self.clients.get(number).context("no such client")?, &self.gateway);
        let network = client_network(&name, client.inner);
        self.make(ground, (&client.namespace, &name), &text, &network)
    }

    fn make(
        &mut self,
        ground: &Ground<'_>,
        (namespace, name): (&Namespace, &str),
        text: &str,
        network: &str,
    ) -> Result<()> {
        let file = ground.dir_of(Kind::KernelWireguard)?.join(format!("{name}.conf"));
        write_private(&file, text)?;
        IP.run(Some(namespace), &["link", "add", "dev", name, "type", "wireguard"])?;
        self.made.push((namespace.clone(), name.to_owned()));
        let mut command = Command::new(&self.program);
        command.args(["setconf", name]).arg(&file);
        let said = namespace.run(|| programs::output(&mut command, PATIENCE))??;
        ensure!(said.is_success, "wg setconf: {}", said.text.trim());
        IP.run_with_input(Some(namespace), &["-batch", "-"], network).map(drop)
    }

    fn remove(&mut self, name: Option<&str>) -> Result<()> {
        let wanted = |made: &String| name.is_none_or(|name| name == made);
        let gone: Vec<_> = self.made.extract_if(.., |(_, made)| wanted(made)).collect();
        gone.iter().try_for_each(|(namespace, name)| {
            IP.run(Some(namespace), &["link", "delete", "dev", name]).map(drop)
        })
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // What stays goes with its namespace.
        let _gone = self.remove(None);
    }
}

impl Tunnel for Kernel {
    fn gateway_pids(&self) -> Vec<u32> {
        Vec::new()
    }

    fn client_pids(&self) -> Vec<u32> {
        Vec::new()
    }

    fn check(&mut self) -> Result<()> {
        Ok(())
    }

    fn restart_client(&mut self, ground: &Ground<'_>, client: usize) -> Result<()> {
        self.remove(Some(&interface(ground, Some(client))))?;
        self.make_client(ground, client)
    }

    fn restart_gateway(&mut self, _ground: &Ground<'_>, _pause: Duration) -> Result<()> {
        bail!("the kernel has no process that could be killed")
    }

    fn last_words(&self) -> String {
        "    (a kernel says nothing)".to_owned()
    }

    fn stop(mut self: Box<Self>) -> Result<()> {
        self.remove(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_those_of_wg() {
        let (gateway, client) = (Keys::generate().unwrap(), Keys::generate().unwrap());
        let text = client_text(&client, &gateway);
        for line in [
            format!("PrivateKey = {}", client.secret_text()),
            format!("PublicKey = {}", gateway.public_text()),
            "Endpoint = 198.51.100.1:4500".to_owned(),
            "AllowedIPs = 192.168.50.0/24, 10.77.0.1/32".to_owned(),
            "PersistentKeepalive = 25".to_owned(),
        ] {
            assert!(text.lines().any(|one| one == line), "{line} in {text}");
        }
        let text = gateway_text(&gateway, &[]);
        assert!(text.contains("ListenPort = 4500") && !text.contains("[Peer]"));
    }
}
