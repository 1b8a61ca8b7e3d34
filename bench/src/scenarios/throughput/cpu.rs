//! Processor time: of single processes, and of the whole machine, since work in soft interrupts is charged to none.

use std::fs;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

/// Seconds of processor time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// The gateway's data plane.
    pub gateway_s: f64,
    /// The client.
    pub client_s: f64,
    /// Everything but idle, on all processors.
    pub machine_s: f64,
}

impl Cpu {
    /// So far, of these processes.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn look(gateway: u32, client: u32) -> Result<Self> {
        Self::of(&[gateway], &[client])
    }

    /// So far, of the processes at either end, each end's added up.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn of(gateway: &[u32], client: &[u32]) -> Result<Self> {
        let ticks = sysconf(SysconfVar::CLK_TCK)?.context("the kernel has no clock tick")? as f64;
        let process = |pid: &u32| -> Result<f64> {
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("a process has ended")?;
            of_process(&text).map(|sum| sum as f64 / ticks).context("/proc has another format")
        };
        let machine =
            of_machine(&fs::read_to_string("/proc/stat")?).context("/proc/stat has another format")?;
        Ok(Self {
            gateway_s: gateway.iter().map(process).sum::<Result<f64>>()?,
            client_s: client.iter().map(process).sum::<Result<f64>>()?,
            machine_s: machine as f64 / ticks,
        })
    }

    /// From `before` to this, for each of `units`.
    #[must_use]
    pub fn since(&self, before: &Self, units: f64) -> Self {
        let each = |now: f64, then: f64| (now - then) / units.max(1e-9);
        Self {
            gateway_s: each(self.gateway_s, before.gateway_s),
            client_s: each(self.client_s, before.client_s),
            machine_s: each(self.machine_s, before.machine_s),
        }
    }
}

/// User and system time (fields 14 and 15 of proc_pid_stat(5); the name in parentheses may hold anything).
fn of_process(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// All but idle and waiting, without guests, which are counted as user time already (proc_stat(5)).
fn of_machine(stat: &str) -> Option<u64> {
    let fields: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>().ok()?;
    let [user, nice, system, _idle, _wait, irq, soft, steal, ..] = fields.as_slice() else { return None };
    Some(user + nice + system + irq + soft + steal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let stat = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 70 30 0 0 20 0 1";
        assert_eq!(of_process(stat), Some(100));
        assert_eq!(of_machine("cpu  10 1 5 900 50 2 3 4 7 7\ncpu0 1\n"), Some(25));
        assert_eq!((of_process("42 (a"), of_machine("cpu 1 2")), (None, None));
        let own = Cpu::look(std::process::id(), std::process::id()).unwrap();
        assert!(own.machine_s >= own.client_s);
    }
}
