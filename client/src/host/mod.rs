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

/// Takes back what a dead agent with this status socket left; what was done, in words. `None`: it left nothing.
///
/// `config`: what it was configured with, which counts where its record cannot be read, or is lost.
///
/// # Errors
/// With what could not be taken back, and why.
pub fn undo(socket: &Path, config: Option<&Config>) -> Result<Option<Vec<String>>, String> {
    let path = Record::path(socket);
    let mut done = Vec::new();
    let record = match (Record::read(&path), config) {
        (Ok(Some(record)), _) => record,
        // Its record is lost, but the file says itself whose it is.
        (Ok(None), Some(config)) if dns::is_ours(&config.dns.resolv_conf, &config.interface.name) => {
            Record { kill_switch: None, ..Record::as_configured(config) }
        }
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
    let is_old = record.is_of_another_boot();
    if !is_old {
        match crate::link::Links::open(Vec::new(), Vec::new(), record.first_table) {
            Ok(_) => done.push("routes and rules".to_owned()),
            Err(error) => failed.push(error.to_string()),
        }
    }
    restore_names(&record, &mut done, &mut failed);
    // Last: what could not be taken back must not let traffic out.
    if failed.is_empty()
        && !is_old
        && let Some(table) = &record.kill_switch
    {
        match killswitch::remove(table) {
            Ok(()) => done.push(format!("kill switch (nftables table inet {table})")),
            Err(error) => failed.push(error.to_string()),
        }
    }
    settle(&path, done, failed)
}

/// What the start of a host finds of an agent that was running when it stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// The record is of this boot: an agent's that runs or was killed, and not to be touched.
    OfThisBoot,
    /// What was taken back, in words.
    TakenBack(Vec<String>),
}

/// Takes back what an agent of another boot left: its name servers. What belongs to this boot is left alone, above all its
/// kill switch.
///
/// # Errors
/// As [`undo`].
pub fn restore(socket: &Path, config: Option<&Config>) -> Result<Found, String> {
    let path = Record::path(socket);
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    match (Record::read(&path), config) {
        (Ok(None), _) => Ok(Found::Nothing),
        (Ok(Some(record)), _) if record.is_of_another_boot() => {
            restore_names(&record, &mut done, &mut failed);
            settle(&path, done, failed).map(|done| Found::TakenBack(done.unwrap_or_default()))
        }
        (Ok(Some(_)), _) => Ok(Found::OfThisBoot),
        // Whose boot it was is not known. The name servers are taken back as the file itself says, and only they; what else
        // there may be is for 'jvpn down --config'.
        (Err(error), Some(config)) => {
            done.push(format!("{error}; went by the configuration instead"));
            restore_names(&Record::as_configured(config), &mut done, &mut failed);
            if failed.is_empty() { Ok(Found::TakenBack(done)) } else { Err(failed.join("; ")) }
        }
        (Err(error), None) => {
            Err(format!("{error}; 'jvpn restore --config FILE' goes by the agent's configuration instead"))
        }
    }
}

fn restore_names(record: &Record, done: &mut Vec<String>, failed: &mut Vec<String>) {
    if let Some(interface) = &record.dns {
        match dns::restore(&record.resolv_conf, interface) {
            Ok(outcome) => done.push(outcome.to_string()),
            Err(error) => failed.push(format!("{}: {error}", record.resolv_conf.display())),
        }
    }
}

/// The record goes when nothing is left to take back.
fn settle(path: &Path, done: Vec<String>, failed: Vec<String>) -> Result<Option<Vec<String>>, String> {
    if failed.is_empty() {
        Record::remove(path);
        return Ok(Some(done));
    }
    Err(failed.join("; "))
}
