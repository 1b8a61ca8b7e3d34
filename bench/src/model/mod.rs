//! Model checking: production's `transition` in a small world of client, gateway, shared tables, workers, network and
//! attacker, explored to its end (`docs/decisions/0014`).
//!
//! | Module | What for |
//! |---|---|
//! | `decisions` | every answer of `jvpn_session::transition`, with real proofs |
//! | `state`, `world` | one state of the world; where it begins, how it reads |
//! | `client`, `gateway`, `data_plane` | the rules around the decisions; each names the code that it mirrors |
//! | `takeover` | a session that only the store remembers |
//! | `retry` | cookies under load |
//! | `action`, `step` | what can happen next; what must hold afterwards |
//! | `scope` | how often what may happen |
//! | `explore` | the search, and the way back in from everywhere |
//! | `mutant` | seeded bugs, each of which must be found |
//!
//! It has no socket, no clock but for its own running time, and no randomness.

mod action;
mod client;
mod data_plane;
mod decisions;
mod explore;
mod gateway;
mod mutant;
mod retry;
mod scope;
mod state;
mod step;
mod takeover;
mod world;

pub use mutant::Mutant;
pub use scope::Scope;

use anyhow::Result;
use decisions::Decisions;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What a search came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Name of the scope.
    pub scope: &'static str,
    /// Different states of the world.
    pub states: usize,
    /// Steps taken between them.
    pub steps: usize,
    /// Length of the longest shortest way.
    pub depth: usize,
    /// Different questions that production's transition function was asked.
    pub decisions: usize,
    /// Running time.
    pub elapsed: Duration,
    /// What was broken, if anything.
    pub counterexample: Option<Counterexample>,
}

/// The shortest way to a broken invariant.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// Which one, in words.
    pub invariant: &'static str,
    /// What happened, and where everybody stood then.
    pub way: Vec<(String, String)>,
}

/// Explores one scope, with the rules as they are or with a seeded bug.
///
/// # Errors
/// If the fixed keys and datagrams of the proofs cannot be made.
pub fn check(scope: &Scope, mutant: Option<Mutant>) -> Result<Outcome> {
    let start = Instant::now();
    let decisions = Decisions::new(scope.policy.clone())?;
    let explored = explore::explore(scope, mutant, &decisions);
    let counterexample = explored.failure.map(|failure| Counterexample {
        invariant: failure.broken,
        way: failure
            .way
            .iter()
            .map(|(action, world)| (action.to_string(), world::summary(world, &decisions)))
            .collect(),
    });
    Ok(Outcome {
        scope: scope.name,
        states: explored.worlds,
        steps: explored.steps,
        depth: explored.depth,
        decisions: decisions.asked(),
        elapsed: start.elapsed(),
        counterexample,
    })
}

/// Explores the scopes one after the other until one finds `mutant`. The last outcome has what was found, if anything.
///
/// # Errors
/// As [`check`].
pub fn hunt(scopes: &[Scope], mutant: Mutant) -> Result<Option<Outcome>> {
    let mut last = None;
    for scope in scopes {
        let outcome = check(scope, Some(mutant))?;
        let found = outcome.counterexample.is_some();
        last = Some(outcome);
        if found {
            break;
        }
    }
    Ok(last)
}

/// What everything came to.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The rules as they are, per scope.
    pub unmutated: Vec<Outcome>,
    /// The seeded bugs.
    pub mutants: Vec<(Mutant, Outcome)>,
}

impl Verdict {
    /// Every invariant holds, and every seeded bug was found.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.unmutated.iter().all(|outcome| outcome.counterexample.is_none())
            && self.mutants.iter().all(|(_, outcome)| outcome.counterexample.is_some())
            && self.mutants.len() == Mutant::ALL.len()
    }

    /// One line for the model, one per scope, one per mutant.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let sum = |of: fn(&Outcome) -> usize| self.unmutated.iter().map(of).sum::<usize>();
        let holds = self.unmutated.iter().all(|outcome| outcome.counterexample.is_none());
        let word = if holds { "all invariants hold" } else { "BROKEN" };
        let mut lines = vec![format!(
            "model  {} states, {} steps, {} decisions of production: {word}",
            sum(|o| o.states),
            sum(|o| o.steps),
            sum(|o| o.decisions)
        )];
        for outcome in &self.unmutated {
            let result = outcome.counterexample.as_ref().map_or_else(
                || "holds".to_owned(),
                |counter| format!("BROKEN after {} steps: {}", counter.way.len(), counter.invariant),
            );
            lines.push(format!(
                "  scope {:<24} {:>8} states {:>9} steps  depth {:>3}  {:>5.1} s  {result}",
                outcome.scope,
                outcome.states,
                outcome.steps,
                outcome.depth,
                outcome.elapsed.as_secs_f64()
            ));
        }
        for (mutant, outcome) in &self.mutants {
            let result = outcome.counterexample.as_ref().map_or_else(
                || "MISSED".to_owned(),
                |counter| {
                    format!("FOUND in {} steps ({}): {}", counter.way.len(), outcome.scope, counter.invariant)
                },
            );
            lines.push(format!("mutant {mutant:<32} {:>5.1} s  {result}", outcome.elapsed.as_secs_f64()));
        }
        lines
    }
}

/// Explores every scope with the rules as they are, and hunts every mutant; as many at a time as there are cores.
///
/// # Errors
/// As [`check`].
pub fn run(deep: bool) -> Result<Verdict> {
    enum Job<'a> {
        Scope(&'a Scope),
        Hunt(Mutant),
    }
    let scopes = Scope::all(deep);
    // Mutants are hunted in CI's scopes: a bug that only a deep search finds is not kept from CI.
    let grounds = Scope::all(false);
    let jobs: Vec<Job<'_>> =
        scopes.iter().map(Job::Scope).chain(Mutant::ALL.into_iter().map(Job::Hunt)).collect();
    let (waiting, done) = (Mutex::new(jobs.iter().enumerate()), Mutex::new(Vec::new()));
    std::thread::scope(|threads| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            threads.spawn(|| {
                loop {
                    let next = waiting.lock().ok().and_then(|mut jobs| jobs.next());
                    let Some((number, job)) = next else { break };
                    let outcome = match job {
                        Job::Scope(scope) => check(scope, None).map(Some),
                        Job::Hunt(mutant) => hunt(&grounds, *mutant),
                    };
                    if let Ok(mut done) = done.lock() {
                        done.push((number, outcome));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(number, _)| *number);
    let mut verdict = Verdict { unmutated: Vec::new(), mutants: Vec::new() };
    for (number, outcome) in done {
        let Some(outcome) = outcome? else { continue };
        match &jobs[number] {
            Job::Scope(_) => verdict.unmutated.push(outcome),
            Job::Hunt(mutant) => verdict.mutants.push((*mutant, outcome)),
        }
    }
    Ok(verdict)
}
