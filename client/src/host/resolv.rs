//! The text of `resolv.conf(5)`: what ours looks like, whose a given one is, and which servers it names. Pure.

use std::net::IpAddr;

/// Largest file that is looked at, octets.
pub const MAX_OCTETS: u64 = 64 << 10;
/// First words of our first line.
const MARK: &str = "# jvpn";
/// Second line of one that replaced nothing.
const NONE_BEFORE: &str = "# There was no such file before.";
/// An option that says to believe the answer's AD bit: true of the servers before, maybe not of these.
const TRUST: &str = "trust-ad";

/// What a file of ours says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// The tunnel device that it was written for.
    pub interface: String,
    /// Whether it is still as it was written.
    pub is_intact: bool,
    /// Whether there was a file before.
    pub had_original: bool,
}

/// Our file for `interface`. The options of the `original` stay.
#[must_use]
pub fn render(interface: &str, servers: &[IpAddr], search: &[String], original: Option<&str>) -> String {
    let mut body = if original.is_some() {
        "# 'jvpn down' or the next 'jvpn up' puts back the one before (….before-jvpn).\n".to_owned()
    } else {
        format!("{NONE_BEFORE}\n")
    };
    for server in servers {
        body.push_str(&format!("nameserver {server}\n"));
    }
    if !search.is_empty() {
        body.push_str(&format!("search {}\n", search.join(" ")));
    }
    for options in original.unwrap_or_default().lines().filter_map(|line| line.strip_prefix("options ")) {
        let kept: Vec<&str> = options.split_whitespace().filter(|option| *option != TRUST).collect();
        if !kept.is_empty() {
            body.push_str(&format!("options {}\n", kept.join(" ")));
        }
    }
    format!("{MARK} {interface} {:016x}\n{body}", digest(&body))
}

/// What a text says about itself if it was written by [`render`].
#[must_use]
pub fn recognise(text: &str) -> Option<Own> {
    let (first, body) = text.split_once('\n')?;
    let (interface, sum) = first.strip_prefix(MARK)?.trim_start().rsplit_once(' ')?;
    let is_intact = u64::from_str_radix(sum, 16).is_ok_and(|sum| sum == digest(body));
    let had_original = !body.starts_with(NONE_BEFORE);
    Some(Own { interface: interface.to_owned(), is_intact, had_original })
}

/// The name servers that a file names, in order. Addresses with a zone are passed over: they lead nowhere without it.
#[must_use]
pub fn servers(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok()).flatten()
    };
    text.lines().filter_map(server).collect()
}

/// FNV-1a, 64 bits: tells an edited file from an untouched one, nothing more.
fn digest(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |sum, octet| (sum ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BEFORE: &str = "# by dhclient\nnameserver 10.0.1.53\nnameserver fe80::1%eth0\n nameserver\t2001:db8::53 # x\n\
                          search lan\noptions edns0 trust-ad\noptions trust-ad\nnameserver bogus\n";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ours_is_recognised_and_keeps_the_options() {
        let text = render("jvpn0", &[ip("10.77.0.1")], &["corp.example".to_owned()], Some(BEFORE));
        assert!(text.contains("nameserver 10.77.0.1\nsearch corp.example\noptions edns0\n"), "{text}");
        assert!(!text.contains("trust-ad") && !text.contains("lan"), "{text}");
        let own = Own { interface: "jvpn0".to_owned(), is_intact: true, had_original: true };
        assert_eq!(recognise(&text), Some(own.clone()));
        let edited = text.clone() + "nameserver 192.0.2.53\n";
        assert_eq!(recognise(&edited), Some(Own { is_intact: false, ..own.clone() }));
        let first = render("jvpn0", &[ip("10.77.0.1")], &[], None);
        assert_eq!(recognise(&first), Some(Own { had_original: false, ..own }));
        assert_eq!(recognise(BEFORE), None);
    }

    #[test]
    fn servers_are_found() {
        assert_eq!(servers(BEFORE), [ip("10.0.1.53"), ip("2001:db8::53")]);
        let own = render("jvpn0", &[ip("10.77.0.1"), ip("fd00::1")], &[], None);
        assert_eq!(servers(&own), [ip("10.77.0.1"), ip("fd00::1")]);
    }

    proptest! {
        /// Whatever stands in the file, reading it is safe, and what we write is ours whatever stood there.
        #[test]
        fn any_text_can_be_there(text in ".{0,300}", interface in "[!-~]{1,15}") {
            let _servers = servers(&text);
            let _own = recognise(&text);
            let ours = render(&interface, &[ip("192.0.2.1")], &[], Some(&text));
            let own = recognise(&ours).unwrap();
            prop_assert!(own.is_intact && own.had_original);
            prop_assert_eq!(own.interface, interface);
            prop_assert_eq!(servers(&ours), [ip("192.0.2.1")]);
        }
    }
}
