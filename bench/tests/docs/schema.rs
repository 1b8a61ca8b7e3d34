//! The part of JSON Schema that the schemas of `docs/` use.

use std::collections::BTreeSet;

use serde_json::Value;

/// Checks `value` against the part of JSON Schema that our schema uses; gives the properties that were looked at.
pub(super) fn fits(root: &Value, schema: &Value, value: &Value) -> Result<BTreeSet<String>, String> {
    let mut evaluated = BTreeSet::new();
    let expect = |holds: bool, keyword: &str, wanted: &Value| {
        if holds { Ok(()) } else { Err(format!("{keyword} {wanted} does not hold for {value}")) }
    };
    let length = value.as_str().map(|text| text.chars().count() as u64);
    for (keyword, wanted) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" | "unevaluatedProperties" => {}
            "$ref" => {
                let target = wanted.as_str().unwrap().strip_prefix('#').unwrap();
                evaluated.extend(fits(root, root.pointer(target).unwrap(), value)?);
            }
            "type" => {
                let one = |name: &Value| has_type(value, name.as_str().unwrap());
                let holds = wanted.as_array().map_or_else(|| one(wanted), |names| names.iter().any(one));
                expect(holds, keyword, wanted)?;
            }
            "const" => expect(value == wanted, keyword, wanted)?,
            "enum" => expect(wanted.as_array().unwrap().contains(value), keyword, wanted)?,
            "minimum" => expect(value.as_f64() >= wanted.as_f64() || !value.is_number(), keyword, wanted)?,
            "minLength" => expect(length.is_none_or(|n| n >= wanted.as_u64().unwrap()), keyword, wanted)?,
            "maxLength" => expect(length.is_none_or(|n| n <= wanted.as_u64().unwrap()), keyword, wanted)?,
            "required" => {
                let there = |name: &Value| value.get(name.as_str().unwrap()).is_some();
                expect(wanted.as_array().unwrap().iter().all(there), keyword, wanted)?;
            }
            "properties" => {
                for (name, part) in wanted.as_object().unwrap() {
                    if let Some(field) = value.get(name) {
                        fits(root, part, field).map_err(|why| format!("{name}: {why}"))?;
                        evaluated.insert(name.clone());
                    }
                }
            }
            "maxItems" => {
                let len = value.as_array().map(|list| list.len() as u64);
                expect(len.is_none_or(|n| n <= wanted.as_u64().unwrap()), keyword, wanted)?;
            }
            "items" => {
                value
                    .as_array()
                    .into_iter()
                    .flatten()
                    .try_for_each(|one| fits(root, wanted, one).map(|_| ()))?;
            }
            "oneOf" => {
                let branches = wanted.as_array().unwrap().iter();
                let mut good: Vec<_> = branches.filter_map(|part| fits(root, part, value).ok()).collect();
                expect(good.len() == 1, "oneOf", &Value::from(good.len()))?;
                evaluated.extend(good.remove(0));
            }
            other => panic!("the schema uses '{other}', which this test does not know"),
        }
    }
    if schema.get("unevaluatedProperties") == Some(&Value::Bool(false)) {
        let odd: Vec<_> = value.as_object().unwrap().keys().filter(|key| !evaluated.contains(*key)).collect();
        expect(odd.is_empty(), "unevaluatedProperties", &Value::from(format!("{odd:?}")))?;
    }
    Ok(evaluated)
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "null" => value.is_null(),
        other => panic!("the schema uses the type '{other}', which this test does not know"),
    }
}
