//! No tunnel: the client's inner address is an address of its own, and every host on the way routes it. What is measured
//! then is the links, the hosts' stacks and the generators: the reference for everybody else.

use std::time::Duration;

use anyhow::{Result, bail};
use jvpn_rig::Namespace;
use jvpn_rig::tool::IP;
use jvpn_rig::topology::{GATEWAY_WAN, ROUTER_WAN};

use super::tunnel::{Ground, LAN, Tunnel};

/// Routes; they go with their value.
pub(super) struct Plain {
    undo: Vec<(Namespace, String)>,
}

impl Plain {
    pub(super) fn start(ground: &Ground<'_>) -> Result<Self> {
        let mut tunnel = Self { undo: Vec::new() };
        let rig = ground.rig;
        tunnel.apply(
            rig.router(),
            &[format!("route add {LAN} via {GATEWAY_WAN}")],
            &[format!("route del {LAN}")],
        )?;
        for client in &ground.clients {
            let Some((uplink, hop)) = client.hops.first() else { continue };
            let (device, inner) = (uplink.client_interface(), client.inner);
            tunnel.apply(
                &client.namespace,
                &[
                    format!("address add {inner}/32 dev lo"),
                    format!("route add {LAN} via {hop} dev {device} src {inner}"),
                ],
                &[format!("route del {LAN}"), format!("address del {inner}/32 dev lo")],
            )?;
            let address = uplink.client_address();
            tunnel.apply(
                rig.router(),
                &[format!("route add {inner}/32 via {address}")],
                &[format!("route del {inner}/32")],
            )?;
            tunnel.apply(
                rig.gateway(),
                &[format!("route add {inner}/32 via {ROUTER_WAN}")],
                &[format!("route del {inner}/32")],
            )?;
        }
        Ok(tunnel)
    }

    fn apply(&mut self, namespace: &Namespace, lines: &[String], undo: &[String]) -> Result<()> {
        IP.run_with_input(Some(namespace), &["-batch", "-"], &(lines.join("\n") + "\n"))?;
        self.undo.push((namespace.clone(), undo.join("\n") + "\n"));
        Ok(())
    }

    fn remove(&mut self) -> Result<()> {
        std::mem::take(&mut self.undo).into_iter().try_for_each(|(namespace, lines)| {
            IP.run_with_input(Some(&namespace), &["-batch", "-"], &lines).map(drop)
        })
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        // What stays goes with its namespace.
        let _gone = self.remove();
    }
}

impl Tunnel for Plain {
    fn gateway_pids(&self) -> Vec<u32> {
        Vec::new()
    }

    fn client_pids(&self) -> Vec<u32> {
        Vec::new()
    }

    fn check(&mut self) -> Result<()> {
        Ok(())
    }

    fn restart_client(&mut self, _ground: &Ground<'_>, _client: usize) -> Result<()> {
        Ok(())
    }

    fn restart_gateway(&mut self, _ground: &Ground<'_>, _pause: Duration) -> Result<()> {
        bail!("routes have no process that could be killed")
    }

    fn last_words(&self) -> String {
        "    (routes say nothing)".to_owned()
    }

    fn stop(mut self: Box<Self>) -> Result<()> {
        self.remove()
    }
}
