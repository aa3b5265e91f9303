//! The OpenAPI document in words: every route with its fields, every object once.

use std::fmt::Write as _;

use serde_json::Value;

/// The guide, as Markdown.
pub(super) fn markdown(document: &str) -> String {
    let document: Value = serde_json::from_str(document).unwrap_or_default();
    let mut out = "# The API, field by field\n\nWhat [`/v1/openapi.json`](/v1/openapi.json) says, in words. The forms of values \
        stand under [objects](#objects). Every error is a [problem document](/docs/errors).\n\n"
        .to_owned();
    for tag in list(&document["tags"]) {
        let _ = writeln!(out, "## {}\n\n{}.\n", capital(text(&tag["name"])), text(&tag["description"]));
        for (path, item) in fields(&document["paths"]) {
            for (method, operation) in fields(item).filter(|(_, of)| list(&of["tags"]).contains(&tag["name"]))
            {
                route(&mut out, &method.to_uppercase(), path, operation);
            }
        }
    }
    out.push_str("## Objects\n\n");
    for (name, schema) in fields(&document["components"]["schemas"]) {
        let _ = writeln!(out, "### {name}\n\n{}\n", text(&schema["description"]));
        object(&mut out, schema);
    }
    out
}

fn route(out: &mut String, method: &str, path: &str, operation: &Value) {
    let _ = writeln!(
        out,
        "### {method} {path}\n\n{}. {}\n",
        text(&operation["summary"]),
        text(&operation["description"])
    );
    let rows: Vec<[String; 3]> = list(&operation["parameters"])
        .iter()
        .map(|parameter| {
            let place = format!("{}, {}", text(&parameter["in"]), kind(&parameter["schema"]));
            [format!("`{}`", text(&parameter["name"])), place, cell(&parameter["description"])]
        })
        .collect();
    table(out, ["parameter", "where", "what it is"], &rows);
    for (media, content) in fields(&operation["requestBody"]["content"]) {
        let _ = writeln!(out, "Body: `{media}`, {}.\n", kind(&content["schema"]));
    }
    for (status, response) in fields(&operation["responses"]).filter(|(status, _)| status.starts_with('2')) {
        let forms = fields(&response["content"])
            .map(|(media, content)| format!("`{media}`, {}", kind(&content["schema"])));
        let forms: Vec<String> = forms.collect();
        let forms = if forms.is_empty() { String::new() } else { format!(": {}", forms.join("; ")) };
        let _ = writeln!(out, "Answer {status}: {}{forms}.\n", cell(&response["description"]));
    }
}

/// The fields of an object, or its forms where it has several.
fn object(out: &mut String, schema: &Value) {
    let mut rows = Vec::new();
    for part in [schema].into_iter().chain(list(&schema["allOf"])) {
        if part["$ref"].is_string() {
            rows.push([
                String::from("…"),
                kind(part),
                format!("The fields of {}. {}", kind(part), cell(&part["description"])),
            ]);
        }
        let needed = list(&part["required"]);
        for (name, of) in fields(&part["properties"]) {
            let must = if needed.iter().any(|field| field == name) { ", required" } else { "" };
            rows.push([format!("`{name}`"), format!("{}{must}", kind(of)), described(of)]);
        }
    }
    table(out, ["field", "form", "what it is"], &rows);
    let forms: Vec<[String; 2]> =
        list(&schema["oneOf"]).iter().map(|form| [kind(form), described(form)]).collect();
    if !forms.is_empty() {
        out.push_str("| one of | what it is |\n|---|---|\n");
        for [form, means] in forms {
            let _ = writeln!(out, "| {form} | {means} |");
        }
        out.push('\n');
    }
    let words: Vec<String> = list(&schema["enum"]).iter().map(|word| format!("`{}`", cell(word))).collect();
    if !words.is_empty() {
        let _ = writeln!(out, "One of {}.\n", words.join(", "));
    }
    for example in list(&schema["examples"]) {
        let _ = writeln!(out, "```json\n{example}\n```\n");
    }
}

fn table(out: &mut String, head: [&str; 3], rows: &[[String; 3]]) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(out, "| {} |\n|---|---|---|", head.join(" | "));
    for row in rows {
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
    out.push('\n');
}

/// The form of a value: a type, or a link to its object.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if schema["type"] == "array" || schema["type"][0] == "array" {
        return format!("list of {}", kind(&schema["items"]));
    }
    if schema["additionalProperties"].is_object() {
        return format!("map to {}", kind(&schema["additionalProperties"]));
    }
    if let Some(forms) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
        let named = forms.iter().filter(|form| form["type"] != "null").map(kind);
        return named.collect::<Vec<_>>().join(" or ");
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().map(|word| format!("`{}`", cell(word))).collect::<Vec<_>>().join(" or ");
    }
    let types =
        schema["type"].as_array().map_or_else(|| vec![&schema["type"]], |types| types.iter().collect());
    let types: Vec<&str> =
        types.into_iter().filter_map(Value::as_str).filter(|name| *name != "null").collect();
    if types.is_empty() { "any value".to_owned() } else { types.join(" or ") }
}

/// What a field says of itself, wherever it says it.
fn described(schema: &Value) -> String {
    let own = cell(&schema["description"]);
    let of_form =
        || list(&schema["oneOf"]).iter().map(|form| cell(&form["description"])).find(|text| !text.is_empty());
    if own.is_empty() { of_form().unwrap_or_default() } else { own }
}

/// A text in one cell of a table.
fn cell(value: &Value) -> String {
    let text = value
        .as_str()
        .map_or_else(|| if value.is_null() { String::new() } else { value.to_string() }, str::to_owned);
    text.replace('|', "\\|").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_route_and_every_object_is_in_words() {
        let document = crate::http::openapi();
        let text = super::markdown(&document);
        let document: serde_json::Value = serde_json::from_str(&document).unwrap();
        for path in document["paths"].as_object().unwrap().keys() {
            assert!(text.contains(&format!(" {path}\n")), "{path}");
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(text.contains(&format!("### {name}\n")), "{name}");
        }
        assert!(text.contains("| `subject` | [SpanText](#spantext) |"));
    }
}
