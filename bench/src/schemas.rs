//! The schemas of every `result.json`, compiled in, and results held against them before they are written.
//!
//! A result names its schema by its field `scenario`. `docs/RESULTS.md` lists them.

use anyhow::{Result, anyhow, bail};
use jsonschema::Registry;
use serde_json::Value;

/// What several schemas refer to.
const COMMON: &str = include_str!("../../docs/common-result.schema.json");

macro_rules! schemas {
    ($($scenario:literal),* $(,)?) => {
        /// Every scenario that writes a `result.json`, with its schema: the file `docs/<scenario>-result.schema.json`.
        pub const SCHEMAS: &[(&str, &str)] =
            &[$(($scenario, include_str!(concat!("../../docs/", $scenario, "-result.schema.json")))),*];
    };
}

schemas![
    "churn",
    "cost",
    "demo",
    "emulator",
    "flood",
    "idle",
    "l2fwd",
    "memory",
    "peers",
    "peers-recovery",
    "pinning",
    "recovery",
    "scaling",
    "sessions",
    "sessions-search",
    "soak",
    "suite",
    "throughput",
    "timing",
];

/// Holds a result against the schema of its scenario.
///
/// # Errors
/// What does not fit, and where; or nobody knows the scenario.
pub fn check(result: &Value) -> Result<()> {
    let scenario = result.get("scenario").and_then(Value::as_str).unwrap_or_default();
    let Some((_, schema)) = SCHEMAS.iter().find(|(name, _)| *name == scenario) else {
        bail!("results of the scenario '{scenario}' have no schema");
    };
    let broken = |error: &dyn std::fmt::Display| anyhow!("the schema of {scenario}: {error}");
    let parse = |text: &str| serde_json::from_str::<Value>(text).map_err(|error| broken(&error));
    let common = parse(COMMON)?;
    let id = common.get("$id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let registry = Registry::new().add(id, common).map_err(|error| broken(&error))?;
    let registry = registry.prepare().map_err(|error| broken(&error))?;
    let validator = jsonschema::options().with_registry(&registry).offline().build(&parse(schema)?);
    let errors: Vec<_> = validator
        .map_err(|error| broken(&error))?
        .iter_errors(result)
        .map(|error| format!("{} at {}", error, error.instance_path()))
        .collect();
    if errors.is_empty() {
        Ok(())
    } else {
        Err(anyhow!("result.json does not fit its schema: {}", errors.join("; ")))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// A result fits, and does not with a field that nobody knows, or without one of its own.
    pub(crate) fn fits_tightly(result: &impl serde::Serialize) {
        let result = serde_json::to_value(result).unwrap();
        check(&result).unwrap_or_else(|error| panic!("{error}: {result:#}"));
        let mut more = result.clone();
        more["colour"] = json!("blue");
        assert!(check(&more).unwrap_err().to_string().contains("colour"));
        for name in result.as_object().unwrap().keys() {
            let mut less = result.clone();
            less.as_object_mut().unwrap().remove(name);
            assert!(check(&less).is_err(), "nobody misses {name}");
        }
    }

    #[test]
    fn r8_4_every_schema_is_one_and_is_of_its_scenario() {
        for (scenario, text) in SCHEMAS {
            let schema: Value = serde_json::from_str(text).unwrap();
            assert_eq!(schema["properties"]["scenario"]["const"], *scenario);
            let error = check(&json!({"scenario": scenario})).unwrap_err().to_string();
            assert!(error.contains("does not fit") && error.contains("environment"), "{scenario}: {error}");
        }
        assert!(check(&json!({"scenario": "tea"})).unwrap_err().to_string().contains("'tea' have no schema"));
        assert!(check(&json!(null)).is_err());
    }
}
