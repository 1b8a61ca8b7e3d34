//! What tests of all crates share: saying that a test, or a part of one, was left out for want of something that the
//! machine does not have (root, IPv6, a browser, a program of others).
//!
//! Such a test passes, and the harness shows nothing of a test that passes; so the word goes past it, straight to standard
//! error, in a form that `cargo xtask test` counts and names (`xtask/src/test.rs`).
#![forbid(unsafe_code)]

use std::io::Write;

/// Says that the calling test checks nothing here: call it, and return. `why` says what is missing and what to do.
pub fn left_out(why: &str) {
    tell("left out", why);
}

/// Says that a part of the calling test was not checked here. `why` says what is missing and what to do.
pub fn left_out_in_part(why: &str) {
    tell("left out in part", why);
}

fn tell(kind: &str, why: &str) {
    // Where nobody reads, nobody misses it.
    let _ = std::io::stderr().write_all(line(kind, why).as_bytes());
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

    #[test]
    fn a_word_names_its_test_and_is_one_line() {
        assert_eq!(
            line("left out", "no\nroot"),
            "left out: tests::a_word_names_its_test_and_is_one_line: no root\n"
        );
    }
}
