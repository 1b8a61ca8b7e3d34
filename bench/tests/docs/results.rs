//! Results and their schemas: each scenario has one, each schema belongs to one, and the documents link them all.

use std::collections::BTreeSet;

use jvpn_bench::raw::RAW;
use jvpn_bench::schemas::SCHEMAS;
use serde_json::Value;

use super::{files, read};

/// The document that lists them.
const RESULTS: &str = "docs/RESULTS.md";
/// What they have in common: no result of its own.
const COMMON: &str = "docs/common-result.schema.json";

/// R8.4: every scenario that writes a result has a schema, every schema of results belongs to one, and each is linked from
/// the table of results, with its command.
#[test]
fn r8_4_every_result_has_a_schema_and_every_schema_is_linked() {
    let path = |scenario: &str| format!("docs/{scenario}-result.schema.json");
    let mut wanted: BTreeSet<String> = SCHEMAS.iter().map(|(scenario, _)| path(scenario)).collect();
    assert_eq!(wanted.len(), SCHEMAS.len());
    wanted.insert(COMMON.to_owned());
    let there: BTreeSet<String> = files("-result.schema.json").into_iter().collect();
    assert_eq!(there, wanted);
    let text = read(RESULTS);
    for file in &there {
        let name = file.strip_prefix("docs/").unwrap();
        assert!(text.contains(&format!("[{name}]({name})")), "{RESULTS} does not link {name}");
    }
    for (scenario, schema) in SCHEMAS {
        let schema: Value = serde_json::from_str(schema).unwrap();
        let command = schema["title"].as_str().unwrap().strip_prefix("result.json of ").unwrap().to_owned();
        let row = text.lines().find(|line| line.contains(&format!("({scenario}-result.schema.json)")));
        let row = row.unwrap_or_else(|| panic!("{RESULTS} has no row of {scenario}"));
        assert!(row.contains(&format!("`{command}`")), "{row}: not `{command}`");
        assert!(schema["$id"].as_str().unwrap().starts_with(&format!("urn:jvpn:{scenario}-result:")));
    }
}

/// R8.4: the table of files says what the code says of every scenario.
#[test]
fn r8_4_the_raw_files_of_every_verb_are_listed() {
    let text = read(RESULTS);
    assert_eq!(RAW.len(), SCHEMAS.len());
    for ((scenario, files), (of_schema, schema)) in RAW.iter().zip(SCHEMAS) {
        assert_eq!(scenario, of_schema);
        let schema: Value = serde_json::from_str(schema).unwrap();
        let command = schema["title"].as_str().unwrap().strip_prefix("result.json of jvpn-bench ").unwrap();
        let listed: Vec<_> = files.iter().map(|file| format!("`{file}`")).collect();
        let listed = if listed.is_empty() { "–".to_owned() } else { listed.join(", ") };
        let row = format!("| `{command}` | {listed} |");
        assert!(text.lines().any(|line| line.starts_with(&row)), "{RESULTS} has no row {row}");
    }
}

/// R8.4: every verb writes its result through the directory that keeps room for it and holds it against its schema.
#[test]
fn r8_4_results_are_written_in_one_place() {
    // These judge and write by themselves: recovery judges old directories anew, a suite is made of its parts' results.
    let allowed = [
        "bench/src/run_dir.rs",
        "bench/src/scenarios/recovery/result.rs",
        "bench/src/scenarios/suite/mod.rs",
    ];
    for file in files(".rs").into_iter().filter(|file| file.starts_with("bench/src/")) {
        let text = read(&file);
        if !text.lines().any(|line| line.contains("write_json(") && line.contains("\"result.json\"")) {
            continue;
        }
        assert!(allowed.contains(&file.as_str()), "{file} writes a result.json by itself");
        assert!(text.contains("schemas::check("), "{file} holds no result against its schema");
    }
}
