//! What is known of our own gateways in a run beside the peers, which has one for each turn: what they ran on, their
//! policy, and what the judge says of their audit logs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;

use crate::account::Verdict;
use crate::check_events::findings::Findings;
use crate::environment::Environment;

/// Shared by a run and by ours in it.
#[derive(Clone, Debug, Default)]
pub(in crate::scenarios) struct Ledger(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    begun: u32,
    judged: u32,
    verdict: Verdict,
    seen: Option<(Environment, String)>,
}

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A gateway is about to start.
    pub(super) fn begin(&self) {
        self.book().begun += 1;
    }

    /// It runs, on this and under this policy.
    pub(super) fn saw(&self, environment: Environment, policy: String) {
        self.book().seen = Some((environment, policy));
    }

    /// It has ended.
    pub(super) fn judge(&self, judged: &Result<Findings>) {
        let mut book = self.book();
        book.judged += 1;
        book.verdict.add(judged);
    }

    /// All of them, once none runs. A gateway that never ended in order was not judged, which makes a run INVALID.
    pub(in crate::scenarios) fn verdict(&self) -> Verdict {
        let book = self.book();
        let mut verdict = book.verdict.clone();
        if let lost @ 1.. = book.begun.saturating_sub(book.judged) {
            verdict.problems.push(format!("{lost} of {} gateways left no audit log to judge", book.begun));
            verdict.valid = Some(false);
        }
        verdict
    }

    /// Completes an environment by what the last gateway ran on, and gives its policy; nothing where ours did not run.
    pub(in crate::scenarios) fn complete(&self, environment: &mut Environment) -> Option<String> {
        let book = self.book();
        let (seen, policy) = book.seen.as_ref()?;
        environment.take_gateway(seen);
        Some(policy.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R8.4: without ours there is nothing to judge; each gateway of ours counts, also one that never ended.
    #[test]
    fn r8_4_every_gateway_of_ours_is_judged_or_missed() {
        let ledger = Ledger::default();
        let mut environment = Environment::collect();
        assert_eq!((ledger.verdict(), ledger.complete(&mut environment)), (Verdict::default(), None));
        let ours = ledger.clone();
        ours.begin();
        ours.saw(Environment { xdp_mode: "native".to_owned(), ..Environment::default() }, "p".to_owned());
        assert_eq!(
            (ledger.complete(&mut environment).as_deref(), environment.xdp_mode.as_str()),
            (Some("p"), "native")
        );
        assert!(!environment.kernel.is_empty(), "what was known is kept");
        ours.judge(&Ok(Findings { good: true, ..Findings::default() }));
        assert_eq!(ledger.verdict().valid, Some(true));
        ours.begin();
        let verdict = ledger.verdict();
        assert_eq!(verdict.problems, ["1 of 2 gateways left no audit log to judge"]);
        assert!(verdict.or_fail().is_err());
        ours.judge(&Ok(Findings { violations_total: 1, ..Findings::default() }));
        assert_eq!(ledger.verdict().problems, ["the audit log breaks 1 rules"]);
    }
}
