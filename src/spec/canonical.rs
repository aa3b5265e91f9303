//! One text for all JSON documents that mean the same.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// The same document with the fields of every object in the order of their names.
pub fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<(&String, &Value)> = map.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            fields.into_iter().map(|(name, value)| (name.clone(), sorted(value))).collect()
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

/// SHA-256 of what a document means.
pub fn sha256(value: &Value) -> String {
    hex(&Sha256::digest(sorted(value).to_string()))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_order_of_fields_is_lost_and_that_of_lists_is_not() {
        let of = |value: Value| sorted(&value).to_string();
        assert_eq!(of(json!({"b": {"y": 2, "x": [1]}, "a": 3})), r#"{"a":3,"b":{"x":[1],"y":2}}"#);
        assert_ne!(of(json!([1, 2])), of(json!([2, 1])));
    }
}
