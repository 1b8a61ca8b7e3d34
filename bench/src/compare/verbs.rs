//! Which figures the result of each verb has, and which conditions make two of them comparable: all that `compare` knows
//! of a verb.

use super::Better::{self, Less, More};

/// What is compared of one verb.
#[derive(Debug)]
pub(super) struct Verb {
    /// As its results name it.
    pub(super) scenario: &'static str,
    /// Where the result has what must be the same in both.
    pub(super) conditions: &'static [&'static str],
    pub(super) tables: &'static [Table],
}

/// Rows of a result, each with figures.
#[derive(Debug)]
pub(super) struct Table {
    /// Where they are: a list, or one object. Empty: the result itself.
    pub(super) rows: &'static str,
    /// Fields that tell one row from the others.
    pub(super) keys: &'static [&'static str],
    pub(super) figures: &'static [Spec],
}

/// One figure of a row: what it is called, where it is (a number, or all rounds; `*` stands for every field), its unit.
/// Numbers of rows that are called the same are its rounds.
pub(super) type Spec = (&'static str, &'static str, &'static str, Better);

/// Every verb whose results compare, but for `recovery` and `suite`, which have a comparison of their own.
pub(super) const VERBS: &[Verb] = &[
    Verb {
        scenario: "l2fwd",
        conditions: &["window_ms", "worker_cpu", "generator_cpu"],
        tables: &[Table {
            rows: "ratios",
            keys: &["direction", "size"],
            figures: &[
                ("ours", "ours_rounds", "packets/s", More),
                ("plain", "plain_rounds", "packets/s", More),
            ],
        }],
    },
    Verb {
        scenario: "scaling",
        conditions: &["window_ms", "cpus"],
        tables: &[Table {
            rows: "scaling",
            keys: &["direction", "size", "sessions", "workers"],
            figures: &[("", "rounds", "packets/s", More)],
        }],
    },
    Verb {
        scenario: "pinning",
        conditions: &["seconds", "size"],
        tables: &[Table {
            rows: "settings",
            keys: &["worker_cpu", "generator_cpu", "batch", "busy_poll"],
            figures: &[("", "rounds", "packets/s", More)],
        }],
    },
    Verb {
        scenario: "throughput",
        conditions: &["span_ms", "policy"],
        tables: &[Table {
            rows: "rows",
            keys: &["what", "direction", "offload"],
            figures: &[
                ("", "mbit_s", "Mbit/s", More),
                ("gateway", "cpu_per_gb/gateway_s", "CPU s/GB", Less),
                ("client", "cpu_per_gb/client_s", "CPU s/GB", Less),
                ("machine", "cpu_per_gb/machine_s", "CPU s/GB", Less),
            ],
        }],
    },
    Verb {
        scenario: "peers",
        conditions: &["span_ms"],
        tables: &[Table {
            rows: "rows",
            keys: &["contender", "what", "way"],
            figures: &[
                ("", "figures/mbit_s", "Mbit/s", More),
                ("", "figures/kpps", "kpps", More),
                ("p50", "figures/rtt_p50_us", "µs", Less),
                ("p99", "figures/rtt_p99_us", "µs", Less),
                ("gateway", "figures/gateway_s_per_gb", "CPU s/GB", Less),
                ("client", "figures/client_s_per_gb", "CPU s/GB", Less),
                ("machine", "figures/machine_s_per_gb", "CPU s/GB", Less),
                ("gateway", "figures/gateway_us_per_packet", "CPU µs/datagram", Less),
                ("machine", "figures/machine_us_per_packet", "CPU µs/datagram", Less),
            ],
        }],
    },
    Verb {
        scenario: "peers-recovery",
        conditions: &["asked/rtt_ms", "asked/cap_s", "asked/script_after_s", "asked/clients"],
        tables: &[Table {
            rows: "causes",
            keys: &["contender", "cause"],
            // Those whom one incident strikes are one witness.
            figures: &[("outage", "incident_medians_ms", "ms", Less)],
        }],
    },
    Verb {
        scenario: "cost",
        conditions: &["backend", "policy", "seed"],
        tables: &[
            Table {
                rows: "sizes",
                keys: &["sessions"],
                figures: &[
                    ("", "ns/*/rounds", "ns", Less),
                    ("heap", "octets_per_session/*", "octets/session", Less),
                ],
            },
            Table {
                rows: "x25519",
                keys: &["name"],
                figures: &[
                    ("new key", "new_key_ns/rounds", "ns", Less),
                    ("agreement", "agreement_ns/rounds", "ns", Less),
                ],
            },
            Table {
                rows: "storm",
                keys: &["sessions"],
                figures: &[
                    ("storm, all attached", "all_attached_ms", "ms", Less),
                    ("storm, busy", "busy_ms", "ms", Less),
                ],
            },
        ],
    },
    Verb {
        scenario: "memory",
        conditions: &["memory/sessions", "memory/workers"],
        tables: &[Table {
            rows: "memory",
            keys: &[],
            figures: &[
                ("all", "per_session", "octets/session", Less),
                ("heap", "heap", "octets/session", Less),
                ("places", "places", "octets/session", Less),
                ("windows", "windows", "octets/session", Less),
                ("resident", "resident", "octets", Less),
            ],
        }],
    },
    Verb {
        scenario: "idle",
        conditions: &["policy"],
        tables: &[Table {
            rows: "measured",
            keys: &["sessions"],
            figures: &[
                ("control plane", "control_plane_percent", "% of a core", Less),
                ("data plane", "data_plane_percent", "% of a core", Less),
            ],
        }],
    },
    Verb {
        scenario: "sessions",
        conditions: &["sessions", "births/asked_per_second", "marker_interval_ms", "policy"],
        tables: &[
            Table {
                rows: "",
                keys: &[],
                figures: &[
                    ("births", "births/per_second", "1/s", More),
                    ("birth, p50", "births/each/p50_ms", "ms", Less),
                    ("birth, p99", "births/each/p99_ms", "ms", Less),
                    ("in peace, control plane", "steady/cpu/control_plane", "% of a core", Less),
                    ("in peace, data plane", "steady/cpu/data_plane", "% of a core", Less),
                    ("memory,", "steady/octets_per_session/*", "octets/session", Less),
                    ("adopted after the kill", "kill/readopted_ms", "ms", Less),
                ],
            },
            Table {
                rows: "storms",
                keys: &["name"],
                figures: &[
                    ("all attached", "all_attached_s", "s", Less),
                    ("p50", "each/p50_ms", "ms", Less),
                    ("p99", "each/p99_ms", "ms", Less),
                ],
            },
        ],
    },
    Verb {
        scenario: "sessions-search",
        conditions: &["births_per_second", "marker_interval_ms", "hold_s", "policy"],
        tables: &[Table { rows: "", keys: &[], figures: &[("sustained", "sustained", "sessions", More)] }],
    },
    Verb {
        scenario: "churn",
        conditions: &[
            "sessions",
            "minutes",
            "moves_per_second",
            "births_per_second",
            "marker_interval_ms",
            "policy",
        ],
        tables: &[Table {
            rows: "",
            keys: &[],
            figures: &[
                ("outage, p50", "outage/p50_ms", "ms", Less),
                ("outage, p99", "outage/p99_ms", "ms", Less),
                ("reattach, p50", "reattach/p50_ms", "ms", Less),
                ("reattach, p99", "reattach/p99_ms", "ms", Less),
            ],
        }],
    },
    Verb {
        scenario: "soak",
        conditions: &["sessions", "minutes", "load/traffic", "policy"],
        tables: &[Table {
            rows: "load",
            keys: &[],
            figures: &[
                ("in", "in_per_second", "packets/s", More),
                ("out", "out_per_second", "packets/s", More),
            ],
        }],
    },
    Verb {
        scenario: "flood",
        conditions: &["sessions", "seconds", "rate", "marker_interval_ms", "policy"],
        tables: &[Table {
            rows: "phases",
            keys: &["name"],
            figures: &[
                ("outage, p50", "honest/outage/p50_ms", "ms", Less),
                ("outage, p99", "honest/outage/p99_ms", "ms", Less),
            ],
        }],
    },
];
