//! What tests of all crates share: saying that a test, or a part of one, was left out for want of something that the
//! machine does not have (root, IPv6, a browser, a program of others).
//!
//! Such a test passes, and the harness shows nothing of a test that passes; so the word goes past it, straight to standard
//! error, in a form that `cargo xtask test` counts and names (`xtask/src/test.rs`).
#![forbid(unsafe_code)]

use std::io::{self, Write};

/// Says that the calling test checks nothing here: call it, and return. `why` says what is missing and what to do.
pub fn left_out(why: &str) {
    tell("left out", why);
}

/// Says that a part of the calling test was not checked here. `why` says what is missing and what to do.
pub fn left_out_in_part(why: &str) {
    tell("left out in part", why);
}

/// What a call gave that this process may not be allowed to make. Where the kernel denies it, the calling test is left out;
/// `why` says what is missing.
///
/// # Panics
/// On any other error: that is what the test is there to find.
#[must_use]
pub fn unless_denied<T>(outcome: io::Result<T>, why: &str) -> Option<T> {
    let allowed = allowed(outcome).unwrap_or_else(|error| panic!("{error}"));
    if allowed.is_none() {
        left_out(why);
    }
    allowed
}

/// `None` if the kernel denied it.
fn allowed<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(given) => Ok(Some(given)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(error),
    }
}

fn tell(kind: &str, why: &str) {
    // Where nobody reads, nobody misses it.
    let _ = io::stderr().write_all(line(kind, why).as_bytes());
}

/// A line of its own, written at once: other tests may write meanwhile.
fn line(kind: &str, why: &str) -> String {
    let thread = std::thread::current();
    // The harness runs each test in a thread of its name.
    let test = thread.name().unwrap_or("a test");
    format!("{kind}: {test}: {}\n", why.replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R8.4: a call that is broken fails its test; one that is denied leaves it out.
    #[test]
    fn r8_4_only_what_is_denied_leaves_a_test_out() {
        let failed = |code| allowed(Err::<(), _>(io::Error::from_raw_os_error(code)));
        // Linux: EPERM, EACCES; EADDRINUSE, ENODEV, EINVAL.
        assert!([1, 13].into_iter().all(|code| failed(code).unwrap().is_none()));
        assert!([98, 19, 22].into_iter().all(|code| failed(code).is_err()));
        assert_eq!(unless_denied(Ok(7), "not said"), Some(7));
    }

    #[test]
    fn a_word_names_its_test_and_is_one_line() {
        assert_eq!(
            line("left out", "no\nroot"),
            "left out: tests::a_word_names_its_test_and_is_one_line: no root\n"
        );
    }
}
