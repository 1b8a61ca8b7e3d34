//! The one session of the measurements, and the pipeline's own signatures.

use super::Direction;
use crossbeam_queue::ArrayQueue;
use jvpn_abi::wire::SlotId;
use jvpn_dataplane::config::Config;
use jvpn_dataplane::frame::{Address, GatewayAddresses, Mac};
use jvpn_dataplane::lan::{LanRoute, LanView};
use jvpn_dataplane::pipeline::{BetweenClients, Pipeline, PipelineConfig, Pools};
use jvpn_dataplane::tables::Tables;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

pub(super) use jvpn_rig::topology::{GATEWAY_WAN, LAN_SERVER as SERVER};

/// The inner address of the first client.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The client's port on the router's address.
pub(super) const PEER_PORT: u16 = 40_000;
/// Nobody's address: what leaves the gateway is counted at the other side and dropped as a stranger's.
pub(super) const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
pub(super) const OPEN_KEY: [u8; 32] = [0x11; 32];
pub(super) const SEAL_KEY: [u8; 32] = [0x22; 32];
/// Inner packets may be as large as they are in the measurements.
const MTU: usize = 1_400;

/// The slot of session `n`.
pub(super) const fn slot(n: u8) -> SlotId {
    // Index 7 and on, serial 3: any would do.
    SlotId(3 << 17 | (7 + n as u32))
}

/// The inner address of the client whose session is `n`.
pub(super) const fn client(n: u8) -> Ipv4Addr {
    let [a, b, c, d] = CLIENT.octets();
    Ipv4Addr::new(a, b, c, d + n)
}

/// Interfaces by which packets come and leave.
pub(super) const fn ports(direction: Direction) -> (&'static str, &'static str) {
    match direction {
        Direction::Decrypt => ("wan0", "lan0"),
        Direction::Encrypt => ("lan0", "wan0"),
    }
}

/// The data plane's configuration.
pub(super) fn config(workers: usize) -> Result<Config, toml::de::Error> {
    toml::from_str(&format!(
        "workers = {workers}\nslots = 64\npin_dir = \"\"\n[wan]\ninterface = \"wan0\"\nport = {}\n[lan]\ninterface = \"lan0\"\n\
         [tunnel]\ngateway_address = \"10.77.0.1\"\npool = \"10.77.0.0/16\"\nmtu = {MTU}\n",
        jvpn_rig::TUNNEL_PORT
    ))
}

/// A pipeline that finds the server behind nobody's address.
pub(super) fn pipeline(tables: &Arc<Tables>, worker: usize, lan_mac: Mac) -> Pipeline {
    let config = PipelineConfig {
        gateway: GatewayAddresses { v4: Some(Ipv4Addr::new(10, 77, 0, 1).into()), v6: None },
        pools: Pools { v4: Some((Address::v4([10, 77, 0, 0]).0, u128::MAX << 16)), v6: None },
        mtu: MTU,
        lan_mac,
        between_clients: BetweenClients::Denied,
    };
    let mut pipeline = Pipeline::new(Arc::clone(tables), worker, config, Arc::new(ArrayQueue::new(8)));
    let routes = vec![LanRoute::new(Ipv4Addr::new(192, 168, 50, 0).into(), 24, None)];
    let view = LanView::new(routes, HashMap::from([(Address::from(SERVER), Mac(FAR_MAC))]));
    drop(pipeline.replace_lan(Arc::new(view)));
    pipeline
}
