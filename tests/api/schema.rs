//! A small JSON Schema checker, for what the OpenAPI document says of requests and answers.
//!
//! Stricter than the standard in one way: an object whose schema lists properties may have no others, so an undocumented
//! field is found too.

use std::sync::LazyLock;

use serde_json::{Map, Value};

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(&mediant::http::openapi()).unwrap());

/// Panics unless `answer` is what the document says of an answer of this status.
pub(crate) fn check_response(method: &str, path: &str, status: &str, answer: &Value) {
    let content = &DOCUMENT["paths"][path][method]["responses"][status]["content"];
    let media = if status.starts_with('2') { "application/json" } else { mediant::http::MEDIA_TYPE };
    check(&format!("{method} {path} {status}"), &content[media]["schema"], answer);
}

/// Whether the document says that a path may answer so.
pub(crate) fn documented(method: &str, path: &str, status: u16) -> bool {
    let responses = &DOCUMENT["paths"][path][method.to_ascii_lowercase()]["responses"];
    responses[status.to_string()].is_object()
}

/// Panics unless `body` is what the document says of a request.
pub(crate) fn check_request(path: &str, body: &Value) {
    let content = &DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"];
    check(&format!("body of {path}"), &content["schema"], body);
}

fn check(what: &str, schema: &Value, value: &Value) {
    assert!(schema.is_object(), "{what} has no schema");
    if let Err(fault) = conforms(schema, value, "") {
        panic!("{what}: {fault}");
    }
}

fn resolve(schema: &Value) -> &Value {
    match schema["$ref"].as_str() {
        Some(reference) => {
            let pointer = reference.strip_prefix('#').unwrap();
            resolve(DOCUMENT.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere")))
        }
        None => schema,
    }
}

fn conforms(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let schema = resolve(schema);
    for word in ["oneOf", "anyOf"] {
        if let Some(choices) = schema[word].as_array() {
            let faults: Vec<String> = choices.iter().filter_map(|s| conforms(s, value, at).err()).collect();
            if faults.len() == choices.len() {
                return Err(format!("{at} is none of {}: {}", choices.len(), faults.join(" | ")));
            }
        }
    }
    if let Some(choices) = schema["enum"].as_array()
        && !choices.contains(value)
    {
        return Err(format!("{at}: {value} is not in {choices:?}"));
    }
    check_type(schema, value, at)?;
    match value {
        Value::Object(map) => object(schema, map, at),
        Value::Array(list) if schema["items"].is_object() => {
            let items = list.iter().enumerate();
            items.into_iter().try_for_each(|(i, item)| conforms(&schema["items"], item, &format!("{at}/{i}")))
        }
        _ => Ok(()),
    }
}

fn check_type(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => return Ok(()),
    };
    let fits = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{at}: no type is called {other}"),
    };
    if types.iter().any(|name| fits(name)) {
        Ok(())
    } else {
        Err(format!("{at}: {} is not {types:?}", value.to_string().chars().take(60).collect::<String>()))
    }
}

/// Properties with those of `allOf` (flattened parts) and what must be there.
fn gather<'s>(schema: &'s Value, known: &mut Map<String, Value>, required: &mut Vec<&'s str>) -> bool {
    let schema = resolve(schema);
    let mut any = schema["additionalProperties"].is_object() || schema["additionalProperties"] == true;
    if let Some(properties) = schema["properties"].as_object() {
        known.extend(properties.clone());
    }
    required.extend(schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str));
    for part in schema["allOf"].as_array().into_iter().flatten() {
        // An object without properties among the parts stands for members of any name.
        let part = resolve(part);
        any |= part["type"] == "object" && part["properties"].is_null();
        any |= gather(part, known, required);
    }
    any
}

/// Whether a choice among several shapes stands inside `allOf` (a flattened enum), which brings fields of its own.
fn varied(schema: &Value) -> bool {
    let mut parts = schema["allOf"].as_array().into_iter().flatten().map(resolve);
    parts.any(|part| part["oneOf"].is_array() || part["anyOf"].is_array() || varied(part))
}

fn object(schema: &Value, map: &Map<String, Value>, at: &str) -> Result<(), String> {
    let (mut known, mut required) = (Map::new(), Vec::new());
    let open = gather(schema, &mut known, &mut required);
    let varied = varied(schema);
    if let Some(missing) = required.iter().find(|name| !map.contains_key(**name)) {
        return Err(format!("{at}/{missing} is missing"));
    }
    for (name, value) in map {
        let at = format!("{at}/{name}");
        if let Some(property) = known.get(name) {
            conforms(property, value, &at)?;
        } else if schema["additionalProperties"].is_object() {
            conforms(&schema["additionalProperties"], value, &at)?;
        } else if !known.is_empty() && !open && !varied {
            return Err(format!("{at} is not documented"));
        }
    }
    Ok(())
}
