//! Abuse: who asks for too much or for what is not his, summed up by source prefix for the operator's own tools.
//!
//! [`Abuse`] is pure: the engine notes every refusal, and at most once per interval a [`Summary`] comes out, and only if
//! there was something to say. Memory is bounded; when it is full, the prefix with the least to its name gives way, and
//! is still counted. [`hook`] hands summaries to a Unix datagram socket without ever waiting.

pub mod hook;

use crate::load::Address;
use jvpn_abi::{BootTime, Endpoint, Reason, steer};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::time::Duration;

/// Version of the summaries' form; `docs/abuse-summary.schema.json` describes it.
pub const FORM: u32 = 1;
/// Prefixes that are told apart within an interval.
pub const TRACKED_MAX: usize = 1_024;

/// How summaries are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbuseSettings {
    /// At most one summary in this span.
    pub interval: Duration,
    /// Prefixes that a summary names, those with the most to their name.
    pub sources: usize,
}

/// What a refusal is to an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// What no honest peer sends.
    Violation,
    /// Too much of what may be asked for.
    RateLimit,
    /// The rest.
    Rejection,
}

impl Class {
    const ALL: [Self; 3] = [Self::Rejection, Self::RateLimit, Self::Violation];

    const fn name(self) -> &'static str {
        match self {
            Self::Rejection => "rejections",
            Self::RateLimit => "rate_limits",
            Self::Violation => "violations",
        }
    }

    const fn reasons(self) -> &'static [Reason] {
        match self {
            Self::Rejection => &[
                Reason::SessionNotFound,
                Reason::SessionExpired,
                Reason::SessionTerminated,
                Reason::StaleVersion,
                Reason::VersionUnsupported,
            ],
            Self::RateLimit => &[Reason::RateLimited, Reason::Cooldown],
            Self::Violation => &[
                Reason::AuthFail,
                Reason::ReplayDetected,
                Reason::Malformed,
                Reason::PolicyDeny,
                Reason::VersionAhead,
                Reason::NotApplicable,
            ],
        }
    }

    /// `None`: the refusal says nothing about who was refused.
    fn of(reason: Reason) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.reasons().contains(&reason))
    }
}

/// One source prefix.
#[derive(Clone, Debug)]
struct Source {
    count: u64,
    /// Of these with a cookie: the address was not made up.
    proven: u64,
    /// Where the last one came from.
    latest: Endpoint,
    reasons: BTreeMap<Reason, u64>,
    /// When it was seen last, as a number.
    seen: u64,
}

/// Refusals of the interval that runs.
#[derive(Clone, Debug)]
pub struct Abuse {
    settings: AbuseSettings,
    /// When the first refusal of this interval came.
    since: Option<BootTime>,
    /// No summary before.
    not_before: BootTime,
    sources: BTreeMap<[u8; 16], Source>,
    /// The same by weight: least first, of equals the one that was quiet longest.
    order: BTreeSet<(u64, u64, [u8; 16])>,
    seen: u64,
    /// Prefixes that gave way, and their refusals.
    gave_way: (u64, u64),
    totals: BTreeMap<Reason, u64>,
}

impl Abuse {
    /// Nothing happened yet.
    #[must_use]
    pub const fn new(settings: AbuseSettings) -> Self {
        Self {
            settings,
            since: None,
            not_before: BootTime(0),
            sources: BTreeMap::new(),
            order: BTreeSet::new(),
            seen: 0,
            gave_way: (0, 0),
            totals: BTreeMap::new(),
        }
    }

    /// Something from this address was refused.
    pub fn note(&mut self, now: BootTime, remote: Endpoint, address: Address, reason: Reason) {
        self.note_many(now, remote, address, reason, 1);
    }

    /// So many times.
    pub fn note_many(
        &mut self,
        now: BootTime,
        remote: Endpoint,
        address: Address,
        reason: Reason,
        times: u64,
    ) {
        if Class::of(reason).is_none() || times == 0 {
            return;
        }
        self.since.get_or_insert(now);
        self.seen += 1;
        let prefix = steer::source_prefix(&remote);
        if self.sources.len() >= TRACKED_MAX && !self.sources.contains_key(&prefix) {
            self.give_way();
        }
        let source = self.sources.entry(prefix).or_insert_with(|| Source {
            count: 0,
            proven: 0,
            latest: remote,
            reasons: BTreeMap::new(),
            seen: 0,
        });
        self.order.remove(&(source.count, source.seen, prefix));
        source.count = source.count.saturating_add(times);
        if address == Address::Proven {
            source.proven = source.proven.saturating_add(times);
        }
        source.latest = remote;
        source.seen = self.seen;
        let of_source = source.reasons.entry(reason).or_default();
        *of_source = of_source.saturating_add(times);
        self.order.insert((source.count, source.seen, prefix));
        let total = self.totals.entry(reason).or_default();
        *total = total.saturating_add(times);
    }

    fn give_way(&mut self) {
        let Some((count, _, prefix)) = self.order.pop_first() else { return };
        self.sources.remove(&prefix);
        self.gave_way.0 += 1;
        self.gave_way.1 += count;
    }

    /// When a summary is due; `None`: there is nothing to say.
    #[must_use]
    pub fn deadline(&self) -> Option<BootTime> {
        self.since.map(|since| since.after(self.settings.interval).max(self.not_before))
    }

    /// The summary, if one is due. What it tells is forgotten.
    pub fn poll(&mut self, now: BootTime) -> Option<Summary> {
        let since = self.since.filter(|_| self.deadline().is_some_and(|due| due <= now))?;
        let fresh = Self::new(self.settings);
        let mut ended = std::mem::replace(self, fresh);
        self.not_before = now.after(self.settings.interval);
        let heaviest = ended.order.iter().rev().take(self.settings.sources);
        let named: Vec<_> =
            heaviest.filter_map(|(.., prefix)| Some((*prefix, ended.sources.remove(prefix)?))).collect();
        let rest: u64 = ended.sources.values().map(|source| source.count).sum();
        let others = (ended.sources.len() as u64 + ended.gave_way.0, rest + ended.gave_way.1);
        Some(Summary { since, until: now, named, others, totals: ended.totals })
    }

    /// Prefixes that are remembered.
    #[must_use]
    pub fn tracked(&self) -> usize {
        self.sources.len()
    }
}

/// The refusals of one interval.
#[derive(Clone, Debug)]
pub struct Summary {
    since: BootTime,
    until: BootTime,
    /// Heaviest first.
    named: Vec<([u8; 16], Source)>,
    /// Prefixes that are not named, and their refusals.
    others: (u64, u64),
    totals: BTreeMap<Reason, u64>,
}

impl Summary {
    /// One JSON object without a newline. `unix_offset_ms`: Unix time less `CLOCK_BOOTTIME`; `dropped`: summaries that
    /// were lost since the last that was taken.
    #[must_use]
    pub fn encode(&self, node_id: &str, unix_offset_ms: i64, dropped: u64) -> String {
        let unix_ms =
            |at: BootTime| i64::try_from(at.as_millis()).unwrap_or(i64::MAX).saturating_add(unix_offset_ms);
        let mut classes = Map::new();
        for class in Class::ALL {
            let of_class = self.totals.iter().filter(|(reason, _)| Class::of(**reason) == Some(class));
            classes.insert(class.name().to_owned(), json!(of_class.map(|(_, count)| count).sum::<u64>()));
        }
        let sources: Vec<_> = self
            .named
            .iter()
            .map(|(prefix, source)| {
                json!({
                    "prefix": prefix_text(*prefix),
                    "latest": source.latest.ip().to_string(),
                    "count": source.count,
                    "proven": source.proven,
                    "reasons": by_name(&source.reasons),
                })
            })
            .collect();
        json!({
            "form": FORM,
            "ts_ms": unix_ms(self.until),
            "since_ms": unix_ms(self.since),
            "node_id": node_id,
            "totals": classes,
            "reasons": by_name(&self.totals),
            "sources": sources,
            "others": { "prefixes": self.others.0, "count": self.others.1 },
            "dropped": dropped,
        })
        .to_string()
    }
}

fn by_name(reasons: &BTreeMap<Reason, u64>) -> Value {
    Value::Object(reasons.iter().map(|(reason, count)| (reason.name().to_owned(), json!(count))).collect())
}

/// The prefix as operators write it.
fn prefix_text(prefix: [u8; 16]) -> String {
    let v6 = Ipv6Addr::from(prefix);
    match v6.to_ipv4_mapped() {
        Some(v4) => format!("{v4}/24"),
        None => format!("{v6}/56"),
    }
}

#[cfg(test)]
mod tests;
