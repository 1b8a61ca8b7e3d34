//! Who takes part.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A way from the client's network to the one behind the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Jumping VPN.
    Ours,
    /// The kernel routes, nothing is encrypted: what the links and the hosts' stacks can do at most.
    Plain,
    /// WireGuard of the kernel.
    KernelWireguard,
    /// WireGuard in Go.
    WireguardGo,
    /// WireGuard in Rust, Mullvad's.
    Gotatun,
    /// WireGuard in Rust, Cloudflare's.
    Boringtun,
    /// OpenVPN over UDP.
    Openvpn,
}

impl Kind {
    /// All of them, in the order of a run.
    pub const ALL: [Self; 7] = [
        Self::Ours,
        Self::Plain,
        Self::KernelWireguard,
        Self::WireguardGo,
        Self::Gotatun,
        Self::Boringtun,
        Self::Openvpn,
    ];

    /// Name in files and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Plain => "plain",
            Self::KernelWireguard => "kernel-wireguard",
            Self::WireguardGo => "wireguard-go",
            Self::Gotatun => "gotatun",
            Self::Boringtun => "boringtun",
            Self::Openvpn => "openvpn",
        }
    }

    /// Whether a user could take it instead of ours.
    #[must_use]
    pub const fn is_peer(self) -> bool {
        !matches!(self, Self::Ours | Self::Plain)
    }

    /// The program that it needs; none for ours, which is built with the bench, and for plain routing.
    #[must_use]
    pub const fn program(self) -> Option<&'static str> {
        match self {
            Self::Ours | Self::Plain => None,
            Self::KernelWireguard => Some("wg"),
            Self::WireguardGo => Some("wireguard-go"),
            Self::Gotatun => Some("gotatun"),
            Self::Boringtun => Some("boringtun-cli"),
            Self::Openvpn => Some("openvpn"),
        }
    }

    /// How to get its program.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Ours | Self::Plain => "",
            Self::KernelWireguard => "`cargo xtask setup --peers`, or apt-get install wireguard-tools",
            Self::WireguardGo => "`cargo xtask setup --peers`, or apt-get install wireguard-go",
            Self::Gotatun => "`cargo xtask setup --peers`, or cargo install gotatun-cli",
            Self::Boringtun => "`cargo xtask setup --peers`, or cargo install boringtun-cli",
            Self::Openvpn => "`cargo xtask setup --peers`, or apt-get install openvpn openssl",
        }
    }

    /// How it is configured: as its user would, by the defaults of its own documentation.
    #[must_use]
    pub const fn configuration(self) -> &'static str {
        match self {
            Self::Ours => {
                "preset edge, two uplinks, inner MTU 1420, two workers; in recovery fail_back = false and \
                 candidate_interval_s = 1 at the client, where the defaults are true and 10"
            }
            Self::Plain => "the kernels of client, router and gateway route; no NAT, nothing encrypted",
            Self::KernelWireguard | Self::WireguardGo | Self::Gotatun => {
                "MTU 1420, PersistentKeepalive 25 at the client; else as it comes"
            }
            Self::Boringtun => {
                "MTU 1420, PersistentKeepalive 25 at the client; four threads, connected sockets: as it comes"
            }
            Self::Openvpn => {
                "UDP, TLS with fingerprints, data-ciphers AES-256-GCM, keepalive 10 60, float, MTU 1500 as it comes"
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| format!("there are: {}", names()))
    }
}
