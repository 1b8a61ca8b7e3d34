//! Where the bench touches the pipeline's own signatures.

use super::{LAN_MAC, SERVER, SERVER_MAC};
use crossbeam_queue::ArrayQueue;
use jvpn_abi::BootTime;
use jvpn_dataplane::frame::{Address, GatewayAddresses};
use jvpn_dataplane::lan::{LanRoute, LanView};
use jvpn_dataplane::lan_mtu::LanMtus;
use jvpn_dataplane::pipeline::{BetweenClients, Pipeline, PipelineConfig, Pools, Verdict};
use jvpn_dataplane::tables::Tables;
use jvpn_tables::Prefixes;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

pub(super) type Misses = ArrayQueue<Address>;

/// As the worker of a gateway whose LAN is a card has it.
pub(super) fn pipeline(tables: &Arc<Tables>, misses: &Arc<Misses>, prefixes: Arc<Prefixes>) -> Pipeline {
    let config = PipelineConfig {
        gateway: GatewayAddresses { v4: Some(Ipv4Addr::new(10, 0, 0, 1).into()), v6: None },
        pools: Pools { v4: Some((Address::v4([10, 0, 0, 0]).0, u128::MAX << 24)), v6: None },
        mtu: 1_500,
        lan_mac: LAN_MAC,
        between_clients: BetweenClients::Denied,
    };
    let lan_mtus = Arc::new(LanMtus::default());
    let _before = lan_mtus.set(0, 1_500);
    let mut pipeline = Pipeline::new(Arc::clone(tables), 0, config, Arc::clone(misses))
        .with_routes(prefixes)
        .with_lan_mtus(lan_mtus);
    let routes = vec![LanRoute::new(Ipv4Addr::new(192, 168, 50, 0).into(), 24, None)];
    let view = LanView::new(routes, HashMap::from([(Address::from(SERVER), SERVER_MAC)]));
    drop(pipeline.replace_lan(Arc::new(view)));
    pipeline
}

pub(super) fn outbound(
    pipeline: &mut Pipeline,
    now: BootTime,
    frame: &mut [u8],
    lan_out: &mut [u8],
    wan_out: &mut [u8],
) -> Verdict {
    pipeline.outbound(now, frame, lan_out, wan_out)
}

/// What a worker does before a frame: it has those that follow brought into the cache.
pub(super) fn look_ahead_inbound<'a>(pipeline: &mut Pipeline, frame: impl Fn(usize) -> Option<&'a [u8]>) {
    pipeline.look_ahead_inbound(frame);
}

/// The same towards the WAN.
pub(super) fn look_ahead_outbound<'a>(pipeline: &mut Pipeline, frame: impl Fn(usize) -> Option<&'a [u8]>) {
    pipeline.look_ahead_outbound(frame);
}
