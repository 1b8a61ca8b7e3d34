//! The kill switch: a table of nftables that lets nothing out but what the tunnel needs.
//!
//! The table belongs to no process: it holds traffic back also when the agent is dead. It is replaced in one
//! transaction, so there is no moment without it, and removed by name.

use super::tool::{self, Stops};
use crate::link::model::is_private;
use jvpn_session::messages::Prefix;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

/// Why the kill switch is not as wanted.
#[derive(Debug, thiserror::Error)]
#[error(
    "the kill switch cannot be {what}: {source}; nftables (package nftables) and CAP_NET_ADMIN are needed"
)]
pub struct KillSwitchError {
    what: &'static str,
    source: io::Error,
}

impl KillSwitchError {
    /// Whether nft was killed over it, who may have done it before.
    #[must_use]
    pub fn may_be_done(&self) -> bool {
        self.is_told_to_end() || self.source.kind() == io::ErrorKind::TimedOut
    }

    /// Whether it was given up because the agent is to end.
    #[must_use]
    pub fn is_told_to_end(&self) -> bool {
        self.source.kind() == io::ErrorKind::ConnectionAborted
    }
}

/// What may leave the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KillSwitch {
    /// The tunnel device.
    pub interface: String,
    /// The uplinks' devices: addresses are configured and neighbours sought over these.
    pub uplinks: Vec<String>,
    /// Mark of the agent's own datagrams.
    pub mark: u32,
    /// Where the agent's own datagrams may go: address and UDP port.
    pub peers: BTreeSet<(IpAddr, u16)>,
    /// What is excluded from the tunnel.
    pub exclude: Vec<Prefix>,
    /// Networks that the uplinks are connected to, if they are exempt: those that are private.
    pub local: BTreeSet<(IpAddr, u8)>,
    /// Whether multicast and broadcast of those networks are exempt too.
    pub local_network: bool,
}

/// The table of the agent with this tunnel device.
#[must_use]
pub fn table_name(interface: &str) -> String {
    let mut name = "jvpn-".to_owned();
    for octet in interface.bytes() {
        if octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.') {
            name.push(char::from(octet));
        } else {
            name.push_str(&format!("_{octet:02x}"));
        }
    }
    name
}

/// Puts the table in place, or replaces the one that is there, in one transaction. Before the agent's loop begins, and only
/// until one of `stops` is readable.
///
/// # Errors
/// If nft is missing or the kernel refuses; then what was there before is still there, unless it
/// [may have been done](KillSwitchError::may_be_done).
pub fn install(switch: &KillSwitch, stops: Stops<'_>) -> Result<(), KillSwitchError> {
    apply(|program, args, input| tool::run_unless(stops, program, args, input), "set up", &switch.ruleset())
}

/// Replaces the table that is there while the agent runs, whose loop waits for it.
///
/// # Errors
/// As [`install`], or nft takes long; then one of the two is there, and both are shut.
pub fn replace(switch: &KillSwitch) -> Result<(), KillSwitchError> {
    apply(tool::run, "changed", &switch.ruleset())
}

/// Removes the table, if it is there. Not while the agent's loop runs.
///
/// # Errors
/// If nft is missing or the kernel refuses.
pub fn remove(table: &str) -> Result<(), KillSwitchError> {
    apply(tool::run_alone, "removed", &json!({ "nftables": cleared(table) }))
}

/// Whether the host has nftables at all.
#[must_use]
pub fn is_available() -> bool {
    tool::run("nft", &["--version"], &[])
        .map_or_else(|error| error.kind() != io::ErrorKind::NotFound, |()| true)
}

fn apply(
    run: impl FnOnce(&str, &[&str], &[u8]) -> io::Result<()>,
    what: &'static str,
    ruleset: &Value,
) -> Result<(), KillSwitchError> {
    let input = ruleset.to_string();
    run("nft", &["-j", "-f", "-"], input.as_bytes()).map_err(|source| KillSwitchError { what, source })
}

/// Adding makes deleting succeed also where there is none.
fn cleared(table: &str) -> Vec<Value> {
    let table = json!({ "table": { "family": "inet", "name": table } });
    vec![json!({ "add": table }), json!({ "delete": table })]
}

impl KillSwitch {
    /// The transaction, as `nft -j -f -` reads it (libnftables-json(5)).
    #[must_use]
    pub fn ruleset(&self) -> Value {
        let name = table_name(&self.interface);
        let mut commands = cleared(&name);
        commands.push(json!({ "add": { "table": { "family": "inet", "name": name } } }));
        for (chain, rules) in [("output", self.output()), ("forward", self.forward())] {
            commands.push(json!({ "add": { "chain": {
                "family": "inet", "table": name, "name": chain,
                "type": "filter", "hook": chain, "prio": 0, "policy": "drop",
            } } }));
            for expr in rules {
                let rule = json!({ "family": "inet", "table": name, "chain": chain, "expr": expr });
                commands.push(json!({ "add": { "rule": rule } }));
            }
        }
        json!({ "nftables": commands })
    }

    /// What the host itself may send.
    fn output(&self) -> Vec<Vec<Value>> {
        let mut rules = vec![
            vec![meta("oifname", &json!("lo")), accept()],
            vec![meta("oifname", &json!(self.interface)), accept()],
        ];
        for (addr, port) in &self.peers {
            let mark = meta("mark", &json!(self.mark));
            let port = matches(&payload("udp", "dport"), &json!(port));
            rules.push(vec![mark, destination(*addr, host_len(*addr)), port, accept()]);
        }
        for device in &self.uplinks {
            rules.extend(self.over_uplink(device));
        }
        rules.extend(self.exempt());
        rules.push(vec![json!({ "counter": null }), json!({ "drop": null })]);
        rules
    }

    /// What the host may forward for others: into the tunnel, out of it, and to what is excluded. What comes out of the
    /// tunnel has left it already, where its sender wanted it to: it is no traffic of this side that could go around it.
    fn forward(&self) -> Vec<Vec<Value>> {
        let tunnel = json!(self.interface);
        let mut rules =
            vec![vec![meta("oifname", &tunnel), accept()], vec![meta("iifname", &tunnel), accept()]];
        rules.extend(self.exempt());
        rules.push(vec![json!({ "counter": null }), json!({ "drop": null })]);
        rules
    }

    /// Addresses, routers and neighbours: without these there is no uplink. Only root can send them
    /// elsewhere: neither DHCP's destination nor that of neighbour discovery is looked at.
    fn over_uplink(&self, device: &str) -> Vec<Vec<Value>> {
        let over = || meta("oifname", &json!(device));
        let ports = |source: u16, to: u16| {
            [matches(&payload("udp", "sport"), &json!(source)), matches(&payload("udp", "dport"), &json!(to))]
        };
        let link_local = || {
            let sets = [prefix("fe80::", 10), prefix("ff02::", 16)];
            matches(&payload("ip6", "daddr"), &json!({ "set": sets }))
        };
        let [v4_from, v4_to] = ports(68, 67);
        let [v6_from, v6_to] = ports(546, 547);
        // Router and neighbour solicitation, neighbour advertisement (RFC 4861), MLDv2 report (RFC 3810).
        let kinds = json!({ "set": [133, 135, 136, 143] });
        let kind = matches(&payload("icmpv6", "type"), &kinds);
        // The neighbours' own addresses are solicited at ff02::1:ff00:0/104, and asked again by unicast.
        let hops = matches(&payload("ip6", "hoplimit"), &json!({ "set": [1, 255] }));
        let mut rules = vec![
            vec![
                over(),
                json!({ "match": { "op": "==", "left": { "meta": { "key": "nfproto" } }, "right": "ipv4" } }),
                v4_from,
                v4_to,
                accept(),
            ],
            vec![over(), link_local(), v6_from, v6_to, accept()],
            vec![over(), kind, hops, accept()],
        ];
        if self.local_network {
            let groups = json!({ "set": [prefix("224.0.0.0", 24), "239.255.255.250", "255.255.255.255"] });
            rules.push(vec![over(), matches(&payload("ip", "daddr"), &groups), accept()]);
            rules.push(vec![over(), link_local(), accept()]);
        }
        rules
    }

    fn exempt(&self) -> Vec<Vec<Value>> {
        let excluded = self.exclude.iter().map(|prefix| (prefix.addr, prefix.len));
        excluded
            .chain(self.local.iter().copied().filter(|(addr, len)| is_private(*addr, *len)))
            .map(|(addr, len)| vec![destination(addr, len), accept()])
            .collect()
    }
}

fn matches(left: &Value, right: &Value) -> Value {
    json!({ "match": { "op": "==", "left": left, "right": right } })
}

fn meta(key: &str, right: &Value) -> Value {
    matches(&json!({ "meta": { "key": key } }), right)
}

fn payload(protocol: &str, field: &str) -> Value {
    json!({ "payload": { "protocol": protocol, "field": field } })
}

fn prefix(addr: &str, len: u8) -> Value {
    json!({ "prefix": { "addr": addr, "len": len } })
}

fn destination(addr: IpAddr, len: u8) -> Value {
    let protocol = if addr.is_ipv4() { "ip" } else { "ip6" };
    let network = crate::link::model::network(addr, len).to_string();
    let to = if len == host_len(addr) { json!(network) } else { prefix(&network, len) };
    matches(&payload(protocol, "daddr"), &to)
}

fn accept() -> Value {
    json!({ "accept": null })
}

const fn host_len(addr: IpAddr) -> u8 {
    crate::link::model::host_len(addr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(super) fn switch() -> KillSwitch {
        KillSwitch {
            interface: "jvpn0".to_owned(),
            uplinks: vec!["upA".to_owned()],
            mark: 7,
            peers: [("198.51.100.1".parse().unwrap(), 4_500), ("10.0.1.53".parse().unwrap(), 53)].into(),
            exclude: vec!["192.168.5.9/16".parse().unwrap(), "fd00::/8".parse().unwrap()],
            local: [("10.0.1.2".parse().unwrap(), 24)].into(),
            local_network: true,
        }
    }

    fn rules(switch: &KillSwitch, chain: &str) -> Vec<Value> {
        let ruleset = switch.ruleset();
        let commands = ruleset["nftables"].as_array().unwrap();
        commands.iter().map(|c| c["add"]["rule"].clone()).filter(|rule| rule["chain"] == chain).collect()
    }

    /// Whatever is configured, both chains drop what no rule names, end in a drop, and no rule accepts without a condition.
    #[test]
    fn nothing_leaves_without_a_reason() {
        for switch in [switch(), KillSwitch { interface: "jvpn0".to_owned(), ..KillSwitch::default() }] {
            let ruleset = switch.ruleset();
            let chains: Vec<_> = ruleset["nftables"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|c| c["add"]["chain"].is_object())
                .collect();
            assert_eq!(chains.len(), 2);
            assert!(chains.iter().all(|chain| chain["add"]["chain"]["policy"] == "drop"));
            for chain in ["output", "forward"] {
                let rules = rules(&switch, chain);
                assert!(rules.last().unwrap()["expr"][1]["drop"].is_null());
                for rule in &rules[..rules.len() - 1] {
                    let expr = rule["expr"].as_array().unwrap();
                    assert!(expr.len() >= 2 && expr[0]["match"].is_object(), "{rule}");
                }
            }
        }
    }

    /// The agent's datagrams pass by mark, address and port together; prefixes lose their host bits.
    #[test]
    fn what_passes_is_named_exactly() {
        let text = rules(&switch(), "output").iter().map(ToString::to_string).collect::<Vec<_>>();
        let gateway = text.iter().find(|rule| rule.contains("198.51.100.1")).unwrap();
        assert!(
            gateway.contains("\"mark\"") && gateway.contains("4500") && gateway.contains("dport"),
            "{gateway}"
        );
        assert!(
            text.iter().any(|rule| rule.contains("192.168.0.0")) && !text.concat().contains("192.168.5.9")
        );
        assert!(text.iter().any(|rule| rule.contains("10.0.1.0")));
        let strict = KillSwitch { local_network: false, ..switch() };
        assert!(!rules(&strict, "output").iter().any(|rule| rule.to_string().contains("224.0.0.0")));
        assert!(!rules(&switch(), "forward").iter().any(|rule| rule.to_string().contains("mark")));
    }

    /// A network that DHCP makes large lets nothing public out.
    #[test]
    fn r7_1_large_networks_of_uplinks_stay_shut() {
        let local = [("0.0.0.0", 1), ("128.0.0.0", 1), ("2000::", 3), ("192.168.7.0", 24), ("fd00:7::", 64)];
        let local = local.into_iter().map(|(addr, len)| (addr.parse().unwrap(), len)).collect();
        let switch = KillSwitch { local, exclude: Vec::new(), ..switch() };
        for chain in ["output", "forward"] {
            let text = rules(&switch, chain).iter().map(ToString::to_string).collect::<String>();
            assert!(text.contains("192.168.7.0") && text.contains("fd00:7::"), "{text}");
            for public in ["\"0.0.0.0\"", "\"128.0.0.0\"", "\"2000::\""] {
                assert!(!text.contains(public), "{chain} exempts {public}: {text}");
            }
        }
    }

    /// What is forwarded passes in both directions of the tunnel; the host's own packets have no device that they came in by.
    #[test]
    fn r7_1_answers_out_of_the_tunnel_are_forwarded() {
        let accepts = |chain: &str, key: &str| {
            rules(&switch(), chain).iter().any(|rule| {
                let left = &rule["expr"][0]["match"];
                left["left"]["meta"]["key"] == key
                    && left["right"] == "jvpn0"
                    && rule["expr"][1] == json!({ "accept": null })
            })
        };
        assert!(accepts("forward", "oifname") && accepts("forward", "iifname"));
        assert!(accepts("output", "oifname") && !accepts("output", "iifname"));
    }

    #[test]
    fn table_names_are_names_and_differ() {
        assert_eq!(table_name("jvpn0"), "jvpn-jvpn0");
        assert_eq!(table_name("a@b"), "jvpn-a_40b");
        assert_ne!(table_name("tun+1"), table_name("tun!1"));
    }

    proptest! {
        /// A name that the kernel takes for a device is a name that nft takes for a table.
        #[test]
        fn any_device_has_a_table_name(interface in "[!-~]{1,15}") {
            let name = table_name(&interface);
            prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')));
            prop_assert!(name.len() < 64);
        }
    }
}
