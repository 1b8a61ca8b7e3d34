//! Quality of one path over the last seconds: loss of each direction, round-trip time and jitter, and the level that
//! follows from them. Both ends judge with this code: the gateway by what its workers wrote into CONTEXT, the client by
//! the answers to its probes.
//!
//! Loss comes from counters, so every DATA packet counts, not only probes. A packet counts as lost when it is still
//! missing one observation after a later one came: reordering that is shallower than that never looks like loss.
//! Round-trip time is the median of the span's samples and jitter the mean change between two probes: a level over two
//! seconds has to forget what was before them, which a smoothed value (RFC 6298, RFC 3550 section 6.4.1) does not.
//!
//! The numbers come from the other end or from another process. Whatever they are, the work and the memory are bounded
//! and a loss is between 0 and 100 percent (`docs/decisions/0018-quality.md`).

use crate::messages::ClientPolicy;
use crate::policy::Policy;
use jvpn_abi::BootTime;
use std::collections::VecDeque;
use std::time::Duration;

/// Observations of counters that are kept.
const POINTS_MAX: usize = 16;
/// More of them in a span add nothing.
const POINTS_PER_SPAN: u32 = 12;
/// Samples of round trips, and of changes between two, that are kept.
const SAMPLES_MAX: usize = 16;
/// Slow probes make few observations: so many are looked at even if they are older than the span …
const RECENT: usize = 6;
/// … but none that is older than so many spans.
const SPANS_MAX: u32 = 4;
/// Fewer observations or samples are no evidence.
const EVIDENCE_MIN: usize = 3;
/// Fewer packets are no evidence of loss or of its absence.
const PACKETS_MIN: u64 = 4;
/// One lost packet is an accident.
const LOST_MIN: u64 = 2;
/// No path carries more packets between two observations; whoever says so is not believed. All observations that are kept
/// cannot carry more than what totals of 32 bits tell apart.
const PACKETS_MAX: u64 = 1 << 26;
const _: () = assert!(2 * PACKETS_MAX * POINTS_MAX as u64 <= 1 << 31, "two keys add to each");

/// What one end has accepted of one direction under one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Key number within the binding.
    pub key: u32,
    /// Highest counter accepted, plus one; 0 = none.
    pub end: u64,
    /// Packets accepted.
    pub received: u64,
}

/// Counts of a direction under the key in use and the one before or after it.
pub type Directed = [Option<Counts>; 2];

/// Running totals over keys, from the first observation on. They wrap: only differences within the window mean anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    expected: u32,
    received: u32,
}

impl Totals {
    fn since(self, start: Self) -> Self {
        let expected = self.expected.wrapping_sub(start.expected);
        Self { expected, received: self.received.wrapping_sub(start.received) }
    }

    fn missing(self) -> i64 {
        i64::from(self.expected) - i64::from(self.received)
    }
}

/// Turns counts per key into running totals: a new key starts from 0, the first sight of a binding from what it shows.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Two keys, and which of them are known: an `Option` each would take 16 octets more.
    counts: [Counts; 2],
    is_known: [bool; 2],
    begun: bool,
    totals: Totals,
}

impl Tally {
    fn note(&mut self, counts: Directed) -> Totals {
        for new in counts.into_iter().flatten() {
            let place = (new.key % 2) as usize;
            let known = self.counts[place];
            let before = if self.is_known[place] && known.key == new.key {
                known
            } else if self.begun {
                Counts { key: new.key, ..Counts::default() }
            } else {
                new
            };
            // What goes backwards is older news that came late.
            let add = |total: &mut u32, from: u64, to: u64| {
                let more = to.saturating_sub(from).min(PACKETS_MAX);
                *total = total.wrapping_add(u32::try_from(more).unwrap_or(u32::MAX));
            };
            add(&mut self.totals.expected, before.end, new.end);
            add(&mut self.totals.received, before.received, new.received);
            let (end, received) = (new.end.max(before.end), new.received.max(before.received));
            self.counts[place] = Counts { key: new.key, end, received };
            self.is_known[place] = true;
        }
        self.begun = true;
        self.totals
    }
}

#[derive(Clone, Copy, Debug)]
struct Point {
    at: BootTime,
    up: Totals,
    down: Totals,
}

/// What one probe measured. 16 octets.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: BootTime,
    rtt_us: u32,
    change_us: u32,
}

/// Not measured.
const NOTHING: u32 = u32::MAX;

fn whole_us(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX).min(NOTHING - 1)
}

/// Lost packets of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Packets lost.
    pub lost: u64,
    /// Of so many sent; never 0, never fewer than lost.
    pub of: u64,
}

impl Loss {
    /// Percent, rounded up.
    #[must_use]
    pub fn percent(self) -> u64 {
        let percent = (u128::from(self.lost) * 100).div_ceil(u128::from(self.of.max(1)));
        u64::try_from(percent).unwrap_or(u64::MAX)
    }

    /// Percent, to a hundredth.
    #[must_use]
    pub fn percent_exact(self) -> f64 {
        (self.lost as f64 * 10_000.0 / self.of.max(1) as f64).round() / 100.0
    }

    fn exceeds(self, limit_percent: u32) -> bool {
        self.lost >= LOST_MIN && u128::from(self.lost) * 100 > u128::from(limit_percent) * u128::from(self.of)
    }
}

/// What was measured over the span; `None` without evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Lost on the way from client to gateway.
    pub loss_up: Option<Loss>,
    /// Lost on the way from gateway to client.
    pub loss_down: Option<Loss>,
    /// Median round trip.
    pub rtt: Option<Duration>,
    /// Mean change between two probes.
    pub jitter: Option<Duration>,
}

/// Where quality begins to be bad, and the times of judging it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Loss of either direction, percent.
    pub loss_percent: u32,
    /// Round-trip time.
    pub rtt: Duration,
    /// Jitter.
    pub jitter: Duration,
    /// Span of the measurement.
    pub span: Duration,
    /// How long it has to be good until it counts as good again.
    pub stability: Duration,
}

impl From<&Policy> for Thresholds {
    fn from(policy: &Policy) -> Self {
        Self {
            loss_percent: policy.volatile_loss_percent,
            rtt: policy.volatile_rtt,
            jitter: policy.volatile_jitter,
            span: policy.quality_span,
            stability: policy.stability_window,
        }
    }
}

impl From<&ClientPolicy> for Thresholds {
    /// Within bounds that keep a hostile or broken gateway harmless: those of policy.
    fn from(policy: &ClientPolicy) -> Self {
        let ms = |value: u32, min, max| Duration::from_millis(u64::from(value).clamp(min, max));
        Self {
            loss_percent: u32::from(policy.volatile_loss_percent).clamp(1, 100),
            rtt: ms(policy.volatile_rtt_ms, 1, 60_000),
            jitter: ms(policy.volatile_jitter_ms, 1, 60_000),
            span: ms(policy.quality_span_ms, 100, 60_000),
            stability: ms(policy.stability_window_ms, 100, 300_000),
        }
    }
}

/// A measure that has a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Loss of either direction, percent.
    Loss,
    /// Round-trip time, ms.
    Rtt,
    /// Jitter, ms.
    Jitter,
}

impl Measure {
    /// The field of policy that sets its threshold.
    #[must_use]
    pub const fn policy_name(self) -> &'static str {
        match self {
            Self::Loss => "volatile_loss_percent",
            Self::Rtt => "volatile_rtt",
            Self::Jitter => "volatile_jitter",
        }
    }
}

/// A threshold and what was above it, in the measure's unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breach {
    /// Of what.
    pub measure: Measure,
    /// The threshold.
    pub threshold: u64,
    /// What was measured, rounded up.
    pub observed: u64,
}

/// What the measurement says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: too little came.
    NoEvidence,
    /// No threshold is exceeded.
    Good,
    /// One is.
    Bad(Breach),
}

impl Measured {
    /// Judges by the thresholds. Good needs evidence about loss: whoever is silent is not good.
    #[must_use]
    pub fn judge(&self, thresholds: &Thresholds) -> Verdict {
        // Each direction by itself: one accident among few packets must not hide many among many.
        let measured = || [self.loss_up, self.loss_down].into_iter().flatten();
        let exceeding = measured().filter(|loss| loss.exceeds(thresholds.loss_percent));
        if let Some(loss) = exceeding.max_by_key(|loss| loss.percent()) {
            let threshold = u64::from(thresholds.loss_percent);
            return Verdict::Bad(Breach { measure: Measure::Loss, threshold, observed: loss.percent() });
        }
        let times =
            [(Measure::Rtt, self.rtt, thresholds.rtt), (Measure::Jitter, self.jitter, thresholds.jitter)];
        for (measure, observed, threshold) in times {
            if let Some(observed) = observed.filter(|observed| *observed > threshold) {
                let (threshold, observed) = (whole_ms(threshold), ms_rounded_up(observed));
                return Verdict::Bad(Breach { measure, threshold, observed });
            }
        }
        if measured().next().is_some() { Verdict::Good } else { Verdict::NoEvidence }
    }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn ms_rounded_up(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX)
}

/// The measurement of one binding.
#[derive(Clone, Debug, Default)]
pub struct Estimator {
    up: Tally,
    down: Tally,
    points: VecDeque<Point>,
    samples: VecDeque<Sample>,
}

impl Estimator {
    /// Takes what the gateway (`up`) and the client (`down`) have accepted. Call it when there is news from the other end;
    /// more often than twelve times a span changes nothing.
    pub fn note(&mut self, now: BootTime, up: Directed, down: Directed, thresholds: &Thresholds) {
        let newest = self.points.back().map(|point| point.at);
        if newest.is_some_and(|at| now.since(at) < thresholds.span / POINTS_PER_SPAN) {
            return;
        }
        let point = Point { at: now, up: self.up.note(up), down: self.down.note(down) };
        push(&mut self.points, point, POINTS_MAX);
    }

    /// Takes a round trip.
    pub fn note_rtt(&mut self, now: BootTime, rtt: Duration) {
        let sample = Sample { at: now, rtt_us: whole_us(rtt), change_us: NOTHING };
        push(&mut self.samples, sample, SAMPLES_MAX);
    }

    /// Takes by how much the way of a probe took longer or shorter than that of the one before.
    pub fn note_change(&mut self, now: BootTime, change: Duration) {
        let change_us = whole_us(change);
        match self.samples.back_mut() {
            // Of the same probe.
            Some(last) if last.at == now && last.change_us == NOTHING => last.change_us = change_us,
            Some(_) | None => {
                push(&mut self.samples, Sample { at: now, rtt_us: NOTHING, change_us }, SAMPLES_MAX)
            }
        }
    }

    /// What the last span shows.
    #[must_use]
    pub fn measured(&self, now: BootTime, thresholds: &Thresholds) -> Measured {
        let span = thresholds.span;
        let rtts = self.values(now, span, |sample| sample.rtt_us);
        let changes = self.values(now, span, |sample| sample.change_us);
        let mean = |values: Vec<Duration>| {
            let count = u32::try_from(values.len()).ok().filter(|count| *count > 0)?;
            Some(values.into_iter().fold(Duration::ZERO, Duration::saturating_add) / count)
        };
        Measured {
            loss_up: self.loss(now, span, |point| point.up),
            loss_down: self.loss(now, span, |point| point.down),
            rtt: rtts.and_then(median),
            jitter: changes.and_then(mean),
        }
    }

    fn loss(&self, now: BootTime, span: Duration, of: impl Fn(&Point) -> Totals) -> Option<Loss> {
        let first = recent(self.points.iter().map(|point| point.at), now, span)?;
        let start = of(self.points.get(first)?);
        let since = |point: &Point| (point.at, of(point).since(start));
        let points: Vec<(BootTime, Totals)> = self.points.iter().skip(first).map(since).collect();
        let [(began, _), .., (ended, settled), (_, newest)] = points.as_slice() else { return None };
        if ended.since(*began) < span / 2 {
            return None;
        }
        // What is missing now was missing at every moment since it was lost: the least of them is what had been lost
        // by the start, whatever was only late.
        let before = points.iter().map(|(_, totals)| totals.missing()).min()?;
        let after = settled.missing().min(newest.missing());
        let of = u64::from(settled.expected);
        let lost = u64::try_from(after.saturating_sub(before)).unwrap_or(0).min(of);
        (of >= PACKETS_MIN).then_some(Loss { lost, of })
    }

    fn values(&self, now: BootTime, span: Duration, of: impl Fn(&Sample) -> u32) -> Option<Vec<Duration>> {
        let measured = || self.samples.iter().filter(|sample| of(sample) != NOTHING);
        let first = recent(measured().map(|sample| sample.at), now, span)?;
        Some(measured().skip(first).map(|sample| Duration::from_micros(u64::from(of(sample)))).collect())
    }
}

fn push<T>(into: &mut VecDeque<T>, value: T, max: usize) {
    if into.len() >= max {
        into.pop_front();
    } else if into.is_empty() {
        // Once and exactly: doubling would take up to twice of it, and most sessions fill it.
        into.reserve_exact(max);
    }
    into.push_back(value);
}

/// Where the part begins that counts: what is within the span (and a quarter, since the newest observation only vouches
/// for the one before), and at least the newest few. `None` if there are too few, or the newest is old.
fn recent(moments: impl Iterator<Item = BootTime>, now: BootTime, span: Duration) -> Option<usize> {
    let ages: Vec<Duration> = moments.map(|at| now.since(at)).collect();
    let newest = ages.last()?;
    if *newest > span * 2 {
        return None;
    }
    let within = |limit: Duration| ages.iter().position(|age| *age <= limit).unwrap_or(ages.len());
    let by_count = ages.len().saturating_sub(RECENT).max(within(span * SPANS_MAX));
    let first = within(span + span / 4).min(by_count);
    (ages.len() - first >= EVIDENCE_MIN).then_some(first)
}

fn median(mut values: Vec<Duration>) -> Option<Duration> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

/// The level: since when it has been good, since when bad. Bad begins with the first bad verdict and ends when verdicts
/// were good for the stability window without a break. Without evidence nothing changes and no time counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Level {
    good_since: Option<BootTime>,
    bad_since: Option<BootTime>,
    judged_at: Option<BootTime>,
    breach: Option<Breach>,
}

impl Level {
    /// A level that was bad for some time, as a process knows it that looks at `look_at` for the first time: while nobody
    /// was there to judge, nothing was bad.
    #[must_use]
    pub fn restored(bad_for: Option<Duration>, look_at: BootTime) -> Self {
        // As if somebody had judged just before: the first look itself has judged nothing yet.
        let judged_at = BootTime(look_at.0.saturating_sub(1));
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let bad_since = bad_for.map(|span| BootTime(judged_at.0.saturating_sub(nanos(span))));
        Self { bad_since, judged_at: bad_for.map(|_| judged_at), ..Self::default() }
    }

    /// For how long it has been bad, up to the last verdict, if it is. What was bad before `since` does not count.
    #[must_use]
    pub fn bad_for(&self, since: BootTime) -> Option<Duration> {
        Some(self.judged_at?.since(self.bad_since?.max(since)))
    }

    /// Takes a verdict.
    pub fn note(&mut self, now: BootTime, verdict: Verdict, thresholds: &Thresholds) {
        match verdict {
            Verdict::NoEvidence => self.good_since = None,
            Verdict::Good => {
                self.resume(now, thresholds);
                let since = *self.good_since.get_or_insert(now);
                if now.since(since) >= thresholds.stability {
                    self.bad_since = None;
                }
            }
            Verdict::Bad(breach) => {
                self.resume(now, thresholds);
                self.good_since = None;
                self.bad_since.get_or_insert(now);
                self.breach = Some(breach);
            }
        }
    }

    /// Time without evidence does not count as bad time.
    fn resume(&mut self, now: BootTime, thresholds: &Thresholds) {
        let pause = self.judged_at.map_or(Duration::ZERO, |at| now.since(at));
        if pause > thresholds.span * 2 {
            self.bad_since = self.bad_since.map(|since| since.after(pause));
        }
        self.judged_at = Some(now);
    }

    /// Since when every verdict has been good, if the newest is.
    #[must_use]
    pub const fn good_since(&self) -> Option<BootTime> {
        self.good_since
    }

    /// Since when quality has been bad; pauses without evidence are taken out.
    #[must_use]
    pub const fn bad_since(&self) -> Option<BootTime> {
        self.bad_since
    }

    /// Whether this moment brought evidence.
    #[must_use]
    pub fn is_judged(&self, now: BootTime) -> bool {
        self.judged_at == Some(now)
    }

    /// The last threshold that was exceeded.
    #[must_use]
    pub const fn breach(&self) -> Option<Breach> {
        self.breach
    }

    /// In one word: `good`, `bad`, or `unknown` as long as there is no evidence.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match (self.bad_since, self.good_since) {
            (Some(_), _) => "bad",
            (None, Some(_)) => "good",
            (None, None) => "unknown",
        }
    }
}
