//! What only some tests want: a browser that opens reports, and the one peer that tests start for real (the others are for
//! whoever measures; two of them take minutes to compile). CI tries to have both, for a bounded time. What cannot be had
//! fails nothing: the tests that want it leave that out, and are counted and named.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{browser, is_root, packages, peers};
use crate::run::{Interrupted, Runner};
use crate::tree::Tree;

/// Fetching takes no longer. On a usual line it is half a minute: 100 MB of Debian's Chromium, 2 MB of wireguard-go.
const FETCH_MAX: Duration = Duration::from_secs(180);

/// Gets what is missing; gives what could not be had, and why.
///
/// # Errors
/// Interrupted.
pub(crate) fn try_install(tree: &Tree, runner: &Runner) -> Result<Vec<String>> {
    let mut apt = packages::Apt::until(runner, Instant::now() + FETCH_MAX);
    let opens = may_install(packages::browser().is_some()).and_then(|()| browser(&mut apt));
    let has_peer = packages::on_path("wireguard-go").is_some() || peers::has_wireguard_go(tree);
    let measures = may_install(has_peer)
        .and_then(|()| if has_peer { Ok(()) } else { peers::wireguard_go(tree, runner, &mut apt).map(drop) });
    missing([("browser", opens.map(drop)), ("wireguard-go", measures)])
}

fn may_install(is_there: bool) -> Result<()> {
    ensure!(is_there || is_root(), "it is not there, and only root may install it");
    Ok(())
}

fn missing<const N: usize>(outcomes: [(&str, Result<()>); N]) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    for (what, outcome) in outcomes {
        match outcome {
            Ok(()) => {}
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => missing.push(format!("{what}: {error:#}")),
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    /// R8.4: a machine without network goes on, and says what it lacks; Ctrl-C ends it.
    #[test]
    fn r8_4_what_cannot_be_had_is_named_and_fails_nothing() {
        let lacking = || Err(anyhow!("no route").context("apt-get update"));
        assert_eq!(missing([("a", Ok(())), ("b", Ok(()))]).unwrap(), Vec::<String>::new());
        assert_eq!(missing([("a", lacking()), ("b", Ok(()))]).unwrap(), ["a: apt-get update: no route"]);
        assert!(missing([("a", lacking()), ("b", Err(Interrupted(2).into()))]).is_err());
    }
}
