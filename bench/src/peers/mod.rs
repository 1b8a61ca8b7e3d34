//! Traffic inside the tunnel: ordinary sockets of an application on the client and a server on the LAN.

pub mod bulk;
pub mod download;
pub mod heartbeat;
pub mod icmp;
pub mod latency;
pub mod probes;
pub mod search;
pub mod streams;
pub mod tcp_echo;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use jvpn_rig::Namespace;
use socket2::{Domain, Socket, Type};

/// How often a thread that waits for traffic looks whether it shall end.
const SLICE: Duration = Duration::from_millis(50);

/// Taken if the kernel has it, so that results do not depend on the distribution's default.
const CONGESTION_CONTROL: &[u8] = b"cubic";

fn listen(namespace: &Namespace, address: Ipv4Addr, port: u16) -> Result<TcpListener> {
    namespace
        .run(|| -> Result<TcpListener> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            // The default stays where there is no such algorithm.
            let _ = socket.set_tcp_congestion(CONGESTION_CONTROL);
            socket.bind(&SocketAddr::from((address, port)).into())?;
            socket.listen(4)?;
            Ok(socket.into())
        })?
        .with_context(|| format!("cannot listen at {address}:{port} in namespace {}", namespace.name()))
}

fn connect(namespace: &Namespace, address: Ipv4Addr, port: u16, patience: Duration) -> Result<TcpStream> {
    namespace
        .run(|| -> Result<TcpStream> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            let _ = socket.set_tcp_congestion(CONGESTION_CONTROL);
            socket.connect_timeout(&SocketAddr::from((address, port)).into(), patience)?;
            Ok(socket.into())
        })?
        .with_context(|| format!("no TCP connection through the tunnel to {address}:{port}"))
}
