//! The kill switch and the name servers of a running agent: put in place, kept in line, taken back.

use crate::config::{Config, Dns, KillSwitchMode, Traffic};
use crate::host::dns::{self, Outcome, Way};
use crate::host::killswitch::{self, KillSwitch};
use crate::host::record::Record;
use anyhow::Context;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

/// Port of the name servers.
pub(super) const DNS_PORT: u16 = 53;

/// What keeps the host's traffic in.
pub(super) struct Guard {
    traffic: Traffic,
    dns: Dns,
    interface: String,
    path: PathBuf,
    record: Record,
    switch: Option<KillSwitch>,
    begun: Begun,
    /// Name servers as last set.
    servers: Vec<IpAddr>,
    /// What `jvpn status` says about the name servers.
    name_servers: Value,
}

/// Why the agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Somebody said so: `jvpn down`.
    Wish,
    /// A signal to end: of a service manager, a terminal, a host that shuts down.
    Signal,
    /// A signal to make room for the next agent at once (SIGUSR2).
    Restart,
}

/// Whether the agent has come up. One that could not start takes its kill switch back, unless there was one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    NotYet,
    Yes,
}

impl Guard {
    /// Takes over what a dead agent left, and shuts the host if that is wanted. `peers`: the gateway, if it is known. `stops`:
    /// readable when the agent is to end before it has begun.
    pub(super) fn start(
        config: &Config,
        peers: BTreeSet<(IpAddr, u16)>,
        stops: &[BorrowedFd<'_>],
    ) -> anyhow::Result<Self> {
        let path = Record::path(&config.status_socket);
        let interface = config.interface.name.clone();
        let table = killswitch::table_name(&interface);
        let old = Record::read(&path).unwrap_or_else(|error| {
            tracing::warn!(%error, "what an agent before left is unknown; taking back what this configuration names");
            Some(Record::as_configured(config))
        });
        let wanted = config.traffic.kill_switch.is_wanted().then(|| table.clone());
        // That of another boot went with its kernel.
        let left =
            old.as_ref().filter(|old| !old.is_of_another_boot()).and_then(|old| old.kill_switch.clone());
        let mut guard = Self {
            traffic: config.traffic.clone(),
            dns: config.dns.clone(),
            path,
            record: Record {
                first_table: config.interface.table,
                kill_switch: wanted.clone(),
                dns: None,
                resolv_conf: config.dns.resolv_conf.clone(),
                boot: Record::this_boot(),
            },
            switch: None,
            begun: if left.is_some() { Begun::Yes } else { Begun::NotYet },
            servers: Vec::new(),
            name_servers: Value::Null,
            interface,
        };
        if let Some(old) = &old
            && let Some(interface) = &old.dns
        {
            let outcome = dns::restore(&old.resolv_conf, interface);
            match outcome {
                Ok(outcome) => tracing::info!(%outcome, "of an agent before"),
                Err(error) => tracing::error!(%error, "the name servers of an agent before stay"),
            }
        }
        if wanted.is_some() {
            guard
                .record
                .write(&guard.path)
                .with_context(|| format!("cannot write {}", guard.path.display()))?;
            let uplinks = config.routing().into_iter().map(|uplink| uplink.device).collect::<Vec<_>>();
            guard.shut(&uplinks, peers, stops)?;
        }
        // Another name of the tunnel device, or no kill switch wanted any more.
        if let Some(left) = left.filter(|left| wanted.as_ref() != Some(left)) {
            killswitch::remove(&left)?;
            tracing::info!(table = left, "removed the kill switch of an agent before");
        }
        if wanted.is_none() {
            guard.write_record();
        }
        Ok(guard)
    }

    fn shut(
        &mut self,
        uplinks: &[String],
        peers: BTreeSet<(IpAddr, u16)>,
        stops: &[BorrowedFd<'_>],
    ) -> anyhow::Result<()> {
        let switch = KillSwitch {
            interface: self.interface.clone(),
            uplinks: uplinks.to_vec(),
            mark: self.traffic.mark,
            peers,
            exclude: self.traffic.exclude.clone(),
            local: BTreeSet::new(),
            local_network: self.traffic.local_network,
        };
        match killswitch::install(&switch, stops) {
            Ok(()) => tracing::info!(table = killswitch::table_name(&self.interface), "kill switch on"),
            // Taken back with this value, if it was not there before.
            Err(error) if error.may_be_done() => {
                self.switch = Some(switch);
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
        }
        self.switch = Some(switch);
        Ok(())
    }

    /// The agent is up: from here on only `jvpn down` and its like open the host again.
    pub(super) const fn begun(&mut self) {
        self.begun = Begun::Yes;
    }

    /// Brings the kill switch in line with where the agent sends and what the uplinks are connected to.
    pub(super) fn update(&mut self, peers: BTreeSet<(IpAddr, u16)>, local: &BTreeSet<(IpAddr, u8)>) {
        let Some(switch) = &self.switch else { return };
        let local = if switch.local_network { local.clone() } else { BTreeSet::new() };
        let wanted = KillSwitch { peers, local, ..switch.clone() };
        if wanted == *switch {
            return;
        }
        match killswitch::replace(&wanted) {
            Ok(()) => self.switch = Some(wanted),
            // It stays as it was: shut.
            Err(error) => {
                tracing::error!(%error, "the kill switch was not changed; trying again with the next change")
            }
        }
    }

    /// The tunnel is up: its name servers are asked from now on.
    pub(super) fn set_name_servers(&mut self, granted: &[IpAddr]) {
        let servers: Vec<IpAddr> = if self.dns.servers.is_empty() && self.dns.from_gateway {
            granted.to_vec()
        } else {
            self.dns.servers.clone()
        };
        if servers.is_empty() {
            return;
        }
        let way = dns::way(&self.dns);
        let done = match way {
            Way::Resolved => {
                dns::tell_resolved(&self.interface, &servers, &self.dns.search, self.traffic.full_tunnel)
            }
            // In place already, or somebody else's by now, which is not to be overwritten.
            Way::File
                if self.record.dns.is_some()
                    && (servers == self.servers || !dns::is_ours(&self.dns.resolv_conf, &self.interface)) =>
            {
                return;
            }
            Way::File => {
                let before = self.record.dns.replace(self.interface.clone());
                // First on the disk, then done: what is not written down would stay after a loss of power.
                match self.record.write(&self.path) {
                    Ok(()) => dns::set(&self.dns.resolv_conf, &self.interface, &servers, &self.dns.search),
                    Err(error) => {
                        self.record.dns = before;
                        Err(self.unwritable(&error))
                    }
                }
            }
        };
        self.servers.clone_from(&servers);
        let method = if way == Way::File { "resolv_conf" } else { "systemd_resolved" };
        let error = done.err().map(|error| error.to_string());
        if let Some(error) = &error {
            tracing::error!(error, "the name servers of the tunnel were not set");
        }
        self.name_servers = json!({ "servers": servers, "method": method, "error": error });
    }

    /// The mark that lets datagrams pass, if one is needed.
    pub(super) const fn is_shut(&self) -> bool {
        self.switch.is_some()
    }

    /// Name servers that are asked outside the tunnel.
    pub(super) fn outside(&self) -> Vec<IpAddr> {
        dns::outside(&self.dns)
    }

    /// For `jvpn status`.
    pub(super) fn status(&self) -> Value {
        let mut name_servers = self.name_servers.clone();
        if self.record.dns.is_some()
            && let Value::Object(fields) = &mut name_servers
        {
            let in_place = dns::is_ours(&self.dns.resolv_conf, &self.interface);
            fields.insert("in_place".to_owned(), in_place.into());
        }
        json!({
            "full_tunnel": self.traffic.full_tunnel,
            "kill_switch": self.switch.is_some(),
            "kill_switch_outlives_signals": self.stays_shut(Ending::Signal),
            "name_servers": name_servers,
        })
    }

    /// Whether the kill switch stays when the agent ends.
    pub(super) const fn stays_shut(&self, ending: Ending) -> bool {
        self.switch.is_some()
            && match ending {
                Ending::Wish => false,
                Ending::Restart => true,
                Ending::Signal => matches!(self.traffic.kill_switch, KillSwitchMode::Always),
            }
    }

    /// Takes everything back; what could not be, in words. `left`: what of the tunnel is still there. While anything is, the
    /// kill switch stays, as after a crash: what could not be taken back must not let traffic out. So it does at an end
    /// that is none to the user ([`Self::stays_shut`]): the next start takes it over, and `jvpn down` removes it.
    pub(super) fn finish(mut self, mut left: Vec<String>, ending: Ending) -> Vec<String> {
        let stays_shut = self.stays_shut(ending);
        if let Some(interface) = self.record.dns.take() {
            match dns::restore(&self.dns.resolv_conf, &interface) {
                Ok(Outcome::NotOurs) => {
                    tracing::warn!("the name servers were changed by somebody else; theirs stay")
                }
                Ok(Outcome::Restored | Outcome::Removed) => {}
                Err(error) => {
                    self.record.dns = Some(interface);
                    left.push(format!("{}: {error}", self.dns.resolv_conf.display()));
                }
            }
        }
        if let Some(table) = self.record.kill_switch.as_ref().filter(|_| self.switch.is_some()) {
            if stays_shut {
                tracing::info!(
                    table,
                    "the kill switch stays, and nothing leaves the host: 'jvpn down' opens it"
                );
            } else if !left.is_empty() {
                left.push(format!(
                    "the kill switch (nftables table inet {table}), held back because of that: the host stays shut; \
                     'jvpn down' tries again"
                ));
            } else if let Err(error) = killswitch::remove(table) {
                left.push(error.to_string());
            }
        }
        if left.is_empty() && !stays_shut {
            Record::remove(&self.path);
        } else {
            self.write_record();
        }
        left
    }

    fn write_record(&self) {
        if let Err(error) = self.record.write(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "'jvpn down' will not know what to undo after a crash");
        }
    }

    fn unwritable(&self, error: &io::Error) -> io::Error {
        let path = self.path.display();
        io::Error::new(error.kind(), format!("{path}, where it is written down what to put back: {error}"))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.begun == Begun::NotYet
            && self.switch.take().is_some()
            && let Some(table) = &self.record.kill_switch
        {
            match killswitch::remove(table) {
                Ok(()) => Record::remove(&self.path),
                Err(error) => tracing::error!(%error, "the host stays shut: jvpn down"),
            }
        }
    }
}
