//! What the agent changes on the host besides links: the kill switch and the name servers. Each change is written down
//! first, so that `jvpn down` and the next start can take it back when the agent was killed.
//!
//! [`killswitch`] and [`resolv`] are pure: they say what should be there. [`dns`], [`record`] and [`tool`] touch the host.

pub mod dns;
pub mod killswitch;
pub mod record;
pub mod resolv;
mod tool;

use crate::config::Config;
use record::Record;
use std::path::Path;

/// Takes back what a dead agent with this status socket left; what was done, in words. `None`: it left no record.
///
/// `config`: what it was configured with, which counts where its record cannot be read.
///
/// # Errors
/// With what could not be taken back, and why.
pub fn undo(socket: &Path, config: Option<&Config>) -> Result<Option<Vec<String>>, String> {
    let path = Record::path(socket);
    let mut done = Vec::new();
    let record = match (Record::read(&path), config) {
        (Ok(Some(record)), _) => record,
        (Ok(None), _) => return Ok(None),
        (Err(error), Some(config)) => {
            done.push(format!("{error}; went by the configuration instead"));
            Record::as_configured(config)
        }
        (Err(error), None) => {
            return Err(format!(
                "{error}; 'jvpn down --config FILE' takes back what the agent's configuration names"
            ));
        }
    };
    let mut failed = Vec::new();
    match crate::link::Links::open(Vec::new(), Vec::new(), record.first_table) {
        Ok(_) => done.push("routes and rules".to_owned()),
        Err(error) => failed.push(error.to_string()),
    }
    if let Some(interface) = &record.dns {
        match dns::restore(&record.resolv_conf, interface) {
            Ok(outcome) => done.push(outcome.to_string()),
            Err(error) => failed.push(format!("{}: {error}", record.resolv_conf.display())),
        }
    }
    // Last: what could not be taken back must not let traffic out.
    if failed.is_empty()
        && let Some(table) = &record.kill_switch
    {
        match killswitch::remove(table) {
            Ok(()) => done.push(format!("kill switch (nftables table inet {table})")),
            Err(error) => failed.push(error.to_string()),
        }
    }
    if failed.is_empty() {
        Record::remove(&path);
        return Ok(Some(done));
    }
    Err(failed.join("; "))
}
