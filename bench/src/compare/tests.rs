use serde_json::json;

use super::*;
use crate::schemas::SCHEMAS;

fn said(a: &Value, b: &Value) -> Result<Vec<String>, String> {
    compare((Path::new("a"), a), (Path::new("b"), b)).map_err(|error| error.to_string())
}

fn l2fwd(window_ms: u32, sizes: &[(u32, &[f64])]) -> Value {
    let ratio = |(size, rounds): &(u32, &[f64])| {
        json!({
            "direction": "decrypt", "size": size, "ours_rounds": rounds, "plain_rounds": [9.0, 9.0, 9.0, 9.0, 9.0],
        })
    };
    json!({
        "scenario": "l2fwd", "valid": null, "complete": true, "window_ms": window_ms, "worker_cpu": 1, "generator_cpu": 0,
        "environment": {"build": "release"}, "ratios": sizes.iter().map(ratio).collect::<Vec<_>>(),
    })
}

/// R8.4: rounds that lie apart are better or worse, by what is better of a figure; those that overlap are noise, few rounds
/// and one figure each tell nothing.
#[test]
fn r8_4_rounds_tell_a_shift_from_noise() {
    let figure = |better, samples: &[f64]| Figure { name: "x".to_owned(), better, samples: samples.to_vec() };
    let base = [100.0, 102.0, 101.0, 99.0, 98.0];
    let verdict = |better, other: &[f64]| judge(&figure(better, &base), &figure(better, other));
    let more = base.map(|value| value * 1.2);
    assert_eq!(
        (verdict(Better::More, &more), verdict(Better::Less, &more)),
        (Verdict::Better, Verdict::Worse)
    );
    let less = base.map(|value| value * 0.8);
    assert_eq!(
        (verdict(Better::More, &less), verdict(Better::Less, &less)),
        (Verdict::Worse, Verdict::Better)
    );
    assert_eq!(verdict(Better::More, &base), Verdict::Noise);
    assert_eq!(
        verdict(Better::More, &base.map(|value| value * 1.045)),
        Verdict::Noise,
        "apart, but by little"
    );
    assert_eq!(verdict(Better::More, &[90.0, 120.0, 130.0, 98.5, 140.0]), Verdict::Noise, "they overlap");
    assert_eq!(verdict(Better::More, &more[..4]), Verdict::TooFew);
    assert_eq!(judge(&figure(Better::Less, &[1.0]), &figure(Better::Less, &[9.0])), Verdict::Single);
}

/// R8.4: figure by figure, with what is in one only; other verbs, other conditions, INVALID and nothing in common are
/// refused with what to do.
#[test]
fn r8_4_two_results_of_one_verb_compare() {
    let rounds = [5.0, 5.1, 5.2, 5.3, 5.4];
    let slow = rounds.map(|pps| pps / 2.0);
    let a = l2fwd(1_000, &[(64, &rounds), (512, &rounds)]);
    let lines = said(&a, &l2fwd(1_000, &[(64, &slow), (1_400, &rounds)])).unwrap();
    let line = |start: &str| {
        lines.iter().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{lines:#?}"))
    };
    assert!(line("decrypt, size 64, ours [packets/s]").ends_with("0.500      5 / 5  WORSE"), "{lines:#?}");
    assert!(line("decrypt, size 64, plain").ends_with("within noise"));
    line("not compared: decrypt, size 512, ours [packets/s] is in the first only");
    line("not compared: decrypt, size 1400, plain [packets/s] is in the second only");
    let refused = |b: &Value| said(&a, b).unwrap_err();
    let conditions = refused(&l2fwd(500, &[(64, &rounds)]));
    assert!(
        conditions.contains("window ms \"1000\", then \"500\"") && conditions.contains("again"),
        "{conditions}"
    );
    assert!(refused(&l2fwd(1_000, &[(128, &rounds)])).contains("no figure is in both"));
    let other = refused(&json!({"scenario": "scaling"}));
    assert!(other.contains("a is a result of `l2fwd`, b of `scaling`"), "{other}");
    let mut broken = a.clone();
    broken["valid"] = json!(false);
    assert!(refused(&broken).contains("b is INVALID"));
    let demo = json!({"scenario": "demo"});
    let none = said(&demo, &demo).unwrap_err();
    assert!(none.contains("`demo`") && none.contains("recovery, suite, l2fwd"), "{none}");
    let mut part = a.clone();
    (part["complete"], part["environment"]["build"]) = (json!(false), json!("debug"));
    let lines = said(&a, &part).unwrap();
    assert_eq!(lines[0], "note: build differs: \"release\", then \"debug\"");
    assert_eq!(lines[1], "note: the second is a part of what was asked for");
}

/// R8.4: rounds in a list, rounds as rows, figures by name, and one figure each.
#[test]
fn r8_4_every_kind_of_result_yields_figures() {
    let found = |result: &Value| {
        let verb = VERBS.iter().find(|verb| verb.scenario == scenario(result)).unwrap();
        let figures = figures(verb, result);
        figures.into_iter().map(|one| (one.name, one.samples)).collect::<Vec<_>>()
    };
    let row = |round: u32, mbit_s: f64| {
        json!({
            "round": round, "what": "tcp_1", "direction": "up", "offload": "on", "mbit_s": mbit_s, "cpu_per_gb": null,
        })
    };
    let throughput = json!({"scenario": "throughput", "rows": [row(1, 7.0), row(2, 8.0)]});
    assert_eq!(found(&throughput), [("tcp_1, up, on [Mbit/s]".to_owned(), vec![7.0, 8.0])]);
    let cost = json!({"scenario": "cost", "storm": null, "x25519": [], "sizes": [
        {"sessions": 100, "ns": {"birth": {"median": 2.0, "rounds": [1.0, 2.0, 3.0]}}, "octets_per_session": {"born": 9}}]});
    assert_eq!(
        found(&cost),
        [
            ("sessions 100, birth [ns]".to_owned(), vec![1.0, 2.0, 3.0]),
            ("sessions 100, heap born [octets/session]".to_owned(), vec![9.0]),
        ]
    );
    let memory = json!({"scenario": "memory", "memory": {"per_session": 2_048.5, "sessions": 7}});
    assert_eq!(found(&memory), [("all [octets/session]".to_owned(), vec![2_048.5])]);
    let lines = said(&memory, &memory).unwrap();
    assert!(lines[1].ends_with("1.000      1 / 1  one figure each: noise unknown"), "{lines:#?}");
}

/// What the table says of a result is in its schema: a field that is renamed there is missed here.
#[test]
fn r8_4_figures_and_conditions_are_in_the_schemas() {
    for verb in VERBS {
        let (_, schema) = SCHEMAS.iter().find(|(scenario, _)| *scenario == verb.scenario).unwrap();
        let named = |word: &str| schema.contains(&format!("\"{word}\"")) || word.is_empty() || word == "*";
        // What several schemas share is in none of them.
        let common = include_str!("../../../docs/common-result.schema.json");
        let is_there = |word: &str| named(word) || common.contains(&format!("\"{word}\""));
        let figures = verb.tables.iter().flat_map(|table| {
            let paths = table.figures.iter().flat_map(|(_, path, ..)| path.split('/'));
            paths.chain(table.keys.iter().copied()).chain([table.rows])
        });
        for word in figures.chain(verb.conditions.iter().flat_map(|path| path.split('/'))) {
            assert!(is_there(word), "{word} is not in the schema of {}", verb.scenario);
        }
    }
}
