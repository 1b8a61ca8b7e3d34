//! `docs/audit-event.schema.json`, compiled in.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, anyhow};
use jsonschema::Validator;
use serde_json::{Value, json};

const SCHEMA: &str = include_str!("../../../docs/audit-event.schema.json");

/// The schema, and one for each kind of event, which says more precisely what is wrong.
pub(super) struct Schema {
    whole: Validator,
    kinds: BTreeMap<String, Validator>,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema").field("kinds", &self.kinds.keys()).finish_non_exhaustive()
    }
}

impl Schema {
    /// # Errors
    /// The schema of the tree is no schema.
    pub(super) fn new() -> Result<Self> {
        let schema: Value = serde_json::from_str(SCHEMA).context("the schema of audit events")?;
        let compile = |schema: &Value| {
            jsonschema::validator_for(schema).map_err(|error| anyhow!("the schema of audit events: {error}"))
        };
        let whole = compile(&schema)?;
        let mut kinds = BTreeMap::new();
        let definitions = schema.get("$defs").and_then(Value::as_object);
        for (name, definition) in definitions.into_iter().flatten() {
            let Some(kind) = definition.pointer("/properties/event_type/const").and_then(Value::as_str)
            else {
                continue;
            };
            let mut one = schema.clone();
            if let Some(one) = one.as_object_mut() {
                // The same with only this branch: a complaint about "oneOf" names no field.
                one.remove("oneOf");
                one.insert("$ref".to_owned(), json!(format!("#/$defs/{name}")));
            }
            kinds.insert(kind.to_owned(), compile(&one)?);
        }
        Ok(Self { whole, kinds })
    }

    /// What the schema finds wrong with a line, in words.
    pub(super) fn complaint(&self, line: &Value) -> Option<String> {
        if self.whole.is_valid(line) {
            return None;
        }
        let kind = line.get("event_type").and_then(Value::as_str).unwrap_or_default();
        let Some(validator) = self.kinds.get(kind) else {
            return Some(format!("event_type is {}", line.get("event_type").unwrap_or(&Value::Null)));
        };
        let describe = |error: jsonschema::ValidationError<'_>| {
            let at = error.instance_path().to_string();
            if at.is_empty() { error.to_string() } else { format!("{at}: {error}") }
        };
        Some(validator.iter_errors(line).map(describe).collect::<Vec<_>>().join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R6.1: what is wrong with a line is named.
    #[test]
    fn r6_1_the_complaint_names_the_field() {
        let schema = Schema::new().unwrap();
        let mut line = json!({
            "ts_ms": 1, "event_type": "NODE_STARTED", "session_id": null, "node_id": "gw1",
            "state_version": null, "reason_code": null
        });
        assert_eq!(schema.complaint(&line), None);
        line["colour"] = json!("red");
        assert!(schema.complaint(&line).unwrap().contains("colour"));
        line["event_type"] = json!("PARTY");
        assert!(schema.complaint(&line).unwrap().contains("PARTY"));
        let line = json!({
            "ts_ms": 1, "event_type": "STATE_CHANGE", "session_id": "00000000000000000000000000000001",
            "node_id": "gw1", "state_version": 0, "reason_code": "BORED", "previous_state": null,
            "new_state": "BIRTH"
        });
        let complaint = schema.complaint(&line).unwrap();
        assert!(complaint.contains("BORED") && complaint.contains("reason_code"), "{complaint}");
        assert_eq!(schema.kinds.len(), 14);
    }
}
