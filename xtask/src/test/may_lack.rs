//! What a machine may lack on which tests run as root. Whatever else a test leaves out there fails the run: it would look
//! like a machine's lack and be a fault of ours.

/// Why tests leave themselves out, word for word, and where they say so. Short on purpose: root in a container, without a
/// network to fetch from, and nothing else.
const REASONS: [Lack; 4] = [
    Lack {
        reason: "no Chromium opens its reports; `cargo xtask setup --browser` installs one",
        said_in: "bench/src/browser.rs",
    },
    Lack {
        reason: "no wireguard-go here; `cargo xtask setup --peers` installs it",
        said_in: "bench/tests/ns_contenders/lab.rs",
    },
    Lack {
        reason: "needs CAP_SYS_RESOURCE, or a higher limit of locked memory",
        said_in: "bench/tests/ns_ports/refused.rs",
    },
    Lack { reason: "no IPv6 here", said_in: "dataplane/src/udp.rs" },
];

/// One of them.
#[derive(Clone, Copy, Debug)]
struct Lack {
    reason: &'static str,
    /// From the tree's root.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test looks whether it is still said there"))]
    said_in: &'static str,
}

/// Whether the word of a test (`its::name: why`) gives one of these reasons.
pub(super) fn allows(word: &str) -> bool {
    word.split_once(": ").is_some_and(|(_, why)| REASONS.iter().any(|lack| lack.reason == why))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tree::Tree;

    /// A reason that nobody gives any more would allow what nobody means.
    #[test]
    fn every_reason_is_given_somewhere() {
        let tree = Tree::locate().unwrap();
        for Lack { reason, said_in } in REASONS {
            let text = fs::read_to_string(tree.root().join(said_in)).unwrap();
            assert!(text.contains(&format!("\"{reason}\"")), "{said_in} does not say: {reason}");
        }
    }

    #[test]
    fn a_reason_is_taken_word_for_word() {
        assert!(allows("tests::a: no IPv6 here"));
        assert!(allows("a: no wireguard-go here; `cargo xtask setup --peers` installs it"));
        for word in [
            "no IPv6 here",
            "a: no IPv6 here, or so",
            "a: b: no IPv6 here",
            "a: needs root: network namespaces",
        ] {
            assert!(!allows(word), "{word}");
        }
    }
}
