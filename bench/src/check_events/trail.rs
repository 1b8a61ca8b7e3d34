//! One session of the log. Its memory is bounded by the budget of switches.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use super::checker::{Run, Scene};
use super::findings::Check;
use super::losses::Gap;
use super::record::{Kind, Record, State, Version};
use super::rules::{self, Limits};

/// How far the wall clock may have been set back between two lives of the control plane without a switch counting twice.
const CLOCK_STEP_MS: i64 = 1_000;
/// Moments are logged in whole milliseconds.
const ROUNDING_MS: i64 = 10;
/// A lifetime and the difference of two moments in the log are not measured at the same place.
const LIFETIME_MS: u64 = 1_000;

/// What the log has told of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Lines are missing: whatever comes next is believed.
    Nothing,
    /// It was created; its birth is next.
    Created,
    /// The last `new_state`.
    At(State),
}

/// Events that must still come with the last transition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Owed {
    transport_switch: bool,
    recovery_complete: bool,
    termination: bool,
}

impl Owed {
    fn names(self) -> Vec<&'static str> {
        let all = [
            (self.transport_switch, "TRANSPORT_SWITCH"),
            (self.recovery_complete, "RECOVERY_COMPLETE"),
            (self.termination, "TERMINATION_EVENT"),
        ];
        all.into_iter().filter_map(|(is_owed, name)| is_owed.then_some(name)).collect()
    }
}

/// Attempts to recover, none of them long after the one before.
#[derive(Clone, Copy, Debug)]
struct Burst {
    first_ms: i64,
    last_ms: i64,
    run: u32,
}

/// How a line's version relates to the last one.
enum Fit {
    Current,
    /// Lines before it are missing.
    Ahead,
    /// It is refused.
    Wrong,
}

/// What the log has told of a session.
#[derive(Debug)]
pub(super) struct Trail {
    limits: Limits,
    known: Known,
    version: Option<Version>,
    reason: String,
    /// The last transition: when, and which line of the whole log.
    changed_ms: i64,
    changed_at: u64,
    /// Its last line.
    seen_at: u64,
    place: (Rc<str>, u64),
    recovering_since: Option<i64>,
    burst: Option<Burst>,
    born: Option<(i64, u32)>,
    /// (term, epoch) of the last switch.
    epoch: Option<(u64, u64)>,
    /// Switches of the last minute, each with its run.
    recent: VecDeque<(i64, u32)>,
    switches: u64,
    /// Nothing is missing since its creation.
    whole: bool,
    owed: Owed,
}

impl Trail {
    /// It is created in this line.
    pub(super) fn created(limits: Limits, version: Version, scene: &Scene<'_>) -> Self {
        Self { known: Known::Created, version: Some(version), whole: true, ..Self::older(limits, scene) }
    }

    /// Its creation is not in the log.
    pub(super) fn older(limits: Limits, scene: &Scene<'_>) -> Self {
        Self {
            limits,
            known: Known::Nothing,
            version: None,
            reason: String::new(),
            changed_ms: i64::MIN,
            changed_at: scene.ordinal,
            seen_at: scene.ordinal,
            place: (Rc::clone(scene.file), scene.line),
            recovering_since: None,
            burst: None,
            born: None,
            epoch: None,
            recent: VecDeque::new(),
            switches: 0,
            whole: false,
            owed: Owed::default(),
        }
    }

    pub(super) fn is_terminated(&self) -> bool {
        self.known == Known::At(State::Terminated)
    }

    /// File and line of its last event.
    pub(super) fn place(&self) -> (Rc<str>, u64) {
        self.place.clone()
    }

    /// An event of this session.
    pub(super) fn record(&mut self, scene: &mut Scene<'_>, version: Version, record: Record) {
        if self.is_next(version) {
            self.check_bounds(scene, record.at_ms);
        } else {
            // What is missing in between may have been in time; whether it may be missing is another rule.
            (self.recovering_since, self.burst, self.born) = (None, None, None);
        }
        match record.kind {
            Kind::StateChange { previous, new } => self.change(scene, version, &record, previous, new),
            Kind::TransportSwitch { epoch } => self.switch(scene, version, &record, epoch),
            Kind::RecoveryComplete => {
                self.belongs(scene, version, &record.reason, "RECOVERY_COMPLETE", |owed| {
                    &mut owed.recovery_complete
                });
            }
            Kind::Termination { lifetime_ms, switches } => {
                self.termination(scene, version, &record, lifetime_ms, switches);
            }
            Kind::Owner { term } => self.owner(scene, version, term),
            Kind::Transferred { term } => self.transferred(scene, version, term),
            Kind::Summarised => self.summary(scene, version, record.at_ms),
            Kind::NodeStarted
            | Kind::TelemetryDegraded { .. }
            | Kind::SessionCreated { .. }
            | Kind::Other => {}
        }
        self.seen_at = scene.ordinal;
        self.place = (Rc::clone(scene.file), scene.line);
    }

    /// Whether nothing is missing between the last event and one with this version. Behind an older one nothing is: it is
    /// wrong itself, or late.
    fn is_next(&self, version: Version) -> bool {
        self.version.is_none_or(|last| {
            if version <= last {
                return true;
            }
            let next = if version.term() == last.term() { last.sequence() + 1 } else { 0 };
            version.sequence() <= next && version.term() <= last.term() + 1
        })
    }

    /// The log ends.
    pub(super) fn end_of_log(&mut self, scene: &mut Scene<'_>, now_ms: i64) {
        // Its last line is the log's last line: what belongs to it may come yet.
        if self.seen_at == scene.ordinal {
            return;
        }
        self.settle(scene);
        if self.known == Known::Created {
            let gap = Gap { since: self.seen_at, at: scene.ordinal, missing: 1 };
            scene.miss(gap, Check::Missing, "the STATE_CHANGE of its birth", "none".to_owned());
        }
        // A successor may not know the session any more.
        if !scene.losses.started_since(self.seen_at) {
            self.check_bounds(scene, now_ms);
        }
    }

    /// I3, I4, I8: versions contiguous, states chained, rows of the table, nothing after the end.
    fn change(
        &mut self,
        scene: &mut Scene<'_>,
        version: Version,
        record: &Record,
        previous: Option<State>,
        new: State,
    ) {
        let reason = record.reason.as_str();
        if previous.is_none() && rules::is_load(new, reason) {
            return self.loaded(scene, version, record, new);
        }
        let Some(missing) = self.step(scene, version) else { return };
        if self.is_terminated() {
            return scene.blame(
                Check::Final,
                "nothing after TERMINATED",
                format!("a change to {}", new.name()),
            );
        }
        if missing == 0 {
            self.settle(scene);
            self.check_term(scene, version, reason);
        } else {
            self.lose_track();
        }
        let name = |state: Option<State>| state.map_or("null", State::name);
        let expected = match self.known {
            Known::Nothing => previous,
            Known::Created => None,
            Known::At(state) => Some(state),
        };
        if previous != expected {
            scene.blame(
                Check::Chain,
                format!("previous_state {}", name(expected)),
                format!("{} to {}", name(previous), new.name()),
            );
        }
        if !rules::allows(previous, new, reason) {
            let found = format!("{} to {}, {reason}", name(previous), new.name());
            scene.blame(Check::Transition, rules::ways(previous, reason), found);
        }
        self.enter(scene.run, record, new);
        self.known = Known::At(new);
        self.version = Some(version);
        reason.clone_into(&mut self.reason);
        (self.changed_ms, self.changed_at) = (record.at_ms, scene.ordinal);
    }

    /// A node that lost the memory of both its processes loads what it finds in its store, or ends what may not go on: the
    /// next term begins, and what was not stored is forgotten.
    fn loaded(&mut self, scene: &mut Scene<'_>, version: Version, record: &Record, new: State) {
        if self.is_terminated() {
            return scene.blame(Check::Final, "nothing after TERMINATED", "a load from the store".to_owned());
        }
        let rises = self.version.is_none_or(|last| version.term() > last.term());
        if !rises || version.sequence() != 0 {
            scene.blame(Check::Term, "the start of a later term", format!("a load at {version}"));
        }
        if self.version.is_some() && !scene.losses.started_since(self.seen_at) {
            scene.blame(Check::Missing, "a NODE_STARTED before a load from the store", "none".to_owned());
        }
        self.lose_track();
        self.recent = VecDeque::new();
        self.known = Known::At(new);
        self.recovering_since = (new == State::Recovering).then_some(record.at_ms);
        self.owed.termination = new == State::Terminated;
        self.version = self.version.max(Some(version));
        record.reason.clone_into(&mut self.reason);
        (self.changed_ms, self.changed_at) = (record.at_ms, scene.ordinal);
    }

    /// What time and other events depend on.
    fn enter(&mut self, run: Run, record: &Record, new: State) {
        let (at_ms, reason) = (record.at_ms, record.reason.as_str());
        if self.known == Known::Created {
            self.born = Some((at_ms, run.number));
        }
        if new == State::Recovering {
            self.recovering_since.get_or_insert(at_ms);
        } else {
            self.recovering_since = None;
            self.burst = None;
        }
        if rules::ATTEMPTS.contains(&reason) {
            let pause = millis(rules::BURST_PAUSE) - ROUNDING_MS;
            let goes_on = |burst: &Burst| burst.run == run.number && at_ms - burst.last_ms < pause;
            self.burst = Some(match self.burst.filter(goes_on) {
                Some(burst) => Burst { last_ms: at_ms, ..burst },
                None => Burst { first_ms: at_ms, last_ms: at_ms, run: run.number },
            });
        }
        let is_switch = rules::SWITCHES.contains(&reason);
        self.owed = Owed {
            transport_switch: is_switch,
            recovery_complete: is_switch,
            termination: new == State::Terminated,
        };
    }

    /// I3: how many transitions are missing before this one; `None` if it is refused.
    fn step(&self, scene: &mut Scene<'_>, version: Version) -> Option<u64> {
        let (expected, missing) = match (self.version, self.known) {
            (None, _) => return Some(0),
            (Some(first), Known::Created) => {
                let missing = version.sequence();
                if version == first && missing == 0 {
                    return Some(0);
                }
                ("version 0.0 at birth, as in SESSION_CREATED".to_owned(), missing)
            }
            (Some(last), _) if version == last => {
                scene.blame(Check::Version, "a version of its own", format!("{version} a second time"));
                return None;
            }
            (Some(last), _) if version < last => {
                scene.blame(Check::Rollback, format!("a version above {last}"), version.to_string());
                return None;
            }
            (Some(last), _) if version.term() == last.term() => {
                let missing = version.sequence() - last.sequence() - 1;
                (format!("version {}", Version(last.0 + 1)), missing)
            }
            (Some(last), _) => {
                let terms = version.term() - last.term() - 1;
                (format!("version {}.0", last.term() + 1), terms + version.sequence())
            }
        };
        if missing > 0 {
            let gap = Gap { since: self.seen_at, at: scene.ordinal, missing };
            let found = format!("{version}, with no TELEMETRY_DEGRADED or NODE_STARTED beside the gap");
            scene.miss(gap, Check::Version, expected, found);
        } else if self.known == Known::Created {
            scene.blame(Check::Version, expected, version.to_string());
        }
        Some(missing)
    }

    /// I3: a term begins with its owner's event, and with no other.
    fn check_term(&self, scene: &mut Scene<'_>, version: Version, reason: &str) {
        let rises = self.version.is_some_and(|last| version.term() > last.term());
        let begins = rules::NEW_TERM.contains(&reason);
        if self.version.is_some() && rises != begins {
            let expected = if rises {
                "OWNER_RESTART or OWNER_TAKEOVER at the start of a term"
            } else {
                "the next term"
            };
            scene.blame(Check::Term, expected, format!("{reason} at {version}"));
        }
    }

    fn switch(&mut self, scene: &mut Scene<'_>, version: Version, record: &Record, epoch: u64) {
        let belongs = self
            .belongs(scene, version, &record.reason, "TRANSPORT_SWITCH", |owed| &mut owed.transport_switch);
        if !belongs {
            return;
        }
        self.switches += 1;
        let numbered = (version.term(), epoch);
        if let Some(last) = self.epoch.filter(|last| numbered <= *last) {
            let expected = format!("an epoch above {} in term {}", last.1, last.0);
            scene.blame(Check::Epoch, expected, format!("epoch {epoch} in term {}", version.term()));
        }
        self.epoch = self.epoch.max(Some(numbered));
        self.check_budget(scene, record.at_ms);
    }

    /// Who owns a session does so in the term of its current version.
    fn owner(&mut self, scene: &mut Scene<'_>, version: Version, term: u64) {
        if let Fit::Wrong = self.fit(scene, version) {
            return;
        }
        if term != version.term() {
            let found = format!("term {term} with version {version}");
            scene.blame(Check::Term, format!("term {}, that of the version", version.term()), found);
        }
    }

    /// A node that lost its memory finds that another has taken the session: it names the term it had, not the version,
    /// which nobody stored.
    fn transferred(&mut self, scene: &mut Scene<'_>, version: Version, term: u64) {
        let is_named = (version.term(), version.sequence()) == (term, 0);
        let is_found = is_named && scene.losses.started_since(self.seen_at);
        let is_not_older = self.version.is_none_or(|last| term >= last.term());
        if is_found && is_not_older && !self.is_terminated() {
            self.lose_track();
            self.version = self.version.max(Some(version));
        } else {
            self.owner(scene, version, term);
        }
    }

    /// I7.
    fn check_budget(&mut self, scene: &mut Scene<'_>, at_ms: i64) {
        let run = scene.run.number;
        let counts_from = |(ms, of_run): (i64, u32)| if of_run == run { ms } else { ms - CLOCK_STEP_MS };
        let span = millis(rules::BUDGET_SPAN);
        while self.recent.front().is_some_and(|first| counts_from(*first) + span <= at_ms) {
            self.recent.pop_front();
        }
        self.recent.push_back((at_ms, run));
        let max = self.limits.max_switches_per_min as usize;
        if self.recent.len() > max {
            let found = format!("{} (--policy if it was another)", self.recent.len());
            scene.blame(Check::Switches, format!("at most {max} switches in 60 s"), found);
            self.recent.pop_front();
        }
    }

    fn termination(
        &mut self,
        scene: &mut Scene<'_>,
        version: Version,
        record: &Record,
        lifetime_ms: u64,
        switches: u64,
    ) {
        // A node that lost the memory of both its processes ends what it finds in its store.
        let is_forgotten = record.reason == "OWNER_RESTART" && !self.is_terminated();
        if is_forgotten {
            let rises = self.version.is_none_or(|last| version.term() > last.term());
            if !rises || version.sequence() != 0 {
                scene.blame(Check::Term, "the start of a later term", format!("OWNER_RESTART at {version}"));
            }
            if self.version.is_some() && !scene.losses.started_since(self.seen_at) {
                scene.blame(Check::Missing, "the STATE_CHANGE to TERMINATED first", "TERMINATION_EVENT");
            }
            self.lose_track();
            self.known = Known::At(State::Terminated);
            self.version = self.version.max(Some(version));
            return;
        }
        let belongs =
            self.belongs(scene, version, &record.reason, "TERMINATION_EVENT", |owed| &mut owed.termination);
        if !belongs {
            return;
        }
        if self.whole && switches != self.switches {
            let expected = format!("total_switches {}", self.switches);
            scene.blame(Check::Totals, expected, switches.to_string());
        }
        if let Some((born_ms, run)) = self.born
            && run == scene.run.number
        {
            let lived = u64::try_from(record.at_ms - born_ms).unwrap_or(0);
            if lived.abs_diff(lifetime_ms) > LIFETIME_MS {
                let expected = format!("total_lifetime_ms of about {lived}");
                scene.blame(Check::Totals, expected, lifetime_ms.to_string());
            }
        }
        self.recent = VecDeque::new();
    }

    /// An event that may stand for many and come later than they: its version is one that was current at its time.
    fn summary(&mut self, scene: &mut Scene<'_>, version: Version, at_ms: i64) {
        let Some(last) = self.version else { return };
        if version > last || self.known == Known::Created && version == last {
            self.ahead(scene, version, self.seen_at);
        } else if version < last && at_ms > self.changed_ms {
            let expected = format!("version {last}, current since {} ms", self.changed_ms);
            scene.blame(Check::Current, expected, format!("version {version} at {at_ms} ms"));
        }
    }

    /// Whether an event that comes with a transition is that transition's, and the only one.
    fn belongs(
        &mut self,
        scene: &mut Scene<'_>,
        version: Version,
        reason: &str,
        name: &str,
        owed: impl Fn(&mut Owed) -> &mut bool,
    ) -> bool {
        match self.fit(scene, version) {
            Fit::Wrong => return false,
            Fit::Ahead => return true,
            Fit::Current => {}
        }
        if self.known == Known::Nothing {
            return true;
        }
        if !std::mem::take(owed(&mut self.owed)) {
            let found = format!("{name} with version {version}");
            scene.blame(Check::Current, format!("a transition that has a {name}, once"), found);
            return false;
        }
        if reason != self.reason {
            scene.blame(Check::Current, format!("{}, the reason of the transition", self.reason), reason);
        }
        true
    }

    fn fit(&mut self, scene: &mut Scene<'_>, version: Version) -> Fit {
        match self.version {
            Some(last) if version < last => {
                scene.blame(Check::Current, format!("the current version {last}"), version.to_string());
                Fit::Wrong
            }
            Some(last) if version == last && self.known != Known::Created => Fit::Current,
            Some(_) => {
                // It comes right behind its transition: no start of the control plane explains a gap between the two.
                let since = scene.ordinal;
                self.ahead(scene, version, since);
                Fit::Ahead
            }
            None => {
                self.version = Some(version);
                Fit::Ahead
            }
        }
    }

    /// An event came before the transition that it belongs to.
    fn ahead(&mut self, scene: &mut Scene<'_>, version: Version, since: u64) {
        let last = self.version.map_or(0, |last| last.0);
        let missing = version.0.saturating_sub(last).clamp(1, 1 << 40);
        let gap = Gap { since, at: scene.ordinal, missing };
        let found = format!("an event of version {version} before its STATE_CHANGE");
        scene.miss(gap, Check::Current, "an event of the current version", found);
        self.lose_track();
        self.version = Some(version);
    }

    /// I8: what belonged to the last transition must have come by now.
    fn settle(&mut self, scene: &mut Scene<'_>) {
        let names = std::mem::take(&mut self.owed).names();
        if names.is_empty() {
            return;
        }
        let gap = Gap { since: self.changed_at, at: scene.ordinal, missing: names.len() as u64 };
        let version = self.version.map_or_else(String::new, |version| version.to_string());
        let expected = format!("{} with version {version}", names.join(" and "));
        scene.miss(gap, Check::Missing, expected, "the next event".to_owned());
        self.whole = false;
    }

    fn lose_track(&mut self) {
        self.known = Known::Nothing;
        self.owed = Owed::default();
        (self.recovering_since, self.burst, self.born) = (None, None, None);
        self.whole = false;
    }

    /// I6: what passes has passed in time.
    fn check_bounds(&mut self, scene: &mut Scene<'_>, now_ms: i64) {
        // A control plane that was away fires its timers when it is back.
        let is_late = |deadline: i64| now_ms > deadline.max(scene.run.start_ms) + scene.lateness_ms;
        let deadline = |from: i64, span: Duration| from.saturating_add(millis(span));
        let mut late = None;
        if let Some(since) = self.recovering_since
            && is_late(deadline(since, self.limits.transport_loss_ttl))
        {
            let ttl = humantime::format_duration(self.limits.transport_loss_ttl);
            late = Some(format!("an end of RECOVERING within transport_loss_ttl, {ttl}"));
        }
        if let Some(burst) = self.burst {
            let end = deadline(burst.first_ms, self.limits.recovery_window);
            let goes_on = burst.last_ms > end - millis(rules::BURST_PAUSE) + ROUNDING_MS;
            if goes_on && burst.run == scene.run.number && is_late(end) {
                let window = humantime::format_duration(self.limits.recovery_window);
                late = Some(format!("an end of RECOVERING within recovery_window, {window}"));
            }
        }
        if let (Known::At(State::Birth), Some((born_ms, _))) = (self.known, self.born)
            && is_late(deadline(born_ms, rules::BIRTH_MAX))
        {
            late = Some("an end of BIRTH within 5s".to_owned());
        }
        if let Some(expected) = late {
            let found = format!("none until {now_ms} ms (--policy, --lateness if they were others)");
            scene.blame(Check::Bounded, expected, found);
            (self.recovering_since, self.burst, self.born) = (None, None, None);
        }
    }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}
