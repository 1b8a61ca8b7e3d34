//! What all worlds together went through, in figures.

use crate::simulation::Simulation;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// Values whose quantiles are wanted.
#[derive(Clone, Debug, Default)]
pub struct Quantiles(Vec<u32>);

impl Quantiles {
    fn put(&mut self, value: u64) {
        self.0.push(u32::try_from(value).unwrap_or(u32::MAX));
    }

    /// The value below which so many of a thousand lie; 0 if there are none.
    #[must_use]
    pub fn at(&self, per_mille: usize) -> u32 {
        let mut sorted = self.0.clone();
        let rank = (sorted.len() * per_mille / 1_000).min(sorted.len().saturating_sub(1));
        if sorted.is_empty() { 0 } else { *sorted.select_nth_unstable(rank).1 }
    }
}

impl Serialize for Quantiles {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let quantiles = [("p50", 500), ("p95", 950), ("p99", 990), ("max", 1_000)];
        serializer.collect_map(quantiles.map(|(name, per_mille)| (name, self.at(per_mille))))
    }
}

/// The figures. Times are virtual.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Totals {
    /// Sessions born.
    pub sessions: u64,
    /// Sessions ended, by reason.
    pub ended: BTreeMap<&'static str, u64>,
    /// Recoveries that a client needed (a path died, a link went, an address changed, it slept).
    pub recoveries: u64,
    /// Switches to a better path, as a client wished.
    pub voluntary: u64,
    /// Recoveries by cause.
    pub causes: BTreeMap<&'static str, u64>,
    /// From the last frame on the old path to the first on the new one, ms, of needed recoveries.
    pub outage_ms: Quantiles,
    /// From the last frame on the old path to the decision to leave it, ms.
    pub detect_ms: Quantiles,
    /// From that decision to the first frame on the new path, ms.
    pub reattach_ms: Quantiles,
    /// Switches that the gateway confirmed.
    pub switches: u64,
    /// Reattaches that it refused, by reason.
    pub rejections: BTreeMap<&'static str, u64>,
    /// What it called a security event.
    pub security: BTreeMap<&'static str, u64>,
    /// Starts of control planes.
    pub starts: u64,
    /// Calls into the engine.
    pub engine_events: u64,
    /// Lines of the audit log.
    pub audit_lines: u64,
    /// Those that the judge of audit logs has read.
    pub judged_lines: u64,
    /// Datagrams between clients and gateway.
    pub datagrams: u64,
    /// Inner packets that clients sent, and those that came back.
    pub packets: u64,
    /// Inner packets that came back.
    pub echoes: u64,
    /// Steps of the simulation, each of them judged.
    pub steps: u64,
    /// Virtual time under churn, ms.
    pub virtual_ms: u64,
}

impl Totals {
    pub(super) fn of(sim: &Simulation, minutes: u64) -> Self {
        let trail = &sim.observer.trail;
        let mut totals = Self {
            sessions: trail.created,
            ended: trail.ended.clone(),
            switches: trail.switches,
            rejections: trail.rejections.clone(),
            security: trail.security.clone(),
            starts: trail.starts,
            engine_events: sim.engine_calls,
            audit_lines: trail.lines,
            datagrams: sim.network.sent,
            steps: sim.happenings,
            virtual_ms: minutes * 60_000,
            ..Self::default()
        };
        for client in 0..sim.clients() {
            let watch = sim.observer.client(client);
            totals.packets += sim.sent(client);
            totals.echoes += watch.echoed.len() as u64;
            for (_, report) in &watch.recoveries {
                *totals.causes.entry(report.cause.name()).or_default() += 1;
                if report.cause.is_voluntary() {
                    totals.voluntary += 1;
                    continue;
                }
                totals.recoveries += 1;
                totals.outage_ms.put(report.outage_ms);
                totals.detect_ms.put(report.detect_ms);
                totals.reattach_ms.put(report.reattach_ms);
            }
        }
        totals
    }

    pub(super) fn add(&mut self, other: Self) {
        fn add_all(to: &mut BTreeMap<&'static str, u64>, from: BTreeMap<&'static str, u64>) {
            for (name, count) in from {
                *to.entry(name).or_default() += count;
            }
        }
        self.sessions += other.sessions;
        self.recoveries += other.recoveries;
        self.voluntary += other.voluntary;
        self.switches += other.switches;
        self.starts += other.starts;
        self.engine_events += other.engine_events;
        self.audit_lines += other.audit_lines;
        self.judged_lines += other.judged_lines;
        self.datagrams += other.datagrams;
        self.packets += other.packets;
        self.echoes += other.echoes;
        self.steps += other.steps;
        self.virtual_ms += other.virtual_ms;
        add_all(&mut self.ended, other.ended);
        add_all(&mut self.causes, other.causes);
        add_all(&mut self.rejections, other.rejections);
        add_all(&mut self.security, other.security);
        self.outage_ms.0.extend(other.outage_ms.0);
        self.detect_ms.0.extend(other.detect_ms.0);
        self.reattach_ms.0.extend(other.reattach_ms.0);
    }

    /// One world in one line.
    #[must_use]
    pub fn brief(&self) -> String {
        format!(
            "{} sessions, {} recoveries, {} switches, p99 {} ms, {} steps",
            self.sessions,
            self.recoveries,
            self.switches,
            self.outage_ms.at(990),
            self.steps
        )
    }

    /// Everything, for a person.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let row = |name: &str, value: String| format!("  {name:<28}{value}");
        let listed = |map: &BTreeMap<&'static str, u64>| {
            let items: Vec<String> = map.iter().map(|(name, count)| format!("{name} {count}")).collect();
            if items.is_empty() { "none".to_owned() } else { items.join(", ") }
        };
        let spread =
            |q: &Quantiles| format!("{} / {} / {} / {} ms", q.at(500), q.at(950), q.at(990), q.at(1_000));
        vec![
            row("sessions", self.sessions.to_string()),
            row("ended", listed(&self.ended)),
            row("recoveries", format!("{} needed, {} voluntary", self.recoveries, self.voluntary)),
            row("causes", listed(&self.causes)),
            row("outage p50/p95/p99/max", spread(&self.outage_ms)),
            row("detect p50/p95/p99/max", spread(&self.detect_ms)),
            row("reattach p50/p95/p99/max", spread(&self.reattach_ms)),
            row("switches", self.switches.to_string()),
            row("rejections", listed(&self.rejections)),
            row("security events", listed(&self.security)),
            row("control plane starts", self.starts.to_string()),
            row("engine events", self.engine_events.to_string()),
            row("audit lines", format!("{}, {} of them judged", self.audit_lines, self.judged_lines)),
            row("datagrams", self.datagrams.to_string()),
            row("packets sent / echoed", format!("{} / {}", self.packets, self.echoes)),
            row("steps judged", self.steps.to_string()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_known_values() {
        let mut values = Quantiles::default();
        assert_eq!(values.at(500), 0);
        (1..=1_000).rev().for_each(|value| values.put(value));
        assert_eq!([500, 990, 1_000].map(|at| values.at(at)), [501, 991, 1_000]);
        let text = serde_json::to_string(&values).unwrap();
        assert_eq!(text, r#"{"p50":501,"p95":951,"p99":991,"max":1000}"#);
    }
}
